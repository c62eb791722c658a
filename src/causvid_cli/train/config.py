"""What a distillation run is: one file, checked whole before anything starts. Imports no torch."""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from causvid_cli.config import did_you_mean, from_json
from causvid_cli.errors import UsageError

STAGES = ("autoencoder", "prepare", "pictures", "teacher", "causal", "ode", "student", "export", "judge", "eval")
"""The stages of a run, in their order; methods of `distill.Distillation`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """How a stage takes its steps."""

    __pydantic_config__ = {"extra": "forbid"}

    steps: int
    """Optimiser steps of the whole stage."""
    lr: float = 1e-3
    """Peak learning rate (AdamW)."""
    batch: int = 16
    """Clips or pictures of one step."""
    warmup: int = 100
    """Steps over which the learning rate rises to its peak."""
    decay: float = 0.6
    """Share of the steps over which the learning rate falls to 2 % of its peak, along a cosine."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Averaging of the weights; 0 turns it off."""
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between lines of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsConfig:
    """The training clips that are rendered and encoded once."""

    __pydantic_config__ = {"extra": "forbid"}

    count: int = 10_000
    """Clips of one story; a fifth of them begin in the middle of their video."""
    switches: int = 3000
    """Clips whose prompt changes on the way."""
    latent_frames: int = 8
    """Length of a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Size of the Wan transformer that teacher and student share."""

    __pydantic_config__ = {"extra": "forbid"}

    layers: int = 8
    heads: int = 6
    head_dim: int = 32
    ffn_dim: int = 768
    text_dim: int = 64
    prediction: Literal["flow", "x0"] = "flow"
    """What the network returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """How the student makes videos; these become facts of its pack."""

    __pydantic_config__ = {"extra": "forbid"}

    chunk_frames: int = 1
    window_frames: int = 8
    steps: tuple[float, ...] = (1000.0, 750.0, 500.0, 250.0)
    shift: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OdeConfig:
    """The many-step solutions that the student's first chunks learn from."""

    __pydantic_config__ = {"extra": "forbid"}

    pairs: int = 4096
    steps: int = 24
    guidance: float = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What the judge looks at."""

    __pydantic_config__ = {"extra": "forbid"}

    prompts: int = 64
    """Stories of combinations held out of training, and as many that training may have seen."""
    seeds: int = 1
    """Clips of each."""
    teacher: bool = False
    """Whether the teacher makes them too: slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole run: its data, its networks and its stages."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    seed: int = 0
    license: str = "Apache-2.0"
    source: str = ""
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    rollout: RolloutFacts = field(default_factory=RolloutFacts)
    ode: OdeConfig = field(default_factory=OdeConfig)
    teacher_guidance: float = 2.5
    teacher_steps: int = 50
    autoencoder: Optimisation
    pictures: Optimisation
    teacher: Optimisation
    causal: Optimisation
    student: Optimisation
    judge: Optimisation
    eval: EvalConfig = field(default_factory=EvalConfig)


def check_stages(stages: Iterable[str]) -> tuple[str, ...]:
    """These stages, or all when none is named, in their order."""
    wanted = set(stages)
    for stage in sorted(wanted - set(STAGES)):
        near = did_you_mean(stage, STAGES) or f"; known: {', '.join(STAGES)}"
        raise UsageError(f"--stage {stage}: unknown{near}")
    return tuple(stage for stage in STAGES if stage in wanted or not wanted)


def load_config(path: Path) -> TrainConfig:
    """The run that a TOML file describes. Raises UsageError with the place of what is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    return from_json(TrainConfig, json.dumps(data, default=str), where=str(path))
