"""Draw docs/fit.png: what `--fit` does to a wide clip and a square model.

    python examples/fit_figure.py docs/fit.png

Rows: crop, pad, stretch. Columns: the clip, what the model sees, what it draws, what the file shows of that.
"""

import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from causvid_cli.media.fit import fit
from causvid_cli.request import FitMode

CLIP, MODEL, GAP = (160, 90), (90, 90), 10
MODES: Sequence[FitMode] = ("crop", "pad", "stretch")


def scene(size: tuple[int, int], color: str) -> np.ndarray:
    """A disc between two posts that stand at the sides, on a chequered ground: uint8 [H, W, 3]."""
    width, height = size
    image = Image.new("RGB", (4 * width, 4 * height), "#9fd3e8")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 3 * height, 4 * width, 4 * height), fill="#e9eef7")
    for left in (8, 4 * width - 32):
        draw.rectangle((left, height, left + 24, 4 * height), fill="#2f6b4f")
    radius, middle = 1.1 * min(size), (2 * width, 2.3 * height)
    draw.ellipse((middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius), fill=color)
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def figure() -> Image.Image:
    """The whole drawing."""
    clip, drawn = scene(CLIP, "#d6353b"), scene(MODEL, "#3b62d6")
    width = 2 * CLIP[0] + 2 * MODEL[0] + 5 * GAP
    sheet = Image.new("RGB", (width, len(MODES) * (CLIP[1] + GAP) + GAP), "white")
    for row, mode in enumerate(MODES):
        seen, shown = fit(CLIP, MODEL, mode).apply([clip])[0], fit(MODEL, CLIP, mode).apply([drawn])[0]
        left = GAP
        for picture in (clip, seen, drawn, shown):
            sheet.paste(Image.fromarray(picture), (left, GAP + row * (CLIP[1] + GAP)))
            left += picture.shape[1] + GAP
    return sheet


if __name__ == "__main__":
    figure().save(sys.argv[1], optimize=True)
