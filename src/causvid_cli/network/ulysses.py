"""One video in several processes: sequence parallelism over heads (DeepSpeed-Ulysses, arXiv 2309.14509).

Each process computes the network for its part of a chunk's tokens. Self-attention alone needs all of them: an
all-to-all brings each process all tokens of its part of the heads, another brings the result back. So the cache of a
process holds keys and values of its heads only. diffusers' context parallelism knows no cache, and torch's shards
queries along the sequence, so their collectives do not serve here.

The first process leads: it has the noise, the prompts, the codec and the file, and announces each call. The others
follow, and compute what is announced until it leaves.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from causvid_cli.errors import CausvidError, ProcessLost, UsageError
from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import KVCache, PromptCache

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A network call for one chunk, as it is announced; x_t [B, C, f, h, w] comes after it, then a new prompt.

    network, cache, prompt: numbers. frames, evicted: what the cache holds (`KVCache.holding`). prompt_shape: of the
    prompt's features, where the others have none of that number. gone: numbers of what is used no more.
    """

    network: int
    shape: torch.Size
    timestep: float
    chunk: Chunk
    update_cache: bool
    kv_only: bool
    cache: int
    cache_options: dict[str, Any]
    frames: list[int]
    evicted: int
    prompt: int
    prompt_shape: torch.Size | None
    gone: list[int]


class Ulysses:
    """The processes of a group that run the same networks, seen from one of them. device: where it computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.networks: Sequence[Any] = ()
        self._numbers: WeakKeyDictionary[KVCache | PromptCache, int] = WeakKeyDictionary()
        self._next, self._gone = count(), list[int]()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def spread(self, networks: Sequence[Any]) -> None:
        """Let calls of these `CausalTransformer`s be made by all processes."""
        self.networks = networks
        for network in networks:
            network.processes = self

    # --- what the first process tells the others ---

    def announce(
        self,
        network: Any,
        x_t: Tensor,
        timestep: float,
        prompt: PromptCache,
        *,
        cache: KVCache,
        chunk: Chunk,
        update_cache: bool,
        kv_only: bool,
    ) -> None:
        """Let the others make this call too, if this is the first process. x_t: on the device."""
        if not self.leads:
            return
        new = prompt not in self._numbers
        call = Call(
            network=next(i for i, each in enumerate(self.networks) if each is network),
            shape=x_t.shape,
            timestep=timestep,
            chunk=chunk,
            update_cache=update_cache,
            kv_only=kv_only,
            cache=self._number(cache),
            cache_options={
                "window_frames": cache.window_frames,
                "sink_frames": cache.sink_frames,
                "rope": cache.rope,
                "sink_placement": cache.sink_placement,
                "trained_frames": cache.trained_frames,
            },
            frames=cache.frames(),
            evicted=cache.evicted,
            prompt=self._number(prompt),
            prompt_shape=prompt.embeds.shape if new else None,
            gone=self._gone[:],
        )
        del self._gone[: len(call.gone)]
        self.tell(call)
        self._broadcast(x_t.to(network.dtype))
        if new:
            self._broadcast(prompt.embeds)

    def tell(self, what: object = None) -> Any:
        """Return what the first process tells, in each process."""
        told = [what]
        with _all_there(self.size):
            dist.broadcast_object_list(told, src=0, device=CPU)
        return told[0]

    def agree(self, failure: CausvidError | None = None) -> bool:
        """Return whether no process has failed; raises the failure of another one in the first."""
        failures: list[CausvidError | None] = [None] * self.size
        with _all_there(self.size):
            dist.all_gather_object(failures, failure)
        for rank, each in enumerate(failures):
            if each and self.leads:
                each.add_note(f"in process {rank} of {self.size}")
                raise each
        return not any(failures)

    def follow(self) -> None:
        """Make the calls that the first process announces, until it leaves. Raises ProcessLost when one is lost."""
        known: dict[int, Any] = {}
        while (call := self.tell()) is not None:
            network = self.networks[call.network]
            for number in call.gone:
                known.pop(number, None)
            x_t = self._broadcast(torch.empty(call.shape, device=self.device, dtype=network.dtype))
            if call.prompt_shape is not None:
                embeds = torch.empty(call.prompt_shape, device=self.device, dtype=network.dtype)
                known[call.prompt] = PromptCache(self._broadcast(embeds))
            if call.cache not in known:
                batch, _, _, height, width = call.shape
                known[call.cache] = network.kv_cache(
                    latent_height=height, latent_width=width, batch=batch, **call.cache_options
                )
            cache = known[call.cache]
            cache.hold(call.frames, evicted=call.evicted)
            network(
                x_t,
                call.timestep,
                known[call.prompt],
                cache=cache,
                chunk=call.chunk,
                update_cache=call.update_cache,
                kv_only=call.kv_only,
            )

    def _number(self, thing: KVCache | PromptCache) -> int:
        """Return what the others call it."""
        if thing not in self._numbers:
            number = self._numbers[thing] = next(self._next)
            finalize(thing, self._gone.append, number)
        return self._numbers[thing]

    def _broadcast(self, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        with _all_there(self.size):
            dist.broadcast(tensor, src=0)
        return tensor

    # --- tokens and heads ---

    def own_tokens(self, x: Tensor) -> Tensor:
        """All tokens [B, L, ...] -> this process's part of them, with zeros behind the last where they do not go round.

        All parts are of one size, S = ceil(L / n).
        """
        part = -(-x.shape[1] // self.size)
        return _padded(x, part * self.size)[:, self.rank * part : (self.rank + 1) * part]

    def all_tokens(self, x: Tensor, tokens: int) -> Tensor:
        """Parts of the tokens [B, S, D] -> all of them [B, L, D] in the first process, and none in others."""
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.size)] if self.leads else None
        with _all_there(self.size):
            dist.gather(x, parts, dst=0)
        return torch.cat(parts, dim=1)[:, :tokens] if parts else x[:, :0]

    def to_heads(self, tokens: int, *each: Tensor) -> Sequence[Tensor]:
        """Own tokens of all heads, each [B, S, H, d] -> all tokens of own heads, each [B, L, H / n, d]."""
        x = torch.stack(each).unflatten(3, (self.size, -1)).movedim(3, 0)
        x = self._exchange(x).movedim(0, 2).flatten(2, 3)  # [which, B, n * S, H / n, d]
        return x[:, :, :tokens].unbind()

    def to_tokens(self, x: Tensor) -> Tensor:
        """All tokens of own heads [B, L, H / n, d] -> own tokens of all heads [B, S, H, d]."""
        part = -(-x.shape[1] // self.size)
        x = _padded(x, part * self.size).unflatten(1, (self.size, part)).movedim(1, 0)
        return self._exchange(x).movedim(0, 2).flatten(2, 3)

    def _exchange(self, x: Tensor) -> Tensor:
        """Part i of x [n, ...] goes to process i; returns the parts that come, in the order of the processes."""
        x = x.contiguous()
        out = torch.empty_like(x)
        with _all_there(self.size):
            dist.all_to_all_single(out, x)
        return out


@dataclass(frozen=True, slots=True)
class SharedPast:
    """How self-attention of own tokens reaches others (`model.Reach`): as `past` says, for own heads."""

    past: Any
    """A `model.CachedPast`, whose cache is of own heads."""
    tokens: int
    """Of the whole chunk."""
    processes: Ulysses

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: Any) -> Tensor:
        q, k, v = self.processes.to_heads(self.tokens, q, k, v)
        return self.processes.to_tokens(self.past.attend(layer, q, k, v, backend))

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write keys and values to the cache, and no more."""
        self.past.keep(layer, *self.processes.to_heads(self.tokens, k, v))


def check_heads(heads: int, size: int, *, name: str) -> None:
    """Raise UsageError unless a network's heads can be shared by so many processes."""
    if heads % size:
        *others, last = (str(n) for n in range(1, heads + 1) if not heads % n)
        some = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{size} processes cannot share the {heads} heads of {name} evenly; try {some} of them")


@contextmanager
def _all_there(size: int) -> Iterator[None]:
    """Inside, processes exchange something: that fails when one of them is no longer there."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(f"another of the {size} processes that make this video together has ended") from error


def _padded(x: Tensor, tokens: int) -> Tensor:
    """Tokens [B, L, ...] with zeros behind them."""
    missing = tokens - x.shape[1]
    return F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing]) if missing else x
