"""Animals on four legs, all by one drawing: a table says what makes a horse a horse."""

from __future__ import annotations

from functools import partial

from .palette import BODY, DARK, LIGHT, MID, ink
from .raster import Canvas, Point
from .sprites import SWING, drawing

OUTLINE, WHITE, BLUSH, BONE = ink("outline"), ink("white.light"), ink("pink.mid"), ink("sand")
BROWN, BROWN_DARK, BLACK, GREY = ink("brown.mid"), ink("brown.dark"), ink("grey.dark"), ink("grey.mid")


def beast(
    c: Canvas,
    phase: int,
    *,
    trunk: tuple[float, float, float, float] = (14.5, 22.5, 10.8, 7),
    legs: tuple[float, float, float] = (7, 22, 4.2),
    head: tuple[float, float, float, float] = (26.5, 14, 7, 6.4),
    neck: float = 0,
    muzzle: tuple[float, float] = (3.6, 2.9),
    snout: int = WHITE,
    nose: int = OUTLINE,
    ears: str = "pointed",
    ear: int = MID,
    tail: str = "up",
    mane: int | None = None,
    horns: str = "",
    coat: str = "",
    mark: int = DARK,
    socks: int | None = None,
    far: int = DARK,
    near: int = MID,
) -> None:
    """A four-legged animal that faces right.

    trunk, head: centre and radii. legs: columns of the hind and the fore leg, width. neck: its width, 0 for none.
    muzzle: radii. coat: "stripes", "spots", "patches", "saddle", "quills". mark: their colour. far, near: of the legs.
    """
    step, (hind, fore, wide) = 2.1 * SWING[phase], legs
    (x, y, rx, ry), (hx, hy, hrx, hry) = trunk, head
    top = y + ry * 0.35
    for column, sign in ((hind + 4.4, -1), (fore + 3.2, 1)):
        c.line([(column, top), (column + sign * step, 35 - wide / 2 + 0.6)], wide * 0.95, far)
    _tail(c, tail, x - rx, y, phase, mane if mane is not None else MID)
    if neck:
        c.line([(x + rx * 0.62, y - 1), (hx - 1.5, hy + 1)], neck, MID)
    c.blob(x, y, rx, ry)
    for column, sign in ((hind, 1), (fore, -1)):
        foot = (column + sign * step, 35 - wide / 2 + 0.8)
        c.line([(column, top), foot], wide, near)
        if socks is not None:
            c.line([(foot[0], foot[1] - 1.2), foot], wide, socks)
    _coat(c, coat, trunk, mark)
    if neck and mane is not None:
        c.line([(x + rx * 0.4, y - ry * 0.8), (hx - hrx * 0.75, hy - hry * 0.5)], 3.6, mane)
    elif mane is not None:
        c.ellipse(hx - 0.8, hy + 0.6, hrx + 3.2, hry + 3.4, mane)
    _ears(c, ears, head, ear, behind=True)
    c.blob(hx, hy, hrx, hry)
    _ears(c, ears, head, ear, behind=False)
    mx = hx + hrx - muzzle[0] * 0.45
    if muzzle[0]:
        c.ellipse(mx, hy + hry * 0.42, *muzzle, snout)
        c.box(mx + muzzle[0] - 2.4, hy + hry * 0.42 - muzzle[1] * 0.7, mx + muzzle[0], hy + hry * 0.42 + 0.2, nose)
    c.eye(hx + hrx * 0.22, hy - hry * 0.34)
    _horns(c, horns, head)


def _tail(c: Canvas, kind: str, x: float, y: float, phase: int, tip: int) -> None:
    wag = (0, 0.9, 0, -0.9)[phase]
    end: dict[str, list[Point]] = {
        "up": [(x + 2, y), (x - 1.6, y - 4), (x - 1 + wag, y - 8.5)],
        "thin": [(x + 1.5, y - 2), (x - 1.4, y + 3), (x - 0.8 + wag, y + 8)],
        "hair": [(x + 2, y - 3), (x - 1.8, y + 1), (x - 1.4 + wag, y + 8)],
        "curl": [(x + 1, y - 2), (x - 1.6, y - 4), (x - 0.6, y - 6 + wag)],
        "long": [(x + 2, y), (x - 2.4, y + 2), (x - 2.4, y - 5), (x + wag, y - 9)],
    }
    if kind == "bushy":
        c.placed(degrees=-34 + 3 * wag, about=(x + 2, y)).blob(x - 3, y, 6, 3.6)
        c.placed(degrees=-34 + 3 * wag, about=(x + 2, y)).ellipse(x - 7, y, 2.2, 2.2, WHITE)
    elif kind == "plume":
        c.placed(degrees=20, about=(x, y)).blob(x - 0.6, y - 7.5 + wag / 2, 4.6, 9)
        c.ellipse(x - 1.6, y - 14 + wag / 2, 3.4, 3, DARK)
    elif kind == "stub":
        c.ellipse(x - 0.4, y - 1.6, 2.8, 2.6, tip)
    elif kind in end:
        c.line(end[kind], 4.4 if kind == "hair" else 2.6, tip if kind in ("hair", "curl") else MID)
        if kind == "thin":
            c.ellipse(*end[kind][-1], 1.9, 2.2, tip)


def _coat(c: Canvas, kind: str, trunk: tuple[float, float, float, float], mark: int) -> None:
    x, y, rx, ry = trunk
    if kind == "stripes":
        for left in (x - 7, x - 3, x + 1, x + 5):
            foot = y + 3.5
            c.polygon([(left, y - ry), (left + 2.2, y - ry), (left + 0.6, foot), (left - 0.8, foot)], mark, on=BODY)
    elif kind == "spots":
        for dx, dy in ((-7, -2), (-3.4, 1.6), (-1, -3.6), (3, 0.6), (6, -2.8), (-6.6, 3), (7, 3)):
            c.ellipse(x + dx, y + dy, 1.5, 1.4, mark, on=BODY)
    elif kind == "patches":
        c.ellipse(x - 5, y - 3, 4, 3.6, mark, on=BODY)
        c.ellipse(x + 4.4, y + 1.6, 3.6, 3.2, mark, on=BODY)
    elif kind == "saddle":
        c.box(x - 2, y - ry, x + 6, y + ry, mark, on=BODY)
    elif kind == "belly":
        c.ellipse(x, y + ry * 0.75, rx * 0.8, ry * 0.5, mark, on=BODY)
    elif kind == "wool":
        for dx, dy in ((-8, -3), (-4, -6), (1, -6.4), (6, -4.6), (9, 0), (-9.4, 2), (-5, 5), (1, 5.6), (6.6, 4.4)):
            c.ellipse(x + dx, y + dy, 3.6, 3.4, LIGHT if dy < 0 else MID)
    elif kind == "hump":
        for left in (x - 4.5, x + 3):
            c.blob(left, y - ry, 4, 4.6)
    elif kind == "quills":
        for dx, dy in ((-11, 4), (-11, -1), (-9, -6), (-5, -9), (0, -10), (5, -9)):
            left, top = x + dx * 0.8, y + dy * 0.6
            c.polygon([(left - 2.4, top), (left + 2.4, top - 1), (x + dx * 1.2, y + dy * 1.25)], DARK)


def _ears(c: Canvas, kind: str, head: tuple[float, float, float, float], colour: int, *, behind: bool) -> None:
    x, y, rx, ry = head
    if kind == "round" and behind:
        for dx in (-0.72, 0.5):
            c.ellipse(x + dx * rx, y - ry * 0.85, 2.8, 2.8, colour)
    elif kind == "large" and behind:
        for dx in (-0.95, 0.75):
            c.ellipse(x + dx * rx, y - ry * 0.75, 4.4, 4.4, colour)
            c.ellipse(x + dx * rx, y - ry * 0.75, 2.6, 2.6, BLUSH)
    elif kind == "pointed" and behind:
        for dx, tone in ((0.45, DARK), (-0.75, colour)):
            left, top = x + dx * rx, y - ry * 0.5
            c.polygon([(left - 2.6, top), (left + 2.8, top - 0.1 * ry), (left - 0.4, y - ry * 1.7)], tone)
    elif kind == "long" and behind:
        for dx, tone in ((-0.1, DARK), (-0.6, colour)):
            c.placed(degrees=-14, about=(x, y)).ellipse(x + dx * rx, y - ry * 1.5, 1.8, 5, tone)
    elif kind == "floppy" and not behind:
        c.ellipse(x - rx * 0.72, y + 0.6, 2.7, 5.2, colour)
    elif kind == "drop" and not behind:
        c.line([(x - rx * 0.7, y - ry * 0.3), (x - rx * 1.25, y + 0.8)], 2.8, colour)
    elif kind == "fan" and not behind:
        c.ellipse(x - rx * 0.75, y + 0.6, 4.8, 6.6, DARK)
        c.ellipse(x - rx * 0.82, y + 0.2, 3.2, 4.8, LIGHT)


def _horns(c: Canvas, kind: str, head: tuple[float, float, float, float]) -> None:
    x, y, rx, ry = head
    if kind == "bull":
        c.line([(x - 2, y - ry * 0.8), (x - 3.6, y - ry * 1.45)], 2.2, BONE)
        c.line([(x + 2.6, y - ry * 0.8), (x + 4.4, y - ry * 1.45)], 2.2, BONE)
    elif kind == "goat":
        c.line([(x, y - ry * 0.8), (x - 2.2, y - ry * 1.6), (x - 5, y - ry * 1.7)], 2.2, BONE)
    elif kind == "antlers":
        for dx in (-2, 2.4):
            c.line([(x + dx, y - ry * 0.8), (x + dx * 1.7, y - ry * 2.2)], 1.6, BROWN_DARK)
            c.line([(x + dx * 1.3, y - ry * 1.4), (x + dx * 2.9, y - ry * 1.9)], 1.6, BROWN_DARK)
    elif kind == "unicorn":
        c.polygon([(x + 0.4, y - ry * 0.75), (x + 3.6, y - ry * 0.6), (x + 5, y - ry * 2.3)], ink("yellow.mid"))
    elif kind == "rhino":
        c.polygon([(x + rx * 0.65, y + 0.5), (x + rx * 1.25, y + 1), (x + rx * 1.25, y - 7)], BONE)
        c.polygon([(x + rx * 0.1, y - ry * 0.6), (x + rx * 0.6, y - ry * 0.6), (x + rx * 0.5, y - ry * 1.3)], BONE)
    elif kind == "knobs":
        for dx in (-1.4, 2):
            c.line([(x + dx, y - ry * 0.7), (x + dx, y - ry * 1.7)], 1.6, BROWN_DARK)
    elif kind == "elephant":
        c.line([(x + rx * 0.7, y + 1), (x + rx * 1.1, y + 7), (x + rx * 1.05, y + 15), (x + rx * 1.35, y + 17)], 4, MID)
        c.line([(x + rx * 0.5, y + ry * 0.8), (x + rx * 0.85, y + ry * 1.5), (x + rx * 1.5, y + ry * 1.5)], 2, WHITE)
    elif kind == "mask":
        c.box(x - 1, y - ry * 0.45, x + rx, y + 0.8, BLACK, on=BODY)
        c.eye(x + rx * 0.22, y - ry * 0.34, white=True)
    elif kind == "patch":
        c.ellipse(x + rx * 0.3, y - ry * 0.05, 2.6, 2.9, BLACK, on=BODY)
        c.eye(x + rx * 0.22, y - ry * 0.34, white=True)


LOW = (15, 26, 10.5, 7.4)
TALL = {"trunk": (14, 20.5, 10.4, 6), "legs": (6.5, 20.5, 3.4)}
STOUT = {"trunk": (15, 20.5, 12.4, 9.2), "legs": (8, 20, 6.2)}
BEASTS: dict[str, dict[str, object]] = {
    "dog": {"ears": "floppy", "ear": DARK, "socks": WHITE},
    "horse": {
        **TALL, "neck": 7, "head": (27.5, 8.5, 5.6, 4.6), "muzzle": (4, 3), "snout": DARK, "mane": BROWN_DARK,
        "tail": "hair",
    },
    "donkey": {
        **TALL, "neck": 7, "head": (27, 11.5, 5.6, 4.6), "muzzle": (4, 3), "mane": BLACK, "tail": "thin",
        "ears": "long",
    },
    "zebra": {
        **TALL, "neck": 7, "head": (27.5, 9, 5.4, 4.6), "muzzle": (3.8, 2.8), "snout": BLACK, "mane": BLACK,
        "tail": "thin", "coat": "stripes", "mark": BLACK,
    },
    "unicorn": {
        **TALL, "neck": 7, "head": (27, 10.5, 5.4, 4.6), "muzzle": (3.6, 2.7), "snout": BLUSH, "mane": BLUSH,
        "tail": "hair", "horns": "unicorn",
    },
    "bear": {**STOUT, "head": (26.5, 13.5, 7.6, 7), "ears": "round", "tail": "stub", "snout": BONE},
    "polar bear": {**STOUT, "head": (27, 14.5, 7, 6), "ears": "round", "tail": "stub", "snout": WHITE},
    "panda": {
        **STOUT, "head": (26, 13.5, 8, 7.4), "ears": "round", "ear": BLACK, "tail": "stub", "near": BLACK,
        "far": BLACK, "horns": "patch",
    },
    "lion": {"head": (25.5, 14.5, 6.4, 6), "mane": BROWN, "ears": "round", "tail": "thin"},
    "tiger": {"ears": "round", "coat": "stripes", "mark": OUTLINE, "tail": "long"},
    "leopard": {"ears": "round", "coat": "spots", "mark": BROWN_DARK, "tail": "long"},
    "elephant": {
        "trunk": (13.5, 18, 11.8, 9.8), "legs": (6.6, 17.5, 6.2), "head": (23.5, 12.5, 7, 7.2), "muzzle": (0, 0),
        "ears": "fan", "tail": "thin", "horns": "elephant",
    },
    "cow": {
        "trunk": (14.5, 20.5, 12, 7.6), "legs": (7, 21, 4.6), "head": (27, 14, 6.2, 6), "ears": "drop", "ear": DARK,
        "horns": "bull", "coat": "patches", "mark": BLACK, "snout": BLUSH, "tail": "thin",
    },
    "pig": {
        "trunk": LOW, "legs": (8, 21, 4.4), "head": (26, 19.5, 7, 6.4), "ears": "pointed", "snout": DARK,
        "muzzle": (3, 2.8), "tail": "curl",
    },
    "sheep": {
        "trunk": (14.5, 21, 9.4, 6.4), "legs": (9, 19, 3.4), "near": BLACK, "far": OUTLINE, "coat": "wool",
        "head": (27, 15, 5, 5.4), "snout": BONE, "ears": "drop", "ear": DARK, "tail": "stub",
    },
    "goat": {"head": (26.5, 13.5, 5.6, 5.4), "ears": "drop", "horns": "goat", "tail": "stub", "legs": (8, 21, 3.4)},
    "fox": {
        "trunk": (15, 24, 9.4, 5.8), "legs": (9, 22, 3.4), "head": (26, 16.5, 6.6, 5.8), "tail": "bushy",
        "socks": BROWN_DARK,
    },
    "wolf": {"trunk": (14.5, 21.5, 10.6, 6.2), "legs": (8, 22, 3.8), "tail": "bushy", "coat": "belly", "mark": WHITE},
    "raccoon": {
        "trunk": LOW, "legs": (9, 21, 4), "head": (26, 18.5, 7, 6), "tail": "plume", "ears": "round", "horns": "mask",
    },
    "squirrel": {
        "trunk": (16, 27, 8, 6.4), "legs": (12, 20, 3.4), "head": (24, 18.5, 6.2, 5.6), "tail": "plume",
        "coat": "belly", "mark": BONE,
    },
    "mouse": {
        "trunk": (15, 27.5, 10, 6.6), "legs": (10, 20, 3), "head": (25.5, 22.5, 6, 5.4), "ears": "large",
        "tail": "long", "nose": BLUSH, "muzzle": (3, 2.2),
    },
    "hedgehog": {
        "trunk": (15, 26, 10.4, 7.6), "legs": (10, 20, 3.4), "head": (26, 25.5, 6, 5), "ears": "none", "tail": "none",
        "coat": "quills", "snout": BONE, "muzzle": (4.4, 3),
    },
    "giraffe": {
        "trunk": (12.5, 22.5, 8.8, 5), "legs": (7, 18, 3.2), "neck": 5, "head": (26, 7.5, 4.6, 3.8),
        "muzzle": (3, 2.2), "snout": BONE, "coat": "spots", "mark": BROWN, "tail": "thin", "horns": "knobs",
        "ears": "none",
    },
    "deer": {
        **TALL, "neck": 5.4, "head": (26.5, 12, 5, 4.4), "horns": "antlers", "tail": "stub", "ears": "drop",
        "muzzle": (3.2, 2.4), "coat": "belly", "mark": BONE,
    },
    "camel": {
        **TALL, "neck": 5, "head": (28, 9.5, 4.8, 3.8), "tail": "thin", "ears": "round", "coat": "hump",
        "muzzle": (3.6, 2.6), "snout": DARK,
    },
    "rhino": {**STOUT, "head": (27, 17, 7.4, 6), "horns": "rhino", "muzzle": (0, 0), "tail": "thin"},
    "hippo": {
        **STOUT, "head": (26.5, 16.5, 8, 6.6), "ears": "round", "muzzle": (5.2, 4.4), "snout": LIGHT, "tail": "stub",
    },
}  # fmt: skip
"""What makes each animal itself; see `beast`."""

for name, marks in BEASTS.items():
    drawing(name)(partial(beast, **marks))  # type: ignore[arg-type]
