"""How far a video is: a bar, lines, or nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from causvid_cli.cli import console
from causvid_cli.errors import UsageError
from causvid_cli.units import bytes_text, counted, duration_text

LINE_EVERY_S = 10.0
"""Seconds between two lines where no bar can be drawn."""
SLOW_CHUNK_S = 1.0
"""From so many seconds on, what a chunk is doing is told too."""
WIDEST_BAR, NARROWEST_BAR = 40, 8
"""Characters."""


class Progress(Protocol):
    """How far a video is."""

    def start(self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None) -> None:
        """Loading is over; so many frames are to be made, None for no end.

        done: made before, by a run that is resumed. rate: frames per second of the video. watch: a file that plays
        while it grows, once there are frames.
        """
        ...

    def update(self, done: int, *, cue: str = "") -> None:
        """So many of them are made. cue: which one holds now, such as "cue 2 of 3: he writes"."""
        ...

    def step(self, text: str, *, made: float) -> None:
        """A chunk is at work at a step, such as "chunk 1 of 3, step 2 of 4"; made: frames' worth of it that is done."""
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

    def step(self, text: str, *, made: float) -> None: ...


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a video is, and since when; times are on the monotonic clock."""

    frames: int | None
    before: int
    """Frames that an earlier run made."""
    rate: float | None
    watch: str
    started: float
    done: int
    done_at: float
    """When the last frames came."""
    cue: str = ""
    step: str = ""
    """Which step of which chunk is at work."""
    part: float = 0.0
    """Frames' worth of that chunk that is done."""
    part_at: float = 0.0
    """When the last step ended."""

    def update(self, done: int, cue: str) -> None:
        self.done, self.cue, self.step, self.part = done, cue, "", 0.0
        self.done_at = self.part_at = time.monotonic()

    def at_step(self, text: str, made: float) -> None:
        self.step, self.part, self.part_at = text, made, time.monotonic()

    def pace(self) -> str:
        """ "120 of 400 frames, 57 frames/s (7.1x), 5 s left", with what is known of it."""
        parts = [f"{self.done} of {counted(self.frames, 'frame')}" if self.frames else counted(self.done, "frame")]
        now, made = time.monotonic(), self.done - self.before
        if self.frames is None and self.rate:
            parts.append(f"{duration_text(self.done / self.rate)} long")
        if made and self.done_at > self.started:
            pace = made / (self.done_at - self.started)
            times = f" ({_number(pace / self.rate, digits=2)}x)" if self.rate else ""
            parts.append(f"{_number(pace)} frames/s{times}")
        if self.frames is not None and self.part_at > self.started and (share := made + self.part):
            wanted = (self.part_at - self.started) / share * (self.frames - self.done - self.part)
            parts.append(f"{duration_text(max(0.0, wanted - (now - self.part_at)))} left")
        elif not made and now - self.started >= SLOW_CHUNK_S:
            parts.append(f"{duration_text(now - self.started)} so far")
        return ", ".join(parts)

    def slow_step(self) -> str:
        """The step at work, where a chunk takes so long that this can be read."""
        return self.step if time.monotonic() - self.done_at >= SLOW_CHUNK_S else ""

    def watch_line(self) -> str:
        """Where the video can be watched, once there is something to see."""
        return self.watch if self.done else ""


class _Lines:
    _tally: Tally

    def start(self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None) -> None:
        self._tally = _begin(frames, done, rate, watch)
        self._last = self._tally.started

    def update(self, done: int, *, cue: str = "") -> None:
        self._tally.update(done, cue)
        self._say()

    def step(self, text: str, *, made: float) -> None:
        self._tally.at_step(text, made)
        self._say()

    def _say(self) -> None:
        """Print a line, unless the last one is new or the end is near."""
        tally, now = self._tally, time.monotonic()
        if now - self._last >= LINE_EVERY_S and tally.done != tally.frames:
            self._last = now
            watch = tally.watch_line()
            console.message(", ".join(part for part in (tally.pace(), tally.slow_step(), tally.cue, watch) if part))
            if watch:
                tally.watch = ""  # once is enough


class _Bar:
    """A rich renderable: a bar with the pace beside it; the step, the cue and the file below."""

    def __init__(self, what: str) -> None:
        self._what = console.shown(what)
        self._tally: Tally | None = None

    def start(self, frames: int | None, *, done: int = 0, rate: float | None = None, watch: Path | None = None) -> None:
        self._tally = _begin(frames, done, rate, watch)

    def update(self, done: int, *, cue: str = "") -> None:
        assert self._tally is not None
        self._tally.update(done, console.shown(cue))

    def step(self, text: str, *, made: float) -> None:
        assert self._tally is not None
        self._tally.at_step(text, made)

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
            yield bar(", ".join(parts), width, total=tally.frames, done=tally.done + tally.part)
        for line in (tally.slow_step(), tally.cue, tally.watch_line()):
            if line:
                yield Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def bar(text: str, width: int, *, total: int | None, done: float, before: bool = False) -> Any:
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
    return Tally(frames=frames, before=done, done=done, rate=rate, watch=seen, started=now, done_at=now)


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
