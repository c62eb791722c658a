"""Whether a storybook clip is drawn as the storybook draws it, pixel by pixel.

A story has one right answer but for which way the scene faces, so what the judge overlooks (a torn sprite, a sun that
is none) shows here.
"""

from functools import cache

import numpy as np

from causvid_cli import storybook
from causvid_cli.storybook import Story


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
    story = Story(None, "natural", "night city", "stays still")
    first, *others = (storybook.render_indices(story, length=1, seed=seed)[0] for seed in range(64))
    return 0, next(seed for seed, other in enumerate(others, start=1) if not np.array_equal(other, first))
