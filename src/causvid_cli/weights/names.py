"""Names of tensors: official Wan checkpoints -> diffusers. Imports no torch."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from causvid_cli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

Names = dict[str, str]
"""Official name -> diffusers name."""

PICKLES = {".pt", ".pth", ".bin", ".ckpt"}
SAFETENSORS = {".safetensors", ".sft"}
GGUF = ".gguf"
"""Endings of files of weights, in small letters."""

WRAPPERS = re.compile(r"(?:^|(?<=[._]))_(?:fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)[._]")
"""What FSDP, activation checkpointing and torch.compile put into names."""
HEADS = re.compile(
    r"(?:(?:base_model|model|diffusion_model|generator(?:_ema|_lora)?|net(?:_ema)?|module|pipe|dit|unet|transformer"
    r"|lora_unet|lora_transformer|lycoris)\.|(?:lora_unet|lora_transformer|lycoris)_+)+"
)
"""What stands before all names: of programs that hold the network, and of files whose dots are underscores."""
AVERAGES = {"net_ema": "net", "generator_ema": "generator"}
"""What averaged weights stand under -> what the weights do that they are an average of."""
COUNTERS = {"accum_video_sample_counter", "accum_image_sample_counter", "accum_iteration", "accum_train_in_hours"}
"""Numbers about its training that an rCM network carries among its tensors."""
SECOND = re.compile(r"(?:^|(?<=\.))memory_")
"""What SGF+ puts into the names of its second network's tensors, which lie among those of the first."""
ENTRIES = ("generator_ema", "generator", "state_dict", "model_state_dict", "model", "ema", "module")
"""Under which the network lies in a pickle; the averaged weights go first."""

CAUSAL_LORA = "generator_lora"
"""What LongLive's checkpoint calls its LoRA, which belongs to a causal network."""


def _affine(modules: Names) -> Names:
    return {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in modules.items() for leaf in ("weight", "bias")}


def _under(official: str, diffusers: str, names: Names) -> Names:
    return {f"{official}.{a}": f"{diffusers}.{b}" for a, b in names.items()}


RESNET = {"residual.0.gamma": "norm1.gamma", "residual.3.gamma": "norm2.gamma"} | _affine(
    {"residual.2": "conv1", "residual.6": "conv2"}
)
SHORTCUT = _affine({"shortcut": "conv_shortcut"})
"""Names in a resnet that changes the number of channels."""
ATTENTION = {"norm.gamma": "norm.gamma"} | _affine({"to_qkv": "to_qkv", "proj": "proj"})
RESAMPLE = _affine({"resample.1": "resample.1"})
TIME_CONV = _affine({"time_conv": "time_conv"})
"""Names in a resample that changes the number of frames."""


def bare_name(key: str) -> str:
    """The name that a network itself gives a tensor, without what programs wrap around it (`WRAPPERS`, `HEADS`)."""
    name = WRAPPERS.sub("", key)
    return name[found.end() :] if (found := HEADS.match(name)) else name


def bare_names(keys: Iterable[str]) -> dict[str, str]:
    """Map each key of a checkpoint to its bare name, as checkpoints, GGUF files and LoRAs are all read.

    Keys of `COUNTERS` are left out, and where a file has averaged weights (`net_ema.`) beside others (`net.`), the
    others. Raises ModelError when two names become one.
    """
    keys = list(keys)
    tops = {key.partition(".")[0] for key in keys}
    left = {top for average, top in AVERAGES.items() if average in tops}
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for key in keys:
        name = bare_name(key)
        if name in COUNTERS or key.partition(".")[0] in left:
            continue
        if name in owners:
            raise ModelError(f"two tensors are called {name} once wrappers are dropped: {owners[name]} and {key}")
        names[key], owners[name] = name, key
    return names


def official_to_diffusers_transformer(state: Mapping[str, "Tensor"]) -> "dict[str, Tensor]":
    """Tensors of a Wan text-to-video transformer under diffusers' names (`WanTransformer3DModel`)."""
    return _renamed(
        state, transformer_names(count_layers(state.keys(), "blocks")), what="Wan text-to-video transformer"
    )


def transformer_names(blocks: int) -> Names:
    """Every tensor of a Wan text-to-video transformer with this many blocks."""
    attention = _affine({"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"})
    attention |= {"norm_q.weight": "norm_q.weight", "norm_k.weight": "norm_k.weight"}
    block = _under("self_attn", "attn1", attention) | _under("cross_attn", "attn2", attention)
    block |= _affine({"norm3": "norm2", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"})
    block |= {"modulation": "scale_shift_table"}
    names = {"head.modulation": "scale_shift_table"} | _affine(
        {
            "patch_embedding": "patch_embedding",
            "text_embedding.0": "condition_embedder.text_embedder.linear_1",
            "text_embedding.2": "condition_embedder.text_embedder.linear_2",
            "time_embedding.0": "condition_embedder.time_embedder.linear_1",
            "time_embedding.2": "condition_embedder.time_embedder.linear_2",
            "time_projection.1": "condition_embedder.time_proj",
            "head.head": "proj_out",
        }
    )
    for i in range(blocks):
        names |= _under(f"blocks.{i}", f"blocks.{i}", block)
    return names


def vae_names(given: Set[str]) -> Names:
    """Every tensor of a Wan 2.1 VAE with as many layers, and of the same kinds, as these official names tell."""
    names = _affine({"conv1": "quant_conv", "conv2": "post_quant_conv"})
    for part in ("encoder", "decoder"):
        names |= _under(part, part, {"head.0.gamma": "norm_out.gamma"})
        names |= _under(part, part, _affine({"conv1": "conv_in", "head.2": "conv_out"}))
        names |= _under(f"{part}.middle.0", f"{part}.mid_block.resnets.0", RESNET)
        names |= _under(f"{part}.middle.1", f"{part}.mid_block.attentions.0", ATTENTION)
        names |= _under(f"{part}.middle.2", f"{part}.mid_block.resnets.1", RESNET)
    for i in range(count_layers(given, "encoder.downsamples")):
        names |= _vae_layer(given, f"encoder.downsamples.{i}", f"encoder.down_blocks.{i}")
    level = resnet = 0  # diffusers groups the decoder's layers by level, an upsampler ends each
    for i in range(count_layers(given, "decoder.upsamples")):
        layer, up_block = f"decoder.upsamples.{i}", f"decoder.up_blocks.{level}"
        if _is_resample(given, layer):
            names |= _vae_layer(given, layer, f"{up_block}.upsamplers.0")
            level, resnet = level + 1, 0
        else:
            names |= _vae_layer(given, layer, f"{up_block}.resnets.{resnet}")
            resnet += 1
    return names


def text_encoder_names(layers: int) -> Names:
    """Every tensor of umT5's encoder: official Wan -> transformers (`UMT5EncoderModel`)."""
    names = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
    attention = {f"attn.{name}.weight": f"layer.0.SelfAttention.{name}.weight" for name in "qkvo"}
    block = attention | {
        "norm1.weight": "layer.0.layer_norm.weight",
        "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
        "norm2.weight": "layer.1.layer_norm.weight",
        "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
        "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
        "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
    }
    for i in range(layers):
        names |= _under(f"blocks.{i}", f"encoder.block.{i}", block)
    return names


def mismatch(problems: Mapping[str, Sequence[str]]) -> str:
    """Names that do not fit as one phrase, `2 missing (a, b); 1 unknown (c)`; empty when all lists are."""
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    )


def _vae_layer(given: Set[str], official: str, diffusers: str) -> Names:
    """Names of one layer, a resample or a resnet; its optional convolution where the checkpoint has any of it."""
    must, may = (RESAMPLE, TIME_CONV) if _is_resample(given, official) else (RESNET, SHORTCUT)
    optional = _under(official, diffusers, may)
    return _under(official, diffusers, must) | (optional if optional.keys() & given else {})


def _is_resample(given: Set[str], layer: str) -> bool:
    return f"{layer}.resample.1.weight" in given


def count_layers(given: Iterable[str], prefix: str) -> int:
    """How many numbered layers stand under a prefix."""
    return len({match[1] for name in given if (match := re.match(rf"{prefix}\.(\d+)\.", name))})


def _renamed(state: Mapping[str, "Tensor"], names: Names, *, what: str) -> "dict[str, Tensor]":
    missing = [name for name in names if name not in state]
    unknown = [name for name in state if name not in names]
    if problem := mismatch({"missing": missing, "unknown": unknown}):
        raise ModelError(f"not a {what} under official names: {problem}")
    return {names[name]: tensor for name, tensor in state.items()}
