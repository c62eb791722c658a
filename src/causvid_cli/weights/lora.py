"""LoRAs: small changes to a transformer's weights, read in every form they are published in.

A change is `scale * up @ down` of a weight (arXiv 2106.09685), or a difference as it is: of a bias, a norm, a
modulation. It is added to the weights once, so that what follows is as fast as without. Weights of a GGUF file cannot
be changed; there it is computed beside them, by peft.

The forms: ComfyUI's and Kijai's (`diffusion_model.blocks.0.self_attn.q.lora_down.weight`, `.alpha`, `.diff`,
`.diff_b`), musubi-tuner's (`lora_unet_blocks_0_self_attn_q.lora_down.weight`), peft's (`base_model.model.blocks.0...
lora_A.default.weight`, its alpha in adapter_config.json), diffusers' (`transformer.blocks.0.attn1.to_q.lora_A.weight`)
and LongLive's (peft's, under `generator_lora`). diffusers' own converters leave out differences of norms and weights,
and stop at a file that changes some of the layers only: so names are mapped here, by `weights/names.py`.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from causvid_cli.errors import ModelError
from causvid_cli.network.quantize import is_plain
from causvid_cli.weights.checkpoint import PICKLES, check_pickle, load_pickle
from causvid_cli.weights.gguf import dequantize_layer
from causvid_cli.weights.names import WRAPPERS, mismatch, transformer_names

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_CONFIG = "lora_adapter_metadata"
"""Where a safetensors header written by diffusers says what adapter_config.json does."""
HEADS = {"base_model", "model", "diffusion_model", "transformer", "generator", "unet", "dit", "pipe"}
"""Path parts before a layer's own name."""
FLAT_HEADS = ("lora_unet_", "lora_transformer_")
"""The same, of names whose dots are underscores."""
CAUSAL = "generator_lora"
"""What LongLive's checkpoint calls its LoRA, which belongs to a causal network."""
SPEED_UPS = re.compile(r"causvid|self.?forc|light.?x2v|fusionx|accvid|distill|turbo|\bdmd|\blcm|\brcm", re.IGNORECASE)
"""How LoRAs call themselves that make a bidirectional model need fewer steps."""
FOREIGN = {"dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_w": "LoHa", "lokr_w": "LoKr", "oft_": "OFT"}
"""Parts of names that tell other kinds of adapters."""
LEAF = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?:lora_(?P<side>down|up|A|B)(?:\.(?!(?:weight|bias)$)[^.]+)?|lora\.(?P<old>down|up))\.(?P<of>weight|bias)"
    r"|(?P<other>alpha|diff|diff_b|diff_m))"
)
"""What ends the name of a tensor in a LoRA."""
PARTS = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change of one weight: scale * up @ down. up: [out, rank]; down: [rank, in], a convolution's flattened."""

    up: Tensor
    down: Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class Lora:
    """Changes of parameters, by diffusers' names: of low rank, and differences of any shape."""

    name: str
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    differences: dict[str, Tensor] = field(default_factory=dict)
    note: str = ""
    """What a user should know who adds it to a causal model."""

    @property
    def parameters(self) -> list[str]:
        return list(dict.fromkeys([*self.low_rank, *self.differences]))

    def change(self, parameter: str, shape: torch.Size) -> Tensor:
        """What is added to a parameter at weight 1, float32."""
        change = torch.zeros(shape)
        if low := self.low_rank.get(parameter):
            change += (low.scale * (low.up.float() @ low.down.float())).view(shape)
        if (difference := self.differences.get(parameter)) is not None:
            change += difference.float().view(shape)
        return change


def read_lora(path: Path, network: nn.Module, *, model: str) -> Lora:
    """A LoRA's file, or the folder that peft saves, as changes of a `WanTransformer3DModel`.

    model: what messages call the network. Raises ModelError for what cannot be read and, naming the first few, when
    any tensor of it has no place or another shape here.
    """
    config, file = _config(path / PEFT_CONFIG), path
    if path.is_dir():
        file = path / PEFT_WEIGHTS
        if not file.is_file():
            raise ModelError(f"--lora {path}: no {PEFT_WEIGHTS} in this folder; give a .safetensors file")
    elif path.name == PEFT_WEIGHTS:
        config = _config(path.parent / PEFT_CONFIG)
    tensors, header = _read(file, path)
    if not config and DIFFUSERS_CONFIG in header:
        config = _diffusers_config(header[DIFFUSERS_CONFIG])
    causal = CAUSAL in tensors or any(key.startswith(f"{CAUSAL}.") for key in tensors)
    tensors = tensors.get(CAUSAL, tensors)
    note = "" if causal else bidirectional_note(path.name, header)
    return lora_of(tensors, network, name=str(path), model=model, config=config, note=note)


def lora_of(
    tensors: Mapping[str, Any],
    network: nn.Module,
    *,
    name: str,
    model: str,
    config: Mapping[str, Any] | None = None,
    note: str = "",
) -> Lora:
    """The changes that a LoRA's tensors tell, all of them; see `read_lora`. config: of adapter_config.json."""
    places, shapes = _places(network), {key: _shape(value) for key, value in network.named_parameters()}
    lora = Lora(name, note=note)
    halves: dict[str, dict[str, tuple[str, Tensor]]] = {}  # weight -> up, down, alpha, bias -> key and tensor
    unknown, twice, single, misshapen = [], [], [], []
    for key, tensor in tensors.items():
        place = _place(key, places)
        if place is None or not isinstance(tensor, Tensor):
            unknown.append(key)
        elif place[1] != "difference":
            parameter, part = place
            if part in halves.setdefault(parameter, {}):
                twice.append(key)
            halves[parameter][part] = (key, tensor)
        elif tensor.numel() != shapes[place[0]].numel():
            misshapen.append(f"{key} {list(tensor.shape)} instead of {list(shapes[place[0]])}")
        else:
            lora.differences[place[0]] = tensor
    for parameter, half in halves.items():
        if "up" not in half or "down" not in half:
            single.append(next((half[part][0] for part in ("up", "down") if part in half), half[min(half)][0]))
            continue
        (_, up), (down_key, down) = half["up"], half["down"]
        up, down = up.flatten(1), down.flatten(1)
        rank, shape = len(down), shapes[parameter]
        if (up.shape[0], down.shape[1]) != (shape[0], shape[1:].numel()) or up.shape[1] != rank:
            misshapen.append(f"{down_key} {list(down.shape)} and up {list(up.shape)} for a weight {list(shape)}")
            continue
        scale = float(half["alpha"][1]) / rank if "alpha" in half else _scale(config or {}, down_key, rank)
        lora.low_rank[parameter] = LowRank(up, down, scale)
        if "bias" in half:  # peft's lora_bias: scaled like the rest
            lora.differences[parameter.removesuffix("weight") + "bias"] = scale * half["bias"][1]
    problems = {
        "of no layer here": unknown,
        "twice": twice,
        "without its other half": single,
        "of another shape": misshapen,
    }
    if problem := mismatch(problems):
        raise ModelError(f"--lora {name} does not fit {model}: {problem}{_why(tensors, network)}")
    if not lora.parameters:
        raise ModelError(f"--lora {name}: holds no LoRA")
    if bad := [each for each in lora.parameters if not lora.change(each, shapes[each]).isfinite().all()]:
        raise ModelError(f"--lora {name}: {mismatch({'not finite': bad})}; the file is unusable")
    return lora


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
            if all(parameter not in lora.differences for lora, _ in loras):
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
    """Let peft compute these changes next to weights that cannot be changed."""
    check_installed()
    dtype = network.patch_embedding.weight.dtype
    names = []
    for number, (lora, _) in enumerate(loras):
        state = {}
        for parameter, low in lora.low_rank.items():
            if parameter in parameters:
                layer = parameter.removesuffix(".weight")
                state[f"{layer}.lora_A.weight"] = low.down.to(dtype)
                state[f"{layer}.lora_B.weight"] = (low.scale * low.up.float()).to(dtype)
        names.append(f"lora_{number}" if state else "")
        if state:
            with warnings.catch_warnings():  # peft wonders about a second one
                warnings.simplefilter("ignore")
                network.load_lora_adapter(state, prefix=None, adapter_name=names[-1])
    used = [(name, weight) for name, (_, weight) in zip(names, loras, strict=True) if name]
    network.set_adapters([name for name, _ in used], [weight for _, weight in used])
    network.requires_grad_(False)


def check_installed() -> None:
    """Raise ModelError unless peft, which LoRAs beside GGUF weights need, is here."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ModelError("a LoRA on GGUF weights needs the package peft; try pip install 'causvid[lora]'") from None


def bidirectional_note(name: str, header: Mapping[str, str]) -> str:
    """What to say of a LoRA that was, as nearly all are, made for a bidirectional Wan."""
    told = " ".join([name, *(header.get(key, "") for key in ("modelspec.title", "ss_output_name", "name"))])
    if SPEED_UPS.search(told):
        return (
            f"--lora {name}: a LoRA that makes a bidirectional Wan need fewer steps, by its name; this model already "
            "does, and such a LoRA does not make it better at rolling out: the pictures may get worse"
        )
    return f"--lora {name}: made for a bidirectional Wan; on this causal model a style carries over more or less"


def _places(network: Any) -> dict[str, dict[str, str]]:
    """Every spelling of a layer's name -> its weight, bias and modulation as parameters of the network."""
    places: dict[str, dict[str, str]] = {}
    for official, own in transformer_names(len(network.blocks)).items():
        for spelt in (official, own):
            layer, _, leaf = spelt.rpartition(".")
            if leaf in ("weight", "bias"):
                found = {layer: {leaf: own}}
            else:  # a modulation, which is a parameter by itself, of a block or of the head
                found = {spelt: {"weight": own}, layer or "head": {"modulation": own}}
            for name, parts in found.items():
                for form in (name, name.replace(".", "_")):
                    places.setdefault(form, {}).update(parts)
    return places


def _place(key: str, places: Mapping[str, dict[str, str]]) -> tuple[str, str] | None:
    """A tensor's parameter and what it is of it: up, down, alpha, bias (of the up half), difference."""
    match = LEAF.fullmatch(key)
    if match is None:
        return None
    layer = match["module"]
    if flat := next((head for head in FLAT_HEADS if layer.startswith(head)), ""):
        layer = layer.removeprefix(flat)
    else:
        parts = [part for part in layer.split(".") if part not in WRAPPERS and part != CAUSAL]
        while parts and parts[0] in HEADS:
            del parts[0]
        layer = ".".join(parts)
    side = match["side"] or match["old"]
    wanted = "weight" if side or match["other"] == "alpha" else PARTS[match["other"]]
    parameter = places.get(layer, {}).get(wanted)
    if parameter is None:
        return None
    if not side:
        return parameter, "alpha" if match["other"] == "alpha" else "difference"
    if match["of"] == "bias":
        return (parameter, "bias") if side in ("B", "up") else None
    return parameter, "up" if side in ("B", "up") else "down"


def _scale(config: Mapping[str, Any], key: str, rank: int) -> float:
    """What peft multiplies a change by, from its configuration; 1 where nothing says so."""
    alpha: Any = config.get("lora_alpha")
    if alpha is None:
        return 1.0
    layer = key.partition(".lora_")[0]
    for pattern, other in dict(config.get("alpha_pattern") or {}).items():
        ending = pattern.removeprefix("^")
        if layer == ending or layer.endswith(f".{ending}"):
            alpha = other
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Of the weight itself, also where it lies packed."""
    return torch.Size(getattr(parameter, "quant_shape", parameter.shape))


def _why(tensors: Mapping[str, Any], network: Any) -> str:
    """What the names and shapes of a LoRA tell of what it was made for."""
    for part, kind in FOREIGN.items():
        if any(part in key for key in tensors):
            return f"; it is a {kind}, which cannot be used; look for a LoRA"
    if any(part in key for key in tensors for part in ("k_img", "img_emb", "add_k_proj", "image_embedder")):
        return "; it was made for an image-to-video model"
    own = network.config.num_attention_heads * network.config.attention_head_dim
    for key, tensor in tensors.items():
        match = LEAF.fullmatch(key)
        if match and (match["side"] or match["old"]) in ("A", "down") and "attn" in match["module"]:
            if (width := tensor.flatten(1).shape[1]) != own:
                sizes = {1536: "Wan 1.3B, ", 5120: "Wan 14B, "}
                return f"; it was made for {sizes.get(width, '')}layers {width} wide, and these are {own} wide"
    return ""


def _read(file: Path, path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The tensors and the header of a safetensors file, or what a pickle holds, of which nothing is run."""
    if file.suffix.lower() in PICKLES:
        check_pickle(file)
        held = load_pickle(file, device="cpu")
        if not isinstance(held, Mapping):
            raise ModelError(f"--lora {path}: holds {type(held).__name__}, no tensors by name")
        return held, {}
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(f"--lora {path}: cannot be read as safetensors: {error}") from error


def _config(path: Path) -> dict[str, Any]:
    """adapter_config.json; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("use_dora"):
            raise ModelError(f"--lora {path.parent}: a DoRA, which cannot be used; look for a LoRA")
        return dict(config)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _diffusers_config(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        return {key.removeprefix("transformer."): value for key, value in found.items()}
    except (ValueError, AttributeError):
        return {}
