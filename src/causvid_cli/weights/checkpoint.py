"""Open a checkpoint as it is published: a safetensors file, a pickle of torch, or the index of several of either."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from causvid_cli.errors import ModelError
from causvid_cli.files import check_file
from causvid_cli.untrusted import LARGE, parse_object, read_object
from causvid_cli.weights.names import PICKLES
from causvid_cli.weights.pickles import open_pickle
from causvid_cli.weights.stored import StoredTensor, Tensors

INDEX = ".index.json"
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
"""safetensors' names of number formats."""


def open_tensors(path: Path, *, key: str | None = None) -> Tensors:
    """Return the tensors of a safetensors file, of a pickle, or of the index of several.

    key: the entry of a pickle under which they lie; by default one of `ENTRIES`, or the top.
    Raises ModelError, in one line.
    """
    check_file(path)
    if not path.name.endswith(INDEX):
        return open_pickle(path, key) if path.suffix.lower() in PICKLES else _open_safetensors(path)
    weight_map = _weight_map(path)
    shards = {file: open_tensors(file, key=key) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file].shapes:
            raise ModelError(f"{file} lacks {name}, which its index names")
    in_file = {name: shards[file] for name, file in weight_map.items()}
    return Tensors(
        {name: shard.stored[name] for name, shard in in_file.items() if name in shard.stored},
        {name: shard.held[name] for name, shard in in_file.items() if name in shard.held},
    )


def _open_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, "np"):  # it checks that header and length agree, and that tensors fill the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_object(file.read(length), where=str(path), error=ModelError, most_bytes=LARGE)
    except (SafetensorError, OSError) as error:
        said = str(error).splitlines()[0][:200]
        raise ModelError(f"{path} cannot be read: {said}; get it again") from None
    metadata = header.pop("__metadata__", {})
    stored = {}
    for name, told in header.items():
        if told["dtype"] not in DTYPES:
            raise ModelError(f"{path}: {name} is {told['dtype']}: give float32, bfloat16 or float16 weights")
        start = 8 + length + told["data_offsets"][0]
        stored[name] = StoredTensor(path, start, tuple(told["shape"]), DTYPES[told["dtype"]])
    return Tensors(stored, metadata=metadata)


def _weight_map(index: Path) -> dict[str, Path]:
    """Tensor -> file, as the index of shards says."""
    weight_map = read_object(index, error=ModelError).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{index} is no index of files of weights")
    files = {name: index.parent / str(file) for name, file in weight_map.items()}
    for path in set(files.values()):
        if path.parent != index.parent or path.name.endswith(INDEX):
            raise ModelError(f"{index}: weight_map must give each tensor the name of a file beside the index")
        if not os.path.isfile(path):
            raise ModelError(f"{path} is missing, which {index.name} names; get it again")
    return files
