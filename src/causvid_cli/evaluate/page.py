"""The figures of an evaluation as one self-contained page: tables, inline SVG plots, pictures as base64 PNG."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from causvid_cli.evaluate.experiment_figures import kind_of, trial_headline, trial_notes, trial_rows
from causvid_cli.evaluate.figures import columns, footnotes, headline, rows
from causvid_cli.evaluate.page_charts import Series, colour_of, curves_chart, following_chart
from causvid_cli.evaluate.results_folder import Folder, Record

PLOTS = {
    "as_drawn": ("Pixels as drawn", "by the storybook itself"),
    "brightness": ("Brightness", "mean luma"),
    "saturation": ("Saturation", "mean, as HSV has it"),
    "clipped": ("Clipped", "channel values at full black or full light"),
    "sharpness": ("Sharpness", "deviation of the Laplacian"),
    "motion": ("Motion", "mean change of luma, picture to picture"),
    "jump": ("Jump at chunk edges", "change at the edges over change elsewhere"),
}
"""Curves that are drawn: title and what is measured."""
ABOUT = {
    "student": "the model: a few steps a chunk, one chunk after another",
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
    parts = [
        f"<h1>{escape(result['model'])}</h1>",
        f'<p class="lead">{escape(headline(result).removeprefix(result["model"] + ": "))}</p>',
        _legend(result),
        _section("Figures", _table(rows(result)), notes=footnotes(result)),
        _following(result),
        _section("Through the clip", _curves(result), notes=["means over all clips, second by second"]),
        _confused(result),
        _sheets(result, records, folder),
    ]
    return _document(result["model"], parts)


def trial_page(result: Mapping[str, Any], records: Sequence[Record], folder: Folder) -> str:
    """The page of prompt changes, or of photos."""
    kind = kind_of(result)
    parts = [
        f"<h1>{escape(result['model'])}</h1>",
        f'<p class="lead">{escape(trial_headline(result).removeprefix(result["model"] + ": "))}</p>',
        _list_ways(result[kind]),
        _section("Figures", _table(trial_rows(result)), notes=trial_notes(result)),
        _after_cue(result) if kind == "switches" else "",
        _trial_sheets(kind, records, folder),
    ]
    return _document(result["model"], parts)


def _document(model: str, parts: Iterable[str]) -> str:
    """A page of these parts; empty ones are left out."""
    title = escape(f"{model}: causvid eval")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, body: str, *, notes: Iterable[str] = ()) -> str:
    below = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>{title}</h2>{body}" + (f'<ul class="notes">{below}</ul>' if below else "") + "</section>"


def _legend(result: Mapping[str, Any]) -> str:
    _, *second = (group.replace("_", " ") for group in result["prompts"])
    dashes = f'<dt><i class="dash"></i>{escape(second[0])}</dt><dd>dashed, and paler</dd>' if second else ""
    return _list_ways(result["scores"], dashes)


def _list_ways(makers: Iterable[str], more: str = "") -> str:
    """What is compared, and what it is."""
    entries = (
        f'<dt><i style="background:var(--{colour_of(maker)})"></i>{escape(maker)}</dt>'
        f"<dd>{escape(ABOUT.get(maker, ''))}</dd>"
        for maker in makers
    )
    return f'<dl class="legend">{"".join(entries)}{more}</dl>'


def _table(table: Sequence[Sequence[str]]) -> str:
    header, *body = table
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = (
        f'<tr><th scope="row">{escape(label)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for label, *cells in body
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _following(result: Mapping[str, Any]) -> str:
    """Bars: how often the judge sees what was asked, with the range that chance alone allows."""
    shown = [series for series in _series(result) if series.scores["follows"]]
    if not shown:
        return ""
    order = ", ".join(series.label for series in shown)
    notes = [f"bars from above: {order}", "thin lines: 95 % intervals"]
    return _section("What was asked, is seen", following_chart(shown), notes=notes)


def _curves(result: Mapping[str, Any]) -> str:
    seconds = result["frames"] / result["fps"]
    plots = []
    for name, (title, unit) in PLOTS.items():
        curves = [
            (series, _jumps(series.scores["curves"]) if name == "jump" else series.scores["curves"].get(name, []))
            for series in _series(result)
        ]
        lines = [
            (series, [min(second + 0.5, (second + seconds) / 2) for second in range(len(values))], values)
            for series, values in curves
        ]
        if any(value is not None for *_, values in lines for value in values):
            plot = curves_chart(lines, across="time (s)", ends=(0, seconds), in_percent=name != "jump")
            plots.append(f"<figure><figcaption><b>{title}</b> {unit}</figcaption>{plot}</figure>")
    return f'<div class="plots">{"".join(plots)}</div>'


def _jumps(curves: Mapping[str, Sequence[float | None]]) -> list[float | None]:
    pairs = zip(curves["edge_motion"], curves["inner_motion"], strict=True)
    return [edge / inner if edge is not None and inner else None for edge, inner in pairs]


def _confused(result: Mapping[str, Any]) -> str:
    """What the judge took the student's clips for, where that was not what was asked."""
    tables = []
    for series in _series(result):
        wrong = series.scores["confusions"][:MOST_CONFUSIONS]
        if series.name != "rendered" and series.scores["follows"] and wrong:
            body = [["", "asked", "judged", "clips"]]
            body += [[name, asked, str(said or "nothing"), str(count)] for name, asked, said, count in wrong]
            tables.append(f"<div><h3>{escape(series.label)}</h3>{_table(body)}</div>")
    return _section("Taken for something else", f'<div class="plots">{"".join(tables)}</div>') if tables else ""


def _sheets(result: Mapping[str, Any], records: Sequence[Record], folder: Folder) -> str:
    """The first prompts of each group: a strip of pictures by each maker, and what the judge says of it."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        if record["take"] == 0 and folder.picture(record["maker"], record["group"], record["number"]).exists():
            found.setdefault((record["group"], record["number"]), []).append(record)
    sections = []
    for group in result["prompts"]:
        blocks = []
        for (of, _), makers in sorted(found.items()):
            if of == group:
                first = makers[0]
                strips = "".join(_strip(record, folder) for record in makers)
                prompt = f"<h3>{escape(first['prompt'])} <small>--seed {first['seed']}</small></h3>"
                blocks.append(f'<div class="prompt">{prompt}<div class="strips">{strips}</div></div>')
        name = escape(group.replace("_", " "))
        if blocks:
            sections.append(
                _section(f"Pictures: {name}" if len(result["prompts"]) > 1 else "Pictures", "".join(blocks))
            )
    return "".join(sections)


def _strip(record: Record, folder: Folder) -> str:
    png = folder.picture(record["maker"], record["group"], record["number"]).read_bytes()
    return _figure(record["maker"], png, _verdict(record), record["prompt"])


def _figure(maker: str, png: bytes, said: str, prompt: str) -> str:
    return (
        f'<figure><figcaption><i style="background:var(--{colour_of(maker)})"></i>{escape(maker)}'
        f"{said}</figcaption>"
        f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(maker)}: '
        f'{escape(prompt)}"></figure>'
    )


def _verdict(record: Record) -> str:
    """What the judge took for something else, or that it sees all that was asked."""
    if "asked" not in record:
        return ""
    wrong = [(name, record["judged"][name]) for name, word in record["asked"].items() if record["judged"][name] != word]
    wrong = [(name, said) for name, said in wrong if not (name == "target" and record["asked"][name] is None)]
    if not wrong:
        return '<span class="right">as asked</span>'
    said = ", ".join(f"{name}: {word or 'nothing'}" for name, word in wrong)
    return f'<span class="wrong">judged {escape(said)}</span>'


def _after_cue(result: Mapping[str, Any]) -> str:
    """How pixels become as drawn again: a line for each way, chunk by chunk, the time before the cue first."""
    lines = [
        (Series(way, way, way == "none", scores), range(-1, len(chunks)), [scores["drawn_before"], *chunks])
        for way, scores in result["switches"].items()
        if (chunks := scores.get("drawn_chunks")) is not None
    ]
    last = max(points[-1] for _, points, _ in lines)
    plot = curves_chart(lines, across="chunk, counted from the cue", ends=(-1.5, last + 0.5), in_percent=True)
    caption = "<figcaption><b>Pixels as drawn</b> before the cue, then chunk by chunk from it on</figcaption>"
    note = "the first point is the mean before the cue; dashed: no change is made"
    return _section("After the cue", f'<div class="plots"><figure>{caption}{plot}</figure></div>', notes=[note])


def _trial_sheets(kind: str, records: Sequence[Record], folder: Folder) -> str:
    """The first scripts or photos: a strip of pictures of each way, and what the judge says of it."""
    blocks = []
    for record in records:
        shown = [way for way in record["ways"] if folder.picture(way, kind, record["number"]).exists()]
        strips = "".join(_trial_strip(record, way, folder) for way in shown)
        if kind == "switches":
            title = f"{record['prompt']} \N{RIGHTWARDS ARROW} {record['then']}"
        else:
            title = f"{record['prompt']}, from a photo: picture {record['at']} of {record['photo']}"
        if strips:
            heading = f"<h3>{escape(title)} <small>--seed {record['seed']}</small></h3>"
            blocks.append(f'<div class="prompt">{heading}<div class="strips">{strips}</div></div>')
    return _section("Pictures", "".join(blocks)) if blocks else ""


def _trial_strip(record: Record, way: str, folder: Folder) -> str:
    *_, look = record["ways"][way]["windows"].values()
    said = _verdict(look if way != "none" else {})
    png = folder.picture(way, record["group"], record["number"]).read_bytes()
    return _figure(way, png, said, record["prompt"])


def _series(result: Mapping[str, Any]) -> list[Series]:
    """All that is compared: each maker and, where there are several, each group of prompts."""
    places = [(maker, bool(place)) for maker, groups in result["scores"].items() for place, _ in enumerate(groups)]
    return [
        Series(label, maker, second, scores)
        for (label, scores), (maker, second) in zip(columns(result), places, strict=True)
    ]


STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1c1d20; --soft: #686c73; --line: #e2e3e6;
  --blue: #2f6fde; --orange: #d9771f; --grey: #9aa0a8; --green: #2c9c74; --purple: #8a55c8;
  --good: #1d7d55; --bad: #b5382c; }
@media (prefers-color-scheme: dark) { :root { --page: #17181b; --ink: #e9eaec; --soft: #9a9ea6; --line: #33363c;
  --blue: #6ea0ff; --orange: #f0a04b; --grey: #8a9099; --green: #5cc79f; --purple: #b98af0;
  --good: #5cc79f; --bad: #ff8a7a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 32px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 0 0 14px; }
h3 { font-size: 15px; margin: 0 0 8px; font-weight: 600; }
small { color: var(--soft); font-weight: 400; margin-left: 8px; font-size: 12px; white-space: nowrap; }
section { margin-top: 44px; }
.lead { color: var(--soft); margin: 6px 0 20px; }
.legend { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; }
.legend dt { font-weight: 600; } .legend dd { margin: 0; color: var(--soft); }
i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
i.dash { height: 0; border-top: 2px dashed var(--soft); border-radius: 0; vertical-align: middle; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 22px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: pre; }
th:first-child { text-align: left; font-weight: 400; } thead th { font-weight: 600; color: var(--soft); }
.notes { color: var(--soft); font-size: 13px; margin: 12px 0 0; padding-left: 18px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: 26px 30px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); margin-bottom: 4px; }
figcaption b { color: var(--ink); font-weight: 600; margin-right: 6px; }
svg { display: block; width: 100%; height: auto; } svg text { font-family: inherit !important; }
.prompt { padding: 16px 0; border-top: 1px solid var(--line); }
.strips { display: grid; gap: 10px; }
.strips img { display: block; width: 100%; image-rendering: pixelated; border-radius: 4px; }
.right, .wrong { margin-left: 10px; } .right { color: var(--good); } .wrong { color: var(--bad); }
"""
