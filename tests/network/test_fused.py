import copy
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from tiny import SHAPE, tiny_transformer
from torch import Tensor, nn

from causvid_cli.geometry import take_chunks
from causvid_cli.network import model as causal
from causvid_cli.network import packed_linear
from causvid_cli.network.cache import PromptCache
from causvid_cli.network.masks import frame_mask
from causvid_cli.network.model import CausalTransformer
from causvid_cli.network.packed_linear import Product

ROUNDING = 2e-5
"""Float32 sums in another order: about 1e-6 is measured; a wrong scale or gate costs 1e-2 and more."""
CELLS, FRAMES = 4, 6


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def plain() -> CausalTransformer:
    model = tiny_transformer()
    torch.manual_seed(3)
    for name, weight in model.named_parameters():  # norms and biases begin as the identity: give them something to do
        if "norm" in name or "bias" in name:
            weight.add_(0.3 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def fused(plain) -> CausalTransformer:
    return copy.deepcopy(plain).fuse()


def latents(*, batch: int = 1) -> Tensor:
    return torch.randn(batch, 24, FRAMES, CELLS, CELLS, generator=torch.Generator().manual_seed(0))


def prompt_of(model: CausalTransformer, *, batch: int = 1, words: int = 5) -> PromptCache:
    embeds = torch.randn(batch, words, SHAPE.text_dim, generator=torch.Generator().manual_seed(1))
    return model.prompt_cache(embeds.to(model.transformer.patch_embedding.weight.dtype))


def rolled(model: CausalTransformer, timestep: float | Tensor, *, chunk_frames: int = 2) -> Tensor:
    """Predictions of chunk after chunk in a cache from which the first frames are evicted."""
    x_t, prompt, made = latents(), prompt_of(model), []
    cache = model.kv_cache(latent_height=CELLS, latent_width=CELLS, window_frames=4)
    for chunk in take_chunks(FRAMES, chunk_frames):
        frames = x_t[:, :, chunk.start_frame : chunk.end_frame]
        made.append(model(frames, timestep, prompt, cache=cache, chunk=chunk))
        model(frames, 0.0, prompt, cache=cache, chunk=chunk)
        cache.commit()
    return torch.cat(made, dim=2)


def assert_close(got: Tensor, wanted: Tensor, limit: float = ROUNDING) -> None:
    error = (got.float() - wanted.float()).abs().max().item()
    assert 0 < error <= limit, f"largest error {error:.3g}"  # 0 would mean that nothing was fused


@pytest.mark.parametrize("timestep", [1000.0, 750.0, 0.0])
@pytest.mark.parametrize("chunk_frames", [1, 2, 3])
def test_chunks_are_what_the_plain_layers_give(plain, fused, timestep, chunk_frames):
    assert_close(*(rolled(model, timestep, chunk_frames=chunk_frames) for model in (fused, plain)))


def test_whole_clips_of_a_batch_are_what_the_plain_layers_give(plain, fused):
    mask = frame_mask((2, 4))
    assert_close(*(m.forward_whole(latents(batch=2), 700.0, prompt_of(m, batch=2), mask=mask) for m in (fused, plain)))


@pytest.mark.parametrize("words", [1, SHAPE.head_dim, SHAPE.head_dim + 1])
def test_prompts_of_any_length_are_seen_as_by_the_plain_layers(plain, fused, words):
    whole = [m.forward_whole(latents(), 700.0, prompt_of(m, words=words)) for m in (fused, plain)]
    assert_close(*whole)
    keys, _ = fused._fused.blocks[0].cross_keys_values(prompt_of(fused, words=words).embeds)
    assert (keys.ndim == 3) == (words <= SHAPE.head_dim)  # folded where that is less work


def test_fused_and_plain_layers_can_share_a_prompt(plain, fused):
    prompt, each = prompt_of(fused), torch.full((1, FRAMES), 700.0)
    wanted = plain.forward_whole(latents(), each, prompt_of(plain))
    for timestep in (700.0, each, 700.0):  # a number takes the fused layers, a tensor the plain ones
        torch.testing.assert_close(fused.forward_whole(latents(), timestep, prompt), wanted, atol=ROUNDING, rtol=0)


def test_a_timestep_for_each_frame_takes_the_plain_layers(plain, fused):
    timesteps = torch.linspace(1000, 0, FRAMES).view(1, -1)
    a, b = (m.forward_whole(latents(), timesteps, prompt_of(m)) for m in (fused, plain))
    assert torch.equal(a, b)


def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_layers(plain):
    small = copy.deepcopy(plain).bfloat16()
    wanted = rolled(plain, 500.0)
    error, plain_error = ((rolled(m, 500.0).float() - wanted).abs().max() for m in (copy.deepcopy(small).fuse(), small))
    assert error < 2 * plain_error


def test_weights_keep_their_names_and_values(plain, fused):
    assert plain.state_dict().keys() == fused.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), fused.parameters(), strict=True))


def test_converted_weights_are_not_mixed_with_those_from_before(plain):
    model = copy.deepcopy(plain).fuse().double().float()
    assert torch.equal(rolled(model, 500.0), rolled(plain, 500.0))


def test_a_copy_is_not_fused_for_its_weights_may_change(plain, fused):
    assert torch.equal(rolled(copy.deepcopy(fused), 500.0), rolled(plain, 500.0))


def test_a_large_network_is_not_copied_and_gives_the_same(plain, monkeypatch):
    monkeypatch.setattr(causal, "LARGEST_MERGED", 1000)
    model = copy.deepcopy(plain).fuse()
    assert not any(block.merged for block in model._fused.blocks)
    assert_close(rolled(model, 500.0), rolled(plain, 500.0))


def test_layers_that_are_more_than_their_weights_are_called_not_merged(plain):
    class Doubled(nn.Linear):  # as a LoRA beside it would be
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = copy.deepcopy(plain)
    layer = model.transformer.blocks[1].attn1.to_v
    doubled = Doubled(layer.in_features, layer.out_features)
    doubled.load_state_dict(layer.state_dict())
    model.transformer.blocks[1].attn1.to_v = doubled
    wanted = rolled(model, 500.0)
    assert_close(rolled(model.fuse(), 500.0), wanted)
    assert (wanted - rolled(plain, 500.0)).abs().max() > 0.01


def test_patches_that_are_more_than_their_weights_are_called(plain):
    class Doubled(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = copy.deepcopy(plain)
    model.transformer.patch_embedding.__class__ = Doubled
    wanted = rolled(model, 500.0)
    assert_close(rolled(model.fuse(), 500.0), wanted)
    assert (wanted - rolled(plain, 500.0)).abs().max() > 0.01


def test_blocks_whose_weights_are_fetched_when_called_are_called(plain):
    model = copy.deepcopy(plain).fuse()
    for block in model.transformer.blocks:
        block._diffusers_hook = None
    assert torch.equal(rolled(model, 500.0), rolled(plain, 500.0))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_a_product_is_its_layers_side_by_side(packed, gelu, monkeypatch):
    torch.manual_seed(0)
    layers, x = [nn.Linear(6, n) for n in (4, 3)], torch.randn(2, 5, 6)
    if not packed:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    wanted = torch.cat([layer(x) for layer in layers], dim=-1)
    product = Product.of(*layers, gelu=gelu)
    assert product.packed == (packed and torch.backends.mkldnn.is_available())
    got = product(x)
    wanted = nn.functional.gelu(wanted, approximate="tanh") if gelu else wanted
    assert (got - wanted).abs().max() < 1e-6  # float32 rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_does_without_operations_that_torch_no_longer_has(dtype, monkeypatch):
    packed_linear._reads_packed.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    layer, x = nn.Linear(6, 4, dtype=dtype), torch.randn(2, 6, dtype=dtype)
    product = Product.of(layer)
    assert not product.packed
    assert torch.equal(product(x), layer(x))
    packed_linear._reads_packed.cache_clear()
