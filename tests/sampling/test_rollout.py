from collections.abc import Callable, Iterator
from itertools import combinations, count

import numpy as np
import pytest
import torch
from tiny import SHAPE, tiny_transformer
from torch import Tensor

from causvid_cli.geometry import Chunk, take_chunks
from causvid_cli.network import model as causal
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.model import CausalTransformer
from causvid_cli.sampling.context import commit_chunk
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.sampling.rollout import denoise_chunk, rollout
from causvid_cli.sampling.schedule import Step, x0_from_flow

STEPS = (Step(1000.0, 1.0), Step(600.0, 0.6))
CELLS = {"latent_height": 4, "latent_width": 4}
SEED = 7


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model() -> CausalTransformer:
    return tiny_transformer()


@pytest.fixture
def prompts(model) -> list[PromptCache]:
    rng = torch.Generator().manual_seed(3)
    return [model.prompt_cache(torch.randn(1, 5, SHAPE.text_dim, generator=rng)) for _ in range(2)]


def small_cache(model: CausalTransformer, **options) -> KVCache:
    return model.kv_cache(**{"window_frames": 3, "sink_frames": 1, **CELLS, **options})


def noise_of(seed: int = SEED, **options):
    return seeded_noise(seed, batch=1, channels=24, **CELLS, **options)


def roll(
    model: CausalTransformer,
    prompt: PromptCache | Callable[[Chunk], PromptCache],
    latent_frames: int = 6,
    chunk_frames: int = 1,
    *,
    cache: KVCache | None = None,
    **options,
) -> list[Tensor]:
    """The clean latents of a roll-out, chunk by chunk."""
    made = rollout(
        model,
        prompt=(lambda _: prompt) if isinstance(prompt, PromptCache) else prompt,
        steps=STEPS,
        cache=cache or small_cache(model),
        chunks=take_chunks(latent_frames, chunk_frames, start_frame=options.pop("start_frame", 0)),
        **{"noise": noise_of(), **options},
    )
    return [x0 for _, x0 in made]


def switching(prompts: list[PromptCache], at: int) -> Callable[[Chunk], PromptCache]:
    """The first prompt, from chunk `at` on the second."""
    return lambda chunk: prompts[chunk.index >= at]


def same(a: list[Tensor], b: list[Tensor]) -> list[bool]:
    """Which chunks are equal bit for bit."""
    return [torch.equal(x, y) for x, y in zip(a, b, strict=False)]


def assert_close(got: list[Tensor], wanted: list[Tensor], limit: float = 0.0) -> None:
    assert len(got) == len(wanted)
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.shape == b.shape, f"chunk {i}"
        error = (a - b).abs().max().item()
        assert error <= limit, f"chunk {i}: largest error {error:.3g}"


@pytest.fixture
def calls(model) -> Iterator[list[tuple[int, float]]]:
    """Every network call, as (first frame, timestep)."""
    made: list[tuple[int, float]] = []
    hook = model.register_forward_hook(
        lambda _, args, kwargs, __: made.append((kwargs["chunk"].start_frame, args[1])), with_kwargs=True
    )
    yield made
    hook.remove()


# --- one chunk after the other -------------------------------------------------------------------------------------


def test_a_chunk_is_denoised_from_noise_by_predicting_its_clean_latent_and_adding_noise(model, prompts):
    noise, chunk = noise_of(), Chunk(0, 0, 1)
    flow = model(noise(chunk, 0), 1000.0, prompts[0], cache=small_cache(model), chunk=chunk)
    x_t = 0.4 * (noise(chunk, 0) - flow) + 0.6 * noise(chunk, 1)
    flow = model(x_t, 600.0, prompts[0], cache=small_cache(model), chunk=chunk)
    # a few float32 roundings, through a network
    assert_close(roll(model, prompts[0], 1), [x0_from_flow(x_t, flow, 0.6)], limit=1e-5)


def test_chunks_come_oldest_first_with_their_latents(model, prompts):
    chunks = list(take_chunks(5, 2))
    made = list(
        rollout(
            model,
            prompt=lambda _: prompts[0],
            steps=STEPS,
            cache=small_cache(model),
            chunks=chunks,
            noise=noise_of(),
        )
    )
    assert [chunk for chunk, _ in made] == chunks
    assert [x0.shape for _, x0 in made] == [(1, 24, 2, 4, 4)] * 3


@pytest.mark.parametrize("window", [3, 20], ids=["sliding", "all kept"])
@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_a_chunk_is_the_same_in_a_short_and_in_a_long_video(model, prompts, chunk_frames, window):
    short, long = (
        roll(model, prompts[0], frames, chunk_frames, cache=small_cache(model, window_frames=window))
        for frames in (6, 12)
    )
    assert len(long) == 2 * len(short)
    assert all(same(short, long))


def test_room_that_is_not_used_changes_nothing(model, prompts):
    assert_close(
        roll(model, prompts[0], cache=small_cache(model, window_frames=6)),
        roll(model, prompts[0], cache=small_cache(model, window_frames=50)),
    )


def test_later_noise_changes_no_bit_of_earlier_chunks(model, prompts):
    noise, other = noise_of(), noise_of(SEED + 1)
    plain = roll(model, prompts[0])
    changed = roll(model, prompts[0], noise=lambda chunk, step: (other if chunk.index >= 3 else noise)(chunk, step))
    assert same(plain, changed) == [True] * 3 + [False] * 3


def test_earlier_noise_changes_every_later_chunk_that_still_sees_it(model, prompts):
    noise, other = noise_of(), noise_of(SEED + 1)
    plain = roll(model, prompts[0], 9)
    changed = roll(model, prompts[0], 9, noise=lambda chunk, step: (other if chunk.index == 0 else noise)(chunk, step))
    assert not any(same(plain, changed))  # the sink is never forgotten


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_the_cache_holds_sink_and_window_while_a_video_grows(model, prompts, rope):
    cache, seen = small_cache(model, rope=rope), []
    for _ in rollout(
        model,
        prompt=lambda _: prompts[0],
        steps=STEPS,
        cache=cache,
        chunks=take_chunks(8, 1),
        noise=noise_of(),
    ):
        seen.append(cache.frames())
    assert seen == [[], [0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5], [0, 5, 6]]  # the chunk at work is next


def test_forms_of_rope_agree_until_a_frame_after_the_sink_is_gone(model, prompts):
    relative, absolute = (
        roll(model, prompts[0], 8, cache=small_cache(model, rope=r)) for r in ("relative", "absolute")
    )
    assert same(relative, absolute) == [True] * 4 + [False] * 4


def test_without_a_sink_both_forms_of_rope_agree_for_ever(model, prompts):
    relative, absolute = (
        roll(model, prompts[0], 12, cache=small_cache(model, sink_frames=0, rope=r)) for r in ("relative", "absolute")
    )
    assert_close(relative, absolute, limit=1e-4)  # rounding of other angles, carried from chunk to chunk


# --- network calls -------------------------------------------------------------------------------------------------


def test_the_last_chunk_has_no_clean_pass(model, prompts, calls):
    roll(model, prompts[0], 3)
    denoising = [[(frame, step.timestep) for step in STEPS] for frame in range(3)]
    assert calls == [*denoising[0], (0, 0.0), *denoising[1], (1, 0.0), *denoising[2]]


def test_a_chunk_comes_before_its_clean_pass(model, prompts, calls):
    made = rollout(
        model,
        prompt=lambda _: prompts[0],
        steps=STEPS,
        cache=small_cache(model),
        chunks=take_chunks(2, 1),
        noise=noise_of(),
    )
    assert calls == []
    next(made)
    assert len(calls) == len(STEPS)
    next(made)
    assert len(calls) == len(STEPS) + 1 + len(STEPS)


def test_the_prompt_is_asked_for_once_just_before_each_chunk(model, prompts, calls):
    asked = []

    def prompt(chunk):
        asked.append((chunk.index, len(calls)))
        return prompts[0]

    roll(model, prompt, 3)
    assert asked == [(0, 0), (1, 2), (2, 5)]  # calls so far; a chunk takes two, a clean pass one


def test_no_value_is_read_back_from_the_device(prompts):
    model = tiny_transformer().to("meta")  # .item(), .cpu() or a branch on a value raises there
    on_meta = [model.prompt_cache(torch.randn(1, 5, SHAPE.text_dim, device="meta")) for _ in range(2)]
    for rope in ("relative", "absolute"):
        made = roll(
            model,
            switching(on_meta, 4),
            cache=small_cache(model, rope=rope),
            noise=noise_of(device="meta"),
        )
        assert [x0.shape for x0 in made] == [(1, 24, 1, 4, 4)] * 6


# --- given frames --------------------------------------------------------------------------------------------------


def prefix_of(layout: list[int]) -> list[tuple[Chunk, Tensor]]:
    rng = torch.Generator().manual_seed(5)
    chunks = [Chunk(i, sum(layout[:i]), n) for i, n in enumerate(layout)]
    return [(chunk, torch.randn(1, 24, chunk.frames, 4, 4, generator=rng)) for chunk in chunks]


def test_given_frames_are_committed_and_not_made_again(model, prompts, calls):
    made = roll(model, prompts[0], 2, prefix=prefix_of([2, 1]), start_frame=3)
    assert calls[:2] == [(0, 0.0), (2, 0.0)]
    assert {frame for frame, timestep in calls if timestep > 0} == {3, 4}
    assert [x0.shape[2] for x0 in made] == [1, 1]


def test_given_frames_are_what_later_chunks_see(model, prompts):
    prefix = prefix_of([1, 1])
    cache = small_cache(model)
    for chunk, x0 in prefix:
        commit_chunk(model, chunk, x0, prompts[0], cache)
    wanted = denoise_chunk(model, Chunk(0, 2, 1), prompts[0], STEPS, cache, noise_of())
    made = roll(model, prompts[0], 1, prefix=prefix, start_frame=2)
    assert_close(made, [wanted])
    assert same(made, roll(model, prompts[0], 1)) == [False]


def test_a_roll_out_goes_on_from_its_own_latents_bit_for_bit(model, prompts):
    whole = list(
        rollout(
            model,
            prompt=lambda _: prompts[0],
            steps=STEPS,
            cache=small_cache(model, window_frames=9),
            chunks=take_chunks(6, 1),
            noise=noise_of(),
        )
    )
    rest = rollout(
        model,
        prompt=lambda _: prompts[0],
        steps=STEPS,
        cache=small_cache(model, window_frames=9),
        chunks=[chunk for chunk, _ in whole[3:]],
        noise=noise_of(),
        prefix=whole[:3],
    )
    assert_close([x0 for _, x0 in rest], [x0 for _, x0 in whole[3:]])


def test_more_given_frames_than_the_cache_holds_are_kept_as_the_window_keeps_them(model, prompts):
    cache = small_cache(model)
    roll(model, prompts[0], 1, cache=cache, prefix=prefix_of([2, 2, 2]), start_frame=6)
    assert cache.frames() == [0, 4, 5]


# --- another prompt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["recache", "soft", "cut"])
@pytest.mark.parametrize("at", [1, 4])
def test_another_prompt_leaves_earlier_chunks_bit_for_bit_as_they_were(model, prompts, switch, at):
    plain = roll(model, prompts[0])
    switched = roll(model, switching(prompts, at), switch=switch)
    assert same(plain, switched) == [True] * at + [False] * (6 - at)


@pytest.mark.parametrize("rope", ["relative", "absolute"])
@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_recaching_is_as_if_the_kept_frames_had_been_seen_under_the_new_prompt(model, prompts, chunk_frames, rope):
    options = {"sink_frames": chunk_frames, "window_frames": 2 * chunk_frames, "rope": rope}
    at, frames = 5, 6 * chunk_frames
    switched = roll(model, switching(prompts, at), frames, chunk_frames, cache=small_cache(model, **options))

    fresh = small_cache(model, **options)
    chunks = list(take_chunks(frames, chunk_frames))
    for chunk in (chunks[0], chunks[3], chunks[4]):  # the sink and the window before chunk 5
        commit_chunk(model, chunk, switched[chunk.index], prompts[1], fresh)
    wanted = denoise_chunk(model, chunks[at], prompts[1], STEPS, fresh, noise_of())

    assert_close(switched[at:], [wanted])


def test_recaching_runs_a_clean_pass_for_every_kept_frame(model, prompts, calls):
    roll(model, switching(prompts, 5), 6)
    before, again = [0, 1, 2, 3], [0, 2, 3, 4]  # the last chunk before the switch is seen under the new prompt only
    assert [frame for frame, timestep in calls if timestep == 0] == before + again


@pytest.mark.parametrize("rope", ["relative", "absolute"])
@pytest.mark.parametrize(
    ("sink", "window", "chunk_frames"), [(1, 2, 1), (1, 4, 3), (2, 3, 3), (1, 5, 3), (2, 4, 3), (3, 3, 3), (0, 4, 3)]
)
def test_recaching_keeps_the_sink_and_the_frames_that_the_cache_held(model, prompts, sink, window, chunk_frames, rope):
    held = []
    for prompt in (prompts[0], switching(prompts, 3)):
        cache = small_cache(model, sink_frames=sink, window_frames=window, rope=rope)
        roll(model, prompt, 5 * chunk_frames, chunk_frames, cache=cache)
        held.append(cache.frames())
    assert held[0] == held[1]
    assert held[0][:sink] == list(range(sink))


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_recaching_leaves_the_gap_that_an_eviction_tore_into_a_chunk(model, prompts, calls, rope):
    options = {"sink_frames": 1, "window_frames": 7, "rope": rope}
    switched = roll(model, switching(prompts, 3), 12, 3, cache=small_cache(model, **options))
    kept = [Chunk(0, 0, 1), Chunk(0, 2, 1), Chunk(1, 3, 3), Chunk(2, 6, 3)]  # chunk 2 drove out frame 1
    assert [frame for frame, timestep in calls if timestep == 0][-4:] == [chunk.start_frame for chunk in kept]

    fresh, made = small_cache(model, **options), torch.cat(switched, dim=2)
    for chunk in kept:
        commit_chunk(model, chunk, made[:, :, chunk.start_frame : chunk.end_frame], prompts[1], fresh)
    assert_close(switched[3:], [denoise_chunk(model, Chunk(3, 9, 3), prompts[1], STEPS, fresh, noise_of())])


def test_switching_twice_recaches_under_the_newest_prompt(model, prompts):
    there_and_back = roll(model, lambda chunk: prompts[chunk.index == 2], 4, cache=small_cache(model, window_frames=9))
    fresh = small_cache(model, window_frames=9)
    chunks = list(take_chunks(4, 1))
    for chunk in chunks[:3]:
        commit_chunk(model, chunk, there_and_back[chunk.index], prompts[0], fresh)
    assert_close(there_and_back[3:], [denoise_chunk(model, chunks[3], prompts[0], STEPS, fresh, noise_of())])


def test_a_soft_switch_changes_cross_attention_only(model, prompts):
    at = 5
    switched = roll(model, switching(prompts, at), switch="soft")

    cache = small_cache(model)  # the whole past, the chunk before the switch included, under the old prompt
    chunks = list(take_chunks(6, 1))
    for chunk in chunks[:at]:
        denoise_chunk(model, chunk, prompts[0], STEPS, cache, noise_of())
        commit_chunk(model, chunk, switched[chunk.index], prompts[0], cache)
    assert_close(switched[at:], [denoise_chunk(model, chunks[at], prompts[1], STEPS, cache, noise_of())])


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_a_cut_forgets_the_past(model, prompts, rope):
    at = 4
    cut = roll(model, switching(prompts, at), switch="cut", cache=small_cache(model, rope=rope))
    chunks = list(take_chunks(6, 1))
    alone = rollout(
        model,
        prompt=lambda _: prompts[1],
        steps=STEPS,
        cache=small_cache(model, rope=rope),
        chunks=chunks[at:],
        noise=noise_of(),
    )
    assert_close(cut[at:], [x0 for _, x0 in alone])


def test_a_cut_runs_no_clean_pass_over_what_is_forgotten(model, prompts, calls):
    roll(model, switching(prompts, 2), 3, switch="cut")
    assert [frame for frame, timestep in calls if timestep == 0] == [0]


# --- noise ---------------------------------------------------------------------------------------------------------


def test_noise_depends_on_seed_chunk_and_step_alone():
    drawn = {
        (seed, index, step): noise_of(seed)(Chunk(index, 10 * index, 2), step)
        for seed in (0, 1, 2**63 - 1)
        for index in (0, 1, 2)
        for step in (0, 1)
    }
    for key, noise in drawn.items():
        seed, index, step = key
        assert torch.equal(noise, noise_of(seed)(Chunk(index, 0, 2), step)), key
    for (a, x), (b, y) in combinations(drawn.items(), 2):
        # 768 numbers: chance alone gives 0.036 on average, 0.2 once in 3e7
        likeness = torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].abs()
        assert likeness < 0.2, (a, b, likeness)


def test_noise_is_standard_normal():
    noise = torch.cat([noise_of()(Chunk(i, i, 1), 0).flatten() for i in range(100)])  # 38400 numbers
    assert abs(noise.mean().item()) < 0.03  # six standard errors
    assert abs(noise.std().item() - 1) < 0.03


def test_chunks_may_go_on_for_ever(model, prompts):
    made = rollout(
        model,
        prompt=lambda _: prompts[0],
        steps=STEPS[:1],
        cache=small_cache(model),
        chunks=(Chunk(i, i, 1) for i in count()),
        noise=noise_of(),
    )
    for _ in range(60):
        _, x0 = next(made)
    assert torch.isfinite(x0).all()


# --- chunks made before, a source, a negative prompt ----------------------------------------------------------------


@pytest.mark.parametrize("switch", ["recache", "soft", "cut"])
@pytest.mark.parametrize("known", [1, 3, 4, 5])
def test_going_on_after_chunks_made_before_gives_the_rest_bit_for_bit(model, prompts, known, switch):
    whole = roll(model, switching(prompts, 4), 7, switch=switch)

    def earlier(chunk):
        return whole[chunk.index] if chunk.index < known else None

    assert same(roll(model, switching(prompts, 4), 7, switch=switch, made=earlier), whole) == [True] * 7


def test_chunks_made_before_are_seen_but_not_denoised_again(model, prompts, calls):
    whole = roll(model, prompts[0], 4)
    calls.clear()
    roll(model, prompts[0], 4, made=lambda chunk: whole[chunk.index] if chunk.index < 3 else None)
    assert [frame for frame, timestep in calls if timestep > 0] == [3] * len(STEPS)
    assert [frame for frame, timestep in calls if timestep == 0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("switch", "computed"),
    [("recache", [0, 5, 6, 7, 8, 9, 10]), ("cut", [8, 9, 10]), ("soft", list(range(11)))],
)
def test_what_a_restart_forgets_of_chunks_made_before_is_never_computed(model, prompts, calls, switch, computed):
    whole = roll(model, switching(prompts, 8), 12, switch=switch)
    calls.clear()

    def earlier(chunk):
        return whole[chunk.index] if chunk.index < 11 else None

    assert same(roll(model, switching(prompts, 8), 12, switch=switch, made=earlier), whole) == [True] * 12
    assert [frame for frame, timestep in calls if timestep == 0] == computed
    assert {frame for frame, timestep in calls if timestep > 0} == {11}


@pytest.mark.parametrize("seed", range(12))
def test_random_roll_outs_go_on_after_chunks_made_before(model, prompts, seed):
    rng = np.random.default_rng(seed)
    told = (np.cumsum(rng.random(12) < 0.4) % len(prompts)).tolist()
    changes = rng.choice(["recache", "soft", "cut"], size=12).tolist()
    window_frames, sink_frames, known = int(rng.integers(2, 5)), int(rng.integers(2)), int(rng.integers(1, 12))
    merges = bool(rng.integers(2))

    def made(earlier=None):
        return roll(
            model,
            lambda chunk: prompts[told[chunk.index]],
            12,
            cache=small_cache(model, window_frames=window_frames, sink_frames=sink_frames),
            switch=lambda chunk: changes[chunk.index],
            merge_clean_pass=merges,
            made=earlier,
        )

    whole = made()
    assert same(made(lambda chunk: whole[chunk.index] if chunk.index < known else None), whole) == [True] * 12


def test_how_a_prompt_takes_hold_may_differ_from_cue_to_cue(model, prompts):
    def turns(chunk):
        return prompts[chunk.index % 4 // 2]

    each = roll(model, turns, 6, switch=lambda chunk: "cut" if chunk.index == 4 else "soft")
    assert same(each, roll(model, turns, 6, switch="soft")) == [True] * 4 + [False] * 2
    alone = roll(model, lambda _: prompts[0], 6, switch="soft")
    assert not same(each[4:], alone[4:])[0]


def test_a_source_is_what_each_chunk_starts_from(model, prompts):
    steps = (Step(600.0, 0.6),)
    clean = torch.randn(1, 24, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    made = rollout(
        model,
        prompt=lambda _: prompts[0],
        steps=steps,
        cache=small_cache(model),
        chunks=take_chunks(3, 1),
        noise=noise_of(),
        source=lambda chunk: clean[:, :, chunk.start_frame : chunk.end_frame],
    )
    (chunk, first), *_ = made
    x_t = 0.4 * clean[:, :, :1] + 0.6 * noise_of()(chunk, 0)
    flow = model(x_t, 600.0, prompts[0], cache=small_cache(model), chunk=chunk)
    assert_close([first], [x0_from_flow(x_t, flow, 0.6)])


def test_from_pure_noise_a_source_changes_nothing(model, prompts):
    source = torch.randn(1, 24, 1, 4, 4)
    assert same(roll(model, prompts[0], 3, source=lambda _: source), roll(model, prompts[0], 3)) == [True] * 3


def test_a_roll_out_ends_with_its_source(model, prompts):
    made = roll(model, prompts[0], 9, source=lambda chunk: torch.zeros(1, 24, 1, 4, 4) if chunk.index < 2 else None)
    assert len(made) == 2


def test_a_negative_prompt_leads_away_from_what_it_says(model, prompts):
    plain, negative = prompts
    led = PromptCache(plain.embeds, negative=negative, guidance=1.5)
    chunk = Chunk(0, 0, 1)
    x_t = noise_of()(chunk, 0)
    flows = [model(x_t, 1000.0, prompt, cache=small_cache(model), chunk=chunk) for prompt in (plain, negative)]
    wanted = x0_from_flow(x_t, flows[1] + 1.5 * (flows[0] - flows[1]), 1.0)
    assert_close([denoise_chunk(model, chunk, led, STEPS[:1], small_cache(model), noise_of())], [wanted])


def test_the_past_is_seen_under_the_prompt_not_under_the_negative_one(model, prompts):
    led = PromptCache(prompts[0].embeds, negative=prompts[1], guidance=1.0)
    for got, wanted in zip(roll(model, led), roll(model, prompts[0]), strict=True):
        assert_close([got], [wanted], 1e-5)  # other + 1 * (output - other) rounds


# --- a clean pass and the next first step in one call -----------------------------------------------------------------

ROUNDING = 5e-5
"""Sums of more numbers in one product, carried from chunk to chunk; 1e-6 is measured, another past costs 0.1."""


@pytest.fixture(scope="module", params=["fused", "merged", "plain"])
def any_layers(request) -> CausalTransformer:
    made = tiny_transformer()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fused":
            patch.setattr(causal, "LARGEST_MERGED", 0)
        return made if request.param == "plain" else made.fuse()


@pytest.mark.parametrize("rope", ["relative", "absolute"])
@pytest.mark.parametrize(("sink", "window", "chunk_frames"), [(1, 2, 1), (0, 4, 2), (1, 5, 3), (3, 6, 3), (0, 99, 2)])
def test_joined_calls_give_the_same_frames(any_layers, prompts, sink, window, chunk_frames, rope):
    options = {"sink_frames": sink, "window_frames": window, "rope": rope}
    apart, joined = (
        roll(
            any_layers,
            prompts[0],
            6 * chunk_frames,
            chunk_frames,
            cache=small_cache(any_layers, **options),
            merge_clean_pass=j,
        )
        for j in (False, True)
    )
    assert_close(joined, apart, ROUNDING)


@pytest.mark.parametrize("switch", ["recache", "soft", "cut"])
@pytest.mark.parametrize("at", [1, 4])
def test_joined_calls_let_a_prompt_take_hold_as_it_does(any_layers, prompts, switch, at):
    apart, joined = (roll(any_layers, switching(prompts, at), switch=switch, merge_clean_pass=j) for j in (False, True))
    assert_close(joined, apart, ROUNDING)


def test_joined_calls_are_led_away_from_a_negative_prompt_by_the_same_past(any_layers, prompts):
    led = PromptCache(prompts[0].embeds, negative=prompts[1], guidance=1.5)
    assert_close(roll(any_layers, led, merge_clean_pass=True), roll(any_layers, led), ROUNDING)


def test_joined_calls_see_given_frames_whatever_their_number(any_layers, prompts):
    for layout in ([1, 1], [2, 1], [1, 2], [2, 2]):
        options = {"prefix": prefix_of(layout), "start_frame": sum(layout)}
        apart, joined = (roll(any_layers, prompts[0], 4, 2, **options, merge_clean_pass=j) for j in (False, True))
        assert_close(joined, apart, ROUNDING)


@pytest.mark.parametrize("known", [1, 3, 5])
def test_joined_calls_go_on_after_chunks_made_before_bit_for_bit(any_layers, prompts, known):
    whole = roll(any_layers, switching(prompts, 4), 7, merge_clean_pass=True)

    def earlier(chunk):
        return whole[chunk.index] if chunk.index < known else None

    assert_close(roll(any_layers, switching(prompts, 4), 7, made=earlier, merge_clean_pass=True), whole)


def test_joined_calls_are_one_fewer_a_chunk(model, prompts, calls):
    roll(model, prompts[0], 4, merge_clean_pass=True)
    assert calls == [(frame, step.timestep) for frame in range(4) for step in STEPS]
