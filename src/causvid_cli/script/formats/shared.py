"""What the readers of other programs' timelines share: how a tree of cues is put together. Imports no torch."""

from fractions import Fraction
from typing import Any

from causvid_cli.errors import shortened
from causvid_cli.script.model import BROKEN
from causvid_cli.script.problems import Mark, ScriptSource
from causvid_cli.script.tree import Fields, Items, Node, Text
from causvid_cli.timecode import Time

TIME = r"(?:\d[\d:.]*(?:ms|min|s|f|m|h)?)"
"""What may be a time, inside another text; `timecode.parse_time` says whether it is one."""

Span = tuple[Mark, Time, Time | None]
"""Where a cue stands in its text, when it begins, and when it ends (None where the format does not say)."""

ROUNDING_S = Fraction(1, 1000)
"""Programs keep times as floats or in whole milliseconds; no frame is this short."""


def cue_node(place: Mark, **values: Any) -> Fields:
    """A cue whose fields all stand at one place; None values are left out."""
    return Fields(
        {name: Text(value, place, place) for name, value in values.items() if value is not None}, place, place
    )


def script_node(source: ScriptSource, cues: list[Fields], **top: Node | None) -> Fields:
    """A script of these cues; top: its own fields, None for those that are not given.

    Nothing can show before the first prompt, so it holds from 0 whenever it begins; a remark says so.
    """
    start = _start(cues[0]) if cues else None
    if start and start.number:
        _begin_at_zero(source, cues, start)
    given: dict[str, Node] = {name: node for name, node in top.items() if node is not None}
    listed: list[Node] = list(cues)
    return Fields(given | {"cues": Items(listed, 0, 0)}, 0, 0)


def _begin_at_zero(source: ScriptSource, cues: list[Fields], start: Time) -> None:
    second = _start(cues[1]) if len(cues) > 1 else None
    if second and second.unit == start.unit and second.number <= start.number:
        place, line = cues[1].entries["at"].place, source.line_of(cues[0].place)
        source.complain(place, f"{second} is not after the cue before it ({start}, {line})")
        cues[1].entries["at"] = Text(BROKEN, place, place)
    if start.number > (ROUNDING_S if start.unit == "s" else 0):
        source.remark(cues[0].entries["at"].place, f"the first cue begins at {start}; its prompt holds from 0")
    del cues[0].entries["at"]


def _start(cue: Fields) -> Time | None:
    """When a cue begins, where its format's reader gave it a time."""
    at = cue.entries.get("at")
    return at.value if isinstance(at, Text) and isinstance(at.value, Time) else None


def check_overlap(source: ScriptSource, spans: list[Span]) -> None:
    """Complain of cues that end before they begin, or begin before another's end by more than ROUNDING_S."""
    before: tuple[Mark, Time] | None = None
    for place, start, end in spans:
        rounding = ROUNDING_S if start.unit == "s" else 0
        if before and start.unit == before[1].unit and start.number + rounding < before[1].number:
            source.complain(
                place, f"begins at {start}, before the one in {source.line_of(before[0])} ends ({before[1]})"
            )
        if end is not None:
            if end.number <= start.number:
                source.complain(place, f"ends at {end}, not after its beginning ({start})")
            before = (place, end)


def text_of(source: ScriptSource, node: Node) -> str:
    """The text that a node is, or a stand-in for one that has been complained of."""
    if not isinstance(node, Text) or not isinstance(node.value, str):
        source.complain(node.place, "must be text")
        return "?"
    if not node.quoted:
        source.complain(node.place, f"must be text, not {shortened(node.value)}; write it in quotes")
    return node.value
