"""Stage `export`: trained networks -> a model pack that every command can load."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts, to_json
from causvid_cli.evaluate.judge import Judge
from causvid_cli.models.diffusers_index import write_diffusers_index
from causvid_cli.models.packs import write_pack_manifest
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.story import StoryText
from causvid_cli.weights.files import save_safetensors


def export_pack(
    folder: Path,
    facts: PackFacts,
    *,
    student: CausalTransformer,
    opening: CausalTransformer | None = None,
    teacher: CausalTransformer | None = None,
    codec: PixelCodec | None = None,
    text: StoryText | None = None,
    judge: Judge | None = None,
    base: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> PackFacts:
    """Write a pack whole or not at all, into a folder beside it first, and return its facts.

    base: a pack, or Wan in diffusers layout; what is not given goes in as the base has it. With a judge, the facts that
    are written name its folder.
    """
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    _save(new / "transformer", student.transformer, {"_class_name": "WanTransformer3DModel", **student.config}, dtype)
    others = {facts.opening_network: opening, "teacher": teacher}
    for part, network in others.items():
        if part and network is not None:
            config = {"_class_name": "WanTransformer3DModel", **network.config}
            _save(new / part, network.transformer, config, dtype)
    if codec is not None:
        _save(new / "vae", codec, {"_class_name": "PixelCodec", **codec.config}, dtype)
    if text is not None:
        _save(new / "text_encoder", text, {"_class_name": "StoryText", **text.config}, dtype)
    if judge is not None:
        _save(new / "judge", judge, {"_class_name": "StorybookJudge", **judge.config}, dtype)
        facts = replace(facts, judge="judge")
    for part in ("vae", "vae_tiny", "text_encoder", "tokenizer", *facts.networks[1:], facts.teacher, facts.judge):
        if base and part and (base / part).is_dir() and not (new / part).exists():
            shutil.copytree(base / part, new / part, copy_function=_link)
    write_diffusers_index(new, facts)
    written = write_pack_manifest(new, facts)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return written


def _save(folder: Path, module: nn.Module, config: dict[str, Any], dtype: torch.dtype) -> None:
    folder.mkdir(parents=True)
    public = {key: value for key, value in config.items() if not key.startswith("_") or key == "_class_name"}
    (folder / "config.json").write_text(to_json(public, indent=2, sort_keys=True) + "\n")
    save_safetensors(module.state_dict(), folder, dtype=dtype)


def _link(source: str, target: str) -> None:
    """Give a file a second name, as umT5 alone is 11 GB; copy it where the file system has no hard links."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
