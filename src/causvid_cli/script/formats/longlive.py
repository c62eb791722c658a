"""LongLive's .jsonl of prompts as a script. Imports no torch."""

from causvid_cli.errors import shortened
from causvid_cli.script.formats.shared import text_of
from causvid_cli.script.formats.switched import chosen_row, switched
from causvid_cli.script.problems import ScriptSource, mark
from causvid_cli.script.tree import Fields, Items, parse_json


def read_longlive(source: ScriptSource, switch: str | None, row: int | None) -> Fields | None:
    """LongLive's .jsonl: one video per line, {"prompts": [...]}."""
    rows = [(number, line) for number, line in enumerate(source.lines) if line.strip()]
    if not rows:
        source.complain(mark(0, 0), 'holds no line; write {"prompts": ["...", "..."]}')
        return None
    chosen = chosen_row(source, row, len(rows), "lines")
    if chosen is None:
        return None
    number, line = rows[chosen]
    tree = parse_json(source, line, first_line=number)
    if source.problems:
        return None
    if not isinstance(tree, Fields):
        source.complain(mark(number, 0), 'not a video; write {"prompts": ["...", "..."]}')
        return None
    for name, node in tree.entries.items():
        if name != "prompts":
            source.complain(node.key_place, f"{shortened(name)} cannot be kept; delete it")
    listed = tree.entries.get("prompts")
    if not isinstance(listed, Items) or not listed.items:
        source.complain(mark(number, 0), "'prompts' must be a list of texts")
        return None
    return switched(source, [(node.place, text_of(source, node)) for node in listed.items], switch)
