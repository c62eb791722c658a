"""`--lora FILE[:WEIGHT]`: which files, how much of each, and the same ones again later. Imports no torch."""

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from causvid_cli.errors import ModelError, UsageError
from causvid_cli.files import check_file, sha256_of_file
from causvid_cli.request import LARGEST_WEIGHT, LoraUse

WEIGHTS = "adapter_model.safetensors"
"""In the folder that peft saves."""


def parse_lora(text: str) -> tuple[Path, float]:
    """The file or folder, and the weight (1 if none is told), of FILE[:WEIGHT]. Raises UsageError.

    A name may hold colons: what comes behind the last one is a weight only if it is a number and no file has the
    whole name.
    """
    name, colon, end = text.rpartition(":")
    weight = 1.0
    if colon and not os.path.exists(text):
        try:
            weight = float(end)
        except ValueError:
            name = text
    else:
        name = text
    if not name.strip():
        raise UsageError(f"--lora {text!r}: names no file; try --lora style.safetensors:0.8")
    if not math.isfinite(weight) or abs(weight) > LARGEST_WEIGHT:
        raise UsageError(f"--lora {text}: the weight must be -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, such as 0.8")
    return Path(name), weight


def lora_use(path: Path, weight: float = 1.0) -> LoraUse:
    """A LoRA's file, or the folder that peft saves, as a recipe tells it. Raises ModelError when it is not there."""
    return LoraUse(name=path.name, sha256=_sha256(path), weight=weight)


def find_loras(uses: Sequence[LoraUse], candidates: Iterable[Path], *, where: str) -> tuple[Path, ...]:
    """The files of a recipe's LoRAs among some files. Raises ModelError for one that is not there or has changed.

    where: what the recipe is of.
    """
    files = list(dict.fromkeys(candidates))
    found = []
    for use in uses:
        named = [file for file in files if file.name == use.name and file.exists()]
        same = next((file for file in [*named, *files] if file.exists() and _sha256(file) == use.sha256), None)
        if same is None and named:
            raise ModelError(f"{named[0]}: not the LoRA that {where} was made with; give that one by --lora FILE")
        if same is None:
            raise ModelError(
                f"{use.name}: not there, a LoRA that {where} was made with; say where it lies by --lora FILE"
            )
        found.append(same)
    return tuple(found)


def _sha256(path: Path) -> str:
    """SHA-256 of the weights' bytes, and of the configuration that belongs to them in a folder of peft."""
    files = [path]
    if os.path.isdir(path):
        files = [file for file in (path / WEIGHTS, path / "adapter_config.json") if file.is_file()]
        if path / WEIGHTS not in files:
            raise ModelError(f"--lora {path}: a folder without {WEIGHTS}; give a .safetensors file")
    try:
        digests = []
        for file in files:
            if file.exists():
                check_file(file)
            digests.append(sha256_of_file(file))
    except OSError as error:
        raise ModelError(f"--lora {path}: cannot be read: {(error.strerror or '').lower()}") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
