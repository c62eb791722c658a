"""What a command says: its result on stdout; messages and progress on stderr. rich loads only where it draws."""

import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

LONGEST_MESSAGE = 1000
"""Characters: a user may have typed more."""
LINE_EVERY_S = 10.0
"""Time between lines of progress where there is no terminal."""

_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}
_REORDERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def shown(text: str) -> str:
    """Text from anywhere as one harmless line: control characters, which a terminal would obey, are spelt out."""
    return "".join(_spelt(c) if unicodedata.category(c) in _UNSAFE or c in _REORDERING else c for c in text)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def message(text: str) -> None:
    """One line on stderr; of an endless one, both ends."""
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE // 2]} [...] {text[-LONGEST_MESSAGE // 2 :]}"
    if sys.stderr is not None:
        print(f"causvid: {shown(text)}", file=sys.stderr, flush=True)


def result(text: str) -> None:
    """One line on stdout: as it is for a program, harmless for a terminal."""
    if sys.stdout is not None:  # closed by the caller
        print(shown(text) if sys.stdout.isatty() else text)


def flush_result() -> None:
    """Send off what was printed on stdout. Raises OSError where it cannot go."""
    if sys.stdout is not None:
        sys.stdout.flush()


def result_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, on one line and in ASCII."""
    result(json.dumps(value, allow_nan=False))


def table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> None:
    """Aligned columns on stdout; the last one may be as long as it likes."""
    cells = [[shown(str(cell)) for cell in row] for row in ([header, *rows] if header else rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    for *first, last in cells:
        padded = [cell.ljust(width) for cell, width in zip(first, widths, strict=True)]
        result("  ".join([*padded, last]).rstrip())


def bytes_text(count: int) -> str:
    """1234567 -> "1.2 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def is_terminal() -> bool:
    """Whether stderr can show something that moves."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Progress(Protocol):
    """How far a video is."""

    def start(self, frames: int) -> None:
        """Loading is over; so many frames are to be made."""
        ...

    def update(self, done: int) -> None:
        """So many of them are made."""
        ...


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, a line now and then elsewhere, nothing when quiet. what: shown until `start`."""
    if quiet:
        yield _Silence()
    elif is_terminal():
        with _bar(what) as bar:
            yield bar
    else:
        yield _Lines()


class _Silence:
    def start(self, frames: int) -> None: ...

    def update(self, done: int) -> None: ...


class _Lines:
    def start(self, frames: int) -> None:
        self._frames = frames
        self._started = self._last = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S and done < self._frames:
            self._last = now
            message(_pace(done, self._frames, now - self._started))


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[pace]}", markup=False),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        yield _Bar(drawn, drawn.add_task(shown(what), total=None, pace=""))


class _Bar:
    def __init__(self, drawn: Any, task: Any) -> None:
        self._drawn, self._task = drawn, task

    def start(self, frames: int) -> None:
        self._frames, self._started = frames, time.monotonic()
        self._drawn.update(self._task, description="making", total=frames, pace=f"0 of {frames} frames")

    def update(self, done: int) -> None:
        pace = _pace(done, self._frames, time.monotonic() - self._started)
        self._drawn.update(self._task, completed=done, pace=pace)


def _pace(done: int, frames: int, seconds: float) -> str:
    """ "120 of 400 frames, 57 frames/s, 5 s left"."""
    minutes, rest = divmod(round(seconds / done * (frames - done)), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{done} of {frames} frames, {done / seconds:.3g} frames/s, {left} left"
