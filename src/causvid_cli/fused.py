"""The transformer's blocks for inference: the same layers in fewer and larger operations.

A small network spends more time between its products than in them. Once the weights stand still, what depends on the
timestep alone is computed once, q, k and v come from one product, a norm and its modulation are one operation, and on
a CPU the weights lie in the order in which oneDNN reads them. Only rounding tells the difference.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from causvid_cli.cache import PromptCache

if TYPE_CHECKING:
    from causvid_cli.model import Attention

EmbedTime = Callable[[float], tuple[Tensor, Tensor]]
"""timestep -> its features [1, D], and what the blocks are modulated by [1, 6, D]."""
TIMESTEPS = 64
"""So many timesteps are remembered."""


class FusedBlocks:
    """Every block and the last norm of a `WanTransformer3DModel` whose weights change no more.

    One timestep holds for all tokens; a timestep for each clip or frame takes the plain layers.
    """

    def __init__(self, net: Any, embed_time: EmbedTime) -> None:
        self.net, self.embed_time = net, embed_time
        self.blocks = [FusedBlock(block, layer) for layer, block in enumerate(net.blocks)]
        self.modulations = lru_cache(TIMESTEPS)(self._modulations)

    def __call__(self, hidden: Tensor, timestep: float, prompt: PromptCache, past: "Attention") -> Tensor:
        *blocks, (shift, scale) = self.modulations(timestep)
        for block, modulation in zip(self.blocks, blocks, strict=True):
            hidden = block(hidden, prompt, modulation, past)
        return modulated_norm(hidden, shift, scale, self.net.norm_out.eps)

    def __deepcopy__(self, _memo: dict[int, Any]) -> None:
        """A copied network is not fused: it has weights of its own, which may change."""

    def _modulations(self, timestep: float) -> list[list[Tensor]]:
        """What the timestep does to each block, and at last to the end: shifts, scales + 1 and gates, float32 [D]."""
        time, modulation = self.embed_time(timestep)
        rows = [(block.scale_shift_table + modulation.float())[0] for block in self.net.blocks]
        rows.append((self.net.scale_shift_table + time)[0])
        for row in rows:
            row[1::3] += 1
        return [list(row.float()) for row in rows]


class FusedBlock:
    """One `WanTransformerBlock`, to be called like it."""

    def __init__(self, block: Any, layer: int) -> None:
        own, cross = block.attn1, block.attn2
        self.layer, self.own, self.cross, self.norm2 = layer, own, cross, block.norm2
        self.eps = block.norm1.eps
        self.qkv, self.out = Product(own.to_q, own.to_k, own.to_v), Product(own.to_out[0])
        self.qk_norm = torch.stack([own.norm_q.weight, own.norm_k.weight]).unflatten(-1, (own.heads, -1))
        self.cross_q, self.cross_out = Product(cross.to_q), Product(cross.to_out[0])
        self.cross_keys_values = partial(cross.processor.keys_values, cross)
        self.ffn_in, self.ffn_out = Product(block.ffn.net[0].proj, gelu=True), Product(block.ffn.net[2])

    def __call__(self, hidden: Tensor, prompt: PromptCache, modulation: list[Tensor], past: "Attention") -> Tensor:
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation
        own, cross = self.own, self.cross

        qkv = self.qkv(modulated_norm(hidden, shift, scale, self.eps)).unflatten(-1, (3, own.heads, -1))
        q, k = (F.rms_norm(qkv[:, :, :2], self.qk_norm.shape[1:], eps=own.norm_q.eps) * self.qk_norm).unbind(2)
        out = past.attend(self.layer, q, k, qkv[:, :, 2], own.processor._attention_backend)
        hidden = gated_sum(hidden, self.out(out.flatten(2)), gate)

        q = cross.norm_q(self.cross_q(self.norm2(hidden))).unflatten(-1, (cross.heads, -1))
        k, v = prompt.keys_values(self.layer, self.cross_keys_values)
        out = dispatch_attention_fn(q, k, v, backend=cross.processor._attention_backend)
        hidden = hidden + self.cross_out(out.flatten(2))

        out = self.ffn_out(self.ffn_in(modulated_norm(hidden, ffn_shift, ffn_scale, self.eps)))
        return gated_sum(hidden, out, ffn_gate)


class Product:
    """Linear layers of the same input as one: [..., in] -> their outputs side by side, [..., out]."""

    def __init__(self, *layers: nn.Linear, gelu: bool = False) -> None:
        self.weight = torch.cat([layer.weight for layer in layers])
        self.bias = torch.cat([layer.bias for layer in layers])
        self.gelu = gelu
        self.packed = self.weight.device.type == "cpu" and _reads_packed(self.weight.dtype)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:  # what torch.compile makes of a linear layer: oneDNN, twice as fast as MKL on an AMD CPU
            after, kind = ("gelu", "tanh") if self.gelu else ("none", "")
            product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, after, [], kind)
            return product
        product = F.linear(x, self.weight, self.bias)
        return F.gelu(product, approximate="tanh") if self.gelu else product


def modulated_norm(hidden: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """scale * norm(hidden) + shift, in float32, returned in hidden's dtype."""
    return F.layer_norm(hidden.float(), scale.shape, scale, shift, eps).to(hidden.dtype)


def gated_sum(hidden: Tensor, more: Tensor, gate: Tensor) -> Tensor:
    """hidden + gate * more, in float32, returned in hidden's dtype."""
    return torch.addcmul(hidden.float(), more.float(), gate).to(hidden.dtype)


def _reads_packed(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes products of this dtype on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
