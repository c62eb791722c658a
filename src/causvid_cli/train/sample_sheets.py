"""Sheets of samples on the way: the same prompts and noise each time, one clip a row, so that progress is seen."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from causvid_cli.codec import Codec
from causvid_cli.sampling.schedule import sampler_sigmas
from causvid_cli.teacher import denoise_whole
from causvid_cli.train.config import RolloutFacts
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.dmd import self_rollout
from causvid_cli.train.layout import few_steps
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
        rows, noise = _start(denoiser, clips)
        x0 = denoise_whole(
            denoiser.network,
            noise[:, :, :frames],
            denoiser.text(rows),
            denoiser.text(denoiser.text.empty_rows(1)),
            sigmas=sampler_sigmas(TEACHER_STEPS, shift=shift),
            guidance=guidance,
        )
        return sheet(codec, x0)

    return make


def student_samples(codec: Codec, clips: LatentClips, facts: RolloutFacts) -> Samples:
    """Return sheets of a causal network, in its few steps."""

    @torch.no_grad()
    def make(step: int, module: nn.Module) -> np.ndarray:
        denoiser = _denoiser(module)
        rows, like = _start(denoiser, clips)
        exit_step = len(few_steps(facts)) - 1
        made = self_rollout(denoiser, rows, like, facts, exit_step=exit_step, rng=np.random.default_rng(0))
        return sheet(codec, made.x0)

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


def _start(denoiser: Denoiser, clips: LatentClips) -> tuple[Tensor, Tensor]:
    """Return prompts [B, L] and noise [B, C, F, h, w] of the sheet's clips."""
    rng = np.random.default_rng(0)
    device = next(denoiser.parameters()).device
    batch = clips.batch(rng, CLIPS, device=device, sprite_weight=1.0, first_predictable_frames=[0], smallest=True)
    return batch.rows, standard_normal(rng, batch.x0)
