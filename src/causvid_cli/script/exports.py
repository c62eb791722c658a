"""A script as YAML, WebVTT, chapters, and the format's JSON Schema. Imports no torch."""

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from causvid_cli.request import size_text
from causvid_cli.script.model import AFTER_LAST_CUE, KEYS, Script, ScriptCue, ScriptKey, readers
from causvid_cli.script.snap import Snapped
from causvid_cli.timecode import Time, decimal_text

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def to_yaml(script: Script) -> str:
    """The script as a `.causvid.yaml`: reading it gives an equal script. Times must be in seconds or frames."""
    import yaml  # type: ignore[import-untyped]

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        """Every value is text, so nothing needs quotes for looking like a number."""

        yaml_implicit_resolvers: Mapping[str, Any] = {}

        def ignore_aliases(self, data: Any) -> bool:
            return True

    fields = dict(_fields(script)) | {"cues": [dict(_fields(cue)) for cue in script.cues]} | dict(script.extra)
    if script.keys:
        fields["keys"] = {name: dict(_fields(key)) for name, key in script.keys.items()}
    return yaml.dump(fields, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def _fields(part: Script | ScriptCue | ScriptKey) -> Iterator[tuple[str, Any]]:
    """(name, text) of every field that is not left at its default."""
    kind: type = type(part)
    for name in readers(kind):
        value = getattr(part, name)
        if value is not None and not (name == "snap" and value == "nearest"):
            yield name, _text(value)
    if isinstance(part, ScriptCue):
        yield from part.extra.items()


def _text(value: Any) -> str:
    """A value as its reader takes it."""
    if isinstance(value, tuple):
        return size_text(value)
    if isinstance(value, float):
        return decimal_text(Fraction(repr(value)))
    assert not isinstance(value, Time) or value.unit in ("s", "f"), value
    return str(value)


def to_vtt(script: Script, fps: Fraction) -> str:
    """The script as WebVTT, which this program reads back with the same meaning.

    fps: the video's rate, for times in frames. What a subtitle cannot say stands in NOTE lines: fields, and times finer
    than a millisecond. Line breaks in a prompt stay, empty lines go, and so do the user's own `x-` fields.
    """
    length = script.length or Time(script.cues[-1].start.frames(fps) + AFTER_LAST_CUE.frames(fps), "f")
    starts = [cue.start.frames(fps) / fps for cue in script.cues]
    ends = [*starts[1:], length.frames(fps) / fps]
    shared = ("transition", "strength", "seed", "negative")  # of a cue too: there a NOTE means the cue
    blocks = ["WEBVTT"]
    for name, text in _fields(script):
        if name not in ("version", "length", *shared):
            blocks.append(_note(name, text))
    if not _fits_vtt(ends[-1]):
        blocks.append(_note("length", str(length)))
    for index, (cue, start, end) in enumerate(zip(script.cues, starts, ends, strict=True)):
        given = {name: text for name, text in _fields(cue) if name not in cue.extra}
        for name in shared:
            # where it has an effect
            fits = {"seed": index == 0, "transition": index > 0 or script.loop or script.goes_on}
            if (value := getattr(script, name)) is not None and fits.get(name, True):
                given.setdefault(name, _text(value))
        at, prompt, title = given.pop("at", ""), given.pop("prompt"), given.pop("name", None)
        if not _fits_vtt(start):
            blocks.append(_note("at", at))
        if title:
            given["name"] = title
        blocks += [_note(name, text) for name, text in given.items()]
        blocks.append(f"{_vtt_time(start)} --> {_vtt_time(end)}\n{_vtt_text(prompt)}")
    return "\n\n".join(blocks) + "\n"


def _note(name: str, text: str) -> str:
    return f"NOTE causvid {name}: {' '.join(text.split())}"


def _fits_vtt(seconds: Fraction) -> bool:
    return (seconds * 1000).denominator == 1


def _vtt_time(seconds: Fraction) -> str:
    ms = int(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def _vtt_text(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\n\s*\n", "\n", escaped)


def to_ffmetadata(snapped: Snapped) -> str:
    """The cues as ffmpeg's chapters, where the model really changes the prompt; exact, in frames."""
    fps = snapped.fps
    starts = [0, *(entry.frame for entry in snapped.report[1:])]
    parts = [";FFMETADATA1\n"]
    for entry, start, end in zip(snapped.report, starts, [*starts[1:], snapped.frames], strict=True):
        title = re.sub(r"([=;#\\\n])", r"\\\1", entry.cue.title)
        times = f"TIMEBASE={fps.denominator}/{fps.numerator}\nSTART={start}\nEND={end}"
        parts.append(f"[CHAPTER]\n{times}\ntitle={title}\n")
    return "\n".join(parts)


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the format, for editors; from the classes that read it."""
    from pydantic import TypeAdapter

    made = TypeAdapter(Script).json_schema()
    described = made["$defs"]
    for part, kind in ((made, Script), (described["ScriptCue"], ScriptCue), (described["ScriptKey"], ScriptKey)):
        kept = [*readers(kind), "cues", "keys"]
        part["properties"] = {name: _tidy(part["properties"][name]) for name in kept if name in part["properties"]}
        part["patternProperties"] = {"^x-": True}
        part["additionalProperties"] = False
        part["description"] = part["description"].partition("\n")[0]
    made["required"] = ["version", "cues"]
    bound = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/ScriptKey"}]}
    keys = {"type": "object", "propertyNames": {"enum": list(KEYS)}, "additionalProperties": bound}
    made["properties"]["keys"] = keys | {"description": made["properties"]["keys"]["description"]}
    made["properties"]["cues"]["minItems"] = 1
    return {"$schema": SCHEMA_DIALECT, **made, "title": "causvid script"}


def _tidy(field: dict[str, Any]) -> dict[str, Any]:
    """A field's schema without what pydantic adds for itself: titles, and null as a default."""
    return {name: value for name, value in field.items() if name != "title" and (name, value) != ("default", None)}
