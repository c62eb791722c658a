"""The fixed palette, and the materials that sprites are drawn in before a colour is chosen."""

from __future__ import annotations

from functools import cache

import numpy as np

from .vocabulary import TONES, VOCABULARY

_SINGLE = {
    "outline": "1b1626",
    "skin": "f6c9a0",
    "glass": "a8ecf4",
    "sky light": "cfeaf6",
    "sky": "a4d2ea",
    "snow": "eaf1fa",
    "snow shade": "c2d3e8",
    "grass": "b2d486",
    "grass dark": "8cba6a",
    "sea": "62acd0",
    "sea deep": "4288b2",
    "night": "282450",
    "night building": "423c78",
    "sand": "f2d8a0",
    "sand dark": "dcb478",
    "leaf": "5c9468",
    "leaf dark": "36684e",
    "space": "171a36",
}
"""Colours that are no ramp: name -> RRGGBB. The first three belong to sprites, the rest to scenes (paler by intent)."""


def _entries() -> dict[str, str]:
    """Palette name -> RRGGBB, in palette order; ramp tones are named "red.light"."""
    ramps = {colour.name: colour.tones for colour in VOCABULARY.colour.values() if colour.tones} | VOCABULARY.ramps
    tones = {f"{name}.{tone}": code for name, codes in ramps.items() for tone, code in zip(TONES, codes, strict=True)}
    return _SINGLE | tones


_ENTRIES = _entries()
_INDEX = {name: index for index, name in enumerate(_ENTRIES)}

PALETTE = np.array([list(bytes.fromhex(code)) for code in _ENTRIES.values()], dtype=np.uint8)  # [P, 3]
PALETTE.setflags(write=False)

# Materials: what a drawing writes where the prompt's colour goes. Every other value is a palette index.
LIGHT, MID, DARK, EMPTY = 252, 253, 254, 255
BODY = (LIGHT, MID, DARK)


def ink(name: str) -> int:
    """Palette index of a colour by name: "outline", "red.mid". Raises KeyError for a name that is not there."""
    return _INDEX[name]


@cache
def material_table(subject: str, colour: str) -> np.ndarray:
    """uint8 [256]: material -> palette index for a subject in a colour. EMPTY stays EMPTY."""
    inks = VOCABULARY.colour[colour].inks or [f"{colour}.{tone}" for tone in TONES]
    if colour == "natural":  # what an action brings along is no subject, and has inks of its own only
        known = VOCABULARY.subject.get(subject)
        inks = known.natural if known else ("white.light", "white.mid", "white.dark")
    table = np.arange(256, dtype=np.uint8)
    table[list(BODY)] = [ink(name) for name in inks]
    table.setflags(write=False)
    return table
