"""Pictures that a video begins from, or is made after -> clean latents.

A photo (i2v) or the tail of a clip (extend) becomes a prefix that the roll-out commits and does not make again; a clip
to be restyled gives each chunk its start.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from causvid_cli.codec import Codec
from causvid_cli.geometry import Chunk


def prefix_chunks(latent_frames: int, chunk_frames: int) -> list[Chunk]:
    """Given latent frames as chunks, whole ones counted back from the first that is made; numbers below 0."""
    first = latent_frames % chunk_frames
    sizes = [first] * (first > 0) + [chunk_frames] * (latent_frames // chunk_frames)
    chunks, start = [], 0
    for index, size in enumerate(sizes, start=-len(sizes)):
        chunks.append(Chunk(index, start, size))
        start += size
    return chunks


def encode_prefix(codec: Codec, pictures: np.ndarray, chunk_frames: int) -> list[tuple[Chunk, Tensor]]:
    """Pictures uint8 RGB [T, H, W, 3] that fill whole latent frames -> (chunk, x0 [1, C, f, h, w]), oldest first."""
    state = codec.encode_state()
    x0 = codec.encode_chunk(torch.from_numpy(np.ascontiguousarray(pictures))[None], state=state)
    return [
        (chunk, x0[:, :, chunk.start_frame : chunk.end_frame]) for chunk in prefix_chunks(x0.shape[2], chunk_frames)
    ]


class SourceLatents:
    """Another video as the start of each chunk: its pictures, one after another, -> latents.

    pictures: uint8 RGB [H, W, 3] each, at the model's size and rate; perhaps without end, taken when wanted.
    """

    def __init__(self, codec: Codec, pictures: Iterator[np.ndarray]) -> None:
        self._codec, self._pictures, self._state = codec, pictures, codec.encode_state()
        self.read = 0
        """Pictures taken so far: at the end, how long the video is."""

    def latents(self, chunk: Chunk) -> Tensor | None:
        """x0 [1, C, f, h, w] of the next chunk, its last picture repeated where the source ends in it; None after."""
        wanted = self._codec.facts.frames(chunk.frames, start=chunk.start_frame)
        taken = [picture for _, picture in zip(range(wanted), self._pictures, strict=False)]
        self.read += len(taken)
        if not taken:
            return None
        frames = torch.from_numpy(np.stack(taken + [taken[-1]] * (wanted - len(taken))))
        return self._codec.encode_chunk(frames[None], state=self._state)
