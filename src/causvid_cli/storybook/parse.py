"""Free English to a Story: kind to word forms and synonyms, and open about words it does not know."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import get_args

from .lexicon import LEXICON, Kind, Lexicon, Meaning
from .story import PackStory, Story
from .vocabulary import VOCABULARY

CHANGE, STILL, NATURAL, BARE_SCENE = "turns into", "stays still", "natural", "meadow"
KINDS = (*get_args(Kind), "target")
REPORTED_KINDS = ("subject", "target", "colour", "ramp", "scene", "action")
"""Kinds of words whose names are reported when they find no place in the story."""
MAX_REPORTED = 8
"""Names kept of one kind, and unknown words reported: each of these costs a search for near names."""
MAX_WORD = 32
"""Letters of an unknown word that are shown and compared."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_BUILT_IN = {*VOCABULARY.subjects, *VOCABULARY.colours, *VOCABULARY.scenes, *VOCABULARY.actions}


@dataclass(frozen=True, slots=True)
class UnknownWord:
    """A word outside the vocabulary. near: known names that are spelled alike, best first; may be empty."""

    word: str
    near: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a prompt was understood to say."""

    story: Story
    unknown: tuple[UnknownWord, ...]
    """The first 8 distinct words without a meaning."""
    filled: tuple[str, ...]
    """Slots the prompt did not say: "subject", "scene", "action", "colour"."""
    unused: tuple[str, ...] = ()
    """Known names that found no place, such as a second colour, or "turns into" without a target."""
    understood: bool = True
    """Whether any word of it means something: articles and the like do not count."""


def parse(text: str, previous: Story | None = None, lexicon: Lexicon = LEXICON) -> Parsed:
    """The story a text tells; slots it leaves open come from the previous story, or else from defaults.

    Takes any string and never raises. After "turns into", a subject left open is what the previous one became.
    A second subject is the target only after a transform verb; without a known target the action is "stays still".
    With a model's own words in the lexicon the story may be a `PackStory`.
    """
    said: dict[str, list[str]] = {kind: [] for kind in KINDS}
    unknown: list[str] = []
    for words, meaning in _phrases(text, lexicon):
        if meaning is None:
            kind, name, names = "unknown", words, unknown
        else:
            is_target = meaning.kind == "subject" and CHANGE in said["action"]
            kind, name = "target" if is_target else meaning.kind, meaning.name
            names = said[kind]
        if name not in names and len(names) < MAX_REPORTED:
            names.append(name)
    story, filled, used = _tell(said, previous)
    unused = [name for kind in REPORTED_KINDS for name in said[kind] if name not in used]
    understood = any(names for kind, names in said.items() if kind != "ignored")
    near = tuple(UnknownWord(word, _near(word, lexicon)) for word in unknown)
    return Parsed(story, near, filled, tuple(unused), understood)


def _phrases(text: str, lexicon: Lexicon) -> Iterator[tuple[str, Meaning | None]]:
    """The text's phrases in order, the longest known one at each place; None as meaning of an unknown word."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    words = [word.removesuffix("'s") for word in _WORD.findall(plain)]
    place = 0
    while place < len(words):
        for count in range(min(lexicon.longest, len(words) - place), 0, -1):
            phrase = tuple(words[place : place + count])
            if meaning := lexicon.phrases.get(phrase):
                yield " ".join(phrase), meaning
                break
        else:
            yield words[place][:MAX_WORD], None
        place += count  # 1 after an unknown word


def _tell(said: dict[str, list[str]], previous: Story | None) -> tuple[Story, tuple[str, ...], set[str]]:
    """The story, the slots that were not said, and the names that went into it."""
    subject, target, scene = _first(said["subject"]), _first(said["target"]), _scene(said["scene"])
    action = _action(said, target)
    if subject is None and said["nobody"]:
        return _bare(scene or (previous.scene if previous else BARE_SCENE)), () if scene else ("scene",), {scene or ""}
    filled = [slot for slot, name in (("subject", subject), ("scene", scene), ("action", action)) if name is None]
    if action is None and previous and (subject is None or previous.target is None):
        action, target = previous.action, previous.target
        subject = subject or previous.subject
    elif subject is None and previous:
        subject = previous.target or previous.subject
    elif subject is None and action == CHANGE:
        subject, action, target = target, STILL, None  # "it becomes a swan", and nobody knows what it was
    if subject is None:
        return _bare(scene or (previous.scene if previous else BARE_SCENE)), (*filled,), {scene or ""}
    colour = _colour(said, subject)
    filled += ["colour"] if colour is None else []
    story = _story(
        subject,
        colour or (previous.colour if previous else NATURAL),
        scene or (previous.scene if previous else _home(subject)),
        action or STILL,
        target if action == CHANGE else None,
    )
    return story, tuple(filled), {subject, story.colour, story.scene, story.action, target or ""}


def _action(said: dict[str, list[str]], target: str | None) -> str | None:
    """The action said: a change that has a target, else the first one, else a movement in its direction."""
    others = [name for name in said["action"] if name != CHANGE]
    direction = _first(said["direction"])
    if CHANGE in said["action"] and target:
        return CHANGE
    if others:
        return others[0]
    if direction:
        return {"left": "moves left", "right": "moves right", "up": "flies up"}[direction]
    if said["movement"]:
        return "moves right"
    return STILL if CHANGE in said["action"] else None


def _scene(names: list[str]) -> str | None:
    """The first scene said; "on the street ... at night" is the night city."""
    return "night city" if set(names) == {"street", "night city"} else _first(names)


def _colour(said: dict[str, list[str]], subject: str) -> str | None:
    """The first colour said. "a white swan" is a natural one: white, brown and grey are words for nothing else."""
    if said["colour"]:
        return said["colour"][0]
    own = VOCABULARY.subject[subject].natural if subject in VOCABULARY.subject else ()
    return NATURAL if any(tone.startswith(f"{ramp}.") for ramp in said["ramp"] for tone in own) else None


def _bare(scene: str) -> Story:
    """A scene without a subject."""
    return _story(None, NATURAL, scene, STILL)


def _home(subject: str) -> str:
    """Where a subject is when nothing is said of that."""
    return VOCABULARY.subject[subject].scene if subject in VOCABULARY.subject else BARE_SCENE


def _story(*names: str | None) -> Story:
    """The story of these names, of which some may be a model's own."""
    kind = Story if all(name is None or name in _BUILT_IN for name in names) else PackStory
    return kind(*names)  # type: ignore[arg-type]


def _first(names: list[str]) -> str | None:
    return names[0] if names else None


@lru_cache(maxsize=256)
def _near(word: str, lexicon: Lexicon) -> tuple[str, ...]:
    """Known names spelled like a word, best first, three at most."""
    cutoff = 0.66 if len(word) <= 3 else 0.75  # "cra" shares two letters of three with "car"
    near = get_close_matches(word, lexicon.near_names, n=5, cutoff=cutoff)
    names = [lexicon.near_names[known] for known in near]
    return tuple(dict.fromkeys(names))[:3]
