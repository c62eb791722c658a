"""Drawings of the made subjects, facing right in a 36 x 36 box (y down, base y = 36, middle x = 18)."""

from __future__ import annotations

from math import cos, pi, sin

from .palette import BODY, DARK, LIGHT, MID, ink
from .raster import Canvas
from .sprites import drawing

OUTLINE, WHITE, PALE = ink("outline"), ink("white.light"), ink("white.mid")
TYRE, HUB, GLASS = ink("grey.dark"), ink("grey.light"), ink("glass")
WOOD_DARK = ink("brown.dark")
FLAME, EMBER, LAMP = ink("yellow.mid"), ink("orange.mid"), ink("yellow.light")


@drawing("paper airplane")
def paper_airplane(c: Canvas, phase: int) -> None:
    """A folded dart, seen from the side and a little from above."""
    c = c.placed(shift=(0, (0, 0.8, 0, -0.8)[phase]), degrees=(0, 3.5, 0, -3.5)[phase], about=(18, 20))
    nose = (35.0, 7.0)
    c.polygon([nose, (1, 15), (11, 22)], LIGHT)
    c.polygon([nose, (11, 21.5), (14, 33), (19, 26)], DARK)
    c.polygon([nose, (17.5, 25.5), (28, 31)], MID)
    c.line([(33, 8.2), (11.5, 22)], 1.1, OUTLINE)
    c.line([(33, 9), (18, 25.6)], 1.1, OUTLINE)


@drawing("boat")
def boat(c: Canvas, phase: int) -> None:
    """A sailing boat that rocks."""
    c = c.placed(shift=(0, (0, -0.6, -1, -0.6)[phase]), degrees=(0, 3.5, 0, -3.5)[phase], about=(18, 34))
    c.box(16.5, 2, 18.5, 27, WOOD_DARK)
    c.polygon([(18.5, 1), (25, 3.5), (18.5, 6)], MID)
    c.polygon([(19.5, 7), (19.5, 24), (32, 24)], WHITE)
    c.polygon([(19.5, 20), (19.5, 24), (32, 24), (29.2, 20)], PALE)
    c.polygon([(15.5, 5), (15.5, 24), (4, 24)], LIGHT)
    c.polygon([(15.5, 15), (15.5, 24), (10, 24)], MID)
    c.polygon([(1, 26), (35, 26), (29, 36), (7, 36)], MID)
    c.box(0, 26, 36, 28, LIGHT, on=[MID])
    c.polygon([(4, 31.4), (32, 31.4), (29, 36), (7, 36)], DARK)


@drawing("car")
def car(c: Canvas, phase: int) -> None:
    """A small round car with turning wheels."""
    c.polygon([(7, 21), (11, 11), (23, 11), (30, 21)], MID)
    c.box(10, 10, 24, 12, LIGHT)
    c.polygon([(10, 20), (12.8, 13.5), (17, 13.5), (17, 20)], GLASS)
    c.polygon([(19, 20), (19, 13.5), (22.4, 13.5), (26.8, 20)], GLASS)
    c.line([(4.5, 24), (31.5, 24)], 8, MID)
    c.box(1, 24, 35, 31, MID)
    c.box(3, 20, 32, 22, LIGHT, on=[MID])
    c.box(1, 28, 35, 31, DARK)
    c.box(32, 22, 35, 25, LAMP)
    c.box(1, 23, 3, 26, ink("red.dark"))
    c.box(18, 23, 21, 24.5, DARK)
    for x in (9.0, 27.0):
        c.ellipse(x, 30.5, 6.2, 6.2, OUTLINE)
        c.ellipse(x, 30.5, 5.2, 5.2, TYRE)
        c.ellipse(x, 30.5, 2.8, 2.8, HUB)
        angle = phase * pi / 4
        dx, dy = 4.2 * cos(angle), 4.2 * sin(angle)
        c.line([(x - dx, 30.5 - dy), (x + dx, 30.5 + dy)], 1.5, HUB)


@drawing("ball")
def ball(c: Canvas, phase: int) -> None:
    """A beach ball: two coloured and two white quarters that turn by an eighth each phase."""
    c.blob(18, 20, 15.6, 15.6)
    rolled = c.placed(degrees=45 * phase + 20, about=(18, 20))
    for tone, pale in ((LIGHT, WHITE), (MID, WHITE), (DARK, PALE)):
        for sign in (-1, 1):
            rolled.polygon(
                [(18, 20), (18 + 16 * sign, 20), (18 + 16 * sign, 20 + 16 * sign), (18, 20 + 16 * sign)],
                pale,
                on=[tone],
            )
    c.ellipse(18, 20, 3, 3, DARK)
    c.ellipse(11.5, 11.8, 2.6, 2, WHITE)


@drawing("rocket")
def rocket(c: Canvas, phase: int) -> None:
    """A rocket on its way to the upper right; the flame flickers."""
    c = c.placed(shift=(1.5, 1.0), degrees=42, about=(18, 18))
    flame = (38.5, 35.5, 37.5, 34.5)[phase]
    c.polygon([(14, 27), (22, 27), (20 - phase % 2, flame - 2), (18, flame), (16 - phase % 2, flame - 2)], EMBER)
    c.polygon([(15.8, 27), (20.2, 27), (18, flame - 4)], FLAME)
    c.polygon([(12, 18), (12, 27), (6, 31), (7, 23)], DARK)
    c.polygon([(24, 18), (24, 27), (30, 31), (29, 23)], DARK)
    c.ellipse(18, 14.5, 7.2, 16, MID)
    c.ellipse(15.4, 15, 3, 12.5, LIGHT, on=BODY)
    c.box(0, -4, 36, 5, DARK, on=[LIGHT, MID])
    c.box(9.5, 27, 26.5, 34, FLAME, on=[MID, LIGHT])
    c.box(12.5, 24.5, 23.5, 27.5, ink("grey.dark"))
    c.ellipse(18, 13, 4.2, 4.2, OUTLINE)
    c.ellipse(18, 13, 3.1, 3.1, GLASS)
