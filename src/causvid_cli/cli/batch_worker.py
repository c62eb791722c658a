"""A worker of `causvid batch`: command lines come in, videos go into their files, and how it went comes out.

One JSON object a line, on stdin {"jobs": [{"arguments", "output"}, ...]}, on stdout events (see `batch/engine.py`):
{"event": "ready"}; then for a message any {"event": "frames", "done", "total"}, for each of its jobs {"event": "done",
"number", ...} or {"event": "failed", "number", ...}, at last {"event": "end"}. Jobs of one message that are of one plan
are made in step, in one roll-out.
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
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from causvid_cli import __version__
from causvid_cli.cli import console
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.progress import Progress
from causvid_cli.cli.report import VideoResult
from causvid_cli.cli.run import load_pipeline, planned, steps_of_video
from causvid_cli.cli.stream import find_earlier_run, find_named
from causvid_cli.cli.task import Task, check_output_of, existing
from causvid_cli.config import to_json
from causvid_cli.errors import BusyError, CausvidError, OutputError
from causvid_cli.files import sha256_of_file
from causvid_cli.job.job import Job, journal_path

if TYPE_CHECKING:
    from causvid_cli.job.recording import Earlier
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
        """Make the videos of a message, and tell of each how it went. Raises KeyboardInterrupt when it is stopped."""
        alike: dict[object, list[_Opened]] = {}
        for number, job in enumerate(message["jobs"]):
            with self._told(number):
                opened = self._open(number, job)
                alike.setdefault(opened.in_step or number, []).append(opened)
        for each in alike.values():
            self._make_in_step(each)
        self.tell("end")

    @contextmanager
    def _told(self, number: int) -> Iterator[None]:
        """Inside, what goes wrong with a job is told of; _Done ends it well."""
        from causvid_cli.cli.app import explain, is_out_of_memory

        try:
            yield
        except KeyboardInterrupt:
            raise
        except _Done as done:
            self.tell("done", number=number, **done.facts)
        except BaseException as error:
            code, line = explain(error)
            if memory := is_out_of_memory(error):
                self._loaded = None
            self.tell(
                "failed",
                number=number,
                exit_code=int(code),
                what="; ".join([line, *getattr(error, "__notes__", ())]),
                may_pass=memory,
                busy=isinstance(error, BusyError),
                full=_is_full(error),
            )

    def _open(self, number: int, job: Mapping[str, Any]) -> "_Opened":
        """A job's task, checked, and what an earlier run left of it. Raises _Done when that is all of it."""
        output = Path(job["output"])
        named = str(output).replace("{", "{{").replace("}", "}}")
        command, *arguments = job["arguments"]
        task = planned(self._root, [command, f"--output={named}", *arguments])
        console.voice.quiet = 2  # what is noted of a video stands in its result
        output.parent.mkdir(parents=True, exist_ok=True)
        names = None if _is_made(task) else find_named(task)
        if names is None:
            raise _Done(_facts(output, frames=task.job.frames or 0))
        with _or_made(task):
            check_output_of(task, names)
        earlier = find_earlier_run(task)
        if earlier:
            earlier.journal.check_latents(task.latent_shape)
        return _Opened(number, task, earlier)

    def _make_in_step(self, videos: "Sequence[_Opened]") -> None:
        """Make videos of one plan, a chunk of each in turn; what is opened without the others is made without them."""
        from causvid_cli.sampling.together import Together

        started, making = time.monotonic(), list[tuple[_Opened, Generator[None, None, VideoResult]]]()
        together = Together() if len(videos) > 1 else None
        for each in videos:
            with self._told(each.number), _or_made(each.task):
                steps = steps_of_video(
                    each.task,
                    self._pipeline(each.task),
                    _Told(self),
                    each.earlier,
                    together=together,
                    keep_partial=False,
                )
                next(steps)
                making.append((each, steps))
        share = max(1, len(making))
        while making:
            for each, steps in list(making):
                goes_on = False
                with self._told(each.number), _or_made(each.task):
                    try:
                        next(steps)
                        goes_on = True
                    except StopIteration as end:
                        made: VideoResult = end.value
                        assert made.output is not None
                        seconds = round((time.monotonic() - started) / share, 3)
                        raise _Done(_facts(made.output, made=made, frames=made.frames) | {"seconds": seconds}) from None
                if not goes_on:
                    making.remove((each, steps))

    def _pipeline(self, task: Task) -> "Pipeline":
        job = task.job
        devices = (job.device, task.options.vae_device)
        wanted = (task.folder, job.model, *devices, job.dtype, job.loading, task.lora_files)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # before the next one takes its memory
            gc.collect()
            self._loaded = (wanted, load_pipeline(task)[0])
        return self._loaded[1]


class _Done(Exception):
    """A job is done. facts: what is told of its file."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts = facts


@dataclass(frozen=True, slots=True)
class _Opened:
    """A job that is ready to be made. number: its place in the message."""

    number: int
    task: Task
    earlier: "Earlier | None"

    @property
    def in_step(self) -> object:
        """Equal for videos that can share a roll-out: those of one plan that begin from noise. None for others."""
        job = self.task.job
        if self.earlier or job.input or any(cue.negative for cue in job.cues):
            return None
        if len(job.cues) > 1 and self.task.facts.opening_network:  # which cues cut is not the same for all
            return None
        cues = tuple(replace(cue, prompt="-", seed=None, name="") for cue in job.cues)
        return replace(job, command="t2v", seed=0, cues=cues, length="")


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


@contextmanager
def _or_made(task: Task) -> Iterator[None]:
    """Inside, an output that has come to be there meanwhile is no error where another batch has just made it."""
    try:
        yield
    except BusyError:
        raise
    except OutputError:
        if not _is_made(task):
            raise
        assert task.output is not None
        raise _Done(_facts(task.output, frames=task.job.frames or 0)) from None


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


def _facts(output: Path, *, frames: int, made: VideoResult | None = None) -> dict[str, Any]:
    return {
        "bytes": output.stat().st_size,
        "sha256": sha256_of_file(output),
        "frames": frames,
        "found": made is None,
        "seconds": 0.0,
        "model": made.job.model.name if made else "",
        "device": made.job.device if made else "",
        "notes": [*made.read_as, *made.notes] if made else [],
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
