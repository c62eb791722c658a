"""Quantized networks are near their dense twins; GGUF files are what their bits say, exactly."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from weights.test_lora import ROUNDING, expected, kijai, save

pytest.importorskip("gguf")
pytest.importorskip("torchao")

import gguf

from causvid_cli.errors import DeviceError, ModelError
from causvid_cli.geometry import take_chunks
from causvid_cli.network.layers import WanTransformer3DModel
from causvid_cli.network.model import CausalTransformer
from causvid_cli.network.quantize import check_quantize, is_plain, is_quantized, quantize_network
from causvid_cli.weights.gguf import ORIGINAL_SHAPE, compute_in, gguf_shapes, load_gguf, take_gguf
from causvid_cli.weights.lora import add_loras, read_lora
from causvid_cli.weights.names import transformer_names

CPU = torch.device("cpu")
SHAPE = {"num_attention_heads": 2, "attention_head_dim": 32, "text_dim": 32, "freq_dim": 32, "ffn_dim": 128}
INT8 = 0.02
"""Relative error of a network whose weights have 8 bits and a scale a row: 0.7 % is measured."""
Q8_0 = 0.02
"""Of 8 bits and a scale for 32 weights: 0.5 % is measured."""


def network(*, seed: int = 0) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    net = WanTransformer3DModel(**SHAPE, num_layers=2).requires_grad_(False)
    nn.init.normal_(net.proj_out.weight, std=0.2)
    return net


@pytest.fixture(scope="module")
def dense() -> CausalTransformer:
    return CausalTransformer(network()).eval()


def rolled(model: CausalTransformer) -> Tensor:
    """Predictions of chunk after chunk, each seeing the clean ones before it."""
    rng, made = torch.Generator().manual_seed(1), []
    x_t, text = torch.randn(1, 16, 4, 4, 4, generator=rng), torch.randn(1, 5, 32, generator=rng)
    dtype = model.transformer.patch_embedding.weight.dtype
    with torch.inference_mode():
        prompt = model.prompt_cache(text.to(dtype))
        cache = model.kv_cache(latent_height=4, latent_width=4, window_frames=3)
        for chunk in take_chunks(4, 1):
            frames = x_t[:, :, chunk.start_frame : chunk.end_frame]
            made.append(model(frames, 500.0, prompt, cache=cache, chunk=chunk))
            model(frames, 0.0, prompt, cache=cache, chunk=chunk)
            cache.commit()
    return torch.cat(made, dim=2).float()


def error(model: CausalTransformer, dense: CausalTransformer) -> float:
    wanted = rolled(dense)
    return ((rolled(model) - wanted).norm() / wanted.norm()).item()


# --- int8 and fp8 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_near_the_dense_network(dense, dtype):
    small = copy.deepcopy(dense).to(dtype)
    before = copy.deepcopy(small)
    quantize_network(small.transformer, "int8", device=CPU)
    assert 0 < error(small, before) < INT8


def test_only_the_linear_layers_of_the_blocks_are_quantized(dense):
    small = copy.deepcopy(dense)
    quantize_network(small.transformer, "int8", device=CPU)
    linear = {name: layer for name, layer in small.transformer.named_modules() if isinstance(layer, nn.Linear)}
    assert {name for name, layer in linear.items() if not is_plain(layer)} == {
        name for name in linear if name.startswith("blocks.")
    }
    assert is_plain(small.transformer.proj_out)
    assert small.transformer.blocks[0].attn1.to_q.weight.qdata.dtype == torch.int8
    assert is_quantized(small.transformer) and not is_quantized(dense.transformer)


def test_the_layers_of_a_quantized_network_are_not_merged_for_their_weights_are_not_numbers_to_read(dense):
    small = copy.deepcopy(dense)
    quantize_network(small.transformer, "int8", device=CPU)
    wanted = rolled(small)
    assert (rolled(small.fuse()) - wanted).abs().max() < 1e-5  # operations in another order; same layers
    assert not any(block.merged for block in small._fused.blocks)


def test_a_lora_is_merged_before(dense, tmp_path):
    net = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2
    ).requires_grad_(False)
    halves = {"blocks.0.self_attn.q": (torch.randn(4, 32), torch.randn(32, 4))}
    wanted = expected(net, halves)["blocks.0.attn1.to_q.weight"]
    add_loras(net, [(read_lora(save(tmp_path, kijai, halves), net, model="tiny"), 1.0)])
    quantize_network(net, "int8", device=CPU)
    got = net.blocks[0].attn1.to_q.weight.dequantize()
    assert (got - wanted).abs().max() <= wanted.abs().max() / 127  # a step of the largest row


def test_quantizing_twice_is_refused(dense):
    small = copy.deepcopy(dense)
    quantize_network(small.transformer, "int8", device=CPU)
    with pytest.raises(ModelError, match="--quantize int8: the weights of this model are quantized already"):
        quantize_network(small.transformer, "int8", device=CPU)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_fp8_goes_with_bfloat16_only(dtype, monkeypatch):
    monkeypatch.setattr("causvid_cli.network.quantize.computes_fp8", lambda device: True)
    with pytest.raises(DeviceError, match="--quantize fp8 goes with --dtype bfloat16 only, not float"):
        check_quantize("fp8", torch.device("cuda"), dtype)


def test_fp8_needs_a_gpu_that_computes_in_it():
    with pytest.raises(DeviceError, match="--quantize fp8 needs an NVIDIA GPU .* not cpu; try --quantize int8"):
        check_quantize("fp8", CPU, torch.bfloat16)


@pytest.mark.gpu
def test_fp8_is_near_the_dense_network(dense):
    small = copy.deepcopy(dense).to("cuda", torch.bfloat16)
    before = copy.deepcopy(small)
    quantize_network(small.transformer, "fp8", device=torch.device("cuda"))
    assert 0 < error(small, before) < 0.08  # 3 bits of mantissa, of weights and activations


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModelError, match=r"needs the package torchao; try pip install '\.\[quantize\]' in"):
        check_quantize("int8", CPU, torch.float32)


@pytest.mark.slow
def test_packages_say_nothing_while_they_load_and_loggers_speak_again_afterwards():
    code = (
        "import torch; from causvid_cli import pipeline; from causvid_cli.network.quantize import check_quantize;"
        "check_quantize('int8', torch.device('cpu'), torch.float32); import logging, sys;"
        "assert 'torchao' in sys.modules;"
        "import causvid_cli.codec.wan; assert 'diffusers' in sys.modules;"
        "assert logging.getLogger('a').isEnabledFor(logging.WARNING)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- GGUF ----------------------------------------------------------------------------------------------------------


def write_gguf(path: Path, net: WanTransformer3DModel, kind: str, *, prefix: str = "", official: bool = True) -> Path:
    """As city96's converter writes Wan: its large weights in one type, the small ones in F32."""
    names = {own: name for name, own in transformer_names(len(net.blocks)).items()}
    wanted = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "wan")
    for own, tensor in net.state_dict().items():
        data = tensor.float().numpy()
        large = tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        dtype = wanted if large else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(data, dtype)
        writer.add_tensor(prefix + (names[own] if official else own), packed, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def opened(path: Path, dtype: torch.dtype = torch.float32) -> CausalTransformer:
    with torch.device("meta"):
        net = WanTransformer3DModel(**SHAPE, num_layers=2)
    take_gguf(net, load_gguf(path), name=path.name)
    compute_in(net, dtype)
    return CausalTransformer(net).eval().requires_grad_(False).to(dtype)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_dense_types_are_dense_weights_bit_for_bit(dense, kind, tmp_path):
    model = opened(write_gguf(tmp_path / "a.gguf", dense.transformer, kind))
    assert not is_quantized(model.transformer)
    rounding = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    for name, tensor in dense.transformer.state_dict().items():
        wanted = tensor.to(rounding).float() if tensor.ndim == 2 else tensor
        assert torch.equal(model.transformer.state_dict()[name], wanted), name


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_q8_is_near_the_dense_network_and_is_what_gguf_unpacks(dense, prefix, tmp_path):
    path = write_gguf(tmp_path / "a.gguf", dense.transformer, "Q8_0", prefix=prefix)
    model = opened(path)
    assert 0 < error(model, dense) < Q8_0
    unpacked = copy.deepcopy(dense)
    for tensor in gguf.GGUFReader(path).tensors:
        own = transformer_names(2)[tensor.name.removeprefix(prefix)]
        data = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        unpacked.transformer.state_dict()[own].copy_(data.view_as(unpacked.transformer.state_dict()[own]))
    # diffusers unpacks to float16, gguf to float32
    assert error(model, unpacked) < 1e-3


def test_names_of_diffusers_go_too(dense, tmp_path):
    a, b = (opened(write_gguf(tmp_path / f"{o}.gguf", dense.transformer, "Q8_0", official=o)) for o in (True, False))
    assert torch.equal(rolled(a), rolled(b))


def test_only_what_lies_in_blocks_stays_packed(dense, tmp_path):
    model = opened(write_gguf(tmp_path / "a.gguf", dense.transformer, "Q8_0"), torch.bfloat16)
    packed = {n for n, m in model.transformer.named_modules() if isinstance(m, nn.Linear) and not is_plain(m)}
    linear = {n for n, m in model.transformer.named_modules() if isinstance(m, nn.Linear)}
    assert packed == {name for name in linear if name.startswith("blocks.")}
    assert model.transformer.blocks[0].attn1.to_q.weight.dtype == torch.uint8
    assert model.transformer.proj_out.weight.dtype == torch.bfloat16
    wanted = rolled(model)
    assert (rolled(model.fuse()) - wanted).abs().max() < 0.05 * wanted.abs().max()  # bfloat16, in another order


def test_k_types_unpack_as_gguf_unpacks_them():
    """Nothing here can write them, so their bits are random, their scales small numbers."""
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    rng = torch.Generator().manual_seed(0)
    for kind in (gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K, gguf.GGMLQuantizationType.Q5_K):
        _, size = gguf.GGML_QUANT_SIZES[kind]
        data = torch.randint(0, 256, (8, size), generator=rng, dtype=torch.uint8)
        scales = torch.tensor([0.01, 0.02], dtype=torch.float16).view(torch.uint8)
        place = slice(0, 4) if kind.name != "Q6_K" else slice(size - 2, size)
        data[:, place] = scales[: place.stop - place.start]
        wanted = torch.from_numpy(gguf.dequantize(data.numpy(), kind))
        got = dequantize_gguf_tensor(GGUFParameter(data, quant_type=kind)).float()
        assert (got - wanted).abs().max() <= 2e-3 * wanted.abs().max()


def test_a_folded_tensor_gets_its_shape_back(dense, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "wan")
    names = {own: name for name, own in transformer_names(2).items()}
    for own, tensor in dense.transformer.state_dict().items():
        data, kind = tensor.float().numpy(), gguf.GGMLQuantizationType.F32
        if own == "patch_embedding.weight":
            writer.add_array(ORIGINAL_SHAPE + names[own], [int(n) for n in data.shape])
            data, kind = gguf.quantize(data.reshape(-1, 256), gguf.GGMLQuantizationType.Q8_0), "Q8_0"
            kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(names[own], data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert gguf_shapes(tmp_path / "a.gguf")["patch_embedding.weight"] == (64, 16, 1, 2, 2)
    assert 0 < error(opened(tmp_path / "a.gguf"), dense) < Q8_0


def test_shapes_are_read_without_the_weights(dense, tmp_path):
    shapes = gguf_shapes(write_gguf(tmp_path / "a.gguf", dense.transformer, "Q8_0", prefix="model.diffusion_model."))
    own = {name: dense.transformer.state_dict()[own] for name, own in transformer_names(2).items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in own.items()}


def test_a_lora_is_computed_beside_packed_weights(dense, tmp_path):
    path = write_gguf(tmp_path / "a.gguf", dense.transformer, "Q8_0")
    halves = {
        name: (0.2 * torch.randn(4, 64), 0.2 * torch.randn(64, 4))
        for name in ("blocks.0.self_attn.q", "blocks.1.cross_attn.o")
    }
    lora_file = save(tmp_path, kijai, halves)
    model, merged = opened(path), opened(path)
    plain = rolled(model)
    for net, packed in ((model.transformer, True), (merged.transformer, False)):
        if not packed:
            from causvid_cli.weights.gguf import dequantize_layer

            for name in [n for n, m in net.named_modules() if isinstance(m, nn.Linear) and not is_plain(m)]:
                dequantize_layer(net, name)
        lora = read_lora(lora_file, net, model="tiny")
        add_loras(net, [(lora, 0.5), (lora, 0.25)])
    assert is_quantized(model.transformer) and not is_quantized(merged.transformer)
    wanted = rolled(merged)
    assert (rolled(model) - wanted).abs().max() < 100 * ROUNDING * wanted.abs().max()
    assert (plain - wanted).abs().max() > 1e-3


def test_a_difference_of_a_packed_weight_unpacks_it(dense, tmp_path):
    from safetensors.torch import save_file

    model = opened(write_gguf(tmp_path / "a.gguf", dense.transformer, "Q8_0"))
    difference = torch.randn(64, 64)
    save_file({"blocks.0.self_attn.q.diff": difference}, tmp_path / "d.safetensors")
    add_loras(model.transformer, [(read_lora(tmp_path / "d.safetensors", model.transformer, model="tiny"), 1.0)])
    layer = model.transformer.blocks[0].attn1.to_q
    assert is_plain(layer)
    wanted = dense.transformer.blocks[0].attn1.to_q.weight + difference
    assert (layer.weight - wanted).abs().max() < 2e-3  # half a step of Q8_0, and float16


def test_what_is_no_gguf_or_of_another_network_is_refused(dense, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(20))
    (tmp_path / "html.gguf").write_text("<html>" * 9)
    whole = write_gguf(tmp_path / "a.gguf", dense.transformer, "Q8_0").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    for name in ("bad", "html", "cut"):
        with pytest.raises(ModelError, match="cannot be read as GGUF") as raised:
            load_gguf(tmp_path / f"{name}.gguf")
        assert "\n" not in str(raised.value)
    with torch.device("meta"):
        other = WanTransformer3DModel(**SHAPE | {"ffn_dim": 256}, num_layers=2)
    with pytest.raises(ModelError, match=r"of another shape \(blocks.0.ffn.net.0.proj.weight \[128, 64\] instead"):
        take_gguf(other, load_gguf(tmp_path / "a.gguf"), name="a.gguf")
