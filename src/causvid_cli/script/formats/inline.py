"""`[4s: text]`, as FramePack Studio has it, as a script. Imports no torch."""

import re

from causvid_cli.errors import UsageError, shortened
from causvid_cli.script.formats.shared import TIME, Span, check_overlap, cue_node, script_node
from causvid_cli.script.problems import ScriptSource, mark
from causvid_cli.script.tree import Fields, Text
from causvid_cli.timecode import parse_time

_BRACKET = re.compile(r"\[([^\[\]]*)\]([^\[\]]*)")
_SPAN = re.compile(rf"\s*(?P<start>-?{TIME})(?:\s*-\s*(?P<end>{TIME}))?\s*(?::(?P<prompt>.*)|)", re.DOTALL | re.ASCII)


def read_inline(source: ScriptSource) -> Fields | None:
    """`first prompt [4s: text] [6s-8s: text]`, or `[4s] text`; after a span's end its prompt holds on."""
    text = source.text
    head, _, _ = text.partition("[")
    cues = [cue_node(source.mark_at(0), prompt=head)] if head.strip() else []
    spans: list[Span] = []
    position = len(head)
    while position < len(text):
        found = _BRACKET.match(text, position)
        if not found:
            source.complain(source.mark_at(position), "[ and ] do not pair here", "write [4s: text] [8s: text]")
            return None
        _cue(source, found, cues, spans)
        position = found.end()
    if not cues:
        source.complain(mark(0, 0), "holds no prompt; write [0s: text] [4s: text]")
        return None
    check_overlap(source, spans)
    place, _, end = spans[-1] if spans else (0, None, None)
    return script_node(source, cues, length=Text(end, place, place) if end else None)


def _cue(source: ScriptSource, found: re.Match[str], cues: list[Fields], spans: list[Span]) -> None:
    place = source.mark_at(found.start())
    span = _SPAN.fullmatch(found[1])
    if not span:
        source.complain(place, f"{shortened(found[0].strip())} does not begin with a time; write [4s: text]")
        return
    try:
        start = parse_time(span["start"], name="time")
        end = parse_time(span["end"], name="time") if span["end"] else None
    except UsageError as error:
        source.complain(place, str(error))
        return
    if end and end.unit != start.unit:
        source.complain(place, "begins and ends in different units; write [4s-6s: text]")
        return
    if span["prompt"] is not None and found[2].strip():
        source.complain(source.mark_at(found.start(2)), "text between brackets belongs to no time; write [4s: text]")
    spans.append((place, start, end))
    cues.append(cue_node(place, at=start, prompt=found[2] if span["prompt"] is None else span["prompt"]))
