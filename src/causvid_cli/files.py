"""Files written whole or not at all, and their hashes. Imports no torch."""

import errno
import hashlib
import io
import os
import re
import shlex
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path

from causvid_cli.errors import ModelError, OutputError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the text begins that Git LFS puts in a file's stead."""
IS_ADDRESS = "is an address, and only files are read; download it first, and give the file"

_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:/+[^/]", re.IGNORECASE)
_numbers = count()


def is_address(name: str) -> bool:
    """Return whether a file's name is an address such as https://example.org/a.mp4; pathlib makes one slash of two."""
    return bool(_ADDRESS.match(name))


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 so that it is either the old one or the whole new one, even after a crash."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one, even after a crash.

    It keeps the mode of the old one. What processes that were killed left in the folder goes.
    """
    _remove_abandoned(path.parent)
    part = path.parent / f".causvid-{os.getpid()}-{next(_numbers)}"
    try:
        with open(part, "xb") as file:
            with suppress(FileNotFoundError):
                part.chmod(path.stat().st_mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files of processes that are no more."""
    for part in folder.glob(".causvid-*-*"):
        import psutil

        owner = re.fullmatch(r"\.causvid-(\d+)-\d+", part.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            part.unlink(missing_ok=True)


def open_regular(path: Path) -> io.BufferedReader:
    """A file opened for reading. Raises OSError, also for a folder, a pipe or a device, which may never end."""
    # O_NONBLOCK: opening a named pipe would wait for its writer
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return os.fdopen(handle, "rb")


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes, in hexadecimal. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path) -> None:
    """Raise ModelError unless a path leads to an ordinary file that is more than Git LFS's pointer to one."""
    try:
        if not path.is_file():
            raise ModelError(f"{path} is {'no ordinary file' if path.exists() else 'not there'}")
        with path.open("rb") as file:
            begins = file.read(len(LFS_POINTER))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {(error.strerror or '').lower()}") from None
    if begins == LFS_POINTER:
        raise ModelError(
            f"{path} is a Git LFS pointer, which stands for a file: get that one by `git lfs pull` where you cloned it"
        )


def output_file(name: str) -> Path:
    """Return the path of a file to be written. Raises OutputError for an address and a folder: `.`, `/`, `frames/`."""
    if is_address(name):
        raise OutputError(
            f"{name} is an address, and only files are written; give -o a file, or send -o - to a program"
        )
    if name.endswith(("/", os.sep)) or Path(name).name in ("", ".."):
        inside = [shlex.quote(os.path.join(name, file)) for file in ("video.mp4", "%05d.png")]
        raise OutputError(f"{name} is a folder; try -o {' or '.join(inside)}")
    return Path(name)
