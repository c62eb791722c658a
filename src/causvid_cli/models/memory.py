"""How much memory a video takes, before anything is loaded: whether it fits, and what would. Imports no torch.

The peak is that of the most demanding of four moments: while the weights are read, while a prompt is encoded, while a
chunk is denoised, while it is decoded. All that stays in between (weights, the past's keys and values, the codec's
state) is counted in each.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from causvid_cli.config import PackFacts
from causvid_cli.errors import DeviceError, ModelError
from causvid_cli.models import memory_terms as parts
from causvid_cli.models.catalogue import catalogue, find_checkpoint
from causvid_cli.models.packs import codec_folder
from causvid_cli.request import Loading, Offload

Memory = Literal["cpu", "cuda"]
"""Main memory, which holds all, or a GPU's own."""
NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""
TEXT_ROWS = 512
"""Text features of a prompt that umT5 encoded."""
LARGEST_MERGED = 100_000_000
"""Weights of the largest network whose layers `network/fused.py` copies (`model.LARGEST_MERGED`)."""
LARGEST_TRIED = LARGEST_MERGED
"""Of a larger network the dry run tells by arithmetic alone."""
FETCHED_BLOCKS = 2
"""Of an offloaded network on the device: the one at work and the next."""
ON_CPU = 1.15
"""What a process takes for what its tensors take: kernels pack their inputs, the allocator leaves gaps. Measured, with
networks of 0.33 B weights: 1.12 to 1.18, and 1.26 for int8 in bfloat16."""
SPARE = 1.1
"""What a device needs for what it takes: no allocator packs without gaps."""
NEEDED = {
    "num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "text_dim", "freq_dim", "in_channels",
    "out_channels", "patch_size",
}  # fmt: skip
NEEDED_OF_VAE = {"dim_mult", "z_dim", "temperal_downsample"}
NEEDED_OF_TEXT = {"d_model", "num_heads", "d_kv", "d_ff", "num_layers", "vocab_size"}
"""What of the configurations is counted with."""
SMALLER = (0.75, 0.5)
"""Parts of a picture's sides that are offered where the whole does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """What of a video its memory depends on. latent_frames: None goes on and on. guided: with a negative prompt."""

    height: int
    """In pixels as the codec makes them."""
    width: int
    latent_frames: int | None = None
    guided: bool = False

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What the networks of a model are: configurations, and bytes where those do not tell."""

    facts: PackFacts
    transformer: Mapping[str, Any]
    codec: Mapping[str, Any]
    text: Mapping[str, Any] | None
    """umT5's; None where text takes next to nothing."""
    packed_bytes: int | None = None
    """Of a GGUF transformer."""
    file_bytes: Mapping[str, int]
    """Of the pack's subfolders; empty for random weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes on the device, part by part."""

    network: int
    """The transformer's weights that stay there."""
    codec: int
    text: int
    """Only while prompts are encoded."""
    cache: int
    """Keys and values of the past."""
    prompt: int
    """Keys and values of the prompt."""
    codec_state: int
    network_work: int
    """Of a step, besides."""
    codec_work: int
    """Of decoding, besides."""
    reading: int
    """While weights are read, besides."""

    beside: bool
    """Whether a chunk is decoded while the next is denoised."""
    overhead: float
    """By how much more is taken than tensors take."""

    @property
    def moments(self) -> dict[str, int]:
        """The peak of each."""
        weights = self.network + self.codec
        chunk = weights + self.cache + self.prompt + self.codec_state
        moments = {
            "reading the weights": weights + self.reading,
            "encoding the prompt": weights + self.text,
            "a step": chunk + self.network_work,
            "decoding": chunk + self.codec_work + (self.network_work if self.beside else 0),
        }
        return {name: round(self.overhead * size) for name, size in moments.items()}

    @property
    def peak(self) -> int:
        return max(self.moments.values())

    def rows(self) -> Iterator[tuple[str, int]]:
        """What is worth telling, by name."""
        yield "network", self.network
        yield "codec", self.codec
        yield "text encoder", self.text
        yield "past", self.cache + self.prompt
        yield "codec state", self.codec_state
        yield "step", self.network_work
        yield "decoding", self.codec_work


def networks_of(folder: Path | None, facts: PackFacts, loading: Loading) -> Networks | None:
    """The networks of a model; None where a configuration cannot be read, of which loading says more.

    folder: of its pack; None for random weights.
    """
    if folder is None:
        known = catalogue()
        architecture = known.architectures[find_checkpoint(facts.name).architecture]
        codec = known.parts["tiny_vae" if loading.vae == "tiny" else "vae"].config or {}
        return Networks(facts=facts, transformer=architecture.config, codec=codec, text=None, file_bytes={})
    sizes: dict[str, int] = {}
    for name, file in facts.files.items():
        part = name.partition("/")[0]
        sizes[part] = sizes.get(part, 0) + file.bytes
    packed = [file.bytes for name, file in facts.files.items() if name.startswith("transformer/") and ".gguf" in name]
    try:
        networks = Networks(
            facts=facts,
            transformer=_config(folder / "transformer"),
            codec=_config(codec_folder(folder, facts, loading.vae)),
            text=_config(folder / "text_encoder") if facts.text == "umt5" else None,
            packed_bytes=packed[0] if packed else None,
            file_bytes=sizes,
        )
    except (OSError, ValueError, ModelError):
        return None
    needed = [(NEEDED, networks.transformer)]
    if facts.codec == "wan" and networks.codec.get("_class_name") != "TAEHV":
        needed.append((NEEDED_OF_VAE, networks.codec))
    if networks.text is not None:
        needed.append((NEEDED_OF_TEXT, networks.text))
    return networks if all(names <= config.keys() for names, config in needed) else None


def estimate(networks: Networks, video: Video, loading: Loading, *, dtype: str, device: Memory = "cpu") -> Estimate:
    """What a video takes of a device's memory; on a CPU besides what the program itself does.

    Good to 15 % where a network has 100 M weights or more: the tests measure it. "auto" is as "none".
    """
    facts, config, number = networks.facts, networks.transformer, NUMBER[dtype]
    layers, dim = int(config["num_layers"]), parts.width(config)
    weights = parts.transformer_weights(config)
    offloaded, quantized = loading.offload == "group", loading.quantize != "none" or networks.packed_bytes is not None
    linear = layers * parts.block_linear_weights(config)
    rest = parts.rest_weights(config) * number
    dense = weights * number
    network = dense - linear * (number - 1) if loading.quantize != "none" else networks.packed_bytes or dense
    merged = linear * number if weights <= LARGEST_MERGED and not offloaded and not quantized else 0
    reading = 0
    if device == "cpu":  # the file, while its numbers are converted; what is quantized is read first
        files = networks.file_bytes.get("transformer", dense)
        reading = files if abs(files - dense) > 0.1 * dense and networks.packed_bytes is None else 0
        reading += dense - network if loading.quantize != "none" else 0
    if offloaded and device != "cpu":
        network = rest + FETCHED_BLOCKS * (network - rest) // layers

    factor = 8
    height, columns = video.height // factor, video.width // factor
    tokens = height * columns // (int(config["patch_size"][1]) * int(config["patch_size"][2]))
    window = facts.window_frames or facts.chunk_frames
    if video.latent_frames is not None:  # as `Pipeline.kv_cache` has it
        window = max(min(facts.window_frames or video.latent_frames, video.latent_frames), facts.chunk_frames)
    kept = 2 * (facts.sink_frames + window) + (facts.sink_frames if facts.rope == "relative" else 0)
    rows = TEXT_ROWS if facts.text == "umt5" else 8
    prompt = rows * dim * (2 * layers + 1) * number * (2 if video.guided else 1)
    state, work, codec = _codec(networks, height, columns, number)
    text = 0
    if networks.text is not None and (loading.offload in ("none", "auto") or device == "cpu"):
        text = parts.umt5_weights(networks.text) * (2 if dtype != "float32" else _number(networks))
    if weights <= LARGEST_MERGED and device == "cpu":
        passed = 2 * tokens  # a clean pass and the next chunk's first step in one call
    else:
        passed = tokens
    return Estimate(
        network=network + merged,
        codec=codec,
        text=text,
        cache=kept * tokens * dim * layers * number,
        prompt=prompt,
        codec_state=state,
        network_work=parts.network_work(
            config, facts.chunk_frames * passed, number, fused=not offloaded, unpacked=quantized
        ),
        codec_work=work,
        reading=reading,
        beside=device == "cuda",
        overhead=ON_CPU if device == "cpu" else 1.0,
    )


def check_fits(
    networks: Networks, video: Video, loading: Loading, *, dtype: str, device: Memory, free: int, name: str
) -> tuple[Loading, str]:
    """How the model is to be loaded, and what to tell of it: "auto" becomes the first way that fits.

    free: bytes of the device. name: of the device, as the user knows it. Raises DeviceError where nothing fits, with
    what would.
    """

    def needed(loading: Loading, video: Video = video, dtype: str = dtype) -> int:
        return estimate(networks, video, loading, dtype=dtype, device=device).peak

    ways: tuple[Offload, ...] = ("none", "text", "group")
    if loading.offload == "auto":
        for offload in ways if device != "cpu" else ways[:1]:
            if offload == "group" and loading.compile:
                continue
            way = replace(loading, offload=offload)
            if needed(way) * SPARE <= free:
                told = f"about {_gb(needed(way))} of {_gb(free)} free on {name}"
                return way, f"--offload auto: {offload}, which takes {told}"
        loading = replace(loading, offload="none")
    asked = needed(loading)
    if asked * (SPARE if device != "cpu" else 1) <= free:
        return loading, ""
    others: list[tuple[str, int]] = []
    if device != "cpu":
        later = [way for way in ways[ways.index(loading.offload) + 1 :] if way != "group" or not loading.compile]
        others += [(f"--offload {way}", needed(replace(loading, offload=way))) for way in later]
    if loading.quantize == "none" and networks.packed_bytes is None:
        others.append(("--quantize int8", needed(replace(loading, quantize="int8"))))
    if NUMBER[dtype] == parts.FLOAT32:
        others.append(("--dtype bfloat16", needed(loading, dtype="bfloat16")))
    if loading.vae == "full" and (tiny := _with_tiny_vae(networks)):
        others.append(("--vae tiny", estimate(tiny, video, loading, dtype=dtype, device=device).peak))
    if networks.facts.enlarge == 1:
        for part in SMALLER:
            small = replace(
                video, height=round(video.height * part / 16) * 16, width=round(video.width * part / 16) * 16
            )
            others.append((f"--size {small.size}", needed(loading, video=small)))
    fitting = [f"{option} ({_gb(size)})" for option, size in others if size * SPARE <= free]
    remedy = f"try {' or '.join(fitting[:3])}" if fitting else "no single option makes it fit; try a smaller model"
    raise DeviceError(
        f"{networks.facts.name} at {video.size} in {dtype} takes about {_gb(asked)}, and {name} has {_gb(free)} free; "
        f"{remedy}"
    )


def _codec(networks: Networks, height: int, columns: int, number: int) -> tuple[int, int, int]:
    """State, work and weights of the codec, in bytes."""
    config = networks.codec
    if networks.facts.codec == "pixel":
        size = networks.file_bytes.get("vae", 0) * 2  # in float32, from bfloat16
        cells = 64 * height * columns * parts.FLOAT32 * int(config.get("stack", 4))
        return 0, cells * sum(config.get("decoder_widths", (64,))), size
    if config.get("_class_name") == "TAEHV":
        return (*parts.taehv_decode(config, height, columns, number), parts.taehv_weights(config) * number)
    return (*parts.vae_decode(config, height, columns, number), parts.vae_weights(config) * number)


def _number(networks: Networks) -> int:
    """Bytes of one of umT5's numbers in its file, where it stays as it is."""
    assert networks.text is not None
    files = networks.file_bytes.get("text_encoder", 0)
    return parts.FLOAT32 if files > 3 * parts.umt5_weights(networks.text) else 2


def _with_tiny_vae(networks: Networks) -> Networks | None:
    tiny = catalogue().parts["tiny_vae"].config
    if networks.facts.codec != "wan" or tiny is None or (networks.file_bytes and "vae_tiny" not in networks.file_bytes):
        return None
    return replace(networks, codec=tiny)


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
