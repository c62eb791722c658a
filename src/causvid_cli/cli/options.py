"""The options that commands share: one spelling, help text and unit each. Numbers stay text; `timecode` reads them."""

from pathlib import Path
from typing import Annotated, get_args

from typer import Argument, Option

from causvid_cli.cli import completion, console
from causvid_cli.cli.command import SECTIONS
from causvid_cli.request import ATTENTION, AUDIO_FITS, AUTO, DTYPES, INTERPOLATE, ROPES, Offload, Quantize, Vae

INPUT, VIDEO, MODEL, OUTPUT, RUNNING = SECTIONS

Prompt = Annotated[
    str | None,
    Argument(
        metavar="PROMPT",
        help="What to show, in quotes. `-`, or nothing when text is piped in, reads it from stdin; "
        "@FILE reads it from a file.",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    Option(
        "--output",
        "-o",
        metavar="FILE",
        help="What to write: .mp4, .mkv, .webm, .gif, .webp, or numbered images such as frames/%05d.png; `-` is "
        "stdout. {slug} (of the prompt), {seed}, {n} (which of --count) and {model} are filled in. If not given, "
        "causvid-PROMPT-SEED.mp4 in this folder, of rerun FILE-rerun.mp4.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
ClipLength = Annotated[
    str,
    Option("--length", metavar="TIME", help="How long each clip is: 5s, 250ms, 1:04.5, or 96f for 96 frames."),
]
Length = Annotated[
    str | None,
    Option(
        metavar="TIME",
        help="How long the video is, or what extend adds: 5s, 250ms, 1:04.5, 96f for 96 frames, or inf to go on until "
        "Ctrl-C. If not given, 5s, or 5s after the last --then; a script's own; a restyled clip's own.",
        show_default=False,
        rich_help_panel=VIDEO,
    ),
]
Size = Annotated[
    str | None,
    Option(
        metavar="SIZE",
        help="Width and height in pixels, such as 512x512, or one that the model has by name: native; small or medium, "
        "made quickly and enlarged by a whole number, as 256x144@3 is; wide or tall. If not given, the model's own, "
        "and of a picture or clip the shape nearest to it.",
        show_default=False,
        autocompletion=completion.sizes,
        rich_help_panel=VIDEO,
    ),
]
Fps = Annotated[
    str | None,
    Option(
        metavar="RATE",
        help="Frames per second of the file: 8, 29.97 or 30000/1001; if not given, the rate that the model was made "
        "for, or the clip's that extend goes on with. Nothing moves faster or slower (--interpolate).",
        show_default=False,
        rich_help_panel=VIDEO,
    ),
]
Interpolate = Annotated[
    str | None,
    Option(
        metavar="WAY",
        help="How the model's frames are brought to --fps: repeat (each stays until the next is due), blend, motion "
        "(new ones are drawn between) or none (the same frames, shown faster or slower). If not given, repeat; for "
        "restyle none, which makes as many frames of the clip as --fps says.",
        show_default=False,
        autocompletion=completion.words(*INTERPOLATE),
        rich_help_panel=VIDEO,
    ),
]
Seed = Annotated[
    str | None,
    Option(
        "--seed",
        "-s",
        metavar="NUMBER",
        help="The same seed and options give the same frames again; if not given, a random one, which is reported.",
        show_default=False,
        rich_help_panel=VIDEO,
    ),
]
Steps = Annotated[
    str | None,
    Option(
        metavar="NUMBER",
        help="Denoising steps per chunk of frames; if not given, the number that the model was trained for.",
        show_default=False,
        rich_help_panel=VIDEO,
    ),
]
WhichRope = Annotated[
    str | None,
    Option(
        "--rope",
        metavar="HOW",
        help="How far the first frames, which some models keep for ever, stand from the newest: absolute, where they "
        "were, or relative, never farther than the model was trained for. If not given, as the model's scores were "
        "published.",
        show_default=False,
        autocompletion=completion.words(*ROPES),
        rich_help_panel=VIDEO,
    ),
]
Model = Annotated[
    str,
    Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A name that `causvid models list` shows, or a pack's folder; auto: the embedded one for the prompt.",
        autocompletion=completion.models,
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    Option(
        metavar="DEVICE",
        help="Where to compute: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.",
        autocompletion=completion.devices,
        rich_help_panel=MODEL,
    ),
]
VaeDevice = Annotated[
    str,
    Option(
        metavar="DEVICE",
        help="Where frames are encoded and decoded: auto (where the network computes), or a second device, such as "
        "cuda:1, which then works beside it.",
        autocompletion=completion.devices,
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    str,
    Option(
        metavar="DTYPE",
        help=f"Number format of the network: auto (bfloat16 on CUDA, else float32), {', '.join(DTYPES[:-1])} or "
        f"{DTYPES[-1]}.",
        autocompletion=completion.dtypes,
        rich_help_panel=MODEL,
    ),
]
VAE_HELP = (
    "What decodes frames: full (the model's own VAE) or tiny (many times faster, a little less sharp), where the model "
    "has one"
)
WhichVae = Annotated[
    str,
    Option(
        "--vae",
        metavar="WHICH",
        help=f"{VAE_HELP}.",
        autocompletion=completion.words(*get_args(Vae)),
        rich_help_panel=MODEL,
    ),
]
ChosenVae = Annotated[
    str,
    Option(
        "--vae",
        metavar="WHICH",
        help=f"{VAE_HELP}; auto is tiny then, but on CUDA full.",
        autocompletion=completion.words(AUTO, *get_args(Vae)),
        rich_help_panel=MODEL,
    ),
]
Loras = Annotated[
    list[str] | None,
    Option(
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="A LoRA to add to the model, and its weight: style.safetensors:0.8; if not given, 1. May be given again.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
QuantizeTo = Annotated[
    str,
    Option(
        "--quantize",
        metavar="FORMAT",
        help="Keep the network's large weights as int8 or fp8: half the memory, nearly the same frames.",
        autocompletion=completion.words(*get_args(Quantize)),
        rich_help_panel=MODEL,
    ),
]
OffloadWhat = Annotated[
    str,
    Option(
        "--offload",
        metavar="WHAT",
        help="What is kept off the GPU: none, text (the text encoder works on the CPU), group (also the network, "
        "fetched block by block: slow, and little is enough) or auto (what this GPU has no room for).",
        autocompletion=completion.words(*get_args(Offload)),
        rich_help_panel=MODEL,
    ),
]
Compile = Annotated[
    bool,
    Option(
        "--compile",
        help="Compile the network first, by torch.compile: a minute's wait, then faster.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
AttentionBy = Annotated[
    str,
    Option(
        "--attention",
        metavar="NAME",
        help="What computes attention: auto, native, flash, flex, sage, xformers ... as diffusers names them.",
        autocompletion=completion.words(*ATTENTION),
        rich_help_panel=MODEL,
    ),
]
RandomWeights = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="A published model's network with random weights, which need no download: it shows noise, and what the "
        "model takes of time and memory (--dry-run).",
        show_default=False,
        autocompletion=completion.checkpoints,
        rich_help_panel=MODEL,
    ),
]
Negative = Annotated[
    str | None,
    Option(
        "--negative",
        "-n",
        metavar="TEXT",
        help="What not to show. Each step then takes two network calls.",
        show_default=False,
        rich_help_panel=VIDEO,
    ),
]
Strict = Annotated[
    bool,
    Option(
        "--strict",
        help="Make nothing, and end with exit code 2, where nothing of a prompt was understood.",
        show_default=False,
        rich_help_panel=VIDEO,
    ),
]
Guidance = Annotated[
    float,
    Option(
        metavar="NUMBER", help="How strongly to steer away from --negative; 1 is not at all.", rich_help_panel=VIDEO
    ),
]
Then = Annotated[
    list[str] | None,
    Option(
        metavar="'TIME: PROMPT'",
        help="Another prompt from a time on: --then '5s: he writes in his notebook'. May be given again.",
        show_default=False,
        rich_help_panel=VIDEO,
    ),
]
Transition = Annotated[
    str | None,
    Option(
        metavar="WAY",
        help="How a new prompt takes hold: recache (the frames so far are remembered, read anew under it), soft (they "
        "are remembered as they were) or cut (they are forgotten: a new shot). If not given, what a script says, or "
        "recache.",
        show_default=False,
        autocompletion=completion.words("recache", "soft", "cut"),
        rich_help_panel=VIDEO,
    ),
]
Fit = Annotated[
    str | None,
    Option(
        metavar="WAY",
        help="Where the shapes of input and model differ: crop (cut what overhangs), pad (black bars, all is shown) or "
        "stretch (all is shown, proportions change). If not given: crop for a picture, stretch for a clip.",
        show_default=False,
        autocompletion=completion.words("crop", "pad", "stretch"),
        rich_help_panel=INPUT,
    ),
]
Hold = Annotated[
    str | None,
    Option(
        metavar="HOW",
        help="How long the photo stands still: frame (one latent frame, as short as can be) or chunk (all frames of "
        "the first chunk). If not given, chunk.",
        show_default=False,
        autocompletion=completion.words("frame", "chunk"),
        rich_help_panel=INPUT,
    ),
]
Background = Annotated[
    str,
    Option(
        metavar="#RRGGBB",
        help="What shows through the transparent parts of a picture; if not given, black.",
        rich_help_panel=INPUT,
    ),
]
Context = Annotated[
    str | None,
    Option(
        metavar="TIME",
        help="How much of the clip's end the model sees; if not given, as much as it can look back on.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Strength = Annotated[
    float,
    Option(
        metavar="NUMBER",
        help="How much is made anew: more than 0, at most 1, which keeps nothing of the clip.",
        rich_help_panel=VIDEO,
    ),
]
TolerateDamage = Annotated[
    bool,
    Option("--tolerate-damage", help="Go on where the input is damaged.", show_default=False, rich_help_panel=INPUT),
]
InputSize = Annotated[
    str | None,
    Option(metavar="WxH", help="Size of raw RGB frames (rgb24) on stdin.", show_default=False, rich_help_panel=INPUT),
]
InputFps = Annotated[
    str | None,
    Option(metavar="RATE", help="Frames per second of raw RGB on stdin.", show_default=False, rich_help_panel=INPUT),
]
Audio = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Sound to lay under the video, from its first frame on: WAV, MP3, FLAC, OGG, M4A ..., or a video's. "
        "What is longer than the video is cut; edit-script without a length of its own lasts as long as the sound.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
HowAudioFits = Annotated[
    str,
    Option(
        "--audio-fit",
        metavar="WAY",
        help="What follows sound that is shorter than the video: pad (silence) or loop (the sound again).",
        autocompletion=completion.words(*AUDIO_FITS),
        rich_help_panel=INPUT,
    ),
]
Count = Annotated[
    int,
    Option(min=1, metavar="NUMBER", help="How many videos to make, each with the next seed.", rich_help_panel=VIDEO),
]
Format = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="Container for -o -: mp4 (fragmented), mkv, nut, rawvideo or yuv4mpeg; if not given, mp4.",
        show_default=False,
        autocompletion=completion.words("mp4", "mkv", "nut", "rawvideo", "yuv4mpeg"),
        rich_help_panel=OUTPUT,
    ),
]
Lossless = Annotated[
    bool,
    Option(
        "--lossless", help="Write every pixel exactly: FFV1 in an .mkv.", show_default=False, rich_help_panel=OUTPUT
    ),
]
NoMetadata = Annotated[
    bool, Option("--no-metadata", help="Leave the recipe out of the file.", show_default=False, rich_help_panel=OUTPUT)
]
Sidecar = Annotated[
    bool,
    Option(
        "--sidecar",
        help="Write FILE.json too: the recipe, and each chunk's time and hash.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
KeepLatents = Annotated[
    bool,
    Option(
        "--keep-latents",
        help="Keep FILE.journal, which holds every chunk's latents; else it goes when the video is whole.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Preview = Annotated[
    bool,
    Option(
        "--preview",
        help="Show small frames in the terminal while they are made.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool,
    Option(
        "--dry-run",
        help="Write nothing; say what would be made, how long it takes and how large it gets, from its first chunks.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
JsonLines = Annotated[
    bool,
    Option(
        "--json-lines",
        help="Print each chunk as a JSON object on a line of stdout.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
SkipExisting = Annotated[
    bool,
    Option(
        "--skip-existing",
        help="If the output exists, do nothing, and end with exit code 0.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Threads = Annotated[
    int | None,
    Option(
        min=1,
        metavar="NUMBER",
        help="CPU threads; if not given, OMP_NUM_THREADS, else one for a small model such as storybook, which a second "
        "one makes no faster, and all cores for a large one.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Overwrite = Annotated[
    bool,
    Option("--overwrite", "-y", help="Replace the output if it exists.", show_default=False, rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    int,
    Option(
        "--quiet",
        "-q",
        count=True,
        callback=console.set_quiet,
        help="No progress and no notes on stderr; -qq: nothing but errors.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Verbose = Annotated[
    int,
    Option(
        "--verbose",
        "-v",
        count=True,
        callback=console.set_verbose,
        help="Say more on stderr.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Progress = Annotated[
    str,
    Option(
        "--progress",
        metavar="HOW",
        callback=console.set_progress,
        help="auto, bar, plain (a line now and then) or none.",
        autocompletion=completion.words(*console.PROGRESS),
        rich_help_panel=RUNNING,
    ),
]
Json = Annotated[
    bool,
    Option(
        "--json", help="Print the result as one JSON object on stdout.", show_default=False, rich_help_panel=RUNNING
    ),
]
