"""Stage `autoencoder`: the pixel-art codec, trained by cross-entropy on palette entries."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.train import world
from causvid_cli.train.config import Optimisation
from causvid_cli.train.losses import palette_cross_entropy
from causvid_cli.train.trainer import Report, Trainer

CODEC_FILE = "codec.safetensors"
CROP = 32
WHOLE_EVERY = 6
"""One step in so many sees whole pictures, the others crops around the sprite: cheaper, and where the errors are."""
SPRITE_WEIGHT = 3.0
NOISE = 0.15
"""Standard deviation of the noise on the cells in training: the decoder must forgive small latent errors."""
SCALE_PENALTY = 1e-3


def train_autoencoder(
    folder: Path, plan: Optimisation, *, device: torch.device, seed: int = 0, report: Report | None = None
) -> PixelCodec:
    """Train, or go on training, the codec; returns it with averaged weights and measured latent statistics."""
    torch.manual_seed(seed)
    codec = PixelCodec(palette=torch.tensor(storybook.PALETTE)).to(device).channels_last()

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        whole = step % WHOLE_EVERY == 0
        count = max(1, plan.batch // 4) if whole else plan.batch
        indices, mask = (t.to(device) for t in world.sample_pictures(rng, count, crop=None if whole else CROP))
        cells = codec.encode_pictures(indices)
        noise = torch.from_numpy(rng.standard_normal(cells.shape, dtype=np.float32)).to(device)
        scores = codec.decode_pictures(cells + NOISE * noise)
        weight = torch.where(mask, SPRITE_WEIGHT, 1.0)
        entropy = palette_cross_entropy(scores, indices, weight)
        right = scores.argmax(dim=1) == indices
        return {
            "loss": entropy + SCALE_PENALTY * cells.square().mean(),
            "entropy": entropy,
            "right": right.float().mean(),
            "sprite_right": right[mask].float().mean() if mask.any() else torch.ones(()),
        }

    trainer = Trainer(folder, codec, plan, seed=seed, report=report)
    trainer.run(loss)
    with trainer.averaged():
        measure_latents(codec, np.random.default_rng((seed, 1)), device)
        save_file({name: tensor.contiguous() for name, tensor in codec.state_dict().items()}, folder / CODEC_FILE)
    return load_codec(folder, device=device)


def load_codec(folder: Path, *, device: torch.device) -> PixelCodec:
    """The codec that `train_autoencoder` left in its folder, frozen."""
    codec = PixelCodec(palette=torch.tensor(storybook.PALETTE))
    codec.load_state_dict(load_file(folder / CODEC_FILE))
    return codec.to(device).channels_last().eval().requires_grad_(False)


@torch.no_grad()
def measure_latents(codec: PixelCodec, rng: np.random.Generator, device: torch.device, count: int = 512) -> None:
    """Set the codec's mean and standard deviation per channel from whole pictures."""
    cells = codec.encode_pictures(world.sample_pictures(rng, count)[0].to(device))
    codec.latents_mean.copy_(cells.mean(dim=(0, 2, 3)))
    codec.latents_std.copy_(cells.std(dim=(0, 2, 3)))
