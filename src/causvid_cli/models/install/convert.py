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
from causvid_cli.models.install.conversion import ConversionSpec, LoraSpec, Recognised, WrittenPart
from causvid_cli.models.install.identify import Network, identify_network
from causvid_cli.weights.checkpoint import open_tensors
from causvid_cli.weights.files import plan_shards
from causvid_cli.weights.gguf import gguf_shapes
from causvid_cli.weights.lora import layer_names, tensor_role
from causvid_cli.weights.names import GGUF, mismatch
from causvid_cli.weights.stored import PIECE_BYTES, Tensors

KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Number formats of a pack, and safetensors' names of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A checkpoint that is open and recognised, and what it is to become."""

    spec: ConversionSpec
    tensors: Tensors
    network: Network
    dtypes: Mapping[str, torch.dtype]
    """Name in the pack -> number format there."""
    deltas: "Deltas | None"

    @property
    def bytes(self) -> int:
        return sum(prod(shape) * self.dtypes[name].itemsize for name, shape in self.network.shapes.items())

    def write(self, report: Callable[[int], None]) -> WrittenPart:
        """Write the folder of the network: shards, their index, config.json.

        report: told how many bytes more are written.
        """
        folder, stem = Path(self.spec.target), self.spec.stem
        folder.mkdir(parents=True)
        network = self.network
        keys = {name: key for key, name in reversed(network.names.items())}
        sizes = {name: prod(shape) * self.dtypes[name].itemsize for name, shape in network.shapes.items()}
        shards = plan_shards(sizes)
        hashes: dict[str, str] = {}
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{stem}.safetensors"
            hashes[file] = _write_shard(folder / file, names, self, keys, report)
            weight_map |= dict.fromkeys(names, file)
        if len(shards) > 1:
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
            write_text(folder / f"{stem}.safetensors.index.json", to_json(index, indent=2))
        write_text(folder / "config.json", to_json(network.config, indent=2, sort_keys=True) + "\n")
        return WrittenPart(part=network.part, sha256=hashes)


def convert(
    conversions: Sequence[ConversionSpec], *, approve: Callable[[list[Recognised]], None], report: Callable[[int], None]
) -> list[WrittenPart]:
    """Write the folder of each conversion; return what was written, in the same order.

    approve: told what each checkpoint is before anything is written; it raises when that is not wanted.
    report: told how many bytes more are written.
    Raises ModelError, in one line, for a checkpoint that is damaged, of something else, or not finite.
    """
    opened = [open_spec(spec) for spec in conversions]
    approve([_recognised(conversion) for conversion in opened])
    return [conversion.write(report) for conversion in opened]


def open_spec(spec: ConversionSpec) -> "Conversion | GgufCopy":
    if Path(spec.source).suffix.lower() == GGUF:
        return GgufCopy.open(spec)
    tensors = open_tensors(Path(spec.source), key=spec.key)
    network = identify_network(tensors.shapes, where=spec.source, config=spec.config, which=spec.network)
    dtypes = {}
    for key, name in network.names.items():
        given = tensors.dtypes[key]
        if not given.is_floating_point:
            raise ModelError(f"{spec.source}: {key} is {given}: give float32, bfloat16 or float16 weights")
        kept = given if given in KINDS else torch.float32
        dtypes[name] = getattr(torch, spec.dtype) if spec.dtype else kept
    deltas = Deltas.open(spec.lora, network) if spec.lora else None
    return Conversion(spec=spec, tensors=tensors, network=network, dtypes=dtypes, deltas=deltas)


def _recognised(conversion: "Conversion | GgufCopy") -> Recognised:
    network = conversion.network
    return Recognised(
        part=network.part,
        config=network.config,
        parameters=network.parameters,
        bytes=conversion.bytes,
        left_out=network.left_out,
    )


class Deltas:
    """What a LoRA adds to weights: scale * (up @ down), by the weight's name in a pack."""

    def __init__(self, tensors: Tensors, pairs: Mapping[str, tuple[str, str]], scale: float) -> None:
        self._tensors, self._pairs, self._scale = tensors, pairs, scale

    @classmethod
    def open(cls, lora: LoraSpec, network: Network) -> "Deltas":
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


def _write_shard(
    path: Path, names: Sequence[str], conversion: Conversion, keys: Mapping[str, str], report: Callable[[int], None]
) -> str:
    """One safetensors file; returns its sha256. The form is safetensors': a length, a JSON header, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    # wide numbers first, so that each lies at a multiple of its own size
    names = sorted(names, key=lambda name: -conversion.dtypes[name].itemsize)
    end = 0
    for name in names:
        shape, dtype = conversion.network.shapes[name], conversion.dtypes[name]
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = to_json(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        _put(file, digest, len(text).to_bytes(8, "little") + text)
        for name in names:
            for piece in _pieces(conversion, name, keys[name]):
                numbers: Any = piece.view(torch.uint8).numpy()
                report(_put(file, digest, memoryview(numbers)))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _pieces(conversion: Conversion, name: str, key: str) -> Iterator[Tensor]:
    """The numbers of a tensor as the pack holds them, flat, in order, finite."""
    if conversion.deltas and name in conversion.deltas:
        parts = iter([(conversion.tensors.load(key).float() + conversion.deltas.of(name)).flatten()])
    else:
        parts = conversion.tensors.pieces(key)
    for part in parts:
        made = part.to(conversion.dtypes[name]).contiguous()
        low, high = torch.aminmax(made)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            wrong = "not finite" if not torch.isfinite(part.float()).all() else f"too large for {conversion.spec.dtype}"
            raise ModelError(f"{conversion.spec.source}: {key} is {wrong}; the weights are unusable so")
        yield made


def _put(file: BinaryIO, digest: Any, data: bytes | memoryview) -> int:
    file.write(data)
    digest.update(data)
    return len(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufCopy:
    """The conversion of a GGUF file, which is copied as it is: its bits are the point."""

    spec: ConversionSpec
    network: Network

    @classmethod
    def open(cls, spec: ConversionSpec) -> "GgufCopy":
        """Raises ModelError, in one line, for a file that is damaged or of something else."""
        path = Path(spec.source)
        return cls(spec=spec, network=identify_network(gguf_shapes(path), where=spec.source, config=spec.config))

    @property
    def bytes(self) -> int:
        return Path(self.spec.source).stat().st_size

    def write(self, report: Callable[[int], None]) -> WrittenPart:
        """The folder: the file under its own name, and config.json."""
        source, folder = Path(self.spec.source), Path(self.spec.target)
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
        return WrittenPart(part=self.network.part, sha256={name: digest.hexdigest()})
