"""Command `edit-script`: prompts over time, from a file."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.generate import make_script
from causvid_cli.cli.task import chosen_model, chosen_rates, grid_of, length_of_sound, open_audio, retiming_of
from causvid_cli.cli.video_options import VideoOptions, with_video_options
from causvid_cli.config import PackFacts, check_choice
from causvid_cli.errors import UsageError
from causvid_cli.geometry import HOLDS, ChunkGrid
from causvid_cli.job.inputs import DEFAULT_HOLD, ClipEnd, InputMedia, Photo, SourceClip
from causvid_cli.request import FITS, STRENGTH, check_size
from causvid_cli.timecode import Retiming

if TYPE_CHECKING:
    from causvid_cli.script import Problem, Script, Snapped

app = typer.Typer()

EXPORTS = ("yaml", "vtt", "ffmetadata")


@app.command(
    "edit-script",
    cls=Command,
    epilog=examples(
        "causvid edit-script day.causvid.yaml -o day.mp4",
        "causvid edit-script day.causvid.yaml --check",
    ),
)
@with_video_options
def edit_script(
    video_options: VideoOptions,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="A .causvid.yaml, or prompts in another format: .vtt, .srt, .jsonl (LongLive), .json (Scope, "
            "Deforum), .csv (Helios) or .txt ([4s: text]). `-` reads a .causvid.yaml from stdin.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say what is wrong, and where each cue falls.", show_default=False),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORMAT", help="Print the script as yaml, vtt or ffmetadata.", show_default=False),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON Schema of .causvid.yaml, for editors.", show_default=False),
    ] = False,
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade", help="Print the script in the newest version of the format.", show_default=False),
    ] = False,
    switch: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Where prompts begin that name no time (.jsonl, .csv): latent frames (40,80) or times (5s,10s).",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Which video of a file that holds several, from 1.", show_default=False),
    ] = None,
    fit: options.Fit = None,
    hold: options.Hold = None,
    context: options.Context = None,
) -> None:
    """Make a video whose prompts change while it runs.

    A script names prompts and the times from which they hold. What was made before a cue does not depend on it. With
    `image:` it sets a picture in motion, with `video:` it goes on with a clip.
    """
    started = time.monotonic()
    if schema:
        from causvid_cli.script import schema as script_schema

        console.result_json(script_schema())
        return
    _check_choice(check=check, to=to, upgrade=upgrade, output=video_options.output)
    if upgrade and Path(file or "-").suffix not in ("", ".yaml", ".yml"):
        raise UsageError(f"--upgrade: {file} is another format; try --to yaml")
    text, script = read(file, switch=switch, row=row)
    if upgrade:
        print_text(text)  # there is one version of the format, and reading refuses a newer one
        return
    given = given_by(script, fit=fit, hold=hold, context=context)
    if not to and not check:
        make_script("edit-script", script, video_options, given=given, started=started)
        return
    chosen = chosen_model(script, video_options, given)
    facts = chosen.facts
    check_size(script.size, facts)
    held = facts.chunk_frames if isinstance(given, Photo) and given.hold == "chunk" else 1
    grid = grid_of(chosen, given, latent_frames=held if given else 0)  # how much of a clip plays no part in it
    retiming = retiming_of(*chosen_rates(script, video_options, facts, given), given)
    soundtrack = open_audio(video_options)
    script = replace(script, length=length_of_sound(script, video_options, soundtrack, retiming) or script.length)
    if to:
        print_text(exported(script, to, grid=grid, retiming=retiming))
    else:
        report(script, facts, grid=grid, retiming=retiming, as_json=video_options.as_json)


def given_by(script: "Script", *, fit: str | None, hold: str | None, context: str | None) -> InputMedia | None:
    """The picture or clip that a script begins from. Raises UsageError for an option that says nothing of it."""
    kinds = {"an image": script.image, "a video": script.video, "a source": script.source}
    kind = next((kind for kind, file in kinds.items() if file), "neither image nor video")
    for name, value, fits in (
        ("--fit", fit, script.image or script.video or script.source),
        ("--hold", hold, script.image),
        ("--context", context, script.video),
    ):
        if value is not None and not fits:
            raise UsageError(f"{name} {value}: the script begins from {kind}; leave {name} out")
    if script.image:
        return Photo(
            path=script.file(script.image),
            fit=check_choice(fit or script.fit or "crop", FITS, name="--fit"),
            hold=check_choice(hold or script.hold or DEFAULT_HOLD, HOLDS, name="--hold"),
            background=script.background or "",
        )
    how = check_choice(fit or script.fit or "stretch", FITS, name="--fit")
    if script.video:
        asked = context or (str(script.context) if script.context else None)
        return ClipEnd(path=script.file(script.video), fit=how, context=asked)
    if script.source:
        return SourceClip(path=script.file(script.source), fit=how, strength=script.source_strength or STRENGTH)
    return None


def _check_choice(*, check: bool, to: str | None, upgrade: bool, output: str | None) -> None:
    """Raises UsageError for options that contradict each other."""
    check_choice(to, EXPORTS, name="--to")
    asked = [
        name for name, given in (("--check", check), ("--to", to), ("--upgrade", upgrade), ("-o", output)) if given
    ]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} do not go together; leave {' or '.join(asked)} out")


def read(file: str | None, *, switch: str | None = None, row: int | None = None) -> tuple[str, "Script"]:
    """A script's text and what it says; what another format holds besides is noted on stderr.

    Raises ScriptError, and UsageError where there is no script.
    """
    from causvid_cli.script import read_script
    from causvid_cli.script.read import MOST_BYTES, decode, load_source

    if file is None:
        raise UsageError("no script; name one, such as causvid edit-script day.causvid.yaml")
    if file == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("-: no script comes on stdin; name a file")
        text = decode(sys.stdin.buffer.read(MOST_BYTES + 1), "stdin")
        return text, read_script(text, name="stdin", switch=switch, row=row, on_note=_note)
    text = load_source(Path(file)).text
    kind = Path(file).suffix
    return text, read_script(text, name=file, kind=kind, switch=switch, row=row, on_note=_note)


def _note(problem: "Problem") -> None:
    console.note(str(problem))


def print_text(text: str) -> None:
    for line in text.rstrip("\n").split("\n"):
        console.result(line)


def exported(script: "Script", to: str, *, grid: ChunkGrid, retiming: Retiming) -> str:
    """The script as another kind of text, one of EXPORTS."""
    from causvid_cli.script import in_frames, timeline, to_ffmetadata, to_vtt, to_yaml

    if to == "ffmetadata":
        snapped = timeline(script, grid, retiming.shown, model_fps=retiming.made)
        warn(snapped.warnings)
        return to_ffmetadata(snapped)
    plain = in_frames(script, grid, retiming)
    return to_yaml(plain) if to == "yaml" else to_vtt(plain, retiming.shown)


def warn(problems: Sequence["Problem"]) -> None:
    for problem in problems:
        console.warning(str(problem))


def report(script: "Script", facts: PackFacts, *, grid: ChunkGrid, retiming: Retiming, as_json: bool) -> None:
    """Where each cue falls, a line each on stdout, or one JSON object."""
    from causvid_cli.script import timeline

    snapped = timeline(script, grid, retiming.shown, model_fps=retiming.made)
    warn(snapped.warnings)
    if as_json:
        console.result_json(as_object(snapped, facts))
        return
    for line in snapped.lines:
        console.result(line)


def as_object(snapped: "Snapped", facts: PackFacts) -> dict[str, Any]:
    """v (of this object), model, fps, frames, length_s, cues (asked_s and start_s: wanted and got), warnings."""
    return {
        "v": 1,
        "model": facts.name,
        "fps": float(snapped.fps),
        "frames": snapped.frames,
        "length_s": float(snapped.length_s),
        "cues": [
            {
                "cue": entry.number,
                "round": entry.round,
                "asked_s": float(entry.asked_s),
                "start_s": float(entry.start_s),
                "chunk": entry.cue.start_chunk,
                "frame": entry.frame,
                "prompt": entry.cue.prompt,
                "transition": entry.cue.transition,
                "blend_chunks": entry.cue.blend_chunks,
                "strength": entry.cue.strength,
                "seed": entry.cue.seed,
                "negative": entry.cue.negative,
                "name": entry.cue.name,
            }
            for entry in snapped.report
        ],
        "warnings": [str(problem) for problem in snapped.warnings],
    }
