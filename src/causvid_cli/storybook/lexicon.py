"""Every word and phrase that a prompt may use, with what it means; built once from the vocabulary and the grammar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

from .grammar import GRAMMAR
from .inflect import plain_verb, plural_of, verb_forms
from .kinds import Kinds
from .story import ALL_WORDS, FIRST_WORDS
from .vocabulary import VOCABULARY, Words

Kind = Literal[
    "subject", "colour", "scene", "action", "size", "speed", "sky", "camera", "count", "relation", "movement",
    "direction", "nobody", "negation", "then", "meanwhile", "also", "determiner", "pronoun", "preposition", "of",
    "ignored",
]  # fmt: skip
Phrase = tuple[str, ...]
NAMED: tuple[Kind, ...] = ("subject", "colour", "scene", "action")
"""Kinds of words that have names; a model may have more of them than the vocabulary."""
SPELT: tuple[Kind, ...] = (*NAMED, "movement", "sky")
"""Kinds of words whose misspellings are corrected."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a phrase stands for: kind "subject" and name "cat"; a name is empty where the kind says all."""

    kind: Kind
    name: str = ""
    plural: bool = False


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Phrases, as tuples of lower-case words, with their meanings, and the words that a pack knows."""

    phrases: Mapping[Phrase, tuple[Meaning, ...]]
    """Several meanings where it depends on what stands around: a tree is a subject, and among trees is the forest."""
    words: Words
    longest: int = field(init=False)
    """Words of the longest phrase."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", max(map(len, self.phrases)))

    @classmethod
    def of(cls, words: Words) -> Lexicon:
        """What a prompt may say to a pack that knows these words; some may be its own, outside the vocabulary.

        All words of the storybook are understood; `shown` says what the pack has for those that it does not know.
        """
        return _lexicon(tuple((kind, tuple(names)) for kind, names in words.items()))

    def shown(self, kind: Kind, name: str, said: str) -> str | None:
        """What the pack shows for a name: itself, or what is nearest of what it knows; None where nothing is near."""
        known = self.words[kind]
        if name in known or kind not in ("subject", "scene"):
            return name if name in known else None
        alike = GRAMMAR.alike.get(said) or GRAMMAR.alike.get(name)
        while alike and alike not in known and alike in GRAMMAR.alike:  # a fairy is like a princess, she like a girl
            alike = GRAMMAR.alike[alike]
        if kind == "scene":
            return alike if alike in known else None
        for noun in (said, name):
            for subject in known:
                if is_name_of(subject, noun):
                    return subject
        if alike in known:
            return alike
        nearest = self.kinds.nearest(name)[1]
        return nearest or (self.kinds.nearest(alike)[1] if alike else None)

    @cached_property
    def kinds(self) -> Kinds:
        """The pack's subjects among all kinds of things."""
        subject = VOCABULARY.subject
        return Kinds(
            {name: (name, *(subject[name].synonyms if name in subject else ())) for name in self.words["subject"]}
        )

    @cached_property
    def _spellings(self) -> dict[str, list[str]]:
        """What is left of each word where letters are missing -> the words it may be; single words of 4 letters on."""
        found: dict[str, list[str]] = {}
        for phrase, meanings in self.phrases.items():
            word = phrase[0]
            if len(phrase) == 1 and len(word) >= 4 and meanings[0].kind in SPELT:
                for part in _parts(word):
                    found.setdefault(part, []).append(word)
        return found

    def spelt_alike(self, word: str, *, least: float = 0.75) -> str | None:
        """The known word that a misspelled one of at least four letters must be; None where none is near enough.

        least: how alike they must be; 1 is equal.
        """
        if len(word) < 4:
            return None
        from difflib import SequenceMatcher

        matcher = SequenceMatcher(b=word, autojunk=False)
        best, ratio = None, least
        for near in dict.fromkeys(near for part in _parts(word) for near in self._spellings.get(part, ())):
            matcher.set_seq1(near)
            if near[0] == word[0] or len(word) > 4:
                now = matcher.ratio() + 0.01 * (near[0] == word[0])
                if now > ratio:
                    best, ratio = near, now
        return best


@lru_cache(maxsize=8)  # a batch asks for that of its model once for each row
def _lexicon(items: tuple[tuple[str, tuple[Any, ...]], ...]) -> Lexicon:
    words = dict(items)
    own = [
        entry
        for kind in NAMED
        for name in words[kind]
        if name not in getattr(VOCABULARY, f"{kind}s")
        for entry in _forms(kind, name)
    ]
    return Lexicon(_join((*own, *_entries())) if own else _storybook_phrases(), words)


def _parts(word: str) -> set[str]:
    """A word, and it without one letter; of a long word, also without two."""
    once = {word[:i] + word[i + 1 :] for i in range(len(word))}
    twice = {part[:i] + part[i + 1 :] for part in once for i in range(len(part))} if 7 <= len(word) <= 16 else set()
    return {word} | once | twice


def _join(entries: Iterable[tuple[Iterable[str], Meaning]]) -> dict[Phrase, tuple[Meaning, ...]]:
    """Phrase -> its meanings, of each kind the first that is said."""
    phrases: dict[Phrase, tuple[Meaning, ...]] = {}
    for names, meaning in entries:
        for name in names:
            known = phrases.setdefault(tuple(name.replace("-", " ").split()), ())
            if all(meaning.kind != other.kind for other in known):
                phrases[tuple(name.replace("-", " ").split())] = (*known, meaning)
    return phrases


def is_name_of(name: str, said: str) -> bool:
    """Whether the vocabulary calls a subject or a scene by a word, be there a more exact one for it or not."""
    entry = VOCABULARY.subject.get(name) or VOCABULARY.scene.get(name)
    return entry is not None and said in (
        *entry.synonyms,
        *map(plural_of, entry.synonyms),
        *getattr(entry, "plurals", ()),
    )


@cache
def _storybook_phrases() -> dict[Phrase, tuple[Meaning, ...]]:
    """What everybody understands."""
    return _join(_entries())


Entry = tuple[Iterable[str], Meaning]


def _forms(kind: Kind, name: str, plurals: Iterable[str] = ()) -> Iterator[Entry]:
    """What a prompt may say for a name: plurals of nouns, every form of a verb."""
    if kind == "action":
        verb, *rest = name.split()
        yield (name, *_phrase_forms((" ".join((plain_verb(verb), *rest)),))), Meaning(kind, name)
        return
    yield (name,), Meaning(kind, name)
    if kind != "colour":
        yield (plural_of(name), *plurals), Meaning(kind, name, plural=True)


def _entries() -> Iterator[Entry]:
    """Everything that the storybook understands. Names go before what things are called besides."""
    vocabulary = VOCABULARY
    later = list(reversed(vocabulary.subject.values()))  # a later entry is the more exact one: a lady is a woman
    scenes = list(reversed(vocabulary.scene.values()))
    for subject in later:
        yield from _forms("subject", subject.name)
    for subject in later:
        yield subject.synonyms, Meaning("subject", subject.name)
        yield (*map(plural_of, subject.synonyms), *subject.plurals), Meaning("subject", subject.name, plural=True)
    for name, said in GRAMMAR.people.items():
        yield said, Meaning("subject", name, plural=True)
    for name, said in GRAMMAR.subjects.items():
        yield from (
            (each, Meaning("subject", name, plural)) for plural, each in ((False, said), (True, map(plural_of, said)))
        )
    for colour in vocabulary.colour.values():
        yield (colour.name, *colour.synonyms), Meaning("colour", colour.name)
    for scene in scenes:
        yield from _forms("scene", scene.name)
    for scene in scenes:
        yield (*scene.synonyms, *map(plural_of, scene.synonyms)), Meaning("scene", scene.name)
    for name, said in GRAMMAR.scenes.items():
        yield said, Meaning("scene", name)
    for name, said in GRAMMAR.actions.items():
        yield said, Meaning("action", name)
    for action in reversed(vocabulary.action.values()):
        yield _phrase_forms((*action.verbs, *action.phrases)), Meaning("action", action.name)
    yield from _grammar()


def _grammar() -> Iterator[Entry]:
    grammar = GRAMMAR
    for name, verbs in grammar.relation_verbs.items():
        yield _phrase_forms(verbs), Meaning("relation", name)
    yield (*_phrase_forms(grammar.movement), *grammar.movement_forms), Meaning("movement")
    for name, phrases in grammar.cameras.items():
        of_itself = [phrase.removeprefix("the camera ") for phrase in phrases]
        alone = [phrase for phrase in phrases if phrase in of_itself]
        yield _phrase_forms(alone), Meaning("camera", name)
        yield (f"camera {form}" for form in _phrase_forms(alone)), Meaning("camera", name)
        yield (f"the camera {form}" for form in _phrase_forms(of_itself)), Meaning("camera", name)
    slots: tuple[tuple[Kind, Mapping[str, tuple[str, ...]]], ...] = (
        ("size", grammar.sizes),
        ("speed", grammar.speeds),
        ("sky", grammar.skies),
        ("count", grammar.counts),
        ("relation", grammar.relations),
    )
    for kind, said in slots:
        for name, words in said.items():
            yield words, Meaning(kind, name)
    for name, words in (("left", grammar.left), ("right", grammar.right), ("up", grammar.up)):
        yield words, Meaning("direction", name)
    lists: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("nobody", grammar.nobody),
        ("negation", grammar.negation),
        ("then", grammar.then),
        ("meanwhile", grammar.meanwhile),
        ("also", grammar.also),
        ("pronoun", grammar.pronouns),
        ("determiner", grammar.determiners),
        ("preposition", grammar.prepositions),
        ("of", grammar.of),
        ("ignored", (*grammar.ignored, *grammar.along, *grammar.ages)),
    )
    for kind, words in lists:
        yield words, Meaning(kind, words[0] if kind == "determiner" and words[0] in grammar.indefinite else "")


def _phrase_forms(phrases: Iterable[str]) -> tuple[str, ...]:
    """Phrases with every form of their first word, a verb."""
    return tuple(
        " ".join((form, *rest)) for phrase in phrases for verb, *rest in [phrase.split()] for form in verb_forms(verb)
    )


LEXICON, FIRST_LEXICON = Lexicon.of(ALL_WORDS), Lexicon.of(FIRST_WORDS)
