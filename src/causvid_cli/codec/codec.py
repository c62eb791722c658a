"""The one interface of every codec."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from causvid_cli.errors import MediaError
from causvid_cli.geometry import CodecFacts


class Codec(Protocol):
    """A causal video autoencoder that works chunk by chunk.

    Feeding a video in chunks, with one state carried through, gives the same result as feeding it whole.
    A state is made by `encode_state()` or `decode_state()`, belongs to one video, and is changed in place.
    """

    @property
    def facts(self) -> CodecFacts: ...

    def encode_state(self) -> Any: ...

    def decode_state(self) -> Any: ...

    def encode_chunk(self, frames: Tensor, *, state: Any) -> Tensor:
        """Return clean latents x0 [B, C, F, h, w] of frames uint8 [B, T, H, W, 3], as the transformer wants them.

        T of the first call is `facts.frames(F)`, of later calls F * `facts.frames_next`; MediaError otherwise.
        """
        ...

    def decode_chunk(self, x0: Tensor, *, state: Any, enlarge: int = 1) -> Tensor:
        """Return the frames uint8 [B, T, H, W, 3], on x0's device, of clean latents x0 [B, C, F, h, w].

        enlarge: each pixel is painted as a square of so many times so many; H and W are those after it.
        """
        ...


def enlarged(frames: Tensor, times: int) -> Tensor:
    """Paint each pixel as a square of times x times: [..., H, W, 3] -> [..., H * times, W * times, 3]."""
    if times == 1:
        return frames
    columns = torch.arange(frames.shape[-2] * times, device=frames.device) // times
    return rows_enlarged(frames.index_select(-2, columns), times)


def rows_enlarged(frames: Tensor, times: int) -> Tensor:
    """Repeat each row of pixels `times` times: [..., H, W, 3] -> [..., H * times, W, 3]."""
    *_, width, channels = frames.shape
    return frames.unsqueeze(-3).expand(*frames.shape[:-2], times, width, channels).flatten(-4, -3)


def frames_per_latent_frame(frames: int, facts: CodecFacts, *, begun: bool) -> Sequence[int]:
    """Return how many of these frames go into each latent frame; the first of a video takes `facts.frames_first`.

    Raises MediaError for a number that does not fill whole latent frames.
    """
    first, following = (0 if begun else facts.frames_first), facts.frames_next
    count, extra = divmod(frames - first, following)
    if frames <= 0 or count < 0 or extra:
        near = [n for n in (frames - extra, frames - extra + following) if n > 0]
        raise MediaError(f"{frames} frames do not fill whole latent frames; try {' or '.join(map(str, near))}")
    return [first] * (first > 0) + [following] * count
