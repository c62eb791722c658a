"""What a user waits for and pays once: import, load, the first clip, in a process of its own.

    python -m causvid_cli.bench.fresh student '{"length": "4s", ...}'      # one JSON object

Student and teacher never share such a process, so that the memory of one does not hide the other's. Start them
before this process has loaded torch: on Linux a child's peak begins at its parent's. Imports no torch by itself.
"""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Literal

from causvid_cli import errors
from causvid_cli.request import AUTO, DEFAULT_MODEL

Role = Literal["student", "teacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """What is measured."""

    model: str = DEFAULT_MODEL
    device: str = AUTO
    dtype: str = AUTO
    length: str = "10s"
    """Of the clip. It may be longer than what the teacher was trained on: its time is measured, not its picture."""
    repeats: int = 3
    teacher: bool = True
    """Whether the teacher makes the clip too."""
    threads: int | None = None
    """CPU threads; None leaves it to torch."""
    prompt: str = "a paper airplane turns into a swan"
    seed: int = 0

    @property
    def roles(self) -> tuple[Role, ...]:
        return ("student", "teacher") if self.teacher else ("student",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """One fresh process: import, load and a clip without any warm-up."""

    import_s: float
    """Importing what t2v imports."""
    load_s: float
    """Finding, verifying and loading the weights."""
    first_frame_s: float
    """From the prompt to the first frames, cold."""
    peak_memory_bytes: int


def start(role: Role, config: BenchConfig) -> Fresh:
    """Measure in a fresh process. Raises the CausvidError that it ended with."""
    command = [sys.executable, "-m", "causvid_cli.bench.fresh", role, json.dumps(asdict(config))]
    reply = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    if "error" in reply:
        raise getattr(errors, reply["error"])(reply["message"])
    return Fresh(**reply)


def measure_here(role: Role, config: BenchConfig) -> Fresh:
    """Measure in this process, which has loaded nothing yet."""
    clock = time.perf_counter()
    from causvid_cli import pipeline, video  # noqa: F401  (what t2v imports)

    import_s, clock = time.perf_counter() - clock, time.perf_counter()
    from causvid_cli.bench.measure import open_maker, run_clip
    from causvid_cli.device import peak_memory_bytes

    maker = open_maker(role, config)
    load_s = time.perf_counter() - clock
    run = run_clip(maker)
    return Fresh(
        import_s=import_s,
        load_s=load_s,
        first_frame_s=run.first_frame_s,
        peak_memory_bytes=peak_memory_bytes(maker.device),
    )


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the parent ends this one
    role, config = sys.argv[1:]
    try:
        reply = asdict(measure_here(role, BenchConfig(**json.loads(config))))  # type: ignore[arg-type]
    except errors.CausvidError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(reply))


if __name__ == "__main__":
    main()
