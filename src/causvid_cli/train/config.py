"""What a distillation run is: one file, checked whole before anything starts. Imports no torch."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval, MinLen, MultipleOf

from causvid_cli.config import Prediction, did_you_mean, from_data
from causvid_cli.errors import UsageError
from causvid_cli.geometry import ROUND
from causvid_cli.request import LARGEST_SEED

if TYPE_CHECKING:
    from causvid_cli.storybook import Words

# Ranges of numbers, which `from_data` checks.
Count = Annotated[int, Interval(ge=0, le=10**9)]
Positive = Annotated[int, Interval(ge=1, le=10**9)]
Size = Annotated[int, Interval(ge=1, le=65_536)]
"""A side of a frame or of a layer."""
Share = Annotated[float, Interval(ge=0, le=1)]
Rate = Annotated[float, Interval(gt=0, le=1)]
Guidance = Annotated[float, Interval(ge=0, le=1000)]
Timesteps = Annotated[tuple[Annotated[float, Interval(gt=0, le=1000)], ...], MinLen(1)]
Weight = Annotated[float, Interval(ge=0, le=1000)]

RENAMED = {("ode", "foretell"): "supervise_rollout"}
"""(section, a key's earlier name) -> its name."""
STAGES = (
    "autoencoder",
    "prepare",
    "pictures",
    "teacher",
    "opening",
    "pixels",
    "causal",
    "ode",
    "student",
    "dmd",
    "judge",
    "export",
    "eval",
)
"""All stages, in their order; methods of `distill.Distillation`. A run has those that its file has a section for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWords:
    """Words of the captions that the embedded model does not have yet; each gets a vector of its own."""

    __pydantic_config__ = {"extra": "forbid"}

    subject: tuple[str, ...] = ()
    colour: tuple[str, ...] = ()
    scene: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    """Verbs, as in "a robot dances"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Videos with captions, or prompts alone. A run that also has a section [clips] learns from storybook clips
    besides, so that the embedded model forgets nothing.

    Captions are looked for in this order: `clip.txt` or `clip.json` beside `clip.mp4`; then `captions`, `metadata` or
    `dataset` as .csv, .json or .jsonl in any folder above it, with the columns file_name and caption (or their usual
    other names); then the list that `videos` names.
    """

    __pydantic_config__ = {"extra": "forbid"}

    videos: str = ""
    """A folder, searched with its subfolders, or a list of videos: .txt, .csv, .json or .jsonl."""
    prompts: str = ""
    """More prompts, for which there are no videos: one a line, or as a list with captions. Distribution matching needs
    nothing else."""
    sizes: tuple[tuple[Size, Size], ...] = ()
    """Allowed sizes (width, height), as the codec takes them: a video is cropped to the one nearest in shape. None is
    the model's own size alone."""
    clips_per_video: Count = 4
    """Most clips cut from one video, spread evenly over it; 0 is as many as it holds."""
    weight: Annotated[float, Interval(gt=0, le=1000)] = 1.0
    """How often training shows one of these clips, relative to one of the storybook's."""
    latent_frames: Size | None = None
    """Length of a clip. None is the length of the storybook's, or the student's window."""
    words: NewWords = field(default_factory=NewWords)
    uncaptioned_share: Share = 0.0
    """Share of the videos that may lack a caption that can be used. They are left out and listed; more is an error."""
    damaged_share: Share = 1.0
    """Share of the videos that may be broken, empty or too short. 1 lets a run go on as long as one video is left."""

    def __post_init__(self) -> None:
        if not self.videos and not self.prompts:
            raise UsageError("data.videos: missing; give a folder of videos, a list of them, or data.prompts alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """How a stage takes its steps."""

    __pydantic_config__ = {"extra": "forbid"}

    steps: Positive
    """Optimiser steps of the whole stage."""
    lr: Rate = 1e-3
    """Peak learning rate (AdamW)."""
    batch: Positive = 16
    """Clips or frames of one step."""
    warmup: Count = 100
    """Steps over which the learning rate rises to its peak."""
    decay: Share = 0.6
    """Share of the steps over which the learning rate falls to 2 % of its peak, along a cosine."""
    weight_decay: Weight = 0.01
    clip: Annotated[float, Interval(gt=0, le=10**9)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """Averaging of the weights; 0 turns it off."""
    save_every: Positive = 500
    """Steps between checkpoints."""
    log_every: Positive = 20
    """Steps between lines of the log."""
    accumulate: Positive = 1
    """Parts of a batch that are computed one after the other: less memory, the same step."""
    sample_every: Count = 0
    """Steps between sheets of samples; 0 makes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig(Optimisation):
    """How the pixel codec is trained, and the size of its decoder; what is not given is as the base has it."""

    __pydantic_config__ = {"extra": "forbid"}

    cell_channels: Size | None = None
    """Numbers of a cell of 8 x 8 pixels, where the run makes the latents."""
    encoder_widths: tuple[Size, Size, Size] | None = None
    """Channels at 1/2, 1/4 and 1/8 of the size, likewise."""
    decoder_widths: tuple[Size, Size, Size] | None = None
    """Channels at 1/2, 1/4 and 1/8 of the size: with a base, a new decoder for the same latents. Fewer are faster."""
    decoder_blocks: tuple[int, int, int] | int | None = None
    """Residual blocks at each of these sizes, or at all of them; those at 1/2 cost most and give least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """How a step is computed; changes speed and rounding only."""

    __pydantic_config__ = {"extra": "forbid"}

    precision: Literal["float32", "bf16"] = "float32"
    """What products are computed in; weights, their averages and the optimiser stay in float32."""
    compile: bool = False
    """Compile the network's blocks; needs a C++ compiler and half a minute at the start of a stage."""
    gradient_checkpointing: bool = False
    """Compute activations twice and keep few of them: less memory, a third more time."""
    shard: bool = True
    """Under torchrun: spread the transformers' weights over the processes; off, each has them whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsConfig:
    """Storybook clips, rendered and encoded once."""

    __pydantic_config__ = {"extra": "forbid"}

    clips: Count = 10_000
    """Clips of one story; a fifth of them begin in the middle of their video."""
    switches: Count = 3000
    """Clips whose prompt changes on the way, between two chunks."""
    photos: Count = 0
    """Clips that begin with a photo."""
    unnamed: Count = 0
    """Clips whose prompt does not say who they are about, which is seen: any subject that can be drawn, also one that
    the model has no word for. What goes on can only be copied from what was there."""
    latent_frames: Size = 8
    """Length of these clips."""
    long: Count = 0
    """Longer clips of one story besides."""
    long_latent_frames: Size = 20
    openings: Count = 0
    """First chunks by themselves, each of a story of its own; besides, wide and tall ones, as many for each of these as
    there are wide and tall clips for each of `clips`."""
    all_round: Count = 0
    """First chunks of scenes with nobody in them, all round, which a camera goes along; as many again in tall frames,
    if there are any."""
    wide: Count = 0
    tall: Count = 0
    """Clips of one story in frames of 16:9 and of 9:16."""


CHOOSABLE = ("action", "size", "speed", "sky", "camera", "count", "relation")
"""Slots of which `world.only` may choose words: those that a story may leave ordinary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """How much of the storybook's world a run from nothing teaches; without it, what the first packs know."""

    __pydantic_config__ = {"extra": "forbid"}

    subjects: tuple[str, ...] = ()
    """Subjects besides those of the first packs; none named: all."""
    only: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    """By slot, the words that are taught of it besides what is ordinary; a slot with none is left out altogether."""

    def words(self) -> "Words":
        """The words that the run teaches, for each slot."""
        from causvid_cli.storybook import ALL_WORDS, FIRST_WORDS, SLOTS  # numpy loads here

        named = {*FIRST_WORDS["subject"], *self.subjects}
        subjects = tuple(name for name in ALL_WORDS["subject"] if name in named or not self.subjects)
        words = {**ALL_WORDS, "subject": subjects, "target": subjects, "other": subjects}
        for slot, chosen in self.only.items():
            words[slot] = tuple(word for word in ALL_WORDS[slot] if word in {*chosen, SLOTS[slot]})
            if not set(chosen) - {SLOTS[slot]}:
                del words[slot]
        if "relation" not in words:
            words = {slot: known for slot, known in words.items() if not slot.startswith("other")}
        return words

    def unknown(self) -> str:
        """A line about the first slot or word that the storybook does not have; empty where it has them all."""
        from causvid_cli.storybook import ALL_WORDS, FIRST_WORDS, IN_SHOTS, SLOTS

        if lost := set(self.subjects) - set(ALL_WORDS["subject"]):
            return f"world.subjects: {min(lost)!r} is no subject of the storybook"
        for slot, chosen in self.only.items():
            if slot not in CHOOSABLE:
                return f"world.only: {slot!r} is not one of: {', '.join(CHOOSABLE)}"
            if odd := [word for word in chosen if word not in ALL_WORDS[slot]]:
                return f"world.only.{slot}: {odd[0]!r} is not one of: {', '.join(map(str, ALL_WORDS[slot]))}"
            needed = [word for word in FIRST_WORDS.get(slot, ()) if word not in (*chosen, *IN_SHOTS, SLOTS[slot])]
            if needed:
                return f"world.only.{slot}: lacks {needed[0]!r}, which every model of the storybook knows"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalConfig(Optimisation):
    """Teacher forcing; `few_steps` makes it the direct way to a student."""

    __pydantic_config__ = {"extra": "forbid"}

    few_steps: bool = False
    """Learn at the roll-out's few noise levels alone: where nothing is untold, one step can be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig(Optimisation):
    """Few-step regression."""

    __pydantic_config__ = {"extra": "forbid"}

    first_chunks: bool = False
    """First chunks learn the truth as well, along with all others, and no ODE is solved: where nothing is untold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Size of the Wan transformer that teacher and student share."""

    __pydantic_config__ = {"extra": "forbid"}

    layers: Size = 8
    heads: Size = 6
    head_dim: Annotated[Size, MultipleOf(2)] = 32
    ffn_dim: Size = 768
    text_dim: Size = 64
    prediction: Prediction = "flow"
    """What the network returns; with "copies", that for first chunks x0."""
    grid_embed_size: Annotated[int, Interval(ge=0, le=1024)] = 0
    """Rows and columns of patches that the network is told apart, at least those of its largest clips; 0: none."""
    opening_ffn_dim: Annotated[int, Interval(ge=0, le=65_536)] = 0
    """Of the network for first chunks, which has to know what everything looks like; 0: as of the others."""
    student_layers: Annotated[int, Interval(ge=0, le=65_536)] = 0
    """Blocks of the student, where it is to be smaller and faster than what it begins from; 0: as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """How the student makes videos; these become facts of its pack."""

    __pydantic_config__ = {"extra": "forbid"}

    chunk_frames: Annotated[int, Interval(ge=1, le=1024)] = 1
    window_frames: Annotated[int, Interval(ge=1, le=4096)] = 8
    steps: Timesteps = (1000.0, 750.0, 500.0, 250.0)
    first_steps: Timesteps | None = None
    """Those of the first chunk, where it takes others: more, as it has nothing to look back on. None is the same."""
    shift: Annotated[float, Interval(ge=0.001, le=1000)] = 3.0
    warp_steps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OdeConfig:
    """The many-step solutions that the student learns from before distribution matching (CausVid 3.3)."""

    __pydantic_config__ = {"extra": "forbid"}

    source: Literal["teacher", "causal", "base"] = "teacher"
    """Whose solutions: the teacher's, of whole clips, or those of first chunks by a causal network: that of stage
    `causal`, or the base's student, which a smaller one is to be made from."""
    pairs: Positive = 4096
    steps: Size = 24
    """Steps of the ODE's solution."""
    guidance: Guidance = 2.5
    batch: Positive = 64
    """Solutions computed at once."""
    supervise_rollout: bool = False
    """Whether later chunks also learn the true clip along the student's own roll-out: only where the past foretells
    it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DmdConfig:
    """Distribution matching: what stage `dmd` does besides taking steps."""

    __pydantic_config__ = {"extra": "forbid"}

    critic_updates: Positive = 5
    """Updates of the critic for each of the student (DMD2, arXiv 2405.14867)."""
    critic_lr: Rate = 2e-4
    guidance: Guidance = 2.5
    """Classifier-free guidance of the real score."""
    forcing: Literal["self", "diffusion"] = "self"
    """What the student is trained on: its own roll-outs, or noised clips (CausVid's first form)."""
    real_score: Literal["teacher", "causal"] = "teacher"
    """Whose score is the real one: the bidirectional teacher's, or that of the network of stage `causal`."""
    long_latent_frames: Annotated[int, Interval(ge=0, le=65_536)] = 0
    """Length of long roll-outs, past the window and the clips of training; 0: none."""
    long_share: Share = 0.25
    """How many of the student's updates roll out long."""
    min_sigma: Share = 0.02
    max_sigma: Share = 0.98
    """Noise levels at which the two scores are compared."""
    regression: Weight = 0.0
    """Weight of stage `student`'s regression beside distribution matching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What the judge looks at."""

    __pydantic_config__ = {"extra": "forbid"}

    prompts: Positive = 64
    """Stories of combinations held out of training, and as many that training may have seen."""
    seeds: Positive = 1
    """Clips of each."""
    teacher: bool = False
    """Whether the teacher makes them too: slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole run: its data, its networks, and a section for each stage that it has."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    """Name of the pack."""
    seed: Annotated[int, Interval(ge=0, le=LARGEST_SEED)] = 0
    license: str = ""
    source: str = ""
    """What the pack says of where it comes from. Not given: what the base says."""
    base: str = ""
    """A model to start from, by name or folder: a pack, or Wan2.1 in diffusers layout. If not given: from nothing."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    data: DataConfig | None = None
    """Videos to learn from."""
    clips: ClipsConfig | None = None
    """Storybook clips to learn from, alone or beside the videos."""
    world: WorldConfig | None = None
    """What is drawn and told."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    rollout: RolloutFacts | None = None
    """How the student makes videos; if not given, as the base does."""
    teacher_guidance: Annotated[float, Interval(ge=0.001, le=1000)] | None = None
    """Classifier-free guidance of the teacher in the pack; if not given, as the base has it."""
    teacher_steps: Annotated[int, Interval(ge=1, le=1024)] | None = None
    blends: Share = 0.0
    """Share of prompts that stages causal and student slide up to halfway to another, and that still show their own: so
    a blend on the way shows the one or the other."""
    autoencoder: AutoencoderConfig | None = None
    pictures: Optimisation | None = None
    teacher: Optimisation | None = None
    opening: Optimisation | None = None
    pixels: Optimisation | None = None
    causal: CausalConfig | None = None
    ode: OdeConfig | None = None
    student: StudentConfig | None = None
    dmd: Optimisation | None = None
    matching: DmdConfig = field(default_factory=DmdConfig)
    judge: Optimisation | None = None
    eval: EvalConfig | None = None

    def stages(self) -> tuple[str, ...]:
        """Return the stages of this run, in their order: `prepare`, `export`, and those that have a section."""
        return tuple(s for s in STAGES if s in ("prepare", "export") or getattr(self, s) is not None)


def check_stages(stages: Iterable[str], config: TrainConfig) -> tuple[str, ...]:
    """Return these stages, or all of the run when none is named, in their order. Raises UsageError for others."""
    wanted, has = set(stages), config.stages()
    for stage in sorted(wanted - set(has)):
        if stage in STAGES:
            raise UsageError(f"--stage {stage}: the file has no section [{stage}]; it has {', '.join(has)}")
        near = did_you_mean(stage, has) or f"; known: {', '.join(has)}"
        raise UsageError(f"--stage {stage}: unknown{near}")
    return tuple(stage for stage in has if stage in wanted or not wanted)


def load_config(path: Path) -> TrainConfig:
    """Return the run that a TOML file describes. Raises UsageError with the place of what is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    for (section, key), name in RENAMED.items():
        if key in data.get(section, ()):
            raise UsageError(f"{path}: {section}.{key}: is called {name} now")
    config = from_data(TrainConfig, data, where=str(path))
    if missing := _missing(config):
        raise UsageError(f"{path}: {missing}")
    return config


def _missing(config: TrainConfig) -> str:
    """Return what a run of this file would lack, or cannot be; empty where it lacks nothing."""
    if not config.base and config.autoencoder is None:
        return "[autoencoder]: missing; without base something must make the latents"
    if not config.base and config.teacher is None and (lost := _wants_a_teacher(config)):
        return f"[teacher]: missing; without base there is no teacher {lost}"
    blocks = config.autoencoder.decoder_blocks if config.autoencoder else None
    each = blocks if isinstance(blocks, tuple) else (blocks or 0,)
    if not all(0 <= count <= 1000 for count in each):  # here, as pydantic says a union's range for each of its types
        return "[autoencoder]: decoder_blocks must be 0 or more, and 1000 or less"
    if config.clips is None and config.data is None:
        return "[data] or [clips]: missing; there must be something to learn from"
    if config.network.opening_ffn_dim and (config.base or config.opening is None):
        return "network.opening_ffn_dim: is for runs from nothing with an [opening]; a base has its own"
    if config.world and config.base:
        return "[world]: is for runs from nothing; a base knows its words"
    if config.world and (lost := config.world.unknown()):
        return lost
    if config.network.prediction == "copies" and not config.base:
        if config.opening is None:
            return "[opening]: missing; a network that predicts copies makes no first chunk"
        if odd := [name for name in ("pictures", "teacher") if getattr(config, name)]:
            return f"[{odd[0]}]: sees nothing that was there before, and network.prediction is copies of that"
        if config.rollout is None or len(config.rollout.steps) != 1:
            return "rollout.steps: must be one, as network.prediction is copies of what was there"
        if 0 < config.network.grid_embed_size < ROUND // 2:
            return f"network.grid_embed_size: must be 0 or {ROUND // 2} at least, for scenes are drawn all round"
        if config.clips and config.clips.openings and not config.clips.all_round:
            return "clips.all_round: missing; scenes are copied from what stage opening learns of them"
        if config.student and config.student.first_chunks:
            return "student.first_chunks: must be false, as a network that predicts copies makes no first chunk"
    if config.pixels and config.opening is None:
        return "[opening]: missing; stage pixels goes on from it"
    if config.opening and not (config.clips and config.clips.openings):
        return "clips.openings: missing; stage opening learns from these"
    opens = config.opening or (config.student and config.student.first_chunks)
    if config.student is not None and config.ode is None and not opens:
        return "[ode]: missing; stage student learns from its pairs"
    if config.matching.regression and config.ode is None:
        return "[ode]: missing; matching.regression learns from its pairs"
    if not config.base and config.ode and config.ode.source == "base":
        return "base: missing; its student is wanted as teacher (ode.source)"
    if config.matching.min_sigma > config.matching.max_sigma:
        return "matching.min_sigma: must not be more than matching.max_sigma"
    rollout = config.rollout or (None if config.base else RolloutFacts())
    if rollout and rollout.window_frames < rollout.chunk_frames:
        return f"rollout.window_frames: must be {rollout.chunk_frames} or more, as a chunk is"
    if config.pixels and rollout and len(rollout.first_steps or rollout.steps) != 1:
        name = "first_steps" if rollout.first_steps else "steps"
        return f"rollout.{name}: must be one; stage pixels looks at what one step makes"
    for name in ("steps", "first_steps"):
        if any(step <= later for step, later in pairwise(getattr(rollout, name, None) or ())):
            return f"rollout.{name}: must fall, noisiest first"
    if config.causal is None and "causal" in (config.matching.real_score, config.ode and config.ode.source):
        return "[causal]: missing; its network is wanted as teacher"
    return ""


def _wants_a_teacher(config: TrainConfig) -> str:
    """What a run from nothing needs a teacher for; empty where it learns all of it from the truth."""
    if config.ode and config.ode.source == "teacher":
        return "for stage ode"
    if config.dmd:
        return "for stage dmd"
    return "" if config.causal and config.causal.few_steps else "to begin with"
