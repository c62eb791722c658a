"""A live video, arriving through a pipe -> frames at a constant rate, each as soon as it is there.

stream = open_stream(sys.stdin.buffer)
stream.frames(Fraction(16))
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import BinaryIO, Literal

import av
import numpy as np
from av.video.frame import VideoFrame

from causvid_cli.errors import MediaError, UsageError
from causvid_cli.media.probe import MAX_PIXELS, first_video, refuse_other_file
from causvid_cli.media.view import (
    USUAL_FPS,
    Timed,
    View,
    check_frame_size,
    decoded,
    deinterlace,
    reason_of,
    resample,
    rgb_frames,
    view_of,
)

STREAM_CONTAINERS = ("matroska", "mpegts", "mov", "nut", "yuv4mpegpipe", "avi", "flv", "ogg")
"""Demuxers that may open a live stream; none of them opens anything else."""
LONGEST_GAP_S = 10
"""A live stream whose clock jumps further goes on from the frame before."""

_PROBE_BYTES = 32_768  # read before a stream's first frame; FFmpeg's own 5 MB would be seconds
_READ_BYTES = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFormat:
    """What a stream of bare frames cannot say of itself. fps: frames per second. Raises UsageError for nonsense."""

    size: tuple[int, int]
    """(width, height)"""
    fps: Fraction
    pixel_format: Literal["rgb24", "yuv420p"] = "rgb24"

    def __post_init__(self) -> None:
        width, height = self.size
        if min(width, height) < 1 or width * height > MAX_PIXELS or self.fps <= 0:
            raise UsageError(f"raw frames of {width}x{height} at {self.fps}/s cannot be; try 832x480 at 16")
        if self.pixel_format == "yuv420p" and (width % 2 or height % 2):
            even = f"{width + width % 2}x{height + height % 2}"
            raise UsageError(f"yuv420p of {width}x{height}: needs even sides; try {even}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the bytes of one frame."""
        width, height = self.size
        if self.pixel_format == "yuv420p":
            return height * 3 // 2, width
        return height, width, 3


class LiveClip:
    """A video that arrives. size: (width, height) of its frames. fps: what it says, if it does. notes: as in Clip."""

    def __init__(self, timed: Iterator[Timed], view: View, *, fps: Fraction | None, notes: list[str]) -> None:
        self._timed, self._view = timed, view
        self.width, self.height = view.size
        self.fps, self.notes = fps, notes

    def frames(self, fps: Fraction) -> Iterator[np.ndarray]:
        """Yield what is seen at each tick of `fps` a second, as soon as that is known: uint8 RGB [H, W, 3].

        They are read-only. To be called once.
        """
        return rgb_frames(resample(self._timed, fps=fps, start=Fraction(0)), self._view)


def open_stream(file: BinaryIO, *, raw: RawFormat | None = None, name: str = "stdin") -> LiveClip:
    """Begin to read a live video; waits for its first frame.

    file: a pipe, such as sys.stdin.buffer; the caller closes it. raw: the format of bare frames; else a container.
    Raises MediaError when nothing comes, or no video, or HDR. Damage on the way is noted, and the stream goes on.
    """
    notes: list[str] = []
    source = _RawSource(file, raw, notes) if raw else _ContainerSource(file, name, notes)
    frames = iter(source)
    first = next(frames, None)
    if first is None:
        raise MediaError(f"{name}: ended before its first frame")
    view = view_of(first, aspect=source.aspect, name=name, sdr_name="-")
    notes[:0] = view.notes
    whole = chain([first], frames)
    timed = _live_times(deinterlace(whole) if view.interlaced else whole, source.fps)
    return LiveClip(timed, view, fps=source.fps, notes=notes)


class _RawSource:
    """Reads bare frames, one after another."""

    aspect = Fraction(1)

    def __init__(self, file: BinaryIO, raw: RawFormat, notes: list[str]) -> None:
        self.fps: Fraction | None = raw.fps
        self._file, self._raw, self._notes = file, raw, notes

    def __iter__(self) -> Iterator[VideoFrame]:
        size = math.prod(self._raw.shape)
        while data := self._file.read(size):  # waits until the frame is whole
            if len(data) < size:
                self._notes.append(f"its last frame came in part ({len(data)} of {size} bytes) and was left out")
                return
            pixels = np.frombuffer(data, np.uint8).reshape(self._raw.shape)
            yield VideoFrame.from_ndarray(pixels, format=self._raw.pixel_format)


class _ContainerSource:
    """Reads the video of a container that cannot be rewound."""

    def __init__(self, file: BinaryIO, name: str, notes: list[str]) -> None:
        self._pipe, self._name, self._notes = Pipe(file), name, notes
        with self._errors():
            self._container = av.open(
                self._pipe,
                "r",
                options={
                    "format_whitelist": ",".join(STREAM_CONTAINERS),
                    "probesize": str(_PROBE_BYTES),
                    "analyzeduration": "0",
                    "fpsprobesize": "0",
                },
                buffer_size=_READ_BYTES,
                metadata_errors="replace",
                io_open=refuse_other_file,
            )
        self._stream = first_video(self._container, name)
        check_frame_size(self._stream.codec_context.width, self._stream.codec_context.height, name)
        self.fps = self._stream.guessed_rate or self._stream.average_rate
        self.aspect = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio

    def __iter__(self) -> Iterator[VideoFrame]:
        self._stream.thread_type = "SLICE"  # frame threads would hold back a frame each
        with self._errors(), self._container:
            yield from decoded(self._container, self._stream, self._damaged, strict=False)
            if self._pipe.failure is not None:
                raise self._pipe.failure

    def _damaged(self, number: int, reason: str) -> None:
        if not any(note.startswith("damaged") for note in self._notes):
            self._notes.append(f"damaged at frame {number} ({reason})")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            if self._pipe.failure is not None and not isinstance(self._pipe.failure, OSError):
                raise self._pipe.failure from None
            kinds = "mkv, mpegts, nut, y4m, avi, or mp4 made with -movflags frag_keyframe+empty_moov"
            reason = reason_of(error)
            raise MediaError(
                f"{self._name}: no video that can be read as it arrives ({reason}); try {kinds}"
            ) from error


class Pipe:
    """A pipe for PyAV: gives what has arrived instead of waiting for a full buffer, and cannot be rewound."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = getattr(file, "read1", file.read)
        self.failure: BaseException | None = None
        """What read() raised: PyAV would lose a Ctrl-C."""

    def read(self, size: int) -> bytes:
        try:
            return self._read(size)
        except BaseException as error:
            self.failure = error
            return b""


def _live_times(frames: Iterator[VideoFrame], fps: Fraction | None) -> Iterator[Timed]:
    """Yield (when it comes, how long it lasts, frame) by the stream's own clock, from 0 on.

    A clock that is set back, or jumps by more than LONGEST_GAP_S, goes on from the frame before.
    """
    usual = 1 / (fps or USUAL_FPS)
    shift: Fraction | None = None
    begin = -usual
    for frame in frames:
        due = begin + usual
        if frame.pts is None or frame.time_base is None:
            begin = due
        else:
            own = frame.pts * frame.time_base
            if shift is None or not begin < own - shift <= begin + LONGEST_GAP_S:
                shift = own - due
            begin = own - shift
        yield begin, usual, frame
