"""Stage `prepare`: clips rendered and encoded once, kept as sharded safetensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.text import StoryText
from causvid_cli.train import world
from causvid_cli.train.losses import latent_weight
from causvid_cli.train.trainer import Report

SHARD_CLIPS = 500
LATE_EVERY = 5
"""One shard in so many holds clips that begin later in their video, as a sliding window sees it."""


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


class LatentClips:
    """All prepared clips, in memory as float16."""

    def __init__(self, folder: Path) -> None:
        shards = [load_file(path) for path in sorted(folder.glob("clips-*.safetensors"))]
        self.x0 = torch.cat([shard["x0"] for shard in shards])
        self.rows = torch.cat([shard["rows"] for shard in shards])
        self.sprite = torch.cat([shard["sprite"] for shard in shards])
        self.known_from = torch.cat([shard["known_from"] for shard in shards])
        self.share = torch.cat([shard["share"] for shard in shards]).double()

    def __len__(self) -> int:
        return len(self.x0)

    def batch(
        self,
        rng: np.random.Generator,
        count: int,
        *,
        device: torch.device,
        sprite_weight: float,
        known_from: int | None = None,
        frames: int | None = None,
    ) -> Batch:
        """Random clips, of one `known_from` or of any; with `frames`, a random stretch of so many latent frames.

        A clip is drawn as often as its share says: what is hard to learn is shown more often.
        """
        share = self.share if known_from is None else torch.where(self.known_from == known_from, self.share, 0.0)
        reach = share.cumsum(0)
        pick = torch.searchsorted(reach, torch.from_numpy(rng.random(count)) * reach[-1], right=True)
        x0, sprite = self.x0[pick], self.sprite[pick]
        if frames is not None and frames < x0.shape[2]:
            starts = rng.integers(x0.shape[2] - frames + 1, size=count)
            x0 = torch.stack([clip[:, s : s + frames] for clip, s in zip(x0, starts, strict=True)])
            sprite = torch.stack([clip[s : s + frames] for clip, s in zip(sprite, starts, strict=True)])
        weight = torch.where(sprite.bool(), sprite_weight, 1.0).unsqueeze(1)
        return Batch(x0.float().to(device), self.rows[pick], weight.to(device), self.known_from[pick].to(device))


@torch.no_grad()
def prepare(
    folder: Path,
    codec: PixelCodec,
    text: StoryText,
    *,
    clips: int,
    switches: int,
    latent_frames: int,
    device: torch.device,
    seed: int = 0,
    report: Report | None = None,
) -> LatentClips:
    """Render and encode what is still missing, shard by shard, and load it all.

    clips: clips of one story, a fifth of which begin late. switches: clips whose prompt changes on the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = -(-clips // SHARD_CLIPS)
    shards = plain + -(-switches // SHARD_CLIPS)
    for shard in range(shards):
        path = folder / f"clips-{shard:05d}.safetensors"
        if not path.exists():
            rng = np.random.default_rng((seed, shard))
            late = shard < plain and shard % LATE_EVERY == LATE_EVERY - 1
            if shard >= plain:
                known_from = int(rng.integers(2, latent_frames - 2))
                frames = latent_frames * codec.stack
                batch = world.sample_switches(rng, SHARD_CLIPS, frames=frames, switch_frame=known_from * codec.stack)
            else:
                known_from = latent_frames // 2 if late else 0
                start = int(rng.integers(2, 13)) * codec.stack if late else 0
                batch = world.sample_clips(rng, SHARD_CLIPS, frames=latent_frames * codec.stack, start=start)
            sprite = latent_weight(batch.mask, stack=codec.stack, factor=codec.facts.spatial_factor, sprite_weight=2.0)
            tensors = {
                "x0": torch.cat([encode_clip(codec, clip.to(device)) for clip in batch.indices]).half().cpu(),
                "rows": text.rows(batch.stories),
                "sprite": (sprite.squeeze(1) > 1).to(torch.uint8),
                "known_from": torch.full((SHARD_CLIPS,), known_from),
                "share": torch.tensor([world.share_of(story, late=late) for story in batch.stories]),
            }
            save_file(tensors, path.with_suffix(".new"))
            path.with_suffix(".new").rename(path)
        if report:
            report({"step": shard + 1, "clips": (shard + 1) * SHARD_CLIPS})
    return LatentClips(folder)


def encode_clip(codec: PixelCodec, indices: Tensor) -> Tensor:
    """Normalised latents [1, C, F, h, w] of one clip [T, H, W]; pictures that repeat are encoded once."""
    pictures, places = torch.unique(indices, dim=0, return_inverse=True)
    cells = codec.encode_pictures(pictures)
    return codec.stack_cells(cells[places].unsqueeze(0))
