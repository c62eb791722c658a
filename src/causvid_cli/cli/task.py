"""What a user asked -> a task: all of it checked that can be without torch, from the quickest check to the slowest."""

import re
import sys
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, get_args

from causvid_cli.cli import console
from causvid_cli.cli.other_models import usual_model
from causvid_cli.cli.shots import in_shots
from causvid_cli.cli.torchrun import process_count
from causvid_cli.cli.video_options import VideoOptions
from causvid_cli.config import PackFacts, check_choice
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.files import output_file
from causvid_cli.geometry import ChunkGrid
from causvid_cli.job.inputs import InputMedia
from causvid_cli.job.job import AudioUsed, Job, ModelUsed
from causvid_cli.models.memory import Video
from causvid_cli.models.resolve import ResolvedModel, resolve_model, with_usual_vae
from causvid_cli.request import (
    AUDIO_FITS,
    AUTO,
    DEFAULT_LENGTH,
    ENDLESS,
    INTERPOLATE,
    LARGEST_SEED,
    TRANSITIONS,
    AudioFit,
    Interpolate,
    Loading,
    Size,
    Vae,
    check_device,
    check_dtype,
    check_endless,
    check_guidance,
    check_rope,
    check_seed,
    check_size,
    check_steps,
    named_sizes,
    parse_any_size,
    parse_length,
    random_seed,
)
from causvid_cli.script import Script, Snapped, timeline
from causvid_cli.timecode import Retiming, Time, parse_fps, parse_size, parse_whole
from causvid_cli.weights.lora_files import lora_use, parse_lora

if TYPE_CHECKING:
    from causvid_cli.media.sound import Soundtrack

BYTES_PER_PIXEL = 0.004
"""The least that a video takes on disk: what storybook's flat colours do. For a first look at the free space."""

SMALLEST_MOTION = 32
"""Pixels along a side, below which ffmpeg's minterpolate finds no motion."""

NEVER = 10**12
"""Pictures: later than any cue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A video to be made, and where its things lie."""

    job: Job
    folder: Path | None
    """Of the model pack; None for random weights."""
    facts: PackFacts
    grid: ChunkGrid
    output: Path | None
    """None is stdout."""
    input_media: InputMedia | None
    """The photo or clip that the video begins from."""
    options: VideoOptions
    soundtrack: "Soundtrack | None" = None
    """What is laid under the video."""
    lora_files: tuple[Path, ...] = ()
    """Where the job's LoRAs lie, in their order."""
    snapped: Snapped | None = None
    """Where each cue falls; None for a job that is done again."""
    chosen: tuple[str, ...] = ()
    """Why it is this model that makes it, where nobody named one."""
    seed_given: bool = True

    @property
    def name(self) -> str:
        """What the user calls the output."""
        return "stdout" if self.output is None else str(self.output)

    @property
    def video(self) -> Video:
        """What of it its memory depends on."""
        width, height = parse_size(self.job.cells)
        frames, grid = self.job.made_frames, self.grid
        chunks = None if frames is None else grid.chunk_of(frames - 1) + 1
        return Video(
            height=height,
            width=width,
            latent_frames=None if chunks is None else grid.given_frames + chunks * grid.chunk_frames,
            guided=any(cue.negative for cue in self.job.cues) and self.job.guidance != 1,
            has_source=self.input_media is not None and self.input_media.kind == "source",
            rope=self.job.rope,
            processes=process_count(),
        )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[1, C, f, h, w] of each chunk."""
        (width, height), codec = parse_size(self.job.cells), self.grid.codec
        cells = height // codec.spatial_factor, width // codec.spatial_factor
        return 1, codec.latent_channels, self.grid.chunk_frames, *cells

    @property
    def is_live(self) -> bool:
        """Whether it is made of a pipe, which nobody can read twice: then there is nothing to resume."""
        return self.input_media is not None and self.input_media.path is None

    @property
    def is_endless(self) -> bool:
        """Whether Ctrl-C is how it ends, not what breaks it off."""
        return self.job.frames is None and (self.input_media is None or self.is_live)

    @property
    def landed(self) -> tuple[str, ...]:
        """Where cues fall: all of a script, or with -v; else those that fall elsewhere than asked."""
        if self.snapped is None:
            return ()
        several = len(self.snapped.report) > 1
        if self.options.verbose or (several and self.job.command == "edit-script"):
            return self.snapped.lines
        return tuple(str(entry) for entry in self.snapped.report if several and entry.start_s != entry.asked_s)

    @property
    def sounds(self) -> tuple[str, ...]:
        """What becomes of sound that is longer or shorter than the video."""
        sound, job = self.soundtrack, self.job
        if sound is None or job.frames is None:
            return ()
        seconds = job.frames / job.rate + (self.input_media.seconds_before if self.input_media else 0)
        if abs(seconds - sound.seconds) < 1 / job.rate:
            return ()
        follows = "silence follows" if sound.fit == "pad" else "it begins again"
        then = "the rest is left out" if sound.seconds > seconds else follows
        return (f"{sound.name} lasts {float(sound.seconds):.4g} s and the video {float(seconds):.4g} s: {then}",)

    @property
    def decoded(self) -> tuple[str, ...]:
        """That frames are decoded by the tiny VAE though nobody asked for it."""
        if self.snapped is None or self.options.vae != AUTO or self.job.loading.vae == "full":
            return ()
        return ("frames are decoded by the tiny VAE, which is faster and a little less sharp; --vae full is the other",)

    @property
    def retimed(self) -> tuple[str, ...]:
        """That the file has another frame rate than the model, and what is done for that."""
        retiming, way = self.job.retiming, self.job.interpolate
        if way == "none":
            return ()
        done = {"blend": "frames are blended", "motion": "frames are drawn between, by motion"}.get(way)
        if done is None:
            repeated = "repeated" if retiming.shown > retiming.made else "left out"
            done = f"frames are {repeated} (--interpolate blend or motion draws some between)"
        made, shown = float(retiming.made), float(retiming.shown)
        return (f"{self.facts.name} makes {made:.5g} frames per second and the video has {shown:.5g}: {done}",)


def make_tasks(command: str, script: Script, options: VideoOptions, *, given: InputMedia | None = None) -> list[Task]:
    """The videos that are asked for, `--count` of them. Raises CausvidError for what cannot be made."""
    check_device(options.device)
    check_device(options.vae_device, option="--vae-device")
    check_dtype(options.dtype)
    check_guidance(options.guidance)
    loading, lora_files = _loading(options)
    _check_together(options)
    soundtrack = open_audio(options)
    if given is not None:
        given.replaces_sound = soundtrack is not None
    if given is not None and given.kind == "clip" and options.output == "-":
        raise UsageError("-o -: the clip and what follows it go into one file; name one, such as -o longer.mp4")
    if given is not None and given.kind == "clip" and options.lossless:
        raise UsageError("--lossless: what follows a clip is encoded like the clip; leave it out")
    typed_steps = None if options.steps is None else parse_whole(options.steps, name="--steps")
    steps: int | None = options.preferred("steps", typed_steps, script.steps)
    guidance: float = options.preferred("guidance", options.guidance, script.guidance)
    seed = _seed(script, options)
    chosen = chosen_model(script, options, given)
    facts, codec = chosen.facts, chosen.codec
    way, made_fps, asked_fps = chosen_rates(script, options, facts, given)
    wanted = _size(script, options)
    if given:
        named = None if options.output == "-" else Path(options.output or "")
        given.check(facts, codec, size=wanted, fps=made_fps, output=named)
        cells, size = given.cells, given.size
    else:
        width, height, times = check_size(wanted, facts)
        cells, size = (width, height), (width * times, height * times)
    grid = grid_of(chosen, given)
    retiming = retiming_of(way, made_fps, asked_fps, given)
    if way == "motion" and min(size) < SMALLEST_MOTION and not retiming.is_same:
        own = "{}x{}".format(*size)
        raise UsageError(f"--interpolate motion: frames of {own} are too small for that; try --interpolate blend")
    sound_length = length_of_sound(script, options, soundtrack, retiming) if command == "edit-script" else None
    length, snapped, frames = _snapped(command, script, options, grid, retiming, given, sound_length, chosen)
    check_endless(frames, facts)
    if given:
        given.read_through(None if frames is None else frames / retiming.shown)
    job = Job(
        command=command,
        cues=snapped.cues,
        model=ModelUsed(name=facts.name, sha256=chosen.sha256),
        input=given.used if given else None,
        audio=AudioUsed(name=soundtrack.name, sha256=soundtrack.sha256, fit=soundtrack.fit) if soundtrack else None,
        length=length,
        frames=frames,
        fps=str(retiming.shown),
        model_fps="" if retiming.is_same else str(retiming.made),
        interpolate="none" if retiming.is_same else way,
        size="{}x{}".format(*size),
        cells="{}x{}".format(*cells),
        seed=random_seed() if seed is None else seed,
        steps=check_steps(steps, facts),
        rope=check_rope(options.rope, facts),
        guidance=guidance,
        device=options.device,
        dtype=options.dtype,
        loading=replace(loading, vae=chosen.vae),
        lossless=options.lossless,
    )
    tasks = []
    for number in range(options.count):
        if job.seed + number > LARGEST_SEED:
            raise UsageError(f"--count {options.count}: the last seed would be larger than {LARGEST_SEED}")
        mine = replace(job, seed=job.seed + number)
        task = Task(
            job=mine,
            folder=chosen.folder,
            facts=facts,
            grid=grid,
            output=output_path(mine, options, number=number),
            input_media=given,
            options=options,
            soundtrack=soundtrack,
            lora_files=lora_files,
            snapped=snapped,
            chosen=(chosen.note,) if chosen.note else (),
            seed_given=seed is not None,
        )
        tasks.append(task)
    if len({task.output for task in tasks}) < len(tasks):
        raise UsageError(
            f"-o {options.output}: {options.count} videos need names of their own; put {{seed}} or {{n}} in"
        )
    return tasks


def chosen_model(script: Script, options: VideoOptions, given: InputMedia | None) -> ResolvedModel:
    """The model that is asked for, else the embedded one that knows most of the prompts.

    Raises UsageError when two are asked for, ModelError for what is not there.
    """
    if options.random_weights is not None and "model" in options.typed:
        raise UsageError(f"--random-weights and --model {options.model}: choose one")
    loading, _ = _loading(options)
    name = options.random_weights or options.preferred("model", options.model, script.model)
    name, note = _usual_model(script, options, given) if name == AUTO else (name, "")
    chosen = replace(resolve_model(name, loading=loading), note=note)
    return with_usual_vae(chosen, options.device) if options.vae == AUTO else chosen


def _usual_model(script: Script, options: VideoOptions, given: InputMedia | None) -> tuple[str, str]:
    """The embedded model that knows most of the prompts and does all else that is asked for, and a note on it."""
    restyles = given is not None and given.kind == "source"
    is_led = options.preferred("negative", options.negative, script.negative) or any(c.negative for c in script.cues)
    in_steps = options.preferred("steps", options.steps, script.steps)
    size = _size(script, options)

    def suits(facts: PackFacts) -> bool:
        has_size = not isinstance(size, str) or size in named_sizes(facts)
        return has_size and (facts.prediction != "copies" or not (restyles or is_led or in_steps))

    before = [given.told.prompt] if given is not None and given.told else []
    sees = given is not None and not restyles and not before
    return usual_model([*before, *(cue.prompt for cue in script.cues)], suits, after_picture=sees)


def grid_of(model: ResolvedModel, given: InputMedia | None, *, latent_frames: int | None = None) -> ChunkGrid:
    """Where the chunks of a video lie. latent_frames: what the input becomes, where it has not been looked at yet."""
    if given is not None and latent_frames is None:
        latent_frames = given.latent_frames
    shows_given = given is not None and given.kind == "photo"
    return model.facts.grid(model.codec, given_frames=latent_frames or 0, shows_given=shows_given)


def output_path(job: Job, options: VideoOptions, *, number: int) -> Path | None:
    """Where a video goes: -o with its {fields} filled in, or a name of its own; None for stdout."""
    if options.output == "-":
        check_stdout()
        return None
    fields = {"slug": slug(job.prompt), "seed": job.seed, "n": number + 1, "model": slug(job.model.name)}
    if options.output is None:
        suffix = "mkv" if options.lossless else "mp4"
        return Path(f"causvid-{fields['slug']}-{job.seed}.{suffix}")
    if not options.output:
        raise UsageError("-o '': an empty name; try -o video.mp4")
    try:
        parts = list(Formatter().parse(options.output))
    except ValueError:
        raise UsageError(f"-o {options.output}: a brace without its pair; write {{{{ for one of the name") from None
    for _, name, width, conversion in parts:
        if name is None:
            continue
        if name not in fields:
            known = ", ".join(f"{{{field}}}" for field in fields)
            raise UsageError(f"-o {options.output}: unknown field {{{name}}}; known: {known}; {{{{ is a brace itself")
        if conversion or not re.fullmatch(r"(0?[1-9]\d?d?)?", width or "") or (width and name not in ("seed", "n")):
            raise UsageError(f"-o {options.output}: only {{n:03}} and {{seed:010}} and such can be written at a width")
    return output_file(options.output.format(**fields))


def check_stdout() -> None:
    """Refuse to send a video to a terminal, or where nothing can go."""
    if sys.stdout is None:
        raise OutputError("-o -: stdout is closed; pipe it on, as in: ... -o - | mpv -, or name a file")
    if sys.stdout.isatty():
        raise UsageError("-o -: stdout is a terminal, which cannot show a video; pipe it on, as in: ... -o - | mpv -")


def slug(prompt: str) -> str:
    """A prompt as part of a file name: "a-red-car", or "video" when it has no Latin letter and no digit."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall("[a-z0-9]+", plain))[:40].strip("-") or "video"


def check_output_of(task: Task, named: Collection[str] = ()) -> bool:
    """Find what would keep the output from being written; False when it is there and that is fine. Loads PyAV.

    named: files that may be there, since an earlier run of this task gave them their names.
    """
    from causvid_cli.video import VideoFormat, check_output, check_pipe

    width, height = parse_size(task.job.size)
    video = VideoFormat(
        width=width, height=height, fps=task.job.rate, lossless=task.job.lossless, soundtrack=task.soundtrack
    )
    if task.output is None:
        check_pipe(video, task.options.format or "mp4")
        return True
    if task.options.skip_existing and (there := existing(task.output)):
        console.note(f"{there} exists: nothing to do")
        return False
    pixels = (task.job.frames or 0) * width * height
    check_output(
        task.output,
        video,
        overwrite=task.options.overwrite,
        expected_bytes=round(pixels * BYTES_PER_PIXEL),
        joins=bool(task.input_media and task.input_media.joins(task.output)),
        named=named,
    )
    if (
        task.input_media
        and task.input_media.path
        and task.output.exists()
        and task.output.samefile(task.input_media.path)
    ):
        raise OutputError(f"{task.output} is the input; choose another -o")
    return True


def existing(output: Path) -> Path | None:
    """What is there of a finished video: the file, or the first of its numbered frames."""
    from causvid_cli.video.formats import finished_files, form_of

    form_of(output)  # whose complaint comes first
    return next((file for file in finished_files(output) if file.exists()), None)


def open_audio(options: VideoOptions) -> "Soundtrack | None":
    """The sound that is asked for. Raises MediaError for what is none, or damaged."""
    fit: AudioFit = check_choice(options.audio_fit, AUDIO_FITS, name="--audio-fit")
    if options.audio is None:
        return None
    from causvid_cli.media.sound import open_soundtrack

    return open_soundtrack(options.audio, fit=fit)


def length_of_sound(
    script: Script, options: VideoOptions, soundtrack: "Soundtrack | None", retiming: Retiming
) -> Time | None:
    """How long a script's video is that lasts as long as its sound; None where the script or --length says that.

    The end of the last subtitle is no length that was asked for.
    """
    is_subtitles = Path(script.path).suffix.lower() in (".srt", ".vtt")
    if soundtrack is None or "length" in options.typed or (script.length and not is_subtitles):
        return None
    return Time(Fraction(ceil(soundtrack.seconds * retiming.shown)), "f")


def _check_together(options: VideoOptions) -> None:
    """Refuse options that contradict each other."""
    to_pipe = options.output == "-"
    for given, name, when, why in (
        (options.as_json, "--json", options.json_lines, "--json-lines: choose one"),
        (options.as_json, "--json", to_pipe, "-o -: the video itself goes to stdout; leave one out"),
        (options.json_lines, "--json-lines", to_pipe, "-o -: the video itself goes to stdout; leave one out"),
        (options.sidecar, "--sidecar", to_pipe, "-o -: it lies beside a file; name one"),
        (options.keep_latents, "--keep-latents", to_pipe, "-o -: they lie beside a file; name one"),
        (
            "audio_fit" in options.typed,
            f"--audio-fit {options.audio_fit}",
            options.audio is None,
            "no --audio: name one",
        ),
        (options.count > 1, f"--count {options.count}", to_pipe, "-o -: one video at a time goes there"),
        (options.overwrite, "-y", options.skip_existing, "--skip-existing: choose one"),
        (options.format is not None, "--format", not to_pipe, "a file: its name says what it is; --format is for -o -"),
    ):
        if given and when:
            raise UsageError(f"{name} and {why}")


def _loading(options: VideoOptions) -> tuple[Loading, tuple[Path, ...]]:
    """How the model is to be loaded, and where its LoRAs lie. Raises UsageError, ModelError for a LoRA not there."""
    loras = [parse_lora(text) for text in options.lora or ()]
    vae = check_choice(options.vae, (AUTO, *get_args(Vae)), name="--vae")
    loading = Loading(
        vae="full" if vae == AUTO else vae,
        loras=tuple(lora_use(path, weight) for path, weight in loras),
        quantize=options.quantize,  # type: ignore[arg-type]
        offload=options.offload,  # type: ignore[arg-type]
        compile=options.compile,
        attention=options.attention,
        random_weights=options.random_weights is not None,
    )
    return loading, tuple(path for path, _ in loras)


def _seed(script: Script, options: VideoOptions) -> int | None:
    given = None if options.seed is None else check_seed(parse_whole(options.seed, name="--seed"))
    return options.preferred("seed", given, script.seed)


def chosen_rates(
    script: Script, options: VideoOptions, facts: PackFacts, given: InputMedia | None
) -> tuple[Interpolate, Fraction, Fraction | None]:
    """How frames are interpolated, at which rate the model's are made, and which rate of the file is asked for."""
    usual = "none" if given is not None and given.kind == "source" else "repeat"
    chosen = options.preferred("interpolate", options.interpolate, script.interpolate)
    way: Interpolate = check_choice(chosen or usual, INTERPOLATE, name="--interpolate")
    asked: Fraction | None = options.preferred(
        "fps", None if options.fps is None else parse_fps(options.fps), script.fps
    )
    own = parse_fps(facts.fps)
    return way, asked or own if way == "none" else own, asked


def retiming_of(way: Interpolate, made: Fraction, asked: Fraction | None, given: InputMedia | None) -> Retiming:
    """From the model's frames to those of the file, which a clip that goes on says where nothing is asked for."""
    return Retiming(made, made if way == "none" else asked or (given and given.fps) or made)


def _size(script: Script, options: VideoOptions) -> Size | None:
    given = None if options.size is None else parse_any_size(options.size)
    return options.preferred("size", given, script.size)


def _snapped(
    command: str,
    script: Script,
    options: VideoOptions,
    grid: ChunkGrid,
    retiming: Retiming,
    given: InputMedia | None,
    sound_length: Time | None,
    model: ResolvedModel,
) -> tuple[str, Snapped, int | None]:
    """The length as the user has it, the cues at their chunks, and the number of pictures; None has no end."""
    if options.transition is not None:
        check_choice(options.transition, TRANSITIONS, name="--transition")
    script = replace(
        script,
        transition=options.preferred("transition", options.transition, script.transition),
        negative=options.preferred("negative", options.negative, script.negative),
    )
    asked: str | None = options.length
    if asked is None or ("length" not in options.typed and script.length is not None):
        asked = None
        if sound_length is not None:
            asked = str(sound_length)
        elif given is not None and given.kind == "source" and script.length is None:
            asked = ENDLESS  # it ends with its source
        elif script.length is None and len(script.cues) == 1:
            asked = DEFAULT_LENGTH
    if asked is None:
        snapped = timeline(script, grid, retiming.shown, model_fps=retiming.made)
        return str(script.length or f"{snapped.frames}f"), snapped, snapped.frames
    frames = parse_length(asked, fps=retiming.shown)
    length = Time(Fraction(frames or NEVER), "f")
    if frames and command != "edit-script":
        script = in_shots(script, model, chunks=grid.chunk_of(retiming.made_for(frames) - 1) + 1)
    snapped = timeline(script, grid, retiming.shown, model_fps=retiming.made, length=length)
    return asked.strip(), snapped, frames
