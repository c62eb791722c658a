"""More backgrounds; scenes.py has the first ones and says what a drawing of one is."""

from __future__ import annotations

from .palette import ink
from .raster import Canvas
from .scenes import GLOW, LEAF, LEAF_DARK, PALE, SKY, SKY_LIGHT, SUN, TRUNK, WHITE, cloud, dot, scene_drawing

SAND, SAND_DARK, GRASS, GRASS_DARK = ink("sand"), ink("sand dark"), ink("grass"), ink("grass dark")
SEA, SEA_DEEP, SNOW, SHADE = ink("sea"), ink("sea deep"), ink("snow"), ink("snow shade")
BROWN_LIGHT, BROWN, GREY, GREY_DARK = ink("brown.light"), ink("brown.mid"), ink("grey.mid"), ink("grey.dark")


def _waves(
    c: Canvas, frame: int, rows: tuple[tuple[int, int], ...], colour: int = SKY, left: int = 0, right: int = 64
) -> None:
    """Crests that travel 2 cells a frame and repeat every 16."""
    for y, start in rows:
        for x in range(start - 32, 96, 16):
            c.box(max(left, x + 2 * frame), y, min(right, x + 2 * frame + 8), y + 2, colour)


@scene_drawing("beach")
def beach(c: Canvas, frame: int) -> None:
    """Sand before the sea, a parasol, waves that roll in."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    c.ellipse(12, 11, 6, 6, SUN)
    cloud(c, 44, 13, WHITE)
    c.box(0, 28, 64, 46, SEA)
    c.box(0, 28, 64, 30, SEA_DEEP)
    _waves(c, frame, ((34, 3), (39, 11)))
    reach = (0, 1, 2, 1)[frame // 2]
    c.ellipse(32, 62, 60, 20 - reach, WHITE)
    c.ellipse(32, 63, 60, 19 - reach, SAND)
    c.line([(57, 48), (55, 30)], 1.4, TRUNK)
    c.polygon([(45, 32), (49, 26), (55, 24), (61, 27), (64, 33)], ink("red.light"))
    c.polygon([(51, 32), (53, 25), (57, 25), (58, 32)], WHITE)
    c.ellipse(10, 57, 4, 1.2, SAND_DARK)
    c.ellipse(34, 61, 6, 1.2, SAND_DARK)


@scene_drawing("mountain")
def mountain(c: Canvas, frame: int) -> None:
    """Snowy peaks; a cloud drifts before them."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    for x, top, half, tone in ((50, 16, 26, ink("white.dark")), (18, 5, 32, ink("grey.light"))):
        c.polygon([(x - half, 50), (x, top), (x + half, 50)], tone)
        c.polygon([(x, top), (x + half, 50), (x + half * 0.3, 50), (x + 2, 26)], GREY)
        c.polygon(
            [(x - 8, top + 12), (x, top), (x + 8, top + 12), (x + 3, top + 10), (x, top + 14), (x - 4, top + 10)], SNOW
        )
    cloud(c, 48 + (0, 1, 2, 3, 4, 3, 2, 1)[frame], 12, WHITE)
    c.ellipse(32, 74, 62, 28, GRASS_DARK)
    c.ellipse(24, 84, 62, 34, GRASS)
    for x, y in ((6, 52), (58, 50)):
        c.polygon([(x - 4, y), (x + 4, y), (x, y - 11)], LEAF_DARK)


@scene_drawing("river")
def river(c: Canvas, frame: int) -> None:
    """A river between green banks; its water runs to the right."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    cloud(c, 20, 13, WHITE)
    for x, r in ((4, 9), (18, 7), (50, 8), (62, 9)):
        c.ellipse(x, 30, r, r, LEAF)
        c.ellipse(x + 2, 32, r - 2, r - 2, LEAF_DARK)
    c.box(0, 33, 64, 64, GRASS)
    c.polygon([(0, 38), (64, 35), (64, 50), (0, 49)], SEA)
    c.box(0, 48, 64, 50, SEA_DEEP)
    _waves(c, frame, ((41, 0), (45, 8)), SKY)
    c.box(0, 50, 64, 64, GRASS)
    c.box(0, 50, 64, 52, GRASS_DARK)
    for x, y in ((7, 57), (54, 59), (30, 61)):
        c.ellipse(x, y, 3.4, 1.6, ink("grey.light"))


@scene_drawing("canyon")
def canyon(c: Canvas, frame: int) -> None:
    """Red rocks in layers; a tumbleweed of dust blinks by."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    c.ellipse(32, 10, 5, 5, SUN)
    for x0, x1, top in ((-2, 20, 14), (44, 66, 8), (24, 38, 28)):
        c.polygon([(x0, 50), (x0 + 2, top), (x1 - 3, top), (x1, 50)], ink("orange.dark"))
        for y in range(top + 4, 50, 9):
            c.box(x0 + 1, y, x1, y + 3, BROWN)
        c.box(x0 + 2, top, x1 - 3, top + 3, SAND_DARK)
    c.box(0, 46, 64, 64, SAND_DARK)
    c.box(0, 46, 64, 49, BROWN_LIGHT)
    c.ellipse(12, 58, 7, 1.4, BROWN_LIGHT)
    c.ellipse(52, 61, 8, 1.4, BROWN_LIGHT)
    x = 8 * frame
    c.ellipse(x, 51 - (0, 1, 2, 1)[frame % 4], 2, 2, BROWN)


@scene_drawing("room")
def room(c: Canvas, frame: int) -> None:
    """A wall with a window and a picture, a wooden floor, a clock that ticks."""
    c.box(0, 0, 64, 64, ink("pink.light"))
    c.box(0, 46, 64, 64, BROWN_LIGHT)
    c.box(0, 44, 64, 47, WHITE)
    for y, start in ((50, 0), (56, 12), (61, 5)):
        c.box(0, y, 64, y + 1, BROWN)
        for x in range(start, 64, 22):
            c.box(x, y, x + 1, y + 6, BROWN)
    c.box(7, 7, 27, 29, BROWN)
    c.box(9, 9, 25, 27, SKY_LIGHT)
    c.box(16, 9, 18, 27, BROWN)
    c.box(9, 17, 25, 19, BROWN)
    c.box(40, 10, 56, 24, SUN)
    c.box(42, 12, 54, 22, GRASS)
    c.box(42, 12, 54, 17, ink("sky"))
    c.ellipse(33, 12, 4.4, 4.4, BROWN)
    c.ellipse(33, 12, 3.2, 3.2, WHITE)
    c.line([(33, 12), ((33, 10), (35, 12), (33, 14), (31, 12))[frame // 2]], 1, GREY_DARK)


@scene_drawing("kitchen")
def kitchen(c: Canvas, frame: int) -> None:
    """Tiles, a shelf, a stove with a pot that steams."""
    c.box(0, 0, 64, 64, ink("snow"))
    for y in range(0, 46, 8):
        c.box(0, y, 64, y + 1, SHADE)
    for x in range(0, 64, 8):
        c.box(x, 0, x + 1, 46, SHADE)
    c.box(4, 6, 22, 26, PALE)
    c.box(6, 8, 20, 24, SKY_LIGHT)
    c.box(12, 8, 14, 24, PALE)
    c.box(36, 10, 62, 12, BROWN)
    for x, tone in ((38, "red.light"), (45, "green.light"), (52, "blue.light")):
        c.box(x, 4, x + 5, 10, ink(tone))
    c.box(0, 36, 64, 39, BROWN_LIGHT)
    c.box(0, 39, 64, 50, ink("orange.light"))
    for x in (0, 20, 42):
        c.box(x, 39, x + 1, 50, SAND_DARK)
    c.box(46, 30, 58, 36, GREY)
    c.box(44, 31, 60, 33, GREY_DARK)
    rise = 2 * (frame % 4)
    c.ellipse(50, 27 - rise, 2, 1.6, WHITE)
    c.ellipse(55, 25 - rise, 1.6, 1.6, WHITE)
    c.box(0, 50, 64, 64, PALE)
    for number, x in enumerate(range(0, 64, 8)):
        c.box(x, 50 + 7 * (number % 2), x + 8, 57 + 7 * (number % 2), SHADE)


@scene_drawing("road")
def road(c: Canvas, frame: int) -> None:
    """A country road with telegraph poles; a bird crosses the sky."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    c.ellipse(52, 11, 5.4, 5.4, SUN)
    c.ellipse(12, 52, 30, 24, GRASS_DARK)
    c.ellipse(54, 54, 28, 20, GRASS_DARK)
    c.box(0, 42, 64, 64, GRASS)
    for x in (10, 40):
        c.box(x, 18, x + 2, 44, TRUNK)
        c.box(x - 4, 21, x + 6, 22.6, TRUNK)
    c.box(0, 48, 64, 62, GREY)
    c.box(0, 48, 64, 49, PALE)
    c.box(0, 61, 64, 62, PALE)
    for x in range(4, 64, 20):
        c.box(x, 54, x + 10, 56, GLOW)
    x, flap = 6 * frame + 4, frame % 2 * 2
    c.line([(x - 3, 9 + flap), (x, 10), (x + 3, 9 + flap)], 1, GREY_DARK)


@scene_drawing("lake")
def lake(c: Canvas, frame: int) -> None:
    """A still lake under hills, with reeds and rings on the water."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    cloud(c, 48, 12, WHITE)
    c.ellipse(14, 34, 26, 15, LEAF)
    c.ellipse(52, 36, 26, 12, GRASS_DARK)
    c.box(0, 32, 64, 64, SEA)
    c.box(0, 32, 64, 34, SKY)
    c.ellipse(14, 36, 18, 3, ink("sea deep"))
    size = 1 + frame % 4
    for x, y, part in ((20, 44, 0), (46, 50, 4)):
        if (frame + part) % 8 < 4:
            c.ellipse(x, y, 2.4 * size, 0.8 * size, SKY)
            c.ellipse(x, y, 2.4 * size - 1.6, 0.8 * size - 0.7, SEA)
    c.ellipse(32, 72, 48, 13, GRASS)
    for x, tall in ((3, 17), (7, 12), (57, 15), (61, 19)):
        c.line([(x, 60), (x + (0, 0.5, 0, -0.5)[frame % 4], 60 - tall)], 1.6, LEAF_DARK)
        c.ellipse(x, 60 - tall, 1.2, 3, BROWN)


@scene_drawing("farm")
def farm(c: Canvas, frame: int) -> None:
    """A red barn, a fence and a field of corn that sways."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    c.ellipse(34, 10, 5.4, 5.4, SUN)
    c.ellipse(40, 58, 46, 24, GRASS_DARK)
    c.polygon([(4, 44), (4, 22), (9, 14), (14, 12), (19, 14), (24, 22), (24, 44)], ink("red.mid"))
    c.polygon(
        [(2, 22), (8, 12), (14, 9), (20, 12), (26, 22), (23, 22), (19, 15), (14, 12), (9, 15), (5, 22)], ink("red.dark")
    )
    c.box(10, 30, 18, 44, WHITE)
    c.box(12, 32, 16, 44, BROWN)
    c.box(12, 18, 16, 23, WHITE)
    sway = (0, 1, 0, -1)[frame % 4]
    for x in range(34, 64, 5):
        c.line([(x, 46), (x + sway * 0.6, 33)], 1.8, GLOW)
        c.ellipse(x + sway, 32, 1.6, 3, SAND_DARK)
    c.box(0, 44, 64, 64, GRASS)
    c.box(0, 46, 64, 47, BROWN_LIGHT)
    for x in range(2, 64, 10):
        c.box(x, 43, x + 2, 50, BROWN_LIGHT)
    c.ellipse(14, 58, 7, 1.4, GRASS_DARK)
    c.ellipse(50, 60, 8, 1.4, GRASS_DARK)


@scene_drawing("castle grounds")
def castle_grounds(c: Canvas, frame: int) -> None:
    """Walls and towers with banners that wave."""
    c.box(0, 0, 64, 64, SKY_LIGHT)
    cloud(c, 34, 12, WHITE)
    stone, shade = ink("grey.light"), GREY
    c.box(12, 26, 52, 48, stone)
    for x in range(12, 52, 8):
        c.box(x, 22, x + 5, 26, stone)
    for x0, x1, top in ((2, 14, 14), (50, 62, 14)):
        c.box(x0, top, x1, 48, stone)
        c.box(x1 - 4, top, x1, 48, shade)
        for left in (x0, x0 + 4.5, x0 + 9):
            c.box(left, top - 3, left + 3, top, stone)
        c.box(x0 + 4, top + 8, x0 + 7, top + 14, GREY_DARK)
        c.line([(x0 + 6, top - 3), (x0 + 6, top - 11)], 1, BROWN)
        tip = (8, 7, 6, 7)[frame % 4]
        c.polygon([(x0 + 6.5, top - 11), (x0 + 6 + tip, top - 9), (x0 + 6.5, top - 7)], ink("red.mid"))
    c.ellipse(32, 40, 8, 9, BROWN)
    c.box(24, 40, 40, 48, BROWN)
    for x in range(14, 50, 9):
        for y in (30, 36, 42):
            c.box(x + y % 4, y, x + y % 4 + 4, y + 1, shade, on=[stone])
    c.box(0, 47, 64, 64, GRASS)
    c.polygon([(26, 47), (38, 47), (50, 64), (14, 64)], SAND)


@scene_drawing("underwater")
def underwater(c: Canvas, frame: int) -> None:
    """The seabed: corals, weeds that sway, bubbles that rise, light from above."""
    c.box(0, 0, 64, 64, SEA_DEEP)
    c.box(0, 0, 64, 8, SEA)
    for x in (10, 34, 52):
        c.polygon([(x, 0), (x + 5, 0), (x - 3 + frame % 2, 40), (x - 10 + frame % 2, 40)], SEA)
    c.ellipse(32, 78, 64, 26, SAND)
    c.ellipse(12, 60, 8, 2, SAND_DARK)
    c.ellipse(46, 58, 10, 2, SAND_DARK)
    sway = (0, 1, 2, 1, 0, -1, -2, -1)[frame]
    for x, tall in ((4, 26), (9, 18), (58, 22), (62, 30)):
        c.line([(x, 58), (x + sway * 0.5, 58 - tall / 2), (x - sway * 0.5, 58 - tall)], 2.4, LEAF)
    for x, y in ((15, 54), (52, 55)):
        c.line([(x, y + 2), (x, y - 6)], 3, ink("pink.mid"))
        c.line([(x, y - 2), (x - 4, y - 6)], 2.4, ink("pink.mid"))
        c.line([(x, y - 3), (x + 4, y - 8)], 2.4, ink("pink.mid"))
    for number, x in enumerate((20, 31, 46, 26)):
        dot(c, x, (40 - 6 * frame - 13 * number) % 48, SKY_LIGHT)
