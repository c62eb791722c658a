"""A worker of `causvid batch`: command lines come in, videos go into their files, and how it went comes out.

One JSON object a line, on stdin {"arguments", "output"}, on stdout events (see `batch/engine.py`): {"event": "ready"},
then for each job {"event": "frames", "done", "total"}, and {"event": "done", ...} or {"event": "failed", ...}.
"""

import errno
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from causvid_cli import __version__
from causvid_cli.cli import console
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.progress import Progress
from causvid_cli.cli.run import load_pipeline, make_video, planned
from causvid_cli.cli.stream import find_earlier_run, find_named
from causvid_cli.cli.task import Task, check_output_of, existing
from causvid_cli.config import to_json
from causvid_cli.errors import BusyError, CausvidError
from causvid_cli.files import sha256_of_file
from causvid_cli.job.job import Job, journal_path

if TYPE_CHECKING:
    from causvid_cli.pipeline import Pipeline

EVENT_EVERY_S = 0.2
"""Seconds between two events of one job's progress."""


class Maker:
    """Makes one video after the other; the model of the last one stays loaded."""

    def __init__(self, root: Any, events: IO[str]) -> None:
        self._root, self._events = root, events
        self._loaded: tuple[object, Pipeline] | None = None

    def tell(self, event: str, **values: Any) -> None:
        """Send an event off."""
        self._events.write(f"{to_json({'event': event, **values})}\n")
        self._events.flush()

    def make(self, message: Mapping[str, Any]) -> None:
        """Make a job's video, and tell how it went, whatever happens. Raises KeyboardInterrupt when it was stopped."""
        from causvid_cli.cli.app import explain, is_out_of_memory

        started = time.monotonic()
        try:
            told = self._make(message)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            code, line = explain(error)
            if memory := is_out_of_memory(error):
                self._loaded = None
            self.tell(
                "failed",
                exit_code=int(code),
                what="; ".join([line, *getattr(error, "__notes__", ())]),
                may_pass=memory,
                busy=isinstance(error, BusyError),
                full=_is_full(error),
            )
            del error
            gc.collect()
        else:
            self.tell("done", seconds=round(time.monotonic() - started, 3), **told)

    def _make(self, message: Mapping[str, Any]) -> dict[str, Any]:
        output = Path(message["output"])
        named = str(output).replace("{", "{{").replace("}", "}}")
        command, *arguments = message["arguments"]
        task = planned(self._root, [command, f"--output={named}", *arguments])
        console.voice.quiet = 2  # what is noted of a video stands in its result
        output.parent.mkdir(parents=True, exist_ok=True)
        if _is_made(task):
            return _facts(output, frames=task.job.frames or 0, device="", notes=())
        names = find_named(task)
        if names is None:  # it was killed after the last frame: what was left is done now
            return _facts(output, frames=task.job.frames or 0, device="", notes=())
        check_output_of(task, names)
        earlier = find_earlier_run(task)
        if earlier:
            earlier.journal.check_latents(task.latent_shape)
        made = make_video(task, self._pipeline(task), _Told(self), earlier, keep_partial=False)
        return _facts(output, frames=made.frames, device=made.job.device, notes=(*made.read_as, *made.notes))

    def _pipeline(self, task: Task) -> "Pipeline":
        job = task.job
        wanted = (task.folder, job.model, job.device, job.dtype, job.loading, task.lora_files)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # before the next one takes its memory
            gc.collect()
            self._loaded = (wanted, load_pipeline(task)[0])
        return self._loaded[1]


class _Told(Progress):
    """A video's progress, as events."""

    def __init__(self, maker: Maker) -> None:
        self._maker, self._total, self._last = maker, None, 0.0  # type: tuple[Maker, int | None, float]

    def start(self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None) -> None:
        self._total = frames
        self.update(done)

    def update(self, done: int, *, cue: str = "") -> None:
        if time.monotonic() - self._last >= EVENT_EVERY_S:
            self._last = time.monotonic()
            self._maker.tell("frames", done=done, total=self._total)

    def step(self, text: str, *, made: float) -> None:
        """Nothing: frames are enough."""


def _is_made(task: Task) -> bool:
    """Whether the video is there already, from a batch that was killed before it could say so."""
    from causvid_cli.media.probe import read_info

    assert task.output is not None
    if not existing(task.output) or journal_path(task.output).exists():
        return False
    with suppress(CausvidError):
        info = read_info(task.output)
        if info.recipe is not None:
            job = Job.from_recipe(info.recipe, where=str(task.output))
            return job.is_asked_again_by(task.job, seed_given=True) and info.frames >= (task.job.frames or 1)
    return False


def _facts(output: Path, *, frames: int, device: str, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "bytes": output.stat().st_size,
        "sha256": sha256_of_file(output),
        "frames": frames,
        "device": device,
        "notes": list(notes),
    }


def _is_full(error: BaseException | None) -> bool:
    """Whether what is at the root of an error is a full disk, or a folder that can no longer be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            return True
        error = error.__cause__ or error.__context__
    return False


def main() -> None:
    """Serve until stdin ends. SIGTERM ends it after the chunk at work; then the next batch goes on from there."""
    from causvid_cli.cli.app import root

    events = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)  # what libraries print is no event
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the batch's own process gets Ctrl-C, and says what is to be done
    jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, jobs), daemon=True).start()
    maker = Maker(root(), events)
    with suppress(KeyboardInterrupt, BrokenPipeError), interrupts.handled():
        maker.tell("ready", version=__version__, pid=os.getpid())
        while (message := jobs.get()) is not None:
            maker.make(message)
    os._exit(0)  # torch takes its time to go


def _read(pipe: IO[bytes], jobs: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    """Take jobs in while another one is made; when there will be no more, that one is stopped, as its batch is gone."""
    for line in pipe:
        jobs.put(json.loads(line))
    jobs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
