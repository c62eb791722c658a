"""What a user may ask for: its defaults, and what can be refused before anything slow is imported. No torch here."""

import math
import os
import re
import secrets
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from causvid_cli.config import PackFacts, Rope, check_choice
from causvid_cli.errors import UsageError
from causvid_cli.geometry import Geometry
from causvid_cli.timecode import parse_frames, parse_size, parse_whole
from causvid_cli.units import counted

DEFAULT_MODEL = "storybook"
DEFAULT_LENGTH = "5s"
AUTO = "auto"
"""The device or dtype that suits this machine."""

ENDLESS = "inf"
"""The length of a video that goes on until it is stopped."""
GUIDANCE = 1.5
"""How far a video is led away from a negative prompt; 1 is not at all."""
STRENGTH = 0.6
"""To which noise level a restyled video starts from its source."""

Size = tuple[int, int] | tuple[int, int, int] | str
"""Of a video's frames. (width, height), as they are shown; (width, height, times), as they are made, each pixel then
shown as a square of so many times so many; or a name of `SIZES`."""
NATIVE = "native"
SIZES = ("small", "medium", "wide", "tall", NATIVE)
"""Sizes by name: the model's facts say which they are (`PackFacts.sizes`), and whether it has them."""
Vae = Literal["full", "tiny"]
Quantize = Literal["none", "int8", "fp8"]
Offload = Literal["none", "text", "group", "auto"]
Transition = Literal["recache", "soft", "cut"]
"""How a new prompt takes hold at a chunk's edge.

recache: the past stays, its keys and values are computed anew under the new prompt (LongLive, arXiv 2509.22622).
soft: only cross-attention changes; the past stays as it was seen under the old prompt.
cut: the past is forgotten, sink and all: a new shot.
"""
Interpolate = Literal["none", "repeat", "blend", "motion"]
"""How a model's frames are brought to another frame rate.

none: not at all; the same frames are shown faster or slower. repeat: each is shown until the next is due.
blend: frames between two are mixed of them. motion: what moves is moved on (ffmpeg's minterpolate).
"""
INTERPOLATE: tuple[Interpolate, ...] = get_args(Interpolate)
FitMode = Literal["crop", "pad", "stretch"]
"""What gives way when the shapes differ, whichever way frames go.

crop: the frame is filled, and what overhangs is cut, alike on both sides. pad: all is shown, between black bars.
stretch: the frame is filled with all of it, and the proportions change.
"""
FITS: tuple[FitMode, ...] = get_args(FitMode)
AudioFit = Literal["pad", "loop"]
"""What follows sound that is shorter than its video: silence, or the sound again. Longer sound is cut."""
AUDIO_FITS: tuple[AudioFit, ...] = get_args(AudioFit)
TRANSITIONS: tuple[Transition, ...] = get_args(Transition)
ATTENTION = (
    AUTO,
    *("native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math", "_native_npu", "_native_xla"),
    *("flash", "flash_varlen", "_flash_3", "_flash_varlen_3", "flex", "xformers", "sage", "sage_varlen"),
    *("_sage_qk_int8_pv_fp8_cuda", "_sage_qk_int8_pv_fp8_cuda_sm90"),
    *("_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton"),
)
"""What computes attention (`network/attention.py`), by diffusers' names; those with _ are for special hardware."""

ROPES: tuple[Rope, ...] = get_args(Rope)
DTYPES = ("float32", "bfloat16", "float16")
LARGEST_SEED = 2**63 - 1
MOST_STEPS = 1000
WIDEST_WINDOW = 1000
LONGEST_SIDE = 4096
LARGEST_WEIGHT = 10.0
"""Of a LoRA."""
LONGEST_PROMPT = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraUse:
    """A LoRA that is added to a model's weights."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    """Of its file, without the folder."""
    sha256: str
    """Of the file's bytes."""
    weight: float = 1.0
    """How much of it is added."""

    def __post_init__(self) -> None:
        check_file_name(self.name, "loras.name")
        if not abs(self.weight) <= LARGEST_WEIGHT:
            raise UsageError(f"loras.weight {self.weight}: must be -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How a model is loaded, device and number format aside. Raises UsageError for what there is not."""

    __pydantic_config__ = {"extra": "forbid"}

    vae: Vae = "full"
    """Which codec makes the pictures: the model's own, or a small and fast one in its place."""
    loras: tuple[LoraUse, ...] = ()
    quantize: Quantize = "none"
    """Number format of the transformer's large weights; none is that of all else."""
    offload: Offload = "none"
    """What leaves the device while it is not needed."""
    compile: bool = False
    """Whether the transformer's blocks are compiled."""
    attention: str = AUTO
    """Which program computes attention, of `ATTENTION`."""
    random_weights: bool = False
    """Whether the architecture alone is the model's: for measuring, since speed does not depend on the values."""

    def __post_init__(self) -> None:
        kinds = {name: get_args(kind) for name, kind in (("vae", Vae), ("quantize", Quantize), ("offload", Offload))}
        for name, known in (kinds | {"attention": ATTENTION}).items():
            check_choice(getattr(self, name), known, name=f"--{name}")


LOADING = Loading()
"""As a model is loaded where nothing is asked."""


def check_file_name(name: str, where: str) -> str:
    """A file's name without a folder, such as a recipe tells. Raises UsageError for a path."""
    if len(name.encode(errors="surrogatepass")) > 255:
        raise UsageError(f"{where}: longer than the 255 bytes that the name of a file may have")
    if not name or name in (".", "..") or any(separator in name for separator in (os.sep, os.altsep or os.sep, "\0")):
        raise UsageError(f"{where} {name!r}: must be the name of a file, without a folder")
    return name


def check_prompt(prompt: str) -> str:
    """The prompt without surrounding space. Raises UsageError when nothing is left or it is far too long."""
    prompt = prompt.strip()
    if not prompt:
        raise UsageError('the prompt is empty; say what to show, such as "a red car moves left in the snow"')
    if len(prompt) > LONGEST_PROMPT:
        raise UsageError(f"the prompt has {len(prompt)} characters; {LONGEST_PROMPT} are the most")
    return prompt


def random_seed() -> int:
    return secrets.randbelow(2**32)


def check_seed(seed: int) -> int:
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"--seed {seed}: must be 0 to {LARGEST_SEED}")
    return seed


def check_steps(steps: int | None, facts: PackFacts) -> int:
    """Network calls per chunk; None is what the model was made for."""
    if steps is None:
        return len(facts.steps)
    if not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"--steps {steps}: must be 1 to {MOST_STEPS}; {facts.name} was made for {len(facts.steps)}")
    if steps != 1 and facts.prediction == "copies":
        raise UsageError(f"--steps {steps}: {facts.name} copies what was there in one step; leave it out")
    return steps


def first_steps(count: int, facts: PackFacts) -> tuple[float, ...] | None:
    """The first chunk's own timesteps, unless as many or more are chosen for all; None is those of every chunk."""
    own = facts.first_steps
    return own if own and (count == len(facts.steps) or len(own) > count) else None


def check_rope(asked: str | None, facts: PackFacts) -> Rope | None:
    """How a video's frames stand in time, where that is not as the model has it; None is the model's own."""
    if asked is None:
        return None
    rope: Rope = check_choice(asked, ROPES, name="--rope")
    if facts.recompute and rope == "absolute":
        raise UsageError(f"--rope {rope}: {facts.name} counts its past from 0 for every chunk; leave it out")
    return None if rope == facts.rope or not facts.sink_frames else rope


def check_window(frames: int | None, facts: PackFacts) -> int:
    """Recent latent frames that the cache keeps besides the sink; None is what the model was made for."""
    if frames is None:
        return facts.window_frames
    least = facts.chunk_frames + facts.recompute  # what is seen anew is at least one frame
    if not least <= frames <= WIDEST_WINDOW:
        raise UsageError(
            f"--window {frames}: must be {least} to {WIDEST_WINDOW}; {facts.name} makes "
            f"{counted(facts.chunk_frames, 'latent frame')} at a time"
        )
    return frames


def parse_length(text: str | float, *, fps: Fraction) -> int | None:
    """Pictures of a length (`timecode.parse_frames`); None for "inf"."""
    return None if str(text).strip().lower() == ENDLESS else parse_frames(text, fps=fps)


def check_endless(frames: int | None, facts: PackFacts) -> None:
    """Refuse a video without end of a model whose cache would grow with it."""
    if frames is None and not facts.window_frames:
        raise UsageError(f"--length {ENDLESS}: {facts.name} looks back on all that it made; try a length such as 60s")


def check_source(facts: PackFacts) -> None:
    """Raise UsageError where a model cannot begin from another video's latents: its x_t is its own past."""
    if facts.prediction == "copies":
        raise UsageError(
            f"{facts.name} copies what it has made before, and cannot follow a clip; restyle it with another model "
            "(-m), or go on from its end with extend"
        )


def check_strength(strength: float) -> float:
    if not 0 < strength <= 1:
        raise UsageError(
            f"--strength {strength:g}: must be more than 0 and at most 1, which keeps nothing of the source"
        )
    return strength


def check_guidance(guidance: float) -> float:
    if not 1 <= guidance <= 20:
        raise UsageError(f"--guidance {guidance:g}: must be 1 to 20")
    return guidance


def parse_any_size(text: str, *, name: str = "--size") -> Size:
    """A size from a name of `SIZES`, from WIDTHxHEIGHT, or from WIDTHxHEIGHT@TIMES."""
    asked = text.strip().lower()
    if asked in SIZES:
        return asked
    made, _, times = asked.partition("@")
    try:
        size = parse_size(made, name=name)
        return (*size, parse_whole(times, name=name)) if "@" in asked else size
    except UsageError:
        raise UsageError(
            f"{name} {text!r} is not a size; write WIDTHxHEIGHT, such as 512x512, or {', '.join(SIZES)}"
        ) from None


def size_text(size: Size) -> str:
    """A size as `parse_any_size` reads it."""
    return size if isinstance(size, str) else "{}x{}".format(*size[:2]) + "".join(f"@{times}" for times in size[2:])


def check_size(size: Size | None, facts: PackFacts) -> tuple[int, int, int]:
    """(width, height) as the codec makes them and how many times they are enlarged; None is the model's own size."""
    named = named_sizes(facts)
    if size is None or isinstance(size, str):
        if (known := named.get(size or NATIVE)) is None:
            raise UsageError(f"--size {size}: {facts.name} has no size of that name; try {' or '.join(named)}")
        return known
    if not (isinstance(size, tuple) and len(size) in (2, 3) and {type(side) for side in size} == {int}):
        own = (facts.enlarge * facts.width, facts.enlarge * facts.height)
        raise UsageError(f"size {size!r}: must be (width, height), such as {own}")
    made, times = size[:2], size[2] if len(size) == 3 else 1
    size = (made[0] * times, made[1] * times)
    if not 0 < times <= LONGEST_SIDE or max(size) > LONGEST_SIDE:
        raise UsageError(f"--size {size[0]}x{size[1]}: the longest side is {LONGEST_SIDE} pixels")
    if facts.enlarge == 1:
        Geometry(height=made[1], width=made[0])
        return *made, times
    for width, height, _ in named.values():
        times = size[0] // width
        if times >= 1 and size == (width * times, height * times):
            return width, height, times
    width, height, _ = nearest_size(facts, size)
    below = max(1, size[0] // width)
    choices = " or ".join(f"{width * n}x{height * n}" for n in (below, below + 1))
    painted = " or ".join(dict.fromkeys(f"{wide}x{high}" for wide, high, _ in named.values()))
    raise UsageError(
        f"--size {size[0]}x{size[1]}: {facts.name} paints {painted} cells, "
        f"all enlarged by one whole number; try {choices}"
    )


def named_sizes(facts: PackFacts) -> dict[str, tuple[int, int, int]]:
    """Sizes of a model by name, its own first: (width, height) as the codec makes them, how many times enlarged."""
    return {NATIVE: (facts.width, facts.height, facts.enlarge)} | facts.sizes


def nearest_size(facts: PackFacts, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return which of `named_sizes` is nearest in shape to a (width, height); of equals the first."""
    shape = max(size[0], 1) / max(size[1], 1)
    return min(named_sizes(facts).values(), key=lambda known: abs(math.log(known[0] / known[1] / shape)))


def check_device(name: str, *, option: str = "--device") -> str:
    """A device's name as it may be written; whether this machine has it, only torch knows."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name, re.ASCII):
        raise UsageError(f"{option} {name}: unknown; try auto, cpu, cuda, cuda:0 or mps")
    return name


def check_dtype(name: str) -> str:
    return str(check_choice(name, (AUTO, *DTYPES), name="--dtype"))
