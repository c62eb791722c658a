"""How many weights each network has, and how much it holds while it works: arithmetic on its configuration.

"Work" is what is alive at the most, in bytes, besides the weights: inputs, outputs and what lies between, as the
layers of `network/fused.py`, `codec/wan.py` and `codec/taehv.py` make them. tests count the same by
running them. Imports no torch.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

Config = Mapping[str, Any]
FLOAT32 = 4
"""Bytes."""

# --- the transformer -----------------------------------------------------------------------------------------------


def width(config: Config) -> int:
    return int(config["num_attention_heads"]) * int(config["attention_head_dim"])


def block_linear_weights(config: Config) -> int:
    """Of the linear layers of one block, biases aside: what is quantized."""
    dim, ffn = width(config), int(config["ffn_dim"])
    return 8 * dim * dim + 2 * dim * ffn


def block_weights(config: Config) -> int:
    """Of one block."""
    dim, ffn = width(config), int(config["ffn_dim"])
    norms_and_modulation = 4 * dim + 2 * dim + 6 * dim
    return block_linear_weights(config) + 8 * dim + ffn + dim + norms_and_modulation


def rest_weights(config: Config) -> int:
    """Of all that is in no block."""
    dim, patch = width(config), prod(config["patch_size"])
    patches = dim * (int(config["in_channels"]) * patch + 1)
    text = dim * (int(config["text_dim"]) + 1) + dim * (dim + 1)
    time = dim * (int(config["freq_dim"]) + 1) + dim * (dim + 1) + 6 * dim * (dim + 1)
    out = int(config["out_channels"]) * patch * (dim + 1)
    return patches + text + time + out + 2 * dim


def transformer_weights(config: Config) -> int:
    return int(config["num_layers"]) * block_weights(config) + rest_weights(config)


def network_work(config: Config, tokens: int, number: int, *, fused: bool = True, unpacked: bool = False) -> int:
    """Of one pass of so many tokens.

    number: bytes of a number. fused: whether blocks are run by `network/fused.py`, which keeps a little more.
    unpacked: whether weights are unpacked when they are used.
    """
    dim, ffn = width(config), int(config["ffn_dim"])
    wide = 0 if number == FLOAT32 else FLOAT32  # a copy in float32, where that is another format
    kept = 4 if fused else 1  # the first layer's input, and queries, keys, values
    feed_forward = (kept + (4 if fused else 3)) * dim * number + 2 * ffn * number
    rotation = (kept + 4) * dim * number + dim * (wide + FLOAT32 + number)
    gated = (kept + (3 if fused else 5)) * dim * number + dim * (2 * wide + FLOAT32)
    layer = dim * ffn * (number + FLOAT32) if unpacked else 0
    return tokens * max(feed_forward, rotation, gated) + layer


# --- umT5 ----------------------------------------------------------------------------------------------------------


def umt5_weights(config: Config) -> int:
    dim, inner = int(config["d_model"]), int(config["num_heads"]) * int(config["d_kv"])
    buckets = int(config.get("relative_attention_num_buckets", 32))
    gated = 3 if config.get("feed_forward_proj", "gated-gelu").startswith("gated") else 2
    layer = 4 * dim * inner + gated * dim * int(config["d_ff"]) + 2 * dim + buckets * int(config["num_heads"])
    return int(config["vocab_size"]) * dim + int(config["num_layers"]) * layer + dim


# --- the Wan VAE ---------------------------------------------------------------------------------------------------

FRAMES_KEPT = 2
"""That a causal convolution remembers."""


def _widths(config: Config) -> list[int]:
    """Of the decoder's levels, from the smallest size; the first stands for the middle as well."""
    base, mult = int(config.get("base_dim", 96)), list(config["dim_mult"])
    return [base * m for m in [mult[-1], *reversed(mult)]]


def vae_weights(config: Config) -> int:
    """Of encoder and decoder."""
    base, mult, z = int(config.get("base_dim", 96)), list(config["dim_mult"]), int(config["z_dim"])
    resnets, down = int(config.get("num_res_blocks", 2)), list(config["temperal_downsample"])
    color = 3 * (int(config.get("patch_size") or 1)) ** 2

    def resnet(inputs: int, outputs: int) -> int:
        shortcut = outputs * (inputs + 1) if inputs != outputs else 0
        return inputs + outputs + outputs * (27 * inputs + 1) + outputs * (27 * outputs + 1) + shortcut

    def middle(dim: int) -> int:
        return 2 * resnet(dim, dim) + dim + 3 * dim * (dim + 1) + dim * (dim + 1)

    widths = [base * m for m in [1, *mult]]
    total = widths[0] * (27 * color + 1)
    for level, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        total += resnet(inputs, outputs) + (resnets - 1) * resnet(outputs, outputs)
        if level < len(mult) - 1:
            total += outputs * (9 * outputs + 1) + (outputs * (3 * outputs + 1) if down[level] else 0)
    total += middle(widths[-1]) + widths[-1] + 2 * z * (27 * widths[-1] + 1)  # norm and convolution at the end
    total += 2 * z * (2 * z + 1) + z * (z + 1)  # quant_conv, post_quant_conv
    widths = _widths(config)
    total += widths[0] * (27 * z + 1) + middle(widths[0])
    for level, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        inputs = inputs // 2 if level else inputs
        total += resnet(inputs, outputs) + resnets * resnet(outputs, outputs)
        if level < len(mult) - 1:
            total += outputs // 2 * (9 * outputs + 1)
            total += 2 * outputs * (3 * outputs + 1) if down[-1 - level] else 0
    return total + widths[-1] + color * (27 * widths[-1] + 1)


def vae_decode(config: Config, latent_height: int, latent_width: int, number: int) -> tuple[int, int]:
    """State between chunks, and the work of decoding one latent frame (every one is decoded by itself)."""
    peaks, state = zip(*_decoder(config, latent_height, latent_width, number), strict=True)
    return sum(state), max(peaks)


def _decoder(config: Config, height: int, columns: int, number: int) -> Iterator[tuple[int, int]]:
    """Work and state of each part of the decoder, the input that it keeps included."""
    widths, resnets = _widths(config), int(config.get("num_res_blocks", 2)) + 1
    down, frames = list(config["temperal_downsample"]), 1
    yield 0, min(FRAMES_KEPT, 2) * int(config["z_dim"]) * height * columns * number

    def tensor(channels: int, t: int = 0, pad: int = 0) -> int:
        return channels * (t or frames) * (height + pad) * (columns + pad) * number

    def resnet(inputs: int, outputs: int, held: int) -> tuple[int, int]:
        """held: what the callers keep besides the resnet's input."""
        n, m = tensor(inputs), tensor(outputs)
        shortcut = m if inputs != outputs else 0
        norm = 3 if number == FLOAT32 else 4  # normalised in float32
        kept = [tensor(channels, FRAMES_KEPT) for channels in (inputs, outputs)]
        seen = frames + FRAMES_KEPT
        first = tensor(inputs, seen, 2) + max(tensor(inputs, seen), m)
        second = tensor(outputs, seen, 2) + max(tensor(outputs, seen), m)
        peak = max((1 + norm) * n, n + n + kept[0] + first, n + (1 + norm) * m, n + m + kept[1] + second)
        return held + shortcut + peak, sum(kept)

    middle = widths[0]
    for _ in range(2):
        yield resnet(middle, middle, 0)
    for level, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        inputs = inputs // 2 if level else inputs
        block_input = tensor(inputs)
        for place in range(resnets):
            yield resnet(inputs if place == 0 else outputs, outputs, block_input if place else 0)
        if level == len(widths) - 2:
            yield block_input, 2 * tensor(outputs, FRAMES_KEPT) // 2  # of the last convolution
            return
        held, state = block_input + tensor(outputs), 0
        if down[-1 - level]:  # twice the frames, beside the frames
            frames *= 2
            held += tensor(outputs)
            state = tensor(outputs, FRAMES_KEPT)
        height, columns = 2 * height, 2 * columns
        grown = tensor(outputs)  # enlarged in float32 and converted; then a convolution halves the channels
        yield held + (grown + tensor(outputs // 2) if number == FLOAT32 else 3 * grown), state


# --- TAEHV ---------------------------------------------------------------------------------------------------------


def taehv_weights(config: Config) -> int:
    latent, encoder = int(config.get("latent_channels", 16)), int(config.get("encoder_channels", 64))
    channels = list(config.get("channels", (256, 128, 64, 64)))

    def conv(inputs: int, outputs: int, *, bias: bool = True) -> int:
        return outputs * (9 * inputs + bias)

    def memory(dim: int) -> int:
        return conv(2 * dim, dim) + 2 * conv(dim, dim)

    total = conv(3, encoder) + conv(encoder, latent)
    for stride in (2, 2, 1):
        total += stride * encoder * encoder + conv(encoder, encoder, bias=False) + 3 * memory(encoder)
    total += conv(latent, channels[0]) + conv(channels[-1], 3)
    for stride, dim, narrower in zip((1, 2, 2), channels, channels[1:], strict=False):
        total += 3 * memory(dim) + stride * dim * dim + conv(dim, narrower, bias=False)
    return total


def taehv_decode(config: Config, latent_height: int, latent_width: int, number: int) -> tuple[int, int]:
    """State between chunks, and the work of decoding one latent frame."""
    channels = list(config.get("channels", (256, 128, 64, 64)))
    cells, frames, state, peak = latent_height * latent_width, 1, 0, 0
    for stride, dim, narrower in zip((1, 2, 2), channels, channels[1:], strict=False):
        n = dim * frames * cells * number
        state += 3 * n  # a time step of each block's input, which lies in the whole of it
        peak = max(peak, 5 * n)  # input, the step before, both side by side, output
        frames, cells = frames * stride, cells * 4
        grown = dim * frames * cells * number
        peak = max(peak, n + grown // 2 + grown, grown + 2 * narrower * frames * cells * number)
    return state, peak + 3 * frames * cells * number
