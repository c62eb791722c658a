"""The figures of prompt changes and of photos: one object for programs, one table for people. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from causvid_cli.evaluate.config import ExperimentKind
from causvid_cli.evaluate.figures import FORMAT, LABELS, interval, percent, shares
from causvid_cli.evaluate.results_folder import Record

SHOWN = ("subject", "colour", "scene", "action")
LEVEL = 0.01
"""Pixels are as drawn as before the cue when this share of them at most is missing."""

Cell = tuple[str, Callable[[Mapping[str, Any]], str]]
"""A row of the table: its label, and what it shows of one way's scores."""


def experiment_figures(about: Mapping[str, Any], kind: ExperimentKind, records: Sequence[Record]) -> dict[str, Any]:
    """What `causvid eval --switches --json` or `--photos --json` prints: scores by way, under the name of the kind."""
    scores_of = switch_scores if kind == "switches" else photo_scores
    return {"v": FORMAT, **about, kind: {way: scores_of(records, way) for way in records[0]["ways"]}}


def kind_of(result: Mapping[str, Any]) -> ExperimentKind:
    return "switches" if "switches" in result else "photos"


def switch_scores(records: Sequence[Record], way: str) -> dict[str, Any]:
    """The scores of one way of changing the prompt.

    before: share of the scripts whose first frames show all of the first story. takes_hold: whose frames show, from
      2 chunks after the cue on, all that the second story changes; takes_hold_by_kind: where that is one thing, or
      "all". keeps: which show all that it does not change; keeps_by: one by one. `_range`: 95 % intervals.
    same_before: scripts of which each number before the cue is that of the video without a cue.
    drawn_before, drawn: share of pixels as drawn, before the cue and from 2 chunks after it on; drawn_chunks: of each
      chunk from the cue on. chunks_to_level: how many are worse by more than LEVEL than before, until one is not.
    """
    of = [record["ways"][way] for record in records]
    pairs = list(zip(records, of, strict=True))
    hold = shares((_only(seen, record["changed"]) for record, seen in pairs), "")
    keep = shares((_but(seen, record["changed"]) for record, seen in pairs if record["kind"] != "all"), "")
    by_kind = {
        kind: shares([_only(seen, record["changed"]) for record, seen in pairs if record["kind"] == kind], "")
        for kind in (*SHOWN, "all")
    }
    found = {
        "scripts": len(of),
        "before": _share(shares((seen["windows"]["before"] for seen in of), "")),
        "takes_hold": _share(hold),
        "takes_hold_range": interval(*hold["all"]),
        "takes_hold_by_kind": {kind: _share(counts) for kind, counts in by_kind.items() if counts},
        "keeps": _share(keep),
        "keeps_range": interval(*keep["all"]),
        "keeps_by": {name: _share(keep, name) for name in SHOWN if name in keep},
    }
    if "drawn" not in of[0]:
        return found
    before, chunks = _mean(seen["drawn_before"] for seen in of), _means(seen["drawn_chunks"] for seen in of)
    return {
        **found,
        **({"same_before": sum(seen["same_before"] for seen in of)} if "same_before" in of[0] else {}),
        "drawn_before": before,
        "drawn": _mean(seen["drawn"] for seen in of),
        "drawn_chunks": chunks,
        "chunks_to_level": next((place for place, share in enumerate(chunks) if share >= before - LEVEL), None),
    }


def photo_scores(records: Sequence[Record], way: str) -> dict[str, Any]:
    """The scores of one way to hold the photo.

    follows: by when the judge looks, by attribute, the share of clips that show what the photo shows and the prompt
      asks; follows_range: 95 % intervals. drawn_photo: share of the photo's pixels that are as drawn; drawn: of those
      that the judge looks at.
    """
    of = [record["ways"][way] for record in records]
    looks = {name: shares((seen["windows"][name] for seen in of), "") for name in of[0]["windows"]}
    found = {
        "photos": len(of),
        "follows": {name: {each: _share(counts, each) for each in counts} for name, counts in looks.items()},
        "follows_range": {name: {each: interval(*counts[each]) for each in counts} for name, counts in looks.items()},
    }
    if "drawn" not in of[0]:
        return found
    drawn = {name: _mean(seen["drawn"][name] for seen in of) for name in looks}
    return {**found, "drawn_photo": _mean(seen["drawn_photo"] for seen in of), "drawn": drawn}


def _only(seen: Record, names: Sequence[str]) -> Record:
    """The judge's look after the cue, at these attributes."""
    look = seen["windows"]["after"]
    return {"asked": {name: look["asked"][name] for name in names if name in look["asked"]}, "judged": look["judged"]}


def _but(seen: Record, names: Sequence[str]) -> Record:
    return _only(seen, [name for name in SHOWN if name not in names])


def _share(counts: Mapping[str, tuple[int, int]], name: str = "all") -> float | None:
    hits, clips = counts.get(name, (0, 0))
    return hits / clips if clips else None


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def _means(rows: Iterable[Sequence[float]]) -> list[float]:
    """The mean of the rows' first values, of their second, and so on."""
    return [_mean(column) for column in zip(*rows, strict=True)]


def experiment_headline(result: Mapping[str, Any]) -> str:
    kind = kind_of(result)
    count = next(iter(result[kind].values()))["scripts" if kind == "switches" else "photos"]
    of = "script" if kind == "switches" else "photo"
    where = f"on {result['device']} in {result['dtype']}"
    cue = f", the prompt changes at {result['cue_s']:g} s" if kind == "switches" else ""
    return f"{result['model']}: {count} {of}{'s' if count != 1 else ''}, {result['frames']} frames a clip{cue}, {where}"


def experiment_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The table for people: its header, then a row for each figure that there is."""
    kind = kind_of(result)
    scores = result[kind]
    table = [["", *scores]]
    for label, show in _switch_cells() if kind == "switches" else _photo_cells(scores):
        cells = [show(each) for each in scores.values()]
        if any(cells):
            table.append([label, *cells])
    return table


def _switch_cells() -> list[Cell]:
    return [
        ("scripts", lambda of: str(of["scripts"])),
        ("first story seen before", lambda of: _shown(of["before"])),
        ("change seen", lambda of: _shown(of["takes_hold"])),
        *((f"  of {KIND_LABELS.get(kind, kind)}", _look("takes_hold_by_kind", kind)) for kind in (*SHOWN, "all")),
        ("all else kept", lambda of: _shown(of["keeps"])),
        *((f"  {name}", _look("keeps_by", name)) for name in SHOWN),
        ("pixels as drawn, before", lambda of: _shown(of.get("drawn_before"))),
        ("  after", lambda of: _shown(of.get("drawn"))),
        ("  chunks until as before", _chunks),
        (
            "the same before the cue",
            lambda of: f"{of['same_before']} of {of['scripts']}" if "same_before" in of else "",
        ),
    ]


def _photo_cells(scores: Mapping[str, Any]) -> list[Cell]:
    looks = next(iter(scores.values()))["follows"]
    return [
        ("photos", lambda of: str(of["photos"])),
        *(
            (f"{LABELS.get(name, name)}, {look}", _look("follows", look, name))
            for look in looks
            for name in (*SHOWN, "target", "all")
        ),
        ("pixels as drawn, the photo", lambda of: _shown(of.get("drawn_photo"))),
        *((f"  {look}", _look("drawn", look)) for look in looks),
    ]


KIND_LABELS = {"all": "all four"}


def _look(*path: str) -> Callable[[Mapping[str, Any]], str]:
    def show(of: Any) -> str:
        for name in path:
            of = of.get(name, {})
        return _shown(of if of != {} else None)

    return show


def _chunks(of: Mapping[str, Any]) -> str:
    if "drawn" not in of:
        return ""
    return "never" if of["chunks_to_level"] is None else str(of["chunks_to_level"])


def _shown(share: float | None) -> str:
    return "" if share is None else percent(share)


def experiment_notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    judged = "shares are of clips, as a network judges them; their 95 % intervals are in eval.json"
    if kind_of(result) == "photos":
        return [
            "chunk, frame: how long the photo is held (i2v --hold); drawn: the storybook's own drawings, as judged",
            judged,
        ]
    return [
        f"the change, and what is kept, are judged from {result['settled_s']:g} s on, 2 chunks after the cue",
        f"none: no change is made; blend: recache over {result['blend_chunks']} chunk; "
        "drawn: the storybook's own drawings, as judged",
        judged,
        f"chunks until as before: how many have over {percent(LEVEL, digits=0)} fewer pixels as drawn than before "
        "the cue, mean over all scripts",
    ]
