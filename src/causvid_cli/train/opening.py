"""Stage `opening`: a network of its own for the first chunk of a shot (`PackFacts.opening_network`).

Where nothing is untold, what a video begins with is the truth of its prompt. A chunk alone costs a fraction of a clip
under teacher forcing, so what things look like is learnt here; the student then learns how things go on from what was
there. One network that learns both, one after the other, never comes to look back (docs/storybook.md). Emu Video (arXiv
2311.10709) factorises text to video so.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.sampling.schedule import add_noise
from causvid_cli.train.config import Optimisation, RolloutFacts
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.layout import first_steps
from causvid_cli.train.losses import x0_regression
from causvid_cli.train.parallel import my_draw, my_share, my_weight
from causvid_cli.train.teacher_stage import SPRITE_WEIGHT, standard_normal
from causvid_cli.train.trainer import StageSetting, Trainer


def train_opening(
    folder: Path,
    denoiser: Denoiser,
    openings: LatentClips,
    plan: Optimisation,
    facts: RolloutFacts,
    *,
    setting: StageSetting,
) -> Trainer:
    """Train on first chunks at the noise levels of their steps, from the denoiser's weights; return the trainer.

    openings: clips as long as a chunk, each from the beginning of its video.
    """
    levels = torch.tensor([step.sigma for step in first_steps(facts)])
    device = setting.device

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        batch = openings.batch(rng, plan.batch, device=device, sprite_weight=SPRITE_WEIGHT)
        weight, batch = my_weight(batch.weight), my_share(batch)
        sigma = levels[(my_draw(rng.random, len(batch.x0)) * len(levels)).long()].to(device)
        x_t = add_noise(batch.x0, standard_normal(rng, batch.x0), sigma)
        network = denoiser.network
        output = network.forward_whole(x_t, 1000 * sigma, denoiser.prompt(batch.rows))
        return {"loss": x0_regression(network.prediction, x_t, output, batch.x0, sigma, weight)}

    trainer = Trainer(folder, denoiser, plan, setting)
    trainer.run(loss)
    return trainer
