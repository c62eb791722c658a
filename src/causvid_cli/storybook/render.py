"""Stories to frames: the scene's loop, and on it the sprite where its action puts it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from . import creatures, things  # noqa: F401  (importing them registers their drawings)
from .motion import CHANGE, FLASH, MOTIONS, START_STEP, Pose
from .palette import EMPTY, PALETTE, ink, material_table
from .parse import parse
from .scenes import SCENE_PERIOD, SCENES, SIZE, scene_loop
from .sprites import DRAWINGS, sprite
from .story import Story
from .vocabulary import VOCABULARY

FPS = 8
BASE_ROW = {"ground": 56, "air": 50}
"""Lowest row of a sprite, its outline, by altitude."""
SPARKLES = ((-17, 8, 1), (16, 6, 2), (-14, 30, 2), (18, 26, 1), (0, 0, 1))
"""Round a changing sprite: column from its middle, row from the top of its box, arm length."""


def render_indices(story: Story, *, length: int, seed: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames start .. start + length - 1 of a story's endless video; frame n depends on (story, seed, n) only.

    Returns palette indices uint8 [T, 64, 64] and the sprite's mask bool [T, 64, 64]. The seed picks whether the scene
    is mirrored and where moving actions start. Raises ValueError for a negative length or start.
    """
    if length < 0 or start < 0:
        raise ValueError(f"length {length} and start {start} must not be negative")
    mirrored, start_x = _choices(seed)
    numbers = np.arange(start, start + length)
    frames = scene_loop(story.scene, mirrored)[numbers % SCENE_PERIOD]  # [T, 64, 64], a copy
    mask = np.zeros(frames.shape, bool)
    if story.subject is not None:
        for index in range(length):
            pose = MOTIONS[story.action](start + index, start_x)
            _paste(frames[index], mask[index], story, pose)
            if pose.white:
                _sparkle(frames[index], mask[index], pose, start + index)
    return frames, mask


def render(prompt: str, *, length: int, seed: int) -> np.ndarray:
    """RGB frames uint8 [T, 64, 64, 3] of what a prompt says (through parse)."""
    indices, _ = render_indices(parse(prompt).story, length=length, seed=seed)
    rgb: np.ndarray = PALETTE[indices]  # [T, 64, 64, 3]
    return rgb


def check_drawings() -> None:
    """Raise ValueError unless vocabulary and drawings name the same subjects, scenes and actions."""
    for what, words, drawn in (
        ("subject", VOCABULARY.subjects, DRAWINGS),
        ("scene", VOCABULARY.scenes, SCENES),
        ("action", VOCABULARY.actions, MOTIONS),
    ):
        if lost := set(words) ^ set(drawn):
            raise ValueError(f"{what}s in only one of vocabulary.toml and the drawings: {', '.join(sorted(lost))}")


def _choices(seed: int) -> tuple[bool, int]:
    """Whether the scene is mirrored, and the start column of moving actions: one of 16 combinations."""
    mixed = (int(seed) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return bool(mixed >> 63), (mixed >> 56) % (SIZE // START_STEP) * START_STEP


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
    top = BASE_ROW[VOCABULARY.subject[subject].altitude] + 1 - height - pose.rise
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
        for place in ((slice(y - arm, y + arm + 2), slice(x, x + 2)), (slice(y, y + 2), slice(x - arm, x + arm + 2))):
            frame[place] = glow
            mask[place] = True


check_drawings()
