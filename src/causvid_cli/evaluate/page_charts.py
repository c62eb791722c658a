"""The charts of an evaluation's page, as SVG elements in the colours of the page that they stand in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causvid_cli.charts import COLOURS, MARKED_POINTS, drawing, new_figure, page_svg
from causvid_cli.evaluate.figures import ATTRIBUTES, LABELS, percent

SERIES_COLOURS = {
    "student": "blue",
    "teacher": "orange",
    "rendered": "grey",
    "codec": "green",
    "recache": "blue",
    "soft": "orange",
    "blend": "green",
    "cut": "purple",
    "chunk": "blue",
    "frame": "orange",
}


@dataclass(frozen=True, slots=True)
class Series:
    """What one maker's clips of one group of prompts, or one way of an experiment, scored."""

    label: str
    name: str
    """Name of the maker or the way; it decides the colour."""
    second: bool
    """Whether it is drawn paler and dashed: a second group of prompts, or the video without a change."""
    scores: Mapping[str, Any]


def colour_of(name: str) -> str:
    """The name (of `charts.COLOURS`) of the colour that a maker or a way of an experiment has."""
    return SERIES_COLOURS.get(name, "grey")


@drawing()
def following_chart(shown: Sequence[Series]) -> str:
    """Bars: in which share of its clips the judge sees what was asked, by attribute, with the 95 % interval."""
    names = [name for name in (*ATTRIBUTES, "all") if any(name in series.scores["follows"] for series in shown)]
    figure, axes = new_figure(900, 50 + len(names) * (16 + 18 * len(shown)))
    thickness = 0.8 / len(shown)
    for number, series in enumerate(shown):
        rows = [row for row, name in enumerate(names) if name in series.scores["follows"]]
        shares = [series.scores["follows"][names[row]] for row in rows]
        ranges = [series.scores["follows_range"][names[row]] for row in rows]
        bars = axes.barh(
            [row - 0.4 + (number + 0.5) * thickness for row in rows],
            shares,
            height=0.85 * thickness,
            color=COLOURS[colour_of(series.name)],
            alpha=0.6 if series.second else 1,
            xerr=[
                [max(0, share - low) for share, (low, _) in zip(shares, ranges, strict=True)],
                [max(0, high - share) for share, (_, high) in zip(shares, ranges, strict=True)],
            ],
            error_kw={"ecolor": COLOURS["ink"], "alpha": 0.55, "elinewidth": 1.5},
        )
        axes.bar_label(bars, [percent(share) for share in shares], padding=8, color=COLOURS["soft"])
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("share of clips")
    axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names], color=COLOURS["ink"])
    axes.set_ylim(len(names) - 0.5, -0.5)
    return page_svg(figure)


@drawing()
def curves_chart(
    lines: Sequence[tuple[Series, Sequence[float], Sequence[float | None]]],
    *,
    across: str,
    ends: tuple[float, float],
    in_percent: bool,
) -> str:
    """Lines through (series, points on the x axis, value at each); what is None is left out.

    across: label of the x axis, which reaches from one of the ends to the other. in_percent: whether values are shares.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(420, 210)
    known: list[float] = []
    times = 100 if in_percent else 1
    for series, points, values in lines:
        drawn = [(point, value * times) for point, value in zip(points, values, strict=True) if value is not None]
        axes.plot(
            [point for point, _ in drawn],
            [value for _, value in drawn],
            color=COLOURS[colour_of(series.name)],
            linestyle="--" if series.second else "-",
            marker="o" if len(drawn) <= MARKED_POINTS else "",
            clip_on=False,
            zorder=3,  # over the axes: a line may lie on one
        )
        known += [value for _, value in drawn]
    low, high = min(known), max(known)
    margin = max(0.06 * (high - low), 0.01 * abs(high), 2e-3 * times)  # so that a flat line looks flat
    axes.set_xlim(ends)
    axes.set_ylim(max(low - margin, min(low, 0)), high + margin)
    axes.set_xlabel(across)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_ylabel("%" if in_percent else "ratio")
    return page_svg(figure)
