"""An MP4 written to a file of ours: ordinary, its index in front, every byte that does not arrive an error."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import av
from av.container import OutputContainer

from causvid_cli.errors import OutputError
from causvid_cli.video.files import ReadBack

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TICKS = 90_000
"""Per second, of where tracks begin; FFmpeg's own 1000 would move sound against pictures."""


@contextmanager
def write_mp4(target: BinaryIO) -> Iterator[OutputContainer]:
    """A container that writes to `target`, an empty file opened for reading and writing; it stays open.

    What `target` refuses (OSError) leaves the block as it was raised, before any error that came of it.
    """
    sink = _Sink(target)
    try:
        with av.open(
            sink,
            "w",
            format="mp4",
            options={"movflags": "faststart+use_metadata_tags", "movie_timescale": str(TICKS)},
            io_open=lambda *_: io.BufferedReader(ReadBack(target.fileno())),  # faststart reads back what it moves
        ) as output:
            yield output
    except BaseException as error:
        if sink.failure is not None and sink.failure is not error:
            raise sink.failure from error
        if isinstance(error, av.error.FFmpegError):
            raise OutputError(f"the video cannot be put into an MP4: {error.strerror}") from error
        raise
    if sink.failure is not None:
        raise sink.failure


def mux(output: OutputContainer, packets: Iterable[av.Packet]) -> None:
    """Write packets, which know their streams. Raises OutputError for what MP4 cannot hold."""
    for packet in packets:
        try:
            output.mux(packet)
        except av.error.FFmpegError as error:
            raise OutputError(f"the video cannot be put into an MP4: {error.strerror}") from error


class _Sink:
    """Writes all it is given or raises, and remembers why: PyAV, which calls it, reports another error or none."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.failure: BaseException | None = None
        self.seek, self.tell = target.seek, target.tell

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            rest = memoryview(data).cast("B")
            size = len(rest)
            while rest:
                rest = rest[self._target.write(rest) or 0 :]
            return size
        except BaseException as error:
            self.failure = self.failure or error
            raise
