"""Features of timesteps are those of float64, which no device but the CPU has to have."""

import torch

from causvid_cli.network.timestep import features_of_number, features_of_tensor

CPU = torch.device("cpu")


def wanted(timesteps: torch.Tensor, size: int) -> torch.Tensor:
    """The formula, in float64."""
    angles = timesteps.double().unsqueeze(-1) * 10000.0 ** -(torch.arange(size // 2).double() / (size // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def test_features_of_a_number_are_cosines_and_then_sines_rounded_once():
    assert features_of_number(0.0, 6, device=CPU, dtype=torch.float32).tolist() == [[1, 1, 1, 0, 0, 0]]
    for timestep in (999.5, 1000.0, 3.25, 937.4999):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            features = features_of_number(timestep, 6, device=CPU, dtype=dtype)
            assert torch.equal(features, wanted(torch.tensor([timestep]), 6).to(dtype))


def test_features_of_tensors_are_as_exact_as_float32_can_say():
    timesteps = torch.cat([torch.tensor([0.0, 0.5, 999.5, 1000.0]), 1000 * torch.rand(5000)]).view(2, -1)
    features = features_of_tensor(timesteps, 256)
    assert features.dtype == torch.float32 and features.shape == (*timesteps.shape, 256)
    difference = (features - wanted(timesteps, 256)).abs().max().item()
    assert difference < 3e-7, difference  # five roundings of numbers up to 1, of 6e-8 each
