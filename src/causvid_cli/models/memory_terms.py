"""How many weights each network has, and how many bytes it holds besides while it works.

Weights are counted on networks without numbers (`models/empty.py`), or known of published ones. "Work" is what is alive
at the most besides the weights: inputs, outputs and what lies between, as the layers of `network/fused.py`,
`codec/wan.py` and `codec/taehv.py` make them; tests count the same by running them. Imports no torch until a network is
built.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any, Literal

from causvid_cli.models.catalogue import catalogue
from causvid_cli.models.empty import empty_network

Config = Mapping[str, Any]
FLOAT32 = 4
"""Bytes."""


def count_weights(network: Any) -> int:
    """Return how many numbers a module's weights are, those that it shares with itself once."""
    return sum(weight.numel() for weight in network.parameters())


def part_weights(part: Literal["vae", "text_encoder"], config: Config) -> int:
    """Return how many numbers the weights of a part of a pack are.

    A published network is not built for that: diffusers and transformers take seconds to load. Raises ModelError where
    umT5's packages are not installed.
    """
    published = catalogue().parts[part]
    if all(config[key] == value for key, value in (published.config or {}).items() if key in config):
        return published.parameters
    return count_weights(empty_network(part, config))


# --- the transformer -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerTerms:
    """The sizes of a `WanTransformer3DModel` that memory depends on; weights are numbers, not bytes."""

    layers: int
    dim: int
    """Channels of a token."""
    ffn_dim: int
    heads: int
    patch_cells: int
    """Latent cells of a frame that make one token."""
    block: int
    """Weights of one block."""
    block_linear: int
    """Weights of the linear layers of one block, without biases: what is quantized."""
    rest: int
    """Weights of all that is in no block."""

    @classmethod
    def count(cls, config: Config) -> "TransformerTerms":
        """Count a configuration's network. One block stands for all, however many there are."""
        network = empty_network("transformer", {**config, "num_layers": 1})
        block = network.blocks[0]
        feed_forward = block.ffn.net[2]
        weights = count_weights(block)
        return cls(
            layers=int(config["num_layers"]),
            dim=feed_forward.out_features,
            ffn_dim=feed_forward.in_features,
            heads=block.attn1.heads,
            patch_cells=prod(network.config.patch_size[1:]),
            block=weights,
            block_linear=sum(part.weight.numel() for part in block.modules() if hasattr(part, "in_features")),
            rest=count_weights(network) - weights,
        )

    @property
    def weights(self) -> int:
        return self.layers * self.block + self.rest

    def kept(self, cells: int) -> int:
        """Return how many numbers the keys, or the values, of a latent frame of so many cells are."""
        return cells // self.patch_cells * self.dim * self.layers

    def work(self, tokens: int, number_bytes: int, *, fused: bool = True, unpacked: bool = False) -> int:
        """Return the work of one pass of so many tokens, in bytes.

        fused: whether blocks are run by `network/fused.py`, which keeps a little more. unpacked: whether weights are
        unpacked when they are used.
        """
        wide = 0 if number_bytes == FLOAT32 else FLOAT32  # a copy in float32, where that is another format
        kept = 4 if fused else 1  # the first layer's input, and queries, keys, values
        feed_forward = (kept + (4 if fused else 3)) * self.dim * number_bytes + 2 * self.ffn_dim * number_bytes
        rotation = (kept + 4) * self.dim * number_bytes + self.dim * (wide + FLOAT32 + number_bytes)
        gated = (kept + (3 if fused else 5)) * self.dim * number_bytes + self.dim * (2 * wide + FLOAT32)
        layer = self.dim * self.ffn_dim * (number_bytes + FLOAT32) if unpacked else 0
        return tokens * max(feed_forward, rotation, gated) + layer


# --- codecs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LatentFrameTerms:
    """A codec that decodes every latent frame by itself; weights are numbers, not bytes."""

    config: Config
    weights: int

    def weight_bytes(self, number_bytes: int) -> int:
        return self.weights * number_bytes

    def encode(self, latent_height: int, latent_width: int, number_bytes: int) -> tuple[int, int]:
        """Return the bytes of the state between chunks of a source, and of the work of encoding one.

        What TAEHV takes is next to nothing beside a network.
        """
        return 0, 0


@dataclass(frozen=True, slots=True)
class PixelTerms:
    """The pixel codec, which computes in float32 and has no state."""

    channels: int
    """Channels of the layers of the decoder, which are alive together."""
    stack: int
    file_bytes: int
    """Bytes of its weights' file, in bfloat16."""

    def weight_bytes(self, number_bytes: int) -> int:
        return 2 * self.file_bytes

    def decode(self, latent_height: int, latent_width: int, number_bytes: int) -> tuple[int, int]:
        """Return the bytes of the state between chunks, and of the work of decoding a chunk."""
        return 0, 64 * latent_height * latent_width * FLOAT32 * self.stack * self.channels

    def encode(self, latent_height: int, latent_width: int, number_bytes: int) -> tuple[int, int]:
        """Return that encoding takes nothing to speak of."""
        return 0, 0


FRAMES_KEPT = 2
"""Frames that a causal convolution remembers."""
COLOURS = 3


@dataclass(frozen=True, slots=True)
class Activations:
    """Tensors at one place of the Wan VAE: the frames and pixels that they have there."""

    frames: int
    height: int
    width: int
    number_bytes: int

    def tensor(self, channels: int, frames: int = 0, pad: int = 0) -> int:
        """Return the bytes of a tensor of so many channels."""
        return channels * (frames or self.frames) * (self.height + pad) * (self.width + pad) * self.number_bytes

    def resnet(self, inputs: int, outputs: int, held: int = 0) -> tuple[int, int]:
        """Return work and state of a resnet, its input included. held: what the callers keep besides."""
        n, m = self.tensor(inputs), self.tensor(outputs)
        shortcut = m if inputs != outputs else 0
        norm = 3 if self.number_bytes == FLOAT32 else 4  # normalised in float32
        kept = [self.tensor(channels, FRAMES_KEPT) for channels in (inputs, outputs)]
        seen = self.frames + FRAMES_KEPT
        first = self.tensor(inputs, seen, 2) + max(self.tensor(inputs, seen), m)
        second = self.tensor(outputs, seen, 2) + max(self.tensor(outputs, seen), m)
        peak = max((1 + norm) * n, n + n + kept[0] + first, n + (1 + norm) * m, n + m + kept[1] + second)
        return held + shortcut + peak, sum(kept)


class VaeTerms(LatentFrameTerms):
    """The Wan VAE."""

    def decode(self, latent_height: int, latent_width: int, number_bytes: int) -> tuple[int, int]:
        at = Activations(1, latent_height, latent_width, number_bytes)
        works, states = zip(*self._decoder_layers(at), strict=True)
        return sum(states), max(works)

    def encode(self, latent_height: int, latent_width: int, number_bytes: int) -> tuple[int, int]:
        scale = 2 ** (len(self.config["dim_mult"]) - 1)
        frames = 2 ** sum(self.config["temperal_downsample"])
        at = Activations(frames, scale * latent_height, scale * latent_width, number_bytes)
        works, states = zip(*self._encoder_layers(at), strict=True)
        return sum(states), max(works) + at.tensor(COLOURS)

    def _decoder_layers(self, at: Activations) -> Iterator[tuple[int, int]]:
        """Yield work and state of each layer of the decoder, the input that it keeps included."""
        config = self.config
        multiples, resnets = config["dim_mult"], config["num_res_blocks"] + 1
        widths = [config["base_dim"] * multiple for multiple in (multiples[-1], *reversed(multiples))]
        grows_in_time = [*reversed(config["temperal_downsample"]), None]  # after each level; None is the end
        yield 0, at.tensor(config["z_dim"], FRAMES_KEPT)
        for _ in range(2):
            yield at.resnet(widths[0], widths[0])
        for level, (inputs, outputs) in enumerate(pairwise(widths)):
            inputs = inputs // 2 if level else inputs
            block_input = at.tensor(inputs)
            yield at.resnet(inputs, outputs)
            for _ in range(resnets - 1):
                yield at.resnet(outputs, outputs, block_input)
            if (is_grown := grows_in_time[level]) is None:
                yield block_input, at.tensor(outputs, FRAMES_KEPT)  # of the last convolution
                return
            held, state = block_input + at.tensor(outputs), 0
            if is_grown:  # twice the frames, beside the frames
                at = replace(at, frames=2 * at.frames)
                held += at.tensor(outputs)
                state = at.tensor(outputs, FRAMES_KEPT)
            at = replace(at, height=2 * at.height, width=2 * at.width)
            grown = at.tensor(outputs)  # enlarged in float32 and converted; then a convolution halves the channels
            yield held + (grown + at.tensor(outputs // 2) if at.number_bytes == FLOAT32 else 3 * grown), state

    def _encoder_layers(self, at: Activations) -> Iterator[tuple[int, int]]:
        """Yield work and state of each layer of the encoder, as `_decoder_layers` does."""
        config = self.config
        widths = [config["base_dim"] * multiple for multiple in (1, *config["dim_mult"])]
        shrinks_in_time = [*config["temperal_downsample"], None]
        yield at.tensor(widths[0]), at.tensor(COLOURS, FRAMES_KEPT)
        for level, (inputs, outputs) in enumerate(pairwise(widths)):
            for number in range(config["num_res_blocks"]):
                yield at.resnet(outputs if number else inputs, outputs)
            if (is_shrunk := shrinks_in_time[level]) is None:
                break
            whole = at.tensor(outputs)
            at = replace(at, height=at.height // 2, width=at.width // 2)
            yield 2 * whole + at.tensor(outputs), at.tensor(outputs, 1) if is_shrunk else 0
            at = replace(at, frames=at.frames // 2) if is_shrunk else at
        for _ in range(2):
            yield at.resnet(widths[-1], widths[-1])
        yield at.tensor(widths[-1]), at.tensor(widths[-1], FRAMES_KEPT)


class TaehvTerms(LatentFrameTerms):
    """TAEHV."""

    def decode(self, latent_height: int, latent_width: int, number_bytes: int) -> tuple[int, int]:
        channels = self.config["channels"]
        cells, frames, state, peak = latent_height * latent_width, 1, 0, 0
        for stride, dim, narrower in zip((1, 2, 2), channels, channels[1:], strict=False):
            n = dim * frames * cells * number_bytes
            state += 3 * n  # a time step of each block's input, which lies in the whole of it
            peak = max(peak, 5 * n)  # input, the step before, both side by side, output
            frames, cells = frames * stride, cells * 4
            grown = dim * frames * cells * number_bytes
            peak = max(peak, n + grown // 2 + grown, grown + 2 * narrower * frames * cells * number_bytes)
        return state, peak + 3 * frames * cells * number_bytes


CodecTerms = PixelTerms | VaeTerms | TaehvTerms
ELSEWHERE = PixelTerms(channels=0, stack=0, file_bytes=0)
"""A codec on another device."""
