"""Which known subject a noun is a kind of, or looks most like, by WordNet's tree of kinds. Read when first asked for.

nouns.txt.gz is made by docs/nouns.py: a line for each kind (its nouns, the lines of the kinds it belongs to, whether
its own kinds are too many to look alike, or to have anything in common), then after an empty line every English word
that WordNet has.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .inflect import singulars, verb_stems


@dataclass(frozen=True, slots=True)
class _Table:
    """WordNet's kinds by number, and its words."""

    parents: list[tuple[int, ...]]
    wide: set[int]
    tops: set[int]
    kinds: dict[str, int]
    """Noun -> its kind."""
    words: frozenset[str]


@cache
def _table() -> _Table:
    lines, words = gzip.decompress(files(__package__).joinpath("nouns.txt.gz").read_bytes()).decode().split("\n\n")
    table = _Table([], set(), set(), {}, frozenset(words.split()))
    for number, line in enumerate(lines.split("\n")):
        nouns, above, width = line.split("\t")
        table.parents.append(tuple(map(int, above.split(","))) if above else ())
        table.kinds.update((noun, number) for noun in nouns.split(",") if noun)
        if width:
            (table.tops if width == "top" else table.wide).add(number)
    return table


def _above(kind: int) -> Iterator[tuple[int, int]]:
    """A kind and every one that it belongs to, nearest first, with how many steps up each is."""
    level: tuple[int, ...] = (kind,)
    seen, steps = set[int](), 0
    while level:
        fresh = [each for each in dict.fromkeys(level) if each not in seen]
        yield from ((each, steps) for each in fresh)
        seen.update(fresh)
        level, steps = tuple(above for each in fresh for above in _table().parents[each]), steps + 1


def is_english(word: str) -> bool:
    """Whether a word, in any of its forms, is an English one."""
    words = _table().words
    return any(form in words for form in (word, *singulars(word), *verb_stems(word)))


def is_noun(word: str) -> bool:
    """Whether a word names a thing that can be seen, known or not."""
    kinds = _table().kinds
    return any(form in kinds for form in (word, *singulars(word)))


def is_plural(word: str) -> bool:
    """Whether a word is the plural of a thing's name, and no name by itself: walruses, but not walrus."""
    kinds = _table().kinds
    return word not in kinds and any(form in kinds for form in singulars(word))


class Kinds:
    """The subjects that something knows, among all kinds of things.

    nouns: subject -> what it is called; its own name is the first.
    """

    def __init__(self, nouns: Mapping[str, Iterable[str]]) -> None:
        kinds = _table().kinds
        self._is: dict[int, str] = {}
        for subject, (name, *_) in nouns.items():
            if (kind := self._kind(name)) is not None:
                self._is.setdefault(kind, subject)
        for subject, (name, *besides) in nouns.items():
            own = self._kind(name)
            for kind in map(kinds.get, besides):
                if kind is not None and (own is None or _are_related(kind, own)):  # a gem is also a work of art
                    self._is.setdefault(kind, subject)
        self._alike: dict[int, tuple[int, str]] = {}
        for kind, subject in self._is.items():
            for above, steps in _above(kind):
                if above not in _table().wide | _table().tops and steps < self._alike.get(above, (99, ""))[0]:
                    self._alike[above] = (steps, subject)

    def nearest(self, noun: str) -> tuple[int, str | None]:
        """The subject that a noun is a kind of, or the one that it looks most like; None where nothing is near.

        With it comes how far it is: steps up to what the noun is a kind of; twice the steps to what it is like.
        """
        kind = self._kind(noun)
        if kind is None:
            return 0, None
        found = [
            (steps if above in self._is else 2 * (steps + self._alike[above][0]), above in self._is, above)
            for above, steps in _above(kind)
            if above in self._is or above in self._alike
        ]
        best = min(found, default=None)  # a tie: rather one that is alike at few steps than a kind of many
        if best is None:
            return 0, None
        return best[0], self._is.get(best[2]) or self._alike[best[2]][1]

    @staticmethod
    def _kind(noun: str) -> int | None:
        """The kind that a noun names; of unknown words together, the kind of the last ones."""
        kinds, (*before, last) = _table().kinds, noun.split()
        for first in range(len(before) + 1):
            for end in (last, *singulars(last)):
                if (name := " ".join((*before[first:], end))) in kinds:
                    return kinds[name]
        return None


def _are_related(kind: int, other: int) -> bool:
    """Whether two belong to a kind in common that says something of them."""
    these, those = {above for above, _ in _above(kind)}, {above for above, _ in _above(other)}
    return bool((these & those) - _table().tops)
