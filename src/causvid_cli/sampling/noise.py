"""The noise of a chunk: the same on every device, however long the video is, after a resume and in a batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from causvid_cli.device import upload
from causvid_cli.geometry import Chunk

Noise = Callable[[Chunk, int], Tensor]
"""(chunk, step) -> standard normal [B, C, f, h, w]: step 0 is the start, step j what comes before the j-th call."""


def seeded_noise(
    seed: int, *, batch: int, channels: int, latent_height: int, latent_width: int, device: torch.device | str = "cpu"
) -> Noise:
    """Noise that depends on (seed, chunk, step) only: the same on every device and however long the video is."""

    def draw(chunk: Chunk, step: int) -> Tensor:
        # CPU generator: CUDA's draws other noise from the same seed
        rng = torch.Generator().manual_seed(_mix(seed, chunk.index, step))
        shape = (batch, channels, chunk.frames, latent_height, latent_width)
        return upload(torch.randn(shape, generator=rng), device)

    return draw


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers (splitmix64, Steele et al. 2014): near inputs give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            state = ((state ^ (state >> shift)) * factor) & 0xFFFFFFFFFFFFFFFF
    return state >> 1
