"""What a video that was broken off needs to go on: its request, and the latents of every chunk, in one growing file.

    NAME.mp4.journal = MAGIC, then records: length (u32), CRC-32 (u32), payload
      first payload: the request, JSON; the others: one chunk each, safetensors with JSON metadata
      last payload of a finished video: "finished ", and what is about to get its names, JSON

Latents are kept as they are, so the frames of a resumed video are those of an unbroken one. A record that a kill or a
full disk tore is not there: its chunk is made again.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from causvid_cli.config import from_json, to_json
from causvid_cli.errors import MediaError, OutputError
from causvid_cli.video.files import open_file

MAGIC = b"causvid journal 1\n"
_HEAD = struct.Struct("<II")
_LONGEST = 2**31
"""Bytes of a record: more is damage."""
_NEW = ".new"
_FINISHED = b"finished "  # no safetensors file begins so: it would have a header of 10**18 bytes
_REMEDY = "make the video again, with -y"


@dataclass(frozen=True, slots=True)
class Mark:
    """What stood in the video file when a chunk had been written.

    frames: pictures in it. restart_bytes, restart_frames: the last place before that where an encoder began anew.
    restart_crc: CRC-32 of the bytes before that place, by which the file is known again.
    """

    frames: int
    restart_bytes: int = 0
    restart_frames: int = 0
    restart_crc: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A video that is whole and about to get its names. Whoever finds files like these beside its journal cleans up.

    files: SHA-256 by name. sidecar: the text of FILE.json; None for none.
    """

    files: Mapping[str, str]
    sidecar: str | None = None


class Journal:
    """The journal of one video, open for reading and for more. The caller holds the video's lock."""

    def __init__(self, path: Path, file: BinaryIO, request: Mapping[str, Any]) -> None:
        self.path, self.request = path, request
        self._file = file
        self._places: list[tuple[int, int]] = []  # of each chunk's payload: first byte, size
        self._end = self._size = file.seek(0, os.SEEK_END)
        self.mark: Mark | None = None
        """Of the last chunk."""
        self.finished: Finished | None = None

    @classmethod
    def create(cls, path: Path, request: Mapping[str, Any]) -> Self:
        """A new journal, in the place of an older one. request: what JSON can hold. Raises OutputError."""
        new = path.with_name(path.name + _NEW)  # a kill or a full disk leaves no journal rather than half a request
        with _output_errors(path):
            new.unlink(missing_ok=True)
            file = open(new, "x+b", buffering=0)  # noqa: SIM115  (closed by `close`)
            try:
                _write(file, MAGIC)
                _write(file, _record(to_json(request).encode()))
                new.replace(path)
            except BaseException:
                file.close()
                new.unlink(missing_ok=True)
                raise
            return cls(path, file, request)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The journal that an earlier run left; a torn end is cut off. Raises MediaError when it is none."""
        try:
            file = open_file(path)
        except OSError as error:
            raise MediaError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from error
        try:
            if file.read(len(MAGIC)) != MAGIC:
                raise MediaError(f"{path}: not a journal of this causvid; {_REMEDY}")
            records = _places(file, len(MAGIC))
            start, size = next(records, (0, 0))
            request = json.loads(_read(file, start, size) or b"null")
            if not isinstance(request, dict):
                raise MediaError(f"{path}: damaged: its request is not whole; {_REMEDY}")
            journal = cls(path, file, request)
            journal._places = list(records)
            if journal._places and (payload := _read(file, *journal._places[-1])).startswith(_FINISHED):
                said = payload.removeprefix(_FINISHED).decode()
                journal.finished = from_json(Finished, said, where=str(path), error=MediaError)
                journal._places.pop()
            journal._end = sum((journal._places or [(start, size)])[-1])
            journal.mark = journal._last_mark()
            return journal
        except ValueError as error:
            file.close()
            raise MediaError(f"{path}: damaged: {error}; {_REMEDY}") from error
        except BaseException:
            file.close()
            raise

    @property
    def chunks(self) -> int:
        """How many chunks it holds: those numbered 0 .. chunks - 1."""
        return len(self._places)

    def check_unchanged(self) -> None:
        """Raise OutputError when another run has gone on with it, or ended it, since it was opened."""
        with suppress(FileNotFoundError):
            own, there = os.fstat(self._file.fileno()), self.path.stat()
            if os.path.samestat(own, there) and there.st_size == self._size:
                return
        raise OutputError(f"{self.path}: another causvid went on with this video meanwhile; give the command again")

    def append(self, x0: Tensor, mark: Mark) -> None:
        """Add the next chunk: when this returns, it outlives the process. x0: [1, C, f, h, w]. Raises OutputError."""
        payload = save({"x0": x0.cpu().contiguous()}, metadata={"mark": to_json(mark)})
        self._put(payload)
        self._places.append((self._end + _HEAD.size, len(payload)))
        self._end += _HEAD.size + len(payload)
        self.mark = mark

    def finish(self, finished: Finished) -> None:
        """Say that the video is about to get its names, until a chunk is added. Raises OutputError."""
        self._put(_FINISHED + to_json(finished).encode())
        self.finished = finished

    def latents(self, index: int) -> Tensor:
        """x0 [1, C, f, h, w] of a chunk, index < `chunks`."""
        return load(_read(self._file, *self._places[index]))["x0"]

    def mark_of(self, index: int) -> Mark:
        """What stood in the file after this chunk."""
        payload = _read(self._file, *self._places[index])
        header = payload[8 : 8 + int.from_bytes(payload[:8], "little")]  # of safetensors: its size, then JSON
        return Mark(**json.loads(json.loads(header)["__metadata__"]["mark"]))

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """The video is whole: nothing is left to resume."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _put(self, payload: bytes) -> None:
        """Write a record behind the last chunk, in the place of what may be there."""
        with _output_errors(self.path):
            try:
                self._file.truncate(self._end)
                self._file.seek(self._end)
                _write(self._file, _record(payload))
            except BaseException:
                self._file.truncate(self._end)
                raise

    def _last_mark(self) -> Mark | None:
        try:
            return self.mark_of(self.chunks - 1) if self.chunks else None
        except (KeyError, TypeError, SafetensorError) as error:
            raise MediaError(f"{self.path}: damaged: {error}; {_REMEDY}") from error


def _record(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _places(file: BinaryIO, start: int) -> Iterator[tuple[int, int]]:
    """First byte and size of each whole payload from here on, up to the first that is torn."""
    end = file.seek(0, os.SEEK_END)
    while start + _HEAD.size <= end:
        size, checksum = _HEAD.unpack(_read(file, start, _HEAD.size))
        start += _HEAD.size
        if size > min(_LONGEST, end - start) or zlib.crc32(_read(file, start, size)) != checksum:
            return
        yield start, size
        start += size


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(file: BinaryIO, data: bytes) -> None:
    """All of it: an unbuffered file may take less."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
