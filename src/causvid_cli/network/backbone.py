"""Scaled dot-product attention: torch's own, or one of diffusers', loaded when it is asked for."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from causvid_cli.extras import quietly


def attention(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None = None, backend: Any = None) -> Tensor:
    """Return what queries [B, L, head, head_dim] gather from keys and values [B, M, head, head_dim].

    attn_mask: bool [L, M], True where a query sees a key. backend: one of diffusers' `AttentionBackendName`; None is
    torch's own choice.
    """
    if backend is not None:
        return dispatched(q, k, v, attn_mask=attn_mask, backend=backend)
    q, k, v = (x.permute(0, 2, 1, 3) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask).permute(0, 2, 1, 3)


def dispatched(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None = None, backend: Any) -> Tensor:
    """Return what a back-end of diffusers' makes of it."""
    with quietly():
        from diffusers.models.attention_dispatch import dispatch_attention_fn
    out: Tensor = dispatch_attention_fn(q, k, v, attn_mask=attn_mask, backend=backend)
    return out
