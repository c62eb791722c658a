import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from tiny import SHAPE, tiny_transformer
from torch import Tensor

from causvid_cli.errors import UsageError
from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import PromptCache
from causvid_cli.network.masks import frame_mask, teacher_forcing_mask
from causvid_cli.network.model import CausalTransformer
from causvid_cli.train.denoiser import build_network

ROUNDING = 2e-5
"""Float32 attention over the same numbers in another order; about 2e-6 is measured, wrong masks cost 1e-2 and more."""
CELLS = 4
"""Latent cells along each side: 2 x 2 tokens."""


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=[0, 4], ids=["wan", "grid"])
def model(request) -> CausalTransformer:
    return tiny_transformer(shape=replace(SHAPE, grid_embed_size=request.param))


def latents(frames: int, *, seed: int = 0, batch: int = 1) -> Tensor:
    return torch.randn(batch, 24, frames, CELLS, CELLS, generator=torch.Generator().manual_seed(seed))


def prompt_of(model: CausalTransformer, seed: int = 0, batch: int = 1) -> PromptCache:
    embeds = torch.randn(batch, 5, SHAPE.text_dim, generator=torch.Generator().manual_seed(seed))
    return model.prompt_cache(embeds)


def chunks_of(layout: Sequence[int]) -> list[Chunk]:
    return [Chunk(i, sum(layout[:i]), n) for i, n in enumerate(layout)]


def cached(model, x_t, timesteps, prompt, layout, *, clean=None, **cache_options) -> Tensor:
    """Predictions [B, C, F, h, w] of a clip chunk by chunk; later chunks see earlier ones as `clean`, or as fed."""
    options = {"window_frames": sum(layout), "batch": len(x_t), **cache_options}
    cache = model.kv_cache(latent_height=CELLS, latent_width=CELLS, **options)
    made = []
    for chunk in chunks_of(layout):
        frames = slice(chunk.start_frame, chunk.end_frame)
        made.append(model(x_t[:, :, frames], timesteps[:, frames], prompt, cache=cache, chunk=chunk))
        if clean is not None:
            model(clean[:, :, frames], 0.0, prompt, cache=cache, chunk=chunk)
        cache.commit()
    return torch.cat(made, dim=2)


def assert_close(got: Tensor, wanted: Tensor, limit: float = ROUNDING) -> None:
    error = (got - wanted).abs().max().item()
    assert error <= limit, f"largest error {error:.3g}"


def differ(a: Tensor, b: Tensor) -> bool:
    """Whether two results differ by more than rounding could make them."""
    return (a - b).abs().max().item() > 50 * ROUNDING


# --- cached and uncached -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rope", ["relative", "absolute"])
@pytest.mark.parametrize("layout", [(1, 1, 1, 1, 1, 1), (3, 3), (1, 3, 2), (6,)], ids=str)
def test_cached_chunks_equal_one_pass_under_the_chunk_causal_mask(model, layout, rope):
    x_t, timesteps = latents(6, batch=2), torch.tensor([[1000.0, 937.5, 625, 300, 20, 0], [0, 7, 522, 757, 999, 1000]])
    prompt = prompt_of(model, batch=2)
    whole = model.forward_whole(x_t, timesteps, prompt, mask=frame_mask(layout))
    assert_close(cached(model, x_t, timesteps, prompt, layout, rope=rope), whole)


@pytest.mark.parametrize("rope", ["relative", "absolute"])
@pytest.mark.parametrize(("layout", "window"), [((1,) * 8, 3), ((2, 2, 2, 2), 5)], ids=str)
def test_a_sliding_window_equals_one_pass_under_the_windowed_mask(model, layout, window, rope):
    x_t, timesteps, prompt = latents(8), torch.linspace(1000, 0, 8).view(1, 8), prompt_of(model)
    whole = model.forward_whole(x_t, timesteps, prompt, mask=frame_mask(layout, window_frames=window))
    windowed = cached(model, x_t, timesteps, prompt, layout, window_frames=window, rope=rope)
    assert_close(windowed, whole)
    assert differ(windowed, cached(model, x_t, timesteps, prompt, layout))


def test_relative_and_absolute_positions_differ_once_frames_after_a_sink_are_gone(model):
    x_t, timesteps, prompt = latents(6), torch.linspace(1000, 0, 6).view(1, 6), prompt_of(model)
    relative, absolute = (
        cached(model, x_t, timesteps, prompt, (1,) * 6, sink_frames=1, window_frames=3, rope=rope)
        for rope in ("relative", "absolute")
    )
    assert torch.equal(relative[:, :, :4], absolute[:, :, :4])  # nothing evicted so far
    assert differ(relative[:, :, 4:], absolute[:, :, 4:])


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("layout", [(1, 1, 1, 1, 1), (2, 2, 1)], ids=str)
def test_teacher_forcing_trains_on_what_the_cache_shows_at_inference(model, layout, window):
    x_t, clean, prompt = latents(5), latents(5, seed=1), prompt_of(model)
    timesteps = torch.tensor([[1000.0, 800, 600, 400, 200]])
    mask = teacher_forcing_mask(layout, window_frames=window)
    whole = model.forward_whole(x_t, timesteps, prompt, mask=mask, clean=clean)
    assert_close(cached(model, x_t, timesteps, prompt, layout, clean=clean, window_frames=window or 5), whole)


# --- past and future -----------------------------------------------------------------------------------------------


def test_changing_the_future_changes_no_bit_of_the_past(model):
    layout, timesteps, prompt = (2, 1, 3), torch.linspace(1000, 100, 6).view(1, 6), prompt_of(model)
    x_t, other = latents(6), latents(6)
    other[:, :, 3:] = latents(3, seed=9)
    for run in (
        lambda x: model.forward_whole(x, timesteps, prompt, mask=frame_mask(layout)),
        lambda x: cached(model, x, timesteps, prompt, layout),
    ):
        a, b = run(x_t), run(other)
        assert torch.equal(a[:, :, :3], b[:, :, :3])
        assert differ(a[:, :, 3:], b[:, :, 3:])


def test_changing_the_past_changes_the_future(model):
    layout, timesteps, prompt = (2, 1, 3), torch.linspace(1000, 100, 6).view(1, 6), prompt_of(model)
    x_t, other = latents(6), latents(6)
    other[:, :, 0] = latents(1, seed=9)[:, :, 0]
    mask = frame_mask(layout)
    a, b = (model.forward_whole(x, timesteps, prompt, mask=mask) for x in (x_t, other))
    assert all(differ(a[:, :, frame], b[:, :, frame]) for frame in range(6))


def test_a_call_commits_nothing(model):
    cache = model.kv_cache(latent_height=CELLS, latent_width=CELLS, window_frames=3)
    prompt, chunk = prompt_of(model), Chunk(0, 0, 1)
    first = model(latents(1), 500.0, prompt, cache=cache, chunk=chunk)
    model(latents(1, seed=5), 900.0, prompt, cache=cache, chunk=chunk)
    assert cache.frames() == []
    assert torch.equal(model(latents(1), 500.0, prompt, cache=cache, chunk=chunk), first)


# --- masks ---------------------------------------------------------------------------------------------------------


def picture(mask: Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask]


def test_each_chunk_sees_itself_and_earlier_chunks():
    assert picture(frame_mask((1, 2, 2))) == ["x....", "xxx..", "xxx..", "xxxxx", "xxxxx"]


def test_a_window_counts_back_from_the_end_of_the_chunk():
    assert picture(frame_mask((1, 2, 2), window_frames=3)) == ["x....", "xxx..", "xxx..", "..xxx", "..xxx"]


def test_teacher_forcing_hides_the_future_and_every_other_noisy_chunk():
    assert picture(teacher_forcing_mask((1, 2, 1))) == [
        "x.......",  # clean frames see clean ones
        "xxx.....",
        "xxx.....",
        "xxxx....",
        "....x...",  # noisy frames see their own chunk, and the clean ones before it
        "x....xx.",
        "x....xx.",
        "xxx....x",
    ]


def test_no_mask_lets_every_frame_see_every_frame(model):
    x_t, timesteps, prompt = latents(4), torch.linspace(1000, 100, 4).view(1, 4), prompt_of(model)
    assert_close(
        model.forward_whole(x_t, timesteps, prompt),
        model.forward_whole(x_t, timesteps, prompt, mask=torch.ones(4, 4).bool()),
    )


# --- timesteps, prompts, batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", [700.0, torch.tensor([700.0, 700.0])], ids=["number", "per clip"])
def test_one_timestep_is_the_same_as_that_timestep_for_every_frame(model, timestep):
    x_t, prompt = latents(3, batch=2), prompt_of(model, batch=2)
    wanted = model.forward_whole(x_t, torch.full((2, 3), 700.0), prompt)
    assert_close(model.forward_whole(x_t, timestep, prompt), wanted)
    clean, mask = latents(3, seed=1, batch=2), teacher_forcing_mask((1, 2))
    wanted = model.forward_whole(x_t, torch.full((2, 3), 700.0), prompt, mask=mask, clean=clean)
    assert torch.equal(model.forward_whole(x_t, timestep, prompt, mask=mask, clean=clean), wanted)


def test_clips_of_a_batch_do_not_touch_each_other(model):
    x_t, timesteps = latents(3, batch=2), torch.tensor([[900.0, 500, 100], [1000, 30, 400]])
    embeds = torch.randn(2, 5, SHAPE.text_dim, generator=torch.Generator().manual_seed(0))
    together = cached(model, x_t, timesteps, model.prompt_cache(embeds), (1, 2))
    for i in range(2):
        one = slice(i, i + 1)
        assert_close(cached(model, x_t[one], timesteps[one], model.prompt_cache(embeds[one]), (1, 2)), together[one])


def test_prompt_and_timestep_change_the_prediction(model):
    x_t = latents(2)
    plain = model.forward_whole(x_t, 500.0, prompt_of(model))
    assert differ(model.forward_whole(x_t, 500.0, prompt_of(model, seed=1)), plain)
    assert differ(model.forward_whole(x_t, 900.0, prompt_of(model)), plain)


def test_a_prediction_has_the_shape_of_its_input_also_when_it_is_not_square(model):
    x_t = torch.zeros(1, 24, 2, 4, 6)
    cache = model.kv_cache(latent_height=4, latent_width=6, window_frames=2)
    assert cache.tokens_per_latent_frame == 6
    assert model(x_t, 500.0, prompt_of(model), cache=cache, chunk=Chunk(0, 0, 2)).shape == x_t.shape


def test_bfloat16_weights_give_nearly_the_same(model):
    small = copy.deepcopy(model).bfloat16()
    x_t, timesteps = latents(4), torch.linspace(1000, 100, 4).view(1, 4)
    wanted = cached(model, x_t, timesteps, prompt_of(model), (1,) * 4, window_frames=2)
    embeds = torch.randn(1, 5, SHAPE.text_dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    got = cached(small, x_t, timesteps, small.prompt_cache(embeds), (1,) * 4, window_frames=2)
    assert got.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: 0.4 % at each of some tens of roundings
    assert_close(got.float(), wanted, limit=0.05 * wanted.abs().max().item())


def test_a_network_begins_by_predicting_nothing():
    model = build_network(replace(SHAPE, layers=1), 24)
    assert (model.forward_whole(latents(2), 500.0, prompt_of(model)) == 0).all()


@torch.enable_grad()
def test_gradient_checkpointing_changes_no_gradient():
    model = tiny_transformer().requires_grad_(True)
    gradients = []
    for checkpointing in (False, True):
        model.transformer.gradient_checkpointing = checkpointing
        model.zero_grad()
        model.forward_whole(latents(2), 500.0, prompt_of(model), mask=frame_mask((1, 1))).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert all(gradient.abs().max() > 0 for name, gradient in gradients[0].items() if "bias" not in name)
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_network_with_a_grid_knows_where_a_patch_stands():
    """Of equal patches Wan's network makes equal ones, as all that each sees of the others is the same."""
    for size, is_placed in ((0, False), (2, True)):
        model = tiny_transformer(shape=replace(SHAPE, grid_embed_size=size))
        out = model.forward_whole(torch.ones(1, 24, 1, CELLS, CELLS), 1000.0, prompt_of(model))
        patches = out.unflatten(4, (2, 2)).unflatten(3, (2, 2)).permute(3, 5, 0, 1, 2, 4, 6).flatten(0, 1)
        assert torch.allclose(patches, patches[:1], atol=1e-4) != is_placed
    assert "grid_embed_size" not in tiny_transformer().config
    with pytest.raises(UsageError, match="1x3 patches a frame: the network was taught at most 2 rows and columns"):
        model.forward_whole(torch.ones(1, 24, 1, 2, 6), 1000.0, prompt_of(model))
