"""How a codec's latents change when a picture moves by some pixels, or is mirrored (`network/copies.py`): measured.

An encoder of a few convolutions is nearly linear, so least squares finds kernels that say it: of a picture moved by
2 to 6 pixels they keep 93 to 96 % of the sprite pixels that the codec itself keeps (docs/storybook.md).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.network.copies import MOVES, Moves
from causvid_cli.storybook import Words
from causvid_cli.train import story_clips

FRAMES = 768
"""Frames that are moved: 64 cells each, for kernels of 9 cells."""
BATCH = 32
RIDGE = 1e-3
"""Share of the mean square that keeps kernels small where cells do not tell."""


@torch.no_grad()
def measure_moves(codec: PixelCodec, words: Words, *, seed: int, frames: int = FRAMES) -> Moves:
    """Return the kernels that come nearest to what moving pictures does to their latents, in float32 on the CPU.

    words: what the pictures show.
    """
    rng = np.random.default_rng((seed, 2))
    changes: list[Callable[[Tensor], Tensor]] = [*(_mover(pixels) for pixels in MOVES), lambda x: x.flip(-1)]
    alike, crossed = torch.zeros(()), torch.zeros(())
    for _ in range(-(-frames // BATCH)):
        pictures = story_clips.sample_frames(rng, BATCH, words)[0].to(codec.palette.device)
        seen = _neighbourhoods(_cells(codec, pictures))
        targets = [_cells(codec, change(pictures)) for change in changes]
        targets[-1] = targets[-1].flip(-1)  # each cell of the mirror image where the cell is that it mirrors
        wanted = torch.cat([cells.movedim(1, -1).flatten(0, 2) for cells in targets], dim=1)
        alike, crossed = alike + seen.T @ seen, crossed + seen.T @ wanted
    alike += RIDGE * alike.diagonal().mean() * torch.eye(len(alike))
    solved = torch.linalg.solve(alike.double(), crossed.double()).float()
    moves = Moves(codec.cell_channels)
    kernels = solved[:-1].T.reshape(moves.weight.shape[0], codec.cell_channels, codec.cell_channels, 3, 3)
    moves.weight.copy_(kernels)
    moves.bias.copy_(solved[-1].view_as(moves.bias))
    return moves


def _mover(pixels: int) -> Callable[[Tensor], Tensor]:
    """Move pictures [N, H, W] to the right; at the edges the outermost pixels go on."""

    def moved(pictures: Tensor) -> Tensor:
        width = pictures.shape[-1]
        return pictures[..., (torch.arange(width, device=pictures.device) - pixels).clamp(0, width - 1)]

    return moved


def _cells(codec: PixelCodec, pictures: Tensor) -> Tensor:
    """Normalised cells [N, c, h, w] of pictures [N, H, W]."""
    latents = codec.stack_cells(codec.encode_frames(pictures).repeat_interleave(codec.stack, 0).unsqueeze(0))
    return latents[0, : codec.cell_channels].transpose(0, 1).cpu()


def _neighbourhoods(cells: Tensor) -> Tensor:
    """The 3x3 cells around each of cells [N, c, h, w], and a one: [N h w, 9 c + 1]."""
    around = F.unfold(F.pad(cells, (1, 1, 1, 1), mode="replicate"), 3)  # [N, 9 c, h w]
    rows = around.transpose(1, 2).flatten(0, 1)
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
