"""How a batch lies in time and in the cache: chunks, steps, what is known."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from causvid_cli.errors import UsageError
from causvid_cli.geometry import Chunk, take_chunks
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.copies import PARTS
from causvid_cli.network.masks import teacher_forcing_mask
from causvid_cli.network.model import CausalTransformer
from causvid_cli.sampling.drawings import Drawings, Opening
from causvid_cli.sampling.schedule import Step, steps_of
from causvid_cli.train.config import RolloutFacts
from causvid_cli.train.dataset import Batch
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.parallel import my_draw


@lru_cache
def few_steps(facts: RolloutFacts) -> tuple[Step, ...]:
    """Return the student's steps, noisiest first; the first chunk's may be others."""
    return steps_of(facts.steps, shift=facts.shift, warped=facts.warp_steps)


@lru_cache
def first_steps(facts: RolloutFacts) -> tuple[Step, ...]:
    """Return the steps of the first chunk, noisiest first."""
    return steps_of(facts.first_steps or facts.steps, shift=facts.shift, warped=facts.warp_steps)


def steps_of_chunk(facts: RolloutFacts, chunk: Chunk) -> tuple[Step, ...]:
    """Return the steps of a chunk, noisiest first."""
    return few_steps(facts) if chunk.index else first_steps(facts)


@lru_cache
def every_step(facts: RolloutFacts) -> tuple[Step, ...]:
    """Return all steps that any chunk takes, noisiest first."""
    return tuple(sorted({*few_steps(facts), *first_steps(facts)}, key=lambda step: -step.sigma))


def draw_steps(rng: np.random.Generator, rows: int, layout: "Layout", facts: RolloutFacts) -> Tensor:
    """Return which of `every_step` each frame stands at [B, F], each chunk at a random one of its own.

    rows: of this process's share.
    """
    places = [[every_step(facts).index(step) for step in steps] for steps in (few_steps(facts), first_steps(facts))]
    later, first = map(torch.tensor, places)
    pick = later[my_draw(partial(rng.integers, len(later)), rows, len(layout.chunks))]
    if facts.first_steps:
        pick[:, 0] = first[my_draw(partial(rng.integers, len(first)), rows)]
    return layout.per_frame(pick)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a clip is cut into chunks, and what a noisy chunk sees of clean ones (`teacher_forcing_mask`)."""

    chunks: tuple[Chunk, ...]
    mask: Tensor

    @classmethod
    @lru_cache
    def of(cls, frames: int, facts: RolloutFacts, *, first_frames: int = 0) -> "Layout":
        """Return how a clip of so many latent frames is cut.

        first_frames: of a first chunk that is shorter, as given frames may be; the last is then shorter too. Raises
        UsageError where chunks do not divide the clip.
        """
        chunks = tuple(take_chunks(frames, facts.chunk_frames, first_frames=first_frames or None))
        last = chunks[-1]
        if last.end_frame != frames and not first_frames:
            raise UsageError(
                f"rollout.chunk_frames {facts.chunk_frames} does not divide clips of {frames} latent frames"
            )
        chunks = (*chunks[:-1], replace(last, frames=frames - last.start_frame))
        sizes = [chunk.frames for chunk in chunks]
        return cls(chunks, teacher_forcing_mask(sizes, window_frames=facts.window_frames))

    def begun(
        self, network: CausalTransformer, x_t: Tensor, x0: Tensor, given: Tensor, drawn: "Copied | None" = None
    ) -> Tensor:
        """Return the x_t [B, C, F, h, w] that a network is to learn at, or what stands for it if it predicts copies.

        That is what was there of x0 before each chunk (`copies.py`), [B, PARTS * C, F, h, w], and before the first x_t,
        again and again. given: how many of its latent frames are, int64 [B]. drawn: what an opening network draws of
        it; None: nothing.
        """
        if network.prediction != "copies":
            return x_t
        parts = [x_t[:, :, : self.chunks[0].frames].repeat(1, PARTS, 1, 1, 1)]
        rows, given = torch.arange(len(x0), device=x0.device), given.clamp(min=self.chunks[0].frames)
        began = x0[rows, :, given - 1].unsqueeze(2)
        scene = None if drawn is None else network.moves.finely(drawn.scene)
        if drawn is not None and drawn.beginning is not None:
            began = torch.where(drawn.beginning.isnan(), began, drawn.beginning)
        for chunk in self.chunks[1:]:
            last, before = (x0[:, :, max(0, chunk.start_frame - back)].unsqueeze(2) for back in (1, 2))
            there = network.moves.what_was_there(last, before, began, network.moves.scene_or_last(scene, last))
            parts.append(there.expand(-1, -1, chunk.frames, -1, -1))
        return torch.cat(parts, dim=2)

    def per_frame(self, per_chunk: Tensor) -> Tensor:
        """Return values of chunks [B, chunks] for each of their latent frames, [B, F]."""
        sizes = torch.tensor([chunk.frames for chunk in self.chunks], device=per_chunk.device)
        return per_chunk.repeat_interleave(sizes, dim=1, output_size=self.chunks[-1].end_frame)  # else a GPU waits


def slid_prompts(
    denoiser: Denoiser, rows: Tensor, others: Tensor, rng: np.random.Generator, *, share: float
) -> PromptCache:
    """Return prompts of rows [B, L], a share of them slid up to halfway to those of others [B, L]."""
    if not share:
        return denoiser.prompt(rows)
    chosen = my_draw(rng.random, len(rows)) < share
    return denoiser.blended_prompt(rows, others, 0.5 * my_draw(rng.random, len(rows)).float() * chosen)


def opening_of(denoiser: Denoiser, clips: Tensor, facts: RolloutFacts) -> Opening:
    """Return a network for first chunks as roll-outs like clips [B, C, F, h, w] take it."""
    return Opening(denoiser.network, cache_for(denoiser.network, clips, facts), first_steps(facts))


class Copied(NamedTuple):
    """What an opening network draws of a batch, to be copied from.

    scene: with nobody in it, all round [B, C, 1, h, ROUND]; NaN: nobody knows. beginning: how a shot of it begins
    [B, C, 1, h, w], NaN where it did begin so, or is not told; None: everywhere.
    """

    scene: Tensor
    beginning: Tensor | None


@torch.no_grad()
def copied_from(
    denoiser: Denoiser, opening: Denoiser | None, batch: Batch, facts: RolloutFacts, *, given: int = 0
) -> Copied | None:
    """Return what a network for first chunks draws of a batch; None without one, or if nobody copies.

    given: latent frames that are given of every clip, at least: one of which no more are is from the beginning.
    """
    if opening is None or denoiser.network.prediction != "copies":
        return None
    network, chunk = opening_of(opening, batch.x0, facts), batch.x0[:, :, : facts.chunk_frames]
    scene = network.scene(opening.scene_prompt(batch.rows), chunk)
    goes_on = batch.first_predictable_frame > given
    if not bool(goes_on.any()):
        return Copied(scene, None)
    prompt = opening.opening_prompt(batch.rows)
    assert prompt.is_whole is not None
    beginning = Drawings(network, denoiser.network.moves).turned_round(network.beginning(prompt, chunk), prompt)
    return Copied(scene, beginning.masked_fill(~(goes_on & prompt.is_whole).view(-1, 1, 1, 1, 1), torch.nan))


def known_frames(batch: Batch) -> Tensor:
    """Return 1 where what comes next can be foretold, else 0: float32 [B, 1, F, 1, 1]."""
    known = torch.arange(batch.x0.shape[2], device=batch.x0.device) >= batch.first_predictable_frame[:, None]
    return known.float()[:, None, :, None, None]


def cache_for(network: CausalTransformer, clips: Tensor, facts: RolloutFacts) -> KVCache:
    """Return an empty cache for a roll-out like clips [B, C, F, h, w]."""
    batch, _, _, height, width = clips.shape
    return network.kv_cache(latent_height=height, latent_width=width, window_frames=facts.window_frames, batch=batch)
