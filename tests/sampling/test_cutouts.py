"""Who is cut out of how a shot began, and set on the scene anew, by a codec whose latents are the pixels themselves."""

import torch
from torch import Tensor

from causvid_cli.codec.pixel import CutOut
from causvid_cli.geometry import ROUND
from causvid_cli.network.copies import CELL, Moves
from causvid_cli.sampling.cutouts import MOST_PARTS, CutOuts, _parts

PICTURES, SIDE = 4, 8
PLACE = torch.zeros(1, dtype=torch.long)


class Pixels:
    """A codec that loses nothing."""

    def encode_indices(self, indices: Tensor) -> Tensor:
        cells = torch.nn.functional.pixel_unshuffle(indices.float(), CELL)  # [B, T * 64, h, w]
        return cells.unsqueeze(2) / 4

    def decode_indices(self, x0: Tensor) -> Tensor:
        return torch.nn.functional.pixel_shuffle(4 * x0.squeeze(2), CELL).round().to(torch.uint8)

    def cut_out(self, x0: Tensor, scene: Tensor) -> CutOut:
        shown, empty = self.decode_indices(x0), self.decode_indices(scene)
        return CutOut(shown, shown != empty)

    def on_scene(self, who: CutOut, scene: Tensor) -> Tensor:
        return self.encode_indices(torch.where(who.is_somebody, who.entries, scene))

    def on_other_scene(self, x0: Tensor, scene: Tensor, other: Tensor) -> Tensor:
        return self.on_scene(self.cut_out(x0, scene), self.decode_indices(other))


CODEC, MOVES = Pixels(), Moves(CELL * CELL)


def any_entries(*shape: int, seed: int, low: int, high: int) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


SCENE = any_entries(1, PICTURES, CELL * SIDE, CELL * ROUND, seed=0, low=0, high=24)
BARE = SCENE[..., (SCENE.shape[-1] - CELL * SIDE) // 2 :][..., : CELL * SIDE]
DANCER = any_entries(1, PICTURES, 22, 18, seed=1, low=24, high=48)
NOTE = any_entries(1, PICTURES, 6, 6, seed=2, low=24, high=48)


def drawn(*steps: tuple[int, int]) -> Tensor:
    """Pictures of a dancer so many cells further down and right in each, off the grid, and of a note that stays."""
    pictures = BARE.clone()
    for number, (down, right) in enumerate(steps):
        top, left = 29 + CELL * down, 19 + CELL * right
        pictures[:, number, top : top + 22, left : left + 18] = DANCER[:, number]
        pictures[:, number, 3:9, 50:56] = NOTE[:, number]
    return pictures


def copied(*steps: tuple[int, int]) -> Tensor:
    """The same by cells that are copied whole, with what of the scene is in them."""
    began, copy = drawn(*[(0, 0)] * PICTURES), BARE.clone()
    rows, columns = slice(24, 56), slice(16, 40)
    for number, (down, right) in enumerate(steps):
        there = slice(24 + CELL * down, 56 + CELL * down), slice(16 + CELL * right, 40 + CELL * right)
        copy[:, number, *there] = began[:, number, rows, columns]
        copy[:, number, :16, 48:56] = began[:, number, :16, 48:56]
    return CODEC.encode_indices(copy)


STAND, HOP = [(0, 0)] * PICTURES, [(0, 0), (-1, 0), (-2, 0), (-1, 1)]
BEGAN = CODEC.encode_indices(drawn(*STAND))


def cut_outs(began: Tensor = BEGAN) -> CutOuts:
    scene = MOVES.finely(CODEC.encode_indices(SCENE)).expand(len(began), *[-1] * 5)
    return CutOuts(CODEC, MOVES, scene, began)


def test_who_has_gone_to_other_cells_is_set_there_without_what_was_behind_them():
    x0, can_tell = copied(*HOP), torch.tensor([True])
    assert (CODEC.decode_indices(x0) != drawn(*HOP)).any()
    anew = cut_outs().gone_elsewhere(x0, PLACE, can_tell)
    assert torch.equal(CODEC.decode_indices(anew), drawn(*HOP))
    assert torch.equal(anew[:, :64], x0[:, :64])  # nobody has gone in the first picture


def test_what_else_happens_away_from_who_has_gone_stays():
    x0 = copied(*HOP)
    x0[..., 6:, 7:] += 1
    anew = cut_outs().gone_elsewhere(x0, PLACE, torch.tensor([True]))
    assert torch.equal(anew[..., 6:, 7:], x0[..., 6:, 7:]) and not torch.equal(anew, x0)


def test_a_picture_of_which_some_part_is_nowhere_is_as_it_was_and_so_is_one_of_a_camera_that_goes():
    x0, who = copied(*HOP), cut_outs()
    assert who.gone_elsewhere(x0, PLACE, torch.tensor([False])) is x0
    stands = copied(*STAND)
    assert who.gone_elsewhere(stands, PLACE, torch.tensor([True])) is stands
    assert "parts" not in vars(who)  # nobody is looked for where nobody has gone
    lost = x0.clone()
    lost[:, 2 * 64 : 3 * 64, :, :2, 6] += 3  # the note of the third picture
    anew = who.gone_elsewhere(lost, PLACE, torch.tensor([True]))
    assert torch.equal(anew[:, 2 * 64 : 3 * 64], lost[:, 2 * 64 : 3 * 64])
    assert torch.equal(CODEC.decode_indices(anew)[:, [1, 3]], drawn(*HOP)[:, [1, 3]])


def test_who_stands_in_a_puddle_is_left_as_they_are():
    puddle = drawn(*STAND)
    puddle[..., -4:, 8:40] = 47
    x0 = copied(*HOP)
    assert cut_outs(CODEC.encode_indices(puddle)).gone_elsewhere(x0, PLACE, torch.tensor([True])) is x0


def test_each_of_a_batch_goes_its_own_way():
    both = torch.cat([copied(*HOP), copied(*HOP[::-1]), copied(*HOP)])
    anew = cut_outs(BEGAN.expand(3, -1, -1, -1, -1)).gone_elsewhere(
        both, PLACE.expand(3), torch.tensor([True, True, False])
    )
    assert torch.equal(CODEC.decode_indices(anew)[:2], torch.cat([drawn(*HOP), drawn(*HOP[::-1])]))
    assert torch.equal(anew[2], both[2])


def test_parts_hang_together_by_sides_and_corners_the_largest_first():
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    mask[0, 0, 0:4, 0:4] = mask[0, 0, 4:8, 4:8] = True  # a corner holds them together
    mask[0, 0, 20:25, 20:25] = True
    mask[0, 0, 30, 0] = True  # a speck
    parts = _parts(mask)
    assert parts.shape == (MOST_PARTS, 1, 1, 32, 32)
    assert parts.sum(dim=(1, 2, 3, 4)).tolist() == [32, 25, 0, 0]
    assert parts[0, 0, 0, 7, 7] and parts[1, 0, 0, 20, 20]
