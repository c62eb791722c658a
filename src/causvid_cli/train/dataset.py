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

SPRITE_CELL_WEIGHT = 4.0
"""What an error in a latent cell with a sprite weighs, beside that in others."""
THING_WEIGHT = 4.0
"""How much more than a sprite a thing weighs that an action brings along: it is as small as it tells much."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips as training wants them, on the device.

    x0: float32 [B, C, F, h, w], normalised. rows: prompt row numbers [B, 5]. weight: [B, 1, F, h, w].
    first_predictable_frame: int64 [B], the first latent frame that can be foretold from the prompt and the frames
    before it: 0 where the clip begins its video, later where it begins within it or where the prompt has just changed.
    """

    x0: Tensor
    rows: Tensor
    weight: Tensor
    first_predictable_frame: Tensor


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
        """Return the rows with these numbers, int64 [B]: a new tensor [B, ...]."""
        parts = torch.searchsorted(self.ends, pick, right=True)
        from_end = (pick - self.ends[parts]).tolist()  # -1 is the last of its part
        picked = self.parts[0].new_empty(len(pick), *self.shape[1:])  # torch.stack takes no float16 under autocast
        for i, (part, place) in enumerate(zip(parts.tolist(), from_end, strict=True)):
            picked[i] = self.parts[part][place]
        return picked


@dataclass(frozen=True, slots=True)
class Bucket:
    """Prepared clips of one shape.

    x0: float16 [N, C, F, h, w]. sprite: uint8 [N, F, h, w]. rows: [N, L]. first_predictable_frame: int64 [N].
    sampling_weight: float64 [N], how often training shows a clip, relative to others: what is hard to learn is shown
    more often. Shards call the last two `known_from` and `share`, as they always have.
    """

    x0: Joined
    sprite: Joined
    rows: Tensor
    first_predictable_frame: Tensor
    sampling_weight: Tensor

    @classmethod
    def of(cls, shards: Sequence[Mapping[str, Tensor]], *, given: int = 0) -> "Bucket":
        """Return the clips of several shards as one bucket; their latents stay in the files.

        given: as in `LatentClips`.
        """
        rows, first_predictable_frame, sampling_weight = (
            torch.cat([shard[name] for shard in shards]) for name in ("rows", "known_from", "share")
        )
        x0, sprite = (Joined([shard[name] for shard in shards]) for name in ("x0", "sprite"))
        return cls(x0, sprite, rows, first_predictable_frame.clamp(min=given), sampling_weight.double())

    @property
    def latent_frames(self) -> int:
        return self.x0.shape[2]

    @property
    def tokens(self) -> int:
        """Cells of a clip, in all its latent frames."""
        return int(np.prod(self.x0.shape[2:]))

    def weight_where(self, first_predictable_frames: Collection[int] | None) -> Tensor:
        """Return the sampling weights, float64 [N]: 0 but for clips with one of these first frames; None: of all."""
        if first_predictable_frames is None:
            return self.sampling_weight
        chosen = torch.isin(self.first_predictable_frame, torch.tensor(list(first_predictable_frames)))
        return torch.where(chosen, self.sampling_weight, 0.0)


class LatentClips:
    """All prepared clips, in buckets by shape; a batch is of one of them. Raises UsageError when there are none.

    given: of every clip, latent frames at least that are given (`first_predictable_frame`).
    """

    def __init__(self, folder: Path, *, given: int = 0) -> None:
        shards: dict[tuple[int, ...], list[dict[str, Tensor]]] = {}
        for path in sorted(folder.glob("clips-*.safetensors")):
            shard = load_shard(path)
            if len(shard["x0"]):
                shards.setdefault(tuple(shard["x0"].shape[1:]), []).append(shard)
        if not shards:
            raise UsageError(f"{folder} holds no clips; run stage prepare first")
        self.buckets = [Bucket.of(shards[shape], given=given) for shape in sorted(shards)]

    def __len__(self) -> int:
        return sum(len(bucket.x0) for bucket in self.buckets)

    @property
    def latent_frames(self) -> int:
        """Latent frames of the shortest clips."""
        return min(bucket.latent_frames for bucket in self.buckets)

    @cached_property
    def all_first_predictable_frames(self) -> Tensor:
        """Return the `first_predictable_frame` of all clips, int64 [N]."""
        return torch.cat([bucket.first_predictable_frame for bucket in self.buckets])

    def random_first_predictable_frame(self, rng: np.random.Generator) -> int:
        """Return the `first_predictable_frame` of a random clip."""
        return int(self.all_first_predictable_frames[rng.integers(len(self))])

    def batch(
        self,
        rng: np.random.Generator,
        count: int,
        *,
        device: torch.device,
        sprite_weight: float,
        first_predictable_frames: Collection[int] | None = None,
        frames: int | None = None,
        longest: int | None = None,
        smallest: bool = False,
    ) -> Batch:
        """Return random clips of one bucket, with one of these `first_predictable_frames` or with any.

        count: clips of the smallest bucket; of larger ones there are as many fewer, so that a step costs the same.
        frames: a random stretch of so many latent frames of each clip. longest: leave out buckets of longer clips.
        smallest: leave out all but that of the smallest.
        sprite_weight: of cells where a sprite is, or has been before in the clip; other cells weigh 1, and what
          an action brings along `THING_WEIGHT` times as much as a sprite.
        """
        buckets = [bucket for bucket in self.buckets if longest is None or bucket.latent_frames <= longest]
        buckets = [min(buckets, key=lambda bucket: bucket.tokens)] if smallest else buckets
        totals = np.array([bucket.weight_where(first_predictable_frames).sum().item() for bucket in buckets])
        bucket = buckets[int(np.searchsorted(totals.cumsum() / totals.sum(), rng.random(), side="right"))]
        if frames is None:
            count = max(1, count * min(each.tokens for each in self.buckets) // bucket.tokens)
        reach = bucket.weight_where(first_predictable_frames).cumsum(0)
        pick = torch.searchsorted(reach, torch.from_numpy(rng.random(count)) * reach[-1], right=True)
        x0, sprite = bucket.x0[pick], bucket.sprite[pick]
        if frames is not None and frames < bucket.latent_frames:
            starts = rng.integers(bucket.latent_frames - frames + 1, size=count)
            x0 = torch.stack([clip[:, s : s + frames].float() for clip, s in zip(x0, starts, strict=True)])
            sprite = torch.stack([clip[s : s + frames] for clip, s in zip(sprite, starts, strict=True)])
        left = (sprite > 0).byte().cummax(dim=1).values  # also what is behind who has left, or they leave traces
        seen = torch.maximum(sprite, left)
        weight = torch.tensor([1.0, sprite_weight, THING_WEIGHT * sprite_weight])[seen.long()].unsqueeze(1)
        first_frame = bucket.first_predictable_frame[pick].to(device)
        return Batch(x0.float().to(device), bucket.rows[pick], weight.to(device), first_frame)
