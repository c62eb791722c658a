"""Training in several processes: each one's share of a batch, weights spread over them.

    torchrun --nproc-per-node 4 -m causvid_cli distill FILE

Every process draws the same whole batch from (seed, step) and computes its share of it, so a run takes the same steps
however many processes take them. A stage that computes the whole batch everywhere is right too, only no faster.
Without torchrun there is one process, whose share is everything.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from causvid_cli.errors import CausvidError
from causvid_cli.network.model import CausalTransformer

T = TypeVar("T")


# --- the group -----------------------------------------------------------------------------------------------------

_alone: ContextVar[bool] = ContextVar("_alone", default=False)
"""Whether this process now works by itself, inside `on_first`."""


def in_group() -> bool:
    """Return whether torchrun's processes now work together (there may be only one of them)."""
    return dist.is_available() and dist.is_initialized() and not _alone.get()


def size() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if in_group() else 1


def is_first() -> bool:
    """Return whether this process is the one that writes, logs and reports."""
    return not in_group() or dist.get_rank() == 0


def on_first(work: Callable[[], None]) -> None:
    """Let the first process do this, by itself, while the others wait; what it raises ends them all."""
    if size() == 1:
        work()
        return
    failure: list[CausvidError | None] = [None]
    own: Exception | None = None
    if is_first():
        token = _alone.set(True)
        try:
            work()
        except Exception as error:  # told to the others, then raised
            own = error
            failure = [error if isinstance(error, CausvidError) else CausvidError(f"the first process failed: {error}")]
        finally:
            _alone.reset(token)
    dist.broadcast_object_list(failure)
    if own or failure[0]:
        raise own or failure[0]  # type: ignore[misc]


def mean(values: Tensor) -> Tensor:
    """Return the mean over the processes of what each one has; `values` is changed to it."""
    if size() > 1:
        dist.all_reduce(values)
        values /= size()
    return values


# --- shares of a batch ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """Part `index` of the `of` equal parts of a batch; where its rows do not go round, the first ones come again."""

    index: int = 0
    of: int = 1

    def rows(self, whole: int) -> Tensor:
        """Return row numbers of this part, int64, counted on past `whole` where it has too few."""
        count = -(-whole // self.of)
        return torch.arange(self.index * count, (self.index + 1) * count)


_share: ContextVar[Share] = ContextVar("_share", default=Share())  # noqa: B039 - it is frozen


def shares(accumulate: int) -> list[Share]:
    """Return what this process computes of a step's batch, part by part."""
    first = dist.get_rank() * accumulate if in_group() else 0
    return [Share(first + part, size() * accumulate) for part in range(accumulate)]


@contextmanager
def working_on(share: Share) -> Iterator[None]:
    """Within, `my_share`, `my_weight` and `my_draw` are about this share."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def my_share(whole: T) -> T:
    """Return this process's rows of a whole batch: of a tensor [B, ...] or of every field of a dataclass of tensors."""
    share = _share.get()
    if share.of == 1:
        return whole
    if isinstance(whole, Tensor):
        return whole[(share.rows(len(whole)) % len(whole)).to(whole.device)]  # type: ignore[return-value]
    parts = {field.name: my_share(getattr(whole, field.name)) for field in fields(whole)}  # type: ignore[arg-type]
    return replace(whole, **parts)  # type: ignore[type-var]


def my_weight(whole: Tensor) -> Tensor:
    """Return this process's rows of a loss's weight [B, ...], scaled so that plain means need no further care.

    The mean of `values * weight`, over the rows of a share and then over all shares, is the weighted mean over the
    whole batch, however the weight is spread. In one process: the weight divided by its mean.
    """
    share, mine = _share.get(), my_share(whole)
    real = share.rows(len(whole)).to(whole.device) < len(whole)
    return mine * real.reshape(-1, *[1] * (whole.ndim - 1)) * (mine.numel() * share.of / whole.sum())


def my_draw(draw: Callable[..., Any], rows: int, *shape: int) -> Tensor:
    """Return random numbers [rows, *shape] for rows that are a share already: its rows of those of the whole batch.

    draw: takes a `size`, as the methods of numpy's generators do: `rng.random`, `partial(rng.integers, 4)`.
    """
    return my_share(torch.from_numpy(draw(size=(rows * _share.get().of, *shape))))


def my_normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    """Return noise like rows that are a share already, on their device; drawn on the CPU for the whole batch."""
    return my_draw(partial(rng.standard_normal, dtype=np.float32), *like.shape).to(like.device)


# --- weights and gradients -----------------------------------------------------------------------------------------


def shard(module: nn.Module, device: torch.device) -> None:
    """Spread the blocks of all transformers within over the processes (FSDP2); the small rest stays whole in each."""
    if not in_group():
        return
    mesh = init_device_mesh(device.type, (size(),))
    for net in module.modules():
        if isinstance(net, CausalTransformer):
            blocks = list(net.transformer.blocks)
            inner = {p for block in blocks for p in block.parameters()}
            for block in blocks:
                fully_shard(block, mesh=mesh)
            # It owns no weights: it is where the blocks' gathering of weights ahead is kept in step.
            fully_shard(net, mesh=mesh, ignored_params={p for p in net.parameters() if p not in inner})
            register_fsdp_forward_method(net, "forward_whole")


def split_by_kind(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that are spread, then those that each process has whole: torch's loops take one kind at a time."""
    kinds: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in parameters:
        kinds[isinstance(parameter, DTensor)].append(parameter)
    return [kind for kind in kinds.values() if kind]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make the gradients of the parameters that each process has whole their mean; FSDP has done so for the others."""
    grads = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
    if size() == 1 or not grads:
        return
    flat = mean(torch.cat([grad.reshape(-1) for grad in grads]))
    for grad, values in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(values.view(grad.shape))


def clip_gradients(parameters: Sequence[nn.Parameter], longest: float) -> Tensor:
    """Shorten the gradient to the norm `longest` and return the norm that it had, the same in every process."""
    kinds = split_by_kind(p for p in parameters if p.grad is not None)
    norms = [whole(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, longest, norm)
    return norm


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be spread over the processes, whole; all of them must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device of `like`, and spread over the processes as it is."""
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)  # each has the whole
    return value
