"""Noise levels: the few steps of the student, the shift, and the flow equations. Pure functions.

x_t = (1 - sigma) x0 + sigma noise, flow = noise - x0 (rectified flow, arXiv 2209.03003); a network is fed the
timestep, 1000 sigma. The table is the one of Wan2.1, CausVid and Self-Forcing (`utils/scheduler.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from causvid_cli.config import Prediction
from causvid_cli.network.copies import composed

TABLE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """One network call of a chunk: what the network is fed, and the noise level that it stands for."""

    timestep: float
    sigma: float


@lru_cache
def sigma_table(shift: float) -> Tensor:
    """The TABLE_SIZE noise levels, falling from 1: float32, shift * s / (1 + (shift - 1) * s)."""
    s = torch.linspace(1.0, 0.0, TABLE_SIZE + 1)[:-1]
    return shift * s / (1 + (shift - 1) * s)


def timestep_table(shift: float) -> Tensor:
    """What the network is fed at each noise level of the table."""
    return sigma_table(shift) * TABLE_SIZE


def nearest_index(timesteps: Tensor, *, shift: float) -> Tensor:
    """Place of the table entry nearest to each timestep; the first one on a tie."""
    return (timestep_table(shift) - timesteps.reshape(-1, 1)).abs().argmin(dim=1)


def sigma_of(timesteps: Tensor, *, shift: float) -> Tensor:
    """Noise level of each timestep, by the nearest entry: timestep 0 finds the last entry, which is not 0."""
    return sigma_table(shift)[nearest_index(timesteps, shift=shift)]


def warp(nominal: Sequence[float], *, shift: float) -> Tensor:
    """Nominal steps on an even 1000..0 scale -> timesteps: step n is entry 1000 - n of the table with 0 appended."""
    table = torch.cat([timestep_table(shift), torch.zeros(1)])
    return table[[TABLE_SIZE - round(n) for n in nominal]]


def steps_of(nominal: Sequence[float], *, shift: float, warped: bool) -> tuple[Step, ...]:
    """The student's steps, noisiest first.

    nominal: timesteps as the checkpoint's configuration lists them (a final 0 is not a step and is left out). With
    shift 1 and no warp they are exact: sigma is timestep / 1000, not the nearest entry of a table (Causal-rCM, whose
    times are fractions such as 1600/1601).
    """
    nominal = [n for n in nominal if n > 0]
    if shift == 1 and not warped:
        return tuple(Step(n, n / TABLE_SIZE) for n in nominal)
    timesteps = warp(nominal, shift=shift) if warped else torch.tensor(nominal, dtype=torch.float32)
    sigmas = sigma_of(timesteps, shift=shift)
    return tuple(Step(t, s) for t, s in zip(timesteps.tolist(), sigmas.tolist(), strict=True))


def steps_from(steps: Sequence[Step], strength: float) -> tuple[Step, ...]:
    """The steps of a video that starts from another one, noised to `strength`, 0 < strength <= 1: those below it."""
    below = tuple(step for step in steps if step.sigma < strength)
    return tuple(steps) if strength >= steps[0].sigma else (Step(TABLE_SIZE * strength, strength), *below)


def even_steps(count: int) -> tuple[float, ...]:
    """`count` nominal steps that divide 1000..0 evenly, 0 left out."""
    return tuple(TABLE_SIZE * (1 - i / count) for i in range(count))


def sampler_sigmas(count: int, *, shift: float) -> list[float]:
    """Noise levels of a `count`-step ODE solution: count + 1 values from 1 to 0, shifted."""
    s = torch.linspace(1.0, 0.0, count + 1, dtype=torch.float64)
    return (shift * s / (1 + (shift - 1) * s)).tolist()


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Return uncond + scale * (cond - uncond): classifier-free guidance (arXiv 2207.12598).

    cond, uncond: predictions, or clean latents implied by them, under the prompt and under another one, such as the
    empty or a negative prompt. scale: 1 leaves cond as it is.
    """
    return uncond + scale * (cond - uncond)


def _level(sigma: float | Tensor, like: Tensor) -> float | Tensor:
    """A noise level that broadcasts over [B, C, F, h, w]: a number, one per clip [B], or one per frame [B, F]."""
    if not isinstance(sigma, Tensor):
        return sigma
    sigma = sigma.to(like.device, torch.float32)
    return sigma.reshape(sigma.shape[0], 1, -1, 1, 1)


def add_noise(x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """x_t at noise level sigma (a number, [B] or [B, F]); x0, noise: [B, C, F, h, w]."""
    s = _level(sigma, x0)
    return ((1 - s) * x0.float() + s * noise.float()).to(x0.dtype)


def x0_from_flow(x_t: Tensor, flow: Tensor, sigma: float | Tensor) -> Tensor:
    """Clean latent implied by a flow prediction: x_t - sigma * flow, in float32, returned in x_t's dtype."""
    return (x_t.float() - _level(sigma, x_t) * flow.float()).to(x_t.dtype)


def flow_from_x0(x_t: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
    """Flow implied by a clean latent: (x_t - x0) / sigma; sigma > 0."""
    return ((x_t.float() - x0.float()) / _level(sigma, x_t)).to(x_t.dtype)


def x0_from(prediction: Prediction, x_t: Tensor, output: Tensor, sigma: float | Tensor) -> Tensor:
    """Clean latent from what a network of this kind of prediction returned."""
    if prediction == "copies":
        return composed(x_t, output)
    return output if prediction == "x0" else x0_from_flow(x_t, output, sigma)


def flow_from(prediction: Prediction, x_t: Tensor, output: Tensor, sigma: float | Tensor) -> Tensor:
    """Flow from what a network of this kind of prediction returned, but for copies, which have none; sigma > 0."""
    return output if prediction == "flow" else flow_from_x0(x_t, output, sigma)
