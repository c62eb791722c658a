"""How much memory a video takes, before anything is loaded: whether it fits, and what would.

The peak is that of the most demanding of four moments: while the weights are read, while a prompt is encoded, while a
chunk is denoised, while it is decoded. All that stays in between (weights, the past's keys and values, the codec's
state) is counted in each. Imports no torch until a model's networks are counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from causvid_cli.architectures import load_config
from causvid_cli.config import PackFacts, Rope
from causvid_cli.errors import DeviceError, ModelError
from causvid_cli.models.catalogue import catalogue, find_checkpoint
from causvid_cli.models.empty import empty_network
from causvid_cli.models.memory_terms import (
    FLOAT32,
    CodecTerms,
    PixelTerms,
    TaehvTerms,
    TransformerTerms,
    VaeTerms,
    count_weights,
    part_weights,
)
from causvid_cli.models.packs import CODECS, codec_folder
from causvid_cli.request import Loading, Offload, Vae
from causvid_cli.units import bytes_text

Memory = Literal["cpu", "cuda"]
"""Main memory, which holds all, or a GPU's own."""
NUMBER_BYTES = {"float32": FLOAT32, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by dtype."""
SPATIAL_FACTOR = 8
"""Pixels along each side of a latent cell, of every codec."""
TEXT_ROWS = 512
"""Text features of a prompt that umT5 encoded."""
STORY_ROWS = 8
"""Text features of a storybook prompt, at the most."""
LARGEST_MERGED = 100_000_000
"""Weights of the largest network whose layers `network/fused.py` copies (`model.LARGEST_MERGED`)."""
LARGEST_TRIED = LARGEST_MERGED
"""Weights of the largest network that a dry run tries; of a larger one it tells by arithmetic alone."""
FETCHED_BLOCKS = 2
"""Blocks of an offloaded network on the device: the one at work and the next."""
ON_CPU = 1.15
"""What a process takes for what its tensors take: kernels pack their inputs, the allocator leaves gaps. Measured, with
networks of 0.33 B weights: 1.12 to 1.18, and 1.26 for int8 in bfloat16."""
SPARE = 1.1
"""What a device needs for what it takes: no allocator packs without gaps."""
SMALLER = (0.75, 0.5)
"""Shares of a frame's sides that are offered where the whole does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """What of a video its memory depends on."""

    height: int
    """Pixels as the codec makes them."""
    width: int
    latent_frames: int | None = None
    """None for a video that goes on and on."""
    guided: bool = False
    """Whether there is a negative prompt."""
    has_source: bool = False
    """Whether a clip is made anew, which is encoded chunk by chunk."""
    rope: Rope | None = None
    """Where the sink stands in time; None is as the model has it."""
    processes: int = 1
    """That make it together, each with its heads' part of the past."""

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The sizes of a model's networks."""

    facts: PackFacts
    transformers: tuple[TransformerTerms, ...]
    """Those of `facts.networks`, in their order."""
    codec: CodecTerms
    text_weights: int = 0
    """Numbers of umT5; 0 where text takes next to nothing."""
    packed_bytes: int | None = None
    """Bytes of a GGUF transformer."""
    file_bytes: Mapping[str, int]
    """Bytes of the pack's subfolders; empty for random weights."""

    @property
    def weights(self) -> int:
        """Numbers of all transformers together."""
        return sum(net.weights for net in self.transformers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes on the device, term by term."""

    network: int
    """The transformer's weights that stay there."""
    codec: int
    """The codec's weights."""
    text: int
    """The text encoder's weights, only while prompts are encoded."""
    cache: int
    """Keys and values of the past."""
    prompt: int
    """Keys and values of the prompt."""
    codec_state: int
    network_work: int
    """What a step takes besides."""
    codec_work: int
    """What decoding takes besides."""
    source_state: int
    """What encoding a source keeps between chunks."""
    source_work: int
    """What it takes besides."""
    reading: int
    """What reading the weights takes besides."""

    overlapped: bool
    """Whether a chunk is decoded while the next is denoised."""
    overhead: float
    """By how much more is taken than tensors take."""

    @property
    def moments(self) -> dict[str, int]:
        """The peak of each moment, in bytes."""
        weights = self.network + self.codec
        chunk = weights + self.cache + self.prompt + self.codec_state + self.source_state
        moments = {
            "reading the weights": weights + self.reading,
            "encoding the prompt": weights + self.text,
            "a step": chunk + self.network_work,
            "decoding": chunk + self.codec_work + (self.network_work if self.overlapped else 0),
            "encoding the source": chunk + self.source_work + (self.codec_work if self.overlapped else 0),
        }
        return {name: round(self.overhead * size) for name, size in moments.items()}

    @property
    def peak(self) -> int:
        return max(self.moments.values())

    def rows(self) -> Iterator[tuple[str, int]]:
        """Yield the terms that are worth telling, by name."""
        yield "network", self.network
        yield "codec", self.codec
        yield "text encoder", self.text
        yield "past", self.cache + self.prompt
        yield "codec state", self.codec_state + self.source_state
        yield "step", self.network_work
        yield "decoding", self.codec_work
        yield "encoding the source", self.source_work


def networks_of(folder: Path | None, facts: PackFacts, loading: Loading) -> Networks | None:
    """Return a model's networks; None where a configuration cannot be read, of which loading says more.

    folder: of its pack; None for random weights.
    """
    if folder is None:
        known = catalogue()
        architecture = known.architectures[find_checkpoint(facts.name).architecture]
        config = known.parts["tiny_vae" if loading.vae == "tiny" else "vae"].config or {}
        codec = _codec_terms(facts, loading.vae, config, {})
        alike = (TransformerTerms.count(architecture.config),) * len(facts.networks)
        return Networks(facts=facts, transformers=alike, codec=codec, file_bytes={})
    sizes: dict[str, int] = {}
    for name, file in facts.files.items():
        part = name.partition("/")[0]
        sizes[part] = sizes.get(part, 0) + file.bytes
    packed = [file.bytes for name, file in facts.files.items() if name.startswith("transformer/") and ".gguf" in name]
    class_name = "TAEHV" if loading.vae == "tiny" else CODECS[facts.codec]
    try:
        codec_config = load_config(codec_folder(folder, facts, loading.vae), class_name)
        text = load_config(folder / "text_encoder", "UMT5EncoderModel") if facts.text == "umt5" else None
        return Networks(
            facts=facts,
            transformers=tuple(
                TransformerTerms.count(load_config(folder / part, "WanTransformer3DModel")) for part in facts.networks
            ),
            codec=_codec_terms(facts, loading.vae, codec_config, sizes),
            text_weights=part_weights("text_encoder", text) if text else 0,
            packed_bytes=packed[0] if packed else None,
            file_bytes=sizes,
        )
    except ModelError:
        return None


def estimate(networks: Networks, video: Video, loading: Loading, *, dtype: str, device: Memory = "cpu") -> Estimate:
    """Return what a video takes of a device's memory; on a CPU besides what the program itself does.

    Good to 15 % where a network has 100 M weights or more: the tests measure it. "auto" is as "none".
    """
    facts, nets, number_bytes = networks.facts, networks.transformers, NUMBER_BYTES[dtype]
    first = nets[0]
    offloaded, quantized = loading.offload == "group", loading.quantize != "none" or networks.packed_bytes is not None
    linear = sum(net.layers * net.block_linear for net in nets)
    dense = networks.weights * number_bytes
    network = dense - linear * (number_bytes - 1) if loading.quantize != "none" else networks.packed_bytes or dense
    small = sum(net.layers * net.block_linear for net in nets if net.weights <= LARGEST_MERGED)
    merged = 0 if offloaded or quantized else small
    reading = 0
    if device == "cpu":  # the file, while its numbers are converted; what is quantized is read first
        files = sum(
            networks.file_bytes.get(part, net.weights * number_bytes)
            for part, net in zip(facts.networks, nets, strict=True)
        )
        reading = files if abs(files - dense) > 0.1 * dense and networks.packed_bytes is None else 0
        reading += dense - network if loading.quantize != "none" else 0
    elif offloaded:
        rest = sum(net.rest for net in nets) * number_bytes
        network = rest + FETCHED_BLOCKS * (network - rest) // first.layers

    latent_height, latent_width = video.height // SPATIAL_FACTOR, video.width // SPATIAL_FACTOR
    cells = latent_height * latent_width
    window = facts.window_frames or facts.chunk_frames
    if video.latent_frames is not None:  # as `Pipeline.kv_cache` has it
        window = max(min(facts.window_frames or video.latent_frames, video.latent_frames), facts.chunk_frames)
    is_turned = (video.rope or facts.rope) == "relative"
    kept = 2 * (facts.sink_frames + window) + (facts.sink_frames if is_turned else 0)
    cache = kept * first.kept(cells)
    if facts.opening_network:  # looks back on its own chunk alone
        cache += 2 * facts.chunk_frames * nets[-1].kept(cells)
    rows = TEXT_ROWS if facts.text == "umt5" else STORY_ROWS
    told = [net.dim * (2 * net.layers + 1) for net in nets]
    state, work = networks.codec.decode(latent_height, latent_width, number_bytes)
    source = networks.codec.encode(latent_height, latent_width, number_bytes) if video.has_source else (0, 0)
    text = 0
    if loading.offload in ("none", "auto") or device == "cpu":
        text = networks.text_weights * (2 if dtype != "float32" else _text_number_bytes(networks))
    # on a CPU a small network makes a clean pass and the next chunk's first step in one call
    passes = 2 if first.weights <= LARGEST_MERGED and device == "cpu" and video.processes == 1 else 1
    return Estimate(
        network=network + merged * number_bytes,
        codec=networks.codec.weight_bytes(number_bytes),
        text=text,
        cache=cache * number_bytes // video.processes,
        prompt=rows * (sum(told) + video.guided * told[0]) * number_bytes,
        codec_state=state,
        network_work=max(
            net.work(
                facts.chunk_frames * passes * (cells // net.patch_cells) // video.processes,
                number_bytes,
                fused=not offloaded,
                unpacked=quantized,
            )
            for net in nets
        ),
        codec_work=work,
        source_state=source[0],
        source_work=source[1],
        reading=reading,
        overlapped=device == "cuda",
        overhead=ON_CPU if device == "cpu" else 1.0,
    )


def check_fits(
    networks: Networks, video: Video, loading: Loading, *, dtype: str, device: Memory, free: int, name: str
) -> tuple[Loading, str]:
    """Return how the model is to be loaded, and what to tell of it: "auto" becomes the first way that fits.

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
                told = f"about {bytes_text(needed(way))} of {bytes_text(free)} free on {name}"
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
    if NUMBER_BYTES[dtype] == FLOAT32:
        others.append(("--dtype bfloat16", needed(loading, dtype="bfloat16")))
    if loading.vae == "full" and (tiny := _with_tiny_vae(networks)):
        others.append(("--vae tiny", estimate(tiny, video, loading, dtype=dtype, device=device).peak))
    if networks.facts.enlarge == 1:
        for share in SMALLER:
            small = replace(
                video, height=round(video.height * share / 16) * 16, width=round(video.width * share / 16) * 16
            )
            others.append((f"--size {small.size}", needed(loading, video=small)))
    fitting = [f"{option} ({bytes_text(size)})" for option, size in others if size * SPARE <= free]
    remedy = f"try {' or '.join(fitting[:3])}" if fitting else "no single option makes it fit; try a smaller model"
    takes = f"{bytes_text(asked)}{' and a tenth to spare' if asked <= free else ''}"
    raise DeviceError(
        f"{networks.facts.name} at {video.size} in {dtype} takes about {takes}, "
        f"and {name} has {bytes_text(free)} free; {remedy}"
    )


def _codec_terms(facts: PackFacts, vae: Vae, config: Mapping[str, Any], file_bytes: Mapping[str, int]) -> CodecTerms:
    if vae == "tiny":
        return TaehvTerms(config, count_weights(empty_network("vae_tiny", config)))
    if facts.codec == "wan":
        return VaeTerms(config, part_weights("vae", config))
    channels = sum(config.get("decoder_widths", (64,)))
    return PixelTerms(channels=channels, stack=int(config.get("stack", 4)), file_bytes=file_bytes.get("vae", 0))


def _text_number_bytes(networks: Networks) -> int:
    """Return the bytes of one of umT5's numbers in its file, where it stays as it is."""
    return FLOAT32 if networks.file_bytes.get("text_encoder", 0) > 3 * networks.text_weights else 2


def _with_tiny_vae(networks: Networks) -> Networks | None:
    tiny = catalogue().parts["tiny_vae"].config
    if networks.facts.codec != "wan" or tiny is None or (networks.file_bytes and "vae_tiny" not in networks.file_bytes):
        return None
    return replace(networks, codec=_codec_terms(networks.facts, "tiny", tiny, {}))
