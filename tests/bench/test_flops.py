"""The count of FLOP, beside what torch counts when the network is really called."""

from collections.abc import Iterator

import pytest
import torch
from tiny import SHAPE, tiny_transformer
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from causvid_cli.bench.flops import TokenGroup, call_flops, parts_of
from causvid_cli.bench.network_calls import network_calls
from causvid_cli.geometry import Chunk
from causvid_cli.models.catalogue import catalogue
from causvid_cli.models.empty import empty_network
from causvid_cli.network.model import CausalTransformer
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import Step

STEPS = (Step(1000.0, 1.0), Step(500.0, 0.5))


def counting() -> FlopCounterMode:
    """torch's counter, which has to be told of the kernels of CPUs."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def product(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
        return 2 * x.numel() * weight[0]

    kernels = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    if torch.backends.mkldnn.is_available():
        kernels[torch.ops.mkldnn._linear_pointwise] = product
    return FlopCounterMode(display=False, custom_mapping=kernels)


def calls_of_wan(model: CausalTransformer, window_frames: int) -> Iterator[dict]:
    """A first step, a clean pass, a step that is joined to the next clean pass, at 480x832."""
    options = {"device": "meta", "dtype": torch.bfloat16}
    prompt = model.prompt_cache(torch.zeros(1, 512, 4096, **options))
    cache = model.kv_cache(latent_height=60, latent_width=104, window_frames=window_frames)
    x_t, (first, second) = torch.zeros(1, 16, 3, 60, 104, **options), (Chunk(0, 0, 3), Chunk(1, 3, 3))
    for chunk, timestep, more in (
        (first, 900.0, {}),
        (first, 0.0, {"kv_only": True}),
        (second, 900.0, {"merged_clean_pass": (first, x_t)}),
    ):
        yield {"x_t": x_t, "timestep": timestep, "prompt": prompt, "cache": cache, "chunk": chunk, **more}


@pytest.mark.parametrize(("name", "window"), [("wan2.1-1.3b", 21), ("wan2.1-1.3b", 3), ("wan2.1-14b", 6)])
@torch.inference_mode()
def test_the_count_is_torchs_own_at_the_sizes_of_wan(name, window):
    """Within 1e-4; what is left out is the embedding of the timestep. Four layers of it, and no weights, will do."""
    config = catalogue().architectures[name].config | {"num_layers": 4}
    network = empty_network("transformer", config).to(torch.bfloat16)
    model = CausalTransformer(network).eval().requires_grad_(False).fuse()
    for number, call in enumerate(calls_of_wan(model, window)):
        parts = parts_of(call["x_t"], call["timestep"], call["cache"], call["chunk"], call.get("merged_clean_pass"))
        ours = call_flops(model.config, parts, text_rows=512, new_prompt=number == 0)
        with counting() as counter:
            model(**call)
        assert ours == pytest.approx(counter.get_total_flops(), rel=1e-4)


def test_a_step_of_the_1_3b_model_is_what_its_layers_are():
    """By hand: 30 blocks of 1536, 4680 new tokens that see 21 latent frames; the floor of a chunk is known from it."""
    config = empty_network("transformer", catalogue().architectures["wan2.1-1.3b"].config).config
    new, seen, dim = 3 * 1560, 21 * 1560, 1536
    block = new * (6 * dim**2 + 2 * dim * 8960 + 2 * (seen + 512) * dim)
    step = 2 * (30 * block + new * 2 * 64 * dim)
    assert call_flops(config, [TokenGroup(new, seen)], text_rows=512) == step
    clean = call_flops(config, [TokenGroup(new, seen, kv_only=True)], text_rows=512)
    assert 0.96 < clean / step < 0.98  # nothing but keys and values of the last block
    assert 4 * step + clean == pytest.approx(202e12, rel=0.01)  # 256 ms at 790 TFLOP/s


@pytest.mark.parametrize("joined", [False, True])
@torch.inference_mode()
def test_the_count_of_a_whole_clip_is_torchs_own(joined):
    """With a sink and a window that slides; timesteps are embedded once, which is not counted."""
    model = tiny_transformer().fuse()
    words = torch.randn(1, SHAPE.head_dim + 1, SHAPE.text_dim)  # of fewer the heads are one product, mostly of zeros
    prompt = model.prompt_cache(words)
    size = {"latent_height": 8, "latent_width": 8}

    def roll() -> None:
        cache = model.kv_cache(window_frames=2, sink_frames=1, **size)
        noise = seeded_noise(0, batch=1, channels=24, **size)
        chunks = [Chunk(n, n, 1) for n in range(6)]
        for _ in rollout(
            model,
            prompt=lambda _: prompt,
            steps=STEPS,
            cache=cache,
            chunks=chunks,
            noise=noise,
            merge_clean_pass=joined,
        ):
            pass

    roll()  # embeds the timesteps
    prompt = model.prompt_cache(words)
    with network_calls(model, torch.device("cpu")) as calls, counting() as counter:
        roll()
    assert sum(call.flops for call in calls()) == counter.get_total_flops()
    kinds = [call.kind for call in calls()]
    assert kinds.count("joined") == (5 if joined else 0)
    assert kinds.count("clean") == (0 if joined else 5)
