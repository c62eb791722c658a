"""The words around the names of things, read from grammar.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

Said = Mapping[str, tuple[str, ...]]
"""For each word of a slot, what a prompt may say for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What is said around names; grammar.toml says what each list is for."""

    movement: tuple[str, ...]
    movement_forms: tuple[str, ...]
    weak: tuple[str, ...]
    foreign: tuple[str, ...]
    left: tuple[str, ...]
    right: tuple[str, ...]
    up: tuple[str, ...]
    nobody: tuple[str, ...]
    negation: tuple[str, ...]
    then: tuple[str, ...]
    meanwhile: tuple[str, ...]
    also: tuple[str, ...]
    determiners: tuple[str, ...]
    indefinite: tuple[str, ...]
    pronouns: tuple[str, ...]
    prepositions: tuple[str, ...]
    of: tuple[str, ...]
    pairs: tuple[str, ...]
    ignored: tuple[str, ...]
    along: tuple[str, ...]
    ages: tuple[str, ...]
    ends: tuple[str, ...]
    done_to: tuple[str, ...]
    sizes: Said
    speeds: Said
    skies: Said
    sky_says: Said
    cameras: Said
    counts: Said
    relations: Said
    relation_verbs: Said
    subjects: Said
    people: Said
    scenes: Said
    actions: Said
    alike: Mapping[str, str]


def load_grammar() -> Grammar:
    """The grammar shipped with the package. Raises TypeError where a list is missing or unknown."""
    table: dict[str, Any] = tomllib.loads(files(__package__).joinpath("grammar.toml").read_text(encoding="utf-8"))
    return Grammar(**{name: _frozen(value) for name, value in table.items()})


def _frozen(value: Any) -> Any:
    """A list as a tuple, also inside of tables."""
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(value) if isinstance(value, list) else value


GRAMMAR = load_grammar()
