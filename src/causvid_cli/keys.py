"""Names of tensors: official Wan checkpoints -> diffusers."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from torch import Tensor

from causvid_cli.errors import ModelError

Names = dict[str, str]
"""Official name -> diffusers name."""

WRAPPERS = {"_fsdp_wrapped_module", "_orig_mod"}
"""Path parts that FSDP and torch.compile put into names."""


def _affine(modules: Names) -> Names:
    return {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in modules.items() for leaf in ("weight", "bias")}


def _under(official: str, diffusers: str, names: Names) -> Names:
    return {f"{official}.{a}": f"{diffusers}.{b}" for a, b in names.items()}


RESNET = {"residual.0.gamma": "norm1.gamma", "residual.3.gamma": "norm2.gamma"} | _affine(
    {"residual.2": "conv1", "residual.6": "conv2"}
)
SHORTCUT = _affine({"shortcut": "conv_shortcut"})
"""Of a resnet that changes the number of channels."""
ATTENTION = {"norm.gamma": "norm.gamma"} | _affine({"to_qkv": "to_qkv", "proj": "proj"})
RESAMPLE = _affine({"resample.1": "resample.1"})
TIME_CONV = _affine({"time_conv": "time_conv"})
"""Of a resample that changes the number of frames."""


def unwrap_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors in an official checkpoint, under their bare official names.

    Takes `generator_ema` or `generator` where the checkpoint has one, drops `_fsdp_wrapped_module` and `_orig_mod` as
    whole path parts, then a leading `model.`. Raises ModelError on what is no tensor or when two names become one.
    """
    chosen = next((checkpoint[key] for key in ("generator_ema", "generator") if key in checkpoint), checkpoint)
    state: dict[str, Tensor] = {}
    for key, tensor in chosen.items():
        parts = [part for part in key.split(".") if part not in WRAPPERS]
        name = ".".join(parts[1:] if parts[0] == "model" else parts)
        if not isinstance(tensor, Tensor):
            raise ModelError(f"checkpoint: {key} is {type(tensor).__name__}, not a tensor; give a generator checkpoint")
        if name in state:
            raise ModelError(f"checkpoint: two tensors are called {name} once wrappers are dropped")
        state[name] = tensor
    return state


def official_to_diffusers_transformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a Wan text-to-video transformer under diffusers' names (`WanTransformer3DModel`)."""
    return _renamed(state, transformer_names(_count(state.keys(), "blocks")), what="Wan text-to-video transformer")


def official_to_diffusers_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the Wan 2.1 VAE under diffusers' names (`AutoencoderKLWan`)."""
    return _renamed(state, vae_names(state.keys()), what="Wan VAE")


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
    for i in range(_count(given, "encoder.downsamples")):
        names |= _vae_layer(given, f"encoder.downsamples.{i}", f"encoder.down_blocks.{i}")
    level = resnet = 0  # diffusers groups the decoder's layers by level, an upsampler ends each
    for i in range(_count(given, "decoder.upsamples")):
        layer, up_block = f"decoder.upsamples.{i}", f"decoder.up_blocks.{level}"
        if _is_resample(given, layer):
            names |= _vae_layer(given, layer, f"{up_block}.upsamplers.0")
            level, resnet = level + 1, 0
        else:
            names |= _vae_layer(given, layer, f"{up_block}.resnets.{resnet}")
            resnet += 1
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


def _count(given: Iterable[str], prefix: str) -> int:
    """How many numbered layers stand under a prefix."""
    return len({match[1] for name in given if (match := re.match(rf"{prefix}\.(\d+)\.", name))})


def _renamed(state: Mapping[str, Tensor], names: Names, *, what: str) -> dict[str, Tensor]:
    missing = [name for name in names if name not in state]
    unknown = [name for name in state if name not in names]
    if problem := mismatch({"missing": missing, "unknown": unknown}):
        raise ModelError(f"not a {what} under official names: {problem}")
    return {names[name]: tensor for name, tensor in state.items()}
