"""Random stories and random wordings of them: the captions a model is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .story import FIRST_WORDS, Story, with_article
from .vocabulary import VOCABULARY, Words

EMPTY_SHARE, NATURAL_SHARE = 0.03, 0.25
CANONICAL_SHARE = 0.4
"""Share of prompts that are the plain caption."""


def sample_story(rng: np.random.Generator, words: Words = FIRST_WORDS) -> Story:
    """A random story: uniform over subjects, scenes, actions and targets; a quarter in natural colours, 3 % bare."""
    scene = _pick(rng, words["scene"])
    if rng.random() < EMPTY_SHARE:
        return Story(None, "natural", scene, "stays still")
    subject, action = _pick(rng, words["subject"]), _pick(rng, words["action"])
    painted = [name for name in words["colour"] if name != "natural"]
    colour = "natural" if rng.random() < NATURAL_SHARE else _pick(rng, painted)
    others = [name for name in words["subject"] if name != subject]
    return Story(subject, colour, scene, action, _pick(rng, others) if action == "turns into" else None)


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


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
