"""Device, dtype, synchronisation and memory: the only file that says "cuda"."""

import gc
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from causvid_cli.errors import DeviceError
from causvid_cli.request import AUTO, check_device, check_dtype
from causvid_cli.units import bytes_text

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux keeps what a container may use."""

T = TypeVar("T")


def resolve_device(name: str, *, option: str = "--device") -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. Raises DeviceError when this machine has none such.

    option: where the user said so.
    """
    _, _, index = check_device(name, option=option).partition(":")
    if name == AUTO:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if torch.backends.mps.is_available():
            return torch.device("mps")
        raise DeviceError(f"{option} mps: this torch sees no Apple GPU; try {option} cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise DeviceError(f"{option} {name}: this torch sees no CUDA device; try {option} cpu")
    if index and int(index) >= count:
        raise DeviceError(f"{option} {name}: this torch sees {count} of them; try cuda:0 to cuda:{count - 1}")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for `auto`, `float32`, `bfloat16` or `float16`; on a CPU auto is float32, as bfloat16 is far slower."""
    if check_dtype(name) == AUTO:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name == "float16" and device.type == "cpu":
        raise DeviceError("--dtype float16 does not run on a CPU; try float32")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def computes_fp8(device: torch.device) -> bool:
    """Whether products of 8-bit floats run on the device: NVIDIA's Ada, Hopper and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


@contextmanager
def training_arithmetic(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """How a training step computes: products in bfloat16 by autocast, or all in float32.

    On a CPU attention is two plain products: for clips of a few hundred tokens the fused kernel's backward pass takes
    as long as all the rest of a step. They are in bfloat16 as well where the others are; if not told, torch makes them
    in float32, four to eight times slower, which is half of a step.
    """
    with ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            was = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # of CPUs as well, whatever its name
            stack.callback(torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp, was)
            torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        if bf16:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            stack.enter_context(warnings.catch_warnings())  # norms keep float32 weights, and torch says what that costs
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        yield


def use_threads(count: int | None, *, is_small: bool, device: torch.device) -> None:
    """Let CPU work take `count` threads; None is one for a small model, else what OpenMP chose: all cores.

    A small model's operations end within microseconds. Two threads then mostly wait for each other, and where another
    program holds one of their cores, the other spins until the system takes turns. OMP_NUM_THREADS, if set, stays.
    """
    if count is None and is_small and device.type == "cpu" and not os.environ.get("OMP_NUM_THREADS"):
        count = 1
    if count is not None:
        torch.set_num_threads(count)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_freed_memory() -> None:
    """Let memory of tensors up to 31 MiB stay with the process when they are freed.

    glibc gives large blocks back to the system at once, which then has to hand them out anew, zeroed page by page, for
    the next chunk: a quarter of a small model's time on a CPU. It learns from the largest that it has seen freed, up to
    32 MiB, so it is shown one. Nothing is written to it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def upload(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on a device; a GPU copies it when it comes to it, and nobody waits."""
    device = torch.device(device)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class SideStream:
    """A thread, and on a CUDA device a stream, in which work goes on beside that of the caller; one after another."""

    def __init__(self, device: torch.device) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def submit(self, work: Callable[..., T], *values: Any) -> "Future[T]":
        """Begin work on values, once the device has done what the caller asked of it so far.

        The result is there when the device has made it. Tensors among the values must not be changed meanwhile.
        """
        ready = self._stream and torch.cuda.current_stream(self._stream.device).record_event()
        return self._thread.submit(self._work, work, values, ready)

    def close(self) -> None:
        """Give up what is not begun, and wait for what is."""
        self._thread.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _work(self, work: Callable[..., T], values: tuple[Any, ...], ready: Any) -> T:
        if self._stream is None:
            return work(*values)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            for value in values:
                if isinstance(value, Tensor):
                    value.record_stream(self._stream)  # its memory is not given away before this stream is done
            result = work(*values)
            self._stream.synchronize()
        return result


def capture_cuda_graph(run: Callable[[], Tensor], *, device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """A CUDA graph of work on a device's tensors that stay where they are: what plays it, and where its result lies.

    The work is done thrice for it, so it must be such that doing it again changes nothing.
    """
    with torch.cuda.device(device):  # streams and graphs are of the current one
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are chosen and compiled in the first runs, which must not be recorded
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread, which decodes, may ask for memory meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = run()
    return graph.replay, out


def free_unused(device: torch.device) -> None:
    """Give memory that nothing holds any more back to the device, so that others find it free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: of the device on a GPU, of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return _peak_of_process()


def free_memory_bytes(device: torch.device) -> int:
    """Memory that more could be put into: of the device on a GPU, else of the machine or the container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, _free_of_container())


def _free_of_container() -> int:
    """What this process's container may still use; without a limit, more than any machine has."""
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        idle = re.search(r"^inactive_file (\d+)", (CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # "max", or another system
        return sys.maxsize
    return max(0, limit - used + (int(idle[1]) if idle else 0))  # the page cache is given up when memory is wanted


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_bytes` begin anew, where the system can: on CUDA, and on Linux for a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM


class DeviceEvent:
    """Now, as a device meets it: once all that was asked of it before is done. A GPU is not waited for."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(device))
        else:
            synchronize(device)
            self._clock = time.perf_counter()

    def seconds_until(self, later: "DeviceEvent") -> float:
        """Between two moments of one device; waits until it has met the later one."""
        if self._event is None:
            return later._clock - self._clock
        later._event.synchronize()
        return float(self._event.elapsed_time(later._event)) / 1000


def _peak_of_process() -> int:
    """Most memory that this process has held."""
    try:
        # Not ru_maxrss, which on Linux a process inherits from the one that started it.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset)
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def device_name(device: torch.device) -> str:
    """A device, and what kind it is where that is known: "cuda:0 (NVIDIA H100 80GB HBM3)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def describe_devices() -> list[str]:
    """One line per usable device."""
    lines = [f"cpu: {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            lines.append(f"cuda:{index}: {facts.name}, {bytes_text(facts.total_memory)}")
    if torch.backends.mps.is_available():
        lines.append("mps: Apple GPU")
    return lines
