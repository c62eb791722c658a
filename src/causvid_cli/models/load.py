"""The parts of a model pack, each loaded from its folder: text encoder, causal transformer, codec."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from causvid_cli.architectures import load_config
from causvid_cli.codec import Codec
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts
from causvid_cli.device import free_memory_bytes
from causvid_cli.errors import ModelError, UsageError
from causvid_cli.models.empty import empty_network
from causvid_cli.models.memory import Video, check_fits, networks_of
from causvid_cli.models.memory_terms import ELSEWHERE
from causvid_cli.models.packs import codec_folder, pack_digest, verify_pack, with_parts, without_parts
from causvid_cli.models.resolve import resolve_model
from causvid_cli.network.attention import set_attention
from causvid_cli.network.copies import CHOICES, pictures_of
from causvid_cli.network.model import CausalTransformer
from causvid_cli.network.offload import offload_blocks
from causvid_cli.network.quantize import quantize_network
from causvid_cli.network.ulysses import check_heads
from causvid_cli.prompt.encoded import TextEncoder
from causvid_cli.prompt.feature_cache import CachedText, TextCache
from causvid_cli.prompt.story import StoryText, StoryTextEncoder
from causvid_cli.prompt.umt5 import PARTS as UMT5_PARTS
from causvid_cli.prompt.umt5 import UMT5TextEncoder, check_installed
from causvid_cli.request import Loading, Vae
from causvid_cli.storybook import FIRST_WORDS
from causvid_cli.storybook.story import IN_SHOTS
from causvid_cli.versions import __version__
from causvid_cli.weights.files import check_state, load_safetensors, load_state
from causvid_cli.weights.gguf import compute_in, find_gguf, load_gguf, take_gguf
from causvid_cli.weights.lora_files import find_loras

M = TypeVar("M", bound=torch.nn.Module)


def load_codec(folder: Path, facts: PackFacts, *, vae: Vae = "full", device: torch.device, dtype: torch.dtype) -> Codec:
    """The codec of a pack. Raises ModelError when it has none of the kind that is asked for.

    dtype: what the Wan VAE and TAEHV compute in; the pixel codec keeps to float32.
    """
    codec = codec_folder(folder, facts, vae)
    if vae == "tiny":
        from causvid_cli.codec.taehv import TAEHV  # here, so that storybook starts without them

        return TAEHV.from_pack(codec, device=device, dtype=dtype)
    if facts.codec == "wan":
        from causvid_cli.codec.wan import WanCodec

        return WanCodec.from_pack(codec, device=device, dtype=dtype)
    return load_pixel_codec(codec).to(device).fuse()


def load_text(folder: Path, facts: PackFacts, *, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """The text encoder of a pack. device, dtype: where and in what umT5 computes; storybook's is a small table."""
    if facts.text == "umt5":
        return UMT5TextEncoder.from_pack(folder, device=device, dtype=dtype)
    return StoryTextEncoder(load_story_text(folder / "text_encoder"))


def load_text_when_needed(
    folder: Path,
    facts: PackFacts,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cache: TextCache | None,
    encodes_on: torch.device | None = None,
) -> TextEncoder:
    """The text encoder of a pack, of which umT5 is verified and loaded only for a prompt that is not in the cache.

    device: where features are wanted. encodes_on: where umT5 works, if not there.
    """
    if facts.text != "umt5":
        return load_text(folder, facts, device=device, dtype=dtype)
    check_installed()
    own = with_parts(facts, *UMT5_PARTS)

    def load() -> UMT5TextEncoder:
        verify_pack(folder, own)
        return UMT5TextEncoder.from_pack(folder, device=encodes_on or device, dtype=dtype)

    return CachedText(load, key=f"{pack_digest(own)}, {dtype}", device=device, cache=cache)


def load_transformer(folder: Path, facts: PackFacts) -> CausalTransformer:
    """A causal transformer for inference from a folder in diffusers layout, in the dtype of its file.

    A GGUF file in the place of safetensors keeps its bits (`weights/gguf.py`).
    """
    network = empty_network("transformer", load_config(folder, "WanTransformer3DModel"))
    name = f"{facts.name} {folder.name}"
    if packed := find_gguf(folder):
        take_gguf(network, load_gguf(packed), name=name)
    else:
        load_state(network, load_safetensors(folder), name=name)
    model = CausalTransformer(network, prediction=facts.prediction_of(folder.name), context_noise=facts.context_noise)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworksUsed:
    """Which transformers a video is made by, as it is told to other processes."""

    model: str
    """The pack's folder; with random weights, the model's name."""
    sha256: str
    """Of the weights (`resolve.ResolvedModel`)."""
    dtype: torch.dtype
    loading: Loading
    lora_files: tuple[str, ...]
    version: str = __version__
    """Of causvid, where this is said."""

    def load(self, device: torch.device) -> list[CausalTransformer]:
        """Load them in this process. Raises ModelError where they are others here."""
        if self.version != __version__:
            raise ModelError(f"causvid is {__version__} here and {self.version} in the first process")
        found = resolve_model(self.model, loading=self.loading)
        if found.sha256 != self.sha256:
            raise ModelError(f"{self.model}: other weights than in the first process")
        if found.folder is not None:
            verify_pack(found.folder, without_parts(found.facts, *UMT5_PARTS))
        files = [Path(path) for path in self.lora_files]
        return load_networks(
            found.folder, found.facts, self.loading, lora_files=files, device=device, dtype=self.dtype
        )[0]


def load_networks(
    folder: Path | None,
    facts: PackFacts,
    loading: Loading,
    *,
    lora_files: Sequence[Path],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[list[CausalTransformer], tuple[str, ...]]:
    """The transformers of a verified pack, or of random weights, ready to run; and what the user should know."""
    if folder is None:
        from causvid_cli.models.random_weights import random_transformer

        fill_on = device if loading.offload != "group" else torch.device("cpu")
        networks = [random_transformer(facts, device=fill_on, dtype=dtype) for _ in facts.networks]
    else:
        networks = [load_transformer(folder / part, facts) for part in facts.networks]
    for network in reversed(networks):
        notes = make_ready(network, facts, loading, lora_files=lora_files, device=device, dtype=dtype)
    return networks, notes


def check_fit_together(
    networks: Sequence[CausalTransformer], facts: PackFacts, *, codec: Codec, text: TextEncoder
) -> None:
    """Raise ModelError unless each of a model's networks takes the codec's latents and the text encoder's features."""
    channels = codec.facts.latent_channels
    width = text.text.embed.embedding_dim if isinstance(text, StoryTextEncoder) else networks[0].config.text_dim
    for part, network in zip(facts.networks, networks, strict=True):
        pictures = pictures_of(channels, network.config.out_channels) or 1
        copies = facts.prediction_of(part) == "copies"
        fits = {"in_channels": channels, "out_channels": channels + copies * pictures * CHOICES, "text_dim": width}
        fits["copied_channels"] = copies * channels // pictures
        for key, wanted in fits.items():
            if (found := network.config.get(key, 0)) != wanted:
                whose = "text encoder" if key == "text_dim" else "codec"
                raise ModelError(f"{facts.name} {part}: {key} {found} instead of the {wanted} of its {whose}")


def make_ready(
    model: CausalTransformer,
    facts: PackFacts,
    loading: Loading,
    *,
    lora_files: Sequence[Path],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[str, ...]:
    """Turn a loaded transformer into the one that runs: LoRAs, then number format, then device, then fusing.

    lora_files: where `loading.loras` lie, in their order. Returns what the user should know. Raises ModelError for a
    LoRA that does not fit or has changed.
    """
    network = model.transformer
    model.to(dtype)  # before LoRAs are added, so that their sum is not rounded to the file's format
    compute_in(network, dtype)
    notes = []
    if loading.loras:
        from causvid_cli.weights.lora import add_loras, read_lora  # here, so that storybook starts without it

        files = find_loras(loading.loras, lora_files, where=facts.name)
        loras = [read_lora(file, network, model=facts.name) for file in files]
        add_loras(network, [(lora, use.weight) for lora, use in zip(loras, loading.loras, strict=True)])
        notes += [lora.note for lora in loras if lora.note]
    quantize_network(network, loading.quantize, device=device)
    if loading.offload == "group":
        network.blocks.to("cpu")
        offload_blocks(network, device)
    else:
        model.to(device)
    model.fuse()
    set_attention(model, loading.attention)
    if loading.compile:
        model.compile(frames=facts.chunk_frames)
    return tuple(notes)


def fitting(
    folder: Path | None,
    facts: PackFacts,
    loading: Loading,
    video: Video | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    decodes_here: bool = True,
) -> tuple[Loading, str]:
    """How a model is to be loaded so that it fits the device, and what to tell of it; see `memory.check_fits`.

    decodes_here: whether the codec is on the same device. Raises UsageError where several processes cannot share a
    video (`Video.processes`).
    """
    if video is None:
        frames = facts.window_frames or facts.chunk_frames
        video = Video(height=facts.height, width=facts.width, latent_frames=facts.sink_frames + frames)
    if video.processes > 1 and loading.compile:
        raise UsageError(f"--compile: not with {video.processes} processes that make one video; leave it out")
    if (networks := networks_of(folder, facts, loading)) is None:
        return loading, ""
    for part, net in zip(facts.networks, networks.transformers, strict=True):
        check_heads(net.heads, video.processes, name=facts.name if part == "transformer" else f"{facts.name} {part}")
    return check_fits(
        networks if decodes_here else replace(networks, codec=ELSEWHERE),
        video,
        loading,
        dtype=str(dtype).removeprefix("torch."),
        device="cuda" if device.type == "cuda" else "cpu",
        free=free_memory_bytes(device) // (video.processes if device.type == "cpu" else 1),
        name=str(device),
    )


def load_pixel_codec(folder: Path) -> PixelCodec:
    """The pixel codec in a folder, in float32. Raises ModelError unless every tensor is there and fits."""
    config = load_config(folder, "PixelCodec")
    codec = _filled(lambda: PixelCodec.from_config(config), load_safetensors(folder), name="PixelCodec")
    return codec.channels_last().eval().requires_grad_(False)


def load_story_text(folder: Path) -> StoryText:
    """The storybook's text features in a folder, in float32. Raises ModelError unless all is there and fits."""
    config = load_config(folder, "StoryText")
    for slot, known in FIRST_WORDS.items():
        if lacking := [word for word in known if word not in config["words"][slot] and word not in IN_SHOTS]:
            raise ModelError(f"{folder / 'config.json'}: words.{slot}: lacks {lacking[0]!r}, which a prompt may say")
    told = {name: config[name] for name in ("words", "dim", "pictures")}
    text = _filled(lambda: StoryText(**told), load_safetensors(folder), name="StoryText")
    return text.eval().requires_grad_(False)


def _filled(build: Callable[[], M], state: dict[str, torch.Tensor], *, name: str) -> M:
    """Return a module with these tensors, in its own dtype; it is built only when they are known to fit."""
    with torch.device("meta"), Unfilled():
        shape = build()
    check_state(shape, {key: tensor.shape for key, tensor in state.items()}, name=name)
    module = build()
    module.load_state_dict(state)
    return module


class Unfilled(TorchFunctionMode):
    """Let modules that are built inside draw no first weights, for which the meta device loads torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
