"""A file that was written, read back: what is wrong with it, or nothing."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from PIL import Image

from causvid_cli.errors import MediaError
from causvid_cli.media.probe import read_info
from causvid_cli.media.recipe import RECIPE_KEY, metadata_to_recipe


def fault_of_video(
    path: Path, *, frames: int, fps: Fraction | None, tick: Fraction, metadata: Mapping[str, str]
) -> str:
    """Return why a file does not hold exactly these frames, at this rate, with the recipe of `metadata`; "" if it does.

    fps: None takes any. tick: to which its times are rounded, in seconds. Without a recipe in `metadata`, none is asked
    for.
    """
    try:
        info = read_info(path)
    except MediaError as error:
        return str(error)
    if info.frames != frames or (fps is not None and abs(1 / info.fps - 1 / fps) > tick):
        return f"{path} has {info.frames} frames at {info.fps}/s, not {frames}" + (f" at {fps}/s" if fps else "")
    if RECIPE_KEY in metadata and info.recipe != metadata_to_recipe(metadata):
        return f"the recipe in {path} is not the one written"
    return ""


def fault_of_webp(path: Path, *, frames: int, fps: Fraction) -> str:
    """Return why an animated WebP, which FFmpeg does not read, does not last as long as it should; "" when it does.

    Equal frames that follow each other are one in it, so only the time can be compared; a still has none.
    """
    expected = round(1000 * frames / fps)
    try:
        shown, milliseconds = _webp_time(path)
    except (OSError, ValueError) as error:
        return f"{path}: {error}"
    if shown > 1 and abs(milliseconds - expected) > 1:
        return f"{path} lasts {milliseconds} ms, not {expected}"
    return ""


def _webp_time(path: Path) -> tuple[int, int]:
    """Decode a WebP; return how many frames it has, and how long it lasts in ms."""
    with Image.open(path, formats=["WEBP"]) as image:
        shown = getattr(image, "n_frames", 1)
        milliseconds = 0
        for number in range(shown):
            image.seek(number)
            image.load()
            milliseconds += image.info.get("duration", 0)
        return shown, milliseconds
