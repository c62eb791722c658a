"""One video in the processes that torchrun starts: the first runs the command, the others compute what it announces.

    torchrun --nproc-per-node 2 -m causvid_cli t2v PROMPT

Only the first reads, checks, speaks and writes. The others wait in silence for it to load a model, load the same
networks, and leave when it does, however it ends.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

import typer

from causvid_cli.cli import console
from causvid_cli.errors import CausvidError, ProcessLost

if TYPE_CHECKING:
    import torch

    from causvid_cli.network.ulysses import Ulysses

INVITATION = "causvid"
"""Where the first process says on which kind of device the others are to join it, or LEAVE."""
LEAVE = "leave"

_joined: ContextVar["list[Ulysses] | None"] = ContextVar("joined", default=None)
"""The group, once there is one; None where a process is alone or does not lead."""


def process_count() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def is_first() -> bool:
    """Whether this is the process that speaks, of those that torchrun has started."""
    return process_count() == 1 or os.environ["RANK"] == "0"


def led(command: Callable[..., None]) -> Callable[..., None]:
    """Let the first of torchrun's processes run a command, and the others follow it."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        if process_count() == 1:
            command(*arguments, **options)
        elif is_first():
            _lead(lambda: command(*arguments, **options))
        else:
            follow()

    return run


def _lead(command: Callable[[], None]) -> None:
    """Run a command. When it fails this process ends, which the others notice."""
    joined: list[Ulysses] = []
    token = _joined.set(joined)
    try:
        command()
    except BaseException:
        _leave(in_order=False)
        raise
    finally:
        _joined.reset(token)
    if joined:
        joined[0].tell(None)
        _leave()
    else:
        from causvid_cli.processes import meet  # loads torch

        meet().set(INVITATION, LEAVE)


def _leave(*, in_order: bool = True) -> None:
    """End the group, if there is one."""
    if processes := sys.modules.get("causvid_cli.processes"):
        processes.leave(in_order=in_order)


def join(device: "torch.device") -> "Ulysses | None":
    """Form a group with the others; None where this process is alone. Raises DeviceError when a device is missing."""
    joined = _joined.get()
    if joined is None:
        return None
    if not joined:
        from causvid_cli import processes
        from causvid_cli.network.ulysses import Ulysses

        own, store = processes.my_device(device), processes.meet()
        store.set(INVITATION, str(device))
        processes.join(own, store)
        joined.append(Ulysses(own))
    return joined[0]


def follow() -> None:
    """Compute what the first process announces, until that ends, in whichever way."""
    try:
        _follow()
    except ProcessLost:  # the first process says so, unless it is the one
        _leave(in_order=False)
    except CausvidError as error:
        console.error(f"process {os.environ['RANK']} of {process_count()}: {error}")
        raise typer.Exit(error.exit_code) from error


def _follow() -> None:
    _heed(signal.SIG_DFL)  # nothing is at work yet: torchrun may end this process
    from causvid_cli import processes
    from causvid_cli.device import resolve_device, use_threads
    from causvid_cli.network.ulysses import Ulysses

    store = processes.meet()
    if (device := store.get(INVITATION).decode()) == LEAVE:
        return
    own = processes.my_device(resolve_device(device))
    processes.join(own, store)
    _heed(signal.SIG_IGN)  # the first process may want to finish a chunk
    group, failure = Ulysses(own), None
    try:
        group.spread(group.tell().load(own))
    except CausvidError as error:
        failure = error
    if not group.agree(failure):
        return
    use_threads(group.tell(), is_small=group.networks[0].is_small, device=own)
    import torch

    with torch.inference_mode():
        group.follow()
    _leave()


def _heed(handler: signal.Handlers) -> None:
    """Let the signals that end a command do this."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last is not on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)
