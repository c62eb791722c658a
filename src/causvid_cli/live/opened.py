"""A live session for a program: a prompt, perhaps a file for the video, and a thread that makes it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Literal

from causvid_cli.geometry import ChunkGrid
from causvid_cli.job.inputs import InputMedia
from causvid_cli.job.job import Job, ModelUsed, journal_path
from causvid_cli.job.journal import Journal
from causvid_cli.job.open import chapters_of, metadata_of
from causvid_cli.live.clock import Clock
from causvid_cli.live.keep import check_script_free
from causvid_cli.live.keys import Keys
from causvid_cli.live.session import Live
from causvid_cli.models.packs import pack_digest
from causvid_cli.pipeline import Pipeline
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import ENDLESS, check_size, check_steps
from causvid_cli.sampling.plan import GenerateOptions
from causvid_cli.script import ScriptKey
from causvid_cli.versions import versions
from causvid_cli.video import PipeWriter, VideoFormat, Writer, open_writer

LIVE = GenerateOptions(length=ENDLESS)


@contextmanager
def open_live(
    pipeline: Pipeline,
    prompt: str | Sequence[Cue],
    output: str | Path | None = None,
    *,
    given: InputMedia | None = None,
    options: GenerateOptions = LIVE,
    pace: Literal["real", "fast"] = "real",
    latency: float | None = None,
    keys: Mapping[str, ScriptKey | str] | None = None,
    overwrite: bool = False,
    **changes: Any,
) -> Iterator[Live]:
    """A live session; leave the block to give the video and its script their names.

        with open_live(pipeline, "a red car moves left in the snow", "car.mp4") as live, running(live):
            live.send("it jumps")

    output: a file of any kind that `causvid t2v` writes; None keeps no video, only its script can be had. given: the
    photo, clip or source that it begins from (`job.inputs`). pace: real makes it as fast as it is shown, fast as fast
    as can be. latency: how many seconds ahead of what is shown it is made, at most. keys: what each is bound to,
    a prompt or more. changes: single options, by name.
    """
    options = replace(options, **changes)
    path = None if output is None else Path(output)
    check_script_free(path, overwrite=overwrite)
    cues = (Cue(prompt=prompt),) if isinstance(prompt, str) else tuple(prompt)
    job, grid = _job(pipeline, cues, options, given, path)
    with ExitStack() as stack:
        writer, journal = _kept(job, grid, given, path, stack, overwrite=overwrite)
        model = str(pipeline.folder) if pipeline.folder else job.model.name
        clock = Clock(real=pace == "real", lead=latency)
        bound = {name: ScriptKey(prompt=key) if isinstance(key, str) else key for name, key in (keys or {}).items()}
        live = Live(
            pipeline,
            job,
            grid,
            writer,
            journal,
            given=given,
            model=model,
            clock=clock,
            keys=Keys(bound),
            versions=versions(),
        )
        yield live
        if writer.frames_written:
            live.finish()


@contextmanager
def running(live: Live) -> Iterator[Thread]:
    """Inside, a thread makes the video; it is told to quit at the end. What went wrong there is raised here."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            live.run()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, name="causvid live", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        live.send({"quit": True})
        thread.join()
    for error in failed:
        raise error


def _job(
    pipeline: Pipeline, cues: tuple[Cue, ...], options: GenerateOptions, given: InputMedia | None, output: Path | None
) -> tuple[Job, ChunkGrid]:
    facts, codec = pipeline.facts, pipeline.codec.facts
    fps = options.fps or pipeline.fps
    if given is not None:
        given.check(facts, codec, size=options.size, fps=fps, output=output)
        cells, size = given.cells, given.size
    else:
        width, height, times = check_size(options.size, facts)
        cells, size = (width, height), (width * times, height * times)
    plan = pipeline.plan(options, strength=given.used.strength if given else None, size=None if given else options.size)
    grid = replace(
        plan.grid,
        given_frames=given.latent_frames if given else 0,
        shows_given=given is not None and given.kind == "photo",
    )
    job = Job(
        command="live",
        cues=cues,
        model=ModelUsed(name=facts.name, sha256=pack_digest(facts)),
        input=given.used if given else None,
        length=str(options.length),
        frames=plan.frames,
        fps=str(fps),
        size="{}x{}".format(*size),
        cells="{}x{}".format(*cells),
        seed=plan.seed,
        steps=check_steps(options.steps, facts),
        guidance=options.guidance,
        device=str(pipeline.device),
        dtype=str(pipeline.dtype).removeprefix("torch."),
    )
    return job, grid


def _kept(
    job: Job, grid: ChunkGrid, given: InputMedia | None, output: Path | None, stack: ExitStack, *, overwrite: bool
) -> tuple[Writer, Journal]:
    """What takes the frames, and the journal, both until the stack ends."""
    width, height = map(int, job.size.split("x"))
    video = VideoFormat(
        width=width,
        height=height,
        fps=job.rate,
        metadata=metadata_of(job, versions()),
        chapters=chapters_of(job, grid),
        encoding=given.encoding if given else None,
    )
    if output is not None:
        finish = given.finish(output, None) if given else None
        writer: Writer = stack.enter_context(open_writer(output, video, overwrite=overwrite, finish=finish))
        journal = Journal.create(journal_path(output), {})
        stack.callback(journal.close)
    else:
        nowhere = stack.enter_context(open(os.devnull, "wb", buffering=0))
        writer = PipeWriter(nowhere, video, format="rawvideo")
        journal = stack.enter_context(passing_journal())
    return writer, journal


@contextmanager
def passing_journal() -> Iterator[Journal]:
    """A journal that is for going back only: a pipe's, which nobody resumes."""
    with TemporaryDirectory(prefix="causvid-live-") as folder:
        journal = Journal.create(Path(folder) / "live.journal", {})
        try:
            yield journal
        finally:
            journal.close()
