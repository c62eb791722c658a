"""The backgrounds: 64 x 64 cells, calm, each an endless loop of 8 frames (`frame` is 0..7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .palette import ink
from .raster import Canvas

SIZE = 64
"""Side of a frame, in cells."""
SCENE_PERIOD = 8
"""Frames after which every scene repeats."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a video's frames, in pixels of the drawing: the square that scenes are drawn for, or larger."""

    width: int = SIZE
    height: int = SIZE

    def __post_init__(self) -> None:
        if not (SIZE <= self.width <= 2 * SIZE and SIZE <= self.height <= 2 * SIZE):
            raise ValueError(f"a frame of {self.width} x {self.height}: sides must be {SIZE} to {2 * SIZE}")

    @property
    def centre(self) -> int:
        return self.width // 2

    @property
    def above(self) -> int:
        """Rows above the square; what is left is below it."""
        return (self.height - SIZE) * 3 // 4


SQUARE, WIDE, TALL = Frame(), Frame(width=112), Frame(height=112)
ALL_ROUND, TALL_ALL_ROUND = Frame(width=2 * SIZE), Frame(width=2 * SIZE, height=112)
"""All of a scene, as far as it goes before it comes again."""
SceneDrawing = Callable[[Canvas, int], None]
SCENES: dict[str, SceneDrawing] = {}

WHITE, PALE = ink("white.light"), ink("white.mid")
SKY_LIGHT, SKY = ink("sky light"), ink("sky")
SUN, GLOW = ink("yellow.light"), ink("yellow.mid")
LEAF, LEAF_DARK, TRUNK = ink("leaf"), ink("leaf dark"), ink("brown.dark")


def scene_drawing(name: str) -> Callable[[SceneDrawing], SceneDrawing]:
    """Register a function that draws a scene: it takes a canvas of cells and the frame 0..7."""

    def register(draw: SceneDrawing) -> SceneDrawing:
        if name in SCENES:
            raise ValueError(f"two scenes are called {name!r}")
        SCENES[name] = draw
        return draw

    return register


def cloud(c: Canvas, x: float, y: float, colour: int) -> None:
    """A small flat-bottomed cloud, 14 wide, whose base is at y."""
    for dx, r in ((-4, 3.0), (0, 4.4), (4.4, 3.2)):
        c.ellipse(x + dx, y - r + 1.2, r, r, colour)
    c.box(x - 7, y - 2, x + 8, y, colour)


def dot(c: Canvas, x: int, y: int, colour: int) -> None:
    """A 2 x 2 dot: the smallest detail a scene has."""
    c.box(x, y, x + 2, y + 2, colour)


@scene_drawing("snow")
def snow(c: Canvas, frame: int) -> None:
    """Snowy hills with firs; flakes fall 2 cells a frame in columns that repeat every 16 cells."""
    c.box(0, 0, 64, 64, SKY)
    c.ellipse(14, 56, 30, 22, ink("snow shade"))
    c.ellipse(54, 60, 28, 20, ink("snow shade"))
    for x, y in ((7, 47), (56, 48)):
        c.box(x - 1, y - 4, x + 1, y, TRUNK)
        for rise, half in ((2, 7), (8, 6), (14, 4)):
            c.polygon([(x - half, y - rise), (x + half, y - rise), (x, y - rise - 10)], LEAF_DARK)
        c.polygon([(x - 2, y - 19), (x + 2, y - 19), (x, y - 25)], ink("snow"))
    c.ellipse(32, 86, 70, 41, ink("snow"))
    c.box(40, 59, 54, 61, ink("snow shade"))
    c.box(10, 55, 20, 57, ink("snow shade"))
    for x, drop in ((3, 4), (15, 10), (27, 0), (39, 6), (49, 13), (60, 3)):
        for y in range((drop + 2 * frame) % 16 - 16, 48, 16):
            dot(c, x, y, WHITE)


@scene_drawing("meadow")
def meadow(c: Canvas, frame: int) -> None:
    """Green hills under the sun; flowers and tufts sway."""
    sway = (0, 1, 0, -1)[frame % 4]
    c.box(0, 0, 64, 64, SKY_LIGHT)
    c.ellipse(11, 11, 6.5, 6.5, SUN)
    cloud(c, 47, 14, WHITE)
    c.ellipse(50, 62, 34, 26, ink("grass dark"))
    c.ellipse(6, 64, 30, 24, ink("grass dark"))
    c.box(0, 46, 64, 64, ink("grass"))
    c.ellipse(30, 52, 50, 8, ink("grass"))
    for x, y, petal in ((6, 51, "pink.mid"), (55, 50, "white.light"), (46, 59, "pink.mid"), (15, 60, "white.light")):
        c.box(x, y, x + 2, y + 4, LEAF)
        c.box(x - 1 + sway, y - 2, x + 3 + sway, y + 1, ink(petal))
        c.box(x + sway, y - 2, x + 2 + sway, y, GLOW)


@scene_drawing("sea")
def sea(c: Canvas, frame: int) -> None:
    """Open water to the horizon; bands of crests travel 2 cells a frame and repeat every 16."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    c.ellipse(51, 12, 6.5, 6.5, SUN)
    cloud(c, 15, 20, WHITE)
    c.box(0, 34, 64, 64, ink("sea"))
    c.box(0, 34, 64, 36, SKY)
    for y, start in ((42, 0), (50, 9), (59, 4)):
        for x in range(start - 32, 96, 16):
            crest = x + 2 * frame
            c.box(crest, y, crest + 8, y + 2, SKY)
            c.box(crest + 8, y + 2, crest + 16, y + 4, ink("sea deep"))
    c.box(0, 62, 64, 64, ink("sea deep"))


@scene_drawing("street")
def street(c: Canvas, frame: int) -> None:
    """A row of houses behind a road; smoke rises from a chimney."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    for y in range(-8 + (-frame) % 8, 16, 8):
        c.ellipse(48 + 1.5 * (y < 4), y + 2, 2.6, 2.2, ink("snow shade"))
    houses = ((0, 17, 20, "sand dark"), (17, 37, 12, "snow shade"), (37, 52, 22, "brown.light"), (52, 64, 16, "sand"))
    for x0, x1, top, wall in houses:
        c.box(x0, top, x1, 46, ink(wall))
        c.box(x0, top, x1, top + 2, ink("grey.mid"))
        for y in range(top + 5, 40, 9):
            for x in range(x0 + 3, x1 - 4, 6):
                c.box(x, y, x + 3, y + 5, SKY)
    c.box(46, 14, 50, 22, ink("brown.mid"))
    c.box(0, 46, 64, 50, PALE)
    c.box(0, 50, 64, 64, ink("grey.mid"))
    for x in range(2, 64, 16):
        c.box(x, 58, x + 8, 60, PALE)


@scene_drawing("night city")
def night_city(c: Canvas, frame: int) -> None:
    """Towers with lit windows under a crescent moon; some windows and stars go on and off."""
    c.box(0, 0, 64, 64, ink("night"))
    c.ellipse(12, 10, 6, 6, SUN)
    c.ellipse(15, 8.4, 5, 5, ink("night"))
    for number, (x, y) in enumerate(((28, 6), (42, 12), (56, 5), (4, 22))):
        if (frame // 2 + number) % 4 != 0:
            dot(c, x, y, PALE)
    towers = ((0, 13, 30), (13, 24, 20), (26, 41, 26), (41, 52, 17), (53, 64, 28))
    number = 0
    for x0, x1, top in towers:
        c.box(x0, top, x1, 54, ink("night building"))
        for y in range(top + 3, 50, 6):
            for x in range(x0 + 2, x1 - 3, 4):
                number += 1
                lit = number % 3 == 0 or (number % 7 == 1 and frame < 4) or (number % 7 == 4 and frame >= 4)
                if lit:
                    c.box(x, y, x + 2, y + 3, GLOW)
    c.box(0, 52, 64, 64, ink("grey.dark"))
    c.box(0, 52, 64, 54, ink("grey.mid"))


@scene_drawing("desert")
def desert(c: Canvas, frame: int) -> None:
    """Dunes and a cactus under a sun whose rays change."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    rays = c.placed(degrees=45 * (frame // 2 % 2), about=(50, 13))
    for degrees in (0, 90, 180, 270):
        rays.placed(degrees=degrees, about=(50, 13)).box(49, 2, 51, 6, GLOW)
    c.ellipse(50, 13, 6, 6, GLOW)
    c.ellipse(50, 13, 4, 4, SUN)
    c.ellipse(16, 56, 34, 19, ink("sand dark"))
    c.ellipse(58, 58, 26, 16, ink("sand dark"))
    c.ellipse(36, 86, 66, 41, ink("sand"))
    c.line([(8, 32), (8, 50)], 4.4, LEAF)
    c.line([(8, 43), (3, 42), (3, 37)], 2.8, LEAF)
    c.line([(8, 40), (13, 39), (13, 34)], 2.8, LEAF)
    c.ellipse(44, 60, 12, 1.2, ink("sand dark"))
    c.ellipse(20, 54, 8, 1.2, ink("sand dark"))


@scene_drawing("space")
def space(c: Canvas, frame: int) -> None:
    """The surface of a moon, a ringed planet and twinkling stars."""
    c.box(0, 0, 64, 64, ink("space"))
    tilted = c.placed(degrees=-18, about=(50, 14))
    tilted.ellipse(50, 14, 13, 3.4, ink("sand dark"))
    tilted.ellipse(50, 14, 10, 1.6, ink("space"))
    tilted.blob(50, 14, 7.5, 7.5, (ink("purple.light"), ink("purple.mid"), ink("purple.dark")))
    tilted.ellipse(50, 15.4, 10.5, 1.2, ink("sand dark"))
    stars = ((5, 6), (18, 12), (30, 4), (9, 24), (27, 22), (57, 34), (4, 40), (41, 30), (20, 38), (34, 42))
    for number, (x, y) in enumerate(stars):
        beat = (frame // 2 + number) % 4
        if number % 2 or beat:
            dot(c, x, y, WHITE)
        if beat == 2 and number % 2 == 0:
            c.box(x - 1, y, x + 3, y + 2, WHITE)
            c.box(x, y - 1, x + 2, y + 3, WHITE)
    c.ellipse(32, 88, 74, 38, ink("grey.mid"))
    for x, y, r in ((10, 57, 5), (52, 56, 4), (36, 62, 6)):
        c.ellipse(x, y, r, r * 0.4, ink("grey.dark"))


@scene_drawing("forest")
def forest(c: Canvas, frame: int) -> None:
    """Tall trunks under a swaying canopy; fireflies blink."""
    sway = (0, 1, 0, -1)[frame % 4]
    c.box(0, 0, 64, 64, ink("grass dark"))
    for x in (20, 33, 46):
        c.box(x, 0, x + 3, 46, LEAF)
    for x, half in ((6, 4), (57, 4)):
        c.box(x - half, 0, x + half, 50, ink("brown.mid"))
        c.box(x + 1, 0, x + half, 50, TRUNK)
    for x, radius in ((12, 9.0), (27, 8.0), (40, 9.0), (51, 8.0)):
        c.ellipse(x + sway, 6, radius, radius, LEAF)
    for x, radius in ((1, 11.0), (19, 9.0), (33, 7.5), (46, 8.5), (63, 12.0)):
        c.ellipse(x - sway, 3, radius, radius, LEAF_DARK)
    c.box(0, 47, 64, 64, LEAF)
    for x in range(-4, 68, 12):
        c.ellipse(x + 4, 47, 7, 3, LEAF)
    c.ellipse(14, 58, 8, 1.3, LEAF_DARK)
    c.ellipse(50, 56, 7, 1.3, LEAF_DARK)
    for number, (x, y) in enumerate(((15, 26), (27, 38), (40, 24), (49, 36))):
        if (frame // 2 + number) % 4 < 2:
            dot(c, x, y, SUN)
