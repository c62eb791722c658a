"""What the readers of other programs' timelines share: how a tree of cues is put together. Imports no torch."""

from typing import Any

from causvid_cli.script.parse import Fields, Items, Node, Text
from causvid_cli.script.problems import Mark, Source
from causvid_cli.timecode import Time

TIME = r"(?:\d[\d:.]*(?:ms|min|s|f|m|h)?)"
"""What may be a time, inside another text; `timecode.parse_time` says whether it is one."""

Span = tuple[Mark, Time, Time | None]
"""Where a cue stands in its text, when it begins, and when it ends (None where the format does not say)."""


def cue_node(place: Mark, **values: Any) -> Fields:
    """A cue whose fields all stand at one place; None values are left out."""
    return Fields(
        {name: Text(value, place, place) for name, value in values.items() if value is not None}, place, place
    )


def script_node(cues: list[Fields], **top: Node | None) -> Fields:
    """A script of these cues; top: its own fields, None for those that are not given."""
    given: dict[str, Node] = {name: node for name, node in top.items() if node is not None}
    listed: list[Node] = list(cues)
    return Fields(given | {"cues": Items(listed, 0, 0)}, 0, 0)


def check_overlap(source: Source, spans: list[Span]) -> None:
    """Complain of cues that end before they begin, or begin before another's end."""
    before: tuple[Mark, Time] | None = None
    for place, start, end in spans:
        if before and start.unit == before[1].unit and start.number < before[1].number:
            source.complain(
                place, f"begins at {start}, before the one in {source.line_of(before[0])} ends ({before[1]})"
            )
        if end is not None:
            if end.number <= start.number:
                source.complain(place, f"ends at {end}, not after its beginning ({start})")
            before = (place, end)


def text_of(source: Source, node: Node, base: Mark = 0) -> str:
    """The text that a node is, or a stand-in for one that has been complained of."""
    if isinstance(node, Text) and isinstance(node.value, str):
        return node.value
    source.complain(base + node.place, "must be text")
    return "?"
