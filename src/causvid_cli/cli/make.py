"""Commands that make a video: what is asked is checked, made chunk by chunk, written, reported."""

import re
import sys
import time
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.help import Command, examples
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.packs import find_pack, pack_digest
from causvid_cli.request import (
    AUTO,
    DEFAULT_LENGTH,
    DEFAULT_MODEL,
    LONGEST_PROMPT,
    check_device,
    check_dtype,
    check_prompt,
    check_seed,
    check_size,
    check_steps,
    random_seed,
)
from causvid_cli.timecode import parse_fps, parse_frames, parse_size, parse_whole

if TYPE_CHECKING:
    from causvid_cli.pipeline import Pipeline

EXAMPLE = 'causvid t2v "a red car moves left in the snow"'
BYTES_PER_PIXEL = 0.004
"""The least that a video takes on disk: what storybook's flat colours do. For a first look at the free space."""

app = typer.Typer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A video to be made: all of it checked that can be without torch."""

    prompt: str
    folder: Path
    """Of the model pack."""
    facts: PackFacts
    length: str
    """As the user wrote it."""
    frames: int
    width: int
    height: int
    fps: Fraction
    seed: int
    steps: int
    device: str
    dtype: str
    output: Path
    overwrite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A video that is made, and how it went."""

    frames: int
    first_frame_s: float
    """From asking for the stream to holding the first frames."""
    generate_s: float
    """From asking for the stream to having the last ones in the file: the network, the decoder and the encoder."""
    peak_memory_bytes: int
    notes: tuple[str, ...]


@app.command(
    cls=Command,
    epilog=examples(
        f"{EXAMPLE} -o car.mp4",
        'causvid t2v "a paper airplane turns into a swan" --length 10s --json',
    ),
)
def t2v(
    prompt: options.Prompt = None,
    output: options.Output = None,
    length: options.Length = DEFAULT_LENGTH,
    size: options.Size = None,
    fps: options.Fps = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    model: options.Model = DEFAULT_MODEL,
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Make a video from a prompt, and print its path.

    storybook, the model that comes with causvid, draws pixel art: a subject, its colour, a scene and what happens,
    said in plain English. Words that it does not know are named, with near ones that it does.

    Ctrl-C stops after the chunk at work. What was made by then stays in FILE.part, which plays.
    """
    started = time.monotonic()
    job = make_job(
        read_prompt(prompt),
        output=output,
        length=length,
        size=size,
        fps=fps,
        seed=seed,
        steps=steps,
        model=model,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    with console.progress(f"loading {job.facts.name}", quiet=quiet) as progress:
        pipeline, timings = load_pipeline(job)
        made = write_video(job, pipeline, progress, command="t2v", quiet=quiet)
    timings["total_s"] = time.monotonic() - started
    report(job, made, timings, quiet=quiet, as_json=as_json)


def read_prompt(given: str | None) -> str:
    """The prompt itself, or what stdin or a file says. Raises UsageError when it cannot be had."""
    if given is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(f"no prompt; say what to show, such as {EXAMPLE}")
        given = "-"
    if given == "-":
        if sys.stdin is None:
            raise UsageError(f"stdin is closed, so it holds no prompt; say what to show, such as {EXAMPLE}")
        return _read_text(sys.stdin.buffer, "stdin")
    if given.startswith("@"):
        try:
            with open(given[1:], "rb") as file:
                return _read_text(file, given[1:])
        except OSError as error:
            raise UsageError(
                f"{given}: the file with the prompt cannot be read: {(error.strerror or '').lower()}"
            ) from error
    return given


def _read_text(file: BinaryIO, name: str) -> str:
    most = 4 * LONGEST_PROMPT  # bytes
    content = file.read(most + 1)
    if len(content) > most:
        raise UsageError(f"the prompt in {name} is too long; {LONGEST_PROMPT} characters are the most")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt in {name} is not UTF-8 text") from error


def make_job(
    prompt: str,
    *,
    output: Path | None,
    length: str,
    size: str | None,
    fps: str | None,
    seed: str | None,
    steps: str | None,
    model: str,
    device: str,
    dtype: str,
    overwrite: bool,
) -> Job:
    """Check what was asked, from the quickest check to the slowest; torch is not imported yet."""
    prompt = check_prompt(prompt)
    rate = None if fps is None else parse_fps(fps)
    wanted = None if size is None else parse_size(size)
    number = random_seed() if seed is None else check_seed(parse_whole(seed, name="--seed"))
    calls = None if steps is None else parse_whole(steps, name="--steps")
    check_device(device)
    check_dtype(dtype)
    folder = find_pack(model)
    facts = load_facts(folder)
    rate = rate or parse_fps(facts.fps)
    width, height, times = check_size(wanted, facts)
    if str(output) == "-":
        raise UsageError("-o -: a video cannot be written to stdout yet; name a file, such as -o video.mp4")
    job = Job(
        prompt=prompt,
        folder=folder,
        facts=facts,
        length=length,
        frames=parse_frames(length, fps=rate),
        width=width * times,
        height=height * times,
        fps=rate,
        seed=number,
        steps=check_steps(calls, facts),
        device=device,
        dtype=dtype,
        output=output or Path(f"causvid-{slug(prompt)}-{number}.mp4"),
        overwrite=overwrite,
    )
    from causvid_cli.video import check_output  # loads PyAV, so it comes last

    pixels = job.frames * job.width * job.height
    check_output(job.output, overwrite=overwrite, expected_bytes=round(pixels * BYTES_PER_PIXEL))
    return job


def slug(prompt: str) -> str:
    """A prompt as part of a file name: "a-red-car", or "video" when it has no Latin letter and no digit."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall("[a-z0-9]+", plain))[:40].strip("-") or "video"


def load_pipeline(job: Job) -> tuple["Pipeline", dict[str, float]]:
    """The loaded model, and how long torch and the model took to load."""
    started = time.monotonic()
    from causvid_cli.device import resolve_device, resolve_dtype  # torch loads here
    from causvid_cli.pipeline import load

    imported = time.monotonic()
    resolve_dtype(job.dtype, resolve_device(job.device))  # before the model is read
    pipeline = load(job.folder, device=job.device, dtype=job.dtype)
    return pipeline, {"import_s": imported - started, "load_s": time.monotonic() - imported}


def write_video(job: Job, pipeline: "Pipeline", progress: console.Progress, *, command: str, quiet: bool) -> Made:
    """Make the video and publish it; what stops it on the way leaves the chunks made so far in `FILE.part`."""
    from causvid_cli.device import peak_memory_bytes
    from causvid_cli.recipe import recipe_to_metadata
    from causvid_cli.video import Mp4Writer

    writer = Mp4Writer(
        job.output,
        width=job.width,
        height=job.height,
        fps=job.fps,
        overwrite=job.overwrite,
        metadata=recipe_to_metadata(recipe(job, pipeline, command)),
    )
    with interrupts.deferred(), writer:
        try:
            first_frame_s = 0.0
            started = time.monotonic()
            stream = pipeline.stream(
                job.prompt,
                length=job.length,
                size=(job.width, job.height),
                fps=job.fps,
                seed=job.seed,
                steps=job.steps,
            )
            if not quiet:
                for note in stream.notes:
                    console.message(note)
            progress.start(job.frames)
            for chunk in stream:
                first_frame_s = first_frame_s or time.monotonic() - started
                writer.write(chunk.frames)
                progress.update(writer.frames_written)
                if interrupts.received and writer.frames_written < job.frames:
                    raise KeyboardInterrupt
            generate_s = time.monotonic() - started
            writer.publish()
        except BaseException as error:
            if writer.frames_written and not isinstance(error, OutputError):  # an OutputError says so itself
                error.add_note(f"{writer.frames_written} of {job.frames} frames are kept in {writer.part_path}")
            raise
    return Made(
        frames=writer.frames_written,
        first_frame_s=first_frame_s,
        generate_s=generate_s,
        peak_memory_bytes=peak_memory_bytes(pipeline.device),
        notes=stream.notes,
    )


def recipe(job: Job, pipeline: "Pipeline", command: str) -> dict[str, Any]:
    """All that makes the video again; no host names, no paths."""
    from causvid_cli.cli.versions import versions

    return {
        "v": 1,
        "command": command,
        "prompt": job.prompt,
        "seed": job.seed,
        "length": job.length,
        "frames": job.frames,
        "fps": str(job.fps),
        "size": f"{job.width}x{job.height}",
        "steps": job.steps,
        "model": {"name": job.facts.name, "sha256": pack_digest(job.facts)},
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def report(job: Job, made: Made, timings: dict[str, float], *, quiet: bool, as_json: bool) -> None:
    """The result on stdout; a line for people on stderr.

    As JSON: v (of this object), output (path), frames, fps, size, seed, model, notes (what was not understood);
    first_frame_s and generate_s (`Made`), frames_per_s (frames / generate_s), import_s (torch), load_s (the model),
    total_s (the whole command), peak_memory_bytes.
    """
    pace = made.frames / made.generate_s
    if not quiet:
        console.message(
            f"{made.frames} frames, {job.width}x{job.height}, {float(made.frames / job.fps):.1f} s at "
            f"{float(job.fps):g} fps, seed {job.seed}: first frame after {made.first_frame_s:.2f} s, "
            f"{pace:.3g} frames per second"
        )
    if not as_json:
        console.result(str(job.output))
        return
    console.result_json(
        {
            "v": 1,
            "output": str(job.output),
            "frames": made.frames,
            "fps": float(job.fps),
            "size": f"{job.width}x{job.height}",
            "seed": job.seed,
            "model": job.facts.name,
            "first_frame_s": round(made.first_frame_s, 4),
            "generate_s": round(made.generate_s, 4),
            "frames_per_s": round(pace, 2),
            **{name: round(seconds, 3) for name, seconds in timings.items()},
            "peak_memory_bytes": made.peak_memory_bytes,
            "notes": list(made.notes),
        }
    )
