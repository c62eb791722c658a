"""Tensors that lie in files, read piece by piece: of a file of any size no more is held than is at work.

Only where each tensor lies is known at first; its numbers are then read as from any file. Nothing is mapped into
memory, as torch and safetensors do it: such a map is writable, so a system with less memory than the file has bytes
refuses it, and what was read of it counts as held.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from causvid_cli.errors import ModelError

Shape = tuple[int, ...]

PIECE_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where the numbers of a tensor lie: from byte `start` on, in order, or `stride` apart (in numbers)."""

    path: Path
    start: int
    shape: Shape
    dtype: torch.dtype
    stride: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Numbers from the first one to the last."""
        if self.stride is None or not all(self.shape):
            return prod(self.shape)
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.start + self.count * self.dtype.itemsize

    def read(self, first: int, count: int) -> Tensor:
        """Return some of the numbers, flat, from the first-th on. Raises ModelError where the file ends too early."""
        buffer = bytearray(count * self.dtype.itemsize)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + first * self.dtype.itemsize)
            rest = memoryview(buffer)
            while rest:
                if not (got := file.readinto(rest)):
                    raise ModelError(f"{self.path} is cut short; get it again")
                rest = rest[got:]
        return torch.frombuffer(buffer, dtype=torch.uint8).view(self.dtype)


@dataclass(frozen=True)
class Tensors:
    """Named tensors of a file, or of several that belong together.

    stored: those that lie in files; held: those that are in memory already. metadata: what the file says of itself.
    """

    stored: Mapping[str, StoredTensor]
    held: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        held = {name: tuple(tensor.shape) for name, tensor in self.held.items()}
        return {name: stored.shape for name, stored in self.stored.items()} | held

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        held = {name: tensor.dtype for name, tensor in self.held.items()}
        return {name: stored.dtype for name, stored in self.stored.items()} | held

    def load(self, name: str) -> Tensor:
        """Return a whole tensor. Raises ModelError where the file ends too early."""
        if name in self.held:
            return self.held[name].detach()
        stored = self.stored[name]
        pieces = list(self.pieces(name))
        return torch.cat(pieces).view(stored.shape) if pieces else torch.empty(stored.shape, dtype=stored.dtype)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Yield a tensor's numbers in order, flat, a few at a time. Raises ModelError where the file ends too early."""
        if name in self.held:
            yield self.held[name].detach().flatten()
            return
        stored = self.stored[name]
        if stored.stride is not None:
            numbers = stored.read(0, stored.count)
            yield torch.as_strided(numbers, stored.shape, stored.stride).flatten()
            return
        step = max(1, PIECE_BYTES // stored.dtype.itemsize)
        for first in range(0, stored.count, step):
            yield stored.read(first, min(step, stored.count - first))
