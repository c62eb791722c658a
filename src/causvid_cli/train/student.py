"""Stages `causal` and `student`: from the teacher's weights to a few steps per chunk on the student's own past.

`causal`: teacher forcing. Every chunk of a clip is denoised at a noise level of its own and sees earlier *clean*
chunks, under the block-causal mask.
`student`: the few steps. The first chunk learns from the many-step solutions of the causal network's guided ODE
(CausVid 3.3: regression on ODE pairs); later chunks learn on the student's own roll-out (self-forcing, arXiv
2506.08009), where what should come next is known because the world is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.device import training_arithmetic
from causvid_cli.errors import UsageError
from causvid_cli.geometry import Chunk, take_chunks
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.masks import teacher_forcing_mask
from causvid_cli.network.model import CausalTransformer
from causvid_cli.sampling.ode import solve_ode
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import Step, add_noise, sampler_sigmas, steps_of
from causvid_cli.train.config import OdeConfig, Optimisation, RolloutFacts
from causvid_cli.train.latents import Batch, Joined, LatentClips
from causvid_cli.train.losses import flow_matching, sample_sigma, x0_regression
from causvid_cli.train.network import Denoiser
from causvid_cli.train.parallel import mean, my_draw, my_share, my_weight, shares
from causvid_cli.train.prompted import Prompted
from causvid_cli.train.shards import load_shard, save_shard
from causvid_cli.train.teacher import DROP_PROMPT, SPRITE_WEIGHT, standard_normal
from causvid_cli.train.trainer import Setting, Trainer

PAIRS_PER_CLIP = 6
"""First chunks of one step for each of its clips: they are short, and the many ways to begin are the hard part."""
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
    setting: Setting,
    blends: float = 0.0,
) -> Trainer:
    """Teacher forcing by flow matching, from whatever weights the denoiser holds; returns the trainer.

    blends: share of prompts that are slid towards another (`slid_prompts`).
    """
    device, kinds = setting.device, clips.every_known_from.unique().tolist()

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        first = clips.some_known_from(rng) % facts.chunk_frames
        alike = [known_from for known_from in kinds if known_from % facts.chunk_frames == first]
        batch = clips.batch(rng, plan.batch, device=device, sprite_weight=SPRITE_WEIGHT, known_from=alike)
        others = my_share(batch.rows.roll(1, 0))
        weight, batch = my_weight(batch.weight * known_frames(batch)), my_share(batch)
        count, _, frames = batch.x0.shape[:3]
        layout = Layout.of(frames, facts, first_frames=first)
        uniform = my_draw(rng.random, count, len(layout.chunks)).float()
        sigma = layout.per_frame(sample_sigma(uniform, shift=shift).to(device))
        noise = standard_normal(rng, batch.x0)
        x_t = add_noise(batch.x0, noise, sigma)
        clean = noisy_context(batch.x0, rng)
        dropped = denoiser.drop_prompts(batch.rows, my_draw(rng.random, count), rate=DROP_PROMPT)
        network = denoiser.network
        prompt = slid_prompts(denoiser, dropped, others, rng, share=blends)
        output = network.forward_whole(x_t, 1000 * sigma, prompt, mask=layout.mask, clean=clean)
        return {"loss": flow_matching(network.prediction, x_t, output, batch.x0, noise, sigma, weight)}

    trainer = Trainer(folder, denoiser, plan, setting)
    trainer.run(loss)
    return trainer


def train_student(
    folder: Path, denoiser: Denoiser, regression: "Regression", plan: Optimisation, setting: Setting
) -> Trainer:
    """Few-step regression."""
    trainer = Trainer(folder, denoiser, plan, setting)
    trainer.run(lambda step, rng: regression(rng))
    return trainer


@lru_cache
def few_steps(facts: RolloutFacts) -> tuple[Step, ...]:
    """The student's steps."""
    return steps_of(facts.steps, shift=facts.shift, warped=facts.warp_steps)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a clip is cut into chunks, and what a noisy chunk sees of clean ones (`teacher_forcing_mask`)."""

    chunks: tuple[Chunk, ...]
    mask: Tensor

    @classmethod
    @lru_cache
    def of(cls, frames: int, facts: RolloutFacts, *, first_frames: int = 0) -> "Layout":
        """first_frames: of a first chunk that is shorter, as given frames may be; the last is then shorter too."""
        chunks = tuple(take_chunks(frames, facts.chunk_frames, first_frames=first_frames or None))
        last = chunks[-1]
        if last.end_frame != frames and not first_frames:
            raise UsageError(
                f"rollout.chunk_frames {facts.chunk_frames} does not divide clips of {frames} latent frames"
            )
        chunks = (*chunks[:-1], replace(last, frames=frames - last.start_frame))
        sizes = [chunk.frames for chunk in chunks]
        return cls(chunks, teacher_forcing_mask(sizes, window_frames=facts.window_frames))

    def per_frame(self, per_chunk: Tensor) -> Tensor:
        """[B, chunks] -> [B, F]."""
        sizes = torch.tensor([chunk.frames for chunk in self.chunks], device=per_chunk.device)
        return per_chunk.repeat_interleave(sizes, dim=1)


class Regression:
    """The loss of few-step regression: on ODE pairs and, in a world that can be foretold, along the own roll-out."""

    def __init__(
        self,
        denoiser: Denoiser,
        clips: LatentClips | Prompted,
        pairs: "OdePairs",
        facts: RolloutFacts,
        *,
        batch: int,
        device: torch.device,
        foretell: bool = True,
        blends: float = 0.0,
    ) -> None:
        if foretell and not isinstance(clips, LatentClips):
            raise UsageError("ode.foretell: needs clips, and there are only prompts")
        self.denoiser, self.clips, self.pairs, self.facts = denoiser, clips, pairs, facts
        self.batch, self.device, self.foretell, self.blends = batch, device, foretell, blends
        self.steps = few_steps(facts)
        self.levels = torch.tensor([step.sigma for step in self.steps], device=device)
        self.timesteps = torch.tensor([step.timestep for step in self.steps], device=device)

    def __call__(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """The named losses of one step; "loss" is their sum."""
        losses = {"later": self.along_rollout(rng)} if self.foretell else {}
        losses["pairs"] = self.on_pairs(rng)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def along_rollout(self, rng: np.random.Generator) -> Tensor:
        """Later chunks: the student sees its own past (self-forcing) and learns what comes next in truth."""
        assert isinstance(self.clips, LatentClips)
        kind = self.clips.some_known_from(rng)
        batch = self.clips.batch(rng, self.batch, device=self.device, sprite_weight=SPRITE_WEIGHT, known_from=[kind])
        first = kind % self.facts.chunk_frames
        network, layout = self.denoiser.network, Layout.of(batch.x0.shape[2], self.facts, first_frames=first)
        weight = batch.weight * known_frames(batch)
        weight[:, :, : layout.chunks[0].frames] = 0  # what the first chunk should be, its noise does not tell
        others = my_share(batch.rows.roll(1, 0))
        weight, batch = my_weight(weight), my_share(batch)
        chunks = len(layout.chunks)
        given = -(-kind // self.facts.chunk_frames) if kind else int(rng.integers(1, 1 + max(1, chunks // 2)))
        past = own_past(self.denoiser, batch, layout, self.facts, given=given, rng=rng)
        pick = layout.per_frame(my_draw(partial(rng.integers, len(self.steps)), len(batch.x0), chunks))
        pick = pick.to(self.device)
        x_t = add_noise(batch.x0, standard_normal(rng, batch.x0), self.levels[pick])
        prompt = slid_prompts(self.denoiser, batch.rows, others, rng, share=self.blends)
        output = network.forward_whole(x_t, self.timesteps[pick], prompt, mask=layout.mask, clean=past)
        return x0_regression(network.prediction, x_t, output, batch.x0, self.levels[pick], weight)

    def on_pairs(self, rng: np.random.Generator) -> Tensor:
        network = self.denoiser.network
        layout = Layout.of(self.pairs.latent_frames, self.facts)
        one_chunk = len(layout.chunks) == 1
        count = PAIRS_PER_CLIP * self.batch if one_chunk else self.batch
        x_t, x0, rows, pick = self.pairs.batch(rng, count, layout, device=self.device)
        mask, clean = (None, None) if one_chunk else (layout.mask, x0)
        prompt = self.denoiser.prompt(rows)
        output = network.forward_whole(x_t, self.timesteps[pick], prompt, mask=mask, clean=clean)
        return x0_regression(network.prediction, x_t, output, x0, self.levels[pick])


def slid_prompts(
    denoiser: Denoiser, rows: Tensor, others: Tensor, rng: np.random.Generator, *, share: float
) -> PromptCache:
    """Prompts of rows [B, L], a share of them slid up to halfway to those of others [B, L]."""
    if not share:
        return denoiser.prompt(rows)
    chosen = my_draw(rng.random, len(rows)) < share
    return denoiser.blended_prompt(rows, others, 0.5 * my_draw(rng.random, len(rows)) * chosen)


def known_frames(batch: Batch) -> Tensor:
    """1 where what comes next can be foretold, else 0, [B, 1, F, 1, 1]."""
    known = torch.arange(batch.x0.shape[2], device=batch.x0.device) >= batch.known_from[:, None]
    return known.float()[:, None, :, None, None]


def noisy_context(x0: Tensor, rng: np.random.Generator) -> Tensor:
    """Clean latents with a little noise, another level for each clip."""
    level = CONTEXT_NOISE * my_draw(rng.random, len(x0)).float().to(x0.device)
    return add_noise(x0, standard_normal(rng, x0), level)


@torch.no_grad()
def own_past(
    denoiser: Denoiser,
    batch: Batch,
    layout: Layout,
    facts: RolloutFacts,
    *,
    given: int,
    rng: np.random.Generator,
) -> Tensor:
    """The clips x0 [B, C, F, h, w] as the student itself continues them after `given` true chunks."""
    x0, prompt = batch.x0, denoiser.prompt(batch.rows)
    prefix = [(chunk, x0[:, :, chunk.start_frame : chunk.end_frame]) for chunk in layout.chunks[:given]]
    made = rollout(
        denoiser.network,
        prompt=lambda _: prompt,
        steps=few_steps(facts),
        cache=cache_for(denoiser.network, x0, facts),
        chunks=layout.chunks[given:],
        noise=lambda chunk, _: standard_normal(rng, x0[:, :, chunk.start_frame : chunk.end_frame]),
        prefix=prefix,
    )
    return torch.cat([part for _, part in [*prefix, *made]], dim=2)


def cache_for(network: CausalTransformer, clips: Tensor, facts: RolloutFacts) -> KVCache:
    """An empty cache for a roll-out like clips [B, C, F, h, w]."""
    batch, _, _, height, width = clips.shape
    return network.kv_cache(latent_height=height, latent_width=width, window_frames=facts.window_frames, batch=batch)


class OdePairs:
    """Points on guided ODE solutions: of first chunks by the causal network, or of whole clips by the teacher.

    points: float16 [N, S + 1, C, F, h, w]: x_t at each of the student's noise levels, then x0. rows: [N, L].
    path: what `pairs_shard` numbers. Points stay in their files until they are taken.
    """

    def __init__(self, path: Path) -> None:
        shards = [load_shard(file) for file in sorted(path.parent.glob(f"{path.stem}*{path.suffix}"))]
        if not shards:
            raise UsageError(f"{path.parent} holds no pairs; run stage ode first")
        self.points = Joined([shard["points"] for shard in shards])
        self.rows = torch.cat([shard["rows"] for shard in shards])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latent_frames(self) -> int:
        return self.points.shape[3]

    def batch(
        self, rng: np.random.Generator, count: int, layout: Layout, *, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random (x_t, x0, rows, which step each frame stands at [B, F]): this process's share of `count`."""
        pick = my_share(torch.from_numpy(rng.integers(len(self), size=count)))
        levels = self.points.shape[1] - 1
        step = layout.per_frame(my_share(torch.from_numpy(rng.integers(levels, size=(count, len(layout.chunks))))))
        points = self.points[pick].float().movedim(3, 1)  # [B, F, S + 1, C, h, w]
        x_t = points[torch.arange(len(pick))[:, None], torch.arange(step.shape[1]), step].transpose(1, 2)
        return x_t.to(device), points[:, :, -1].transpose(1, 2).to(device), self.rows[pick], step.to(device)


def pairs_shard(path: Path, number: int) -> Path:
    """pairs.safetensors -> pairs-00003.safetensors: the pairs of one batch of solutions."""
    return path.with_name(f"{path.stem}-{number:05d}{path.suffix}")


@torch.no_grad()
def make_ode_pairs(
    path: Path,
    denoiser: Denoiser,
    clips: LatentClips | Prompted,
    plan: OdeConfig,
    facts: RolloutFacts,
    *,
    shift: float,
    setting: Setting,
) -> OdePairs:
    """Solve the guided ODE of the denoiser's network and keep the points at the student's noise levels.

    Of whole clips where the network is the bidirectional teacher (CausVid 3.3), of first chunks where it is causal.
    Batch by batch, each a shard; those that are there are not made again, and several processes take turns.
    """
    network, steps, device = denoiser.network, few_steps(facts), setting.device
    frames = clips.latent_frames if plan.source == "teacher" else facts.chunk_frames
    sigmas = sorted({*sampler_sigmas(plan.steps, shift=shift), *(step.sigma for step in steps)}, reverse=True)
    wanted = [sigmas.index(step.sigma) for step in steps] + [len(sigmas) - 1]
    (process,) = shares(1)
    for number in range(process.index, -(-plan.pairs // plan.batch), process.of):
        shard, start = pairs_shard(path, number), number * plan.batch
        if not shard.exists():
            rng = np.random.default_rng((setting.seed, start))
            clip = clips.batch(
                rng, plan.batch, device=device, sprite_weight=1.0, known_from=[0], longest=clips.latent_frames
            )
            with training_arithmetic(device, bf16=setting.compute.precision == "bf16"):
                solution = solve_ode(
                    network.forward_whole,
                    network.prediction,
                    standard_normal(rng, clip.x0[:, :, :frames]),
                    sigmas,
                    denoiser.prompt(clip.rows),
                    empty=denoiser.prompt(denoiser.text.empty_rows(plan.batch)),
                    guidance=plan.guidance,
                )
                x_ts = [x_t for _, x_t in solution]
            points = torch.stack([x_ts[place] for place in wanted], dim=1).half()
            save_shard({"points": points, "rows": clip.rows}, shard)
        if setting.report:
            setting.report({"step": number + 1, "pairs": min(plan.pairs, start + plan.batch)})
    mean(torch.zeros((), device=device))  # all wait for the last
    return OdePairs(path)
