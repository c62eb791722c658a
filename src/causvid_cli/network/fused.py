"""The transformer's blocks for inference: the same layers in fewer and larger operations.

A small network spends more time between its products than in them. Once the weights stand still, what depends on the
timestep alone is computed once, a norm and its modulation are one operation and, in a small network, q, k and v come
from one product, a prompt of few words is attended to in two, and on a CPU the weights lie in the order in which
oneDNN reads them. Only rounding tells the difference.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.device import capture_cuda_graph
from causvid_cli.network.backbone import attention
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.compiled import Attend, CompiledBlock, CudaGraphs, StaticPast
from causvid_cli.network.packed_linear import Product

EmbedTime = Callable[[float], tuple[Tensor, Tensor]]
"""timestep -> its features [1, D], and what the blocks are modulated by [1, 6, D]."""
Layer = Callable[[Tensor], Tensor]
TIMESTEPS = 64
"""So many timesteps are remembered."""


class FusedBlocks:
    """Every block and the last norm of a `WanTransformer3DModel` whose weights change no more.

    One timestep holds for all tokens, or one for each of several parts of equal length; a timestep for each clip or
    frame takes the plain layers. merged: whether small layers are merged into larger ones, copies of their weights.
    """

    def __init__(self, net: Any, embed_time: EmbedTime, *, merged: bool) -> None:
        self.net, self.embed_time = net, embed_time
        merged = merged and all(_is_plain(module) for module in net.blocks.modules())
        self.blocks = [FusedBlock(block, merged=merged) for block in net.blocks]
        patches, is_plain = net.patch_embedding, type(net.patch_embedding) is nn.Conv3d  # no LoRA beside it
        self.patches = Product(patches.weight.flatten(1), patches.bias) if merged and is_plain else None
        self.modulations = lru_cache(TIMESTEPS)(self._modulations)
        self.compiled: CompiledBlock | None = None
        self.cuda_graphs: CudaGraphs | None = None

    def compile(self, device: torch.device, *, frames: int) -> None:
        """Compile the block for chunks of so many latent frames; on a CUDA device, record whole calls as well.

        Raises DeviceError when this machine lacks a compiler.
        """
        self.compiled = CompiledBlock(device, frames=frames)
        self.cuda_graphs = CudaGraphs(partial(capture_cuda_graph, device=device)) if device.type == "cuda" else None

    def tokens(self, x: Tensor) -> Tensor:
        """Latents [B, C, F, h, w] -> tokens [B, L, D], one for each patch."""
        if self.patches is None:
            return plain_tokens(self.net, x)
        time, height, width = self.net.config.patch_size
        for axis, size in ((4, width), (3, height), (2, time)):
            x = x.unflatten(axis, (-1, size))
        return self.patches(x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3))

    def __call__(
        self,
        hidden: Tensor,
        timesteps: tuple[float, ...],
        prompt: PromptCache,
        past: Any,
        *,
        kv_only: bool = False,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Tokens [B, L, D] -> [B, L, D].

        past: a `model.Reach`; where `kv_only`, a `model.CachedPast`, or a `StaticPast`, which compiled blocks take.
        kv_only: the first part is there for the cache alone: what the last block would make of it is left out.
        cache: of a `StaticPast`.
        """
        crosses = prompt.all_keys_values([block.cross_keys_values for block in self.blocks])
        run = partial(self._run, timesteps=timesteps, kv_only=kv_only)
        modulations = self.modulations(timesteps)
        if self.cuda_graphs and cache and past.is_full and len(timesteps) == 1:
            return self.cuda_graphs.play(cache, kv_only, run, hidden, modulations, crosses, past)
        return run(hidden, modulations, crosses, past)

    def _run(
        self,
        hidden: Tensor,
        modulations: Sequence[list[Tensor]],
        crosses: Sequence[tuple[Tensor, Tensor]],
        past: Any,
        *,
        timesteps: tuple[float, ...],
        kv_only: bool,
    ) -> Tensor:
        last = len(self.blocks) - 1
        for layer, (block, cross) in enumerate(zip(self.blocks, crosses, strict=True)):
            modulation = modulations[layer]
            if kv_only and layer == last:
                if len(timesteps) == 1:
                    past.keep(layer, *block.keys_values(hidden, modulation))
                    return hidden[:, :0]
                part, hidden = hidden.tensor_split((hidden.shape[1] // len(timesteps),), dim=1)
                past.keep(layer, *block.keys_values(part, self.modulations(timesteps[:1])[layer]))
                modulations, past = self.modulations(timesteps[1:]), past.after_first()
                modulation = modulations[layer]
            if self.compiled and isinstance(past, StaticPast):
                hidden = self.compiled(block, hidden, cross, modulation, past.windows[layer], past.parts)
            else:
                hidden = block(hidden, cross, modulation, partial(past.attend, layer))
        shift, scale = modulations[-1]
        return modulated_norm(hidden, shift, scale, self.net.norm_out.eps)

    def __deepcopy__(self, _memo: dict[int, Any]) -> None:
        """A copied network is not fused: it has weights of its own, which may change."""

    def _modulations(self, timesteps: tuple[float, ...]) -> list[list[Tensor]]:
        """What timesteps do to each block, and at last to the end: shifts, scales + 1 and gates, float32.

        Of one timestep [D], of several [parts, 1, D].
        """
        parts = []
        for timestep in timesteps:
            time, modulation = self.embed_time(timestep)
            rows = [(block.scale_shift_table + modulation.float())[0] for block in self.net.blocks]
            rows.append((self.net.scale_shift_table + time)[0])
            for row in rows:
                row[1::3] += 1
            parts.append([row.float() for row in rows])
        if len(parts) == 1:
            return [list(row) for row in parts[0]]
        return [list(torch.stack(rows, dim=1).unsqueeze(2)) for rows in zip(*parts, strict=True)]


class FusedBlock:
    """One `WanTransformerBlock`; blocks of one network differ in their weights only, not in what is done."""

    def __init__(self, block: Any, *, merged: bool) -> None:
        own, cross, ffn = block.attn1, block.attn2, block.ffn.net
        self.own, self.cross, self.norm2 = own, cross, block.norm2
        self.eps = block.norm1.eps
        self.merged = merged
        if merged:
            self.qkv = Product.of(own.to_q, own.to_k, own.to_v)
            self.qk_norm = torch.stack([own.norm_q.weight, own.norm_k.weight]).unflatten(-1, (own.heads, -1))
        self.out: Layer = Product.of(own.to_out[0]) if merged else own.to_out[0]
        self.cross_q: Layer = Product.of(cross.to_q) if merged else cross.to_q
        self.cross_out: Layer = Product.of(cross.to_out[0]) if merged else cross.to_out[0]
        self.ffn_in: Layer = Product.of(ffn[0].proj, gelu=True) if merged else ffn[0]
        self.ffn_out: Layer = Product.of(ffn[2]) if merged else ffn[2]

    def __call__(
        self, hidden: Tensor, cross_keys_values: tuple[Tensor, Tensor], modulation: list[Tensor], attend: Attend
    ) -> Tensor:
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation
        own, cross = self.own, self.cross

        q, k, v = self._projected(modulated_norm(hidden, shift, scale, self.eps))
        out = attend(q, k, v, own.processor._attention_backend)
        hidden = gated_sum(hidden, self.out(out.flatten(2)), gate)

        q, (keys, values) = cross.norm_q(self.cross_q(self.norm2(hidden))), cross_keys_values
        if keys.ndim == 3:
            shares = (q @ keys).unflatten(-1, (cross.heads, -1)).softmax(dim=-1, dtype=torch.float32)
            hidden = torch.baddbmm(hidden, shares.flatten(2).to(q.dtype), values)
        else:
            q = q.unflatten(-1, (cross.heads, -1))
            out = attention(q, keys, values, backend=cross.processor._attention_backend)
            hidden = hidden + self.cross_out(out.flatten(2))

        out = self.ffn_out(self.ffn_in(modulated_norm(hidden, ffn_shift, ffn_scale, self.eps)))
        return gated_sum(hidden, out, ffn_gate)

    def cross_keys_values(self, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """What cross-attention sees of a prompt [B, L, dim]: keys and values [B, L, head, head_dim].

        Of a prompt of few rows the output layer is folded into the values, and all heads are one product:
        [B, head * head_dim, head * L] and [B, head * L, D].
        """
        cross = self.cross
        k, v = cross.processor.keys_values(cross, embeds)
        heads, head_dim = k.shape[2:]
        if not self.merged or cross.processor._attention_backend or k.shape[1] > head_dim:
            return k, v
        out = cross.to_out[0]
        apart = torch.eye(heads, device=k.device, dtype=k.dtype) * head_dim**-0.5
        keys = torch.einsum("blnd,nm->bndml", k, apart).flatten(3).flatten(1, 2)
        values = torch.einsum("blnd,ond->bnlo", v, out.weight.unflatten(1, (heads, -1))).flatten(1, 2)
        return keys, values + out.bias / heads  # shares of each head sum to 1

    def keys_values(self, hidden: Tensor, modulation: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What self-attention of other tokens sees of these."""
        shift, scale, *_ = modulation
        _, k, v = self._projected(modulated_norm(hidden, shift, scale, self.eps))
        return k, v

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of self-attention [B, L, head, head_dim]."""
        own = self.own
        if self.merged:
            qkv = self.qkv(x).unflatten(-1, (3, own.heads, -1))
            qk = F.rms_norm(qkv[:, :, :2], self.qk_norm.shape[1:], eps=own.norm_q.eps) * self.qk_norm
            return qk[:, :, 0], qk[:, :, 1], qkv[:, :, 2]
        q, k, v = own.norm_q(own.to_q(x)), own.norm_k(own.to_k(x)), own.to_v(x)
        return q.unflatten(-1, (own.heads, -1)), k.unflatten(-1, (own.heads, -1)), v.unflatten(-1, (own.heads, -1))


def plain_tokens(net: Any, x: Tensor) -> Tensor:
    """Latents [B, C, F, h, w] -> tokens [B, L, D], by the network's own layer."""
    tokens: Tensor = net.patch_embedding(x).flatten(2).transpose(1, 2).contiguous()
    return tokens


def modulated_norm(hidden: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """scale * norm(hidden) + shift, in float32, returned in hidden's dtype.

    shift, scale: [D], or [parts, 1, D] for tokens in parts of equal length.
    """
    if shift.ndim == 1:
        return F.layer_norm(hidden.float(), scale.shape, scale, shift, eps).to(hidden.dtype)
    normed = F.layer_norm(hidden.float(), hidden.shape[-1:], eps=eps).unflatten(1, (len(shift), -1))
    return torch.addcmul(shift, normed, scale).flatten(1, 2).to(hidden.dtype)


def gated_sum(hidden: Tensor, more: Tensor, gate: Tensor) -> Tensor:
    """hidden + gate * more, in float32, returned in hidden's dtype; gate as shift in `modulated_norm`."""
    if gate.ndim == 1:
        return torch.addcmul(hidden.float(), more.float(), gate).to(hidden.dtype)
    parts = (len(gate), -1)
    out = torch.addcmul(hidden.float().unflatten(1, parts), more.float().unflatten(1, parts), gate)
    return out.flatten(1, 2).to(hidden.dtype)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module, if it is a layer of weights, is nothing but that: no LoRA beside it, no other number format."""
    if not hasattr(module, "in_features"):
        return True
    return type(module) is nn.Linear and type(module.weight.data) is Tensor and module.weight.is_floating_point()
