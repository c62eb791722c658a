"""What the next chunk sees of those before it: which frames are kept, and which calls leave them in the cache."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import Transition
from causvid_cli.sampling.noise import Noise
from causvid_cli.sampling.schedule import Step, add_noise

Past = list[tuple[Chunk, Tensor]]
"""Chunks, or parts of them, and their clean latents x0 [B, C, f, h, w], oldest first."""
StepsOf = Callable[[Chunk], Sequence[Step]]
"""chunk -> its steps, noisiest first."""


class ContextWriter(Protocol):
    """The form in which later chunks see a chunk (`config.ContextForm`)."""

    def keeps_last_call(self, chunk: Chunk) -> bool:
        """Return whether what a chunk's last denoising call wrote is what later chunks see."""

    def write(self, chunk: Chunk, x0: Tensor, prompt: PromptCache, cache: KVCache) -> None:
        """Run the call that leaves in the cache what later chunks will see of a chunk."""


@dataclass(frozen=True, slots=True)
class CleanPasses:
    """A clean pass over each chunk's result. model: the network that runs it, the denoising one or another."""

    model: CausalTransformer

    def keeps_last_call(self, chunk: Chunk) -> bool:
        return False

    def write(self, chunk: Chunk, x0: Tensor, prompt: PromptCache, cache: KVCache) -> None:
        commit_chunk(self.model, chunk, x0, prompt.context or prompt, cache)


@dataclass(frozen=True, slots=True)
class LastCalls:
    """The last denoising call of each chunk, for weights that were taught a noisy past (Causal-rCM's
    `context_from_last_step`, from chunk 1 on); the first frames of a video, and given ones, get a clean pass.

    To see a chunk under another prompt, its result is noised to its last step's level again.
    """

    model: CausalTransformer
    steps_of: StepsOf
    noise: Noise

    def keeps_last_call(self, chunk: Chunk) -> bool:
        return chunk.index >= 0 and chunk.start_frame > 0

    def write(self, chunk: Chunk, x0: Tensor, prompt: PromptCache, cache: KVCache) -> None:
        if not self.keeps_last_call(chunk):
            commit_chunk(self.model, chunk, x0, prompt, cache)
            return
        steps = self.steps_of(chunk)
        x_t = add_noise(x0, self.noise(chunk, len(steps) - 1), steps[-1].sigma)
        self.model(x_t, steps[-1].timestep, prompt, cache=cache, chunk=chunk, kv_only=True)
        cache.commit()


class Seen(NamedTuple):
    """A chunk that an earlier run made: what the roll-out would have done with it.

    latents: its x0, read when it is needed. first_step: the call of its first step, which may have run the clean pass
    of the chunk before (that chunk and its x0).
    """

    chunk: Chunk
    prompt: PromptCache
    latents: Callable[[], Tensor]
    first_step: Callable[[tuple[Chunk, Tensor]], None]


class Context:
    """The clean chunks that the next one sees, and how many of them are in the cache.

    past: the frames that the cache's sink and window reach, chunk by chunk, oldest first. began: the last
    latent frame of the shot's first chunk, or of what was given. prompt: under which the
    cache was filled; None before the first chunk. merges: whether the first step of a chunk may run the clean pass of
    the one before.

    Of chunks that an earlier run made nothing is computed before a chunk is made that sees them (`prefill`): what a
    restart forgets never is.
    """

    def __init__(
        self, writer: ContextWriter, cache: KVCache, prefix: Iterable[tuple[Chunk, Tensor]], *, merges: bool = False
    ) -> None:
        self.writer, self.cache, self.merges = writer, cache, merges
        self.past: Past = list(prefix)
        self.began: Tensor | None = self.past[-1][1][:, :, -1:] if self.past else None
        self.prompt: PromptCache | None = None
        self._committed = 0
        self._seen: list[Seen] = []
        self._start: Past = self.past

    def what_was_there(self) -> tuple[Tensor, Tensor, Tensor]:
        """The last latent frame, the one before it, and that with which the shot began, each [B, C, 1, h, w].

        An only one stands for all. A shot begins with the last frame of its first chunk, or of what was given.
        """
        assert self.began is not None, "nothing was there"
        frames = torch.cat([x0[:, :, -2:] for _, x0 in self.past[-2:]], dim=2)
        return frames[:, :, -1:], frames[:, :, -2:][:, :, :1], self.began

    def restart(self, past: Past) -> None:
        """Empty the cache; `past` is what fills it next."""
        self.cache.reset()
        self.past = self._start = past
        self.began = self.began if past else None
        self._committed = 0
        self._seen = []

    def switch(self, transition: Transition, *, seen: bool) -> None:
        """Make the cache ready for another prompt, as the transition says (`request.Transition`).

        seen: for a chunk that an earlier run made.
        """
        if transition != "soft":
            self.restart(self.past if transition == "recache" else [])
        elif not seen:
            self.prefill()
        else:
            self._make_room()

    def prefill(self, *, before: Chunk | None = None) -> tuple[Chunk, Tensor] | None:
        """Run the passes that are due, under the current prompt.

        before: the chunk whose first step can run the last of them in the same call; that one is then returned in
        place of being run. It has to be of the same length.
        """
        self._catch_up()
        assert self.prompt is not None
        due, merged = self.past[self._committed :], None
        if self.merges and before and due and due[-1][0].frames == before.frames:
            merged = due.pop()
        for chunk, x0 in due:
            self.writer.write(chunk, x0, self.prompt, self.cache)
        self._committed = len(self.past)
        return merged

    def see(self, seen: Seen) -> None:
        """Go past a chunk that an earlier run made, under the current prompt; `append` it then."""
        self._make_room()
        self.cache.begin(seen.chunk)
        self._seen.append(seen)

    def append(self, chunk: Chunk, x0: Tensor) -> None:
        """Take a new chunk in, and forget the frames that the cache has evicted, so that memory stays constant."""
        self.past = _held_frames(self.past, set(self.cache.frames()))
        self._committed = len(self.past)
        self.began = x0[:, :, -1:] if self.began is None else self.began
        self.past.append((chunk, x0))
        if self.writer.keeps_last_call(chunk):
            self.cache.commit()
            self._committed += 1

    def _make_room(self) -> None:
        """Let the cache count the frames of passes that are due as if they had been run: it evicts others for them."""
        for chunk, _ in self.past[self._committed :]:
            self.cache.begin(chunk)
            self.cache.commit()
        self._committed = len(self.past)

    def _catch_up(self) -> None:
        """Run what was left out of the chunks seen since the last restart, call for call as it would have been."""
        if not self._seen:
            return
        seen, prompt = self._seen, self.prompt
        self.restart(self._start)
        self.prompt = seen[0].prompt
        for each in seen:
            if each.prompt is not self.prompt:  # softly: any other change restarts
                self.prefill()
                self.prompt = each.prompt
            merged = self.prefill(before=each.chunk)
            if merged is None:
                self.cache.begin(each.chunk)  # evicts what denoising would have
            else:  # the call in which the clean pass was run: alone it would round in another way
                each.first_step(merged)
            self.append(each.chunk, each.latents())
        self.prompt = prompt


def commit_chunk(model: CausalTransformer, chunk: Chunk, x0: Tensor, prompt: PromptCache, cache: KVCache) -> None:
    """The clean pass: leave in the cache what later chunks will see."""
    model(x0, model.clean_timestep(chunk), prompt, cache=cache, chunk=chunk, kv_only=True)
    cache.commit()


def _held_frames(past: Past, held: set[int]) -> Past:
    """The part of the past whose frames are among `held`, each run of neighbouring frames as one chunk."""
    kept: Past = []
    for chunk, x0 in past:
        offsets = [i for i in range(chunk.frames) if chunk.start_frame + i in held]
        while offsets:  # an edge of sink or window may lie inside the chunk, or both
            run = [offset for i, offset in enumerate(offsets) if offset == offsets[0] + i]
            whole = len(run) == chunk.frames
            kept.append(
                (chunk, x0) if whole else (Chunk(chunk.index, chunk.start_frame + run[0], len(run)), x0[:, :, run])
            )
            offsets = offsets[len(run) :]
    return kept
