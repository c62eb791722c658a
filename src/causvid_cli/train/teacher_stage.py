"""Stage `teacher`: a bidirectional network learns whole clips by flow matching, single latent frames first.

A picture costs a fraction of a clip and teaches what things look like; clips then teach how they move.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.config import Prediction
from causvid_cli.sampling.schedule import add_noise, x0_from
from causvid_cli.train.config import Optimisation
from causvid_cli.train.dataset import SPRITE_CELL_WEIGHT, LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.losses import flow_matching, sample_sigma
from causvid_cli.train.parallel import my_draw, my_normal, my_share, my_weight
from causvid_cli.train.trainer import StageSetting, Trainer

DROP_PROMPT = 0.1


def train_teacher(
    folder: Path,
    denoiser: Denoiser,
    clips: LatentClips,
    plan: Optimisation,
    *,
    frames: int | None,
    shift: float,
    setting: StageSetting,
) -> Trainer:
    """Train, or go on with the training, and return the trainer, whose `averaged()` is the teacher.

    frames: latent frames of a sample (1: pictures), None: whole clips. shift: how far noise levels lean to noise.
    """

    device = setting.device

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        batch = clips.batch(
            rng,
            plan.batch,
            device=device,
            sprite_weight=SPRITE_CELL_WEIGHT,
            first_predictable_frames=[0],
            frames=frames,
        )
        sprite, weight, batch = my_share(batch.weight > 1), my_weight(batch.weight), my_share(batch)
        uniform = my_draw(rng.random, len(batch.x0), 2).float()
        sigma = sample_sigma(uniform[:, 0], shift=shift).to(device)
        noise = standard_normal(rng, batch.x0)
        x_t = add_noise(batch.x0, noise, sigma)
        prompt = denoiser.prompt(denoiser.drop_prompts(batch.rows, uniform[:, 1], rate=DROP_PROMPT))
        network = denoiser.network
        output = network.forward_whole(x_t, 1000 * sigma, prompt)
        value = flow_matching(network.prediction, x_t, output, batch.x0, noise, sigma, weight)
        return {"loss": value, **_by_level(network.prediction, x_t, output, batch.x0, sigma, sprite)}

    trainer = Trainer(folder, denoiser, plan, setting)
    trainer.run(loss)
    return trainer


def standard_normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    """Return noise of a tensor's shape, drawn on the CPU; in training, for rows that are this process's share."""
    return my_normal(rng, like)


@torch.no_grad()
def _by_level(
    prediction: Prediction, x_t: Tensor, output: Tensor, x0: Tensor, sigma: Tensor, sprite: Tensor
) -> dict[str, Tensor]:
    """Return the mean square error of the implied x0, of all cells and of sprite cells; comparable between predictions.

    The latter is NaN for a batch without sprites.
    """
    error = (x0_from(prediction, x_t, output, sigma) - x0).square().mean(dim=1, keepdim=True)
    return {"x0_error": error.mean(), "sprite_error": (error * sprite).sum() / sprite.sum()}
