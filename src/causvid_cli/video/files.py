"""Output files: every byte that does not arrive is an error, one writer at a time, a name given in one step."""

import errno
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.container import OutputContainer

from causvid_cli.errors import BusyError, OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_READ_BYTES = 1 << 20
_FLAGS = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"))
"""No translated line ends (Windows), no link followed, no named pipe waited for (elsewhere)."""
_LOCKED_BYTE = 1 << 40
"""Beyond any video: on Windows nobody can read a byte that is locked."""
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
    """Make an empty file for writing and reading back. Raises FileExistsError."""
    return open_file(path, os.O_CREAT | os.O_EXCL)


def open_file(path: Path, flags: int = 0) -> OutputFile:
    """Open a file for reading and writing; no link is followed, no named pipe waited for. flags: as os.open has."""
    # By its descriptor: PyAV would take a name for UTF-8.
    return OutputFile(os.open(path, os.O_RDWR | _FLAGS | flags, 0o666), "r+")


@contextmanager
def open_muxer(target: BinaryIO, muxer: str, options: dict[str, str]) -> Iterator[OutputContainer]:
    """A container of FFmpeg's that writes to `target`, a new file open for writing and reading; it stays open."""
    with av.open(target, "w", format=muxer, options=options, io_open=lambda *_: ReadBack(target.fileno())) as output:
        yield output


def check_unlocked(path: Path) -> None:
    """Raise OutputError when another writer holds the lock of the file at `path`, if there is one."""
    with suppress(FileNotFoundError), open_file(path) as file:
        _lock(file, path, shared=True)


def open_locked(path: Path, *, kept_bytes: int = 0) -> OutputFile:
    """Open the file at `path` as it is, or make it, and lock it until it is closed.

    Raises OutputError when another writer holds the lock, or the file is shorter than what is to be kept.
    """
    while True:
        file = open_file(path, os.O_CREAT)
        try:
            _lock(file, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    _check_size(file, path, kept_bytes)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # published and removed between our open and our lock


def _lock(file: OutputFile, path: Path, *, shared: bool = False) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except (BlockingIOError, PermissionError) as error:  # as POSIX and as Windows say it
        owner = _lock_owner(file)
        raise BusyError(f"{path} is being written by another causvid{owner}; choose another -o") from error
    except OSError:
        pass  # a file system without locks: rather unguarded than no video


def _check_size(file: OutputFile, path: Path, kept_bytes: int) -> None:
    size = os.fstat(file.fileno()).st_size
    if size < kept_bytes:
        if not size:
            path.unlink(missing_ok=True)  # made by our open
        raise OutputError(f"{path} has {size} bytes, not the {kept_bytes} to go on from; -y makes the video again")


def crc_of(path: Path, count: int) -> int | None:
    """Return the CRC-32 of a file's first `count` bytes; None when it has fewer."""
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
        if sys.platform == "win32":
            os.rename(finished, path)  # there, a name that exists is refused
            return
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


def remove_open(file: OutputFile, path: Path) -> None:
    """Remove the file at `path` before its lock goes; on Windows, which removes no open file, right after."""
    if sys.platform == "win32":
        file.close()
    path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    if sys.platform == "win32":  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network and FUSE mounts cannot
            raise
    finally:
        os.close(descriptor)


def _lock_owner(file: OutputFile) -> str:
    """Return who holds a file's lock as " (pid 123)"; "" where the system does not say, as only Linux does."""
    if sys.platform != "linux":
        return ""
    status = os.fstat(file.fileno())
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError):
        # a line: 1: FLOCK  ADVISORY  WRITE 4019 fe:00:2146380 0 EOF
        for _, kind, _, _, pid, inode, *_ in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if kind == "FLOCK" and inode == device:
                return f" (pid {pid})"
    return ""


class ReadBack(io.RawIOBase):
    """Reads an open file from its start without moving the position at which it is written, as faststart needs it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        writing_at = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        os.lseek(self._descriptor, self._at, os.SEEK_SET)
        data = os.read(self._descriptor, len(view))
        os.lseek(self._descriptor, writing_at, os.SEEK_SET)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        self._at = start + offset
        return self._at
