"""Checkpoints become packs: in every form that is passed on, whole or not at all, and nothing in them is run."""

import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import (
    FACTS,
    FORMS,
    State,
    official,
    official_text_encoder,
    second_name,
    transformer_of,
    with_second,
    write_form,
)
from network.test_quantize import write_gguf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_wan import tiny_wan

pytest.importorskip("transformers")

from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from causvid_cli.config import load_facts
from causvid_cli.errors import DeviceError, ModelError, OutputError, UsageError
from causvid_cli.models.catalogue import catalogue
from causvid_cli.models.install import build_pack as building
from causvid_cli.models.install import convert
from causvid_cli.models.install import plan_import as planning
from causvid_cli.models.install.build_pack import build_pack, copy_pack, remove_pack
from causvid_cli.models.install.conversion import ConversionSpec, LoraSpec
from causvid_cli.models.install.identify import identify_network, module_shapes
from causvid_cli.models.install.plan_import import ImportRequest, check_recognised, plan_import
from causvid_cli.models.packs import STAMPS_FILE, find_pack, list_packs, sweep, verify_pack
from causvid_cli.paths import models_folder
from causvid_cli.pipeline import load
from causvid_cli.weights import checkpoint, pickles, stored
from causvid_cli.weights.checkpoint import open_tensors
from causvid_cli.weights.files import load_safetensors


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    """Wan2.1 in diffusers layout, tiny."""
    return tiny_wan(tmp_path_factory.mktemp("wan") / "tiny-Diffusers")


@pytest.fixture(scope="module")
def state(wan) -> State:
    """Its transformer under official names."""
    return official(transformer_of(wan))


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch) -> Path:
    """Where models are installed; what these tests call a pickle is their own, so it is opened here."""
    monkeypatch.setenv("CAUSVID_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(checkpoint, "open_pickle", pickles.read_pickle)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a busy disk takes long for it
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the configuration of the tiny transformer, whose heads no shape tells."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "t2v", "dim": 32, "num_heads": 2}))
    return path


def install(path: Path, *, replacing: bool = False, report=lambda count: None, **wish: object) -> Path:
    planned = plan_import(ImportRequest(path=path, **{"facts": FACTS, "dtype": "float32"} | wish))
    return build_pack(
        planned.recipe,
        replacing=replacing,
        approve=lambda seen: check_recognised(planned.recipe, planned.checkpoint, seen),
        report=report,
    )


def left(models: Path) -> list[str]:
    """What lies in the folder of models, hidden things too."""
    return sorted(path.name for path in models.iterdir()) if models.exists() else []


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


NESTED = {"generator", "generator_ema", "fsdp", "nested", "empty_average"}
"""Forms that only a pickle can have."""


# --- every form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_of_every_form_gives_the_same_tensors_bit_for_bit(form, folder, state, wan):
    pack = install(write_form(form, folder, state), base=str(wan))
    assert same(transformer_of(pack), transformer_of(wan))
    assert json.loads((pack / "transformer" / "config.json").read_text())["num_attention_heads"] == 2


@pytest.mark.parametrize("form", [form for form in FORMS if form not in NESTED])
def test_safetensors_of_every_form_give_the_same_tensors_bit_for_bit(form, folder, state, wan):
    pack = install(write_form(form, folder, state, suffix=".safetensors"), base=str(wan))
    assert same(transformer_of(pack), transformer_of(wan))


@pytest.mark.parametrize("form", ["rcm_counters", "average"])
def test_counters_and_what_has_an_average_are_left_out_and_told(form, folder, state, wan):
    planned = plan_import(ImportRequest(path=write_form(form, folder, state), base=str(wan), facts=FACTS))
    told: list = []
    build_pack(planned.recipe, replacing=False, approve=told.extend, report=lambda count: None)
    left_out = {key for key in FORMS[form](state) if key.startswith("net.accum_" if form == "rcm_counters" else "net.")}
    assert set(told[0].left_out) == left_out and left_out
    assert all(not other.left_out for other in told[1:])


def test_two_networks_of_one_checkpoint_are_told_apart(folder, state, wan, models):
    second = {name: tensor + 1 for name, tensor in state.items()}
    path = folder / "model.pt"
    torch.save(with_second(state, second), path)
    facts = FACTS | {"context_network": "context_transformer"}
    pack = install(path, base=str(wan), facts=facts, name="two")
    assert same(official(transformer_of(pack)), state)
    assert same(official(load_safetensors(pack / "context_transformer")), second)
    assert load_facts(pack).networks == ("transformer", "context_transformer")
    assert load(pack, device="cpu").context_model is not None
    with pytest.raises(
        ModelError, match=r"holds two networks \(it has .*memory_.*\): say which known checkpoint it is"
    ):
        install(path, base=str(wan), name="one")
    with pytest.raises(ModelError, match="holds one network, where two are wanted"):
        install(write_form("fsdp", folder, state), base=str(wan), facts=facts, name="none")
    assert left(models) == ["two"]


def test_names_of_a_second_network_are_those_that_its_publishers_program_gives():
    wanted = {
        "patch_embedding.weight": "memory_patch_embedding.weight",
        "text_embedding.0.bias": "memory_text_embedding.0.bias",
        "time_projection.1.weight": "memory_time_projection.1.weight",
        "head.head.weight": "memory_head.head.weight",
        "head.modulation": "memory_head.modulation",
        "blocks.1.modulation": "blocks.1.memory_modulation",
        "blocks.1.self_attn.norm_q.weight": "blocks.1.self_attn.norm_q.memory_weight",
        "blocks.1.norm3.bias": "blocks.1.norm3.memory_bias",
        "blocks.1.ffn.2.weight": "blocks.1.ffn.2.memory_weight",
        "blocks.1.cross_attn.o.bias": "blocks.1.cross_attn.o.memory_bias",
    }
    assert {name: second_name(name) for name in wanted} == wanted


def test_another_unknown_tensor_is_not_left_out(folder, state, wan):
    given = state | {"accum_loss": torch.tensor(1)}
    with pytest.raises(ModelError, match=r"1 unexpected \(accum_loss\)"):
        install(write_form("rcm", folder, given), base=str(wan))


@pytest.mark.parametrize("ending", [".SAFETENSORS", ".sft", ".PT"])
def test_an_ending_is_read_in_any_spelling(ending, folder, state, wan):
    path = write_form("flat", folder, state, suffix=".pt" if ending == ".PT" else ".safetensors")
    pack = install(path.rename(path.with_suffix(ending)), base=str(wan))
    assert same(transformer_of(pack), transformer_of(wan))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.gguf", "model.safetensors.index.json"])
def test_a_pointer_of_git_lfs_is_named_as_one(name, folder, wan, models):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 5676070424\n"
    (folder / name).write_text(pointer)
    with pytest.raises(ModelError, match=f"{name} is a Git LFS pointer, .*: get that one by `git lfs pull`"):
        install(folder / name, base=str(wan), dtype=None)
    assert left(models) == []


def test_a_diffusers_repository_is_taken_whole(wan):
    pack = install(wan, name="whole")
    assert same(transformer_of(pack), transformer_of(wan))
    assert {name.split("/")[0] for name in load_facts(pack).files} == {
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "model_index.json",
    }
    index = json.loads((pack / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "UMT5EncoderModel"]
    assert index.keys() - {"_class_name", "causal"} == {
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
    }
    for part in ("vae", "text_encoder"):
        assert load_safetensors(pack / part).keys() <= load_safetensors(wan / part).keys()


def test_wans_own_repository_is_taken_whole(tmp_path, wan, state):
    own = tmp_path / "own"
    (own / "google" / "umt5-xxl").mkdir(parents=True)
    shutil.copy(wan / "tokenizer" / "tokenizer.json", own / "google" / "umt5-xxl")
    text = load_safetensors(wan / "text_encoder")
    text.setdefault("shared.weight", text.get("encoder.embed_tokens.weight"))
    torch.save(official_text_encoder(text), own / "models_t5_umt5-xxl-enc-bf16.pth")
    save_file(state, own / "diffusion_pytorch_model.safetensors")
    (own / "config.json").write_text(json.dumps({"model_type": "t2v", "dim": 32, "num_heads": 2}))
    vae = tmp_path / "vae"
    shutil.copytree(wan / "vae", vae / "vae")
    pack = install(own, name="own", base=str(vae))
    assert same(transformer_of(pack), transformer_of(wan))
    made = load_safetensors(pack / "text_encoder")
    assert all(torch.equal(made[name], text[name].bfloat16()) for name in made)
    assert (pack / "tokenizer" / "tokenizer.json").read_bytes() == (wan / "tokenizer" / "tokenizer.json").read_bytes()


def test_an_official_vae_is_recognised_by_its_names(tmp_path, wan):
    published = json.loads((Path(__file__).parents[1] / "golden" / "keys_wan_vae.json").read_text())["keys"]
    given = {name: tuple(facts["shape"]) for name, facts in published.items()}
    network = identify_network(given, where="Wan2.1_VAE.pth")
    assert (network.part, network.config) == ("vae", catalogue().parts["vae"].config)
    assert network.names == {name: facts["diffusers"] for name, facts in published.items()}


def test_a_tiny_vae_is_recognised_by_its_names():
    config = catalogue().parts["tiny_vae"].config
    network = identify_network(module_shapes("vae_tiny", config), where="taew2_1.pth")
    assert (network.part, network.config) == ("vae_tiny", config)


def test_shards_with_an_index_are_one_checkpoint(folder, state, wan):
    names = list(state)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in files.items():
        save_file({name: state[name] for name in some}, folder / file)
    weight_map = {name: file for file, some in files.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same(transformer_of(install(folder, base=str(wan), name="sharded")), transformer_of(wan))
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelError, match="b.safetensors is missing, which model.safetensors.index.json names"):
        install(folder, base=str(wan), name="again")


def test_shards_that_are_pickles_are_one_checkpoint(folder, state, wan):
    names = list(state)
    weight_map = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({name: state[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same(transformer_of(install(folder, base=str(wan), name="sharded")), transformer_of(wan))


def test_numbers_are_bfloat16_where_nothing_is_asked(folder, state, wan):
    pack = install(write_form("flat", folder, state), base=str(wan), dtype=None)
    made = transformer_of(pack)
    assert all(torch.equal(made[name], tensor.bfloat16()) for name, tensor in transformer_of(wan).items())
    assert {tensor.dtype for tensor in load_safetensors(pack / "vae").values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float8_e4m3fn])
def test_other_number_formats_are_read(dtype, folder, state, wan):
    given = {name: tensor.to(dtype) for name, tensor in state.items()}
    made = transformer_of(install(write_form("flat", folder, given), base=str(wan)))
    assert torch.equal(made["proj_out.weight"], given["head.head.weight"].float())


def test_files_are_those_that_safetensors_and_diffusers_write(folder, state, wan, monkeypatch):
    monkeypatch.setattr(convert, "plan_shards", lambda sizes: [list(sizes)[:9], list(sizes)[9:]])
    pack = install(write_form("flat", folder, state), base=str(wan))
    files = sorted((pack / "transformer").glob("*.safetensors"))
    assert [file.name for file in files] == [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert same(load_file(files[0]) | load_file(files[1]), transformer_of(wan))
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}
    from diffusers import WanTransformer3DModel

    theirs = WanTransformer3DModel.from_pretrained(pack / "transformer")
    assert same(theirs.state_dict(), transformer_of(wan))


def test_wide_numbers_lie_first_so_that_all_are_aligned(tmp_path):
    shapes = {"a": (3,), "b": (5, 1), "c": (2,)}
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "x.pt")
    job = convert.Conversion(
        spec=ConversionSpec(source="x", target="y"),
        tensors=open_tensors(tmp_path / "x.pt"),
        network=recognise_nothing(shapes),
        dtypes={"a": torch.bfloat16, "b": torch.float32, "c": torch.float16},
        deltas=None,
    )
    convert._write_shard(tmp_path / "x.safetensors", list(shapes), job, {name: name for name in shapes}, lambda n: None)
    content = (tmp_path / "x.safetensors").read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    assert (8 + length) % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert header["b"]["data_offsets"] == [0, 20]
    assert load_file(tmp_path / "x.safetensors")["c"].dtype == torch.float16


def recognise_nothing(shapes: dict):
    from causvid_cli.models.install.identify import Network

    return Network(part="vae", config={}, names={name: name for name in shapes}, shapes=shapes)


def test_tensors_that_share_memory_or_lie_askew_are_read_right(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    given = {"turned": base.t(), "part": base[1:3, 2:4], "whole": base, "number": torch.tensor(3.0)}
    torch.save(given, tmp_path / "x.pt")
    read = open_tensors(tmp_path / "x.pt")
    for name, tensor in given.items():
        assert torch.equal(torch.cat(list(read.pieces(name))), tensor.flatten())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_large_tensor_comes_piece_by_piece(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "PIECE_BYTES", 64)
    given = {"a": torch.arange(100.0), "b": torch.arange(7.0)}
    torch.save(given, tmp_path / "x.pt")
    save_file(given, tmp_path / "x.safetensors")
    read = open_tensors(tmp_path / f"x{suffix}")
    for name, tensor in given.items():
        pieces = list(read.pieces(name))
        assert max(piece.nbytes for piece in pieces) <= 64
        assert torch.equal(torch.cat(pieces), tensor)
        assert torch.equal(read.load(name), tensor)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_shrinks_meanwhile_is_cut_short(suffix, tmp_path):
    given = {"a": torch.arange(100.0)}
    torch.save(given, tmp_path / "x.pt")
    save_file(given, tmp_path / "x.safetensors")
    path = tmp_path / f"x{suffix}"
    read = open_tensors(path)
    os.truncate(path, 300)
    with pytest.raises(ModelError, match="is cut short; get it again"):
        read.load("a")


def test_a_compressed_archive_is_refused(tmp_path):
    torch.save({"a": torch.zeros(9)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as archive,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as to,
    ):
        for name in archive.namelist():
            to.writestr(name, archive.read(name))
    with pytest.raises(ModelError, match="is a compressed archive, not as torch.save writes one"):
        open_tensors(tmp_path / "y.pt")


def test_a_pickle_in_torchs_old_form_is_read_while_it_is_small(folder, state, wan, monkeypatch):
    path = folder / "old.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert same(transformer_of(install(path, base=str(wan))), transformer_of(wan))
    monkeypatch.setattr(pickles, "LARGEST_LEGACY", 1000)
    with pytest.raises(ModelError, match="old.pt is in torch's form before 1.6, too large"):
        install(path, base=str(wan), name="again")


# --- a LoRA that belongs to a checkpoint ---------------------------------------------------------------------------


def a_lora(state: State, *, rank: int = 4, prefix: str = "base_model.model.") -> State:
    rng = torch.Generator().manual_seed(1)
    lora = {}
    for name in ("blocks.0.self_attn.q", "blocks.1.cross_attn.o", "blocks.1.ffn.0"):
        out, into = state[f"{name}.weight"].shape
        lora[f"{prefix}{name}.lora_A.weight"] = torch.randn(rank, into, generator=rng)
        lora[f"{prefix}{name}.lora_B.weight"] = torch.randn(out, rank, generator=rng)
    return lora


def convert_with_lora(tmp_path: Path, state: State, content: object, **lora: object) -> State:
    torch.save({"generator": state}, tmp_path / "base.pt")
    torch.save(content, tmp_path / "lora.pt")
    told = {"key": "generator_lora", "rank": 4, "alpha": 4.0} | lora
    spec = ConversionSpec(
        source=str(tmp_path / "base.pt"),
        target=str(tmp_path / "transformer"),
        dtype="float32",
        config={"dim": 32, "num_heads": 2},
        lora=LoraSpec(source=str(tmp_path / "lora.pt"), **told),
    )
    convert.convert([spec], approve=lambda seen: None, report=lambda count: None)
    return load_safetensors(tmp_path / "transformer")


@pytest.mark.parametrize(("alpha", "scale"), [(4.0, 1.0), (8.0, 2.0), (None, 1.0)])
def test_longlives_lora_is_merged_as_peft_merges(alpha, scale, tmp_path, state):
    lora = a_lora(state)
    content = {"generator_lora": lora, "critic_lora": {}}
    made = convert_with_lora(tmp_path, state, content, alpha=alpha)
    wanted = dict(state)
    for key, b in lora.items():
        if ".lora_B." in key:
            name = key.removeprefix("base_model.model.").replace(".lora_B", "")
            wanted[name] = state[name] + scale * b @ lora[key.replace("lora_B", "lora_A")]
    for name, tensor in official(made).items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-6)
    changed = [name for name in state if not torch.equal(official(made)[name], state[name])]
    assert len(changed) == 3


def test_a_lora_that_does_not_fit_is_refused(tmp_path, state):
    lora = a_lora(state)
    wrong = {"generator_lora": lora | {"blocks.9.self_attn.q.lora_A.weight": torch.zeros(4, 32)}}
    with pytest.raises(ModelError, match=r"not a LoRA for this network: 1 of other weights \(blocks.9.self_attn"):
        convert_with_lora(tmp_path, state, wrong)
    del lora["base_model.model.blocks.1.ffn.0.lora_B.weight"]
    with pytest.raises(ModelError, match=r"1 without their pair \(blocks.1.ffn.net.0.proj.weight\)"):
        convert_with_lora(tmp_path, state, {"generator_lora": lora})
    with pytest.raises(ModelError, match="has rank 3 instead of 4"):
        convert_with_lora(tmp_path, state, {"generator_lora": a_lora(state, rank=3)})
    with pytest.raises(ModelError, match="has no entry 'generator_lora'; it holds a"):
        convert_with_lora(tmp_path, state, {"a": {}})


def test_longlive_asks_for_its_lora_and_finds_it_beside_the_base(folder, state, wan):
    path = write_form("generator", folder, state)
    with pytest.raises(UsageError, match="longlive is a base and a LoRA: give models/lora.pt by --lora FILE"):
        plan_import(ImportRequest(path=path, known_as="longlive", base=str(wan)))
    torch.save({"generator_lora": a_lora(state)}, folder / "lora.pt")
    planned = plan_import(ImportRequest(path=path, known_as="longlive", base=str(wan)))
    lora = planned.recipe.conversions[0].lora
    assert (Path(lora.source), lora.key, lora.rank, lora.alpha) == (folder / "lora.pt", "generator_lora", 256, 256.0)
    assert (planned.recipe.facts.sink_frames, planned.recipe.facts.window_frames) == (3, 9)


# --- what is something else ----------------------------------------------------------------------------------------


def image_to_video(state: State) -> State:
    return state | {"patch_embedding.weight": torch.zeros(32, 36, 1, 2, 2)}


def image_to_video_by_clip(state: State) -> State:
    return state | {"img_emb.proj.0.weight": torch.zeros(4), "blocks.0.cross_attn.k_img.weight": torch.zeros(4)}


def wan22(state: State) -> State:
    return state | {"patch_embedding.weight": torch.zeros(32, 48, 1, 2, 2)}


def lora_form(state: State) -> State:
    return {"diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.zeros(4, 4)}


def kohya(state: State) -> State:
    return {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.zeros(4, 4)}


def fp8_scaled(state: State) -> State:
    return state | {"blocks.0.ffn.0.scale_weight": torch.zeros(())}


def vace(state: State) -> State:
    return state | {"vace_blocks.0.self_attn.q.weight": torch.zeros(4)}


def flux(state: State) -> State:
    return {f"double_blocks.{i}.img_attn.qkv.weight": torch.zeros(4) for i in range(5)}


def lacking(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "blocks.1.ffn" not in name}


def lacking_a_block(state: State) -> State:
    return {name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in state.items()}


def misshapen(state: State) -> State:
    return state | {"blocks.0.ffn.2.weight": torch.zeros(32, 63)}


def not_finite(state: State) -> State:
    return state | {"head.head.bias": torch.full_like(state["head.head.bias"], float("nan"))}


def whole_numbers(state: State) -> State:
    return state | {"head.head.bias": torch.zeros_like(state["head.head.bias"], dtype=torch.int8)}


def nothing(state: State) -> State:
    return {}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (image_to_video, "an image-to-video Wan \\(in_channels 36\\)"),
        (
            image_to_video_by_clip,
            r"an image-to-video Wan: give a text-to-video .*holds (img_emb|blocks.0.cross_attn.k_img)",
        ),
        (wan22, "Wan2.2 5B \\(in_channels 48\\)"),
        (lora_form, "a LoRA, which is no model by itself: give it to a model by --lora FILE"),
        (kohya, "a LoRA, which is no model by itself"),
        (fp8_scaled, "quantized weights with scales"),
        (vace, "a VACE model"),
        (flux, "is no network of Wan2.1: its 5 tensors are called double_blocks.0.img_attn.qkv.weight, "),
        (
            lacking,
            r"not a whole Wan text-to-video transformer: 4 missing \(blocks.1.ffn.0.weight, .*, \.\.\.\)",
        ),
        (lacking_a_block, r"missing \(blocks.1.*unexpected \(blocks.2"),
        (misshapen, r"1 of another shape \(blocks.0.ffn.2.weight \[32, 63\] instead of \[32, 64\]\)"),
        (not_finite, "head.head.bias is not finite; the weights are unusable"),
        (whole_numbers, "head.head.bias is torch.int8: give float32"),
        (nothing, "holds no tensors"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_something_else_is_refused_in_one_line_and_nothing_stays(change, complaint, folder, state, wan, models):
    path = folder / "x.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(state).items()}, path)
    with pytest.raises(ModelError, match=complaint) as raised:
        install(path, base=str(wan))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert left(models) == []


def test_a_number_too_large_for_the_format_is_named(folder, state, wan, models):
    given = state | {"head.head.bias": torch.full_like(state["head.head.bias"], 1e6)}
    with pytest.raises(ModelError, match="head.head.bias is too large for float16"):
        install(write_form("flat", folder, given), base=str(wan), dtype="float16")
    assert left(models) == []


def test_a_part_in_the_place_of_another_is_named(folder, state, wan):
    file = next((wan / "vae").glob("*.safetensors"))
    shutil.copytree(wan / "vae", folder / "codec")
    with pytest.raises(ModelError, match="is a Wan2.1 VAE, where a Wan text-to-video transformer is wanted"):
        install(folder / "codec" / file.name, base=str(wan))


def test_parts_of_two_models_do_not_make_one(folder, tmp_path, state, wan):
    other = tiny_wan(tmp_path / "other", text_dim=48)
    with pytest.raises(ModelError, match="the text encoder gives 32 text features, the transformer takes 48"):
        install(other, base=None, name="mixed")
    shutil.rmtree(other / "text_encoder")
    first = install(write_form("flat", folder, state), base=str(wan))
    with pytest.raises(ModelError, match="the text encoder gives 32 text features, the transformer takes 48"):
        install(other, base=str(first), name="mixed")


def test_heads_that_nothing_tells_are_asked_for(tmp_path, state, wan):
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    with pytest.raises(ModelError, match="how many heads its 32 channels have is not known; put its config.json besi"):
        install(path, base=str(wan))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "i2v", "dim": 32, "num_heads": 2}))
    with pytest.raises(ModelError, match="says model_type i2v"):
        install(path, base=str(wan))


def test_a_checkpoint_of_another_size_is_not_the_known_one(folder, state, wan):
    with pytest.raises(ModelError, match="has 2 blocks of 32 channels: it is not krea-14b, which is a wan2.1-14b"):
        install(write_form("flat", folder, state), base=str(wan), known_as="krea-14b", facts={})


# --- how it was trained --------------------------------------------------------------------------------------------


def test_facts_that_a_file_does_not_tell_are_asked_for(folder, state, wan):
    path = write_form("generator", folder, state)
    with pytest.raises(UsageError, match=r"say --as NAME .*causal-forcing, .*missing: --chunk, --steps"):
        plan_import(ImportRequest(path=path, base=str(wan)))
    with pytest.raises(UsageError, match=r"missing: --window\)"):
        plan_import(
            ImportRequest(path=path, base=str(wan), facts={k: v for k, v in FACTS.items() if k != "window_frames"})
        )
    with pytest.raises(ModelError, match="no checkpoint 'causal-forcin' is known; did you mean causal-forcing?"):
        plan_import(ImportRequest(path=path, known_as="causal-forcin"))


def test_a_known_file_is_recognised_by_its_bytes(folder, state, wan, monkeypatch):
    path = write_form("generator", folder, state)
    known = catalogue().checkpoints["self-forcing"]
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    copy = replace(known, files=(replace(known.files[0], bytes=path.stat().st_size, sha256=digest),))
    ours = replace(catalogue(), checkpoints={"self-forcing": copy, "causvid": catalogue().checkpoints["causvid"]})
    monkeypatch.setattr(planning, "catalogue", lambda: ours)
    planned = plan_import(ImportRequest(path=path, base=str(wan)))
    assert planned.checkpoint.name == planned.recipe.facts.name == "self-forcing"
    assert planned.notes == ("this is self-forcing (Self Forcing (DMD))",)
    with pytest.raises(ModelError, match="generator.pt is self-forcing, not causvid; leave --as out"):
        plan_import(ImportRequest(path=path, base=str(wan), known_as="causvid"))
    base = replace(copy, name="wan2.1-1.3b", kind="base", title="Wan2.1")
    monkeypatch.setattr(planning, "catalogue", lambda: replace(ours, checkpoints={"wan2.1-1.3b": base}))
    with pytest.raises(ModelError, match="is Wan2.1, which is bidirectional: as a causal student it would make noise"):
        plan_import(ImportRequest(path=path, base=str(wan), known_as="causvid"))


def test_wans_own_repository_is_a_base_and_never_a_student(tmp_path, wan, state):
    own = tmp_path / "models--Wan-AI--Wan2.1-T2V-1.3B" / "snapshots" / "0"
    own.mkdir(parents=True)
    save_file(state, own / "diffusion_pytorch_model.safetensors")
    planned = plan_import(ImportRequest(path=own, base=str(wan)))
    assert planned.recipe.facts.kind == "base"
    assert planned.notes == (
        "Wan2.1 text-to-video 1.3B is bidirectional: a base for `causvid distill`, not a model for `causvid t2v`",
    )
    with pytest.raises(ModelError, match="is bidirectional: as a causal student .*--as wan2.1-1.3b"):
        plan_import(ImportRequest(path=own, known_as="self-forcing", base=str(wan)))


def test_a_base_is_distilled_from_and_makes_no_video(wan, monkeypatch):
    from causvid_cli.train.base_model import load_base

    planned = plan_import(ImportRequest(path=wan, known_as="wan2.1-1.3b", dtype="float32"))
    recipe = replace(planned.recipe, facts=replace(planned.recipe.facts, name="base"))
    pack = build_pack(recipe, replacing=False, approve=lambda seen: None, report=lambda count: None)
    base = load_base("base", device=torch.device("cpu"), dtype=torch.float32)
    assert base.student is None
    assert same(base.teacher.transformer.state_dict(), transformer_of(wan))
    with pytest.raises(ModelError, match="base is bidirectional, a base for `causvid distill`.*causal-forcing"):
        load(pack, device="cpu")


def test_a_file_shorter_than_the_published_one_is_cut_short(folder):
    (folder / "self_forcing_dmd.pt").write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(ModelError, match="self_forcing_dmd.pt is cut short: 1004 bytes instead of 5676252553"):
        plan_import(ImportRequest(path=folder / "self_forcing_dmd.pt", known_as="self-forcing"))


# --- pickles -------------------------------------------------------------------------------------------------------


class Canary:
    """What a malicious checkpoint holds: code that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.path}",)


def with_torch(path: Path, canary: Path) -> None:
    torch.save({"generator": {"model.a": torch.zeros(2)}, "step": Canary(canary)}, path)


def without_zip(path: Path, canary: Path) -> None:
    torch.save({"a": Canary(canary)}, path, _use_new_zipfile_serialization=False)


def bare(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps({"a": Canary(canary)}))


@pytest.mark.parametrize("write", [with_torch, without_zip, bare])
def test_a_pickle_with_code_runs_nothing(write, folder, wan, models, tmp_path, monkeypatch):
    if write is with_torch:  # the real thing: in a process of its own
        monkeypatch.undo()
        monkeypatch.setenv("CAUSVID_MODELS", str(models))
    canary = tmp_path / "canary"
    write(folder / "evil.pt", canary)
    with pytest.raises(ModelError, match="holds more than tensors.* refused, and nothing of it was run"):
        install(folder / "evil.pt", base=str(wan))
    assert not canary.exists()
    assert left(models) == []
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()  # so the canary sings where a pickle is trusted


def test_a_pickle_is_converted_in_a_process_of_its_own(folder, state, wan, models, monkeypatch):
    install(write_form("flat", folder, state, suffix=".safetensors"), base=str(wan))
    monkeypatch.undo()
    monkeypatch.setenv("CAUSVID_MODELS", str(models))
    monkeypatch.setattr(torch, "load", lambda *given, **more: pytest.fail("a pickle was opened here"))
    (folder / "torch.py").write_text("raise SystemExit('a file of the working folder was run')")
    monkeypatch.chdir(folder)
    written = []
    pack = install(write_form("fsdp", folder, state), report=written.append)
    assert same(transformer_of(pack), transformer_of(wan))
    [file] = (pack / "transformer").glob("*.safetensors")
    assert sum(written) == file.stat().st_size - header(file)
    pipeline = load(pack, device="cpu")
    frames = pipeline.generate("a cat", length="9f", size=(48, 32), seed=1)
    assert frames.shape == (9, 32, 48, 3)


def header(file: Path) -> int:
    """Bytes of safetensors' header: the numbers alone are told as progress."""
    return 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no checkpoint of torch"),
        (b"<html>404</html>" * 99, "is no checkpoint of torch; if it was downloaded, get it again"),
        (b"PK\x03\x04" + bytes(999), "is cut short or damaged: it ends after 1003 bytes; get it again"),
    ],
)
def test_a_damaged_pickle_is_named(content, complaint, folder, wan):
    (folder / "x.pt").write_bytes(content)
    with pytest.raises(ModelError, match=complaint):
        install(folder / "x.pt", base=str(wan))


def test_a_pickle_that_is_cut_short_or_spoilt_is_refused_in_one_line(folder, state, wan, models):
    whole = write_form("generator", folder, state).read_bytes()
    for content in (whole[:5000], whole[:-50], whole[: len(whole) // 2], b"PK" + whole[9:]):
        (folder / "x.pt").write_bytes(content)
        with pytest.raises(ModelError, match="x.pt .*get it again") as raised:
            install(folder / "x.pt", base=str(wan))
        assert "\n" not in str(raised.value)
    assert left(models) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"generator": {"a": 3}}, "a is int, not a tensor"),
        ([torch.zeros(1)], "holds list, not named tensors"),
        (
            {"generator_lora": {"a": torch.zeros(1)}, "critic_lora": {}},
            r"is a LoRA, which is no model by itself.*\(it holds generator_lora.a\)",
        ),
        ({"a": torch.zeros(3).to_sparse()}, "a is a sparse or quantized tensor"),
    ],
)
def test_a_pickle_that_is_no_network_says_what_it_holds(content, complaint, folder, wan):
    torch.save(content, folder / "x.pt")
    with pytest.raises(ModelError, match=complaint):
        install(folder / "x.pt", base=str(wan))


def test_an_entry_can_be_named_and_must_be_there(folder, state, wan):
    torch.save({"mine": {f"model.{name}": tensor for name, tensor in state.items()}, "step": 3}, folder / "x.pt")
    assert same(transformer_of(install(folder / "x.pt", base=str(wan), key="mine")), transformer_of(wan))
    with pytest.raises(ModelError, match="has no entry 'yours'; it holds mine, step"):
        install(folder / "x.pt", base=str(wan), key="yours", name="again")


def test_an_old_torch_reads_no_pickles(folder, state, wan, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(ModelError, match="torch 2.9.1 cannot read a pickle safely; try pip install --upgrade"):
        install(write_form("generator", folder, state), base=str(wan))


def test_a_conversion_that_is_killed_says_why_and_leaves_nothing(folder, state, wan, models, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("CAUSVID_MODELS", str(models))
    path = write_form("generator", folder, state)
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(pickles.sys, "executable", python_that(folder, kill))
    with pytest.raises(DeviceError, match="ran out of memory"):
        install(path, base=str(wan))
    monkeypatch.setattr(pickles.sys, "executable", python_that(folder, "raise SystemExit('no such luck')"))
    with pytest.raises(RuntimeError, match="ended with 1: no such luck"):
        install(path, base=str(wan))
    assert left(models) == []


PYTHON = sys.executable


def python_that(folder: Path, code: str) -> str:
    """A program in Python's place."""
    script = folder / "python"
    script.write_text(f"#!{PYTHON}\n{code}\n")
    script.chmod(0o755)
    return str(script)


# --- safetensors ---------------------------------------------------------------------------------------------------


def test_a_damaged_safetensors_file_is_refused_in_one_line(folder, state, wan, models):
    whole = write_form("flat", folder, state, suffix=".safetensors").read_bytes()
    for content in (whole[:-4], whole[:5], bytes(99), b""):
        (folder / "x.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="x.safetensors cannot be read: .*; get it again") as raised:
            install(folder / "x.safetensors", base=str(wan))
        assert "\n" not in str(raised.value)
    assert left(models) == []


def test_an_index_may_not_lead_elsewhere(folder, state, wan):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(ModelError, match="weight_map must give each tensor the name of a file beside the index"):
        install(folder, base=str(wan))


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "holds no model: no .safetensors, .gguf or .pt file"),
        (["a.pt", "b.pt"], "one file of weights, or shards with one index, are wanted; found a.pt, b.pt"),
        (["a.gguf", "b.gguf"], "one file of weights, or shards with one index, are wanted; found a.gguf, b.gguf"),
    ],
)
def test_a_folder_of_what_is_unknown_says_what_is_wanted(names, complaint, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=complaint):
        plan_import(ImportRequest(path=tmp_path))


def test_a_path_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match="x.pt is not there"):
        plan_import(ImportRequest(path=tmp_path / "x.pt"))
    (tmp_path / "x.onnx").touch()
    with pytest.raises(ModelError, match="x.onnx is no checkpoint that is known: give a .safetensors, .gguf or .pt"):
        plan_import(ImportRequest(path=tmp_path / "x.onnx"))


# --- GGUF ----------------------------------------------------------------------------------------------------------


def packed(wan: Path, path: Path) -> Path:
    """The tiny transformer in 8 bits."""
    return write_gguf(path, WanTransformer3DModel.from_pretrained(wan / "transformer"), "Q8_0")


def test_a_gguf_file_keeps_its_bytes_and_makes_a_pack_that_runs(folder, wan, models):
    path = packed(wan, folder / "wan-q8.gguf")
    told: list[int] = []
    pack = install(path, base=str(wan), name="few-bits", dtype=None, report=told.append)
    kept = pack / "transformer" / path.name
    assert kept.read_bytes() == path.read_bytes()
    assert load_facts(pack).files["transformer/wan-q8.gguf"].sha256 == sha256(path.read_bytes()).hexdigest()
    assert sum(told) >= path.stat().st_size
    frames = load(pack, device="cpu").generate("a cat", length="1f", size=(32, 32), seed=1)
    assert frames.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("prefix", ["module.", "model.diffusion_model.model.diffusion_model.", "net.", "transformer."])
def test_a_gguf_file_that_is_imported_can_be_loaded(prefix, folder, wan):
    network = WanTransformer3DModel.from_pretrained(wan / "transformer")
    path = write_gguf(folder / "wan.GGUF", network, "Q8_0", prefix=prefix)
    pack = install(path, base=str(wan), name="few-bits", dtype=None)
    assert (pack / "transformer" / "wan.gguf").is_file()
    assert load(pack, device="cpu").generate("a cat", length="1f", size=(32, 32), seed=1).shape == (1, 32, 32, 3)


def test_a_gguf_file_that_counts_more_than_it_holds_is_refused_at_once(folder, wan):
    """An array of 2**60 bytes in a file of a few: the library would read nothing, for ever."""
    text = struct.pack("<Q", 1) + b"a"
    (folder / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text + struct.pack("<IIQ", 9, 0, 2**60))
    with pytest.raises(ModelError, match="x.gguf cannot be read as GGUF: it ends before what it counts"):
        install(folder / "x.gguf", base=str(wan), dtype=None)


def test_a_gguf_file_that_is_damaged_or_of_something_else_installs_nothing(folder, wan, models):
    path = packed(wan, folder / "x.gguf")
    with pytest.raises(UsageError, match="--dtype float16: a GGUF file keeps its numbers as they are"):
        install(path, base=str(wan), dtype="float16")
    for content in (path.read_bytes()[:1000], b""):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="x.gguf cannot be read as GGUF"):
            install(path, base=str(wan), dtype=None)
    assert left(models) == []


# --- the pack ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pack(folder, state, wan) -> Path:
    return install(write_form("flat", folder, state, suffix=".safetensors"), base=str(wan), name="first")


def test_a_pack_states_what_was_asked_and_lists_every_file_with_its_hash(pack):
    facts = load_facts(pack)
    assert facts.name == "first"
    assert (facts.chunk_frames, facts.steps, facts.shift) == (3, (1000.0, 750.0, 500.0, 250.0), 5.0)
    assert (facts.license, facts.source) == ("unknown", "imported from flat.safetensors")
    verify_pack(pack, facts, every=True)
    assert list_packs()["first"] == pack == models_folder() / "first"


def test_a_pack_makes_a_video_of_its_name(pack):
    frames = load("first", device="cpu").generate("a cat", length="9f", size=(48, 32), seed=1)
    assert frames.shape == (9, 32, 48, 3)


def test_a_second_pack_shares_the_parts_of_the_first(pack, folder):
    second = install(folder / "flat.safetensors", name="second")
    for part in ("vae", "text_encoder", "tokenizer"):
        for file in (pack / part).iterdir():
            assert file.samefile(second / part / file.name)
    verify_pack(second, load_facts(second), every=True)
    assert remove_pack(pack) < sum(file.bytes for file in load_facts(second).files.values())
    verify_pack(second, load_facts(second), every=True)
    assert left(models_folder()) == ["second"]


def test_parts_are_copied_where_there_are_no_links(pack, folder, monkeypatch):
    monkeypatch.setattr(building.os, "link", lambda *paths: (_ for _ in ()).throw(PermissionError()))
    second = install(folder / "flat.safetensors", name="second", base="first")
    assert not (pack / "vae" / "config.json").samefile(second / "vae" / "config.json")
    verify_pack(second, load_facts(second), every=True)


def test_a_damaged_pack_lends_no_parts_and_can_be_replaced(pack, folder, wan, models):
    file = next((pack / "vae").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match="the vae of Wan2.1 is wanted too: say where it lies by --base FOLDER"):
        install(folder / "flat.safetensors", name="second")
    with pytest.raises(ModelError, match="is damaged: sha256"):
        install(folder / "flat.safetensors", name="second", base="first")
    assert left(models) == ["first"]
    again = install(folder / "flat.safetensors", name="first", base=str(wan), replacing=True)
    verify_pack(again, load_facts(again), every=True)


def test_parts_that_are_nowhere_are_asked_for(folder, state):
    with pytest.raises(
        ModelError, match="the vae, the text encoder and the tokenizer of Wan2.1 are wanted too: say where they lie"
    ):
        install(write_form("flat", folder, state))


def test_a_name_that_is_taken_is_refused_and_replaced_when_asked(pack, folder, models):
    before = load_facts(pack)
    with pytest.raises(OutputError, match="first is installed already; -y replaces it"):
        install(folder / "flat.safetensors", name="first")
    install(folder / "flat.safetensors", name="first", dtype="bfloat16", replacing=True)
    assert load_facts(pack).files != before.files
    assert left(models) == ["first"]
    with pytest.raises(OutputError, match="storybook comes with causvid"):
        install(folder / "flat.safetensors", name="storybook", replacing=True)


@pytest.mark.parametrize("name", ["../x", ".x", "a b", "", "x/y", "x" * 65])
def test_a_name_that_is_none_is_refused(name, folder, state, wan):
    with pytest.raises(UsageError, match="--name .*: letters, digits"):
        install(write_form("flat", folder, state), base=str(wan), name=name or "-")


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt(), RuntimeError("a bug")])
def test_nothing_stays_of_what_was_interrupted(error, folder, state, wan, models):
    def stop(count: int) -> None:
        raise error

    with pytest.raises(type(error)):
        install(write_form("flat", folder, state), base=str(wan), report=stop)
    assert left(models) == []


def test_what_a_killed_run_left_is_swept_away_and_what_runs_is_left_alone(folder, state, wan, models):
    for name in (".x.999999999.part", f".y.{os.getpid()}.part", ".z.999999999.gone"):
        (models / name).mkdir(parents=True)
    pack = install(write_form("flat", folder, state), base=str(wan))
    assert left(models) == [f".y.{os.getpid()}.part", pack.name]
    assert pack.name in list_packs()


def put_aside(pack: Path, owner: int) -> Path:
    """What a process leaves that is killed between the two renames of a replacement."""
    return pack.rename(pack.with_name(f".{pack.name}.{owner}.old"))


def test_a_model_that_a_killed_replacement_put_aside_comes_back(pack, folder, wan, models):
    facts = load_facts(pack)
    put_aside(pack, 999999999)
    copy_pack(list_packs()["storybook-fast"], "other", replacing=False)
    assert left(models) == ["first", "other"]
    verify_pack(pack, facts, every=True)
    put_aside(pack, 999999999)
    with pytest.raises(OutputError, match="first is installed already; -y replaces it"):
        install(folder / "flat.safetensors", name="first", base=str(wan))
    put_aside(pack, 999999999)
    assert find_pack("first") == pack
    shutil.copytree(pack, models / ".first.999999999.old")  # killed after the second rename
    sweep()
    assert left(models) == ["first", "other"]


def test_a_process_of_the_number_of_a_killed_one_is_another(pack, models, monkeypatch):
    import psutil

    aside = put_aside(pack, os.getpid())
    sweep()
    assert left(models) == [aside.name]
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: aside.stat().st_ctime + 60)
    sweep()
    assert left(models) == ["first"]


def test_only_what_has_the_name_of_a_pack_is_listed(pack, models):
    for name in ("a$(touch x)", "a b", "a;b", "x" * 65, "-v"):
        shutil.copytree(pack, models / name)
    assert [name for name, path in list_packs().items() if path.parent == models] == ["first"]


@pytest.mark.parametrize("special", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
@pytest.mark.parametrize("name", ["config.json", "flat.safetensors", "x.index.json"])
def test_what_is_no_ordinary_file_is_named_and_not_read(special, name, folder, state, wan):
    path = write_form("flat", folder, state, suffix=".safetensors")
    (folder / name).unlink(missing_ok=True)
    special(folder / name)
    with pytest.raises(ModelError, match=f"{name} is no ordinary file|holds no model"):
        install(folder / name if name == "x.index.json" else path, base=str(wan))


def test_a_pack_that_is_being_made_has_no_name_yet(models, pack):
    shutil.copytree(pack, models / ".half.1.part")
    assert list(list_packs())[-1] == "first"


def test_a_disk_without_room_is_told_before_anything_is_written(folder, state, wan, models, monkeypatch):
    monkeypatch.setattr(building.shutil, "disk_usage", lambda path: SimpleNamespace(free=9))
    with pytest.raises(
        ModelError, match=r"not enough room: \d+\.\d MB are needed in .*, 9 bytes are free; make room, or name"
    ):
        install(write_form("flat", folder, state), base=str(wan))
    assert left(models) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(folder, state, wan, models, monkeypatch):
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "_put", full)
    with pytest.raises(ModelError, match=r"not enough room in .*; make room, or name another folder by CAUSVID_MODELS"):
        install(write_form("flat", folder, state), base=str(wan))
    assert left(models) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(folder, state, wan, models):
    models.mkdir()
    models.chmod(0o500)
    with pytest.raises(OutputError, match="models cannot be written to: permission denied"):
        install(write_form("flat", folder, state), base=str(wan))


def test_a_folder_that_is_a_file_is_named(folder, state, wan, models):
    models.write_text("")
    with pytest.raises(OutputError, match="models cannot be written to: file exists"):
        install(write_form("flat", folder, state), base=str(wan))


def test_a_pack_that_lies_elsewhere_is_installed_under_a_name(tmp_path, pack, models):
    elsewhere = shutil.copytree(pack, tmp_path / "elsewhere")
    copied = copy_pack(elsewhere, "mine", replacing=False)
    assert load_facts(copied).name == "mine"
    assert load_facts(copied).files == load_facts(pack).files
    verify_pack(copied, load_facts(copied), every=True)
    file = next((elsewhere / "vae").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is damaged"):
        copy_pack(elsewhere, "yours", replacing=False)
    assert left(models) == ["first", "mine"]


def test_a_large_pack_is_not_hashed_again_before_its_first_video(folder, state, wan, monkeypatch):
    from causvid_cli.models import packs

    monkeypatch.setattr(packs, "SMALL_BYTES", 0)
    pack = install(write_form("flat", folder, state), base=str(wan))
    assert (pack / STAMPS_FILE).is_file()
    assert STAMPS_FILE not in load_facts(pack).files
    monkeypatch.setattr(packs, "sha256_of_file", lambda file: pytest.fail(f"{file} is read"))
    verify_pack(pack, load_facts(pack))
