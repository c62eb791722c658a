"""A video to be made, said in full: what its frames and its file depend on, and nothing of where things lie.

It is the recipe in the video's metadata, what `causvid rerun` and `causvid resume` begin from. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

from causvid_cli.config import from_data
from causvid_cli.errors import CausvidError, MediaError, ModelError
from causvid_cli.extras import UPDATE
from causvid_cli.files import sha256_of_file
from causvid_cli.prompt.cues import Cue, check_cues
from causvid_cli.request import AUTO, LOADING, AudioFit, Interpolate, Loading
from causvid_cli.timecode import Retiming

RECIPE_VERSION = 1
"""The newest recipe that this program reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsed:
    """A model by what it is called and what it is."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    sha256: str
    """`packs.pack_digest`: equal for equal weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A user's file that a video begins from."""

    __pydantic_config__ = {"extra": "forbid"}

    kind: Literal["photo", "clip", "source"]
    """Set in motion (i2v); continued (extend); made anew (restyle)."""
    name: str
    """Of the file, without its folder."""
    sha256: str = ""
    """Of its bytes; empty for a live pipe."""
    fit: Literal["crop", "pad", "stretch"]
    hold: Literal["frame", "chunk"] | None = None
    """How long a photo is held."""
    background: str = ""
    """What shows through a photo's transparent parts, as #RRGGBB; empty is black."""
    context_frames: int = 0
    """Latent frames of a clip's end that the video continues."""
    strength: float | None = None
    """To which noise level a source is noised."""
    keep_size: bool = False
    """Whether the video has the file's own picture size, not the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioUsed:
    """A user's file of sound that is laid under a video."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    """Of the file, without its folder."""
    sha256: str
    """Of its bytes."""
    fit: AudioFit = "pad"
    """What follows sound that is shorter than the video: silence, or the sound again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A video to be made. Raises UsageError for cues that contradict each other."""

    __pydantic_config__ = {"extra": "forbid"}

    command: str
    cues: tuple[Cue, ...]
    model: ModelUsed
    input: Input | None = None
    audio: AudioUsed | None = None
    length: str
    """As the user wrote it."""
    frames: int | None
    """Of the file; None goes on until it is stopped, or as long as the source."""
    fps: str
    """Of the file, an exact fraction."""
    model_fps: str = ""
    """At which the model's frames are made, where they are interpolated to those of the file; else those of the file.
    """
    interpolate: Interpolate = "none"
    size: str
    """Of the file's pictures, WIDTHxHEIGHT."""
    cells: str
    """Of the pictures as the codec makes them, WIDTHxHEIGHT."""
    seed: int
    steps: int
    guidance: float
    device: str = AUTO
    dtype: str = AUTO
    loading: Loading = LOADING
    """What else of loading the model its frames depend on."""
    lossless: bool = False

    def __post_init__(self) -> None:
        check_cues(self.cues)

    @property
    def prompt(self) -> str:
        """The first one."""
        return self.cues[0].prompt

    @property
    def rate(self) -> Fraction:
        return Fraction(self.fps)

    @property
    def retiming(self) -> Retiming:
        """From the model's frames to those of the file."""
        return Retiming(Fraction(self.model_fps or self.fps), self.rate)

    @property
    def made_frames(self) -> int | None:
        """How many frames the model makes; None as for `frames`."""
        return None if self.frames is None else self.retiming.made_for(self.frames)

    def recipe(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """What goes into the video's metadata: no host names, no folders."""
        facts = asdict(self)
        facts["cues"] = [_told(cue, _CUE_DEFAULTS) for cue in facts["cues"]]
        facts["loading"] = _told(facts["loading"], _LOADING_DEFAULTS)
        return {"v": RECIPE_VERSION, "prompt": self.prompt, **facts, "versions": dict(versions)}

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any], *, where: str) -> Self:
        """The job that a recipe tells. Raises MediaError when it is of a newer program, damaged, or cannot be read."""
        version = recipe.get("v")
        if isinstance(version, int) and version > RECIPE_VERSION:
            raise MediaError(f"{where}: its recipe was made by a newer causvid; {UPDATE}")
        facts = {name: value for name, value in recipe.items() if name not in ("v", "prompt", "versions")}
        try:
            return from_data(cls, facts, where=f"{where}: its recipe", error=MediaError)
        except MediaError:
            raise
        except CausvidError as error:
            raise MediaError(f"{where}: its recipe: {error}") from error

    def is_asked_again_by(self, other: "Job", *, seed_given: bool) -> bool:
        """Whether another job asks for this one: what it leaves open (a seed, "auto") may be anything."""
        asked = replace(
            other,
            seed=other.seed if seed_given else self.seed,
            device=self.device if other.device == AUTO else other.device,
            dtype=self.dtype if other.dtype == AUTO else other.dtype,
        )
        return asked == self

    def check_model(self, digest: str, *, where: str) -> None:
        """Raise ModelError unless this is the model that the job was begun with."""
        if digest != self.model.sha256:
            raise ModelError(
                f"{where} was made by another version of {self.model.name} (sha256 {self.model.sha256[:12]}..., here "
                f"{digest[:12]}...); get that one, or make a new video"
            )


def journal_path(output: Path) -> Path:
    """Where the journal of a video lies while it is made."""
    return output.with_name(output.name + ".journal")


_CUE_DEFAULTS = asdict(Cue(prompt="-"))
_LOADING_DEFAULTS = asdict(LOADING)


def _told(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults: a recipe says no more."""
    return {name: value for name, value in values.items() if value != defaults[name]}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. Raises MediaError when it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from error
