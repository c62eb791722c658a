"""Who is seen in one frame of a story, where, and how: one actor, two that have to do with each other, or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from .motion import (
    CELL,
    CENTRE,
    MEETING,
    MOTIONS,
    SPEED,
    START,
    TRAVELS,
    Pose,
    clock,
    idle,
    is_in_larger_world,
    pace,
    pose_at,
    zoom_at,
)
from .scenes import SIZE
from .sprites import CYCLE, SCALE_STEPS, sprite
from .story import Story
from .vocabulary import VOCABULARY

SIZES = {"normal": 1.0, "small": 0.5, "big": 1.25}
CROWDS = {1: (1.0, (0,)), 2: (0.75, (-16, 16)), 3: (0.5, (-16, 0, 16))}
"""For each count, the size of each, and where they stand."""
PAIR = 0.75
"""Size of each of two."""
APART = 16
"""Columns from the middle of two to the middle of each."""
AFTER = ("follows", "chases")
"""Relations of which the first is after the other; who chases is twice as fast."""
BEHIND = (-8, 8)
"""Columns and rows by which one stands behind the other."""
SCALES = 10
"""Scale steps between the sizes of sprites; none is smaller than two of them."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is painted how."""

    subject: str
    colour: str
    pose: Pose


def cast(story: Story, t: int, column: int, width: int = SIZE) -> tuple[Actor, ...]:
    """The actors of frame t of a story that began in a column, the farthest first; nobody in a bare scene.

    Before frame 0 they are where they will begin: who is going to walk left looks there, and walks on the spot.
    """
    if story.subject is None:
        return ()
    if not is_in_larger_world(story):
        return (_actor(story, pose_at(story, t, column)),)
    if story.other is not None:
        return _pair(story, t, width)
    size, places = CROWDS[story.count]
    factor = size * _size(story)
    lead = _placed(story, t, column, factor, max(places), width)
    factor *= zoom_at(story, t)
    behind_first = places[::-1] if story.action == "moves left" else places
    return tuple(_actor(story, _as_member(story, lead, t, factor, place, places)) for place in behind_first)


def begins(story: Story, width: int = SIZE) -> int:
    """The column in which a story begins when nothing was before it."""
    return width // 2 if is_in_larger_world(story) else START.get(story.action, CENTRE)


@cache
def half_width(subject: str, scale_step: int) -> int:
    """Columns that a sprite needs on either side of its middle, in every phase."""
    return max(sprite(subject, phase, scale_step).shape[1] // 2 for phase in range(CYCLE))


def _actor(story: Story, pose: Pose) -> Actor:
    subject = story.target if pose.is_target else story.subject
    assert subject is not None
    return Actor(subject, story.colour, pose)


def _placed(story: Story, t: int, column: int, factor: float, reach: int, width: int) -> Pose:
    """The pose of the middle of one or of several, `reach` columns to either side, within the frame.

    Who travels stays: the camera goes along. A step aside, in a dance, may leave it.
    """
    assert story.subject is not None
    half = min(half_width(story.subject, scaled(SCALE_STEPS, factor)) + reach, width // 2 - 1)
    place = on_cells(min(max(column, half), width - half))
    return replace(pose_at(story, t, CENTRE), x=place + _aside(story, t))


def _aside(story: Story, t: int) -> int:
    """Columns that who acts has stepped aside."""
    return 0 if story.action in TRAVELS else pose_at(story, t, CENTRE).x - CENTRE


def _as_member(story: Story, lead: Pose, t: int, factor: float, place: int, places: Sequence[int]) -> Pose:
    """The pose of one of several, `place` columns from the middle; one of them has what their action brings along."""
    pose = replace(lead, x=lead.x + place, scale_step=scaled(lead.scale_step, factor))
    if place != places[len(places) // 2]:
        pose = replace(pose, things=())
    return _living(story.target if pose.is_target else story.subject, pose, t)


def _living(subject: str | None, pose: Pose, t: int) -> Pose:
    return idle(pose, max(0, t)) if subject is not None and VOCABULARY.subject[subject].alive else pose


def _size(story: Story) -> float:
    """How large the first of a story is; who grows or shrinks comes from a size, and goes to another, in any case."""
    return 1.0 if story.action in ("grows", "shrinks") else SIZES[story.size]


def scaled(scale_step: int, factor: float) -> int:
    """The size that is nearest to so many times a size."""
    return max(2, int(scale_step * factor / SCALES + 0.5)) * SCALES


def on_cells(place: float) -> int:
    """The place on the grid of cells that is nearest."""
    return int(place / CELL + 0.5) * CELL


def _pair(story: Story, t: int, width: int) -> tuple[Actor, ...]:
    assert story.subject is not None and story.other is not None
    factors, zoom, centre = (PAIR * _size(story), PAIR), zoom_at(story, t), width // 2
    size, other_size = (scaled(SCALE_STEPS, factor * zoom) for factor in factors)
    if story.relation == "meets":
        gone = min(SPEED * clock(story, max(0, t)), MEETING)
        walking = MOTIONS["moves right"](clock(story, t)) if gone < MEETING else Pose()
        left = replace(walking, x=centre - APART + gone, scale_step=size)
        right = replace(walking, x=centre + APART - gone, scale_step=other_size, faces_left=True)
        return _actor(story, _living(story.subject, left, t)), _other(story, right, t)
    if story.relation in AFTER:
        to_left = story.action == "moves left"
        walking = MOTIONS["moves left" if to_left else "moves right"](pace(story, t))
        apart = -APART if to_left else APART
        after = replace(walking, x=centre - apart, scale_step=size)
        ahead = replace(walking, x=centre + apart, scale_step=other_size)
        return _other(story, ahead, t), _actor(story, _living(story.subject, after, t))
    dx, rise = BEHIND if story.relation == "behind" else (-APART if story.relation == "left of" else APART, 0)
    lead = _placed(story, t, centre, factors[0], abs(dx), width)
    if story.action == "moves left" and story.relation == "behind":
        dx = -dx
    own_pose = replace(
        lead, x=lead.x + dx, rise=lead.rise + rise, scale_step=scaled(lead.scale_step, factors[0] * zoom)
    )
    still = lead if story.action in TRAVELS else Pose()
    other = replace(still, x=lead.x - _aside(story, t) - dx, scale_step=other_size, sink=lead.sink)
    return _actor(story, _living(story.subject, own_pose, t)), _other(story, other, t)


def _other(story: Story, pose: Pose, t: int) -> Actor:
    assert story.other is not None
    return Actor(story.other, story.other_colour, _living(story.other, pose, t + 4))
