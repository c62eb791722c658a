"""Daydream Scope's exported timeline as a script. Imports no torch."""

import re
from fractions import Fraction

from causvid_cli.errors import shortened
from causvid_cli.script.formats.shared import Span, check_overlap, cue_node, script_node, text_of
from causvid_cli.script.model import BROKEN
from causvid_cli.script.problems import ScriptSource
from causvid_cli.script.tree import Fields, Items, Node, Text
from causvid_cli.timecode import Time

_CUE = ("startTime", "endTime", "prompts", "text", "transitionSteps", "temporalInterpolationMethod")
_LOOK = ("id", "color", "isLive")


def read_scope(source: ScriptSource, tree: Fields) -> Fields | None:
    """Scope's exported timeline: seconds, one prompt per entry, and of its settings the seed and the size."""
    listed = tree.entries["prompts"]
    if not isinstance(listed, Items):
        source.complain(listed.place, "'prompts' must be a list; a Deforum map has frame numbers")
        return None
    for name, node in tree.entries.items():
        if name not in ("prompts", "settings", "version", "exportedAt"):
            source.complain(node.key_place, f"{shortened(name)} cannot be kept; delete it")
    cues: list[Fields] = []
    spans: list[Span] = []
    for node in listed.items:
        if isinstance(node, Fields):
            cues.append(_cue(source, node, spans))
        else:
            source.complain(node.place, "must be an entry with startTime and prompts")
    check_overlap(source, spans)
    end = spans[-1] if spans and len(spans) == len(cues) else None
    length = Text(end[2], end[0], end[0]) if end and end[2] else None
    return script_node(source, cues, length=length, **_settings(source, tree.entries.get("settings")))


def _cue(source: ScriptSource, node: Fields, spans: list[Span]) -> Fields:
    for name, child in node.entries.items():
        if name not in (*_CUE, *_LOOK):
            source.complain(child.key_place, f"{shortened(name)} cannot be kept; delete it")
    start = _number(source, node, "startTime")
    end = _number(source, node, "endTime")
    steps = _number(source, node, "transitionSteps")
    cue = cue_node(node.place, at=BROKEN if start is None else Time(start))
    cue.entries["prompt"] = _prompt(source, node)
    if start is not None:
        spans.append((node.place, Time(start), None if end is None else Time(end)))
    elif "startTime" not in node.entries:
        source.complain(node.place, "'startTime' is missing")
    if steps:
        place = node.entries["transitionSteps"].place
        cue.entries["blend"] = Text(Time(steps, "chunk"), place, place)
        method = node.entries.get("temporalInterpolationMethod")
        if method:
            source.remark(method.place, "how the blend is computed is the model's choice; left out")
    return cue


def _number(source: ScriptSource, node: Fields, name: str) -> Fraction | None:
    """An exact number of 0 to a day, or None where it is absent or has been complained of."""
    child = node.entries.get(name)
    if child is None:
        return None
    text = child.value if isinstance(child, Text) else None
    if isinstance(text, str) and re.fullmatch(r"\d{1,9}(\.\d{1,30})?([eE][+-]?\d{1,2})?", text, re.ASCII):
        number = Fraction(text)
        if number <= 24 * 3600 and (name != "transitionSteps" or number.denominator == 1):
            return number
    source.complain(child.place, f"{name} {shortened(str(text))} is not a number of 0 or more")
    return None


def _prompt(source: ScriptSource, node: Fields) -> Node:
    mix, text = node.entries.get("prompts"), node.entries.get("text")
    if mix is None and text is not None:
        return Text(text_of(source, text), text.place, text.place)
    if not isinstance(mix, Items) or not mix.items:
        source.complain(node.place, "'prompts' must be a list with one prompt")
        return Text(BROKEN, node.place, node.place)
    if len(mix.items) > 1:
        source.complain(mix.items[1].place, "several prompts at once cannot be kept", "write one prompt that says all")
    first = mix.items[0]
    found = first.entries.get("text") if isinstance(first, Fields) else None
    if found is None:
        source.complain(first.place, 'must be {"text": "..."}')
        return Text(BROKEN, first.place, first.place)
    return Text(text_of(source, found), found.place, found.place)


def _settings(source: ScriptSource, node: Node | None) -> dict[str, Node]:
    if not isinstance(node, Fields):
        return {}
    kept: dict[str, Node] = {}
    loras = node.entries.get("loras")
    if isinstance(loras, Items) and loras.items:
        source.complain(loras.place, "LoRAs cannot be kept; delete them")
    if seed := node.entries.get("seed"):
        kept["seed"] = seed
    resolution = node.entries.get("resolution")
    if isinstance(resolution, Fields):
        sides = [resolution.entries.get(name) for name in ("width", "height")]
        size = "x".join(str(side.value) if isinstance(side, Text) else "?" for side in sides)
        kept["size"] = Text(size, resolution.place, resolution.place)
    others = [name for name in node.entries if name not in ("seed", "resolution", "loras")]
    if others:
        source.remark(node.place, f"settings of Scope's own are left out: {', '.join(map(shortened, others[:20]))}")
    return kept
