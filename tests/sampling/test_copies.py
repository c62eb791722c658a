"""Copies of what was there: what stands stays bit for bit, what moves a cell is copied from there."""

import pytest
import torch
from torch import Tensor

from causvid_cli.sampling.copies import HERE, SHARES, SHIFTS, composed, pictures_of
from causvid_cli.sampling.schedule import flow_from, x0_from

CHANNELS, PICTURES = 6, 3
NEW = SHARES - 1


def output_of(before: Tensor, *wanted: int, logit: float = 1e4) -> Tensor:
    """What a network returns that draws 7 and wants one share alone, for each picture or for all of them."""
    shares = torch.zeros(len(before), len(wanted), SHARES, *before.shape[2:])
    for picture, share in enumerate(wanted):
        shares[:, picture, share] = logit
    return torch.cat([torch.full_like(before, 7.0), shares.flatten(1, 2)], dim=1)


@pytest.fixture
def before() -> Tensor:
    return torch.randn(2, CHANNELS, 1, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", range(len(SHIFTS)))
def test_a_share_copies_a_cell_from_its_place_and_edges_go_on(before, share):
    down, right = SHIFTS[share]
    x0 = composed(before, output_of(before, share))
    for row in range(5):
        for column in range(6):
            y, x = min(max(row + down, 0), 4), min(max(column + right, 0), 5)
            assert torch.equal(x0[..., row, column], before[..., y, x])


def test_each_picture_of_a_latent_frame_copies_itself(before):
    wanted = (HERE, NEW, 3)
    x0 = composed(before, output_of(before, *wanted))
    for picture, share in enumerate(wanted):
        own = slice(2 * picture, 2 * picture + 2)
        assert torch.equal(x0[:, own], composed(before, output_of(before, share))[:, own])


def test_what_stays_as_it_is_never_fades_and_the_last_share_is_new(before):
    x0 = before
    for _ in range(100):
        x0 = composed(x0, output_of(before, HERE, HERE, HERE))
    assert torch.equal(x0, before)
    assert torch.equal(composed(before, output_of(before, NEW)), torch.full_like(before, 7.0))


def test_shares_sum_to_one_and_each_cell_has_its_own(before):
    even = composed(before, output_of(before, HERE, logit=0.0))
    parts = [composed(before, output_of(before, share)) for share in range(SHARES)]
    assert torch.allclose(even, sum(parts) / SHARES, atol=1e-6)
    output = output_of(before, HERE)
    output[..., 2, 3] = output_of(before, NEW)[..., 2, 3]
    x0 = composed(before, output)
    assert (x0 != before).nonzero()[:, 3:].unique(dim=0).tolist() == [[2, 3]]


def test_what_a_network_means_by_it_is_a_clean_latent_at_any_level(before):
    output, level = output_of(before, 1), torch.tensor([1.0, 0.5])
    x0 = composed(before, output)
    assert torch.equal(x0_from("copies", before, output, level), x0)
    flow = flow_from("copies", before, output, level)
    assert torch.allclose(before - level.view(-1, 1, 1, 1, 1) * flow, x0, atol=1e-6)
    half = composed(before.to(torch.bfloat16), output.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_how_many_pictures_have_shares_is_told_by_what_is_returned():
    assert [pictures_of(6, 6 + pictures * SHARES) for pictures in (1, 2, 3, 6)] == [1, 2, 3, 6]
    assert [pictures_of(6, returned) for returned in (6, 7, 5, 0, 6 + 4 * SHARES)] == [0] * 5
