"""What the weights are and what the user chose: frozen dataclasses, checked and saved. Imports no torch."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from causvid_cli.errors import CausvidError, ModelError, UsageError
from causvid_cli.extras import UPDATE
from causvid_cli.geometry import ChunkGrid, CodecFacts
from causvid_cli.untrusted import LARGE, MOST_BYTES, MOST_CHECKED, SHOWN, parse_object, read_text, shown

T = TypeVar("T")

FACTS_FILE = "causvid.json"
PACK_FORMAT = 1
"""The newest `PackFacts.format` that this program reads."""

PACK_NAME_RULE = "letters, digits, `.`, `_` and `-` make a name, such as my-model"

RANGES: dict[tuple[float, float], tuple[str, ...]] = {
    (1, 1024): ("chunk_frames", "enlarge", "teacher_steps", "trained_frames"),
    (0, 4096): ("sink_frames", "window_frames"),
    (8, 4096): ("height", "width"),
    (0, 1000): ("context_noise",),
    (0.001, 1000): ("shift", "teacher_shift", "teacher_guidance"),
    (0.01, 240): ("fps",),
}
"""Least and largest value -> the facts of a pack that it holds for."""

Rope = Literal["relative", "absolute"]
"""Where frames stand in time once the window has left the sink behind (`network/cache.py`)."""
SinkPlacement = Literal["beside", "apart"]
"""Where a sink stands with relative positions: just before the window, or as far before it as trained clips are long
(Self Gradient Forcing's `top_aligned`, arXiv 2607.20368: of 21 frames, 0 to 2 and 12 to 20)."""
ContextForm = Literal["clean_pass", "last_call"]
"""What later chunks see of a chunk: a clean pass over its result, or what its last denoising call left, which weights
that were taught a noisy past want (Causal-rCM, arXiv 2606.25473): one call a chunk less. The first frames of a video
and given ones always get a clean pass."""
Prediction = Literal["flow", "x0", "copies"]
"""What a network returns: noise - x0 (a rectified flow), the clean latent itself, or shares of what was there, which it
copies (`network/copies.py`): its x_t is then that, and no noise."""


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
    first_steps: tuple[float, ...] | None = None
    """Those of the first chunk, where it takes others: with nothing to look back on it is the hardest. With an
    `opening_network`, of the chunks that this makes."""
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
    rope: Rope
    sink_placement: SinkPlacement = "beside"
    trained_frames: int = 21
    """Latent frames of the clips that it was trained on: how far a sink that is kept apart may stand."""
    context: ContextForm = "clean_pass"
    context_noise: float = 0.0
    """Timestep of the clean pass, 0..1000."""
    context_network: str | None = None
    """Subfolder of a second transformer, which runs the clean passes (SGF+, arXiv 2610.10429); None is the first."""
    opening_network: str | None = None
    """Subfolder of a transformer that makes what nothing comes before: the first chunk of a video, and of a new shot.
    What a prompt looks like is then known by one network and how things go on by another (Emu Video, arXiv 2311.10709,
    factorises so); a cue that changes who, where or what they do is a new shot. None is the first network."""
    prediction: Prediction
    """Of the first network; of "copies", the others predict x0."""
    fps: float
    height: int
    """Native size, in pixels as the codec makes them."""
    width: int
    native_frames: int | None = None
    """Frames of the longest video that its authors support; None where they say of none."""
    enlarge: int = 1
    """Whole-number enlargement of what the user is shown."""
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Other sizes by name (`request.SIZES`): width, height and enlargement."""
    text: Literal["storybook", "umt5"]
    codec: Literal["pixel", "wan"]
    teacher: str | None = None
    """Subfolder of the bidirectional teacher, where the pack has one."""
    teacher_of: str | None = None
    """The pack in whose subfolder that is, by its name, where it is another's, too; None is this one."""
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
        for name, steps in (("steps", self.steps), ("first_steps", self.first_steps or self.steps)):
            self._need(name, bool(steps), "lists no timestep")
            self._need(name, all(0 <= t <= 1000 for t in steps), "must lie in 0..1000")
            self._need(name, list(steps) == sorted(set(steps), reverse=True), "must fall, noisiest first")
        self._need("first_steps", self.first_steps is None or bool(self.first_steps), "lists no timestep")
        for (low, high), names in RANGES.items():
            for name in names:
                self._need(name, low <= getattr(self, name) <= high, f"must be {low} to {high:,}")
        if self.recompute:
            self._need("recompute", self.window_frames > self.chunk_frames, "needs a window larger than a chunk")
            self._need("recompute", not self.sink_frames, "goes without a sink")
            self._need("recompute", self.rope == "relative", "needs relative positions")
            self._need("recompute", self.context == "clean_pass", "needs clean passes")
        if self.context == "last_call":
            self._need("context", self.context_network is None, "runs no clean pass, so there is no second network")
            self._need("context", self.opening_network is None, "sees last calls, which all are of one network")
        if self.prediction == "copies":
            self._need("prediction", self.opening_network is not None, "needs an opening_network to copy from")
            self._need("steps", len(self.steps) == 1, "must be one where what was there is copied")
        for name, size in self.sizes.items():
            self._need(f"sizes.{name}", all(1 <= number <= 4096 for number in size), "must be sides and an enlargement")
        self._need("native_frames", self.native_frames is None or self.native_frames >= 1, "must be 1 or more")
        self._need("name", is_pack_name(self.name), PACK_NAME_RULE)
        for name in ("teacher", "judge", "context_network", "opening_network"):
            part = getattr(self, name)
            self._need(name, part is None or is_pack_name(part), "must be the name of a folder in the pack")
        is_named = self.teacher_of is None or is_pack_name(self.teacher_of)
        self._need("teacher_of", is_named, PACK_NAME_RULE)
        self._need("teacher_of", self.teacher_of is None or self.teacher is not None, "goes with a teacher")
        for file in self.files:
            path = PurePosixPath(file)
            self._need(f"files.{file}", not path.is_absolute() and ".." not in path.parts, "is outside the pack")
            told = self.files[file]
            fits = told.bytes >= 0 and re.fullmatch("[0-9a-f]{64}", told.sha256) is not None
            self._need(f"files.{file}", fits, "must have a size in bytes and a sha256 of 64 hexadecimal digits")

    @property
    def networks(self) -> tuple[str, ...]:
        """Subfolders of the transformers that make a video: the denoising one, and others where there are."""
        return tuple(part for part in ("transformer", self.context_network, self.opening_network) if part)

    def prediction_of(self, part: str) -> Prediction:
        """Return what the network in a subfolder returns."""
        return "x0" if self.prediction == "copies" and part != "transformer" else self.prediction

    def grid(self, codec: CodecFacts, *, given_frames: int = 0, shows_given: bool = False) -> ChunkGrid:
        """Return where the chunks of a video by this model lie.

        given_frames: latent frames before the first chunk. shows_given: whether the video begins with them.
        """
        return ChunkGrid(
            codec=codec, chunk_frames=self.chunk_frames, given_frames=given_frames, shows_given=shows_given
        )

    def _need(self, name: str, fits: bool, complaint: str) -> None:
        if not fits:
            raise ModelError(f"{name}: {complaint}, got {shown(getattr(self, name, name))}")


def is_pack_name(name: str) -> bool:
    """Whether a pack, or a folder in one, may be called so: nothing that a shell or a path would read otherwise."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is not None


def load_facts(pack: Path) -> PackFacts:
    """The facts of the model pack in this folder. Raises ModelError when they are missing, wrong or too new."""
    path = pack / FACTS_FILE
    text = read_text(path, error=ModelError, remedy=f"; a model pack is a folder with {FACTS_FILE}")
    format_ = parse_object(text, where=str(path), error=ModelError).get("format")
    if isinstance(format_, int) and format_ > PACK_FORMAT:
        raise ModelError(f"{path}: format {format_} was made for a newer causvid; {UPDATE}")
    return from_json(PackFacts, text, where=str(path), error=ModelError)


def from_json(
    kind: type[T], text: str, *, where: str, error: type[CausvidError] = UsageError, large: bool = False
) -> T:
    """A dataclass from JSON, strictly, as `untrusted.parse_json` reads it.

    An unknown or missing key, a wrong type or what the dataclass itself refuses raises `error`, with its path.
    large: whether it may be as large as the user has made it.
    """
    from pydantic import ValidationError  # here, so that --help answers at once

    most = (LARGE, LARGE) if large else (MOST_BYTES, MOST_CHECKED)
    parse_object(text, where=where, error=error, most_bytes=most[0], most_values=most[1])
    try:
        return _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as failure:
        # An unknown key goes first: the key that is missing is often the same one, well spelt.
        problems = sorted(failure.errors(include_url=False), key=lambda problem: "unexpected" not in problem["type"])
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise error(f"{where}: {_complaint(kind, problems[0])}{others}") from None
    except CausvidError as failure:
        raise error(f"{where}: {failure}") from None


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


def check_choice(value: str | None, known: Iterable[str], *, name: str) -> Any:
    """Return a word of a short list, or None where nothing was said.

    Raises UsageError for another; it tells of none that begins with `_`.
    """
    if value is not None and value not in (known := list(known)):
        *others, last = (word for word in known if not word.startswith("_"))
        choices = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{name} {value}: unknown; try {choices}{did_you_mean(value, known)}")
    return value


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _complaint(kind: Any, problem: Any) -> str:
    """One pydantic problem in our words: path, what is wrong, what was given."""
    path = ".".join(
        text if text.isprintable() else ascii(text) for part in problem["loc"] for text in [str(part)[:SHOWN]]
    )
    if "unexpected" in problem["type"]:
        *parents, name = problem["loc"]
        return f"{path}: unknown{did_you_mean(name, _field_names(kind, parents))}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    said = problem["msg"].removeprefix("Input ").replace("should be", "must be").replace("should have", "must have")
    where = f"{path}: " if path else ""  # none: the whole is wrong, say half a surrogate pair, which only json reads
    return f"{where}{said}, got {shown(problem['input'])}"


def _field_names(kind: Any, path: Iterable[str | int]) -> list[str]:
    """Names of the fields of the dataclass at this path, through dataclasses, dicts and sequences."""
    for part in path:
        kind = get_type_hints(kind)[str(part)] if is_dataclass(kind) else get_args(kind)[get_origin(kind) is dict]
        if type(None) in get_args(kind):  # X | None
            kind = next(option for option in get_args(kind) if option is not type(None))
    return [field.name for field in fields(kind)]
