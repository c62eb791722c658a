"""Who is seen in one frame of a story, where, and how: one actor, two that have to do with each other, or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from .motion import (
    CELL,
    CENTRE,
    MOTIONS,
    SPEED,
    START,
    TRAVELS,
    Pose,
    clock,
    idle,
    is_in_larger_world,
    pose_at,
    turned,
    zoom_at,
)
from .scenes import SIZE
from .sprites import CYCLE, SCALE_STEPS, sprite
from .story import Story
from .vocabulary import VOCABULARY

SIZES = {"normal": 1.0, "small": 0.5, "big": 1.25}
CROWDS = {1: (1.0, (0,)), 2: (0.75, (-16, 16)), 3: (0.5, (-16, 0, 16))}
"""For each count, the size of each, and where they stand."""
PAIR, RUNNING_PAIR = 0.75, 0.5
"""Size of each of two: of those who stand to each other, and of those who go after each other."""
APART = 16
"""Columns from the middle of two to the middle of each."""
RUNS = ("meets", "follows", "chases")
"""Relations that are motions themselves, whatever the action."""
LAGS = {"follows": 12, "chases": 8}
"""Frames by which one is after the other."""
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

    Before frame 0 they stand as they will begin: who is going to walk left looks there.
    """
    if story.subject is None:
        return ()
    t = max(0, t)
    if not is_in_larger_world(story):
        return (_actor(story, pose_at(story, t, column)),)
    if story.other is not None:
        return _pair(story, t, column, width)
    size, places = CROWDS[story.count]
    factor = size * _size(story)
    lead = _travel(story, t, column, factor, max(places), width)
    factor *= zoom_at(story, t)
    return tuple(_actor(story, _as_member(story, lead, t, factor, place, places)) for place in places)


def begins(story: Story, width: int = SIZE) -> int:
    """The column in which a story begins when nothing was before it."""
    column = START.get(story.action, CENTRE)
    return column * width // SIZE if column == CENTRE else column + (width - SIZE) * (column > CENTRE)


def turns_of(story: Story, frames: int) -> list[int]:
    """The frames among the first of a story's video in which somebody looks the other way than the frame before."""
    looks = [[actor.pose.faces_left for actor in cast(story, t, begins(story))] for t in range(frames)]
    return [t for t in range(1, frames) if looks[t] != looks[t - 1]]


@cache
def half_width(subject: str, scale_step: int) -> int:
    """Columns that a sprite needs on either side of its middle, in every phase."""
    return max(sprite(subject, phase, scale_step).shape[1] // 2 for phase in range(CYCLE))


def _actor(story: Story, pose: Pose) -> Actor:
    subject = story.target if pose.is_target else story.subject
    assert subject is not None
    return Actor(subject, story.colour, pose)


def _travel(story: Story, t: int, column: int, factor: float, reach: int, width: int) -> Pose:
    """The pose of the middle of one or of several, `reach` columns to either side; turned at the edges."""
    assert story.subject is not None
    pose = pose_at(story, t, column)
    half = half_width(story.subject, _scaled(SCALE_STEPS, factor)) + reach
    if story.action in TRAVELS:
        half = min(_to_turn(half), width // 2 - CELL)
        return turned(pose, column=on_cells(column), t=clock(story, t), half=half, width=width)
    half = min(half, width // 2 - 1)
    return replace(pose, x=on_cells(min(max(column, half), width - half)))


def _as_member(story: Story, lead: Pose, t: int, factor: float, place: int, places: Sequence[int]) -> Pose:
    """The pose of one of several, `place` columns from the middle; one of them has what their action brings along."""
    pose = replace(lead, x=lead.x + place, scale_step=_scaled(lead.scale_step, factor))
    if place != places[len(places) // 2]:
        pose = replace(pose, things=())
    return _living(story.target if pose.is_target else story.subject, pose, t)


def _living(subject: str | None, pose: Pose, t: int) -> Pose:
    return idle(pose, t) if subject is not None and VOCABULARY.subject[subject].alive else pose


def _size(story: Story) -> float:
    """How large the first of a story is; who grows or shrinks comes from a size, and goes to another, in any case."""
    return 1.0 if story.action in ("grows", "shrinks") else SIZES[story.size]


def _scaled(scale_step: int, factor: float) -> int:
    return max(2, int(scale_step * factor / SCALES + 0.5)) * SCALES


def on_cells(place: float) -> int:
    """The place on the grid of cells that is nearest."""
    return int(place / CELL + 0.5) * CELL


def _to_turn(half: int) -> int:
    """Columns from a frame's edge to the middle of what turns there; a little of what is wide leaves the frame."""
    return (half + CELL // 2 - 1) // CELL * CELL


def _pair(story: Story, t: int, column: int, width: int) -> tuple[Actor, ...]:
    assert story.subject is not None and story.other is not None
    pair = RUNNING_PAIR if story.relation in RUNS else PAIR
    factors, zoom, centre = (pair * _size(story), pair), zoom_at(story, t), width // 2
    names = story.subject, story.other
    halves = [half_width(name, _scaled(SCALE_STEPS, factor)) for name, factor in zip(names, factors, strict=True)]
    size, other_size = (_scaled(SCALE_STEPS, factor * zoom) for factor in factors)
    if story.relation == "meets":
        gone = CELL + SPEED * clock(story, t)
        walking = MOTIONS["moves right"](clock(story, t))
        if gone >= centre - CELL:
            gone, walking = centre - CELL, Pose()
        left = replace(walking, x=gone, scale_step=size)
        right = replace(walking, x=width - gone, scale_step=other_size, faces_left=True)
        return _actor(story, _living(story.subject, left, t)), _other(story, right, t)
    if story.relation in LAGS:
        own, others = map(_to_turn, halves)
        lag = LAGS[story.relation]
        pace = clock(story, t) * (2 if story.relation == "chases" else 1)
        way = "moves left" if story.action == "moves left" else "moves right"
        walking = MOTIONS[way](pace)
        first = width - others - SPEED * lag if way == "moves left" else others + SPEED * lag
        ahead = turned(walking, column=first, t=pace, half=others, width=width)
        after = turned(walking, column=width - own if way == "moves left" else own, t=pace, half=own, width=width)
        after, ahead = replace(after, scale_step=size), replace(ahead, scale_step=other_size)
        return _other(story, ahead, t), _actor(story, _living(story.subject, after, t))
    dx, rise = BEHIND if story.relation == "behind" else (-APART if story.relation == "left of" else APART, 0)
    lead = _travel(story, t, column if story.action in TRAVELS else centre, factors[0], abs(dx), width)
    own_pose = replace(
        lead, x=lead.x + dx, rise=lead.rise + rise, scale_step=_scaled(lead.scale_step, factors[0] * zoom)
    )
    still = lead if story.action in TRAVELS else Pose(x=lead.x)
    other = replace(still, x=lead.x - dx, scale_step=other_size, sink=lead.sink)
    return _actor(story, _living(story.subject, own_pose, t)), _other(story, other, t)


def _other(story: Story, pose: Pose, t: int) -> Actor:
    assert story.other is not None
    return Actor(story.other, story.other_colour, _living(story.other, pose, t + 4))
