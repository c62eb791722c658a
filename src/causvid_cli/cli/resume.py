"""Commands that make a video again: `resume` goes on with one that was broken off, `rerun` repeats a finished one."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid_cli.cli import completion, console, options, settings
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.task import Task, check_stdout, existing, grid_of
from causvid_cli.cli.torchrun import led
from causvid_cli.cli.video_options import VideoOptions
from causvid_cli.errors import MediaError, ModelError, UsageError
from causvid_cli.files import output_file
from causvid_cli.job.inputs import find_soundtrack, given_of
from causvid_cli.job.job import Job, journal_path
from causvid_cli.models.catalogue import checkpoint_names
from causvid_cli.models.packs import list_packs
from causvid_cli.models.resolve import resolve_model
from causvid_cli.request import AUTO, check_device, check_dtype
from causvid_cli.untrusted import read_object
from causvid_cli.weights.lora_files import find_loras

app = typer.Typer()

InputFile = Annotated[
    Path | None,
    typer.Option(
        "--input",
        metavar="FILE",
        help="Where the photo or clip lies that the video began from, if it is not where it was.",
        show_default=False,
    ),
]


AudioFile = Annotated[
    Path | None,
    typer.Option(
        "--audio",
        metavar="FILE",
        help="Where the sound lies that is laid under the video, if it is not where it was.",
        show_default=False,
    ),
]


LoraFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--lora",
        metavar="FILE",
        help="Where a LoRA lies that the video was made with, if it is not where it was. May be given again.",
        show_default=False,
    ),
]


ModelFolder = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="The model that the video was made with, by name or folder, if it is not found.",
        autocompletion=completion.models,
        show_default=False,
    ),
]


@app.command(
    cls=Command,
    epilog=examples("causvid resume car.mp4.part", "causvid resume car.mp4 --json"),
)
@led
def resume(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .part of a video, or the name it was to have.")],
    input_file: InputFile = None,
    audio: AudioFile = None,
    model: ModelFolder = None,
    lora: LoraFiles = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    preview: options.Preview = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = 0,
    verbose: options.Verbose = 0,
    as_json: options.Json = False,
    json_lines: options.JsonLines = False,
) -> None:
    """Go on with a video that was broken off, to the very frames that it would have had.

    It needs FILE.part and FILE.journal, which were left where the video was to be. No chunk is made twice.

    The journal of a video that you began here also tells where its model and input lie, and whether -y was given. Of
    one from somebody else or from another machine, say so yourself: --model, --input, -y.
    """
    started = time.monotonic()
    from causvid_cli.cli.run import run_earlier
    from causvid_cli.job.recording import find_earlier
    from causvid_cli.media.probe import open_video
    from causvid_cli.video import part_of

    output = _wanted_name(file)
    earlier = find_earlier(output, part_of(output))
    if earlier is None and not os.path.isfile(output):
        raise MediaError(f"{journal_path(output)}: not there, so there is nothing to resume; make the video again")
    is_old = earlier is not None and earlier.journal.finished is None and not part_of(output).exists()  # kept latents
    if earlier is None or earlier.is_finished or (is_old and existing(output)):
        if earlier is None:
            with open_video(output):  # anything else was not made here
                pass
        elif earlier.is_finished:
            earlier.clean_up(output)
        console.note(f"{output} is finished: nothing to resume")
        return
    local, job = earlier.local, earlier.job
    video_options = VideoOptions(
        overwrite=overwrite or local.overwrite,
        no_metadata=local.no_metadata,
        sidecar=local.sidecar,
        keep_latents=local.keep_latents,
        threads=threads,
        preview=preview,
        progress=progress,
        quiet=quiet,
        verbose=verbose,
        as_json=as_json,
        json_lines=json_lines,
    )
    place = input_file or (Path(local.input) if local.input else None)
    audio_file = audio or (Path(local.audio) if local.audio else None)
    lora_places = [*(lora or ()), *map(Path, local.loras)]
    if not earlier.is_own:
        frames = "without end" if job.frames is None else f"of {job.frames} frames"
        told = f"a video {frames} by {job.model.name}, into {output}"
        console.note(f"{journal_path(output)} was not written by you on this machine: {told}")
        place = place or (file.parent / job.input.name if job.input else None)
        audio_file = audio_file or (file.parent / job.audio.name if job.audio else None)
        lora_places += [file.parent / use.name for use in job.loading.loras]
    given_model = model if settings.typed(context, "model") else None
    own_folder = local.model if local.model and Path(local.model).is_dir() else None
    try:
        task = task_of(
            job,
            video_options,
            model=given_model or own_folder,
            output=output,
            file=place,
            lora_places=lora_places,
            audio_file=audio_file,
            where=str(file),
            tolerate_damage=local.tolerate_damage,
        )
    except BaseException:
        earlier.journal.close()
        raise
    if job.command == "live":  # what was told is in the journal, and nobody tells more
        from causvid_cli.cli.live_session import Talk, go_live
        from causvid_cli.live.clock import Clock

        go_live(task, earlier, Talk(clock=Clock(real=False, lead=None), on_terminal=False), started=started)
        return
    run_earlier(task, earlier, started=started)


@app.command(
    cls=Command,
    epilog=examples("causvid rerun car.mp4 -o again.mp4", "causvid rerun car.mp4.json -o again.mp4 --device cpu"),
)
@led
def rerun(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video that causvid made, or the .json beside it.")],
    output: options.Output = None,
    input_file: InputFile = None,
    audio: AudioFile = None,
    model: ModelFolder = None,
    lora: LoraFiles = None,
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    sidecar: options.Sidecar = False,
    preview: options.Preview = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = 0,
    verbose: options.Verbose = 0,
    as_json: options.Json = False,
    json_lines: options.JsonLines = False,
) -> None:
    """Make a video again from the recipe in its metadata: the same frames, on the same kind of machine.

    A photo or clip that it began from, and a LoRA, are looked for beside it. One that was stopped by Ctrl-C is made
    whole.
    """
    started = time.monotonic()
    from causvid_cli.cli.run import run

    check_device(device)
    check_dtype(dtype)
    job = Job.from_recipe(read_recipe(file), where=str(file))
    job = replace(job, device=job.device if device == AUTO else device, dtype=job.dtype if dtype == AUTO else dtype)
    if job.frames is None and job.input is None:
        frames = _frames(file)
        job = replace(job, frames=frames, length=f"{frames}f")
    suffix = file.with_suffix("").suffix if file.suffix == ".json" else file.suffix
    stem = file.with_suffix("").stem if file.suffix == ".json" else file.stem
    video_options = VideoOptions(
        output=output,
        threads=threads,
        overwrite=overwrite,
        sidecar=sidecar,
        preview=preview,
        progress=progress,
        quiet=quiet,
        verbose=verbose,
        as_json=as_json,
        json_lines=json_lines,
    )
    place = None
    if job.input is not None:
        place = input_file or file.parent / job.input.name
    target: Path | None = output_file(output or f"{stem}-rerun{suffix or '.mp4'}")
    if output == "-":
        check_stdout()
        target = None
    loras = [*(lora or ()), *(file.parent / use.name for use in job.loading.loras)]
    task = task_of(
        job,
        video_options,
        model=model if settings.typed(context, "model") else None,
        output=target,
        file=place,
        lora_places=loras,
        audio_file=audio or (file.parent / job.audio.name if job.audio else None),
        where=str(file),
    )
    run([task], started=started)


def read_recipe(file: Path) -> dict[str, Any]:
    """The recipe in a video's metadata, or in the .json that --sidecar wrote. Raises MediaError where there is none."""
    if file.suffix.lower() == ".json":
        recipe = read_object(file, error=MediaError).get("recipe")
    else:
        from causvid_cli.media.probe import read_info

        recipe = read_info(file).recipe
    if not isinstance(recipe, dict):
        raise MediaError(f"{file}: holds no recipe: causvid did not make it, or its metadata was removed")
    return recipe


def _frames(file: Path) -> int:
    """How many frames a video without end had when it was stopped."""
    if file.suffix.lower() == ".json":
        chunks = read_object(file, error=MediaError).get("chunks")
        told = [chunk.get("frames") for chunk in chunks if isinstance(chunk, dict)] if isinstance(chunks, list) else []
        counted = sum(count for count in told if type(count) is int and count >= 0)
        if not counted:
            raise MediaError(f"{file}: chunks: tell no frames, so how long the video was is not known")
        return counted
    from causvid_cli.media.probe import read_info

    return read_info(file).frames


def task_of(
    job: Job,
    video_options: VideoOptions,
    *,
    model: str | None,
    output: Path | None,
    file: Path | None,
    where: str,
    lora_places: Sequence[Path] = (),
    audio_file: Path | None = None,
    tolerate_damage: bool = False,
) -> Task:
    """A job as a task on this machine. Raises ModelError or MediaError when its model or input is another by now.

    model: a name or a folder that the user has given; without it the job's own name, of a model that is installed.
    """
    if model is None and not job.loading.random_weights and job.model.name not in list_packs():
        known = job.model.name in checkpoint_names()
        remedy = f"`causvid models pull {job.model.name}` gets it, or " if known else ""
        raise ModelError(
            f"{where} was made by {job.model.name}, which is not installed; {remedy}say where it lies by --model"
        )
    chosen = resolve_model(model or job.model.name, loading=job.loading)
    facts, codec = chosen.facts, chosen.codec
    job.check_model(chosen.sha256, where=where)
    soundtrack = find_soundtrack(job.audio, audio_file, where=where)
    given = None
    if job.input is not None:
        if job.input.name == "stdin" and not job.input.sha256:
            raise UsageError(
                f"{where}: it was made from a live video on stdin, which is gone; make it again from a file"
            )
        if file is None or not file.is_file():
            raise MediaError(
                f"{file}: not there, the {job.input.kind} that {where} began from; say where it lies by --input"
            )
        given = given_of(job.input, file, tolerate_damage=tolerate_damage)
        given.replaces_sound = soundtrack is not None
        size = None if job.input.keep_size else job.made_size
        given.check(facts, codec, size=size, fps=job.retiming.made, output=output)
        if given.sha256 != job.input.sha256:
            raise MediaError(f"{file}: not the {job.input.kind} that {where} began from; give that one by --input")
        given.read_through(None if job.frames is None else job.frames / job.rate)
    return Task(
        job=job,
        folder=chosen.folder,
        facts=facts,
        grid=grid_of(chosen, given),
        output=output,
        input_media=given,
        options=video_options,
        soundtrack=soundtrack,
        lora_files=find_loras(job.loading.loras, lora_places, where=where),
    )


def _wanted_name(file: Path) -> Path:
    """The name that a video was to have, from that of its .part, its journal or what Ctrl-C left.

    Raises MediaError for a folder's name.
    """
    if file.name in ("", ".."):
        raise MediaError(f"{file}: not a file; name the .part of a video, or the name it was to have")
    if file.suffix in (".part", ".journal"):
        return file.with_suffix("")
    whole = file.with_name(file.stem.removesuffix(".partial") + file.suffix)
    return whole if os.path.exists(journal_path(whole)) else file
