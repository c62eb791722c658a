"""Rotary positions over (frame, row, column), from closed form: no table that a long video could run out of.

Of a head's d numbers, height and width get 2 * (d // 6) each and time, which comes first, the rest; each axis has
its own base-10000 ladder over its own size, and neighbouring numbers form the rotated pairs (Wan2.1).
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

BASE = 10000.0
AHEAD = 64
"""Frames in time whose rotations are worked out together."""


def axis_sizes(head_dim: int) -> tuple[int, int, int]:
    """Return how many of a head's numbers rotate with the frame, the row and the column."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@lru_cache(maxsize=8)  # at 480x832 one takes 2.4 MB, and the positions of a long video never come again
@torch.inference_mode(False)  # else what a video has left in the cache would be of no use to training
def rotations(positions: tuple[int, ...], rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    """Cosine + i sine, complex64 [1, tokens, 1, head_dim / 2], of tokens that run frame, row, column."""
    time, *_ = axis_sizes(head_dim)
    # so few numbers that the device need not be waited for
    frames = torch.stack([_frame_rotations(position // AHEAD, time)[position % AHEAD] for position in positions])
    frames = frames.to(device, non_blocking=True)
    picture = _picture_rotations(rows, columns, head_dim, device)
    parts = (frames.unsqueeze(1).expand(-1, rows * columns, -1), picture.expand(len(positions), -1, -1))
    return torch.cat(parts, dim=-1).view(1, -1, 1, head_dim // 2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _frame_rotations(part: int, size: int) -> Tensor:
    """Rotations of so many frames at once, [AHEAD, size / 2], that chunk after chunk finds its own among them."""
    return _axis_rotations(range(part * AHEAD, (part + 1) * AHEAD), size)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _picture_rotations(rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    """What row and column do to the tokens of one frame: [rows * columns, n]."""
    _, *sizes = axis_sizes(head_dim)
    row, column = (_axis_rotations(range(count), size) for count, size in zip((rows, columns), sizes, strict=True))
    parts = (row.unsqueeze(1).expand(-1, columns, -1), column.expand(rows, -1, -1))
    return torch.cat(parts, dim=-1).flatten(0, 1).to(device)


def _axis_rotations(positions: Sequence[int], size: int) -> Tensor:
    """Rotations of one axis, complex64 [positions, size / 2], on the CPU."""
    ladder = BASE ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.tensor(positions, dtype=torch.float64), ladder)
    # float32 even in a bf16 model: bf16 positions move the result by 2e-3
    return torch.complex(angle.cos().float(), angle.sin().float())


def apply_rope(x: Tensor, rotations: Tensor) -> Tensor:
    """Return queries or keys [B, token, head, head_dim], each pair of numbers multiplied by its rotation, in x's dtype.

    rotations: complex64, as `rotations` gives them.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)


def apply_rope_real(x: Tensor, rotations: Tensor) -> Tensor:
    """Return what `apply_rope` does, but for rounding, in real numbers, which compilers understand.

    rotations: cosine and sine, float32 [1, token, 1, head_dim / 2, 2]. Not compiled, it is 6 to 14 times slower on a
    CPU: six operations in place of one.
    """
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotations.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
