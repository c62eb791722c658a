"""A live session on the command line: who tells it what, and where its events go."""

import os
import shlex
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import TYPE_CHECKING, Any, BinaryIO

from causvid_cli.cli import console
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.progress import show_progress
from causvid_cli.cli.report import VideoResult, report
from causvid_cli.cli.stdin import stdin_bytes
from causvid_cli.cli.stream import find_earlier_run, find_named, open_output, request_of
from causvid_cli.cli.task import Task, check_output_of
from causvid_cli.config import to_json
from causvid_cli.errors import UsageError
from causvid_cli.job.job import journal_path
from causvid_cli.live.clock import Clock
from causvid_cli.live.keys import Keys
from causvid_cli.live.messages import read_message
from causvid_cli.models.packs import list_packs
from causvid_cli.script import ScriptKey
from causvid_cli.untrusted import parse_object
from causvid_cli.versions import versions

if TYPE_CHECKING:
    from causvid_cli.job.journal import Journal
    from causvid_cli.job.recording import Earlier
    from causvid_cli.live.server import Page
    from causvid_cli.live.session import Live
    from causvid_cli.pipeline import Pipeline

LONGEST_LINE = 2**20
"""Bytes of a message on stdin."""


@dataclass(slots=True)
class Talk:
    """How a session is talked to.

    by_program: JSON lines on stdin, events as JSON lines on stdout, or on stderr where `to_pipe`, since the video goes
    to stdout; otherwise a terminal. Neither where a session goes on by `causvid resume`.
    """

    clock: Clock
    by_program: bool = False
    to_pipe: bool = False
    on_terminal: bool = True
    keys: Mapping[str, ScriptKey] = field(default_factory=dict)
    osc: int | None = None
    """The UDP port of a show's desk."""
    page: "Page | None" = None
    ear: "Callable[[Live], None] | None" = None
    """Begins to listen to something else that tells."""

    def first_prompt(self) -> str:
        """What to show first, where the command line does not say it. Raises UsageError where nobody says it."""
        if self.by_program:
            for line in _lines(stdin_bytes()):
                try:
                    if (prompt := read_message(_object(line), where="stdin").prompt) is not None:
                        return prompt
                    raise UsageError('nothing is shown yet; say {"prompt": ...} first')
                except UsageError as error:
                    self.tell({"event": "refused", "event_id": None, "why": str(error)})
            raise UsageError("stdin ended before a prompt was told")
        if self.page is not None:
            console.note("say in the page what to show first")
            return self.page.hub.first_prompt()
        from causvid_cli.cli.live_terminal import ask_first_prompt

        return ask_first_prompt()

    def tell(self, event: dict[str, Any]) -> None:
        """Print an event for a program."""
        if self.to_pipe:
            console.complaint(to_json({"v": 1} | event))
        else:
            console.event(**{"kind" if name == "event" else name: value for name, value in event.items()})

    def run(self, live: "Live", task: Task) -> None:
        """Make the video, while the session is told what comes in and its events go out."""
        if self.ear is not None:
            self.ear(live)
        if self.page is not None:
            self.page.hub.attach(live)
        if self.osc is not None:
            from causvid_cli.live.osc import listen_to_osc

            listen_to_osc(live, self.osc)
        if self.on_terminal and not self.by_program:
            from causvid_cli.cli.live_terminal import run_on_terminal

            run_on_terminal(live, task)
            return
        if self.by_program:
            live.listen(self.tell)
            ends = task.job.frames is None
            Thread(target=read_lines, args=(live, stdin_bytes()), kwargs={"ends": ends}, daemon=True).start()
        live.run()


@contextmanager
def on_page(talk: Talk, port: int, *, opens: bool) -> Iterator[None]:
    """A page that is served until the block ends; its address is printed, and opened where there is a screen."""
    from causvid_cli.live.server import open_page

    with open_page(port, note=console.note) as page:
        console.warning(f"the page: {page.url}")
        console.note(f"to watch only: {page.watch_url}")
        if opens and has_screen():
            webbrowser.open(page.url)
        talk.page = page
        yield


def has_screen() -> bool:
    """Whether a browser would open a window, and not take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def read_lines(live: "Live", file: BinaryIO, *, ends: bool) -> None:
    """Tell a session what comes in, a JSON object a line. ends: whether the session ends with the file."""
    for line in _lines(file):
        try:
            live.send(_object(line))
        except UsageError as error:
            live.refuse(None, str(error))
    if ends:
        live.send({"quit": True})


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines that hold something; of one that is too long, only its beginning."""
    while line := file.readline(LONGEST_LINE + 1):
        whole = line
        while len(whole) > LONGEST_LINE and not whole.endswith(b"\n") and whole:
            whole = file.readline(LONGEST_LINE + 1)
        if line.strip():
            yield line


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise UsageError(f"stdin: a line of more than {LONGEST_LINE:,} bytes")
    try:
        return parse_object(line.decode(), where="stdin", error=UsageError)
    except UnicodeDecodeError:
        raise UsageError("stdin: a line that is not UTF-8 text") from None


def run_live(tasks: Sequence[Task], talk: Talk, *, started: float) -> None:
    """Make the live video of a task, and report it."""
    (task,) = tasks
    from causvid_cli.live.keep import check_script_free

    named = find_named(task)
    if named is not None and check_output_of(task, named):
        earlier = find_earlier_run(task)
        check_script_free(task.output, overwrite=task.options.overwrite or earlier is not None)
        go_live(task, earlier, talk, started=started)


def go_live(task: Task, earlier: "Earlier | None", talk: Talk, *, started: float) -> None:
    """Make the live video of a task, or go on with it, and report it."""
    from causvid_cli.cli.run import load_pipeline

    for line in (*task.decoded, *task.landed, *task.retimed, *(task.input_media.notes if task.input_media else ())):
        console.note(line)
    with show_progress(f"loading {task.facts.name}"):
        pipeline, timings = load_pipeline(task)
    for line in pipeline.notes:
        console.note(line)
    made = make_live(task, pipeline, earlier, talk)
    if not talk.by_program:
        report(task, made, timings | {"total_s": time.monotonic() - started})


def make_live(task: Task, pipeline: "Pipeline", earlier: "Earlier | None", talk: Talk) -> VideoResult:
    """Make one live video; what stops it on the way leaves what was made so that it goes on by the same command."""
    from causvid_cli.device import peak_memory_bytes
    from causvid_cli.live.session import Live

    dtype = str(pipeline.dtype).removeprefix("torch.")
    job = earlier.job if earlier else replace(task.job, device=str(pipeline.device), dtype=dtype)
    result = VideoResult(job=job, output=task.output, resumed_frames=earlier.frames if earlier else 0)
    with ExitStack() as stack:
        stack.enter_context(interrupts.deferred(lambda: None))
        recipe = dict(earlier.journal.request["recipe"]) if earlier else job.recipe(versions())
        writer = stack.enter_context(open_output(task, job, recipe, earlier))
        journal = stack.enter_context(_journal(task, recipe, earlier))
        live = Live(
            pipeline,
            job,
            task.grid,
            writer,
            journal,
            given=task.input_media,
            model=_model(task),
            clock=talk.clock,
            keys=Keys(talk.keys),
            versions=versions(),
            stop=lambda: interrupts.received is not None,
        )
        begun = time.monotonic()
        first: list[float] = []
        live.listen(lambda event: first.append(time.monotonic()) if event["event"] == "chunk" and not first else None)
        try:
            talk.run(live, task)
            if not writer.frames_written and interrupts.received is not None:
                raise KeyboardInterrupt  # nothing to keep
            result.frames = writer.frames_written
            result.generate_s = time.monotonic() - begun
            result.first_frame_s = first[0] - begun if first else 0.0
            script = live.finish(keep_latents=task.options.keep_latents)
        except BaseException as error:
            if task.output is not None and writer.frames_written and journal.path.exists():
                error.add_note(f"`causvid resume {shlex.quote(str(writer.part_path))}` goes on")
            raise
    if script is not None and not talk.by_program:
        console.note(f"what was told is in {script}: `causvid edit-script {shlex.quote(str(script))}` makes it again")
    result.peak_memory_bytes = peak_memory_bytes(pipeline.device)
    return result


def _model(task: Task) -> str:
    """How the script calls the model: by its name where that leads to its folder."""
    name = task.job.model.name
    return name if task.folder is None or list_packs().get(name) == task.folder else str(task.folder)


@contextmanager
def _journal(task: Task, recipe: dict[str, Any], earlier: "Earlier | None") -> "Iterator[Journal]":
    from causvid_cli.job.journal import Journal
    from causvid_cli.live.opened import passing_journal

    if task.output is None or task.is_live:
        with passing_journal() as passing:
            yield passing
        return
    if earlier:
        earlier.journal.check_unchanged()  # it was read before the lock was ours
    journal = earlier.journal if earlier else Journal.create(journal_path(task.output), request_of(task, recipe))
    try:
        yield journal
    finally:
        journal.close() if journal.chunks else journal.remove()
