"""Shards of latents and text features, read as batches."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.errors import UsageError
from causvid_cli.train.shards import load_shard


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips as training wants them, on the device.

    x0: float32 [B, C, F, h, w], normalised. rows: prompt row numbers [B, 5]. weight: [B, 1, F, h, w].
    known_from: int64 [B], the first latent frame that can be foretold from the prompt and the frames before it: 0 where
    the clip begins its video, later where it begins within it or where the prompt has just changed.
    """

    x0: Tensor
    rows: Tensor
    weight: Tensor
    known_from: Tensor


class Joined:
    """Tensors [n, ...] one after another as if they were one [N, ...]; each stays in its file until it is taken."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = parts
        self.ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, pick: Tensor) -> Tensor:
        """Those of these numbers, int64 [B]: a new tensor [B, ...]."""
        parts = torch.searchsorted(self.ends, pick, right=True)
        from_end = (pick - self.ends[parts]).tolist()  # -1 is the last of its part
        picked = self.parts[0].new_empty(len(pick), *self.shape[1:])  # torch.stack takes no float16 under autocast
        for i, (part, place) in enumerate(zip(parts.tolist(), from_end, strict=True)):
            picked[i] = self.parts[part][place]
        return picked


@dataclass(frozen=True, slots=True)
class Bucket:
    """Prepared clips of one shape.

    x0: float16 [N, C, F, h, w]. sprite: uint8 [N, F, h, w]. rows: [N, L]. known_from: int64 [N]. share: float64 [N],
    how often training shows a clip, relative to others: what is hard to learn is shown more often.
    """

    x0: Joined
    sprite: Joined
    rows: Tensor
    known_from: Tensor
    share: Tensor

    @classmethod
    def of(cls, shards: Sequence[Mapping[str, Tensor]]) -> "Bucket":
        rows, known_from, share = (
            torch.cat([shard[name] for shard in shards]) for name in ("rows", "known_from", "share")
        )
        x0, sprite = (Joined([shard[name] for shard in shards]) for name in ("x0", "sprite"))
        return cls(x0, sprite, rows, known_from, share.double())

    @property
    def latent_frames(self) -> int:
        return self.x0.shape[2]

    def share_of(self, known_from: Collection[int] | None) -> Tensor:
        """[N]: the shares, or those of some `known_from` alone."""
        if known_from is None:
            return self.share
        return torch.where(torch.isin(self.known_from, torch.tensor(list(known_from))), self.share, 0.0)


class LatentClips:
    """All prepared clips, in buckets by shape; a batch is of one of them. Raises UsageError when there are none."""

    def __init__(self, folder: Path) -> None:
        shards: dict[tuple[int, ...], list[dict[str, Tensor]]] = {}
        for path in sorted(folder.glob("clips-*.safetensors")):
            shard = load_shard(path)
            if len(shard["x0"]):
                shards.setdefault(tuple(shard["x0"].shape[1:]), []).append(shard)
        if not shards:
            raise UsageError(f"{folder} holds no clips; run stage prepare first")
        self.buckets = [Bucket.of(shards[shape]) for shape in sorted(shards)]

    def __len__(self) -> int:
        return sum(len(bucket.x0) for bucket in self.buckets)

    @property
    def latent_frames(self) -> int:
        """Length of the shortest clips."""
        return min(bucket.latent_frames for bucket in self.buckets)

    @cached_property
    def every_known_from(self) -> Tensor:
        """The `known_from` of all clips, int64 [N]."""
        return torch.cat([bucket.known_from for bucket in self.buckets])

    def some_known_from(self, rng: np.random.Generator) -> int:
        """The `known_from` of a random clip."""
        return int(self.every_known_from[rng.integers(len(self))])

    def batch(
        self,
        rng: np.random.Generator,
        count: int,
        *,
        device: torch.device,
        sprite_weight: float,
        known_from: Collection[int] | None = None,
        frames: int | None = None,
        longest: int | None = None,
    ) -> Batch:
        """Random clips of one bucket, of some `known_from` or of any.

        count: clips of the shortest bucket; of longer ones there are as many fewer, so that a step costs the same.
        frames: a random stretch of so many latent frames of each clip. longest: leave out buckets of longer clips.
        """
        buckets = [bucket for bucket in self.buckets if longest is None or bucket.latent_frames <= longest]
        totals = np.array([bucket.share_of(known_from).sum().item() for bucket in buckets])
        bucket = buckets[int(np.searchsorted(totals.cumsum() / totals.sum(), rng.random(), side="right"))]
        if frames is None:
            count = max(1, count * self.latent_frames // bucket.latent_frames)
        reach = bucket.share_of(known_from).cumsum(0)
        pick = torch.searchsorted(reach, torch.from_numpy(rng.random(count)) * reach[-1], right=True)
        x0, sprite = bucket.x0[pick], bucket.sprite[pick]
        if frames is not None and frames < bucket.latent_frames:
            starts = rng.integers(bucket.latent_frames - frames + 1, size=count)
            x0 = torch.stack([clip[:, s : s + frames].float() for clip, s in zip(x0, starts, strict=True)])
            sprite = torch.stack([clip[s : s + frames] for clip, s in zip(sprite, starts, strict=True)])
        weight = torch.where(sprite.bool(), sprite_weight, 1.0).unsqueeze(1)
        return Batch(x0.float().to(device), bucket.rows[pick], weight.to(device), bucket.known_from[pick].to(device))
