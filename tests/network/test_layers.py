"""The layers under diffusers' names are diffusers' layers."""

import subprocess
import sys

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel as Theirs

from causvid_cli.errors import ModelError
from causvid_cli.network.layers import WanTransformer3DModel
from causvid_cli.network.model import CausalTransformer

SHAPE = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
    "freq_dim": 32, "ffn_dim": 48, "num_layers": 2,
}  # fmt: skip


def both(**changes) -> tuple[WanTransformer3DModel, Theirs]:
    """A network of each class, from the same seed."""
    networks = []
    for kind in (WanTransformer3DModel, Theirs):
        torch.manual_seed(0)
        networks.append(kind(**SHAPE | changes))
    return tuple(networks)


@pytest.mark.parametrize("cross_attn_norm", [True, False])
def test_names_shapes_and_first_weights_are_diffusers_own(cross_attn_norm):
    ours, theirs = both(cross_attn_norm=cross_attn_norm)
    wanted = theirs.state_dict()
    assert ours.state_dict().keys() == wanted.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    assert {name: ours.config[name] for name in SHAPE} == {name: theirs.config[name] for name in SHAPE}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("per_token", [False, True])
@torch.inference_mode()
def test_a_block_computes_what_diffusers_block_does(dtype, per_token):
    ours, theirs = (CausalTransformer(network).to(dtype) for network in both())
    rng = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng).to(dtype)

    x_t, prompt = random(1, 4, 3, 4, 6), random(1, 5, 16)
    timestep = torch.tensor([[900.0, 500.0, 0.0]]) if per_token else 900.0
    got, wanted = (net.forward_whole(x_t, timestep, net.prompt_cache(prompt)) for net in (ours, theirs))
    assert torch.equal(got, wanted)


def test_a_configuration_of_another_kind_is_refused_and_extra_entries_are_not():
    published = {**SHAPE, "_class_name": "WanTransformer3DModel", "rope_max_seq_len": 1024, "image_dim": None}
    assert WanTransformer3DModel.from_config(published).config.num_layers == 2
    with pytest.raises(ModelError, match="image_dim, added_kv_proj_dim"):
        WanTransformer3DModel.from_config(published | {"image_dim": 1280, "added_kv_proj_dim": 8})
    with pytest.raises(ModelError, match="qk_norm"):
        WanTransformer3DModel.from_config(published | {"qk_norm": "layer_norm"})


LARGE = (
    *("accelerate", "datasets", "diffusers", "gguf", "huggingface_hub", "imageio", "jinja2", "matplotlib", "pandas"),
    *("peft", "pyarrow", "ray", "requests", "rich", "scipy", "sympy", "tokenizers", "torch._dynamo", "torch._inductor"),
    *("torchao", "torchvision", "transformers", "yaml"),
)
"""What a video of the embedded model needs nothing of: extras and their like, and torch's compiler."""


def test_a_video_of_the_embedded_model_loads_no_large_package_but_torch(tmp_path):
    """torch alone takes a second; diffusers with its optional packages took three more.

    And nothing of what torch has left behind is looked through for garbage when the command ends.
    """
    code = (
        "import sys; from causvid_cli.cli.app import app\n"
        "try: app(['t2v', 'a red car', '--length', '4f', '--size', '64x64', '--steps', '1', '-q', '-o', 'x.mp4'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        f"print(*[name for name in {LARGE} if name in sys.modules])\n"
        "import gc; assert gc.isenabled() and gc.get_freeze_count() > 10 * len(gc.get_objects())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "x.mp4\n\n"
