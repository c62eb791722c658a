"""Whether a storybook clip is drawn as the storybook draws it, pixel by pixel.

A story has one right answer (in the first packs' world but for which way the scene faces), so what the judge overlooks
(a torn sprite, a sun that is none) shows here.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from causvid_cli import storybook
from causvid_cli.storybook import Story

Drawing = tuple[np.ndarray, np.ndarray]
"""Palette entries uint8 [T, H, W], and what is seen in each pixel, uint8 [T, H, W]."""
FOUR_FIFTHS = 0.8


def pixel_counts(indices: np.ndarray, drawn: Drawing) -> dict[str, tuple[float, float]]:
    """By figure, how many are as drawn, and of how many: palette entries [T, H, W] against a drawing of as many frames.

    Edges are a sprite's pixels with one beside them, across corners too, that is none of it. Of frames without a sprite
    none is counted.
    """
    truth, mask = drawn[0], drawn[1] > 0
    right = indices == truth
    around = np.pad(mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(1, 2))
    edges = mask & ~windows.all(axis=(-2, -1))
    sprite, hits = mask.sum(axis=(1, 2)), (right & mask).sum(axis=(1, 2))
    return {
        "pixels as drawn": (int(right.sum()), right.size),
        "sprite pixels": (int(hits.sum()), int(sprite.sum())),
        "edge pixels": (int(right[edges].sum()), int(edges.sum())),
        "frames with four fifths of the sprite": (
            int(((hits >= FOUR_FIFTHS * sprite) & (sprite > 0)).sum()),
            int((sprite > 0).sum()),
        ),
    }


def nearest_drawing(indices: np.ndarray, story: Story, draw: Callable[[int], Drawing]) -> Drawing:
    """What a seed draws that the clip is most like, where the story does not tell which way its scene faces."""
    seeds = both_ways() if story.mirrored is None else (0,)
    return max(map(draw, seeds), key=lambda drawn: int((indices == drawn[0]).sum()))


class PixelMatch:
    """Compares one clip, as its frames come, with both drawings of its story."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._shares: dict[int, list[float]] = {seed: [] for seed in both_ways()}

    def add(self, indices: np.ndarray) -> None:
        """Take in the next frames, palette entries [T, 64, 64]."""
        for seed, shares in self._shares.items():
            drawn, _ = storybook.render_indices(self._story, length=len(indices), seed=seed, start=len(shares))
            shares += (indices == drawn).mean(axis=(1, 2)).tolist()

    @property
    def shares(self) -> np.ndarray:
        """Share of each frame's pixels that are as drawn [T], of the drawing that the clip is more like."""
        return np.array(max(self._shares.values(), key=sum))


@cache
def both_ways() -> tuple[int, int]:
    """Two seeds: of a scene as it is, and mirrored."""
    first = storybook.is_mirrored(0)
    return 0, next(seed for seed in range(1, 64) if storybook.is_mirrored(seed) != first)
