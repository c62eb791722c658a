"""What can be seen of a story in a window of frames: which slots the judge is asked for, frame by frame, and the word.

The one place that says it, for training and for every figure. Two stories that draw the same frames are asked alike:
what has shrunk is small and stands, a natural car is red, a zoom out that is over is no zoom. What no frame of a window
can tell is UNSEEN, and left out of every count:

- the speed of what stands, has arrived or is done; the action of who meets, follows or chases another;
- what somebody will do who stays in their place before they act;
- the size of what grows or shrinks, and both while less than half of it is left to see;
- what turns into something, while it flashes; its target, unless the flash is in the window;
- which way a scene faces that looks alike both ways, or over which the camera goes or has gone;
- of fewer than SHORT frames: action, target, speed, camera, and who is who of two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from causvid_cli.storybook import ALL_WORDS, VOCABULARY, Shown, Story, Words, show_script
from causvid_cli.storybook.motion import (
    CHANGED,
    FLASH,
    LARGE,
    MEETING,
    RUNS,
    SHRUNK,
    SPEED,
    TRAVELS,
    ZOOM_FRAMES,
    clock,
    is_over_at,
)
from causvid_cli.storybook.skies import scene_frames
from causvid_cli.storybook.sprites import SCALE_STEPS

UNSEEN = "?"
"""In the place of a word: it cannot be seen."""
WINDOW = 32
"""Frames of a whole window."""
SHORT = 12
"""Fewer frames than these tell no motion."""
STILL = "stays still"
MOTION = ("action", "target", "speed", "camera")
TWO = ("subject", "colour", "relation", "other", "other_colour")
MET = MEETING // SPEED
"""Frames of an action after which who meets another has arrived."""
LATE = 64
"""The first frame in which a story has nothing left to do once."""
SEEN_SMALL, SEEN_BIG = 0.65, 1.2
"""Sizes up to and from which something is small, and big."""

Asked = Mapping[str, Sequence[Any]]
"""By slot, the word of each frame, or UNSEEN."""


def asked(shown: Sequence[Shown], numbers: Sequence[int], words: Words) -> Asked:
    """What is seen in frames of these numbers, which rise; words: those of the judge, by slot.

    Frames before the first story (a photo that is held) tell nothing.
    """
    rows: dict[str, list[Any]] = {slot: [UNSEEN] * len(numbers) for slot in words}
    ends = [*(each.first for each in shown[1:]), numbers[-1] + 1]
    for told, end in zip(shown, ends, strict=True):
        mine = [row for row, number in enumerate(numbers) if told.first <= number < end]
        if mine:
            times = [told.t(numbers[row]) for row in mine]
            seen = _seen(told, times, words)
            for slot, place in product(words, range(len(mine))):
                word = seen[slot][place] if times[place] >= 0 or slot not in MOTION else UNSEEN
                known = word in words[slot] or (word is None and None in ALL_NONE[slot])
                rows[slot][mine[place]] = word if known else UNSEEN
    return rows


def asked_late(story: Story, words: Words) -> dict[str, Any]:
    """The word of each slot when all that happens once has happened; a slot that cannot be seen then is left out."""
    rows = asked(show_script([(0, story)]), range(LATE, LATE + SHORT), words)
    return {slot: row[0] for slot, row in rows.items() if row[0] != UNSEEN}


ALL_NONE = {slot: (None,) if slot in ("target", "relation", "other") else () for slot in ALL_WORDS}
"""Slots in which nothing is something to see."""


def classes(words: Words) -> dict[str, tuple[Any, ...]]:
    """All that the judge may say, by slot."""
    return {slot: (*ALL_NONE[slot], *words[slot]) for slot in ALL_WORDS if slot in words}


def _seen(told: Shown, times: Sequence[int], words: Words) -> dict[str, list[Any]]:
    """By slot, the word of each frame of one story."""
    story, count = as_seen(told.story), len(times)
    is_short = times[-1] - times[0] + 1 < SHORT
    constant = {slot: getattr(story, slot) for slot in ALL_WORDS} | _doing(story, times[0], times[-1], words)
    seen = {slot: [word] * count for slot, word in constant.items()}
    names = [_subject(story, clock(story, t)) for t in times]
    seen["subject"], seen["colour"] = names, [_colour(name, story.colour, words) for name in names]
    seen["other_colour"] = [_colour(story.other or UNSEEN, story.other_colour, words)] * count
    alike = constant["action"] == STILL or story.action in TRAVELS
    if story.relation in ("left of", "right of") and alike and story.size == "normal":
        if story.relation == "right of":
            seen |= {"subject": seen["other"], "other": seen["subject"], "relation": ["left of"] * count}
            seen |= {"colour": seen["other_colour"], "other_colour": seen["colour"]}
    elif is_short and story.relation not in (None, "behind"):
        seen |= {slot: [UNSEEN] * count for slot in TWO}
    if is_short:
        seen |= {slot: [UNSEEN] * count for slot in MOTION}
    around = story.scene, story.sky, bool(story.mirrored)
    if _is_alike("sky", *around):
        seen["sky"] = [UNSEEN] * count
    if any(told.pan_at(t) for t in times) or story.mirrored is None or _is_alike("mirrored", *around):
        seen["mirrored"] = [UNSEEN] * count
    return seen


def _doing(story: Story, first: int, last: int, words: Words) -> dict[str, Any]:
    """What the frames first .. last of a story tell of what it does, how fast, how large it is, and of the camera."""
    since, until = clock(story, first), clock(story, last)
    found: dict[str, Any] = {"speed": UNSEEN if story.action == STILL else story.speed}
    if story.size != "big" and story.count == 3:
        found["size"] = UNSEEN  # as small as can be, in any case
    if story.camera == "zoom out" and first > ZOOM_FRAMES // 2:
        found["camera"] = "still" if first >= ZOOM_FRAMES else UNSEEN
    if story.relation in RUNS:
        arrives = story.relation == "meets" and since >= MET
        return found | {"action": UNSEEN, "target": None, "speed": UNSEEN if arrives else story.speed}
    done, end = {"speed": UNSEEN}, is_over_at(story)
    if story.action == "turns into":
        if until < FLASH or since >= CHANGED:
            return found | done | {"action": STILL, "target": None}
        whole = since < FLASH - 2 and until >= CHANGED + 2
        return found | ({} if whole else done | {"action": UNSEEN, "target": UNSEEN})
    if story.action == "falls" and since > 0:
        return found | done
    if end is None:
        return found
    has_size = "size" in words
    if since >= end:
        if story.action == "lands":
            return found | done | {"action": STILL}
        return found | done | {"action": STILL if has_size else story.action, "size": _grown(story)}
    if since > end // 2:
        found |= done | ({"action": UNSEEN} if has_size or story.action == "lands" else {})
    return found if story.action == "lands" else found | {"size": UNSEEN}


def _grown(story: Story) -> str:
    """How large something is that has grown, or shrunk."""
    now = (LARGE if story.action == "grows" else SHRUNK) / SCALE_STEPS
    return "small" if now <= SEEN_SMALL else "big" if now >= SEEN_BIG else UNSEEN


def as_seen(story: Story) -> Story:
    """A story told as it is seen: who walks beside another follows, or is followed; who follows fast chases."""
    if (story.relation, story.speed) == ("follows", "fast"):
        return replace(story, relation="chases", speed="normal")
    ahead = {"moves right": "right of", "moves left": "left of"}.get(story.action)
    if story.relation not in ("left of", "right of") or ahead is None:
        return story
    if story.relation != ahead:
        return as_seen(replace(story, relation="follows"))
    if story.size != "normal":  # it is of the first that a size is told
        return story
    other, other_colour = story.subject, story.colour
    story = replace(story, relation="follows", subject=story.other, colour=story.other_colour)
    return as_seen(replace(story, other=other, other_colour=other_colour))


def _subject(story: Story, frame: int) -> Any:
    """What is seen in a frame of the action."""
    if story.target is None or story.relation in RUNS or frame < FLASH:
        return story.subject
    return story.target if frame >= CHANGED else UNSEEN


def _colour(subject: str | None, colour: str, words: Words) -> str:
    """The colour word that fits what is seen: a natural car is a red car."""
    if subject not in VOCABULARY.subject:
        return UNSEEN
    if colour != "natural":
        return colour
    ramp = VOCABULARY.subject[subject].natural[1].split(".")[0]
    return ramp if ramp in words["colour"] else "natural"


@cache
def _is_alike(slot: str, scene: str, sky: str, mirrored: bool) -> bool:
    """Whether the scene would be the same under another word of a slot."""
    around: dict[str, Any] = {"scene": scene, "sky": sky, "mirrored": mirrored}
    others = (around | {slot: word} for word in ALL_WORDS[slot] if word != around[slot])
    own, *loops = (np.resize(loop, (16, *loop.shape[1:])) for loop in map(_loop, (around, *others)))
    return any(np.array_equal(own, loop) for loop in loops)


def _loop(around: Mapping[str, Any]) -> np.ndarray:
    return scene_frames(**around)
