"""Where a picture is: the scene, the sky and the way it faces of which the drawing is most like it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .scenes import SCENES, SIZE, Frame
from .skies import inks, panorama, scene_all_round
from .vocabulary import Words

STEP = 2
"""Columns by which a camera has gone, at least."""
COARSE = 2
"""Every so manieth row and column is looked at first."""
CLOSE = 0.1
"""Skies that look alike but for what falls: their shares of pixels differ by less."""
START = 0.01
"""Share by which a place is more likely where a camera begins: without a sun, half of what is all round is the other
half mirrored."""
FOUND = 0.6
"""Share of a picture's pixels that have to be those of a place: who stands there hides the others."""
TOLD = 0.4
"""The same of those that are not of the place's commonest ink: a plain picture is nowhere."""


class Place(NamedTuple):
    """Where something is."""

    scene: str
    sky: str
    mirrored: bool


def place_shown(picture: np.ndarray, words: Words) -> Place | None:
    """The place that a picture shows, of those that words name; None where it looks like none of them.

    picture: palette indices uint8 [H, W], of which the square is looked at that actors stand in. The camera may have
    gone along with somebody.
    """
    height, width = picture.shape
    if not all(SIZE <= side <= 2 * SIZE for side in picture.shape):
        return None
    top, left = Frame(width, height).above, (width - SIZE) // 2
    picture = picture[top : top + SIZE, left : left + SIZE]
    columns = np.arange(0, 2 * SIZE, STEP)[:, None] + np.arange(0, SIZE, COARSE)  # [places, w]
    coarse, likeness = picture[::COARSE, None, ::COARSE], dict[tuple[Place, int], float]()
    for scene in (name for name in words["scene"] if name in SCENES):
        around = scene_all_round(scene)[::COARSE]
        for sky in words.get("sky", ("day",)):
            painted = inks(sky)[around]
            for mirrored, cells in ((False, painted), (True, np.roll(painted[:, ::-1], SIZE, axis=1))):
                same = (cells[:, columns % (2 * SIZE)] == coarse).mean(axis=(0, 2))
                same[0] += START
                likeness[Place(scene, sky, mirrored), STEP * int(same.argmax())] = float(same.max())
    if not likeness:
        return None
    (best, _), share = max(likeness.items(), key=lambda item: item[1])
    found = dict[Place, tuple[float, bool]]()
    for (place, pan), like in likeness.items():
        if place.scene == best.scene and like > share - CLOSE:
            seen = panorama(*place)[..., (np.arange(SIZE) + pan) % (2 * SIZE)]
            frame = seen[(seen == picture).mean(axis=(1, 2)).argmax()]
            same, told = frame == picture, frame != np.bincount(frame.ravel()).argmax()
            is_found = same.mean() >= FOUND and same[told].mean() >= TOLD
            found[place] = float(same.mean()) + (0 if pan else START), bool(is_found)
    place = max(found, key=found.__getitem__)
    return place if found[place][1] else None
