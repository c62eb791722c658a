"""The words of the storybook world, read from vocabulary.toml: subjects, colours, scenes and actions."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

Tones = tuple[str, str, str]
TONES = ("light", "mid", "dark")


PUSHED = "slides"
"""What things do that nobody expects to move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something that can be drawn. natural: palette names of its own light, mid and dark tone, or of a ramp."""

    name: str
    natural: Tones
    scene: str
    altitude: Literal["ground", "air"] = "ground"
    alive: bool = False
    """Whether it breathes."""
    moves: tuple[str, ...] = ("moves",)
    """How it says "moves" ("drives"); the first is the most natural."""
    synonyms: tuple[str, ...] = ()
    """What it is called besides, by packs that know none of these names as a subject of its own."""
    plurals: tuple[str, ...] = ()
    """Irregular plurals of the name and its synonyms; the regular ones need no entry."""

    @property
    def is_mobile(self) -> bool:
        """Whether it goes anywhere by itself."""
        return self.moves[0] != PUSHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """A colour word. tones: light, mid, dark as RRGGBB; None where `inks` names them, and for "natural", which each
    subject defines."""

    name: str
    tones: Tones | None = None
    inks: Tones | None = None
    """Names of palette colours that it is painted in; it adds none."""
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A background. place ends a caption ("at sea"); alone is the caption without a subject."""

    name: str
    place: str
    alone: str
    says: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What happens. says: whole predicates for captions; verbs and phrases: what a prompt may say."""

    name: str
    says: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


Words = Mapping[str, Sequence[Any]]
"""For each slot of a story, the words that something knows: a pack, a training run, the storybook itself."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every entry by name, in file order; `subjects`, `colours`, `scenes` and `actions` are the names alone."""

    subject: dict[str, Subject]
    colour: dict[str, Colour]
    scene: dict[str, Scene]
    action: dict[str, Action]
    ramps: dict[str, Tones]
    """Tones of natural colours and scenes that no prompt asks for: white, brown, grey."""
    first: Words
    """What the first packs know. The built-in evaluation asks with these words, so that all packs can be compared."""
    subjects: tuple[str, ...] = field(init=False)
    colours: tuple[str, ...] = field(init=False)
    scenes: tuple[str, ...] = field(init=False)
    actions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        for slot in ("subject", "colour", "scene", "action"):
            object.__setattr__(self, f"{slot}s", tuple(getattr(self, slot)))
        for subject in self.subject.values():
            if subject.scene not in self.scene:
                raise ValueError(f"vocabulary.toml: {subject.name}: scene {subject.scene!r} is not in scenes")
            if subject.altitude not in ("ground", "air"):
                raise ValueError(f"vocabulary.toml: {subject.name}: altitude {subject.altitude!r} is not ground or air")
        for slot, names in self.first.items():
            if lost := set(names) - set(getattr(self, f"{slot}s")):
                raise ValueError(f"vocabulary.toml: first.{slot}: {min(lost)!r} is not among the {slot}s")


def load_vocabulary() -> Vocabulary:
    """The vocabulary shipped with the package. Raises ValueError or TypeError where an entry is malformed."""
    table = tomllib.loads(files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8"))
    return Vocabulary(
        subject={entry["name"]: _subject(entry) for entry in table["subjects"]},
        colour={entry["name"]: Colour(**_frozen(entry)) for entry in table["colours"]},
        scene={entry["name"]: Scene(**_frozen(entry)) for entry in table["scenes"]},
        action={entry["name"]: Action(**_frozen(entry)) for entry in table["actions"]},
        ramps={entry["name"]: tuple(entry["tones"]) for entry in table["ramps"]},
        first=_frozen(table["first"]),
    )


def _subject(entry: dict[str, Any]) -> Subject:
    """A subject; natural = "brown" is short for the three tones of brown."""
    natural = entry["natural"]
    tones = tuple(f"{natural}.{tone}" for tone in TONES) if isinstance(natural, str) else natural
    return Subject(**_frozen(entry | {"natural": tones}))


def _frozen(entry: dict[str, Any]) -> dict[str, Any]:
    """A toml table with its lists as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


VOCABULARY = load_vocabulary()
