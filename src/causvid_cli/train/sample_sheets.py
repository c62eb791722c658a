"""Sheets of samples on the way: the same prompts and noise each time, one clip a row, so that progress is seen."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from causvid_cli.codec import Codec
from causvid_cli.sampling.schedule import sampler_sigmas
from causvid_cli.teacher import denoise_whole
from causvid_cli.train.config import RolloutFacts
from causvid_cli.train.dataset import Batch, LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.layout import Layout
from causvid_cli.train.student import own_past
from causvid_cli.train.teacher_stage import standard_normal

Samples = Callable[[int, nn.Module], np.ndarray]
"""(step, the stage's module with its averaged weights) -> a sheet, uint8 RGB [H, W, 3]."""

CLIPS, FRAMES = 6, 6
TEACHER_STEPS = 16


def teacher_samples(codec: Codec, clips: LatentClips, *, frames: int | None, shift: float, guidance: float) -> Samples:
    """Return sheets of a bidirectional network. frames: latent frames of a sample; None: whole clips."""

    @torch.no_grad()
    def make(step: int, module: nn.Module) -> np.ndarray:
        denoiser = _denoiser(module)
        batch = _some(denoiser, clips)
        x0 = denoise_whole(
            denoiser.network,
            standard_normal(np.random.default_rng(0), batch.x0)[:, :, :frames],
            denoiser.text(batch.rows),
            denoiser.text(denoiser.text.empty_rows(1)),
            sigmas=sampler_sigmas(TEACHER_STEPS, shift=shift),
            guidance=guidance,
        )
        return sheet(codec, x0)

    return make


def student_samples(
    codec: Codec, clips: LatentClips, facts: RolloutFacts, *, opening: Denoiser | None = None
) -> Samples:
    """Return sheets of a causal network, in its few steps. opening: what makes first chunks, where that is another."""

    @torch.no_grad()
    def make(step: int, module: nn.Module) -> np.ndarray:
        denoiser = _denoiser(module)
        batch = _some(denoiser, clips)
        layout, rng = Layout.of(batch.x0.shape[2], facts), np.random.default_rng(0)
        return sheet(codec, own_past(denoiser, batch, layout, facts, given=0, opening=opening, rng=rng))

    return make


def sheet(codec: Codec, x0: Tensor) -> np.ndarray:
    """Clips x0 [B, C, F, h, w] as one image uint8 [H, W, 3]: one a row, some of their frames from left to right."""
    rows = []
    for clip in x0:
        frames = codec.decode_chunk(clip[None], state=codec.decode_state())[0].cpu().numpy()
        picks = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
        rows.append(np.concatenate(list(frames[picks]), axis=1))
    return np.concatenate(rows)


def _denoiser(module: nn.Module) -> Denoiser:
    chosen = module["student"] if isinstance(module, nn.ModuleDict) else module
    assert isinstance(chosen, Denoiser)
    return chosen


def _some(denoiser: Denoiser, clips: LatentClips) -> Batch:
    """Return the clips that a sheet shows the network's own of."""
    rng, device = np.random.default_rng(0), next(denoiser.parameters()).device
    return clips.batch(rng, CLIPS, device=device, sprite_weight=1.0, first_predictable_frames=[0], smallest=True)
