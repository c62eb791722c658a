"""Every word and phrase that a prompt may use, with what it means; built once from the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .vocabulary import VOCABULARY, Vocabulary

Kind = Literal["subject", "colour", "scene", "action", "movement", "direction", "nobody", "ramp", "ignored"]
Words = tuple[str, ...]
NAMED: tuple[Kind, ...] = ("subject", "colour", "scene", "action")
"""Kinds of words that have names; a model may have more of them than the vocabulary."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a phrase stands for: kind "subject" and name "cat"; a name is empty where the kind says all."""

    kind: Kind
    name: str = ""


def verb_forms(verb: str) -> tuple[str, ...]:
    """jump -> jump, jumps, jumping, jumped; hop -> hops, hopping, hopped; move -> moving; fly -> flies."""
    vowels = "aeiou"
    if verb.endswith("e"):
        return verb, f"{verb}s", f"{verb[:-1]}ing", f"{verb}d"
    if verb.endswith("y") and verb[-2:-1] not in (*vowels, ""):
        return verb, f"{verb[:-1]}ies", f"{verb}ing", f"{verb[:-1]}ied"
    plural = f"{verb}es" if verb.endswith(("s", "sh", "ch", "x", "o")) else f"{verb}s"
    doubled = len(verb) > 2 and verb[-1] not in vowels + "wxy" and verb[-2] in vowels and verb[-3] not in vowels
    stem = verb + verb[-1] if doubled else verb
    # Doubling depends on the stress ("wander" does not double), so both spellings are known.
    return verb, plural, f"{stem}ing", f"{stem}ed", f"{verb}ing", f"{verb}ed"


def plural_of(noun: str) -> str:
    """cat -> cats, fish -> fishes, butterfly -> butterflies."""
    if noun.endswith("y") and noun[-2:-1] not in (*"aeiou", ""):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"


def plain_verb(verb: str) -> str:
    """dances -> dance, washes -> wash, flies -> fly; dance stays dance."""
    if verb.endswith("ies") and len(verb) > 4:
        return f"{verb[:-3]}y"
    if verb.endswith(("shes", "ches", "xes", "sses", "oes")):
        return verb[:-2]
    return verb[:-1] if verb.endswith("s") and not verb.endswith("ss") else verb


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """Phrases, as tuples of lower-case words, with their meanings."""

    phrases: Mapping[Words, Meaning]
    longest: int = field(init=False)
    """Words of the longest phrase."""
    near_names: Mapping[str, str] = field(init=False)
    """Phrase a misspelled word is compared with -> the name that is proposed."""

    def __post_init__(self) -> None:
        named = {words: meaning for words, meaning in self.phrases.items() if meaning.kind in NAMED and meaning.name}
        near = {word: m.name for m in named.values() if m.kind == "subject" for word in m.name.split()}
        object.__setattr__(self, "longest", max(map(len, self.phrases)))
        object.__setattr__(self, "near_names", near | {" ".join(words): m.name for words, m in named.items()})

    def with_words(self, names: Mapping[Kind, Iterable[str]]) -> Lexicon:
        """One that also has these subjects, colours, scenes and actions; what a phrase means already, it goes on to."""
        new = [
            (_forms(kind, name), Meaning(kind, name))
            for kind, own in names.items()
            for name in own
            if name not in getattr(VOCABULARY, kind)
        ]
        return Lexicon(_join(new) | dict(self.phrases)) if new else self


def build_phrases(vocabulary: Vocabulary) -> dict[Words, Meaning]:
    """Every phrase of the vocabulary. Earlier entries win where two say the same."""
    return _join(_entries(vocabulary))


def _join(entries: Iterable[tuple[Iterable[str], Meaning]]) -> dict[Words, Meaning]:
    phrases: dict[Words, Meaning] = {}
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


def _entries(vocabulary: Vocabulary) -> Iterator[tuple[Iterable[str], Meaning]]:
    grammar = vocabulary.grammar
    for subject in vocabulary.subject.values():
        nouns = (subject.name, *subject.synonyms)
        yield (*nouns, *map(plural_of, nouns), *subject.plurals), Meaning("subject", subject.name)
    for colour in vocabulary.colour.values():
        yield (colour.name, *colour.synonyms), Meaning("colour", colour.name)
    for ramp in (*vocabulary.ramps, "gray"):
        yield (ramp,), Meaning("ramp", ramp.replace("gray", "grey"))
    for scene in vocabulary.scene.values():
        names = (scene.name, *scene.synonyms)
        yield (*names, *map(plural_of, names)), Meaning("scene", scene.name)
    for action in vocabulary.action.values():
        yield _phrase_forms((*action.verbs, *action.phrases)), Meaning("action", action.name)
    yield (*_phrase_forms(grammar.movement), *grammar.movement_forms), Meaning("movement")
    for name, words in (("left", grammar.left), ("right", grammar.right), ("up", grammar.up)):
        yield words, Meaning("direction", name)
    yield grammar.nobody, Meaning("nobody")
    yield grammar.ignored, Meaning("ignored")


def _phrase_forms(phrases: Iterable[str]) -> tuple[str, ...]:
    """Phrases with every form of their first word, a verb."""
    return tuple(
        " ".join((form, *rest)) for phrase in phrases for verb, *rest in [phrase.split()] for form in verb_forms(verb)
    )


LEXICON = Lexicon(build_phrases(VOCABULARY))
