"""Files of tensors that are whole or not there, whatever happens while they are written."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from causvid_cli.config import to_json
from causvid_cli.errors import ModelError, OutputError
from causvid_cli.untrusted import parse_json


def save_shard(tensors: Mapping[str, Tensor], path: Path, about: Any = None) -> None:
    """Write a file beside its place first, then rename it. Raises OutputError, as when the disk is full.

    about: what JSON can hold and `shard_about` gives back. Equal contents are equal bytes.
    """
    new = path.with_suffix(".new")
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(own, new, metadata={"about": to_json(about)})
        new.chmod(0o644)  # safetensors makes it 0600
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except (OSError, SafetensorError) as error:
        new.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{path}: cannot be written: {reason}; what was written before it is kept") from error


def load_shard(path: Path) -> dict[str, Tensor]:
    """A file's tensors, read from the disk only when they are used. Raises ModelError when the file is damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}; delete it, and the same command makes it again") from error


def shard_about(path: Path) -> Any:
    """Return what `save_shard` was given besides the tensors; None when that was nothing."""
    try:
        with safe_open(path, "pt") as file:
            return parse_json((file.metadata() or {}).get("about", "null"), where=str(path), error=ModelError)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}; delete it, and the same command makes it again") from error
