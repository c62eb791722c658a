"""The catalogue: what it says of public checkpoints holds together, and fits what their publishers' files hold."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from causvid_cli.config import PackFacts, from_json, to_json
from causvid_cli.errors import ModelError, UsageError
from causvid_cli.models.catalogue import Catalogue, catalogue, find_checkpoint, is_non_commercial, length_warning
from causvid_cli.sampling.schedule import steps_of

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = {"wan2.1-1.3b": "keys_wan_t2v_1_3b.json", "wan2.1-14b": "keys_wan_t2v_14b.json"}


@pytest.mark.parametrize("name", KEYS)
def test_a_network_of_the_catalogue_has_the_published_keys_and_shapes(name):
    published = json.loads((GOLDEN / KEYS[name]).read_text())
    architecture = catalogue().architectures[name]
    with torch.device("meta"):
        network = WanTransformer3DModel.from_config(architecture.config)
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == {facts["diffusers"]: facts["shape"] for facts in published["keys"].values()}
    assert architecture.parameters == published["num_parameters"]


def test_the_vae_of_the_catalogue_has_the_published_keys_and_shapes():
    published = json.loads((GOLDEN / "keys_wan_vae.json").read_text())
    with torch.device("meta"):
        vae = AutoencoderKLWan.from_config(catalogue().parts["vae"].config)
    shapes = {key: list(tensor.shape) for key, tensor in vae.state_dict().items()}
    assert shapes == {facts["diffusers"]: facts["shape"] for facts in published["keys"].values()}
    assert catalogue().parts["vae"].parameters == published["num_parameters"]
    assert len(vae.config.latents_mean) == len(vae.config.latents_std) == vae.config.z_dim == 16


def test_the_text_encoder_of_the_catalogue_is_as_large_as_umt5_xxl():
    transformers = pytest.importorskip("transformers")
    part = catalogue().parts["text_encoder"]
    with torch.device("meta"):
        encoder = transformers.UMT5EncoderModel(transformers.UMT5Config.from_dict(part.config))
    assert sum(weight.numel() for weight in encoder.parameters()) == part.parameters
    assert abs(part.bytes - 2 * part.parameters) < 200_000  # its file is bfloat16


@pytest.mark.parametrize("name", catalogue().checkpoints)
def test_every_checkpoint_says_all_that_a_pack_must(name):
    checkpoint = find_checkpoint(name)
    facts = checkpoint.facts(name="mine")
    assert checkpoint.unknown == ()
    assert facts.name == "mine"
    assert facts.kind == checkpoint.kind
    assert (facts.fps, facts.width, facts.height) == (16.0, 832, 480)
    assert (facts.text, facts.codec) == ("umt5", "wan")
    assert facts.source.startswith(checkpoint.repository)
    assert from_json(PackFacts, to_json(facts), where="facts") == facts
    assert checkpoint.architecture in catalogue().architectures


def test_the_steps_are_those_of_the_publishers():
    wanted = {
        "self-forcing": [1000, 937.5, 833.3333, 625],
        "causal-forcing-framewise": [1000, 937.5, 833.3333, 625],
        "causvid": [1000, 757, 522],
        "causvid-warp-4step": [1000, 960, 888.8889, 727.2727],
        "krea-14b": [1000, 937, 833, 625],
    }
    for name, timesteps in wanted.items():
        facts = find_checkpoint(name).facts()
        steps = steps_of(facts.steps, shift=facts.shift, warped=facts.warp_steps)
        assert [step.timestep for step in steps] == pytest.approx(timesteps, abs=1e-3)


def test_longlive_sees_twelve_frames_three_of_them_for_ever():
    facts = find_checkpoint("longlive").facts()
    assert (facts.sink_frames, facts.sink_frames + facts.window_frames) == (3, 12)
    assert facts.rope == "absolute", "as its scores were published"


def test_what_is_not_known_is_asked_for_and_never_guessed():
    checkpoint = replace(find_checkpoint("causvid"), shift=None, window_frames=None)
    assert checkpoint.unknown == ("shift", "window_frames")
    with pytest.raises(UsageError, match="causvid: not known: shift, window_frames"):
        checkpoint.facts()
    assert checkpoint.facts(shift=8.0, window_frames=21).shift == 8.0


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ModelError, match="no checkpoint 'self-forcin' is known; did you mean self-forcing?"):
        find_checkpoint("self-forcin")
    with pytest.raises(ModelError, match="no checkpoint 'zzz' is known: causal-forcing, "):
        find_checkpoint("zzz")


def test_a_download_has_a_size_only_where_all_of_it_is_known():
    assert find_checkpoint("longlive").bytes == 5_676_334_208 + 2_800_056_690
    assert find_checkpoint("causvid").bytes == 11_352_649_716
    assert find_checkpoint("causvid-warp-4step").bytes is None


@pytest.mark.parametrize("name", ["causal-forcing", "causal-forcing-framewise", "self-forcing"])
def test_a_video_longer_than_the_authors_support_is_warned_of(name):
    facts = find_checkpoint(name).facts(name="mine")
    assert length_warning(facts, 81) == ""
    for frames in (82, None):
        assert length_warning(facts, frames) == (
            "mine: its authors do not support more than 81 frames, and pictures may drift after that; "
            "for long clips try longlive or sgf or sgf-framewise"
        )
    assert length_warning(find_checkpoint("longlive").facts(), 4000) == ""


def test_licences_that_forbid_commercial_use_are_told_apart():
    assert find_checkpoint("longlive").non_commercial
    assert not find_checkpoint("krea-14b").non_commercial
    assert not find_checkpoint("causal-forcing").non_commercial
    assert is_non_commercial("cc-by-nc-4.0")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("steps = [1000.0", 'steps = ["1000"'), r"checkpoints\.causal-forcing\.steps\.0: must be a valid number"),
        (("shift = 5.0", "shfit = 5.0"), r"checkpoints\.causal-forcing\.shfit: unknown; did you mean shift\?"),
        (("[parts.vae]", "[parts.vae"), "not TOML"),
    ],
)
def test_a_slip_in_the_catalogue_is_named_by_its_path(change, complaint):
    text = (Path(sys.modules[Catalogue.__module__].__file__).parent / "catalogue.toml").read_text()
    with pytest.raises(ModelError, match=complaint):
        Catalogue.parse(text.replace(*change, 1), where="catalogue.toml")


def test_the_catalogue_is_read_without_torch():
    code = "import sys, causvid_cli.models.catalogue as c; c.catalogue(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
