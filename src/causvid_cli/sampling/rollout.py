"""Chunk after chunk, noise -> x0: a generator that knows no pixels, files or progress bars."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from causvid_cli.device import upload
from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import Transition
from causvid_cli.sampling.schedule import Step, add_noise, led_away, x0_from

Noise = Callable[[Chunk, int], Tensor]
"""(chunk, step) -> standard normal [B, C, f, h, w]: step 0 is the start, step j what comes before the j-th call."""
Latents = Callable[[Chunk], Tensor | None]
"""chunk -> clean latents x0 [B, C, f, h, w], or None where there are none."""
Past = list[tuple[Chunk, Tensor]]
"""Chunks, or parts of them, and their clean latents x0 [B, C, f, h, w], oldest first."""


def seeded_noise(
    seed: int, *, batch: int, channels: int, latent_height: int, latent_width: int, device: torch.device | str = "cpu"
) -> Noise:
    """Noise that depends on (seed, chunk, step) only: the same on every device and however long the video is."""

    def draw(chunk: Chunk, step: int) -> Tensor:
        # CPU generator: CUDA's draws other noise from the same seed
        rng = torch.Generator().manual_seed(_mix(seed, chunk.index, step))
        shape = (batch, channels, chunk.frames, latent_height, latent_width)
        return upload(torch.randn(shape, generator=rng), device)

    return draw


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers (splitmix64, Steele et al. 2014): near inputs give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            state = ((state ^ (state >> shift)) * factor) & 0xFFFFFFFFFFFFFFFF
    return state >> 1


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
    joined: bool = False,
    seen_anew: Callable[[Past], Past] | None = None,
) -> Iterator[tuple[Chunk, Tensor]]:
    """Yield each chunk and its clean latent x0 [B, C, f, h, w], oldest first.

    prompt: which prompt holds for a chunk; asked once, just before the chunk is made. A new one takes hold by
      switch (`timeline.Transition`), asked after it where it depends on the chunk.
    steps: the schedule, noisiest first. cache: empty; holds the past afterwards, up to the chunk before the last.
    chunks: what to generate (`geometry.chunks`), starting where the prefix ends.
    prefix: given frames, chunk by chunk, committed by clean passes and not regenerated.
    made: chunks that an earlier run made: they are not denoised again, and all else is as if they were, bit for bit.
    source: what a chunk starts from: its latents, noised to the first step's level; None is pure noise. What the
      source has no latents for (it is at its end) is not made, and ends the roll-out.
    joined: whether a chunk's clean pass and the next chunk's first step are one network call where they can be: twice
      the tokens, one call less. Only rounding tells the difference.
    seen_anew: what clean passes are run over before each chunk, in the place of a past that is kept (`krea.py`).

    A chunk is yielded before its clean pass, which runs when the next chunk is asked for: the first frames come
    sooner, and the last chunk needs none.
    """
    past: Past = list(prefix)
    committed = 0
    current: PromptCache | None = None
    for chunk in chunks:
        start = source(chunk) if source else None
        if source and start is None:
            return
        new = prompt(chunk)
        if seen_anew:
            cache.reset()
            past, committed = seen_anew(past), 0
        if current is not None and new is not current:
            transition = switch if isinstance(switch, str) else switch(chunk)
            if transition == "soft":
                _commit(model, past[committed:], current, cache)
                committed = len(past)
            else:
                cache.reset()
                past = past if transition == "recache" else []
                committed = 0
        current = new
        x0 = made(chunk) if made else None
        waiting, before = past[committed:], None
        if joined and waiting and waiting[-1][0].frames == chunk.frames:
            before = waiting.pop()
        _commit(model, waiting, current, cache)
        if x0 is None:
            x0 = denoise_chunk(model, chunk, current, steps, cache, noise, start=start, before=before)
        elif before is None:
            cache.begin(chunk)  # evicts what denoising would have
        else:  # the call in which the clean pass was run: alone it would round in another way
            x_t = noisy_start(chunk, steps, noise, start)
            model(x_t, steps[0].timestep, current, cache=cache, chunk=chunk, before=before)
        yield chunk, x0
        past = _still_seen(past, cache)
        committed = len(past)
        past.append((chunk, x0))


def denoise_chunk(
    model: CausalTransformer,
    chunk: Chunk,
    prompt: PromptCache,
    steps: Sequence[Step],
    cache: KVCache,
    noise: Noise,
    *,
    start: Tensor | None = None,
    before: tuple[Chunk, Tensor] | None = None,
) -> Tensor:
    """Clean latent x0 of one chunk: what the last of its steps predicts. start, before: as in `denoise_steps`."""
    *_, (_, x0) = denoise_steps(model, chunk, prompt, steps, cache, noise, start=start, before=before)
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
    before: tuple[Chunk, Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x_t, x0) of each step: predict x0, add noise down to the next level, repeat.

    start: clean latents of another video to begin from, noised to the first step's level (SDEdit, arXiv 2108.01073).
    before: the chunk before and its x0, if its clean pass is still to be run: the first step does it.
    """
    x_t = noisy_start(chunk, steps, noise, start)
    for call, step in enumerate(steps):
        output = predict(model, x_t, step.timestep, prompt, cache, chunk, before=None if call else before)
        x0 = x0_from(model.prediction, x_t, output, step.sigma)
        yield x_t, x0
        if call + 1 < len(steps):
            x_t = add_noise(x0, noise(chunk, call + 1), steps[call + 1].sigma)


def noisy_start(chunk: Chunk, steps: Sequence[Step], noise: Noise, start: Tensor | None) -> Tensor:
    """What the first step begins with; start as in `denoise_steps`."""
    return noise(chunk, 0) if start is None else add_noise(start, noise(chunk, 0), steps[0].sigma)


def predict(
    model: CausalTransformer,
    x_t: Tensor,
    timestep: float,
    prompt: PromptCache,
    cache: KVCache,
    chunk: Chunk,
    *,
    before: tuple[Chunk, Tensor] | None = None,
) -> Tensor:
    """What the network says of a chunk; it sees the past and commits nothing but the chunk `before`.

    With a negative prompt it is led away from what that one says (classifier-free guidance, arXiv 2207.12598), seen
    from the same past.
    """
    output = model(x_t, timestep, prompt, cache=cache, chunk=chunk, before=before)
    if prompt.negative is None:
        return output
    other = model(x_t, timestep, prompt.negative, cache=cache, chunk=chunk)
    return led_away(output, other, prompt.guidance)


def commit_chunk(model: CausalTransformer, chunk: Chunk, x0: Tensor, prompt: PromptCache, cache: KVCache) -> None:
    """The clean pass: leave in the cache what later chunks will see."""
    model(x0, model.clean_timestep(chunk), prompt, cache=cache, chunk=chunk, kept=True)
    cache.commit()


def _commit(
    model: CausalTransformer, clean: Iterable[tuple[Chunk, Tensor]], prompt: PromptCache, cache: KVCache
) -> None:
    for chunk, x0 in clean:
        commit_chunk(model, chunk, x0, prompt, cache)


def _still_seen(past: Past, cache: KVCache) -> Past:
    """The frames that the cache still holds, cut to them, so that memory stays constant."""
    held = set(cache.frames())
    kept = []
    for chunk, x0 in past:
        places = [i for i in range(chunk.frames) if chunk.start_frame + i in held]
        if len(places) == chunk.frames:
            kept.append((chunk, x0))
            continue
        while places:  # an edge of sink or window lies inside the chunk, or both: one part for each run of neighbours
            run = [place for i, place in enumerate(places) if place == places[0] + i]
            kept.append((Chunk(chunk.index, chunk.start_frame + run[0], len(run)), x0[:, :, run]))
            places = places[len(run) :]
    return kept
