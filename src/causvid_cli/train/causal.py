"""The causal stage: teacher forcing under the block-causal mask."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.network.copies import input_of, wrong_choices
from causvid_cli.sampling.schedule import add_noise
from causvid_cli.train.config import Optimisation, RolloutFacts
from causvid_cli.train.dataset import SPRITE_CELL_WEIGHT, LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.layout import Layout, copied_from, draw_steps, every_step, known_frames, slid_prompts
from causvid_cli.train.losses import flow_matching, sample_sigma, weighted_mean
from causvid_cli.train.parallel import my_draw, my_share, my_weight
from causvid_cli.train.teacher_stage import DROP_PROMPT, standard_normal
from causvid_cli.train.trainer import StageSetting, Trainer

CONTEXT_NOISE = 0.15
"""Largest noise level of the clean context in training: the student must forgive its own small errors."""


def train_causal(
    folder: Path,
    denoiser: Denoiser,
    clips: LatentClips,
    plan: Optimisation,
    facts: RolloutFacts,
    *,
    shift: float,
    setting: StageSetting,
    blends: float = 0.0,
    few: bool = False,
    opening: Denoiser | None = None,
) -> Trainer:
    """Train by teacher forcing and flow matching, from the weights that the denoiser holds; return the trainer.

    few: noise levels are those of the roll-out's few steps, not any.
    blends: share of prompts that are slid towards another (`slid_prompts`).
    opening: what draws what can be copied from.
    """
    levels = torch.tensor([step.sigma for step in every_step(facts)])
    device, kinds = setting.device, clips.all_first_predictable_frames.unique().tolist()

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        first = clips.random_first_predictable_frame(rng) % facts.chunk_frames
        alike = [frame for frame in kinds if frame % facts.chunk_frames == first]
        batch = clips.batch(
            rng, plan.batch, device=device, sprite_weight=SPRITE_CELL_WEIGHT, first_predictable_frames=alike
        )
        others = my_share(batch.rows.roll(1, 0))
        weight, batch = my_weight(batch.weight * known_frames(batch)), my_share(batch)
        count, _, frames = batch.x0.shape[:3]
        layout = Layout.of(frames, facts, first_frames=first)
        if few:
            sigma = levels[draw_steps(rng, count, layout, facts)].to(device)
        else:
            uniform = my_draw(rng.random, count, len(layout.chunks)).float()
            sigma = layout.per_frame(sample_sigma(uniform, shift=shift).to(device))
        network, noise = denoiser.network, standard_normal(rng, batch.x0)
        drawn = copied_from(denoiser, opening, batch, facts, given=facts.chunk_frames)
        x_t = layout.begun(network, add_noise(batch.x0, noise, sigma), batch.x0, batch.first_predictable_frame, drawn)
        clean = noisy_context(batch.x0, rng)
        dropped = denoiser.drop_prompts(batch.rows, my_draw(rng.random, count), rate=DROP_PROMPT)
        prompt = slid_prompts(denoiser, dropped, others, rng, share=blends)
        fed = input_of(network.prediction, x_t)
        output = network.forward_whole(fed, 1000 * sigma, prompt, mask=layout.mask, clean=clean)
        losses = {"flow": flow_matching(network.prediction, x_t, output, batch.x0, noise, sigma, weight)}
        if network.prediction == "copies":
            losses["choices"] = weighted_mean(wrong_choices(x_t, output, batch.x0), weight)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    trainer = Trainer(folder, denoiser, plan, setting)
    trainer.run(loss)
    return trainer


def noisy_context(x0: Tensor, rng: np.random.Generator) -> Tensor:
    """Return clean latents [B, C, F, h, w] with a little noise, at another level for each clip."""
    level = CONTEXT_NOISE * my_draw(rng.random, len(x0)).float().to(x0.device)
    return add_noise(x0, standard_normal(rng, x0), level)
