"""Which of its meanings a phrase has, by what stands around it."""

from __future__ import annotations

from collections.abc import Sequence

from .grammar import GRAMMAR
from .inflect import singulars
from .kinds import is_english
from .lexicon import LEXICON, Kind, Lexicon, Meaning
from .reading import Noun, Reading, Shot, Word
from .story import CHANGE
from .tokens import Token

VERBS: tuple[Kind, ...] = ("action", "movement")
_LYING = ("snowy", "snow covered")


class Senses:
    """A place among the phrases of a prompt, and what was read up to there."""

    phrases: Sequence[Token]

    def __init__(self, lexicon: Lexicon, *, goes_on: bool) -> None:
        self.lexicon, self.goes_on = lexicon, goes_on
        self.reading = Reading()
        self.place = 0
        self.before = ""
        """The kind of the phrase before, if no mark came between."""
        self.mark = self.prep = ""
        """The last mark, and the preposition whose noun is due."""
        self.told: dict[str, Word] = {}
        """Colour, size and count before a noun."""
        self.last: Noun | None = None
        self.new_subject: Noun | None = None
        """Who a new sentence is about, until it says what they do."""
        self.is_open = self.has_verb = False
        """Whether an article waits for its noun; whether the clause has its verb."""

    @property
    def shot(self) -> Shot:
        return self.reading.shots[-1]

    @property
    def is_follow_up(self) -> bool:
        """Whether this is no first shot, so that its subject may be the one before."""
        return self.goes_on or len(self.reading.shots) > 1

    def _awaits_target(self) -> bool:
        verb = self.shot.verb
        return verb is not None and verb.name == CHANGE and self.shot.target is None and self.has_verb

    def _meaning(self, token: Token) -> Meaning | None:
        """The meaning that a phrase has here; None for an unknown word."""
        by_kind = {meaning.kind: meaning for meaning in token.meanings}
        if len(by_kind) < 2:
            return token.meanings[0] if token.meanings else None
        shot, noun_is_due = self.shot, self.is_open or bool(self.told) or self.prep not in ("", "to")
        if "sky" in by_kind:
            is_mere = token.said in _LYING and self._next_kind() != "scene"  # snow that lies, not snow that falls
            return by_kind["scene" if is_mere and "scene" in by_kind else "sky"]
        verb = next((by_kind[kind] for kind in ("action", "movement") if kind in by_kind), None)
        noun = by_kind.get("subject") or by_kind.get("scene")
        if "subject" in by_kind and "scene" in by_kind:
            is_due = self._awaits_target() or (shot.relation is not None and shot.other is None)
            is_behind = shot.subject is not None and self.before not in ("also", "relation")
            is_place = self.prep not in ("", "of") or is_behind
            return by_kind["scene" if is_place and not is_due and not shot.scene else "subject"]
        if "colour" in by_kind and "subject" in by_kind:
            is_alone = not self._noun_follows_at_once() and self._next_kind() not in ("colour", "size", "also")
            return by_kind["subject" if is_alone and (self.is_open or self.last is None) else "colour"]
        if "ignored" in by_kind and verb:
            is_style = self.mark == "," or token.said.endswith("ed") or shot.subject is None
            return by_kind["ignored"] if is_style else verb
        if verb and noun:
            return (
                noun
                if noun_is_due or (shot.subject is None and not self.new_subject and not self.is_follow_up)
                else verb
            )
        if "relation" in by_kind:
            return by_kind["relation" if self._next_is_noun() else "action"]
        if "direction" in by_kind:
            is_upward = self.before in VERBS and self._next_kind() != "determiner" and self._next_said() != "to"
            return by_kind["direction" if is_upward else "preposition"]
        if "camera" in by_kind and "movement" in by_kind:
            return by_kind["movement" if shot.subject else "camera"]
        return by_kind.get("speed") or by_kind.get("count") or token.meanings[0]

    def _next_kind(self) -> str:
        following = self.phrases[self.place + 1 : self.place + 2]
        return following[0].meanings[0].kind if following and not following[0].break_ and following[0].meanings else ""

    def _next_said(self) -> str:
        following = self.phrases[self.place + 1 : self.place + 2]
        return following[0].said if following and not following[0].break_ else ""

    def _next_is_noun(self) -> bool:
        """Whether a noun follows, perhaps after an article and such."""
        for token in self.phrases[self.place + 1 : self.place + 6]:
            kinds = {meaning.kind for meaning in token.meanings}
            if token.break_ or kinds & {*VERBS, "relation", "preposition", "then", "also", "pronoun"}:
                return False
            if "subject" in kinds or (not kinds and self._kind_of(token.said)):
                return True
        return False

    def _kind_of(self, word: str) -> str | None:
        """The subject of the storybook that an unknown word is a kind of, or looks most like."""
        alike = next((GRAMMAR.alike[form] for form in (word, *singulars(word)) if form in GRAMMAR.alike), None)
        return alike or LEXICON.kinds.nearest(word)[1]

    def _is_somebody(self, token: Token) -> bool:
        """Whether a word is a name, or no English one, of somebody who does something: "Yoda plays"."""
        following = self.phrases[self.place + 1 : self.place + 2]
        does = following and {meaning.kind for meaning in following[0].meanings} & {*VERBS, "relation"}
        acts = bool(following) and not following[0].break_ and following[0].said.split()[0].endswith("s")
        is_name = token.is_name or (acts and not is_english(token.said))
        return is_name and not self.is_open and self.shot.subject is None and not self.prep and bool(does)

    def _is_of_place(self, kind: str) -> bool:
        """Whether an unknown word, by its kind somebody, tells of the place that comes next: "cyberpunk city"."""
        following = self.phrases[self.place + 1 : self.place + 2]
        if kind not in ("man", "woman") or not following or following[0].break_:
            return False
        said, kinds = following[0].said, {meaning.kind for meaning in following[0].meanings}
        return kinds == {"scene"} and " " not in said and said != "underwater"

    def _noun_follows_at_once(self) -> bool:
        following = self.phrases[self.place + 1 : self.place + 2]
        if not following or following[0].break_:
            return False
        kinds = [meaning.kind for meaning in following[0].meanings]
        return "subject" in kinds[:1] or (not kinds and self._kind_of(following[0].said) is not None)
