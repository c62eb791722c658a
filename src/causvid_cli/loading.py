"""The parts of a model pack, each loaded from its folder: text encoder, causal transformer, codec."""

from pathlib import Path
from typing import Any

import torch

from causvid_cli.codec import Codec
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts
from causvid_cli.model import CausalTransformer
from causvid_cli.packs import codec_folder, pack_digest, verify_pack, with_parts
from causvid_cli.request import Vae
from causvid_cli.text import StoryText, StoryTextEncoder, TextEncoder
from causvid_cli.text_cache import CachedText, TextCache
from causvid_cli.text_umt5 import PARTS as UMT5_PARTS
from causvid_cli.text_umt5 import UMT5TextEncoder, check_installed
from causvid_cli.weights import load_config, load_safetensors, load_state


def load_codec(folder: Path, facts: PackFacts, *, vae: Vae = "full", device: torch.device, dtype: torch.dtype) -> Codec:
    """The codec of a pack. Raises ModelError when it has none of the kind that is asked for.

    dtype: what the Wan VAE and TAEHV compute in; the pixel codec keeps to float32.
    """
    place = codec_folder(folder, facts, vae)
    if vae == "tiny":
        from causvid_cli.codec.taehv import TAEHV  # here, so that storybook starts without them

        return TAEHV.from_pack(place, device=device, dtype=dtype)
    if facts.codec == "wan":
        from causvid_cli.codec.wan import WanCodec

        return WanCodec.from_pack(place, device=device, dtype=dtype)
    return load_pixel_codec(place).to(device)


def load_text(folder: Path, facts: PackFacts, *, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """The text encoder of a pack. device, dtype: where and in what umT5 computes; storybook's is a small table."""
    if facts.text == "umt5":
        return UMT5TextEncoder.from_pack(folder, device=device, dtype=dtype)
    return StoryTextEncoder(load_story_text(folder / "text_encoder"))


def load_text_when_needed(
    folder: Path, facts: PackFacts, *, device: torch.device, dtype: torch.dtype, cache: TextCache | None
) -> TextEncoder:
    """The text encoder of a pack, of which umT5 is verified and loaded only for a prompt that is not in the cache."""
    if facts.text != "umt5":
        return load_text(folder, facts, device=device, dtype=dtype)
    check_installed()
    own = with_parts(facts, *UMT5_PARTS)

    def load() -> UMT5TextEncoder:
        verify_pack(folder, own)
        return UMT5TextEncoder.from_pack(folder, device=device, dtype=dtype)

    return CachedText(load, key=f"{pack_digest(own)}, {dtype}", device=device, cache=cache)


def load_transformer(folder: Path, facts: PackFacts) -> CausalTransformer:
    """A causal transformer for inference from a folder in diffusers layout, in the dtype of its file."""
    network = empty_transformer(load_config(folder, "WanTransformer3DModel"))
    load_state(network, load_safetensors(folder), name=f"{facts.name} {folder.name}")
    model = CausalTransformer(network, prediction=facts.prediction, context_noise=facts.context_noise)
    return model.eval().requires_grad_(False)


def empty_transformer(config: dict[str, Any]) -> Any:
    """diffusers' `WanTransformer3DModel` of this configuration, without weights (on the meta device)."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    with torch.device("meta"):  # no random start: of 14 B weights it would take minutes
        network = WanTransformer3DModel.from_config(config)
    network.rope = torch.nn.Identity()  # a table on no device; ours is rope.py
    return network


def load_pixel_codec(folder: Path) -> PixelCodec:
    codec = PixelCodec.from_config(load_config(folder, "PixelCodec"))
    load_state(codec, load_safetensors(folder), name="PixelCodec")
    return codec.channels_last().eval().requires_grad_(False)


def load_story_text(folder: Path) -> StoryText:
    config = load_config(folder, "StoryText")
    text = StoryText(config["words"], dim=config["dim"])
    load_state(text, load_safetensors(folder), name="StoryText")
    return text.eval().requires_grad_(False)
