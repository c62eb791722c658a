"""`--preview`: small frames in the terminal while a video is made, drawn with half blocks in true colour."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from causvid_cli.cli import console
from causvid_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

RGB = tuple[int, int, int]
WIDEST = 96
"""The most columns that a frame takes."""
TALLEST = 32
"""The most rows that a frame takes, of two pixels each."""
ROWS_BELOW = 5
"""Rows that stay free below a frame, for the progress and the prompt."""
UPPER_HALF = "▀"


def check_preview() -> None:
    """Raise UsageError where no frames can be drawn."""
    if not console.is_terminal():
        raise UsageError("--preview draws on a terminal, and stderr is none; leave it out, or watch -o - | mpv -")
    if not console.is_colored():
        raise UsageError("--preview draws in colours, and they are off; leave it out, or say --color always")


@contextmanager
def preview(fps: Fraction | float) -> Iterator[Callable[["np.ndarray"], None]]:
    """Inside, `show(frames)` plays uint8 RGB frames [T, H, W, 3] at this rate, in place; it returns at once.

    What comes before the frames shown earlier are played out takes their place; frames that the terminal is too slow
    for are left out. Raises UsageError where no frames can be drawn.
    """
    check_preview()
    player = FramePlayer(float(fps))
    with console.screen("picture", player) as screen:
        if screen.console.options.ascii_only:
            raise UsageError("--preview needs a terminal that shows UTF-8; leave it out")
        yield player.show


class FramePlayer:
    """A rich renderable that draws the frame whose time has come, in as many cells as there is room for."""

    def __init__(self, fps: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fps, self._clock = fps, clock
        self._playing: tuple[np.ndarray, float] | None = None

    def show(self, frames: "np.ndarray") -> None:
        """Play these from now on: uint8 RGB [T, H, W, 3]."""
        if len(frames):
            self._playing = frames, self._clock()  # in one step: another thread draws

    def frame(self) -> "np.ndarray | None":
        """Return the frame that is due, uint8 RGB [H, W, 3]; the last one stays."""
        if self._playing is None:
            return None
        frames, began = self._playing
        return frames[min(int((self._clock() - began) * self._fps), len(frames) - 1)]

    def __rich_console__(self, screen: Any, options: Any) -> Iterator[Any]:
        from rich.segment import Segment

        if (frame := self.frame()) is None:
            return
        columns, rows = fit(frame.shape[1], frame.shape[0], columns=options.max_width, rows=screen.size.height)
        for row in half_blocks(shrink(frame, width=columns, height=2 * rows)):
            yield from row
            yield Segment.line()


def fit(width: int, height: int, *, columns: int, rows: int) -> tuple[int, int]:
    """Return columns and rows for a frame of so many pixels on a terminal of so many, its shape kept.

    A cell is taken to be twice as high as wide: it holds two square pixels.
    """
    most_columns, most_rows = min(columns, WIDEST), min(max(rows - ROWS_BELOW, 1), TALLEST)
    scale = min(most_columns / width, 2 * most_rows / height, 1)
    return max(1, int(width * scale)), max(1, int(height * scale / 2))


def shrink(frame: "np.ndarray", *, width: int, height: int) -> "np.ndarray":
    """Scale a frame uint8 RGB [H, W, 3] to [height, width, 3]; each pixel is the mean of the area it stands for."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))


def half_blocks(pixels: "np.ndarray") -> Iterator[list[Any]]:
    """Yield rows of rich segments for uint8 RGB [2 rows, columns, 3].

    A cell's ink is its upper pixel, its paper the lower one.
    """
    from rich.segment import Segment

    for row in cell_runs(pixels):
        yield [Segment(UPPER_HALF * count, _style(ink, paper)) for ink, paper, count in row]


def cell_runs(pixels: "np.ndarray") -> Iterator[list[tuple[RGB, RGB, int]]]:
    """uint8 RGB [2 rows, columns, 3] -> rows of runs: a cell's ink (its upper pixel), its paper, how many are alike."""
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        cells = zip(map(tuple, upper), map(tuple, lower), strict=True)
        yield [(ink, paper, len(list(run))) for (ink, paper), run in groupby(cells)]


@lru_cache(maxsize=4096)  # a style is slow to make, and the next frame has mostly the same
def _style(ink: RGB, paper: RGB) -> Any:
    from rich.color import Color
    from rich.style import Style

    return Style(color=Color.from_rgb(*ink), bgcolor=Color.from_rgb(*paper))
