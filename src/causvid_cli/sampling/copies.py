"""What comes next as copies of what was there: each latent cell takes what stood in it, what stood beside it, or what
the network draws anew, in shares that the network predicts.

Video prediction by motion and masks (CDNA, Finn et al., arXiv 1605.07157), with fixed shifts: who walks a cell further is
copied from there, what stands is copied as it is and never fades, and only what nothing was like is drawn.
"""

import torch
from torch import Tensor

SHIFTS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-2, 0), (2, 0))
"""Rows down and columns right of the cell that a copy comes from: who jumps is soon two cells higher."""
HERE = 0
"""Place of the copy from the cell itself."""
SHARES = len(SHIFTS) + 1
"""Logits of each copy's share, and of the new's."""
SHARP = 4.0
"""Factor of the logits: what is copied again and again must be copied whole, and small weights can say so."""


def composed(before: Tensor, output: Tensor) -> Tensor:
    """Return clean latents x0 [B, C, F, h, w], in the dtype of what was before.

    before: the latent frame that was last, for each frame, [B, C, F, h, w]; beyond its edges its outermost cells go on.
    output: of the network, [B, C + P * SHARES, F, h, w]: what it draws, then the logits of each picture of a latent
    frame, where the codec keeps P of them side by side as channels (else P is 1). Each picture copies itself.
    """
    channels = before.shape[1]
    pictures = pictures_of(channels, output.shape[1])
    new, logits = output.float().split([channels, pictures * SHARES], dim=1)
    old, new = (part.unflatten(1, (pictures, -1)) for part in (before.float(), new))
    shares = (SHARP * logits.unflatten(1, (pictures, SHARES))).softmax(dim=2)
    x0 = shares[:, :, -1:] * new
    for place, (down, right) in enumerate(SHIFTS):
        x0 = x0 + shares[:, :, place : place + 1] * _shifted(old, down, right)
    return x0.flatten(1, 2).to(before.dtype)


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
