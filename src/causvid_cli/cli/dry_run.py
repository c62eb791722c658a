"""`--dry-run`: what would be made, and what it takes.

Memory is told by arithmetic (`models/memory.py`). Of a small model the first chunks are made as well, and thrown away:
they tell how long it takes and how large the file gets. A large one, which would take minutes and many GB, is not
loaded.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from causvid_cli.cli import console
from causvid_cli.cli.stream import open_stream
from causvid_cli.cli.task import Task
from causvid_cli.models.memory import LARGEST_TRIED, Memory, estimate, networks_of
from causvid_cli.request import first_steps
from causvid_cli.units import bytes_text, counted, duration_text

if TYPE_CHECKING:
    from causvid_cli.pipeline import Pipeline

TRIED_CHUNKS = 4
"""The first is slower, the others tell the pace."""
LEAST_TOLD = 10_000_000
"""Bytes of a term of the memory that is worth a line."""


def show_dry_run(tasks: Sequence[Task], load: "Callable[[], Pipeline]", *, as_json: bool) -> None:
    """Print what each task comes to. load: gives the model. Raises DeviceError where there is too little memory."""
    first = tasks[0]
    facts, large = _memory(first)
    pipeline = None if large else load()
    for task in tasks:
        told = _plan(task) | facts | (_tried(task, pipeline) if pipeline else {})
        if as_json:
            console.result_json({"v": 1, "dry_run": True, **told})
            continue
        console.table(_rows(task, told))


def _memory(task: Task) -> tuple[dict[str, Any], bool]:
    """The device, and how much of its memory a video takes; also, whether the model is too large to be tried."""
    from causvid_cli.device import resolve_device, resolve_dtype
    from causvid_cli.models.load import fitting

    job = task.job
    device = resolve_device(job.device)
    dtype = resolve_dtype(job.dtype, device)
    loading, note = fitting(task.folder, task.facts, job.loading, task.video, device=device, dtype=dtype)
    if note:
        console.note(note)
    facts: dict[str, Any] = {"device": str(device), "memory": None}
    networks = networks_of(task.folder, task.facts, loading)
    if networks is None:
        return facts, False
    kind: Memory = "cuda" if device.type == "cuda" else "cpu"
    needed = estimate(networks, task.video, loading, dtype=str(dtype).removeprefix("torch."), device=kind)
    facts["memory"] = {name.replace(" ", "_"): size for name, size in needed.rows()}
    facts["memory"]["peak"] = needed.peak
    return facts, networks.weights > LARGEST_TRIED


def _plan(task: Task) -> dict[str, Any]:
    """What is asked, worked out."""
    job = task.job
    return {
        "output": task.name if task.seed_given else task.name.replace(str(job.seed), "SEED"),
        "command": job.command,
        "model": job.model.name,
        "vae": job.loading.vae,
        "frames": job.frames,
        "fps": float(job.rate),
        "size": job.size,
        "seed": job.seed if task.seed_given else None,
        "steps": job.steps,
        "chunks": None if job.frames is None else len(list(task.grid.chunks(job.made_frames))),
        "cues": [{"start_chunk": cue.start_chunk, "prompt": cue.prompt} for cue in job.cues],
    }


def _tried(task: Task, pipeline: "Pipeline") -> dict[str, Any]:
    """What making its first chunks measured."""
    from causvid_cli.device import peak_memory_bytes
    from causvid_cli.job.open import open_interpolator
    from causvid_cli.timecode import parse_size
    from causvid_cli.video import FragmentEncoder, VideoFormat

    job = task.job
    width, height = parse_size(job.size)
    encoder = FragmentEncoder(VideoFormat(width=width + width % 2, height=height + height % 2, fps=job.rate))
    show = task.input_media.show() if task.input_media else None
    interpolator = open_interpolator(job)
    seconds, latent_bytes, file_bytes, pictures = [], 0, 0, 0
    stream = open_stream(task, job, pipeline)
    stream.warm_up()
    clock = time.monotonic()
    for chunk in islice(stream, TRIED_CHUNKS):
        frames = show(chunk.frames) if show else chunk.frames
        if interpolator:
            frames = interpolator.add(frames, start=chunk.start_frame)
        if len(frames) and not (width % 2 or height % 2):
            file_bytes += len(encoder.encode(frames))
        pictures += len(frames)
        latent_bytes = chunk.latent.nbytes
        seconds.append(time.monotonic() - clock)
        clock = time.monotonic()
    later = min(seconds[1:] or seconds)
    chunks = None if job.frames is None else len(list(task.grid.chunks(job.made_frames)))
    whole = None if job.frames is None else round(file_bytes / max(pictures, 1) * job.frames)
    return {
        "read_as": list(stream.read_as),
        "notes": list(stream.notes),
        "first_frame_s": round(seconds[0], 4),
        "chunk_s": round(later, 4),
        "generate_s": None if chunks is None else round(seconds[0] + later * (chunks - 1), 2),
        "peak_memory_bytes": peak_memory_bytes(pipeline.device),
        "file_bytes": whole,
        "disk_bytes": None if whole is None or chunks is None else 2 * whole + latent_bytes * chunks,
    }


def _rows(task: Task, facts: dict[str, Any]) -> Iterator[tuple[str, object]]:
    job = task.job
    length = "until it is stopped"
    if job.frames is not None:
        length = f"{counted(job.frames, 'frame')}, {float(job.frames / job.rate):g} s"
    elif task.input_media is not None:
        length = f"as long as {task.input_media.name}"
    yield "would write", facts["output"]
    yield "model", f"{job.model.name} on {facts['device']}"
    width, height, times = job.made_size
    enlarged = f" ({width}x{height}, {times} times enlarged)" if times > task.facts.enlarge else ""
    yield "video", f"{job.size}{enlarged} at {float(job.rate):g} per second, {length}"
    others = f", the first {len(first)}" if (first := first_steps(job.steps, task.facts)) else ""
    yield "chunks", f"{facts['chunks'] or 'as many as it takes'}, {counted(job.steps, 'step')} each{others}"
    yield "seed", job.seed if task.seed_given else "a random one"
    if facts.get("read_as"):
        yield "read as", "; then: ".join(facts["read_as"])
    for note in facts.get("notes", ()):
        yield "note", note
    if task.snapped and len(task.snapped.report) > 1:
        for entry in task.snapped.report:
            yield "cue", str(entry).removeprefix("cue ")
    if "first_frame_s" in facts:
        yield "first frame", f"after {facts['first_frame_s']:.2f} s"
        yield "each chunk", f"{facts['chunk_s']:.3f} s"
    if facts.get("generate_s") is not None:
        yield "in all", f"about {duration_text(facts['generate_s'])}, without loading"
        yield "file", f"about {bytes_text(facts['file_bytes'])}"
        yield "disk", f"about {bytes_text(facts['disk_bytes'])} while it is made"
    if "peak_memory_bytes" in facts:
        yield "memory", f"{bytes_text(facts['peak_memory_bytes'])} at its peak so far"
    elif facts["memory"]:
        terms = dict(facts["memory"])
        yield "memory", f"about {bytes_text(terms.pop('peak'))} at its peak"
        for name, size in terms.items():
            if size >= LEAST_TOLD:
                yield name.replace("_", " "), bytes_text(size)
