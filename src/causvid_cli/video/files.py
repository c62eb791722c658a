"""Output files: every byte that does not arrive is an error, one writer at a time, a name given in one step."""

import errno
import fcntl
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.container import OutputContainer

from causvid_cli.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_READ_BYTES = 1 << 20
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # exFAT, some network and FUSE mounts


class OutputFile(io.FileIO):
    """An unbuffered file whose write() writes all it is given or raises; PyAV takes a short write for a whole one."""

    failure: BaseException | None = None
    """What write() raised first. PyAV, when it called write(), may report another error, and loses a Ctrl-C."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            rest = memoryview(data).cast("B")
            size = len(rest)
            while rest:
                rest = rest[super().write(rest) or 0 :]
            return size
        except BaseException as error:
            self.failure = self.failure or error
            raise


@contextmanager
def output_errors(message: Callable[[str], str]) -> Iterator[None]:
    """Turn what the system refuses into OutputError; `message` makes its line from the system's reason."""
    try:
        yield
    except OSError as error:
        raise OutputError(message((error.strerror or str(error)).lower())) from error


def create_file(path: Path) -> OutputFile:
    """A new, empty file for writing and reading back; one that exists is a FileExistsError."""
    # By its descriptor: PyAV would take a name for UTF-8.
    return OutputFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "r+")


@contextmanager
def open_muxer(target: BinaryIO, muxer: str, options: dict[str, str]) -> Iterator[OutputContainer]:
    """A container of FFmpeg's that writes to `target`, a new file open for writing and reading; it stays open."""
    with av.open(target, "w", format=muxer, options=options, io_open=lambda *_: ReadBack(target.fileno())) as output:
        yield output


def check_unlocked(path: Path) -> None:
    """Raise OutputError when another writer holds the lock of the file at `path`, if there is one."""
    with suppress(FileNotFoundError), OutputFile(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        _lock(file, path, fcntl.LOCK_SH)


def open_locked(path: Path, *, kept_bytes: int = 0) -> OutputFile:
    """The file at `path`, made if need be, as it is, and locked until it is closed.

    Raises OutputError when another writer holds the lock, or the file is shorter than what is to be kept.
    """
    while True:
        file = OutputFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
        try:
            _lock(file, path, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    _check_size(file, path, kept_bytes)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # published and removed between our open and our lock


def _lock(file: OutputFile, path: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = _lock_owner(file)
        raise OutputError(f"{path} is being written by another causvid{owner}; choose another -o") from error
    except OSError:
        pass  # a file system without locks: rather unguarded than no video


def _check_size(file: OutputFile, path: Path, kept_bytes: int) -> None:
    size = os.fstat(file.fileno()).st_size
    if size < kept_bytes:
        if not size:
            path.unlink(missing_ok=True)  # made by our open
        raise OutputError(f"{path} has {size} bytes, not the {kept_bytes} to go on from; -y makes the video again")


def crc_of(path: Path, count: int) -> int | None:
    """CRC-32 of a file's first `count` bytes; None when it has fewer."""
    crc = 0
    with open(path, "rb") as file:
        while count:
            data = file.read(min(count, _READ_BYTES))
            if not data:
                return None
            crc, count = zlib.crc32(data, crc), count - len(data)
    return crc


def give_name(finished: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its name in one step; without `overwrite`, a name that exists is a FileExistsError.

    Where hard links do not exist, the name is claimed with an empty file and that is replaced: nobody's video is ever
    overwritten, but a kill between the two calls leaves the empty file.
    """
    if overwrite:
        os.replace(finished, path)
        return
    try:
        try:
            os.link(finished, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            try:
                os.replace(finished, path)
            except BaseException:
                path.unlink()
                raise
    except FileExistsError as error:
        taken = "the name was taken meanwhile; -y overwrites, or choose another -o"
        raise FileExistsError(error.errno, taken) from error


def sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network and FUSE mounts cannot
            raise
    finally:
        os.close(descriptor)


def _lock_owner(file: OutputFile) -> str:
    """Who holds a file's lock, as " (pid 123)"; empty where the system does not tell (only Linux does)."""
    status = os.fstat(file.fileno())
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError):
        # a line: 1: FLOCK  ADVISORY  WRITE 4019 fe:00:2146380 0 EOF
        for _, kind, _, _, pid, place, *_ in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if kind == "FLOCK" and place == device:
                return f" (pid {pid})"
    return ""


class ReadBack(io.RawIOBase):
    """Reads an open file from its start, leaving alone the place where it is written; faststart moves bytes so."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        self._at = start + offset
        return self._at
