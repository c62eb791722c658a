"""The layers of Wan's transformer, under the names that diffusers gives them.

Files of diffusers' `WanTransformer3DModel` load as they are; `tests/network/test_layers.py` compares the two. Why not
the class itself: its package takes longer to load than a short video to make. The call is `model.CausalTransformer`'s.
(Wan2.1, arXiv 2503.20314; layout of diffusers 0.38, `models/transformers/transformer_wan.py`.)
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.errors import ModelError, UsageError
from causvid_cli.network.copies import Moves


class Config(dict[str, Any]):
    """A configuration as a mapping whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class WanTransformer3DModel(nn.Module):
    """Patch embedding, condition embedder, blocks, last norm and projection; text to video only.

    `config` holds the arguments. grid_embed_size: how many rows and columns of patches have learned vectors
    (`placed`); 0: none, as Wan. copied_channels: of one picture's cells, where it predicts copies (`copies.Moves`); 0:
    it does not. gradient_checkpointing: whether blocks are computed again for the backward pass.
    """

    def __init__(
        self,
        *,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        grid_embed_size: int = 0,
        copied_channels: int = 0,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.config = Config(
            patch_size=tuple(patch_size),
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            eps=eps,
            # Wan has none, nor says so
            **({"grid_embed_size": grid_embed_size} if grid_embed_size else {}),
            **({"copied_channels": copied_channels} if copied_channels else {}),
        )
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = ConditionEmbedder(dim, freq_dim=freq_dim, text_dim=text_dim)
        self.blocks = nn.ModuleList(
            Block(dim, ffn_dim, num_attention_heads, cross_attn_norm=cross_attn_norm, eps=eps)
            for _ in range(num_layers)
        )
        self.norm_out = FloatLayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * prod(patch_size))
        self.scale_shift_table = nn.Parameter(random_rows(2, dim))
        if grid_embed_size:
            self.grid_embed = nn.Parameter(0.5 * torch.randn(2, grid_embed_size, dim))
        self.moves = Moves(copied_channels) if copied_channels else None
        self.gradient_checkpointing = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A network of random weights from a config.json of diffusers'; what a text-to-video network lacks is left out.

        Raises ModelError for a network of another kind: with image features, or another norm of queries and keys.
        """
        foreign = [name for name in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len") if config.get(name)]
        if foreign or config.get("qk_norm", "rms_norm_across_heads") != "rms_norm_across_heads":
            said = ", ".join(foreign) or "qk_norm"
            raise ModelError(f"the network's configuration has {said}: it is no text-to-video network of Wan2.1's kind")
        known = cls.__init__.__kwdefaults__ or {}
        return cls(**{name: value for name, value in config.items() if name in known})


class ConditionEmbedder(nn.Module):
    """Timestep features -> [.., dim] and [.., 6 dim], text features -> [B, L, dim]."""

    def __init__(self, dim: int, *, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.time_embedder = TwoLayers(freq_dim, dim, nn.SiLU())
        self.act_fn = nn.SiLU()
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = TwoLayers(text_dim, dim, nn.GELU(approximate="tanh"))


class TwoLayers(nn.Module):
    """A linear layer, what lies between, and another."""

    def __init__(self, size: int, dim: int, between: nn.Module) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(size, dim)
        self.between = between
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(self.between(self.linear_1(x)))
        return out


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and the last modulated by the timestep."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, *, cross_attn_norm: bool, eps: float) -> None:
        super().__init__()
        self.norm1 = FloatLayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, eps)
        self.attn2 = Attention(dim, heads, eps)
        self.norm2 = FloatLayerNorm(dim, eps) if cross_attn_norm else nn.Identity()
        self.ffn = FeedForward(dim, ffn_dim)
        self.norm3 = FloatLayerNorm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(random_rows(6, dim))

    def forward(self, hidden: Tensor, prompt: Any, modulation: Tensor, past: Any) -> Tensor:
        """hidden: [B, L, D]. modulation: [B, 6, D], or [B, L, 6, D] with a timestep for each token.

        prompt, past: given to the processors of cross- and self-attention.
        """
        rows = (self.scale_shift_table + modulation.float()).unbind(-2)
        if modulation.ndim == 3:
            rows = tuple(row.unsqueeze(1) for row in rows)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = rows
        normed = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        attended = self.attn1(normed, None, None, past)
        hidden = (hidden.float() + attended * gate).type_as(hidden)
        del attended
        normed = self.norm2(hidden.float()).type_as(hidden)
        hidden = hidden + self.attn2(normed, prompt, None, None)
        normed = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        out = self.ffn(normed)  # before the copy in float32, which need not wait beside it
        return (hidden.float() + out.float() * ffn_gate).type_as(hidden)


class Attention(nn.Module):
    """The layers around an attention; what is attended to is its processor's."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        self.norm_q, self.norm_k = (nn.RMSNorm(dim, eps=eps) for _ in range(2))
        self.processor: Any = None

    def set_processor(self, processor: Any) -> None:
        self.processor = processor

    def forward(self, *inputs: Any) -> Tensor:
        out: Tensor = self.processor(self, *inputs)
        return out


class FeedForward(nn.Module):
    """Wide and back, with GELU between."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gelu(dim, ffn_dim), nn.Identity(), nn.Linear(ffn_dim, dim)])

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.net:
            hidden = layer(hidden)
        return hidden


class Gelu(nn.Module):
    """A linear layer and GELU, by its tanh approximation."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, ffn_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.proj(hidden), approximate="tanh")


class FloatLayerNorm(nn.LayerNorm):
    """A layer norm in float32, returned in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def random_rows(count: int, dim: int) -> Tensor:
    """Return what modulations are before training: [1, count, dim], normal, of variance 1 / dim."""
    rows = torch.empty(1, count, dim)
    # on the meta device these two are Python code of torch's, which loads its compiler
    return rows if rows.is_meta else rows.normal_().div_(dim**0.5)


def placed(net: Any, tokens: Tensor, *, rows: int, columns: int) -> Tensor:
    """Tokens [B, L, D] of latent frames that have been told in which row and column of patches each stands.

    Rotary positions tell attention how far apart tokens are; where they are, in pure noise, only what lies beyond the
    edges gives away. A small network learns first chunks 1.6 times as fast when it is told. Wan's are not.
    Raises UsageError for more rows or columns than it was taught.
    """
    if (size := net.config.get("grid_embed_size", 0)) == 0:
        return tokens
    if max(rows, columns) > size:
        raise UsageError(f"{rows}x{columns} patches a frame: the network was taught at most {size} rows and columns")
    of_rows, of_columns = net.grid_embed.to(tokens.dtype)
    table = of_rows[:rows, None] + of_columns[:columns]
    return (tokens.unflatten(1, (-1, rows * columns)) + table.flatten(0, 1)).flatten(1, 2)
