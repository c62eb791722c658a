"""A job -> what makes and writes it: its stream, what brings its frames to the file's rate, what its file tells."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from causvid_cli.geometry import ChunkGrid
from causvid_cli.job.inputs import InputMedia
from causvid_cli.job.job import Job
from causvid_cli.media.probe import Chapter
from causvid_cli.media.recipe import recipe_to_metadata
from causvid_cli.pipeline import GIVEN, Pipeline, Stream
from causvid_cli.request import ENDLESS
from causvid_cli.video import Interpolator

if TYPE_CHECKING:
    from causvid_cli.sampling.rollout import Latents
    from causvid_cli.sampling.together import Together


def open_stream(
    job: Job,
    pipeline: Pipeline,
    grid: ChunkGrid,
    given: InputMedia | None,
    *,
    made: "Latents | None" = None,
    first_chunk: int = GIVEN,
    known_chunks: int = 0,
    ahead: bool = False,
    together: "Together | None" = None,
) -> Stream:
    """The stream of a job. made, first_chunk, known_chunks: what an earlier run has of it; all as `Pipeline.stream`."""
    rate = job.retiming.made
    return pipeline.stream(
        job.cues,
        length=ENDLESS if job.made_frames is None else f"{job.made_frames}f",
        size=job.made_size,
        fps=rate,
        seed=job.seed,
        steps=job.steps,
        rope=job.rope,
        guidance=job.guidance,
        given=given.frames(rate) if given else None,
        given_cue=job.input.cue if job.input else None,
        shows_given=grid.shows_given,
        source=given.source(rate) if given else None,
        strength=job.input.strength if job.input else None,
        made=made,
        first_chunk=first_chunk,
        known_chunks=known_chunks,
        ahead=ahead,
        together=together,
    )


def open_interpolator(job: Job, *, start_frame: int = 0) -> Interpolator | None:
    """What brings the model's frames to the file's rate, where that is another; start_frame: the first that is due."""
    if job.interpolate == "none":
        return None
    return Interpolator(job.retiming, job.interpolate, start_frame=start_frame, end_frame=job.frames)


def chapters_of(job: Job, grid: ChunkGrid) -> list[Chapter]:
    """A chapter for each cue, where there are several."""
    starts = [job.retiming.shown_until(grid.first_frame(cue.start_chunk)) for cue in job.cues]
    chapters = [Chapter(max(0, start), cue.title) for start, cue in zip(starts, job.cues, strict=True)]
    return [replace(chapters[0], start_frame=0), *chapters[1:]] if len(chapters) > 1 else []


def metadata_of(job: Job, versions: Mapping[str, str]) -> dict[str, str]:
    """The tags that make a video again."""
    return recipe_to_metadata(job.recipe(versions))
