"""The tensors of a checkpoint, read piece by piece: of a file of any size no more is held than is at work.

Only where each tensor lies is taken from the file at first; its numbers are then read as from any file. Nothing is
mapped into memory, as torch and safetensors do it: such a map is writable, so a system with less memory than the file
has bytes refuses it, and what was read of it counts as held.

A pickle can hold code. It is read here with `weights_only=True`, which runs none, and only in a process that `apart`
starts for it.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from causvid_cli.errors import ModelError
from causvid_cli.weights.names import (
    ENTRIES,
)

PICKLES = {".pt", ".pth", ".bin", ".ckpt"}
Shape = tuple[int, ...]

PIECE_BYTES = 2**24
SAFE_TORCH = (2, 10)
"""From here on `weights_only=True` holds what it promises (CVE-2025-32434 and those after it)."""
LARGEST_LEGACY = 2**31
"""Bytes of a pickle in torch's form before 1.6, which is read whole."""
ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the numbers of a tensor lie: from byte `start` on, in order, or `stride` apart (in numbers)."""

    path: Path
    start: int
    shape: Shape
    dtype: torch.dtype
    stride: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Numbers from the first one to the last."""
        if self.stride is None:
            return prod(self.shape)
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))


class Tensors:
    """Named tensors of a file, or of several that belong together."""

    def __init__(self, places: Mapping[str, Place], held: Mapping[str, Tensor] | None = None) -> None:
        """held: tensors that are in memory already."""
        self._places, self._held = places, held or {}
        every: dict[str, Any] = {**self._places, **self._held}
        self.shapes: dict[str, Shape] = {name: tuple(each.shape) for name, each in every.items()}
        self.dtypes: dict[str, torch.dtype] = {name: each.dtype for name, each in every.items()}

    def load(self, name: str) -> Tensor:
        """A whole tensor."""
        return torch.cat(list(self.pieces(name))).view(self.shapes[name])

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A tensor's numbers in order, flat, a few at a time. Raises ModelError where the file ends too early."""
        if name in self._held:
            yield self._held[name].detach().flatten()
            return
        place = self._places[name]
        if place.stride is not None:
            numbers = _read(place, 0, place.count)
            yield torch.as_strided(numbers, place.shape, place.stride).flatten()
            return
        step = max(1, PIECE_BYTES // place.dtype.itemsize)
        for first in range(0, place.count, step):
            yield _read(place, first, min(step, place.count - first))


def open_tensors(path: Path, *, key: str | None = None) -> Tensors:
    """The tensors of a safetensors file, of the index of several, or of a pickle. Raises ModelError, in one line.

    key: the entry of a pickle under which they lie; by default one of `ENTRIES`, or the top.
    """
    if path.suffix in PICKLES:
        return _pickled(path, key)
    if not path.name.endswith(".index.json"):
        return Tensors(_in_safetensors(path))
    weight_map = _weight_map(path)
    found = {file: _in_safetensors(file) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in found[file]:
            raise ModelError(f"{file} lacks {name}, which its index names")
    return Tensors({name: found[file][name] for name, file in weight_map.items()})


def _read(place: Place, first: int, count: int) -> Tensor:
    """Numbers of a tensor from its first-th on."""
    buffer = bytearray(count * place.dtype.itemsize)
    with place.path.open("rb", buffering=0) as file:
        file.seek(place.start + first * place.dtype.itemsize)
        rest = memoryview(buffer)
        while rest:
            if not (got := file.readinto(rest)):
                raise ModelError(f"{place.path} is cut short; get it again")
            rest = rest[got:]
    return torch.frombuffer(buffer, dtype=torch.uint8).view(place.dtype)


# --- safetensors ---------------------------------------------------------------------------------------------------

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of them."""


def _in_safetensors(path: Path) -> dict[str, Place]:
    try:
        with safe_open(path, "np"):  # it checks that header and length agree, and that tensors fill the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        said = str(error).splitlines()[0][:200]
        raise ModelError(f"{path} cannot be read: {said}; get it again") from None
    places = {}
    for name, told in header.items():
        if name == "__metadata__":
            continue
        if told["dtype"] not in DTYPES:
            raise ModelError(f"{path}: {name} is {told['dtype']}: give float32, bfloat16 or float16 weights")
        start = 8 + length + told["data_offsets"][0]
        places[name] = Place(path, start, tuple(told["shape"]), DTYPES[told["dtype"]])
    return places


def _weight_map(index: Path) -> dict[str, Path]:
    """Tensor -> file, as the index of shards says."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / str(file) for name, file in weight_map.items()}
    except OSError as error:
        raise ModelError(f"{index} cannot be read: {(error.strerror or '').lower()}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is no index of safetensors files") from None
    for path in set(files.values()):
        if path.parent != index.parent:
            raise ModelError(f"{index}: weight_map must give each tensor the name of a file beside the index")
        if not path.is_file():
            raise ModelError(f"{path} is missing, which {index.name} names; get it again")
    return files


# --- pickles -------------------------------------------------------------------------------------------------------


def _pickled(path: Path, key: str | None) -> Tensors:
    is_zip = check_pickle(path)
    found = _entry(load_pickle(path, device="meta" if is_zip else "cpu"), key, str(path))
    if not is_zip:
        return Tensors({}, found)
    return Tensors({name: _place(path, name, tensor) for name, tensor in found.items()})


def load_pickle(path: Path, *, device: str) -> Any:
    """What a pickle of torch holds; nothing of it is run. Raises ModelError, in one line.

    device: "meta" reads no numbers; each storage then knows where its own begin in the file.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} {_what_was_refused(str(error))}") from None
    except Exception as error:  # what a damaged file makes torch raise is not limited to anything
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read: {said[:200]}; get it again") from None


def _place(path: Path, name: str, tensor: Tensor) -> Place:
    """Where the numbers of a tensor without numbers lie."""
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if start is None:
        raise ModelError(f"{path}: torch {torch.__version__} does not say where {name} lies; try a newer one")
    start += tensor.storage_offset() * tensor.dtype.itemsize
    stride = None if tensor.is_contiguous() else tensor.stride()
    return Place(path, start, tuple(tensor.shape), tensor.dtype, stride)


def check_pickle(path: Path) -> bool:
    """Whether a pickle is in torch's form since 1.6, a zip archive.

    Raises ModelError for one that is cut short, of another form, or cannot be read safely here.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        raise ModelError(
            f"{path}: torch {torch.__version__} cannot read a pickle safely; try pip install --upgrade 'torch>=2.10'"
        )
    with path.open("rb") as file:
        begins = file.read(4)
    size = path.stat().st_size
    if begins == ZIP:
        _check_archive(path, size)
        return True
    if not begins.startswith(b"\x80"):
        raise ModelError(f"{path} is no checkpoint of torch; if it was downloaded, get it again")
    if size > LARGEST_LEGACY:
        raise ModelError(f"{path} is in torch's form before 1.6, too large to be read whole; save it as safetensors")
    return False


def _check_archive(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
            order = next((name for name in archive.namelist() if name.endswith("/byteorder")), None)
            little = order is None or archive.read(order) == b"little"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        raise ModelError(f"{path} is cut short or damaged: it ends after {size} bytes; get it again") from None
    if packed or not little:
        what = "a compressed archive" if packed else "of another byte order"
        raise ModelError(f"{path} is {what}, not as torch.save writes one here; save it as safetensors")


def _what_was_refused(said: str) -> str:
    found = re.search(r"(?:Unsupported (?:global|class|operand)|GLOBAL)[^\w]*(?:GLOBAL )?([\w.]+\.[\w.]+)", said)
    what = f" ({found[1]})" if found else ""
    return (
        f"holds more than tensors{what}, and could run code: refused, and nothing of it was run; "
        "if you trust it, save its tensors as .safetensors"
    )


def _entry(checkpoint: Any, key: str | None, where: str) -> Mapping[str, Tensor]:
    """The tensors of a network in a checkpoint."""
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{where} holds {type(checkpoint).__name__}, not named tensors")
    nested = [name for name, value in checkpoint.items() if isinstance(value, Mapping)]
    if key is not None and key not in checkpoint:
        raise ModelError(f"{where} has no entry {key!r}; it holds {_some(checkpoint)}")
    chosen = key or next((entry for entry in ENTRIES if entry in nested), None)
    if chosen is None and any("lora" in str(name) for name in nested):
        raise ModelError(f"{where} is a LoRA ({_some(nested)}), which is no model by itself: give it with its model")
    tensors = checkpoint[chosen] if chosen else checkpoint
    if not isinstance(tensors, Mapping):
        raise ModelError(f"{where}: {chosen} is {type(tensors).__name__}, not named tensors")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{where}: {name} is {type(tensor).__name__}, not a tensor; it holds {_some(checkpoint)}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ModelError(f"{where}: {name} is a sparse or quantized tensor; give ordinary weights")
    return tensors


def _some(names: Any) -> str:
    few = [str(name) for name in names]
    return ", ".join(few[:4]) + (", ..." if len(few) > 4 else "")
