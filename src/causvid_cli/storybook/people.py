"""People and those who stand like them, all by one drawing: a table says who is who."""

from __future__ import annotations

from functools import partial

from .palette import BODY, DARK, LIGHT, MID, ink
from .raster import Canvas
from .sprites import SWING, drawing

OUTLINE, WHITE, PALE, SKIN = ink("outline"), ink("white.light"), ink("white.mid"), ink("skin")
BLUSH, RED, GOLD, GOLD_DARK = ink("pink.mid"), ink("red.mid"), ink("yellow.mid"), ink("yellow.dark")
BROWN, BROWN_DARK, GREY, BLACK, GLASS = (
    ink("brown.mid"),
    ink("brown.dark"),
    ink("grey.mid"),
    ink("grey.dark"),
    ink("glass"),
)
STRAW, LEAF, STEEL = ink("sand"), ink("leaf"), ink("grey.light")


def person(
    c: Canvas,
    phase: int,
    *,
    skin: int = SKIN,
    hair: int = BROWN,
    style: str = "short",
    skirt: bool = False,
    legs: int = GREY,
    legs_far: int = BLACK,
    shoe: int = BROWN_DARK,
    hat: str = "",
    beard: int | None = None,
    cape: int | None = None,
    belt: int | None = None,
    front: int | None = None,
    face: str = "",
    holds: str = "",
    drop: float = 0,
) -> None:
    """Somebody who stands on two legs and faces right; the clothes take the colour.

    style: of the hair. front: a panel down the clothes. drop: rows that a small person is smaller by.
    """
    swing = SWING[phase]
    c = c.placed(shift=(0, drop)) if drop else c
    foot, short = 34.6 - drop, 26.5
    if cape is not None:
        c.polygon([(13, 17), (19, 17), (17, 32 - drop), (6 - swing, 32 - drop)], cape)
    if style in ("long", "plait"):
        c.line([(13.6, 9), (11.6, 16), (11.4, 22 if style == "long" else 25)], 5.4 if style == "long" else 3.6, hair)
    for sign, tone in ((-1, legs_far), (1, legs)):
        x = 18 + 1.6 * sign
        c.line([(x, short), (x + 3.4 * sign * swing * -1, foot - 1)], 4.2, tone)
        c.line([(x + 3.4 * sign * swing * -1, foot), (x + 2.6 + 3.4 * sign * swing * -1, foot)], 2.6, shoe)
    if skirt:
        c.polygon([(14.6, 17), (21.4, 17), (25.4, 31.5 - drop), (10.6, 31.5 - drop)], MID)
        c.polygon([(14.6, 17), (16.4, 17), (14.6, 31.5 - drop), (10.6, 31.5 - drop)], LIGHT)
        c.polygon([(20, 17), (21.4, 17), (25.4, 31.5 - drop), (22.4, 31.5 - drop)], DARK)
    else:
        c.polygon([(13.6, 17), (22.4, 17), (23.4, 28 - drop), (12.6, 28 - drop)], MID)
        c.polygon([(13.6, 17), (16, 17), (15, 28 - drop), (12.6, 28 - drop)], LIGHT)
        c.polygon([(20.8, 17), (22.4, 17), (23.4, 28 - drop), (21, 28 - drop)], DARK)
    if front is not None:
        c.polygon([(17.4, 17), (21.4, 17), (22, 28 - drop), (17.4, 28 - drop)], front, on=BODY)
    if belt is not None:
        c.box(12, 24 - drop, 25, 26 - drop, belt, on=[*BODY] + ([front] if front is not None else []))
    hand = (14.2 - 3.2 * swing, 25.4 - drop * 0.6)
    c.line([(15, 19), hand], 3.8, DARK)
    c.ellipse(hand[0], hand[1] + 0.8, 1.9, 1.9, skin)
    _head(c, skin, hair, style)
    if beard is not None:
        c.polygon([(16.4, 11.6), (24.4, 11.6), (22.6, 17 if beard != WHITE else 20.5), (18, 17)], beard)
    _face(c, face)
    _hat(c, hat)
    _holds(c, holds, drop)


def _head(c: Canvas, skin: int, hair: int, style: str) -> None:
    c.ellipse(18.4, 9.6, 6.6, 6.4, skin)
    if style == "none":
        return
    c.ellipse(17.2, 6.4, 6.8, 4.2, hair, on=[skin])
    c.box(11, 5, 15, 10.6 if style == "short" else 13, hair, on=[skin])
    if style == "bun":
        c.ellipse(11.4, 5, 3.2, 3.2, hair)
    if style == "bunches":
        for x, y in ((10.6, 10.0), (10.2, 12.0)):
            c.ellipse(x, y, 2.6, 3, hair)
        c.box(11, 8, 13, 10, RED)
    if style == "curls":
        for x, y in ((12.4, 8.0), (14.0, 4.6), (18.0, 3.2), (22.0, 4.6)):
            c.ellipse(x, y, 3, 3, hair)


def _face(c: Canvas, face: str) -> None:
    if face == "mask":
        c.box(13, 3, 26, 16, BODY[2], on=[SKIN])
        c.box(16, 8, 25, 11, SKIN, on=[DARK])
    if face == "paint":
        c.ellipse(24.6, 11, 2.2, 2.2, RED)
        c.ellipse(20.6, 13.4, 2.6, 1.4, RED)
    if face == "patch":
        c.line([(13, 6), (23, 9.6)], 1.2, OUTLINE)
    if face == "glasses":
        c.box(18, 7, 24, 11, WHITE)
        c.box(12, 8, 18, 9, OUTLINE)
    c.eye(20.4, 8)
    if face in ("", "glasses"):
        c.box(21, 12, 23, 13, BLUSH)


def _hat(c: Canvas, hat: str) -> None:
    if hat == "crown":
        c.polygon([(13, 6), (13, -1), (15.6, 2.4), (18, -1.4), (20.6, 2.4), (23.4, -1), (23.4, 6)], GOLD)
        c.box(13, 4, 24, 6, GOLD_DARK)
        c.box(17, 2, 19, 4, RED)
    elif hat == "point":
        c.polygon([(11.4, 5), (24.6, 5), (15, -1.5), (19, -0.5)], MID)
        c.polygon([(12, 5), (18, 5), (16, -1.2)], LIGHT)
        c.line([(10, 5.6), (26, 5.6)], 2.6, DARK)
    elif hat == "wide":
        c.line([(8, 5.4), (29, 5.4)], 2.4, STRAW)
        c.box(13, 0, 24, 5, STRAW)
        c.box(13, 3, 24, 5, ink("brown.light"))
    elif hat == "cowboy":
        c.line([(7.4, 4), (12, 6), (25, 6), (29.6, 4)], 2.2, DARK)
        c.box(13, -0.4, 24, 5, MID)
        c.box(13, 3.4, 24, 5, DARK)
    elif hat == "cap":
        c.box(12, 1, 24, 6, MID)
        c.box(12, 1, 24, 3, LIGHT)
        c.box(20, 5, 28, 7, DARK)
        c.box(20, 2, 23, 5, GOLD)
    elif hat == "chef":
        for x, y in ((14.4, 1.6), (18.4, 0.6), (22.4, 1.6)):
            c.ellipse(x, y, 3.4, 2.8, WHITE)
        c.box(13, 2, 24, 6, PALE)
    elif hat == "fire":
        c.ellipse(18, 4.8, 6.6, 5.4, MID)
        c.box(11, 5, 28, 7.2, DARK)
        c.box(20, 1, 23, 5, GOLD)
    elif hat == "santa":
        c.polygon([(12, 4.6), (24.6, 4.6), (17, -1), (12, 0.6)], MID)
        c.ellipse(11.6, 2, 2, 2, WHITE)
        c.line([(12.6, 5.2), (24.6, 5.2)], 2.6, WHITE)
    elif hat == "pirate":
        c.polygon([(9.4, 6.6), (28, 6.6), (23, 0), (13.6, 0)], OUTLINE)
        c.box(17, 2, 20, 5, WHITE)
    elif hat == "helmet":
        c.ellipse(18.2, 8.6, 7.6, 7.4, MID)
        c.ellipse(16, 5.4, 4.2, 3.4, LIGHT)
        c.box(17, 7.4, 26.4, 10.6, OUTLINE)
        c.polygon([(15, 2), (19, 1.6), (10, -1), (9, 4)], RED)
    elif hat == "glass":
        c.ellipse(18.4, 9.4, 8.8, 8.6, MID)
        c.ellipse(16, 5, 4.6, 3.4, LIGHT)
        c.ellipse(20.4, 9.6, 6.2, 5.6, GLASS)
        c.ellipse(20.6, 10.4, 4.8, 4.6, SKIN)
        c.ellipse(19.8, 6.8, 4.6, 2, BROWN, on=[SKIN])
        c.eye(22, 9)
    elif hat == "mitre":
        c.box(13, 3, 24, 6, WHITE)
        c.box(17, 0, 20, 6, RED)
    elif hat == "wig":
        for x, y in ((11.4, 8.4), (12, 4.4), (25, 4.6)):
            c.ellipse(x, y, 3.8, 3.8, ink("orange.mid"))
        c.ellipse(18.6, 1, 2.4, 2.2, MID)


def _holds(c: Canvas, holds: str, drop: float) -> None:
    if holds == "staff":
        c.line([(27, 12), (27, 34)], 1.8, BROWN_DARK)
        c.ellipse(27, 10, 2.6, 2.6, ink("glass"))
    elif holds == "sword":
        c.line([(26, 24), (30, 12)], 2, STEEL)
        c.line([(23.6, 22.6), (28.4, 24.4)], 1.8, GOLD_DARK)
    elif holds == "broom":
        c.line([(27, 12), (26, 30)], 1.6, BROWN)
        c.polygon([(23.4, 29), (28.6, 29), (30, 35.4), (22.4, 35.4)], STRAW)
    elif holds == "fork":
        c.line([(27.4, 14), (27.4, 34.6)], 1.6, BROWN)
        c.line([(24.6, 10), (24.6, 14), (30.2, 14), (30.2, 10)], 1.4, STEEL)
        c.line([(27.4, 10), (27.4, 14)], 1.4, STEEL)
    elif holds == "spoon":
        c.line([(26.4, 24), (28.6, 15)], 1.6, BROWN)
        c.ellipse(28.8, 13.4, 2, 2.6, BROWN)
    elif holds == "cross":
        c.box(18, 19, 23, 24, WHITE)
        c.box(20, 19, 21.4, 24, RED)
        c.box(18, 21, 23, 22.4, RED)
    elif holds == "star":
        c.polygon([(17, 19), (22, 19), (22, 23), (19.5, 25.4), (17, 23)], GOLD)
    elif holds == "sack":
        c.ellipse(9, 19, 5.4, 6, BROWN)
        c.ellipse(8, 17, 3, 3, ink("brown.light"))
    elif holds == "pack":
        c.box(8, 16, 14, 26, GREY)
        c.box(8, 16, 14, 18, STEEL)


PEOPLE: dict[str, dict[str, object]] = {
    "woman": {"style": "long", "skirt": True, "legs": SKIN, "legs_far": SKIN},
    "boy": {"drop": 3, "style": "curls", "hair": BROWN_DARK, "belt": BROWN_DARK},
    "girl": {
        "drop": 3, "style": "bunches", "hair": GOLD_DARK, "skirt": True, "legs": SKIN, "legs_far": SKIN, "shoe": RED,
    },
    "king": {"style": "short", "hair": PALE, "beard": PALE, "hat": "crown", "cape": ink("purple.mid"), "belt": GOLD},
    "queen": {"style": "bun", "hair": BROWN_DARK, "skirt": True, "hat": "crown", "cape": RED, "belt": GOLD},
    "princess": {"style": "long", "hair": GOLD, "skirt": True, "hat": "crown", "drop": 1},
    "knight": {
        "style": "none", "hat": "helmet", "face": "none", "legs": STEEL, "legs_far": GREY, "shoe": GREY,
        "holds": "sword",
    },
    "wizard": {"style": "short", "hair": WHITE, "beard": WHITE, "skirt": True, "hat": "point", "holds": "staff"},
    "witch": {
        "style": "long", "hair": ink("orange.mid"), "skin": ink("green.light"), "skirt": True, "hat": "point",
        "holds": "broom",
    },
    "pirate": {
        "style": "short", "hair": BROWN_DARK, "beard": BROWN_DARK, "hat": "pirate", "face": "patch", "belt": GOLD,
        "front": WHITE, "holds": "sword",
    },
    "ninja": {
        "style": "none", "face": "mask", "legs": DARK, "legs_far": DARK, "shoe": OUTLINE, "belt": RED,
        "holds": "sword",
    },
    "astronaut": {
        "style": "none", "hat": "glass", "face": "none", "legs": MID, "legs_far": DARK, "shoe": BLACK, "holds": "pack",
        "belt": ink("orange.mid"),
    },
    "chef": {"hat": "chef", "hair": BROWN_DARK, "front": PALE, "holds": "spoon", "legs": BLACK},
    "doctor": {
        "style": "short", "hair": BROWN_DARK, "face": "glasses", "skirt": True, "front": GLASS, "holds": "cross",
    },
    "police officer": {"hat": "cap", "legs": MID, "legs_far": DARK, "shoe": OUTLINE, "belt": OUTLINE, "holds": "star"},
    "firefighter": {"hat": "fire", "legs": MID, "legs_far": DARK, "shoe": OUTLINE, "belt": GOLD},
    "farmer": {"hat": "wide", "front": BROWN, "legs": BROWN, "legs_far": BROWN_DARK, "holds": "fork"},
    "clown": {
        "hat": "wig", "style": "none", "face": "paint", "skin": WHITE, "legs": RED, "legs_far": ink("blue.mid"),
        "shoe": RED, "belt": WHITE,
    },
    "santa": {
        "style": "none", "beard": WHITE, "hat": "santa", "legs": MID, "legs_far": DARK, "shoe": OUTLINE,
        "belt": OUTLINE, "holds": "sack",
    },
    "cowboy": {"hat": "cowboy", "front": WHITE, "legs": ink("blue.mid"), "legs_far": ink("blue.dark"), "holds": "star"},
    "superhero": {
        "cape": RED, "hair": OUTLINE, "legs": MID, "legs_far": DARK, "shoe": RED, "belt": GOLD, "holds": "star",
    },
}  # fmt: skip
"""What makes each of them known; see `person`."""

for name, marks in PEOPLE.items():
    drawing(name)(partial(person, **marks))  # type: ignore[arg-type]
