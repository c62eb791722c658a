"""A small rasteriser: ellipses, polygons and thick lines on a grid of cells, sampled at pixel centres."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, radians, sin

import numpy as np

from .palette import BODY, EMPTY, ink

Point = tuple[float, float]
OUTLINE, WHITE = ink("outline"), ink("white.light")
BOX = 36
"""Side of the square that sprites are drawn in; y runs down, the base is y = 36, the middle x = 18."""


class Canvas:
    """Cells to draw on, and the drawing coordinates of every cell's centre.

    cells: uint8 [H, W], palette indices or materials, EMPTY at first; every method draws on it in place.
    blinks: whether eyes are shut.
    `on` restricts a shape to cells that hold one of the given values now: shading stays inside what it shades.
    """

    def __init__(self, cells: np.ndarray, x: np.ndarray, y: np.ndarray, *, blinks: bool = False) -> None:
        self.blinks = blinks
        self.cells = cells
        self.x = x  # [H, W] or broadcastable
        self.y = y

    @classmethod
    def over(cls, cells: np.ndarray) -> Canvas:
        """Canvas of these cells, whose coordinates are cells."""
        height, width = cells.shape
        return cls(cells, np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5)

    @classmethod
    def for_scene(cls, size: int) -> Canvas:
        """Canvas of size x size cells whose coordinates are cells."""
        return cls.over(np.full((size, size), EMPTY, np.uint8))

    @classmethod
    def for_sprite(cls, scale: float, squash: float, *, blinks: bool = False) -> Canvas:
        """Canvas for the BOX, enlarged by scale about the middle of its base, squashed in x; a cell spare all round.

        The last row is the first one below the base; the middle x falls between the two middle columns.
        """
        height, half = int(np.ceil(BOX * scale)) + 2, int(np.ceil(BOX / 2 * scale)) + 2
        x = BOX / 2 + (np.arange(-half, half) + 0.5) / (scale * squash)
        y = BOX + (np.arange(height) + 0.5 - (height - 1)) / scale
        return cls(np.full((height, 2 * half), EMPTY, np.uint8), x[None, :], y[:, None], blinks=blinks)

    def placed(self, *, shift: Point = (0.0, 0.0), degrees: float = 0.0, about: Point = (18.0, 18.0)) -> Canvas:
        """The same cells in coordinates turned clockwise about a point, then shifted: what is drawn moves likewise."""
        angle = radians(degrees)
        x, y = self.x - shift[0] - about[0], self.y - shift[1] - about[1]
        turned = about[0] + cos(angle) * x + sin(angle) * y, about[1] - sin(angle) * x + cos(angle) * y
        return Canvas(self.cells, *turned, blinks=self.blinks)

    def paint(self, mask: np.ndarray, colour: int, on: Sequence[int] | None = None) -> None:
        """Give the masked cells a colour."""
        self.cells[mask if on is None else mask & np.isin(self.cells, on)] = colour

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, colour: int, on: Sequence[int] | None = None) -> None:
        """Filled ellipse."""
        self.paint(self._in_ellipse(cx, cy, rx, ry), colour, on)

    def blob(self, cx: float, cy: float, rx: float, ry: float, tones: Sequence[int] = BODY) -> None:
        """Filled ellipse in three flat tones (light, mid, dark), lit from the upper left."""
        light, mid, dark = tones
        whole = self._in_ellipse(cx, cy, rx, ry)
        self.paint(whole, dark)
        self.paint(whole & self._in_ellipse(cx - 0.16 * rx, cy - 0.22 * ry, 1.02 * rx, 1.0 * ry), mid)
        self.paint(whole & self._in_ellipse(cx - 0.3 * rx, cy - 0.42 * ry, 0.56 * rx, 0.46 * ry), light)

    def polygon(self, points: Sequence[Point], colour: int, on: Sequence[int] | None = None) -> None:
        """Filled polygon (even-odd rule)."""
        inside = np.zeros(self.cells.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if y0 != y1:
                crosses = (self.y < y0) != (self.y < y1)
                inside ^= crosses & (self.x < x0 + (self.y - y0) * (x1 - x0) / (y1 - y0))
        self.paint(inside, colour, on)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: int, on: Sequence[int] | None = None) -> None:
        """Filled rectangle from (x0, y0) up to, not including, (x1, y1)."""
        self.paint((self.x >= x0) & (self.x < x1) & (self.y >= y0) & (self.y < y1), colour, on)

    def line(self, points: Sequence[Point], width: float, colour: int, on: Sequence[int] | None = None) -> None:
        """Thick line through the points, with round ends and joints."""
        mask = np.zeros(self.cells.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
            mask |= (self.x - x0 - along * dx) ** 2 + (self.y - y0 - along * dy) ** 2 <= (width / 2) ** 2
        self.paint(mask, colour, on)

    def eye(self, x: float, y: float, *, height: float = 3, white: bool = False) -> None:
        """An eye, two cells wide, with its upper left corner at (x, y); a lid where eyes are shut."""
        if white:
            self.box(x - 1, y - 1, x + 3, y + height, WHITE)
        self.box(x, y + height - 1 if self.blinks else y, x + 2, y + height, OUTLINE)

    def outline(self, colour: int) -> None:
        """A one-cell line round everything drawn so far, on the empty side."""
        drawn = np.pad(self.cells != EMPTY, 1)
        near = drawn[:-2, 1:-1] | drawn[2:, 1:-1] | drawn[1:-1, :-2] | drawn[1:-1, 2:]
        self.cells[near & (self.cells == EMPTY)] = colour

    def _in_ellipse(self, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 <= 1
