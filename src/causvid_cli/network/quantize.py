"""Large weights in few bits, by torchao: int8 and fp8. (`weights/gguf.py` reads files that are so already.)

Only the linear layers of the blocks are quantized: nearly all weights of a large network, and none that little would
be saved by and much lost. Dense stay the patch embedding, the text and time embedders with the time projection, the
norms, the modulations and the output projection.
"""

from typing import Any

import torch
from torch import Tensor, nn

from causvid_cli.device import computes_fp8
from causvid_cli.errors import DeviceError, ModelError
from causvid_cli.extras import quietly, require
from causvid_cli.request import Quantize


def is_plain(layer: nn.Linear) -> bool:
    """Whether a layer is its weight and bias and no more: not quantized, and nothing computed beside it."""
    return type(layer) is nn.Linear and type(layer.weight) in (nn.Parameter, Tensor)


def is_quantized(network: nn.Module) -> bool:
    """Whether any layer of a network is not plain."""
    return any(isinstance(layer, nn.Linear) and not is_plain(layer) for layer in network.modules())


def check_quantize(quantize: Quantize, device: torch.device, dtype: torch.dtype) -> None:
    """Raise an error unless this machine can compute in a format, before a model is read. dtype: of all else."""
    if quantize == "none":
        return
    if quantize == "fp8" and not computes_fp8(device):
        raise DeviceError(
            f"--quantize fp8 needs an NVIDIA GPU that computes in it (compute capability 8.9 or later), not {device}; "
            "try --quantize int8"
        )
    if quantize == "fp8" and dtype != torch.bfloat16:
        raise DeviceError(f"--quantize fp8 goes with --dtype bfloat16 only, not {str(dtype).removeprefix('torch.')}")
    require("torchao.quantization", extra="quantize", what=f"--quantize {quantize}")


def quantize_network(network: Any, quantize: Quantize, *, device: torch.device) -> None:
    """Quantize the blocks of a `WanTransformer3DModel` in place and leave them on the device, layer by layer.

    int8: weights alone, each row by its own scale. It halves bfloat16's memory on any device and stays nearest to the
    dense network; products are computed in the network's own dtype. fp8: weights and, as they come, activations, each
    row by its own scale, so that the products run at the GPU's fp8 rate.
    """
    if quantize == "none":
        return
    check_quantize(quantize, device, network.patch_embedding.weight.dtype)
    if is_quantized(network):
        raise ModelError(f"--quantize {quantize}: the weights of this model are quantized already; leave it out")
    with quietly():
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Int8WeightOnlyConfig,
            PerRow,
            quantize_,
        )

        fp8 = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
        config = fp8 if quantize == "fp8" else Int8WeightOnlyConfig()
        for block in network.blocks:
            quantize_(block, config, device=device)
    network.requires_grad_(False)
