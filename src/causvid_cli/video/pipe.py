"""Chunks -> a pipe: each is sent when it comes, nothing is looked back at, memory does not grow."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from causvid_cli.config import did_you_mean
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.media.probe import Chapter
from causvid_cli.video.encode import FFV1, H264, RAW_RGB, Encoding, FragmentEncoder, VideoFormat, raw_yuv
from causvid_cli.video.writer import BeforeNaming, Restart

PIPE_FORMATS = ("mp4", "mkv", "nut", "rawvideo", "yuv4mpeg")


class PipeWriter:
    """Sends one video to `file`, chunk by chunk, with a flush after each; a player shows it while it is made.

    format: mp4 (fragmented), mkv and nut (H.264, or FFV1 if lossless), rawvideo (RGB, 3 bytes a pixel, no header) or
    yuv4mpeg. The reader's end of the pipe being closed is a BrokenPipeError; whatever else is refused an OutputError.
    """

    path = part_path = Path("-")
    restart = Restart()
    keeps_part = False

    def __init__(self, file: BinaryIO, video: VideoFormat, *, format: str = "mp4") -> None:
        self.frames_written = 0
        self._file = file
        self._encoder = FragmentEncoder(replace(video, encoding=_encoding(video, format)), container=format)

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

    def cut(self, restart: Restart) -> None:
        """Nothing can be taken back from a pipe: what is made anew follows."""

    def retell(self, metadata: Mapping[str, str], chapters: Sequence[Chapter]) -> None:
        """What a pipe tells of itself went first."""

    def publish(self, *, before_naming: BeforeNaming | None = None) -> Path:
        """All is sent already. Raises OutputError if there was nothing."""
        if not self.frames_written:
            raise OutputError("stdout: no frames were made, so nothing was written")
        return self.path

    publish_partial = publish

    def discard_part(self) -> None:
        """A pipe keeps nothing."""

    discard_partial = discard_part


def check_pipe(video: VideoFormat, format: str) -> None:
    """Raise UsageError for what cannot be sent, before a model loads."""
    if video.soundtrack:
        raise UsageError("--audio: stdout gets frames and no sound; leave it out, or name a file by -o")
    _encoding(video, format).check_size(video.width, video.height)


def _encoding(video: VideoFormat, format: str) -> Encoding:
    if format not in PIPE_FORMATS:
        known = f"{', '.join(PIPE_FORMATS[:-1])} or {PIPE_FORMATS[-1]}"
        raise UsageError(f"--format {format}: unknown; try {known}{did_you_mean(format, PIPE_FORMATS)}")
    if video.lossless and format in ("mp4", "yuv4mpeg"):
        raise UsageError(f"--lossless: {format} loses some of every picture; try --format mkv, nut or rawvideo")
    if format == "rawvideo":
        return RAW_RGB
    if format == "yuv4mpeg":
        return raw_yuv(video.width, video.height)
    return FFV1 if video.lossless else H264
