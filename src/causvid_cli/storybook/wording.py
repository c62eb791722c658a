"""Random stories and random wordings of them: the captions a model is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .grammar import GRAMMAR
from .inflect import plain_verb, plural_of, third_person
from .lexicon import LEXICON, Meaning
from .story import FIRST_WORDS, NATURAL, RELATION_SAYS, SLOTS, Story, with_article
from .vocabulary import VOCABULARY, Words

EMPTY_SHARE, NATURAL_SHARE = 0.03, 0.25
ORDINARY = {"size": 0.8, "speed": 0.75, "count": 0.85, "relation": 0.85, "sky": 0.55, "camera": 0.75}
"""How often a slot says nothing special."""
CANONICAL_SHARE = 0.4
"""Share of prompts that are the plain caption."""


def sample_story(rng: np.random.Generator, words: Words = FIRST_WORDS) -> Story:
    """A random story in these words: uniform over subjects, scenes, actions and targets; a quarter in natural colours.

    3 % are bare scenes. A slot that the words do not tell is ordinary; the others mostly are (`ORDINARY`).
    """
    scene = _pick(rng, words["scene"])
    around = {slot: _more(rng, words, slot) for slot in ("sky", "camera")}
    if scene in ("street", "night city") and around["sky"] == "night":
        around["sky"] = "day"  # told as the night city
    around["mirrored"] = bool(rng.integers(2)) if "mirrored" in words else None
    around["edge"] = "open" if "mirrored" in words else "wraps"
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
    scene, rest = VOCABULARY.scene[story.scene or ""], _around(story, rng)
    size = "" if story.size == "normal" else _pick(rng, GRAMMAR.sizes[story.size][:3])
    noun = _noun(story.subject, story.colour, rng, size=size, several=story.count > 1)
    if story.count > 1:
        noun = f"{_pick(rng, _SEVERAL[story.count])} {noun}"
    else:
        noun = f"the {noun}" if rng.random() < 0.2 else with_article(noun)
    event, place = _event(story, rng), _pick(rng, (scene.place, scene.place, *scene.says))
    is_home = story.scene == VOCABULARY.subject[story.subject].scene
    if is_home and not story.relation and story.target is None and rng.random() < 0.3:
        text = f"{noun} {event}".strip()  # left out, it is filled in again
    elif rng.random() < 0.15 and event:
        text = f"{place}, {noun} {event}"
    else:
        text = " ".join(part for part in (noun, event, place) if part)
    text += rest
    return f"{text[0].upper()}{text[1:]}." if rng.random() < 0.2 else text


_SEVERAL = {2: ("two", "two", "2", "a pair of"), 3: ("three", "three", "3", "several", "a group of")}


def _around(story: Story, rng: np.random.Generator) -> str:
    """The sky and the camera."""
    ways = GRAMMAR.sky_says.get(story.sky or "")
    sky = f" {_pick(rng, ways)}" if ways else ""
    verb, *way = story.camera.split()
    moves = f"{third_person(verb)} {' '.join(way)}"
    cameras = (f", {story.camera}", f", the camera {moves}", f" while the camera {moves}")
    return sky + ("" if story.camera == "still" else _pick(rng, cameras))


def _noun(subject: str, colour: str, rng: np.random.Generator, *, size: str = "", several: bool = False) -> str:
    name = _pick(rng, _names(subject))
    tint = "" if colour == NATURAL else _pick(rng, (colour, colour, *VOCABULARY.colour[colour].synonyms))
    return " ".join(word for word in (size, tint, plural_of(name) if several else name) if word)


def _event(story: Story, rng: np.random.Generator) -> str:
    """What the subject does, how fast and with whom; sometimes nothing for "stays still"."""
    does = _predicate(story, rng)
    if story.count > 1 and does:
        does = " ".join((_of_several(does.split()[0]), *does.split()[1:]))
    parts = [does or (story.action if story.speed != "normal" or story.relation else "")]
    if story.target is not None:
        parts.append(with_article(_noun(story.target, NATURAL, rng)))
    if story.speed != "normal":
        parts.append(_pick(rng, _PACES[story.speed]))
    if story.relation and story.other:
        parts += [RELATION_SAYS[story.relation], with_article(_noun(story.other, story.other_colour, rng))]
    return " ".join(part for part in parts if part)


_PACES = {"slowly": ("slowly", "slowly", "leisurely", "in slow motion"), "fast": ("fast", "quickly", "at full speed")}


def _of_several(verb: str) -> str:
    """A verb's form after a plural: is -> are, jumps -> jump."""
    known = {"is": "are", "has": "have", "does": "do", "boogies": "boogie"}
    return known.get(verb) or plain_verb(verb)


def _predicate(story: Story, rng: np.random.Generator) -> str:
    """What the subject does; sometimes nothing for "stays still"."""
    assert story.subject is not None
    says = (story.action, *VOCABULARY.action[story.action].says)
    if story.action in ("moves right", "moves left"):
        side = story.action.removeprefix("moves ")
        verb = _pick(rng, VOCABULARY.subject[story.subject].moves)
        says = (*says, f"{verb} {side}", f"{verb} {side}", f"{verb} to the {side}")
        is_movement = all(meaning.kind != "action" for meaning in LEXICON.phrases.get((verb,), ()))
        says = (*says, verb) if side == "right" and is_movement else says
    return _pick(rng, (*says, "") if story.action == "stays still" else says)


@cache
def _names(subject: str) -> tuple[str, ...]:
    """The name, twice as likely as any synonym that means this subject and no other."""
    means = Meaning("subject", subject)
    named = (name for name in VOCABULARY.subject[subject].synonyms if LEXICON.phrases[tuple(name.split())][0] == means)
    return (subject, subject, *named)


def _pick(rng: np.random.Generator, names: Sequence[Any]) -> Any:
    return names[int(rng.integers(len(names)))]
