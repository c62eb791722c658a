"""Commands in processes of their own, to be killed at any moment.

A process that has imported torch forks; each child runs one command as `causvid` would, in its own session. So a start
costs no second, and a kill -9 is a real one: nothing in the child can tell it from a power cut of its process.
"""

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from clips import decode

from causvid_cli import pipeline, video  # noqa: F401  (what a command loads: children find it loaded)
from causvid_cli.cli import app
from causvid_cli.job import journal, recording  # noqa: F401  (what a command loads: children find it loaded)
from causvid_cli.job.job import journal_path
from causvid_cli.job.journal import Journal
from causvid_cli.models import load as loading  # noqa: F401  (what a command loads: children find it loaded)
from causvid_cli.video import part_of

PATIENCE_S = 300
FILE_CALLS = frozenset(
    "rename replace link symlink unlink remove mkdir rmdir truncate ftruncate fsync chmod flock".split()
) | {"FileIO.write", "FileIO.truncate", "OutputFile.write", "OutputFile.truncate", "BufferedWriter.flush"}
"""What Python calls to change files, by its qualified name: functions of os and fcntl, methods of open files."""
_begun: list["Command"] = []


@dataclass(slots=True)
class Command:
    """A command that runs in a child process. said: the file that takes its stdout and stderr."""

    pid: int
    said: Path
    code: int | None = field(default=None, init=False)
    """Its exit code, once it has ended; negative for a signal."""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and all that it started."""
        if not self.ended():
            os.killpg(self.pid, number)

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self) -> int:
        """Until it ends; returns its exit code."""
        patience = time.monotonic() + PATIENCE_S
        while not self.ended():
            assert time.monotonic() < patience, f"still running: {self.said.read_text()}"
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Until it has come so far; False if it ended before."""
        patience = time.monotonic() + PATIENCE_S
        while not reached():
            if self.ended():
                return False
            assert time.monotonic() < patience, f"not so far yet: {self.said.read_text()}"
            time.sleep(0.001)
        return True


def start(*arguments: object, folder: Path, setup: Callable[[], None] = lambda: None) -> Command:
    """Begin a command in a folder. setup: called in the child first."""
    said = folder.parent / f"{folder.name}.said"
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        _wait_for_group(pid)
        _begun.append(Command(pid, said))
        return _begun[-1]
    code = 1
    try:
        gc.freeze()  # what the parent has left over stays: a decoder would wait for its threads, which are not here
        os.setsid()
        os.chdir(folder)
        _redirect(said)
        setup()
        sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
        torch.set_num_threads(1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        sys.argv = ["causvid", *map(str, arguments)]
        app.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        with suppress(OSError, ValueError, AttributeError):  # a stream that is closed
            sys.stdout.flush()
        os._exit(code)


def kill_before_call(number: int) -> None:
    """Let this process be killed before its so many-th call from now on that changes files or opens one to do so."""
    left = number

    def count_down() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            count_down()

    def called(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__qualname__ in FILE_CALLS:
            count_down()

    sys.addaudithook(opened)
    threading.setprofile(called)
    sys.setprofile(called)


def kill_at_every_call(
    *arguments: object, folder: Path, prepare: Callable[[], object], first: int = 1, step: int = 1
) -> Iterator[int]:
    """Run a command again and again, each time killed before a later file-system call, until it comes to its end.

    prepare: called before each run, to put the folder back. Yields the number of the call, counted from 1, when the
    command has been killed before it; step: only every so many-th, from `first` on.
    """
    for number in count(first, step):
        prepare()
        command = start(*arguments, folder=folder, setup=lambda: kill_before_call(number))  # noqa: B023  (runs now)
        if command.wait() == 0:
            return
        assert command.code == -signal.SIGKILL, command.said.read_text()
        yield number


def end_all() -> None:
    """Kill what still runs of the commands that were begun."""
    while _begun:
        command = _begun.pop()
        command.kill()
        command.wait()


def _wait_for_group(pid: int) -> None:
    """Wait until a child leads its own group, so that a kill meets it and nobody else."""
    while True:
        try:
            if os.getpgid(pid) == pid:
                return
        except ProcessLookupError:
            return
        time.sleep(0.0005)


def _redirect(said: Path) -> None:
    """Let stdin be empty, and both other streams go to a file."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    for descriptor, stream in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(descriptor, stream)


def _stream(descriptor: int, mode: str) -> TextIO | None:
    """What Python makes of a standard stream; None of one that is closed."""
    try:
        return open(descriptor, mode, closefd=False, buffering=1)
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Unbroken:
    """What a command makes when nothing happens to it. journal_bytes: when all chunks were made."""

    video: bytes
    latents: tuple[torch.Tensor, ...]
    seconds: float
    publish_seconds: float
    journal_bytes: int

    @classmethod
    def of(cls, arguments: tuple[object, ...], folder: Path, name: str) -> "Unbroken":
        """Run it once, with --keep-latents."""
        began = time.monotonic()
        command = start(*arguments, "-o", name, "--keep-latents", folder=folder)
        finishing = folder / f"{name}.publish"
        command.wait_until(finishing.exists)
        published = time.monotonic()
        assert command.wait() == 0, command.said.read_text()
        ended = time.monotonic()
        kept = journal_path(folder / name)
        return cls(
            (folder / name).read_bytes(), latents_of(kept), ended - began, ended - published, kept.stat().st_size
        )


def latents_of(path: Path) -> tuple[torch.Tensor, ...]:
    """All that a journal holds."""
    kept = Journal.open(path)
    try:
        return tuple(kept.latents(index) for index in range(kept.chunks))
    finally:
        kept.close()


def equal(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def kill_somewhere(command: Command, unbroken: Unbroken, output: Path, rng: random.Random) -> str:
    """Kill a command: one in five before its first chunk, one in five while it publishes, the others in between.

    The moments are counted from what it has written, so that they stay random on a machine whose pace changes. Returns
    how far it had come.
    """
    kept, draw = journal_path(output), rng.random()
    begin = 0 if draw < 0.2 else unbroken.journal_bytes if draw > 0.8 else rng.uniform(0, unbroken.journal_bytes)
    command.wait_until(lambda: not begin or (kept.exists() and kept.stat().st_size >= begin))
    span = 1.2 * unbroken.publish_seconds if draw > 0.8 else unbroken.seconds / len(unbroken.latents)
    until = time.monotonic() + rng.uniform(0, span)
    command.wait_until(lambda: time.monotonic() >= until)
    command.kill()
    command.wait()
    return stage(output, unbroken)


def stage(output: Path, unbroken: Unbroken) -> str:
    """How far a run had come, by what it has left."""
    part, kept = part_of(output), journal_path(output)
    if output.exists():
        return "after naming" if part.exists() else "too late"
    if not kept.exists():
        return "before the journal"
    chunks = len(latents_of(kept))
    if not chunks:
        return "before the first chunk"
    return "in publish" if chunks == len(unbroken.latents) else "between chunks"


def check_left(output: Path, unbroken: Unbroken) -> None:
    """What must hold at any moment: the final name is absent or complete, the `.part` plays.

    It has all that the journal counts or, while a resume makes it anew, all up to where its encoder began anew.
    """
    if output.exists():
        assert output.read_bytes() == unbroken.video
    kept, part = journal_path(output), part_of(output)
    if not kept.exists():
        return
    broken = Journal.open(kept)
    mark = broken.mark
    broken.close()
    if mark and part.exists():
        frames = len(decode(part))
        assert frames > 0
        assert frames >= mark.restart_frames
