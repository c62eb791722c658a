"""How much the network computes in a call, worked out from its shapes: 2 FLOP to a multiply-add.

Counted are products and attention, nothing else, as papers count them: what does not depend on the tokens (the
timestep's embedding, less than a thousandth) is left out, and so are norms and rotations. Whatever runs the network
(compiled, quantized, any attention, a short prompt's two products), the count is the same.
`tests/bench/test_flops.py` compares it with torch's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.model import CLEAN_TIMESTEP


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Tokens of a call that stand at one noise level.

    seen: to how many tokens each attends, these included. kv_only: only the keys and values are wanted (a clean pass).
    """

    tokens: int
    seen: int
    kv_only: bool = False


def call_flops(
    config: Any, parts: Sequence[TokenGroup], *, text_rows: int, new_prompt: bool = False, batch: int = 1
) -> int:
    """FLOP of one call of a `WanTransformer3DModel` of this configuration.

    text_rows: of the prompt. new_prompt: whether its keys and values are computed in this call.
    """
    dim = config.num_attention_heads * config.attention_head_dim
    layers, ffn, patch = config.num_layers, config.ffn_dim, prod(config.patch_size)
    products = 0  # multiply-adds
    for part in parts:
        own = 4 * dim * dim + 2 * part.seen * dim
        cross = 2 * dim * dim + 2 * text_rows * dim
        block = own + cross + 2 * dim * ffn
        if part.kv_only:  # of the last block, only what makes keys and values; and no prediction
            inside, after = (layers - 1) * block + 3 * dim * dim, 0
        else:
            inside, after = layers * block, dim * patch * config.out_channels
        products += part.tokens * (patch * config.in_channels * dim + inside + after)
    if new_prompt:
        products += layers * 2 * text_rows * dim * dim
    return 2 * batch * products


def parts_of(
    x_t: Tensor, timestep: float | Tensor, cache: KVCache, chunk: Chunk, merged: tuple[Chunk, Tensor] | None
) -> list[TokenGroup]:
    """The parts of a call of `CausalTransformer.forward` that is about to be made with these arguments."""
    per_frame, held = cache.tokens_per_latent_frame, len(cache.frames())
    parts = []
    for each, clean in [*([(merged[0], True)] if merged else []), (chunk, timestep == CLEAN_TIMESTEP)]:
        held = min(held + each.frames, cache.capacity_frames)
        parts.append(TokenGroup(each.frames * per_frame, held * per_frame, kv_only=bool(clean)))
    return parts


def text_rows(prompt: PromptCache) -> int:
    return prompt.embeds.shape[1]
