"""The past as Krea's realtime model wants it: seen anew before every chunk, as if the video began with the window.

Before each chunk the cache is emptied and filled by a clean pass over the last few latent frames, counted from 0. Once
frames before them have been left out, the first of them is no first frame of a video (four pictures, not one): it is
encoded again, as one, from the last of its pictures. Mistakes then do not add up in the cache, and what the window
begins with looks as it did in training. (krea-ai/realtime-video at 0a9f719, `release_server.py`: recompute_kv_cache,
get_clean_context_frames; the publisher's account is in its post on Krea Realtime 14B.)
"""

import torch
from torch import Tensor

from causvid_cli.codec import Codec
from causvid_cli.geometry import Chunk
from causvid_cli.sampling.context import Past


class Recomputed:
    """What of one video's past is seen before each chunk. It has to be shown the video's pictures as they are made.

    frames: latent frames that are seen. chunk_frames: of them in one clean pass.
    """

    def __init__(self, codec: Codec, *, frames: int, chunk_frames: int) -> None:
        self._codec, self._frames, self._chunk_frames = codec, frames, chunk_frames
        self._last_pictures: dict[int, Tensor] = {}  # of each latent frame that can become the window's first

    def show(self, frames: Tensor, *, start_frame: int, count: int) -> None:
        """Take note of pictures uint8 [B, T, H, W, 3] of the latent frames [start_frame, start_frame + count)."""
        for number in range(count):
            last = self._codec.facts.frames(number + 1, start=start_frame) - 1
            self._last_pictures[start_frame + number] = frames[:, last : last + 1]
        for old in [frame for frame in self._last_pictures if frame < start_frame + count - self._frames]:
            del self._last_pictures[old]

    def __call__(self, past: Past) -> Past:
        """The window's frames, in chunks counted from its start: what clean passes are run over."""
        places = [(chunk, number) for chunk, _ in past for number in range(chunk.frames)]
        if not places:
            return []
        x0, left_out = torch.cat([part for _, part in past], dim=2), max(0, len(places) - self._frames)
        x0, places = x0[:, :, left_out:], places[left_out:]
        if left_out:
            first, number = places[0]
            x0 = torch.cat([self._as_first(first.start_frame + number).to(x0), x0[:, :, 1:]], dim=2)
        start = places[0][0].start_frame + places[0][1]
        parts: Past = []
        for begin, part in enumerate(x0.split(self._chunk_frames, dim=2)):
            begin *= self._chunk_frames
            parts.append((Chunk(places[begin][0].index, start + begin, part.shape[2]), part))
        return parts

    def _as_first(self, frame: int) -> Tensor:
        """A latent frame as it would be at the start of a video [B, C, 1, h, w]."""
        return self._codec.encode_chunk(self._last_pictures[frame], state=self._codec.encode_state())
