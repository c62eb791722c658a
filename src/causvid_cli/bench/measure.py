"""Measure what is loaded: a warm-up, then rounds in which student, teacher and matrix products take turns.

Turns, and not one block each: when the machine is busy for a while, all of them feel it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from causvid_cli.bench.fresh import BenchConfig, Role
from causvid_cli.device import synchronize
from causvid_cli.pipeline import Pipeline, load
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
    for turn in range(repeats):
        note(f"round {turn + 1} of {repeats}")
        for role, maker in makers.items():
            runs[role].append(run_clip(maker))
        with clocked(student.model.model, student.device) as seconds:
            run_clip(student)
        rates.append(matrix_rate(student.weight))
        shares.append(flops / sum(seconds) / rates[-1])
    return Measured(runs, Samples(rates), Samples(shares), flops)


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


@contextmanager
def clocked(module: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Seconds of every call of a module while the context is open. Waits for the device at each: for this only."""
    seconds: list[float] = []

    def begin(*_: object) -> None:
        synchronize(device)
        seconds.append(-time.perf_counter())

    def end(*_: object) -> None:
        synchronize(device)
        seconds[-1] += time.perf_counter()

    handles = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def _network_flops(student: Maker) -> int:
    """FLOP of the student's network for the clip; torch's counter has to be told of the attention kernel of CPUs."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    cpu_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={cpu_kernel: attention}) as counter:
        run_clip(student)
    return sum(counter.get_flop_counts()[type(student.model.model).__name__].values())
