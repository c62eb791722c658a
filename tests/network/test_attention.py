import copy

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName
from sampling.test_rollout import assert_close, roll
from tiny import SHAPE, tiny_transformer

from causvid_cli.errors import DeviceError
from causvid_cli.network.attention import set_attention
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import ATTENTION, AUTO

ROUNDING = 5e-5
"""Of the same sums in another order, carried from chunk to chunk; 2e-6 is measured."""


@pytest.fixture(scope="module", params=["fused", "plain"])
def model(request) -> CausalTransformer:
    return tiny_transformer().fuse() if request.param == "fused" else tiny_transformer()


def test_the_names_are_those_of_diffusers_that_fetch_no_program():
    named = {backend.value for backend in AttentionBackendName if not backend.value.endswith("_hub")}
    assert set(ATTENTION) == named | {AUTO}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["native", "_native_math", "_native_flash", "flex"])
def test_every_back_end_gives_the_same_frames(model, name):
    with torch.inference_mode():
        prompt = model.prompt_cache(torch.randn(1, 5, SHAPE.text_dim, generator=torch.Generator().manual_seed(3)))
        wanted = roll(model, prompt)
        other = copy.deepcopy(model)
        other = other.fuse() if model._fused else other
        set_attention(other, name)
        assert_close(roll(other, prompt), wanted, ROUNDING)


def test_what_was_chosen_computes_every_attention(model):
    asked = copy.deepcopy(model)
    set_attention(asked, "_native_math")
    processors = [attention.processor for block in asked.transformer.blocks for attention in (block.attn1, block.attn2)]
    assert {processor._attention_backend for processor in processors} == {AttentionBackendName("_native_math")}
    set_attention(asked, AUTO)
    assert {processor._attention_backend for processor in processors} == {None}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("_native_cudnn", "does not work on cpu in float32: "),
        ("xformers", "install"),
        ("sage", "install"),
        ("flash_9", "the installed diffusers does not know it"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_line_before_anything_is_made(model, name, why):
    with pytest.raises(DeviceError, match=f"^--attention {name}.*{why}.*; try auto$"):
        set_attention(model, name)


def test_a_back_end_is_refused_without_the_check_that_diffusers_keeps_to_itself(model, monkeypatch):
    monkeypatch.delattr(attention_dispatch, "_check_attention_backend_requirements")
    with pytest.raises(DeviceError, match="^--attention xformers does not work on cpu in float32: .*; try auto$"):
        set_attention(model, "xformers")
    set_attention(copy.deepcopy(model), "native")
