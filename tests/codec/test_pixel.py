import copy

import numpy as np
import pytest
import torch
from tiny import tiny_codec
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.errors import MediaError, UsageError

SPLITS = [[6], [1] * 6, [1, 5], [5, 1], [2, 1, 3]]
HEIGHT, WIDTH = 16, 24


@pytest.fixture(scope="module")
def codec() -> PixelCodec:
    codec = tiny_codec()
    rng = torch.Generator().manual_seed(1)
    for module in codec.modules():  # residual blocks begin as the identity: give them something to do
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.1, generator=rng)
    codec.latents_mean.copy_(torch.randn(codec.cell_channels, generator=rng))
    codec.latents_std.copy_(torch.rand(codec.cell_channels, generator=rng) + 0.5)
    return codec


def random_indices(frames: int, *, batch: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(len(storybook.PALETTE), (batch, frames, height, width), generator=rng, dtype=torch.uint8)


def random_latents(frames: int, *, batch: int = 2) -> Tensor:
    return torch.randn(batch, 24, frames, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_decoding_by_chunks_equals_decoding_at_once_bit_for_bit(codec, split):
    x0 = random_latents(6)
    whole = codec.decode_chunk(x0, state=codec.decode_state())
    state = codec.decode_state()
    chunks = [codec.decode_chunk(chunk, state=state) for chunk in x0.split(split, dim=2)]
    assert [chunk.shape[1] for chunk in chunks] == [codec.facts.frames(n) for n in split]
    assert torch.equal(torch.cat(chunks, dim=1), whole)
    assert len(whole.flatten(0, 3).unique(dim=0)) > 5  # not one colour all over


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_encoding_by_chunks_equals_encoding_at_once_bit_for_bit(codec, split):
    frames = codec.palette[random_indices(24).long()]
    whole = codec.encode_chunk(frames, state=codec.encode_state())
    state = codec.encode_state()
    parts = frames.split([codec.facts.frames(n) for n in split], dim=1)
    chunks = [codec.encode_chunk(part, state=state) for part in parts]
    assert [chunk.shape[2] for chunk in chunks] == split
    error = (torch.cat(chunks, dim=2) - whole).abs().max().item()
    assert error == 0, f"largest error {error:.3g}"


def test_pictures_on_the_palette_come_back_as_their_entries(codec):
    indices = random_indices(4)
    assert torch.equal(codec.nearest_entries(codec.palette[indices.long()]), indices.long())


@pytest.mark.parametrize("height", [1, 3])
def test_the_entry_that_is_taken_has_the_best_score(codec, height):
    cells = 3 * torch.randn(5, codec.cell_channels, height, 2, generator=torch.Generator().manual_seed(3))
    scores, taken = codec.decode_frames(cells), copy.deepcopy(codec).fuse().best_entries(cells)
    assert taken.shape == (5, 8 * height, 16)
    assert torch.equal(codec.best_entries(cells), scores.argmax(dim=1))
    missed = scores.amax(dim=1) - scores.gather(1, taken.long().unsqueeze(1)).squeeze(1)
    assert missed.max() < 1e-5  # float32 rounding decides between equally good ones


def test_other_colours_become_the_nearest_entry(codec):
    colours = torch.randint(256, (500, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    distances = (colours[:, None].int() - codec.palette[None].int()).square().sum(-1)
    chosen = codec.nearest_entries(colours)
    assert torch.equal(distances.gather(1, chosen[:, None])[:, 0], distances.min(dim=1).values)


def test_sizes_are_as_geometry_promises(codec):
    facts = codec.facts
    frames = codec.decode_chunk(random_latents(3), state=None)
    assert (frames.dtype, frames.shape) == (torch.uint8, (2, facts.frames(3), HEIGHT, WIDTH, 3))
    x0 = codec.encode_chunk(frames, state=None)
    assert x0.shape == (2, facts.latent_channels, facts.latent_frames(frames.shape[1]), HEIGHT // 8, WIDTH // 8)


@pytest.mark.parametrize("times", [2, 3])
def test_each_pixel_can_be_painted_as_a_square(codec, times):
    frames, large = (codec.decode_chunk(random_latents(2), enlarge=n) for n in (1, times))
    assert np.array_equal(large, frames.numpy().repeat(times, axis=2).repeat(times, axis=3))


def test_pictures_show_palette_colours_only(codec):
    frames = codec.decode_chunk(random_latents(2), state=None)
    assert torch.equal(codec.palette[codec.nearest_entries(frames)], frames)


def test_a_picture_depends_on_its_own_channels_only(codec):
    x0, other = random_latents(2), random_latents(2)
    other[:, 6:12, 1] += 3  # the second picture of the second latent frame
    a, b = codec.decode_indices(x0), codec.decode_indices(other)
    assert [torch.equal(a[:, t], b[:, t]) for t in range(8)] == [t != 5 for t in range(8)]


def test_stacking_normalises_each_channel(codec):
    cells = torch.randn(2, 8, 6, 2, 3, generator=torch.Generator().manual_seed(4))
    x0 = codec.stack_cells(cells)
    assert x0.shape == (2, 24, 2, 2, 3)
    wanted = (cells[1, 5, 4] - codec.latents_mean[4]) / codec.latents_std[4]
    assert torch.equal(x0[1, 1 * 6 + 4, 1], wanted)  # picture 5 is the second of latent frame 1


@pytest.mark.parametrize("frames", [0, 1, 3, 5, 7])
def test_a_number_of_pictures_that_fills_no_latent_frames_is_refused(codec, frames):
    with pytest.raises(MediaError, match=f"^{frames} frames do not fill whole latent frames of 4$"):
        codec.encode_chunk(torch.zeros(1, frames, HEIGHT, WIDTH, 3, dtype=torch.uint8), state=None)


def test_a_size_that_would_be_cut_is_refused(codec):
    with pytest.raises(UsageError, match="^width 20 is not a multiple of 8; try 16 or 24$"):
        codec.encode_chunk(torch.zeros(1, 4, 16, 20, 3, dtype=torch.uint8), state=None)


def test_an_untrained_codec_of_a_config_takes_the_weights(codec):
    again = PixelCodec.from_config({"_class_name": "PixelCodec", **codec.config})
    again.load_state_dict(codec.state_dict())
    again.eval().requires_grad_(False)
    assert torch.equal(again.decode_chunk(random_latents(2), state=None), codec.decode_chunk(random_latents(2)))


def test_who_is_seen_is_set_on_another_scene_pixel_for_pixel(monkeypatch):
    codec = tiny_codec()
    monkeypatch.setattr(codec, "decode_indices", lambda x0: x0[0].to(torch.uint8))  # latents that are their pictures
    monkeypatch.setattr(codec, "encode_indices", lambda indices: indices.float()[None])
    scene, other = torch.full((1, 1, 4, 16, 16), 3.0), torch.full((1, 1, 4, 16, 16), 7.0)
    shown = scene.clone()
    shown[..., 4:10, 4:12] = 9  # somebody
    shown[..., 6, 6] = 3  # who is in one pixel as the scene is
    shown[..., 13, 2] = 5  # a fault of the drawing
    wanted = other.clone()
    wanted[..., 4:10, 4:12] = 9
    wanted[..., 6, 6] = 3
    assert torch.equal(codec.on_other_scene(shown, scene, other), wanted)
    assert torch.equal(codec.on_other_scene(scene, scene, other), other)


def test_who_has_the_scenes_own_colours_within_is_cut_out_whole_and_what_is_open_to_a_side_is_not(monkeypatch):
    codec = tiny_codec()
    monkeypatch.setattr(codec, "decode_indices", lambda x0: x0[0].to(torch.uint8))  # latents that are their pictures
    scene = torch.full((1, 1, 4, 24, 24), 3.0)
    shown = scene.clone()
    shown[..., 4:20, 4:20] = 9
    shown[..., 8:16, 8:16] = 3  # a belly in the scene's colour
    assert torch.equal(codec.cut_out(shown, scene).is_somebody, (shown[0] == 9) | (_rows(8, 16) & _columns(8, 16)))
    shown[..., 16:, 10:14] = 3  # a gate
    is_somebody = codec.cut_out(shown, scene).is_somebody
    assert not is_somebody[..., 10:14, 11:13].any() and is_somebody[..., 4:7, 4:20].all()


def _rows(first: int, end: int) -> torch.Tensor:
    return ((torch.arange(24) >= first) & (torch.arange(24) < end))[:, None]


def _columns(first: int, end: int) -> torch.Tensor:
    return _rows(first, end).mT
