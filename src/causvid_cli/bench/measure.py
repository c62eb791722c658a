"""Measure what is loaded: a warm-up, then rounds in which student, teacher and matrix products take turns.

Turns, and not one block each: when the machine is busy for a while, all of them feel it. A round makes the clip as
`causvid t2v` makes it, then its latents alone, then its frames alone from these latents.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import median
from typing import Self

import numpy as np
import torch
from torch import Tensor

from causvid_cli.bench.config import BenchSetting, Role
from causvid_cli.bench.network_calls import NetworkCall, network_calls
from causvid_cli.bench.subjects import Maker
from causvid_cli.codec import Codec
from causvid_cli.device import DeviceEvent, peak_memory_bytes, reset_peak_memory
from causvid_cli.units import duration_text

MATRIX_SIZE = {"cpu": 2048}
LARGE_MATRIX_SIZE = 8192
"""Elsewhere: what keeps a GPU busy."""
MATRIX_PRODUCTS = {"cpu": 5}
MANY_MATRIX_PRODUCTS = 50
"""Elsewhere, or it would be over before the clocks have settled."""

NO_FRAMES = np.empty((0, 0, 0, 3), np.uint8)

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
    """One clip, or what is made of one, and how long each chunk of it took; a teacher's is one chunk."""

    frames: int
    chunk_s: tuple[float, ...]
    clip_s: float

    @property
    def first_frame_s(self) -> float:
        return self.chunk_s[0]

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.clip_s


@dataclass(frozen=True, slots=True)
class ChunkParts:
    """Where the student's time for a chunk goes, in seconds, where one thing is done at a time: means over one clip."""

    steps_s: float
    clean_pass_s: float
    """What later chunks will see; not run after a clip's last chunk, and never before a chunk is shown."""
    decode_s: float
    rest_s: float
    """Noise, the prompt, and all that is done between the network's calls."""

    @classmethod
    def of(cls, latents: Run, calls: Sequence[NetworkCall], decoding: Run) -> Self:
        """From latents made alone, by calls of which none is merged, and from decoding alone."""
        chunks, network_s = len(latents.chunk_s), sum(call.seconds for call in calls)
        clean = [call.seconds for call in calls if call.kind == "clean"]
        return cls(
            steps_s=(network_s - sum(clean)) / chunks,
            clean_pass_s=sum(clean) / max(1, len(clean)),
            decode_s=decoding.clip_s / chunks,
            rest_s=(latents.clip_s - network_s) / chunks,
        )


@dataclass(frozen=True, slots=True)
class Round:
    """The student's turn: the clip as a user gets it; its latents alone, call by call; its decoding alone."""

    whole: Run
    latents: Run
    calls: tuple[NetworkCall, ...]
    decoding: Run
    parts: ChunkParts
    matrix_flops_per_s: float
    """Rate of plain matrix products just then, in the network's dtype."""
    peak_memory_bytes: int
    """While the whole clip was made."""

    @property
    def network_flops(self) -> int:
        return sum(call.flops for call in self.calls)

    @property
    def network_flops_per_s(self) -> float:
        return self.network_flops / sum(call.seconds for call in self.calls)

    @property
    def matrix_rate_share(self) -> float:
        return self.network_flops_per_s / self.matrix_flops_per_s


@dataclass(slots=True)
class Measured:
    """What is known so far: whole rounds only, so that it can be told at any moment."""

    student: Sequence[Maker]
    """One for each setting, all of one model."""
    teacher: Maker | None = None
    warm_ups: dict[BenchSetting, Run] = field(default_factory=dict)
    """Where there was one."""
    rounds: dict[BenchSetting, list[Round]] = field(default_factory=dict)
    teacher_runs: list[Run] = field(default_factory=list)

    @classmethod
    def of(cls, makers: Mapping[Role, Maker]) -> Self:
        """Nothing yet, of what is loaded."""
        student = makers["student"]
        each = [Maker(student.model, student.config, setting) for setting in student.config.settings]
        return cls(each, makers.get("teacher"))

    @property
    def known(self) -> list[Maker]:
        """Students of which something is known."""
        return [student for student in self.student if self.rounds.get(student.setting)]


def measure(measured: Measured, *, note: Note) -> None:
    """Warm up, then as many rounds as the configuration says; what is known is in `measured` after each turn."""
    config, teacher = measured.student[0].config, measured.teacher
    for student in measured.student:
        if warm_up_chunks(student):
            note(f"warm-up{_of(student, measured)}")
            measured.warm_ups[student.setting] = warm_up(student)
    if teacher:
        run_clip(teacher)
    if (seconds := expected_s(measured)) > 60:
        note(f"about {duration_text(seconds)} to go")
    for turn in range(config.repeats):
        for student in measured.student:
            note(f"round {turn + 1} of {config.repeats}{_of(student, measured)}")
            done = run_round(student)
            measured.rounds.setdefault(student.setting, []).append(done)
        if teacher:
            measured.teacher_runs.append(run_clip(teacher))


def _of(student: Maker, measured: Measured) -> str:
    plan = student.plan
    return f": {len(plan.steps)} steps, window {plan.window_frames}" if len(measured.student) > 1 else ""


def warm_up_chunks(student: Maker) -> int:
    """How many chunks are made before anything is timed: until all that a later one meets has been met once."""
    chosen = student.config.warm_up
    return min(len(student.plan.chunks), student.first_steady_chunk + 1 if chosen is None else chosen)


def warm_up(student: Maker) -> Run:
    """Make the first chunks and throw them away; how long they took, compiling included."""
    run = run_clip(lambda: islice(student(), warm_up_chunks(student)))
    matrix_rate(student.device, student.dtype)
    return run


def expected_s(measured: Measured) -> float:
    """About how long the students' rounds will take, as their warm-ups ended; 0 where there was none."""
    last = {setting: run.chunk_s[-1] for setting, run in measured.warm_ups.items()}
    once = sum(len(each.plan.chunks) * last.get(each.setting, 0) for each in measured.student)
    return 2 * measured.student[0].config.repeats * once  # a clip as a whole, then its parts


def run_round(student: Maker) -> Round:
    """One turn of a student."""
    reset_peak_memory(student.device)
    whole = run_clip(student, ahead=student.is_ahead)
    peak = peak_memory_bytes(student.device)
    merges, made = student.student.merge_clean_pass, list[Tensor]()
    latents, calls = run_latents(student, merge_clean_pass=merges, made=made)
    decoding = run_clip(lambda: decoded(student.student.codec, made))
    apart = run_latents(student, merge_clean_pass=False) if merges else (latents, calls)  # so that each has its time
    return Round(
        whole=whole,
        latents=replace(latents, frames=whole.frames),
        calls=calls,
        decoding=decoding,
        parts=ChunkParts.of(*apart, decoding),
        matrix_flops_per_s=matrix_rate(student.device, student.dtype),
        peak_memory_bytes=peak,
    )


def run_latents(
    student: Maker, *, merge_clean_pass: bool, made: list[Tensor] | None = None
) -> tuple[Run, tuple[NetworkCall, ...]]:
    """Make a clip's latents, and time that and each call of the network. made: gets them."""

    def latents() -> Iterator[np.ndarray]:
        for x0 in student.latents(merge_clean_pass=merge_clean_pass):
            if made is not None:
                made.append(x0)
            yield NO_FRAMES

    with network_calls(student.student.model, student.device) as calls:
        run = run_clip(latents)
    return run, tuple(calls())


def run_clip(parts: Callable[[], Iterable[np.ndarray]], *, ahead: bool = False) -> Run:
    """Make a clip and time its parts. Frames are on the CPU when they come, so no device is left behind.

    ahead: whether the next part is in the making when one comes (`in_making`).
    """
    frames, intervals = 0, []
    start = clock = time.perf_counter()
    for part in parts():
        frames += len(part)
        now = time.perf_counter()
        intervals.append(now - clock)
        clock = now
    clip_s = time.perf_counter() - start
    return Run(frames, in_making(intervals) if ahead else tuple(intervals), clip_s)


def in_making(intervals: Sequence[float]) -> tuple[float, ...]:
    """How long each chunk was in the making, from the times between the frames of a stream `ahead`.

    While the frames of a chunk are awaited the next one is made: only the first comes at once, then two are made, and
    in the end one is left that is made already and only has to be decoded.
    """
    if len(intervals) < 3:
        return tuple(intervals)
    first, two, *others = intervals
    return (first, two / 2, two / 2, *others[:-1])


@torch.inference_mode()
def decoded(codec: Codec, latents: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """The frames [T, H, W, 3] of a clip's latents, chunk by chunk."""
    state = codec.decode_state()
    for x0 in latents:
        yield codec.decode_chunk(x0, state=state)[0].cpu().numpy()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of products of large square matrices on a device."""
    size = MATRIX_SIZE.get(device.type, LARGE_MATRIX_SIZE)
    products = MATRIX_PRODUCTS.get(device.type, MANY_MATRIX_PRODUCTS)
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    start = DeviceEvent(device)
    for _ in range(products):
        left @ right
    seconds = start.seconds_until(DeviceEvent(device))
    return products * 2 * size**3 / seconds
