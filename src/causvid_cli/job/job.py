"""A video to be made, said in full: what its frames and its file depend on, and nothing of where things lie.

It is the recipe in the video's metadata, what `causvid rerun` and `causvid resume` begin from. Imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

from causvid_cli.config import PACK_NAME_RULE, Rope, from_data, is_pack_name
from causvid_cli.errors import MediaError, ModelError, UsageError
from causvid_cli.extras import UPDATE
from causvid_cli.files import sha256_of_file
from causvid_cli.prompt.cues import Cue, check_cues
from causvid_cli.request import (
    AUTO,
    GUIDANCE,
    LOADING,
    MOST_STEPS,
    WIDEST_WINDOW,
    AudioFit,
    Interpolate,
    Loading,
    check_device,
    check_dtype,
    check_file_name,
    check_guidance,
    check_seed,
    check_strength,
)
from causvid_cli.timecode import LONGEST_S, Retiming, parse_size

COMMANDS = ("t2v", "i2v", "extend", "restyle", "edit-script", "live")
FASTEST = 10_000
"""Frames per second of the fastest file: a clip that is continued keeps its own rate."""
MOST_FRAMES = LONGEST_S * FASTEST
_RATE = re.compile(r"\d{1,18}(/[1-9]\d{0,17})?", re.ASCII)
RECIPE_VERSION = 1
"""The newest recipe that this program reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsed:
    """A model by what it is called and what it is."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    sha256: str
    """`packs.pack_digest`: equal for equal weights."""

    def __post_init__(self) -> None:
        if not is_pack_name(self.name):
            raise UsageError(f"model.name {self.name!r}: {PACK_NAME_RULE}")


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
    cue: Cue | None = None
    """What a clip's own recipe tells of its end, in a prompt that leaves nothing unsaid, and its seed."""

    def __post_init__(self) -> None:
        check_file_name(self.name, "input.name")
        if not 0 <= self.context_frames <= WIDEST_WINDOW:
            raise UsageError(f"input.context_frames {self.context_frames}: must be 0 to {WIDEST_WINDOW}")
        if self.strength is not None:
            check_strength(self.strength)
        if self.cue:
            check_cues([self.cue])


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

    def __post_init__(self) -> None:
        check_file_name(self.name, "audio.name")


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
    rope: Rope | None = None
    """Where first frames that are kept for ever stand in time; None is as the model has it."""
    guidance: float
    device: str = AUTO
    dtype: str = AUTO
    loading: Loading = LOADING
    """What else of loading the model its frames depend on."""
    lossless: bool = False

    def __post_init__(self) -> None:
        check_cues(self.cues)
        if self.command not in COMMANDS:
            raise UsageError(f"command {self.command!r}: unknown; known: {', '.join(COMMANDS)}")
        for name, rate in (("fps", self.fps), ("model_fps", self.model_fps or self.fps)):
            if not _RATE.fullmatch(rate) or not Fraction(1, FASTEST) <= Fraction(rate) <= FASTEST:
                raise UsageError(f"{name} {rate!r}: must be more than 0 and at most {FASTEST}, such as 8 or 30000/1001")
        for name in ("size", "cells"):
            if not 0 < min(parse_size(getattr(self, name), name=name)):
                raise UsageError(f"{name} {getattr(self, name)}: each side must be 1 or more")
        for name, number, most in (("frames", self.frames, MOST_FRAMES), ("steps", self.steps, MOST_STEPS)):
            if number is not None and not 1 <= number <= most:
                raise UsageError(f"{name} {number}: must be 1 to {most}")
        check_seed(self.seed)
        check_guidance(self.guidance)
        check_device(self.device)
        check_dtype(self.dtype)

    @property
    def prompt(self) -> str:
        """The first one."""
        return self.cues[0].prompt

    @property
    def made_size(self) -> tuple[int, int, int]:
        """(width, height) of frames as the model makes them, and how many times they are enlarged to be shown."""
        width, height = parse_size(self.cells)
        keeps = self.input is not None and self.input.keep_size  # whose frames are of the input's size
        return width, height, 1 if keeps else parse_size(self.size)[0] // width

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
        return from_data(cls, facts, where=f"{where}: its recipe", error=MediaError)

    def is_asked_again_by(self, other: "Job", *, seed_given: bool) -> bool:
        """Whether another job asks for this one: what it leaves open (a seed, "auto") may be anything."""
        asked = replace(
            other.plain,
            seed=other.seed if seed_given else self.seed,
            device=self.device if other.device == AUTO else other.device,
            dtype=self.dtype if other.dtype == AUTO else other.dtype,
        )
        return asked == self.plain

    @property
    def plain(self) -> Self:
        """This job without what changes no frame of it: how its length was written, options of no effect here."""
        guided = self.guidance != 1 and any(cue.negative for cue in self.cues)
        cues = self.cues if guided else tuple(replace(cue, negative="") for cue in self.cues)
        first = replace(cues[0], transition=_FIRST.transition, blend_chunks=0, strength=_FIRST.strength)
        return replace(self, length="", cues=(first, *cues[1:]), guidance=self.guidance if guided else GUIDANCE)

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


_FIRST = Cue(prompt="-")
_CUE_DEFAULTS = asdict(_FIRST)
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
