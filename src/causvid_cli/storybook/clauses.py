"""Phrases -> shots: who does what, where, and what follows it. Knows words by their kind, not by what can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .actors import BESIDE, GROUPS, MAX_REPORTED, YOUNG, Actors
from .grammar import GRAMMAR
from .inflect import verb_forms
from .kinds import is_english, is_noun, is_plural
from .lexicon import Lexicon, Meaning
from .reading import Noun, Reading, Shot, Word
from .story import CHANGE
from .tokens import Token
from .vocabulary import VOCABULARY

FOLLOWING = ("follows", "chases")
ALONG = "along"
"""What a camera does that goes where somebody goes."""
SCENES_AS_SKIES = {"night city": "night", "snow": "snow"}
"""Scenes that are a place under a sky, and that sky."""
_WEAK = frozenset(GRAMMAR.weak)
_SEEN_FROM_THE_OTHER = {"left of": "right of", "right of": "left of"}
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
_ENDS = frozenset(form for verb in GRAMMAR.ends for form in verb_forms(verb))
_PARTED = ("eyed", "haired", "faced", "nosed", "winged", "tailed", "bearded", "footed", "headed", "legged", "spotted")
"""Endings of words that say which part of somebody has a colour."""


class Reader(Actors):
    """Reads the phrases of a prompt one after the other."""

    def __init__(self, lexicon: Lexicon, *, goes_on: bool = False, corrects: bool = True) -> None:
        """goes_on: whether a story came before, which has a subject. corrects: whether to mend misspelled words."""
        super().__init__(lexicon, goes_on=goes_on)
        self.corrects = corrects
        self.scene_is_object = False  # whether the scene is only what a verb is about
        self.sky_acts = self.sky_ends = False  # whether a sky is what a verb is about, and whether it is over then
        self.clause_start: int | None = None  # where the clause's words begin, in phrases
        self._begin_clause("")

    def read(self, phrases: Sequence[Token]) -> Reading:
        """What the phrases say together."""
        self.phrases = phrases
        for self.place, token in enumerate(phrases):
            if token.break_:
                self._break(token.break_)
            if meaning := self._meaning(token):
                self.reading.understood |= meaning.kind not in _EMPTY
                getattr(self, f"_{meaning.kind}")(token, meaning)
                self.before = meaning.kind
            else:
                self._unknown(token)
        self._break(".")
        first = self.reading.shots[0]
        if first.subject is None and self.held and not first.is_empty and not self.goes_on:
            first.subject = self.held.pop(0)
        self._unused(*(noun.word.said for noun in self.held))
        return self.reading

    # --- between phrases ---

    def _begin_clause(self, mark: str) -> None:
        """After a mark: what came before binds no more."""
        self.mark, self.is_then, self.is_also, self.is_meanwhile = mark, False, False, False
        self.has_verb = False
        self.new_subject: Noun | None = None
        self.before = ""

    def _break(self, mark: str) -> None:
        self._flush()
        self.prep, self.negated, self.is_open = "", False, False
        if mark == ".":
            self._drop_new_subject()
            self._begin_clause(mark)
        else:
            self.mark, self.before = mark, ""

    def _put(self, slot: str, word: Word) -> None:
        """Say a slot; what differs from what was said already begins a shot after "then", and is left out else."""
        known = getattr(self.shot, slot)
        if known is not None and known.name != word.name:
            if not self.is_then:
                self._unused(word.said)
                return
            self._next_shot()
        setattr(self.shot, slot, known if known and known.name == word.name else word)

    def _next_shot(self) -> None:
        start = self.phrases[self.clause_start if self.clause_start is not None else self.place].start
        self.reading.shots.append(Shot(start))
        self.is_then = False

    # --- one method for each kind of phrase ---

    def _preposition(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        if token.said == "by" and self.before == "relation" and self.shot.relation:
            self.shot.is_passive = True
        elif token.said == "by" and self._is_done_to_it():
            self.shot.is_passive = True
            self.shot.relation = self.shot.relation or Word(BESIDE, "")
        elif self.before != "relation" and not self._awaits_target():
            self.prep = token.said

    def _is_done_to_it(self) -> bool:
        """Whether the verb before tells what is done to somebody: "is eaten by"."""
        verb = self.phrases[self.place - 1].said if self.place else ""
        return self.before == "action" and verb in GRAMMAR.done_to and self.shot.other is None

    def _of(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self.prep = "of"

    def _negation(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self.negated = True

    def _then(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self._drop_new_subject()
        self.is_then, self.prep, self.clause_start = True, "", self.place
        self.is_meanwhile = self.is_also = self.has_verb = False

    def _meanwhile(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self.is_meanwhile, self.prep = True, ""

    def _also(self, token: Token, meaning: Meaning) -> None:
        if not (self.told and self._next_kind() in ("colour", "size")):
            self._flush()
        self.is_also, self.prep = True, ""
        if not self.is_then:
            self.clause_start = self.place

    def _pronoun(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self.prep, self.is_of_subject = "", True
        if not self.is_then and not self.is_also:
            self.clause_start = self.place

    def _ignored(self, token: Token, meaning: Meaning) -> None:
        if token.said in GRAMMAR.along and self.shot.subject is not None:
            self._flush()
            self.prep = "with"

    def _nobody(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self.shot.is_empty = True

    def _sky(self, token: Token, meaning: Meaning) -> None:
        self._place_word("sky", token, meaning)

    def _scene(self, token: Token, meaning: Meaning) -> None:
        self._place_word("scene", token, meaning)

    def _place_word(self, slot: str, token: Token, meaning: Meaning) -> None:
        """A scene or a sky; colours before it are its own, and are not shown."""
        told, self.told = self.told.pop("colour", None), {}
        self.is_open = False
        if not self.negated:
            if told:
                self._unused(told.said)
            if slot == "scene" and self.scene_is_object and self.prep:
                self.shot.scene = None  # "eats grass on a mountain" is on the mountain
            self.scene_is_object = slot == "scene" and self.has_verb and not self.prep
            if slot == "sky" and self.sky_ends:
                meaning = Meaning("sky", "day")
            self.sky_acts, self.sky_ends = slot == "sky" and not self.prep, False
            word, scene = Word(meaning.name, token.said), self.shot.scene
            if slot == "scene" and scene and scene.name != word.name and self._is_under_sky(scene, word):
                self.shot.scene, sky = (scene, word) if word.name in SCENES_AS_SKIES else (word, scene)
                self.shot.sky = Word(SCENES_AS_SKIES[sky.name], sky.said)
            else:
                self._put(slot, word)
        self.negated, self.prep, self.last = False, "", None

    def _is_under_sky(self, *scenes: Word) -> bool:
        """Whether one of two scenes only says what the sky over the other is like: "snow on the beach"."""
        alike = sum(scene.name in SCENES_AS_SKIES for scene in scenes)
        return alike == 1 and self.shot.sky is None and not self.is_then

    def _camera(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        if meaning.name == ALONG:
            self.prep, self.shot.verb = "", self.shot.verb or Word("", "goes")
            return
        self._put("camera", Word(meaning.name, token.said))

    def _speed(self, token: Token, meaning: Meaning) -> None:
        if not self.negated:
            self._put("speed", Word(meaning.name, token.said))

    def _direction(self, token: Token, meaning: Meaning) -> None:
        if self.is_open and self._next_is_noun():
            return  # "his right hand"
        self._flush()
        is_where_from = self.prep == "from"  # "from the left" goes to the right
        self.prep = ""
        if self.negated:
            self.negated = False
            return
        word, shot = Word(_OPPOSITE.get(meaning.name, "") if is_where_from else meaning.name, token.said), self.shot
        if self.is_then and shot.verb and not shot.verb.name and shot.direction and shot.direction.name != word.name:
            verb = shot.verb
            self._next_shot()
            self.shot.verb = verb
        self._put("direction", word)

    def _relation(self, token: Token, meaning: Meaning) -> None:
        self._flush()
        self.prep = ""
        if self.negated:
            self.negated, self.shot.is_still = False, True
            return
        if self.is_then and self.shot.verb:
            self._next_shot()
        self._begin_new_subject()
        is_implied = self.shot.relation is not None and not self.shot.relation.said
        if is_implied or (self.shot.relation is None and self.shot.other is None):
            self.shot.relation = Word(meaning.name, token.said)
        elif self.shot.relation and self.shot.relation.name != meaning.name:
            self._unused(token.said)
        self.has_verb = self.has_verb or meaning.name in GRAMMAR.relation_verbs

    def _action(self, token: Token, meaning: Meaning) -> None:
        self._verb(token, meaning.name)

    def _movement(self, token: Token, meaning: Meaning) -> None:
        self._verb(token, "")

    def _verb(self, token: Token, name: str) -> None:
        if self._is_weathers(token) or self._is_no_verb(token):
            return
        is_adjective = self.is_open and token.said.endswith("ing")
        if self._turns_colour(token):
            name = CHANGE
        if is_adjective and self.shot.subject is not None and self._next_is_noun():  # "beside a running horse"
            self._unused(token.said)
            return
        is_others, self.is_of_subject = self._is_others_verb(token), False
        if is_adjective or not token.said.endswith("ing"):
            pass
        elif self.before == "subject" and self.last is not None and self.last is self.shot.other:
            self._let_the_mobile_one_act()
        self._flush()
        self.prep, shot = "", self.shot
        if self.negated:
            self.negated, shot.is_still = False, True
            return
        if is_others:
            self._unused(token.said)
            return
        if shot.subject is not None and self.new_subject is not None and (shot.verb or shot.relation):
            if self.new_subject.is_guess and not self.is_then:  # an aside about something
                self._unused(self.new_subject.word.said, token.said)
                self.new_subject = None
                return
            self._next_shot()
        self._begin_new_subject()
        shot, word, known = self.shot, Word(name, token.said), self.shot.verb
        is_sequence = self.is_then or self.mark == "." or ((self.is_also or self.mark == ",") and not self.is_meanwhile)
        if known is None and self.is_then and shot.relation and shot.relation.said:  # "follows a cat, then jumps"
            self._next_shot()
            self.shot.verb = word
        elif known is None:
            shot.verb = word
        elif known.name == name and name != CHANGE:
            pass
        elif known.said.split()[0] in _WEAK and not self.is_then and self.mark != ".":
            shot.verb = word
        elif token.said in _WEAK and not self.is_then:
            pass
        elif is_sequence and not (self.extra_actor and not self.is_then):
            self._next_shot()
            self.shot.verb = word
        else:
            self._unused(token.said)
        self.is_then = self.is_also = self.is_meanwhile = self.extra_actor = False
        self.mark, self.has_verb, self.last = "", not is_adjective, None
        self.clause_start = None

    def _is_weathers(self, token: Token) -> bool:
        """Whether it is the weather that does something: "the rain stops", "it stops raining", "night falls"."""
        if self.sky_acts and self.before == "sky":
            if token.said in _ENDS:
                self.shot.sky = Word("day", token.said)
            return True
        self.sky_ends = token.said in _ENDS and self._next_kind() == "sky"
        return self.sky_ends

    def _is_no_verb(self, token: Token) -> bool:
        """Whether it is a noun here, or what is said of something that is not shown: "on his head", "smoke coming"."""
        if self.is_open and self.prep and not token.said.endswith(("s", "ing")):
            self.told, self.is_open, self.prep = {}, False, ""
        elif not (self.is_aside and self.before in ("unknown", "subject") and token.said.endswith("ing")):
            return False
        self._report_unknown(token.said)
        return True

    def _is_others_verb(self, token: Token) -> bool:
        """Whether it says what the second of two does, when the first does something already: "while a cat runs"."""
        shot = self.shot
        if self.before != "subject" or self.last is None or self.last is not shot.other or self.is_then:
            return False
        if token.said.split()[0] in _WEAK and shot.verb is not None:
            return False
        is_object = self.has_verb and not (shot.relation and shot.relation.said)  # "makes a robot dance"
        return shot.verb is not None or (is_object and not self.extra_actor)

    def _let_the_mobile_one_act(self) -> None:
        """Of two of whom one goes nowhere it is the other who does something: "a tower with a dragon flying"."""
        shot = self.shot
        one, other = (noun and VOCABULARY.subject.get(noun.word.name) for noun in (shot.subject, shot.other))
        if one and other and other.is_mobile and not one.is_mobile and not self.has_verb:
            relation = shot.relation or Word(BESIDE, "")
            shot.relation = replace(relation, name=_SEEN_FROM_THE_OTHER.get(relation.name, BESIDE))
            shot.subject, shot.other = shot.other, shot.subject

    def _turns_colour(self, token: Token) -> bool:
        """Whether something turns into itself in another colour: "turns blue"."""
        return token.said in verb_forms("turn") and self._next_kind() == "colour" and not self._next_is_noun()

    # --- unknown words ---

    def _is_fraction(self) -> bool:
        """Whether a number is the second part of another: "2.0"."""
        return self.place > 0 and self.phrases[self.place - 1].said.isdecimal()

    def _unknown(self, token: Token) -> None:
        """A misspelled word is corrected; a noun stands for the nearest kind; all else is reported."""
        word = token.said
        if word.isdecimal():
            if word == "0" and self._next_is_noun() and self.before in ("", *_EMPTY) and not self._is_fraction():
                self.negated = True
            count = min(int(word[:3]), 4)
            if count >= 2:
                self._count(token, Meaning("count", str(count) if count < 4 else "more"))
            return
        if (
            self.corrects
            and not (token.is_name and self.place)
            and not is_english(word)
            and (alike := self.lexicon.spelt_alike(word))
        ):
            meanings = self.lexicon.phrases[(alike,)]
            if len(self.reading.corrected) < MAX_REPORTED:
                self.reading.corrected.append(Word(alike, word))
            meaning = self._meaning(Token(alike, meanings, token.start)) or meanings[0]
            self.reading.understood = True
            getattr(self, f"_{meaning.kind}")(Token(alike, meanings, token.start), meaning)
            self.before = meaning.kind
            return
        if self._is_somebody(token):
            self.reading.understood = True
            self._subject(token, Meaning("subject", "man"), is_guess=True)
            self.before = "subject"
            return
        kind = self._kind_of(word)
        is_somebodys = self.last is not None and self.last.word.name in (*GROUPS, YOUNG)  # "a mother koala"
        is_verb = word.endswith(("s", "ing", "ed")) or not is_somebodys
        follows_noun = self.before == "subject" and not self.is_open and is_verb
        if kind and not follows_noun and not self._is_of_place(kind) and not self._noun_follows_at_once():
            self.reading.understood = True
            self._subject(token, Meaning("subject", kind, is_plural(word)), is_guess=True)
            self.before = "subject"
            return
        is_of_colour = self.before == "colour" and word.endswith(_PARTED)  # "a blue-eyed cat"
        if is_of_colour or (self.told and not self._next_is_noun() and is_english(word)):
            self._unused(*(told.said for told in self.told.values()))
            self.told = {}
        self.is_aside = is_noun(word) and self.prep == "with"
        if is_noun(word) and not self._noun_follows_at_once():
            self._unused(*(told.said for told in self.told.values()))
            self.told, self.is_open = {}, False  # "a black coat": the coat's
        self._report_unknown(word)
        self.has_verb |= self.before == "subject" and word.endswith(("s", "ing", "ed"))
        self.negated, self.before = False, "unknown"


_EMPTY = {"ignored", "determiner", "preposition", "of", "also", "then", "meanwhile", "negation", "pronoun"}
