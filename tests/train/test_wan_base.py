"""Wan2.1 as a base: a folder of its shape, through umT5 and the Wan VAE, to a pack that every command takes."""

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_pack
from tiny_wan import tiny_wan
from typer.testing import CliRunner

pytest.importorskip("transformers")

from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from causvid_cli.cli.app import app
from causvid_cli.errors import ModelError
from causvid_cli.network.masks import teacher_forcing_mask
from causvid_cli.pipeline import load
from causvid_cli.prompt.umt5 import ROWS
from causvid_cli.teacher import load_teacher
from causvid_cli.train.base_model import Base, load_base
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.export import export_pack
from causvid_cli.train.prompt_table import encode_prompts

CPU = torch.device("cpu")
CAT = 'A cat\'s hat, "red"  &amp; <b>round'


def base_of(folder: Path | str) -> Base:
    return load_base(folder, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_wan(tmp_path_factory.mktemp("wan") / "Wan2.1-T2V-tiny-Diffusers")


@pytest.fixture(scope="module")
def base(folder) -> Base:
    return base_of(folder)


@pytest.fixture(scope="module")
def pack(tmp_path_factory, base) -> Path:
    """A pack whose student has moved a little from the base."""
    student = copy.deepcopy(base.start)
    with torch.no_grad():
        student.transformer.proj_out.weight.mul_(1.5)
    folder = tmp_path_factory.mktemp("packs") / "tiny-wan"
    facts = replace(base.facts, name="tiny-wan", height=32, width=48, teacher_steps=2)
    export_pack(folder, facts, student=student, teacher=base.teacher, base=base.folder)
    return folder


# --- the base ------------------------------------------------------------------------------------------------------


def test_wan_is_the_teacher_and_what_the_student_begins_as(base):
    assert base.student is None
    assert base.start is base.teacher
    assert (base.facts.text, base.facts.codec, base.facts.chunk_frames) == ("umt5", "wan", 3)
    assert base.codec.facts.latent_channels == base.teacher.config.in_channels == 16


@torch.inference_mode()
def test_the_teacher_gives_what_diffusers_gives(folder, base):
    rng = torch.Generator().manual_seed(0)
    x_t, embeds = torch.randn(1, 16, 3, 4, 6, generator=rng), base.text.encode(CAT).embeds
    published = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder / "transformer"))
    published.load_state_dict(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))
    wanted = published(x_t, torch.tensor([700.0]), embeds).sample
    got = base.teacher.forward_whole(x_t, 700.0, base.teacher.prompt_cache(embeds))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)  # diffusers' sinusoid is float32


def test_a_student_that_begins_as_wan_gets_a_gradient(base):
    student = copy.deepcopy(base.start).train().requires_grad_(True)
    clean, x_t = torch.randn(2, 1, 16, 6, 4, 6, generator=torch.Generator().manual_seed(0))
    prompt = student.prompt_cache(base.text.encode(CAT).embeds.clone())
    mask = teacher_forcing_mask((3, 3))
    student.forward_whole(x_t, 700.0, prompt, mask=mask, clean=clean).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    assert not any(p.requires_grad for p in base.teacher.parameters())


def test_a_pack_is_a_base_with_a_student_of_its_own(pack, tmp_path):
    base = base_of(pack)
    assert base.start is base.student
    assert not torch.equal(base.start.transformer.proj_out.weight, base.teacher.transformer.proj_out.weight)
    again = tmp_path / "again"
    export_pack(again, replace(base.facts, name="again"), student=base.start, base=base.folder)
    assert {file: facts.sha256 for file, facts in base_of(again).facts.files.items()} == {
        file: facts.sha256 for file, facts in base.facts.files.items()
    }


def test_a_storybook_pack_is_a_base_too(tmp_path):
    base = base_of(tiny_pack(tmp_path / "tiny"))
    assert base.facts.text == "storybook"
    assert base.story.empty_rows(2).shape == (2, 5)
    assert base.codec.facts.latent_channels == base.start.config.in_channels
    embeds = base.text.encode("a red car moves left in the snow").embeds
    assert base.teacher.prompt_cache(embeds) is not None


def test_storybooks_text_features_are_not_wans(base):
    with pytest.raises(ModelError, match="reads prompts by umt5"):
        _ = base.story


def test_a_base_without_a_teacher_says_so(tmp_path):
    base = base_of(tiny_pack(tmp_path / "alone", teacher=None))
    assert base.start is base.student
    with pytest.raises(ModelError, match="comes without its teacher"):
        _ = base.teacher


def an_empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def the_original_files(folder: Path) -> None:
    an_empty_folder(folder)
    (folder / "Wan2.1_VAE.pth").touch()


def image_to_video(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 36}))


def two_transformers(folder: Path) -> None:
    (folder / "transformer_2").mkdir()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


def another_vae(folder: Path) -> None:
    path = folder / "vae" / "config.json"
    path.write_text(path.read_text().replace("AutoencoderKLWan", "AutoencoderKLCogVideoX"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            an_empty_folder,
            r"neither a model pack \(causvid.json\) nor Wan2.1 in diffusers layout: no transformer, vae,",
        ),
        (the_original_files, "Wan's original files: get the repository whose name ends in -Diffusers"),
        (image_to_video, "in_channels 36 instead of 16: not Wan2.1's text-to-video transformer"),
        (two_transformers, "Wan2.2 cannot be distilled yet"),
        (no_tokenizer, "tokenizer.json is missing"),
        (another_vae, "'AutoencoderKLCogVideoX' instead of 'AutoencoderKLWan'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_another_folder_is_refused_in_one_line(folder, tmp_path, change, complaint):
    other = shutil.copytree(folder, tmp_path / "other")
    change(other)
    with pytest.raises(ModelError, match=complaint) as raised:
        base_of(other)
    assert "\n" not in str(raised.value)


def test_a_base_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="no model 'storybok'.*storybook"):
        base_of("storybok")


# --- umT5 ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_features_are_those_of_a_padded_and_masked_run_with_zeros_behind_them(folder, base):
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder")
    ids = base.text.tokenizer.encode("a cat's hat").ids
    tokens, used = torch.zeros(1, ROWS, dtype=torch.long), len(ids)
    tokens[0, :used] = torch.tensor(ids)
    wanted = encoder(tokens, (torch.arange(ROWS) < used).long()[None]).last_hidden_state
    got = base.text.encode("a cat's hat").embeds
    assert ids[-1] == 1
    assert got.shape == (1, ROWS, 32)
    assert not got[:, used:].any()
    torch.testing.assert_close(got[:, :used], wanted[:, :used], atol=1e-5, rtol=0)


def test_prompts_are_cleaned_as_wan_cleans_them(base):
    assert base.text.encode(f"  {CAT.replace(chr(39), chr(0x2019))}\n").reading == 'A cat\'s hat, "red" & <b>round'


def test_the_empty_prompt_is_the_end_of_a_text_alone(base):
    assert base.text.empty().any(dim=-1).sum() == 1


def test_a_prompt_that_is_too_long_is_cut_and_says_so(base):
    encoded = base.text.encode("cat " * 200)
    assert encoded.embeds.shape == (1, ROWS, 32)
    assert encoded.notes == ("the prompt is longer than 512 tokens; its end was not read",)
    assert base.text.encode("cat").notes == ()


def test_the_shared_table_may_have_either_name(folder, base, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    path = other / "text_encoder" / "model.safetensors"
    state = load_file(path)
    table = state.pop("shared.weight" if "shared.weight" in state else "encoder.embed_tokens.weight")
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        save_file(state | {name: table}, path, metadata={"format": "pt"})
        text = base_of(other).text
        assert text.model.shared is text.model.encoder.embed_tokens
        assert torch.equal(text.encode("a cat").embeds, base.text.encode("a cat").embeds)


@pytest.mark.parametrize("package", ["transformers", "tokenizers", "ftfy"])
def test_a_missing_package_is_named_with_its_remedy(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs the package {package}; try pip install '\.\[wan\]' in"):
        _ = base_of(folder).text


def test_prompts_encoded_once_are_the_same_features(base, tmp_path):
    prompts = ["a cat", "a dog's hat, red"]
    table = encode_prompts(tmp_path / "prompts.safetensors", prompts, base.text)
    table = encode_prompts(tmp_path / "prompts.safetensors", prompts, base.text)  # read, not made again
    rows = table.caption_rows(["a dog's hat, red", "a cat"])
    wanted = torch.cat([*(base.text.encode(prompt).embeds for prompt in reversed(prompts)), base.text.empty()])
    assert torch.equal(table(torch.cat([rows, table.empty_rows(1)])), wanted)
    assert table.to(torch.float64)(rows).dtype == torch.float64
    denoiser = Denoiser(base.teacher, table.float())
    dropped = denoiser.drop_prompts(rows, torch.tensor([0.05, 0.5]), rate=0.1)
    assert dropped.tolist() == [[0], [1]]
    assert denoiser.prompt(dropped) is not None


# --- the pack ------------------------------------------------------------------------------------------------------


def test_a_pack_holds_all_that_it_needs(pack):
    facts = json.loads((pack / "causvid.json").read_text())
    assert (facts["text"], facts["codec"], facts["rope"], facts["teacher"]) == ("umt5", "wan", "relative", "teacher")
    assert {name.split("/")[0] for name in facts["files"]} == {
        "model_index.json",
        "scheduler",
        "transformer",
        "teacher",
        "vae",
        "text_encoder",
        "tokenizer",
    }


def test_a_video_of_an_exported_student(pack):
    pipeline = load(pack, device="cpu")
    stream = pipeline.stream(CAT, length="21f", seed=1)
    chunks = [next(stream)]
    stream.prompt = "a dog"
    chunks += stream
    assert [chunk.frames.shape for chunk in chunks] == [(9, 32, 48, 3), (12, 32, 48, 3)]
    codec = pipeline.codec
    whole = codec.decode_chunk(torch.cat([chunk.latent for chunk in chunks], dim=2), state=codec.decode_state())
    assert np.array_equal(np.concatenate([chunk.frames for chunk in chunks]), whole[0].numpy())


def test_the_command_line_takes_an_exported_student(pack, tmp_path):
    output = tmp_path / "cat.mp4"
    options = ["--model", str(pack), "--length", "0.7s", "--seed", "1", "--device", "cpu", "-o", str(output), "--json"]
    done = CliRunner().invoke(app, ["t2v", CAT, *options])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 11  # at 16 per second
    assert output.exists()


def test_the_teacher_of_a_pack_makes_a_clip(pack):
    frames = load_teacher(pack, device="cpu").generate(CAT, length="9f", seed=1)
    assert frames.shape == (9, 32, 48, 3)
    assert frames.std() > 0
