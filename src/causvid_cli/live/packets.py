"""Frames of a live video as a page gets them: H.264 for WebCodecs, or pictures where it has none."""

import io
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

QUALITY = 90
"""Of a JPEG or WebP picture, 1 to 100."""
RATE_FACTOR = "20"
"""x264's: flat colours stay clean."""
KEYFRAMES = "600"
"""Frames between two key pictures at most; each chunk begins with one anyway."""


class Packet(NamedTuple):
    """One coded frame. is_key: whether it can be decoded without those before it."""

    data: bytes
    is_key: bool


def picture(frame: np.ndarray, kind: Literal["jpeg", "webp"], *, quality: int = QUALITY) -> bytes:
    """One frame, uint8 RGB [H, W, 3], by itself."""
    data = io.BytesIO()
    how = {"subsampling": 0} if kind == "jpeg" else {"method": 0}
    Image.fromarray(frame).save(data, kind.upper(), quality=quality, **how)
    return data.getvalue()


class Pictures:
    """Each frame a JPEG."""

    def __call__(self, frames: np.ndarray) -> list[Packet]:
        """Frames of one chunk, uint8 RGB [T, H, W, 3], as packets."""
        return [Packet(picture(frame, "jpeg"), True) for frame in frames]


class H264:
    """x264 without delay: each frame is a packet at once, in Annex B, and each chunk begins with a key picture.

    A side of odd length loses its last line, as the codec halves the colours.
    """

    def __init__(self, width: int, height: int, fps: Fraction) -> None:
        from av import CodecContext

        context = CodecContext.create("libx264", "w")
        context.width, context.height = width - width % 2, height - height % 2
        context.pix_fmt, context.time_base, context.framerate = "yuv420p", 1 / fps, fps
        context.thread_count = 1
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": RATE_FACTOR,
            "forced-idr": "1",
            "g": KEYFRAMES,
        }
        self._context, self._count = context, 0

    def __call__(self, frames: np.ndarray) -> list[Packet]:
        """Frames of one chunk, uint8 RGB [T, H, W, 3], as packets."""
        from av import VideoFrame
        from av.video.frame import PictureType

        packets = []
        for number, frame in enumerate(frames[:, : self._context.height, : self._context.width]):
            raw = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            raw.pts = self._count
            raw.pict_type = PictureType.NONE if number else PictureType.I
            self._count += 1
            packets += [Packet(bytes(packet), packet.is_keyframe) for packet in self._context.encode(raw)]
        return packets
