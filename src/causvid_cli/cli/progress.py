"""How far a video is: a bar, lines, or nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from causvid_cli.cli import console
from causvid_cli.errors import UsageError
from causvid_cli.units import bytes_text, duration_text

LINE_EVERY_S = 10.0
"""Seconds between two lines where no bar can be drawn."""
WIDEST_BAR, NARROWEST_BAR = 40, 8
"""Characters."""


class Progress(Protocol):
    """How far a video is."""

    def start(self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None) -> None:
        """Loading is over; so many frames are to be made, None for no end.

        done: made before, by a run that is resumed. rate: frames per second of the video. watch: a file that plays
        while it grows.
        """
        ...

    def update(self, done: int, *, cue: str = "") -> None:
        """So many of them are made. cue: which one holds now, such as "cue 2 of 3: he writes"."""
        ...


@contextmanager
def show_progress(what: str, *, quiet: int = 0) -> Iterator[Progress]:
    """A bar on a terminal, a line now and then elsewhere, nothing when quiet. what: shown until `start`."""
    if console.voice.progress == "bar" and not console.is_terminal():
        raise UsageError("--progress bar: stderr is no terminal that can be drawn on; try --progress plain")
    if quiet or console.voice.quiet or console.voice.progress == "none":
        yield _Silence()
    elif console.is_terminal() and console.voice.progress != "plain":
        bar = _Bar(what)
        with console.screen("progress", bar):
            yield bar
    else:
        yield _Lines()


class _Silence:
    def start(
        self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None
    ) -> None: ...

    def update(self, done: int, *, cue: str = "") -> None: ...


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a video is, and since when."""

    frames: int | None
    before: int
    rate: float | None
    watch: str
    started: float
    """On the monotonic clock."""
    now: float
    """When the last chunk came."""
    done: int
    cue: str = ""

    def pace(self) -> str:
        return _pace(self.done, self.frames, self.now - self.started, before=self.before, rate=self.rate)


class _Lines:
    _tally: Tally

    def start(self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None) -> None:
        self._tally = _begin(frames, done, rate, watch)
        self._last = self._tally.started

    def update(self, done: int, *, cue: str = "") -> None:
        tally = self._tally
        tally.done, tally.cue, tally.now = done, cue, time.monotonic()
        if tally.now - self._last >= LINE_EVERY_S and done != tally.frames:
            self._last = tally.now
            console.message(", ".join(part for part in (tally.pace(), cue, tally.watch) if part))
            tally.watch = ""  # once is enough


class _Bar:
    """A rich renderable: a bar with the pace beside it, the cue and the file below."""

    def __init__(self, what: str) -> None:
        self._what = console.shown(what)
        self._tally: Tally | None = None

    def start(self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None) -> None:
        self._tally = _begin(frames, done, rate, watch)

    def update(self, done: int, *, cue: str = "") -> None:
        assert self._tally is not None
        self._tally.done, self._tally.cue, self._tally.now = done, console.shown(cue), time.monotonic()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        width, tally = options.max_width, self._tally
        if tally is None:
            yield bar(self._what, width, total=None, done=0, before=True)
            return
        parts = tally.pace().split(", ")
        while len(parts) > 1 and len(", ".join(parts)) > width:  # the last one says least
            parts.pop()
        if tally.frames is None:
            yield Text(", ".join(parts), no_wrap=True, overflow="ellipsis")
        else:
            yield bar(", ".join(parts), width, total=tally.frames, done=tally.done)
        for line in (tally.cue, tally.watch):
            if line:
                yield Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def bar(text: str, width: int, *, total: int | None, done: int, before: bool = False) -> Any:
    """Text and a bar on one line, the text alone where there is no room; before: the text comes first."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    label = Text(text, no_wrap=True, overflow="ellipsis")
    room = min(width - label.cell_len - 1, WIDEST_BAR)
    if room < NARROWEST_BAR:
        return label
    bar = ProgressBar(total=total, completed=done, width=room)
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_row(*((label, bar) if before else (bar, label)))
    return line


def _begin(frames: int | None, done: int, rate: float | None, watch: Path | None) -> Tally:
    now = time.monotonic()
    seen = f"watch meanwhile: {console.shown(str(watch))}" if watch else ""
    return Tally(frames=frames, before=done, done=done, rate=rate, watch=seen, started=now, now=now)


def _pace(done: int, frames: int | None, seconds: float, *, before: int = 0, rate: float | None = None) -> str:
    """ "120 of 400 frames, 57 frames/s (7.1x), 5 s left"; before: frames that were made before the clock started."""
    parts = [f"{done} frames" if frames is None else f"{done} of {frames} frames"]
    made = done - before
    if frames is None and rate:
        parts.append(f"{duration_text(done / rate)} long")
    if made and seconds > 0:
        times = f" ({_number(made / seconds / rate, digits=2)}x)" if rate else ""
        parts.append(f"{_number(made / seconds)} frames/s{times}")
        if frames is not None:
            parts.append(f"{duration_text(seconds / made * (frames - done))} left")
    return ", ".join(parts)


def _number(value: float, *, digits: int = 3) -> str:
    """So many digits, and never an exponent for what is large."""
    return f"{value:.{digits}g}" if value < 99 else f"{value:.0f}"


class ByteBar:
    """How many of so many bytes are written: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.total: int | None = None
        self._done = 0
        self._said = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        if console.voice.quiet or not console.is_terminal():
            yield
            return
        with console.screen("bytes", self):
            yield

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if not console.is_terminal() and self.total and now - self._said >= LINE_EVERY_S:
            self._said = now
            console.note(self._text())

    def _text(self) -> str:
        if not self.total:
            return f"{self._what}: reading"
        return f"{self._what}: {bytes_text(self._done)} of {bytes_text(self.total)}"

    def __rich_console__(self, _console: Any, rich_options: Any) -> Iterator[Any]:
        yield bar(self._text(), rich_options.max_width, total=self.total, done=self._done)
