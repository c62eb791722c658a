"""What a video that was broken off needs to go on: its request, and the latents of every chunk, in one growing file.

    NAME.mp4.journal = MAGIC, then records: length (u32), CRC-32 (u32), payload
      first payload: the request, JSON; the others: one chunk each, safetensors with JSON metadata
  before a chunk with which a cue begins that was told live: "told ", and the cue, JSON
      last payload of a finished video: "finished ", and what is about to get its names, JSON

Latents are kept as they are, so the frames of a resumed video are those of an unbroken one. A record that a kill or a
full disk tore is not there: its chunk is made again.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

from annotated_types import Interval
from safetensors.torch import load, save
from torch import Tensor

from causvid_cli.config import from_data, from_json, to_json
from causvid_cli.errors import MediaError, OutputError
from causvid_cli.prompt.cues import Cue, with_told
from causvid_cli.untrusted import MOST_BYTES, parse_object
from causvid_cli.video.files import open_file

MAGIC = b"causvid journal 1\n"
_HEAD = struct.Struct("<II")
_LONGEST = 2**29
"""Bytes of a record: more is damage. A chunk's latents at 4096x4096 pixels are 50 MB to 350 MB."""
_LONGEST_HEADER = 2**16
_LONGEST_FINISHED = 2**26
_BLOCK = 2**20
_NEW = ".new"
_TOLD = b"told "
_FINISHED = b"finished "  # no safetensors file begins so: it would have a header of 10**18 bytes
_REMEDY = "make the video again, with -y"

Natural = Annotated[int, Interval(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class Mark:
    """What stood in the video file when a chunk had been written.

    frames: pictures in it. restart_bytes, restart_frames: the last place before that where an encoder began anew.
    restart_crc: CRC-32 of the bytes before that place, by which the file is known again.
    """

    __pydantic_config__ = {"extra": "forbid"}

    frames: Natural
    restart_bytes: Natural = 0
    restart_frames: Natural = 0
    restart_crc: Natural = 0

    def __post_init__(self) -> None:
        if self.restart_frames > self.frames:
            raise MediaError(f"restart_frames: must be at most frames ({self.frames}), is {self.restart_frames}")


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a safetensors header says of a chunk's latents."""

    dtype: Literal["F32", "BF16", "F16"]
    shape: tuple[Natural, Natural, Natural, Natural, Natural]
    data_offsets: tuple[Natural, Natural]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where a chunk's record lies, and what its header says."""

    start: int
    size: int
    shape: tuple[int, ...]
    mark: Mark


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
        self._chunks: list[_Chunk] = []
        self._end = self._size = file.seek(0, os.SEEK_END)
        self._begin = self._end
        self.told: tuple[Cue, ...] = ()
        """Cues that were told while the video was made, oldest first."""
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
            if not size:
                raise MediaError(f"{path}: damaged: its request is not whole; {_REMEDY}")
            where = f"{path}: damaged"
            request = parse_object(_read(file, start, min(size, MOST_BYTES + 1)), where=where, error=MediaError)
            journal = cls(path, file, request)
            journal._begin = journal._end = start + size
            for number, (start, size) in enumerate(records):
                if _read(file, start, len(_TOLD)) == _TOLD:
                    said = _read(file, start, min(size, MOST_BYTES))[len(_TOLD) :].decode(errors="replace")
                    cue = from_json(Cue, said, where=f"{where}: told", error=MediaError)
                    journal.told, journal._end = with_told(journal.told, [cue]), start + size
                    continue
                if _read(file, start, len(_FINISHED)) == _FINISHED:
                    said = _read(file, start, min(size, _LONGEST_FINISHED))[len(_FINISHED) :].decode(errors="replace")
                    journal.finished = from_json(Finished, said, where=where, error=MediaError, large=True)
                    break
                journal._chunks.append(_chunk(file, start, size, where=f"{where}: chunk {number}"))
                journal._end = start + size
            return journal
        except BaseException:
            file.close()
            raise

    @property
    def chunks(self) -> int:
        """How many chunks it holds: those numbered 0 .. chunks - 1."""
        return len(self._chunks)

    @property
    def mark(self) -> Mark | None:
        """What stood in the file after the last chunk."""
        return self._chunks[-1].mark if self._chunks else None

    def check_latents(self, shape: Sequence[int]) -> None:
        """Raise MediaError unless each chunk's latents have this shape [1, C, f, h, w]."""
        for number, chunk in enumerate(self._chunks):
            if chunk.shape != tuple(shape):
                found, wanted = list(chunk.shape), list(shape)
                raise MediaError(
                    f"{self.path}: damaged: chunk {number}: latents {found}, where this video has {wanted}; {_REMEDY}"
                )

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
        self._chunks.append(_Chunk(self._end + _HEAD.size, len(payload), tuple(x0.shape), mark))
        self._end += _HEAD.size + len(payload)

    def tell(self, cue: Cue) -> None:
        """Keep a cue that begins with the next chunk, before it takes hold. Raises OutputError."""
        payload = _TOLD + to_json(cue).encode()
        self._put(payload)
        self.told = with_told(self.told, [cue])
        self._end += _HEAD.size + len(payload)

    def cut(self, chunks: int) -> None:
        """Forget all but the first so many chunks, and what was told after them. Raises OutputError."""
        self._chunks, self.finished = self._chunks[:chunks], None
        self.told = tuple(cue for cue in self.told if cue.start_chunk < chunks)
        last = self._chunks[-1] if self._chunks else None
        self._end = last.start + last.size if last else self._begin
        with _output_errors(self.path):
            self._file.truncate(self._end)

    def finish(self, finished: Finished) -> None:
        """Say that the video is about to get its names, until a chunk is added. Raises OutputError."""
        self._put(_FINISHED + to_json(finished).encode())
        self.finished = finished

    def latents(self, index: int) -> Tensor:
        """x0 [1, C, f, h, w] of a chunk, index < `chunks`."""
        chunk = self._chunks[index]
        return load(_read(self._file, chunk.start, chunk.size))["x0"]

    def mark_of(self, index: int) -> Mark:
        """What stood in the file after this chunk."""
        return self._chunks[index].mark

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


def _record(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _places(file: BinaryIO, start: int) -> Iterator[tuple[int, int]]:
    """First byte and size of each whole payload from here on, up to the first that is torn."""
    end = file.seek(0, os.SEEK_END)
    while start + _HEAD.size <= end:
        size, checksum = _HEAD.unpack(_read(file, start, _HEAD.size))
        start += _HEAD.size
        if not 0 < size <= min(_LONGEST, end - start) or _crc32(file, start, size) != checksum:
            return
        yield start, size
        start += size


def _crc32(file: BinaryIO, start: int, size: int) -> int:
    """CRC-32 of a record that is larger than should be held in memory."""
    checksum = 0
    for place in range(start, start + size, _BLOCK):
        checksum = zlib.crc32(_read(file, place, min(_BLOCK, start + size - place)), checksum)
    return checksum


def _chunk(file: BinaryIO, start: int, size: int, *, where: str) -> _Chunk:
    """What the record of a chunk says of itself; its latents are not read. Raises MediaError."""
    length = int.from_bytes(_read(file, start, 8), "little")  # of safetensors: the header's size, the header, tensors
    if length > min(_LONGEST_HEADER, size - 8):
        raise MediaError(f"{where}: no safetensors; {_REMEDY}")
    header = parse_object(_read(file, start + 8, length), where=where, error=MediaError)
    about, tensor = header.pop("__metadata__", None), header.pop("x0", None)
    if header or not isinstance(about, dict) or not isinstance(about.get("mark"), str) or not isinstance(tensor, dict):
        raise MediaError(f"{where}: must hold a mark and latents x0; {_REMEDY}")
    x0 = from_data(_Tensor, tensor, where=f"{where}: x0", error=MediaError)
    count = prod(x0.shape) * (4 if x0.dtype == "F32" else 2)
    if x0.data_offsets != (0, count) or 8 + length + count != size:
        raise MediaError(f"{where}: x0: its header does not fit its size, {size} bytes; {_REMEDY}")
    return _Chunk(start, size, x0.shape, from_json(Mark, about["mark"], where=f"{where}: mark", error=MediaError))


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
