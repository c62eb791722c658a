"""The figures of a bench, for programs; `tables.py` and `chart.py` show them to people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from statistics import median
from typing import Any

import torch

from causvid_cli.bench.cold_start import Fresh
from causvid_cli.bench.config import Role
from causvid_cli.bench.measure import ChunkParts, Measured, Run, Samples
from causvid_cli.bench.subjects import Maker
from causvid_cli.bench.tables import STARTS
from causvid_cli.device import device_name

FORMAT = 1
PARTS = tuple(field.name for field in fields(ChunkParts))


def figures(fresh: Mapping[Role, Sequence[Fresh]], measured: Measured) -> dict[str, Any]:
    """What `causvid bench --json` prints: medians in seconds, bytes and FLOP; `spread` holds [least, greatest].

    `student`, `teacher`, `chunk`, `network_flops` and the share of the matrix rate are of the first setting; `settings`
    holds every one. complete: whether all rounds were run. What needs fresh processes is null without them, what needs
    a full window where the clip is too short for it.
    """
    student, config = measured.student[0], measured.student[0].config
    rounds = measured.rounds[student.setting]
    plan, pipeline = student.plan, student.student
    roles = {"student": role_figures([each.whole for each in rounds], fresh.get("student", ()))}
    if measured.teacher_runs:
        roles["teacher"] = role_figures(measured.teacher_runs, fresh.get("teacher", ()))
    if not fresh.get("student"):
        roles["student"]["peak_memory_bytes"] = max(each.peak_memory_bytes for each in rounds)
    medians = {
        **{name: [getattr(each, name) for each in fresh.get("student", ())] for name in STARTS},
        "matrix_rate_share": [each.matrix_rate_share for each in rounds],
        "matrix_flops_per_s": [each.matrix_flops_per_s for each in rounds],
    }
    return {
        "v": FORMAT,
        "model": pipeline.facts.name,
        "device": str(student.device),
        "device_name": device_name(student.device),
        "dtype": str(student.dtype).removeprefix("torch."),
        "loading": asdict(config.loading),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "length": config.length,
        "size": f"{plan.width}x{plan.height}",
        "fps": pipeline.facts.fps,
        "frames": rounds[0].whole.frames,
        "chunks": len(plan.chunks),
        "chunk_frames": pipeline.facts.chunk_frames,
        "chunk_pictures": _frames_per_chunk(student),
        "repeats": len(rounds),
        "complete": len(measured.known) == len(measured.student)
        and all(len(each) == config.repeats for each in measured.rounds.values()),
        **_with_spread(medians),
        "network_flops": rounds[0].network_flops,
        "chunk": chunk_figures([each.parts for each in rounds]),
        "student": roles["student"],
        "teacher": roles.get("teacher"),
        "ratio": _ratio(roles["student"], roles["teacher"]) if "teacher" in roles else None,
        "settings": [setting_figures(each, measured) for each in measured.known],
    }


def role_figures(runs: Sequence[Run], fresh: Sequence[Fresh]) -> dict[str, Any]:
    """first_frame_s and frames_per_s when all is warm; first_frame_cold_s and the memory of fresh processes."""
    medians = {
        "first_frame_s": [run.first_frame_s for run in runs],
        "frames_per_s": [run.frames_per_s for run in runs],
        "first_frame_cold_s": [each.first_frame_s for each in fresh],
    }
    peak = round(median(each.peak_memory_bytes for each in fresh)) if fresh else None
    return {**_with_spread(medians), "peak_memory_bytes": peak}


def chunk_figures(rounds: Sequence[ChunkParts]) -> dict[str, Any]:
    """Seconds of each part of a chunk."""
    return _with_spread({name: [getattr(each, name) for each in rounds] for name in PARTS})


def setting_figures(student: Maker, measured: Measured) -> dict[str, Any]:
    """One setting, warm.

    chunk_s: of each chunk, from the frames before to its own, and so with the clean pass of the chunk before; that of
    the first is the time to the first frame. first_chunks_s, steady_chunk_s: of chunks after the first while the
    window fills, and once it is full. diffusion_frames_per_s, decode_frames_per_s: of the network and what goes with
    it without any decoding, and of the decoder alone. peak_memory_bytes: of this process, with all that it holds.
    """
    rounds, plan = measured.rounds[student.setting], student.plan
    warm_up = measured.warm_ups.get(student.setting)
    runs, full = [each.whole for each in rounds], max(1, student.first_steady_chunk)
    steady = [seconds for run in runs for seconds in run.chunk_s[full:]]
    medians = {
        "first_frame_s": [run.first_frame_s for run in runs],
        "first_chunks_s": [seconds for run in runs for seconds in run.chunk_s[1:full]],
        "steady_chunk_s": steady,
        "steady_frames_per_s": [_frames_per_chunk(student) / seconds for seconds in steady],
        "frames_per_s": [run.frames_per_s for run in runs],
        "diffusion_frames_per_s": [each.latents.frames_per_s for each in rounds],
        "decode_frames_per_s": [each.decoding.frames_per_s for each in rounds],
        "network_flops_per_s": [each.network_flops_per_s for each in rounds],
        "matrix_rate_share": [each.matrix_rate_share for each in rounds],
    }
    return {
        "steps": len(plan.steps),
        "window_frames": plan.window_frames or None,
        "sink_frames": student.student.facts.sink_frames,
        "rounds": len(rounds),
        "warm_up_chunks": len(warm_up.chunk_s) if warm_up else 0,
        "warm_up_s": warm_up.clip_s if warm_up else 0.0,
        "first_steady_chunk": student.first_steady_chunk,
        **_with_spread(medians),
        "chunk_s": [median(each) for each in zip(*(run.chunk_s for run in runs), strict=True)],
        "chunk": chunk_figures([each.parts for each in rounds]),
        "network_calls": len(rounds[0].calls),
        "network_flops": rounds[0].network_flops,
        "peak_memory_bytes": max(each.peak_memory_bytes for each in rounds),
    }


def _frames_per_chunk(student: Maker) -> int:
    """How many frames every chunk but the first makes; the first may make fewer."""
    grid = student.plan.grid
    return grid.first_frame(2) - grid.first_frame(1)


def _with_spread(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    known = {name: Samples(each) for name, each in values.items() if each}
    medians: dict[str, Any] = {name: known[name].median if name in known else None for name in values}
    return {**medians, "spread": {name: each.spread for name, each in known.items()}}


def _ratio(student: dict[str, Any], teacher: dict[str, Any]) -> dict[str, float]:
    """Student : teacher."""
    return {
        "first_frame": student["first_frame_s"] / teacher["first_frame_s"],
        "frames_per_s": student["frames_per_s"] / teacher["frames_per_s"],
    }
