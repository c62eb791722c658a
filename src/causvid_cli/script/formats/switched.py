"""Prompts that name no times: `--switch` says when each begins, `--row` which video is meant. Imports no torch."""

import re
from fractions import Fraction

from causvid_cli.errors import UsageError, shortened
from causvid_cli.script.formats.shared import cue_node, script_node
from causvid_cli.script.problems import Mark, ScriptSource
from causvid_cli.script.tree import Fields, Text
from causvid_cli.timecode import Time, parse_time


def switched(source: ScriptSource, prompts: list[tuple[Mark, str]], switch: str | None) -> Fields | None:
    """The script of prompts (place, text) that begin where --switch says; None if it does not fit their number."""
    times = _switch_times(switch)
    if len(times) != len(prompts) - 1:
        example = ",".join(str(40 * n) for n in range(1, min(len(prompts), 4)))
        wanted = f"{len(prompts)} prompts need {len(prompts) - 1}"
        if switch is None:
            hint = f"add --switch with latent frames ({example}) or times (5s,10s)"
            source.complain(prompts[0][0], f"says no times; {wanted}", hint)
        else:
            source.complain(prompts[0][0], f"--switch {switch} has {len(times)} times; {wanted}")
        return None
    starts: list[Time | None] = [None, *times]
    cues = [cue_node(place, at=at, prompt=text) for (place, text), at in zip(prompts, starts, strict=True)]
    # LongLive switches with the first chunk that begins at or after the frame.
    snap = Text("next", 0, 0) if any(time.unit == "latent" for time in times) else None
    return script_node(source, cues, snap=snap)


def _switch_times(switch: str | None) -> list[Time]:
    """The times that --switch lists: latent frames (`40,80`) or times (`5s,10s`). Raises UsageError for others."""
    if switch is None or not switch.strip():
        return []
    parts = [part.strip() for part in switch.split(",")]
    times = [
        Time(Fraction(part), "latent")
        if re.fullmatch(r"\d{1,9}", part, re.ASCII)
        else parse_time(part, name=f"--switch {shortened(switch)}:")
        for part in parts
    ]
    if len({time.unit for time in times}) > 1:
        raise UsageError(f"--switch {switch}: mixes latent frames (40) and times (5s); write one kind")
    return times


def chosen_row(source: ScriptSource, row: int | None, count: int, what: str) -> int | None:
    """The index, from 0, of the video that --row means among `count`; None where it must be given and is not.

    Raises UsageError for a row that is not there.
    """
    if row is None and count == 1:
        return 0
    if row is None:
        source.complain(None, f"holds {count} {what}, and a script is one video", "choose with --row, such as --row 1")
        return None
    if not 1 <= row <= count:
        raise UsageError(f"--row {row}: {source.name} holds {count} {what}")
    return row - 1
