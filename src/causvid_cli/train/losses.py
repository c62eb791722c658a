"""What each stage minimises: pure functions of tensors."""

import torch.nn.functional as F
from torch import Tensor

from causvid_cli.config import Prediction
from causvid_cli.sampling.schedule import x0_from


def palette_cross_entropy(scores: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """The mean weighted cross-entropy of palette scores [N, P, H, W] against entries [N, H, W]; weight: [N, H, W]."""
    loss = F.cross_entropy(scores, indices.long(), reduction="none")
    return (loss * weight).sum() / weight.sum()


def flow_matching(
    prediction: Prediction,
    x_t: Tensor,
    output: Tensor,
    x0: Tensor,
    noise: Tensor,
    sigma: Tensor,
    weight: Tensor | None = None,
    *,
    least_sigma: float = 0.05,
) -> Tensor:
    """Return the mean weighted square of the flow's error (rectified flow, arXiv 2209.03003, eq. 1).

    x_t, output, x0, noise: [B, C, F, h, w]; sigma: [B] or [B, F] in (0, 1]; weight: broadcastable, >= 0.
    A network that predicts something else is judged by the flow that its x0 implies, its 1 / sigma held below
    1 / least_sigma.
    """
    level = sigma.clamp(min=least_sigma)
    if prediction == "flow":
        error = output.float() - (noise.float() - x0.float())
    else:
        error = (x0_from(prediction, x_t, output, sigma).float() - x0.float()) / level.reshape(len(level), 1, -1, 1, 1)
    return weighted_mean(error.square(), weight)


def x0_regression(
    prediction: Prediction, x_t: Tensor, output: Tensor, x0: Tensor, sigma: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the mean weighted square of the implied clean latent's error (CausVid 3.3, at the student's steps)."""
    error = x0_from(prediction, x_t, output, sigma).float() - x0.float()
    return weighted_mean(error.square(), weight)


def dmd_gradient(x0: Tensor, x0_real: Tensor, x0_fake: Tensor) -> Tensor:
    """Return where a sample must not go: the gradient of distribution matching, [B, C, F, h, w].

    x0: the student's sample; x0_real, x0_fake: what teacher and critic take for clean after noise was added to it; all
    [B, C, F, h, w]. The difference of the two scores is a multiple of x0_fake - x0_real (DMD, arXiv 2311.18828, eq. 7;
    CausVid, arXiv 2412.07772, eq. 3), divided for each clip by the mean distance of x0 from x0_real (DMD eq. 8), so
    that all noise levels weigh alike. Nothing of it carries a gradient.
    """
    x0, x0_real, x0_fake = (t.detach().float() for t in (x0, x0_real, x0_fake))
    distance = (x0 - x0_real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return (x0_fake - x0_real) / distance.clamp(min=1e-4)


def distribution_matching(x0: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient to x0 is `gradient` / its number of elements (DMD2, arXiv 2405.14867, section 3)."""
    return 0.5 * F.mse_loss(x0.float(), x0.detach().float() - gradient)


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of values under a weight that broadcasts to them and has mean 1 (`parallel.my_weight`)."""
    return values.mean() if weight is None else (values * weight).mean()


def sample_sigma(uniform: Tensor, *, shift: float) -> Tensor:
    """Return noise levels in (0, 1] from uniform numbers in [0, 1): shifted towards noise for shift > 1.

    shift s / (1 + (shift - 1) s) with s = 1 - uniform, as the roll-out's table has it (`sampling/schedule.py`).
    """
    s = 1 - uniform
    return shift * s / (1 + (shift - 1) * s)
