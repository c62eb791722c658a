"""Every word and phrase that a prompt may use, with what it means; built once from the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .vocabulary import VOCABULARY, Vocabulary

Kind = Literal["subject", "colour", "scene", "action", "movement", "direction", "nobody", "ramp", "ignored"]
Words = tuple[str, ...]


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
    if verb.endswith("y") and verb[-2] not in vowels:
        return verb, f"{verb[:-1]}ies", f"{verb}ing", f"{verb[:-1]}ied"
    plural = f"{verb}es" if verb.endswith(("s", "sh", "ch", "x", "o")) else f"{verb}s"
    doubled = len(verb) > 2 and verb[-1] not in vowels + "wxy" and verb[-2] in vowels and verb[-3] not in vowels
    stem = verb + verb[-1] if doubled else verb
    # Doubling depends on the stress ("wander" does not double), so both spellings are known.
    return verb, plural, f"{stem}ing", f"{stem}ed", f"{verb}ing", f"{verb}ed"


def plural_of(noun: str) -> str:
    """cat -> cats, fish -> fishes, butterfly -> butterflies."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"


def build_lexicon(vocabulary: Vocabulary) -> dict[Words, Meaning]:
    """Phrase, as a tuple of lower-case words -> its meaning. Earlier entries win where two say the same."""
    lexicon: dict[Words, Meaning] = {}
    for phrases, meaning in _entries(vocabulary):
        for phrase in phrases:
            lexicon.setdefault(tuple(phrase.split()), meaning)
    return lexicon


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


LEXICON = build_lexicon(VOCABULARY)
LONGEST_PHRASE = max(map(len, LEXICON))
