"""How a new network begins to attend: its first layers look at what was there in the latent frames before.

That what comes next is, for the most part, what has just been there, or beside it, takes a network long to find out,
and one that has learnt beforehand what every prompt looks like never does: it draws each chunk from the prompt alone
(docs/storybook.md has figures). Weights that begin as trained ones turn out: mimetic initialisation, arXiv 2305.09828.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from causvid_cli.network.layers import Block, WanTransformer3DModel
from causvid_cli.network.rope import BASE, axis_sizes

SHARP = 2.0
"""Scale of the normalised queries and keys: attention begins with nearly all of its weight in one place."""
TELLS_TIME = math.sqrt(2)
"""How much time counts, where a row or a column counts 1."""


@dataclass(frozen=True, slots=True)
class Look:
    """Where the heads of a layer look. patches: rows down and columns right, for one head after another, anew after
    the last. back: latent frames."""

    patches: Sequence[tuple[int, int]]
    back: int


HERE, BESIDE = ((0, 0),), ((0, -1), (0, 1), (-1, 0), (1, 0))
LOOKS = (Look(HERE, 1), Look(HERE, 2), Look(BESIDE, 1), Look(BESIDE, 2))
"""For each of the first layers. What comes again, does so after one latent frame or after two; what travels, beside."""


@torch.no_grad()
def look_back(net: WanTransformer3DModel) -> None:
    """Let the first layers of an untrained network begin with `LOOKS`.

    Queries and keys tell the row and the column of a patch, which only a network with `grid_embed` can read off its
    tokens, and how far apart in time they are, by rotations of a constant. Values pass through.
    """
    if not net.config.get("grid_embed_size", 0):
        return
    parts = torch.linalg.pinv(net.grid_embed.flatten(0, 1)).T  # of a token, along each row's and column's vector
    for block, look in zip(net.blocks, LOOKS, strict=False):
        assert isinstance(block, Block)
        begin_with(block, look, parts.view_as(net.grid_embed), net.config["attention_head_dim"])


def begin_with(block: Block, look: Look, parts: Tensor, head_dim: int) -> None:
    """Set a block's self-attention. parts: [2, size, dim], what of a token tells each row, and each column."""
    attention, dim = block.attn1, parts.shape[-1]
    in_time, *sides = axis_sizes(head_dim)
    out = attention.to_out[0]
    assert isinstance(out, nn.Linear)
    for linear in (attention.to_q, attention.to_k, attention.to_v, out):
        linear.weight.zero_()
        linear.bias.zero_()
    queries, keys = (linear.weight.view(-1, head_dim, dim) for linear in (attention.to_q, attention.to_k))
    first = in_time + 2  # the first pair of an axis turns too far from one patch to the next
    for axis, side in enumerate(sides):
        told = parts[axis][: max(0, side - 2)]
        keys[:, first : first + len(told)] = told
        for number, query in enumerate(queries):
            query[first : first + len(told)] = _moved(told, look.patches[number % len(look.patches)][axis])
        first += side
    pairs = min(2, in_time // 2)  # of one alone, frames that are a turn apart would be the same
    reach = TELLS_TIME / math.sqrt(max(1, pairs))
    asked, answered = (linear.bias.view(-1, head_dim) for linear in (attention.to_q, attention.to_k))
    for pair in range(pairs):
        turn = look.back * BASE ** (-2 * pair / in_time)
        answered[:, 2 * pair] = reach
        asked[:, 2 * pair], asked[:, 2 * pair + 1] = reach * math.cos(turn), -reach * math.sin(turn)
    attention.norm_q.weight.fill_(SHARP)
    attention.norm_k.weight.fill_(SHARP)
    through = torch.linalg.qr(torch.randn(dim, dim))[0]
    attention.to_v.weight.copy_(through)
    out.weight.copy_(through.T)
    block.scale_shift_table[0, 2] = 1.0  # the gate of self-attention


def _moved(told: Tensor, by: int) -> Tensor:
    """What tells each row, for who looks for the one `by` rows further on; there is none beyond the last."""
    moved = torch.zeros_like(told)
    source, target = (slice(None, -by), slice(by, None)) if by > 0 else (slice(-by, None), slice(None, by or None))
    moved[target] = told[source]
    return moved
