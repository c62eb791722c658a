"""Drawings that are data: sketches.txt, a line for each shape, in the 36 x 36 box that every subject has.

    = apple roll            a drawing, and how it lives: `LIVES`
    b 18 21 14 13           a blob in three tones: centre, radii
    e INK 18 21 14 13       an ellipse
    r INK 4 5 20 9          a rectangle, from one corner to the other
    p INK 4,5 9,9 4,9       a polygon
    l INK 2 4,5 9,9         a line of this width
    g INK 3 10 26 35 1      a leg: width, column, its ends, and which way it steps first
    w 9 30 6                a wheel that turns: centre, radius
    i 20 8 3                an eye of this height that blinks
    turn 18 20 0 9 0 -9     what follows is turned about a point by so many degrees in each phase; `turn` ends it

`INK` is one of the short names in `INKS`. "13: " before a line: only in phases
1 and 3. "x: " shades: only on what has the subject's colour already.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from math import cos, pi, sin

from .palette import BODY, DARK, EMPTY, LIGHT, MID, ink
from .raster import Canvas, Point
from .sprites import SWING, drawing

INKS = {"L": LIGHT, "M": MID, "D": DARK, "_": EMPTY} | {
    short: ink(name)
    for short, name in {
        "W": "white.light", "w": "white.mid", "v": "white.dark", "K": "outline", "s": "grey.light", "g": "grey.mid",
        "G": "grey.dark", "t": "brown.light", "B": "brown.mid", "b": "brown.dark", "y": "yellow.light",
        "Y": "yellow.mid", "O": "orange.mid", "o": "orange.dark", "R": "red.mid", "r": "red.dark", "P": "pink.mid",
        "q": "pink.light", "U": "blue.mid", "u": "blue.light", "V": "purple.mid", "E": "green.mid", "N": "leaf",
        "n": "leaf dark", "C": "glass", "S": "skin", "d": "sand", "a": "sand dark", "A": "sea",
    }.items()
}  # fmt: skip
"""Short names of inks; the first three take the subject's colour, and _ wipes."""
LIVES = {
    "still": lambda c, phase: c,
    "sway": lambda c, phase: c.placed(degrees=3.5 * SWING[phase], about=(18, 36)),
    "bob": lambda c, phase: c.placed(shift=(0, (0, -1, 0, 1)[phase])),
    "rock": lambda c, phase: c.placed(shift=(0, (0, -0.6, -1, -0.6)[phase]), degrees=3 * SWING[phase], about=(18, 34)),
    "roll": lambda c, phase: c.placed(degrees=6 * SWING[phase], about=(18, 30)),
    "shake": lambda c, phase: c.placed(shift=(0, -(phase % 2))),
}
"""How a drawing lives through the four phases of its cycle."""


def sketch(c: Canvas, phase: int, *, life: str, lines: Sequence[str]) -> None:
    """Draw the lines of one sketch."""
    whole = c = LIVES[life](c, phase)
    for line in lines:
        on: Sequence[int] | None = None
        head, colon, rest = line.partition(": ")
        if colon and head == "x":
            on, line = BODY, rest
        elif colon:
            line = rest if str(phase) in head else ""
        kind, *words = line.split() or ("",)
        if kind == "turn":
            numbers = [float(word) for word in words]
            c = whole.placed(about=(numbers[0], numbers[1]), degrees=numbers[2 + phase]) if numbers else whole
        elif kind:
            _draw(c, kind, words, phase, on)


def _draw(c: Canvas, kind: str, words: Sequence[str], phase: int, on: Sequence[int] | None) -> None:
    colour = INKS.get(words[0], MID)
    words = words[1:] if kind in "erplg" else words
    points: list[Point] = [(float(x), float(y)) for x, _, y in (word.partition(",") for word in words) if y]
    numbers = [float(word) for word in words if "," not in word]
    match kind, numbers:
        case "b", [x, y, rx, ry]:
            c.blob(x, y, rx, ry)
        case "e", [x, y, rx, ry]:
            c.ellipse(x, y, rx, ry, colour, on)
        case "r", [x0, y0, x1, y1]:
            c.box(x0, y0, x1, y1, colour, on)
        case "p", []:
            c.polygon(points, colour, on)
        case "l", [width]:
            c.line(points, width, colour, on)
        case "g", [width, x, top, foot, first]:
            c.line([(x, top), (x + 2.2 * first * SWING[phase], foot - width / 2)], width, colour)
        case "w", [x, y, radius]:
            _wheel(c, x, y, radius, angle=phase * pi / 4)
        case "i", [x, y, height, *white]:
            c.eye(x, y, height=height, white=bool(white))
        case _:
            raise ValueError(f"sketches.txt: {kind} {' '.join(words)}: is no shape")


def _wheel(c: Canvas, x: float, y: float, radius: float, *, angle: float) -> None:
    c.ellipse(x, y, radius, radius, INKS["K"])
    c.ellipse(x, y, radius - 1, radius - 1, INKS["G"])
    c.ellipse(x, y, radius * 0.45, radius * 0.45, INKS["s"])
    dx, dy = radius * 0.66 * cos(angle), radius * 0.66 * sin(angle)
    c.line([(x - dx, y - dy), (x + dx, y + dy)], 1.4, INKS["s"])


def read_sketches() -> dict[str, tuple[str, list[str]]]:
    """Name -> how it lives, and its lines. Raises ValueError for a life that there is none of."""
    sketches: dict[str, tuple[str, list[str]]] = {}
    for line in files(__package__).joinpath("sketches.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            *name, life = line[2:].split()
            if life not in LIVES:
                raise ValueError(f"sketches.txt: {line[2:]}: {life!r} is none of: {', '.join(LIVES)}")
            lines: list[str] = []
            sketches[" ".join(name)] = life, lines
        elif line and not line.startswith("#"):
            lines.append(line)
    return sketches


for name, (life, lines) in read_sketches().items():
    drawing(name)(partial(sketch, life=life, lines=lines))
