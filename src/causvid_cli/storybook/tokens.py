"""A prompt's text -> known phrases, unknown words, and where they are parted by punctuation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .lexicon import NAMED, Lexicon, Meaning

MAX_WORD = 32
"""Letters of an unknown word that are shown and compared."""
BREAKS = {**dict.fromkeys(".!?;:\n\u2026\u3002", "."), **dict.fromkeys(",()[]\u2013\u2014|/\u3001", ",")}
"""Marks that part sentences, and marks that part what is said in them."""

_PIECE = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|\s-\s|[^\w ]")
_VISIBLE = (*NAMED, "sky", "movement")


@dataclass(frozen=True, slots=True)
class Token:
    """A phrase, as the user said it in lower case. break_: the mark before it: ".", "," or ""; start: its place."""

    said: str
    meanings: tuple[Meaning, ...]
    start: int
    break_: str = ""
    is_owner: bool = False
    """Whether it ends in 's."""
    is_name: bool = False
    """Whether it begins with a capital, in a text that has small letters too."""


def plain(text: str) -> str:
    """A text in the form in which tokens count their places."""
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'")


def tokens(text: str, lexicon: Lexicon) -> Iterator[Token]:
    """The phrases of a plain text in order, the longest known one at each place; no meanings: an unknown word."""
    words = list(_words(text, lexicon))
    place = 0
    while place < len(words):
        count = 1
        if not words[place].meanings:
            for count in range(_longest(words, place, lexicon.longest), 0, -1):
                phrase = tuple(word.said for word in words[place : place + count])
                if meanings := lexicon.phrases.get(phrase):
                    last = words[place + count - 1]
                    yield replace(words[place], said=" ".join(phrase), meanings=meanings, is_owner=last.is_owner)
                    break
            else:
                yield replace(words[place], said=words[place].said[:MAX_WORD])
        else:
            yield words[place]
        place += count


def _longest(words: list[Token], place: int, most: int) -> int:
    """How many words from a place on no mark parts, at most."""
    for count in range(1, min(most, len(words) - place)):
        if words[place + count].break_ or words[place + count].meanings:
            return count
    return min(most, len(words) - place)


def _words(text: str, lexicon: Lexicon) -> Iterator[Token]:
    """Single words, with no meaning yet; pictures (emoji) with the meaning of their Unicode names."""
    mark, has_small = "", not text.isupper()
    for piece in _PIECE.finditer(text):
        word = piece.group().casefold()
        if word[0].isalnum():
            for said, is_owner in _apart(word):
                is_name = has_small and piece.group()[0].isupper()
                yield Token(said, (), piece.start(), mark, is_owner, is_name)
                mark = ""
        elif (mark_here := BREAKS.get(word, "," if word.isspace() or word == " - " else "")) or word == "\n":
            mark = max(mark, mark_here or ".", key=("", ",", ".").index)
        elif unicodedata.category(word[0]) == "So":
            yield Token(word, _pictured(word, lexicon), piece.start(), mark or ",")
            mark = ","


def _apart(word: str) -> Iterator[tuple[str, bool]]:
    """doesn't -> not; dog's -> dog, which owns something; we're -> we."""
    before, _, after = word.partition("'")
    if after == "t" and before.endswith("n"):
        yield "not", False
    else:
        yield before, after == "s" and before not in ("it", "he", "she", "that", "there", "what", "who", "let", "here")


def _pictured(emoji: str, lexicon: Lexicon) -> tuple[Meaning, ...]:
    """What an emoji shows, by its Unicode name: DOG FACE is a dog. Empty where nothing of that is known."""
    words = unicodedata.name(emoji, "").casefold().replace("-", " ").split()[:8]
    for count in range(len(words), 0, -1):
        for place in range(len(words) - count + 1):
            meanings = lexicon.phrases.get(tuple(words[place : place + count]), ())
            if visible := tuple(meaning for meaning in meanings if meaning.kind in _VISIBLE[:1] + _VISIBLE[2:]):
                return visible
    return ()
