"""The figures of an evaluation as one self-contained page: tables, SVG charts, strips of frames as base64 PNG.

`page.html.j2` says how it looks and escapes what it is given; here is what it is given.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from causvid_cli.charts import COLOURS
from causvid_cli.evaluate.experiment_figures import experiment_headline, experiment_notes, experiment_rows, kind_of
from causvid_cli.evaluate.figures import columns, footnotes, headline, rows
from causvid_cli.evaluate.measure_figures import measure_headline, measure_notes, measure_rows
from causvid_cli.evaluate.page_charts import Series, colour_of, curves_chart, following_chart
from causvid_cli.evaluate.results_folder import Folder, Record

CURVES = {
    "as_drawn": ("Pixels as drawn", "by the storybook itself"),
    "brightness": ("Brightness", "mean luma"),
    "saturation": ("Saturation", "mean, as HSV has it"),
    "clipped": ("Clipped", "channel values at full black or full light"),
    "sharpness": ("Sharpness", "deviation of the Laplacian"),
    "motion": ("Motion", "mean change of luma, frame to frame"),
    "jump": ("Jump at chunk edges", "change at the edges over change elsewhere"),
}
"""Curves that are drawn: title and what is measured."""
ABOUT = {
    "student": "the model: a few steps a chunk, one chunk after another",
    "against": "another model, with the same prompts and seeds",
    "teacher": "the network that it was distilled from: the whole clip at once, many guided steps",
    "rendered": "the storybook's own drawing of the same stories: what perfect clips score",
    "codec": "the drawings through the codec: the best that any network could do through it",
    "none": "no change is made: what the judge takes for one by mistake",
    "recache": "the past stays, and is seen anew under the new prompt",
    "soft": "the past stays as it was seen",
    "blend": "recache, but the new prompt fades in",
    "cut": "the past is forgotten: a new shot",
    "drawn": "the storybook's own drawing: what perfect clips score",
    "drawn cut": "the same of a new shot",
    "chunk": "the photo is held for a chunk",
    "frame": "the photo is held for one latent frame",
    "drawn chunk": "the storybook's own drawing: what perfect clips score",
    "drawn frame": "the same of a photo held for one latent frame",
}
MOST_CONFUSIONS = 12


def page(result: Mapping[str, Any], records: Sequence[Record], folder: Folder) -> str:
    """The whole page, HTML. It asks for nothing from outside."""
    series = _series(result)
    _, *second = (group.replace("_", " ") for group in result["prompts"])
    return _render(
        result,
        headline=headline(result),
        compared=list(result["scores"]),
        second=second[0] if second else None,
        figures=rows(result),
        notes=footnotes(result),
        following=_following(series),
        curves=_curves(series, seconds=result["frames"] / result["fps"]),
        confusions=_confusions(series),
        sheets=_sheets(result, records, folder),
    )


def experiment_page(result: Mapping[str, Any], records: Sequence[Record], folder: Folder) -> str:
    """The page of prompt changes, or of photos."""
    kind = kind_of(result)
    return _render(
        result,
        headline=experiment_headline(result),
        compared=list(result[kind]),
        figures=experiment_rows(result),
        notes=experiment_notes(result),
        curves=_after_cue(result["switches"]) if kind == "switches" else None,
        sheets=_experiment_sheets(kind, records, folder),
    )


def measure_page(result: Mapping[str, Any], records: Sequence[Record], folder: Folder) -> str:
    """The page of named measures."""
    makers = {"student": result["model"]} | ({"against": result["against"]} if result["against"] else {})
    return _render(
        result,
        headline=measure_headline(result),
        compared=list(makers),
        figures=measure_rows(result),
        notes=measure_notes(result),
        sheets=[_measure_sheet(name, makers, records, folder) for name in result["measures"]],
    )


def _measure_sheet(name: str, makers: Iterable[str], records: Sequence[Record], folder: Folder) -> dict[str, Any]:
    """The first prompts of a measure: a strip of frames of each model, and what the judge takes for something else."""
    prompts: dict[int, dict[str, Any]] = {}
    for record in records:
        png = folder.strip(record["maker"], name, record["number"])
        if record["group"] == name and record["take"] == 0 and png.exists():
            arrow = f" {chr(0x2192)} "
            heading = {"heading": arrow.join(record["prompts"]), "seed": record["seed"], "strips": []}
            mistakes = [slots for looks in record["wrong"].values() for slots in looks]
            seen = (f"{slot}: {word}" for slots in mistakes for slot, (_, word) in slots.items())
            wrong = ", ".join(dict.fromkeys(seen))
            image = base64.b64encode(png.read_bytes()).decode()
            strip = {"name": record["maker"], "png": image, "wrong": wrong, "prompt": record["prompt"]}
            prompts.setdefault(record["number"], heading)["strips"].append(strip)
    return {"title": f"Pictures: {name}", "prompts": [prompts[number] for number in sorted(prompts)]}


def _render(result: Mapping[str, Any], *, headline: str, **values: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["colour_of"] = colour_of
    template = environment.from_string(files("causvid_cli.evaluate").joinpath("page.html.j2").read_text("utf-8"))
    lead = headline.removeprefix(f"{result['model']}: ")
    optional = dict.fromkeys(("second", "following", "curves", "confusions"))
    return template.render(model=result["model"], lead=lead, about=ABOUT, colours=COLOURS, **optional | values)


def _following(series: Sequence[Series]) -> dict[str, str] | None:
    """How often the judge sees what was asked; None where nothing was judged."""
    judged = [each for each in series if each.scores["follows"]]
    if not judged:
        return None
    return {"chart": following_chart(judged), "order": ", ".join(each.label for each in judged)}


def _curves(series: Sequence[Series], *, seconds: float) -> dict[str, Any]:
    """Charts of what is measured second by second, over the time of the clip."""
    charts = []
    for name, (title, measure) in CURVES.items():
        lines = []
        for each in series:
            values = _jumps(each.scores["curves"]) if name == "jump" else each.scores["curves"].get(name, [])
            middles = [min(second + 0.5, (second + seconds) / 2) for second in range(len(values))]
            lines.append((each, middles, values))
        if any(value is not None for *_, values in lines for value in values):
            chart = curves_chart(lines, across="time (s)", ends=(0, seconds), in_percent=name != "jump")
            charts.append((title, measure, chart))
    return {"title": "Through the clip", "charts": charts, "note": "means over all clips, second by second"}


def _jumps(curves: Mapping[str, Sequence[float | None]]) -> list[float | None]:
    pairs = zip(curves["edge_motion"], curves["inner_motion"], strict=True)
    return [edge / inner if edge is not None and inner else None for edge, inner in pairs]


def _after_cue(ways: Mapping[str, Any]) -> dict[str, Any]:
    """How pixels become as drawn again: a line for each way, chunk by chunk, the time before the cue first."""
    lines = [
        (Series(way, way, way == "none", scores), range(-1, len(chunks)), [scores["drawn_before"], *chunks])
        for way, scores in ways.items()
        if (chunks := scores.get("drawn_chunks")) is not None
    ]
    last = max(points[-1] for _, points, _ in lines)
    chart = curves_chart(lines, across="chunk, counted from the cue", ends=(-1.5, last + 0.5), in_percent=True)
    return {
        "title": "After the cue",
        "charts": [("Pixels as drawn", "before the cue, then chunk by chunk from it on", chart)],
        "note": "the first point is the mean before the cue; dashed: no change is made",
    }


def _confusions(series: Sequence[Series]) -> list[tuple[str, list[list[str]]]]:
    """(label, table) of what the judge took for something else than what was asked, of clips that a network made."""
    tables = []
    for each in series:
        wrong = each.scores["confusions"][:MOST_CONFUSIONS]
        if each.name != "rendered" and each.scores["follows"] and wrong:
            cells = [[name, asked, said or "nothing", str(count)] for name, asked, said, count in wrong]
            tables.append((each.label, [["", "asked", "judged", "clips"], *cells]))
    return tables


def _sheets(result: Mapping[str, Any], records: Sequence[Record], folder: Folder) -> list[dict[str, Any]]:
    """The first prompts of each group: a strip of frames by each maker, and what the judge says of it."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {group: {} for group in result["prompts"]}
    for record in records:
        png = folder.strip(record["maker"], record["group"], record["number"])
        if record["take"] == 0 and png.exists():
            strip = _strip(record["maker"], png.read_bytes(), record, record["prompt"])
            found[record["group"]].setdefault(record["number"], []).append(strip | {"seed": record["seed"]})
    several = len(found) > 1
    return [
        {
            "title": f"Pictures: {group.replace('_', ' ')}" if several else "Pictures",
            "prompts": [
                {"heading": strips[0]["prompt"], "seed": strips[0]["seed"], "strips": strips}
                for _, strips in sorted(prompts.items())
            ],
        }
        for group, prompts in found.items()
        if prompts
    ]


def _experiment_sheets(kind: str, records: Sequence[Record], folder: Folder) -> list[dict[str, Any]]:
    """The first scripts or photos: a strip of frames of each way, and what the judge says of it."""
    prompts = []
    for record in records:
        if kind == "switches":
            heading = f"{record['prompt']} \N{RIGHTWARDS ARROW} {record['then']}"
        else:
            heading = f"{record['prompt']}, from a photo: frame {record['at']} of {record['photo']}"
        strips = []
        for way, seen in record["ways"].items():
            png = folder.strip(way, kind, record["number"])
            if png.exists():
                *_, look = seen["windows"].values()
                strips.append(_strip(way, png.read_bytes(), look if way != "none" else {}, record["prompt"]))
        if strips:
            prompts.append({"heading": heading, "seed": record["seed"], "strips": strips})
    return [{"title": "Pictures", "prompts": prompts}] if prompts else []


def _strip(name: str, png: bytes, look: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    return {"name": name, "png": base64.b64encode(png).decode(), "wrong": _wrong(look), "prompt": prompt}


def _wrong(look: Mapping[str, Any]) -> str | None:
    """What the judge took for something else, empty where it sees all that was asked; None where it did not look."""
    if "asked" not in look:
        return None
    judged = look["judged"]
    return ", ".join(
        f"{name}: {judged[name] or 'nothing'}"
        for name, word in look["asked"].items()
        if judged[name] != word and not (name == "target" and word is None)
    )


def _series(result: Mapping[str, Any]) -> list[Series]:
    """All that is compared: each maker and, where there are several, each group of prompts."""
    places = [(maker, bool(place)) for maker, groups in result["scores"].items() for place, _ in enumerate(groups)]
    return [
        Series(label, maker, second, scores)
        for (label, scores), (maker, second) in zip(columns(result), places, strict=True)
    ]
