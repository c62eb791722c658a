"""Every word and phrase that a prompt may use, with what it means; built once from the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .inflect import plain_verb, plural_of, verb_forms
from .story import ALL_WORDS, FIRST_WORDS
from .vocabulary import VOCABULARY, Vocabulary, Words

Kind = Literal["subject", "colour", "scene", "action", "movement", "direction", "nobody", "ramp", "ignored"]
Phrase = tuple[str, ...]
NAMED: tuple[Kind, ...] = ("subject", "colour", "scene", "action")
"""Kinds of words that have names; a model may have more of them than the vocabulary."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a phrase stands for: kind "subject" and name "cat"; a name is empty where the kind says all."""

    kind: Kind
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """Phrases, as tuples of lower-case words, with their meanings."""

    phrases: Mapping[Phrase, Meaning]
    longest: int = field(init=False)
    """Words of the longest phrase."""
    near_names: Mapping[str, str] = field(init=False)
    """Phrase a misspelled word is compared with -> the name that is proposed."""

    def __post_init__(self) -> None:
        named = {words: meaning for words, meaning in self.phrases.items() if meaning.kind in NAMED and meaning.name}
        near = {word: m.name for m in named.values() if m.kind == "subject" for word in m.name.split()}
        object.__setattr__(self, "longest", max(map(len, self.phrases)))
        object.__setattr__(self, "near_names", near | {" ".join(words): m.name for words, m in named.items()})

    @classmethod
    def of(cls, words: Words) -> Lexicon:
        """What a prompt may say to a pack that knows these words; some may be its own, outside the vocabulary.

        What a phrase means by the storybook's words, it goes on to mean.
        """
        own = [
            (_forms(kind, name), Meaning(kind, name))
            for kind in NAMED
            for name in words[kind]
            if name not in getattr(VOCABULARY, kind)
        ]
        return Lexicon(_join(own) | build_phrases(VOCABULARY, words))


def build_phrases(vocabulary: Vocabulary, words: Words = ALL_WORDS) -> dict[Phrase, Meaning]:
    """Every phrase of the vocabulary about these words. Earlier entries win where two say the same."""
    return _join(_entries(vocabulary, words))


def _join(entries: Iterable[tuple[Iterable[str], Meaning]]) -> dict[Phrase, Meaning]:
    phrases: dict[Phrase, Meaning] = {}
    for names, meaning in entries:
        for name in names:
            phrases.setdefault(tuple(name.split()), meaning)
    return phrases


def _forms(kind: Kind, name: str) -> tuple[str, ...]:
    """What a prompt may say for a word of a model's own: plurals of nouns, every form of a verb."""
    if kind == "action":
        verb, *rest = name.split()
        return name, *_phrase_forms((" ".join((plain_verb(verb), *rest)),))
    return (name,) if kind == "colour" else (name, plural_of(name))


def _entries(vocabulary: Vocabulary, words: Words) -> Iterator[tuple[Iterable[str], Meaning]]:
    grammar = vocabulary.grammar
    subjects = [subject for name, subject in vocabulary.subject.items() if name in words["subject"]]
    for subject in subjects:
        yield (subject.name, plural_of(subject.name)), Meaning("subject", subject.name)
    for subject in reversed(subjects):  # a later entry is the more exact one: "lady" is a woman, and once was a man
        yield (*subject.synonyms, *map(plural_of, subject.synonyms), *subject.plurals), Meaning("subject", subject.name)
    for colour in vocabulary.colour.values():
        if colour.name in words["colour"]:
            yield (colour.name, *colour.synonyms), Meaning("colour", colour.name)
    for ramp in (*vocabulary.ramps, "gray"):
        yield (ramp,), Meaning("ramp", ramp.replace("gray", "grey"))
    for scene in vocabulary.scene.values():
        if scene.name in words["scene"]:
            names = (scene.name, *scene.synonyms)
            yield (*names, *map(plural_of, names)), Meaning("scene", scene.name)
    for action in reversed(vocabulary.action.values()):
        if action.name in words["action"]:
            yield _phrase_forms((*action.verbs, *action.phrases)), Meaning("action", action.name)
    yield (*_phrase_forms(grammar.movement), *grammar.movement_forms), Meaning("movement")
    for name, said in (("left", grammar.left), ("right", grammar.right), ("up", grammar.up)):
        yield said, Meaning("direction", name)
    yield grammar.nobody, Meaning("nobody")
    yield grammar.ignored, Meaning("ignored")


def _phrase_forms(phrases: Iterable[str]) -> tuple[str, ...]:
    """Phrases with every form of their first word, a verb."""
    return tuple(
        " ".join((form, *rest)) for phrase in phrases for verb, *rest in [phrase.split()] for form in verb_forms(verb)
    )


LEXICON, FIRST_LEXICON = Lexicon.of(ALL_WORDS), Lexicon.of(FIRST_WORDS)
