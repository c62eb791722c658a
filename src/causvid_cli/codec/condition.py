"""Frames that a video begins from, or is made after -> clean latents.

A photo (i2v) or the tail of a clip (extend) becomes a prefix that the roll-out commits and does not make again; a clip
to be restyled gives each chunk its start.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from causvid_cli.codec import Codec
from causvid_cli.codec.codec import frames_per_latent_frame
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.errors import UsageError
from causvid_cli.geometry import Chunk, CodecFacts


def check_frames(frames: np.ndarray, *, height: int, width: int, facts: CodecFacts) -> None:
    """Raise UsageError unless these are uint8 [T, height, width, 3] that fill whole latent frames of a new video."""
    if frames.dtype != np.uint8:
        raise UsageError(f"given frames are {frames.dtype}; give uint8, 0..255")
    if frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
        raise UsageError(f"given frames have the shape {list(frames.shape)}; give [T, {height}, {width}, 3]")
    frames_per_latent_frame(len(frames), facts, begun=False)


def prefix_chunks(latent_frames: int, chunk_frames: int) -> list[Chunk]:
    """Return given latent frames as chunks, whole ones counted back from the first that is made; numbers below 0."""
    first = latent_frames % chunk_frames
    sizes = [first] * (first > 0) + [chunk_frames] * (latent_frames // chunk_frames)
    chunks, start = [], 0
    for index, size in enumerate(sizes, start=-len(sizes)):
        chunks.append(Chunk(index, start, size))
        start += size
    return chunks


def encode_prefix(
    codec: Codec, frames: np.ndarray, chunk_frames: int, *, device: torch.device | str = "cpu"
) -> list[tuple[Chunk, Tensor]]:
    """Encode frames uint8 RGB [T, H, W, 3] that fill whole latent frames; return chunks and x0 [1, C, f, h, w].

    device: where x0 is wanted.
    """
    state = codec.encode_state()
    x0 = codec.encode_chunk(torch.from_numpy(np.ascontiguousarray(frames))[None], state=state).to(device)
    return [
        (chunk, x0[:, :, chunk.start_frame : chunk.end_frame]) for chunk in prefix_chunks(x0.shape[2], chunk_frames)
    ]


def is_foreign(codec: Codec, frames: np.ndarray) -> bool:
    """Whether given frames uint8 [T, H, W, 3] end as nothing that the codec knows, which may be drawings only."""
    return isinstance(codec, PixelCodec) and not codec.is_drawn(torch.from_numpy(np.ascontiguousarray(frames[-1:])))


def drawn_in(codec: Codec, picture: np.ndarray) -> np.ndarray | None:
    """The palette indices [H, W] of a picture uint8 [H, W, 3]; None of a codec that has no palette."""
    if not isinstance(codec, PixelCodec):
        return None
    return codec.nearest_entries(torch.from_numpy(np.ascontiguousarray(picture))).cpu().numpy()


def photograph(codec: Codec, frames: np.ndarray, *, enlarge: int) -> np.ndarray | None:
    """What is shown of a held photo uint8 [T, H, W, 3] in place of what the codec makes of it; None: just that.

    The embedded model's codec knows drawings only: a photograph is shown in its palette instead.
    """
    if not isinstance(codec, PixelCodec) or (frames != frames[:1]).any() or not is_foreign(codec, frames):
        return None
    return codec.photograph(torch.from_numpy(np.ascontiguousarray(frames)), enlarge=enlarge).cpu().numpy()


class SourceLatents:
    """Encodes another video, whose frames come one after another, as the start of each chunk.

    frames: uint8 RGB [H, W, 3] each, at the model's size and rate; perhaps without end, taken when wanted.
    device: where latents are wanted.
    """

    def __init__(self, codec: Codec, frames: Iterator[np.ndarray], *, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._codec, self._frames, self._state = codec, frames, codec.encode_state()
        self.read = 0
        """How many frames were taken; at the end, how long the video is."""

    def latents(self, chunk: Chunk) -> Tensor | None:
        """Return x0 [1, C, f, h, w] of the next chunk, the last frame repeated where the source ends; None after."""
        wanted = self._codec.facts.frames(chunk.frames, start=chunk.start_frame)
        taken = [frame for _, frame in zip(range(wanted), self._frames, strict=False)]
        self.read += len(taken)
        if not taken:
            return None
        for frame in taken:
            if frame.dtype != np.uint8 or frame.shape != (*taken[0].shape[:2], 3):
                raise UsageError(
                    f"a source frame is {frame.dtype} {list(frame.shape)}; give uint8 [H, W, 3], all alike"
                )
        frames = torch.from_numpy(np.stack(taken + [taken[-1]] * (wanted - len(taken))))
        return self._codec.encode_chunk(frames[None], state=self._state).to(self._device)
