"""Helios' .csv of interactive prompts as a script. Imports no torch."""

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from causvid_cli.errors import shortened
from causvid_cli.script.fields import CONTROL
from causvid_cli.script.formats.switched import chosen_row, switched
from causvid_cli.script.problems import Mark, ScriptSource, mark
from causvid_cli.script.tree import Fields


def read_helios(source: ScriptSource, switch: str | None, row: int | None) -> Fields | None:
    """Helios' .csv: columns id, prompt_index, prompt; the prompts of one id are one video."""
    if found := CONTROL.search(source.text):
        line = source.text.count("\n", 0, found.start())
        source.complain(mark(line, 0), "holds a control character; delete it")
        return None
    reader = csv.DictReader(io.StringIO(source.text, newline=""), strict=True)
    videos: dict[str, dict[int, tuple[Mark, str]]] = {}
    start = 0
    try:
        if not _check_columns(source, reader.fieldnames or ()):
            return None
        start = reader.line_num
        for values in reader:
            _take_row(source, values, mark(start, 0), videos)
            start = reader.line_num
    except csv.Error as error:
        source.complain(mark(start, 0), f"not CSV: {error}")
        return None
    if not videos:
        if not source.problems:
            source.complain(mark(0, 0), "holds no prompt")
        return None
    chosen = chosen_row(source, row, len(videos), "ids")
    if chosen is None:
        return None
    prompts = list(videos.values())[chosen]
    return switched(source, [prompts[index] for index in sorted(prompts)], switch)


def _check_columns(source: ScriptSource, names: Any) -> bool:
    """Whether the columns are exactly the ones that are read; complains if not."""
    wanted = ("id", "prompt_index", "prompt")
    missing = [name for name in wanted if name not in names]
    others = [name for name in names if name not in wanted]
    if missing:
        source.complain(mark(0, 0), f"the first line must name the columns {', '.join(wanted)}")
    elif others:
        source.complain(mark(0, 0), f"column {shortened(others[0])} cannot be kept; delete it")
    return not missing and not others


def _take_row(
    source: ScriptSource, row: Mapping[Any, Any], place: Mark, videos: dict[str, dict[int, tuple[Mark, str]]]
) -> None:
    if None in row or None in row.values():
        source.complain(place, f"has {'more' if None in row else 'fewer'} values than the first line names")
    elif not re.fullmatch(r"\d{1,9}", row["prompt_index"].strip(), re.ASCII):
        source.complain(place, f"prompt_index {shortened(row['prompt_index'])} is not a whole number")
    else:
        prompts, index = videos.setdefault(row["id"], {}), int(row["prompt_index"])
        if index in prompts:
            first = source.line_of(prompts[index][0])
            source.complain(place, f"prompt_index {index} is given twice (first in {first})")
        prompts[index] = (place, row["prompt"])
