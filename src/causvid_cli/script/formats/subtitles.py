"""WebVTT and SubRip subtitles as a script. Imports no torch.

The lines are read here and not by pysubs2 or webvtt-py: neither says on which line a cue stands, both drop what they
cannot read without a word, and pysubs2 takes the NOTE after a cue for its text, which `exports.to_vtt` keeps fields in.
"""

import html
import re
from collections.abc import Iterator

from causvid_cli.errors import UsageError, shortened
from causvid_cli.script.formats.shared import Span, check_overlap, cue_node, script_node
from causvid_cli.script.model import BROKEN, Script, ScriptCue, readers
from causvid_cli.script.problems import ScriptSource, mark
from causvid_cli.script.tree import Fields, Node, Text
from causvid_cli.timecode import Time, parse_time

_TIMING = re.compile(r"\s*(?P<start>[\d:.,]+)\s*-->\s*(?P<end>[\d:.,]+)(?P<look>\s.*)?", re.ASCII)
_CLOCK_AND_ARROW = re.compile(r"\s*\d+:[\d:.,]+\s*-*>", re.ASCII)
"""A line that is meant to be a timing, wherever it stands."""
_SETTING = re.compile(r"(?:NOTE\s+)?causvid\s+(?P<name>[\w-]+)\s*:\s*(?P<value>.*)")


def read_subtitles(source: ScriptSource) -> Fields | None:
    """WebVTT and SubRip: a cue's start and text, with its identifier as name; the last end is the length.

    `NOTE causvid seed: 7` gives a field to the cue that follows, or to the script where only a script has it.
    """
    vtt = source.lines[0].startswith("WEBVTT")
    if source.name.lower().endswith(".vtt") and not vtt:
        source.complain(mark(0, 0), "a .vtt file begins with the line WEBVTT")
        return None
    reading = _Subtitles(source, vtt=vtt)
    for first, block in _blocks(source.lines):
        reading.block(first, block)
    return reading.script()


def _blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines that belong together: (number of the first, lines). A blank line ends a run, and so does a cue:
    its timing, with the counter right above it. Text before a timing is its identifier only where it stands alone.
    """
    block: list[str] = []
    for number, line in enumerate([*lines, ""]):
        counts = line.strip().isdecimal() and any(map(_CLOCK_AND_ARROW.match, lines[number + 1 : number + 2]))
        times = _CLOCK_AND_ARROW.match(line) and not (len(block) == 1 and _may_name_cue(block[0]))
        if block and (not line.strip() or counts or times):
            yield number - len(block), block
            block = []
        if line.strip():
            block.append(line)


def _may_name_cue(line: str) -> bool:
    return not (_is_timing(line) or re.match(r"WEBVTT\b|NOTE\b|(?:STYLE|REGION)\s*$", line))


def _is_timing(line: str) -> bool:
    return "-->" in line or _CLOCK_AND_ARROW.match(line) is not None


class _Subtitles:
    """The script that blocks make, one after another."""

    def __init__(self, source: ScriptSource, *, vtt: bool) -> None:
        self.source, self.vtt = source, vtt
        self.top: dict[str, Node] = {}
        self.settings: dict[str, Node] = {}
        """Fields of the cue that follows."""
        self.cues: list[Fields] = []
        self.spans: list[Span] = []

    def block(self, first: int, block: list[str]) -> None:
        """Take one run of lines: the header, a note, a style, or a cue."""
        word = block[0].split()[0]
        if word == "NOTE" or (self.vtt and first == 0):
            for number, line in enumerate(block, start=first):
                if found := _SETTING.fullmatch(line.strip()):
                    self._setting(found, number)
        elif self.vtt and block[0].rstrip() in ("STYLE", "REGION"):
            self.source.remark(mark(first, 0), f"{block[0].rstrip()} says how subtitles look; left out")
        elif _is_timing(block[0]):
            self._cue(first, block[0], block[1:], None)
        elif len(block) > 1 and _is_timing(block[1]):
            counter = block[0].strip()
            self._cue(first + 1, block[1], block[2:], None if counter.isdecimal() else counter)
        else:
            self.source.complain(mark(first, 0), "neither a cue (a line with -->) nor a NOTE")

    def _setting(self, found: re.Match[str], number: int) -> None:
        name, place = found["name"], mark(number, 0)
        fields = self.settings if name in readers(ScriptCue) or name not in readers(Script) else self.top
        if name in fields:
            self.source.complain(place, f"{name} is given twice")
        fields[name] = Text(found["value"], place, place)

    def _cue(self, number: int, timing: str, lines: list[str], name: str | None) -> None:
        place = mark(number, 0)
        text = _without_tags("\n".join(lines), vtt=self.vtt)
        cue = cue_node(place, name=name, prompt=text)
        if lines:
            cue.entries["prompt"].place = mark(number + 1, 0)
        found = _TIMING.fullmatch(timing)
        times = [_clock(found[part], place, self.source) for part in ("start", "end")] if found else []
        if not found:
            self.source.complain(place, "not a cue's times; write 00:00:05.000 --> 00:00:09.000")
        elif found["look"] and found["look"].strip():
            self.source.remark(place, f"{shortened(found['look'].strip())} says how text looks; left out")
        if len(times) == 2 and times[0] and times[1]:
            self.spans.append((place, times[0], times[1]))
            cue.entries["at"] = Text(times[0], place, place)
        else:
            cue.whole = False  # said already
            cue.entries["at"] = Text(BROKEN, place, place)
        cue.entries |= self.settings
        self.settings = {}
        self.cues.append(cue)

    def script(self) -> Fields:
        check_overlap(self.source, self.spans)
        for name, node in self.settings.items():
            self.source.complain(node.place, f"no cue follows that {name} could be for")
        if self.spans and "length" not in self.top:
            place, _, end = self.spans[-1]
            self.top["length"] = Text(end, place, place)
        return script_node(self.source, self.cues, **self.top)


def _clock(text: str, place: int, source: ScriptSource) -> Time | None:
    try:
        if ":" not in text:
            raise UsageError(f"{text!r} is not a time; write 00:00:05.000")
        return parse_time(text.replace(",", "."), name="time")
    except UsageError as error:
        source.complain(place, str(error))
        return None


def _without_tags(text: str, *, vtt: bool) -> str:
    text = re.sub(r"</?[A-Za-z0-9][^<>]*>|</?>", "", text)
    return html.unescape(text) if vtt else re.sub(r"\{\\[^{}]*\}", "", text)
