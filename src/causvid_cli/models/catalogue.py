"""The public checkpoints that are known, from `catalogue.toml`: data, not code. Imports no torch.

checkpoint = find_checkpoint("causal-forcing")
checkpoint.facts().steps                       # (1000.0, 750.0, 500.0, 250.0)
catalogue().parts["vae"].config                # of diffusers' AutoencoderKLWan
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from causvid_cli.config import ContextForm, PackFacts, Rope, SinkPlacement, did_you_mean, from_data
from causvid_cli.errors import ModelError, UsageError

FILE = Path(__file__).with_name("catalogue.toml")
UNKNOWN_LICENCE = "unknown"

REQUIRED_FACTS = ("chunk_frames", "steps", "shift", "warp_steps", "sink_frames", "window_frames")
"""Facts of a causal student that its file does not tell."""


SMALL_SIZES = {"small": (256, 144, 3), "medium": (416, 240, 2)}
"""For small machines: what Wan was trained for in its shape, with a tenth and a quarter of its pixels."""
MOST_NAMED = 3
"""Models for long clips that a warning names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a repository."""

    __pydantic_config__ = {"extra": "forbid"}

    path: str
    bytes: int | None = None
    about: bool = False
    """Whether `bytes` is only about right."""
    sha256: str | None = None
    lora_key: str | None = None
    """Entry under which a LoRA lies in the file, which the weights are merged with."""
    lora_rank: int | None = None
    lora_alpha: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSource:
    """Files of a repository, and on what terms they are to be had."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    repository: str
    revision: str | None = None
    """The commit whose files are known; None is the newest."""
    license: str = UNKNOWN_LICENCE
    license_note: str | None = None
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int | None:
        """Size of the download; None where a file's size is not known."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size)

    @property
    def non_commercial(self) -> bool:
        return is_non_commercial(self.license)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a transformer: `config` is what diffusers' `WanTransformer3DModel` takes, class name included."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    parameters: int
    config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPart(RemoteSource):
    """What every checkpoint needs besides its transformer; `config` is what the network's class takes."""

    parameters: int = 0
    config: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(RemoteSource):
    """A transformer that is known, and how it was made to be sampled. None is what is not known."""

    paper: str | None = None
    kind: Literal["student", "base"] = "student"
    architecture: str
    key: str | None = None
    """Entry under which the weights lie in the file; None is the top."""
    prefix: str = ""
    """What stands before every name."""
    chunk_frames: int | None = None
    steps: tuple[float, ...] | None = None
    first_steps: tuple[float, ...] | None = None
    shift: float | None = None
    warp_steps: bool | None = None
    sink_frames: int | None = None
    window_frames: int | None = None
    """Recent latent frames besides the sink, the chunk at work included."""
    recompute: bool = False
    rope: Rope = "relative"
    sink_placement: SinkPlacement = "beside"
    trained_frames: int = 21
    context: ContextForm = "clean_pass"
    context_noise: float = 0.0
    context_network: str | None = None
    prediction: Literal["flow", "x0"] = "flow"
    fps: float = 16.0
    height: int = 480
    width: int = 832
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=lambda: dict(SMALL_SIZES))
    native_frames: int | None = None
    native_i2v: bool = False
    """Whether it was trained to begin from a given frame."""
    note: str | None = None
    """What a user should know besides."""
    unseen: str | None = None
    """What was read in its publisher's programs only, and not seen in its files yet."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Facts of a student that are not known, and must be asked for."""
        return tuple(name for name in REQUIRED_FACTS if self.kind == "student" and getattr(self, name) is None)

    def facts(self, *, name: str | None = None, **chosen: Any) -> PackFacts:
        """What the pack of this checkpoint says of itself.

        name: the pack's; by default the checkpoint's. chosen: facts that go before those that are known.
        Raises UsageError when a fact is neither known nor chosen.
        """
        known: dict[str, Any] = {field: getattr(self, field) for field in _shared_fields()}
        if self.kind == "base":
            known |= BASE
        given = {key: value for key, value in (known | chosen).items() if value is not None}
        if missing := [fact for fact in REQUIRED_FACTS if fact not in given]:
            raise UsageError(f"{self.name}: not known: {', '.join(missing)}; say what they are")
        source = f"{self.repository}@{self.revision}" if self.revision else self.repository
        return PackFacts(**{"text": "umt5", "codec": "wan", "source": source} | given | {"name": name or self.name})


BASE: dict[str, Any] = {
    "chunk_frames": 3,
    "steps": (1000.0, 750.0, 500.0, 250.0),
    "shift": 5.0,
    "warp_steps": True,
    "sink_frames": 0,
    "window_frames": 21,
    "teacher": "transformer",
    "teacher_guidance": 5.0,
    "teacher_steps": 50,
    "teacher_shift": 3.0,
}
"""Facts of Wan2.1 as it is sampled at 480p, and of a student of it as Self-Forcing trains one (arXiv 2506.08009)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All that is known, by name; checkpoints in the order in which to look at them."""

    __pydantic_config__ = {"extra": "forbid"}

    architectures: dict[str, Architecture]
    parts: dict[Literal["vae", "text_encoder", "tokenizer", "tiny_vae"], SharedPart]
    checkpoints: dict[str, Checkpoint]

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """A catalogue from TOML. Raises ModelError, with the path to what is wrong."""
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ModelError(f"{where}: not TOML: {error}") from None
        named = {
            kind: {name: {"name": name} | _with_timesteps(table) for name, table in group.items()}
            for kind, group in tables.items()
        }
        return from_data(cls, named, where=where, error=ModelError)


@cache
def catalogue() -> Catalogue:
    """What the shipped `catalogue.toml` holds."""
    return Catalogue.parse(FILE.read_text(encoding="utf-8"), where=FILE.name)


def find_checkpoint(name: str) -> Checkpoint:
    """A known checkpoint. Raises ModelError, which names the nearest."""
    known = catalogue().checkpoints
    if name not in known:
        raise ModelError(f"no checkpoint {name!r} is known{did_you_mean(name, known) or ': ' + ', '.join(known)}")
    return known[name]


def checkpoint_names() -> Iterable[str]:
    """Names of the known checkpoints, without checking what is said of them: for completion."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))["checkpoints"]


def timestep(text: str) -> float:
    """A timestep 1000..0 from a number, or from a fraction of pure noise such as 15/16.

    Raises ValueError or ZeroDivisionError for what is neither.
    """
    return float(1000 * Fraction(text) if "/" in text else text)


def _with_timesteps(table: dict[str, Any]) -> dict[str, Any]:
    """A table of the catalogue whose steps are numbers; what is no fraction stays as it is."""

    def number(value: Any) -> Any:
        return timestep(value) if isinstance(value, str) and re.fullmatch(r"[0-9]+/[1-9][0-9]*", value) else value

    steps = {key: table[key] for key in ("steps", "first_steps") if isinstance(table.get(key), list)}
    return table | {key: [number(value) for value in values] for key, values in steps.items()}


def length_warning(facts: PackFacts, frames: int | None) -> str:
    """What to say of a video longer than its model's authors support, with models that are for it; "" of another.

    frames: how many it will have; None for one without an end.
    """
    if facts.native_frames is None or (frames is not None and frames <= facts.native_frames):
        return ""
    known = catalogue().checkpoints.values()
    others = [each.name for each in known if each.sink_frames and each.native_frames is None][:MOST_NAMED]
    return (
        f"{facts.name}: its authors do not support more than {facts.native_frames} frames, and pictures may drift "
        f"after that; for long clips try {' or '.join(others)}"
    )


def is_non_commercial(licence: str) -> bool:
    """Whether a licence, as SPDX or the hub names it, forbids commercial use."""
    return "-nc" in licence.lower()


def _shared_fields() -> list[str]:
    """Facts that have the same name in `Checkpoint` and `PackFacts`."""
    ours = {field.name for field in fields(Checkpoint)} - {"files", "name"}
    return [field.name for field in fields(PackFacts) if field.name in ours]
