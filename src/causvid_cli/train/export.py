"""Stage `export`: trained networks -> a model pack that every command can load."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts
from causvid_cli.model import CausalTransformer
from causvid_cli.packs import write_pack_manifest
from causvid_cli.text import StoryText
from causvid_cli.weights import save_safetensors


def export_pack(
    folder: Path,
    facts: PackFacts,
    *,
    student: CausalTransformer,
    codec: PixelCodec,
    text: StoryText,
    teacher: CausalTransformer | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> PackFacts:
    """Write a pack whole or not at all: into a folder beside it first, which then takes its place."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    _save(new / "transformer", student.transformer, {"_class_name": "WanTransformer3DModel", **student.config}, dtype)
    if teacher is not None:
        config = {"_class_name": "WanTransformer3DModel", **teacher.config}
        _save(new / "teacher", teacher.transformer, config, dtype)
    _save(new / "vae", codec, {"_class_name": "PixelCodec", **codec.config}, dtype)
    _save(new / "text_encoder", text, {"_class_name": "StoryText", **text.config}, dtype)
    written = write_pack_manifest(new, facts)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return written


def _save(folder: Path, module: nn.Module, config: dict[str, Any], dtype: torch.dtype) -> None:
    folder.mkdir(parents=True)
    public = {key: value for key, value in config.items() if not key.startswith("_") or key == "_class_name"}
    (folder / "config.json").write_text(json.dumps(public, indent=2, sort_keys=True) + "\n")
    save_safetensors(module.state_dict(), folder, dtype=dtype)
