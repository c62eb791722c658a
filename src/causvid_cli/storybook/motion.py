"""What an action does to the sprite at frame t: pure functions of the frame number, in whole cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .scenes import SIZE
from .sprites import CYCLE, SCALE_STEPS
from .story import Story

CENTRE = SIZE // 2
SPEED = 2
"""Cells per frame of "moves right" and "moves left": one lap of the torus is 32 frames."""
START = {"moves right": 16, "moves left": 48}
"""Column where an action begins that is not the middle: what travels has the frame before it."""
RISE_FRAMES = 20
JUMP = (0, 6, 10, 13, 14, 13, 10, 6)
"""Height of a jump over its period of 8 frames: the parabola 14 (1 - (k - 4)^2 / 16)."""
BOB = (0, 1, 1, 1, 0, -1, -1, -1)
"""Height over the hovering place, period 8."""
SPIN = ((0, False), (1, False), (2, False), (1, True), (0, True), (1, True), (2, True), (1, False))
"""Squash step and mirroring over one turn of 8 frames."""
SIZE_FRAMES, SIZE_HOLD = 24, 2
"""Growing and shrinking last 24 frames; the size changes every 2."""
SMALL, SHRUNK, LARGE = 20, 18, 50
"""Scale steps (1/40): 0.5, 0.45 and 1.25."""
FLASH, CHANGE, CHANGED = 12, 14, 16
""""turns into": first frames of the white subject, the white target and the target itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How the sprite appears in one frame. rise: cells above its usual base; x: column of its middle, 0..63."""

    x: int = CENTRE
    rise: int = 0
    phase: int = 0
    scale_step: int = SCALE_STEPS
    squash_step: int = 0
    faces_left: bool = False
    is_target: bool = False
    white: bool = False

    def look(self) -> Pose:
        """The pose at one fixed place: equal looks are equal sprites, wherever they stand."""
        return replace(self, x=CENTRE, rise=0)


Motion = Callable[[int], Pose]
"""Frame t >= 0 of an action that began in column CENTRE -> pose."""


def moves_right(t: int) -> Pose:
    return Pose(x=(CENTRE + SPEED * t) % SIZE, phase=t % CYCLE)


def moves_left(t: int) -> Pose:
    return Pose(x=(CENTRE - SPEED * t) % SIZE, phase=t % CYCLE, faces_left=True)


def jumps(t: int) -> Pose:
    return Pose(rise=JUMP[t % len(JUMP)], phase=t % CYCLE)


def flies_up(t: int) -> Pose:
    hover = BOB[(t - RISE_FRAMES) % len(BOB)] if t >= RISE_FRAMES else 0
    return Pose(rise=min(t, RISE_FRAMES) + hover, phase=t % CYCLE)


def grows(t: int) -> Pose:
    return Pose(scale_step=_size(t, SMALL, LARGE))


def shrinks(t: int) -> Pose:
    return Pose(scale_step=_size(t, LARGE, SHRUNK))


def spins(t: int) -> Pose:
    squash_step, faces_left = SPIN[t % len(SPIN)]
    return Pose(squash_step=squash_step, faces_left=faces_left)


def stays_still(t: int) -> Pose:
    return Pose()


def turns_into(t: int) -> Pose:
    return Pose(is_target=t >= CHANGE, white=FLASH <= t < CHANGED)


MOTIONS: dict[str, Motion] = {
    "moves right": moves_right,
    "moves left": moves_left,
    "jumps": jumps,
    "flies up": flies_up,
    "grows": grows,
    "shrinks": shrinks,
    "spins": spins,
    "stays still": stays_still,
    "turns into": turns_into,
}


def pose_at(story: Story, t: int, column: int) -> Pose:
    """The pose of a story's sprite at frame t of an action that began in this column."""
    pose = MOTIONS[story.action](t)
    return replace(pose, x=(pose.x - CENTRE + column) % SIZE)


def _size(t: int, first: int, last: int) -> int:
    """Scale step at frame t on the way from first to last."""
    steps = SIZE_FRAMES // SIZE_HOLD
    return first + (last - first) * min(t // SIZE_HOLD, steps) // steps
