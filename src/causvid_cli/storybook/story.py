"""A story: what one clip shows, slot by slot, and its canonical caption."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from .inflect import plain_verb, plural_of
from .vocabulary import VOCABULARY, Words

HELD_OUT_SHARE = 16
"""One combination in 16 is kept out of training, to measure how well known words combine anew."""


SIZES, SPEEDS = ("normal", "small", "big"), ("normal", "slowly", "fast")
SKIES = ("day", "rain", "snow", "storm", "fog", "night", "sunset")
CAMERAS = ("still", "pan left", "pan right", "zoom in", "zoom out")
RELATIONS = ("left of", "right of", "behind", "follows", "meets", "chases")
COUNTS = (1, 2, 3)
STILL, CHANGE, NATURAL = "stays still", "turns into", "natural"
SIZES_ON_THE_WAY = {"grows": ("small", "normal", "big"), "shrinks": ("big", "normal", "small")}
"""Sizes that something has while it does this."""
IN_SHOTS = (CHANGE, *SIZES_ON_THE_WAY)
"""Actions that a pack may lack: it is told them in several shots."""
WHO = ("subject", "colour", "size", "count", "relation", "other", "other_colour")
WHERE = ("scene", "sky")
DOES = ("action", "target", "speed")
"""Slots that change together from one prompt to the next, or stay."""


@dataclass(frozen=True, slots=True)
class Story:
    """What a clip shows. Raises ValueError for a name that is not in the vocabulary."""

    subject: str | None
    """None is the bare scene; in a story that goes on from a picture, whoever that shows."""
    colour: str
    scene: str | None
    """None: where the picture before it is."""
    action: str
    target: str | None = None
    """What the subject becomes; given exactly with "turns into"."""
    size: str = "normal"
    speed: str = "normal"
    sky: str | None = "day"
    """The time of the day or the weather, over any scene; None: as on the picture before it."""
    camera: str = "still"
    count: int = 1
    """How many of the subject there are."""
    relation: str | None = None
    """How the subject stands to another, which is given exactly with it."""
    other: str | None = None
    other_colour: str = NATURAL
    mirrored: bool | None = None
    """Whether the scene is mirrored; None: as the video's seed has it. No prompt says it."""
    edge: str = field(default="open", compare=False)
    """The camera goes along with who travels; in the first packs' world they meet the edge, and it "wraps" round. No
    prompt says it."""
    seen: bool = field(default=False, compare=False)
    """Whether a picture was given before it, which shows who and where. No prompt says it."""

    def __post_init__(self) -> None:
        for slot, known in ALL_WORDS.items():
            name = getattr(self, slot)
            if name not in known and not (name is None and slot in UNSAID):
                raise ValueError(f"{slot} {name!r} is not one of: {', '.join(map(str, known))}")
        if (self.action == CHANGE) != (self.target is not None):
            raise ValueError(f"a target goes with 'turns into' and nothing else: {self.action!r}, {self.target!r}")
        if (self.relation is None) != (self.other is None):
            raise ValueError(f"a relation goes with another subject: {self.relation!r}, {self.other!r}")

    @property
    def is_picture(self) -> bool:
        """Whether it is no more than what is known of a picture (`PICTURE`): where that is, if anything."""
        return self.seen and replace(self, scene=None, sky=None, mirrored=None) == PICTURE

    def caption(self) -> str:
        """Canonical English: "a red car moves left in the night city"; what is ordinary is not said."""
        if self.subject is None and self.seen:
            return " ".join(part for part in ("it", self.action, self._quick, self.where()) if part).replace(" ,", ",")
        if self.subject is None:
            scene = VOCABULARY.scene.get(self.scene or "")
            return (scene.alone if scene else f"only the {self.scene}") + self.around
        words = [] if self.size == "normal" else [self.size]
        words += [self.subject] if self.colour == NATURAL else [self.colour, self.subject]
        who, verb = with_article(" ".join(words)), self.action
        if self.count > 1:
            words[-1], (first, *rest) = plural_of(words[-1]), verb.split()
            who, verb = " ".join((NUMBERS[self.count], *words)), " ".join((plain_verb(first), *rest))
        parts = [who, verb, self._quick, with_article(self.target or "")]
        if self.relation and self.other:
            other = self.other if self.other_colour == NATURAL else f"{self.other_colour} {self.other}"
            parts += [RELATION_SAYS[self.relation], with_article(other)]
        return " ".join(part for part in (*parts, self.where()) if part)

    def where(self) -> str:
        """The end of the caption: "in the night city in the rain, zoom in"."""
        scene = VOCABULARY.scene.get(self.scene or "")
        place = scene.place if scene else f"in the {self.scene}" if self.scene else ""
        return (place + self.around).strip(" ")

    @property
    def around(self) -> str:
        """What the caption says of sky and camera: " in the rain, zoom in"."""
        return f"{SKY_SAYS[self.sky or 'day']}{CAMERA_SAYS[self.camera]}"

    @property
    def _quick(self) -> str:
        return "" if self.speed == "normal" else self.speed

    def summary(self, *, moves: str = "moves") -> str:
        """The story in few words that say the same: "brown dog, moves right, beach, sunset"; moves: another verb."""
        words = [str(self.count)] if self.count > 1 else []
        words += [self.size] if self.size != "normal" else []
        words += [self.colour] if self.colour != NATURAL else []
        words += [(plural_of(self.subject) if self.count > 1 else self.subject)] if self.subject else []
        who = " ".join(words) or ("it" if self.seen else "")
        action = self.action.replace("moves", moves)
        does = f"{action} {with_article(self.target)}" if self.target else action
        other = [] if self.other_colour == NATURAL else [self.other_colour]
        parts = [
            who,
            f"{does} {self._quick}".rstrip() if who else "",
            " ".join((self.relation, with_article(" ".join((*other, self.other)))))
            if self.relation and self.other
            else "",
            (self.scene or "") if who else f"only {self.scene}",
            "" if self.sky in ("day", None) else SKY_SHORT.get(self.sky, self.sky),
            "" if self.camera == "still" else self.camera,
        ]
        return ", ".join(part for part in parts if part)


SLOTS: dict[str, Any] = {"subject": None, "colour": NATURAL, "scene": "meadow", "action": STILL} | {
    each.name: each.default for each in fields(Story) if each.default is not MISSING and each.compare
}
"""The slots of a story that a network may be told, in their order, and what each is where nothing is said."""
UNSAID = (*(slot for slot, default in SLOTS.items() if default is None), "scene", "sky")
"""Slots that a story may leave open."""
FIRST_WORDS: Words = {**VOCABULARY.first, "target": VOCABULARY.first["subject"]}
"""What the first packs know."""
ALL_WORDS: Words = {
    "subject": VOCABULARY.subjects,
    "colour": VOCABULARY.colours,
    "scene": VOCABULARY.scenes,
    "action": VOCABULARY.actions,
    "target": VOCABULARY.subjects,
    "size": SIZES,
    "speed": SPEEDS,
    "sky": SKIES,
    "camera": CAMERAS,
    "count": COUNTS,
    "relation": RELATIONS,
    "other": VOCABULARY.subjects,
    "other_colour": VOCABULARY.colours,
    "mirrored": (False, True),
}
"""All that the storybook can draw, for each slot."""
PICTURE = Story(None, NATURAL, None, STILL, sky=None, seen=True)
"""What is known of a picture that is given before anything is told."""
NUMBERS = {1: "one", 2: "two", 3: "three"}
SKY_SAYS = (
    {"day": "", "fog": " in the fog", "night": " at night", "sunset": " at sunset"}
    | {sky: f" in the {sky}" for sky in ("rain", "storm")}
    | {"snow": " in falling snow"}
)
SKY_SHORT = {"snow": "snowing"}
"""Skies whose names are also scenes'."""
CAMERA_SAYS = {name: "" if name == "still" else f", {name}" for name in CAMERAS}
RELATION_SAYS = {"left of": "to the left of", "right of": "to the right of", "behind": "behind"} | {
    relation: f"and {relation}" for relation in ("follows", "meets", "chases")
}


def limited_to(story: Story, words: Words) -> tuple[Story, tuple[str, ...]]:
    """A story as a pack of these words can show it, and the slots in which it shows something else than was said.

    A slot that the pack does not know, and a word that it does not, are as if nothing had been said of them.
    """
    lost = [
        slot
        for slot in SLOTS
        if (name := getattr(story, slot)) not in (SLOTS[slot], None) and name not in words.get(slot, ())
    ]
    changes = {slot: SLOTS[slot] for slot in lost}
    if {"relation", "other"} & changes.keys():
        changes |= {slot: SLOTS[slot] for slot in ("relation", "other", "other_colour")}
    if {"action", "target"} & changes.keys() and story.action == CHANGE:
        changes |= {"action": STILL, "target": None}
    return replace(story, **changes), tuple(lost)


def with_article(noun: str) -> str:
    """The noun phrase with "a" or "an"; nothing for nothing."""
    if not noun:
        return ""
    return f"{'an' if noun[0] in 'aeio' or noun.startswith('um') else 'a'} {noun}"


def held_out(story: Story) -> bool:
    """Whether a story's (subject, colour, scene, action) is kept out of training. Bare scenes never are, and a model's
    own words neither: what it knows of them is what its videos show."""
    if story.subject is None or isinstance(story, PackStory):
        return False
    key = "|".join((story.subject, story.colour, story.scene or "", story.action))
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0


@dataclass(frozen=True, slots=True)
class PackStory(Story):
    """A story in which at least one word is a model's own: it can be told and learnt, but not drawn by code."""

    def __post_init__(self) -> None:
        """Its words are those of a lexicon, so there is nothing to refuse."""
