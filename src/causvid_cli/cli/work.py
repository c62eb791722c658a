"""Checked tasks -> videos: made chunk by chunk, written, kept so that they can go on, reported."""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causvid_cli.cli import console
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.tasks import Task, check_output_of, existing
from causvid_cli.cli.versions import versions
from causvid_cli.errors import MediaError, OutputError
from causvid_cli.files import write_text
from causvid_cli.job.job import Job, journal_path
from causvid_cli.request import ENDLESS

if TYPE_CHECKING:
    from causvid_cli.job.recording import Earlier, Recording
    from causvid_cli.pipeline import ChunkResult, Pipeline, Stream
    from causvid_cli.video import Writer


@dataclass(slots=True, kw_only=True)
class Made:
    """A video that is made, and how it went."""

    job: Job
    """With the device and number format that were used."""
    output: Path | None
    frames: int = 0
    resumed_frames: int = 0
    """Of an earlier run, not made again."""
    first_frame_s: float = 0.0
    """From asking for the stream to holding the first frames."""
    generate_s: float = 0.0
    """From asking for the stream to having the last ones in the file: the network, the decoder and the encoder."""
    warm_up_s: float = 0.0
    """What --compile took before that."""
    peak_memory_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def pace(self) -> float:
        """Frames per second."""
        return (self.frames - self.resumed_frames) / self.generate_s if self.generate_s else 0.0


def run(tasks: Sequence[Task], *, started: float) -> None:
    """Make the videos and report each. started: when the command began, on the monotonic clock."""
    work = [(task, _earlier(task)) for task in tasks if check_output_of(task)]
    if work:
        _run(work, started=started)


def run_earlier(task: Task, earlier: "Earlier", *, started: float) -> None:
    """Go on with a video that was broken off."""
    if check_output_of(task):
        _run([(task, earlier)], started=started)


def _run(work: "Sequence[tuple[Task, Earlier | None]]", *, started: float) -> None:
    if work[0][0].making.preview:
        from causvid_cli.cli.preview import check_preview

        check_preview()
    first, _ = work[0]
    for problem in first.snapped.warnings if first.snapped else ():
        console.warning(str(problem))
    given = [*first.given.notes, *first.given.left_out(first.output)] if first.given else []
    for line in (*first.landed, *given):
        console.note(line)
    with console.progress(f"loading {first.facts.name}") as progress:
        if first.making.dry_run:
            from causvid_cli.cli.rehearsal import rehearse

            rehearse([task for task, _ in work], lambda: load_pipeline(first)[0], as_json=first.making.as_json)
            return
        pipeline, timings = load_pipeline(first)
        for line in pipeline.notes:
            console.note(line)
        for task, earlier in work:
            made = make_video(task, pipeline, progress, earlier)
            report(task, made, timings | {"total_s": time.monotonic() - started})


def load_pipeline(task: Task) -> tuple["Pipeline", dict[str, float]]:
    """The loaded model, and how long torch and the model took to load."""
    started = time.monotonic()
    from causvid_cli.device import resolve_device, resolve_dtype  # torch loads here
    from causvid_cli.pipeline import load

    imported = time.monotonic()
    resolve_dtype(task.job.dtype, resolve_device(task.job.device))  # before the model is read
    pipeline = load(
        task.folder or task.job.model.name,
        device=task.job.device,
        dtype=task.job.dtype,
        loading=task.job.loading,
        lora_files=task.lora_files,
        video=task.video,
    )
    loaded = time.monotonic()
    console.detail(
        f"{pipeline.facts.name} from {task.folder or 'random numbers'} on {pipeline.device} in {_dtype(pipeline)}; "
        f"libraries took {imported - started:.1f} s, the model {loaded - imported:.1f} s"
    )
    return pipeline, {"import_s": imported - started, "load_s": loaded - imported}


def make_video(task: Task, pipeline: "Pipeline", progress: console.Progress, earlier: "Earlier | None") -> Made:
    """Make one video; what stops it on the way leaves what was made so that `causvid resume` goes on with it."""
    from causvid_cli.device import peak_memory_bytes

    job = replace(task.job, device=str(pipeline.device), dtype=_dtype(pipeline))
    if earlier:
        job = earlier.job
    made = Made(job=job, output=task.output, resumed_frames=earlier.frames if earlier else 0)
    with interrupts.deferred(), ExitStack() as stack:
        recording = stack.enter_context(_recording(task, job, pipeline, earlier))
        sidecar = Sidecar() if task.making.sidecar else None
        show = _preview(task, stack)
        stream, writer = recording.stream, recording.writer
        made.notes = stream.notes
        for note in stream.notes:
            console.note(note)
        for line in stream.details:
            console.detail(line)
        progress.start(job.frames, done=made.resumed_frames, rate=float(job.rate), watch=_watch(writer, task))
        announce = _announcer(task, job, stream)
        made.warm_up_s = stream.warm_up()
        if made.warm_up_s:
            console.detail(f"compiled in {made.warm_up_s:.1f} s")
        started = time.monotonic()
        try:
            with closing(iter(recording)) as chunks:
                for chunk in chunks:
                    made.first_frame_s = made.first_frame_s or time.monotonic() - started
                    made.frames = recording.frames
                    progress.update(made.frames, cue=_cue_line(stream, chunk))
                    announce(chunk, made.frames, time.monotonic() - started)
                    if sidecar:
                        sidecar.add(chunk)
                    show(chunk)
                    if interrupts.received and made.frames != job.frames:
                        if task.is_endless:
                            break
                        raise KeyboardInterrupt
            made.frames = writer.frames_written  # one chunk more may have been at work
            made.generate_s = time.monotonic() - started
            recording.publish(keep_latents=task.making.keep_latents)
        except BaseException as error:
            _keep(error, task, recording)
            raise
        if sidecar:
            sidecar.write(task, job, made)
    if task.given and job.frames and made.frames < job.frames:
        console.note(f"{task.given.name} ended before --length {job.length}, and so does the video")
    made.peak_memory_bytes = peak_memory_bytes(pipeline.device)
    return made


@contextmanager
def _recording(task: Task, job: Job, pipeline: "Pipeline", earlier: "Earlier | None") -> Iterator["Recording"]:
    """The stream of a job on its way into its file."""
    from causvid_cli.job.journal import Journal
    from causvid_cli.job.recording import Recording

    given = task.given
    recipe = dict(earlier.journal.request["recipe"]) if earlier else job.recipe(versions())
    with _writer(task, job, recipe, earlier) as writer:
        journal = earlier.journal if earlier else None
        if journal is not None:
            journal.check_unchanged()  # it was read before the lock was ours
        elif task.output is not None and not task.is_live:
            journal = Journal.create(journal_path(task.output), {"recipe": recipe, "local": _local(task)})
        try:
            yield Recording(
                open_stream(task, job, pipeline, earlier),
                writer,
                journal=journal,
                known_chunks=earlier.chunks if earlier else 0,
                show=given.show() if given else None,
                beside=pipeline.gains_by_ahead and not task.is_live,
            )
        finally:
            if journal is not None:
                journal.close() if writer.frames_written or journal.chunks else journal.remove()


def open_stream(task: Task, job: Job, pipeline: "Pipeline", earlier: "Earlier | None" = None) -> "Stream":
    """The stream of a job."""
    from causvid_cli.job.recording import known_latents
    from causvid_cli.pipeline import GIVEN
    from causvid_cli.timecode import parse_size

    rate, given = job.rate, task.given
    return pipeline.stream(
        job.cues,
        length=ENDLESS if job.frames is None else f"{job.frames}f",
        size=parse_size(job.cells if job.input and job.input.keep_size else job.size),
        fps=rate,
        seed=job.seed,
        steps=job.steps,
        guidance=job.guidance,
        given=given.pictures(rate) if given else None,
        shows_given=task.grid.shows_given,
        source=given.source(rate) if given else None,
        strength=job.input.strength if job.input else None,
        made=known_latents(earlier, pipeline.device) if earlier else None,
        first_chunk=earlier.first_chunk(task.grid) if earlier else GIVEN,
        ahead=pipeline.gains_by_ahead and not task.is_live,  # live, a picture comes as soon as it can
    )


def _writer(task: Task, job: Job, recipe: dict[str, Any], earlier: "Earlier | None") -> "Writer":
    """What takes the frames."""
    from causvid_cli.media.probe import Chapter
    from causvid_cli.media.recipe import recipe_to_metadata
    from causvid_cli.timecode import parse_size
    from causvid_cli.video import open_pipe, open_writer

    width, height = parse_size(job.size)
    metadata = {} if task.making.no_metadata else recipe_to_metadata(recipe)
    if task.output is None:
        return open_pipe(
            sys.stdout.buffer,
            format=task.making.format or "mp4",
            width=width,
            height=height,
            fps=job.rate,
            metadata=metadata,
            lossless=job.lossless,
        )
    chapters = [Chapter(max(0, task.grid.start_picture(cue.start_chunk)), cue.title) for cue in job.cues]
    return open_writer(
        task.output,
        width=width,
        height=height,
        fps=job.rate,
        overwrite=task.making.overwrite,
        metadata=metadata,
        chapters=[replace(chapters[0], start_frame=0), *chapters[1:]] if len(chapters) > 1 else (),
        lossless=job.lossless,
        resume=earlier.restart if earlier and earlier.restart.frames else None,
        **(task.given.writing(task.output) if task.given else {}),
    )


def _earlier(task: Task) -> "Earlier | None":
    """What an earlier run of the same command left, to go on with.

    Raises OutputError when it is another video's, which only -y gives up.
    """
    if task.output is None or task.making.dry_run or not journal_path(task.output).exists():
        return None
    from causvid_cli.job.recording import find_earlier  # loads torch
    from causvid_cli.video import part_of

    part = part_of(task.output)
    if existing(task.output) and not part.exists():  # finished, and --keep-latents kept the journal
        return None
    try:
        earlier = find_earlier(task.output, part)
    except MediaError:
        if task.making.overwrite:
            return None
        raise
    if earlier is None:
        return None
    if earlier.job.is_asked_again_by(task.job, seed_given=task.seed_given):
        if earlier.chunks:
            console.note(f"going on with {part}, which has {earlier.frames} frames")
        return earlier
    earlier.journal.close()
    if task.making.overwrite or not earlier.chunks:
        return None
    raise OutputError(
        f"{part} holds {earlier.frames} frames of another video ({earlier.job.prompt!r}); "
        f"`causvid resume {shlex.quote(str(part))}` goes on with that, -y gives it up, or choose another -o"
    )


def _local(task: Task) -> dict[str, Any]:
    """Where a resumed run finds its things, and how it is to write: for this machine, not for the video."""
    given, making = task.given, task.making
    return {
        "model": str(task.folder.resolve()) if task.folder else None,
        "input": str(given.path.resolve()) if given and given.path else None,
        "loras": [str(path.resolve()) for path in task.lora_files],
        "tolerate_damage": bool(given and getattr(given, "tolerate_damage", False)),
        **{name: getattr(making, name) for name in ("overwrite", "no_metadata", "sidecar", "keep_latents")},
    }


def _watch(writer: "Writer", task: Task) -> Path | None:
    """The file that plays while it grows."""
    return writer.part_path if task.output is not None else None


def _cue_line(stream: "Stream", chunk: "ChunkResult") -> str:
    cues = stream.cues
    return f"cue {chunk.cue + 1} of {len(cues)}: {cues[chunk.cue].title}" if len(cues) > 1 else ""


def _announcer(task: Task, job: Job, stream: "Stream") -> "Callable[[ChunkResult, int, float], None]":
    """What --json-lines prints: `start` at once, then `chunk` for each."""
    if not task.making.json_lines:
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
        notes=list(stream.notes),
    )
    before: int | None = None

    def announce(chunk: "ChunkResult", frames: int, seconds: float) -> None:
        nonlocal before
        before = frames - len(chunk.frames) if before is None else before
        pace = (frames - before) / seconds if seconds else 0.0
        console.event(
            "chunk",
            chunk=chunk.index,
            start_frame=chunk.start_frame,
            frames=frames,
            cue=chunk.cue,
            seconds=round(chunk.seconds, 4),
            frames_per_s=round(pace, 2),
            eta_s=round((job.frames - frames) / pace, 1) if job.frames is not None and pace else None,
        )

    return announce


def _preview(task: Task, stack: ExitStack) -> "Callable[[ChunkResult], None]":
    """Shows chunks in the terminal, with --preview."""
    if not task.making.preview:
        return lambda chunk: None
    from causvid_cli.cli.preview import preview

    show = stack.enter_context(preview(task.job.rate))
    return lambda chunk: show(chunk.frames)


def _keep(error: BaseException, task: Task, recording: "Recording") -> None:
    """Say where that is which was made before an error; after Ctrl-C it is a video of its own as well."""
    writer = recording.writer
    if task.output is None or not writer.frames_written:
        return
    resume = "" if task.is_live else f"; `causvid resume {shlex.quote(str(writer.part_path))}` goes on"
    if isinstance(error, OutputError) and str(writer.part_path) in str(error):  # it says itself what is kept
        if resume:
            error.add_note(resume.removeprefix("; "))
        return
    total = f" of {task.job.frames}" if task.job.frames else ""
    place = writer.part_path
    if isinstance(error, KeyboardInterrupt) and not interrupts.raised:
        place = writer.publish_partial()
    error.add_note(f"{writer.frames_written}{total} frames are kept in {place}{resume}")


class Sidecar:
    """FILE.json: the recipe, how it went, and each chunk's time and hash, to compare two runs by."""

    def __init__(self) -> None:
        self._chunks: list[dict[str, Any]] = []

    def add(self, chunk: "ChunkResult") -> None:
        latent = chunk.latent.cpu().contiguous()
        self._chunks.append(
            {
                "chunk": chunk.index,
                "start_frame": chunk.start_frame,
                "frames": len(chunk.frames),
                "seconds": round(chunk.seconds, 4),
                "latent_sha256": hashlib.sha256(latent.numpy().tobytes()).hexdigest(),
            }
        )

    def write(self, task: Task, job: Job, made: Made) -> None:
        """Raises OutputError."""
        assert task.output is not None
        path = task.output.with_name(task.output.name + ".json")
        content = {
            "v": 1,
            "output": task.output.name,
            "recipe": job.recipe(versions()),
            "first_frame_s": round(made.first_frame_s, 4),
            "generate_s": round(made.generate_s, 4),
            "resumed_frames": made.resumed_frames,
            "chunks": self._chunks,
        }
        try:
            write_text(path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise OutputError(f"{path}: {(error.strerror or str(error)).lower()}; the video itself is whole") from error


def report(task: Task, made: Made, timings: dict[str, float]) -> None:
    """The result on stdout; a line for people on stderr.

    As JSON: v (of this object), output (path), frames, fps, size, seed, model, notes (what was not understood);
    resumed_frames (of an earlier run), first_frame_s and generate_s (`Made`), frames_per_s (made / generate_s),
    warm_up_s (what --compile took before that), import_s (torch), load_s (the model), total_s (the whole command),
    peak_memory_bytes.
    """
    job, resumed = made.job, made.resumed_frames
    went_on = f", {resumed} of them made before" if resumed else ""
    new = "new " if task.given and task.given.kind == "clip" else ""
    if not console.voice.quiet:
        console.message(
            f"{made.frames} {new}frames, {job.size}, {float(made.frames / job.rate):.1f} s at {float(job.rate):g} fps, "
            f"seed {job.seed}{went_on}: first frame after {made.first_frame_s:.2f} s, {made.pace:.3g} frames per second"
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
        "resumed_frames": resumed,
        "first_frame_s": round(made.first_frame_s, 4),
        "generate_s": round(made.generate_s, 4),
        "frames_per_s": round(made.pace, 2),
        "warm_up_s": round(made.warm_up_s, 3),
        **{name: round(seconds, 3) for name, seconds in timings.items()},
        "peak_memory_bytes": made.peak_memory_bytes,
        "notes": list(made.notes),
    }
    if task.making.json_lines:
        console.event("done", **result)
    elif task.making.as_json:
        console.result_json({"v": 1, **result})
    else:
        console.result(str(task.output))


def _dtype(pipeline: "Pipeline") -> str:
    return str(pipeline.dtype).removeprefix("torch.")
