"""What stages draw that need prompts and no clips: the teacher's ODE and the student's own roll-outs make their own."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causvid_cli.train.latents import Batch


@dataclass(frozen=True, slots=True)
class Prompted:
    """Prompts, and the shape of what is to be made of them, in the place of `LatentClips`.

    rows: prompt row numbers [N, L]. shape: of a clip, (C, F, h, w).
    """

    rows: Tensor
    shape: tuple[int, ...]

    @property
    def latent_frames(self) -> int:
        return self.shape[1]

    def batch(self, rng: np.random.Generator, count: int, *, device: torch.device, **_: object) -> Batch:
        """Random prompts, and zeros where their clips would be."""
        rows = self.rows[torch.from_numpy(rng.integers(len(self.rows), size=count))]
        x0 = torch.zeros(1, *self.shape, device=device).expand(count, *self.shape)
        return Batch(x0, rows, x0[:, :1], torch.zeros(count, dtype=torch.long, device=device))
