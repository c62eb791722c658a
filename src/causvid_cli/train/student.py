"""Stages `causal` and `student`: from the teacher's weights to a few steps per chunk on the student's own past.

`causal`: teacher forcing. Every chunk of a clip is denoised at a noise level of its own and sees earlier *clean*
chunks, under the block-causal mask.
`student`: the few steps. The first chunk learns from the many-step solutions of the causal network's guided ODE
(CausVid 3.3: regression on ODE pairs); later chunks learn on the student's own roll-out (self-forcing, arXiv
2506.08009), where what should come next is known because the world is.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from causvid_cli.geometry import take_chunks
from causvid_cli.model import frame_mask, teacher_forcing_mask
from causvid_cli.rollout import rollout
from causvid_cli.sampler import solve_ode
from causvid_cli.schedule import Step, add_noise, sampler_sigmas
from causvid_cli.train.config import Optimisation
from causvid_cli.train.latents import Batch, LatentClips
from causvid_cli.train.losses import flow_matching, sample_sigma, x0_regression
from causvid_cli.train.network import Denoiser
from causvid_cli.train.teacher import DROP_PROMPT, SPRITE_WEIGHT, standard_normal
from causvid_cli.train.trainer import Report, Trainer

PAIRS_PER_CLIP = 6
"""First chunks of one step for each of its clips: they are short, and the many ways to begin are the hard part."""
CONTEXT_NOISE = 0.15
"""Largest noise level of the clean context in training: the student must forgive its own small errors."""


def train_causal(
    folder: Path,
    denoiser: Denoiser,
    clips: LatentClips,
    plan: Optimisation,
    *,
    chunk_frames: int,
    window_frames: int,
    shift: float,
    device: torch.device,
    seed: int = 0,
    report: Report | None = None,
) -> Trainer:
    """Teacher forcing by flow matching, from whatever weights the denoiser holds; returns the trainer."""
    latent_frames = clips.x0.shape[2]
    layout = [chunk.frames for chunk in take_chunks(latent_frames, chunk_frames)]
    mask = teacher_forcing_mask(layout, window_frames=window_frames)

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        batch = clips.batch(rng, plan.batch, device=device, sprite_weight=SPRITE_WEIGHT)
        uniform = torch.from_numpy(rng.random((plan.batch, len(layout)), dtype=np.float32))
        per_chunk = sample_sigma(uniform, shift=shift).to(device)
        sigma = per_chunk.repeat_interleave(torch.tensor(layout, device=device), dim=1)  # [B, F]
        noise = standard_normal(rng, batch.x0)
        x_t = add_noise(batch.x0, noise, sigma)
        clean = noisy_context(batch.x0, rng)
        dropped = denoiser.drop_prompts(batch.rows, torch.from_numpy(rng.random(plan.batch)), rate=DROP_PROMPT)
        network = denoiser.network
        output = network.forward_whole(x_t, 1000 * sigma, denoiser.prompt(dropped), mask=mask, clean=clean)
        weight = batch.weight * known_frames(batch)
        return {"loss": flow_matching(network.prediction, x_t, output, batch.x0, noise, sigma, weight)}

    trainer = Trainer(folder, denoiser, plan, seed=seed, report=report)
    trainer.run(loss)
    return trainer


def train_student(
    folder: Path,
    denoiser: Denoiser,
    clips: LatentClips,
    plan: Optimisation,
    *,
    steps: Sequence[Step],
    pairs: "OdePairs",
    chunk_frames: int,
    window_frames: int,
    device: torch.device,
    seed: int = 0,
    report: Report | None = None,
) -> Trainer:
    """Few-step regression: first chunks on ODE pairs, later ones on the student's own roll-out."""
    latent_frames = clips.x0.shape[2]
    layout = [chunk.frames for chunk in take_chunks(latent_frames, chunk_frames)]
    mask = teacher_forcing_mask(layout, window_frames=window_frames)
    levels = torch.tensor([step.sigma for step in steps], device=device)
    timesteps = torch.tensor([step.timestep for step in steps], device=device)
    network = denoiser.network

    def later_chunks(batch: Batch, rng: np.random.Generator) -> Tensor:
        known_from = int(batch.known_from[0])
        given = known_from // chunk_frames if known_from else int(rng.integers(1, 1 + len(layout) // 2))
        past = own_past(
            denoiser, batch, steps, given=given, chunk_frames=chunk_frames, window_frames=window_frames, rng=rng
        )
        pick = torch.from_numpy(rng.integers(len(steps), size=(len(batch.x0), len(layout)))).to(device)
        pick = pick.repeat_interleave(torch.tensor(layout, device=device), dim=1)  # [B, F]
        x_t = add_noise(batch.x0, standard_normal(rng, batch.x0), levels[pick])
        output = network.forward_whole(x_t, timesteps[pick], denoiser.prompt(batch.rows), mask=mask, clean=past)
        weight = batch.weight * known_frames(batch)
        weight[:, :, :chunk_frames] = 0  # what the first chunk should be, its noise does not tell
        return x0_regression(network.prediction, x_t, output, batch.x0, levels[pick], weight)

    def first_chunk(rng: np.random.Generator) -> Tensor:
        x_t, x0, rows, pick = pairs.batch(rng, PAIRS_PER_CLIP * plan.batch, device=device)
        output = network.forward_whole(x_t, timesteps[pick], denoiser.prompt(rows))
        return x0_regression(network.prediction, x_t, output, x0, levels[pick])

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        kind = int(clips.known_from[rng.integers(len(clips))])
        batch = clips.batch(rng, plan.batch, device=device, sprite_weight=SPRITE_WEIGHT, known_from=kind)
        later, first = later_chunks(batch, rng), first_chunk(rng)
        return {"loss": later + first, "later": later, "first": first}

    trainer = Trainer(folder, denoiser, plan, seed=seed, report=report)
    trainer.run(loss)
    return trainer


def known_frames(batch: Batch) -> Tensor:
    """1 where what comes next can be foretold, else 0, [B, 1, F, 1, 1]."""
    known = torch.arange(batch.x0.shape[2], device=batch.x0.device) >= batch.known_from[:, None]
    return known.float()[:, None, :, None, None]


def noisy_context(x0: Tensor, rng: np.random.Generator) -> Tensor:
    """Clean latents with a little noise, another level for each clip."""
    level = torch.from_numpy(rng.random(len(x0), dtype=np.float32) * CONTEXT_NOISE).to(x0.device)
    return add_noise(x0, standard_normal(rng, x0), level)


@torch.no_grad()
def own_past(
    denoiser: Denoiser,
    batch: Batch,
    steps: Sequence[Step],
    *,
    given: int,
    chunk_frames: int,
    window_frames: int,
    rng: np.random.Generator,
) -> Tensor:
    """The clips x0 [B, C, F, h, w] as the student itself continues them after `given` true chunks."""
    network, x0 = denoiser.network, batch.x0
    layout = list(take_chunks(x0.shape[2], chunk_frames))
    cache = network.kv_cache(
        latent_height=x0.shape[3], latent_width=x0.shape[4], window_frames=window_frames, batch=len(x0)
    )
    prompt = denoiser.prompt(batch.rows)
    prefix = [(chunk, x0[:, :, chunk.start_frame : chunk.end_frame]) for chunk in layout[:given]]
    made = rollout(
        network,
        prompt=lambda _: prompt,
        steps=steps,
        cache=cache,
        chunks=layout[given:],
        noise=lambda chunk, _: standard_normal(rng, x0[:, :, chunk.start_frame : chunk.end_frame]),
        prefix=prefix,
    )
    return torch.cat([part for _, part in [*prefix, *made]], dim=2)


class OdePairs:
    """Points on the causal network's guided ODE solutions for first chunks.

    points: float16 [N, S + 1, C, f, h, w]: x_t at each of the student's noise levels, then x0. rows: [N, 5].
    """

    def __init__(self, path: Path) -> None:
        tensors = load_file(path)
        self.points, self.rows = tensors["points"], tensors["rows"]

    def batch(
        self, rng: np.random.Generator, count: int, *, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random (x_t, x0, rows, which step [B])."""
        pick = torch.from_numpy(rng.integers(len(self.points), size=count))
        step = torch.from_numpy(rng.integers(self.points.shape[1] - 1, size=count))
        points = self.points[pick].float()
        x_t = points[torch.arange(count), step]
        return x_t.to(device), points[:, -1].to(device), self.rows[pick], step.to(device)


@torch.no_grad()
def make_ode_pairs(
    path: Path,
    denoiser: Denoiser,
    clips: LatentClips,
    *,
    count: int,
    steps: Sequence[Step],
    chunk_frames: int,
    guidance: float,
    ode_steps: int,
    shift: float,
    device: torch.device,
    seed: int = 0,
    batch: int = 64,
    report: Report | None = None,
) -> OdePairs:
    """Solve the ODE of first chunks from the denoiser's weights and keep the points at the student's noise levels."""
    if path.exists():
        return OdePairs(path)
    network = copy.deepcopy(denoiser.network).eval()
    layout = [chunk_frames]
    mask = frame_mask(layout)
    sigmas = sorted({*sampler_sigmas(ode_steps, shift=shift), *(step.sigma for step in steps)}, reverse=True)
    wanted = [sigmas.index(step.sigma) for step in steps] + [len(sigmas) - 1]
    points, rows = [], []
    for start in range(0, count, batch):
        rng = np.random.default_rng((seed, start))
        clip = clips.batch(rng, batch, device=device, sprite_weight=1.0, known_from=0)
        noise = standard_normal(rng, clip.x0[:, :, :chunk_frames])
        solution = solve_ode(
            lambda x_t, timestep, prompt: network.forward_whole(x_t, timestep, prompt, mask=mask),
            network.prediction,
            noise,
            sigmas,
            denoiser.prompt(clip.rows),
            empty=denoiser.prompt(denoiser.text.empty_rows(batch)),
            guidance=guidance,
        )
        path_points = [x_t for _, x_t in solution]
        points.append(torch.stack([path_points[place] for place in wanted], dim=1).half().cpu())
        rows.append(clip.rows)
        if report:
            report({"step": start // batch + 1, "pairs": start + batch})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"points": torch.cat(points), "rows": torch.cat(rows)}, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)
    return OdePairs(path)
