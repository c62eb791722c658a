"""What a user waits for and pays once: import, load, the first clip, in a process of its own.

Student and teacher never share such a process, so that the memory of one does not hide the other's. Start them
before this process has loaded torch: on Linux a child's peak begins at its parent's. Imports no torch by itself.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

from causvid_cli.bench.config import BenchConfig, Role
from causvid_cli.errors import CausvidError, DeviceError
from causvid_cli.extras import staying

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """One fresh process: import, load and a clip without any warm-up."""

    import_s: float
    """Importing what t2v imports."""
    torch_s: float
    """Importing torch, which is a part of that."""
    load_s: float
    """Finding, verifying and loading the weights."""
    first_frame_s: float
    """From the prompt to the first frames, cold: what is compiled is compiled then."""
    encode_s: float
    """Writing the clip as a file."""
    exit_s: float = 0.0
    """From the last that it did until the process was gone."""
    peak_memory_bytes: int


def start(role: Role, config: BenchConfig) -> Fresh:
    """Measure in a fresh process. Raises the CausvidError that it ended with, DeviceError when it was killed."""
    spawn = multiprocessing.get_context("spawn")
    answers, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_answer, args=(sender, role, config))
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        process.start()  # which would load our __main__ there, and all that it imports
    finally:
        sys.modules["__main__"] = main
    sender.close()
    try:
        answer = answers.recv()
    except EOFError:
        process.join()
        if process.exitcode is None or process.exitcode >= 0:
            raise RuntimeError(f"a fresh process of the {role} ended with {process.exitcode}") from None
        raise DeviceError(
            f"a fresh process of the {role} was killed by signal {-process.exitcode}, as a system does that is out of "
            "memory; ask for less, such as a smaller --size"
        ) from None
    except BaseException:  # Ctrl-C
        process.kill()
        raise
    clock = time.perf_counter()
    process.join()
    if isinstance(answer, CausvidError):
        raise answer
    return replace(answer, exit_s=time.perf_counter() - clock)


def measure_here(role: Role, config: BenchConfig) -> Fresh:
    """Measure in this process, which has loaded nothing yet."""
    clock = time.perf_counter()
    with staying():
        import torch  # noqa: F401

        torch_s = time.perf_counter() - clock
        from causvid_cli import pipeline, video  # noqa: F401  (what t2v imports)

        import_s, clock = time.perf_counter() - clock, time.perf_counter()
        from causvid_cli.bench.measure import run_clip
        from causvid_cli.bench.subjects import open_maker
        from causvid_cli.device import peak_memory_bytes

    maker = open_maker(role, config)
    load_s = time.perf_counter() - clock
    written: list[float] = []
    run = run_clip(lambda: _writing(maker(), written, fps=maker.model.facts.fps))
    return Fresh(
        import_s=import_s,
        torch_s=torch_s,
        load_s=load_s,
        first_frame_s=run.first_frame_s,
        encode_s=sum(written),
        peak_memory_bytes=peak_memory_bytes(maker.device),
    )


def _writing(parts: "Iterable[np.ndarray]", seconds: list[float], *, fps: float) -> "Iterator[np.ndarray]":
    """The parts of a clip, each of which is written after it was handed on. seconds: gets what that took."""
    from causvid_cli.video import VideoFormat, open_writer

    with TemporaryDirectory() as folder, ExitStack() as stack:
        writer = None
        for part in parts:
            yield part
            clock = time.perf_counter()
            if writer is None:
                height, width = part.shape[1:3]
                video = VideoFormat(width=width, height=height, fps=Fraction(str(fps)))
                writer = stack.enter_context(open_writer(Path(folder, "clip.mp4"), video))
            writer.write(part)
            seconds.append(time.perf_counter() - clock)
        clock = time.perf_counter()
        if writer:
            writer.publish()
        seconds.append(time.perf_counter() - clock)


def _answer(sender: Connection, role: Role, config: BenchConfig) -> None:
    """Send what was measured, or the CausvidError that ended it; all that the fresh process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the parent ends this one
    os.dup2(2, 1)  # what libraries print is no part of the bench's result
    try:
        answer: Fresh | CausvidError = measure_here(role, config)
    except CausvidError as error:
        answer = error
    except Exception as error:
        if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's
            raise
        answer = DeviceError(
            f"the {role} runs out of memory; ask for less, such as a smaller --size or --window, or --offload auto"
        )
    sender.send(answer)
