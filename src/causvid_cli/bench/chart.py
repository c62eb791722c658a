"""Time per chunk over the chunks of a clip, one line for each setting, as an SVG or PNG file."""

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from causvid_cli.bench.tables import circumstances, setting_label, subject
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.plots import DASH, Dot, Frame, Line, Mark, Stroke, Text, decimals_of, draw, nice_ticks, svg_marks

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".svg")
COLOURS = ("#2f6fde", "#d9771f", "#2c9c74", "#8a55c8", "#b5382c", "#5b6470")
PAGE, INK, SOFT, GRID = "#ffffff", "#1c1d20", "#5f646c", "#e2e3e6"
WIDTH, PLOT_HEIGHT, MARGIN, BOTTOM, LINE_HEIGHT = 960, 400, 28, 52, 20
SIZES = {"title": 16, "label": 13, "tick": 12}
"""Of text, in pixels."""
SCALE = 2
"""Pixels of a PNG to one of the SVG."""
SMOOTH = 3
"""Times larger that a PNG's lines are drawn, and then reduced."""
MOST_TICKS = 12


def check_chart(path: Path, *, overwrite: bool) -> None:
    """Raise UsageError for what is no picture of ours, OutputError where it cannot go."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--chart {path}: its name must end in {' or '.join(SUFFIXES)}, which says what it is")
    if not path.parent.is_dir():
        raise OutputError(f"--chart {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OutputError(f"--chart {path} is a folder; name a file in it, such as {path / 'bench.svg'}")
    if path.exists() and not overwrite:
        raise OutputError(f"--chart {path} exists; -y replaces it, or choose another name")


def write_chart(path: Path, result: dict[str, Any]) -> None:
    """Raises OutputError when it cannot be written."""
    height, marks = chart(result)
    try:
        if path.suffix.lower() == ".svg":
            path.write_text(_svg(height, marks), encoding="utf-8")
        else:
            png(height, marks).save(path)
    except OSError as error:
        raise OutputError(f"--chart {path}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def chart(result: dict[str, Any]) -> tuple[int, list[Mark]]:
    """The height of the picture, which is WIDTH wide, and what is on it."""
    settings = result["settings"]
    slowest = max(seconds for each in settings for seconds in each["chunk_s"])
    unit, times = ("s", 1.0) if slowest >= 1 else ("ms", 1000.0)
    lines = [
        Line(
            _legend(each, unit, times),
            [(index, seconds * times) for index, seconds in enumerate(each["chunk_s"])],
            colour=COLOURS[place % len(COLOURS)],
            dashed=place >= len(COLOURS),
        )
        for place, each in enumerate(settings)
    ]
    playing = result["chunk_pictures"] / result["fps"]
    last = max(len(each["chunk_s"]) for each in settings) - 1
    if slowest / 4 <= playing <= slowest * 1.5:
        label = f"as fast as it plays, {result['fps']:g} frames per second: {playing * times:.3g} {unit}"
        lines.append(Line(label, [(0, playing * times), (max(1, last), playing * times)], SOFT, dashed=True))

    marks: list[Mark] = []
    top = MARGIN + 6
    rounds = f"median of {result['repeats']}, decoding included"
    titles = {"title": f"Time per chunk, {subject(result)}", "label": f"{circumstances(result)}; {rounds}"}
    for look, text in titles.items():
        for row in wrap(text, 100 if look == "title" else 125):
            marks.append(Text(MARGIN, top, row, look=look))
            top += LINE_HEIGHT + 2
    for line in lines:
        marks.append(Stroke(((MARGIN, top - 4), (MARGIN + 28, top - 4)), "line", line.colour, line.dashed))
        marks.append(Text(MARGIN + 38, top, line.label, look="label"))
        top += LINE_HEIGHT
    frame = Frame(width=WIDTH, height=top + PLOT_HEIGHT, left=72, right=MARGIN, top=top + 26, bottom=BOTTOM)
    ticks = nice_ticks(0, max(height for line in lines for _, height in line.points))
    decimals = decimals_of(ticks)
    step = -(-(last + 1) // MOST_TICKS)
    across = [(float(index), str(index)) for index in range(0, last + 1, step)]
    if last > 0 and across[-1][0] != last:
        across[-1:] = [*across[-1:] * (last - across[-1][0] > step / 2), (float(last), str(last))]
    if last == 0:
        across = [(0.0, "0"), (1.0, "")]
    marks.append(Text(frame.left - 6, frame.top - 14, unit, "end"))
    marks += draw(lines, frame, across=across, up=[(tick, f"{tick:.{decimals}f}") for tick in ticks])
    marks.append(Text((WIDTH + frame.left - MARGIN) / 2, frame.height - 10, "chunk", "middle"))
    return round(frame.height), marks


def _legend(setting: dict[str, Any], unit: str, times: float) -> str:
    steady = setting["steady_chunk_s"]
    if steady is None:
        return f"{setting_label(setting)}, never full: {setting['frames_per_s']:.3g} frames per second in all"
    pace = f"{steady * times:.3g} {unit} once it is full, {setting['steady_frames_per_s']:.3g} frames per second"
    return f"{setting_label(setting)}: {pace}"


def _svg(height: int, marks: list[Mark]) -> str:
    """A file that stands alone."""
    looks = {"title": INK, "label": INK, "tick": SOFT}
    style = "".join(f".{look}{{font-size:{SIZES[look]}px;fill:{colour}}}" for look, colour in looks.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n'
        f'<style>text{{font-family:system-ui,"DejaVu Sans",sans-serif}}{style}.title{{font-weight:600}}'
        f".grid{{stroke:{GRID}}}.line{{fill:none;stroke-width:2;stroke-linejoin:round}}</style>\n"
        f'<rect width="100%" height="100%" fill="{PAGE}"/>\n{svg_marks(marks)}\n</svg>\n'
    )


def png(height: int, marks: list[Mark]) -> "Image":
    """The same picture in pixels: lines drawn larger and reduced, text as it is."""
    from PIL import Image, ImageDraw, ImageFont

    large = SCALE * SMOOTH
    image = Image.new("RGB", (WIDTH * large, height * large), PAGE)
    pen = ImageDraw.Draw(image)
    for mark in marks:
        if isinstance(mark, Stroke):
            width = round((1 if mark.look == "grid" else 2) * large)
            for part in _dashes(mark.points) if mark.dashed else [mark.points]:
                pen.line([(x * large, y * large) for x, y in part], mark.colour or GRID, width, joint="curve")
        elif isinstance(mark, Dot):
            pen.circle((mark.x * large, mark.y * large), mark.radius * 1.2 * large, mark.colour)
    image = image.resize((WIDTH * SCALE, height * SCALE), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(image)
    fonts = {look: ImageFont.load_default(size * SCALE) for look, size in SIZES.items()}
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for mark in marks:
        if isinstance(mark, Text):
            place = (mark.x * SCALE, mark.y * SCALE)
            colour = SOFT if mark.look == "tick" else INK
            pen.text(place, mark.text, colour, fonts[mark.look], anchor=anchors[mark.anchor])
    return image


def _dashes(points: tuple[tuple[float, float], ...]) -> list[list[tuple[float, float]]]:
    """The pieces of a dashed line that are drawn."""
    on, period = DASH[0], sum(DASH)
    pieces: list[list[tuple[float, float]]] = []
    done = 0.0
    for (x, y), (to_x, to_y) in zip(points, points[1:], strict=False):
        length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
        start = -(done % period)
        while start < length:
            first, last = max(0.0, start), min(length, start + on)
            if first < last:
                ends = [(x + (to_x - x) * at / length, y + (to_y - y) * at / length) for at in (first, last)]
                pieces.append(ends)
            start += period
        done += length
    return pieces
