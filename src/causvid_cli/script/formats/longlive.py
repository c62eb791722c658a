"""LongLive's .jsonl of prompts as a script. Imports no torch."""

from typing import Any

from causvid_cli.script.formats.shared import text_of
from causvid_cli.script.formats.switched import chosen_row, switched
from causvid_cli.script.parse import Fields, Items, parse_json
from causvid_cli.script.problems import Source, mark, shortened


def read_longlive(source: Source, switch: str | None, row: int | None) -> Fields | None:
    """LongLive's .jsonl: one video per line, {"prompts": [...]}."""
    rows = [(number, line) for number, line in enumerate(source.lines) if line.strip()]
    if not rows:
        source.complain(mark(0, 0), 'holds no line; write {"prompts": ["...", "..."]}')
        return None
    chosen = chosen_row(source, row, len(rows), "lines")
    if chosen is None:
        return None
    number, line = rows[chosen]
    prompts = _row_prompts(source, number, line)
    return prompts and switched(source, prompts, switch)


def _row_prompts(source: Source, number: int, line: str) -> Any:
    """[(place, prompt)] of a line, or None. Places in the line, which is one, add to the place of the line."""
    place = mark(number, 0)
    one = Source(source.name, line)
    tree = parse_json(one)
    for problem in one.problems:
        source.complain(mark(number, (problem.column or 1) - 1), problem.message, problem.hint)
    if one.problems or not isinstance(tree, Fields):
        if not one.problems:
            source.complain(place, 'not a video; write {"prompts": ["...", "..."]}')
        return None
    for name, node in tree.entries.items():
        if name != "prompts":
            source.complain(place + node.key_place, f"{shortened(name)} cannot be kept; delete it")
    listed = tree.entries.get("prompts")
    if not isinstance(listed, Items) or not listed.items:
        source.complain(place, "'prompts' must be a list of texts")
        return None
    return [(place + node.place, text_of(source, node, place)) for node in listed.items]
