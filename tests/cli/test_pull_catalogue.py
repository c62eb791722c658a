"""Every model of the catalogue, pulled from a hub of this machine, where its files lie in their true forms but tiny."""

import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
import torch
from checkpoints import (
    State,
    fsdp,
    official,
    official_text_encoder,
    transformer_of,
    under,
    with_counters,
    with_second,
)
from commands import makes
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from hub import COMMIT, Hub, serving
from safetensors.torch import save_file
from tiny_wan import tiny_taehv, tiny_wan

pytest.importorskip("transformers")

from huggingface_hub import constants

from causvid_cli.config import load_facts
from causvid_cli.models import catalogue
from causvid_cli.models.catalogue import Checkpoint, RemoteFile, find_checkpoint
from causvid_cli.weights import checkpoint, pickles
from causvid_cli.weights.files import load_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = tuple(catalogue.catalogue().checkpoints)
QUERY = "blocks.0.self_attn.q"
RANK = 256
"""Of LongLive's LoRA."""


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    folder = tiny_wan(tmp_path_factory.mktemp("wan") / "tiny-Diffusers")
    AutoencoderKLWan(base_dim=4).save_pretrained(folder / "vae")  # with as many layers as the published one
    tiny_taehv(folder / "vae_tiny")
    return folder


@pytest.fixture(scope="module")
def state(wan) -> State:
    return official(transformer_of(wan))


@pytest.fixture(scope="module")
def second(state) -> State:
    """What SGF+ writes the context with."""
    return {name: tensor + 1 for name, tensor in state.items()}


def content(known: Checkpoint, file: RemoteFile, state: State, second: State) -> dict[str, object]:
    """What a file of a checkpoint holds, in the form in which its publisher's program saved it."""
    if file.lora_key:
        down, up = (f"base_model.model.{QUERY}.lora_{side}.weight" for side in "AB")
        return {file.lora_key: {down: torch.ones(RANK, 32), up: torch.ones(32, RANK) / RANK}}
    if known.context_network:
        return with_second(state, second)
    if known.prefix == "net.":
        return with_counters(state)
    weights = fsdp(state) if "_fsdp_wrapped_module" in known.prefix else under(known.prefix, state)
    if known.key is None:
        return weights
    others = {"generator", "generator_ema", "critic"} - {known.key}  # which are not to be taken
    return {known.key: weights} | {other: {name: 2 * each for name, each in weights.items()} for other in others}


def write(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)


def write_shards(folder: Path, files: tuple[RemoteFile, ...], state: State) -> None:
    """A checkpoint in as many files as the catalogue lists, the last of which is their index."""
    *shards, index = [file.path for file in files]
    parts = {shard: dict(list(state.items())[number :: len(shards)]) for number, shard in enumerate(shards)}
    for shard, part in parts.items():
        write(folder / shard, part)
    where = {name: shard for shard, part in parts.items() for name in part}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def write_parts(hub: Path, wan: Path) -> None:
    """VAE, text encoder, tokenizer and tiny VAE, each at its place in its repository."""
    text = load_safetensors(wan / "text_encoder")
    text.setdefault("shared.weight", text.get("encoder.embed_tokens.weight"))
    vae = load_safetensors(wan / "vae")
    published = json.loads((GOLDEN / "keys_wan_vae.json").read_text())["keys"]
    contents: dict[str, State] = {
        "vae": {name: vae[told["diffusers"]] for name, told in published.items()},
        "text_encoder": official_text_encoder(text),
        "tiny_vae": load_safetensors(wan / "vae_tiny"),
    }
    for part, source in catalogue.catalogue().parts.items():
        path = hub / source.repository / source.files[0].path
        if part in contents:
            write(path, contents[part])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(wan / "tokenizer" / "tokenizer.json", path)


def tiny_catalogue(hub: Path, wan: Path) -> str:
    """The shipped catalogue, with the tiny networks' configurations and the sizes and hashes of their files."""
    tables = tomllib.loads(catalogue.FILE.read_text(encoding="utf-8"))
    for architecture in tables["architectures"].values():
        architecture["config"] = config(wan / "transformer")
    for part, folder in {"vae": "vae", "text_encoder": "text_encoder", "tiny_vae": "vae_tiny"}.items():
        tables["parts"][part]["config"] = config(wan / folder)
    for source in (*tables["parts"].values(), *tables["checkpoints"].values()):
        for file in source["files"]:
            told = (hub / source["repository"] / file["path"]).read_bytes()
            true = {"bytes": len(told), "sha256": hashlib.sha256(told).hexdigest()}
            file |= {key: value for key, value in true.items() if key in file}
    return tomlkit.dumps(tables)


def config(folder: Path) -> dict:
    told = json.loads((folder / "config.json").read_text())
    return {key: value for key, value in told.items() if value is not None}


@pytest.fixture(scope="module")
def served(tmp_path_factory, wan, state, second) -> Iterator[Hub]:
    """The hub with all files, beside the catalogue that tells of them."""
    folder = tmp_path_factory.mktemp("hub")
    for known in catalogue.catalogue().checkpoints.values():
        if len(known.files) > 2:
            write_shards(folder / known.repository, known.files, state)
            continue
        for file in known.files:
            write(folder / known.repository / file.path, content(known, file, state, second))
    write_parts(folder, wan)
    (folder / "catalogue.toml").write_text(tiny_catalogue(folder, wan))
    with serving(folder) as hub:
        yield hub


@pytest.fixture
def hub(served, monkeypatch) -> Iterator[Hub]:
    """The hub, the catalogue that knows it, its cache, and the models that were pulled before."""
    monkeypatch.setattr(catalogue, "FILE", served.folder / "catalogue.toml")
    catalogue.catalogue.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(served.folder / "cache"))
    monkeypatch.setattr(checkpoint, "open_pickle", pickles.read_pickle)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a busy disk takes long for it
    monkeypatch.setenv("CAUSVID_MODELS", str(served.folder / "models"))
    monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield served
    catalogue.catalogue.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_the_catalogue_is_pulled_and_imported_whole(name, hub, state, second):
    known = find_checkpoint(name)
    paths = [file.path for file in known.files]
    hub.asked.clear()
    pack = installed("pull", name)
    assert [path for path in hub.asked if path in paths] == paths
    assert not list((hub.folder / "cache").glob("*/blobs/*")), "what a pull brought goes"
    facts = load_facts(pack)
    assert facts == known.facts(source=facts.source, files=facts.files)
    assert facts.source == f"{known.repository}@{known.revision or COMMIT}"
    changed = {f"{QUERY}.weight": state[f"{QUERY}.weight"] + 1} if any(file.lora_key for file in known.files) else {}
    assert {"vae", "vae_tiny", "text_encoder", "tokenizer"} <= {path.name for path in pack.iterdir()}

    index = next((path for path in paths if path.endswith(".json")), paths[0])
    again = installed("import", hub.folder / known.repository / index, "--as", name, "--name", "imported")
    for made in (pack, again):
        assert_same(official(transformer_of(made)), state | changed)
        if known.context_network:
            assert_same(official(load_safetensors(made / known.context_network)), second)


def installed(*arguments: object) -> Path:
    """The pack that `causvid models ARGUMENTS` makes."""
    return Path(makes("models", *arguments, "--yes", "--dtype", "float32").stdout.strip())


def assert_same(made: State, wanted: State) -> None:
    assert made.keys() == wanted.keys()
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)
