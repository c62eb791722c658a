"""The figures of a bench as tables and lines for people."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from causvid_cli.request import LOADING
from causvid_cli.units import counted

PARTS = {"steps_s": "steps", "clean_pass_s": "clean pass", "decode_s": "decode", "rest_s": "the rest"}
"""The parts of a chunk's time: names in the figures, and names for people."""
STARTS = {
    "import_s": "import",
    "torch_s": "of which torch",
    "load_s": "load",
    "encode_s": "encode",
    "exit_s": "exit",
}
"""The parts of a fresh process beside the first frames, which the table has."""
NONE = "-"


def subject(result: dict[str, Any]) -> str:
    """What was measured."""
    kind = " (random weights)" if result["loading"]["random_weights"] else ""
    chunks = f"{counted(result['chunks'], 'chunk')} of {counted(result['chunk_frames'], 'latent frame')}"
    return f"{result['model']}{kind}: {counted(result['frames'], 'frame')} of {result['size']}, {chunks}"


def circumstances(result: dict[str, Any]) -> str:
    """On what, and how."""
    loading, plain = result["loading"], asdict(LOADING)
    told = [name for name in ("vae", "quantize", "offload", "attention") if loading[name] != plain[name]]
    how = [f"{name} {loading[name]}" for name in told] + ["compiled"] * loading["compile"]
    how += [f"torch {result['torch']}", counted(result["threads"], "CPU thread")]
    return f"{result['device_name']} in {result['dtype']}, {', '.join(how)}"


def headlines(result: dict[str, Any]) -> list[str]:
    """What was measured, on what, and how."""
    incomplete = "" if result["complete"] else ", broken off"
    of = f"median (least - greatest) of {counted(result['repeats'], 'round')}{incomplete}"
    return [subject(result), f"{circumstances(result)}; {of}"]


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The first setting, and the teacher beside it: a header, then a row for each figure."""
    roles = [role for role in ("student", "teacher") if result[role]]
    ratio, first = result["ratio"], result["settings"][0]

    def row(label: str, cell: Callable[[dict[str, Any]], str], compared: str = "") -> list[str]:
        return [label, *(cell(result[role]) for role in roles), *([compared] if ratio else [])]

    def own(label: str, cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return row(label, lambda of: cell(first) if of is result["student"] else "")

    cold = [row("  in a fresh process", lambda of: _shown(of, "first_frame_cold_s", _seconds))]
    title = "student" if len(result["settings"]) == 1 else f"student, {setting_label(first)}"
    return [
        ["", title, *roles[1:], *(["student : teacher"] if ratio else [])],
        row("first frame", lambda of: _shown(of, "first_frame_s", _seconds), _compared(ratio, "first_frame")),
        *(cold if result["student"]["first_frame_cold_s"] else []),
        row("frames per second", lambda of: _shown(of, "frames_per_s", _three), _compared(ratio, "frames_per_s")),
        own("  of the network alone", lambda of: _shown(of, "diffusion_frames_per_s", _three)),
        own("  of the decoder alone", lambda of: _shown(of, "decode_frames_per_s", _three)),
        own("a chunk, while the window fills", lambda of: _shown(of, "first_chunks_s", _seconds)),
        own("  once it is full", lambda of: _shown(of, "steady_chunk_s", _seconds)),
        row("peak memory", lambda of: _mebibytes(of["peak_memory_bytes"])),
    ]


def setting_rows(result: dict[str, Any]) -> list[list[str]]:
    """Every setting, a row for each, and a header; nothing for one alone."""
    settings = result["settings"]
    if len(settings) < 2:
        return []
    header = ["steps", "window", "frames/s", "network alone", "a chunk at first", "window full", "frames/s then"]
    body = [
        [
            str(each["steps"]),
            window_text(each),
            _median(each, "frames_per_s", _three),
            _median(each, "diffusion_frames_per_s", _three),
            _median(each, "first_chunks_s", _seconds),
            _shown(each, "steady_chunk_s", _seconds),
            _median(each, "steady_frames_per_s", _three),
            f"{_rate(each['network_flops_per_s'])} ({each['matrix_rate_share']:.1%})",
            _mebibytes(each["peak_memory_bytes"]),
        ]
        for each in settings
    ]
    return [[*header, "network's rate", "memory"], *body]


def footnotes(result: dict[str, Any]) -> list[str]:
    settings = result["settings"]
    parts = ", ".join(f"{label} {_shown(result['chunk'], name, _seconds)}" for name, label in PARTS.items())
    starts = [f"{told} {_shown(result, name, _seconds)}" for name, told in STARTS.items() if result[name]]
    warm_up = [f"{_seconds(each['warm_up_s'])} for {counted(each['warm_up_chunks'], 'chunk')}" for each in settings]
    notes = [
        ", ".join([*starts, f"warm-up {' + '.join(warm_up)}" if settings[0]["warm_up_chunks"] else "no warm-up"]),
        f"The student's network reaches {_shown(result, 'matrix_rate_share', '{:.1%}'.format)} "
        f"of this machine's matrix rate, {_rate(result['matrix_flops_per_s'])}.",
        f"A chunk: {parts}",
    ]
    if short := [each for each in settings if each["steady_chunk_s"] is None and each["window_frames"]]:
        chunks = max(each["first_steady_chunk"] for each in short) + 1
        notes.append(f"The clip is too short for a full window; --chunks {chunks} or more shows a long video's pace.")
    return notes


def setting_label(setting: dict[str, Any]) -> str:
    """What tells one setting from another: "4 steps, window 3 + 9", the sink first."""
    return f"{counted(setting['steps'], 'step')}, window {window_text(setting)}"


def window_text(setting: dict[str, Any]) -> str:
    """The sink, if there is one, and the frames after it."""
    sink, window = setting["sink_frames"], setting["window_frames"]
    if window is None:
        return "all"
    return f"{sink} + {window}" if sink else str(window)


def _shown(of: dict[str, Any], name: str, show: Callable[[float], str]) -> str:
    if of[name] is None:
        return NONE
    least, greatest = of["spread"][name]
    return f"{show(of[name])} ({show(least)} - {show(greatest)})"


def _median(of: dict[str, Any], name: str, show: Callable[[float], str]) -> str:
    return NONE if of[name] is None else show(of[name])


def _compared(ratio: dict[str, float] | None, name: str) -> str:
    if ratio is None:
        return ""
    value = ratio[name]
    return f"{_three(value)} : 1" if value >= 1 else f"1 : {_three(1 / value)}"


def _seconds(value: float) -> str:
    return f"{_three(value)} s" if value >= 1 else f"{_three(value * 1000)} ms"


def _rate(flops_per_s: float) -> str:
    tera = flops_per_s / 1e12
    return f"{_three(tera)} TFLOP/s" if tera >= 1 else f"{_three(tera * 1000)} GFLOP/s"


def _mebibytes(count: int | None) -> str:
    return NONE if count is None else f"{count / 2**20:.0f} MiB"


def _three(value: float) -> str:
    """Three digits: 0.123, 12.3, 1234."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
