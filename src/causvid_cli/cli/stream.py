"""A task -> its stream and the file it goes into, taken up where an earlier run left it."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from causvid_cli.cli import console
from causvid_cli.cli.task import Task, existing
from causvid_cli.errors import MediaError, OutputError, UsageError
from causvid_cli.job.job import Job, journal_path
from causvid_cli.units import counted
from causvid_cli.versions import versions

if TYPE_CHECKING:
    from causvid_cli.job.recording import Earlier, Recording
    from causvid_cli.pipeline import Pipeline, Stream
    from causvid_cli.sampling.together import Together
    from causvid_cli.video import Writer


@contextmanager
def open_recording(
    task: Task, job: Job, pipeline: "Pipeline", earlier: "Earlier | None", together: "Together | None" = None
) -> Iterator["Recording"]:
    """The stream of a job on its way into its file. together: the roll-out that it shares with others."""
    from causvid_cli.job.journal import Journal
    from causvid_cli.job.open import open_interpolator
    from causvid_cli.job.recording import Recording

    given = task.input_media
    recipe = dict(earlier.journal.request["recipe"]) if earlier else job.recipe(versions())
    with open_output(task, job, recipe, earlier) as writer:
        journal = earlier.journal if earlier else None
        if journal is not None:
            journal.check_unchanged()  # it was read before the lock was ours
        elif task.output is not None and not task.is_live:
            journal = Journal.create(journal_path(task.output), request_of(task, recipe))
        try:
            yield Recording(
                open_stream(task, job, pipeline, earlier, together),
                writer,
                journal=journal,
                known_chunks=earlier.chunks if earlier else 0,
                show=given.show() if given else None,
                interpolator=open_interpolator(job, start_frame=writer.frames_written),
                beside=pipeline.benefits_from_prefetch and not task.is_live,
            )
        finally:
            if journal is not None:
                journal.close() if writer.frames_written or journal.chunks else journal.remove()


def open_stream(
    task: Task,
    job: Job,
    pipeline: "Pipeline",
    earlier: "Earlier | None" = None,
    together: "Together | None" = None,
) -> "Stream":
    """The stream of a job. Raises UsageError for a prompt of which nothing was understood, with --strict."""
    from causvid_cli.job.open import open_stream as stream_of
    from causvid_cli.job.recording import known_latents
    from causvid_cli.pipeline import GIVEN

    stream = stream_of(
        job,
        pipeline,
        task.grid,
        task.input_media,
        made=known_latents(earlier.journal, pipeline.device) if earlier else None,
        first_chunk=earlier.first_chunk(task.grid) if earlier else GIVEN,
        ahead=pipeline.benefits_from_prefetch and not task.is_live,  # live, a picture comes as soon as it can
        together=together,
    )
    if task.options.strict:
        for prompt, notes in stream.not_understood.items():
            raise UsageError(f"--strict: nothing of {prompt!r} was understood: {'; '.join(notes)}")
    return stream


def open_output(task: Task, job: Job, recipe: dict[str, Any], earlier: "Earlier | None") -> "Writer":
    """What takes the frames."""
    from causvid_cli.job.open import chapters_of
    from causvid_cli.media.recipe import recipe_to_metadata
    from causvid_cli.timecode import parse_size
    from causvid_cli.video import PipeWriter, VideoFormat, open_writer

    width, height = parse_size(job.size)
    video = VideoFormat(
        width=width,
        height=height,
        fps=job.rate,
        metadata={} if task.options.no_metadata else recipe_to_metadata(recipe),
        chapters=chapters_of(job, task.grid),
        lossless=job.lossless,
        soundtrack=task.soundtrack,
        encoding=task.input_media.encoding if task.input_media else None,
    )
    if task.output is None:
        return PipeWriter(sys.stdout.buffer, video, format=task.options.format or "mp4")
    return open_writer(
        task.output,
        video,
        overwrite=task.options.overwrite,
        named=earlier.named if earlier else (),
        resume=earlier.restart if earlier and earlier.restart.frames else None,
        finish=task.input_media.finish(task.output, task.soundtrack) if task.input_media else None,
    )


def find_named(task: Task) -> "frozenset[str] | None":
    """The files that an earlier run of the same command had given their names before it was killed.

    None when these are all of the video: then what it left is cleaned up now.
    """
    if task.output is None or task.options.dry_run:
        return frozenset()
    if not os.path.exists(journal_path(task.output)) or not existing(task.output):
        return frozenset()
    from causvid_cli.job.recording import find_earlier  # loads torch
    from causvid_cli.video import part_of

    try:
        earlier = find_earlier(task.output, part_of(task.output))
    except MediaError:  # and whether what is there may go is another question
        return frozenset()
    if earlier is None:
        return frozenset()
    same = earlier.job.is_asked_again_by(task.job, seed_given=task.seed_given)
    if same and earlier.is_finished and earlier.clean_up(task.output):
        console.note(f"{task.output} is finished: nothing to resume")
        return None
    earlier.journal.close()
    return earlier.named if same else frozenset()


def find_earlier_run(task: Task) -> "Earlier | None":
    """What an earlier run of the same command left, to go on with.

    Raises OutputError when it is another video's, which only -y gives up.
    """
    if task.output is None or task.options.dry_run or not journal_path(task.output).exists():
        return None
    from causvid_cli.job.recording import find_earlier  # loads torch
    from causvid_cli.video import part_of

    part = part_of(task.output)
    if existing(task.output) and not part.exists():  # finished, and --keep-latents kept the journal
        return None
    try:
        earlier = find_earlier(task.output, part)
    except MediaError:
        if task.options.overwrite:
            return None
        raise
    if earlier is None:
        return None
    if earlier.job.is_asked_again_by(task.job, seed_given=task.seed_given):
        earlier.journal.check_latents(task.latent_shape)
        if earlier.chunks:
            console.note(f"going on with {part}, which has {counted(earlier.frames, 'frame')}")
        return earlier
    earlier.journal.close()
    if task.options.overwrite or not earlier.chunks:
        return None
    raise OutputError(
        f"{part} holds {counted(earlier.frames, 'frame')} of another video ({earlier.job.prompt!r}); "
        f"`causvid resume {shlex.quote(str(part))}` goes on with that, -y gives it up, or choose another -o"
    )


def request_of(task: Task, recipe: dict[str, Any]) -> dict[str, Any]:
    """What a journal begins with: the recipe, where its things lie on this machine, and this user's seal."""
    from causvid_cli.job.recording import Local
    from causvid_cli.job.seal import seal_of

    given, options = task.input_media, task.options
    local = Local(
        model=str(task.folder.resolve()) if task.folder else None,
        input=str(given.path.resolve()) if given and given.path else None,
        audio=str(task.soundtrack.path.resolve()) if task.soundtrack else None,
        loras=tuple(str(path.resolve()) for path in task.lora_files),
        tolerate_damage=bool(given and getattr(given, "tolerate_damage", False)),
        overwrite=options.overwrite,
        no_metadata=options.no_metadata,
        sidecar=options.sidecar,
        keep_latents=options.keep_latents,
    )
    request = {"recipe": recipe, "local": asdict(local) | {"loras": list(local.loras)}}
    return request | {"seal": seal_of(request)}
