"""Stage `dmd`: asymmetric distribution matching (CausVid 3.2, arXiv 2412.07772; DMD2, arXiv 2405.14867).

The student makes clips; noise is added; teacher and critic both say what they take for clean. The teacher knows true
clips, the critic, which is trained beside, the student's: where they differ, the student moves to the teacher's side.
Teacher and critic are bidirectional, the student is causal.

Student clips are its own roll-outs through the KV cache (self-forcing, arXiv 2506.08009), or one-step answers to noised
true clips (CausVid's first form). A roll-out stops at a random one of its few steps; only this last step of each chunk
carries a gradient, and none flows through the cache. Of small clips all the chunks' last steps are computed in one
pass under the teacher-forcing mask, where the clean frames are the student's own: the same numbers, in far fewer calls.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from causvid_cli.network.masks import frame_mask
from causvid_cli.sampling.context import commit_chunk
from causvid_cli.sampling.rollout import denoise_steps
from causvid_cli.sampling.schedule import Step, add_noise, cfg, x0_from
from causvid_cli.train.config import DmdConfig, Optimisation, RolloutFacts
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.layout import Layout, cache_for, draw_steps, every_step, few_steps, first_steps, steps_of_chunk
from causvid_cli.train.losses import distribution_matching, dmd_gradient, flow_matching, sample_sigma
from causvid_cli.train.parallel import my_draw, my_share, shard
from causvid_cli.train.prepare import Prompted
from causvid_cli.train.student import Regression
from causvid_cli.train.teacher_stage import standard_normal
from causvid_cli.train.trainer import StageSetting, Trainer

MOST_AT_ONCE = 4096
"""Tokens of a clip up to which its last steps are computed in one pass."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Where a roll-out stopped: what the last step of each chunk was given, and what came of it.

    timestep, sigma: of the last steps, a number or, where chunks stopped at others, one per frame [1, F].
    x_t, x0: [B, C, F, h, w].
    """

    timestep: float | Tensor
    sigma: float | Tensor
    x_t: Tensor
    x0: Tensor


def self_rollout(
    student: Denoiser,
    rows: Tensor,
    like: Tensor,
    facts: RolloutFacts,
    *,
    exit_step: int,
    first_exit: int | None = None,
    rng: np.random.Generator,
    learn: bool = False,
) -> Exit:
    """Return clips of the shape of `like` [B, C, F, h, w] as the student makes them in its first `exit_step` + 1 steps.

    first_exit: the same for the first chunk; by default as many steps before its last one as for the others.
    learn: with the gradient of each chunk's last step; else, or where gradients are off, without any.
    """
    network, layout = student.network, Layout.of(like.shape[2], facts)
    if first_exit is None:
        first_exit = len(first_steps(facts)) - len(few_steps(facts)) + exit_step
    ends: list[Step] = []
    with torch.no_grad():
        prompt = student.prompt(rows)
    cache = cache_for(network, like, facts)
    noisy, clean = [], []
    for chunk in layout.chunks:
        steps = steps_of_chunk(facts, chunk)[: (exit_step if chunk.index else first_exit) + 1]
        ends.append(steps[-1])
        shape = like[:, :, chunk.start_frame : chunk.end_frame]
        with torch.no_grad():
            made = denoise_steps(network, chunk, prompt, steps, cache, lambda *_, s=shape: standard_normal(rng, s))
            *_, (x_t, x0) = made
        seen = x0
        if learn:
            past = cache.snapshot()  # gradient checkpointing looks again, when the cache has gone on
            output = network(x_t, steps[-1].timestep, student.prompt(rows), cache=past, chunk=chunk, update_cache=False)
            x0 = x0_from(network.prediction, x_t, output, steps[-1].sigma)
        with torch.no_grad():
            commit_chunk(network, chunk, seen, prompt, cache)
        noisy.append(x_t)
        clean.append(x0)
    timestep: float | Tensor = ends[0].timestep
    sigma: float | Tensor = ends[0].sigma
    if len(set(ends)) > 1:
        timestep = layout.per_frame(torch.tensor([[step.timestep for step in ends]])).to(like.device)
        sigma = layout.per_frame(torch.tensor([[step.sigma for step in ends]])).to(like.device)
    return Exit(timestep, sigma, torch.cat(noisy, dim=2), torch.cat(clean, dim=2))


def last_steps(student: Denoiser, rows: Tensor, end: Exit, facts: RolloutFacts) -> Tensor:
    """Return `end.x0` once more, in one pass, with the gradient of each chunk's last step and none through its past.

    The same as `self_rollout` with `learn`: far fewer calls, but a mask over twice the clip's tokens.
    """
    network, mask = student.network, Layout.of(end.x0.shape[2], facts).mask
    prompt = student.prompt(rows)
    output = network.forward_whole(end.x_t, end.timestep, prompt, mask=mask, clean=end.x0, detach_clean=True)
    return x0_from(network.prediction, end.x_t, output, end.sigma)


def noised_clips(
    student: Denoiser, rows: Tensor, x0: Tensor, facts: RolloutFacts, *, rng: np.random.Generator
) -> Tensor:
    """Return the student's one-step answer [B, C, F, h, w] to true clips, each chunk at a noise level of its own.

    Diffusion forcing (arXiv 2407.01392): a chunk sees earlier chunks as noisy as they are.
    """
    network, steps = student.network, every_step(facts)
    layout = Layout.of(x0.shape[2], facts)
    pick = draw_steps(rng, len(x0), layout, facts)
    sigma = torch.tensor([step.sigma for step in steps])[pick].to(x0.device)
    timestep = torch.tensor([step.timestep for step in steps])[pick].to(x0.device)
    x_t = add_noise(x0, standard_normal(rng, x0), sigma)
    mask = frame_mask([chunk.frames for chunk in layout.chunks], window_frames=facts.window_frames)
    return x0_from(
        network.prediction, x_t, network.forward_whole(x_t, timestep, student.prompt(rows), mask=mask), sigma
    )


@torch.no_grad()
def real_x0(
    teacher: Denoiser,
    x_t: Tensor,
    sigma: Tensor,
    rows: Tensor,
    *,
    guidance: float,
    mask: Tensor | None = None,
    clean: Tensor | None = None,
) -> Tensor:
    """Return what the teacher takes for clean [B, C, F, h, w], with classifier-free guidance.

    x_t: [B, C, F, h, w]; sigma: [B]. mask, clean: for a causal teacher (`forward_whole`).
    """
    network = teacher.network
    both = torch.cat([rows, teacher.text.empty_rows(len(rows)).to(rows.device)])
    pair, levels = torch.cat([x_t, x_t]), torch.cat([sigma, sigma])
    seen = None if clean is None else torch.cat([clean, clean])
    output = network.forward_whole(pair, 1000 * levels, teacher.prompt(both), mask=mask, clean=seen)
    told, untold = x0_from(network.prediction, pair, output, levels).chunk(2)
    return cfg(told, untold, guidance)


@dataclass(frozen=True, slots=True)
class Matching:
    """The losses of student and critic, which take turns."""

    student: Denoiser
    critic: Denoiser
    teacher: Denoiser
    clips: LatentClips | Prompted
    facts: RolloutFacts
    plan: DmdConfig
    batch: int
    shift: float
    device: torch.device
    regression: Regression | None = None

    def __call__(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Give {"student": loss} once in `critic_updates` + 1 steps, else {"critic": loss}, and what is worth a log."""
        turn = step % (self.plan.critic_updates + 1) == self.plan.critic_updates
        return self.student_loss(rng) if turn else self.critic_loss(rng)

    def critic_loss(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the critic's loss: flow matching on what the student makes now."""
        with torch.no_grad():
            rows, x0 = self.sample(rng)
        sigma, noise = self.noise(x0, rng)
        x_t, network = add_noise(x0, noise, sigma), self.critic.network
        output = network.forward_whole(x_t, 1000 * sigma, self.critic.prompt(rows))
        return {"critic": flow_matching(network.prediction, x_t, output, x0, noise, sigma)}

    def student_loss(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the losses of distribution matching, and of the regression beside it where the plan has one."""
        rows, x0 = self.sample(rng)
        sigma, noise = self.noise(x0, rng)
        with torch.no_grad():
            x_t, critic = add_noise(x0, noise, sigma), self.critic.network
            mask, clean = self.past(x0)
            real = real_x0(self.teacher, x_t, sigma, rows, guidance=self.plan.guidance, mask=mask, clean=clean)
            output = critic.forward_whole(x_t, 1000 * sigma, self.critic.prompt(rows))
            fake = x0_from(critic.prediction, x_t, output, sigma)
        matching = distribution_matching(x0, dmd_gradient(x0, real, fake))
        losses = {"matching": matching, "apart": (fake - real).abs().mean()}
        if self.regression is None:
            return {"student": matching, **losses}
        beside = self.regression(rng)["loss"]
        return {"student": matching + self.plan.regression * beside, "regression": beside, **losses}

    def sample(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Prompts [B, L] and the student's clips x0 [B, C, F, h, w] of them, with the gradient of the last steps."""
        short = self.clips.latent_frames
        batch = my_share(
            self.clips.batch(
                rng, self.batch, device=self.device, sprite_weight=1.0, first_predictable_frames=[0], longest=short
            )
        )
        if self.plan.forcing == "diffusion":
            return batch.rows, noised_clips(self.student, batch.rows, batch.x0, self.facts, rng=rng)
        rows, like = batch.rows, batch.x0
        if self.plan.long_latent_frames and rng.random() < self.plan.long_share:
            frames = self.plan.long_latent_frames
            rows = rows[: max(1, len(rows) * short // frames)]
            like = like.new_empty(len(rows), like.shape[1], frames, *like.shape[3:])
        exit_step = int(rng.integers(len(few_steps(self.facts))))
        first_exit = int(rng.integers(len(first_steps(self.facts)))) if self.facts.first_steps else exit_step
        grad = torch.is_grad_enabled()
        large = self.student.network.tokens(like) > MOST_AT_ONCE
        end = self_rollout(
            self.student,
            rows,
            like,
            self.facts,
            exit_step=exit_step,
            first_exit=first_exit,
            rng=rng,
            learn=grad and large,
        )
        return rows, last_steps(self.student, rows, end, self.facts) if grad and not large else end.x0

    def noise(self, x0: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return noise levels [B] at which the scores are compared, and noise [B, C, F, h, w]."""
        sigma = sample_sigma(my_draw(rng.random, len(x0)).float(), shift=self.shift)
        return sigma.clamp(self.plan.min_sigma, self.plan.max_sigma).to(x0.device), standard_normal(rng, x0)

    def past(self, x0: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The mask and the student's own clean frames that a causal teacher sees besides; (None, None) for another."""
        if self.plan.real_score == "teacher":
            return None, None
        return Layout.of(x0.shape[2], self.facts).mask, x0.detach()


def train_dmd(folder: Path, matching: Matching, plan: Optimisation, setting: StageSetting) -> Trainer:
    """Train student and critic in turns. The result is in the returned trainer: averaged weights of part "student"."""
    parts = {"student": plan, "critic": replace(plan, lr=matching.plan.critic_lr, ema=0.0)}
    matching.teacher.requires_grad_(False)
    if setting.compute.shard:
        shard(matching.teacher, setting.device)
    module = nn.ModuleDict({"student": matching.student, "critic": matching.critic})
    trainer = Trainer(folder, module, plan, setting, parts=parts)
    trainer.run(matching)
    return trainer
