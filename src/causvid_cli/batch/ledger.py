"""What is done of a batch: `results.jsonl` and `failed.jsonl` in its folder, a line for each job, whole after any kill.

The files are only ever appended to, in one write a line, so several batches may share a folder. The last line of a
process that was killed may be torn: it is passed over, and the next one begins on a line of its own.
"""

import json
import os
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causvid_cli.config import to_json
from causvid_cli.errors import OutputError
from causvid_cli.files import open_regular, sha256_of_file

RESULTS, FAILED = "results.jsonl", "failed.jsonl"


_RESULT = {"path", "bytes", "sha256"}


@dataclass(slots=True)
class Ledger:
    """What the two files of a folder say, by the path of a job's file; later lines go before earlier ones."""

    folder: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    _read: dict[str, int] = field(default_factory=dict)
    """Bytes of each file that have been read."""

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """Read what earlier batches have left. Raises OutputError when it cannot be read."""
        ledger = cls(folder)
        ledger.read()
        return ledger

    def read(self) -> None:
        """Read what has been added since, by other batches as well. Raises OutputError when it cannot be read."""
        for name, found, needed in ((RESULTS, self.results, _RESULT), (FAILED, self.failed, {"path"})):
            for entry, end in _entries(self.folder / name, needed, start=self._read.get(name, 0)):
                found[entry["path"]] = entry
                self._read[name] = end

    def is_done(self, path: str) -> bool:
        """Return whether a job's file is there and is the one that was written, byte for byte."""
        entry = self.results.get(path)
        if entry is None:
            return False
        file = self.folder / path
        try:
            return file.stat().st_size == entry["bytes"] and sha256_of_file(file) == entry["sha256"]
        except OSError:
            return False

    def add_result(self, entry: dict[str, Any]) -> None:
        """Keep that a job is done. Raises OutputError when the disk does not take it."""
        self.results[entry["path"]] = entry
        append(self.folder / RESULTS, entry)

    def add_failure(self, entry: dict[str, Any]) -> None:
        """Keep that a job failed. Raises OutputError when the disk does not take it."""
        self.failed[entry["path"]] = entry
        append(self.folder / FAILED, entry)


def append(path: Path, entry: dict[str, Any]) -> None:
    """Append a JSON object as a line of its own, on the disk when this returns. Raises OutputError."""
    try:
        with open(path, "ab+", buffering=0) as file:  # one write is one system call
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = file.read(1) not in (b"", b"\n")
            line = f"{chr(10) if torn else ''}{to_json(entry)}\n".encode()
            if file.write(line) < len(line):
                raise OSError(None, "the disk is full")
            os.fsync(file)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def _entries(path: Path, needed: Set[str], *, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the whole lines from a byte on that hold what is needed, and where each ends; nothing without a file."""
    try:
        with open_regular(path) as file:
            end = file.seek(start)
            for line in file:
                end += len(line)
                with suppress(ValueError, RecursionError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and needed <= entry.keys() and isinstance(entry["path"], str):
                        yield entry, end
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
