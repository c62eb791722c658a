"""What comes next as copies of what was there: each latent cell takes what stood in it, or beside it, or some pixels
aside, or the mirror image of what stood near, or of its scene with nobody in it, or what the network draws anew: one of
them, whole, as the network chooses.

Video prediction by motion and masks (CDNA, Finn et al., arXiv 1605.07157): who walks a cell further is copied from
there, what stands is copied as it is and never fades, waves that come again after two latent frames are copied from
there, who sets off is moved by parts of a cell, who turns round is mirrored, what was behind who has left is copied
from the bare scene, which the network for first chunks has drawn once, and only what nothing was like is drawn.

CDNA predicts the kernels of its motions. Here they are constants of the codec (`Moves`, measured by `train/moves.py`):
its latents of a picture that has moved by some pixels are, within a few per cent, a linear function of those of the
picture, each cell's of its neighbourhood. And CDNA mixes by masks. What is copied again and again frays if it is mixed
at all, so only in training is each cell a mixture, by shares that are steep, and it also learns outright which choice
would have been right after a past that is the truth, though what it sees is its own (`wrong_choices`; DAgger, Ross et
al., arXiv 1011.0686).
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
CHOICES = len(SHIFTS) + len(MOVES) + len(RUNS) + len(MIRRORS) + 3
"""What a cell chooses from, a logit each: the copies, its own two latent frames back, the bare scene's, the new."""
SHARP = 12.0
"""Factor of the logits, so that small weights can make steep shares."""
NEAR = 0.03
"""Mean square errors of latents that differ by less are as good as equal (`wrong_choices`)."""
PARTS = 2 + len(MOVES) + 2
"""What was there: the last latent frame, the one before, the last one's first picture moved, the last one mirrored, the
bare scene."""


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

    def what_was_there(self, last: Tensor, before: Tensor, scene: Tensor) -> Tensor:
        """Return what is x_t where a network predicts copies [B, PARTS * C, F, h, w], of latent frames [B, C, ...].

        All pictures are moved from the first of the last latent frame, in which nobody breathes or blinks.
        """
        batch, channels, frames, height, width = last.shape
        pictures = channels // self.weight.shape[1]
        cells = last.transpose(1, 2).reshape(batch * frames, pictures, -1, height, width)
        moved = _through(cells[:, 0], self.weight[:-1].flatten(0, 1), self.bias[:-1].flatten())
        moved = moved.unflatten(1, (len(MOVES), 1, -1)).expand(-1, -1, pictures, -1, -1, -1).flatten(1, 3)
        mirrored = _through(cells.flatten(0, 1), self.weight[-1], self.bias[-1]).unflatten(0, (-1, pictures))
        made = torch.cat([moved, mirrored.flatten(1, 2)], dim=1).unflatten(0, (batch, frames)).transpose(1, 2)
        return torch.cat([last, before, made.to(last.dtype), scene], dim=1)


def input_of(prediction: Prediction, x_t: Tensor) -> Tensor:
    """Return what of an x_t the network is fed: of what was there, the last latent frame; it remembers the others."""
    return x_t[:, : x_t.shape[1] // PARTS] if prediction == "copies" else x_t


def composed(was_there: Tensor, output: Tensor) -> Tensor:
    """Return clean latents x0 [B, C, F, h, w], in the dtype of what was there.

    was_there: for each frame (`Moves.what_was_there`), [B, PARTS * C, F, h, w]; beyond the edges the outermost cells go
    on. output: of the network, [B, C + P * CHOICES, F, h, w]: what it draws, then logits for each picture of a latent
    frame, where the codec keeps P of them side by side as channels (else P is 1). Each picture copies itself. Logits
    that carry a gradient make a mixture, others a choice.
    """
    parts, logits = _parted(was_there, output)
    if logits.requires_grad:
        x0 = (logits.softmax(dim=2).unsqueeze(3) * parts).sum(dim=2)
    else:
        choice = logits.argmax(dim=2, keepdim=True)
        x0 = parts.gather(2, choice.unsqueeze(3).expand(-1, -1, -1, *parts.shape[3:])).squeeze(2)
    return x0.flatten(1, 2).to(was_there.dtype)


def wrong_choices(was_there: Tensor, output: Tensor, x0: Tensor) -> Tensor:
    """Return how far each cell is from choosing what is nearest to the truth x0, and from drawing it: [B, 1, F, h, w].

    was_there, output: as of `composed`; what was there may be another than the network has seen. Of the choice it is a
    cross-entropy, a mean over pictures, against probabilities that fall off with a part's mean square error; a cell
    weighs as much as it would be better than as it was. Of what is drawn anew it is the square error, which weighs as
    much as the best copy is wrong.
    """
    parts, logits = _parted(was_there, output)
    errors = (parts - x0.float().unflatten(1, (logits.shape[1], 1, -1))).square().mean(dim=3)
    found = errors.detach()
    wanted = (-found / NEAR).softmax(dim=2)
    matters = (found[:, :, HERE] - found.amin(dim=2)).clamp(max=1)
    chosen = -(wanted * logits.log_softmax(dim=2)).sum(dim=2) * matters
    drawn = errors[:, :, -1] * found[:, :, :-1].amin(dim=2).clamp(max=1)
    return (chosen + drawn).mean(dim=1, keepdim=True)


def _parted(was_there: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return what there is to choose from [B, P, CHOICES, c, F, h, w], and its logits [B, P, CHOICES, F, h, w]."""
    channels = was_there.shape[1] // PARTS
    pictures = pictures_of(channels, output.shape[1])
    new, logits = output.float().split([channels, pictures * CHOICES], dim=1)
    there = (part.unflatten(1, (pictures, -1)) for part in (*was_there.float().chunk(PARTS, dim=1), new))
    last, before, *moved, mirrored, scene, new = there
    by = dict(zip(MOVES, moved, strict=True))
    parts = [
        *(_shifted(last, down, right) for down, right in SHIFTS),
        *moved,
        *(_shifted(by[move], 0, right) for move, right in RUNS),
        *(_shifted(mirrored, 0, right) for right in MIRRORS),
        before,
        scene,
        new,
    ]
    return torch.stack(parts, dim=2), SHARP * logits.unflatten(1, (pictures, CHOICES))


def pictures_of(channels: int, returned: int) -> int:
    """Return how many pictures of a latent frame choose for themselves, of a network that returns so many channels.

    0 where they are not those of such a network.
    """
    pictures, rest = divmod(returned - channels, CHOICES)
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
