"""What comes next as copies of what was there: each latent cell takes what stood in it, or beside it, or some pixels
aside, or the mirror image of what stood near, or what the network draws anew, in shares that the network predicts.

Video prediction by motion and masks (CDNA, Finn et al., arXiv 1605.07157): who walks a cell further is copied from
there, what stands is copied as it is and never fades, waves that come again after two latent frames are copied from
there, who sets off is moved by parts of a cell, who turns round is mirrored, and only what nothing was like is drawn.

CDNA predicts the kernels of its motions. Here they are constants of the codec (`Moves`, measured by `train/moves.py`):
its latents of a picture that has moved by some pixels are, within a few per cent, a linear function of those of the
picture, each cell's of its neighbourhood.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.config import Prediction

SHIFTS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -2), (0, 2))
"""Rows down and columns right of the cell that a copy comes from: who jumps, or chases, is soon two cells further."""
HERE = 0
"""Place of the copy from the cell itself."""
MOVES = (-6, -4, -2, 2, 4, 6)
"""Pixels by which a picture is moved to the right: steps of who sets off, from where it stands to the next cell."""
RUNS = ((4, -1), (-4, 1))
"""A move, and columns right of the cell that a copy of it comes from: 12 pixels, the fourth step of who runs."""
MIRRORS = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
"""Columns right of the cell whose mirror image a copy is; half of their sum is where the mirror stands."""
SHARES = len(SHIFTS) + len(MOVES) + len(RUNS) + len(MIRRORS) + 2
"""Logits of each copy's share, of the cell's own two latent frames back, and of the new's."""
SHARP = 12.0
"""Factor of the logits: what is copied again and again must be copied whole, and small weights can say so (with 4, the
same weights lose a seventh of the sprite pixels of who moves: docs/storybook.md)."""
PARTS = 2 + len(MOVES) + 1
"""What was there: the last latent frame, the one before, the last one's first picture moved, the last one mirrored."""


class Moves(nn.Module):
    """Latents of pictures that have moved by pixels, or are mirrored, from their latents: a kernel of 3x3 cells each.

    channels: of one picture's cells. Constants, as the codec is: training measures them, and does not change them.
    """

    weight: Tensor
    """[MOVES, then the mirror image; channels, channels, 3, 3]."""
    bias: Tensor
    """[MOVES, then the mirror image; channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(len(MOVES) + 1, channels, channels, 3, 3))
        self.register_buffer("bias", torch.zeros(len(MOVES) + 1, channels))

    def what_was_there(self, last: Tensor, before: Tensor) -> Tensor:
        """Return what is x_t where a network predicts copies [B, PARTS * C, F, h, w], of two latent frames [B, C, ...].

        All pictures are moved from the first of the last latent frame, in which nobody breathes or blinks.
        """
        batch, channels, frames, height, width = last.shape
        pictures = channels // self.weight.shape[1]
        cells = last.transpose(1, 2).reshape(batch * frames, pictures, -1, height, width)
        moved = _through(cells[:, 0], self.weight[:-1].flatten(0, 1), self.bias[:-1].flatten())
        moved = moved.unflatten(1, (len(MOVES), 1, -1)).expand(-1, -1, pictures, -1, -1, -1).flatten(1, 3)
        mirrored = _through(cells.flatten(0, 1), self.weight[-1], self.bias[-1]).unflatten(0, (-1, pictures))
        made = torch.cat([moved, mirrored.flatten(1, 2)], dim=1).unflatten(0, (batch, frames)).transpose(1, 2)
        return torch.cat([last, before, made.to(last.dtype)], dim=1)


def input_of(prediction: Prediction, x_t: Tensor) -> Tensor:
    """Return what of an x_t the network is fed: of what was there, the last latent frame; it remembers the others."""
    return x_t[:, : x_t.shape[1] // PARTS] if prediction == "copies" else x_t


def composed(was_there: Tensor, output: Tensor) -> Tensor:
    """Return clean latents x0 [B, C, F, h, w], in the dtype of what was there.

    was_there: for each frame (`Moves.what_was_there`), [B, PARTS * C, F, h, w]; beyond the edges the outermost cells go
    on. output: of the network, [B, C + P * SHARES, F, h, w]: what it draws, then the logits of each picture of a latent
    frame, where the codec keeps P of them side by side as channels (else P is 1). Each picture copies itself.
    """
    channels = was_there.shape[1] // PARTS
    pictures = pictures_of(channels, output.shape[1])
    new, logits = output.float().split([channels, pictures * SHARES], dim=1)
    there = (part.unflatten(1, (pictures, -1)) for part in (*was_there.float().chunk(PARTS, dim=1), new))
    last, before, *moved, mirrored, new = there
    by = dict(zip(MOVES, moved, strict=True))
    shares = (SHARP * logits.unflatten(1, (pictures, SHARES))).softmax(dim=2)
    parts = [
        *(_shifted(last, down, right) for down, right in SHIFTS),
        *moved,
        *(_shifted(by[move], 0, right) for move, right in RUNS),
        *(_shifted(mirrored, 0, right) for right in MIRRORS),
        before,
        new,
    ]
    x0 = sum(share * part for share, part in zip(shares.split(1, dim=2), parts, strict=True))
    assert isinstance(x0, Tensor)
    return x0.flatten(1, 2).to(was_there.dtype)


def pictures_of(channels: int, returned: int) -> int:
    """Return how many pictures of a latent frame have shares of their own, of a network that returns so many channels.

    0 where they are not those of such a network.
    """
    pictures, rest = divmod(returned - channels, SHARES)
    return pictures if rest == 0 and pictures > 0 and channels % pictures == 0 else 0


def _through(cells: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cells [N, c, h, w] through kernels of 3x3 cells; beyond the edges the outermost cells go on."""
    padded = F.pad(cells.to(weight.dtype), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, weight, bias)


def _shifted(frames: Tensor, down: int, right: int) -> Tensor:
    rows, columns = (torch.arange(size, device=frames.device) for size in frames.shape[-2:])
    if down:
        frames = frames.index_select(-2, (rows + down).clamp(0, len(rows) - 1))
    return frames.index_select(-1, (columns + right).clamp(0, len(columns) - 1)) if right else frames
