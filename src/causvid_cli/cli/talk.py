"""`--talk` and `--audio-in`: two prompts, one for when sound is loud and one for when it is not."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from causvid_cli.cli.stdin import stdin_bytes
from causvid_cli.cli.task import chosen_model, chosen_rates, grid_of, retiming_of
from causvid_cli.cli.video_options import VideoOptions
from causvid_cli.errors import MediaError, UsageError
from causvid_cli.geometry import ChunkGrid
from causvid_cli.job.inputs import InputMedia
from causvid_cli.request import check_prompt
from causvid_cli.script import Script, ScriptCue
from causvid_cli.timecode import Retiming, Time

if TYPE_CHECKING:
    from causvid_cli.live.session import Live

HOLD_S = 0.3
"""How long it must be quiet before it is, in a pipe: between two words it is not."""

Talk = Annotated[
    Path | None,
    typer.Option(
        "--talk",
        metavar="FILE",
        help="Sound that decides what is shown: --talk-prompt where it is loud, PROMPT where it is not. It is laid "
        "under the video, which lasts as long.",
        show_default=False,
        rich_help_panel="Input",
    ),
]
AudioIn = Annotated[
    Path | None,
    typer.Option(
        "--audio-in",
        metavar="FILE",
        help="Sound that decides what is shown, a file or `-`, what plays on stdin: --talk-prompt while it is loud, "
        "PROMPT while it is not.",
        show_default=False,
        rich_help_panel="Input",
    ),
]
TalkPrompt = Annotated[
    str | None,
    typer.Option(
        metavar="PROMPT", help="What to show while the sound is loud.", show_default=False, rich_help_panel="Input"
    ),
]
TalkThreshold = Annotated[
    float, typer.Option(metavar="DB", help="Loud is what is above it, in dB of full scale.", rich_help_panel="Input")
]
THRESHOLD_DB = -40.0


def check_talk(file: Path | None, prompt: str | None, *, name: str) -> str | None:
    """The prompt for loud sound. Raises UsageError where one of the two is missing."""
    if file is None:
        if prompt is not None:
            raise UsageError(f"--talk-prompt is for {name}; name a file of sound by that")
        return None
    if prompt is None:
        raise UsageError(f"{name} {file}: say by --talk-prompt what to show while it is loud")
    return check_prompt(prompt)


def led_by_sound(
    script: Script,
    options: VideoOptions,
    file: Path,
    loud: str,
    threshold_db: float,
    *,
    given: InputMedia | None = None,
) -> tuple[Script, VideoOptions]:
    """A script of one prompt with a cue wherever a file's sound gets loud or quiet; and the sound under the video."""
    from causvid_cli.media.loudness import STEP_S, levels_of_file

    chosen = chosen_model(script, options, given)
    if given is not None:
        raise UsageError(f"{file}: sound leads a video from a prompt; leave --image, --clip and --source out")
    grid = grid_of(chosen, None)
    retiming = retiming_of(*chosen_rates(script, options, chosen.facts, None), None)
    levels = levels_of_file(file)
    cues = loud_cues(levels, grid, retiming, script.cues[0].prompt, loud, threshold_db)
    frames = Time(Fraction(ceil(len(levels) * STEP_S * retiming.shown)), "f")
    under = options.audio or (None if options.output == "-" else file)
    length = script.length if options.length else frames
    return replace(script, cues=cues, length=length), replace(options, audio=under)


def loud_cues(
    levels: Sequence[float], grid: ChunkGrid, retiming: Retiming, quiet: str, loud: str, threshold_db: float
) -> tuple[ScriptCue, ...]:
    """A cue for each chunk with which the sound becomes loud or quiet; of the two, the first begins at 0."""
    from causvid_cli.media.loudness import STEP_S, is_loud

    cues: list[ScriptCue] = []
    chunk, start, was = 0, grid.first_frame(0), None
    while not cues or start / retiming.made < len(levels) * STEP_S:
        end = grid.first_frame(chunk + 1)
        now = is_loud(levels, start_s=start / retiming.made, end_s=end / retiming.made, threshold_db=threshold_db)
        if now != was:
            at = Time(Fraction(retiming.shown_until(start)), "f") if cues else None
            cues.append(ScriptCue(at=at, prompt=loud if now else quiet))
        chunk, start, was = chunk + 1, end, now
    return tuple(cues)


def listen_to_stdin(live: "Live", quiet: str, loud: str, threshold_db: float) -> None:
    """Tell a session what to show by what plays on stdin, in a thread; it ends with the sound."""
    from causvid_cli.media.loudness import STEP_S, levels_of_pipe

    def listen() -> None:
        was, quiet_s = False, 0.0
        try:
            for level in levels_of_pipe(stdin_bytes()):
                quiet_s = 0.0 if level > threshold_db else quiet_s + float(STEP_S)
                now = quiet_s <= HOLD_S if was else level > threshold_db
                if now != was:
                    live.send({"prompt": loud if now else quiet})
                was = now
        except MediaError as error:
            live.refuse(None, str(error))
        if live.job.frames is None:
            live.send({"quit": True})

    Thread(target=listen, name="causvid sound", daemon=True).start()
