"""A live session: a stream, a clock, and a log of what was told, from which the same frames are made again.

    tell       send({"prompt": "it jumps"})    from any thread; the answer is an event
    hear       listen(print)                   every event, a dict: `event`, and what `messages.EVENTS` says of each
    watch      watch()                         the frames, by a queue that never holds the session up
    make       run()                           in the caller's thread, until the video or the session ends; or, chunk
                                               by chunk, `for shown in live`
    keep       finish()                        the video and its script get their names

A message takes hold when the next chunk is begun. By then it is in the journal, so that a session that is killed goes
on like any other video; `undo` is the same: the journal and the file are cut, and the stream begins again behind them.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from threading import Condition, RLock
from typing import Any, NamedTuple

from causvid_cli.errors import CausvidError, OutputError, UsageError
from causvid_cli.geometry import ChunkGrid
from causvid_cli.job.inputs import InputMedia
from causvid_cli.job.job import Job
from causvid_cli.job.journal import Journal
from causvid_cli.job.open import open_interpolator, open_stream
from causvid_cli.job.recording import Recording, first_chunk_after, known_latents, restart_of
from causvid_cli.live.clock import Clock
from causvid_cli.live.keep import Kept
from causvid_cli.live.keys import Keys
from causvid_cli.live.messages import CueMessage, Message, read_message
from causvid_cli.live.planned import Planned, PlannedCue
from causvid_cli.live.watch import KEPT_CHUNKS, Shown, Watcher
from causvid_cli.pipeline import ChunkResult, Pipeline
from causvid_cli.prompt.cues import Cue, Telling, with_told
from causvid_cli.video import Writer

POLL_S = 0.1
"""Between two looks at whether the session is to stop: a signal wakes no waiting thread."""

MOST_WAITING = 1000
"""Messages that wait for the next chunk; more are refused."""

OnEvent = Callable[[dict[str, Any]], None]


class _Pending(NamedTuple):
    event_id: str | int
    telling: Telling


class Live:
    """One live video, being made. `run` is called once, and `finish` after it; all else from any thread.

    job: what the session begins with; its cues are told from there on. writer: entered by the caller. journal: what
    was made, and told, so far; perhaps of a session that was killed. given: what the video begins from. model: how the
    script calls the model. keys: what is bound to them. stop: asked now and then whether to end.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        job: Job,
        grid: ChunkGrid,
        writer: Writer,
        journal: Journal,
        *,
        given: InputMedia | None = None,
        model: str | None = None,
        clock: Clock,
        keys: Keys | None = None,
        versions: Mapping[str, str] = {},
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.job, self.grid, self.clock, self.keys = job, grid, clock, keys or Keys({})
        self.pipeline, self._writer, self._journal, self._given = pipeline, writer, journal, given
        self._kept = Kept(writer=writer, grid=grid, given=given, model=model or job.model.name, versions=versions)
        self._stop = stop
        self._inbox: list[tuple[str | int, Message]] = []
        self._pending: list[_Pending] = []
        self._planned = Planned()
        self._copies: list[tuple[Path, Future[Path]]] = []
        self._changed, self._telling = Condition(), RLock()
        self._listeners: list[OnEvent] = []
        self._watchers: list[Watcher] = []
        self._last_id = 0
        self._quits, self._why, self._is_over = False, "", False
        self._known = journal.chunks
        self._recording = self._open(*self._left())

    # --- from any thread ---------------------------------------------------------------------------------------------

    def send(self, message: Mapping[str, Any] | str, *, event_id: str | int | None = None) -> str | int:
        """Tell something (`messages.Message`; text is a prompt); returns its event_id. The answer comes as events.

        event_id: what it is called where the message says nothing itself.
        """
        said = {"prompt": message} if isinstance(message, str) else dict(message)
        if event_id is None and isinstance(said.get("event_id"), str | int):
            event_id = said["event_id"]
        with self._changed:
            event_id = self._last_id + 1 if event_id is None else event_id  # no number that anything has been called
            self._last_id = max(self._last_id, event_id) if isinstance(event_id, int) else self._last_id
        try:
            read = read_message(said)
        except UsageError as error:
            self.refuse(event_id, str(error))
            return event_id
        event_id = event_id if read.event_id is None else read.event_id
        self.event("received", event_id=event_id, chunk=self._known, **{"in": self._seen_in()})
        with self._changed:
            is_full = len(self._inbox) >= MOST_WAITING
            if not is_full:
                self._inbox.append((event_id, read))
                self._changed.notify()
        if is_full:
            self.refuse(event_id, f"{MOST_WAITING} messages wait already; send fewer")
        return event_id

    def refuse(self, event_id: str | int | None, why: str) -> None:
        """Say why something was not done; all goes on."""
        self.event("refused", event_id=event_id, why=" ".join(why.split()))

    def listen(self, on_event: OnEvent) -> None:
        """Let a function be told of every event from now on; it returns soon."""
        with self._telling:
            self._listeners.append(on_event)

    def watch(self, kept: int = KEPT_CHUNKS) -> Watcher:
        """Frames from now on, for one who watches; who is slow loses some, and the file none."""
        watcher = Watcher(kept)
        with self._telling:
            self._watchers.append(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        watcher.close()
        with self._telling:
            self._watchers.remove(watcher)

    def copy(self, folder: Path) -> "Future[Path]":
        """A copy of the video so far, in a folder of the same disk; it is made between two chunks.

        The future raises UsageError where there is no frame or no file; it is cancelled where the session ends before.
        """
        future: Future[Path] = Future()
        with self._changed:
            if self._is_over:
                future.cancel()
            self._copies.append((folder, future))
            self._changed.notify()
        return future

    def event(self, kind: str, **values: Any) -> None:
        """Tell everybody."""
        with self._telling:
            for each in list(self._listeners):
                each({"event": kind, **values})

    @property
    def cues(self) -> tuple[Cue, ...]:
        """What was told so far, and when."""
        return with_told(self.job.cues, self._journal.told)

    @property
    def output(self) -> Path | None:
        """The file of the video; None where it goes to a pipe or nowhere."""
        return self._writer.path if self._kept.is_file else None

    @property
    def frames(self) -> int:
        """Of the video so far."""
        return self._writer.frames_written

    @property
    def next_chunk(self) -> int:
        """Which chunk is made next."""
        return self._known

    @property
    def prompt(self) -> str:
        """What holds for the next chunk."""
        return self._recording.stream.prompt

    # --- making ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Make the video until it ends or the session does."""
        for _ in self:
            pass

    def __iter__(self) -> Generator[Shown, None, None]:
        """Make the video, each chunk when it is asked for and its time has come."""
        job = self.job
        self.event(
            "started",
            prompt=self.prompt,
            chunk=self._known,
            fps=float(job.retiming.made),
            size=job.size,
            seed=job.seed,
            model=job.model.name,
        )
        try:
            self.clock.rewind(self._video_s(self._known))
            while not self._why:
                yield from self._stream()
        finally:
            self._recording.stream.close()
            with self._telling:
                for watcher in self._watchers:
                    watcher.close()
            with self._changed:
                self._is_over = True
                for _, future in self._copies:
                    future.cancel()

    def _stream(self) -> Iterator[Shown]:
        """Make chunks until the video or the session ends, or another stream goes on after an undo."""
        recording = self._recording
        with closing(iter(recording)) as chunks:
            while self._turn():
                self._tell()
                started = time.monotonic()
                chunk = next(chunks, None)
                while chunk is not None and self._known and chunk.index < self._known:
                    chunk = next(chunks, None)  # of an earlier run, written again
                if chunk is None:
                    self._why = "length" if self._writer.frames_written == self.job.frames else "source"
                    return
                yield self._show(chunk, time.monotonic() - started)
        if self._why:
            recording.write_rest()

    def _turn(self) -> bool:
        """Wait until the next chunk is to be begun, and do what is told meanwhile.

        Returns False when this stream makes no more of them: the session ends, or goes on with another stream.
        """
        recording = self._recording
        while True:
            with self._changed:
                inbox, self._inbox = self._inbox, []
                copies, self._copies = self._copies, []
            for folder, future in copies:
                if not future.set_running_or_notify_cancel():  # who asked is gone
                    continue
                try:
                    future.set_result(self._kept.copy(self.made_job, folder / self._writer.path.name))
                except CausvidError as error:
                    future.set_exception(error)
            for event_id, message in inbox:
                try:
                    self._do(event_id, message)
                except CausvidError as error:
                    if isinstance(error, OutputError) and message.save is None:
                        raise
                    self.refuse(event_id, str(error))
            if self._stop():
                self._why = "stopped"
            elif self._quits and not self._pending and self._known:  # what was told is shown before
                self._why = "quit"
            if self._why or self._recording is not recording:
                return False
            wait = self.clock.wait_s(self._video_s(self._known))
            if wait <= 0 or self._quits:
                return True
            with self._changed:
                if not self._inbox and not self._copies:
                    self._changed.wait(min(wait, POLL_S))

    def _do(self, event_id: str | int, message: Message) -> None:
        if cue := message.as_cue:
            if message.at is None or message.at <= self._known:
                self._pend(event_id, cue)
            else:
                planned = PlannedCue(message.at, cue)
                self._planned.add(event_id, planned)
                self._tell_planned(event_id, planned)
        elif message.move is not None and message.at is not None:
            self._tell_planned(message.move, self._planned.move(message.move, max(message.at, self._known)))
        elif message.drop is not None:
            self._planned.drop(message.drop)
            self.event("dropped", event_id=message.drop)
        elif message.pause is not None:
            self.clock.pause(message.pause)
            self.event("paused", event_id=event_id, paused=message.pause)
        elif message.undo is not None:
            self._undo(message.undo)
            frame = self.frame_of(self._known)
            self.event("undone", event_id=event_id, chunk=self._known, frame=frame, prompt=self.prompt)
        elif message.save is not None:
            output, script = self._kept.save(self.made_job, message.save)
            self.event("saved", event_id=event_id, output=str(output) if output else None, script=str(script))
        elif message.quit:
            self._quits = True
        elif message.key is not None and (cue := self.keys.tell(message.key, down=message.down)):
            self._pend(event_id, cue)

    def _pend(self, event_id: str | int, cue: CueMessage) -> None:
        self._pending.append(_Pending(event_id, cue.telling(self.grid, self.job.retiming.made)))

    def _tell_planned(self, event_id: str | int, planned: PlannedCue) -> None:
        cue = {name: value for name, value in asdict(planned.cue).items() if value is not None}
        self.event("planned", event_id=event_id, chunk=planned.chunk, frame=self.frame_of(planned.chunk), cue=cue)

    def _tell(self) -> None:
        """Let what was told hold for the next chunk; the journal has it before."""
        for event_id, planned in self._planned.due(self._known):
            self._pend(event_id, planned)
        pending, self._pending = self._pending, []
        stream = self._recording.stream
        for event_id, telling in pending:
            try:
                cue = stream.tell(telling)
            except UsageError as error:
                self.refuse(event_id, str(error))
                continue
            self._journal.tell(cue)
            self.event(
                "applied",
                event_id=event_id,
                chunk=cue.start_chunk,
                frame=self.frame_of(cue.start_chunk),
                prompt=cue.prompt,
                notes=list(stream.prompt_notes),
                **{"in": self._seen_in()},
            )

    def _show(self, chunk: ChunkResult, seconds: float) -> Shown:
        if chunk.index >= 0:
            self._known = chunk.index + 1
        start_s = float(chunk.start_frame / self.job.retiming.made)
        due = self.clock.made(start_s, seconds)
        shown = Shown(chunk.frames, chunk.index, chunk.start_frame, due, chunk.prompt)
        with self._telling:
            for watcher in self._watchers:
                watcher.put(shown)
        self.event(
            "chunk",
            index=chunk.index,
            frame=self.job.retiming.shown_until(chunk.start_frame),
            frames=len(chunk.frames),
            seconds=round(seconds, 4),
            latency=self._seen_in(),
            prompt=chunk.prompt,
        )
        return shown

    def _undo(self, chunk: int) -> None:
        """Go back to before a chunk. Raises UsageError where that cannot be done."""
        given = self._given
        if chunk >= self._known:
            made = f"the next is chunk {self._known}" if self._known else "no chunk is made yet"
            raise UsageError(f"undo {chunk}: {made}")
        if given is not None and given.path is None:
            raise UsageError(f"undo {chunk}: the source is live, and what it showed is gone")
        if not self._kept.is_file and self.job.interpolate != "none":
            raise UsageError(f"undo {chunk}: a pipe at another frame rate than the model's cannot be gone back in")
        self._recording.stream.close()
        self._pending = []
        self._journal.cut(chunk)
        restart = restart_of(self._journal.mark)
        self._writer.cut(restart)
        self._known = chunk
        self._recording = self._open(*self._left())
        self.clock.rewind(self._video_s(chunk))
        with self._telling:
            for watcher in self._watchers:
                watcher.drop()

    def _left(self) -> tuple[int, Job]:
        """The first chunk that is written again, and the job with what was told so far."""
        first = first_chunk_after(self._writer.restart, self.job, self.grid) if self._kept.is_file else self._known
        return first, replace(self.job, cues=self.cues)

    def _open(self, first_chunk: int, job: Job) -> Recording:
        """A stream, and its way into the file, that go on behind the chunks that the journal has."""
        made = known_latents(self._journal, self.pipeline.device) if self._known else None
        stream = open_stream(
            job,
            self.pipeline,
            self.grid,
            self._given,
            made=made,
            first_chunk=first_chunk,
            known_chunks=self._known,
        )
        return Recording(
            stream,
            self._writer,
            journal=self._journal,
            known_chunks=self._known,
            show=self._given.show() if self._given else None,
            interpolator=open_interpolator(job, start_frame=self._writer.frames_written),
        )

    def _video_s(self, chunk: int) -> float:
        return float(self.grid.first_frame(chunk) / self.job.retiming.made)

    def frame_of(self, chunk: int) -> int:
        """The number of the first frame of a chunk, in the video."""
        return self.job.retiming.shown_until(self.grid.first_frame(chunk))

    def _seen_in(self) -> float:
        """Seconds until the next chunk that is begun is seen."""
        return round(max(0.0, self.clock.due(self._video_s(self._known)) - time.monotonic()), 3)

    # --- keeping -----------------------------------------------------------------------------------------------------

    @property
    def made_job(self) -> Job:
        """What was made, as a job that makes it again. Raises UsageError where that is nothing."""
        frames = self._writer.frames_written
        if not frames:
            raise UsageError("no frames are made yet")
        shown = tuple(cue for cue in self.cues if cue.start_chunk < max(1, self._known))  # a source may end at a cue
        return replace(self.job, cues=shown, frames=frames, length=f"{frames}f")

    def script(self, folder: Path) -> str:
        """What was told so far as a script that will lie in this folder. Raises UsageError where that is nothing."""
        return self._kept.script(self.made_job, folder)

    def finish(self, *, keep_latents: bool = False) -> Path | None:
        """Give the video and its script their names; returns that of the script.

        Raises OutputError, and UsageError where nothing was made.
        """
        script = self._kept.finish(self.made_job)
        self._recording.publish()
        self._recording.clean_up(keep_latents=keep_latents)
        output = str(self._writer.path) if self._kept.is_file else None
        said = str(script) if script else None
        self.event("ended", frames=self._writer.frames_written, why=self._why, output=output, script=said)
        return script
