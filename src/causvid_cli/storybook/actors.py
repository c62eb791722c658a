"""Who and what a prompt names: nouns, what is said before them, who stands beside whom."""

from __future__ import annotations

from dataclasses import replace

from .grammar import GRAMMAR
from .lexicon import Lexicon, Meaning
from .reading import Noun, Word
from .senses import Senses
from .story import CHANGE
from .tokens import Token

MAX_REPORTED = 16
"""Words kept of one kind of problem."""
BESIDE = "left of"
YOUNG = "baby"
GROUPS = ("person", "people", "man", "woman", "child", "human")


class Actors(Senses):
    """Gives nouns, and the adjectives and numbers before them, their part in the shot."""

    def __init__(self, lexicon: Lexicon, *, goes_on: bool = False) -> None:
        super().__init__(lexicon, goes_on=goes_on)
        self.held: list[Noun] = []  # nouns that only say where something is, until there is a subject
        self.negated = self.is_new = self.is_one = False
        self.is_then = self.is_also = False
        self.extra_actor = False  # whether the clause is about somebody beside the subject
        self.is_aside = False  # whether the last noun is not shown, and only goes with somebody
        self.is_of_subject = False  # whether a pronoun has just been said, and nothing that it does

    def _determiner(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self.is_open, self.is_new, self.is_one = True, token.said in GRAMMAR.indefinite, token.said in ("a", "an")

    def _adjective(self, slot: str, token: Token, meaning: Meaning) -> None:
        self.is_open = True
        if self.negated:  # "a dog that is not brown": what is denied is nobody's
            self.negated = self._next_is_noun()
        elif slot in self.told:
            self._unused(token.said)
        else:
            self.told[slot] = Word(meaning.name, token.said)

    def _colour(self, token: Token, meaning: Meaning) -> None:
        self._adjective("colour", token, meaning)

    def _size(self, token: Token, meaning: Meaning) -> None:
        self._adjective("size", token, meaning)

    def _count(self, token: Token, meaning: Meaning) -> None:
        if self._next_said() in GRAMMAR.ages:
            return
        self._flush()
        self._adjective("count", token, meaning)

    def _flush(self) -> None:
        """Adjectives that no noun followed belong to the noun before: "a ball, blue, rolls"."""
        told, self.told = self.told, {}
        self.is_open = self.is_new = self.is_one = False
        is_worn = self.prep not in ("", "of", "with")  # "a man in black"
        for slot, word in told.items():
            if slot == "colour" and self._awaits_target() and self.shot.subject is not None and not is_worn:
                self.shot.target = replace(self.shot.subject, colour=word)  # "a red car turns blue"
            elif self.last is not None and getattr(self.last, slot) is None and slot != "count" and not is_worn:
                setattr(self.last, slot, word)
            elif slot == "colour" and self.is_of_subject and self.shot.subject and self.shot.verb is None:
                self._say_colour(self.shot.subject, word)
            elif slot == "colour":
                self._unused(word.said)

    def _say_colour(self, subject: Noun, word: Word) -> None:
        """A sentence that says of somebody which colour they have: where they had another they change."""
        if subject.colour is None:
            subject.colour = word
        else:
            self.shot.verb, self.shot.target = Word(CHANGE, word.said), replace(subject, colour=word)

    def _subject(self, token: Token, meaning: Meaning, *, is_guess: bool = False) -> None:
        if token.is_owner and self._next_is_noun():
            self.told, self.is_open = {}, True
            return
        if token.said in GRAMMAR.pairs:
            self.told.setdefault("count", Word("2", token.said))
        plural = meaning.plural and not self.is_one  # "a catt" is no cats
        noun = Noun(Word(meaning.name, token.said), plural, self.is_new, is_guess, **self.told)
        is_compound = self.before == "subject" and not self.is_open and not token.break_ and self.last is not None
        self.told, self.is_open, self.is_new, self.is_one = {}, False, False, False
        if self.negated:
            self.negated = False
            self.shot.is_empty |= self.shot.subject is None and meaning.name in GROUPS
        elif is_compound and self.last is not None:
            is_verb = (
                meaning.plural and not self.last.is_plural and token.said.endswith("s") or token.said.endswith("ing")
            )
            if is_verb and not self.has_verb:  # "a man cooks"
                self._report_unknown(token.said)
                self.has_verb = True
                return
            if self.last.word.name == YOUNG:
                self.last.size = self.last.size or Word("small", self.last.word.said)
            else:
                self._unused(self.last.word.said)
            self.last.word, self.last.is_plural, self.last.is_guess = noun.word, noun.is_plural, is_guess
        else:
            self._take(noun)

    def _take(self, noun: Noun) -> None:
        """Give a noun its part in the shot."""
        prep, self.prep, shot = self.prep, "", self.shot
        self.is_of_subject = False
        self.last, self.is_aside = noun, prep == "with" and noun.is_guess and shot.subject is not None
        known = (shot.subject.word.name if shot.subject else "", shot.other.word.name if shot.other else "")
        if self._awaits_target() and (shot.subject or self.is_follow_up):
            shot.target = noun
        elif shot.subject is None and not (self.is_follow_up and self.has_verb) and prep in ("", "of", "with"):
            shot.subject = noun
        elif shot.relation and shot.other is None:
            self._stand_beside(noun, shot.relation.name)
        elif prep not in ("", "of", "with"):
            if shot.subject is None and not self.is_follow_up:
                self.held.append(noun)
            else:
                self._unused(noun.word.said)
        elif noun.word.name in known and not noun.is_new:
            self.last = shot.subject if noun.word.name == known[0] else shot.other
        elif prep == "of":
            self._unused(noun.word.said)
        elif prep == "with" or self.has_verb and not (self.is_also or self.is_then or self.mark):
            self._stand_beside(noun, BESIDE) if not noun.is_guess else self._unused(noun.word.said)
        elif self.is_then or (self.mark == "." and self.has_shown):
            self.new_subject = noun
        elif self.is_also or self.mark == ",":
            self._stand_beside(noun, BESIDE)
            self.extra_actor = True
        else:
            self._unused(noun.word.said)

    @property
    def has_shown(self) -> bool:
        return self.shot.subject is not None or self.is_follow_up

    def _stand_beside(self, noun: Noun, relation: str) -> None:
        shot = self.shot
        if shot.subject is None and not self.is_follow_up:
            shot.subject = noun
        elif shot.other is None and (noun.is_new or not shot.subject or noun.word.name != shot.subject.word.name):
            shot.other, shot.relation = noun, shot.relation or Word(relation, "")
        elif noun.is_new or not shot.subject or noun.word.name != shot.subject.word.name:
            self._unused(noun.word.said)

    def _begin_new_subject(self) -> None:
        if self.new_subject is not None:
            self.shot.subject, self.new_subject = self.new_subject, None

    def _drop_new_subject(self) -> None:
        """A noun that began a sentence and did nothing in it stands beside the subject."""
        if self.new_subject is not None:
            self._stand_beside(self.new_subject, BESIDE)
        self.new_subject = None

    def _unused(self, *said: str) -> None:
        for word in said:
            if word not in self.reading.unused and len(self.reading.unused) < MAX_REPORTED:
                self.reading.unused.append(word)

    def _report_unknown(self, word: str) -> None:
        if word not in self.reading.unknown and len(self.reading.unknown) < MAX_REPORTED:
            self.reading.unknown.append(word)
