"""Random stories and random wordings of them: the captions a model is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .story import FIRST_WORDS, SLOTS, Story, with_article
from .vocabulary import VOCABULARY, Words

EMPTY_SHARE, NATURAL_SHARE = 0.03, 0.25
ORDINARY = {"size": 0.7, "speed": 0.75, "count": 0.8, "relation": 0.8, "sky": 0.55, "camera": 0.75}
"""How often a slot says nothing special."""
CANONICAL_SHARE = 0.4
"""Share of prompts that are the plain caption."""


def sample_story(rng: np.random.Generator, words: Words = FIRST_WORDS) -> Story:
    """A random story in these words: uniform over subjects, scenes, actions and targets; a quarter in natural colours.

    3 % are bare scenes. A slot that the words do not tell is ordinary; the others mostly are (`ORDINARY`).
    """
    scene = _pick(rng, words["scene"])
    around = {slot: _more(rng, words, slot) for slot in ("sky", "camera")}
    around["mirrored"] = bool(rng.integers(2)) if "mirrored" in words else None
    around["edge"] = "turns" if "mirrored" in words else "wraps"
    if rng.random() < EMPTY_SHARE:
        return Story(None, "natural", scene, "stays still", **around)
    subject, action = _pick(rng, words["subject"]), _pick(rng, words["action"])
    colour = _colour(rng, words["colour"])
    others = [name for name in words["subject"] if name != subject]
    target = _pick(rng, others) if action == "turns into" else None
    about = {slot: _more(rng, words, slot) for slot in ("size", "speed", "count")}
    if about["count"] == 1 and (relation := _more(rng, words, "relation")):
        about |= {"relation": relation, "other": _pick(rng, words["other"])}
        about["other_colour"] = _colour(rng, words["other_colour"])
    return Story(subject, colour, scene, action, target, **about, **around)


def _colour(rng: np.random.Generator, known: Sequence[str]) -> str:
    painted = [name for name in known if name != "natural"]
    return "natural" if rng.random() < NATURAL_SHARE else _pick(rng, painted)


def _more(rng: np.random.Generator, words: Words, slot: str) -> Any:
    """What a story says in a slot that is mostly ordinary, and always is where the words do not tell it."""
    unusual = [word for word in words.get(slot, ()) if word != SLOTS[slot]]
    return _pick(rng, unusual) if unusual and rng.random() >= ORDINARY[slot] else SLOTS[slot]


def reword(story: Story, rng: np.random.Generator) -> str:
    """A way to say a story; parse(reword(story, rng)).story is the story again."""
    if story.subject is None or rng.random() < CANONICAL_SHARE:
        return story.caption()
    scene = VOCABULARY.scene[story.scene]
    noun = _pick(rng, _names(story.subject))
    if story.colour != "natural":
        noun = f"{_pick(rng, (story.colour, story.colour, *VOCABULARY.colour[story.colour].synonyms))} {noun}"
    noun = f"the {noun}" if rng.random() < 0.2 else with_article(noun)
    event = _predicate(story, rng)
    place = _pick(rng, (scene.place, scene.place, *scene.says))
    if story.scene == VOCABULARY.subject[story.subject].scene and rng.random() < 0.3:
        text = f"{noun} {event}".strip()  # left out, it is filled in again
    elif rng.random() < 0.15 and event:
        text = f"{place}, {noun} {event}"
    else:
        text = " ".join(part for part in (noun, event, place) if part)
    return f"{text[0].upper()}{text[1:]}." if rng.random() < 0.2 else text


def _predicate(story: Story, rng: np.random.Generator) -> str:
    """What the subject does; sometimes nothing for "stays still"."""
    assert story.subject is not None
    says = (story.action, *VOCABULARY.action[story.action].says)
    if story.target is not None:
        return f"{_pick(rng, says)} {with_article(_pick(rng, _names(story.target)))}"
    if story.action in ("moves right", "moves left"):
        side = story.action.removeprefix("moves ")
        verb = _pick(rng, VOCABULARY.subject[story.subject].moves)
        says = (*says, f"{verb} {side}", f"{verb} {side}", f"{verb} to the {side}")
        says = (*says, verb) if side == "right" else says
    return _pick(rng, (*says, "") if story.action == "stays still" else says)


def _names(subject: str) -> tuple[str, ...]:
    """The name, twice as likely as any synonym."""
    return (subject, subject, *VOCABULARY.subject[subject].synonyms)


def _pick(rng: np.random.Generator, names: Sequence[Any]) -> Any:
    return names[int(rng.integers(len(names)))]
