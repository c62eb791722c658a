"""The slow way: solve the flow's ODE in many guided steps. What the teacher does, and what the student learns from."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from causvid_cli.config import Prediction
from causvid_cli.network.cache import PromptCache
from causvid_cli.sampling.schedule import cfg, flow_from

Predict = Callable[[Tensor, float, PromptCache], Tensor]
"""(x_t, timestep, prompt) -> the network's prediction."""


def guided_flow(
    predict: Predict,
    prediction: Prediction,
    x_t: Tensor,
    sigma: float,
    both: PromptCache,
    guidance: float,
) -> Tensor:
    """Return the flow [B, C, F, h, w] with classifier-free guidance (arXiv 2207.12598, eq. 6), in one call.

    sigma: the noise level of x_t [B, C, F, h, w], 0..1. both: B prompts, then B empty ones:
    one call, so half as many and larger products.
    """
    pair = torch.cat([x_t, x_t])
    flow, other = flow_from(prediction, pair, predict(pair, 1000 * sigma, both), sigma).chunk(2)
    return cfg(flow, other, guidance)


def solve_ode(
    predict: Predict,
    prediction: Prediction,
    noise: Tensor,
    sigmas: Sequence[float],
    prompt: PromptCache,
    *,
    empty: PromptCache | None = None,
    guidance: float = 1.0,
) -> Iterator[tuple[float, Tensor]]:
    """Yield (sigma, x_t) at every noise level of a falling schedule, by Euler steps; the last one, at 0, is x0.

    noise: x_t at sigmas[0], [B, C, F, h, w]. guidance: by how much, away from the empty prompt; 1 is none.
    """
    both = prompt.stack(empty) if empty and guidance != 1 else None
    x_t = noise
    yield sigmas[0], x_t
    for sigma, sigma_next in pairwise(sigmas):
        if both:
            flow = guided_flow(predict, prediction, x_t, sigma, both, guidance)
        else:
            flow = flow_from(prediction, x_t, predict(x_t, 1000 * sigma, prompt), sigma)
        x_t = x_t + (sigma_next - sigma) * flow
        yield sigma_next, x_t
