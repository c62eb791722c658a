"""Training clips from the storybook: rendered when wanted, so that no two epochs are alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.storybook import ALL_ROUND, FIRST_WORDS, SQUARE, VOCABULARY, Frame, Story, Words
from causvid_cli.storybook.motion import RUNS, brings_along, is_in_larger_world, is_on_the_move
from causvid_cli.storybook.story import CHANGE, DOES, NATURAL, WHERE, WHO

MOVING_SHARE = 2.5
"""How much more often than others training shows clips that travel: they stand everywhere and face both ways."""
LARGER_MOVING_SHARE = 5.0
"""The same of the larger world, and of whatever changes its place, its size or its side there: what stands is learnt
many times as fast."""
CHANGED_SHARE = 4.0
"""How much more often training shows late clips in which something has turned into something else: it must not turn
back."""
BRINGING_SHARE = 2.0
"""The same, in clips and first chunks, of whoever has something along to do it with."""
ALL_ROUND_SHARE = 8.0
"""How much more often than other first chunks training shows scenes all round: they are few, and all others rest on
them."""
CHANGES = {"action": 0.35, "subject": 0.25, "scene": 0.2, "all": 0.2}
"""How often a prompt that changes on the way tells of something else: an action only, or also a subject or a scene."""
PHOTO_CHANGES = {"action": 0.75, "subject": 0.1, "scene": 0.1, "all": 0.05}
"""How often the prompt of a photo tells of something else; mostly it tells what the photo shows and what happens."""
SAME_SHOT = {"action": 1.0}
"""The same, of models that begin a new shot where a subject or a scene changes."""
LEFT_TO_PICTURE = 0.5
"""How often what is told after a picture leaves to it where that is."""
SAME_ACTION = 0.5
"""How often a new subject or a new scene goes on with the action of before."""
LATE_FROM, LATE_TO = 8, 104
"""Frames after which a clip from the middle of a video begins. Earlier, something may yet change that its past does
not tell."""
GRID = 8
"""Side of a latent cell, in pixels."""
BESIDE = 2
"""Cells beside the middle in which pictures may show somebody, of which nobody says where they are."""
PHOTO_TO = 48
"""A photo is one of so many first frames of a video."""


@dataclass(frozen=True, slots=True)
class Clips:
    """Rendered clips: palette entries uint8 [B, T, H, W], what is seen in each pixel, uint8 [B, T, H, W]
    (`storybook.SPRITE`, `storybook.THING`), and their stories."""

    indices: Tensor
    mask: Tensor
    stories: tuple[Story, ...]


def sampling_weight(story: Story, *, late: bool = False) -> float:
    """Return how often training shows this story, relative to others; late: in a clip from the middle of its video."""
    if story.action == CHANGE and late:
        return CHANGED_SHARE
    if is_in_larger_world(story):
        if is_on_the_move(story.action) or story.relation in RUNS:
            return LARGER_MOVING_SHARE
        return BRINGING_SHARE if brings_along(story.action) else 1.0
    return MOVING_SHARE if story.action.startswith("moves") else 1.0


def opening_weight(story: Story, *, turns: bool = False, all_round: bool = False) -> float:
    """Return how often training shows what this story begins with, relative to others; all_round: its bare scene.

    turns: whether who goes left is drawn as the mirror image of who goes right (`StoryText.to_draw`).
    """
    if all_round:
        return ALL_ROUND_SHARE
    if turns and story.action == "moves left" and story.relation != "meets" and story.mirrored is not None:
        return 0.0
    return BRINGING_SHARE if brings_along(story.action) else 1.0


def training_story(rng: np.random.Generator, words: Words = FIRST_WORDS) -> Story:
    """Return a story that training may see: the held-out sixteenth of the combinations is left for evaluation."""
    while True:
        story = storybook.sample_story(rng, words)
        if not storybook.held_out(story):
            return story


def opening_stories(
    rng: np.random.Generator, count: int, words: Words = FIRST_WORDS, *, turns: bool = False
) -> list[Story]:
    """Return training stories, as often as `opening_weight` has them."""
    stories = list[Story]()
    while len(stories) < count:
        story = training_story(rng, words)
        if BRINGING_SHARE * rng.random() < opening_weight(story, turns=turns):
            stories.append(story)
    return stories


def sample_clips(
    rng: np.random.Generator,
    count: int,
    words: Words = FIRST_WORDS,
    *,
    frames: int,
    starts: Sequence[int] | None = None,
    size: Frame = SQUARE,
) -> Clips:
    """Return `count` clips of `frames` frames, each of a story of its own. starts: their first frames; None: all 0."""
    stories = tuple(training_story(rng, words) for _ in range(count))
    return render_clips(stories, rng, frames=frames, starts=starts, size=size)


def sample_starts(rng: np.random.Generator, count: int, *, step: int) -> list[int]:
    """Return at which frames clips from the middle of videos begin: half at a multiple of `step`, as roll-outs do."""
    anywhere = rng.integers(LATE_FROM, LATE_TO, size=count)
    in_step = -(-anywhere // step) * step
    picked: list[int] = np.where(rng.random(count) < 0.5, in_step, anywhere).tolist()
    return picked


def sample_bare(
    rng: np.random.Generator, count: int, words: Words = FIRST_WORDS, *, frames: int, size: Frame = SQUARE
) -> Clips:
    """Return clips of scenes with nobody in them."""
    nobody = {slot: storybook.SLOTS[slot] for slot in (*WHO, *DOES, "camera")}
    told = [replace(storybook.sample_story(rng, words), **nobody) for _ in range(count)]
    return render_clips(told, rng, frames=frames, size=size)


def sample_switches(
    rng: np.random.Generator,
    count: int,
    words: Words = FIRST_WORDS,
    *,
    frames: int,
    switch_frames: Sequence[int],
    starts: Sequence[int],
    changes: Mapping[str, float] = CHANGES,
) -> Clips:
    """Return clips whose story changes, with the stories told after it, since the past is seen under them.

    switch_frames: of each clip, the frame with which the new story begins. starts: the clip's first frame in its
    video. changes: how often a story changes in what.
    """
    told: list[Story] = []
    rendered = []
    for switch_frame, start in zip(switch_frames, starts, strict=True):
        before, at = training_story(rng, words), start + switch_frame
        while before.subject is None and set(changes) == {"action"}:  # in a bare scene nothing else can happen
            before = training_story(rng, words)
        after = changed_story(before, rng, words, at=at, changes=changes)
        cues = [(0, before), (at, after)]
        rendered.append(storybook.render_script(cues, length=frames, start=start, seed=int(rng.integers(2**31))))
        told.append(after)
    return _clips(rendered, told)


def sample_photos(
    rng: np.random.Generator,
    count: int,
    words: Words = FIRST_WORDS,
    *,
    frames: int,
    held: Sequence[int],
    changes: Mapping[str, float] = PHOTO_CHANGES,
    pictures: bool = False,
) -> Clips:
    """Clips that begin with a photo from anywhere in a video, and the stories told under it.

    held: its frames. changes: how often a story tells of something else than the photo shows, and of what. pictures:
    whether stories may leave to it where that is (`StoryText.pictures`).
    """
    told: list[Story] = []
    rendered = []
    for still in held:
        photo, at = training_story(rng, words), int(rng.integers(PHOTO_TO))
        story = changed_story(photo, rng, words, at=at, changes=changes, same=True)
        is_same = all(getattr(story, slot) == getattr(photo, slot) for slot in WHERE)
        told.append(left_to_picture(story, rng) if pictures and is_same else story)
        draw = partial(storybook.render_photo, photo, story, at=at, held=still, length=frames)
        rendered.append(_anywhere(draw, told[-1], rng))
    return _clips(rendered, told)


def changed_story(
    story: Story,
    rng: np.random.Generator,
    words: Words = FIRST_WORDS,
    *,
    at: int,
    changes: Mapping[str, float] = CHANGES,
    same: bool = False,
) -> Story:
    """Another training story, told from frame `at` of this one's video on; it may keep its subject, its scene, both.

    same: it may be this one, told anew. Which way the scene faces stays in any case.
    """
    while True:
        other = training_story(rng, words)
        kind = rng.choice(list(changes), p=list(changes.values()))
        kept = ["mirrored"]
        if kind in ("action", "scene"):
            kept += WHO
        if kind in ("action", "subject"):
            kept += WHERE
        if kind in ("subject", "scene") and story.target is None and rng.random() < SAME_ACTION:
            kept += DOES
        told = {slot: getattr(story, slot) for slot in kept}
        if "subject" in told:
            told["subject"] = storybook.shown_subject(story, at)
        subject, target = told.get("subject", other.subject), told.get("target", other.target)
        if (subject is None) != (other.subject is None) or (target is not None and target == subject):
            continue
        changed = replace(other, **told)
        if subject is None:
            changed = replace(changed, **{slot: storybook.SLOTS[slot] for slot in (*WHO, *DOES)}, camera=changed.camera)
        if (same or changed != story) and not storybook.held_out(changed):
            return changed


def left_to_picture(story: Story, rng: np.random.Generator) -> Story:
    """A story that goes on from a picture, as it is told: at times without where that is."""
    unsaid = dict.fromkeys((*WHERE, "mirrored")) if rng.random() < LEFT_TO_PICTURE else {}
    return replace(story, seen=True, **unsaid)  # type: ignore[arg-type]


def sample_unnamed(rng: np.random.Generator, count: int, words: Words = FIRST_WORDS, *, frames: int) -> Clips:
    """Clips of any subject that can be drawn, and their stories as one tells them who shows a picture: "it jumps"."""
    any_subject = {**words, "subject": VOCABULARY.subjects, "colour": VOCABULARY.colours}
    any_subject |= {"relation": (), "action": [name for name in words["action"] if name != CHANGE]}
    told, rendered = list[Story](), []
    for _ in range(count):
        story = training_story(rng, any_subject)
        told.append(left_to_picture(replace(story, subject=None, colour=NATURAL, size="normal", count=1), rng))
        rendered.append(_anywhere(partial(storybook.render_indices, story, length=frames), told[-1], rng))
    return _clips(rendered, told)


def _anywhere(
    draw: Callable[..., tuple[np.ndarray, np.ndarray]], told: Story, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn of a picture; of one that alone tells where it is, a square of cells beside the middle, perhaps."""
    seed = int(rng.integers(2**31))
    if told.scene is not None:
        return draw(seed=seed)
    left = (ALL_ROUND.width - SQUARE.width) // 2 + GRID * int(rng.integers(-BESIDE, BESIDE + 1))
    indices, mask = draw(seed=seed, size=ALL_ROUND)
    return indices[..., left : left + SQUARE.width], mask[..., left : left + SQUARE.width]


def render_clips(
    stories: Sequence[Story],
    rng: np.random.Generator,
    *,
    frames: int,
    starts: Sequence[int] | None = None,
    size: Frame = SQUARE,
) -> Clips:
    """Return clips of these stories, each with a seed of its own, from these frames on (None: from the first)."""
    rendered = [
        storybook.render_indices(story, length=frames, seed=int(rng.integers(2**31)), start=start, size=size)
        for story, start in zip(stories, starts or [0] * len(stories), strict=True)
    ]
    return _clips(rendered, stories)


def _clips(rendered: Sequence[tuple[np.ndarray, np.ndarray]], stories: Sequence[Story]) -> Clips:
    indices, masks = (torch.from_numpy(np.stack(part)) for part in zip(*rendered, strict=True))
    return Clips(indices, masks, tuple(stories))


def sample_frames(
    rng: np.random.Generator, count: int, words: Words = FIRST_WORDS, *, crop: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return single frames from anywhere in videos: palette entries uint8 [N, h, w] and sprite masks [N, h, w].

    crop: side of a square around the sprite; half of them are on the grid of latent cells, the others anywhere, so
    that a codec knows no places. None gives whole frames.
    """
    frames, masks = [], []
    for _ in range(count):
        story, seed, at = training_story(rng, words), int(rng.integers(2**31)), int(rng.integers(48))
        indices, mask = (part[0] for part in storybook.render_indices(story, length=1, seed=seed, start=at))
        if crop is not None:
            indices, mask = crop_around(indices, mask, crop, rng, grid=GRID if rng.random() < 0.5 else 1)
        frames.append(indices)
        masks.append(mask > 0)
    return torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(masks))


def crop_around(
    frame: np.ndarray, mask: np.ndarray, side: int, rng: np.random.Generator, *, grid: int = GRID
) -> tuple[np.ndarray, np.ndarray]:
    """Return a square of a frame and of its mask with something masked, if there is; its corner is on a grid."""
    top, left = _crop_corner(rng, mask, side, grid)
    place = slice(top, top + side), slice(left, left + side)
    return frame[place], mask[place]


def _crop_corner(rng: np.random.Generator, mask: np.ndarray, crop: int, grid: int = GRID) -> tuple[int, int]:
    """Return the top left corner, on the grid, of a crop that holds a random pixel of the sprite."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0, 0
    pick = rng.integers(len(rows))
    corner = []
    for place, side in ((rows[pick], mask.shape[0]), (columns[pick], mask.shape[1])):
        low, high = max(0, place - crop + 1), min(place, side - crop)
        corner.append(int(min(-(-rng.integers(low, high + 1) // grid) * grid, side - crop)))
    return corner[0], corner[1]
