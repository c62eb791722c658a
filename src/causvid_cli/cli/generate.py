"""Commands that make a video: t2v, i2v, extend, restyle, and those that make one again: resume, rerun."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.talk import THRESHOLD_DB, Talk, TalkPrompt, TalkThreshold, check_talk, led_by_sound
from causvid_cli.cli.task import make_tasks
from causvid_cli.cli.video_options import VideoOptions, with_video_options
from causvid_cli.config import check_choice
from causvid_cli.errors import UsageError
from causvid_cli.files import IS_ADDRESS, is_address
from causvid_cli.geometry import HOLDS
from causvid_cli.job.inputs import DEFAULT_HOLD, ClipEnd, InputMedia, Photo, SourceClip
from causvid_cli.request import FITS, LONGEST_PROMPT, STRENGTH, check_prompt
from causvid_cli.script import Script, script_of
from causvid_cli.timecode import parse_fps, parse_size

if TYPE_CHECKING:
    from causvid_cli.media.clips import RawFormat

EXAMPLE = 'causvid t2v "a red car moves left in the snow"'

app = typer.Typer()


@app.command(
    cls=Command,
    epilog=examples(
        f"{EXAMPLE} -o car.mp4",
        'causvid t2v "a paper airplane turns into a swan" --length 10s --json',
        'causvid t2v "a man walks to the right on the street" --then "5s: he jumps" --length 10s',
    ),
)
@with_video_options
def t2v(
    video_options: VideoOptions,
    prompt: options.Prompt = None,
    then: options.Then = None,
    talk: Talk = None,
    talk_prompt: TalkPrompt = None,
    talk_threshold: TalkThreshold = THRESHOLD_DB,
) -> None:
    """Make a video from a prompt, and print its path.

    storybook, the model that comes with causvid, draws pixel art: a subject, its colour, a scene and what happens,
    said in plain English; storybook-world, of more subjects and scenes, does so where the prompt needs it. Actions that
    follow each other ("runs left, then jumps") share the video's time. Words that the model does not know are shown as
    the nearest that it does, or named.

    Ctrl-C stops after the chunk at work and keeps what was made in NAME.partial.mp4; `causvid resume` goes on with it,
    and so does the same command with the same -o.
    """
    loud = check_talk(talk, talk_prompt, name="--talk")
    if talk is None or loud is None:
        make("t2v", prompt, then, video_options)
        return
    started = time.monotonic()
    if then:
        raise UsageError("--talk and --then both say when prompts change; choose one")
    script = script_of(check_prompt(read_prompt(prompt)))
    script, video_options = led_by_sound(script, video_options, talk, loud, talk_threshold)
    make_script("t2v", script, video_options, given=None, started=started)


@app.command(
    cls=Command,
    epilog=examples(
        'causvid i2v photo.jpg "a red car jumps in the snow" -o car.mp4',
        'causvid i2v drawing.png "a swan flies up" --fit pad --background "#ffffff" --length 8s',
    ),
)
@with_video_options
def i2v(
    video_options: VideoOptions,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A photo or drawing: JPEG, PNG, WebP, AVIF, TIFF ...")],
    prompt: options.Prompt = None,
    then: options.Then = None,
    fit: options.Fit = None,
    hold: options.Hold = None,
    background: options.Background = "",
) -> None:
    """Set a picture in motion.

    The video begins with the picture, as the model's codec shows it: storybook redraws it in its palette.
    """
    photo = Photo(
        path=_file(image, "IMAGE"),
        fit=check_choice(fit or "crop", FITS, name="--fit"),
        hold=check_choice(hold or DEFAULT_HOLD, HOLDS, name="--hold"),
        background=background,
    )
    make("i2v", prompt, then, video_options, given=photo)


@app.command(
    cls=Command,
    epilog=examples(
        'causvid extend car.mp4 "the red car jumps in the snow" -o longer.mp4',
        'causvid extend clip.mp4 "a boat moves left on the sea" --context 2s --length 10s',
    ),
)
@with_video_options
def extend(
    video_options: VideoOptions,
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video: MP4, MOV, MKV, WebM, AVI ...")],
    prompt: options.Prompt = None,
    then: options.Then = None,
    context: options.Context = None,
    fit: options.Fit = None,
    tolerate_damage: options.TolerateDamage = False,
) -> None:
    """Go on where a clip ends: the clip, then --length of new frames, in one MP4, MKV or WebM.

    The clip's own frames and sound are copied as they are where that file can hold them (H.264 of 8 bits in MP4 and
    MKV, VP9 in MKV and WebM); otherwise they are encoded anew, and that is said.
    """
    end = ClipEnd(
        path=_file(clip, "CLIP"),
        fit=check_choice(fit or "stretch", FITS, name="--fit"),
        context=context,
        tolerate_damage=tolerate_damage,
    )
    make("extend", prompt, then, video_options, given=end)


@app.command(
    cls=Command,
    epilog=examples(
        'causvid restyle car.mp4 "a blue boat moves left in the snow" -o boat.mp4',
        'causvid restyle car.mp4 "a blue boat in the snow" --strength 0.8 -o - --format mkv > boat.mkv',
    ),
)
@with_video_options
def restyle(
    video_options: VideoOptions,
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video; `-` is a live one on stdin.", allow_dash=True)],
    prompt: options.Prompt = None,
    then: options.Then = None,
    strength: options.Strength = STRENGTH,
    fit: options.Fit = None,
    input_size: options.InputSize = None,
    input_fps: options.InputFps = None,
    tolerate_damage: options.TolerateDamage = False,
) -> None:
    """Make a clip anew, chunk by chunk, as a prompt says: its frames are noised and denoised again.

    The video is as long as the clip and keeps its sound. A live video on stdin is a container that streams (MKV,
    MPEG-TS, fragmented MP4, NUT, Y4M) or, with --input-size and --input-fps, raw RGB pictures.
    """
    how = check_choice(fit or "stretch", FITS, name="--fit")
    if str(clip) == "-":
        if prompt in (None, "-"):
            raise UsageError("the clip comes on stdin, so the prompt cannot; say it in quotes, or as @FILE")
        raw = raw_format(input_size, input_fps)
        source = SourceClip(
            path=None, pipe=stdin_video(), raw=raw, fit=how, strength=strength, tolerate_damage=tolerate_damage
        )
    else:
        if input_size or input_fps:
            raise UsageError("--input-size and --input-fps are for raw frames on stdin; leave them out for a file")
        source = SourceClip(path=clip, fit=how, strength=strength, tolerate_damage=tolerate_damage)
    make("restyle", prompt, then, video_options, given=source)


def make(
    command: str,
    prompt: str | None,
    then: list[str] | None,
    video_options: VideoOptions,
    *,
    given: InputMedia | None = None,
) -> None:
    """What all of them do, once their own options are read."""
    started = time.monotonic()
    script = script_of(check_prompt(read_prompt(prompt)), then or ())
    make_script(command, script, video_options, given=given, started=started)


def make_script(
    command: str, script: Script, video_options: VideoOptions, *, given: InputMedia | None, started: float
) -> None:
    """Make the video of a script."""
    from causvid_cli.cli.run import run

    run(make_tasks(command, script, video_options, given=given), started=started)


def _file(path: Path, name: str) -> Path:
    """A file that is read more than once, so it cannot be stdin."""
    if str(path) == "-":
        raise UsageError(f"{name} -: a file is wanted here, not stdin; only restyle takes a live video")
    return path


def raw_format(size: str | None, fps: str | None) -> "RawFormat | None":
    """How raw frames on stdin lie, if they are raw."""
    if size is None and fps is None:
        return None
    if size is None or fps is None:
        raise UsageError("raw frames on stdin need both --input-size and --input-fps")
    from causvid_cli.media.clips import RawFormat

    return RawFormat(size=parse_size(size, name="--input-size"), fps=parse_fps(fps, name="--input-fps"))


def stdin_video() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "no video on stdin; pipe one in, as in: ffmpeg -i cam.mkv -f matroska - | causvid restyle - ..."
        )
    return sys.stdin.buffer


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
            if is_address(given[1:]):
                raise UsageError(f"{given[1:]}: {IS_ADDRESS}") from error
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
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt in {name} is not UTF-8 text") from error
    if (lines := sum(1 for line in text.splitlines() if line.strip())) > 1:
        console.note(f"{name}: its {lines} lines are one prompt; prompts over time are for causvid edit-script")
    return text
