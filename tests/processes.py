"""Several processes that work together, as torchrun would start them."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from causvid_cli.processes import joined


def in_processes(count: int, work: Callable[..., None], *arguments: object) -> None:
    """Let so many processes do this together, each in a group with the others."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")  # torch is loaded already: it starts at once
    failures = fork.SimpleQueue()
    processes = [
        fork.Process(target=_join_in, args=(rank, count, port, failures, work, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    hang = [process for process in processes if process.is_alive()]
    for process in hang:
        process.kill()
    assert failures.empty(), failures.get()
    assert not hang


def _join_in(
    rank: int, count: int, port: int, failures: Any, work: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    try:
        with joined(torch.device("cpu")):
            work(*arguments)
    except BaseException:
        failures.put(traceback.format_exc())
        raise
