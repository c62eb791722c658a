"""Measure what is loaded: a warm-up, then rounds in which student, teacher and matrix products take turns.

Turns, and not one block each: when the machine is busy for a while, all of them feel it.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from causvid_cli.bench.fresh import BenchConfig, Role
from causvid_cli.device import synchronize
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.schedule import CLEAN
from causvid_cli.teacher import Teacher, load_teacher

MATRIX_SIZE = {"cpu": 2048}
LARGE_MATRIX_SIZE = 8192
"""Elsewhere: what keeps a GPU busy."""
MATRIX_PRODUCTS = 5

Note = Callable[[str], None]
"""Told what is being measured."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The same thing measured several times."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest."""
        return min(self.values), max(self.values)


@dataclass(frozen=True, slots=True)
class Run:
    """One clip: its frames, time to the first of them and to the last."""

    frames: int
    first_frame_s: float
    clip_s: float


@dataclass(frozen=True, slots=True)
class ChunkParts:
    """Where the student's time for a chunk goes, in seconds: means over one clip."""

    steps_s: float
    clean_pass_s: float
    """What later chunks will see; not run after a clip's last chunk, and never before a chunk is shown."""
    decode_s: float
    rest_s: float
    """Noise, the prompt, and all that is done between the network's calls."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Something loaded that makes the clip: a part of its frames [T, H, W, 3] at a time."""

    model: Pipeline | Teacher
    config: BenchConfig

    def __call__(self) -> Iterator[np.ndarray]:
        config = self.config
        if isinstance(self.model, Teacher):
            yield self.model.generate(config.prompt, length=config.length, seed=config.seed)
        else:
            for chunk in self.model.stream(config.prompt, length=config.length, seed=config.seed):
                yield chunk.frames

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def weight(self) -> torch.Tensor:
        """One of the network's: it says on which device and in which dtype the work is done."""
        return next(self.model.model.parameters())


@dataclass(frozen=True, slots=True)
class Measured:
    """All rounds."""

    runs: Mapping[Role, Sequence[Run]]
    matrix_flops_per_s: Samples
    """Rate of plain matrix products, in the network's dtype."""
    matrix_rate_share: Samples
    """Share of that rate which the student's network reaches."""
    network_flops: int
    """Of the student's network for the clip: its products and attention, 2 to a multiply-add."""
    chunk_parts: Sequence[ChunkParts]
    """Of the student, one a round."""


def open_maker(role: Role, config: BenchConfig) -> Maker:
    """The loaded student or teacher."""
    if config.threads:
        torch.set_num_threads(config.threads)
    opened = load if role == "student" else load_teacher
    return Maker(opened(config.model, device=config.device, dtype=config.dtype), config)


def run_clip(maker: Callable[[], Iterator[np.ndarray]]) -> Run:
    """Make a clip and time it. Its frames are on the CPU when they come, so no device is left behind."""
    start = time.perf_counter()
    frames, first_frame_s = 0, 0.0
    for part in maker():
        first_frame_s = first_frame_s or time.perf_counter() - start
        frames += len(part)
    return Run(frames, first_frame_s, time.perf_counter() - start)


def measure(makers: Mapping[Role, Maker], *, repeats: int, note: Note) -> Measured:
    """Warm up, then `repeats` rounds."""
    student = makers["student"]
    note("warm-up")
    flops = _network_flops(student)
    for maker in makers.values():
        run_clip(maker)
    matrix_rate(student.weight)
    runs: dict[Role, list[Run]] = {role: [] for role in makers}
    rates: list[float] = []
    shares: list[float] = []
    parts: list[ChunkParts] = []
    for turn in range(repeats):
        note(f"round {turn + 1} of {repeats}")
        for role, maker in makers.items():
            runs[role].append(run_clip(maker))
        part, network_s = take_apart(student)
        parts.append(part)
        rates.append(matrix_rate(student.weight))
        shares.append(flops / network_s / rates[-1])
    return Measured(runs, Samples(rates), Samples(shares), flops, parts)


def take_apart(student: Maker) -> tuple[ChunkParts, float]:
    """Make the clip once more and see where the time goes; also, how long the network worked for all of it.

    Clean passes and steps are made apart, so that each has its time.
    """
    assert isinstance(student.model, Pipeline)
    pipeline = copy.copy(student.model)
    pipeline.joins_calls = False
    student = replace(student, model=pipeline)
    model, codec = pipeline.model, pipeline.codec
    with clocked(model, "forward", student.device) as calls, clocked(codec, "decode_chunk", student.device) as decoded:
        clip_s = run_clip(student).clip_s
    clean = [call.seconds for call in calls if call.arguments[1] == CLEAN.timestep]
    network_s, decode_s = (sum(call.seconds for call in each) for each in (calls, decoded))
    chunks = len(decoded)
    parts = ChunkParts(
        steps_s=(network_s - sum(clean)) / chunks,
        clean_pass_s=sum(clean) / max(1, len(clean)),
        decode_s=decode_s / chunks,
        rest_s=(clip_s - network_s - decode_s) / chunks,
    )
    return parts, network_s


def matrix_rate(like: torch.Tensor) -> float:
    """FLOP/s of products of large square matrices on a tensor's device, in its dtype."""
    size = MATRIX_SIZE.get(like.device.type, LARGE_MATRIX_SIZE)
    left, right = torch.randn(2, size, size, device=like.device, dtype=like.dtype)
    synchronize(like.device)
    start = time.perf_counter()
    for _ in range(MATRIX_PRODUCTS):
        left @ right
    synchronize(like.device)
    return MATRIX_PRODUCTS * 2 * size**3 / (time.perf_counter() - start)


class Call(NamedTuple):
    """One call of a method."""

    arguments: tuple[Any, ...]
    seconds: float


@contextmanager
def clocked(owner: object, method: str, device: torch.device) -> Iterator[list[Call]]:
    """Every call of an object's method while the context is open. Waits for the device at each: for this only."""
    calls: list[Call] = []
    plain = getattr(owner, method)

    def timed(*arguments: Any, **options: Any) -> Any:
        synchronize(device)
        start = time.perf_counter()
        result = plain(*arguments, **options)
        synchronize(device)
        calls.append(Call(arguments, time.perf_counter() - start))
        return result

    setattr(owner, method, timed)  # hides the class's own
    try:
        yield calls
    finally:
        delattr(owner, method)


def _network_flops(student: Maker) -> int:
    """FLOP of the student's network for the clip; torch's counter has to be told of the kernels of CPUs."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def product(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
        return 2 * x.numel() * weight[0]

    cpu_kernels: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    if torch.backends.mkldnn.is_available():
        cpu_kernels[torch.ops.mkldnn._linear_pointwise] = product
    with FlopCounterMode(display=False, custom_mapping=cpu_kernels) as counter:
        run_clip(student)
    return sum(counter.get_flop_counts()[type(student.model.model).__name__].values())
