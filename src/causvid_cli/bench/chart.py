"""Time per chunk over the chunks of a clip, one line for each setting, as an SVG or PNG file."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from causvid_cli.bench.tables import circumstances, setting_label, subject
from causvid_cli.charts import COLOURS, MARKED_POINTS, drawing, new_figure, png, svg
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
LINES = ("blue", "orange", "green", "purple", "red", "grey")
"""Names of the settings' colours; the seventh setting has the first one again, dashed."""
WIDTH, PLOT_HEIGHT, ROW_HEIGHT = 960, 480, 18
"""Points: of the figure, of all but the rows of the legend, of each of these."""


def check_chart(path: Path, *, overwrite: bool) -> None:
    """Raise UsageError for a name that is neither .svg nor .png, OutputError where the file cannot go."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--chart {path}: its name must end in {' or '.join(SUFFIXES)}, which says what it is")
    if not path.parent.is_dir():
        raise OutputError(f"--chart {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OutputError(f"--chart {path} is a folder; name a file in it, such as {path / 'bench.svg'}")
    if path.exists() and not overwrite:
        raise OutputError(f"--chart {path} exists; -y replaces it, or choose another")


def write_chart(path: Path, result: dict[str, Any]) -> None:
    """Draw a bench's figures into a file. Raises OutputError when it cannot be written."""
    with drawing():
        figure, background = chart(result), COLOURS["page"]
        is_svg = path.suffix.lower() == ".svg"
        data = svg(figure, background=background).encode() if is_svg else png(figure, background=background)
    try:
        write_bytes(path, data)
    except OSError as error:
        raise OutputError(f"--chart {path}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def chart(result: dict[str, Any]) -> "Figure":
    """The figure of what `report.figures` returns; to be called and drawn within `charts.drawing`."""
    from matplotlib.ticker import MaxNLocator

    settings = result["settings"]
    slowest = max(seconds for each in settings for seconds in each["chunk_s"])
    unit, times = ("s", 1.0) if slowest >= 1 else ("ms", 1000.0)
    figure, axes = new_figure(WIDTH, PLOT_HEIGHT + ROW_HEIGHT * len(settings))
    for number, each in enumerate(settings):
        axes.plot(
            [seconds * times for seconds in each["chunk_s"]],
            color=COLOURS[LINES[number % len(LINES)]],
            linestyle="-" if number < len(LINES) else "--",
            marker="o" if len(each["chunk_s"]) <= MARKED_POINTS else "",
            label=_legend(each, unit, times),
        )
    playing_s = result["chunk_pictures"] / result["fps"]
    if slowest / 4 <= playing_s <= slowest * 1.5:
        label = f"as fast as it plays, {result['fps']:g} frames per second: {playing_s * times:.3g} {unit}"
        axes.axhline(playing_s * times, color=COLOURS["soft"], linestyle="--", label=label)
    axes.set_xlim(-0.5, max(len(each["chunk_s"]) for each in settings) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("chunk")
    axes.set_ylabel(f"time per chunk ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axes.set_title(fill(f"Time per chunk, {subject(result)}", 90), pad=14, size=13, weight="bold")
    measured = fill(f"{circumstances(result)}; median of {result['repeats']}, decoding included", 125)
    figure.legend(loc="outside lower left", title=measured, alignment="left")
    return figure


def _legend(setting: dict[str, Any], unit: str, times: float) -> str:
    steady = setting["steady_chunk_s"]
    if steady is None:
        return f"{setting_label(setting)}, never full: {setting['frames_per_s']:.3g} frames per second in all"
    pace = f"{steady * times:.3g} {unit} once it is full, {setting['steady_frames_per_s']:.3g} frames per second"
    return f"{setting_label(setting)}: {pace}"
