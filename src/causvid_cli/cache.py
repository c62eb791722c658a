"""What the student remembers: keys and values of past latent frames (sink + sliding window) and of the prompt."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from causvid_cli.geometry import Chunk

Rope = Literal["relative", "absolute"]
Rotate = Callable[[Tensor, list[int]], Tensor]
"""(queries or keys [B, token, head, head_dim], position of each latent frame) -> the same, rotated."""


class KVCache:
    """Keys and values of every layer for the latent frames that a chunk may look back on.

    Preallocated for `sink_frames + window_frames` latent frames, the chunk at work included. When a new chunk does
    not fit, the oldest whole frames after the sink are evicted and the rest moves down (Self-Forcing's rolling
    cache). Places are Python numbers, so that a step makes no device wait.

    With `rope="relative"` a key is rotated by its place in the cache, so positions stay in the trained range however
    long the video grows (LongLive's unlimited form); with "absolute" by its frame's index in the whole video. While
    nothing has been evicted the two are the same.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        tokens_per_latent_frame: int,
        window_frames: int,
        rotate: Rotate,
        sink_frames: int = 0,
        batch: int = 1,
        rope: Rope = "relative",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if window_frames < 1 or sink_frames < 0:
            raise ValueError(f"window_frames {window_frames} must be positive, sink_frames {sink_frames} not negative")
        self.tokens_per_latent_frame = tokens_per_latent_frame
        self.sink_frames = sink_frames
        self.capacity_frames = sink_frames + window_frames
        self.rope = rope
        self.rotate = rotate
        shape = (layers, batch, self.capacity_frames * tokens_per_latent_frame, heads, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        """Rotated keys [layer, B, token, head, head_dim]."""
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        # Keys before RoPE, needed only where a key's position can change.
        self._unrotated = torch.zeros(shape, device=device, dtype=dtype) if rope == "relative" else None
        self._frames: list[int] = []
        self._writing: Chunk | None = None
        self._shared = False

    def frames(self) -> list[int]:
        """Indices of the latent frames whose clean keys and values are kept, oldest first."""
        return list(self._frames)

    def reset(self) -> None:
        """Forget everything (a hard cut)."""
        self._frames.clear()
        self._writing = None

    def as_now(self) -> "KVCache":
        """The same past, which no later change of this cache reaches: for a gradient that looks at it once more."""
        held = copy.copy(self)
        held._frames = list(self._frames)
        self._shared = held._shared = True  # until either moves what they share
        return held

    def begin(self, chunk: Chunk) -> list[int]:
        """Make room for a chunk, evicting once, and return the positions that RoPE gives its frames.

        Repeated calls for the same chunk evict nothing more.
        """
        if chunk.frames > self.capacity_frames - self.sink_frames:
            raise ValueError(f"a chunk of {chunk.frames} frames does not fit a window of {self.capacity_frames} frames")
        if self._writing != chunk:
            overflow = len(self._frames) + chunk.frames - self.capacity_frames
            if overflow > 0:
                self._evict(overflow)
            self._writing = chunk
        first = chunk.start_frame if self.rope == "absolute" else len(self._frames)
        return list(range(first, first + chunk.frames))

    def write(self, layer: int, key: Tensor, value: Tensor, positions: list[int]) -> tuple[Tensor, Tensor]:
        """Put the working chunk's keys (not rotated) and values in their place and return all that it attends to.

        key, value: [B, token, head, head_dim] of the chunk given to `begin`, which returned its positions.
        Returns views [B, past + chunk tokens, head, head_dim] that the next write changes.
        """
        start = len(self._frames) * self.tokens_per_latent_frame
        end = start + key.shape[1]
        if self._unrotated is not None:
            self._unrotated[layer, :, start:end] = key
        self.keys[layer, :, start:end] = self.rotate(key, positions)
        self.values[layer, :, start:end] = value
        return self.keys[layer, :, :end], self.values[layer, :, :end]

    def beside(self, layer: int, key: Tensor, value: Tensor, positions: list[int]) -> tuple[Tensor, Tensor]:
        """What `write` returns, without writing: for keys and values that carry a gradient."""
        past = slice(0, len(self._frames) * self.tokens_per_latent_frame)
        keys = torch.cat([self.keys[layer, :, past], self.rotate(key, positions)], dim=1)
        return keys, torch.cat([self.values[layer, :, past], value], dim=1)

    def commit(self) -> None:
        """Keep what the last call wrote: from now on later chunks see it."""
        assert self._writing is not None, "commit without a chunk at work"
        self._frames += range(self._writing.start_frame, self._writing.end_frame)
        self._writing = None

    def _evict(self, count: int) -> None:
        """Drop the `count` oldest frames after the sink; the rest moves down and is rotated anew."""
        if self._shared:
            self.keys, self.values = self.keys.clone(), self.values.clone()
            self._unrotated = None if self._unrotated is None else self._unrotated.clone()
            self._shared = False
        per_frame, sink = self.tokens_per_latent_frame, min(self.sink_frames, len(self._frames))
        kept = slice((sink + count) * per_frame, len(self._frames) * per_frame)
        del self._frames[sink : sink + count]
        place = slice(sink * per_frame, len(self._frames) * per_frame)
        if place.start == place.stop:
            return
        self.values[:, :, place] = self.values[:, :, kept].clone()
        if self._unrotated is None:
            self.keys[:, :, place] = self.keys[:, :, kept].clone()
            return
        self._unrotated[:, :, place] = self._unrotated[:, :, kept].clone()
        positions = list(range(sink, len(self._frames)))
        for layer, unrotated in enumerate(self._unrotated):
            self.keys[layer, :, place] = self.rotate(unrotated[:, place], positions)


class PromptCache:
    """A prompt as the network sees it, and its cross-attention keys and values, computed once per prompt.

    embeds: [B, L, dim], the text projection's output. A new prompt is a new PromptCache: a stale one gives wrong
    pictures without a sign. negative: the prompt to be led away from, and guidance by how much; 1 is none.
    """

    def __init__(self, embeds: Tensor, *, negative: "PromptCache | None" = None, guidance: float = 1.0) -> None:
        self.embeds = embeds
        self.negative, self.guidance = negative, guidance
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def beside(self, other: "PromptCache") -> "PromptCache":
        """Our B prompts, then B of the other's, which has as many or one, as one batch."""
        return PromptCache(torch.cat([self.embeds, other.embeds.expand(len(self.embeds), -1, -1)]))

    def keys_values(self, layer: int, compute: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values [B, L, head, head_dim] of one layer."""
        if torch.is_grad_enabled():  # gradient checkpointing must find in its second pass what it found in the first
            return compute(self.embeds)
        if layer not in self._layers:
            self._layers[layer] = compute(self.embeds)
        return self._layers[layer]
