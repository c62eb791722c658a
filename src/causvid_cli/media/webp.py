"""An animated WebP, which FFmpeg does not decode -> a lossless video in a temporary file, which it does."""

from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from tempfile import NamedTemporaryFile
from typing import IO, BinaryIO

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from causvid_cli.errors import MediaError

_MILLISECOND = Fraction(1, 1000)
_ANIMATION = 2  # the flag in byte 20, of the chunk VP8X (RFC 9649, 2.7)


def is_animated_webp(file: BinaryIO) -> bool:
    """Return whether a file is an animated WebP, by its first bytes; reads from its start and goes back there."""
    start = file.read(21)
    file.seek(0)
    return len(start) == 21 and start[:4] + start[8:16] == b"RIFFWEBPVP8X" and bool(start[20] & _ANIMATION)


@lru_cache(maxsize=1)
def webp_as_video(path: str, stamp: tuple[int, ...], max_pixels: int) -> IO[bytes]:
    """Return FFV1 in Matroska: every frame at its time, transparency kept.

    A clip is opened several times and converted once.

    stamp: tells one version of the file from the next. Raises MediaError for a damaged file and for frames of more
    than `max_pixels`, OSError when the temporary file cannot be written.
    """
    target = NamedTemporaryFile(prefix="causvid-", suffix=".mkv")
    try:
        with Image.open(path, formats=("WEBP",)) as image, av.open(target, "w", format="matroska") as output:
            if image.width * image.height > max_pixels:
                most = f"more than {max_pixels // 10**6} megapixels a frame"
                raise MediaError(f"{path}: {image.width}x{image.height} is {most}; scale it down first")
            lasts = [_shown(image, number) for number in range(image.n_frames)]  # type: ignore[attr-defined]
            mean = Fraction(1000 * len(lasts), sum(lasts)).limit_denominator(1001)
            stream = output.add_stream("ffv1", rate=mean, width=image.width, height=image.height)
            stream.pix_fmt = "bgra" if image.has_transparency_data else "bgr0"
            stream.codec_context.time_base = _MILLISECOND
            for number, begin in enumerate(accumulate(lasts[:-1], initial=0)):
                _shown(image, number)
                frame = VideoFrame.from_ndarray(np.asarray(image.convert("RGBA")), format="rgba")
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = begin, _MILLISECOND
                for packet in stream.encode(frame):
                    packet.duration = lasts[number]
                    output.mux(packet)
            output.mux(stream.encode(None))
    except (EOFError, ValueError, Image.DecompressionBombError, Image.UnidentifiedImageError) as error:
        raise MediaError(f"{path}: is a WebP that is damaged, or cut short: {error}") from error
    target.flush()
    return target


def _shown(image: Image.Image, number: int) -> int:
    """Decode a frame; return for how many milliseconds it is shown."""
    image.seek(number)
    image.load()
    return max(1, round(image.info["duration"]))
