"""Deforum's map of frames to prompts as a script. Imports no torch."""

import re
from fractions import Fraction

from causvid_cli.errors import shortened
from causvid_cli.script.formats.shared import cue_node, script_node, text_of
from causvid_cli.script.problems import ScriptSource
from causvid_cli.script.tree import Fields
from causvid_cli.timecode import Time


def read_deforum(source: ScriptSource, tree: Fields) -> Fields | None:
    """Deforum's map of frames: {"0": "a swan --neg text", "60": "..."}; its frames count at the script's fps."""
    cues: list[tuple[int, Fields]] = []
    for name, node in tree.entries.items():
        if not re.fullmatch(r"\d{1,9}", name.strip(), re.ASCII):
            formula = "a formula cannot be kept; " if "`" in name or "max_f" in name else ""
            source.complain(node.key_place, f'{shortened(name)} is no frame number; {formula}write one, such as "60"')
            continue
        text = text_of(source, node)
        if "`" in text or "$" in text:
            source.complain(node.place, "a formula in a prompt cannot be kept; write plain text")
        prompt, flag, negative = text.partition("--neg")
        cue = cue_node(
            node.place, at=Time(Fraction(int(name)), "f"), prompt=prompt, negative=negative if flag else None
        )
        cues.append((int(name), cue))
    if tree.entries:
        source.remark(tree.place, "frames are counted at the script's fps")
    return script_node(source, [cue for _, cue in sorted(cues, key=lambda entry: entry[0])])
