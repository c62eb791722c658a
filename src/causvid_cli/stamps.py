"""How large files of a pack looked when their hashes were last right, so that 28 GB are not read before each video.

The stamps lie in a hidden file of the pack, outside its manifest. Who can forge one can also write the manifest: they
guard against damage, as the manifest does, and `causvid models verify` reads every byte. Imports no torch.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

FILE = ".verified.json"
SMALL_BYTES = 64 * 2**20
"""Files up to this size, and so every file of a small model, are hashed each time."""

Stamp = list[int | str]
"""sha256, size in bytes, time of change in nanoseconds, inode."""


class Stamps:
    """The stamps of one pack."""

    def __init__(self, pack: Path) -> None:
        self._pack = pack
        self._stamps: dict[str, Stamp] = {}
        self._changed = False
        with suppress(OSError, ValueError):  # a lost or damaged one only costs time
            told = json.loads((pack / FILE).read_text(encoding="utf-8"))
            self._stamps = told if isinstance(told, dict) else {}

    def holds(self, name: str, sha256: str) -> bool:
        """Whether a file is large, had this hash, and looks as it did then."""
        stamp = self._look(name, sha256)
        return stamp is not None and self._stamps.get(name) == stamp

    def put(self, name: str, sha256: str) -> None:
        """Remember how a file looks whose hash was found to be this one."""
        stamp = self._look(name, sha256)
        if stamp is not None and self._stamps.get(name) != stamp:
            self._stamps[name], self._changed = stamp, True

    def save(self) -> None:
        """Write what is new, where the pack can be written to."""
        if not self._changed:
            return
        part = self._pack / f"{FILE}.{os.getpid()}"
        try:
            part.write_text(json.dumps(self._stamps), encoding="utf-8")
            part.replace(self._pack / FILE)
        except OSError:  # a pack of another user's, a full disk: the next run hashes again
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _look(self, name: str, sha256: str) -> Stamp | None:
        """How a large file looks now."""
        found = (self._pack / name).stat()
        if found.st_size <= SMALL_BYTES:
            return None
        return [sha256, found.st_size, found.st_mtime_ns, found.st_ino]
