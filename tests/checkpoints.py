"""Checkpoints of a tiny Wan in every form that is published or passed on, for tests of what imports them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from causvid_cli.weights.files import load_safetensors
from causvid_cli.weights.names import COUNTERS, text_encoder_names, transformer_names, vae_names

FACTS = {
    "chunk_frames": 3,
    "steps": (1000.0, 750.0, 500.0, 250.0),
    "shift": 5.0,
    "warp_steps": True,
    "sink_frames": 0,
    "window_frames": 21,
}
"""What a file does not tell."""

State = dict[str, Tensor]


def official(state: Mapping[str, Tensor], *, blocks: int = 2) -> State:
    """A transformer's tensors under official names."""
    return {name: state[ours] for name, ours in transformer_names(blocks).items()}


def official_text_encoder(state: Mapping[str, Tensor], *, layers: int = 2) -> State:
    return {name: state[ours] for name, ours in text_encoder_names(layers).items()}


def official_vae(state: Mapping[str, Tensor], published: Mapping[str, object]) -> State:
    """published: official names of a VAE of the same build."""
    return {name: state[ours] for name, ours in vae_names(published.keys()).items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def fsdp(state: Mapping[str, Tensor]) -> State:
    """As FSDP and torch.compile leave names."""
    return {
        f"model._fsdp_wrapped_module.{name.replace('blocks.1.', 'blocks.1._fsdp_wrapped_module._orig_mod.')}": tensor
        for name, tensor in state.items()
    }


def rcm(state: Mapping[str, Tensor]) -> State:
    """rCM's: the patch embedding is a matrix."""
    return under("net.", state | {"patch_embedding.weight": state["patch_embedding.weight"].flatten(1)})


def with_counters(state: Mapping[str, Tensor]) -> State:
    """rCM's, as it is published: with what its training counted."""
    counters = {name: torch.tensor(7) for name in COUNTERS}
    return rcm(state) | under("net.", counters)


def with_average(state: Mapping[str, Tensor]) -> State:
    return under("net_ema.", state) | under("net.", {name: 2 * tensor for name, tensor in state.items()})


def checkpoint_wrapped(state: Mapping[str, Tensor]) -> State:
    """As activation checkpointing leaves names."""
    return {re.sub(r"(blocks\.\d+\.)", r"\1_checkpoint_wrapped_module.", name): t for name, t in state.items()}


def in_a_pipeline(state: Mapping[str, Tensor]) -> State:
    """Under diffusers' names."""
    return {f"transformer.{ours}": state[name] for name, ours in transformer_names(2).items()}


def second_name(name: str) -> str:
    """What SGF+ calls the tensor of its second network (Self_Gradient_Forcing_Plus, `enable_dual_full_expert`)."""
    head, dot, last = name.rpartition(".") if name.startswith("blocks.") else ("", "", name)
    return f"{head}{dot}memory_{last}"


def with_second(state: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, State]:
    """SGF+'s: two networks of one shape, tensor beside tensor."""
    whole = dict(state) | {second_name(name): tensor for name, tensor in second.items()}
    return {"generator_ema": fsdp(whole)}


FORMS: dict[str, Callable[[State], object]] = {
    "generator": lambda state: {"generator": under("model.", state), "critic": {}},
    "generator_ema": lambda state: {"generator_ema": under("model.", state), "generator": {"model.a": torch.zeros(1)}},
    "fsdp": lambda state: {"generator_ema": fsdp(state)},
    "flat": lambda state: state,
    "krea": lambda state: under("model.", state),
    "comfyui": lambda state: under("model.diffusion_model.", state),
    "rcm": rcm,
    "rcm_counters": with_counters,
    "average": with_average,
    "checkpoint_wrapped": checkpoint_wrapped,
    "pipe": lambda state: under("pipe.dit.", state),
    "dit": lambda state: under("dit.", state),
    "pipeline": in_a_pipeline,
    "twice": lambda state: under("model.diffusion_model.model.diffusion_model.", state),
    "module": lambda state: under("module.", state),
    "nested": lambda state: {"state_dict": {"generator": under("model.", state)}, "step": 3},
    "empty_average": lambda state: {"generator_ema": {}, "generator": under("model.", state)},
}
"""Ways in which official names are wrapped."""


def write_form(form: str, folder: Path, state: State, *, suffix: str = ".pt") -> Path:
    """A checkpoint of a form: a pickle, or safetensors where its form is flat."""
    content = FORMS[form](state)
    path = folder / f"{form}{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def transformer_of(folder: Path) -> State:
    return load_safetensors(folder / "transformer")
