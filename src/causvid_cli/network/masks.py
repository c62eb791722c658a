"""Which frames see which, over a whole clip: block-causal and teacher-forcing masks, or attention part by part."""

from collections.abc import Sequence

import torch
from torch import Tensor

AttentionParts = tuple[tuple[slice, tuple[slice, ...]], ...]
"""Tokens that all see the same tokens, and which those are; in order, and all of a clip's together."""


def frame_mask(chunk_frames: Sequence[int], *, window_frames: int = 0) -> Tensor:
    """Which frame attends to which, bool [F, F]: each chunk sees itself and earlier chunks.

    chunk_frames: frames of each chunk, e.g. (3, 3, 3) or, with a first frame alone, (1, 3, 3).
    window_frames: how many frames up to its chunk's end a frame sees; 0 is all of them.
    """
    ends = torch.repeat_interleave(torch.tensor(_running_sum(chunk_frames)), torch.tensor(chunk_frames))
    frames = torch.arange(len(ends))
    mask = frames[None, :] < ends[:, None]
    if window_frames:
        mask &= frames[None, :] >= ends[:, None] - window_frames
    return mask


def teacher_forcing_mask(chunk_frames: Sequence[int], *, window_frames: int = 0) -> Tensor:
    """Which frame attends to which among clean then noisy frames, bool [2 F, 2 F].

    Clean chunks see themselves and earlier clean ones; a noisy chunk sees itself and earlier *clean* chunks.
    """
    causal = frame_mask(chunk_frames, window_frames=window_frames)
    own = torch.block_diag(*(torch.ones(n, n) for n in chunk_frames)).bool()
    return torch.cat([torch.cat([causal, torch.zeros_like(causal)], 1), torch.cat([causal & ~own, own], 1)])


def attention_parts(mask: Tensor, tokens_per_latent_frame: int) -> AttentionParts:
    """What a mask of frames, bool [F, F], says, as slices of tokens: no mask of tokens, no wasted work."""
    rows, counts = torch.unique_consecutive(mask, dim=0, return_counts=True)
    parts, start = [], 0
    for row, count in zip(rows, counts.tolist(), strict=True):
        values, lengths = torch.unique_consecutive(row, return_counts=True)
        ends = _running_sum(lengths.tolist())
        runs = zip(values.tolist(), lengths.tolist(), ends, strict=True)
        frames = [(end - length, end) for seen, length, end in runs if seen]
        own, *seen = (
            slice(first * tokens_per_latent_frame, last * tokens_per_latent_frame)
            for first, last in [(start, start + count), *frames]
        )
        parts.append((own, tuple(seen)))
        start += count
    return tuple(parts)


def _running_sum(numbers: Sequence[int]) -> list[int]:
    return torch.tensor(list(numbers)).cumsum(0).tolist()
