"""The calls of a network while something is made: what each is, how long it takes, how much it computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from causvid_cli.bench.flops import call_flops, parts_of, text_rows
from causvid_cli.device import DeviceEvent
from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import PromptCache
from causvid_cli.network.model import CLEAN_TIMESTEP, CausalTransformer

Kind = Literal["step", "clean", "joined"]
"""What a call computes: a step, a clean pass, or both in one (a clean pass and the next chunk's first step)."""


@dataclass(frozen=True, slots=True)
class NetworkCall:
    """One call of the network."""

    kind: Kind
    seconds: float
    flops: int


@contextmanager
def network_calls(model: CausalTransformer, device: torch.device) -> Iterator[Callable[[], list[NetworkCall]]]:
    """Every call of a network while the context is open; ask for them afterwards. No GPU is waited for meanwhile."""
    met: list[tuple[Kind, DeviceEvent, DeviceEvent, int]] = []
    prompts: list[PromptCache] = []
    own, plain = vars(model).get("forward"), model.forward

    def timed(x_t: Tensor, timestep: float | Tensor, prompt: PromptCache, **options: Any) -> Tensor:
        cache, chunk, merged = options["cache"], options["chunk"], options.get("merged_clean_pass")
        if new := all(prompt is not known for known in prompts):
            prompts.append(prompt)
        parts = parts_of(x_t, timestep, cache, chunk, merged)
        flops = call_flops(model.config, parts, text_rows=text_rows(prompt), new_prompt=new, batch=len(x_t))
        start = DeviceEvent(device)
        prediction = plain(x_t, timestep, prompt, **options)
        met.append((kind_of(timestep, merged), start, DeviceEvent(device), flops))
        return prediction

    model.forward = timed  # type: ignore[method-assign]  # hides the class's own
    try:
        yield lambda: [NetworkCall(kind, start.seconds_until(end), flops) for kind, start, end, flops in met]
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own  # type: ignore[method-assign]


def kind_of(timestep: float | Tensor, merged: tuple[Chunk, Tensor] | None) -> Kind:
    """What a call of the network with these arguments is."""
    if merged is not None:
        return "joined"
    return "clean" if timestep == CLEAN_TIMESTEP else "step"
