"""Prompt timelines of other programs -> the tree of a script (`parse.script_of_tree` checks it like any other).

What a script cannot keep is refused where it stands; what only says how text looks on a screen is left out and said
(`ScriptSource.remark`). A reader returns None where it has complained of the whole text. No torch.
"""

from collections.abc import Callable, Mapping

from causvid_cli.script.formats.deforum import read_deforum
from causvid_cli.script.formats.helios import read_helios
from causvid_cli.script.formats.inline import read_inline
from causvid_cli.script.formats.longlive import read_longlive
from causvid_cli.script.formats.scope import read_scope
from causvid_cli.script.formats.subtitles import read_subtitles
from causvid_cli.script.problems import ScriptSource
from causvid_cli.script.tree import Fields, parse_json


def read_json(source: ScriptSource) -> Fields | None:
    """A .json: Scope's timeline (it has a list of prompts) or Deforum's map of frames.

    As FizzNodes takes it, a map may lack its outer braces and have a comma after its last entry.
    """
    text = source.text.rstrip()
    if text.lstrip().startswith('"'):
        tree = parse_json(source, f"{{\n{text.removesuffix(',')}}}", first_line=-1)
    elif (inner := text.removesuffix("}").rstrip()).endswith(",") and text.endswith("}"):
        tree = parse_json(source, inner.removesuffix(",") + "}")
    else:
        tree = parse_json(source)
    if tree is None or source.problems:
        return None
    if not isinstance(tree, Fields):
        source.complain(tree.place, 'neither a Scope timeline nor a Deforum map of frames, such as {"0": "..."}')
        return None
    return read_scope(source, tree) if "prompts" in tree.entries else read_deforum(source, tree)


def read_text(source: ScriptSource) -> Fields | None:
    """A .txt: Deforum's map of frames, or `[4s: text]`."""
    return read_json(source) if source.text.lstrip().startswith(("{", '"')) else read_inline(source)


TIMED: Mapping[str, Callable[[ScriptSource], Fields | None]] = {
    ".vtt": read_subtitles,
    ".srt": read_subtitles,
    ".json": read_json,
    ".txt": read_text,
}
"""Readers by file extension, of formats that say when each prompt begins."""
UNTIMED: Mapping[str, Callable[[ScriptSource, str | None, int | None], Fields | None]] = {
    ".jsonl": read_longlive,
    ".csv": read_helios,
}
"""Readers by file extension, of formats that only list prompts: they take --switch and --row as well."""
