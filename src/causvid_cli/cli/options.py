"""The options that commands share: one spelling, help text and unit each. Numbers stay text; `timecode` reads them."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from causvid_cli.request import DTYPES

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
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The .mp4 to write; if not given, causvid-PROMPT-SEED.mp4 in this folder.",
        show_default=False,
    ),
]
Length = Annotated[
    str,
    Option(metavar="TIME", help="How long the video is: 5s, 250ms, 1:04.5, or 96f for 96 frames."),
]
Size = Annotated[
    str | None,
    Option(
        metavar="WxH",
        help="Width and height in pixels, such as 512x512; if not given, the model's own.",
        show_default=False,
    ),
]
Fps = Annotated[
    str | None,
    Option(
        metavar="RATE",
        help="Frames per second of the file: 8, 29.97 or 30000/1001; if not given, the rate that the model was made "
        "for. The model draws the same frames at any rate, so at a higher one things move faster.",
        show_default=False,
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
    ),
]
Steps = Annotated[
    str | None,
    Option(
        metavar="NUMBER",
        help="Network calls per chunk of frames; if not given, the number that the model was trained for.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    Option("--model", "-m", metavar="NAME", help="A name that `causvid models list` shows, or a model pack's folder."),
]
Device = Annotated[
    str,
    Option(metavar="DEVICE", help="Where to compute: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps."),
]
Dtype = Annotated[
    str,
    Option(
        metavar="DTYPE",
        help=f"Number format of the network: auto (bfloat16 on CUDA, else float32), {', '.join(DTYPES[:-1])} or "
        f"{DTYPES[-1]}.",
    ),
]
Threads = Annotated[int | None, Option(min=1, metavar="NUMBER", help="CPU threads; if not given, torch's own choice.")]
Overwrite = Annotated[bool, Option("--overwrite", "-y", help="Replace the output if it exists.", show_default=False)]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Say nothing on stderr but errors.", show_default=False)]
Json = Annotated[bool, Option("--json", help="Print the result as one JSON object on stdout.", show_default=False)]
