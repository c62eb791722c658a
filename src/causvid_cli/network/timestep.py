"""Features of timesteps: cosines, then sines, of angles on a base-10000 ladder, as exact as in float64 (Wan2.1).

Not every device has float64 (Apple's have not), so numbers become features on the CPU, and tensors of timesteps, which
are on the model's device already, by a table from the CPU and the addition theorem: nothing is read back.
"""

from functools import lru_cache

import torch
from torch import Tensor

BASE = 10000.0
WHOLE_TIMESTEPS = 1001
"""The whole timesteps 0, 1 ... 1000, next to which all others lie."""


@lru_cache(maxsize=64)  # a video needs few, again and again
@torch.inference_mode(False)  # else what a video has left in the cache would be of no use to training
def features_of_number(timestep: float, size: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the features [1, size] of one timestep, worked out in float64 and rounded once."""
    angle = torch.tensor([timestep], dtype=torch.float32).double().unsqueeze(-1) * _ladder(size)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype).to(device, non_blocking=True)


def features_of_tensor(timesteps: Tensor, size: int) -> Tensor:
    """Return the features [..., size], float32, of timesteps [...] in 0..1000, on their device.

    cos(a + b) = cos a cos b - sin a sin b, and sin(a + b) = sin a cos b + cos a sin b: a is of the nearest whole
    timestep, from a table; b, of the rest, is so small that float32 has it to 3e-8.
    """
    whole = timesteps.round()
    ladder, cos_a, sin_a = _table(size, timesteps.device)
    cos_a, sin_a = cos_a[whole.long()], sin_a[whole.long()]
    b = (timesteps - whole).unsqueeze(-1) * ladder
    cos_b, sin_b = b.cos(), b.sin()
    return torch.cat([cos_a * cos_b - sin_a * sin_b, sin_a * cos_b + cos_a * sin_b], dim=-1)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _table(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ladder [size / 2], and cosines and sines of the whole timesteps [1001, size / 2], all float32."""
    angle = torch.arange(WHOLE_TIMESTEPS, dtype=torch.float64).unsqueeze(-1) * _ladder(size)
    ladder, cos, sin = (t.float().to(device) for t in (_ladder(size), angle.cos(), angle.sin()))
    return ladder, cos, sin


def _ladder(size: int) -> Tensor:
    """Return the angle that one timestep is on each rung: float64 [size / 2], on the CPU."""
    half = size // 2
    return BASE ** -(torch.arange(half, dtype=torch.float64) / half)
