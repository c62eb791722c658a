"""The figures of named measures: one object for programs, one table for people. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from causvid_cli.evaluate.figures import FORMAT, percent
from causvid_cli.evaluate.results_folder import Record

RESAMPLED = 2000
"""Times that a bootstrap draws the prompts anew (Efron, Annals of Statistics 1979)."""


def measure_figures(about: Mapping[str, Any], names: Sequence[str], records: Sequence[Record]) -> dict[str, Any]:
    """What `causvid eval --measure NAME --json` prints: measures, by measure, look and figure (`figure`)."""
    return {"v": FORMAT, **about, "measures": {name: _looks(_of(records, name)) for name in names}}


def _of(records: Sequence[Record], name: str) -> list[Record]:
    return [record for record in records if record["group"] == name]


def _looks(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    known = [(look, name) for record in records for look, counts in record["counts"].items() for name in counts]
    found: dict[str, dict[str, Any]] = {}
    for look, name in dict.fromkeys(known):
        found.setdefault(look, {})[name] = figure(records, look, name)
    return {look: dict(sorted(figures.items(), key=lambda item: _order(item[0]))) for look, figures in found.items()}


def _order(name: str) -> int:
    """What is right of all of a prompt before its parts, then pixels and drifts."""
    first = ("all right", "end state right")
    return first.index(name) if name in first else 2 if name.endswith(" right") else 3


def figure(records: Sequence[Record], look: str, name: str) -> dict[str, Any]:
    """One figure of one look.

    share: of the model's videos; low, high: its 95 % interval, prompts drawn anew; prompts: how many it is of. drawn:
    the same of the drawings, as the judge sees them: its ceiling. against: of the other model; difference, with its
    interval, is the model's share less the other's, by pairs of the same prompt and seeds.
    """
    own, drawn, other = (
        _sums(records, maker, part, look, name)
        for maker, part in (("student", "counts"), ("student", "drawn"), ("against", "counts"))
    )
    found: dict[str, Any] = {"share": _ratio(own), **_interval(_resampled(own)), "prompts": len(own)}
    if drawn:
        found["drawn"] = _ratio(drawn)
    pairs = sorted(own.keys() & other.keys())
    if pairs:
        ours, theirs = ({number: sums[number] for number in pairs} for sums in (own, other))
        apart = _resampled(ours) - _resampled(theirs)
        found |= {"against": _ratio(theirs), "difference": _ratio(ours) - _ratio(theirs)}
        found |= {f"difference_{end}": value for end, value in _interval(apart).items()}
    return found


def _sums(records: Sequence[Record], maker: str, part: str, look: str, name: str) -> dict[int, tuple[float, float]]:
    """By prompt, how much is as it should be, of how much, in all of its videos."""
    sums: dict[int, tuple[float, float]] = {}
    for record in records:
        hits, of = record[part].get(look, {}).get(name, (0, 0)) if record["maker"] == maker else (0, 0)
        if of:
            known = sums.get(record["number"], (0, 0))
            sums[record["number"]] = known[0] + hits, known[1] + of
    return sums


def _ratio(sums: Mapping[int, tuple[float, float]]) -> float:
    hits, of = np.array(list(sums.values())).sum(axis=0)
    return float(hits / of)


def _resampled(sums: Mapping[int, tuple[float, float]]) -> np.ndarray:
    """The ratio of so many random choices of the prompts, the same choices for as many prompts [RESAMPLED]."""
    values = np.array(list(sums.values()), float)
    chosen = np.random.default_rng(0).integers(len(values), size=(RESAMPLED, len(values)))
    hits, of = values[chosen].sum(axis=1).T
    ratios: np.ndarray = hits / of
    return ratios


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return {"low": float(low), "high": float(high)}


def measure_headline(result: Mapping[str, Any]) -> str:
    against = f" against {result['against']}" if result["against"] else ""
    clips = f", {result['seeds']} clips of each prompt" if result["seeds"] > 1 else ""
    names = ", ".join(result["measures"])
    return f"{result['model']}{against}: {names}{clips}, on {result['device']} in {result['dtype']}"


def measure_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The table for people: its header, then a row for each figure."""
    paired = [result["against"], "difference", "95 % interval"] if result["against"] else []
    table = [["", result["model"], "95 % interval", "prompts", "drawn", *paired]]
    for name, looks in result["measures"].items():
        for look, figures in looks.items():
            table.append([f"{name}, {look}", *[""] * (len(table[0]) - 1)])
            for label, of in figures.items():
                cells = [percent(of["share"]), _span(of, ""), str(of["prompts"])]
                cells.append(percent(of["drawn"]) if "drawn" in of else "")
                if paired and "against" in of:
                    cells += [percent(of["against"]), percent(of["difference"]), _span(of, "difference_")]
                table.append([f"  {label}", *cells, *[""] * (len(table[0]) - 1 - len(cells))])
    return table


def _span(of: Mapping[str, Any], name: str) -> str:
    return f"{100 * of[f'{name}low']:.1f} to {100 * of[f'{name}high']:.1f}"


def measure_notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    notes = [
        *result["notes"],
        "right: as a network judges it, or else by the nearest drawing; drawn: the same of drawings",
        "pixels, edges and frames: as the storybook draws them",
    ]
    drifts = any("whole video" in looks for looks in result["measures"].values())
    return notes + ["drift: of 5 s, from what is drawn, against the first 5 s, in % of the full range"] * drifts
