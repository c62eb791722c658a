"""What a user waits for and pays once: import, load, the first clip, in a process of its own.

    python -m causvid_cli.bench.cold_start student '{"length": "4s", ...}'      # one JSON object

Student and teacher never share such a process, so that the memory of one does not hide the other's. Start them
before this process has loaded torch: on Linux a child's peak begins at its parent's. Imports no torch by itself.
"""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from causvid_cli import errors
from causvid_cli.bench.config import BenchConfig, Role
from causvid_cli.config import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """One fresh process: import, load and a clip without any warm-up."""

    import_s: float
    """Importing what t2v imports."""
    load_s: float
    """Finding, verifying and loading the weights."""
    first_frame_s: float
    """From the prompt to the first frames, cold: what is compiled is compiled then."""
    peak_memory_bytes: int


def start(role: Role, config: BenchConfig) -> Fresh:
    """Measure in a fresh process. Raises the CausvidError that it ended with, DeviceError when it was killed."""
    command = [sys.executable, "-m", "causvid_cli.bench.cold_start", role, to_json(config)]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode < 0:
        raise errors.DeviceError(
            f"a fresh process of the {role} was killed by signal {-done.returncode}, as a system does that is out of "
            "memory; ask for less, such as a smaller --size"
        )
    done.check_returncode()
    reply = json.loads(done.stdout)
    if "error" in reply:
        raise getattr(errors, reply["error"])(reply["message"])
    return Fresh(**reply)


def measure_here(role: Role, config: BenchConfig) -> Fresh:
    """Measure in this process, which has loaded nothing yet."""
    clock = time.perf_counter()
    from causvid_cli import pipeline, video  # noqa: F401  (what t2v imports)

    import_s, clock = time.perf_counter() - clock, time.perf_counter()
    from causvid_cli.bench.measure import run_clip
    from causvid_cli.bench.subjects import open_maker
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
    role, text = sys.argv[1:]
    try:
        config = from_json(BenchConfig, text, where="the bench's own request")
        reply = asdict(measure_here(role, config))  # type: ignore[arg-type]
    except errors.CausvidError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's
            raise
        said = f"the {role} runs out of memory; ask for less, such as a smaller --size or --window, or --offload auto"
        reply = {"error": "DeviceError", "message": said}
    print(to_json(reply))


if __name__ == "__main__":
    main()
