"""What a script says: exactly the content of a `.causvid.yaml`, typed. Imports no torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from causvid_cli.errors import UsageError
from causvid_cli.request import LONGEST_PROMPT
from causvid_cli.script.fields import (
    MOST_CUES,
    VERSION,
    CueTime,
    FileName,
    FitName,
    Guidance,
    HoldName,
    InterpolateName,
    Length,
    Loop,
    Prose,
    Rate,
    Reader,
    Seed,
    Size,
    SnapName,
    Steps,
    Strength,
    Title,
    TransitionName,
    Version,
    Words,
)
from causvid_cli.timecode import Time

AFTER_LAST_CUE = Time(Fraction(5))
"""How long the last cue holds where the script names no length."""


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

    @property
    def goes_on(self) -> bool:
        """Whether something was there before the first cue, whose transition then says how that takes hold."""
        return bool(self.image or self.video)

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
