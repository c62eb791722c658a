"""Checked tasks -> videos: made chunk by chunk, written, kept so that they can go on, reported."""

import shlex
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from causvid_cli.cli import console, torchrun
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.other_models import who_shows_more
from causvid_cli.cli.progress import Progress, show_progress
from causvid_cli.cli.report import (
    Sidecar,
    VideoResult,
    announcer,
    cue_line,
    open_preview,
    report,
    step_reporter,
    watched,
)
from causvid_cli.cli.stream import find_earlier_run, find_named, open_recording
from causvid_cli.cli.task import Task, check_output_of
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.extras import staying
from causvid_cli.models.catalogue import length_warning
from causvid_cli.units import counted

if TYPE_CHECKING:
    from causvid_cli.job.recording import Earlier, Recording
    from causvid_cli.pipeline import Pipeline
    from causvid_cli.sampling.together import Together

STOPPING = "stopping after this chunk; Ctrl-C again stops now"


_planned: ContextVar[list[Task] | None] = ContextVar("planned", default=None)


@contextmanager
def planning() -> Iterator[list[Task]]:
    """Inside, commands check what they are asked, and add to this list the tasks that they would carry out."""
    tasks: list[Task] = []
    token = _planned.set(tasks)
    try:
        yield tasks
    finally:
        _planned.reset(token)


def planned(root: Any, arguments: Sequence[str]) -> Task:
    """The task of a command line for one video, checked as the command itself checks it. root: the `causvid` command.

    Raises CausvidError, also for what typer complains about.
    """
    try:
        with planning() as tasks, root.make_context("causvid", list(arguments)) as context:
            root.invoke(context)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's and click's usage errors share no public class
            said = " ".join(error.format_message().split())
            raise UsageError(said[:1].lower() + said[1:]) from None
        raise
    return tasks[0]


def run(tasks: Sequence[Task], *, started: float) -> None:
    """Make the videos and report each. started: when the command began, on the monotonic clock."""
    if (planned := _planned.get()) is not None:
        planned.extend(tasks)
        return
    work = []
    for task in tasks:
        named = find_named(task)
        if named is not None and check_output_of(task, named):
            work.append((task, find_earlier_run(task)))
    if work:
        _run(work, started=started)


def run_earlier(task: Task, earlier: "Earlier", *, started: float) -> None:
    """Go on with a video that was broken off."""
    earlier.journal.check_latents(task.latent_shape)
    if check_output_of(task, earlier.named):
        _run([(task, earlier)], started=started)


def _run(work: "Sequence[tuple[Task, Earlier | None]]", *, started: float) -> None:
    if work[0][0].options.preview:
        from causvid_cli.cli.preview import check_preview

        check_preview()
    first, _ = work[0]
    for problem in first.snapped.warnings if first.snapped else ():
        console.warning(str(problem))
    for line in dict.fromkeys(length_warning(task.facts, task.job.frames) for task, _ in work):
        if line:
            console.warning(line)
    given = [*first.input_media.notes, *first.input_media.left_out(first.output)] if first.input_media else []
    for line in (*first.chosen, *first.decoded, *first.landed, *first.retimed, *first.sounds, *given):
        console.note(line)
    with show_progress(f"loading {first.facts.name}") as progress:
        if first.options.dry_run:
            from causvid_cli.cli.dry_run import show_dry_run

            show_dry_run([task for task, _ in work], lambda: load_pipeline(first)[0], as_json=first.options.as_json)
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
    with staying():
        from causvid_cli.device import resolve_device, resolve_dtype, use_threads  # torch loads here
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
        vae_device=task.options.vae_device,
        join=torchrun.join,
    )
    if pipeline.model.processes:
        pipeline.model.processes.tell(task.options.threads)
    use_threads(task.options.threads, is_small=pipeline.model.is_small, device=pipeline.device)
    loaded = time.monotonic()
    console.detail(
        f"{pipeline.facts.name} from {task.folder or 'random numbers'} on {pipeline.device} in {_dtype(pipeline)}; "
        f"libraries took {imported - started:.1f} s, the model {loaded - imported:.1f} s"
    )
    return pipeline, {"import_s": imported - started, "load_s": loaded - imported}


def make_video(task: Task, pipeline: "Pipeline", progress: Progress, earlier: "Earlier | None") -> VideoResult:
    """Make one video; what stops it on the way leaves what was made so that `causvid resume` goes on with it."""
    making = steps_of_video(task, pipeline, progress, earlier)
    while True:
        try:
            next(making)
        except StopIteration as done:
            return done.value


def steps_of_video(
    task: Task,
    pipeline: "Pipeline",
    progress: Progress,
    earlier: "Earlier | None",
    *,
    together: "Together | None" = None,
    keep_partial: bool = True,
) -> Generator[None, None, VideoResult]:
    """Make one video step by step: its file is opened, then a chunk is made in each step.

    together: a roll-out that it shares with others, which are to be opened before its first chunk is made.
    keep_partial: whether what was made until Ctrl-C becomes a video of its own as well.
    """
    from causvid_cli.device import peak_memory_bytes

    job = replace(task.job, device=str(pipeline.device), dtype=_dtype(pipeline))
    if earlier:
        job = earlier.job
    made = VideoResult(job=job, output=task.output, resumed_frames=earlier.frames if earlier else 0)
    with interrupts.deferred(lambda: console.note(STOPPING)), ExitStack() as stack:
        recording = stack.enter_context(open_recording(task, job, pipeline, earlier, together))
        sidecar = Sidecar(job) if task.options.sidecar else None
        show = open_preview(task, stack)
        stream, writer = recording.stream, recording.writer
        made.notes, made.read_as = stream.notes, stream.read_as
        if stream.read_as:
            console.note(f"read as: {'; then: '.join(stream.read_as)}")
        if task.folder and stream.notes:
            more = who_shows_more([cue.prompt for cue in job.cues], pipeline.facts, task.folder)
            made.notes = (*made.notes, more) if more else made.notes
        for note in made.notes:
            console.note(note)
        for line in stream.details:
            console.detail(line)
        progress.start(job.frames, done=made.resumed_frames, rate=float(job.rate), watch=watched(writer, task))
        stream.on_step = step_reporter(task, stream.plan, progress)
        announce = announcer(task, job, stream, before=writer.frames_written)
        made.warm_up_s = stream.warm_up()
        if made.warm_up_s:
            console.detail(f"compiled in {made.warm_up_s:.1f} s")
        yield
        started = time.monotonic()
        try:
            with closing(iter(recording)) as chunks:
                for chunk in chunks:
                    made.first_frame_s = made.first_frame_s or time.monotonic() - started
                    made.frames = recording.frames
                    progress.update(made.frames, cue=cue_line(stream, chunk))
                    announce(chunk, made.frames, time.monotonic() - started)
                    if sidecar:
                        sidecar.add(chunk)
                    show(chunk)
                    if interrupts.received and made.frames != job.frames:
                        if task.is_endless:
                            break
                        raise KeyboardInterrupt
                    yield
            made.frames = writer.frames_written  # one chunk more may have been at work
            made.generate_s = time.monotonic() - started
            recording.publish(sidecar=sidecar.text(task, job, made) if sidecar else None)
        except BaseException as error:
            _keep(error, task, recording, as_partial=keep_partial)
            raise
        try:
            recording.clean_up(keep_latents=task.options.keep_latents)
        except OutputError as error:
            if recording.journal is not None:
                error.add_note(f"`causvid resume {shlex.quote(str(task.output))}` tries again")
            raise
    if task.input_media and job.frames and made.frames < job.frames:
        console.note(f"{task.input_media.name} ended before --length {job.length}, and so does the video")
    made.peak_memory_bytes = peak_memory_bytes(pipeline.device)
    return made


def _keep(error: BaseException, task: Task, recording: "Recording", *, as_partial: bool) -> None:
    """Say where that is which was made before an error; after Ctrl-C it is a video of its own as well."""
    writer = recording.writer
    if task.output is None or not writer.frames_written:
        return
    resume = "" if task.is_live else f"; `causvid resume {shlex.quote(str(writer.part_path))}` goes on"
    if isinstance(error, OutputError) and str(writer.part_path) in str(error):  # it says itself what is kept
        if resume:
            error.add_note(resume.removeprefix("; "))
        return
    if not writer.keeps_part:
        error.add_note(f"{writer.part_path} was removed meanwhile{resume}")
        return
    kept_in = writer.part_path
    if as_partial and isinstance(error, KeyboardInterrupt) and not interrupts.raised:
        kept_in = writer.publish_partial()
    written, total = writer.frames_written, task.job.frames
    frames = f"{written} of {counted(total, 'frame')}" if total else counted(written, "frame")
    error.add_note(f"{frames} {'is' if written == 1 else 'are'} kept in {kept_in}{resume}")


def _dtype(pipeline: "Pipeline") -> str:
    return str(pipeline.dtype).removeprefix("torch.")
