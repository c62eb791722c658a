"""Low memory, few bits and LoRAs, through the pipeline and the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_pack
from typer.testing import CliRunner

pytest.importorskip("accelerate")

from causvid_cli.cli.app import app
from causvid_cli.errors import DeviceError, ModelError
from causvid_cli.models.load import load_transformer
from causvid_cli.network.offload import HOOK, offload_blocks
from causvid_cli.pipeline import ChunkResult, Pipeline, load
from causvid_cli.request import Loading
from causvid_cli.weights.lora_files import lora_use

CAR, BOAT = "a red car moves left in the snow", "a blue boat moves right on the sea"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="module")
def lora(tmp_path_factory, pack) -> Path:
    """Of the pack's first layer, large enough to be seen."""
    rng = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("loras") / "style.safetensors"
    halves = {"lora_down": torch.randn(2, 24, generator=rng), "lora_up": torch.randn(24, 2, generator=rng)}
    save_file({f"diffusion_model.blocks.0.self_attn.v.{k}.weight": v for k, v in halves.items()}, path)
    return path


def made(pipeline: Pipeline) -> list[ChunkResult]:
    """Chunks of a video whose prompt changes on the way, so that the past is seen anew."""
    stream = pipeline.stream(CAR, length="20f", seed=1)
    chunks = [next(stream), next(stream)]
    stream.prompt = BOAT
    return chunks + list(stream)


def latents(pipeline: Pipeline) -> torch.Tensor:
    return torch.cat([chunk.latent for chunk in made(pipeline)], dim=2)


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.stderr
    return result


# --- offloading ----------------------------------------------------------------------------------------------------


def test_an_offloaded_network_gives_the_same_chunks_bit_for_bit(pack):
    """As it is resident with the same operations: what is fused differs by rounding."""
    resident = load(pack, device="cpu")
    resident.model._fused = None
    wanted = latents(resident)
    offloaded = load(pack, device="cpu", loading=Loading(offload="group"))
    got = latents(offloaded)
    assert all(block._diffusers_hook.get_hook(HOOK) for block in offloaded.model.transformer.blocks)
    assert torch.equal(got, wanted)
    assert (latents(load(pack, device="cpu")) - wanted).abs().max() < 1e-4  # fused


@pytest.mark.gpu
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_blocks_are_fetched_by_the_gpu_and_leave_it(pack, quantize):
    resident = load(pack, device="cuda", dtype="bfloat16", loading=Loading(quantize=quantize))
    resident.model._fused = None
    offloaded = load(pack, device="cuda", dtype="bfloat16", loading=Loading(offload="group", quantize=quantize))
    assert torch.equal(latents(offloaded), latents(resident))
    first = offloaded.model.transformer.blocks[0]
    assert first.attn1.to_q.weight.device.type == "cpu"
    assert offloaded.model.transformer.proj_out.weight.device.type == "cuda"


def test_only_blocks_wait(pack):
    model = load_transformer(pack / "transformer", load(pack, device="cpu").facts)
    offload_blocks(model.transformer, CPU)
    assert [name for name, module in model.transformer.named_modules() if hasattr(module, "_diffusers_hook")] == [
        f"blocks.{number}" for number in range(len(model.transformer.blocks))
    ]


def test_each_block_fetches_the_next():
    from causvid_cli.network.offload import _chain

    class Group:
        onload_self = True

    class Hook:
        def __init__(self) -> None:
            self.group, self.next_group = Group(), None

    hooks = [Hook() for _ in range(3)]
    _chain(hooks)
    assert [hook.group.onload_self for hook in hooks] == [True, False, False]
    assert [hook.next_group for hook in hooks] == [hooks[1].group, hooks[2].group, None]


# --- few bits ------------------------------------------------------------------------------------------------------


def test_a_quantized_pipeline_is_near_the_dense_one(pack):
    pytest.importorskip("torchao")
    dense, small = (latents(load(pack, device="cpu", loading=Loading(quantize=q))) for q in ("none", "int8"))
    error = ((small - dense).norm() / dense.norm()).item()
    assert 0 < error < 0.05  # 1 % is measured, after five chunks that see each other


def test_fp8_on_a_cpu_is_refused_before_the_model_is_read(pack):
    with pytest.raises(DeviceError, match="--quantize fp8 needs an NVIDIA GPU"):
        load(pack, device="cpu", loading=Loading(quantize="fp8"))
    result = run("t2v", CAR, "-m", pack, "--device", "cpu", "--quantize", "fp8", code=5)
    assert len(result.stderr.strip().splitlines()) == 1


# --- LoRAs ---------------------------------------------------------------------------------------------------------


def test_a_lora_changes_the_video_by_its_weight(pack, lora):
    def of(*weights: float) -> np.ndarray:
        loading = Loading(loras=tuple(lora_use(lora, weight) for weight in weights))
        return latents(load(pack, device="cpu", loading=loading, lora_files=[lora] * len(weights))).numpy()

    plain, half = latents(load(pack, device="cpu")).numpy(), of(0.5)
    assert np.abs(half - plain).max() > 1e-3
    np.testing.assert_allclose(of(0.25, 0.25), half, atol=1e-4)
    np.testing.assert_allclose(of(0.0), plain, atol=1e-5)


def test_a_pipeline_tells_what_its_loras_were_made_for(pack, lora):
    loading = Loading(loras=(lora_use(lora),))
    assert load(pack, device="cpu").notes == ()
    (note,) = load(pack, device="cpu", loading=loading, lora_files=[lora]).notes
    assert "style.safetensors: made for a bidirectional Wan" in note


def test_a_lora_that_changed_since_it_was_named_is_refused(pack, lora, tmp_path):
    other = tmp_path / lora.name
    other.write_bytes(lora.read_bytes()[:-4] + b"1234")
    with pytest.raises(ModelError, match="not the LoRA that tiny"):
        load(pack, device="cpu", loading=Loading(loras=(lora_use(lora),)), lora_files=[other])


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_names_loras_and_not_where_they_lie(pack, lora, here):
    options = ["-m", pack, "--device", "cpu", "--length", "8f", "-s", 1]
    said = run("t2v", CAR, *options, "--lora", f"{lora}:0.5", "-o", "a.mp4").stderr
    assert "a style carries over" in said
    recipe = json.loads(run("info", "a.mp4", "--json").stdout)["recipe"]
    assert recipe["loading"] == {"loras": [{"name": lora.name, "sha256": lora_use(lora).sha256, "weight": 0.5}]}
    assert str(lora.parent) not in json.dumps(recipe)


def test_rerun_and_resume_ask_for_a_lora_that_is_gone(pack, lora, here, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.resolve.find_pack", lambda name: pack)
    run("t2v", CAR, "-m", pack, "--device", "cpu", "--length", "8f", "-s", 1, "--lora", lora, "-o", "a.mp4")
    result = run("rerun", "a.mp4", "-m", pack, "-o", "b.mp4", code=4)
    assert "style.safetensors: not there, a LoRA that a.mp4 was made with; say where it lies by --lora" in result.stderr
    run("rerun", "a.mp4", "-m", pack, "-o", "b.mp4", "--lora", lora)
    Path("style.safetensors").write_bytes(lora.read_bytes())
    run("rerun", "a.mp4", "-m", pack, "-o", "c.mp4")
    assert Path("b.mp4").stat().st_size == Path("c.mp4").stat().st_size
    assert run("info", "b.mp4", "--json").stdout.count("style.safetensors") == 1


def test_a_lora_for_another_base_is_one_line(pack, here):
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 5120)}, "other.safetensors")
    result = run("t2v", CAR, "-m", pack, "--lora", "other.safetensors", "--device", "cpu", code=4)
    (line,) = result.stderr.strip().splitlines()
    assert "--lora other.safetensors does not fit tiny: 1 without its other half" in line
    result = run("t2v", CAR, "-m", pack, "--lora", "none.safetensors", code=4)
    assert "--lora none.safetensors: cannot be read: no such file" in result.stderr
    assert list(here.iterdir()) == [here / "other.safetensors"]


# --- memory, told and refused --------------------------------------------------------------------------------------


def test_too_little_memory_is_one_line_before_anything_is_loaded(pack, here, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.load.free_memory_bytes", lambda device: 1000)
    monkeypatch.setattr("causvid_cli.pipeline.verify_pack", None)
    for options in ([], ["--dry-run"]):
        result = run("t2v", CAR, "-m", pack, "--device", "cpu", *options, code=5)
        (line,) = result.stderr.strip().splitlines()
        assert "tiny at 64x64 in float32 takes about 2.1 MB, and cpu has 1.0 kB free" in line
    assert list(here.iterdir()) == []


def test_auto_says_what_it_chose(pack, here):
    said = run("t2v", CAR, "-m", pack, "--device", "cpu", "--length", "4f", "--offload", "auto", "-o", "a.mp4").stderr
    assert "--offload auto: none, which takes about" in said


def test_a_dry_run_of_a_large_model_loads_nothing(here, monkeypatch):
    monkeypatch.setattr("causvid_cli.cli.run.load_pipeline", None)
    options = ["--random-weights", "self-forcing", "--device", "cpu", "--dtype", "bfloat16", "--length", "9f"]
    options += ["--size", "416x240", "--dry-run"]
    shown = run("t2v", "a cat", *options).stdout
    assert re.search(r"network +2\.8 GB", shown)
    plan = json.loads(run("t2v", "a cat", *options, "--json").stdout)
    assert "first_frame_s" not in plan
    assert plan["memory"]["peak"] > plan["memory"]["network"] == 2 * 1_418_996_800
