"""Chunk after chunk, noise -> x0: a generator that knows no pixels, files or progress bars."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor

from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import Transition
from causvid_cli.sampling.noise import Noise
from causvid_cli.sampling.schedule import Step, add_noise, cfg, x0_from

Latents = Callable[[Chunk], Tensor | None]
"""chunk -> clean latents x0 [B, C, f, h, w], or None where there are none."""
Past = list[tuple[Chunk, Tensor]]
"""Chunks, or parts of them, and their clean latents x0 [B, C, f, h, w], oldest first."""
OnStep = Callable[[Chunk, int], None]
"""Told of a chunk that is being denoised, and how many of its steps are done: 0, then 1 and so on."""


def ignore_step(chunk: Chunk, done: int) -> None:
    """The `OnStep` of who does not want to know."""


def rollout(
    model: CausalTransformer,
    *,
    prompt: Callable[[Chunk], PromptCache],
    steps: Sequence[Step],
    cache: KVCache,
    chunks: Iterable[Chunk],
    noise: Noise,
    switch: Transition | Callable[[Chunk], Transition] = "recache",
    prefix: Iterable[tuple[Chunk, Tensor]] = (),
    made: Latents | None = None,
    source: Latents | None = None,
    merge_clean_pass: bool = False,
    recompute_context: Callable[[Past], Past] | None = None,
    on_step: OnStep = ignore_step,
) -> Iterator[tuple[Chunk, Tensor]]:
    """Yield each chunk and its clean latent x0 [B, C, f, h, w], oldest first.

    prompt: the prompt of a chunk; asked once, just before the chunk is made. A new one takes hold by `switch`
      (`request.Transition`), which is asked after it where it depends on the chunk.
    steps: the schedule, noisiest first. cache: empty; holds the past afterwards, up to the chunk before the last.
    chunks: what to generate (`geometry.chunks`), starting where the prefix ends.
    prefix: given frames, chunk by chunk, committed by clean passes and not regenerated.
    made: chunks that an earlier run made: they are not denoised again, and all else is as if they were, bit for bit.
    source: what a chunk starts from: its latents, noised to the first step's level (SDEdit, arXiv 2108.01073); None is
      pure noise. A chunk that the source has no latents for (it is at its end) is not made, and ends the roll-out.
    merge_clean_pass: whether a chunk's clean pass and the next chunk's first step are one network call where they can
      be: twice the tokens, one call less. Only rounding tells the difference.
    recompute_context: the past -> what fills an emptied cache before each chunk (`krea.py`).
    on_step: told of every step (`OnStep`), as soon as a GPU is asked for it: nobody waits for its result.

    A chunk is yielded before its clean pass, which runs when the next chunk is asked for: the first frames come
    sooner, and the last chunk needs none.
    """
    context = Context(model, cache, prefix)
    for chunk in chunks:
        start = source(chunk) if source else None
        if source and start is None:
            return
        current = prompt(chunk)
        if recompute_context:
            context.restart(recompute_context(context.past))
        if context.prompt is not None and current is not context.prompt:
            context.switch(switch if isinstance(switch, str) else switch(chunk))
        context.prompt = current
        merged = context.prefill(merge_into=chunk if merge_clean_pass else None)
        x0 = made(chunk) if made else None
        if x0 is None:
            x0 = denoise_chunk(
                model, chunk, current, steps, cache, noise, start=start, merged_clean_pass=merged, on_step=on_step
            )
        elif merged is None:
            cache.begin(chunk)  # evicts what denoising would have
        else:  # the call in which the clean pass was run: alone it would round in another way
            x_t = first_x_t(chunk, steps, noise, start)
            model(x_t, steps[0].timestep, current, cache=cache, chunk=chunk, merged_clean_pass=merged)
        yield chunk, x0
        context.append(chunk, x0)


class Context:
    """The clean chunks that the next one sees, and how many of them are in the cache.

    past: the frames that the cache's sink and window reach, chunk by chunk, oldest first. prompt: under which the
    cache was filled; None before the first chunk.
    """

    def __init__(self, model: CausalTransformer, cache: KVCache, prefix: Iterable[tuple[Chunk, Tensor]]) -> None:
        self.model, self.cache = model, cache
        self.past: Past = list(prefix)
        self.prompt: PromptCache | None = None
        self._committed = 0

    def restart(self, past: Past) -> None:
        """Empty the cache; `past` is what fills it next."""
        self.cache.reset()
        self.past, self._committed = past, 0

    def switch(self, transition: Transition) -> None:
        """Make the cache ready for another prompt, as the transition says (`request.Transition`)."""
        if transition == "soft":
            self.prefill()
        else:
            self.restart(self.past if transition == "recache" else [])

    def prefill(self, *, merge_into: Chunk | None = None) -> tuple[Chunk, Tensor] | None:
        """Run the clean passes that are due, under the current prompt.

        merge_into: the chunk whose first step can run the last of them in the same call; that one is then returned
        in place of being run. It has to be of the same length.
        """
        assert self.prompt is not None
        due, merged = self.past[self._committed :], None
        if merge_into and due and due[-1][0].frames == merge_into.frames:
            merged = due.pop()
        for chunk, x0 in due:
            commit_chunk(self.model, chunk, x0, self.prompt, self.cache)
        self._committed = len(self.past)
        return merged

    def append(self, chunk: Chunk, x0: Tensor) -> None:
        """Take a new chunk in, and forget the frames that the cache has evicted, so that memory stays constant."""
        self.past = _held_frames(self.past, set(self.cache.frames()))
        self._committed = len(self.past)
        self.past.append((chunk, x0))


def denoise_chunk(
    model: CausalTransformer,
    chunk: Chunk,
    prompt: PromptCache,
    steps: Sequence[Step],
    cache: KVCache,
    noise: Noise,
    *,
    start: Tensor | None = None,
    merged_clean_pass: tuple[Chunk, Tensor] | None = None,
    on_step: OnStep = ignore_step,
) -> Tensor:
    """Return the clean latent x0 [B, C, f, h, w] that a chunk's last step predicts; options as in `denoise_steps`."""
    on_step(chunk, 0)
    made = denoise_steps(model, chunk, prompt, steps, cache, noise, start=start, merged_clean_pass=merged_clean_pass)
    for done, (_, prediction) in enumerate(made, 1):
        on_step(chunk, done)
        x0 = prediction
    return x0


def denoise_steps(
    model: CausalTransformer,
    chunk: Chunk,
    prompt: PromptCache,
    steps: Sequence[Step],
    cache: KVCache,
    noise: Noise,
    *,
    start: Tensor | None = None,
    merged_clean_pass: tuple[Chunk, Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x_t, x0) of each step: predict x0, add noise down to the next level, repeat.

    start: clean latents of another video to begin from, noised to the first step's level (SDEdit, arXiv 2108.01073).
    merged_clean_pass: the chunk before and its x0, whose clean pass is due: the first step's call runs it.
    """
    x_t = first_x_t(chunk, steps, noise, start)
    for call, step in enumerate(steps):
        merged = None if call else merged_clean_pass
        output = predict(model, x_t, step.timestep, prompt, cache, chunk, merged_clean_pass=merged)
        x0 = x0_from(model.prediction, x_t, output, step.sigma)
        yield x_t, x0
        if call + 1 < len(steps):
            x_t = add_noise(x0, noise(chunk, call + 1), steps[call + 1].sigma)


def first_x_t(chunk: Chunk, steps: Sequence[Step], noise: Noise, start: Tensor | None) -> Tensor:
    """Return the x_t of the first step: noise, or `start` noised to its level."""
    return noise(chunk, 0) if start is None else add_noise(start, noise(chunk, 0), steps[0].sigma)


def predict(
    model: CausalTransformer,
    x_t: Tensor,
    timestep: float,
    prompt: PromptCache,
    cache: KVCache,
    chunk: Chunk,
    *,
    merged_clean_pass: tuple[Chunk, Tensor] | None = None,
) -> Tensor:
    """Return the prediction for a chunk that sees the cached past, guided where the prompt has a negative one.

    Commits nothing but the chunk of `merged_clean_pass`. The negative prompt sees the same past.
    """
    output = model(x_t, timestep, prompt, cache=cache, chunk=chunk, merged_clean_pass=merged_clean_pass)
    if prompt.negative is None:
        return output
    other = model(x_t, timestep, prompt.negative, cache=cache, chunk=chunk)
    return cfg(output, other, prompt.guidance)


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
