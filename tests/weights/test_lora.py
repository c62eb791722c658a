"""LoRAs in every published form: all of one come to the same weights, and to what peft computes beside them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from causvid_cli.errors import ModelError, UsageError
from causvid_cli.weights import checkpoint, pickles
from causvid_cli.weights.lora import add_loras, read_lora
from causvid_cli.weights.lora_files import find_loras, lora_use, parse_lora
from causvid_cli.weights.names import transformer_names

ROUNDING = 1e-6
"""Float32 sums of four products of numbers near 1, in another order."""
RANK, ALPHA = 4, 8.0
LAYERS = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.1.cross_attn.k": "blocks.1.attn2.to_k",
    "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
}
"""Official name -> diffusers' name of the layers that the LoRA changes."""


def network(*, seed: int = 0, **changes: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    shape = {"num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64}
    return WanTransformer3DModel(**shape | {"num_layers": 2} | changes).requires_grad_(False)


@pytest.fixture(scope="module")
def base() -> WanTransformer3DModel:
    return network()


@pytest.fixture(scope="module")
def halves(base) -> dict[str, tuple[Tensor, Tensor]]:
    """Official name -> down [rank, in], up [out, rank]."""
    rng = torch.Generator().manual_seed(1)
    shapes = {official: base.get_submodule(own).weight.shape for official, own in LAYERS.items()}
    return {
        name: (torch.randn(RANK, columns, generator=rng), torch.randn(rows, RANK, generator=rng))
        for name, (rows, columns) in shapes.items()
    }


def kijai(halves) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in halves.items():
        state[f"diffusion_model.{name}.lora_down.weight"] = down
        state[f"diffusion_model.{name}.lora_up.weight"] = up
        state[f"diffusion_model.{name}.alpha"] = torch.tensor(ALPHA)
    return state


def comfy(halves) -> dict[str, Tensor]:
    """ComfyUI's with peft's letters and no alpha."""
    state = {}
    for name, (down, up) in halves.items():
        state[f"diffusion_model.{name}.lora_A.weight"] = down
        state[f"diffusion_model.{name}.lora_B.weight"] = up * ALPHA / RANK
    return state


def musubi(halves) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in halves.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(ALPHA)}
    return state


def diffusers(halves) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in halves.items():
        state[f"transformer.{LAYERS[name]}.lora_A.weight"] = down
        state[f"transformer.{LAYERS[name]}.lora_B.weight"] = up * ALPHA / RANK
    return state


def peft(halves) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in halves.items():
        state[f"base_model.model.{name}.lora_A.default.weight"] = down
        state[f"base_model.model.{name}.lora_B.default.weight"] = up
    return state


def longlive(halves) -> dict[str, Tensor]:
    """As peft gives them from inside FSDP, flattened into one file."""
    state = {}
    for name, (down, up) in halves.items():
        path = f"generator_lora.base_model.model.model._fsdp_wrapped_module.{name}"
        state |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up * ALPHA / RANK}
    return state


def flat(start: str, *, joint: str = "_") -> Callable:
    """Names whose dots are underscores, behind a start; joint: what stands for the dot behind a block's number."""

    def form(halves) -> dict[str, Tensor]:
        state = {}
        for name, (down, up) in halves.items():
            _, number, rest = name.split(".", 2)
            layer = f"{start}blocks_{number}{joint}{rest if joint == '.' else rest.replace('.', '_')}"
            state |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
            state[f"{layer}.alpha"] = torch.tensor(ALPHA)
        return state

    form.__name__ = f"{start}{joint}"
    return form


def dotted(start: str, down_leaf: str, up_leaf: str) -> Callable:
    """Official names behind a start, with other words for the halves."""

    def form(halves) -> dict[str, Tensor]:
        state = {}
        for name, (down, up) in halves.items():
            state |= {f"{start}{name}.{down_leaf}.weight": down, f"{start}{name}.{up_leaf}.weight": up * ALPHA / RANK}
        return state

    form.__name__ = f"{start}{down_leaf}"
    return form


FORMS: list[Callable] = [
    *(kijai, comfy, musubi, diffusers, peft, longlive),
    *(flat("lora_unet__"), flat("lycoris_"), flat("lora_unet_", joint=".")),
    dotted("net.", "lora_A", "lora_B"),
    dotted("module.", "lora_A", "lora_B"),
    dotted("base_model.model.", "lora_A.v1.0", "lora_B.v1.0"),
    dotted("base_model.model._checkpoint_wrapped_module.", "lora_A.default", "lora_B.default"),
    dotted("", "lora_linear_layer.down", "lora_linear_layer.up"),
]


def save(folder: Path, form: Callable, halves) -> Path:
    if form is peft:
        path = folder / "peft"
        path.mkdir()
        save_file(peft(halves), path / "adapter_model.safetensors")
        config = {"r": RANK, "lora_alpha": ALPHA, "alpha_pattern": {}, "use_dora": False}
        (path / "adapter_config.json").write_text(json.dumps(config))
        return path
    path = folder / f"{form.__name__}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in form(halves).items()}, path)
    return path


def merged(base: WanTransformer3DModel, *files: tuple[Path, float]) -> dict[str, Tensor]:
    changed = copy.deepcopy(base)
    add_loras(changed, [(read_lora(path, changed, model="tiny"), weight) for path, weight in files])
    return changed.state_dict()


def expected(base: WanTransformer3DModel, halves, weight: float = 1.0) -> dict[str, Tensor]:
    """W + s B A, by hand in float64."""
    state = {name: tensor.double() for name, tensor in base.state_dict().items()}
    for official, (down, up) in halves.items():
        state[f"{LAYERS[official]}.weight"] += weight * ALPHA / RANK * (up.double() @ down.double())
    return state


def assert_near(got: dict[str, Tensor], wanted: dict[str, Tensor], limit: float = ROUNDING) -> None:
    assert got.keys() == wanted.keys()
    error, name = max(((got[name].double() - wanted[name].double()).abs().max().item(), name) for name in wanted)
    scale = max(tensor.abs().max().item() for tensor in wanted.values())
    assert error <= limit * scale, f"{name} differs by {error:.3g}"


def call(net: WanTransformer3DModel) -> Tensor:
    rng = torch.Generator().manual_seed(2)
    x, text = torch.randn(1, 16, 2, 4, 4, generator=rng), torch.randn(1, 5, 32, generator=rng)
    return net(x, torch.tensor([500.0]), text).sample


# --- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_every_form_comes_to_the_weights_that_are_counted_by_hand(base, halves, form, weight, tmp_path):
    assert_near(merged(base, (save(tmp_path, form, halves), weight)), expected(base, halves, weight))


@pytest.mark.parametrize("form", [kijai, comfy, diffusers], ids=lambda form: form.__name__)
def test_merged_is_what_peft_computes_beside_the_weights(base, halves, form, tmp_path):
    changed, beside = copy.deepcopy(base), copy.deepcopy(base)
    add_loras(changed, [(read_lora(save(tmp_path, form, halves), changed, model="tiny"), 0.7)])
    state = form(halves)
    if form is not diffusers:  # diffusers' own reading of the same file
        state = _convert_non_diffusers_wan_lora_to_diffusers(dict(state))
    beside.load_lora_adapter(state, adapter_name="a")
    beside.set_adapters(["a"], [0.7])
    wanted = call(beside)
    assert (wanted - call(base)).abs().max() > 0.01
    assert (call(changed) - wanted).abs().max() < 1e-4 * wanted.abs().max()  # products in another order


def test_a_whole_musubi_file_is_read_as_diffusers_reads_it(base, tmp_path):
    rng, halves = torch.Generator().manual_seed(3), {}
    for official, own in transformer_names(2).items():
        if official.endswith(".weight") and ("attn" in official or "ffn" in official) and "norm" not in official:
            rows, columns = base.state_dict()[own].shape
            halves[official.removesuffix(".weight")] = (
                torch.randn(2, columns, generator=rng),
                torch.randn(rows, 2, generator=rng),
            )
    lora = read_lora(save(tmp_path, musubi, halves), base, model="tiny")
    theirs = _convert_musubi_wan_lora_to_diffusers(musubi(halves))
    assert len(lora.products) == len(theirs) // 2 == 20
    for name, low in lora.products.items():
        layer = f"transformer.{name.removesuffix('.weight')}"
        wanted = theirs[f"{layer}.lora_B.weight"] @ theirs[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(low.scale * low.up @ low.down, wanted, atol=1e-4, rtol=1e-4)


def test_differences_of_weights_biases_norms_and_modulations_land_too(base, tmp_path):
    names = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.1.norm3.diff": "blocks.1.norm2.weight",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "head.diff_m": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "patch_embedding.diff": "patch_embedding.weight",
        "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "text_embedding.2.diff": "condition_embedder.text_embedder.linear_2.weight",
    }
    wanted = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    state = {f"diffusion_model.{name}": torch.randn_like(wanted[own]) for name, own in names.items()}
    for name, own in names.items():
        wanted[own] += 0.5 * state[f"diffusion_model.{name}"]
    save_file(state, tmp_path / "full.safetensors")
    assert_near(merged(base, (tmp_path / "full.safetensors", 0.5)), wanted)


def test_a_low_rank_change_of_the_patch_embedding_is_flattened(base, tmp_path):
    down, up = torch.randn(2, 16, 1, 2, 2), torch.randn(32, 2, 1, 1, 1)
    save_file({"patch_embedding.lora_down.weight": down, "patch_embedding.lora_up.weight": up}, tmp_path / "p")
    wanted = base.state_dict() | {
        "patch_embedding.weight": base.patch_embedding.weight + torch.einsum("or,rithw->oithw", up[..., 0, 0, 0], down)
    }
    assert_near(merged(base, (tmp_path / "p", 1.0)), wanted)


@pytest.mark.parametrize("factored", ["", "w1", "w2", "w1 w2"])
def test_a_lokr_is_a_kronecker_product(base, factored, tmp_path):
    """LyCORIS: alpha counts by the rank of what is factored, of w2 before w1, and not where nothing is."""
    rng, layer = torch.Generator().manual_seed(4), "lycoris_blocks_0_ffn_0"
    factors = {"w1": torch.randn(8, 4, generator=rng), "w2": torch.randn(8, 8, generator=rng)}  # of a weight [64, 32]
    state, scale = {f"{layer}.alpha": torch.tensor(3.0)}, 1.0
    for name, rank in (("w1", 2), ("w2", 5)):
        if name in factored:
            a, b = torch.randn(8, rank, generator=rng), torch.randn(rank, factors[name].shape[1], generator=rng)
            state |= {f"{layer}.lokr_{name}_a": a, f"{layer}.lokr_{name}_b": b}
            factors[name], scale = a @ b, 3.0 / rank
        else:
            state[f"{layer}.lokr_{name}"] = factors[name]
    save_file(state, tmp_path / "lokr.safetensors")
    w1, w2 = (factors[name].double() for name in ("w1", "w2"))
    change = torch.einsum("ab,cd->acbd", w1, w2).reshape(64, 32)
    wanted = {name: tensor.double() for name, tensor in base.state_dict().items()}
    wanted["blocks.0.ffn.net.0.proj.weight"] += 0.5 * scale * change
    assert_near(merged(base, (tmp_path / "lokr.safetensors", 0.5)), wanted)


def test_several_add_up_in_any_order(base, halves, tmp_path):
    others = {name: (down.flip(0) * 2, up * 0.1) for name, (down, up) in list(halves.items())[:3]}
    first = (save(tmp_path, kijai, halves), 0.5)
    second = (save(tmp_path, musubi, others), 2.0)
    wanted = expected(base, halves, 0.5)
    for official, (down, up) in others.items():
        wanted[f"{LAYERS[official]}.weight"] += 2 * ALPHA / RANK * (up.double() @ down.double())
    assert_near(merged(base, first, second), wanted)
    assert_near(merged(base, second, first), wanted)


def test_the_sum_is_rounded_once_in_a_bfloat16_network(base, halves, tmp_path):
    small = copy.deepcopy(base).bfloat16()
    path = save(tmp_path, kijai, halves)
    got = merged(small, (path, 0.25), (path, 0.75))
    for name, wanted in expected(small, halves).items():
        error = (got[name].double() - wanted).abs()
        assert (error <= 1.001 * 2**-8 * wanted.abs() + 1e-6).all(), name  # half of bfloat16's step, and no more


def test_pefts_configuration_scales(base, halves, tmp_path):
    path = save(tmp_path, peft, halves)
    config = {"r": RANK, "lora_alpha": 2, "use_rslora": True, "alpha_pattern": {"blocks.0.self_attn.q": 6}}
    (path / "adapter_config.json").write_text(json.dumps(config))
    lora = read_lora(path, base, model="tiny")
    assert lora.products["blocks.0.attn1.to_q.weight"].scale == 6 / 2
    assert lora.products["blocks.1.ffn.net.2.weight"].scale == 2 / 2
    assert read_lora(path / "adapter_model.safetensors", base, model="tiny").products.keys() == lora.products.keys()


def test_diffusers_header_scales(base, halves, tmp_path):
    state = {name: tensor.contiguous() for name, tensor in diffusers(halves).items()}
    header = {"lora_adapter_metadata": json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK})}
    save_file(state, tmp_path / "d.safetensors", metadata=header)
    lora = read_lora(tmp_path / "d.safetensors", base, model="tiny")
    assert {low.scale for low in lora.products.values()} == {2.0}


def test_longlives_checkpoint_is_a_pickle_that_is_read_and_not_run(base, halves, tmp_path):
    nested = {"generator_lora": {k.removeprefix("generator_lora."): v for k, v in longlive(halves).items()}, "step": 3}
    torch.save(nested, tmp_path / "lora.pt")
    changed = copy.deepcopy(base)
    lora = read_lora(tmp_path / "lora.pt", changed, model="tiny")
    assert lora.note == ""
    add_loras(changed, [(lora, 1.0)])
    assert_near(changed.state_dict(), expected(base, halves))


class Canary:
    def __reduce__(self):
        return (Path.touch, (Path("sung"),))


def test_a_pickle_with_code_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"blocks.0.self_attn.q.lora_A.weight": Canary()}, "lora.pt")
    with pytest.raises(ModelError, match="lora.pt"):
        read_lora(Path("lora.pt"), base, model="tiny")
    assert not Path("sung").exists()


# --- what does not fit ---------------------------------------------------------------------------------------------


def state_of(change: Callable[[dict], None], halves) -> dict[str, Tensor]:
    state = kijai(halves)
    change(state)
    return {name: tensor.contiguous() for name, tensor in state.items()}


Q = "diffusion_model.blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda s: s.update({f"{Q}x.lora_up.weight": torch.zeros(1, 1)}),
            r"1 of no layer here \(.*qx.lora_up.weight\)",
        ),
        (lambda s: s.pop(f"{Q}.lora_up.weight"), r"1 without its other half \(.*q.lora_down.weight\)"),
        (
            lambda s: s.update({f"{Q}.lora_down.weight": torch.zeros(4, 5120)}),
            r"1 of another shape \(.*q.lora_down.weight \[4, 5120\] and up \[32, 4\] for a weight \[32, 32\]\).*"
            "made for Wan 14B, layers 5120 wide, and these are 32 wide",
        ),
        (
            lambda s: s.update({"diffusion_model.blocks.0.cross_attn.k_img.lora_up.weight": torch.zeros(1, 1)}),
            "made for an image-to-video model",
        ),
        (lambda s: s.update({"diffusion_model.blocks.9.diff_m": torch.zeros(1, 6, 32)}), "of no layer here"),
        (lambda s: s.update({"diffusion_model.blocks.0.diff_m": torch.zeros(1, 5, 32)}), "of another shape"),
        (lambda s: s.update({f"{Q}.dora_scale": torch.zeros(32)}), "it is a DoRA, which cannot be used"),
        (lambda s: s.update({f"{Q}.lokr_t2": torch.zeros(2, 2)}), "it is a Tucker LoKr, which cannot be used"),
        (lambda s: s.update({f"{Q}.hada_w1_a": torch.zeros(2, 2)}), "it is a LoHa, which cannot be used"),
        (lambda s: s.update({f"{Q}.lora_up.weight": torch.full((32, 4), torch.nan)}), "1 not finite"),
        (lambda s: s.clear() or s.update({"unet.a": torch.zeros(1)}), "of no layer here"),
        (lambda s: s.update({"model." + Q + ".lora_up.weight": torch.zeros(32, 4)}), "1 twice"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_in_one_line(base, halves, change, complaint, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(state_of(change, halves), path)
    with pytest.raises(ModelError, match=complaint) as raised:
        read_lora(path, base, model="tiny")
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


K = "blocks.0.self_attn.q"


def small(**tensors: object) -> dict:
    """A LoRA of one layer, [32, 32], with other tensors in the place of its own."""
    own = {"lora_down.weight": torch.ones(2, 32), "lora_up.weight": torch.ones(32, 2)}
    named = {name.replace("__", "."): value for name, value in tensors.items()}
    return {f"{K}.{name}": value for name, value in (own | named).items() if value is not None}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({3: torch.ones(2)}, "3 is no name of a tensor, which is text"),
        (small(alpha=torch.ones(2)), r"1 of another shape \(.*q.alpha \[2\] instead of \[\]\)"),
        (small(alpha=torch.tensor(1j)), r"1 of other numbers than a LoRA's \(.*q.alpha complex64\)"),
        (small(alpha=torch.tensor(float("nan"))), "1 not finite"),
        (small(alpha=8), "q.alpha is int, not a tensor"),
        (small(lora_down__weight=torch.ones(0, 32), lora_up__weight=torch.ones(32, 0)), "1 of another shape"),
        (small(lora_down__weight=torch.tensor(1.0)), r"1 of another shape .*q.lora_down.weight \[\] and up"),
        (small(lora_up__weight=torch.ones(32)), r"1 of another shape .*up \[32\] for a weight \[32, 32\]"),
        (small(lora_up__weight=torch.ones(32, 2, dtype=torch.int32)), r"other numbers than a LoRA's .*weight int32"),
        (small(lora_up__bias=torch.ones(5)), r"1 of another shape \(.*lora_up.bias \[5\] instead of \[32\]\)"),
        (small(lokr_w1=torch.ones(4, 4)), "1 without its other half"),
        (small(lora_up__weight=None), "1 without its other half"),
        ({"generator_lora": [1]}, "generator_lora is list, not a tensor"),
        ({f"{K}.lokr_w1": torch.ones(4, 4), f"{K}.lokr_w2": torch.ones(4, 4)}, "1 of another shape .*w1 .*w2"),
        (small(diff=torch.ones(1, 1).expand(2**20, 2**20)), "1 of another shape"),
        ([torch.ones(2)], "holds list, not named tensors"),
    ],
)
def test_an_odd_pickle_is_refused_in_one_line(content, complaint, base, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "open_pickle", pickles.read_pickle)  # the same here, and quicker
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=complaint) as raised:
        read_lora(tmp_path / "odd.pt", base, model="tiny")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"lora_alpha": "8"}', "lora_alpha: "),
        ('{"lora_alpha": [8]}', "lora_alpha: "),
        ('{"alpha_pattern": ["a"]}', "alpha_pattern: "),
        ('{"alpha_pattern": {"a": null}}', "alpha_pattern"),
        ('{"lora_alpha": 1e400}', "not finite|lora_alpha|not JSON"),
        ("[1]", "adapter_config.json: "),
        ("{", "adapter_config.json: "),
        ("[" * 400, "adapter_config.json: "),
        ('{"use_dora": true}', "a DoRA, which cannot be used"),
    ],
)
def test_an_odd_configuration_of_peft_is_refused_in_one_line(text, complaint, base, halves, tmp_path):
    path = save(tmp_path, peft, halves)
    (path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=complaint) as raised:
        read_lora(path, base, model="tiny")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 900


def test_no_safetensors_is_refused(base, tmp_path):
    (tmp_path / "a.safetensors").write_text("<html>")
    (tmp_path / "a.pt").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    refused = {"a.safetensors": "cannot be read", "a.pt": "no checkpoint", "lfs.safetensors": "Git LFS pointer"}
    for name, complaint in (refused | {"empty": "no adapter_"}).items():
        with pytest.raises(ModelError, match=complaint):
            read_lora(tmp_path / name, base, model="tiny")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", "need fewer steps"),
        ("lightx2v_T2V_14B_cfg_step_distill.safetensors", "need fewer steps"),
        ("watercolour.safetensors", "a style carries over more or less"),
    ],
)
def test_a_lora_for_a_bidirectional_model_is_told_of(base, halves, name, said, tmp_path):
    path = save(tmp_path, kijai, halves).rename(tmp_path / name)
    assert said in read_lora(path, base, model="tiny").note


# --- FILE[:WEIGHT] -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0),
        ("C:\\loras\\a.safetensors:.5", "C:\\loras\\a.safetensors", 0.5),
        ("a:b:c.safetensors", "a:b:c.safetensors", 1.0),
        ("a:b:2", "a:b", 2.0),
    ],
)
def test_a_weight_follows_the_last_colon(text, path, weight):
    assert parse_lora(text) == (Path(path), weight)


def test_a_file_whose_name_ends_like_a_weight_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:0.5").touch()
    assert parse_lora("a:0.5") == (Path("a:0.5"), 1.0)
    assert parse_lora("a:0.5:2") == (Path("a:0.5"), 2.0)


@pytest.mark.parametrize("text", ["", ":1", "a:nan", "a:inf", "a:11", "  "])
def test_a_lora_without_a_name_or_with_a_wild_weight_is_refused(text):
    with pytest.raises(UsageError, match="--lora"):
        parse_lora(text)


def test_a_lora_is_found_again_by_its_bytes(halves, tmp_path):
    path = save(tmp_path, kijai, halves)
    folder = save(tmp_path, peft, halves)
    uses = [lora_use(path, 0.5), lora_use(folder)]
    assert uses[0].name == "kijai.safetensors"
    moved = path.rename(tmp_path / "renamed.safetensors")
    assert find_loras(uses, [tmp_path / "gone", folder, moved], where="a.mp4") == (moved, folder)
    with pytest.raises(ModelError, match="not there, a LoRA that a.mp4 was made with; say where it lies by --lora"):
        find_loras(uses, [folder], where="a.mp4")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="not the LoRA that a.mp4 was made with"):
        find_loras(uses, [folder, moved], where="a.mp4")


def test_a_lora_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="--lora .*none.safetensors: cannot be read: no such file"):
        lora_use(tmp_path / "none.safetensors")
