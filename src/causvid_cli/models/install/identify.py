"""What a checkpoint is, by the names and shapes of its tensors: a whole Wan network, or one line that says what else.

Names and shapes do not tell how a transformer was trained: a causal student and the bidirectional Wan that it was
made from have the same.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal

from causvid_cli.config import to_json
from causvid_cli.errors import ModelError
from causvid_cli.models.catalogue import catalogue
from causvid_cli.models.empty import PartName, empty_network
from causvid_cli.weights.names import (
    SECOND,
    Names,
    bare_names,
    count_layers,
    mismatch,
    text_encoder_names,
    transformer_names,
    vae_names,
)
from causvid_cli.weights.stored import Shape

Shapes = Mapping[str, Shape]

HEAD_DIM = 128
"""Width of a head in every published Wan; neither names nor shapes tell it."""
IGNORED = {"spiece_model"}
"""ComfyUI's files of umT5 carry the tokenizer as a tensor."""

FOREIGN = (
    (
        r"\blora_|\.lora\.|^lora|\.lokr_|\.hada_|\.alpha$|_lora\b",
        "a LoRA, which is no model by itself: give it to a model by --lora FILE",
    ),
    (
        r"(\.|^)(scaled_fp8|scale_weight|scale_input|weight_scale|scale)$|\.(absmax|quant_state|qweight|qzeros)\b",
        "quantized weights with scales: give the float32, bfloat16 or float16 file; --quantize makes them small",
    ),
    (r"^vace_|\.vace_|^vace\.", "a VACE model: give a text-to-video checkpoint"),
    (
        r"^img_emb\.|\.(k_img|v_img|norm_k_img)\.|\.add_[kv]_proj\.|image_embedder",
        "an image-to-video Wan: give a text-to-video checkpoint, which `causvid i2v` starts from a photo too",
    ),
    (r"audio|^face_|^motion_encoder|^pose_|^ref_conv|^control_", "a Wan with other inputs: give a text-to-video one"),
)
"""Names of what is no text-to-video network -> what it is, and what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A checkpoint's network: what it is, and what each tensor is called here."""

    part: PartName
    config: dict[str, Any]
    """The configuration that its class of diffusers or transformers takes, class name included."""
    names: Names
    """Key in the checkpoint -> name in a pack."""
    shapes: dict[str, Shape]
    """Name in a pack -> shape in a pack."""
    left_out: tuple[str, ...] = ()
    """Keys of the checkpoint that are no weights of the network: counters, and what has an average beside it."""

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.shapes.values()))


def identify_network(
    given: Shapes,
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    which: Literal["only", "first", "second"] = "only",
) -> Network:
    """The network that tensors of these keys and shapes are, all of it and nothing else.

    where: what messages call it. config: its configuration where there is one, official, diffusers' or transformers'.
    which: of the two that may lie there (`weights.names.SECOND`). Raises ModelError, in one line, for anything else.
    """
    whole = bare_names(given)
    bare = _names_of(which, whole, where)
    keys = {key: name for key, name in bare.items() if name not in IGNORED}
    shapes = {name: given[key] for key, name in keys.items()}
    if not shapes:
        raise ModelError(f"{where} holds no tensors")
    _refuse_foreign([*shapes, *given], where)
    part, network_config, names = _classify(shapes, dict(config or {}), where)
    wanted = module_shapes(part, network_config)
    _compare(shapes, names, wanted, what=f"{where} is not a whole {TITLES[part]}")
    renamed = {key: names[name] for key, name in keys.items() if names[name] in wanted}
    left_out = tuple(key for key in given if key not in whole)
    return Network(part=part, config=network_config, names=renamed, shapes=wanted, left_out=left_out)


def _names_of(which: str, names: Names, where: str) -> Names:
    """Key -> name of the tensors of one of a checkpoint's networks. Raises ModelError for another number of them."""
    second = {key: SECOND.sub("", name, count=1) for key, name in names.items() if SECOND.search(name)}
    if which == "only" and second:
        raise ModelError(
            f"{where} holds two networks (it has {next(iter(second))}): say which known checkpoint it is, such as --as "
            "sgf-plus"
        )
    if which != "only" and not second:
        raise ModelError(f"{where} holds one network, where two are wanted: none of its tensors is called memory_...")
    return second if which == "second" else {key: name for key, name in names.items() if key not in second}


TITLES: dict[PartName, str] = {
    "transformer": "Wan text-to-video transformer",
    "vae": "Wan2.1 VAE",
    "text_encoder": "umT5 encoder",
    "vae_tiny": "TAEHV",
}


def module_shapes(part: PartName, config: Mapping[str, Any]) -> dict[str, Shape]:
    """Names and shapes of all tensors of a network, as its class has them."""
    return dict(_module_shapes(part, to_json(config, sort_keys=True)))


@lru_cache(maxsize=16)  # a pull of several files asks for the same again
def _module_shapes(part: PartName, config: str) -> dict[str, Shape]:
    state = empty_network(part, json.loads(config)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    shapes.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    return shapes


def same_network(config: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a configuration says what a known one says, defaults left out."""
    return all(_plain(config.get(key)) == _plain(value) for key, value in known.items() if not key.startswith("_"))


# --- what it is ----------------------------------------------------------------------------------------------------


def _refuse_foreign(names: Iterable[str], where: str) -> None:
    for pattern, what in FOREIGN:
        if found := next((name for name in names if re.search(pattern, name)), None):
            raise ModelError(f"{where} is {what} (it holds {found})")


def _classify(shapes: Shapes, config: dict[str, Any], where: str) -> tuple[PartName, dict[str, Any], Names]:
    """The part, its configuration, and given name -> name in a pack."""
    if "patch_embedding.weight" in shapes and "head.head.weight" in shapes:
        names = transformer_names(count_layers(shapes, "blocks"))
        return "transformer", _transformer_config(shapes, config, where, names), names
    if "patch_embedding.weight" in shapes and "proj_out.weight" in shapes:
        ours = {ours: ours for ours in transformer_names(count_layers(shapes, "blocks")).values()}
        return "transformer", _transformer_config(shapes, config, where, ours), ours
    if "decoder.upsamples.0.residual.0.gamma" in shapes:
        return "vae", _vae_config(shapes.get("conv2.weight"), config, where), vae_names(shapes.keys())
    if "decoder.conv_in.weight" in shapes and "post_quant_conv.weight" in shapes:
        vae = _vae_config(shapes["post_quant_conv.weight"], config, where)
        return "vae", vae, {name: name for name in module_shapes("vae", vae)}
    if "token_embedding.weight" in shapes:
        names = text_encoder_names(count_layers(shapes, "blocks"))
        return "text_encoder", _text_config(shapes, config, names), names
    if {"shared.weight", "encoder.embed_tokens.weight"} & shapes.keys():
        ours = {ours: ours for ours in text_encoder_names(count_layers(shapes, "encoder.block")).values()}
        ours["encoder.embed_tokens.weight"] = "shared.weight"
        return "text_encoder", _text_config(shapes, config, ours), ours
    if "decoder.1.weight" in shapes and "encoder.0.weight" in shapes:
        part = catalogue().parts["tiny_vae"]
        tiny = dict(config or part.config or {})
        return "vae_tiny", tiny, {name: name for name in module_shapes("vae_tiny", tiny)}
    few = ", ".join(list(shapes)[:3])
    raise ModelError(f"{where} is no network of Wan2.1: its {len(shapes)} tensors are called {few}, ...")


def _transformer_config(shapes: Shapes, config: dict[str, Any], where: str, names: Names) -> dict[str, Any]:
    """Configuration of a transformer: as the shapes tell, the heads as the given or a known configuration does."""
    ours = {names[name]: shape for name, shape in shapes.items() if name in names}
    try:
        dim, *patch = ours["patch_embedding.weight"]
        told = {
            "in_channels": patch[0] if len(patch) == 4 else patch[0] // 4,
            "out_channels": ours["proj_out.weight"][0] // 4,
            "text_dim": ours["condition_embedder.text_embedder.linear_1.weight"][1],
            "freq_dim": ours["condition_embedder.time_embedder.linear_1.weight"][1],
            "ffn_dim": ours["blocks.0.ffn.net.0.proj.weight"][0],
            "num_layers": count_layers(shapes, "blocks"),
        }
    except KeyError as missing:
        raise ModelError(f"{where} is not a whole {TITLES['transformer']}: 1 missing ({missing})") from None
    if told["in_channels"] in (32, 36):
        raise ModelError(
            f"{where} is an image-to-video Wan (in_channels {told['in_channels']}): give a text-to-video checkpoint, "
            "which `causvid i2v` starts from a photo too"
        )
    if told["in_channels"] == 48:
        raise ModelError(f"{where} is Wan2.2 5B (in_channels 48), which is not known yet: give a checkpoint of Wan2.1")
    for known in catalogue().architectures.values():
        if same_network(told, {key: known.config[key] for key in told}) and dim == _width(known.config):
            return dict(known.config)
    config = _as_diffusers(config, where)
    heads = config.get("num_attention_heads") or (dim // HEAD_DIM if dim % HEAD_DIM == 0 else 0)
    if not heads:
        raise ModelError(f"{where}: how many heads its {dim} channels have is not known; put its config.json beside it")
    base = catalogue().architectures["wan2.1-1.3b"].config
    return base | told | config | {"num_attention_heads": heads, "attention_head_dim": dim // heads}


def _as_diffusers(config: dict[str, Any], where: str) -> dict[str, Any]:
    """What an official configuration (`dim`, `num_heads`), or diffusers', says of a transformer."""
    if (kind := config.get("model_type", "t2v")) != "t2v":
        raise ModelError(f"{where}: its config.json says model_type {kind}: give a text-to-video checkpoint")
    named = {"num_heads": "num_attention_heads", "eps": "eps", "cross_attn_norm": "cross_attn_norm"}
    if "num_heads" in config:
        return {ours: config[theirs] for theirs, ours in named.items() if theirs in config}
    return {key: value for key, value in config.items() if not key.startswith("_") and value is not None}


def _vae_config(latents: Shape | None, config: dict[str, Any], where: str) -> dict[str, Any]:
    """latents: shape of the convolution that takes them."""
    known: dict[str, Any] = catalogue().parts["vae"].config or {}
    if config:
        return known | config
    if latents and latents[0] != known["z_dim"]:
        raise ModelError(f"{where} is the VAE of another model ({latents[0]} latent channels): give Wan2.1's, with 16")
    return known


def _text_config(shapes: Shapes, config: dict[str, Any], names: Names) -> dict[str, Any]:
    ours = {names[name]: shape for name, shape in shapes.items() if name in names}
    known: dict[str, Any] = catalogue().parts["text_encoder"].config or {}
    if config:
        return known | config
    first = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = ours.get(f"{first}.relative_attention_bias.weight", (0, 0))
    width, dim = ours.get(f"{first}.q.weight", (0, 0))
    return known | {
        "vocab_size": ours["shared.weight"][0],
        "d_model": dim or known["d_model"],
        "num_heads": heads or known["num_heads"],
        "d_kv": width // heads if heads else known["d_kv"],
        "d_ff": ours.get("encoder.block.0.layer.1.DenseReluDense.wo.weight", (0, known["d_ff"]))[1],
        "num_layers": count_layers(ours, "encoder.block"),
        "relative_attention_num_buckets": buckets or known["relative_attention_num_buckets"],
    }


# --- whether it is whole -------------------------------------------------------------------------------------------


def _compare(shapes: Shapes, names: Names, wanted: Shapes, *, what: str) -> None:
    """Raise ModelError unless the given tensors are just those of the network; names as the checkpoint has them."""
    theirs = {ours: name for name, ours in reversed(names.items())}
    there = {names[name] for name in shapes if name in names}
    unlike = [
        f"{name} {list(shape)} instead of {list(wanted[names[name]])}"
        for name, shape in shapes.items()
        if name in names and names[name] in wanted and not _fits(shape, wanted[names[name]])
    ]
    problems = {
        "missing": [theirs.get(name, name) for name in wanted if name not in there],
        "unexpected": [name for name in shapes if names.get(name) not in wanted],
        "of another shape": unlike,
    }
    if problem := mismatch(problems):
        raise ModelError(f"{what}: {problem}")


def _fits(given: Shape, wanted: Shape) -> bool:
    """Whether a tensor is one of the wanted shape, or the matrix that the same convolution of patches is."""
    return given == wanted or (len(wanted) == 5 and given == (wanted[0], prod(wanted[1:])))


def _width(config: Mapping[str, Any]) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
