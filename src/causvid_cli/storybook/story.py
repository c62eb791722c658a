"""A story: what one clip shows, in five words, and its canonical caption."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .vocabulary import VOCABULARY

HELD_OUT_SHARE = 16
"""One combination in 16 is kept out of training, to measure how well known words combine anew."""


@dataclass(frozen=True, slots=True)
class Story:
    """What a clip shows. Raises ValueError for a name that is not in the vocabulary."""

    subject: str | None
    """None is the bare scene."""
    colour: str
    scene: str
    action: str
    target: str | None = None
    """What the subject becomes; given exactly with "turns into"."""

    def __post_init__(self) -> None:
        for slot in ("subject", "colour", "scene", "action", "target"):
            known = VOCABULARY.subjects if slot == "target" else getattr(VOCABULARY, f"{slot}s")
            name = getattr(self, slot)
            if name not in known and not (name is None and slot in ("subject", "target")):
                raise ValueError(f"{slot} {name!r} is not one of: {', '.join(known)}")
        if (self.action == "turns into") != (self.target is not None):
            raise ValueError(f"a target goes with 'turns into' and nothing else: {self.action!r}, {self.target!r}")

    def caption(self) -> str:
        """Canonical English: "a red car moves left in the night city"; the natural colour is not said."""
        scene = VOCABULARY.scene[self.scene]
        if self.subject is None:
            return scene.alone
        noun = self.subject if self.colour == "natural" else f"{self.colour} {self.subject}"
        target = f" {with_article(self.target)}" if self.target else ""
        return f"{with_article(noun)} {self.action}{target} {scene.place}"


def with_article(noun: str) -> str:
    """The noun phrase with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def held_out(story: Story) -> bool:
    """Whether a story's (subject, colour, scene, action) is kept out of training. Bare scenes never are, and a model's
    own words neither: what it knows of them is what its videos show."""
    if story.subject is None or isinstance(story, PackStory):
        return False
    key = "|".join((story.subject, story.colour, story.scene, story.action))
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0


@dataclass(frozen=True, slots=True)
class PackStory(Story):
    """A story in which at least one word is a model's own: it can be told and learnt, but not drawn by code."""

    def __post_init__(self) -> None:
        """Its words are those of a lexicon, so there is nothing to refuse."""

    def caption(self) -> str:
        place = VOCABULARY.scene[self.scene].place if self.scene in VOCABULARY.scene else f"in the {self.scene}"
        if self.subject is None:
            return f"only the {self.scene}"
        noun = self.subject if self.colour == "natural" else f"{self.colour} {self.subject}"
        target = f" {with_article(self.target)}" if self.target else ""
        return f"{with_article(noun)} {self.action}{target} {place}"
