"""Checkpoints that torch.save wrote, which are pickles and could hold code: opened in a process of their own.

There torch's reader with `weights_only=True`, which runs none, finds where each tensor lies in the file, and that is
all that this process hears, as JSON. The numbers themselves are then read here, as from any file (`weights/stored.py`).
"""

import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from causvid_cli.config import to_json
from causvid_cli.errors import DeviceError, ModelError
from causvid_cli.untrusted import LARGE, parse_object
from causvid_cli.weights.names import CAUSAL_LORA, ENTRIES
from causvid_cli.weights.stored import StoredTensor, Tensors

SAFE_TORCH = (2, 10)
"""From here on `weights_only=True` holds what it promises (CVE-2025-32434 and those after it)."""
LARGEST_LEGACY = 2**31
"""Bytes of a pickle in torch's form before 1.6, which is read whole."""
ZIP = b"PK\x03\x04"
OUT_OF_MEMORY = 5
"""The exit code of the process that opens a pickle."""


def open_pickle(path: Path, key: str | None = None) -> Tensors:
    """Return the tensors of a network, or of a LoRA, in a checkpoint of torch.

    key: the entry under which they lie; by default one of `ENTRIES`, in others of them too, or the top.
    Raises ModelError, in one line, and DeviceError when the system stops the process for its memory.
    """
    package = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    # -P: no module of the folder that the user happens to be in
    command = [sys.executable, "-P", "-m", __name__, str(path), *([key] if key is not None else [])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment)
    if done.returncode in (-signal.SIGKILL, OUT_OF_MEMORY):
        raise DeviceError(f"{path}: the conversion ran out of memory; close other programs and try again")
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-500:].strip()
        raise RuntimeError(f"{path}: the conversion ended with {done.returncode}: {said}")
    line, _, numbers = done.stdout.partition(b"\n")
    answer = parse_object(line, where=str(path), error=ModelError, most_bytes=LARGE)
    if "error" in answer:
        raise ModelError(answer["error"])
    stored = {
        name: StoredTensor(path, start, tuple(shape), getattr(torch, dtype), stride and tuple(stride))
        for name, (start, shape, dtype, stride) in answer["stored"].items()
    }
    return Tensors(stored, load(numbers) if numbers else {})


def main(path: str, key: str | None = None) -> None:
    """Answer on stdout, in the process that opens a pickle: a line of JSON, then tensors of the old form.

    Those, which are not read by where they lie, travel as a safetensors file.
    """
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes where errors go
    numbers = b""
    try:
        tensors = read_pickle(Path(path), key)
        answer: dict[str, Any] = {
            "stored": {
                name: (each.start, each.shape, str(each.dtype).removeprefix("torch."), each.stride)
                for name, each in tensors.stored.items()
            }
        }
        if tensors.held:  # cloned, because safetensors refuses views and tensors that share memory
            numbers = save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.held.items()})
    except ModelError as error:
        answer = {"error": str(error)}
    except (SafetensorError, OSError) as error:
        answer = {"error": f"{path} cannot be read: {error}"}
    except MemoryError:
        raise SystemExit(OUT_OF_MEMORY) from None
    with out:
        out.write(to_json(answer).encode() + b"\n" + numbers)


# --- in the process that opens a pickle ----------------------------------------------------------------------------


def read_pickle(path: Path, key: str | None = None) -> Tensors:
    """Do what `open_pickle` does, in this process."""
    is_zip = _check_form(path)
    found = _entry(_load(path, device="meta" if is_zip else "cpu"), key, str(path))
    if not is_zip:
        return Tensors({}, found)
    size = path.stat().st_size
    stored = {name: _stored(path, name, tensor) for name, tensor in found.items()}
    if beyond := next((name for name, each in stored.items() if each.end > size), None):
        raise ModelError(f"{path} is damaged: {beyond} lies beyond its end; get it again")
    return Tensors(stored)


def _load(path: Path, *, device: str) -> Any:
    """What a pickle of torch holds. device: "meta" reads no numbers; each storage then knows where its own begin."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} {_what_was_refused(str(error))}") from None
    except MemoryError:
        raise
    except Exception as error:  # what a damaged file makes torch raise is not limited to anything
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read: {said[:200]}; get it again") from None


def _stored(path: Path, name: str, tensor: Tensor) -> StoredTensor:
    """Where the numbers of a tensor without numbers lie."""
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if start is None:
        raise ModelError(f"{path}: torch {torch.__version__} does not say where {name} lies; try a newer one")
    start += tensor.storage_offset() * tensor.dtype.itemsize
    stride = None if tensor.is_contiguous() else tensor.stride()
    return StoredTensor(path, start, tuple(tensor.shape), tensor.dtype, stride)


def _check_form(path: Path) -> bool:
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


def _entry(checkpoint: Any, key: str | None, where: str) -> dict[str, Tensor]:
    """The tensors under an entry of a checkpoint, or under the first of `ENTRIES` that holds any, however deep.

    Those of a causal network's LoRA keep `CAUSAL_LORA` before their names, which tells what they are.
    """
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{where} holds {type(checkpoint).__name__}, not named tensors")
    if key is not None and key not in checkpoint:
        raise ModelError(f"{where} has no entry {key!r}; it holds {_some(checkpoint)}")
    if key is not None and not isinstance(checkpoint[key], Mapping):
        raise ModelError(f"{where}: {key} is {type(checkpoint[key]).__name__}, not named tensors")
    held = checkpoint[key] if key is not None else checkpoint
    depth = 0
    while depth < len(ENTRIES) and (
        entry := next((name for name in ENTRIES if isinstance(held.get(name), Mapping) and held[name]), None)
    ):
        held, depth = held[entry], depth + 1
    if isinstance(lora := held.get(CAUSAL_LORA), Mapping):
        held = {f"{CAUSAL_LORA}.{name}": tensor for name, tensor in lora.items()}
    for name, tensor in held.items():
        if not isinstance(name, str):
            raise ModelError(f"{where}: {name!r} is no name of a tensor, which is text")
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{where}: {name} is {type(tensor).__name__}, not a tensor; it holds {_some(checkpoint)}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ModelError(f"{where}: {name} is a sparse or quantized tensor; give ordinary weights")
    return dict(held)


def _some(names: Any) -> str:
    few = [str(name)[:80] for name in names]
    return ", ".join(few[:4]) + (", ..." if len(few) > 4 else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
