"""What a user is told of a video while it is made and when it is."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causvid_cli.cli import console
from causvid_cli.cli.progress import Progress
from causvid_cli.cli.task import Task
from causvid_cli.config import to_json
from causvid_cli.job.job import Job
from causvid_cli.units import counted
from causvid_cli.versions import versions

if TYPE_CHECKING:
    from causvid_cli.geometry import Chunk
    from causvid_cli.pipeline import ChunkResult, Stream
    from causvid_cli.sampling.plan import Plan
    from causvid_cli.sampling.rollout import OnStep
    from causvid_cli.video import Writer


@dataclass(slots=True, kw_only=True)
class VideoResult:
    """How the making of one video went, from a first chunk to a published file."""

    job: Job
    """With the device and number format that were used."""
    output: Path | None
    frames: int = 0
    resumed_frames: int = 0
    """Frames of an earlier run, which were not made again."""
    first_frame_s: float = 0.0
    """From asking for the stream to holding the first frames."""
    generate_s: float = 0.0
    """From asking for the stream to having the last ones in the file: the network, the decoder and the encoder."""
    warm_up_s: float = 0.0
    """What --compile took before that."""
    peak_memory_bytes: int = 0
    notes: tuple[str, ...] = ()
    read_as: tuple[str, ...] = ()
    """How each prompt was read; empty for a model that takes any text."""

    @property
    def pace(self) -> float:
        """Frames that the model made, per second."""
        made = (self.frames - self.resumed_frames) * self.job.retiming.made / self.job.rate
        return float(made) / self.generate_s if self.generate_s else 0.0


def watched(writer: "Writer", task: Task) -> Path | None:
    """The file that plays while it grows."""
    return writer.part_path if task.output is not None else None


def step_reporter(task: Task, plan: "Plan", progress: Progress) -> "OnStep":
    """What tells a progress bar of each denoising step."""
    grid, job = task.grid, task.job
    chunks = "" if job.made_frames is None else f" of {grid.chunk_of(job.made_frames - 1) + 1}"

    def on_step(chunk: "Chunk", done: int) -> None:
        steps = len(plan.steps_of(chunk))
        start, end = (job.retiming.shown_until(grid.first_frame(index)) for index in (chunk.index, chunk.index + 1))
        text = f"chunk {chunk.index + 1}{chunks}, step {min(done + 1, steps)} of {steps}"
        progress.step(text, made=(end - start) * min(done, steps) / steps)  # the first of a shot may take more

    return on_step


def cue_line(stream: "Stream", chunk: "ChunkResult") -> str:
    cues = stream.cues
    return f"cue {chunk.cue + 1} of {len(cues)}: {cues[chunk.cue].title}" if len(cues) > 1 else ""


def announcer(task: Task, job: Job, stream: "Stream", *, before: int) -> "Callable[[ChunkResult, int, float], None]":
    """What --json-lines prints: `start` at once, then `chunk` for each. before: frames that are there already."""
    if not task.options.json_lines:
        return lambda chunk, frames, seconds: None
    console.event(
        "start",
        output=task.name,
        frames=job.frames,
        fps=float(job.rate),
        size=job.size,
        seed=job.seed,
        model=job.model.name,
        cues=[{"start_chunk": cue.start_chunk, "prompt": cue.prompt} for cue in job.cues],
        read_as=list(stream.read_as),
        notes=list(stream.notes),
    )

    def announce(chunk: "ChunkResult", frames: int, seconds: float) -> None:
        pace = (frames - before) / seconds if seconds else 0.0
        console.event(
            "chunk",
            chunk=chunk.index,
            start_frame=job.retiming.shown_until(chunk.start_frame),
            frames=frames,
            cue=chunk.cue,
            seconds=round(chunk.seconds, 4),
            frames_per_s=round(pace, 2),
            eta_s=round((job.frames - frames) / pace, 1) if job.frames is not None and pace else None,
        )

    return announce


def open_preview(task: Task, stack: ExitStack) -> "Callable[[ChunkResult], None]":
    """Shows chunks in the terminal, with --preview."""
    if not task.options.preview:
        return lambda chunk: None
    from causvid_cli.cli.preview import preview

    show = stack.enter_context(preview(task.job.retiming.made))
    return lambda chunk: show(chunk.frames)


class Sidecar:
    """FILE.json: the recipe, how it went, and each chunk's time and hash, to compare two runs by."""

    def __init__(self, job: Job) -> None:
        self._retiming = job.retiming
        self._chunks: list[dict[str, Any]] = []

    def add(self, chunk: "ChunkResult") -> None:
        import torch  # here, so that a mistake is told at once

        latent = chunk.latent.cpu().contiguous().view(torch.uint8)  # numpy knows no bfloat16
        start, end = map(self._retiming.shown_until, (chunk.start_frame, chunk.start_frame + len(chunk.frames)))
        self._chunks.append(
            {
                "chunk": chunk.index,
                "start_frame": start,
                "frames": end - start,
                "seconds": round(chunk.seconds, 4),
                "latent_sha256": hashlib.sha256(latent.numpy().tobytes()).hexdigest(),
            }
        )

    def text(self, task: Task, job: Job, made: VideoResult) -> str:
        """What the file holds once the last frame is made."""
        assert task.output is not None
        content = {
            "v": 1,
            "output": task.output.name,
            "recipe": job.recipe(versions()),
            "first_frame_s": round(made.first_frame_s, 4),
            "generate_s": round(made.generate_s, 4),
            "resumed_frames": made.resumed_frames,
            "read_as": list(made.read_as),
            "chunks": self._chunks,
        }
        return to_json(content, indent=1) + "\n"


def report(task: Task, made: VideoResult, timings: dict[str, float]) -> None:
    """The result on stdout; a line for people on stderr.

    As JSON: v (of this object), output (path), frames, fps, size, seed, model, vae (which of its VAEs); read_as (how
    each prompt was read, by a model that can tell) and notes (what was not understood); resumed_frames (of an earlier
    run), first_frame_s and generate_s (`VideoResult`), frames_per_s (made / generate_s), warm_up_s (what --compile took
    before that), import_s (torch), load_s (the model), total_s (the whole command), peak_memory_bytes.
    """
    job, resumed = made.job, made.resumed_frames
    went_on = f", {resumed} of them made before" if resumed else ""
    new = "new " if task.input_media and task.input_media.kind == "clip" else ""
    if not console.voice.quiet:
        console.message(
            f"{counted(made.frames, f'{new}frame')}, {job.size}, {float(made.frames / job.rate):.1f} s at "
            f"{float(job.rate):g} fps, seed {job.seed}{went_on}: first frame after {made.first_frame_s:.2f} s, "
            f"{made.pace:.3g} frames per second"
        )
    if task.output is None:
        return
    result = {
        "output": str(task.output),
        "frames": made.frames,
        "fps": float(job.rate),
        "size": job.size,
        "seed": job.seed,
        "model": job.model.name,
        "vae": job.loading.vae,
        "resumed_frames": resumed,
        "first_frame_s": round(made.first_frame_s, 4),
        "generate_s": round(made.generate_s, 4),
        "frames_per_s": round(made.pace, 2),
        "warm_up_s": round(made.warm_up_s, 3),
        **{name: round(seconds, 3) for name, seconds in timings.items()},
        "peak_memory_bytes": made.peak_memory_bytes,
        "read_as": list(made.read_as),
        "notes": [*task.chosen, *made.notes],
    }
    if task.options.json_lines:
        console.event("done", **result)
    elif task.options.as_json:
        console.result_json({"v": 1, **result})
    else:
        console.result(str(task.output))
