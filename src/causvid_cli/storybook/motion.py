"""What an action does to the sprite at frame t: pure functions of the frame number, in whole pixels.

In the larger world nearly all of it happens on the grid of a codec's cells and comes again after 4 frames, which are a
latent frame: a network then meets each drawing in few places, and what goes on is what it has just seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from .scenes import SIZE
from .sprites import CYCLE, SCALE_STEPS
from .story import Story

CENTRE = SIZE // 2
CELL = 8
"""Columns and rows of a codec's cell: things stand, and in the larger world also move, on the grid of these."""
SPEED = 2
"""Columns per frame of "moves right" and "moves left"."""
START = {"moves right": 16, "moves left": 48}
"""Column where an action of the first packs' world begins that is not the middle: what travels has the frame before
it."""
TRAVELS = {"moves right": 1, "moves left": -1, "swims": 1}
"""Which way what travels goes: 1 is to the right."""
RUNS = ("meets", "follows", "chases")
"""Relations that are motions themselves, whatever the action."""
MEETING = 4
"""Columns that each of two who meet goes towards the other."""
RISE_FRAMES = 20
JUMP = (0, 6, 10, 13, 14, 13, 10, 6)
"""Height of a jump over its period of 8 frames: the parabola 14 (1 - (k - 4)^2 / 16)."""
BOB = (0, 1, 1, 1, 0, -1, -1, -1)
"""Height over the hovering place, period 8."""
SPIN = ((0, False), (1, False), (2, False), (1, True), (0, True), (1, True), (2, True), (1, False))
"""Squash step and mirroring over one turn of 8 frames."""
HOP = (0, 8, 16, 8)
"""Height of the larger world's jump over its period."""
DANCE = ((0, 0), (8, 0), (0, 8), (-8, 0))
"""Columns to the right and rows up, over the steps of a dance."""
TURN = ((0, False), (2, False), (0, True), (2, True))
"""Squash step and mirroring over one turn of the larger world."""
RISE = (0, 8, 8, 16)
"""Height of who flies up in the larger world, until it hovers."""
SIZE_FRAMES, SIZE_HOLD = 24, 2
"""Growing and shrinking last 24 frames; the size changes every 2."""
GROWTH, GROWTH_HOLD = (20, 30, 50), 4
"""Sizes of the larger world on the way to grown, and for how many frames each is seen."""
SMALL, SHRUNK, LARGE = 20, 18, 50
"""Scale steps (1/40): 0.5, 0.45 and 1.25."""
FLASH, CHANGE, CHANGED = 12, 14, 16
""""turns into": first frames of the white subject, the white target and the target itself."""
FALL = (16, 8, 8, 0)
"""Height of a fall, until it lies on the ground."""
LANDING = (16, 16, 16, 16, 8, 8, 8, 8)
"""Height of a landing, until it stands."""
SINK = 8
"""Rows of a swimmer that are under water."""
LEAD = 4
"""Frames for which what acts stays in its place first: a first chunk shows who it is about, the others have seen it."""
ZOOM_FRAMES, ZOOM_HOLD, ZOOMED = 16, 8, 1.25
"""A zoom lasts so many frames, changes with every so manieth, and ends at, or begins with, this size."""
BEAT = 4
"""Frames after which what somebody does comes again in the larger world."""
BLINKS, BLINK_AT = 8, 6
"""Frames after which what is alive blinks again, and the one in which its eyes are shut."""


@dataclass(frozen=True, slots=True)
class Thing:
    """What an action brings along: the name of a drawing, its size, and where it is.

    ahead: cells from the sprite's front edge, in the direction that it faces. rise: cells above the ground.
    """

    name: str
    scale_step: int
    ahead: int
    rise: int
    phase: int = 0


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
    lies: bool = False
    blinks: bool = False
    breathes: bool = False
    """Whether it is a row lower, as it is between two breaths."""
    sink: int = 0
    """Rows of it that are under water."""
    things: tuple[Thing, ...] = ()

    def look(self) -> Pose:
        """The pose at one fixed place: equal looks are equal sprites, wherever they stand."""
        return replace(self, x=CENTRE, rise=0, sink=0, things=())


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


def hops(t: int) -> Pose:
    return Pose(rise=HOP[t % BEAT])


def rises(t: int) -> Pose:
    return Pose(rise=RISE[min(t, len(RISE) - 1)], phase=t % CYCLE)


def grows_up(t: int) -> Pose:
    return Pose(scale_step=GROWTH[_stage(t)])


def shrinks_down(t: int) -> Pose:
    return Pose(scale_step=GROWTH[::-1][_stage(t)])


def eats(t: int) -> Pose:
    return Pose(things=(Thing("apple", 16, 2, 8 + 8 * _second_half(t)),))


def drinks(t: int) -> Pose:
    return Pose(things=(Thing("cup", 16, 1, 8 + 8 * _second_half(t)),))


def dances(t: int) -> Pose:
    high = 24 + 8 * _second_half(t)
    notes = Thing("* note", 14, 2, high), Thing("* note", 14, -34, 56 - high, 2)
    aside, rise = DANCE[t % BEAT]
    return Pose(x=CENTRE + aside, rise=rise, phase=t % CYCLE, things=notes)


def waves(t: int) -> Pose:
    return Pose(things=(Thing("* hand", 18, -2, 24, 2 * _second_half(t)),))


def whirls(t: int) -> Pose:
    squash_step, faces_left = TURN[t % BEAT]
    return Pose(squash_step=squash_step, faces_left=faces_left)


def falls(t: int) -> Pose:
    return Pose(rise=FALL[min(t, len(FALL) - 1)], lies=t >= len(FALL))


def lands(t: int) -> Pose:
    return Pose(rise=LANDING[t], phase=t % CYCLE) if t < len(LANDING) else Pose()


def sleeps(t: int) -> Pose:
    second = _second_half(t)
    return Pose(blinks=True, breathes=second, things=(Thing("* zzz", 20, -2, 24 + 8 * second),))


def swims(t: int) -> Pose:
    return replace(moves_right(t), sink=SINK)


def reads(t: int) -> Pose:
    return Pose(things=(Thing("book", 16, -1, 8, t % CYCLE),))


def writes(t: int) -> Pose:
    pencil = Thing("* pencil", 16, 2 + 8 * _second_half(t), 8)
    return Pose(things=(Thing("book", 16, -1, 0), pencil))


def plays(t: int) -> Pose:
    return Pose(phase=t % CYCLE, things=(Thing("ball", 16, 1, HOP[t % BEAT]),))


def talks(t: int) -> Pose:
    return Pose(things=(Thing("* bubble", 18, -4, 24, t % CYCLE),))


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
    "eats": eats,
    "drinks": drinks,
    "dances": dances,
    "waves": waves,
    "falls": falls,
    "lands": lands,
    "sleeps": sleeps,
    "swims": swims,
    "reads": reads,
    "writes": writes,
    "plays": plays,
    "talks": talks,
}
ON_CELLS: dict[str, Motion] = MOTIONS | {
    "jumps": hops,
    "flies up": rises,
    "grows": grows_up,
    "shrinks": shrinks_down,
    "spins": whirls,
}
"""The motions of the larger world; the first packs learnt theirs finer."""


@cache
def is_on_the_move(action: str) -> bool:
    """Whether who does this in the larger world is seen elsewhere, in another size or turned, as time goes on."""
    poses = (ON_CELLS[action](t) for t in range(2 * SIZE_FRAMES))
    return len({replace(pose, phase=0, things=(), breathes=False) for pose in poses}) > 1


def brings_along(action: str) -> tuple[str, ...]:
    """What who does this in the larger world has along to do it with, or that tells of it: names of drawings."""
    return tuple(thing.name for thing in ON_CELLS.get(action, stays_still)(0).things)


def clock(story: Story, t: int) -> int:
    """Which frame of an action is seen at frame t of a story, by its speed."""
    return {"slowly": t // 2, "fast": 2 * t}.get(story.speed, t)


def pace(story: Story, t: int) -> int:
    """Which frame of who travels is seen at frame t of a story: who chases is twice as fast."""
    return clock(story, t) * (2 if story.relation == "chases" else 1)


def lead(story: Story) -> int:
    """Frames at the beginning of a video in which a story's actors stay in their places."""
    return LEAD if is_in_larger_world(story) else 0


def is_in_larger_world(story: Story) -> bool:
    """Whether a story is drawn as the larger world is, not as that of the first packs."""
    return story.edge != "wraps"


def is_over_at(story: Story) -> int | None:
    """The frame of an action from which on what it does once is done; None: it goes on, or has no such end."""
    if story.action == "lands":
        return len(LANDING)
    if story.action in ("grows", "shrinks"):
        return (len(GROWTH) - 1) * GROWTH_HOLD if is_in_larger_world(story) else SIZE_FRAMES
    return None


def zoom_at(story: Story, t: int) -> float:
    """How much larger than usual the camera shows a story at frame t."""
    done = min(max(0, t) // ZOOM_HOLD * ZOOM_HOLD, ZOOM_FRAMES) / ZOOM_FRAMES
    return 1 + (ZOOMED - 1) * {"zoom in": done, "zoom out": 1 - done}.get(story.camera, 0)


def pose_at(story: Story, t: int, column: int) -> Pose:
    """The pose of a story's sprite at frame t of an action that began in this column, on a frame without edges.

    What travels has gone round the torus; the larger world's camera goes along with it instead (`followed`).
    Before frame 0 it is where, as large and as upright as in frame 0, but its legs and what it has along move.
    """
    motion = (ON_CELLS if is_in_larger_world(story) else MOTIONS)[story.action]
    if t < 0:
        going = motion(clock(story, t) % BEAT)
        pose = replace(motion(0), phase=going.phase, things=going.things)
    else:
        pose = motion(clock(story, t))
    return replace(pose, x=(pose.x - CENTRE + column) % SIZE)


def followed(story: Story, t: int) -> int:
    """Columns that the camera has gone along with who travels by frame t of an action: they stay in the picture."""
    way = TRAVELS.get(story.action, 0)
    if story.relation in RUNS:
        way = 0 if story.relation == "meets" else way or 1
    return way * SPEED * pace(story, max(0, t)) if is_in_larger_world(story) else 0


def idle(pose: Pose, t: int) -> Pose:
    """The pose of something alive: it blinks now and then, and breathes while it does nothing else."""
    rests = pose == replace(Pose(), x=pose.x, faces_left=pose.faces_left)
    return replace(
        pose, blinks=pose.blinks or t % BLINKS == BLINK_AT, breathes=pose.breathes or (rests and _second_half(t))
    )


def _second_half(t: int) -> bool:
    return t % BEAT >= BEAT // 2


def _stage(t: int) -> int:
    return min(t // GROWTH_HOLD, len(GROWTH) - 1)


def _size(t: int, first: int, last: int) -> int:
    """Scale step at frame t on the way from first to last."""
    steps = SIZE_FRAMES // SIZE_HOLD
    return first + (last - first) * min(t // SIZE_HOLD, steps) // steps
