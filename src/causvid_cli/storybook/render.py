"""Stories to frames: the scene's loop, and on it the sprite where its action puts it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from . import creatures, objects  # noqa: F401  (importing them registers their drawings)
from .motion import CENTRE, CHANGE, FLASH, MOTIONS, START, Pose, pose_at
from .palette import EMPTY, PALETTE, SUBJECTS, ink, material_table
from .parse import parse
from .scenes import SCENE_PERIOD, SCENES, SIZE, scene_loop
from .sprites import DRAWINGS, Drawing, drawing, sprite
from .story import Story
from .vocabulary import VOCABULARY, Subject

FPS = 8
BASE_ROW = {"ground": 56, "air": 50}
"""Lowest row of a sprite, its outline, by altitude."""
SPARKLES = ((-17, 8, 1), (16, 6, 2), (-14, 30, 2), (18, 26, 1), (0, 0, 1))
"""Round a changing sprite: column from its middle, row from the top of its box, arm length."""


def render_indices(story: Story, *, length: int, seed: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames start .. start + length - 1 of a story's endless video; frame n depends on (story, seed, n) only.

    Returns palette indices uint8 [T, 64, 64] and the sprite's mask bool [T, 64, 64]. The seed picks whether the scene
    is mirrored. Raises ValueError for a negative length or start.
    """
    if length < 0 or start < 0:
        raise ValueError(f"length {length} and start {start} must not be negative")
    return _render([(0, story)], numbers=range(start, start + length), seed=seed)


def render_script(
    cues: Sequence[tuple[int, Story]], *, length: int, seed: int, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Frames start .. start + length - 1 of a video whose story changes: what should be seen when the prompt does.

    cues: (first frame, story), the first at 0, strictly rising. A story begins where the one before it has left off:
    its action starts anew in the column where the sprite stands, and the scene's loop goes on. Returns as
    `render_indices`; with one cue it is the same.
    """
    if not cues or cues[0][0] != 0 or any(b[0] <= a[0] for a, b in pairwise(cues)):
        raise ValueError(f"cues must begin at frame 0 and rise, got {[frame for frame, _ in cues]}")
    return _render(cues, numbers=range(start, start + length), seed=seed)


def render_photo(
    photo: Story, story: Story, *, at: int, held: int, length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames 0 .. length - 1 of a photo that comes to life: a picture that stands still, then a story.

    photo, at: the photo is this frame of this story's video. held: how many frames it is shown. The story's action
    starts anew in the column where the photo's sprite stands. The scene's loop counts the frames of the new video, so
    it is in step with it whatever the photo shows. Returns as `render_indices`.
    """
    still = _render([(0, photo)], numbers=range(at, at + 1), seed=seed)
    column = pose_at(photo, at, START.get(photo.action, CENTRE)).x
    alive = _render([(held, story)], numbers=range(held, max(held, length)), seed=seed, column=column)
    frames, mask = (np.concatenate([np.repeat(a, held, axis=0), b])[:length] for a, b in zip(still, alive, strict=True))
    return frames, mask


def _render(
    cues: Sequence[tuple[int, Story]], *, numbers: range, seed: int, column: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The frames of these numbers; every number belongs to the last cue that is not after it.

    column: where the first story begins; None: where its action does.
    """
    for _, story in cues:
        if not _can_draw(story):
            raise ValueError(f"{story.caption()}: only the storybook's own words can be drawn")
    mirrored = is_mirrored(seed)
    shown: list[tuple[int, Story, int]] = []  # first frame, story, column where it begins
    for first, story in cues:
        if shown:
            before, told, began = shown[-1]
            column = pose_at(told, first - before, began).x
        elif column is None:
            column = START.get(story.action, CENTRE)
        shown.append((first, story, column))

    frames = np.empty((len(numbers), SIZE, SIZE), np.uint8)
    mask = np.zeros(frames.shape, bool)
    for frame, marked, number in zip(frames, mask, numbers, strict=True):
        first, story, column = next(cue for cue in reversed(shown) if cue[0] <= number)
        frame[:] = scene_loop(story.scene, mirrored)[number % SCENE_PERIOD]
        if story.subject is not None:
            pose = pose_at(story, number - first, column)
            _paste(frame, marked, story, pose)
            if pose.white:
                _sparkle(frame, marked, pose, number - first)
    return frames, mask


def shown_subject(story: Story, frame: int) -> str | None:
    """The subject that is seen in one frame of a story's video: what turns into something is that from then on."""
    return story.target if story.target is not None and pose_at(story, frame, CENTRE).is_target else story.subject


def render(prompt: str, *, length: int, seed: int) -> np.ndarray:
    """RGB frames uint8 [T, 64, 64, 3] of what a prompt says (through parse)."""
    indices, _ = render_indices(parse(prompt).story, length=length, seed=seed)
    rgb: np.ndarray = PALETTE[indices]  # [T, 64, 64, 3]
    return rgb


def add_subject(subject: Subject, draw: Drawing) -> None:
    """Let the renderer draw one more subject, in a PackStory; prompts and vocabulary know nothing of it.

    Raises ValueError when another is called the same.
    """
    drawing(subject.name)(draw)
    SUBJECTS[subject.name] = subject


def check_drawings() -> None:
    """Raise ValueError unless vocabulary and drawings name the same subjects, scenes and actions."""
    for what, words, drawn in (
        ("subject", VOCABULARY.subjects, DRAWINGS),
        ("scene", VOCABULARY.scenes, SCENES),
        ("action", VOCABULARY.actions, MOTIONS),
    ):
        if lost := set(drawn) - set(words):
            raise ValueError(f"{what}s in only one of vocabulary.toml and the drawings: {', '.join(sorted(lost))}")


def _can_draw(story: Story) -> bool:
    """Whether there is a drawing for each of a story's words."""
    subjects = {story.subject, story.target} - {None}
    colour, scene, action = story.colour in VOCABULARY.colour, story.scene in SCENES, story.action in MOTIONS
    return colour and scene and action and subjects <= DRAWINGS.keys()


def is_mirrored(seed: int) -> bool:
    """Whether a seed's videos have the scene mirrored: one in two."""
    mixed = (int(seed) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return bool(mixed >> 63)


@lru_cache(maxsize=8192)
def _coloured(subject: str, colour: str, look: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Palette indices uint8 [h, w] and mask bool [h, w] of a sprite that looks like a pose; its place plays no part."""
    materials = sprite(subject, look.phase, look.scale_step, look.squash_step)
    if look.faces_left:
        materials = materials[:, ::-1]
    mask = materials != EMPTY
    cells = material_table(subject, colour)[materials]
    if look.white:
        inner = np.pad(mask, 1)
        inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        cells = np.where(inner, np.uint8(ink("white.light")), np.uint8(ink("outline")))
    return cells, mask


def _paste(frame: np.ndarray, mask: np.ndarray, story: Story, pose: Pose) -> None:
    """Draw the sprite of a pose into frame and mask, both [64, 64], in place; x wraps round."""
    subject = story.target if pose.is_target else story.subject
    assert subject is not None
    cells, solid = _coloured(subject, story.colour, pose.look())
    height, width = cells.shape
    top = BASE_ROW[SUBJECTS[subject].altitude] + 1 - height - pose.rise
    hidden = max(0, -top)  # rows above the frame
    left = pose.x - width // 2
    for edge in (left, left - SIZE, left + SIZE):
        first, last = max(0, edge), min(SIZE, edge + width)
        if first < last:
            part = (slice(hidden, None), slice(first - edge, last - edge))
            place = (slice(top + hidden, top + height), slice(first, last))
            np.copyto(frame[place], cells[part], where=solid[part])
            mask[place] |= solid[part]


def _sparkle(frame: np.ndarray, mask: np.ndarray, pose: Pose, t: int) -> None:
    """Small crosses round a changing sprite, in place; they count as sprite."""
    glow, top = ink("yellow.light"), BASE_ROW["ground"] - 38
    for dx, dy, arm in SPARKLES[(t - FLASH) % 2 :: 2] if t < CHANGE else SPARKLES:
        x, y = pose.x + dx, top + dy
        upright = range(y - arm, y + arm + 2), range(x, x + 2)
        level = range(y, y + 2), range(x - arm, x + arm + 2)
        for rows, columns in (upright, level):
            place = np.ix_(rows, [column % SIZE for column in columns])
            frame[place] = glow
            mask[place] = True


check_drawings()
