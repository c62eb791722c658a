"""Stages `causal` and `student`: from the teacher's weights to a few steps per chunk on the student's own past.

`causal`: teacher forcing. Every chunk of a clip is denoised at a noise level of its own and sees earlier *clean*
chunks, under the block-causal mask.
`student`: the few steps. The first chunk learns from the many-step solutions of the causal network's guided ODE
(CausVid 3.3: regression on ODE pairs); later chunks learn on the student's own roll-out (self-forcing, arXiv
2506.08009), where what should come next is known because the world is.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.errors import UsageError
from causvid_cli.network.copies import input_of, wrong_choices
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import add_noise
from causvid_cli.train.config import Optimisation, RolloutFacts
from causvid_cli.train.dataset import SPRITE_CELL_WEIGHT, Batch, LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.layout import (
    Layout,
    cache_for,
    copied_from,
    draw_steps,
    every_step,
    known_frames,
    opening_of,
    slid_prompts,
    steps_of_chunk,
)
from causvid_cli.train.losses import weighted_mean, x0_regression
from causvid_cli.train.ode import PAIRS_PER_CLIP, OdePairs
from causvid_cli.train.parallel import my_share, my_weight
from causvid_cli.train.prepare import Prompted
from causvid_cli.train.teacher_stage import standard_normal
from causvid_cli.train.trainer import StageSetting, Trainer


def train_student(
    folder: Path, denoiser: Denoiser, regression: "Regression", plan: Optimisation, setting: StageSetting
) -> Trainer:
    """Train by few-step regression, and return the trainer."""
    trainer = Trainer(folder, denoiser, plan, setting)
    trainer.run(lambda step, rng: regression(rng))
    return trainer


class Regression:
    """The loss of few-step regression: on ODE pairs and, in a world that can be foretold, along the own roll-out."""

    def __init__(
        self,
        denoiser: Denoiser,
        clips: LatentClips | Prompted,
        pairs: "OdePairs | None",
        facts: RolloutFacts,
        *,
        batch: int,
        device: torch.device,
        supervise_rollout: bool = True,
        first_chunks: bool = False,
        opening: Denoiser | None = None,
        blends: float = 0.0,
    ) -> None:
        if supervise_rollout and not isinstance(clips, LatentClips):
            raise UsageError("ode.supervise_rollout: needs clips, and there are only prompts")
        self.denoiser, self.clips, self.pairs, self.facts = denoiser, clips, pairs, facts
        self.batch, self.device, self.supervise_rollout, self.blends = batch, device, supervise_rollout, blends
        self.first_chunks, self.opening = first_chunks, opening
        self.levels = torch.tensor([step.sigma for step in every_step(facts)], device=device)
        self.timesteps = torch.tensor([step.timestep for step in every_step(facts)], device=device)

    def __call__(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the named losses of one step; "loss" is their sum."""
        losses = self.along_rollout(rng) if self.supervise_rollout else {}
        if self.pairs is not None:
            losses["pairs"] = self.on_pairs(rng, self.pairs)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def along_rollout(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the losses of later chunks: the student sees its own past (self-forcing), and learns the true clip.

        With `first_chunks` those count as well, and the past begins with one of its own. With `opening` it begins with
        one of that network's, where the prompt tells a clip from the beginning.
        """
        assert isinstance(self.clips, LatentClips)
        kind = self.clips.random_first_predictable_frame(rng)
        batch = self.clips.batch(
            rng, self.batch, device=self.device, sprite_weight=SPRITE_CELL_WEIGHT, first_predictable_frames=[kind]
        )
        first = kind % self.facts.chunk_frames
        network, layout = self.denoiser.network, Layout.of(batch.x0.shape[2], self.facts, first_frames=first)
        weight = batch.weight * known_frames(batch)
        if not self.first_chunks:
            weight[:, :, : layout.chunks[0].frames] = 0  # what the first chunk should be, its noise does not tell
        others = my_share(batch.rows.roll(1, 0))
        weight, batch = my_weight(weight), my_share(batch)
        chunks = len(layout.chunks)
        own = int(rng.integers(0 if self.first_chunks else 1, 1 + max(1, chunks // 2)))
        given = -(-kind // self.facts.chunk_frames) if kind else 0 if self.opening else own
        past = own_past(self.denoiser, batch, layout, self.facts, given=given, opening=self.opening, rng=rng)
        pick = draw_steps(rng, len(batch.x0), layout, self.facts).to(self.device)
        x_t = add_noise(batch.x0, standard_normal(rng, batch.x0), self.levels[pick])
        drawn = copied_from(self.denoiser, self.opening, batch, self.facts)
        known = batch.first_predictable_frame
        noisy, x_t = x_t, layout.begun(network, x_t, past, known, drawn)
        prompt = slid_prompts(self.denoiser, batch.rows, others, rng, share=self.blends)
        fed = input_of(network.prediction, x_t)
        output = network.forward_whole(fed, self.timesteps[pick], prompt, mask=layout.mask, clean=past)
        losses = {"later": x0_regression(network.prediction, x_t, output, batch.x0, self.levels[pick], weight)}
        if network.prediction == "copies":
            # What would be right after the true past: after one that frays, what is nearest to the truth is to give up.
            there = layout.begun(network, noisy, batch.x0, known, drawn)
            losses["choices"] = weighted_mean(wrong_choices(there, output, batch.x0, own=x_t), weight)
        return losses

    def on_pairs(self, rng: np.random.Generator, pairs: "OdePairs") -> Tensor:
        """Return the loss of regression on ODE pairs (CausVid 3.3)."""
        network = self.denoiser.network
        layout = Layout.of(pairs.latent_frames, self.facts)
        one_chunk = len(layout.chunks) == 1
        count = PAIRS_PER_CLIP * self.batch if one_chunk else self.batch
        x_t, x0, rows, pick = pairs.batch(rng, count, layout, self.facts, device=self.device)
        mask, clean = (None, None) if one_chunk else (layout.mask, x0)
        prompt = self.denoiser.prompt(rows)
        output = network.forward_whole(x_t, self.timesteps[pick], prompt, mask=mask, clean=clean)
        return x0_regression(network.prediction, x_t, output, x0, self.levels[pick])


@torch.no_grad()
def own_past(
    denoiser: Denoiser,
    batch: Batch,
    layout: Layout,
    facts: RolloutFacts,
    *,
    given: int,
    opening: Denoiser | None = None,
    rng: np.random.Generator,
) -> Tensor:
    """Return the clips x0 [B, C, F, h, w] as the student itself continues them after `given` true chunks.

    opening: what makes their first chunk, where none is given and it is not the student, and draws what can be copied.
    """
    x0, prompt = batch.x0, denoiser.prompt(batch.rows)
    if opening and denoiser.network.prediction == "copies":
        prompt.opening, prompt.scene = opening.opening_prompt(batch.rows), opening.scene_prompt(batch.rows)
    elif opening:
        prompt.opening = opening.prompt(batch.rows)
    prefix = [(chunk, x0[:, :, chunk.start_frame : chunk.end_frame]) for chunk in layout.chunks[:given]]
    made = rollout(
        denoiser.network,
        prompt=lambda _: prompt,
        steps=partial(steps_of_chunk, facts),
        cache=cache_for(denoiser.network, x0, facts),
        opening=opening_of(opening, x0, facts) if opening else None,
        chunks=layout.chunks[given:],
        noise=lambda chunk, _: standard_normal(rng, x0[:, :, chunk.start_frame : chunk.end_frame]),
        prefix=prefix,
    )
    return torch.cat([part for _, part in [*prefix, *made]], dim=2)
