"""Kernels that say how latents change when a picture moves: measured, they do what moving the picture does."""

import pytest
import torch

from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.network.copies import MOVES, PARTS
from causvid_cli.storybook import FIRST_WORDS
from causvid_cli.train.moves import measure_moves


class Linear(PixelCodec):
    """A codec whose cells are linear in their pixels: each channel is the mean of another pattern of columns."""

    def encode_frames(self, indices):
        patterns = torch.eye(8)[: self.cell_channels]
        cells = indices.float().unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).mean(dim=2)  # [N, h, w, 8]
        return (cells @ patterns.T).movedim(-1, 1)


@pytest.fixture
def codec() -> PixelCodec:
    torch.manual_seed(0)
    codec = Linear(palette=torch.zeros(48, 3), cell_channels=8, encoder_widths=(4, 4, 4), decoder_widths=(4, 4, 4))
    codec.latents_mean.copy_(torch.randn(8))
    codec.latents_std.copy_(torch.rand(8) + 0.5)
    return codec


def test_what_is_linear_is_found_exactly_up_to_the_ridge(codec):
    moves = measure_moves(codec, FIRST_WORDS, seed=0, frames=64)
    indices = torch.randint(48, (2, 64, 64), generator=torch.Generator().manual_seed(1))

    def cells(pictures):
        return codec.encode_indices(pictures.unsqueeze(1).expand(-1, 4, -1, -1))

    last = cells(indices)
    was_there = moves.what_was_there(last, last, last, moves.scene_or_last(None, last)).chunk(PARTS, dim=1)
    for part, pixels in zip(was_there[3:], MOVES, strict=False):
        wanted = cells(indices.roll(pixels, -1))[..., 1:-1]  # what comes in at an edge is another thing
        assert ((part[..., 1:-1] - wanted).square().mean() / wanted.square().mean()) < 1e-2, pixels
    mirrored = cells(indices.flip(-1)).flip(-1)
    assert ((was_there[3 + len(MOVES)] - mirrored).square().mean() / mirrored.square().mean()) < 1e-2


def test_equal_seeds_measure_equal_kernels(codec):
    first, again, other = (measure_moves(codec, FIRST_WORDS, seed=seed, frames=32) for seed in (3, 3, 4))
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, other.weight)
