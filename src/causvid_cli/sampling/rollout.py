"""Chunk after chunk, noise -> x0: a generator that knows no pixels, files or progress bars."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor

from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.copies import input_of
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import Transition
from causvid_cli.sampling.context import CleanPasses, Context, ContextWriter, Past, Seen, StepsOf
from causvid_cli.sampling.drawings import Drawings, LastShown, Opening
from causvid_cli.sampling.noise import Noise
from causvid_cli.sampling.schedule import Step, add_noise, cfg, x0_from

Latents = Callable[[Chunk], Tensor | None]
"""chunk -> clean latents x0 [B, C, f, h, w], or None where there are none."""
OnStep = Callable[[Chunk, int], None]
"""Told of a chunk that is being denoised, and how many of its steps are done: 0, then 1 and so on."""


def ignore_step(chunk: Chunk, done: int) -> None:
    """The `OnStep` of who does not want to know."""


def rollout(
    model: CausalTransformer,
    *,
    prompt: Callable[[Chunk], PromptCache],
    steps: Sequence[Step] | StepsOf,
    cache: KVCache,
    chunks: Iterable[Chunk],
    noise: Noise,
    writer: ContextWriter | None = None,
    opening: Opening | None = None,
    switch: Transition | Callable[[Chunk], Transition] = "recache",
    prefix: Iterable[tuple[Chunk, Tensor]] = (),
    last_shown: LastShown | None = None,
    made: Latents | None = None,
    source: Latents | None = None,
    merge_clean_pass: bool = False,
    recompute_context: Callable[[Past], Past] | None = None,
    on_step: OnStep = ignore_step,
) -> Iterator[tuple[Chunk, Tensor]]:
    """Yield each chunk and its clean latent x0 [B, C, f, h, w], oldest first.

    prompt: the prompt of a chunk; asked once, just before the chunk is made. A new one takes hold by `switch`
      (`request.Transition`), which is asked after it where it depends on the chunk.
    steps: the schedule, noisiest first, of every chunk or of each. cache: empty; holds the past afterwards, up to the
      chunk before the last.
    chunks: what to generate (`geometry.chunks`), starting where the prefix ends.
    writer: what later chunks see of a chunk (`context.py`); by default a clean pass of the model itself.
    opening: makes the chunks that have no past, where that is another network: it is told their prompt's `opening`;
      and, for a network that predicts copies, what there is to copy from (`drawings.py`).
    prefix: given frames, chunk by chunk, committed by clean passes and not regenerated.
    last_shown: what was shown before the first chunk, which is a new shot and sees nothing of it. Where a network
      predicts copies, a shot in the scene that was shown last begins where the camera was.
    made: chunks that an earlier run made: they are not denoised again, and all else is as if they were, bit for bit.
      Those whose last denoising call is what later chunks see have to be. Of the others, what later chunks see is
      computed when the first of these is made, from the last restart of the cache on: no call before it matters.
    noise: what is drawn to begin a chunk with; a network that predicts copies begins with the latent frame before it.
    source: what a chunk starts from: its latents, noised to the first step's level (SDEdit, arXiv 2108.01073); None is
      pure noise. A chunk that the source has no latents for (it is at its end) is not made, and ends the roll-out.
    merge_clean_pass: whether a chunk's clean pass and the next chunk's first step are one network call where they can
      be: twice the tokens, one call less. Only rounding tells the difference. For clean passes of the model itself.
    recompute_context: the past -> what fills an emptied cache before each chunk (`krea.py`).
    on_step: told of every step (`OnStep`), as soon as a GPU is asked for it: nobody waits for its result.

    A chunk is yielded before its clean pass, which runs when the next chunk is asked for: the first frames come
    sooner, and the last chunk needs none.
    """
    writer = writer or CleanPasses(model)
    context = Context(writer, cache, prefix, merges=merge_clean_pass)

    drawings = Drawings(opening, model.moves) if model.prediction == "copies" else None

    def what_was_there(chunk: Chunk, _: int) -> Tensor:
        assert drawings is not None
        last, before, began = context.what_was_there()
        began = drawings.began(context.prompt, began, chunk_frames=chunk.frames)
        scene = drawings.scene(context.prompt, last, chunk_frames=chunk.frames)
        return model.moves.what_was_there(last, before, began, scene).expand(-1, -1, chunk.frames, -1, -1)

    begin = what_was_there if drawings else noise
    for chunk in chunks:
        start = source(chunk) if source else None
        if source and start is None:
            return
        current = prompt(chunk)
        own_steps, keep = steps(chunk) if callable(steps) else steps, writer.keeps_last_call(chunk)
        x0 = made(chunk) if made and not keep else None
        if recompute_context:
            context.restart(recompute_context(context.past))
        if context.prompt is not None and current is not context.prompt:
            context.switch(switch if isinstance(switch, str) else switch(chunk), seen=x0 is not None)
        context.prompt = current
        is_opening = bool(opening and current.opening and not context.past)
        if drawings and is_opening:
            drawings.shot = current
        if x0 is None:
            merged, network, told, sees, x_1 = context.prefill(before=chunk), model, current, cache, begin
            if is_opening:
                assert opening and current.opening
                network, told, sees, x_1 = opening.model, current.opening, opening.cache, noise
                own_steps = opening.steps
            x0 = denoise_chunk(
                network,
                chunk,
                told,
                own_steps,
                sees,
                x_1,
                start=start,
                merged_clean_pass=merged,
                keep_last_call=keep,
                on_step=on_step,
            )
            if drawings and is_opening:
                x0 = drawings.in_place(drawings.turned_round(x0, told), current, last_shown)
            elif drawings:
                began = drawings.began(current, context.what_was_there()[2], chunk_frames=chunk.frames)
                x0 = drawings.set_on_scene(x0, current, began)
        else:
            kept = start if merge_clean_pass else None  # nobody else asks for it again
            context.see(_seen(model, chunk, current, own_steps, cache, begin, start=kept, made=made))
        yield chunk, x0
        context.append(chunk, x0)
        last_shown = LastShown(current, x0[:, :, -1:]) if drawings else None


def _seen(
    model: CausalTransformer,
    chunk: Chunk,
    prompt: PromptCache,
    steps: Sequence[Step],
    cache: KVCache,
    noise: Noise,
    *,
    start: Tensor | None,
    made: Latents | None,
) -> Seen:
    """A chunk that an earlier run made, whose calls are left for later."""

    def latents() -> Tensor:
        x0 = made(chunk) if made else None
        assert x0 is not None, f"chunk {chunk.index} was made, and is no longer there"
        return x0

    def first_step(merged: tuple[Chunk, Tensor]) -> None:
        x_t = input_of(model.prediction, first_x_t(chunk, steps, noise, start))
        model(x_t, steps[0].timestep, prompt, cache=cache, chunk=chunk, merged_clean_pass=merged)

    return Seen(chunk, prompt, latents, first_step)


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
    keep_last_call: bool = False,
    on_step: OnStep = ignore_step,
) -> Tensor:
    """Return the clean latent x0 [B, C, f, h, w] that a chunk's last step predicts; options as in `denoise_steps`."""
    on_step(chunk, 0)
    made = denoise_steps(
        model,
        chunk,
        prompt,
        steps,
        cache,
        noise,
        start=start,
        merged_clean_pass=merged_clean_pass,
        keep_last_call=keep_last_call,
    )
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
    keep_last_call: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x_t, x0) of each step: predict x0, add noise down to the next level, repeat.

    start: clean latents of another video to begin from, noised to the first step's level (SDEdit, arXiv 2108.01073).
    merged_clean_pass: the chunk before and its x0, whose clean pass is due: the first step's call runs it.
    keep_last_call: whether what the last step leaves in the cache is to be committed.
    """
    x_t = first_x_t(chunk, steps, noise, start)
    for call, step in enumerate(steps):
        merged, keep = None if call else merged_clean_pass, keep_last_call and call + 1 == len(steps)
        fed = input_of(model.prediction, x_t)
        output = predict(model, fed, step.timestep, prompt, cache, chunk, merged_clean_pass=merged, keep=keep)
        x0 = x0_from(model.prediction, x_t, output, step.sigma)
        yield x_t, x0
        if call + 1 < len(steps):
            x_t = add_noise(x0, noise(chunk, call + 1), steps[call + 1].sigma)


def first_x_t(chunk: Chunk, steps: Sequence[Step], noise: Noise, start: Tensor | None) -> Tensor:
    """Return the x_t of the first step: noise at its level (at most 1), or `start` noised to it."""
    drawn = noise(chunk, 0)
    if start is None:
        return steps[0].sigma * drawn
    return add_noise(start.repeat(1, drawn.shape[1] // start.shape[1], 1, 1, 1), drawn, steps[0].sigma)


def predict(
    model: CausalTransformer,
    x_t: Tensor,
    timestep: float,
    prompt: PromptCache,
    cache: KVCache,
    chunk: Chunk,
    *,
    merged_clean_pass: tuple[Chunk, Tensor] | None = None,
    keep: bool = False,
) -> Tensor:
    """Return the prediction for a chunk that sees the cached past, guided where the prompt has a negative one.

    Commits nothing but the chunk of `merged_clean_pass`. The negative prompt sees the same past. keep: whether what the
    prompt itself leaves in the cache has to stay there.
    """
    output = model(x_t, timestep, prompt, cache=cache, chunk=chunk, merged_clean_pass=merged_clean_pass)
    if prompt.negative is None:
        return output
    other = model(x_t, timestep, prompt.negative, cache=cache, chunk=chunk, update_cache=not keep)
    return cfg(output, other, prompt.guidance)
