"""What the student remembers: keys and values of past latent frames (sink + sliding window) and of the prompt."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from causvid_cli.config import Rope, SinkPlacement
from causvid_cli.geometry import Chunk
from causvid_cli.network.rope import apply_rope

RotationsAt = Callable[[Sequence[int]], Tensor]
"""Positions of latent frames -> the rotations of their tokens (`rope.rotations`)."""
Runs = tuple[slice, ...]
"""Tokens of the cache, run by run."""


@dataclass(frozen=True)
class Place:
    """Where a chunk at work stands in a cache; the same object for every call of the chunk.

    positions: of its latent frames in time. rotations: of its tokens. written: where its keys and values go.
    seen: all that it attends to, itself included. sink_shift: how far the sink is rotated for it.
    """

    positions: tuple[int, ...]
    rotations: Tensor
    written: Runs
    seen: Runs
    sink_shift: int
    keeps_sink: bool
    """Whether some of its own keys must be kept before RoPE, as they stay for ever and will be rotated again."""

    @cached_property
    def index(self) -> Tensor:
        """`written`, one number per token, on the device."""
        return torch.cat([torch.arange(run.start, run.stop, device=self.rotations.device) for run in self.written])


class KVCache:
    """Keys and values of every layer for the latent frames that a chunk may look back on.

    Preallocated for `sink_frames + window_frames` latent frames, the chunk at work included. When a new chunk does
    not fit, the oldest whole frames after the sink are given up, and it is written in their place: the window is a
    ring, nothing moves, and once it is full every chunk attends to the whole of it. Attention does not ask in which
    order keys lie. Places are Python numbers, so that a step makes no device wait.

    Keys lie rotated by their frame's number in time. Attention knows rotations by their differences only, so what
    counts is how far frames stand apart: with `rope="relative"` the sink is rotated on when the window goes on, so that
    distances stay in the trained range however long the video grows. It then stands just before the window (LongLive's
    unlimited form), or with `sink_placement="apart"` as far before it as clips of `trained_frames` are long: where it
    was while the video is no longer than that (Self Gradient Forcing's `top_aligned`). With "absolute" it stays where
    it was, at the beginning of the video (Self-Forcing's rolling cache). Without a sink, or while nothing has been
    evicted, all are the same. A rotation is worked out in float64 from the position itself (`network/rope.py`), so
    large positions are as exact as small ones.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        tokens_per_latent_frame: int,
        window_frames: int,
        rotations_at: RotationsAt,
        sink_frames: int = 0,
        batch: int = 1,
        rope: Rope = "relative",
        sink_placement: SinkPlacement = "beside",
        trained_frames: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if window_frames < 1 or sink_frames < 0:
            raise ValueError(f"window_frames {window_frames} must be positive, sink_frames {sink_frames} not negative")
        self.tokens_per_latent_frame = tokens_per_latent_frame
        self.sink_frames, self.window_frames = sink_frames, window_frames
        self.capacity_frames = sink_frames + window_frames
        self.rope, self.rotations_at = rope, rotations_at
        self.sink_placement, self.trained_frames = sink_placement, trained_frames
        shape = (layers, batch, self.capacity_frames * tokens_per_latent_frame, heads, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        """Rotated keys [layer, B, token, head, head_dim]."""
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        # The sink's keys before RoPE, where their position changes.
        kept = sink_frames * tokens_per_latent_frame if rope == "relative" else 0
        self._sink = torch.zeros((layers, batch, kept, heads, head_dim), device=device, dtype=dtype)
        self._frames: list[int] = []
        self._evicted = 0
        self._sink_shifts = [0] * layers
        self._writing: tuple[Chunk, Place] | None = None
        self._shared = False

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.keys.nbytes + self.values.nbytes + self._sink.nbytes

    def frames(self) -> list[int]:
        """Indices of the latent frames whose clean keys and values are kept, oldest first."""
        return list(self._frames)

    @property
    def evicted(self) -> int:
        """How many latent frames were given up since the beginning or a reset."""
        return self._evicted

    def hold(self, frames: Sequence[int], *, evicted: int) -> None:
        """Take for committed what another cache holds: one of the same video, with keys and values of other heads."""
        self._frames, self._evicted, self._writing = list(frames), evicted, None

    def reset(self) -> None:
        """Forget everything (a hard cut)."""
        self._frames.clear()
        self._evicted = 0
        self._sink_shifts = [0] * len(self._sink_shifts)
        self._writing = None

    def snapshot(self) -> "KVCache":
        """The same past, which no later change of this cache reaches: for a gradient that looks at it once more."""
        held = copy.copy(self)
        held._frames, held._sink_shifts = list(self._frames), list(self._sink_shifts)
        self._shared = held._shared = True  # until either gives up a frame that they share
        return held

    def begin(self, chunk: Chunk) -> Place:
        """Make room for a chunk, evicting once, and say where it stands.

        Repeated calls for the same chunk evict nothing more. What is evicted is overwritten by `write` only, so the
        clean pass of the chunk before, if it was committed but has not been run yet, can still see it.
        """
        if chunk.frames > self.window_frames:
            raise ValueError(f"a chunk of {chunk.frames} frames does not fit a window of {self.capacity_frames} frames")
        if self._writing is None or self._writing[0] != chunk:
            overflow = len(self._frames) + chunk.frames - self.capacity_frames
            if overflow > 0:
                self._evict(overflow)
            self._writing = chunk, self._place(chunk)
        return self._writing[1]

    def write(
        self, layer: int, key: Tensor, value: Tensor, place: Place, *, rotated: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Put a chunk's keys (not rotated) and values in their place and return all that it attends to.

        key, value: [B, token, head, head_dim] of the chunk that has this place. rotated: its rotated keys, where they
        are known. Returns [B, past + chunk tokens, head, head_dim], in the order in which they lie; the next write may
        change them.
        """
        self._rotate_sink(layer, place)
        if place.keeps_sink:
            (first, *_), end = place.written, self._sink.shape[2]
            self._sink[layer, :, first.start : first.stop] = key[:, : min(first.stop, end) - first.start]
        start, rotated = 0, apply_rope(key, place.rotations) if rotated is None else rotated
        for run in place.written:
            stop = start + run.stop - run.start
            self.keys[layer, :, run] = rotated[:, start:stop]
            self.values[layer, :, run] = value[:, start:stop]
            start = stop
        return self._read(layer, place.seen)

    def append(self, layer: int, rotated: Tensor, value: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Return what `write` would, without writing: for rotated keys and values that carry a gradient."""
        self._rotate_sink(layer, place)
        keys, values = self.held(layer)
        return torch.cat([keys, rotated], dim=1), torch.cat([values, value], dim=1)

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the committed frames, oldest first."""
        return self._read(layer, self._runs(range(len(self._frames))))

    def windows(self, run: slice) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each layer, the keys and values that lie in a run of tokens, and the sink's keys before RoPE."""
        return [(k[:, run], v[:, run], sink) for k, v, sink in zip(self.keys, self.values, self._sink, strict=True)]

    def rotate_sinks(self, place: Place) -> None:
        """Turn the sink of every layer now, where `write` does it when it comes to the layer."""
        for layer in range(len(self.keys)):
            self._rotate_sink(layer, place)

    def sink_rotations(self, place: Place) -> Tensor:
        """Return the rotations of the sink's tokens for a chunk; no rows where they never change."""
        if not self._sink.shape[2]:
            return place.rotations[:, :0]
        return self.rotations_at(tuple(range(place.sink_shift, place.sink_shift + self.sink_frames)))

    def note_sinks_rotated(self, place: Place) -> None:
        """Whoever writes without `write` has rotated the sinks for this chunk."""
        self._sink_shifts = [place.sink_shift] * len(self._sink_shifts)

    def commit(self) -> None:
        """Keep what the last call wrote: from now on later chunks see it."""
        assert self._writing is not None, "commit without a chunk at work"
        chunk, _ = self._writing
        self._frames += range(chunk.start_frame, chunk.end_frame)
        self._writing = None

    def _place(self, chunk: Chunk) -> Place:
        """Where a chunk stands once there is room for it."""
        first, end = len(self._frames), len(self._frames) + chunk.frames
        start, sink_shift = self._stand(chunk, first)
        positions = tuple(range(start, start + chunk.frames))
        return Place(
            positions=positions,
            rotations=self.rotations_at(positions),
            written=self._runs(range(first, end)),
            seen=self._runs(range(end), sort=True),
            sink_shift=sink_shift,
            keeps_sink=self.rope == "relative" and first < self.sink_frames,
        )

    def _stand(self, chunk: Chunk, first: int) -> tuple[int, int]:
        """Return the position of a chunk's first frame, and how far the sink is rotated for it."""
        if self.rope == "absolute":
            return chunk.start_frame, 0
        if self.sink_placement == "beside":
            return self._evicted + first, self._evicted
        origin, *_ = *self._frames, chunk.start_frame  # of the video, or of the shot since a reset
        window = self._frames[self.sink_frames] if first > self.sink_frames else chunk.start_frame
        gap = max(0, window - origin - self.sink_frames)
        start = chunk.start_frame - origin
        return start, min(gap, max(0, start + chunk.frames - self.trained_frames))

    def _runs(self, places: range, *, sort: bool = False) -> Runs:
        """Where the frames lie that come at these places when counted from the oldest."""
        slots = [place if place < self.sink_frames else self._slot(place) for place in places]
        per_frame = self.tokens_per_latent_frame
        runs: list[slice] = []
        for slot in sorted(slots) if sort else slots:
            start, stop = slot * per_frame, (slot + 1) * per_frame
            if runs and runs[-1].stop == start:
                start = runs.pop().start
            runs.append(slice(start, stop))
        return tuple(runs)

    def _slot(self, place: int) -> int:
        """Of a frame after the sink: the ring goes round."""
        return self.sink_frames + (place - self.sink_frames + self._evicted) % self.window_frames

    def _read(self, layer: int, runs: Runs) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        if len(runs) == 1:
            return keys[:, runs[0]], values[:, runs[0]]
        return (
            torch.cat([keys[:, :0], *(keys[:, run] for run in runs)], dim=1),
            torch.cat([values[:, :0], *(values[:, run] for run in runs)], dim=1),
        )

    def _rotate_sink(self, layer: int, place: Place) -> None:
        """Let the sink stand just before the window that a chunk sees."""
        if self._sink_shifts[layer] == place.sink_shift:
            return
        self._sink_shifts[layer] = place.sink_shift
        if tokens := self._sink.shape[2]:
            self.keys[layer, :, :tokens] = apply_rope(self._sink[layer], self.sink_rotations(place))

    def _evict(self, count: int) -> None:
        """Give up the `count` oldest frames after the sink."""
        if self._shared:
            self.keys, self.values, self._sink = self.keys.clone(), self.values.clone(), self._sink.clone()
            self._shared = False
        del self._frames[self.sink_frames : self.sink_frames + count]
        self._evicted += count


class PromptCache:
    """A prompt as the network sees it, and its cross-attention keys and values, computed once per prompt.

    embeds: [B, L, dim], the text projection's output. A new prompt is a new PromptCache: a stale one gives wrong
    pictures without a sign. negative: the prompt to be led away from, and guidance by how much; 1 is none. context: the
    same prompt as the network sees it that runs the clean passes, where that is another; opening: as the one sees it
    that makes the first chunk of a shot; scene: the same of what it tells of with nobody in it, where that is copied.
    is_turned, is_whole, is_zoomed: of an `opening`, bool [B]: whether what is drawn of it is to be turned round,
    whether it tells both who is there and where, and whether its camera zooms.
    """

    def __init__(self, embeds: Tensor, *, negative: "PromptCache | None" = None, guidance: float = 1.0) -> None:
        self.embeds = embeds
        self.negative, self.guidance = negative, guidance
        self.context: PromptCache | None = None
        self.opening: PromptCache | None = None
        self.scene: PromptCache | None = None
        self.is_turned: Tensor | None = None
        self.is_whole: Tensor | None = None
        self.is_zoomed: Tensor | None = None
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._all: list[tuple[Tensor, Tensor]] = []

    @property
    def nbytes(self) -> int:
        """Memory that it takes so far."""
        layers = [*self._layers.values(), *self._all]
        return self.embeds.nbytes + sum(keys.nbytes + values.nbytes for keys, values in layers)

    @classmethod
    def batch(cls, parts: "Sequence[PromptCache]") -> "PromptCache":
        """Return the prompts of several videos as those of one batch."""
        joined = cls(torch.cat([part.embeds for part in parts]))
        for other in ("context", "opening", "scene"):
            seen = [own for part in parts if (own := getattr(part, other)) is not None]
            setattr(joined, other, cls.batch(seen) if len(seen) == len(parts) else None)
        for told in ("is_turned", "is_whole", "is_zoomed"):
            known = [own for part in parts if (own := getattr(part, told)) is not None]
            setattr(joined, told, torch.cat(known) if len(known) == len(parts) else None)
        return joined

    def stack(self, other: "PromptCache") -> "PromptCache":
        """Return this batch of B prompts followed by B of the other's, which has as many or one."""
        return PromptCache(torch.cat([self.embeds, other.embeds.expand(len(self.embeds), -1, -1)]))

    def keys_values(self, layer: int, compute: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values [B, L, head, head_dim] of one layer."""
        if torch.is_grad_enabled():  # gradient checkpointing must find in its second pass what it found in the first
            return compute(self.embeds)
        if layer not in self._layers:
            self._layers[layer] = compute(self.embeds)
        return self._layers[layer]

    def all_keys_values(
        self, computes: Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]]
    ) -> Sequence[tuple[Tensor, Tensor]]:
        """Keys and values of all layers, how to compute each layer's being given; the same object at every call.

        They may be of another form than those of `keys_values`, and are kept beside them.
        """
        if torch.is_grad_enabled():
            return [compute(self.embeds) for compute in computes]
        if not self._all:
            self._all = [compute(self.embeds) for compute in computes]
        return self._all
