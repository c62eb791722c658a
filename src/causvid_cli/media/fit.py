"""Frames of one size -> frames of another, such as a clip's and a model's: pure functions of arrays."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

from causvid_cli.request import FitMode

LONGEST_SHAPE = 4.0
"""A model is asked for frames at most so many times as wide as they are high, or the other way round."""

_TWO_STEPS = 3.0  # from 3 times smaller on, whole pixels are averaged first: as good to the eye and much faster


@dataclass(frozen=True, slots=True)
class Fit:
    """How frames of the size `source` become frames of the size `target`. Sizes are (width, height)."""

    source: tuple[int, int]
    target: tuple[int, int]
    mode: FitMode

    @property
    def source_box(self) -> tuple[float, float, float, float]:
        """The part of the source that is seen: left, top, right, bottom; all of it but when cropped."""
        width, height = self.source
        if self.mode == "crop":
            scale = max(self.target[0] / width, self.target[1] / height)
            wide, high = min(self.target[0] / scale, width), min(self.target[1] / scale, height)
            left, top = (width - wide) / 2, (height - high) / 2
            return left, top, left + wide, top + high
        return 0, 0, width, height

    @property
    def target_box(self) -> tuple[int, int, int, int]:
        """The part of the new frame in which that lies: left, top, right, bottom; all of it but when padded."""
        width, height = self.target
        if self.mode == "pad":
            scale = min(width / self.source[0], height / self.source[1])
            wide, high = max(1, round(self.source[0] * scale)), max(1, round(self.source[1] * scale))
            left, top = (width - wide) // 2, (height - high) // 2
            return left, top, left + wide, top + high
        return 0, 0, width, height

    def apply(self, frames: Iterable[np.ndarray], *, nearest: bool = False) -> np.ndarray:
        """Return frames uint8 RGB [T, h, w, 3] of the size `target` for those [T, H, W, 3] of the size `source`.

        nearest: blow up each pixel to a crisp block, as pixel art wants it.
        """
        return _scaled(
            frames, self.source, box=self.source_box, to=self.target, placed=self.target_box, nearest=nearest
        )


def fit(source_size: tuple[int, int], target_size: tuple[int, int], mode: FitMode) -> Fit:
    """Return how frames of `source_size` are shown at `target_size`; both (width, height)."""
    return Fit(source_size, target_size, mode)


def model_size_for(source_size: tuple[int, int], native: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the (width, height) with the source's shape and about as many pixels as `native`; sides are multiples.

    For models that take any size. A shape beyond LONGEST_SHAPE is taken for that.
    """
    shape = min(max(source_size[0] / source_size[1], 1 / LONGEST_SHAPE), LONGEST_SHAPE)
    pixels = native[0] * native[1]
    ideal = math.sqrt(pixels * shape), math.sqrt(pixels / shape)
    near = [{max(1, round_(side / multiple)) * multiple for round_ in (math.floor, math.ceil)} for side in ideal]

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        other_shape, other_pixels = size[0] / size[1] / shape, size[0] * size[1] / pixels
        return abs(math.log(other_shape)) + abs(math.log(other_pixels)), size[0] * size[1]

    return min(product(near[0], near[1]), key=distance)


def _scaled(
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    *,
    box: tuple[float, float, float, float],
    to: tuple[int, int],
    placed: tuple[int, int, int, int],
    nearest: bool = False,
) -> np.ndarray:
    """Scale the part `box` of each frame of `size` into the part `placed` of black ones of the size `to`."""
    left, top, right, bottom = placed
    wide, high = right - left, bottom - top
    near = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    inside = box[0] - near[0], box[1] - near[1], box[2] - near[0], box[3] - near[1]
    smaller = wide < box[2] - box[0] or high < box[3] - box[1]
    filter_ = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    if smaller and inside == (0, 0, near[2] - near[0], near[3] - near[1]) and _whole(inside, wide, high):
        filter_ = Image.Resampling.BOX  # the mean of whole pixels: pixel art blown up comes back as it was
    if nearest:
        filter_ = Image.Resampling.NEAREST
    scaled = []
    for frame in frames:
        assert frame.dtype == np.uint8 and frame.shape == (size[1], size[0], 3), (frame.dtype, frame.shape, size)
        canvas = np.zeros((to[1], to[0], 3), np.uint8)
        wanted = frame[near[1] : near[3], near[0] : near[2]]  # else a filter would reach for the black around it
        part = Image.fromarray(np.ascontiguousarray(wanted)).resize(
            (wide, high), filter_, box=inside, reducing_gap=_TWO_STEPS if smaller and not nearest else None
        )
        canvas[top:bottom, left:right] = np.asarray(part)
        scaled.append(canvas)
    return np.stack(scaled) if scaled else np.zeros((0, to[1], to[0], 3), np.uint8)


def _whole(box: tuple[float, float, float, float], wide: int, high: int) -> bool:
    """Return whether each of wide x high pixels covers a whole number of pixels of the box, along both sides."""
    return (box[2] - box[0]) % wide == 0 and (box[3] - box[1]) % high == 0
