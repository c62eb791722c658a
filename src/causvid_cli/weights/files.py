"""Load and save weights: safetensors in diffusers layout, strictly."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causvid_cli.config import to_json
from causvid_cli.errors import ModelError
from causvid_cli.files import write_text
from causvid_cli.untrusted import read_object
from causvid_cli.weights.names import mismatch

STEM = "diffusion_pytorch_model"
MIB = 2**20


def load_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a network, on the CPU, in the dtype of the file: one safetensors file, or shards with an index.

    Raises ModelError when a file or tensor is missing, damaged, or not finite.
    """
    indexes, files = sorted(folder.glob("*.safetensors.index.json")), sorted(folder.glob("*.safetensors"))
    if len(indexes) == 1:
        state = _load_shards(indexes[0])
    elif len(files) == 1 and not indexes:
        state = _load_file(files[0])
    else:
        found = ", ".join(file.name for file in [*indexes, *files]) or "none"
        raise ModelError(f"{folder}: one safetensors file, or shards with one index, are wanted; found {found}")
    if bad := [name for name, tensor in state.items() if not _is_finite(tensor)]:
        raise ModelError(f"{folder}: {mismatch({'not finite': bad})}; the weights are unusable")
    return state


def save_safetensors(
    state: Mapping[str, Tensor], folder: Path, *, dtype: torch.dtype = torch.bfloat16, shard_bytes: int | None = None
) -> None:
    """Write a network's tensors in Hugging Face's layout, in place of weights that the folder held.

    Floating-point tensors are cast to dtype. One file, or shards of at most shard_bytes (by default 15 MiB, or a tenth
    of what is larger than ten of them) with an index; a tensor that is larger by itself gets a shard of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{STEM}*.safetensors*"):
        old.unlink()
    dtypes = {name: dtype if tensor.is_floating_point() else tensor.dtype for name, tensor in state.items()}
    sizes = {name: tensor.numel() * dtypes[name].itemsize for name, tensor in state.items()}
    shards = plan_shards(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{STEM}-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{STEM}.safetensors"
        # cloned, because safetensors refuses views and tensors that share memory
        own = {name: state[name].detach().to("cpu", dtypes[name]).contiguous().clone() for name in shard}
        save_file(own, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors makes it 0600, and a wheel would carry that to every user
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}}
        write_text(folder / f"{STEM}.safetensors.index.json", to_json(index | {"weight_map": weight_map}, indent=2))


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Load tensors into a module, strictly: any missing, unexpected or misshapen one raises ModelError.

    name: what the message calls the weights. A module on the meta device takes the tensors as they are, dtype too.
    """
    check_state(module, {key: tensor.shape for key, tensor in state.items()}, name=name)
    module.load_state_dict(state, assign=any(tensor.is_meta for tensor in module.state_dict().values()))


def check_state(module: nn.Module, shapes: Mapping[str, torch.Size], *, name: str) -> None:
    """Raise ModelError unless tensors of these names and shapes are just what a module takes."""
    wanted = module.state_dict()
    both = [key for key in wanted if key in shapes and shapes[key] != wanted[key].shape]
    problems = {
        "missing": [key for key in wanted if key not in shapes],
        "unexpected": [key for key in shapes if key not in wanted],
        "of another shape": [f"{key} {list(shapes[key])} instead of {list(wanted[key].shape)}" for key in both],
    }
    if problem := mismatch(problems):
        raise ModelError(f"{name} does not fit {type(module).__name__}: {problem}")


def plan_shards(sizes: Mapping[str, int], shard_bytes: int | None = None) -> list[list[str]]:
    """Names of tensors of these sizes, for each file (see `save_safetensors`)."""
    return list(_shards(sizes, shard_bytes or max(15 * MIB, sum(sizes.values()) // 10)))


def _shards(sizes: Mapping[str, int], shard_bytes: int) -> Iterator[list[str]]:
    """Names in order, cut so that each part holds at most shard_bytes."""
    part: list[str] = []
    for name, size in sizes.items():
        if part and sum(sizes[other] for other in part) + size > shard_bytes:
            yield part
            part = []
        part.append(name)
    yield part


def _load_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_object(index, error=ModelError).get("weight_map")
    if not isinstance(weight_map, dict) or any(Path(str(file)).name != file for file in weight_map.values()):
        raise ModelError(f"{index}: weight_map must give each tensor the name of a file beside the index")
    state: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        state |= _load_file(index.parent / file)
    problems = {
        "missing": [name for name in weight_map if name not in state],
        "not in the index": [name for name in state if name not in weight_map],
    }
    if problem := mismatch(problems):
        raise ModelError(f"{index} does not fit its shards: {problem}")
    return state


def _load_file(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # aminmax passes NaN on and is some 50 times faster than isfinite; it knows no 8-bit floats
    low, high = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
    return bool(torch.isfinite(low) and torch.isfinite(high))
