"""The networks of a model without their weights, on torch's meta device: every name and shape, and no memory.

Imports no torch until a network is built.
"""

from collections.abc import Mapping
from typing import Any, Literal

PartName = Literal["transformer", "vae", "text_encoder", "vae_tiny"]


def empty_network(part: PartName, config: Mapping[str, Any]) -> Any:
    """Return the network of a part of a pack, of this configuration, as its class builds it, on the meta device.

    config: what diffusers' or transformers' class takes. Raises ModelError where umT5's packages are not installed.
    """
    import torch

    with torch.device("meta"):  # no random start: of 14 B weights it would take minutes
        if part == "transformer":
            from causvid_cli.network.layers import WanTransformer3DModel

            return WanTransformer3DModel.from_config(config)
        if part == "vae":
            from causvid_cli.codec.wan import empty_vae

            return empty_vae(dict(config))
        if part == "vae_tiny":
            from causvid_cli.codec.taehv import TAEHV

            return TAEHV.from_config(dict(config))
        from causvid_cli.prompt.umt5 import empty_umt5

        return empty_umt5(dict(config))
