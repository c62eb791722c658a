"""Chunks -> a pipe: each is sent when it comes, nothing is looked back at, memory does not grow."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from causvid_cli.config import did_you_mean
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.video.encode import FFV1, H264, RAW_RGB, Encoding, FragmentEncoder, raw_yuv
from causvid_cli.video.writer import Restart

PIPE_FORMATS = ("mp4", "mkv", "nut", "rawvideo", "yuv4mpeg")


class PipeWriter:
    """Sends one video, chunk by chunk, with a flush after each; a player shows it while it is made.

    format: mp4 (fragmented), mkv and nut (H.264, or FFV1 if lossless), rawvideo (RGB, 3 bytes a pixel, no header) or
    yuv4mpeg. The reader's end of the pipe being closed is a BrokenPipeError; whatever else is refused an OutputError.
    """

    path = part_path = Path("-")
    restart = Restart()

    def __init__(
        self,
        file: BinaryIO,
        *,
        width: int,
        height: int,
        fps: Fraction,
        format: str = "mp4",
        metadata: Mapping[str, str] | None = None,
        lossless: bool = False,
    ) -> None:
        self.frames_written = 0
        self._file = file
        self._encoder = FragmentEncoder(
            width=width,
            height=height,
            fps=fps,
            metadata=metadata or {},
            encoding=_encoding(format, width, height, lossless=lossless),
            container=format,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The pipe is its owner's to close."""

    def write(self, frames: np.ndarray) -> None:
        """Send one chunk, uint8 RGB [T, H, W, 3]."""
        if not len(frames):
            return
        rest = memoryview(self._encoder.encode(frames))
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"stdout: {(error.strerror or str(error)).lower()}") from error
        self.frames_written += len(frames)

    def publish(self) -> Path:
        """All is sent already. Raises OutputError if there was nothing."""
        if not self.frames_written:
            raise OutputError("stdout: no frames were made, so nothing was written")
        return self.path

    publish_partial = publish


def check_pipe(format: str, *, width: int, height: int, lossless: bool = False) -> None:
    """Raise UsageError for what cannot be sent, before a model loads."""
    _encoding(format, width, height, lossless=lossless).check_size(width, height)


def _encoding(format: str, width: int, height: int, *, lossless: bool) -> Encoding:
    if format not in PIPE_FORMATS:
        known = f"{', '.join(PIPE_FORMATS[:-1])} or {PIPE_FORMATS[-1]}"
        raise UsageError(f"--format {format}: unknown; try {known}{did_you_mean(format, PIPE_FORMATS)}")
    if lossless and format in ("mp4", "yuv4mpeg"):
        raise UsageError(f"--lossless: {format} loses some of every picture; try --format mkv, nut or rawvideo")
    if format == "rawvideo":
        return RAW_RGB
    if format == "yuv4mpeg":
        return raw_yuv(width, height)
    return FFV1 if lossless else H264


def open_pipe(
    file: BinaryIO,
    *,
    width: int,
    height: int,
    fps: Fraction,
    format: str = "mp4",
    metadata: Mapping[str, str] | None = None,
    lossless: bool = False,
) -> PipeWriter:
    """What sends a video to `file`, such as `sys.stdout.buffer`."""
    return PipeWriter(file, width=width, height=height, fps=fps, format=format, metadata=metadata, lossless=lossless)
