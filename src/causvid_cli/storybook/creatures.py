"""Drawings of the living subjects, facing right in a 36 x 36 box (y down, base y = 36, middle x = 18)."""

from __future__ import annotations

from functools import partial

from .palette import BODY, DARK, LIGHT, MID, ink
from .raster import Canvas
from .sprites import SWING, drawing

OUTLINE, WHITE, SKIN = ink("outline"), ink("white.light"), ink("skin")
PALE, BEAK, BEAK_DARK, BLUSH = ink("white.mid"), ink("orange.mid"), ink("orange.dark"), ink("pink.mid")
HAIR, SHOE, TROUSERS, TROUSERS_FAR = ink("brown.mid"), ink("brown.dark"), ink("grey.mid"), ink("grey.dark")


@drawing("man")
def man(c: Canvas, phase: int) -> None:
    """A gentleman in coat and hat, with a moustache."""
    s = SWING[phase]
    c.line([(19, 26), (19 - 4.5 * s, 33.5)], 4.6, TROUSERS_FAR)
    c.line([(18 - 4.5 * s, 34.6), (21 - 4.5 * s, 34.6)], 2.8, SHOE)
    c.line([(16, 26), (16 + 4.5 * s, 33.5)], 4.6, TROUSERS)
    c.line([(15 + 4.5 * s, 34.6), (18.5 + 4.5 * s, 34.6)], 2.8, SHOE)
    c.polygon([(12, 14), (24, 14), (26, 29), (10, 29)], MID)
    c.polygon([(12, 14), (16, 14), (14, 29), (10, 29)], LIGHT)
    c.polygon([(21, 14), (24, 14), (26, 29), (22, 29)], DARK)
    c.polygon([(17, 13), (23, 13), (20.5, 19)], WHITE)
    c.line([(14, 17), (13.2 - 3.5 * s, 25)], 4.4, DARK)
    c.ellipse(13 - 3.8 * s, 26.6, 2.2, 2.2, SKIN)
    c.ellipse(18.5, 9.5, 5.6, 5.6, SKIN)
    c.box(12.5, 7, 15, 11, HAIR, on=[SKIN])
    c.eye(20, 8, height=2)
    c.box(19, 11, 24, 13, HAIR)
    c.box(10, 5, 27, 7, DARK)
    c.box(13, 1, 23, 5, MID)
    c.box(13, 1, 16, 5, LIGHT)


@drawing("child")
def child(c: Canvas, phase: int) -> None:
    """A child with a balloon; dress and balloon take the colour."""
    s = SWING[phase]
    c.line([(16, 31), (16 - 3.5 * s, 34.5)], 3.2, SHOE)
    c.line([(12, 31), (12 + 3.5 * s, 34.5)], 3.2, TROUSERS_FAR)
    c.line([(26.5, 13), (25.8, 19), (22.5, 24)], 1.2, PALE)
    c.blob(27, 7.5, 6.5, 7)
    c.line([(17, 25), (22.5, 24)], 3, SKIN)
    c.polygon([(11, 22), (17, 22), (20.5, 32), (7.5, 32)], MID)
    c.polygon([(11, 22), (13, 22), (11, 32), (7.5, 32)], LIGHT)
    c.polygon([(15.5, 22), (17, 22), (20.5, 32), (17.5, 32)], DARK)
    c.line([(11, 24.5), (8, 28 + 0.8 * s)], 3, SKIN)
    c.ellipse(5.2, 19.5, 2.8, 3.4, HAIR)
    c.ellipse(13.5, 15, 7.6, 7.4, HAIR)
    c.ellipse(15, 16.8, 5.9, 5.4, SKIN)
    c.eye(16, 15)
    c.box(17, 19, 20, 20, BLUSH)


@drawing("mammoth")
def mammoth(c: Canvas, phase: int) -> None:
    """A woolly mammoth with tusks, trunk and a fringe of wool."""
    s = 1.6 * SWING[phase]
    for x, step in ((11, -s), (23, s)):
        c.box(x - 2.6 + step, 25, x + 2.6 + step, 36, DARK)
    for x, step in ((6, s), (18, -s)):
        c.box(x - 2.8 + step, 25, x + 2.8 + step, 36, MID)
        c.box(x - 2.8 + step, 34, x + 2.8 + step, 36, PALE)
    c.line([(3, 16), (1.6, 22)], 2.4, DARK)
    c.blob(13.5, 18.5, 12, 10)
    for x in range(2, 24, 4):
        c.polygon([(x, 23), (x + 4, 23), (x + 2, 30.5)], DARK)
    curl = (0, 0.6, 0, -0.6)[phase]
    c.line([(28, 14), (31, 18), (31.4, 25), (30.6 + curl, 31), (33 + curl, 32.6)], 4, MID)
    c.line([(32.4, 18), (32.8, 25), (32 + curl, 30.6)], 1.4, DARK)
    c.blob(23.5, 12.5, 8.2, 8.6)
    c.ellipse(22.5, 5, 5.4, 3, DARK)
    c.ellipse(17.6, 14, 3.8, 5.6, DARK)
    c.ellipse(17, 13.2, 2.4, 4, MID)
    c.eye(25, 9)
    c.line([(24.8, 18.6), (24.4, 23), (27, 26), (29.4, 24.6)], 2.6, WHITE)


@drawing("cat")
def cat(c: Canvas, phase: int) -> None:
    """A cat with a raised tail, stripes and pricked ears."""
    s = 2.2 * SWING[phase]
    for x, step in ((12.5, -s), (23, s)):
        c.line([(x, 26), (x + step, 34)], 3.6, DARK)
    wag = (0, 0.8, 0, -0.8)[phase]
    c.line([(6.5, 23), (3, 18), (3.4, 11), (7 + wag, 7.5)], 3.6, MID)
    c.line([(4.4, 10), (7 + wag, 7.5)], 3.6, DARK)
    c.blob(15, 23.5, 10.8, 6.6)
    for x, step in ((8, s), (20, -s)):
        c.line([(x, 26), (x + step, 34)], 3.8, MID)
        c.line([(x + step, 34.4), (x + step + 0.8, 34.4)], 3, WHITE)
    for x in (9, 13, 17):
        c.box(x, 17, x + 2, 22, DARK, on=BODY)
    c.polygon([(19, 13), (19.4, 2.5), (25.5, 9)], MID)
    c.polygon([(26, 9), (32.6, 2.5), (33, 13)], DARK)
    c.polygon([(20.4, 10), (20.8, 5.5), (24, 9)], BLUSH)
    c.blob(26, 15, 8, 7.2)
    c.ellipse(28.5, 18.6, 4.2, 3, WHITE)
    c.eye(23, 12, height=4)
    c.eye(29, 12, height=4)
    c.box(27, 17, 30, 19, BLUSH)


@drawing("rabbit")
def rabbit(c: Canvas, phase: int) -> None:
    """A rabbit with tall ears; it stretches as it runs."""
    s = (0, 1.8, 0, -1.4)[phase]
    ear = (0, -1.2, 0, 1.0)[phase]
    c.ellipse(3.8, 26, 3.4, 3.4, PALE)
    c.placed(degrees=10 + 4 * ear, about=(26, 12)).blob(26.4, 6.8, 2.8, 7.6, (MID, DARK, DARK))
    c.placed(degrees=-12 + 4 * ear, about=(22, 13)).blob(21.6, 7.2, 3.0, 7.8)
    c.placed(degrees=-12 + 4 * ear, about=(22, 13)).ellipse(21.9, 7.6, 1.3, 5, BLUSH)
    c.line([(20, 30), (23 + s, 34.2)], 3.6, DARK)
    c.blob(13.5, 26, 10.8, 8.4)
    c.line([(18, 30), (19.5 + s, 34.2)], 3.8, MID)
    c.blob(9.5, 29.5, 6.2, 5.4)
    c.line([(6 - s, 34.2), (14 - s, 34.2)], 3.4, PALE)
    c.blob(23.5, 17.5, 7.2, 6.4)
    c.ellipse(27, 20, 3.2, 2.6, WHITE)
    c.eye(25, 14)
    c.box(29, 17, 31, 19, BLUSH)


@drawing("swan")
def swan(c: Canvas, phase: int) -> None:
    """A swan with a long curved neck and a lifted wing."""
    raise_wing = (0, 3, 6, 3)[phase]
    c.polygon([(1, 18), (9, 23), (7, 29)], MID)
    c.line([(25, 28), (28.6, 22), (25.6, 15), (23.6, 9.5), (25.6, 5.4)], 5, MID)
    c.line([(24, 28), (27.6, 22), (24.6, 15), (22.8, 9.5)], 2.4, LIGHT)
    c.blob(16, 28.2, 13, 7.6)
    c.polygon([(3, 17 - raise_wing), (9, 16 - raise_wing), (21, 22), (23, 29), (13, 31), (7, 27)], LIGHT)
    c.polygon([(5, 20 - raise_wing), (10, 22), (13, 27), (22, 29), (13, 31.5), (7, 27)], DARK)
    c.polygon([(6, 19 - raise_wing), (12, 20.4), (15, 25), (23, 27), (14, 28.5), (9, 25)], MID)
    c.blob(27, 5.6, 4.8, 4.2)
    c.polygon([(30, 3.4), (35.4, 7.4), (30, 9)], BEAK)
    c.box(29.4, 3, 31, 8, OUTLINE)
    c.eye(26, 4, height=2)


@drawing("fish")
def fish(c: Canvas, phase: int) -> None:
    """A round fish with a wagging tail and bands."""
    wag = (0, 2.2, 0, -2.2)[phase]
    c.polygon([(10, 20), (1, 11 + wag), (4, 21 + wag / 2), (1, 31 + wag)], MID)
    c.polygon([(10, 20.5), (4, 21 + wag / 2), (1, 31 + wag)], DARK)
    c.polygon([(12, 13), (15, 4.5), (25, 8), (27, 14)], DARK)
    c.polygon([(15, 28), (13, 35), (22, 33), (24, 28)], DARK)
    c.blob(20.5, 20.5, 14, 10.6)
    for x in (12, 19):
        c.polygon([(x, 8), (x + 3, 8), (x + 3.6, 33), (x - 0.4, 33)], WHITE, on=BODY)
    c.polygon([(20, 22), (14.5, 20 - wag / 2), (14.5, 27 - wag / 2)], DARK)
    c.ellipse(28, 17.5, 3.6, 3.6, WHITE)
    c.box(28, 16, 31, 19, OUTLINE)
    c.line([(30.5, 25), (33.4, 23.6)], 1.6, OUTLINE)


@drawing("bird")
def bird(c: Canvas, phase: int) -> None:
    """A plump bird on the wing."""
    tip = ((6, 3.5), (2, 14), (8, 34), (2, 22))[phase]
    far = ((15, 2.5), (9, 11), (14, 33), (9, 18))[phase]
    c.polygon([(17, 18), (23, 17), (far[0] + 3, far[1]), far], DARK)
    c.polygon([(1, 17), (10, 19), (11, 25), (2, 23)], DARK)
    c.blob(17.5, 21.5, 10.4, 8)
    c.ellipse(21, 25.4, 6.6, 3.8, WHITE)
    c.blob(25.4, 14.4, 6.8, 6.4)
    c.polygon([(31, 12), (36, 15), (31, 18)], BEAK)
    c.polygon([(31, 15), (36, 15), (31, 18)], BEAK_DARK)
    c.box(26, 12, 29, 15, OUTLINE)
    c.box(26, 12, 27, 13, WHITE)
    c.polygon([(10, 19), (20, 20), (tip[0] + 5, tip[1] + 0.5), tip], MID)
    c.line([(10, 19.5), tip], 1.6, LIGHT)
    c.line([(19.5, 20.5), (tip[0] + 4.6, tip[1] + 0.8)], 1.6, DARK)


@drawing("butterfly")
def butterfly(c: Canvas, phase: int) -> None:
    """A butterfly seen from above, leaning to the right; the wings open and close."""
    spread = (1.0, 0.78, 0.5, 0.78)[phase]
    leaning = c.placed(degrees=14, about=(18, 20))
    for side in (-1, 1):
        across = partial(_across, side * spread)
        leaning.polygon([(across(0), 19), (across(9), 8), (across(15.5), 6), (across(16), 13), (across(10), 22)], DARK)
        leaning.ellipse(across(7), 27, 6.4 * spread, 6.6, DARK)
        leaning.polygon([(across(1), 18), (across(9), 8), (across(13.6), 7), (across(14), 11.4), (across(8), 20)], MID)
        leaning.polygon([(across(2), 17), (across(9.6), 8.4), (across(12), 8), (across(5), 18)], LIGHT)
        leaning.ellipse(across(11.2), 11.6, 1.8 * spread, 1.8, WHITE)
        leaning.ellipse(across(6.6), 26, 4 * spread, 4.4, MID)
        leaning.ellipse(across(6.6), 25, 1.8 * spread, 2, LIGHT)
        leaning.line([(18, 12), (18 + side * 4, 4)], 0.9, OUTLINE)
    leaning.line([(18, 13), (18, 31)], 2.6, OUTLINE)
    leaning.ellipse(18, 12, 2.2, 2.2, OUTLINE)


def _across(spread: float, x: float) -> float:
    """Column at a distance x from the butterfly's body, on the side of spread's sign."""
    return 18 + spread * x
