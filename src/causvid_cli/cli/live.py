"""Command `live`: a video that is changed while it is made."""

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from causvid_cli.cli import completion, console, options
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.edit_script import given_by, read
from causvid_cli.cli.generate import raw_format, read_prompt, stdin_video
from causvid_cli.cli.talk import (
    THRESHOLD_DB,
    AudioIn,
    TalkPrompt,
    TalkThreshold,
    check_talk,
    led_by_sound,
    listen_to_stdin,
)
from causvid_cli.cli.task import check_output_of, make_tasks
from causvid_cli.cli.video_options import VideoOptions, with_video_options
from causvid_cli.config import check_choice
from causvid_cli.errors import DeviceError, UsageError
from causvid_cli.extras import require
from causvid_cli.geometry import HOLDS
from causvid_cli.job.inputs import DEFAULT_HOLD, ClipEnd, InputMedia, Photo, SourceClip
from causvid_cli.job.job import journal_path
from causvid_cli.live.clock import Clock
from causvid_cli.request import ENDLESS, FITS, STRENGTH, check_prompt
from causvid_cli.script import read_keys, script_of
from causvid_cli.timecode import parse_time

app = typer.Typer()

PACES = ("real", "fast")
SCRIPTS = (".yaml", ".yml")

Image = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Begin with this picture.", show_default=False, rich_help_panel="Input"),
]
Clip = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Go on where this clip ends.", show_default=False, rich_help_panel="Input"),
]
Source = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Make this clip anew; `-` is a live one on stdin.",
        show_default=False,
        rich_help_panel="Input",
    ),
]
Stdin = Annotated[
    bool,
    typer.Option(
        "--stdin",
        help="Be told by a program: one JSON object a line on stdin; events come as JSON lines on stdout, with -o - on "
        "stderr.",
        show_default=False,
    ),
]
Pace = Annotated[
    str,
    typer.Option(
        metavar="PACE",
        help="real: make it as fast as it is shown. fast: as fast as can be.",
        autocompletion=completion.words(*PACES),
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="How far ahead of what is shown it is made, at most: less answers sooner. If not given, as little as this "
        "machine needs.",
        show_default=False,
    ),
]
Bindings = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        help="What keys tell, in YAML lines such as `left: the car moves left`; a script's own `keys` otherwise.",
        show_default=False,
    ),
]
Osc = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        metavar="PORT",
        help="Be told by Open Sound Control, on this UDP port of 127.0.0.1.",
        show_default=False,
    ),
]
OnPage = Annotated[
    bool,
    typer.Option(
        "--page",
        help="Be watched and told in a browser on this machine; the address is printed.",
        show_default=False,
    ),
]
Port = Annotated[
    int,
    typer.Option(min=0, max=65535, metavar="PORT", help="Of the page, on 127.0.0.1; 0 takes a free one."),
]
NoOpen = Annotated[
    bool,
    typer.Option("--no-open", help="Open no browser.", show_default=False),
]


@app.command(
    cls=Command,
    epilog=examples(
        'causvid live "a red car moves left in the snow" -o car.mp4',
        'causvid live "a red car moves left in the snow" --page',
        'causvid live "a red car in the snow" --stdin --length 5s -o car.mp4 < told.jsonl',
    ),
)
@with_video_options
def live(
    video_options: VideoOptions,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to show first, in quotes, or a .causvid.yaml whose cues come by themselves. If not given, the "
            "first prompt that is told.",
            show_default=False,
        ),
    ] = None,
    image: Image = None,
    clip: Clip = None,
    source: Source = None,
    stdin: Stdin = False,
    pace: Pace = "real",
    latency: Latency = None,
    keys: Bindings = None,
    osc: Osc = None,
    page: OnPage = False,
    port: Port = 0,
    no_open: NoOpen = False,
    audio_in: AudioIn = None,
    talk_prompt: TalkPrompt = None,
    talk_threshold: TalkThreshold = THRESHOLD_DB,
    fit: options.Fit = None,
    hold: options.Hold = None,
    background: options.Background = "",
    context: options.Context = None,
    strength: options.Strength = STRENGTH,
    input_size: options.InputSize = None,
    input_fps: options.InputFps = None,
    tolerate_damage: options.TolerateDamage = False,
) -> None:
    """Make a video and change it while it is made: what you type holds from the next chunk on.

    It goes on until you quit, or for --length. Kept are the video and NAME.causvid.yaml, which says what was told and
    when: `causvid edit-script` makes the same frames of it. A session that was killed goes on by the same command.
    """
    started = time.monotonic()
    from causvid_cli.cli.live_session import Talk, on_page, run_live

    check_choice(pace, PACES, name="--pace")
    lead = None if latency is None else _seconds(latency)
    on_stdin = [name for name, file in (("--source -", source), ("--audio-in -", audio_in)) if str(file or "") == "-"]
    on_stdin += ["--stdin"] if stdin else []
    if len(on_stdin) > 1:
        raise UsageError(f"{' and '.join(on_stdin)}: both come on stdin; choose one")
    has_terminal = _has_terminal(piped=bool(on_stdin))
    heard = on_stdin == ["--audio-in -"]
    if not page and (port or no_open):
        raise UsageError(f"{'--no-open' if no_open else f'--port {port}'} is for the page; add --page")
    if not stdin and not has_terminal and not heard and not page:
        raise UsageError("no terminal to type on; --stdin takes JSON lines from a program, --page is told in a browser")
    if has_terminal and not stdin and not page:
        require("prompt_toolkit", extra="live", what="typing in a terminal", error=DeviceError)
    _check_together(video_options)
    talk = Talk(
        clock=Clock(real=pace == "real", lead=lead),
        by_program=stdin,
        to_pipe=video_options.output == "-",
        on_terminal=has_terminal and not page,
    )
    if prompt is None and not (image or clip or source):  # what is wrong is said before anybody is asked for one
        (first,) = make_tasks(
            "live", script_of("what is told first"), replace(video_options, length=video_options.length or ENDLESS)
        )
        there = first.output if str(first.output) == video_options.output else None  # its name may hold what is told
        if there and not journal_path(there).exists():  # else an earlier session may go on
            check_output_of(first)
    with on_page(talk, port, opens=not no_open) if page else nullcontext():
        given: InputMedia | None = None
        if prompt is not None and Path(prompt).suffix.lower() in SCRIPTS:
            if image or clip or source:
                raise UsageError(f"{prompt} says itself what it begins with; leave --image, --clip and --source out")
            _, script = read(prompt)
            given = given_by(script, fit=fit, hold=hold, context=context)
        else:
            said = check_prompt(read_prompt(prompt) if prompt is not None else talk.first_prompt())
            script = script_of(said)
            begins = [name for name, file in (("--image", image), ("--clip", clip), ("--source", source)) if file]
            if len(begins) > 1:
                raise UsageError(f"{' and '.join(begins)} do not go together; leave {' or '.join(begins)} out")
            how = check_choice(fit or ("crop" if image else "stretch"), FITS, name="--fit")
            if image:
                held = check_choice(hold or DEFAULT_HOLD, HOLDS, name="--hold")
                given = Photo(path=image, fit=how, hold=held, background=background)
            elif clip:
                given = ClipEnd(path=clip, fit=how, context=context, tolerate_damage=tolerate_damage)
            elif source:
                piped = str(source) == "-"
                given = SourceClip(
                    path=None if piped else source,
                    pipe=stdin_video() if piped else None,
                    raw=raw_format(input_size, input_fps) if piped else None,
                    fit=how,
                    strength=strength,
                    tolerate_damage=tolerate_damage,
                )
        loud = check_talk(audio_in, talk_prompt, name="--audio-in")
        if heard and loud:
            quiet = script.cues[0].prompt
            talk.ear = lambda live: listen_to_stdin(live, quiet, loud, talk_threshold)
        elif audio_in and loud:
            script, video_options = led_by_sound(script, video_options, audio_in, loud, talk_threshold, given=given)
        if video_options.length is None and script.length is None:
            video_options = replace(video_options, length=ENDLESS)
        if osc is not None:
            require("pythonosc", extra="osc", what="--osc", error=DeviceError)
            talk.osc = osc
        talk.keys = read_keys(keys) if keys else script.keys
        run_live(make_tasks("live", script, video_options, given=given), talk, started=started)


def _seconds(latency: str) -> float:
    asked = parse_time(latency, name="--latency")
    if asked.unit != "s":
        raise UsageError(f"--latency {latency}: write seconds, such as 500ms")
    return float(asked.number)


def _has_terminal(*, piped: bool) -> bool:
    """Whether somebody can type. piped: whether stdin brings something else."""
    return console.is_terminal() and (piped or (sys.stdin is not None and sys.stdin.isatty()))


def _check_together(video_options: VideoOptions) -> None:
    """Refuse options that say nothing of a video whose length and end are not known before."""
    for given, name in (
        (video_options.count > 1, f"--count {video_options.count}"),
        (video_options.sidecar, "--sidecar"),
        (video_options.dry_run, "--dry-run"),
        (video_options.as_json, "--json"),
        (video_options.json_lines, "--json-lines"),
        (video_options.skip_existing, "--skip-existing"),
    ):
        if given:
            raise UsageError(f"{name} is not for a live video; leave it out")
