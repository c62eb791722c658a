"""GGUF files of Wan transformers, as ComfyUI users have them (city96's and others'): Q8_0, Q4_K and their like.

Linear layers of the blocks keep the file's bits and are unpacked when they are used (diffusers' `GGUFLinear`). All
else, and what a file holds as F32, F16 or BF16, becomes ordinary weights. Names are Wan's official ones or diffusers'.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causvid_cli.errors import ModelError
from causvid_cli.extras import require
from causvid_cli.files import check_file
from causvid_cli.weights.files import check_state
from causvid_cli.weights.names import bare_names, official_to_diffusers_transformer

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Where city96's converter keeps the shape of a tensor that it folded."""


def find_gguf(folder: Path) -> Path | None:
    """The GGUF file of a network's folder. Raises ModelError when there are several."""
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(f"{folder}: one GGUF file is wanted; found {', '.join(file.name for file in files)}")
    return files[0] if files else None


def gguf_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Bare name and shape of every tensor of a GGUF file, of which no more is read.

    Raises ModelError for what is no GGUF file, or a truncated one.
    """
    reader = _reader(path)
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape.tolist())) for tensor in reader.tensors}
    return _bare(shapes | _original_shapes(reader, shapes))


def load_gguf(path: Path) -> dict[str, Tensor]:
    """The tensors of a GGUF file of a Wan transformer under diffusers' names.

    Those of a quantized type are diffusers' `GGUFParameter`s, whose bytes are the file's; the others are dense. Raises
    ModelError for a file that cannot be read, of another network, or of a type that diffusers does not know.
    """
    reader = _reader(path)
    from diffusers.models.model_loading_utils import load_gguf_checkpoint
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    try:
        state: dict[str, Tensor] = load_gguf_checkpoint(str(path))
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    for name, shape in _original_shapes(reader, state).items():
        state[name] = dequantize_gguf_tensor(state[name]).view(shape)
    state = _bare(state)
    if "scale_shift_table" not in state:
        state = official_to_diffusers_transformer(state)
    for name, tensor in state.items():
        stays = name.startswith("blocks.") and name.endswith(".weight")
        if isinstance(tensor, GGUFParameter) and (not stays or _kind(tensor) == "BF16"):
            state[name] = dequantize_gguf_tensor(tensor)
    return state


def take_gguf(network: nn.Module, state: dict[str, Tensor], *, name: str) -> None:
    """Load what `load_gguf` gave into a network on the meta device, strictly. Raises ModelError when it does not fit.

    name: what the message calls the weights.
    """
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    patches = state.get("patch_embedding.weight")
    if patches is not None and patches.dim() == 2:  # as a matrix, which the same convolution is
        wanted = network.get_parameter("patch_embedding.weight").shape
        if patches.shape == (wanted[0], wanted[1:].numel()):
            state = state | {"patch_embedding.weight": patches.view(wanted)}
    shapes = {key: torch.Size(getattr(tensor, "quant_shape", tensor.shape)) for key, tensor in state.items()}
    check_state(network, shapes, name=name)
    for key, tensor in state.items():
        path, _, leaf = key.rpartition(".")
        module: Any = network.get_submodule(path)
        packed = isinstance(tensor, GGUFParameter)
        if packed and isinstance(module, nn.Linear) and not isinstance(module, GGUFLinear):
            with torch.device("meta"):
                layer = GGUFLinear(module.in_features, module.out_features, module.bias is not None)
            layer.bias = module.bias  # which may be there already
            module = layer
            network.set_submodule(path, layer)
        parameter = tensor if packed else nn.Parameter(tensor, requires_grad=False)
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = parameter


def compute_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Let layers that are unpacked when they are used be so in this dtype."""
    layer: Any
    for layer in network.modules():
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype = dtype


def dequantize_layer(network: nn.Module, path: str) -> nn.Linear:
    """Put an ordinary layer of the same weights in the place of a quantized one, and return it."""
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    packed: Any = network.get_submodule(path)
    dtype = packed.compute_dtype or torch.float32
    with torch.device("meta"):
        layer = nn.Linear(packed.in_features, packed.out_features, packed.bias is not None)
    layer.weight = nn.Parameter(dequantize_gguf_tensor(packed.weight).to(dtype), requires_grad=False)
    layer.bias = packed.bias
    network.set_submodule(path, layer)
    return layer


def _reader(path: Path) -> Any:
    require("gguf", "diffusers", extra="quantize", what="GGUF weights")
    check_file(path)
    import gguf

    class BoundedReader(gguf.GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> Any:
            """Read numbers. Raises ValueError for more than there are, of which the library reads none, for ever."""
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends before what it counts")
            return super()._get(offset, dtype, count, *rest, **more)

    try:
        return BoundedReader(path)
    except Exception as error:  # it raises what comes, from IndexError to UnicodeDecodeError
        said = str(error).splitlines()[0] if str(error) else repr(error)
        raise ModelError(f"{path} cannot be read as GGUF: {said}") from error


def _kind(tensor: Any) -> str:
    """The type of a packed tensor."""
    return str(tensor.quant_type.name)


def _original_shapes(reader: Any, names: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that were folded."""
    fields = {name: reader.get_field(ORIGINAL_SHAPE + name) for name in names}
    return {name: tuple(int(field.parts[index][0]) for index in field.data) for name, field in fields.items() if field}


def _bare(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensors[key] for key, name in bare_names(tensors).items()}
