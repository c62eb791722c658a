"""Free English to Stories in the words that a pack knows, open about what of it is not shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from .clauses import FOLLOWING, SCENES_AS_SKIES, Reader
from .grammar import GRAMMAR
from .inflect import third_person, verb_forms
from .kinds import is_english
from .lexicon import LEXICON, Kind, Lexicon
from .motion import brings_along
from .reading import Noun, Reading, Shot, Word
from .story import ALL_WORDS, CHANGE, NATURAL, SIZES_ON_THE_WAY, SLOTS, STILL, WHO, PackStory, Story
from .tokens import Token, plain, tokens
from .vocabulary import VOCABULARY

BARE_SCENE = "meadow"
DIRECTIONS = {"left": "moves left", "right": "moves right", "up": "flies up"}
MOST_SHOTS = 16
"""Actions that are told one after the other; what follows is not looked at."""
MANY = 3
"""How many a plural without a number is."""
SURELY = 0.83
"""How alike a misspelled word must be to a known one to be taken for English."""
_EDGES = " ,.;:!?-\n\t"
_FOREIGN, _LAST_LATIN = frozenset(GRAMMAR.foreign), "\u024f"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a prompt was understood to say."""

    story: Story
    unknown: tuple[str, ...] = ()
    """The first distinct words without a meaning."""
    filled: tuple[str, ...] = ()
    """Slots the prompt did not say: "subject", "scene", "action", "colour"."""
    unused: tuple[str, ...] = ()
    """The user's words that found no place, such as a second colour, or "turns into" without a target."""
    corrected: tuple[Word, ...] = ()
    """Misspelled words, with what they were read as."""
    shown_as: tuple[Word, ...] = ()
    """Words for what is not known, with the nearest that is and that is shown."""
    not_shown: tuple[str, ...] = ()
    """Words for what was understood and cannot be shown."""
    understood: bool = True
    """Whether any word of it means something: articles and the like do not count."""
    is_english: bool = True
    """Whether it can be English: more than a third of its words are."""
    shots: tuple[str, ...] = ()
    """A prompt for each action, where one follows the other."""
    movement: str = ""
    """The user's verb for a movement."""

    @property
    def summary(self) -> str:
        """The story in few words, a movement in the user's: "brown dog, runs right, beach, sunset"."""
        return self.story.summary(moves=_third_person(self.movement))


def parse(text: str, previous: Story | None = None, lexicon: Lexicon = LEXICON) -> Parsed:
    """The story a text tells; slots it leaves open come from the previous story, or else from defaults.

    Takes any string and never raises. After "turns into", a subject left open is what the previous one became.
    A second subject is the target only after a transform verb; without a known target the action is "stays still".
    Of several actions that follow each other the first is told, and `shots` has a prompt for each. To a pack without
    "turns into" what something becomes is another shot; who stands there already needs none before it.
    With a model's own words in the lexicon the story may be a `PackStory`.
    """
    text = plain(text)
    phrases = list(tokens(text, lexicon))
    can_be_english = _is_english(phrases, lexicon)
    reading = Reader(lexicon, goes_on=_has_subject(previous), corrects=can_be_english).read(phrases)
    _share_places(reading)
    reading.shots = list(_without_changes(reading.shots, previous, lexicon))
    reading.shots = list(_by_sizes(reading.shots, lexicon))
    first = _Telling(reading.shots[0], previous, lexicon)
    later = reading.shots[1:MOST_SHOTS]
    left_out = dict.fromkeys(shot.verb.said for shot in later if shot.verb)
    brought = brings_along(first.story.action)  # "drinks from a cup": it is there, whoever knows no cups
    return Parsed(
        story=first.story,
        unknown=tuple(reading.unknown),
        filled=tuple(first.filled),
        unused=tuple(word for word in (*reading.unused, *first.unused, *left_out) if not _names(word, brought)),
        corrected=tuple(reading.corrected),
        shown_as=tuple(first.shown_as),
        not_shown=tuple(word for word in first.not_shown if not _names(word, brought)),
        understood=reading.understood,
        is_english=can_be_english,
        shots=tuple(_prompts(text, reading.shots[:MOST_SHOTS], previous, lexicon)) if later else (),
        movement=first.movement,
    )


def _is_natural(colour: str, subject: str) -> bool:
    """Whether a subject has a colour of itself."""
    own = VOCABULARY.subject[subject].natural if subject in VOCABULARY.subject else ()
    return any(tone.startswith(f"{colour}.") for tone in own)


def _names(said: str, things: Sequence[str]) -> bool:
    """Whether what was said is a name for one of these drawings."""
    known = [meaning for token in tokens(said, LEXICON) for meaning in token.meanings] if things else []
    return any(meaning.kind == "subject" and meaning.name in things for meaning in known)


def _third_person(said: str) -> str:
    """running -> runs; "moves" for what is no regular form of a movement."""
    return next((third_person(verb) for verb in GRAMMAR.movement if said in verb_forms(verb)), "moves")


def _share_places(reading: Reading) -> None:
    """Where something is, when that is said once and late, holds from the beginning: "runs, then jumps, at sunset"."""
    for slot in ("scene", "sky", "camera"):
        said = [word for shot in reading.shots if (word := getattr(shot, slot))]
        if len(said) == 1:
            setattr(reading.shots[0], slot, said[0])


def _without_changes(shots: list[Shot], previous: Story | None, lexicon: Lexicon) -> Iterator[Shot]:
    """The shots with each change as two: who stands there, unless they do already, and then what they have become.

    Where a pack has changes, only of who changes no more than colour.
    """
    all_of_them = CHANGE not in lexicon.words["action"]
    for number, shot in enumerate(shots):
        is_same = bool(shot.subject and shot.target and shot.subject.word.name == shot.target.word.name)
        if shot.verb and shot.verb.name == CHANGE and shot.target and (is_same or all_of_them):
            before = replace(shot, verb=None, direction=None, target=None, is_still=True)
            if shot.subject and (number or not _is_there(before, previous, lexicon)):
                yield before
            stands = Word(STILL, shot.verb.said)  # a verb, so that a note can name what is not told
            shot = replace(shot, verb=stands, subject=replace(shot.target, is_new=True), target=None)
        yield shot


def _by_sizes(shots: list[Shot], lexicon: Lexicon) -> Iterator[Shot]:
    """The shots with what grows or shrinks in one for each size, where the pack shows sizes and no growing."""
    for shot in shots:
        sizes = SIZES_ON_THE_WAY.get(shot.verb.name) if shot.verb else None
        known = shot.verb is not None and shot.verb.name in lexicon.words["action"]
        if shot.verb is None or shot.subject is None or sizes is None or known or not lexicon.words.get("size"):
            yield shot
            continue
        for size in sizes:
            noun = replace(shot.subject, size=Word(size, size), is_new=True)
            yield replace(shot, verb=Word(STILL, shot.verb.said), subject=noun)


def _is_there(shot: Shot, previous: Story | None, lexicon: Lexicon) -> bool:
    """Whether the previous story has shown who is in a shot, as far as it says who that is."""
    if previous is None or shot.subject is None:
        return False
    meant = replace(shot, subject=replace(shot.subject, is_new=False, is_plural=False))
    story = _Telling(meant, previous, lexicon).story
    return all(getattr(story, slot) == getattr(previous, slot) for slot in WHO)


def _prompts(text: str, shots: list[Shot], previous: Story | None, lexicon: Lexicon) -> Iterator[str]:
    """A prompt for each shot: the user's own words, with the place where they do not say it, else its caption."""
    starts = [0, *(shot.start for shot in shots[1:]), len(text)]
    for shot, (start, end) in zip(shots, pairwise(starts), strict=True):
        words = text[start:end].strip(_EDGES)
        story = _Telling(shot, previous, lexicon).story
        ways = (words, f"{words}{story.around}", f"{words} {story.where()}") if words else ()
        yield next((way for way in ways if _only_story(way, previous, lexicon) == story), story.caption())
        previous = story


def _only_story(text: str, previous: Story | None, lexicon: Lexicon) -> Story | None:
    """The story that a text tells; None for one that tells several."""
    shots = Reader(lexicon, goes_on=_has_subject(previous)).read(list(tokens(text, lexicon))).shots
    shots = list(_by_sizes(shots, lexicon))
    return _Telling(shots[0], previous, lexicon).story if len(shots) == 1 else None


def _has_subject(story: Story | None) -> bool:
    return story is not None and story.subject is not None


def _is_english(phrases: list[Token], lexicon: Lexicon) -> bool:
    words = [phrase for phrase in phrases[:40] if phrase.said[0].isalpha()]
    foreign = sum(1 for phrase in words if phrase.said in _FOREIGN or phrase.said[0] > _LAST_LATIN)
    known = sum(1 for phrase in words if _can_be_english(phrase, lexicon))
    return foreign == 0 if len(words) < 3 else 2 * foreign < len(words) and 3 * known > len(words)


def _can_be_english(phrase: Token, lexicon: Lexicon) -> bool:
    """Whether a phrase is English or a misspelled word; the smallest words of other languages are in WordNet, too."""
    word = phrase.said
    if phrase.meanings or word in _FOREIGN:
        return bool(phrase.meanings)
    return is_english(word) or lexicon.spelt_alike(word, least=SURELY) is not None


class _Telling:
    """A shot as a story: `story`, and what had to be filled in, shown as something else or left out."""

    def __init__(self, shot: Shot, previous: Story | None, lexicon: Lexicon) -> None:
        self.lexicon, self.previous = lexicon, previous
        self.filled: list[str] = []
        self.unused: list[str] = []
        self.shown_as: list[Word] = []
        self.not_shown: list[str] = []
        self.movement = ""
        self.story = self._tell(shot)

    def _tell(self, shot: Shot) -> Story:
        before = self.previous
        noun, other = (
            (shot.other, shot.subject)
            if shot.is_passive and shot.other and self.lexicon.words.get("other")
            else (shot.subject, shot.other)
        )
        subject, target = self._subject(noun), self._subject(shot.target)
        if noun and subject is None and other and not before:  # of two, the one that can be shown
            noun, other, subject = other, None, self._subject(other)
        scene, sky = self._scene(shot)
        action = self._action(shot, target)
        self.filled += [slot for slot, name in (("subject", subject), ("scene", scene), ("action", action)) if not name]
        seen = before is not None and before.seen
        if subject is None and (shot.is_empty or not (seen or (before and (before.subject or not noun)))):
            if not (action == CHANGE and target) or shot.is_empty:
                return self._bare(scene, sky, shot)
        is_same = noun is None or before is None or (subject == before.subject and not noun.is_new)
        if action is None and before and (subject is None or before.target is None):
            action, target = before.action, before.target
            speed = before.speed
            subject = subject or before.subject
        else:
            speed = "normal"
            if subject is None and before:
                subject = before.target or before.subject
            elif subject is None:
                subject, action, target = target, STILL, None  # "it becomes a swan", and nobody knows what it was
        if subject is None and not seen:
            return self._bare(scene, sky, shot)
        if before is not None:  # who is new after the first prompt is a new shot
            seen = seen and (before.is_picture or subject == before.subject)
        kept = before if before and is_same else None
        colour = self._colour(noun, subject) if subject else None
        if colour is None:
            self.filled.append("colour")
        relation, second, second_colour = self._other(shot, other, subject)
        if second in brings_along(action or STILL) and shot.relation and not shot.relation.said:
            if other and other.colour and not _is_natural(other.colour.name, second):
                self._left_out(other.colour)
            relation, second, second_colour = None, None, NATURAL  # "eats an apple": it is there already
        if second is None and kept and kept.other:
            relation, second, second_colour = kept.relation, kept.other, kept.other_colour
        count = self._count(noun if subject else None)
        if second and count and count > 1:  # of two there is one each
            count = 1
            self._left_out(noun.count if noun else None)
        return self._story(
            subject=subject,
            colour=colour or (kept.colour if kept else NATURAL),
            scene=scene or (before and before.scene) or (None if seen else self._home(subject or "")),
            action=action or STILL,
            target=target if action == CHANGE else None,
            size=self._word("size", noun.size if noun and subject else None) or (kept.size if kept else "normal"),
            speed=self._word("speed", shot.speed) or speed,
            sky=sky or (before and before.sky) or (None if seen else "day"),
            camera=self._word("camera", shot.camera) or (before.camera if before else "still"),
            seen=seen,
            count=count or (kept.count if kept else 1),
            relation=relation,
            other=second,
            other_colour=second_colour,
        )

    def _bare(self, scene: str | None, sky: str | None, shot: Shot) -> Story:
        """A scene without a subject."""
        before = self.previous
        return self._story(
            subject=None,
            colour=NATURAL,
            scene=scene or (before and before.scene) or BARE_SCENE,
            action=STILL,
            sky=sky or (before and before.sky) or "day",
            camera=self._word("camera", shot.camera) or (before.camera if before else "still"),
        )

    def _story(self, **slots: object) -> Story:
        """The story of these slots, of which some may have a model's own words."""
        if slots["scene"] == "night city" or (slots["scene"] == "street" and self._knows("scene", "night city")):
            if slots["sky"] == "night":
                slots |= {"scene": "night city", "sky": "day"}
        own = (slots.get(slot) for slot in ("subject", "colour", "scene", "action", "target", "other", "other_colour"))
        known = all(name is None or name in _BUILT_IN for name in own)
        return (Story if known else PackStory)(**slots)  # type: ignore[arg-type]

    def _knows(self, kind: Kind, name: str) -> bool:
        return name in self.lexicon.words[kind]

    def _word(self, slot: str, word: Word | None) -> str | None:
        """The word of a slot that a pack need not know."""
        if word is None:
            return None
        if word.name in self.lexicon.words.get(slot, ()) or word.name == SLOTS[slot]:
            return word.name
        self.not_shown.append(word.said)
        return None

    def _subject(self, noun: Noun | None) -> str | None:
        """The subject of the pack that a noun is, or is nearest to."""
        if noun is None:
            return None
        name, said = noun.word.name, noun.word.said
        shown = self.lexicon.shown("subject", name, said)
        if shown is None:
            self.not_shown.append(said)
        elif shown != name or noun.is_guess:
            self.shown_as.append(Word(shown, said))
        return shown

    def _scene(self, shot: Shot) -> tuple[str | None, str | None]:
        """The scene and the sky. A pack without skies has scenes for some of them."""
        scene = self.lexicon.shown("scene", shot.scene.name, shot.scene.said) if shot.scene else None
        alike = _SKIES_AS_SCENES.get(shot.sky.name) if shot.sky and not self.lexicon.words.get("sky") else None
        if alike and self._knows("scene", alike) and scene in (None, "street", alike):
            return alike, None
        sky = self._word("sky", shot.sky)
        if shot.scene and scene is None:
            self.not_shown.append(shot.scene.said)
        elif shot.scene and scene and scene != shot.scene.name:
            self.shown_as.append(Word(scene, shot.scene.said))
        return scene, sky

    def _action(self, shot: Shot, target: str | None) -> str | None:
        """The action said; a movement in its direction; a change only where there is something to become."""
        verb, direction = shot.verb, shot.direction
        along = DIRECTIONS.get(direction.name if direction else "", "moves right")
        if verb is None:
            if direction or (shot.relation and shot.relation.name in FOLLOWING):
                return along
            return STILL if shot.is_still else None
        if verb.name == CHANGE:
            if target is None:
                self.unused.append(verb.said)
                return STILL
            return CHANGE
        name = verb.name if self._knows("action", verb.name) else GRAMMAR.alike.get(verb.name, verb.name)
        if not name or name == "moves right" != verb.name or (direction and name == "swims"):
            self.movement = verb.said
            return along
        if direction and along != name and name not in ("spins", "falls", "lands"):
            self.unused.append(direction.said)
        if self._knows("action", name):
            if name != verb.name:
                self.shown_as.append(Word(name, verb.said))
            return name
        self.not_shown.append(verb.said)
        return STILL

    def _colour(self, noun: Noun | None, subject: str) -> str | None:
        """The colour said of a noun. To a pack that cannot paint it, it is natural where the subject has it anyway."""
        if noun is None or noun.colour is None:
            return None
        name = noun.colour.name
        if self._knows("colour", name):
            return name
        if not _is_natural(name, subject):
            self.not_shown.append(noun.colour.said)
        return NATURAL

    def _count(self, noun: Noun | None) -> int | None:
        if noun is None or (noun.count is None and not noun.is_plural):
            return None
        known = self.lexicon.words.get("count", ())
        if noun.count is None or not known:
            self._word("count", noun.count)
            return MANY if known else None
        if noun.count.name == "more":
            self.shown_as.append(Word("three", noun.count.said))
        return MANY if noun.count.name == "more" else int(noun.count.name)

    def _other(self, shot: Shot, noun: Noun | None, subject: str | None) -> tuple[str | None, str | None, str]:
        """The relation to another, who that is and in which colour."""
        name = None if noun is None or not self.lexicon.words.get("other") else self._subject(noun)
        if name is None or noun is None or shot.relation is None:
            if noun is not None:
                self.unused.append(noun.word.said)
            elif shot.relation is not None and shot.relation.said:
                self.unused.append(shot.relation.said)
            return None, None, NATURAL
        self._left_out(noun.count)
        self._left_out(noun.size)
        return shot.relation.name, name, self._colour(noun, name) or NATURAL

    def _left_out(self, word: Word | None) -> None:
        if word:
            self.unused.append(word.said)

    def _home(self, subject: str) -> str:
        """Where a subject is when nothing is said of that."""
        scene = VOCABULARY.subject[subject].scene if subject in VOCABULARY.subject else BARE_SCENE
        return self.lexicon.shown("scene", scene, scene) or self.lexicon.words["scene"][0]


_BUILT_IN = {name for slot in ("subject", "colour", "scene", "action") for name in ALL_WORDS[slot]}
_SKIES_AS_SCENES = {sky: scene for scene, sky in SCENES_AS_SKIES.items()}
