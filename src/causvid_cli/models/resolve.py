"""The model that a video is to be made with, and all that is known of it before torch loads."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import ModelError
from causvid_cli.geometry import CodecFacts
from causvid_cli.models.catalogue import catalogue, find_checkpoint
from causvid_cli.models.packs import TINY_VAE, check_causal, codec_facts, find_pack, pack_digest, wan_codec_facts
from causvid_cli.request import LOADING, Loading, Vae

RANDOM = "random weights, recipe 1"
"""What random weights are drawn by: other words where the same name would give other numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model pack, or the architecture of a known checkpoint to be filled with random numbers."""

    folder: Path | None
    """The pack's folder; None for random weights."""
    facts: PackFacts
    codec: CodecFacts
    sha256: str
    """Equal for equal weights."""
    vae: Vae = "full"
    note: str = ""
    """Why it is this one, where nobody named it."""


def resolve_model(name: str | Path, *, loading: Loading = LOADING) -> ResolvedModel:
    """A model by the name or folder of its pack; with random weights by its name in the catalogue.

    Raises ModelError for what is not there, or has no codec of the kind that is asked for.
    """
    folder, facts = find_model(name, loading=loading)
    if folder is not None:
        codec, digest = codec_facts(folder, facts, loading.vae), pack_digest(facts)
    else:
        part = catalogue().parts["tiny_vae" if loading.vae == "tiny" else "vae"]
        codec = wan_codec_facts(part.config or {})
        digest = hashlib.sha256(f"{RANDOM}: {facts.name}, {loading.vae}".encode()).hexdigest()
    return ResolvedModel(folder=folder, facts=facts, codec=codec, sha256=digest, vae=loading.vae)


def with_usual_vae(model: ResolvedModel, device: str) -> ResolvedModel:
    """The model with the VAE that suits a device: anywhere but on CUDA the tiny one, if its pack has one.

    Raises DeviceError for a device that is not there. Loads torch where there is a choice.
    """
    if model.folder is None or model.facts.codec != "wan" or not (model.folder / TINY_VAE).is_dir():
        return model
    from causvid_cli.device import resolve_device

    if resolve_device(device).type == "cuda":
        return model
    return resolve_model(model.folder, loading=Loading(vae="tiny"))


def find_model(name: str | Path, *, loading: Loading = LOADING) -> tuple[Path | None, PackFacts]:
    """A model's folder, None with random weights, and its facts. Raises ModelError, also for a bidirectional one."""
    if loading.random_weights:
        return None, random_facts(str(name))
    folder = find_pack(name)
    facts = load_facts(folder)
    check_causal(facts)
    return folder, facts


def random_facts(name: str) -> PackFacts:
    """What a known checkpoint is, with random numbers for weights. Raises ModelError, which names the nearest."""
    checkpoint = find_checkpoint(name)
    if checkpoint.kind != "student":
        raise ModelError(f"{name} is bidirectional: it makes no video chunk by chunk; try self-forcing")
    return checkpoint.facts()
