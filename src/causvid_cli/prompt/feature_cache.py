"""Prompts that were encoded before: umT5 (11 GB) is loaded only for a new one, and let go before a chunk is made.

    text = CachedText(load, key=..., device=..., cache=TextCache.of_user())
    text.encode("a cat").embeds     # from memory, from the disk, else by umT5, which is loaded for it
    text.release()                  # umT5 goes; the system still holds its file while there is room

On the disk an entry is a safetensors file of the rows that a prompt's tokens have, under the hash of all that they
depend on. Least used ones go first when the folder grows past its bound.
"""

import hashlib
import os
import re
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from causvid_cli.config import to_json
from causvid_cli.device import free_unused
from causvid_cli.errors import UsageError
from causvid_cli.paths import TEXT_CACHE, cache_folder
from causvid_cli.prompt.encoded import EncodedPrompt
from causvid_cli.prompt.umt5 import ROWS, Features, UMT5TextEncoder, clean, padded
from causvid_cli.request import check_prompt
from causvid_cli.untrusted import parse_json

DEFAULT_BOUND = 2**30
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
HELD_PROMPTS = 64
"""Prompts that a process holds in memory besides."""
NAME = re.compile(r"[0-9a-f]{64}\.safetensors")


class TextCache:
    """Features on the disk, by key. Nothing that goes wrong with it stops a video: it then costs time."""

    def __init__(self, folder: Path, *, bound: int = DEFAULT_BOUND) -> None:
        """bound: bytes that the folder may hold; the entry written last stays in any case."""
        self.folder, self.bound = folder, bound

    @classmethod
    def of_user(cls) -> Self | None:
        """The user's own; None where it is switched off. Raises UsageError for a bound that is no size."""
        bound = parse_bytes(os.environ.get(TEXT_CACHE) or str(DEFAULT_BOUND), name=TEXT_CACHE)
        return cls(cache_folder() / "text", bound=bound) if bound else None

    def get(self, key: str) -> Features | None:
        """What was put under a key; None where there is nothing, or it is damaged: that is removed."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                about, rows = file.metadata() or {}, file.get_tensor("rows").clone()
            if about.get("sha256") != _sha256(rows):
                raise ValueError("other bytes than were written")
            notes = parse_json(about["notes"], where=str(path))
            found = Features(rows, tuple(map(str, notes)))
            os.utime(path)  # used now, so others go first
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, UsageError, ValueError, KeyError, TypeError):
            with suppress(OSError):
                path.unlink()
            return None
        return found

    def put(self, key: str, features: Features) -> None:
        """Keep features under a key, whole or not at all, and remove what was longest unused beyond the bound."""
        rows = features.rows.contiguous()
        about = {"sha256": _sha256(rows), "notes": to_json(features.notes)}
        with suppress(OSError, SafetensorError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".")  # for this user only, as prompts are
            os.close(handle)
            part = Path(name)
            try:
                save_file({"rows": rows}, part, metadata=about)
                part.replace(self._path(key))
            finally:
                part.unlink(missing_ok=True)
            self._shrink(kept=self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _shrink(self, *, kept: Path) -> None:
        entries = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process may have removed it
                about = path.stat()
                if NAME.fullmatch(path.name):
                    entries.append((about.st_mtime, about.st_size, path))
                elif path.name.startswith(".") and about.st_mtime < time.time() - 3600:
                    path.unlink()  # a killed process has left it
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.bound:
                return
            if path != kept:
                with suppress(OSError):
                    path.unlink()
                total -= size


class CachedText:
    """umT5's features of prompts, each made once (`text.TextEncoder`).

    load: gives umT5, and is called when a prompt is new. key: what else features depend on: weights, tokenizer, number
    format. device: where features are wanted. cache: None keeps them in memory only.
    """

    def __init__(
        self,
        load: Callable[[], UMT5TextEncoder],
        *,
        key: str,
        device: torch.device,
        cache: TextCache | None,
        rows: int = ROWS,
    ) -> None:
        self._load, self._key, self._device, self._cache, self._rows = load, key, device, cache, rows
        self._held: OrderedDict[str, Features] = OrderedDict()
        self._umt5: UMT5TextEncoder | None = None

    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None, seed: int = 0) -> EncodedPrompt:
        """Features [1, rows, D] of a prompt, which says all by itself; a note where its end was cut."""
        text = clean(check_prompt(prompt))
        features, origin = self._features(text)
        return EncodedPrompt(prompt, self._padded(features), features.notes, text, origin)

    def empty(self) -> Tensor:
        return self._padded(self._features("")[0])

    def release(self) -> None:
        """Let umT5 go, where it is loaded; the next new prompt loads it again."""
        if self._umt5 is not None:
            self._umt5 = None
            free_unused(self._device)

    @torch.inference_mode()
    def _features(self, text: str) -> tuple[Features, str]:
        """What a clean text comes to, and where that is from."""
        key = hashlib.sha256(f"{self._key}\n{self._rows}\n{text}".encode()).hexdigest()
        if found := self._held.get(key):
            self._held.move_to_end(key)
            return found, "known"
        found, origin = self._cache.get(key) if self._cache else None, "from the cache"
        if found is None:
            started = time.monotonic()
            if self._umt5 is None:
                self._umt5 = self._load()
            made = self._umt5.features(text)
            found = Features(made.rows.cpu(), made.notes)
            origin = f"encoded by umT5 in {time.monotonic() - started:.1f} s"
            if self._cache:
                self._cache.put(key, found)
        self._held[key] = found
        if len(self._held) > HELD_PROMPTS:
            self._held.popitem(last=False)
        return found, origin

    @torch.inference_mode()
    def _padded(self, features: Features) -> Tensor:
        return padded(features.rows.to(self._device), self._rows)


def parse_bytes(text: str, *, name: str) -> int:
    """A size such as 500MB or 2 GiB; "off" is 0. Raises UsageError, which calls it by name."""
    if text.strip().lower() == "off":
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not match or match[2].upper() not in UNITS:
        raise UsageError(f"{name}={text}: not a size; try 500MB, 2GiB, or 0 for none")
    return round(float(match[1]) * UNITS[match[2].upper()])


def _sha256(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
