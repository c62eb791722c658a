"""What comes next as copies of what was there: each latent cell takes what stood in it, what stood beside it, or what
the network draws anew, in shares that the network predicts.

Video prediction by motion and masks (CDNA, Finn et al., arXiv 1605.07157), with fixed shifts: who walks a cell further
is copied from there, what stands is copied as it is and never fades, waves that come again after two latent frames are
copied from there, and only what nothing was like is drawn.
"""

import torch
from torch import Tensor

from causvid_cli.config import Prediction

SHIFTS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -2), (0, 2))
"""Rows down and columns right of the cell that a copy comes from: who jumps, or chases, is soon two cells further."""
HERE = 0
"""Place of the copy from the cell itself."""
SHARES = len(SHIFTS) + 2
"""Logits of each copy's share, of the cell's own two latent frames back, and of the new's."""
SHARP = 4.0
"""Factor of the logits: what is copied again and again must be copied whole, and small weights can say so."""


def what_was_there(last: Tensor, before: Tensor) -> Tensor:
    """Return what is x_t where a network predicts copies [B, 2 C, ...]: the last latent frame, then the one before."""
    return torch.cat([last, before], dim=1)


def input_of(prediction: Prediction, x_t: Tensor) -> Tensor:
    """Return what of an x_t the network is fed: of what was there, the last latent frame; it remembers the others."""
    return x_t[:, : x_t.shape[1] // 2] if prediction == "copies" else x_t


def composed(was_there: Tensor, output: Tensor) -> Tensor:
    """Return clean latents x0 [B, C, F, h, w], in the dtype of what was there.

    was_there: for each frame (`what_was_there`), [B, 2 C, F, h, w]; beyond the edges the outermost cells go on.
    output: of the network, [B, C + P * SHARES, F, h, w]: what it draws, then the logits of each picture of a latent
    frame, where the codec keeps P of them side by side as channels (else P is 1). Each picture copies itself.
    """
    channels = was_there.shape[1] // 2
    pictures = pictures_of(channels, output.shape[1])
    new, logits = output.float().split([channels, pictures * SHARES], dim=1)
    last, before, new = (part.unflatten(1, (pictures, -1)) for part in (*was_there.float().chunk(2, dim=1), new))
    shares = (SHARP * logits.unflatten(1, (pictures, SHARES))).softmax(dim=2)
    parts = [*(_shifted(last, down, right) for down, right in SHIFTS), before, new]
    x0 = sum(share * part for share, part in zip(shares.split(1, dim=2), parts, strict=True))
    assert isinstance(x0, Tensor)
    return x0.flatten(1, 2).to(was_there.dtype)


def pictures_of(channels: int, returned: int) -> int:
    """Return how many pictures of a latent frame have shares of their own, of a network that returns so many channels.

    0 where they are not those of such a network.
    """
    pictures, rest = divmod(returned - channels, SHARES)
    return pictures if rest == 0 and pictures > 0 and channels % pictures == 0 else 0


def _shifted(frames: Tensor, down: int, right: int) -> Tensor:
    rows, columns = (torch.arange(size, device=frames.device) for size in frames.shape[-2:])
    if down:
        frames = frames.index_select(-2, (rows + down).clamp(0, len(rows) - 1))
    return frames.index_select(-1, (columns + right).clamp(0, len(columns) - 1)) if right else frames
