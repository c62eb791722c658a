"""Line plots, as a list of marks that any picture can be made of: SVG here, PNG in `bench/chart.py`.

    marks = draw([Line("student", [(0, 1.5), (1, 2)], colour="#2f6fde")], Frame(width=420, height=190),
                 across=[(0, "0"), (1, "1")], up=[(tick, f"{tick:g}") for tick in nice_ticks(1.5, 2)])
    svg_element(420, 190, svg_marks(marks), "what it shows")

Places are in pixels from the upper left corner. What a mark looks like is its class's affair: `tick` (small text),
`grid`, `line`. Imports nothing that draws.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

FEW = 16
"""Points of a line up to which each is a dot."""
DASH = (5, 4)
"""Pixels drawn and left out, of a dashed line."""


@dataclass(frozen=True, slots=True)
class Line:
    """Values to be joined by a line. points: (across, up), at least one. colour: as CSS writes it."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A picture's size, and how much of it lies around the plot."""

    width: float
    height: float
    left: float = 48
    right: float = 10
    top: float = 8
    bottom: float = 24


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text at (x, y), the place on its baseline that the anchor says: start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    look: str = "tick"


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points, in a colour or, without, as the looks of its class say. title: what it stands for."""

    points: tuple[tuple[float, float], ...]
    look: str
    colour: str = ""
    dashed: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    colour: str
    radius: float = 2.5


Mark = Text | Stroke | Dot


def draw(
    lines: Sequence[Line], frame: Frame, *, across: Sequence[tuple[float, str]], up: Sequence[tuple[float, str]]
) -> list[Mark]:
    """Lines on a grid. across, up: places on the axes and what is written there; the first and last are the ends."""
    (low_x, _), (high_x, _) = across[0], across[-1]
    (low_y, _), (high_y, _) = up[0], up[-1]
    right, floor = frame.width - frame.right, frame.height - frame.bottom

    def x(value: float) -> float:
        return frame.left + (right - frame.left) * (value - low_x) / (high_x - low_x)

    def y(value: float) -> float:
        return floor - (floor - frame.top) * (value - low_y) / (high_y - low_y)

    marks: list[Mark] = []
    for value, text in up:
        marks.append(Stroke(((frame.left, y(value)), (right, y(value))), "grid"))
        marks.append(Text(frame.left - 6, y(value) + 4, text, "end"))
    for value, text in across:
        anchor = "start" if value == low_x else "end" if value == high_x else "middle"
        marks.append(Text(x(value), frame.height - frame.bottom + 18, text, anchor))
    for line in lines:
        points = tuple((x(value), y(height)) for value, height in line.points)
        marks.append(Stroke(points, "line", line.colour, line.dashed, line.label))
        if len(points) <= FEW:
            marks += [Dot(*point, line.colour) for point in points]
    return marks


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers that hold low..high, 3 to 7 of them, evenly spaced. Raises nothing for a flat line."""
    span = max(high - low, 0.02 * max(abs(low), abs(high)), 1e-3)
    power = 10.0 ** int(f"{span / 4:e}".split("e")[1])
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= span / 4)
    first, last = int(low // step), -int(-high // step)
    last = max(last, first + 2)
    return [place * step for place in range(first, last + 1)]


def decimals_of(ticks: Sequence[float], *, times: float = 1) -> int:
    """How many digits after the point tell these ticks apart, when they are written `times` as large."""
    return max(0, -int(f"{(ticks[1] - ticks[0]) * times:e}".split("e")[1]))


def svg_marks(marks: Iterable[Mark]) -> str:
    """Marks as what stands in an SVG element; how their classes look is left to a style sheet."""
    return "".join(map(_svg_mark, marks))


def _svg_mark(mark: Mark) -> str:
    if isinstance(mark, Text):
        return (
            f'<text class="{mark.look}" x="{mark.x:.1f}" y="{mark.y:.1f}" text-anchor="{mark.anchor}">'
            f"{escape(mark.text)}</text>"
        )
    if isinstance(mark, Dot):
        return f'<circle cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{mark.radius:g}" style="fill:{mark.colour}"/>'
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in mark.points)
    style = f' style="stroke:{mark.colour}"' if mark.colour else ""
    dash = f' stroke-dasharray="{DASH[0]} {DASH[1]}"' if mark.dashed else ""
    title = f"<title>{escape(mark.title)}</title>" if mark.title else ""
    return f'<path class="{mark.look}" d="{path}"{style}{dash}>{title}</path>'


def svg_element(width: float, height: float, body: str, title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{body}</svg>'
