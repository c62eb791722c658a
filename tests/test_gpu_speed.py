"""What only a GPU can show of the fast paths: nothing waits for it, graphs and streams change no frame."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sampling.test_rollout import assert_close, noise_of, roll, small_cache
from tiny import SHAPE, tiny_pack, tiny_transformer

from causvid_cli.network.cache import PromptCache
from causvid_cli.network.model import CausalTransformer
from causvid_cli.pipeline import load
from causvid_cli.request import Loading

pytestmark = pytest.mark.gpu
ROUNDING = 1e-3
"""Between the kernels of two programs, in TF32 at worst, carried from chunk to chunk."""


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def model() -> CausalTransformer:
    return tiny_transformer().to("cuda").fuse()


def prompt_of(model: CausalTransformer) -> PromptCache:
    return model.prompt_cache(torch.randn(1, 5, SHAPE.text_dim, generator=torch.Generator().manual_seed(3)).cuda())


def rolled(model: CausalTransformer, prompt: PromptCache, **options) -> list[torch.Tensor]:
    return roll(model, prompt, 14, cache=small_cache(model), noise=noise_of(device="cuda"), **options)


@pytest.mark.parametrize("joined", [False, True])
def test_no_call_waits_for_the_device(model, joined):
    prompt = prompt_of(model)
    rolled(model, prompt, merge_clean_pass=joined)  # tables that are made once may be waited for
    torch.cuda.set_sync_debug_mode("error")
    try:
        rolled(model, prompt, merge_clean_pass=joined)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("joined", [False, True])
def test_graphs_of_compiled_blocks_give_the_same_frames(model, joined):
    prompt = prompt_of(model)
    wanted = rolled(model, prompt)
    model.compile(frames=1)
    assert model._fused.recordings is not None
    for _ in range(2):
        assert_close(rolled(model, prompt, merge_clean_pass=joined), wanted, ROUNDING)


@pytest.mark.parametrize("compiled", [False, True])
def test_frames_made_ahead_are_the_same(tmp_path, compiled):
    pipeline = load(tiny_pack(tmp_path / "tiny"), device="cuda", loading=Loading(compile=compiled))
    assert pipeline.benefits_from_prefetch
    plain, ahead = (
        np.concatenate([chunk.frames for chunk in pipeline.stream("a red car", length="40f", seed=1, ahead=a)])
        for a in (False, True)
    )
    assert (plain == ahead).all()
