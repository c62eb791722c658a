import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from causvid_cli.config import PackFacts, load_facts, to_json
from causvid_cli.errors import ExitCode, ModelError
from causvid_cli.models import packs
from causvid_cli.models.install.identify import identify_network
from causvid_cli.models.packs import find_pack, list_packs, pack_digest, verify_pack, write_pack_manifest
from causvid_cli.paths import models_folder
from causvid_cli.weights.files import load_safetensors, load_state, save_safetensors
from causvid_cli.weights.names import bare_names, official_to_diffusers_transformer, transformer_names

FACTS = PackFacts(
    name="tiny",
    chunk_frames=3,
    steps=(1000, 757, 522),
    shift=8.0,
    warp_steps=False,
    sink_frames=1,
    window_frames=12,
    rope="relative",
    prediction="flow",
    fps=8,
    height=96,
    width=96,
    text="storybook",
    codec="pixel",
    license="Apache-2.0",
    source="https://example.org/tiny",
)


# --- names of tensors ----------------------------------------------------------------------------------------------


def tensors(names) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1) for name in names}


def test_a_transformer_with_missing_and_unknown_tensors_names_the_first_few():
    state = tensors(transformer_names(2))
    for name in list(state)[:5]:
        del state[name]
    state["img_emb.proj.0.weight"] = torch.zeros(1)
    with pytest.raises(
        ModelError, match=r"5 missing \(head.modulation, .*, \.\.\.\); 1 unknown \(img_emb.proj.0.weight"
    ):
        official_to_diffusers_transformer(state)


def test_a_missing_block_is_noticed():
    state = {name: tensor for name, tensor in tensors(transformer_names(3)).items() if not name.startswith("blocks.1.")}
    with pytest.raises(ModelError, match=r"missing \(blocks.1..*unknown \(blocks.2."):
        official_to_diffusers_transformer(state)


def test_an_empty_checkpoint_is_refused():
    with pytest.raises(ModelError, match="missing"):
        official_to_diffusers_transformer({})


@pytest.mark.parametrize(
    "lost", ["conv1.bias", "decoder.upsamples.3.resample.1.bias", "decoder.upsamples.4.shortcut.bias"]
)
def test_a_vae_with_a_tensor_lost_is_refused(lost, golden_dir):
    keys = json.loads((golden_dir / "keys_wan_vae.json").read_text())["keys"]
    shapes = {name: tuple(entry["shape"]) for name, entry in keys.items()}
    assert identify_network(shapes, where="x").part == "vae"
    del shapes[lost]
    with pytest.raises(ModelError, match=rf"x is not a whole Wan2.1 VAE: 1 missing \({lost}\)"):
        identify_network(shapes, where="x")


def test_wrappers_are_dropped_as_whole_path_parts():
    wrapped = {
        "model._fsdp_wrapped_module.blocks.0._orig_mod.norm3.weight": "blocks.0.norm3.weight",
        "_fsdp_wrapped_module.model.head.model.bias": "head.model.bias",
        "my_orig_mod.weight": "my_orig_mod.weight",
        "model.diffusion_model.head.head.bias": "head.head.bias",
        "net.patch_embedding.weight": "patch_embedding.weight",
        "network.weight": "network.weight",
    }
    assert bare_names(wrapped) == wrapped


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(ModelError, match="two tensors are called a once wrappers are dropped: a and model.a"):
        bare_names(["a", "model.a"])


# --- loading into a module -----------------------------------------------------------------------------------------


def test_a_state_that_does_not_fit_says_what_and_how_many():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5))
    state = module.state_dict() | {"9.weight": torch.zeros(1), "0.weight": torch.zeros(3, 9)}
    for name in ("1.weight", "1.bias", "2.weight", "2.bias"):
        del state[name]
    with pytest.raises(ModelError) as error:
        load_state(module, state, name="student")
    assert str(error.value) == (
        "student does not fit Sequential: 4 missing (1.weight, 1.bias, 2.weight, ...); 1 unexpected (9.weight); "
        "1 of another shape (0.weight [3, 9] instead of [3, 2])"
    )


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_state_that_fits_is_loaded(device):
    state = nn.Linear(2, 3).state_dict()
    module = nn.Linear(2, 3, device=device)
    load_state(module, state, name="student")
    assert torch.equal(module.weight, state["weight"])


# --- safetensors ---------------------------------------------------------------------------------------------------


def a_state(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    state = {f"layer.{i}": torch.randn(30, 10, generator=rng).to(dtype) for i in range(7)}
    return state | {"tied": state["layer.0"], "slice": state["layer.1"][:, 2:5], "table": torch.arange(9)}


@pytest.mark.parametrize(("shard_bytes", "files"), [(15 * 2**20, 1), (1500, 4), (1, 10)])
def test_saved_tensors_come_back(tmp_path, shard_bytes, files):
    state = a_state()
    save_safetensors(state, tmp_path, shard_bytes=shard_bytes)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    loaded = load_safetensors(tmp_path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_shards_are_bfloat16_and_indexed_as_hugging_face_does(tmp_path):
    save_safetensors(a_state(torch.float32), tmp_path, shard_bytes=1500)
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(a_state())
    assert set(index["weight_map"].values()) == {
        f"diffusion_pytorch_model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)
    }
    loaded = load_safetensors(tmp_path)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in loaded.values())
    assert loaded["layer.0"].dtype == torch.bfloat16
    assert loaded["table"].dtype == torch.int64


def test_every_user_may_read_saved_tensors(tmp_path):
    save_safetensors(a_state(), tmp_path)
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in tmp_path.glob("*.safetensors"))


def test_diffusers_reads_what_we_save(tmp_path):
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(base_dim=2, z_dim=16, num_res_blocks=1, dim_mult=[1, 1, 1, 1])
    vae.save_config(tmp_path)
    save_safetensors(vae.state_dict(), tmp_path, dtype=torch.float32, shard_bytes=4000)
    loaded = AutoencoderKLWan.from_pretrained(tmp_path, local_files_only=True)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in vae.state_dict().items())


def test_saving_again_leaves_no_older_weights(tmp_path):
    save_safetensors(a_state(), tmp_path, shard_bytes=1)
    save_safetensors(a_state(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("place", [0, 137, 299])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype, place):
    state = a_state(torch.float32)
    state["layer.3"].view(-1)[place] = float("nan")
    save_safetensors(state, tmp_path, dtype=dtype)
    with pytest.raises(ModelError, match=r"1 not finite \(layer.3\)"):
        load_safetensors(tmp_path)


def test_infinite_weights_are_refused(tmp_path):
    save_safetensors({"a": torch.tensor([0.0, -float("inf")])}, tmp_path)
    with pytest.raises(ModelError, match="not finite"):
        load_safetensors(tmp_path)


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(ModelError, match="found none"):
        load_safetensors(tmp_path)
    save_safetensors(a_state(), tmp_path, shard_bytes=1500)
    shard = tmp_path / "diffusion_pytorch_model-00002-of-00004.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-7])
    with pytest.raises(ModelError, match=f"{shard.name} cannot be read"):
        load_safetensors(tmp_path)
    shard.unlink()
    with pytest.raises(ModelError, match=f"{shard.name} cannot be read"):
        load_safetensors(tmp_path)
    shard.write_bytes(content)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    facts = json.loads(index.read_text())
    facts["weight_map"]["layer.99"] = shard.name
    del facts["weight_map"]["layer.0"]
    index.write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=r"1 missing \(layer.99\); 1 not in the index \(layer.0\)"):
        load_safetensors(tmp_path)
    facts["weight_map"]["layer.99"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="a file beside the index"):
        load_safetensors(tmp_path)


def test_two_sets_of_weights_in_a_folder_are_refused(tmp_path):
    save_safetensors(a_state(), tmp_path)
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"found diffusion_pytorch_model.safetensors, other.safetensors"):
        load_safetensors(tmp_path)


# --- facts of a pack -----------------------------------------------------------------------------------------------


def write_facts(folder: Path, **changes) -> Path:
    data = json.loads(to_json(FACTS)) | changes
    data = {key: value for key, value in data.items() if value is not ...}
    (folder / "causvid.json").write_text(json.dumps(data))
    return folder


def test_facts_survive_being_saved(tmp_path):
    assert load_facts(write_facts(tmp_path)) == FACTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_frame": 3, "window_frames": ...}, "window_frame: unknown; did you mean window_frames? (and 1 more)"),
        ({"zebra": 3}, "zebra: unknown"),
        ({"files": {"a": {"sha256": "0", "byte": 1}}}, "files.a.byte: unknown; did you mean bytes? (and 1 more)"),
        ({"shift": ...}, "shift: missing"),
        ({"chunk_frames": "3"}, "chunk_frames: must be a valid integer, got '3'"),
        ({"chunk_frames": 1.5}, "chunk_frames: must be a valid integer, got 1.5"),
        ({"warp_steps": 1}, "warp_steps: must be a valid boolean, got 1"),
        ({"steps": [1000, "500"]}, "steps.1: must be a valid number, got '500'"),
        ({"rope": "relativ"}, "rope: must be 'relative' or 'absolute', got 'relativ'"),
        (
            {"format": 2, "novelty": 1},
            "format 2 was made for a newer causvid; try git pull and pip install . in causvid's source folder",
        ),
    ],
)
def test_facts_that_are_wrong_name_the_key(tmp_path, changes, message):
    with pytest.raises(ModelError) as error:
        load_facts(write_facts(tmp_path, **changes))
    assert str(error.value) == f"{tmp_path / 'causvid.json'}: {message}"


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": []},
        {"steps": [1000, 1001]},
        {"steps": [250, 500]},
        {"chunk_frames": 0},
        {"window_frames": -1},
        {"fps": 0},
        {"files": {"../a": {"sha256": "0", "bytes": 1}}},
    ],
    ids=str,
)
def test_facts_that_cannot_work_name_the_key(tmp_path, changes):
    with pytest.raises(ModelError, match=f"causvid.json: {next(iter(changes))}"):
        load_facts(write_facts(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", '{"name": ', "\xff"])
def test_facts_that_are_no_json_object_are_refused(tmp_path, text):
    (tmp_path / "causvid.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match="causvid.json: "):
        load_facts(tmp_path)


def test_config_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, causvid_cli.config; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- packs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pack(tmp_path, monkeypatch) -> Path:
    """A pack called tiny, in a folder where packs are looked for by name."""
    monkeypatch.setattr(packs, "pack_roots", lambda: [tmp_path / "absent", tmp_path / "weights"])
    folder = tmp_path / "weights" / "tiny"
    save_safetensors(a_state(), folder / "transformer")
    (folder / ".hidden").write_text("not part of the pack")
    write_pack_manifest(folder, FACTS)
    return folder


def test_a_manifest_lists_every_file_and_verifies(pack):
    facts = load_facts(pack)
    assert list(facts.files) == ["transformer/diffusion_pytorch_model.safetensors"]
    assert replace(facts, files={}) == FACTS
    verify_pack(pack, facts)
    assert write_pack_manifest(pack, facts) == facts
    assert sorted(file.name for file in pack.iterdir()) == [".hidden", "causvid.json", "transformer"]


def truncate(content: bytes) -> bytes:
    return content[:-1]


def flip_a_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_a_damaged_file_is_named_with_the_remedy(pack, damage, monkeypatch):
    facts = load_facts(pack)
    [file] = pack.glob("transformer/*")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=f"{file.name} is damaged.*; reinstall causvid") as error:
        verify_pack(pack, facts)
    assert error.value.exit_code == ExitCode.MODEL
    monkeypatch.setattr(packs, "pack_roots", list)
    with pytest.raises(ModelError, match="; get tiny again from https://example.org/tiny"):
        verify_pack(pack, facts)


def test_a_file_that_is_gone_and_a_manifest_that_lists_nothing_are_refused(pack):
    facts = load_facts(pack)
    [file] = pack.glob("transformer/*")
    file.unlink()
    with pytest.raises(ModelError, match=f"{file.name} is missing"):
        verify_pack(pack, facts)
    with pytest.raises(ModelError, match="files: lists none"):
        verify_pack(pack, FACTS)


def test_packs_are_found_by_name_and_by_path(pack, tmp_path, monkeypatch):
    assert list_packs() == {"tiny": pack}
    assert find_pack("tiny") == find_pack(pack) == find_pack(str(pack)) == pack
    monkeypatch.chdir(pack.parent)
    assert find_pack("./tiny") == Path("tiny")


def test_a_pack_that_is_not_there_names_what_is(pack, tmp_path):
    with pytest.raises(ModelError, match="^no model 'tinny'; known: tiny; did you mean tiny[?]$"):
        find_pack("tinny")
    with pytest.raises(
        ModelError, match="^no model 'wan'; known: tiny; `causvid models list` .*; or give the folder of a model pack$"
    ):
        find_pack("wan")
    with pytest.raises(ModelError, match="`causvid models pull wan2.1-1.3b` gets it, a base for .* makes no video"):
        find_pack("wan2.1-1.3b")
    with pytest.raises(ModelError, match="`causvid models pull longlive` gets it$"):
        find_pack("longlive")
    with pytest.raises(ModelError, match="is not a model pack: it holds no causvid.json"):
        find_pack(tmp_path)


def test_packs_are_looked_for_in_the_package_in_a_checkout_and_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CAUSVID_MODELS", str(tmp_path))
    *shipped, own = packs.pack_roots()
    assert shipped[0] == Path(packs.__file__).parent / "weights"
    assert all(root.name == "weights" for root in shipped)
    assert own == models_folder() == tmp_path


# --- stamps --------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(pack, monkeypatch):
    """A pack whose files count as large."""
    monkeypatch.setattr(packs, "SMALL_BYTES", 0)
    return pack


def test_a_large_file_is_hashed_once_and_again_when_it_was_touched(large, monkeypatch):
    [file] = large.glob("transformer/*")
    verify_pack(large, load_facts(large))
    with monkeypatch.context() as patch:
        patch.setattr(packs, "sha256_of_file", lambda file: pytest.fail(f"{file} is read"))
        verify_pack(large, load_facts(large))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged: sha256"):
        verify_pack(large, load_facts(large))


def test_all_is_hashed_where_it_is_asked_for_even_when_nothing_seems_touched(large):
    [file] = large.glob("transformer/*")
    verify_pack(large, load_facts(large))
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    verify_pack(large, load_facts(large))  # a stamp guards against damage, not against who wants to deceive
    with pytest.raises(ModelError, match="is damaged: sha256"):
        verify_pack(large, load_facts(large), every=True)
    with pytest.raises(ModelError, match="is damaged: sha256"):
        verify_pack(large, load_facts(large))  # what was found out is not forgotten


def test_a_stamp_of_another_manifest_counts_for_nothing(large):
    facts = load_facts(large)
    verify_pack(large, facts)
    [name] = [name for name in facts.files if name.startswith("transformer/")]
    other = replace(facts, files=facts.files | {name: replace(facts.files[name], sha256="0" * 64)})
    with pytest.raises(ModelError, match="is damaged: sha256 .* instead of 000000000000"):
        verify_pack(large, other)


def test_small_files_are_hashed_each_time(pack):
    verify_pack(pack, load_facts(pack))
    assert not (pack / packs.STAMPS_FILE).exists()


def test_a_damaged_file_of_stamps_only_costs_time(large):
    (large / packs.STAMPS_FILE).write_text("{")
    verify_pack(large, load_facts(large))
    assert json.loads((large / packs.STAMPS_FILE).read_text())


def test_stamps_are_no_part_of_the_pack(large):
    verify_pack(large, load_facts(large))
    assert write_pack_manifest(large, load_facts(large)).files == load_facts(large).files


# --- diffusers -----------------------------------------------------------------------------------------------------


def test_diffusers_loads_a_packs_network_and_scheduler_and_is_told_that_it_is_causal(tiny):
    from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    from causvid_cli.models.load import load_transformer
    from causvid_cli.sampling.schedule import add_noise, steps_of, x0_from_flow

    facts = load_facts(tiny)
    index = DiffusionPipeline.load_config(tiny, local_files_only=True)
    assert (index["_class_name"], index["causal"]) == ("CausalWanPipeline", True)
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    assert parts == {
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "teacher": ["diffusers", "WanTransformer3DModel"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    network = WanTransformer3DModel.from_pretrained(tiny, subfolder="transformer", local_files_only=True)
    ours = load_transformer(tiny / "transformer", facts).transformer.state_dict()
    assert network.state_dict().keys() == ours.keys()
    assert all(torch.equal(tensor.to(ours[name].dtype), ours[name]) for name, tensor in network.state_dict().items())

    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tiny, subfolder="scheduler", local_files_only=True)
    scheduler.set_timesteps(sigmas=[t / 1000 for t in facts.steps])
    steps = steps_of(facts.steps, shift=facts.shift, warped=facts.warp_steps)
    assert scheduler.timesteps.tolist() == pytest.approx([step.timestep for step in steps])
    x_t, flow = torch.randn(2, 1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.Generator().manual_seed(2)
    following = scheduler.step(flow, scheduler.timesteps[0], x_t, generator=noise).prev_sample
    drawn = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(2))
    wanted = add_noise(x0_from_flow(x_t, flow, steps[0].sigma), drawn, steps[1].sigma)
    torch.testing.assert_close(following, wanted, atol=1e-5, rtol=1e-5)


def test_what_only_diffusers_reads_makes_no_other_model(tiny):
    facts = load_facts(tiny)
    files = {
        name: told for name, told in facts.files.items() if name.split("/")[0] not in ("model_index.json", "scheduler")
    }
    assert len(files) == len(facts.files) - 2
    assert pack_digest(facts) == pack_digest(replace(facts, files=files))
