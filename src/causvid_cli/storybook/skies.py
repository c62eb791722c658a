"""The sky over any scene: the time of the day and the weather, as other inks for the scene's and what falls on it."""

from __future__ import annotations

from functools import cache

import numpy as np

from .palette import PALETTE, ink
from .raster import Canvas
from .scenes import SCENE_PERIOD, SCENES, SIZE, Frame

INDOORS = ("room", "kitchen")
"""Scenes in which it rains behind the windows only."""
SEALED = ("space", "underwater")
"""Scenes in which nothing falls."""
LIGHTNING = (5, 6)
"""Frames of a storm's loop of 16 with a flash."""
INKS = {
    "night": {
        "sky light": "night", "sky": "night building", "white.light": "grey.mid", "white.mid": "white.dark",
        "snow": "white.dark", "snow shade": "grey.mid", "grass": "leaf", "grass dark": "leaf dark",
        "leaf": "green.dark", "sea": "sea deep", "sea deep": "blue.dark", "sand": "brown.light",
        "sand dark": "brown.mid",
        "brown.light": "brown.mid", "brown.mid": "brown.dark", "grey.light": "grey.mid", "grey.mid": "grey.dark",
        "pink.light": "purple.dark", "pink.mid": "purple.dark", "red.mid": "red.dark", "orange.light": "brown.light",
        "orange.dark": "brown.dark", "red.light": "red.dark", "green.light": "green.dark", "blue.light": "blue.dark",
    },
    "sunset": {
        "sky light": "orange.light", "sky": "pink.light", "white.light": "pink.light", "white.mid": "pink.light",
        "snow": "pink.light", "snow shade": "purple.light", "grass": "grass dark", "grass dark": "leaf",
        "leaf": "leaf dark",
        "sea": "purple.light", "sea deep": "purple.mid", "sand": "sand dark", "sand dark": "brown.light",
        "grey.light": "purple.light", "white.dark": "purple.light", "yellow.light": "yellow.mid",
    },
    "rain": {
        "sky light": "snow shade", "sky": "white.dark", "yellow.light": "white.mid", "white.light": "grey.light",
        "grass": "grass dark", "grass dark": "leaf", "leaf": "leaf dark", "sand": "sand dark",
        "sand dark": "brown.light", "snow": "white.mid",
    },
    "storm": {
        "sky light": "grey.mid", "sky": "grey.dark", "yellow.light": "grey.light", "white.light": "grey.light",
        "white.mid": "white.dark", "grass": "leaf", "grass dark": "leaf dark", "leaf": "green.dark", "sea": "sea deep",
        "sea deep": "blue.dark", "sand": "sand dark", "sand dark": "brown.light", "snow": "snow shade",
        "snow shade": "white.dark", "pink.light": "purple.light",
    },
    "snow": {
        "sky light": "snow shade", "sky": "snow shade", "yellow.light": "white.mid", "grass": "snow",
        "grass dark": "white.mid", "leaf": "snow shade", "sand": "snow", "sand dark": "white.mid",
        "white.light": "white.mid",
    },
}  # fmt: skip
"""For each sky, the ink that a scene's ink becomes; `fog` has its own rule."""
SUN_ROWS = 24
"""The sun is above this row."""
FOG = ("white.dark", "snow shade", "white.mid", "snow")
"""What fog leaves of dark and light inks."""


@cache
def panorama(scene: str, sky: str, mirrored: bool, height: int = SIZE) -> np.ndarray:
    """Palette indices uint8 [8 or 16, height, 2 * 64] of a scene's loop under a sky, going all round. Read-only.

    Its first half is the scene, its other half the scene the other way round without the sun. Rows besides those of
    the scene are as most of its outermost ones.
    """
    frame, period = Frame(height=height), 2 * SCENE_PERIOD if sky == "storm" else SCENE_PERIOD
    loop = np.empty((period, height, 2 * SIZE), np.uint8)
    for number, cells in enumerate(loop):
        around = scene_all_round(scene, number % SCENE_PERIOD)
        top, bottom = (np.bincount(row).argmax() for row in (around[0], around[-1]))
        around = np.pad(around, ((frame.above, 0), (0, 0)), constant_values=top)
        around = np.pad(around, ((0, height - len(around)), (0, 0)), constant_values=bottom)
        painted = inks(sky)[around]
        fallen = Canvas.over(painted.copy())
        _fall(fallen, sky, number)
        if scene in INDOORS:
            open_air = np.isin(around, [ink("sky"), ink("sky light")])  # through the windows
        else:
            open_air = np.full(around.shape, scene not in SEALED)
        cells[:] = np.where(open_air, fallen.cells, painted)
    if mirrored:
        loop = np.roll(loop[..., ::-1], SIZE, axis=-1)
    loop.setflags(write=False)
    return loop


def scene_frames(scene: str, sky: str, mirrored: bool) -> np.ndarray:
    """Palette indices uint8 [8 or 16, 64, 64] of a scene's loop under a sky."""
    return panorama(scene, sky, mirrored)[..., :SIZE]


def scene_all_round(scene: str, number: int = 0) -> np.ndarray:
    """Palette indices uint8 [64, 2 * 64] of a frame of a scene's loop by day, going all round."""
    canvas = Canvas.for_scene(SIZE)
    SCENES[scene](canvas, number)
    return np.concatenate([canvas.cells, _without_sun(canvas.cells)[:, ::-1]], axis=1)


def _without_sun(cells: np.ndarray) -> np.ndarray:
    """A scene's cells with the sky in the place of the sun."""
    sunny = np.isin(cells, [ink("yellow.light"), ink("yellow.mid")]) & (np.arange(SIZE)[:, None] < SUN_ROWS)
    return np.where(sunny, cells[0, 0], cells)


@cache
def inks(sky: str) -> np.ndarray:
    """uint8 [256]: a scene's palette index -> the index under a sky."""
    table = np.arange(256, dtype=np.uint8)
    if sky == "fog":
        light = PALETTE.astype(float) @ (0.3, 0.59, 0.11) / 256 * len(FOG)
        table[: len(PALETTE)] = [ink(FOG[int(level)]) for level in light]
    for before, after in INKS.get(sky, {}).items():
        table[ink(before)] = ink(after)
    return table


def ink_under(sky: str, name: str) -> int:
    """The palette index of one of a scene's inks under a sky."""
    return int(inks(sky)[ink(name)])


def _fall(c: Canvas, sky: str, frame: int) -> None:
    """What falls from a sky, and the stars and the flash that are in it."""
    height, width = c.cells.shape
    if sky in ("rain", "storm"):
        for number, x in enumerate(range(-1, width, 5)):
            for y in range((7 * number + 4 * frame) % 16 - 16, height, 16):
                slant = 1 if sky == "storm" else 0
                c.line([(x + 0.5 + slant, y), (x + 0.5 - slant, y + 3)], 1, ink("sea" if sky == "rain" else "sky"))
    if sky == "snow":
        for x, drop in ((3, 4), (13, 10), (24, 0), (35, 6), (46, 13), (58, 3)):
            for y in range((drop + 2 * frame) % 16 - 16, height, 16):
                for left in (x, x + SIZE):
                    c.box(left, y, left + 2, y + 2, ink("white.light"))
    if sky == "storm" and frame in LIGHTNING:
        c.polygon([(44, 0), (50, 0), (46, 11), (51, 11), (41, 27), (44, 14), (39, 14)], ink("yellow.light"))
    if sky == "night":
        for number, (x, y) in enumerate(((6, 5), (22, 9), (38, 4), (58, 8), (30, 16), (50, 19))):
            if (frame // 2 + number) % 4:
                for left in (x, x + SIZE):
                    c.box(left, y, left + 1, y + 1, ink("white.mid"), on=[ink("night")])
