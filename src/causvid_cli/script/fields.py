"""How the text of each field of a script becomes its value. Imports no torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from causvid_cli import request
from causvid_cli.config import did_you_mean
from causvid_cli.extras import UPDATE
from causvid_cli.geometry import HOLDS, Hold
from causvid_cli.request import (
    FITS,
    INTERPOLATE,
    LARGEST_SEED,
    LONGEST_PROMPT,
    MOST_STEPS,
    SIZES,
    TRANSITIONS,
    FitMode,
    Interpolate,
    Transition,
    parse_any_size,
)
from causvid_cli.timecode import Time, parse_fps, parse_time

VERSION = 1
"""The newest version of the format that this program reads. A changed meaning raises it, a new field does not."""
NEWER = "made for a newer causvid"
MOST_CUES = 100_000
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
    request.Size | None,
    Reader(
        lambda text, name: parse_any_size(_plain(text, name), name=name),
        {"type": "string", "examples": ["832x480", *SIZES]},
    ),
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
