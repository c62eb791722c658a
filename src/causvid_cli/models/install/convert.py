"""A checkpoint -> a folder of safetensors in a pack: recognised, then streamed tensor by tensor.

Never more than a piece of a tensor is held (`stored.PIECE_BYTES`): a pickle is not loaded, and safetensors' own
writer, which wants all tensors of a file at once, is not used. Only a tensor that a LoRA is merged into is held whole.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from causvid_cli.config import to_json
from causvid_cli.errors import ModelError
from causvid_cli.files import write_text
from causvid_cli.models.install.conversion import Lora, Made, Order, Seen
from causvid_cli.models.install.identify import Network, recognise
from causvid_cli.weights.checkpoint import open_tensors
from causvid_cli.weights.files import plan_shards
from causvid_cli.weights.gguf import gguf_shapes
from causvid_cli.weights.lora import layer_names, tensor_role
from causvid_cli.weights.names import GGUF, mismatch
from causvid_cli.weights.stored import PIECE_BYTES, Tensors

KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Number formats of a pack, and safetensors' names of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An order whose checkpoint is open and recognised."""

    order: Order
    tensors: Tensors
    network: Network
    dtypes: Mapping[str, torch.dtype]
    """Name in the pack -> number format there."""
    deltas: "Deltas | None"

    @property
    def bytes(self) -> int:
        return sum(prod(shape) * self.dtypes[name].itemsize for name, shape in self.network.shapes.items())


def convert(
    orders: Sequence[Order], *, approve: Callable[[list[Seen]], None], report: Callable[[int], None]
) -> list[Made]:
    """Write the folders that are ordered.

    approve: told what each checkpoint is before anything is written; it raises when that is not wanted.
    report: told how many bytes more are written.
    Raises ModelError, in one line, for a checkpoint that is damaged, of something else, or not finite.
    """
    jobs = [recognise_order(order) for order in orders]
    approve([_seen(job) for job in jobs])
    return [job.write(report) if isinstance(job, PackedJob) else _write(job, report) for job in jobs]


def recognise_order(order: Order) -> "Job | PackedJob":
    if Path(order.source).suffix.lower() == GGUF:
        return PackedJob.open(order)
    tensors = open_tensors(Path(order.source), key=order.key)
    network = recognise(tensors.shapes, where=order.source, config=order.config)
    dtypes = {}
    for key, name in network.names.items():
        given = tensors.dtypes[key]
        if not given.is_floating_point:
            raise ModelError(f"{order.source}: {key} is {given}: give float32, bfloat16 or float16 weights")
        kept = given if given in KINDS else torch.float32
        dtypes[name] = getattr(torch, order.dtype) if order.dtype else kept
    deltas = Deltas.open(order.lora, network) if order.lora else None
    return Job(order=order, tensors=tensors, network=network, dtypes=dtypes, deltas=deltas)


def _seen(job: "Job | PackedJob") -> Seen:
    network = job.network
    return Seen(
        part=network.part,
        config=network.config,
        parameters=network.parameters,
        bytes=job.bytes,
        left_out=network.left_out,
    )


class Deltas:
    """What a LoRA adds to weights: scale * (up @ down), by the weight's name in a pack."""

    def __init__(self, tensors: Tensors, pairs: Mapping[str, tuple[str, str]], scale: float) -> None:
        self._tensors, self._pairs, self._scale = tensors, pairs, scale

    @classmethod
    def open(cls, lora: Lora, network: Network) -> "Deltas":
        """A LoRA of peft's form for a network. Raises ModelError when it does not fit it, whole."""
        tensors = open_tensors(Path(lora.source), key=lora.key)
        pairs: dict[str, dict[str, str]] = {}
        unknown = []
        layers = layer_names(network.config["num_layers"])
        for key in tensors.shapes:
            parameter, role = tensor_role(key, layers) or ("", "")
            if role in ("up", "down"):
                pairs.setdefault(parameter, {})[role] = key
            else:
                unknown.append(key)
        lonely = [name for name, pair in pairs.items() if len(pair) != 2]
        unlike = [
            name
            for name, pair in pairs.items()
            if len(pair) == 2
            and tensors.shapes[pair["up"]][:1] + tensors.shapes[pair["down"]][1:] != network.shapes[name]
        ]
        if problem := mismatch({"of other weights": unknown, "without their pair": lonely, "of another shape": unlike}):
            raise ModelError(f"{lora.source} is not a LoRA for this network: {problem}")
        if not pairs:
            raise ModelError(f"{lora.source} holds no LoRA")
        ranks = {tensors.shapes[pair["down"]][0] for pair in pairs.values()}
        if lora.rank is not None and ranks != {lora.rank}:
            raise ModelError(f"{lora.source} has rank {', '.join(map(str, sorted(ranks)))} instead of {lora.rank}")
        scale = 1.0 if lora.alpha is None else lora.alpha / max(ranks)
        return cls(tensors, {name: (pair["down"], pair["up"]) for name, pair in pairs.items()}, scale)

    def __contains__(self, name: str) -> bool:
        return name in self._pairs

    def of(self, name: str) -> Tensor:
        down, up = (self._tensors.load(key).float() for key in self._pairs[name])
        return self._scale * (up @ down)


def _write(job: Job, report: Callable[[int], None]) -> Made:
    """The folder of one network: shards, their index, config.json."""
    folder, stem = Path(job.order.target), job.order.stem
    folder.mkdir(parents=True)
    network = job.network
    keys = {name: key for key, name in reversed(network.names.items())}
    sizes = {name: prod(shape) * job.dtypes[name].itemsize for name, shape in network.shapes.items()}
    shards = plan_shards(sizes)
    hashes: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{stem}.safetensors"
        hashes[file] = _write_shard(folder / file, names, job, keys, report)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_text(folder / f"{stem}.safetensors.index.json", to_json(index, indent=2))
    write_text(folder / "config.json", to_json(network.config, indent=2, sort_keys=True) + "\n")
    return Made(part=network.part, sha256=hashes)


def _write_shard(
    path: Path, names: Sequence[str], job: Job, keys: Mapping[str, str], report: Callable[[int], None]
) -> str:
    """One safetensors file; returns its sha256. The form is safetensors': a length, a JSON header, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    # wide numbers first, so that each lies at a multiple of its own size
    names = sorted(names, key=lambda name: -job.dtypes[name].itemsize)
    end = 0
    for name in names:
        shape, dtype = job.network.shapes[name], job.dtypes[name]
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = to_json(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        _put(file, digest, len(text).to_bytes(8, "little") + text)
        for name in names:
            for piece in _pieces(job, name, keys[name]):
                numbers: Any = piece.view(torch.uint8).numpy()
                report(_put(file, digest, memoryview(numbers)))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _pieces(job: Job, name: str, key: str) -> Iterator[Tensor]:
    """The numbers of a tensor as the pack holds them, flat, in order, finite."""
    if job.deltas and name in job.deltas:
        parts = iter([(job.tensors.load(key).float() + job.deltas.of(name)).flatten()])
    else:
        parts = job.tensors.pieces(key)
    for part in parts:
        made = part.to(job.dtypes[name]).contiguous()
        low, high = torch.aminmax(made)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            wrong = "not finite" if not torch.isfinite(part.float()).all() else f"too large for {job.order.dtype}"
            raise ModelError(f"{job.order.source}: {key} is {wrong}; the weights are unusable so")
        yield made


def _put(file: BinaryIO, digest: Any, data: bytes | memoryview) -> int:
    file.write(data)
    digest.update(data)
    return len(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedJob:
    """An order for a GGUF file, which is copied as it is: its bits are the point."""

    order: Order
    network: Network

    @classmethod
    def open(cls, order: Order) -> "PackedJob":
        """Raises ModelError, in one line, for a file that is damaged or of something else."""
        path = Path(order.source)
        return cls(order=order, network=recognise(gguf_shapes(path), where=order.source, config=order.config))

    @property
    def bytes(self) -> int:
        return Path(self.order.source).stat().st_size

    def write(self, report: Callable[[int], None]) -> Made:
        """The folder: the file under its own name, and config.json."""
        source, folder = Path(self.order.source), Path(self.order.target)
        name = source.with_suffix(GGUF).name  # in small letters, as it is looked for
        folder.mkdir(parents=True)
        digest = hashlib.sha256()
        with source.open("rb") as whole, (folder / name).open("wb") as file:
            while piece := whole.read(PIECE_BYTES):
                file.write(piece)
                digest.update(piece)
                report(len(piece))
            file.flush()
            os.fsync(file.fileno())
        write_text(folder / "config.json", to_json(self.network.config, indent=2, sort_keys=True) + "\n")
        return Made(part=self.network.part, sha256={name: digest.hexdigest()})
