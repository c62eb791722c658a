"""The processes that torchrun starts: how one joins the others, and which device is its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from causvid_cli.errors import DeviceError

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: one may be rendering clips. When one dies, torchrun ends them all."""
LEAVING = timedelta(seconds=20)
"""How long one that is done waits for the others to have received all that it sent."""


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun has started, if it has; yields the device of this one (gloo on CPU, else nccl).

    Raises DeviceError when there are fewer devices than processes.
    """
    if not dist.is_torchelastic_launched():
        yield device
        return
    device, store = my_device(device), meet()
    join(device, store)
    try:
        yield device
        _let_others_finish(store)
    finally:
        leave()


def _let_others_finish(store: dist.Store) -> None:
    """Wait a little for those that still receive what this process has sent last: its leaving would reset them."""
    store.set(f"finished/{dist.get_rank()}", "")
    with suppress(dist.DistError):  # another has failed, or the first, which may keep the store, has left already
        store.wait([f"finished/{rank}" for rank in range(dist.get_world_size())], LEAVING)


def meet() -> dist.Store:
    """Return the store that torchrun's processes share from their start on."""
    store, _, _ = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    return store


def join(device: torch.device, store: dist.Store) -> None:
    """Form the group of all processes, which is there once all have called this. device: of this process.

    It also exchanges what lies on the CPU, by gloo: without a name torch takes the back-end of a GPU alone.
    """
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl",
        timeout=PATIENCE,
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        device_id=None if device.index is None else device,
    )


def leave(*, in_order: bool = True) -> None:
    """End the group. in_order: whether all processes do; if not, NCCL might wait for those that are gone."""
    if dist.is_initialized() and (in_order or dist.get_backend() == "gloo"):
        dist.destroy_process_group()


def my_device(device: torch.device) -> torch.device:
    """Return this process's own device of a kind; see `own_device`."""
    return own_device(device, local_rank=int(os.environ["LOCAL_RANK"]), count=int(os.environ["LOCAL_WORLD_SIZE"]))


def own_device(device: torch.device, *, local_rank: int, count: int) -> torch.device:
    """Return the device of one of `count` processes on this machine. Raises DeviceError when it has none of its own."""
    if device.type == "cpu":
        return device
    if not dist.is_nccl_available() or dist.get_default_backend_for_device(device) != "nccl":
        raise DeviceError(f"--device {device}: torchrun's processes cannot share work there; try --device cpu")
    if device.index is not None and count > 1:
        raise DeviceError(f"--device {device}: {count} processes need a device each; leave out --device")
    there = torch.accelerator.device_count()
    if count > there:
        raise DeviceError(f"{count} processes need a device each, here are {there}; try --nproc-per-node {there}")
    return torch.device(device.type, device.index if count == 1 and device.index is not None else local_rank)
