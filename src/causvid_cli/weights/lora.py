"""LoRAs: small changes to a transformer's weights, read in every form they are published in.

A change is `scale * up @ down` of a weight (arXiv 2106.09685), `scale * kron(w1, w2)` (LoKr, arXiv 2309.14859), or a
difference as it is: of a bias, a norm, a modulation. It is added to the weights once, so that what follows is as fast
as without. Weights of a GGUF file cannot be changed; there one of low rank is computed beside them, by peft.

The forms: ComfyUI's and Kijai's (`diffusion_model.blocks.0.self_attn.q.lora_down.weight`, `.alpha`, `.diff`,
`.diff_b`), musubi-tuner's (`lora_unet_blocks_0_self_attn_q.lora_down.weight`), VideoX-Fun's (`lora_unet__blocks_0_`),
LyCORIS's (`lycoris_blocks_0_`), peft's (`base_model.model.blocks.0...lora_A.default.weight`, its alpha in
adapter_config.json), diffusers' (`transformer.blocks.0.attn1.to_q.lora_A.weight`) and LongLive's (peft's, under
`generator_lora`). diffusers' own converters leave out differences of norms and weights, and stop at a file that
changes some of the layers only: so names are mapped here, by `weights/names.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from causvid_cli.config import from_data, from_json
from causvid_cli.errors import ModelError
from causvid_cli.extras import require
from causvid_cli.network.quantize import is_plain
from causvid_cli.untrusted import parse_object, read_text
from causvid_cli.weights.checkpoint import open_tensors
from causvid_cli.weights.gguf import dequantize_layer
from causvid_cli.weights.names import CAUSAL_LORA, bare_name, mismatch, transformer_names
from causvid_cli.weights.stored import Shape, Tensors

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_CONFIG = "lora_adapter_metadata"
"""Where a safetensors header written by diffusers says what adapter_config.json does."""
SPEED_UPS = re.compile(r"causvid|self.?forc|light.?x2v|fusionx|accvid|distill|turbo|\bdmd|\blcm|\brcm", re.IGNORECASE)
"""How LoRAs call themselves that make a bidirectional model need fewer steps."""
FOREIGN = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_t2": "Tucker LoKr",
    "oft_": "OFT",
}
"""Parts of names that tell other kinds of adapters."""
LEAF = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?:lora_(?P<side>down|up|A|B)(?:\..+)?|lora(?:_linear_layer)?\.(?P<old>down|up))\.(?P<of>weight|bias)"
    r"|lokr_(?P<factor>w[12](?:_[ab])?)|(?P<other>alpha|diff|diff_b|diff_m))"
)
"""What ends the name of a tensor in a LoRA."""
FACTORS = [
    {"down", "up"},
    *(w1 | w2 for w1 in ({"w1"}, {"w1_a", "w1_b"}) for w2 in ({"w2"}, {"w2_a", "w2_b"})),
]
"""Roles of tensors that together make a matrix: of low rank, or Kronecker's product."""
LEAVES = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}

Layers = Mapping[str, Mapping[str, str]]
"""Name of a layer without separators -> its weight, bias and modulation, as parameters of the network."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change of one weight: scale * up @ down. up: [out, rank]; down: [rank, in], a convolution's flattened."""

    up: Tensor
    down: Tensor
    scale: float

    def change(self) -> Tensor:
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True, slots=True)
class Kronecker:
    """A change of one weight: scale * kron(w1, w2), as LyCORIS's LoKr computes it."""

    w1: Tensor
    w2: Tensor
    scale: float

    def change(self) -> Tensor:
        return self.scale * torch.kron(self.w1, self.w2)


@dataclass(frozen=True, slots=True)
class Lora:
    """Changes of parameters, by diffusers' names: products of small matrices, and differences of any shape."""

    name: str
    products: dict[str, LowRank | Kronecker] = field(default_factory=dict)
    differences: dict[str, Tensor] = field(default_factory=dict)
    note: str = ""
    """What a user should know who adds it to a causal model."""

    @property
    def parameters(self) -> list[str]:
        return list(dict.fromkeys([*self.products, *self.differences]))

    def change(self, parameter: str, shape: torch.Size) -> Tensor:
        """What is added to a parameter at weight 1, float32."""
        change = torch.zeros(shape)
        if product := self.products.get(parameter):
            change += product.change().view(shape)
        if (difference := self.differences.get(parameter)) is not None:
            change += difference.float().view(shape)
        return change

    def can_stand_beside(self, parameter: str) -> bool:
        """Whether peft can compute the change next to the weight, if there is one."""
        return parameter not in self.differences and not isinstance(self.products.get(parameter), Kronecker)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """What adapter_config.json says of the size of changes."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None

    def scale(self, key: str, rank: int) -> float:
        """What peft multiplies the change by that a tensor belongs to; 1 where nothing says so."""
        alpha = self.lora_alpha
        if alpha is None:
            return 1.0
        layer = key.partition(".lora_")[0]
        for pattern, other in (self.alpha_pattern or {}).items():
            ending = pattern.removeprefix("^")
            if layer == ending or layer.endswith(f".{ending}"):
                alpha = other
        return alpha / (rank**0.5 if self.use_rslora else rank)


def read_lora(path: Path, network: nn.Module, *, model: str) -> Lora:
    """A LoRA's file, or the folder that peft saves, as changes of a `WanTransformer3DModel`.

    model: what messages call the network. Raises ModelError for what cannot be read and, naming the first few, when
    any tensor of it belongs to no layer here or has another shape.
    """
    config, file = _config(path / PEFT_CONFIG), path
    if path.is_dir():
        file = path / PEFT_WEIGHTS
        if not file.is_file():
            raise ModelError(f"--lora {path}: no {PEFT_WEIGHTS} in this folder; give a .safetensors file")
    elif path.name == PEFT_WEIGHTS:
        config = _config(path.parent / PEFT_CONFIG)
    try:
        tensors = open_tensors(file)
    except ModelError as error:
        raise ModelError(f"--lora {error}") from None
    if config is None and DIFFUSERS_CONFIG in tensors.metadata:
        config = _diffusers_config(tensors.metadata[DIFFUSERS_CONFIG], where=f"--lora {path}: {DIFFUSERS_CONFIG}")
    causal = any(key.startswith(f"{CAUSAL_LORA}.") for key in tensors.shapes)
    note = "" if causal else bidirectional_note(path.name, tensors.metadata)
    return lora_of(tensors, network, name=str(path), model=model, config=config or PeftConfig(), note=note)


def lora_of(tensors: Tensors, network: Any, *, name: str, model: str, config: PeftConfig, note: str = "") -> Lora:
    """The changes that a LoRA's tensors tell, all of them; see `read_lora`. config: of adapter_config.json."""
    layers = layer_names(len(network.blocks))
    wanted = {key: _shape(value) for key, value in network.named_parameters()}
    changes: dict[str, dict[str, str]] = {}  # parameter -> role -> key
    unknown, twice, odd, single, misshapen = [], [], [], [], []
    for key, dtype in tensors.dtypes.items():
        parameter, role = tensor_role(key, layers) or ("", "")
        if parameter not in wanted:
            unknown.append(key)
        elif role in changes.setdefault(parameter, {}):
            twice.append(key)
        else:
            changes[parameter][role] = key
            if dtype.is_complex or not (dtype.is_floating_point or role == "alpha"):
                odd.append(f"{key} {str(dtype).removeprefix('torch.')}")
    for parameter, keys in changes.items():
        shapes = {role: tensors.shapes[key] for role, key in keys.items()}
        factors = sorted(role for role in keys if role not in ("alpha", "bias", "difference"))
        if set(factors) not in FACTORS and (factors or "difference" not in keys):
            single.append(keys[factors[0] if factors else min(keys)])
        elif factors and _product_shape(shapes) != (wanted[parameter][0], wanted[parameter][1:].numel()):
            given = " and ".join(f"{role} {list(shapes[role])}" for role in factors[1:])
            misshapen.append(
                f"{keys[factors[0]]} {list(shapes[factors[0]])} and {given} for a weight {list(wanted[parameter])}"
            )
        sizes = {"alpha": (), "bias": wanted[parameter][:1], "difference": wanted[parameter]}
        for role in sizes.keys() & shapes.keys():
            if prod(shapes[role]) != prod(sizes[role]):
                misshapen.append(f"{keys[role]} {list(shapes[role])} instead of {list(sizes[role])}")
    problems = {
        "of no layer here": unknown,
        "twice": twice,
        "of other numbers than a LoRA's": odd,
        "without its other half": single,
        "of another shape": misshapen,
    }
    if problem := mismatch(problems):
        raise ModelError(f"--lora {name} does not fit {model}: {problem}{_why(tensors.shapes, network)}")
    lora = Lora(name, note=note)
    for parameter, keys in changes.items():
        loaded = {role: tensors.load(key) for role, key in keys.items()}
        if keys.keys() - {"alpha", "bias", "difference"}:
            product = lora.products[parameter] = _product(loaded, config, keys.get("down", ""))
            if "bias" in loaded:  # peft's lora_bias: scaled like the rest
                lora.differences[parameter.removesuffix("weight") + "bias"] = product.scale * loaded["bias"]
        if "difference" in loaded:
            lora.differences[parameter] = loaded["difference"]
    if not lora.parameters:
        raise ModelError(f"--lora {name}: holds no LoRA")
    if bad := [each for each in lora.parameters if not lora.change(each, wanted[each]).isfinite().all()]:
        raise ModelError(f"--lora {name}: {mismatch({'not finite': bad})}; the file is unusable")
    return lora


def _product_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    """Rows and columns of the matrix that factors of these shapes make; None where they make none."""
    if "up" in shapes:
        return _matrix(shapes["up"], shapes["down"])
    w1, w2 = (
        _matrix(shapes[number]) if number in shapes else _matrix(shapes[f"{number}_a"], shapes[f"{number}_b"])
        for number in ("w1", "w2")
    )
    return (w1[0] * w2[0], w1[1] * w2[1]) if w1 and w2 else None


def _matrix(first: Shape, second: Shape | None = None) -> Shape | None:
    """Shape of a flattened factor, or of the product of two; None where that is none."""
    if second is None:
        return (first[0], prod(first[1:])) if len(first) > 1 else None
    fits = len(first) > 1 and len(second) > 1 and prod(first[1:]) == second[0] > 0
    return (first[0], prod(second[1:])) if fits else None


def _product(given: Mapping[str, Tensor], config: PeftConfig, key: str) -> LowRank | Kronecker:
    """The change that factors make. key: of the down half, for what a configuration says of its scale."""
    if "up" in given:
        up, down = given["up"].flatten(1), given["down"].flatten(1)
        rank = len(down)
        return LowRank(up, down, float(given["alpha"]) / rank if "alpha" in given else config.scale(key, rank))
    w1, w2 = (
        (given[number] if number in given else given[f"{number}_a"].float() @ given[f"{number}_b"].float().flatten(1))
        .float()
        .flatten(1)
        for number in ("w1", "w2")
    )
    ranks = [len(given[half]) for half in ("w2_b", "w1_b") if half in given]
    scale = float(given["alpha"]) / ranks[0] if "alpha" in given and ranks else 1.0  # LyCORIS's: full factors have none
    return Kronecker(w1, w2, scale)


@torch.no_grad()
def add_loras(network: Any, loras: Sequence[tuple[Lora, float]]) -> None:
    """Add LoRAs, each by its weight, to a `WanTransformer3DModel`, in place; their sum is rounded once.

    Layers of a GGUF file keep their weights, and peft computes the changes beside them.
    """
    parameters: dict[str, nn.Parameter] = dict(network.named_parameters())
    beside: set[str] = set()
    for parameter in dict.fromkeys(name for lora, _ in loras for name in lora.parameters):
        module = network.get_submodule(parameter.rpartition(".")[0])
        value: Tensor = parameters[parameter]
        if parameter.endswith(".weight") and isinstance(module, nn.Linear) and not is_plain(module):
            if all(lora.can_stand_beside(parameter) for lora, _ in loras):
                beside.add(parameter)
                continue
            value = dequantize_layer(network, parameter.rpartition(".")[0]).weight
        total = value.float()
        for lora, weight in loras:
            if parameter in lora.parameters:
                total = total + weight * lora.change(parameter, value.shape).to(total.device)
        value.copy_(total)
    if beside:
        _add_beside(network, loras, beside)


def _add_beside(network: Any, loras: Sequence[tuple[Lora, float]], parameters: set[str]) -> None:
    """Let peft compute these changes next to weights that cannot be changed: one adapter of all LoRAs' ranks."""
    require("peft", extra="lora", what="a LoRA on GGUF weights")
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    dtype = network.patch_embedding.weight.dtype
    state: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for parameter in parameters:
        layer = parameter.removesuffix(".weight")
        changes = [(weight, lora.products.get(parameter)) for lora, weight in loras]
        low = [(weight * each.scale, each) for weight, each in changes if isinstance(each, LowRank)]
        down = torch.cat([each.down.to(dtype) for _, each in low])
        state[f"{layer}.lora_A.weight"], ranks[layer] = down, len(down)
        state[f"{layer}.lora_B.weight"] = torch.cat([(scale * each.up.float()).to(dtype) for scale, each in low], dim=1)
    config = LoraConfig(r=1, lora_alpha=1, target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks)
    inject_adapter_in_model(config, network, low_cpu_mem_usage=True)
    set_peft_model_state_dict(network, state, low_cpu_mem_usage=True)
    network.requires_grad_(False)


def bidirectional_note(name: str, header: Mapping[str, str]) -> str:
    """What to say of a LoRA that was, as nearly all are, made for a bidirectional Wan."""
    told = " ".join([name, *(header.get(key, "") for key in ("modelspec.title", "ss_output_name", "name"))])
    if SPEED_UPS.search(told):
        return (
            f"--lora {name}: a LoRA that makes a bidirectional Wan need fewer steps, by its name; this model already "
            "does, and such a LoRA does not make it better at rolling out: the frames may get worse"
        )
    return f"--lora {name}: made for a bidirectional Wan; on this causal model a style carries over more or less"


def layer_names(blocks: int) -> Layers:
    """Every layer of a Wan transformer with this many blocks, by its official name and by diffusers'."""
    layers: dict[str, dict[str, str]] = {}
    for official, own in transformer_names(blocks).items():
        for spelt in (official, own):
            layer, _, leaf = spelt.rpartition(".")
            if leaf in ("weight", "bias"):
                found = {layer: {leaf: own}}
            else:  # a modulation, which is a parameter by itself, of a block or of the head
                found = {spelt: {"weight": own}, layer or "head": {"modulation": own}}
            for name, leaves in found.items():
                layers.setdefault(_joined(name), {}).update(leaves)
    return layers


def tensor_role(key: str, layers: Layers) -> tuple[str, str] | None:
    """The parameter that a tensor of a LoRA belongs to, and its role in the change of it.

    Roles: those of `FACTORS`, alpha, bias (of the up half), difference. None for a tensor of no layer.
    """
    match = LEAF.fullmatch(key)
    if match is None:
        return None
    side, leaf = match["side"] or match["old"], match["other"]
    layer = layers.get(_joined(bare_name(f"{match['module']}.").rstrip(".")), {})
    parameter = layer.get(LEAVES.get(leaf or "", "weight"))
    if parameter is None or (match["of"] == "bias" and (side in ("A", "down") or "bias" not in layer)):
        return None
    if side:
        return parameter, "bias" if match["of"] == "bias" else "up" if side in ("B", "up") else "down"
    return parameter, match["factor"] or ("alpha" if leaf == "alpha" else "difference")


def _joined(name: str) -> str:
    """A name without its separators, which programs write as dots, as underscores, or as both."""
    return name.replace(".", "").replace("_", "")


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Shape of the weight itself, also where it lies packed."""
    return torch.Size(getattr(parameter, "quant_shape", parameter.shape))


def _why(shapes: Mapping[str, Shape], network: Any) -> str:
    """What the names and shapes of a LoRA tell of what it was made for."""
    for part, kind in FOREIGN.items():
        if any(part in key for key in shapes):
            return f"; it is a {kind}, which cannot be used; look for a LoRA"
    if any(part in key for key in shapes for part in ("k_img", "img_emb", "add_k_proj", "image_embedder")):
        return "; it was made for an image-to-video model"
    own = network.config.num_attention_heads * network.config.attention_head_dim
    for key, shape in shapes.items():
        match = LEAF.fullmatch(key)
        if match and (match["side"] or match["old"]) in ("A", "down") and "attn" in match["module"]:
            if (width := prod(shape[1:])) != own:
                sizes = {1536: "Wan 1.3B, ", 5120: "Wan 14B, "}
                return f"; it was made for {sizes.get(width, '')}layers {width} wide, and these are {own} wide"
    return ""


def _config(path: Path) -> PeftConfig | None:
    """What adapter_config.json says; None where there is none."""
    if not path.exists():
        return None
    config = from_json(PeftConfig, read_text(path, error=ModelError), where=str(path), error=ModelError)
    if config.use_dora:
        raise ModelError(f"--lora {path.parent}: a DoRA, which cannot be used; look for a LoRA")
    return config


def _diffusers_config(text: str, *, where: str) -> PeftConfig:
    """What the header of a safetensors file, written by diffusers, says of the transformer's adapter."""
    told = parse_object(text, where=where, error=ModelError)
    own = {key.removeprefix("transformer."): value for key, value in told.items()}
    return from_data(PeftConfig, own, where=where, error=ModelError)
