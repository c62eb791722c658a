"""How every chart looks and is written: matplotlib's figures as SVG or PNG, the same bytes for the same figures.

    with drawing():
        figure, axes = new_figure(420, 190)
        axes.plot([0, 1], [0.5, 0.7], color=COLOURS["blue"])
        text = svg(figure, title="Brightness")

Sizes are in points, which are an SVG's units. matplotlib is imported only where a chart is drawn, and neither the
user's matplotlibrc nor what it would print reaches the figure or the terminal.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "page": "#ffffff",
    "ink": "#1c1d20",
    "soft": "#5f646c",
    "line": "#e2e3e6",
    "blue": "#2f6fde",
    "orange": "#d9771f",
    "green": "#2c9c74",
    "purple": "#8a55c8",
    "red": "#b5382c",
    "grey": "#8b929b",
}
"""By name; `page_svg` leaves the choice between these and others, such as those of a dark page, to the page."""
MARKED_POINTS = 16
"""A line of at most so many points has a dot at each."""
PIXELS_PER_POINT = 2
"""Of a PNG."""
SVG_METADATA = ("Creator", "Date", "Format", "Type")
"""What matplotlib would write of itself and of the hour; without, equal figures are equal files."""
STYLE: Any = {  # matplotlib types its names one by one
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["line"],
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": COLOURS["soft"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first comes with matplotlib, which measures by it
    "font.size": 11,
    "grid.color": COLOURS["line"],
    "legend.frameon": False,
    "legend.title_fontsize": "medium",
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "causvid",
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": COLOURS["line"],
    "xtick.major.size": 0,
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.color": COLOURS["line"],
    "ytick.major.size": 0,
    "ytick.labelcolor": COLOURS["soft"],
}


@contextmanager
def drawing() -> Iterator[None]:
    """Inside, figures look as STYLE says, and matplotlib keeps quiet about caches, fonts and missing glyphs."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure of this size in points, without a background, and its only axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    return figure, figure.subplots()


def svg(figure: "Figure", *, background: str = "none") -> str:
    """The figure as one SVG element, its text as text; in UTF-8 it is a file too."""
    file = io.StringIO()
    figure.savefig(file, format="svg", facecolor=background, metadata=dict.fromkeys(SVG_METADATA))
    text = file.getvalue()
    return text[text.index("<svg") :]


def page_svg(figure: "Figure") -> str:
    """The figure for an HTML page that has a CSS variable for each of COLOURS, such as --blue."""
    text = svg(figure)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def png(figure: "Figure", *, background: str) -> bytes:
    """A PNG file of PIXELS_PER_POINT."""
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=background, dpi=72 * PIXELS_PER_POINT, metadata={"Software": None})
    return file.getvalue()
