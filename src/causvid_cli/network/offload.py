"""A network larger than the device: its blocks wait in main memory and are fetched one by one (diffusers' hooks).

On CUDA the next block comes on a stream of its own while one is at work. All that is in no block stays on the device.
"""

from typing import Any

import torch
from torch import nn

from causvid_cli.extras import require

HOOK = "group_offloading"
"""What diffusers calls it."""


def offload_blocks(network: Any, device: torch.device) -> None:
    """Let the blocks of a `WanTransformer3DModel`, which lies in main memory, be fetched when they are called."""
    require("accelerate", "diffusers.hooks", extra="wan", what="--offload group")
    from diffusers.hooks import apply_group_offloading

    for name, module in network.named_children():
        if name != "blocks":
            module.to(device)
    for parameter in network.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    holder = nn.Module()  # the hooks go to lists of blocks; other parts of our forward pass are no module's call
    holder.blocks = network.blocks
    streams = device.type == "cuda" and len(network.blocks) > 1  # where it fetches the next, a block waits for its own
    apply_group_offloading(
        holder,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=streams,
        record_stream=streams,
    )
    if streams:
        _chain([block._diffusers_hook.get_hook(HOOK) for block in network.blocks])


def _chain(hooks: list[Any]) -> None:
    """Let each block fetch the one after it; diffusers does it itself where a module calls its own blocks.

    The first block of a call fetches itself, and waits for that where it fetches the next.
    """
    for hook, later in zip(hooks, hooks[1:], strict=False):
        hook.next_group = later.group
        later.group.onload_self = False
