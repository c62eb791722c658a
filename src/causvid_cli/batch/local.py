"""Workers that are processes of this machine: JSON objects, one a line, on their stdin and stdout."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from causvid_cli.batch.engine import Tell
from causvid_cli.config import to_json

END_S = 20.0
"""Seconds that a process has for its end."""


class ProcessLink:
    """A process that is a worker. environment: what differs in it from this process's own."""

    def __init__(self, command: Sequence[str], tell: Tell, *, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | (environment or {}),
            start_new_session=True,  # Ctrl-C is for this process, which tells it
        )
        threading.Thread(target=_listen, args=(self._process.stdout, tell), daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it has just ended, which its thread tells
            assert self._process.stdin is not None
            self._process.stdin.write(f"{to_json(message)}\n".encode())
            self._process.stdin.flush()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def how_it_ended(self) -> str:
        return f"exit code {self._process.wait()}"


def _listen(pipe: IO[bytes], tell: Tell) -> None:
    """Pass a worker's events on, in a thread of its own."""
    for line in pipe:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                tell(event)
    tell(None)
