"""Prompts encoded once: training looks their features up and never runs the text encoder."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.errors import NumericsError, UsageError
from causvid_cli.prompt.encoded import TextEncoder
from causvid_cli.train.shards import load_shard, save_shard, shard_about

SHARD_PROMPTS = 256


class PromptTable(nn.Module):
    """Features of a list of prompts, in the place of `StoryText`: a prompt's number stands for it in prepared clips.

    Number 0 is what guidance compares with, the prompts follow. Features stay in the files, without their padding: a
    prompt of 100 tokens takes 0.8 MB there instead of 4.
    """

    place: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.prompts: list[str] = []
        """The prompts after number 0, in their order."""
        self._features: list[Tensor] = []
        self._length = 0
        for path in sorted(folder.glob("prompts-*.safetensors")):
            about, tensors = shard_about(path), load_shard(path)
            self.prompts += about["prompts"]
            self._features += tensors["features"].split(tensors["tokens"].tolist())
            self._length = max(self._length, about["length"])
        self._rows = {prompt: row for row, prompt in enumerate(self.prompts, start=1)}
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows .to(device, dtype)

    def __len__(self) -> int:
        return len(self._features)

    def lacks(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that are still to be encoded, each once: number 0 alone where it and they all are missing."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
        return missing or ([] if len(self) else [""])

    def caption_rows(self, captions: Sequence[str]) -> Tensor:
        """Return the numbers, int64 [B, 1], of prompts of the list. Raises UsageError for another."""
        if unknown := [prompt for prompt in captions if prompt not in self._rows]:
            raise UsageError(f"prompt {unknown[0]!r} is not among the {len(self.prompts)} that were prepared")
        return torch.tensor([self._rows[prompt] for prompt in captions], dtype=torch.long).unsqueeze(1)

    def empty_rows(self, batch: int) -> Tensor:
        """Return numbers int64 [B, 1] of what guidance compares with."""
        return torch.zeros(batch, 1, dtype=torch.long)

    def forward(self, rows: Tensor) -> Tensor:
        """Return text features [B, L, D] of numbers [B, 1], padded with zeros."""
        parts = [self._features[row] for row in rows.flatten().tolist()]
        padded = [F.pad(part, (0, 0, 0, self._length - len(part))) for part in parts]
        return torch.stack(padded).to(self.place)


def encode_prompts(folder: Path, prompts: Sequence[str], text: TextEncoder) -> PromptTable:
    """Encode the prompts that the folder lacks, shard by shard, and read them all; those there keep their numbers.

    Number 0, which guidance leads away from, is the empty prompt.
    """
    table = PromptTable(folder)
    known = set(table.prompts)
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    first = len(list(folder.glob("prompts-*.safetensors")))
    if len(table) and not missing:
        return table
    for shard, start in enumerate(range(0, max(1, len(missing)), SHARD_PROMPTS), start=first):
        part = missing[start : start + SHARD_PROMPTS]
        embeds = [text.encode(prompt).embeds for prompt in part]
        if shard == 0:
            embeds.insert(0, text.empty())
        if not all(features.isfinite().all() for features in embeds):
            raise NumericsError(f"text features of prompts {start} to {start + len(part)} are not finite")
        features = [_unpadded(features) for features in embeds]
        tokens = torch.tensor([len(each) for each in features])
        about = {"prompts": part, "length": embeds[0].shape[1]}
        save_shard({"features": torch.cat(features), "tokens": tokens}, _path(folder, shard), about)
    return PromptTable(folder)


def _path(folder: Path, shard: int) -> Path:
    return folder / f"prompts-{shard:05d}.safetensors"


def _unpadded(embeds: Tensor) -> Tensor:
    """Return features [tokens, D] on the CPU from [1, L, D] with zeros at the end."""
    used = embeds[0].any(dim=-1).nonzero()
    return embeds[0, : int(used[-1]) + 1 if len(used) else 0].clone().cpu()
