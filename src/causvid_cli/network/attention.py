"""Which program computes attention: one of those that diffusers dispatches to, by its name there.

diffusers' kernels "from the hub" are left out: they are fetched as binaries when they are named, and run.
"""

from itertools import chain
from typing import Any

import torch

from causvid_cli.errors import DeviceError
from causvid_cli.extras import quietly
from causvid_cli.network.backbone import dispatched
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import AUTO


@torch.inference_mode()
def set_attention(model: CausalTransformer, name: str) -> None:
    """Let a back-end compute every attention of a network; auto leaves it to diffusers, whose choice is torch's own.

    Raises DeviceError unless it computes here what the network will ask of it: it is tried.
    """
    backend = None if name == AUTO else _find(name)
    if backend is not None:
        _try(model, backend)
    block: Any
    for block in model.transformer.blocks:
        for attention in (block.attn1, block.attn2):
            attention.processor._attention_backend = backend


def _find(name: str) -> Any:
    """Return diffusers' name of a back-end. Raises DeviceError when it has none such."""
    with quietly():
        from diffusers.models.attention_dispatch import AttentionBackendName
    try:
        return AttentionBackendName(name)
    except ValueError:
        raise DeviceError(f"--attention {name}: the installed diffusers does not know it; try auto") from None


def _try(model: CausalTransformer, backend: Any) -> None:
    """Attend from fewer tokens to more, as a chunk does, on the network's device and in its dtype."""
    weight = next(chain(model.transformer.parameters(), model.transformer.buffers()))
    heads, head_dim = model.config.num_attention_heads, model.config.attention_head_dim
    query, key = (torch.zeros(1, n, heads, head_dim, device=weight.device, dtype=weight.dtype) for n in (64, 128))
    try:
        _check_requirements(backend)
        dispatched(query, key, key, backend=backend)
    except Exception as error:  # whatever a foreign program raises where it cannot work
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DeviceError(
            f"--attention {backend.value} does not work on {weight.device} in "
            f"{str(weight.dtype).removeprefix('torch.')}: {said[:200]}; try auto"
        ) from error


def _check_requirements(backend: Any) -> None:
    """Raise what diffusers raises of a back-end's missing package, which says what to install; it may not tell."""
    from diffusers.models import attention_dispatch

    check = getattr(attention_dispatch, "_check_attention_backend_requirements", None)
    if check is not None:  # a private function, so it may be gone one day: then the trial itself says what is wrong
        check(backend)
