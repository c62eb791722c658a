"""A job as a script: what was told while a video was made, in a file that makes the same frames again."""

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from causvid_cli.geometry import ChunkGrid
from causvid_cli.job.inputs import InputMedia
from causvid_cli.job.job import Job
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import GUIDANCE, LOADING
from causvid_cli.script import Script, ScriptCue, to_yaml
from causvid_cli.timecode import Time, nearest_whole


def script_path(output: Path) -> Path:
    """Where the script of a live video lies: beside it, NAME.causvid.yaml; beside the folder of numbered frames."""
    named = output.parent if "%" in output.name else output.with_suffix("")
    return named.with_name(f"{named.name}.causvid.yaml")


def script_of_job(job: Job, grid: ChunkGrid, given: InputMedia | None, *, model: str, folder: Path) -> Script:
    """The script by which `edit-script` makes the frames of a job.

    model: its name or folder, as it is found again. folder: where the script will lie.
    """
    used, lies = job.input, None
    if given is not None and given.path is not None:
        lies = os.path.relpath(given.path, folder)
    fits = {"photo": "crop", "clip": "stretch", "source": "stretch"}
    context = grid.codec.frames(used.context_frames) if used and used.context_frames else None
    return Script(
        model=model,
        size=None if used and used.keep_size else job.made_size,
        fps=job.rate,
        seed=job.seed,
        image=lies if used and used.kind == "photo" else None,
        video=lies if used and used.kind == "clip" else None,
        source=lies if used and used.kind == "source" else None,
        source_strength=used.strength if used and lies else None,
        fit=used.fit if used and lies and used.fit != fits[used.kind] else None,
        hold=used.hold if used and lies else None,
        background=used.background or None if used and lies else None,
        context=None if context is None else Time(Fraction(context), "f"),
        steps=job.steps,
        guidance=job.guidance if job.guidance != GUIDANCE else None,
        interpolate=job.interpolate,
        length=Time(Fraction(job.frames), "f") if job.frames else None,
        cues=tuple(_script_cue(cue, job, grid) for cue in job.cues),
    )


def _script_cue(cue: Cue, job: Job, grid: ChunkGrid) -> ScriptCue:
    first, made = cue.start_chunk == 0, job.retiming.made
    plain = ScriptCue(prompt=cue.prompt, seed=cue.seed, negative=cue.negative or None, name=cue.name or None)
    if first:
        return plain
    blend_ms = nearest_whole(1000 * cue.blend_chunks * grid.frames_per_chunk / made)
    return replace(
        plain,
        at=Time(Fraction(job.retiming.shown_until(grid.first_frame(cue.start_chunk))), "f"),
        transition=cue.transition,
        blend=Time(Fraction(blend_ms, 1000)) if cue.blend_chunks else None,
        strength=cue.strength if cue.strength != 1 else None,
    )


def script_text(job: Job, grid: ChunkGrid, given: InputMedia | None, *, model: str, folder: Path) -> str:
    """The script's text; what no script can say is told in the lines that it begins with."""
    text = to_yaml(script_of_job(job, grid, given, model=model, folder=folder))
    if job.input is not None and job.input.name == "stdin" and not job.input.sha256:
        text = "# It was made from a live video on stdin, which is gone: this makes other frames.\n" + text
    if job.loading != LOADING:
        text = f"# The model was loaded with other options than usual: {job.loading}\n" + text
    return text
