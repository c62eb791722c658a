"""Training clips from the storybook: rendered when wanted, so that no two epochs are alike."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.storybook import Story

MOVING_SHARE = 2.5
"""How much more often than others training shows clips that travel: they stand everywhere and face both ways."""
CHANGED_SHARE = 4.0
"""The same for late clips in which something has turned into something else: it must not turn back."""


@dataclass(frozen=True, slots=True)
class Clips:
    """Rendered clips: palette entries uint8 [B, T, H, W], sprite masks bool [B, T, H, W], and their stories."""

    indices: Tensor
    mask: Tensor
    stories: tuple[Story, ...]


def share_of(story: Story, *, late: bool = False) -> float:
    """How often training shows this story, relative to others; late: in a clip from the middle of its video."""
    if story.action == "turns into" and late:
        return CHANGED_SHARE
    return MOVING_SHARE if story.action.startswith("moves") else 1.0


def training_story(rng: np.random.Generator) -> Story:
    """A story that training may see: the held-out sixteenth of the combinations is left for evaluation."""
    while True:
        story = storybook.sample_story(rng)
        if not storybook.held_out(story):
            return story


def sample_clips(rng: np.random.Generator, count: int, *, frames: int, start: int = 0) -> Clips:
    """`count` clips of frames start .. start + frames - 1, each of a training story of its own."""
    stories = tuple(training_story(rng) for _ in range(count))
    return render_clips(stories, rng, frames=frames, start=start)


def sample_switches(rng: np.random.Generator, count: int, *, frames: int, switch_frame: int) -> Clips:
    """Clips whose story changes at a frame; the stories are those told after it, since the past is seen under them."""
    told: list[Story] = []
    rendered = []
    for _ in range(count):
        before = training_story(rng)
        after = changed_story(before, rng)
        cues = [(0, before), (switch_frame, after)]
        rendered.append(storybook.render_script(cues, length=frames, seed=int(rng.integers(2**31))))
        told.append(after)
    indices, masks = (torch.from_numpy(np.stack(part)) for part in zip(*rendered, strict=True))
    return Clips(indices, masks, tuple(told))


def changed_story(story: Story, rng: np.random.Generator) -> Story:
    """Another training story that keeps most of this one: mostly another action, else another subject, scene or all."""
    while True:
        other = training_story(rng)
        kind = rng.choice(4, p=(0.5, 0.2, 0.15, 0.15))
        subject, colour, scene = other.subject, other.colour, other.scene
        if kind in (0, 2):
            subject, colour = story.target or story.subject, story.colour
        if kind in (0, 1):
            scene = story.scene
        if subject is None or other.target == subject:
            continue
        changed = Story(subject, colour, scene, other.action, other.target)
        if changed != story and not storybook.held_out(changed):
            return changed


def render_clips(stories: tuple[Story, ...], rng: np.random.Generator, *, frames: int, start: int = 0) -> Clips:
    """These stories, each with a seed of its own."""
    rendered = [
        storybook.render_indices(story, length=frames, seed=int(rng.integers(2**31)), start=start) for story in stories
    ]
    indices, masks = (torch.from_numpy(np.stack(part)) for part in zip(*rendered, strict=True))
    return Clips(indices, masks, stories)


def sample_pictures(rng: np.random.Generator, count: int, *, crop: int | None = None) -> tuple[Tensor, Tensor]:
    """Single pictures from anywhere in videos: palette entries [N, h, w] and sprite masks [N, h, w].

    crop: side of a square around the sprite, on the grid of latent cells; None gives whole pictures.
    """
    pictures, masks = [], []
    for _ in range(count):
        story, seed, at = training_story(rng), int(rng.integers(2**31)), int(rng.integers(48))
        indices, mask = (part[0] for part in storybook.render_indices(story, length=1, seed=seed, start=at))
        if crop is not None:
            indices, mask = crop_around(indices, mask, crop, rng)
        pictures.append(indices)
        masks.append(mask)
    return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(masks))


def crop_around(
    picture: np.ndarray, mask: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square of a picture and of its mask, on the grid of latent cells, that holds something masked if there is."""
    top, left = _crop_corner(rng, mask, side)
    place = slice(top, top + side), slice(left, left + side)
    return picture[place], mask[place]


def _crop_corner(rng: np.random.Generator, mask: np.ndarray, crop: int, grid: int = 8) -> tuple[int, int]:
    """Top left corner, on the grid, of a crop that holds a random pixel of the sprite."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0, 0
    pick = rng.integers(len(rows))
    corner = []
    for place, side in ((rows[pick], mask.shape[0]), (columns[pick], mask.shape[1])):
        low, high = max(0, place - crop + 1), min(place, side - crop)
        corner.append(int(min(-(-rng.integers(low, high + 1) // grid) * grid, side - crop)))
    return corner[0], corner[1]
