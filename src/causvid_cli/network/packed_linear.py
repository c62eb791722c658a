"""Linear layers whose weights change no more, laid out on a CPU as oneDNN reads them; elsewhere they are torch's own.

Only rounding tells the difference: it is twice as fast as MKL on an AMD CPU.
"""

from functools import cache
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op


class Product:
    """A linear layer [..., in] -> [..., out] with weight [out, in] and bias [out], and GELU after it where `gelu`."""

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.weight, self.bias, self.gelu = weight, bias, gelu
        self.packed = (
            weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and _reads_packed(weight.dtype)
        )
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    @classmethod
    def of(cls, *layers: nn.Linear, gelu: bool = False) -> Self:
        """Layers of the same input as one: their outputs side by side."""
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        return cls(weight, bias, gelu=gelu)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            multiply = packed_product_as_one if torch.compiler.is_compiling() else packed_product
            return multiply(x, self.weight, self.bias, self.gelu)
        product = F.linear(x, self.weight, self.bias)
        return F.gelu(product, approximate="tanh") if self.gelu else product


def packed_product(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """What torch.compile makes of a linear layer whose weight it knows."""
    after, kind = ("gelu", "tanh") if gelu else ("none", "")
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, after, [], kind)
    return product


@custom_op("causvid::packed_product", mutates_args=())
def packed_product_as_one(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """The same as one operation that torch.compile does not look into: it takes such weights for constants only."""
    return packed_product(x, weight, bias, gelu)


@packed_product_as_one.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(bias)))


@cache
def _reads_packed(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes products of this dtype on this CPU.

    torch promises none of the operations that this takes, so they are tried; without them torch's own layers do.
    """
    try:
        if dtype != torch.float32 and not (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            return False
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(2, 3, dtype=dtype))
        made = packed_product(torch.ones(1, 3, dtype=dtype), weight, torch.ones(2, dtype=dtype), False)
        return made.tolist() == [[4.0, 4.0]]
    except (AttributeError, RuntimeError, TypeError):  # gone, or called otherwise
        return False
