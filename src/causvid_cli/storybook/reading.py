"""What was read of a prompt: shots, with who is in them, and words that had no place."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Word:
    """A name, and what the user said for it."""

    name: str
    said: str


@dataclass(slots=True)
class Noun:
    """Something named, with what was said of it."""

    word: Word
    is_plural: bool = False
    is_new: bool = False
    """Whether "a" or "another" stood before it."""
    is_guess: bool = False
    """Whether the user's word is unknown and this is the nearest kind."""
    colour: Word | None = None
    size: Word | None = None
    count: Word | None = None


@dataclass(slots=True)
class Shot:
    """What one prompt, or one part of it, says; None where it says nothing. start: where its text begins."""

    start: int = 0
    subject: Noun | None = None
    other: Noun | None = None
    target: Noun | None = None
    scene: Word | None = None
    sky: Word | None = None
    camera: Word | None = None
    verb: Word | None = None
    """The action; without a name a movement."""
    direction: Word | None = None
    speed: Word | None = None
    relation: Word | None = None
    is_passive: bool = False
    is_still: bool = False
    """Whether something was said not to happen."""
    is_empty: bool = False


@dataclass(slots=True)
class Reading:
    """Everything that was read."""

    shots: list[Shot] = field(default_factory=lambda: [Shot()])
    unknown: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    corrected: list[Word] = field(default_factory=list)
    understood: bool = False
