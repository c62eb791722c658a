"""A live session in a terminal: the picture, what was answered, and a line to type on below it."""

import os
import sys
import time
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from causvid_cli.cli import console
from causvid_cli.cli.live_keyboard import Keyboard
from causvid_cli.cli.live_line import HELP, PromptLine
from causvid_cli.cli.preview import UPPER_HALF, cell_runs, fit, shrink
from causvid_cli.cli.task import Task
from causvid_cli.errors import UsageError
from causvid_cli.live.watch import Shown, Watcher
from causvid_cli.units import counted

if TYPE_CHECKING:
    from prompt_toolkit.application import Application
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import ColorDepth, Output

    from causvid_cli.live.session import Live

REDRAWS_PER_S = 15
WAITING_CHUNKS = 64
"""That are made and not yet due."""
LONGEST_ANSWER_S = 6.0
"""How long an answer stands."""


def ask_first_prompt() -> str:
    """What to show first, as it is typed. Raises UsageError where nothing is."""
    from prompt_toolkit import PromptSession

    source, output = _streams()
    try:
        return PromptSession(input=source, output=output).prompt("what to show: ")
    except EOFError:
        raise UsageError("no prompt; say what to show") from None


def _streams(keyboard: Keyboard | None = None) -> "tuple[Input, Output]":
    """The terminal: its keys, also where stdin is a video, and its screen by stderr, since stdout may be one."""
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output import create_output

    source = create_input(always_prefer_tty=True)
    reader = getattr(source, "stdin_reader", None)  # of a terminal that speaks in escape sequences
    if keyboard is not None and keyboard.bound and reader is not None:
        source.stdin_reader = FilteredReader(reader, keyboard)  # type: ignore[attr-defined]
    return source, create_output(stdout=sys.stderr)


class FilteredReader:
    """What comes from a terminal, without the keys that are bound."""

    def __init__(self, reader: Any, keyboard: Keyboard) -> None:
        self._reader, self._keyboard = reader, keyboard

    def read(self, count: int = 1024) -> str:
        return self._keyboard.filter(self._reader.read(count))

    @property
    def closed(self) -> bool:
        return bool(self._reader.closed)


class Player:
    """Which frame of what is watched is due now."""

    def __init__(self, watcher: Watcher, fps: float) -> None:
        self._watcher, self._fps = watcher, fps
        self._waiting: list[Shown] = []

    def restart(self) -> None:
        """What waits is made anew; the frame that is shown stays."""
        del self._waiting[1:]

    def frame(self) -> Any:
        """uint8 RGB [H, W, 3], or None before the first."""
        while (shown := self._watcher.get(timeout=0)) is not None:
            self._waiting.append(shown)
        now = time.monotonic()
        while len(self._waiting) > 1 and self._waiting[1].due_s <= now:
            del self._waiting[0]
        if not self._waiting:
            return None
        shown = self._waiting[0]
        return shown.frames[min(max(0, int((now - shown.due_s) * self._fps)), len(shown.frames) - 1)]


class Screen:
    """What is drawn: lines of prompt_toolkit's formatted text."""

    def __init__(self, live: "Live") -> None:
        self._live, self._fps = live, float(live.job.retiming.made)
        self._player = Player(live.watch(WAITING_CHUNKS), self._fps)
        self._state = "making the first chunk"
        self._answer, self._answered = "", 0.0
        self.keyboard = Keyboard(live.keys.bound, lambda key, down: live.send({"key": key, "down": down}))
        live.listen(self.hear)

    def hear(self, event: dict[str, Any]) -> None:
        """Take an event in."""
        kind = event["event"]
        if kind == "chunk":
            pace = event["frames"] / event["seconds"] if event["seconds"] else 0.0
            self._state = f"chunk {event['index']}, {pace:.1f} frames/s, {console.shown(event['prompt'])}"
        elif kind in ("received", "applied"):
            notes = f"; {event['notes'][0]}" if event.get("notes") else ""
            self.answer(f"lands in {event['in']:.1f} s, chunk {event['chunk']}{notes}")
        elif kind == "undone":
            self._player.restart()
            self.answer(f"back before chunk {event['chunk']}: {event['prompt']}")
        elif kind == "paused":
            self.answer("paused; :pause goes on" if event["paused"] else "it goes on")
        elif kind == "saved":
            self.answer(f"saved: {event['output'] or event['script']}")
        elif kind == "refused":
            self.answer(event["why"])

    def answer(self, text: str) -> None:
        self._answer, self._answered = console.shown(text), time.monotonic()

    @property
    def last_cue(self) -> int:
        """The chunk to which `:undo` goes back: with which the last cue began, else the last that was made."""
        began = self._live.cues[-1].start_chunk
        return began if 0 < began < self._live.next_chunk else max(0, self._live.next_chunk - 1)

    def picture(self, columns: int, rows: int) -> "StyleAndTextTuples":
        """The frame that is due, in as many cells as there is room for."""
        frame = self._player.frame()
        if frame is None:
            return []
        width, height = fit(frame.shape[1], frame.shape[0], columns=columns, rows=rows)
        drawn: StyleAndTextTuples = []
        for row in cell_runs(shrink(frame, width=width, height=2 * height)):
            drawn += [(f"{_hex(ink)} bg:{_hex(paper)}", UPPER_HALF * count) for ink, paper, count in row]
            drawn.append(("", "\n"))
        return drawn[:-1]

    def lines(self, columns: int) -> "StyleAndTextTuples":
        """How it goes, and the last answer."""
        answer = self._answer if time.monotonic() - self._answered < LONGEST_ANSWER_S else ""
        return [("", _cut(self._state, columns)), ("", "\n"), ("bold", _cut(answer, columns))]


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: max(1, columns - 1)]}…"


def known_words(live: "Live") -> list[str]:
    """Words that the model knows, where it is one that knows some."""
    from causvid_cli.prompt.story import StoryTextEncoder

    text = live.pipeline.text
    if not isinstance(text, StoryTextEncoder):
        return []
    return sorted({word for words in text.text.words.values() for word in words})


def run_on_terminal(live: "Live", task: Task) -> None:
    """Make the video in a thread, and let the user type; returns when the session has ended."""
    failed: list[BaseException] = []
    screen = Screen(live)
    app = application(live, screen)

    def make() -> None:
        try:
            live.run()
        except BaseException as error:
            failed.append(error)
        finally:
            leave(app)

    thread = Thread(target=make, name="causvid live", daemon=True)
    try:
        app.run(pre_run=lambda: begin(thread, app, screen), handle_sigint=False)
    except (EOFError, OSError, termios_error()):  # the terminal is gone, and cannot be set back
        if thread.ident is None:
            raise
    finally:
        with suppress(OSError):
            screen.keyboard.play(app.output, False)
        if thread.ident is not None:
            if thread.is_alive():
                live.send({"quit": True})
            thread.join()
    for error in failed:
        raise error
    console.note(f"{counted(live.frames, 'frame')} made")


def begin(thread: Thread, app: "Application[None]", screen: Screen) -> None:
    """Start to make the video, now that the application runs."""
    thread.start()
    if screen.keyboard.bound:
        screen.keyboard.play(app.output, True)
        screen.answer(f"keys play ({', '.join(screen.keyboard.bound)}); Enter types")


def termios_error() -> type[Exception]:
    """What a terminal raises whose state cannot be set; on Windows there is none."""
    try:
        import termios
    except ImportError:
        return OSError
    return termios.error


def leave(app: "Application[None]") -> None:
    """End the application, from another thread."""

    def end() -> None:
        if app.future is not None and not app.future.done():
            app.exit()

    if app.loop is not None:
        with suppress(RuntimeError):  # it has ended already
            app.loop.call_soon_threadsafe(end)


def _colours() -> "ColorDepth | None":
    from prompt_toolkit.output import ColorDepth

    if not console.is_colored():
        return ColorDepth.DEPTH_1_BIT
    return ColorDepth.DEPTH_24_BIT if os.environ.get("COLORTERM") in ("truecolor", "24bit") else None


def application(live: "Live", screen: Screen) -> "Application[None]":
    """What is on the screen, and what keys do."""
    from prompt_toolkit.application import Application
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, merge_key_bindings
    from prompt_toolkit.key_binding.defaults import load_key_bindings
    from prompt_toolkit.layout import Float, FloatContainer, HSplit, Layout, Window
    from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
    from prompt_toolkit.layout.menus import CompletionsMenu
    from prompt_toolkit.layout.processors import BeforeInput

    line = PromptLine(last_cue=lambda: screen.last_cue, is_paused=lambda: live.clock.is_paused)

    def accept(buffer: Buffer) -> bool:
        if buffer.text.strip():
            try:
                said = line.read(buffer.text)
                if isinstance(said, str):
                    screen.answer(said)
                else:
                    live.send(said)
            except UsageError as error:
                screen.answer(str(error))
        keyboard.play(app.output, True)
        return False  # the line is emptied

    words = WordCompleter([*HELP, *known_words(live)], WORD=True)
    buffer = Buffer(
        accept_handler=accept, multiline=False, history=InMemoryHistory(), completer=words, complete_while_typing=False
    )
    keys = KeyBindings()
    keyboard = screen.keyboard

    @keys.add("enter", filter=Condition(lambda: bool(keyboard.bound) and not buffer.text))
    def _(event: Any) -> None:
        keyboard.play(event.app.output, not keyboard.playing)
        screen.answer("keys play; Enter types" if keyboard.playing else "typing; Enter on an empty line plays again")

    @keys.add("c-c")
    @keys.add("c-d")
    def _(event: Any) -> None:
        live.send({"quit": True})
        screen.answer("ending after this chunk")

    @keys.add("c-z")
    def _(event: Any) -> None:
        live.send({"pause": True})
        keyboard.play(event.app.output, False)
        event.app.suspend_to_background()

    def size() -> tuple[int, int]:
        shown = app.output.get_size()
        return shown.columns, shown.rows

    picture = Window(
        FormattedTextControl(lambda: screen.picture(*size()) if console.is_colored() else []),
        dont_extend_height=True,
        always_hide_cursor=True,
    )
    told = Window(FormattedTextControl(lambda: screen.lines(size()[0])), height=2)
    typed = Window(BufferControl(buffer, input_processors=[BeforeInput("> ")]), height=1)
    body = FloatContainer(
        HSplit([picture, told, typed]), floats=[Float(CompletionsMenu(max_height=4), xcursor=True, ycursor=True)]
    )
    source, output = _streams(keyboard)
    app: Application[None] = Application(
        layout=Layout(body, focused_element=typed),
        key_bindings=merge_key_bindings([load_key_bindings(), keys]),
        erase_when_done=True,
        refresh_interval=1 / REDRAWS_PER_S,
        color_depth=_colours(),
        input=source,
        output=output,
    )
    app.before_render += lambda _: keyboard.let_go()
    return app
