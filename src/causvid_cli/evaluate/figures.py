"""The figures of an evaluation: one object for programs, one table for people. Imports no torch."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from causvid_cli.evaluate.metrics import CURVES
from causvid_cli.evaluate.results_folder import Record

FORMAT = 1
ATTRIBUTES = (
    *("subject", "colour", "scene", "action", "target", "size", "speed", "sky", "camera", "count"),
    *("relation", "other", "other_colour"),
)
"""Slots that a prompt tells, in the order of the table."""
DRIFTS = ("brightness", "saturation", "clipped", "sharpness", "motion")
CONFIDENCE = 1.96
"""Standard deviations that hold 95 %."""


def figures(
    about: Mapping[str, Any], records: Sequence[Record], *, vbench: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What `causvid eval --json` prints.

    about: model, device and the like. scores: by maker, then by group of prompts (`scores_of`). vbench: by maker,
    then by dimension, or null.
    """
    scores: dict[str, dict[str, Any]] = {}
    for maker, group in dict.fromkeys((record["maker"], record["group"]) for record in records):
        chosen = [record for record in records if (record["maker"], record["group"]) == (maker, group)]
        scores.setdefault(maker, {})[group] = scores_of(chosen)
    return {"v": FORMAT, **about, "scores": scores, "vbench": vbench}


def scores_of(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of clips by one maker.

    follows, follows_at_end: by attribute, the share of the clips in which the judge sees what was asked, in their
      first frames and in their last (null where nothing was judged); of targets, where there is one. "all" is all
      of them at once. follows_range holds the 95 % interval of each share, as far as chance goes.
    confusions: [attribute, asked, judged, clips] for what the judge took for something else. misread: clips of
      prompts with words that the model does not know.
    as_drawn (`pixel_match.PixelMatch`): share of the pixels that are as the storybook draws the story, where it can.
    consistency (`metrics.consistency`), judged_consistency (`judge.consistency`).
    diversity (`metrics.mean_distance`), judged_diversity (`metrics.mean_angle`): of the clips of one prompt.
    jump_ratio: change from frame to frame at the edges of chunks, over that elsewhere; 1 is no seam.
    drift: by measure, its mean over the first 15 % of the clip, the last 15 %, and `change`, the mean over clips of
      how far the two lie apart, whichever way. curves: by measure, its mean second by second.
    """
    follows = shares(records, "")
    at_end = shares(records, "_at_end")
    drawn = all("as_drawn" in record["courses"] for record in records)
    return {
        "clips": len(records),
        "follows": _values(follows),
        "follows_range": {name: interval(*counts) for name, counts in follows.items()} or None,
        "follows_at_end": _values(at_end),
        "confusions": confusions(records),
        "misread": sum(bool(record["notes"]) for record in records),
        "as_drawn": _mean(record["courses"]["as_drawn"]["mean"] for record in records if drawn),
        "consistency": _mean(record["consistency"] for record in records),
        "judged_consistency": _mean(record.get("judged_consistency") for record in records),
        "diversity": _mean(record.get("diversity") for record in records),
        "judged_diversity": _mean(record.get("judged_diversity") for record in records),
        "jump_ratio": _jump_ratio(records, "mean"),
        "drift": {name: _drift(records, name) for name in (*DRIFTS, *["as_drawn"] * drawn)},
        "curves": {name: _curve(records, name) for name in (*CURVES, *["as_drawn"] * drawn)},
    }


def shares(records: Iterable[Record], suffix: str) -> dict[str, tuple[int, int]]:
    """By attribute (hits, clips); empty when nothing was judged."""
    counts: dict[str, tuple[int, int]] = {}

    def count(name: str, hit: bool) -> None:
        hits, clips = counts.get(name, (0, 0))
        counts[name] = hits + hit, clips + 1

    for record in records:
        if (wanted := record.get(f"asked{suffix}")) is None:
            continue
        # Where no target was asked, what the judge says of one counts for nothing.
        named = {name: word for name, word in wanted.items() if not (name == "target" and word is None)}
        right = {name: record[f"judged{suffix}"][name] == word for name, word in named.items()}
        for name in ATTRIBUTES:
            if name in right:
                count(name, right[name])
        count("all", all(right.values()))
    order = [name for name in (*ATTRIBUTES, "all") if name in counts]
    return {name: counts[name] for name in order}


def interval(hits: int, clips: int) -> list[float]:
    """The 95 % interval of a share (Wilson, JASA 1927): [low, high]."""
    z2, share = CONFIDENCE**2, hits / clips
    middle = (share + z2 / (2 * clips)) / (1 + z2 / clips)
    half = CONFIDENCE / (1 + z2 / clips) * math.sqrt(share * (1 - share) / clips + z2 / (4 * clips**2))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def confusions(records: Iterable[Record]) -> list[list[Any]]:
    """[attribute, asked, judged, clips], most frequent first."""
    wrong: Counter[tuple[str, str, str | None]] = Counter()
    for record in records:
        for name, word in record.get("asked", {}).items():
            if word is not None and (said := record["judged"][name]) != word:
                wrong[name, word, said] += 1
    return [[*what, count] for what, count in sorted(wrong.items(), key=lambda item: (-item[1], str(item[0])))]


def _values(counts: Mapping[str, tuple[int, int]]) -> dict[str, float] | None:
    return {name: hits / clips for name, (hits, clips) in counts.items()} or None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _jump_ratio(records: Sequence[Record], part: str) -> float | None:
    edge = _mean(record["courses"]["edge_motion"][part] for record in records)
    inner = _mean(record["courses"]["inner_motion"][part] for record in records)
    return edge / inner if edge is not None and inner else None


def _drift(records: Sequence[Record], name: str) -> dict[str, float | None]:
    courses = [record["courses"][name] for record in records]
    known = [course for course in courses if None not in (course["first"], course["last"])]
    return {
        "first": _mean(course["first"] for course in courses),
        "last": _mean(course["last"] for course in courses),
        "change": _mean(abs(course["last"] - course["first"]) for course in known),
    }


def _curve(records: Sequence[Record], name: str) -> list[float | None]:
    curves = [record["courses"][name]["curve"] for record in records]
    return [_mean(curve[second] for curve in curves) for second in range(len(curves[0]))]


def columns(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(heading, scores) of each maker and, where there are several, each group."""
    several = max(len(groups) for groups in result["scores"].values()) > 1
    return [
        (f"{maker} ({group.replace('_', ' ')})" if several else maker, scores)
        for maker, groups in result["scores"].items()
        for group, scores in groups.items()
    ]


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The table for people: its header, then a row for each figure that there is."""
    shown = columns(result)
    table = [["", *(heading for heading, _ in shown)]]

    def row(label: str, values: Iterable[float | None], show: Callable[[float], str]) -> None:
        cells = ["" if value is None else show(value) for value in values]
        if any(cells):
            table.append([label, *cells])

    row("clips", (scores["clips"] for _, scores in shown), str)
    for title, name in (("", "follows"), (" at the end", "follows_at_end")):
        for attribute in (*ATTRIBUTES, "all"):
            values = [(scores[name] or {}).get(attribute) for _, scores in shown]
            row(f"{LABELS.get(attribute, attribute)}{title}", values, percent)
    for name, label, show in SINGLE:
        row(label, (scores[name] for _, scores in shown), show)
    for name in DRIFTS:
        row(f"drift of {name}", (scores["drift"][name]["change"] for _, scores in shown), partial(percent, digits=2))
    for dimension in dict.fromkeys(name for scores in (result["vbench"] or {}).values() for name in scores):
        makers = [maker for maker, groups in result["scores"].items() for _ in groups]
        row(
            f"VBench {dimension.replace('_', ' ')}",
            (result["vbench"].get(maker, {}).get(dimension) for maker in makers),
            "{:.4f}".format,
        )
    return table


def percent(share: float, *, digits: int = 1) -> str:
    """0.123 -> "12.3 %"."""
    return f"{100 * share:.{digits}f} %"


LABELS = {"target": "target of turns into", "all": "all of these"}
SINGLE: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("as_drawn", "pixels as drawn", percent),
    ("consistency", "temporal consistency", "{:.4f}".format),
    ("judged_consistency", "  as the judge sees it", "{:.4f}".format),
    ("diversity", "diversity of seeds", "{:.4f}".format),
    ("judged_diversity", "  as the judge sees it", "{:.4f}".format),
    ("jump_ratio", "jump at chunk edges", "{:.2f}".format),
)
"""(name in the scores, label, how it is shown)."""


def headline(result: Mapping[str, Any]) -> str:
    count = sum(result["prompts"].values())
    prompts = f"{count} prompt{'s' if count != 1 else ''}"
    each = f", {result['seeds']} clips of each" if result["seeds"] > 1 else ""
    return (
        f"{result['model']}: {prompts}{each}, {result['frames']} frames ({result['length']}) a clip, on "
        f"{result['device']} in {result['dtype']}"
    )


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    scores = [scores for _, scores in columns(result)]
    notes = list(result["notes"])
    clips, misread = (sum(each[name] for each in result["scores"]["student"].values()) for name in ("clips", "misread"))
    if misread:
        words = "words that the model does not know; clips.jsonl says which"
        notes.append(f"{misread // result['seeds']} of {clips // result['seeds']} prompts have {words}")
    if any(each["follows"] for each in scores):
        notes.append("shares are of clips, as a network judges them; their 95 % intervals are in eval.json")
    notes.append("drift is how far the last 15 % of a clip lies from its first 15 %, in % of the full range")
    if result["seeds"] < 2:
        notes.append("diversity is measured with --seeds 2 or more")
    return notes
