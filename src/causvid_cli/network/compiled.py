"""One transformer block, compiled once, for every layer, step and chunk.

What differs between calls comes in as tensors: weights, modulation, the window's keys and values, where the chunk is
written in it. So nothing is compiled anew when a layer, a timestep, a prompt or a place in the ring is another. The
length of the window, which grows until it is full, is the one size that may change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from causvid_cli.errors import DeviceError
from causvid_cli.network.backbone import attention
from causvid_cli.network.rope import apply_rope_real

if TYPE_CHECKING:
    from causvid_cli.network.cache import KVCache, Place

KeysValues = tuple[Tensor, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""Queries, keys and values [B, L, head, head_dim] of one layer, the back-end -> what attention gives."""
Block = Callable[[Tensor, KeysValues, list[Tensor], Attend], Tensor]
"""Hidden states [B, L, D], the prompt's keys and values, six modulations, attention -> hidden states [B, L, D]."""


class ChunkTokens(NamedTuple):
    """A chunk of the tokens of a call.

    rotations: cosine and sine, float32 [1, T, 1, head_dim / 2, 2]. slots: where its T tokens are written.
    sink_rotations: rotations that the sink gets before, [1, S, 1, head_dim / 2, 2]; S is 0 where it keeps those it has.
    """

    rotations: Tensor
    slots: Tensor
    sink_rotations: Tensor


class Window(NamedTuple):
    """What one layer attends to: keys, values [B, n, head, head_dim] and the sink's keys before RoPE [B, S, ...]."""

    keys: Tensor
    values: Tensor
    sink: Tensor


@dataclass(frozen=True, slots=True)
class StaticPast:
    """A `model.CachedPast` in tensors: chunks of one size whose window lies in one piece, which is all they see.

    places: what the parts were made of. is_full: whether every later chunk sees a window of this size.
    """

    windows: tuple[Window, ...]
    parts: tuple[ChunkTokens, ...]
    places: tuple["Place", ...]
    is_full: bool

    @classmethod
    def of(cls, cache: "KVCache", places: tuple["Place", ...], *, frames: int) -> "StaticPast | None":
        """Return the past of chunks at these places, the sink rotated for the first; None where it has not that form.

        frames: what chunks that are worth it have.
        """
        first, *others = places
        if any(len(place.positions) != frames or place.keeps_sink or len(place.seen) > 1 for place in places):
            return None
        if any(place.seen != first.seen for place in others):
            return None
        cache.rotate_sinks(first)
        parts, shift = [], first.sink_shift
        for place in places:
            sink_rotations = cache.sink_rotations(place) if place.sink_shift != shift else place.rotations[:, :0]
            parts.append(
                ChunkTokens(torch.view_as_real(place.rotations), place.index, torch.view_as_real(sink_rotations))
            )
            shift = place.sink_shift
        cache.note_sinks_rotated(places[-1])
        windows = tuple(Window(*window) for window in cache.windows(first.seen[0]))
        return cls(windows, tuple(parts), places, is_full=first.seen[0].stop == cache.keys.shape[2])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: Any) -> Tensor:
        return attend(self.windows[layer], self.parts, q, k, v, backend)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the first chunk's keys and values, and no more."""
        write(self.windows[layer], self.parts[0], k, v)

    def after_first(self) -> "StaticPast":
        return StaticPast(self.windows, self.parts[1:], self.places[1:], self.is_full)


class CompiledBlock:
    """Call for any block of a network whose chunks have `frames` latent frames."""

    def __init__(self, device: torch.device, *, frames: int, backend: str = "inductor") -> None:
        if backend == "inductor":
            check_compiler(device)
        self.frames = frames
        self._run = torch.compile(call_block, dynamic=False, backend=backend)

    def __call__(
        self,
        block: Block,
        hidden: Tensor,
        cross: KeysValues,
        modulation: list[Tensor],
        window: Window,
        parts: tuple[ChunkTokens, ...],
    ) -> Tensor:
        for tensor in (window.keys, window.values):
            torch._dynamo.mark_dynamic(tensor, 1)
        out: Tensor = self._run(block, hidden, cross, modulation, window, parts)
        return out


def call_block(
    block: Block,
    hidden: Tensor,
    cross: KeysValues,
    modulation: list[Tensor],
    window: Window,
    parts: tuple[ChunkTokens, ...],
) -> Tensor:
    """A block [B, L, D] -> [B, L, D]."""
    return block(hidden, cross, modulation, lambda q, k, v, backend: attend(window, parts, q, k, v, backend))


def attend(window: Window, parts: tuple[ChunkTokens, ...], q: Tensor, k: Tensor, v: Tensor, backend: Any) -> Tensor:
    """Each part is written to the window and attends to it, one after another."""
    out, start = [], 0
    for part in parts:
        tokens = slice(start, start + part.rotations.shape[1])
        write(window, part, k[:, tokens], v[:, tokens])
        rotated = apply_rope_real(q[:, tokens], part.rotations)
        out.append(attention(rotated, window.keys, window.values, backend=backend))
        start = tokens.stop
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)


def write(window: Window, part: ChunkTokens, k: Tensor, v: Tensor) -> None:
    """Put a part's keys and values where they belong."""
    if sink := part.sink_rotations.shape[1]:
        window.keys[:, :sink] = apply_rope_real(window.sink, part.sink_rotations)
    window.keys.index_copy_(1, part.slots, apply_rope_real(k, part.rotations))
    window.values.index_copy_(1, part.slots, v)


def check_compiler(device: torch.device) -> None:
    """Raise DeviceError unless torch.compile finds what it needs on this machine."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.type == "cuda" and not has_triton():
        raise DeviceError("--compile: torch finds no Triton for this GPU; pip install triton, or leave --compile out")
    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        raise DeviceError(
            "--compile: torch finds no C++ compiler; install g++ or clang++, or name one in CXX, or leave --compile out"
        ) from None


Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Work on tensors that stay where they are -> what plays it again, and where its result then lies."""
Run = Callable[[Tensor, Sequence[list[Tensor]], Sequence[KeysValues], StaticPast], Tensor]
"""All blocks: tokens, modulations, the prompt's keys and values of each layer, the past -> tokens."""


class CudaGraphs:
    """Calls of all blocks, each recorded once (a CUDA graph) and then played with other contents.

    A recording belongs to a cache, whose keys and values it reads and writes where they are, and ends with it.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._made: WeakKeyDictionary[KVCache, dict[tuple[Any, ...], CapturedCall]] = WeakKeyDictionary()

    def play(
        self,
        cache: "KVCache",
        kind: object,
        run: Run,
        hidden: Tensor,
        modulations: Sequence[list[Tensor]],
        crosses: Sequence[KeysValues],
        past: StaticPast,
    ) -> Tensor:
        """What `run` gives, which the next play of this kind overwrites. kind: what else tells calls apart."""
        made = self._made.setdefault(cache, {})
        key = (kind, hidden.shape, tuple(modulations[0][0].shape), tuple(crosses[0][0].shape))
        if key not in made:
            made[key] = CapturedCall(self._capture, run, hidden, modulations, crosses, past)
        return made[key].play(hidden, modulations, crosses, past)


class CapturedCall:
    """One call over tensors that stay where they are."""

    def __init__(
        self,
        capture: Capture,
        run: Run,
        hidden: Tensor,
        modulations: Sequence[list[Tensor]],
        crosses: Sequence[KeysValues],
        past: StaticPast,
    ) -> None:
        self._hidden = hidden.clone()
        self._modulations = [[tensor.clone() for tensor in row] for row in modulations]
        self._crosses = [(k.clone(), v.clone()) for k, v in crosses]
        self._parts = tuple(ChunkTokens(*(tensor.clone() for tensor in part)) for part in past.parts)
        self._now: list[object] = [modulations, crosses, past.places]
        own = StaticPast(past.windows, self._parts, (), past.is_full)
        self._play, self._out = capture(lambda: run(self._hidden, self._modulations, self._crosses, own))

    def play(
        self,
        hidden: Tensor,
        modulations: Sequence[list[Tensor]],
        crosses: Sequence[KeysValues],
        past: StaticPast,
    ) -> Tensor:
        self._hidden.copy_(hidden)
        self._renew(0, modulations, modulations, self._modulations)
        self._renew(1, crosses, crosses, self._crosses)
        self._renew(2, past.places, past.parts, self._parts)
        self._play()
        return self._out

    def _renew(
        self, which: int, what: object, new: Sequence[Sequence[Tensor]], own: Sequence[Sequence[Tensor]]
    ) -> None:
        """Copy what is not there yet."""
        if self._now[which] is not what:
            torch._foreach_copy_([t for row in own for t in row], [t for row in new for t in row])
            self._now[which] = what
