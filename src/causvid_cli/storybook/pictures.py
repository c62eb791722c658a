"""What a picture shows: the place, and who stands there, of which the drawings are most like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .cast import SIZES, Actor, cast, scaled
from .motion import CENTRE, HOP, ON_CELLS, Pose
from .render import WATERLINE, brought, can_draw, coloured, corner, paste
from .scenes import SCENES, SIZE, Frame
from .skies import inks, panorama, scene_all_round
from .sprites import CYCLE, SCALE_STEPS
from .story import CHANGE, NATURAL, Story
from .vocabulary import VOCABULARY, Words

STEP = 2
"""Columns by which a camera has gone, at least."""
COARSE = 2
"""Every so manieth row and column is looked at first."""
CLOSE = 0.1
"""Skies that look alike but for what falls: their shares of pixels differ by less."""
START = 0.01
"""Share by which a place is more likely where a camera begins: without a sun, half of what is all round is the other
half mirrored."""
FOUND = 0.6
"""Share of a picture's pixels that have to be those of a place: who stands there hides the others."""
TOLD = 0.4
"""The same of those that are not of the place's commonest ink: a plain picture is nowhere."""
DROWNED = 0.2
"""Share of what is below the water line that is still seen of a scene where somebody swims, at most."""
RISES = tuple(sorted(set(HOP)))
"""How high somebody may be."""
MATCHED = 0.4
"""From which likeness on somebody is known: the share of pixels that are there or drawn and are both, times the share
of those drawn that are equal. What an action brings along hides some of the scene, too."""
CLEAR = 0.05
"""By how much who is known has to be more alike than anybody else."""
LOOKS = 8
"""Frames of everything that somebody may be doing, in which they are looked for."""
BESIDES = 40
"""Pixels of what else a picture shows from which on that is more than a fault of it."""
FINALISTS = 8
"""Shapes of which colours are looked at."""


class Place(NamedTuple):
    """Where something is."""

    scene: str
    sky: str
    mirrored: bool


class Who(NamedTuple):
    """Who is there, alone."""

    subject: str
    colour: str
    size: str


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a picture shows; who: None where nobody is known."""

    place: Place
    who: Who | None
    square: np.ndarray
    """Palette indices uint8 [SIZE, SIZE] of where actors stand in it."""
    is_somebody: np.ndarray
    """Where that is not what the place alone looks like, bool [SIZE, SIZE]."""

    def shows(self, story: Story) -> bool:
        """Whether those of whom a story tells are there, whatever they do: one, or several."""
        return any(self._likeness(actors) >= MATCHED for actors in self._poses(story))

    def has_more(self, story: Story) -> bool:
        """Whether there is more to be seen than the place, who is known there, and what they have along.

        story: of those who are there, where they are several.
        """
        if self.who:
            story = replace(story, **self.who._asdict(), count=1, relation=None, other=None, other_colour=NATURAL)
        return all(self._besides(actors) >= BESIDES for actors in self._poses(story))

    def _poses(self, story: Story) -> Iterator[tuple[Actor, ...]]:
        """Those of whom a story tells, in whatever they may be doing; nobody where they cannot be drawn."""
        for action in (name for name in ON_CELLS if name != CHANGE):
            told = replace(story, action=action, target=None, **self.place._asdict())
            if not can_draw(told):
                return
            yield from (cast(told, t, CENTRE) for t in range(LOOKS))

    def _likeness(self, actors: Sequence[Actor]) -> float:
        """How alike these are, each where it hides the others, the least alike of them."""
        drawn, whose = np.zeros_like(self.square), np.zeros_like(self.square)
        for number, actor in enumerate(actors, 1):
            paste(drawn, whose, actor, what=number)
        mask = whose > 0
        if not mask.any():
            return 0.0
        overlap = (mask & self.is_somebody).sum() / (mask | self.is_somebody).sum()
        return float(overlap * min((drawn == self.square)[whose == number].mean() for number in np.unique(whose[mask])))

    def _besides(self, actors: Sequence[Actor]) -> int:
        """Pixels that are neither the place nor these, nor single ones: more than half of those around are so, too."""
        drawn, whose = np.zeros_like(self.square), np.zeros_like(self.square)
        along = (brought(actor, thing, SIZE) for actor in actors for thing in actor.pose.things)
        for each in (*actors, *along):
            paste(drawn, whose, each)
        rest = np.pad(self.is_somebody & (whose == 0), 1)
        around = np.lib.stride_tricks.sliding_window_view(rest, (3, 3)).sum(axis=(2, 3))
        return int((rest[1:-1, 1:-1] & (around > 5)).sum())


def recognise(picture: np.ndarray, words: Words) -> Recognised | None:
    """What a picture shows, of what words name; None where it looks like no place of theirs.

    picture: palette indices uint8 [H, W], of which the square is looked at that actors stand in.
    """
    height, width = picture.shape
    if not all(SIZE <= side <= 2 * SIZE for side in picture.shape):
        return None
    top, left = Frame(width, height).above, (width - SIZE) // 2
    square = picture[top : top + SIZE, left : left + SIZE]
    found = _place(square, words)
    if found is None:
        return None
    place, scene = found
    is_somebody = square != scene
    is_somebody[_above_water(square, scene).stop :] = False
    return Recognised(place, _who(square, is_somebody, words), square, is_somebody)


def _place(picture: np.ndarray, words: Words) -> tuple[Place, np.ndarray] | None:
    """The place of a square, and its bare scene from where the camera has come to, uint8 [SIZE, SIZE]."""
    columns = np.arange(0, 2 * SIZE, STEP)[:, None] + np.arange(0, SIZE, COARSE)  # [places, w]
    coarse, likeness = picture[::COARSE, None, ::COARSE], dict[tuple[Place, int], float]()
    for scene in (name for name in words["scene"] if name in SCENES):
        around = scene_all_round(scene)[::COARSE]
        for sky in words.get("sky", ("day",)):
            if (scene, sky) == ("street", "night") and "night city" in words["scene"]:
                continue  # told as the night city
            painted = inks(sky)[around]
            for mirrored, cells in ((False, painted), (True, np.roll(painted[:, ::-1], SIZE, axis=1))):
                same = (cells[:, columns % (2 * SIZE)] == coarse).mean(axis=(0, 2))
                same[0] += START
                likeness[Place(scene, sky, mirrored), STEP * int(same.argmax())] = float(same.max())
    if not likeness:
        return None
    (best, _), share = max(likeness.items(), key=lambda item: item[1])
    found = dict[Place, tuple[float, np.ndarray | None]]()
    for (place, pan), like in likeness.items():
        if place.scene == best.scene and like > share - CLOSE:
            seen = panorama(*place)[..., (np.arange(SIZE) + pan) % (2 * SIZE)]
            frame = seen[(seen == picture).mean(axis=(1, 2)).argmax()]
            dry = _above_water(picture, frame)
            same, told = (frame == picture)[dry], (frame != np.bincount(frame[dry].ravel()).argmax())[dry]
            is_found = same.mean() >= FOUND and same[told].mean() >= TOLD
            found[place] = float(same.mean()) + (0 if pan else START), frame if is_found else None
    place = max(found, key=lambda place: found[place][0])
    _, frame = found[place]
    return None if frame is None else (place, frame)


def _above_water(picture: np.ndarray, scene: np.ndarray) -> slice:
    """The rows of a square that tell of a scene: where somebody swims, all but those that are water."""
    is_flooded = (picture == scene)[WATERLINE:].mean() < DROWNED
    return slice(WATERLINE if is_flooded else SIZE)


def _who(picture: np.ndarray, there: np.ndarray, words: Words) -> Who | None:
    """Who is in a square, where `there` says that it is no scene: one, in the middle, where nobody stands of two.

    None where it is nobody whom words name: of all that can be drawn, another is more alike.
    """
    shapes = list[tuple[float, Actor, str]]()
    for subject in VOCABULARY.subjects:
        for size in (name for name in words.get("size", ("normal",)) if name in SIZES):
            for left in (False, True):
                pose = Pose(scale_step=scaled(SCALE_STEPS, SIZES[size]), faces_left=left)
                shapes.append((*_placed(Actor(subject, NATURAL, pose), there), size))
    colours = sorted((name for name in words.get("colour", ()) if name in VOCABULARY.colour), key=NATURAL.__ne__)
    alike = dict[str, tuple[float, Who]]()
    for _, shape, size in sorted(shapes, key=lambda each: -each[0])[:FINALISTS]:
        for phase in range(CYCLE):
            overlap, actor = _placed(replace(shape, pose=replace(shape.pose, phase=phase)), there)
            for colour in colours or [NATURAL]:
                like = overlap * _likeness(replace(actor, colour=colour), picture)
                if like > alike.get(actor.subject, (0.0,))[0]:
                    alike[actor.subject] = like, Who(actor.subject, colour, size)
    if not alike:
        return None
    (best, who), *others = sorted(alike.values(), reverse=True)
    is_clear = best >= MATCHED and all(best - like >= CLEAR for like, _ in others)
    return who if is_clear and who.subject in words["subject"] else None


def _placed(actor: Actor, there: np.ndarray) -> tuple[float, Actor]:
    """An actor as high as it hides most of what is there and least besides, and the share of both that both have."""
    mask = coloured(actor)[1]
    (height, width), (top, left) = mask.shape, corner(replace(actor, pose=replace(actor.pose, rise=0)))
    around = np.pad(there, SIZE)[:, SIZE + left :][:, :width]
    both = np.array([np.count_nonzero(around[SIZE + top - rise :][:height] & mask) for rise in RISES])
    shares = both / (mask.sum() + there.sum() - both)
    return float(shares.max()), replace(actor, pose=replace(actor.pose, rise=RISES[int(shares.argmax())]))


def _likeness(actor: Actor, picture: np.ndarray) -> float:
    """Share of an actor's pixels that are those of a square."""
    drawn, mask = coloured(actor)
    top, left = corner(actor)
    window = np.pad(picture, SIZE)[SIZE + top :, SIZE + left :][: mask.shape[0], : mask.shape[1]]
    return float((window == drawn)[mask].mean()) if mask.any() else 0.0
