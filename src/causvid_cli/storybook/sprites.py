"""The register of drawings, and sprites: a drawing rasterised at a size, outlined, cached."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .palette import EMPTY, ink
from .raster import Canvas

CYCLE = 4
"""Frames of a sprite's animation cycle: a walk, a wing beat, a turn of the wheel."""
SWING = (0, 1, 0, -1)
"""Legs over the four phases: together, apart, together, apart the other way."""
SCALE_STEPS = 40
"""Scale steps per unit: scale = step / 40."""
SQUASHES = (1.0, 0.66, 0.1)
"""Width of a sprite that turns about its vertical axis: full, narrower, seen from the edge."""

Drawing = Callable[[Canvas, int], None]
DRAWINGS: dict[str, Drawing] = {}


def drawing(name: str) -> Callable[[Drawing], Drawing]:
    """Register a function that draws a subject: it takes a canvas and the phase 0..3 of the animation cycle."""

    def register(draw: Drawing) -> Drawing:
        if name in DRAWINGS:
            raise ValueError(f"two drawings are called {name!r}")
        DRAWINGS[name] = draw
        return draw

    return register


@lru_cache(maxsize=32768)
def sprite(
    subject: str, phase: int, scale_step: int = SCALE_STEPS, squash_step: int = 0, blinks: bool = False
) -> np.ndarray:
    """Materials uint8 [h, w] of a subject facing right, EMPTY around it. Read-only.

    The middle of the sprite's box is the boundary of the two middle columns, its base the last row (the outline).
    """
    canvas = Canvas.for_sprite(scale_step / SCALE_STEPS, SQUASHES[squash_step], blinks=blinks)
    DRAWINGS[subject](canvas, phase)
    canvas.outline(ink("outline"))
    drawn = canvas.cells != EMPTY
    if not drawn.any():  # too small to be seen
        return canvas.cells[:0, :0]
    columns = np.flatnonzero(drawn.any(axis=0))
    spare = min(columns[0], canvas.cells.shape[1] - 1 - columns[-1])  # the same on both sides: the middle stays
    cells = canvas.cells[np.flatnonzero(drawn.any(axis=1))[0] :, spare : canvas.cells.shape[1] - spare].copy()
    cells.setflags(write=False)
    return cells
