import io
import re
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from rich.console import Console

from causvid_cli.cli import console
from causvid_cli.cli.preview import FramePlayer, fit, preview, shrink
from causvid_cli.cli.progress import show_progress
from causvid_cli.errors import UsageError

CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)\x1b\[0m")


class Terminal(io.StringIO):
    """A stderr that says it is a terminal. A test puts it in place itself: pytest does so between fixture and test."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "40", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    console.voice.reset()
    return Terminal()


def cells(part: object, *, width: int = 40, height: int = 20) -> np.ndarray:
    """The pixels that a renderable paints, uint8 RGB [rows * 2, columns, 3]."""
    painter = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system="truecolor", no_color=False
    )
    painter.print(part, end="")
    rows = []
    for line in painter.file.getvalue().splitlines():
        runs = [(list(map(int, numbers)), len(blocks)) for *numbers, blocks in CELL.findall(line)]
        rows.append([run[:3] for run, times in runs for _ in range(times)])
        rows.append([run[3:] for run, times in runs for _ in range(times)])
    return np.array(rows, np.uint8)


def stills(*shades: int, size: int = 8) -> np.ndarray:
    """Frames of one grey each."""
    return np.stack([np.full((size, size, 3), shade, np.uint8) for shade in shades])


def test_every_pixel_is_painted_where_it_is():
    frame = np.random.default_rng(7).integers(0, 256, (10, 12, 3), np.uint8)
    picture = FramePlayer(8)
    picture.show(frame[None])
    assert np.array_equal(cells(picture), frame)


@pytest.mark.parametrize(
    ("size", "room", "cells"),
    [
        ((512, 512), (80, 24), (38, 19)),
        ((832, 480), (80, 40), (80, 23)),
        ((480, 832), (80, 24), (21, 19)),
        ((832, 480), (20, 50), (20, 5)),
        ((512, 512), (500, 500), (64, 32)),
        ((8, 8), (80, 24), (8, 4)),
        ((512, 512), (80, 3), (2, 1)),
        ((4096, 16), (10, 10), (10, 1)),
    ],
)
def test_a_picture_keeps_its_shape_and_fits(size, room, cells):
    columns, rows = fit(*size, columns=room[0], rows=room[1])
    assert (columns, rows) == cells
    assert columns <= room[0]
    assert rows <= room[1]


def test_a_pixel_is_the_mean_of_its_area():
    rows, columns = np.indices((64, 96))
    frame = np.where((rows + columns) % 2, 0, 200).astype(np.uint8)[..., None].repeat(3, -1)
    assert np.unique(shrink(frame, width=12, height=8)).tolist() == [100]


def test_frames_come_when_their_time_has_come_and_the_last_stays():
    now = [0.0]
    picture = FramePlayer(8, clock=lambda: now[0])
    assert picture.frame() is None
    assert cells(picture).size == 0
    picture.show(stills(10, 20, 30))
    seen = []
    for now[0] in (0.0, 0.1, 0.13, 0.3, 9.0):  # 20 and 30 are late in the end: only what is due is painted
        seen.append(int(picture.frame()[0, 0, 0]))
    assert seen == [10, 10, 20, 30, 30]
    picture.show(stills(40))
    assert picture.frame()[0, 0, 0] == 40
    picture.show(np.empty((0, 8, 8, 3), np.uint8))
    assert picture.frame()[0, 0, 0] == 40


def test_it_is_refused_where_nothing_can_be_drawn(screen, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen)
    console.set_color("never")
    with pytest.raises(UsageError, match="^--preview draws in colours, and they are off; "), preview(8):
        pass
    console.voice.reset()
    screen.encoding = "ascii"
    with pytest.raises(UsageError, match="^--preview needs a terminal that shows UTF-8; "), preview(8):
        pass
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(UsageError, match="^--preview draws on a terminal, and stderr is none; "), preview(8):
        pass
    assert console._screens == []


def test_it_is_drawn_above_the_bar_and_leaves_the_terminal_as_it_was(screen, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen)

    def until(what: str) -> None:
        patience = time.monotonic() + 60
        while what not in screen.getvalue():
            assert time.monotonic() < patience
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), show_progress("loading") as progress, preview(Fraction(8)) as show:
        progress.start(12, rate=8.0)
        show(stills(10, 250))
        progress.update(6)
        until("6 of 12 frames")
        until("38;2;250;250;250;48;2;250;250;250m▀")
        raise KeyboardInterrupt
    drawn = screen.getvalue()
    assert drawn.index("▀") < drawn.index("6 of 12 frames")
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor: hidden once, shown again
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("▀")
    assert drawn.endswith("\x1b[2K")  # nothing is left behind
