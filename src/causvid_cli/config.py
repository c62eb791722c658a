"""What the weights are and what the user chose: frozen dataclasses, checked and saved. Imports no torch."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from causvid_cli.errors import CausvidError, ModelError, UsageError
from causvid_cli.extras import UPDATE

T = TypeVar("T")

FACTS_FILE = "causvid.json"
PACK_FORMAT = 1
"""The newest `PackFacts.format` that this program reads."""

Prediction = Literal["flow", "x0"]
"""What a network returns: noise - x0 (a rectified flow), or the clean latent itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file of a model pack must be."""

    __pydantic_config__ = {"extra": "forbid"}

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFacts:
    """Facts of a model pack: `causvid.json`, beside folders in diffusers layout."""

    __pydantic_config__ = {"extra": "forbid"}

    format: int = PACK_FORMAT
    name: str
    kind: Literal["student", "base"] = "student"
    """A base is bidirectional: a teacher to distil from, which makes no video chunk by chunk."""
    chunk_frames: int
    """Latent frames denoised together."""
    steps: tuple[float, ...]
    """Timesteps 1000..0 of a chunk's network calls, noisiest first, as the checkpoint's configuration lists them."""
    shift: float
    """Shift of the noise schedule: larger spends more of the steps on noise."""
    warp_steps: bool
    """Whether `steps` count places in the shifted table (Self-Forcing) or are timesteps themselves (CausVid)."""
    sink_frames: int
    """Latent frames that the cache keeps for ever."""
    window_frames: int
    """Recent latent frames that it keeps besides, the chunk at work included; 0 keeps everything."""
    recompute: bool = False
    """Whether the window's keys and values are computed anew for every chunk (Krea)."""
    rope: Literal["relative", "absolute"]
    context_noise: float = 0.0
    """Timestep of the clean pass, 0..1000."""
    prediction: Prediction
    fps: float
    height: int
    """Native size, in pixels as the codec makes them."""
    width: int
    native_frames: int | None = None
    """Frames of the longest video that its authors support; None where they say of none."""
    enlarge: int = 1
    """Whole-number enlargement of what the user is shown."""
    text: Literal["storybook", "umt5"]
    codec: Literal["pixel", "wan"]
    teacher: str | None = None
    """Subfolder of the bidirectional teacher, where the pack has one."""
    teacher_guidance: float = 1.0
    """Classifier-free guidance of the teacher; 1 is none."""
    teacher_steps: int = 50
    teacher_shift: float = 1.0
    """Shift of the teacher's own noise schedule; 1 is none."""
    judge: str | None = None
    """Subfolder of the network that names what its clips show, where a storybook pack has one."""
    license: str
    source: str
    """Where the weights come from, and where to get them again."""
    files: dict[str, FileFacts] = field(default_factory=dict)
    """Every other file of the pack, by its path relative to the pack, with forward slashes."""

    def __post_init__(self) -> None:
        self._need("steps", bool(self.steps), "lists no timestep")
        self._need("steps", all(0 <= t <= 1000 for t in self.steps), "must lie in 0..1000")
        self._need("steps", list(self.steps) == sorted(set(self.steps), reverse=True), "must fall, noisiest first")
        for name in ("chunk_frames", "height", "width", "enlarge", "teacher_steps"):
            self._need(name, getattr(self, name) >= 1, "must be 1 or more")
        for name in ("sink_frames", "window_frames"):
            self._need(name, getattr(self, name) >= 0, "must be 0 or more")
        if self.recompute:
            self._need("recompute", self.window_frames > self.chunk_frames, "needs a window larger than a chunk")
            self._need("recompute", not self.sink_frames, "goes without a sink")
            self._need("recompute", self.rope == "relative", "needs relative positions")
        self._need("native_frames", self.native_frames is None or self.native_frames >= 1, "must be 1 or more")
        self._need("context_noise", 0 <= self.context_noise <= 1000, "must lie in 0..1000")
        for name in ("shift", "teacher_shift", "fps"):
            self._need(name, getattr(self, name) > 0, "must be more than 0")
        for file in self.files:
            path = PurePosixPath(file)
            self._need(f"files.{file}", not path.is_absolute() and ".." not in path.parts, "is outside the pack")

    def _need(self, name: str, fits: bool, complaint: str) -> None:
        if not fits:
            raise ModelError(f"{FACTS_FILE}: {name}: {complaint}, got {getattr(self, name, name)!r}")


def load_facts(pack: Path) -> PackFacts:
    """The facts of the model pack in this folder. Raises ModelError when they are missing, wrong or too new."""
    path = pack / FACTS_FILE
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; a model pack is a folder with {FACTS_FILE}") from None
    except ValueError as error:  # of JSON or of UTF-8
        raise ModelError(f"{path}: not JSON: {error}") from None
    format_ = data.get("format") if isinstance(data, dict) else None
    if isinstance(format_, int) and format_ > PACK_FORMAT:
        raise ModelError(f"{path}: format {format_} was made for a newer causvid; {UPDATE}")
    return from_json(PackFacts, text, where=str(path), error=ModelError)


def from_json(kind: type[T], text: str, *, where: str, error: type[CausvidError] = UsageError) -> T:
    """A dataclass from JSON, strictly: an unknown or missing key or a wrong type raises `error`, with its path."""
    from pydantic import TypeAdapter, ValidationError  # here, so that --help answers at once

    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as failure:
        # An unknown key goes first: the key that is missing is often the same one, well spelt.
        problems = sorted(failure.errors(), key=lambda problem: "unexpected" not in problem["type"])
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise error(f"{where}: {_complaint(kind, problems[0])}{others}") from None


def from_data(kind: type[T], data: Any, *, where: str, error: type[CausvidError] = UsageError) -> T:
    """A dataclass from what JSON or TOML was parsed to, as `from_json` makes it. Numbers must be finite."""
    try:
        text = json.dumps(data, allow_nan=False, default=str)
    except ValueError:
        raise error(f"{where}: {_not_finite(data)}: not a finite number") from None
    return from_json(kind, text, where=where, error=error)


def to_json(value: Any, **layout: Any) -> str:
    """The JSON text of what JSON can hold and of dataclasses: all that this program writes is written by it.

    layout: what `json.dumps` takes, such as indent. Raises ValueError for NaN and infinity, which JSON does not know.
    """
    return json.dumps(value, allow_nan=False, default=asdict, **layout)


def _not_finite(data: Any, path: str = "") -> str:
    """The path of the first number that is NaN or infinity; empty if there is none."""
    if isinstance(data, float):
        return "" if isfinite(data) else path
    named = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list | tuple) else ()
    return next(filter(None, (_not_finite(value, f"{path}.{name}".lstrip(".")) for name, value in named)), "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` for the nearest known name, or nothing when none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _complaint(kind: Any, problem: Any) -> str:
    """One pydantic problem in our words: path, what is wrong, what was given."""
    path = ".".join(map(str, problem["loc"]))
    if "unexpected" in problem["type"]:
        *parents, name = problem["loc"]
        return f"{path}: unknown{did_you_mean(name, _field_names(kind, parents))}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    said = problem["msg"].removeprefix("Input ").replace("should be", "must be")
    return f"{path}: {said}, got {problem['input']!r}"


def _field_names(kind: Any, path: Iterable[str | int]) -> list[str]:
    """Names of the fields of the dataclass at this path, through dataclasses, dicts and sequences."""
    for part in path:
        kind = get_type_hints(kind)[str(part)] if is_dataclass(kind) else get_args(kind)[get_origin(kind) is dict]
        if type(None) in get_args(kind):  # X | None
            kind = next(option for option in get_args(kind) if option is not type(None))
    return [field.name for field in fields(kind)]
