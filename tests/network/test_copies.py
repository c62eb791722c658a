"""Copies of what was there: what stands stays bit for bit, what moves a cell is copied from there."""

import pytest
import torch
from torch import Tensor

from causvid_cli.geometry import ROUND
from causvid_cli.network.copies import (
    BACK,
    BEGAN,
    CHOICES,
    HERE,
    MIRRORS,
    MOVES,
    PANS,
    PARTS,
    SHIFTS,
    Moves,
    composed,
    input_of,
    pictures_of,
    wrong_choices,
)
from causvid_cli.sampling.schedule import x0_from

CHANNELS, PICTURES = 6, 3
FIRST_MOVE, FIRST_MIRROR = len(SHIFTS), len(SHIFTS) + len(MOVES)
BEFORE = FIRST_MIRROR + len(MIRRORS)
FIRST_BEGAN = BEFORE + len(BACK)
SCENE, NEW = FIRST_BEGAN + len(BEGAN), CHOICES - 1


def there(moves: Moves, last: Tensor, before: Tensor, began: Tensor, scene: Tensor | None) -> Tensor:
    known = None if scene is None else moves.finely(scene)
    return moves.what_was_there(last, before, began, moves.scene_or_last(known, last))


def output_of(*wanted: int, logit: float = 1e4) -> Tensor:
    """What a network returns that draws 7 and wants one share alone, for each picture or for all of them."""
    shares = torch.zeros(2, len(wanted), CHOICES, 1, 5, 6)
    for picture, share in enumerate(wanted):
        shares[:, picture, share] = logit
    return torch.cat([torch.full((2, CHANNELS, 1, 5, 6), 7.0), shares.flatten(1, 2)], dim=1)


@pytest.fixture
def last() -> Tensor:
    return torch.randn(2, CHANNELS, 1, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def moves() -> Moves:
    """Moves of pictures of two channels: by p pixels, cells times p; mirrored, their channels the other way round."""
    found = Moves(CHANNELS // PICTURES)
    for kernel, pixels in zip(found.weight, MOVES, strict=False):
        kernel[:, :, 1, 1] = pixels * torch.eye(2)
    found.weight[-1, :, :, 1, 1] = torch.eye(2).flip(0)
    return found


@pytest.fixture
def was_there(last, moves) -> Tensor:
    return there(
        moves, last, torch.full_like(last, 5.0), last.flip((-2, -1)), torch.full((2, CHANNELS, 1, 5, ROUND), 3.0)
    )


@pytest.mark.parametrize("share", range(len(SHIFTS)))
def test_a_share_copies_a_cell_from_its_place_and_edges_go_on(last, was_there, share):
    down, right = SHIFTS[share]
    x0 = composed(was_there, output_of(share))
    for row in range(5):
        for column in range(6):
            y, x = min(max(row + down, 0), 4), min(max(column + right, 0), 5)
            assert torch.equal(x0[..., row, column], last[..., y, x])


def test_each_picture_of_a_latent_frame_copies_itself(was_there):
    wanted = (HERE, NEW, 3)
    x0 = composed(was_there, output_of(*wanted))
    for picture, share in enumerate(wanted):
        own = slice(2 * picture, 2 * picture + 2)
        assert torch.equal(x0[:, own], composed(was_there, output_of(share))[:, own])


@pytest.mark.parametrize("share", range(len(MOVES)))
def test_every_picture_can_be_the_first_one_moved_by_pixels(last, was_there, share):
    first = last[:, :2].repeat(1, PICTURES, 1, 1, 1)
    x0 = composed(was_there, output_of(*[FIRST_MOVE + share] * PICTURES))
    assert torch.allclose(x0, MOVES[share] * first)


@pytest.mark.parametrize("place", range(len(MIRRORS)))
def test_each_picture_can_be_its_own_mirror_image_about_any_column_near(last, was_there, place):
    columns = (torch.arange(6) + MIRRORS[place]).clamp(0, 5)
    x0 = composed(was_there, output_of(*[FIRST_MIRROR + place] * PICTURES))
    assert torch.equal(x0, last.unflatten(1, (PICTURES, 2)).flip(2).flatten(1, 2)[..., columns])


def test_moves_see_a_cells_neighbours_and_go_on_beyond_the_edges(last, moves):
    moves.weight.zero_()
    moves.weight[0, 0, 1, 2, 0] = 3.0  # of the second channel, from the cell below on the left
    moves.bias[0, 0] = 1.0
    moved = there(moves, last, last, last, None)[:, 3 * CHANNELS :][:, :2]
    rows, columns = (torch.arange(5) + 1).clamp(max=4), (torch.arange(6) - 1).clamp(min=0)
    assert torch.allclose(moved[:, 0], 1 + 3 * last[:, 1][..., rows, :][..., columns])
    assert not moved[:, 1].any()


def test_what_stays_as_it_is_never_fades_nor_does_what_comes_every_other_time(last, was_there, moves):
    x0 = was_there
    for _ in range(100):
        x0 = there(moves, composed(x0, output_of(HERE, HERE, HERE)), last, last, None)
    assert torch.equal(x0[:, :CHANNELS], last)
    first, second = last, torch.full_like(last, 5.0)
    for _ in range(100):
        first, second = composed(there(moves, first, second, last, None), output_of(BEFORE)), first
    assert torch.equal(first, last)
    assert torch.equal(composed(was_there, output_of(NEW)), torch.full_like(last, 7.0))
    assert torch.equal(composed(was_there, output_of(SCENE)), torch.full_like(last, 3.0))


@pytest.mark.parametrize("share", range(len(PANS)))
@pytest.mark.parametrize("place", [0, 3, 15])
def test_a_scene_goes_by_from_the_place_where_it_was_last_seen_whoever_stands_there(moves, share, place):
    """The kernels of these moves multiply by their pixels."""
    scene = torch.randn(2, CHANNELS, 1, 5, ROUND, generator=torch.Generator().manual_seed(1))
    columns = (ROUND - 6) // 2 + torch.arange(6) + place
    last = scene[..., columns % ROUND].clone()
    last[0, :, :, 1:4, 2:5] = 9.0
    last[:, 2:] = 4.0  # the first picture tells the place
    x0 = composed(there(moves, last, last, last, scene), output_of(*[SCENE + share] * PICTURES))
    way, went = PANS[share]
    for picture in range(PICTURES):
        further = PICTURES * went + way * picture
        cells = further // 8 + (further % 8 == 6)
        pixels = cells * 8 - further
        own = slice(2 * picture, 2 * picture + 2)
        seen = scene[:, own][..., (columns + cells) % ROUND]
        torch.testing.assert_close(x0[:, own], seen * (pixels or 1))


def test_a_scene_is_found_as_well_where_a_camera_stands_between_cells(moves):
    scene = torch.randn(2, CHANNELS, 1, 5, ROUND, generator=torch.Generator().manual_seed(1))
    for pixels, cells, factor in ((2, 0, -2), (4, 0, -4), (6, 1, 2)):
        last = factor * scene[..., 5 + cells : 11 + cells]
        x0 = composed(there(moves, last, last, last, scene), output_of(*[SCENE] * PICTURES))
        torch.testing.assert_close(x0, last), pixels


def test_where_nobody_knows_the_scene_what_was_there_goes_by_again_and_again(last, moves):
    scene = torch.zeros(2, CHANNELS, 1, 5, ROUND)
    scene[1] = torch.nan
    first = last[:, :2].repeat(1, PICTURES, 1, 1, 1)
    cells = torch.tensor([1, 1, 1]), torch.tensor([2.0, 1.0, -2.0])  # 6, 8 and 10 pixels, through the kernels
    first = first * cells[1].repeat_interleave(2).view(-1, 1, 1, 1)
    right = output_of(*[SCENE + PANS.index((2, 2))] * PICTURES)
    for known in (None, scene):
        x0 = composed(there(moves, last, last, last, known), right)
        torch.testing.assert_close(x0[1], first[1].roll(-1, dims=-1))
    assert not x0[0].any()


@pytest.mark.parametrize("share", range(len(BEGAN)))
def test_what_was_lost_comes_back_from_the_beginning_of_the_shot_also_where_it_has_risen(last, was_there, share):
    rows = (torch.arange(5) + BEGAN[share][0]).clamp(0, 4)
    x0 = composed(was_there, output_of(*[FIRST_BEGAN + share] * PICTURES))
    assert torch.equal(x0, last.flip((-2, -1))[..., rows, :])


def test_of_two_copies_as_right_of_the_truth_the_one_that_heals_ones_own_past_is_wanted(last, moves):
    truth = there(moves, last, last, last, None)
    torn = last.clone()
    torn[..., 2, 3] = 0
    own = there(moves, torn, torn, last, None)
    wrong = {share: wrong_choices(truth, output_of(share, logit=1.0), last, own) for share in (HERE, FIRST_BEGAN, NEW)}
    assert (wrong[FIRST_BEGAN] < wrong[HERE])[..., 2, 3].all() and (wrong[FIRST_BEGAN] < wrong[NEW])[..., 2, 3].all()
    for found in wrong.values():  # elsewhere it is right as it is, and nothing is to be learnt
        found[..., 2, 3] = 0
        assert not found.any()


def test_each_cell_makes_a_choice_of_its_own_and_a_whole_one(last, was_there):
    for logit in (1e-3, 1.0, 1e4):
        output = output_of(HERE)
        output[..., 2, 3] = output_of(NEW, logit=logit)[..., 2, 3]
        x0 = composed(was_there, output)
        assert (x0 != last).nonzero()[:, 3:].unique(dim=0).tolist() == [[2, 3]]
        assert (x0[..., 2, 3] == 7.0).all()


def test_choices_learn_as_if_they_were_shares(was_there):
    """While they learn they are: a mixture of all there is to choose from."""
    output = output_of(*[HERE] * PICTURES)
    output[:, CHANNELS:] = torch.randn(output[:, CHANNELS:].shape, generator=torch.Generator().manual_seed(1))
    output.requires_grad_()
    logits = output[:, CHANNELS:].unflatten(1, (PICTURES, CHOICES))
    parts = torch.stack([composed(was_there, output_of(share)).unflatten(1, (PICTURES, 2)) for share in range(CHOICES)])
    mixed = ((12 * logits).softmax(dim=2).movedim(2, 0).unsqueeze(3) * parts).sum(dim=0).flatten(1, 2)
    assert torch.allclose(composed(was_there, output), mixed, atol=1e-4)
    assert not torch.allclose(composed(was_there, output.detach()), mixed, atol=0.1)


def test_choosing_the_part_that_is_the_truth_is_what_wrong_choices_want(last, was_there):
    beside = SHIFTS.index((-1, 0))
    truth = composed(was_there, output_of(beside))
    wrong = {share: wrong_choices(was_there, output_of(share, logit=1.0), truth) for share in range(CHOICES)}
    assert wrong[HERE].shape == (2, 1, 1, 5, 6)
    differs = (truth - last).square().mean(dim=1, keepdim=True) > 0.5  # where it stays, nothing is to be chosen
    differs[..., :2, :] = False  # near the edge, which goes on, two rows further is the same
    assert all((wrong[beside] < found)[differs].all() for share, found in wrong.items() if share != beside)
    assert not wrong_choices(was_there, output_of(NEW), last).any()


def test_where_steep_shares_are_wrong_choices_still_tell_the_way(was_there):
    output = output_of(HERE, logit=3.0).requires_grad_()
    truth = composed(was_there, output_of(SHIFTS.index((0, 1)))).detach()
    loss = wrong_choices(was_there, output, truth).mean()
    (told,) = torch.autograd.grad(loss, output)
    (lost,) = torch.autograd.grad((composed(was_there, output) - truth).square().mean(), output)
    assert told.abs().max() > 100 * lost.abs().max()


def test_what_a_network_means_by_it_is_a_clean_latent_at_any_level(last, was_there):
    output = output_of(1)
    assert torch.equal(x0_from("copies", was_there, output, torch.tensor([1.0, 0.5])), composed(was_there, output))
    assert torch.equal(input_of("copies", was_there), last)
    assert was_there.shape[1] == PARTS * CHANNELS
    assert input_of("flow", was_there) is was_there
    assert composed(was_there.to(torch.bfloat16), output.to(torch.bfloat16)).dtype == torch.bfloat16


def test_how_many_pictures_have_shares_is_told_by_what_is_returned():
    assert [pictures_of(6, 6 + pictures * CHOICES) for pictures in (1, 2, 3, 6)] == [1, 2, 3, 6]
    assert [pictures_of(6, returned) for returned in (6, 7, 5, 0, 6 + 4 * CHOICES)] == [0] * 5
