"""What a command says: its result on stdout; messages and progress on stderr. rich loads only where it draws."""

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any, TextIO

from causvid_cli.config import check_choice, to_json

LONGEST_MESSAGE = 1000
"""Characters: a user may have typed more."""
REDRAWS_PER_S = 10
COLORS = ("auto", "always", "never")
PROGRESS = ("auto", "bar", "plain", "none")

_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}
_REORDERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(slots=True)
class OutputSettings:
    """How this run is to speak. The options say so, by `set_quiet` and its like; there is one of it: `voice`."""

    quiet: int = 0
    """1: no progress and no notes; 2: no warnings either."""
    verbose: int = 0
    color: str = "auto"
    progress: str = "auto"

    def reset(self) -> None:
        for each in fields(self):
            setattr(self, each.name, each.default)


voice = OutputSettings()


def set_quiet(value: int) -> int:
    """Callback of --quiet."""
    voice.quiet = int(value)
    return value


def set_verbose(value: int) -> int:
    """Callback of --verbose."""
    voice.verbose = int(value)
    return value


def set_color(value: str | None) -> str | None:
    """Callback of --color. Raises UsageError for another word."""
    voice.color = check_choice(value or "auto", COLORS, name="--color")
    return value


def set_progress(value: str) -> str:
    """Callback of --progress. Raises UsageError for another word."""
    voice.progress = check_choice(value, PROGRESS, name="--progress")
    return value


@contextmanager
def hushed() -> Iterator[None]:
    """Inside, only errors are said."""
    before = voice.quiet
    voice.quiet = 2
    try:
        yield
    finally:
        voice.quiet = before


# --- lines ---------------------------------------------------------------------------------------------------------


def shown(text: str) -> str:
    """Text from anywhere as one harmless line: control characters, which a terminal would obey, are spelt out."""
    return "".join(_spelt(c) if unicodedata.category(c) in _UNSAFE or c in _REORDERING else c for c in text)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def message(text: str) -> None:
    """One line on stderr, whatever -q says; of an endless one, both ends."""
    _say(text)


def error(text: str) -> None:
    """What ended the command: the one line that is never left out."""
    _say(text, color="red")


def warning(text: str) -> None:
    """What the user should know though all goes on; -qq leaves it out."""
    if voice.quiet < 2:
        _say(text, color="yellow")


def note(text: str) -> None:
    """What a user may like to know; -q leaves it out."""
    if not voice.quiet:
        _say(text, color="yellow")


def detail(text: str) -> None:
    """For who wants to know more: only with -v."""
    if voice.verbose:
        _say(text)


def _say(text: str, *, color: str = "") -> None:
    head = _painted("causvid:", color) if color else "causvid:"
    complaint(text, head=f"{head} ")


def complaint(text: str, *, head: str = "") -> None:
    """One line on stderr without our name before it: a place in the user's script, or the line that is there."""
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE // 2]} [...] {text[-LONGEST_MESSAGE // 2 :]}"
    if sys.stderr is not None:
        try:
            print(f"{head}{shown(text)}", file=sys.stderr, flush=True)
        except OSError:  # its disk is full, or nobody reads it: no reason to end a video
            abandon(sys.stderr)


def _painted(text: str, color: str) -> str:
    import typer

    return typer.style(text, fg=color) if is_colored() else text


def result(text: str) -> None:
    """One line on stdout: as it is for a program, harmless for a terminal."""
    if sys.stdout is not None:  # closed by the caller
        print(shown(text) if sys.stdout.isatty() else text)


def flush_result() -> None:
    """Send off what was printed on stdout. Raises OSError where it cannot go."""
    if sys.stdout is not None:
        sys.stdout.flush()


def abandon(stream: TextIO) -> None:
    """Let go of what a standard stream does not take; Python would try once more at its end, and complain."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def result_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, on one line and in ASCII."""
    result(to_json(value))


def event(kind: str, **values: Any) -> None:
    """One step of the work as a JSON object on a line of stdout, at once: `v` (of the format), `event`, values."""
    result_json({"v": 1, "event": kind, **values})
    flush_result()


def table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> None:
    """Aligned columns on stdout; the last one may be as long as it likes."""
    cells = [[shown(str(cell)) for cell in row] for row in ([header, *rows] if header else rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    for *first, last in cells:
        padded = [cell.ljust(width) for cell, width in zip(first, widths, strict=True)]
        result("  ".join([*padded, last]).rstrip())


# --- the terminal --------------------------------------------------------------------------------------------------


def is_terminal() -> bool:
    """Whether stderr can show something that moves."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def is_colored() -> bool:
    """Whether stderr gets colours: --color says, else NO_COLOR, else FORCE_COLOR, else whether it is a terminal."""
    if voice.color != "auto":
        return voice.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal()


class Screen:
    """The lines of the terminal that are drawn again and again, below what has been said: one for bar and preview."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, no_color=not is_colored())
        self._parts: dict[str, Any] = {}

    @contextmanager
    def showing(self, name: str, part: Any) -> Iterator[None]:
        """Inside, a renderable is drawn; parts stand in the order of their names, and leave no trace."""
        self._parts[name] = part
        try:
            if len(self._parts) == 1:
                with self._live():
                    yield
            else:
                yield
        finally:
            del self._parts[name]

    @contextmanager
    def _live(self) -> Iterator[None]:
        from rich.live import Live

        live = Live(
            console=self.console,
            get_renderable=self._draw,
            refresh_per_second=REDRAWS_PER_S,
            transient=True,
            redirect_stdout=False,  # a video or JSON may go there
        )
        with suppress(OSError):  # of the last drawing, when the terminal is gone
            live.start()
        try:
            yield
        finally:
            with suppress(OSError):
                live.stop()

    def _draw(self) -> Any:
        from rich.console import Group

        return Group(*(part for _, part in sorted(self._parts.items())))


_screens: list[Screen] = []


@contextmanager
def screen(name: str, part: Any) -> Iterator[Screen]:
    """Inside, a renderable is drawn on the terminal; within another one, both are drawn together."""
    outermost = not _screens
    if outermost:
        _screens.append(Screen())
    try:
        with _screens[0].showing(name, part):
            yield _screens[0]
    finally:
        if outermost:
            _screens.clear()
