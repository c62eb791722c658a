"""The tensors of a checkpoint, read piece by piece: of a file of any size no more is held than is at work.

safetensors files and pickles of torch are mapped into memory. What was read stays resident until the mapping goes, so
the file is opened anew, which costs milliseconds, whenever `OPEN_BYTES` have been read.

A pickle can hold code. It is read here with `weights_only=True`, which runs none, and only in a process that `apart`
starts for it.
"""

import json
import pickle
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from causvid_cli.errors import ModelError
from causvid_cli.install.layout import PICKLES
from causvid_cli.install.recognise import Shape
from causvid_cli.keys import ENTRIES

MIB = 2**20
OPEN_BYTES = 128 * MIB
PIECE_BYTES = 16 * MIB
SAFE_TORCH = (2, 10)
"""From here on `weights_only=True` holds what it promises (CVE-2025-32434 and those after it)."""
LARGEST_LEGACY = 2**31
"""Bytes of a pickle in torch's form before 1.6, which cannot be mapped."""


class Tensors(ABC):
    """Named tensors of a file, or of several that belong together."""

    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]

    def __init__(self) -> None:
        self._read_bytes = 0

    def bytes(self, name: str) -> int:
        return prod(self.shapes[name]) * self.dtypes[name].itemsize

    def load(self, name: str) -> Tensor:
        """A whole tensor."""
        self._make_room(self.bytes(name))
        return self._get(name)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A tensor's numbers in order, flat, a few at a time."""
        count, step = prod(self.shapes[name]), PIECE_BYTES // self.dtypes[name].itemsize
        for start in range(0, count, step):
            self._make_room(min(step, count - start) * self.dtypes[name].itemsize)
            tensor = self._get(name)
            if not tensor.is_contiguous():  # to flatten it copies all of it
                yield tensor.flatten()
                return
            yield tensor.view(-1)[start : start + step]

    def _make_room(self, count: int) -> None:
        self._read_bytes += count
        if self._read_bytes > OPEN_BYTES:
            self.close()
            self._read_bytes = count

    @abstractmethod
    def close(self) -> None:
        """Let go of what was read; the next tensor opens the file again."""

    @abstractmethod
    def _get(self, name: str) -> Tensor: ...


def open_tensors(path: Path, *, key: str | None = None) -> Tensors:
    """The tensors of a safetensors file, of the index of several, or of a pickle. Raises ModelError, in one line.

    key: the entry of a pickle under which they lie; by default one of `ENTRIES`, or the top.
    """
    if path.suffix in PICKLES:
        return PickledTensors(path, key)
    if path.name.endswith(".index.json"):
        return SafeTensors(_shards(path))
    return SafeTensors({None: path})


class SafeTensors(Tensors):
    """Of safetensors files."""

    def __init__(self, files: Mapping[str | None, Path]) -> None:
        """files: which holds each tensor; that under None, all of its own."""
        super().__init__()
        self._open: dict[Path, Any] = {}
        self._file = {name: path for name, path in files.items() if name is not None}
        for path in sorted(set(files.values())):
            with _readable(path):
                names = list(self._handle(path).keys())
                self._file |= dict.fromkeys(names, path) if None in files else {}
                if missing := [name for name, file in self._file.items() if file == path and name not in names]:
                    raise ModelError(f"{path} lacks {missing[0]}, which its index names")
        self.shapes, self.dtypes = {}, {}
        for name, path in self._file.items():
            part = self._handle(path).get_slice(name)
            self.shapes[name] = tuple(part.get_shape())
            self.dtypes[name] = _dtype(part.get_dtype(), f"{path}: {name}")
        self.close()

    def close(self) -> None:
        self._open.clear()

    def _get(self, name: str) -> Tensor:
        path = self._file[name]
        with _readable(path):
            tensor: Tensor = self._handle(path).get_tensor(name)
        return tensor

    def _handle(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = safe_open(path, "pt")
        return self._open[path]


class PickledTensors(Tensors):
    """Of torch's pickles (.pt, .pth, .bin, .ckpt)."""

    def __init__(self, path: Path, key: str | None) -> None:
        super().__init__()
        check_pickle(path)
        self._path, self._key = path, key
        self._entry: Mapping[str, Tensor] | None = None
        found = self._tensors()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in found.items()}
        self.close()

    def close(self) -> None:
        self._entry = None

    def _get(self, name: str) -> Tensor:
        return self._tensors()[name].detach()

    def _tensors(self) -> Mapping[str, Tensor]:
        if self._entry is None:
            self._entry = _entry(load_pickle(self._path), self._key, str(self._path))
        return self._entry


def load_pickle(path: Path) -> Any:
    """What a pickle of torch holds, its tensors mapped; nothing of it is run. Raises ModelError, in one line."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} {_what_was_refused(str(error))}") from None
    except Exception as error:  # what a damaged file makes torch raise is not limited to anything
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read: {said[:200]}; get it again") from None


def check_pickle(path: Path) -> None:
    """Raise ModelError for a pickle that is cut short, too old to be mapped, or cannot be read safely here."""
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        raise ModelError(
            f"{path}: torch {torch.__version__} cannot read a pickle safely; try pip install --upgrade 'torch>=2.10'"
        )
    with path.open("rb") as file:
        begins = file.read(4)
    size = path.stat().st_size
    if begins == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is cut short: it ends after {size} bytes; get it again")
    if not begins.startswith((b"PK\x03\x04", b"\x80")):
        raise ModelError(f"{path} is no checkpoint of torch; if it was downloaded, get it again")
    if begins != b"PK\x03\x04" and size > LARGEST_LEGACY:
        raise ModelError(f"{path} is in torch's form before 1.6, too large to be read whole; save it as safetensors")


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


def _shards(index: Path) -> dict[str | None, Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files: dict[str | None, Path] = {str(name): index.parent / str(file) for name, file in weight_map.items()}
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


class _readable:
    """Turns what safetensors raises into ModelError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, SafetensorError | OSError):
            said = str(error).splitlines()[0][:200]
            raise ModelError(f"{self._path} cannot be read: {said}; get it again") from None


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


def _dtype(name: str, where: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelError(f"{where} is {name}: give float32, bfloat16 or float16 weights")
    return DTYPES[name]
