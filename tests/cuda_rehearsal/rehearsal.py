"""A video on a CUDA device that is not there: every operation in its shapes, dtypes and places, without any numbers.

`FakeTensorMode` carries tensors of "cuda:0" through torch's CUDA build without a driver, and refuses to tell a value.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, finalize

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from causvid_cli.models import random_weights
from causvid_cli.models.load import make_ready
from causvid_cli.models.resolve import find_model
from causvid_cli.network import model as model_module
from causvid_cli.network import quantize
from causvid_cli.pipeline import Pipeline, Stream
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import Loading
from causvid_cli.weights import lora

GPU = torch.device("cuda:0")


@dataclass
class Witness(TorchDispatchMode):
    """What it sees on the GPU: live bytes, their peak, dtypes of products, and copies back to the host."""

    live: int = 0
    peak: int = 0
    products: dict[torch.dtype, int] = field(default_factory=dict)
    read_back: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.begin_anew()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        for each in made:
            if each.device.type == "cuda":
                self.hold(each)
                if each.dtype == torch.float64:
                    self.doubles.append(str(func))
                if func.overloadpacket in PRODUCTS:
                    self.products[each.dtype] = self.products.get(each.dtype, 0) + 1
            elif any(other.device.type == "cuda" for other in given):
                self.read_back.append(f"{func} {tuple(each.shape)}")
        return out

    def begin_anew(self) -> None:
        """Count what is there now, and forget the rest, of which torchao's conversions leave some behind."""
        self._seen: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self.live = self.peak = 0
        self.products.clear()
        gc.collect()
        for each in [each for each in gc.get_objects() if type(each) is FakeTensor and each.device.type == "cuda"]:
            self.hold(each)

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            finalize(storage, self._gone, size, self._seen)

    def _gone(self, size: int, counted: Any) -> None:
        if counted is self._seen:
            self.live -= size


aten = torch.ops.aten
PRODUCTS = {
    *(aten.mm, aten.addmm, aten.bmm, aten.linear, aten.matmul, aten.scaled_dot_product_attention),
    *(aten.convolution, aten.conv2d, aten.conv3d),
}
"""In inference mode operations come whole, else in their parts."""


class NoStream:
    """A stream, an event: nothing is done beside anything else here."""

    device = GPU

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "NoStream":
        return self

    def __exit__(self, *_: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., "NoStream"]:
        return lambda *_, **__: self


def really(work: Callable[..., Any]) -> Callable[..., Any]:
    """Work on small tensors of the CPU whose values are read, such as masks of frames."""

    def run(*args: Any) -> Any:
        with unset_fake_temporarily():
            return work(*args)

    return run


def is_plain(layer: nn.Linear) -> bool:
    """`quantize.is_plain` for weights that are fake."""
    return type(layer) is nn.Linear and type(layer.weight) in (nn.Parameter, FakeTensor)


def moved(tensor: Any, value: Any) -> None:
    """`tensor.data = value`, after which a fake one still says that it is where it was."""
    Tensor.data.__set__(tensor, value)  # type: ignore[attr-defined]
    tensor.fake_device = value.fake_device


def empty(network: nn.Module, dtype: torch.dtype, device: torch.device = GPU) -> None:
    """Give a network of the meta device weights on another, of which only shape and dtype are there."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            weight = torch.empty(parameter.shape, dtype=dtype, device=device)
            setattr(module, name, nn.Parameter(weight, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            kind = dtype if buffer.is_floating_point() else buffer.dtype
            setattr(module, name, torch.empty(buffer.shape, dtype=kind, device=device))


def converted(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which swaps weights in place; fake ones, to which others refer, cannot be."""
    for child in module.children():
        child._apply(fn)
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(fn(parameter.data), requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, fn(buffer))
    return module


class Rehearsal:
    """One GPU that is not there."""

    def __init__(self, monkeypatch: Any) -> None:
        """Stand in for what needs a driver."""
        self.witness = Witness()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        for name, value in {
            "pin_memory": lambda tensor, *_: tensor,
            "is_pinned": lambda tensor, *_: True,
            "record_stream": lambda *_: None,
        }.items():
            monkeypatch.setattr(Tensor, name, value)
        for name in ("Stream", "Event", "stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, NoStream)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
        monkeypatch.setattr(nn.Module, "_apply", converted)
        for module in (quantize, lora):
            monkeypatch.setattr(module, "is_plain", is_plain)
        monkeypatch.setattr(FakeTensor, "data", property(Tensor.data.__get__, moved), raising=False)
        monkeypatch.setattr(random_weights, "fill", lambda net, *, device, dtype: empty(net, dtype, device))
        monkeypatch.setattr(Stream, "_decode", shown)
        monkeypatch.setattr(
            random_weights.RandomText, "_features", lambda text, *_: self._features(text.rows, text.dim)
        )
        real = torch.from_numpy
        kind = {name: real(np.zeros(0, dtype=name)).dtype for name in ("uint8", "int64", "float32", "float64")}
        monkeypatch.setattr(torch, "from_numpy", lambda x: self._features(*x.shape, dtype=kind[x.dtype.name])[0])
        monkeypatch.setattr(model_module, "attention_parts", really(model_module.attention_parts))

    def _features(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        with self._mode:
            return torch.empty(1, *shape, dtype=dtype)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Inside, tensors are fake. What is planned, and prompts, are made outside: they are read."""
        with self._mode, self.witness:
            yield

    def load(self, name: str, loading: Loading, *, dtype: torch.dtype = torch.bfloat16) -> Pipeline:
        """A model of the catalogue as `pipeline.load` would load it on the GPU."""
        _, facts = find_model(name, loading=loading)
        where = torch.device("cpu") if loading.offload == "group" else GPU
        with self.inside():
            networks = [random_weights.random_transformer(facts, device=where, dtype=dtype) for _ in facts.networks]
            codec = random_weights.random_codec(loading.vae, device=GPU, dtype=dtype)
            for network in networks:
                make_ready(network, facts, loading, lora_files=(), device=GPU, dtype=dtype)
        self.witness.begin_anew()
        text = random_weights.random_text(facts)
        network, context, *_ = *networks, None
        return Pipeline(facts, folder=None, model=network, context_model=context, codec=codec, text=text, device=GPU)

    def play(self, pipeline: Pipeline, prompt: str | Sequence[Cue], **options: Any) -> Stream:
        """Make a video; returns what made it."""
        stream = pipeline.stream(prompt, **options)
        with self.inside():
            for _ in stream:
                pass
        return stream


def shown(stream: Stream, state: Any, chunk: Any, recomputed: Any, x0: Tensor) -> np.ndarray:
    """`Stream._decode` as far as the device goes: the copy to the host at its end is stood in for."""
    assert x0.device == GPU, x0.device
    decoded = stream._pipeline.codec.decode_chunk(x0, state=state)
    if recomputed:
        recomputed.show(decoded, start_frame=chunk.start_frame, count=chunk.frames)
    assert decoded.device == GPU, decoded.device
    return np.zeros(decoded[0].shape, dtype=np.uint8)
