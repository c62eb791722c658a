"""Prompt timelines of other programs -> the tree of a script (`parse.script_of_tree` checks it like any other).

What a script cannot keep is refused where it stands; what only says how text looks on a screen is left out and said
(`Source.remark`). The formats: WebVTT and SubRip subtitles; LongLive's .jsonl (`prompts`; its `switch_frame_indices`
come from another file, here from --switch); Daydream Scope's exported timeline; Helios' .csv of interactive prompts;
Deforum's map of frames; and `[4s: text]`, as FramePack Studio has it.
"""

import csv
import html
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from causvid_cli.errors import UsageError
from causvid_cli.script.model import BROKEN, CONTROL, Script, ScriptCue, readers
from causvid_cli.script.parse import Fields, Items, Node, Text, parse_json
from causvid_cli.script.problems import Mark, Source, mark, shortened
from causvid_cli.timecode import Time, parse_time

TIME = r"(?:\d[\d:.]*(?:ms|min|s|f|m|h)?)"
"""What may be a time, inside another text; `timecode.parse_time` says whether it is one."""


@dataclass(frozen=True, slots=True)
class Options:
    """What some formats leave open. switch: when prompts begin, as on the command line. row: of several, from 1."""

    switch: str | None = None
    row: int | None = None

    def refuse(self, source: Source, *names: str) -> None:
        """A format that says it itself."""
        for name in names:
            if (given := getattr(self, name)) is not None:
                raise UsageError(f"--{name} {given}: {source.name} says it itself; leave --{name} out")


def _cue(place: Mark, **values: Any) -> Fields:
    """A cue whose fields all stand at one place; None values are left out."""
    return Fields(
        {name: Text(value, place, place) for name, value in values.items() if value is not None}, place, place
    )


def _script(cues: list[Fields], **top: Node | None) -> Fields:
    given: dict[str, Node] = {name: node for name, node in top.items() if node is not None}
    listed: list[Node] = list(cues)
    return Fields(given | {"cues": Items(listed, 0, 0)}, 0, 0)


def _check_overlap(source: Source, spans: list[tuple[Mark, Time, Time | None]]) -> None:
    """Spans are (place, start, end); complain of those that end before they begin, or begin before another's end."""
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


# --- subtitles --------------------------------------------------------------------------------------------------------

_TIMING = re.compile(r"\s*(?P<start>[\d:.,]+)\s*-->\s*(?P<end>[\d:.,]+)(?P<look>\s.*)?", re.ASCII)
_SETTING = re.compile(r"(?:NOTE\s+)?causvid\s+(?P<name>[\w-]+)\s*:\s*(?P<value>.*)")


def subtitles(source: Source, options: Options) -> Fields | None:
    """WebVTT and SubRip: a cue's start and text, with its identifier as name; the last end is the length.

    `NOTE causvid seed: 7` gives a field to the cue that follows, or to the script where only a script has it.
    """
    options.refuse(source, "switch", "row")
    lines = source.lines
    vtt = lines[0].startswith("WEBVTT")
    if source.name.lower().endswith(".vtt") and not vtt:
        source.complain(mark(0, 0), "a .vtt file begins with the line WEBVTT")
        return None
    reading = _Subtitles(source, vtt=vtt)
    for first, block in _blocks(lines):
        if not (vtt and first == 0):
            reading.block(first, block)
    return reading.script()


def _blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines that are not blank: (number of the first, lines)."""
    block: list[str] = []
    for number, line in enumerate([*lines, ""]):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


class _Subtitles:
    def __init__(self, source: Source, *, vtt: bool) -> None:
        self.source, self.vtt = source, vtt
        self.top: dict[str, Node] = {}
        self.settings: dict[str, Node] = {}
        """Of the cue that follows."""
        self.cues: list[Fields] = []
        self.spans: list[tuple[Mark, Time, Time | None]] = []

    def block(self, first: int, block: list[str]) -> None:
        """One run of lines: a note, a style, or a cue."""
        word = block[0].split()[0]
        if word == "NOTE":
            for number, line in enumerate(block, start=first):
                if found := _SETTING.fullmatch(line.strip()):
                    self._setting(found, number)
        elif self.vtt and block[0].rstrip() in ("STYLE", "REGION"):
            self.source.remark(mark(first, 0), f"{block[0].rstrip()} says how subtitles look; left out")
        elif "-->" in block[0]:
            self._cue(first, block[0], block[1:], None)
        elif len(block) > 1 and "-->" in block[1]:
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
        cue = _cue(place, name=name, prompt=text)
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
        _check_overlap(self.source, self.spans)
        for name, node in self.settings.items():
            self.source.complain(node.place, f"no cue follows that {name} could be for")
        if self.spans and "length" not in self.top:
            place, _, end = self.spans[-1]
            self.top["length"] = Text(end, place, place)
        return _script(self.cues, **self.top)


def _clock(text: str, place: Mark, source: Source) -> Time | None:
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


# --- prompts without times --------------------------------------------------------------------------------------------


def _switched(source: Source, options: Options, prompts: list[tuple[Mark, str]]) -> Fields | None:
    """Prompts that begin where --switch says."""
    times = _switch_times(options.switch)
    if len(times) != len(prompts) - 1:
        example = ",".join(str(40 * n) for n in range(1, min(len(prompts), 4)))
        wanted = f"{len(prompts)} prompts need {len(prompts) - 1}"
        if options.switch is None:
            hint = f"add --switch with latent frames ({example}) or times (5s,10s)"
            source.complain(prompts[0][0], f"says no times; {wanted}", hint)
        else:
            source.complain(prompts[0][0], f"--switch {options.switch} has {len(times)} times; {wanted}")
        return None
    starts: list[Time | None] = [None, *times]
    cues = [_cue(place, at=at, prompt=text) for (place, text), at in zip(prompts, starts, strict=True)]
    # LongLive switches with the first chunk that begins at or after the frame.
    snap = Text("next", 0, 0) if any(time.unit == "latent" for time in times) else None
    return _script(cues, snap=snap)


def _switch_times(switch: str | None) -> list[Time]:
    """`40,80`: latent frames; `5s,10s`: times. Raises UsageError."""
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


def _chosen_row(source: Source, options: Options, count: int, what: str) -> int | None:
    """The place of the video that --row means, among so many."""
    if options.row is None and count == 1:
        return 0
    if options.row is None:
        source.complain(None, f"holds {count} {what}, and a script is one video", "choose with --row, such as --row 1")
        return None
    if not 1 <= options.row <= count:
        raise UsageError(f"--row {options.row}: {source.name} holds {count} {what}")
    return options.row - 1


def longlive(source: Source, options: Options) -> Fields | None:
    """LongLive's .jsonl: one video per line, {"prompts": [...]}."""
    rows = [(number, line) for number, line in enumerate(source.lines) if line.strip()]
    if not rows:
        source.complain(mark(0, 0), 'holds no line; write {"prompts": ["...", "..."]}')
        return None
    chosen = _chosen_row(source, options, len(rows), "lines")
    if chosen is None:
        return None
    number, line = rows[chosen]
    prompts = _row_prompts(source, number, line)
    return prompts and _switched(source, options, prompts)


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
    return [(place + node.place, _text_of(source, node, place)) for node in listed.items]


def _text_of(source: Source, node: Node, base: Mark = 0) -> str:
    if isinstance(node, Text) and isinstance(node.value, str):
        return node.value
    source.complain(base + node.place, "must be text")
    return "?"


def helios(source: Source, options: Options) -> Fields | None:
    """Helios' .csv: columns id, prompt_index, prompt; the prompts of one id are one video."""
    if found := CONTROL.search(source.text):
        line = source.text.count("\n", 0, found.start())
        source.complain(mark(line, 0), "holds a control character; delete it")
        return None
    reader = csv.DictReader(io.StringIO(source.text, newline=""), strict=True)
    videos: dict[str, dict[int, tuple[Mark, str]]] = {}
    start = 0
    try:
        if not _helios_columns(source, reader.fieldnames or ()):
            return None
        start = reader.line_num
        for row in reader:
            _helios_row(source, row, mark(start, 0), videos)
            start = reader.line_num
    except csv.Error as error:
        source.complain(mark(start, 0), f"not CSV: {error}")
        return None
    if not videos:
        if not source.problems:
            source.complain(mark(0, 0), "holds no prompt")
        return None
    chosen = _chosen_row(source, options, len(videos), "ids")
    if chosen is None:
        return None
    prompts = list(videos.values())[chosen]
    return _switched(source, options, [prompts[index] for index in sorted(prompts)])


def _helios_columns(source: Source, names: Any) -> bool:
    wanted = ("id", "prompt_index", "prompt")
    missing = [name for name in wanted if name not in names]
    others = [name for name in names if name not in wanted]
    if missing:
        source.complain(mark(0, 0), f"the first line must name the columns {', '.join(wanted)}")
    elif others:
        source.complain(mark(0, 0), f"column {shortened(others[0])} cannot be kept; delete it")
    return not missing and not others


def _helios_row(
    source: Source, row: Mapping[Any, Any], place: Mark, videos: dict[str, dict[int, tuple[Mark, str]]]
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


# --- JSON -------------------------------------------------------------------------------------------------------------


def from_json(source: Source, options: Options) -> Fields | None:
    """A .json: Scope's timeline (it has a list of prompts) or Deforum's map of frames."""
    options.refuse(source, "switch", "row")
    tree = parse_json(source)
    if tree is None or source.problems:
        return None
    if not isinstance(tree, Fields):
        source.complain(tree.place, 'neither a Scope timeline nor a Deforum map of frames, such as {"0": "..."}')
        return None
    return scope(source, tree) if "prompts" in tree.entries else deforum(source, tree)


_SCOPE_CUE = ("startTime", "endTime", "prompts", "text", "transitionSteps", "temporalInterpolationMethod")
_SCOPE_LOOK = ("id", "color", "isLive")


def scope(source: Source, tree: Fields) -> Fields | None:
    """Scope's exported timeline: seconds, one prompt per entry, and of its settings the seed and the size."""
    listed = tree.entries["prompts"]
    if not isinstance(listed, Items):
        source.complain(listed.place, "'prompts' must be a list; a Deforum map has frame numbers")
        return None
    for name, node in tree.entries.items():
        if name not in ("prompts", "settings", "version", "exportedAt"):
            source.complain(node.key_place, f"{shortened(name)} cannot be kept; delete it")
    cues: list[Fields] = []
    spans: list[tuple[Mark, Time, Time | None]] = []
    for node in listed.items:
        if isinstance(node, Fields):
            cues.append(_scope_cue(source, node, spans))
        else:
            source.complain(node.place, "must be an entry with startTime and prompts")
    _check_overlap(source, spans)
    end = spans[-1] if spans and len(spans) == len(cues) else None
    length = Text(end[2], end[0], end[0]) if end and end[2] else None
    return _script(cues, length=length, **_scope_settings(source, tree.entries.get("settings")))


def _scope_cue(source: Source, node: Fields, spans: list[tuple[Mark, Time, Time | None]]) -> Fields:
    for name, child in node.entries.items():
        if name not in (*_SCOPE_CUE, *_SCOPE_LOOK):
            source.complain(child.key_place, f"{shortened(name)} cannot be kept; delete it")
    start = _scope_number(source, node, "startTime")
    end = _scope_number(source, node, "endTime")
    steps = _scope_number(source, node, "transitionSteps")
    cue = _cue(node.place, at=BROKEN if start is None else Time(start))
    cue.entries["prompt"] = _scope_prompt(source, node)
    if start is not None:
        spans.append((node.place, Time(start), None if end is None else Time(end)))
    elif "startTime" not in node.entries:
        source.complain(node.place, "'startTime' is missing")
    if steps:
        place = node.entries["transitionSteps"].place
        cue.entries["blend"] = Text(Time(steps, "chunk"), place, place)
        method = node.entries.get("temporalInterpolationMethod")
        if method:
            source.remark(method.place, "how the blend is computed is the model's choice; left out")
    return cue


def _scope_number(source: Source, node: Fields, name: str) -> Fraction | None:
    """An exact number of 0 to a day, or None where it is absent or has been complained of."""
    child = node.entries.get(name)
    if child is None:
        return None
    text = child.value if isinstance(child, Text) else None
    if isinstance(text, str) and re.fullmatch(r"\d{1,9}(\.\d{1,30})?([eE][+-]?\d{1,2})?", text, re.ASCII):
        number = Fraction(text)
        if number <= 24 * 3600 and (name != "transitionSteps" or number.denominator == 1):
            return number
    source.complain(child.place, f"{name} {shortened(str(text))} is not a number of 0 or more")
    return None


def _scope_prompt(source: Source, node: Fields) -> Node:
    mix, text = node.entries.get("prompts"), node.entries.get("text")
    if mix is None and text is not None:
        return text
    if not isinstance(mix, Items) or not mix.items:
        source.complain(node.place, "'prompts' must be a list with one prompt")
        return Text(BROKEN, node.place, node.place)
    if len(mix.items) > 1:
        source.complain(mix.items[1].place, "several prompts at once cannot be kept", "write one prompt that says all")
    first = mix.items[0]
    found = first.entries.get("text") if isinstance(first, Fields) else None
    if found is None:
        source.complain(first.place, 'must be {"text": "..."}')
        return Text(BROKEN, first.place, first.place)
    return found


def _scope_settings(source: Source, node: Node | None) -> dict[str, Node]:
    if not isinstance(node, Fields):
        return {}
    kept: dict[str, Node] = {}
    loras = node.entries.get("loras")
    if isinstance(loras, Items) and loras.items:
        source.complain(loras.place, "LoRAs cannot be kept; delete them")
    if seed := node.entries.get("seed"):
        kept["seed"] = seed
    resolution = node.entries.get("resolution")
    if isinstance(resolution, Fields):
        sides = [resolution.entries.get(name) for name in ("width", "height")]
        size = "x".join(str(side.value) if isinstance(side, Text) else "?" for side in sides)
        kept["size"] = Text(size, resolution.place, resolution.place)
    others = [name for name in node.entries if name not in ("seed", "resolution", "loras")]
    if others:
        source.remark(node.place, f"settings of Scope's own are left out: {', '.join(map(shortened, others[:20]))}")
    return kept


def deforum(source: Source, tree: Fields) -> Fields | None:
    """Deforum's map of frames: {"0": "a swan --neg text", "60": "..."}; its frames count at the script's fps."""
    cues: list[tuple[int, Fields]] = []
    for name, node in tree.entries.items():
        if not re.fullmatch(r"\d{1,9}", name.strip(), re.ASCII):
            formula = "a formula cannot be kept; " if "`" in name or "max_f" in name else ""
            source.complain(node.key_place, f'{shortened(name)} is no frame number; {formula}write one, such as "60"')
            continue
        text = _text_of(source, node)
        if "`" in text or "$" in text:
            source.complain(node.place, "a formula in a prompt cannot be kept; write plain text")
        prompt, flag, negative = text.partition("--neg")
        cue = _cue(node.place, at=f"{int(name)}f", prompt=prompt, negative=negative if flag else None)
        cues.append((int(name), cue))
    if tree.entries:
        source.remark(tree.place, "frames are counted at the script's fps")
    return _script([cue for _, cue in sorted(cues, key=lambda entry: entry[0])])


# --- [4s: text] -------------------------------------------------------------------------------------------------------

_BRACKET = re.compile(r"\[([^\[\]]*)\]([^\[\]]*)")
_SPAN = re.compile(rf"\s*(?P<start>-?{TIME})(?:\s*-\s*(?P<end>{TIME}))?\s*(?::(?P<prompt>.*)|)", re.DOTALL | re.ASCII)


def text_file(source: Source, options: Options) -> Fields | None:
    """A .txt: Deforum's map in braces, or `[4s: text]`."""
    if source.text.lstrip().startswith(("{", '"')):
        return from_json(source, options)
    options.refuse(source, "switch", "row")
    return inline(source)


def inline(source: Source) -> Fields | None:
    """`first prompt [4s: text] [6s-8s: text]`, or `[4s] text`; after a span's end its prompt holds on."""
    text = source.text
    head, _, _ = text.partition("[")
    cues = [_cue(source.mark_at(0), prompt=head)] if head.strip() else []
    spans: list[tuple[Mark, Time, Time | None]] = []
    position = len(head)
    while position < len(text):
        found = _BRACKET.match(text, position)
        if not found:
            source.complain(source.mark_at(position), "[ and ] do not pair here", "write [4s: text] [8s: text]")
            return None
        _inline_cue(source, found, cues, spans)
        position = found.end()
    if not cues:
        source.complain(mark(0, 0), "holds no prompt; write [0s: text] [4s: text]")
        return None
    _check_overlap(source, spans)
    place, _, end = spans[-1] if spans else (0, None, None)
    return _script(cues, length=Text(end, place, place) if end else None)


def _inline_cue(
    source: Source, found: re.Match[str], cues: list[Fields], spans: list[tuple[Mark, Time, Time | None]]
) -> None:
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
    cues.append(_cue(place, at=start, prompt=found[2] if span["prompt"] is None else span["prompt"]))


FORMATS: Mapping[str, Callable[[Source, Options], Fields | None]] = {
    ".vtt": subtitles,
    ".srt": subtitles,
    ".jsonl": longlive,
    ".json": from_json,
    ".csv": helios,
    ".txt": text_file,
}
