"""Where the parts of a model lie in a file or folder that a user has. Imports no torch.

Known are a checkpoint by itself; Wan's own repositories (`Wan2.1_VAE.pth`, `models_t5_umt5-xxl-enc-bf16.pth`,
`google/umt5-xxl`); folders in diffusers layout, model packs among them; and folders of shards with their index.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causvid_cli.errors import ModelError
from causvid_cli.files import check_file
from causvid_cli.untrusted import read_object
from causvid_cli.weights.names import GGUF, PICKLES, SAFETENSORS

WEIGHTS = {*PICKLES, *SAFETENSORS, GGUF}
INDEXES = (".safetensors.index.json", ".bin.index.json")
VAES = ("Wan2.1_VAE", "wan_2.1_vae", "Wan2_1_VAE_bf16", "Wan2_1_VAE_fp32")
"""Stems of the VAE's file, where it is published and as ComfyUI's users have it."""
TEXT_ENCODERS = ("models_t5_umt5-xxl-enc-bf16", "umt5-xxl-enc-bf16", "umt5_xxl_fp16", "umt5_xxl_bf16")
TINY_VAES = ("taew2_1",)
TOKENIZERS = ("tokenizer/tokenizer.json", "google/umt5-xxl/tokenizer.json", "tokenizer.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFiles:
    """Files of a part: one, or the index of several; and the configuration beside them."""

    path: Path
    config: dict[str, Any] | None = None


def find_parts(path: Path) -> dict[str, PartFiles]:
    """The parts in a folder by their names in a pack; of a single file, a "transformer", whatever it may be.

    Raises ModelError when nothing is there, nothing known, or several that might be meant.
    """
    if not os.path.exists(path):  # which, unlike Path's, takes a name longer than the system allows
        raise ModelError(f"{path} is not there")
    if not path.is_dir():
        _check_kind(path)
        return {"transformer": PartFiles(path=path, config=read_config(path.parent))}
    named = {"vae": VAES, "text_encoder": TEXT_ENCODERS, "vae_tiny": TINY_VAES}
    found = {part: PartFiles(path=file) for part, stems in named.items() if (file := _by_stem(path, stems))}
    for part in ("transformer", "vae", "text_encoder", "vae_tiny"):
        if (path / part).is_dir():
            found[part] = _in_folder(path / part)
    if tokenizer := next((path / name for name in TOKENIZERS if (path / name).is_file()), None):
        check_file(tokenizer)
        found["tokenizer"] = PartFiles(path=tokenizer)
    others = [each.path for each in found.values()]
    loose = [*_weights(path), *_indexes(path)]
    if "transformer" not in found and any(file not in others for file in loose):
        found["transformer"] = _in_folder(path, without=others)
    if (path / "transformer_2").is_dir():
        raise ModelError(f"{path} has a second transformer: Wan2.2 is not known yet; give Wan2.1")
    if not found:
        raise ModelError(f"{path} holds no model: no .safetensors, .gguf or .pt file, no folder in diffusers layout")
    return found


def read_config(folder: Path) -> dict[str, Any] | None:
    """The config.json of a folder, or None. Raises ModelError when it is none."""
    path = folder / "config.json"
    if not os.path.lexists(path):
        return None
    check_file(path)
    return read_object(path, error=ModelError)


def _in_folder(folder: Path, *, without: list[Path] = ()) -> PartFiles:  # type: ignore[assignment]
    files = [file for file in _weights(folder) if file not in without]
    indexes = _indexes(folder)
    if len(indexes) == 1:
        return PartFiles(path=indexes[0], config=read_config(folder))
    if len(files) != 1 or indexes:
        found = ", ".join(file.name for file in [*indexes, *files][:6]) or "none"
        raise ModelError(f"{folder}: one file of weights, or shards with one index, are wanted; found {found}")
    return PartFiles(path=files[0], config=read_config(folder))


def _weights(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in WEIGHTS and file.is_file())


def _indexes(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name.endswith(INDEXES))


def _by_stem(folder: Path, stems: tuple[str, ...]) -> Path | None:
    return next((file for stem in stems for file in _weights(folder) if file.stem == stem), None)


def _check_kind(path: Path) -> None:
    if path.name.endswith(".index.json") or path.suffix.lower() in WEIGHTS:
        return
    raise ModelError(f"{path} is no checkpoint that is known: give a .safetensors, .gguf or .pt file, or a folder")
