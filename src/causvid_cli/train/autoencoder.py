"""Stage `autoencoder`: the pixel-art codec, trained by cross-entropy on palette entries.

Where a run starts from a base, only the decoder learns, from the user's frames beside the storybook's: latents stay
what they are, so the base's networks understand them, but what they stand for may now look new.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.errors import MediaError
from causvid_cli.storybook import FIRST_WORDS, Words
from causvid_cli.train import story_clips
from causvid_cli.train.config import AutoencoderConfig
from causvid_cli.train.losses import palette_cross_entropy
from causvid_cli.train.trainer import StageSetting, Trainer
from causvid_cli.train.videos import VideoPlan, read_clips

CODEC_FILE = "codec.safetensors"
CROP = 32
WHOLE_EVERY = 6
"""One step in so many sees whole frames, the others crops around the sprite: cheaper, and where the errors are."""
SPRITE_PIXEL_WEIGHT = 3.0
NOISE = 0.15
"""Standard deviation of the noise on the cells in training: the decoder must forgive small latent errors."""
SCALE_PENALTY = 1e-3
MOST_FRAMES = 4000
"""Most of the user's frames that are kept in memory."""


class OwnFrames:
    """The user's frames, palette entries uint8 [H, W], and where a codec gets them wrong: that is what is new."""

    def __init__(self, frames: Sequence[np.ndarray], codec: PixelCodec) -> None:
        self.frames, self.wrong = frames, [redrawn(frame, codec) != frame for frame in frames]

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Return crops uint8 [N, CROP, CROP] around something new, and masks bool [N, CROP, CROP] of what is new."""
        picks = rng.integers(len(self.frames), size=count)
        crops = [story_clips.crop_around(self.frames[i], self.wrong[i], CROP, rng) for i in picks]
        indices, masks = (torch.from_numpy(np.stack(part)) for part in zip(*crops, strict=True))
        return indices, masks


def train_autoencoder(
    folder: Path,
    plan: AutoencoderConfig,
    setting: StageSetting,
    words: Words = FIRST_WORDS,
    *,
    base: PixelCodec | None = None,
    own: OwnFrames | None = None,
) -> PixelCodec:
    """Train the codec, or go on with its training, and return it with averaged weights and measured latent statistics.

    words: what the storybook's frames may show. base: a codec to go on from, of which only the decoder learns.
    own: half of all crops are of these frames.
    """
    device = setting.device
    torch.manual_seed(setting.seed)
    codec = begin_codec(plan, base)
    codec.float().to(device).channels_last().requires_grad_(base is None).decoder.requires_grad_(True)

    def sample(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        if step % WHOLE_EVERY == 0:
            return story_clips.sample_frames(rng, max(1, plan.batch // 4), words)
        if own is None:
            return story_clips.sample_frames(rng, plan.batch, words, crop=CROP)
        known = story_clips.sample_frames(rng, plan.batch // 2, words, crop=CROP)
        new = own.sample(rng, -(-plan.batch // 2))
        return torch.cat([known[0], new[0]]), torch.cat([known[1], new[1]])

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        indices, mask = (t.to(device) for t in sample(step, rng))
        cells = codec.encode_frames(indices)
        noise = torch.from_numpy(rng.standard_normal(cells.shape, dtype=np.float32)).to(device)
        scores = codec.decode_frames(cells + NOISE * noise)
        weight = torch.where(mask, SPRITE_PIXEL_WEIGHT, 1.0)
        entropy = palette_cross_entropy(scores, indices, weight)
        right = scores.argmax(dim=1) == indices
        return {
            "loss": entropy + SCALE_PENALTY * cells.square().mean(),
            "entropy": entropy,
            "right": right.float().mean(),
            "sprite_right": right[mask].float().mean(),  # NaN without any
        }

    trainer = Trainer(folder, codec, plan, setting)
    trainer.run(loss)
    with trainer.averaged():
        if base is None:
            measure_latents(codec, np.random.default_rng((setting.seed, 1)), device, words)
        save_file({name: tensor.contiguous() for name, tensor in codec.state_dict().items()}, folder / CODEC_FILE)
    return load_codec(folder, plan, device=device, base=base)


def begin_codec(plan: AutoencoderConfig, base: PixelCodec | None) -> PixelCodec:
    """The codec that training begins with: a new one, or the base's, with a new decoder if that is of another size."""
    shape: dict[str, Any] = {"decoder_widths": plan.decoder_widths, "blocks": plan.decoder_blocks}
    if base is None:
        shape |= {"cell_channels": plan.cell_channels, "encoder_widths": plan.encoder_widths}
    shape = {name: value for name, value in shape.items() if value is not None}
    if base is None:
        return PixelCodec(palette=torch.tensor(storybook.PALETTE), **shape)
    codec = type(base).from_config(base.config | shape)
    same = codec.config == base.config
    known = {name: tensor for name, tensor in base.state_dict().items() if same or not name.startswith("decoder.")}
    codec.load_state_dict(codec.state_dict() | known)
    return codec


def load_codec(
    folder: Path, plan: AutoencoderConfig, *, device: torch.device, base: PixelCodec | None = None
) -> PixelCodec:
    """Return the codec that `train_autoencoder` left in its folder, frozen."""
    codec = begin_codec(plan, base)
    codec.load_state_dict(load_file(folder / CODEC_FILE))
    return codec.to(device).channels_last().eval().requires_grad_(False)


def distinct_frames(plan: VideoPlan, codec: PixelCodec) -> list[np.ndarray]:
    """Return every frame of the user's clips once, as palette entries uint8 [H, W]; of very many, evenly spread ones.

    Videos that break are passed over: stage `prepare` lists them.
    """
    every = -(-plan.clips * plan.frames // MOST_FRAMES)
    frames: dict[bytes, np.ndarray] = {}
    for video in plan.videos:
        with suppress(MediaError):
            for clip in read_clips(video, frames=plan.frames, fps=Fraction(plan.fps)):
                indices = codec.nearest_entries(torch.from_numpy(clip[::every])).to(torch.uint8).cpu().numpy()
                frames |= {frame.tobytes(): frame for frame in indices}
    return list(frames.values())


@torch.no_grad()
def redrawn(frame: np.ndarray, codec: PixelCodec) -> np.ndarray:
    """Return a frame uint8 [H, W] as it comes out of the codec."""
    indices = torch.from_numpy(frame)[None].to(codec.palette.device)
    return codec.decode_frames(codec.encode_frames(indices))[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


@torch.no_grad()
def measure_latents(
    codec: PixelCodec, rng: np.random.Generator, device: torch.device, words: Words = FIRST_WORDS, count: int = 512
) -> None:
    """Set the codec's mean and standard deviation per channel from whole frames."""
    cells = codec.encode_frames(story_clips.sample_frames(rng, count, words)[0].to(device))
    codec.latents_mean.copy_(cells.mean(dim=(0, 2, 3)))
    codec.latents_std.copy_(cells.std(dim=(0, 2, 3)))
