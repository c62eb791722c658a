"""Any known architecture, filled with random numbers: the real pipeline, honest about what its pictures are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from causvid_cli.cli.app import app
from causvid_cli.codec.taehv import TAEHV
from causvid_cli.codec.wan import WanCodec, empty_vae
from causvid_cli.errors import ModelError
from causvid_cli.media.probe import read_info
from causvid_cli.models import catalogue as known
from causvid_cli.models import random_weights
from causvid_cli.models.empty import empty_network
from causvid_cli.models.random_weights import NOTE, RandomText, fill, random_codec, random_transformer
from causvid_cli.models.resolve import resolve_model
from causvid_cli.pipeline import load
from causvid_cli.request import Loading

CPU = torch.device("cpu")
RANDOM = Loading(random_weights=True)
OPTIONS = ["--length", "9f", "--size", "48x32", "--seed", "1", "--device", "cpu"]


STUDENTS = [name for name, checkpoint in known.catalogue().checkpoints.items() if checkpoint.kind == "student"]


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("vae", ["full", "tiny"])
def test_every_student_runs_at_once(small_networks, name, vae):
    pipeline = load(name, device="cpu", loading=replace(RANDOM, vae=vae))
    assert pipeline.facts == known.find_checkpoint(name).facts()
    assert isinstance(pipeline.codec, TAEHV if vae == "tiny" else WanCodec)
    stream = pipeline.stream("a cat", length="33f", size=(48, 32), seed=1)
    assert stream.notes == (NOTE,)
    for chunk in stream:
        assert chunk.latent.isfinite().all()
        assert 0.01 < chunk.latent.std() < 100
        assert chunk.frames.std() > 1


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "wan2.1-14b"])
def test_networks_have_as_many_weights_as_published(name):
    architecture = known.catalogue().architectures[name]
    network = empty_network("transformer", architecture.config)
    assert sum(weight.numel() for weight in network.parameters()) == architecture.parameters


def test_codecs_have_as_many_weights_as_published():
    part = known.catalogue().parts["vae"]
    assert sum(weight.numel() for weight in empty_vae(part.config).parameters()) == part.parameters


def test_the_same_name_gives_the_same_weights_and_prompts_differ(small_networks):
    facts = resolve_model("self-forcing", loading=RANDOM).facts
    one, other = (random_transformer(facts, device=CPU, dtype=torch.float32).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    text = RandomText(dim=16)
    assert torch.equal(text.encode("a cat").embeds, text.encode(" a cat ").embeds)
    assert not torch.equal(text.encode("a cat").embeds, text.encode("a dog").embeds)
    assert text.encode("a red cat").embeds.any(dim=-1).sum() == 4
    assert text.encode("cat " * 600).embeds.shape == (1, 512, 16)


def test_weights_are_made_in_their_own_number_format_and_place(small_networks, monkeypatch):
    asked: list[torch.dtype] = []
    to_empty = torch.nn.Module.to_empty

    def watched(module, **options):
        asked.extend(weight.dtype for weight in module.parameters())
        assert all(weight.is_meta for weight in module.parameters())
        return to_empty(module, **options)

    monkeypatch.setattr(torch.nn.Module, "to_empty", watched)
    facts = resolve_model("self-forcing", loading=RANDOM).facts
    network = random_transformer(facts, device=CPU, dtype=torch.bfloat16)
    assert set(asked) == {weight.dtype for weight in network.parameters()} == {torch.bfloat16}


def test_numbers_are_scaled_so_that_a_signal_keeps_its_size():
    network = torch.nn.Sequential(torch.nn.Linear(400, 300), torch.nn.LayerNorm(300), torch.nn.Linear(300, 20))
    network.to("meta")
    fill(network, device=CPU, dtype=torch.float32)
    assert network[0].weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert network[0].weight.mean().abs() < 1e-3
    assert (network[1].weight == 1).all()
    assert not network[2].bias.any()
    assert not torch.equal(network[0].weight.flatten()[:100], network[2].weight.flatten()[:100])


def test_a_tensor_larger_than_the_pool_holds_it_again(monkeypatch):
    monkeypatch.setattr(random_weights, "POOL", 64)
    network = torch.nn.Linear(100, 30).to("meta")
    fill(network, device=CPU, dtype=torch.float32)
    drawn = network.weight.flatten()
    assert torch.equal(drawn[:64], drawn[64:128])
    assert drawn.isfinite().all()


@pytest.mark.parametrize("vae", ["full", "tiny"])
def test_random_codecs_make_pictures_and_latents(small_networks, vae):
    codec = random_codec(vae, device=CPU, dtype=torch.float32)
    frames = codec.decode_chunk(torch.randn(1, 16, 2, 2, 3), state=codec.decode_state())
    assert frames.shape == (1, 5, 16, 24, 3)
    assert codec.encode_chunk(frames, state=codec.encode_state()).isfinite().all()


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_says_that_the_weights_are_random_and_so_does_the_file(small_networks, work):
    done = CliRunner().invoke(app, ["t2v", "a cat", "--random-weights", "self-forcing", *OPTIONS, "-o", "a.mp4"])
    assert done.exit_code == 0, done.stderr
    assert NOTE in done.stderr
    recipe = read_info(Path("a.mp4")).recipe
    assert recipe["loading"] == {"random_weights": True}
    assert recipe["model"]["name"] == "self-forcing"


def test_it_can_be_made_again(small_networks, work):
    for command in (
        ["t2v", "a cat", "--random-weights", "self-forcing", "--vae", "tiny", *OPTIONS, "-o", "a.mp4"],
        ["rerun", "a.mp4", "--device", "cpu", "-o", "b.mp4"],
    ):
        done = CliRunner().invoke(app, [*command, "--sidecar", "-y"])
        assert done.exit_code == 0, done.stderr
    one, other = (json.loads(Path(f"{name}.mp4.json").read_text())["chunks"] for name in "ab")
    assert [chunk["latent_sha256"] for chunk in one] == [chunk["latent_sha256"] for chunk in other]


def test_random_weights_are_not_those_of_a_pack(small_networks):
    digests = {
        resolve_model(name, loading=replace(RANDOM, vae=vae)).sha256 for name in STUDENTS for vae in ("full", "tiny")
    }
    assert len(digests) == 2 * len(STUDENTS)


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (["--random-weights", "self-forcin"], 4, "no checkpoint 'self-forcin' is known; did you mean self-forcing?"),
        (["--random-weights", "wan2.1-1.3b"], 4, "wan2.1-1.3b is bidirectional"),
        (["--random-weights", "longlive", "--model", "storybook"], 2, "--random-weights and --model storybook"),
        (["--random-weights", "longlive", "--vae", "small"], 2, "--vae small: unknown; try auto, full or tiny"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(work, options, code, complaint):
    done = CliRunner().invoke(app, ["t2v", "a cat", *options])
    assert done.exit_code == code
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_base_makes_no_video_chunk_by_chunk():
    with pytest.raises(ModelError, match="bidirectional"):
        load("wan2.1-14b", device="cpu", loading=RANDOM)
