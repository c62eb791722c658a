"""The figures of a bench: one object for programs, one table for people."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from causvid_cli.bench.fresh import Fresh, Role
from causvid_cli.bench.measure import ChunkParts, Maker, Measured, Run, Samples

FORMAT = 1
PARTS = {"steps_s": "steps", "clean_pass_s": "clean pass", "decode_s": "decode", "rest_s": "the rest"}
"""Of a chunk: names in `ChunkParts` and for people."""


def figures(fresh: Mapping[Role, Sequence[Fresh]], makers: Mapping[Role, Maker], measured: Measured) -> dict[str, Any]:
    """What `causvid bench --json` prints: medians in seconds, bytes and FLOP; `spread` holds [least, greatest]."""
    student = makers["student"]
    roles = {role: role_figures(measured.runs[role], fresh[role]) for role in makers}
    medians = {
        "import_s": Samples([each.import_s for each in fresh["student"]]),
        "load_s": Samples([each.load_s for each in fresh["student"]]),
        "matrix_rate_share": measured.matrix_rate_share,
        "matrix_flops_per_s": measured.matrix_flops_per_s,
    }
    return {
        "v": FORMAT,
        "model": student.model.facts.name,
        "device": str(student.device),
        "dtype": str(student.weight.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "length": student.config.length,
        "frames": measured.runs["student"][0].frames,
        "repeats": len(measured.runs["student"]),
        **_with_spread(medians),
        "network_flops": measured.network_flops,
        "chunk": _chunk(measured.chunk_parts),
        "student": roles["student"],
        "teacher": roles.get("teacher"),
        "ratio": _ratio(roles["student"], roles["teacher"]) if "teacher" in roles else None,
    }


def role_figures(runs: Sequence[Run], fresh: Sequence[Fresh]) -> dict[str, Any]:
    """first_frame_s and frames_per_s when all is warm; first_frame_cold_s and the memory of fresh processes."""
    medians = {
        "first_frame_s": Samples([run.first_frame_s for run in runs]),
        "frames_per_s": Samples([run.frames / run.clip_s for run in runs]),
        "first_frame_cold_s": Samples([each.first_frame_s for each in fresh]),
    }
    return {**_with_spread(medians), "peak_memory_bytes": round(median(each.peak_memory_bytes for each in fresh))}


def _chunk(rounds: Sequence[ChunkParts]) -> dict[str, Any]:
    """Seconds of each part of a chunk."""
    return _with_spread({name: Samples([getattr(each, name) for each in rounds]) for name in PARTS})


def _with_spread(medians: Mapping[str, Samples]) -> dict[str, Any]:
    values: dict[str, Any] = {name: each.median for name, each in medians.items()}
    return {**values, "spread": {name: each.spread for name, each in medians.items()}}


def _ratio(student: dict[str, Any], teacher: dict[str, Any]) -> dict[str, float]:
    """Student : teacher."""
    return {
        "first_frame": student["first_frame_s"] / teacher["first_frame_s"],
        "frames_per_s": student["frames_per_s"] / teacher["frames_per_s"],
    }


def headline(result: dict[str, Any]) -> str:
    return (
        f"{result['model']}: {result['frames']} frames on {result['device']} in {result['dtype']}, "
        f"{result['threads']} CPU threads, torch {result['torch']}; median (least - greatest) of {result['repeats']}"
    )


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The table for people: its header, then a row for each figure."""
    roles = [role for role in ("student", "teacher") if result[role]]
    ratio = result["ratio"]

    def row(label: str, cell: Callable[[dict[str, Any]], str], compared: str = "") -> list[str]:
        return [label, *(cell(result[role]) for role in roles), *([compared] if ratio else [])]

    return [
        ["", *roles, *(["student : teacher"] if ratio else [])],
        row("first frame", lambda of: _shown(of, "first_frame_s", _seconds), _compared(ratio, "first_frame")),
        row("  in a fresh process", lambda of: _shown(of, "first_frame_cold_s", _seconds)),
        row("frames per second", lambda of: _shown(of, "frames_per_s", _three), _compared(ratio, "frames_per_s")),
        row("peak memory", lambda of: f"{of['peak_memory_bytes'] / 2**20:.0f} MiB"),
    ]


def footnotes(result: dict[str, Any]) -> list[str]:
    rate = result["matrix_flops_per_s"] / 1e9
    return [
        f"import {_shown(result, 'import_s', _seconds)}, load {_shown(result, 'load_s', _seconds)}",
        f"The student's network reaches {_shown(result, 'matrix_rate_share', '{:.1%}'.format)} "
        f"of this machine's matrix rate, {rate:.0f} GFLOP/s.",
        "A chunk: " + ", ".join(f"{label} {_shown(result['chunk'], name, _seconds)}" for name, label in PARTS.items()),
    ]


def _shown(of: dict[str, Any], name: str, show: Callable[[float], str]) -> str:
    least, greatest = of["spread"][name]
    return f"{show(of[name])} ({show(least)} - {show(greatest)})"


def _compared(ratio: dict[str, float] | None, name: str) -> str:
    if ratio is None:
        return ""
    value = ratio[name]
    return f"{_three(value)} : 1" if value >= 1 else f"1 : {_three(1 / value)}"


def _seconds(value: float) -> str:
    return f"{_three(value)} s" if value >= 1 else f"{_three(value * 1000)} ms"


def _three(value: float) -> str:
    """Three digits: 0.123, 12.3, 1234."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
