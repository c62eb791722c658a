"""What a script says: exactly the content of a `.causvid.yaml`, typed. Imports no torch."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from causvid_cli.config import did_you_mean
from causvid_cli.errors import UsageError
from causvid_cli.extras import UPDATE
from causvid_cli.geometry import HOLDS, Hold
from causvid_cli.request import (
    FITS,
    INTERPOLATE,
    LARGEST_SEED,
    LONGEST_PROMPT,
    MOST_STEPS,
    TRANSITIONS,
    FitMode,
    Interpolate,
    Transition,
)
from causvid_cli.timecode import Time, parse_fps, parse_size, parse_time

VERSION = 1
"""The newest version of the format that this program reads. A changed meaning raises it, a new field does not."""
NEWER = "made for a newer causvid"
MOST_CUES = 100_000
AFTER_LAST_CUE = Time(Fraction(5))
"""How long the last cue holds where the script names no length."""
MOST_LETTERS = 200
"""The longest value that is no prose, in characters."""

Snap = Literal["nearest", "next", "previous", "error"]
"""Where a cue goes that is not at a chunk's edge."""
SNAPS: tuple[Snap, ...] = get_args(Snap)

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that no script needs: those a terminal obeys, and line ends that editors do not count."""


class FieldError(ValueError):
    """A field's text that means nothing; hint: what would."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Reader:
    """How a field's text becomes its value: part of the field's type, so that reading and schema agree.

    read: (text, name of the field) -> value; raises FieldError or UsageError. schema: JSON Schema of what is written.
    """

    read: Callable[[str, str], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.any_schema()  # pydantic only writes the schema: text is read by `read`

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


def _prose(text: str, name: str) -> str:
    text = text.strip()
    if found := CONTROL.search(text):
        if "\udc80" <= found[0] <= "\udcff":  # as Python keeps a byte of the command line that is no UTF-8
            raise FieldError(f"{name} is not UTF-8 text: it holds the byte {ord(found[0]) - 0xDC00:#04x}")
        raise FieldError(f"{name} holds a control character, {found[0].encode('unicode_escape').decode()}")
    if len(text) > LONGEST_PROMPT:
        raise FieldError(f"{name} has {len(text)} characters; {LONGEST_PROMPT} are the most")
    return text


def _words(text: str, name: str) -> str:
    text = _prose(text, name)
    if not text:
        raise FieldError(f"{name} is empty")
    return text


def _plain(text: str, name: str) -> str:
    """A value that is no prose: one short line, not empty."""
    text = _words(text, name)
    if len(text) > MOST_LETTERS or "\n" in text:
        raise FieldError(f"{name} is too long; {MOST_LETTERS} characters on one line are the most")
    return text


def _file(text: str, name: str) -> str:
    text = _words(text, name)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        raise FieldError(f"{name} {text[:MOST_LETTERS]!r} is an address; give a file, such as ./photo.png")
    if "\n" in text or len(text) > 4096:
        raise FieldError(f"{name} is too long for a file's name")
    return text


def _seed(text: str, name: str) -> int:
    text = _plain(text, name)
    if not re.fullmatch(r"[+-]?\d{1,40}", text, re.ASCII):
        raise FieldError(f"{name} {text!r} is not a whole number; write it in digits, such as 7")
    if not 0 <= int(text) <= LARGEST_SEED:
        raise FieldError(f"{name} {text}: must be 0 to {LARGEST_SEED}")
    return int(text)


def _strength(text: str, name: str) -> float:
    text = _plain(text, name)
    if not re.fullmatch(r"\d{1,3}(\.\d{1,20})?", text, re.ASCII) or not 0 <= float(text) <= 1:
        raise FieldError(f"{name} {text!r} is not a strength; write 0 to 1, such as 0.8")
    return float(text)


def _whole(most: int) -> Callable[[str, str], int]:
    def read(text: str, name: str) -> int:
        text = _plain(text, name)
        if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or not 1 <= int(text) <= most:
            raise FieldError(f"{name} {text!r}: write a whole number, 1 to {most}")
        return int(text)

    return read


def _guidance(text: str, name: str) -> float:
    text = _plain(text, name)
    if not re.fullmatch(r"\d{1,3}(\.\d{1,20})?", text, re.ASCII) or not 1 <= float(text) <= 20:
        raise FieldError(f"{name} {text!r}: write 1 to 20, such as 1.5")
    return float(text)


def _loop(text: str, name: str) -> int:
    text = _plain(text, name)
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or not 1 <= int(text) <= MOST_CUES:
        raise FieldError(f"{name} {text!r}: write how many times the cues are played, 1 to {MOST_CUES}")
    return int(text)


def _version(text: str, name: str) -> int:
    text = _plain(text, name)
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise FieldError(f"{name} {text!r}: write version: {VERSION}")
    if int(text) > VERSION:
        raise FieldError(f"{name} {text}: {NEWER}", UPDATE)
    return int(text)


def _time(text: str, name: str) -> Time:
    return parse_time(_plain(text, name), name=name)


def _length(text: str, name: str) -> Time:
    length = parse_time(_plain(text, name), name=name, what="length")
    if not length.number:
        raise FieldError(f"{name} {text}: must be more than 0; try 5s")
    return length


def _one_of(choices: Sequence[str]) -> Callable[[str, str], str]:
    def read(text: str, name: str) -> str:
        text = _plain(text, name)
        if text not in choices:
            near = did_you_mean(text, choices).removeprefix("; ")
            raise FieldError(f"{name} {text!r}: unknown; try {', '.join(choices)}", near)
        return text

    return read


_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
# In an editor 5 and 4.5 are numbers, here they are text; a pattern speaks of text only.
_TIME_SCHEMA = {
    "type": ["string", "number"],
    "minimum": 0,
    "pattern": r"^\s*(\d+(\.\d+)?(s|ms|f|m|min|h)?|(\d+:)?\d+:\d+(\.\d+)?)\s*$",
    "examples": ["4s", "250ms", "96f", "1:04.5"],
}

Words = Annotated[str, Reader(_words, _NAME)]
Prose = Annotated[str | None, Reader(_prose, _TEXT)]
Title = Annotated[str | None, Reader(_plain, _NAME)]
FileName = Annotated[str | None, Reader(_file, _NAME)]
CueTime = Annotated[Time | None, Reader(_time, _TIME_SCHEMA)]
Length = Annotated[Time | None, Reader(_length, _TIME_SCHEMA)]
Size = Annotated[
    tuple[int, int] | None,
    Reader(lambda text, name: parse_size(_plain(text, name), name=name), {"type": "string", "examples": ["832x480"]}),
]
Rate = Annotated[
    Fraction | None,
    Reader(
        lambda text, name: parse_fps(_plain(text, name), name=name),
        {"type": ["string", "number"], "exclusiveMinimum": 0, "maximum": 240, "examples": [16, "30000/1001"]},
    ),
]
Seed = Annotated[
    int | None,
    Reader(_seed, {"type": ["integer", "string"], "minimum": 0, "maximum": LARGEST_SEED, "pattern": r"^\d+$"}),
]
Strength = Annotated[float | None, Reader(_strength, {"type": ["number", "string"], "minimum": 0, "maximum": 1})]
Steps = Annotated[int | None, Reader(_whole(MOST_STEPS), {"type": ["integer", "string"], "minimum": 1})]
Guidance = Annotated[float | None, Reader(_guidance, {"type": ["number", "string"], "minimum": 1, "maximum": 20})]
Loop = Annotated[int | None, Reader(_loop, {"type": ["integer", "string"], "minimum": 1, "maximum": MOST_CUES})]
Version = Annotated[int, Reader(_version, {"enum": [VERSION]})]
TransitionName = Annotated[Transition | None, Reader(_one_of(TRANSITIONS), {"enum": list(TRANSITIONS)})]
InterpolateName = Annotated[Interpolate | None, Reader(_one_of(INTERPOLATE), {"enum": list(INTERPOLATE)})]
FitName = Annotated[FitMode | None, Reader(_one_of(FITS), {"enum": list(FITS)})]
HoldName = Annotated[Hold | None, Reader(_one_of(HOLDS), {"enum": list(HOLDS)})]
SnapName = Annotated[Snap, Reader(_one_of(SNAPS), {"enum": list(SNAPS)})]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptCue:
    """A prompt, and the time from which it holds until the next cue."""

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}

    at: CueTime = None
    """When it begins, counted from the video's first frame; only the first cue may leave it out, and begins at 0."""
    prompt: Words
    """What to show."""
    transition: TransitionName = None
    """recache: same frames, remembered anew under this prompt. soft: only the text changes. cut: a new shot."""
    blend: CueTime = None
    """Over how long the text slides from the old prompt to this one; not with cut."""
    strength: Strength = None
    """How far this prompt replaces the one before, 0 to 1; held until the next cue."""
    seed: Seed = None
    """Draws new noise from here on."""
    negative: Prose = None
    """What not to show."""
    name: Title = None
    """Title of its chapter."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The fields that begin with `x-`, which are the user's own."""
    line: int | None = field(default=None, compare=False, repr=False)
    """Where it stands in its file, from 1."""

    @property
    def start(self) -> Time:
        return self.at or Time(Fraction(0))


KEYS = (
    *("left", "right", "up", "down", "space", "tab", "home", "end", "pageup", "pagedown", "insert", "delete"),
    *(f"f{number}" for number in range(1, 13)),
    *"abcdefghijklmnopqrstuvwxyz0123456789",
)
"""Names of the keys that can be bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptKey:
    """What a key tells a live video when it is pressed, and when it is let go."""

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}

    prompt: Prose = None
    """What to show; if left out, the prompt that holds goes on."""
    release: Prose = None
    """What to show when the key is let go; a key without it is tapped."""
    transition: TransitionName = None
    """As of a cue."""
    blend: CueTime = None
    """As of a cue."""
    strength: Strength = None
    """As of a cue."""
    seed: Seed = None
    """As of a cue."""
    negative: Prose = None
    """As of a cue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A video as a list of prompts, each with the time from which it holds.

    Raises UsageError for fields that contradict each other.
    """

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}

    version: Version = VERSION
    """The version of this format; required in a file."""
    model: Title = None
    """A model's name or folder."""
    size: Size = None
    """WIDTHxHEIGHT of a frame in pixels."""
    fps: Rate = None
    """Frames per second of the file, also for times in frames (96f); the model's own where left out."""
    seed: Seed = None
    """The same seed gives the same frames again."""
    negative: Prose = None
    """What not to show, for every cue that says nothing else."""
    image: FileName = None
    """A picture to set in motion; relative to the script's folder."""
    video: FileName = None
    """A clip to go on with; relative to the script's folder."""
    source: FileName = None
    """A clip to make anew (restyle); relative to the script's folder."""
    source_strength: Strength = None
    """How far the source is noised, more than 0 and at most 1, which keeps nothing of it."""
    fit: FitName = None
    """How image, video or source fits the model's size."""
    hold: HoldName = None
    """How long an image is held."""
    background: Title = None
    """What shows through an image's transparent parts, as #RRGGBB."""
    context: CueTime = None
    """How much of a video's end the model looks at."""
    steps: Steps = None
    """Network calls of each chunk; the model's own where left out."""
    guidance: Guidance = None
    """How far to be led away from what is not to be shown."""
    interpolate: InterpolateName = None
    """How the model's frames are brought to another frame rate."""
    length: Length = None
    """How long the video is, or with loop one round; where left out it ends 5 seconds after the last cue begins."""
    loop: Loop = None
    """How many times the cues are played; needs length."""
    snap: SnapName = "nearest"
    """Where a cue goes that is not at a chunk's edge."""
    transition: TransitionName = None
    """The transition of every cue that names none; recache where left out."""
    strength: Strength = None
    """The strength of every cue that names none; 1 where left out."""
    style: Prose = None
    """Added to every prompt."""
    cues: tuple[ScriptCue, ...]
    """What to show from when on."""
    keys: Mapping[str, ScriptKey] = field(default_factory=dict, hash=False)
    """What keys do while it is made live."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The fields that begin with `x-`, which are the user's own."""
    path: str = field(default="script", compare=False, repr=False)
    """The file it was read from, for messages."""

    def __post_init__(self) -> None:
        top = {name: getattr(self, name) for name in readers(Script)}
        cues = [{name: getattr(cue, name) for name in readers(ScriptCue)} for cue in self.cues]
        for clash in clashes(top, cues):
            cue = "" if clash.cue is None else f"cue {clash.cue + 1}: "
            raise UsageError(f"{self.path}: {cue}{clash.text(lambda near: f'cue {near + 1}')}")

    def file(self, name: str) -> Path:
        """The path of `image` or `video`: relative to the script's own folder."""
        return Path(self.path).parent / name

    def prompt(self, cue: ScriptCue) -> str:
        """A cue's prompt with the style added."""
        return with_style(cue.prompt, self.style)


def with_style(prompt: str, style: str | None) -> str:
    """A prompt with the style after it, parted by a comma unless it ends in punctuation."""
    if not style:
        return prompt
    return f"{prompt} {style}" if prompt[-1] in ".!?;,:" else f"{prompt}, {style}"


@cache
def readers(kind: type) -> Mapping[str, Reader]:
    """The fields that may stand in a file, in order, with how each is read."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: part
        for name, hint in hints.items()
        for part in getattr(hint, "__metadata__", ())
        if isinstance(part, Reader)
    }


@dataclass(frozen=True, slots=True)
class Clash:
    """Two fields that do not go together. cue: its place among the cues, None for the script's own fields."""

    cue: int | None
    field: str
    message: str
    near: tuple[Time, int] | None = None
    """The cue that it clashes with: its time and its place among the cues."""

    def text(self, place_of: Callable[[int], str]) -> str:
        return f"{self.message} ({self.near[0]}, {place_of(self.near[1])})" if self.near else self.message


BROKEN = object()
"""Stands for a value that could not be read, so that nothing more is said about it."""


def clashes(top: Mapping[str, Any], cues: Sequence[Mapping[str, Any]]) -> Iterator[Clash]:
    """The fields that contradict each other.

    top, cues: values by field; None or absent where not given, BROKEN where unreadable.
    """
    begins = [name for name in ("image", "video", "source") if top.get(name)]
    if len(begins) > 1:
        yield Clash(None, begins[1], f"{' and '.join(begins)} cannot both be the start; leave one out")
    for name, of in (
        ("source_strength", ("source",)),
        ("fit", ("image", "video", "source")),
        ("hold", ("image",)),
        ("background", ("image",)),
        ("context", ("video",)),
    ):
        if top.get(name) is not None and not any(each in begins for each in of):
            yield Clash(None, name, f"{name} is for {' or '.join(of)}; leave it out")
    if top.get("loop") and not top.get("length"):
        yield Clash(None, "loop", "loop needs length, the time of one round")
    if isinstance(loop := top.get("loop"), int) and loop * len(cues) > MOST_CUES:
        yield Clash(None, "loop", f"{loop} rounds of {len(cues)} cues; {MOST_CUES} cues are the most")
    if not cues:
        yield Clash(None, "cues", "a script needs a cue, such as '- prompt: a red car in the snow'")
    yield from _clashing_times(top, cues)
    for index, cue in enumerate(cues):
        transition = cue.get("transition") or top.get("transition")
        if cue.get("blend") and transition == "cut":
            yield Clash(index, "blend", "blend and transition cut contradict each other; leave one out")
        style, prompt = top.get("style"), cue.get("prompt")
        if isinstance(style, str) and isinstance(prompt, str):
            total = len(style) + len(prompt) + 2
            if total > LONGEST_PROMPT:
                yield Clash(index, "prompt", f"prompt and style have {total} characters; {LONGEST_PROMPT} are the most")


def _clashing_times(top: Mapping[str, Any], cues: Sequence[Mapping[str, Any]]) -> Iterator[Clash]:
    fps = top.get("fps") if isinstance(top.get("fps"), Fraction) else None
    before: tuple[Time, int] | None = None
    for index, cue in enumerate(cues):
        at = cue.get("at")
        if index == 0:
            if isinstance(at, Time) and at.number:
                yield Clash(0, "at", f"the first cue begins at 0, not at {at}; leave 'at' out")
            before = (Time(Fraction(0)), 0)
        elif at is None:
            yield Clash(index, "at", "'at' is missing; only the first cue may leave it out")
        elif isinstance(at, Time):
            if before and not _less(before[0], at, fps):
                yield Clash(index, "at", f"{at} is not after the cue before it", before)
            elif isinstance(length := top.get("length"), Time) and not _less(at, length, fps):
                yield Clash(index, "at", f"{at} is not before the end (length {length})")
            before = (at, index)


def _less(first: Time, second: Time, fps: Fraction | None) -> bool:
    """Whether one time comes before another; True where only the model could tell."""
    if first.unit == second.unit or not second.number:
        return first.number < second.number
    if fps and {first.unit, second.unit} <= {"s", "f"}:
        return first.frames(fps) < second.frames(fps)
    return True
