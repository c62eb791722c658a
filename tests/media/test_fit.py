"""Pictures <-> the size of a model: what is kept, what is cut, and where it comes back."""

import importlib
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_media import real_photo

from causvid_cli.media.fit import Fit, fit, model_size_for

MODES = ("crop", "pad", "stretch")
SIZES = [((640, 480), (832, 480)), ((101, 377), (64, 64)), ((7, 5), (512, 320)), ((1, 900), (64, 32))]


def ramp(width: int, height: int) -> np.ndarray:
    """One picture [1, H, W, 3]: red rises to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.rint(np.stack([x, y, np.full_like(x, 128)], axis=-1)).astype(np.uint8)[None]


@pytest.mark.parametrize(("sizes", "mode"), list(product(SIZES, MODES)))
def test_any_size_gets_to_the_model_and_back(sizes, mode):
    source, model = sizes
    way = fit(source, model, mode)
    there = way.apply(np.full((2, source[1], source[0], 3), 200, np.uint8))
    assert there.shape == (2, model[1], model[0], 3)
    back = fit(model, source, mode).apply(np.full_like(there, 100))
    assert back.shape == (2, source[1], source[0], 3)
    assert set(np.unique(there)) <= ({0, 200} if mode == "pad" else {200})
    assert set(np.unique(back)) <= ({0, 100} if mode == "pad" else {100})


@pytest.mark.parametrize("mode", MODES)
def test_equal_sizes_change_nothing(mode):
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    way = fit((48, 32), (48, 32), mode)
    assert np.array_equal(way.apply(frames), frames)
    assert np.array_equal(way.apply(frames, nearest=True), frames)


def test_cropping_keeps_the_middle_and_the_proportions():
    there = fit((200, 100), (100, 100), "crop").apply(ramp(200, 100))[0]
    assert (
        abs(int(there[50, 0, 0]) - 64) <= 1 and abs(int(there[50, -1, 0]) - 191) <= 1
    )  # a quarter is cut on each side
    assert there[0, 50, 1] == 0 and there[-1, 50, 1] == 255


def test_padding_shows_all_between_black_bars():
    way = fit((200, 100), (100, 100), "pad")
    there = way.apply(ramp(200, 100))[0]
    assert way.target_box == (0, 25, 100, 75)
    assert not there[:25].any() and not there[75:].any()
    assert there[50, 0, 0] <= 2 and there[50, -1, 0] >= 253


def test_scaling_up_crisply_makes_whole_blocks():
    colors = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    back = fit((8, 8), (64, 64), "stretch").apply(colors, nearest=True)
    assert np.array_equal(back, colors.repeat(8, axis=1).repeat(8, axis=2))
    uneven = fit((8, 8), (61, 67), "crop").apply(colors, nearest=True)
    assert {tuple(c) for c in uneven.reshape(-1, 3)} <= {tuple(c) for c in colors.reshape(-1, 3)}


def test_pixel_art_blown_up_comes_back_exactly():
    small = np.random.default_rng(0).integers(256, size=(2, 32, 48, 3), dtype=np.uint8)
    large = small.repeat(8, axis=1).repeat(8, axis=2)
    assert np.array_equal(fit((384, 256), (48, 32), "stretch").apply(large), small)
    wider = np.pad(large, ((0, 0), (0, 0), (64, 64), (0, 0)))
    assert np.array_equal(fit((512, 256), (48, 32), "crop").apply(wider), small)


def disc(width: int, height: int) -> np.ndarray:
    """White on grey, a third of the shorter side wide, in the middle: uint8 [1, height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2) < min(width, height) / 6
    return np.where(inside, 255, 90).astype(np.uint8)[None, :, :, None].repeat(3, axis=-1)


def sides(picture: np.ndarray) -> tuple[int, int]:
    """Width and height of the white disc."""
    white = picture[..., 0] > 170
    return int(white.any(axis=0).sum()), int(white.any(axis=1).sum())


@pytest.mark.parametrize("clip", [(160, 90), (90, 160), (192, 64)])
def test_what_is_round_stays_round_with_crop_and_pad_and_only_pad_has_bars(clip):
    model = (64, 64)
    for mode in ("crop", "pad", "stretch"):
        seen = fit(clip, model, mode).apply(disc(*clip))[0]
        shown = fit(model, clip, mode).apply(disc(*model))[0]
        for picture, cell in ((seen, 1), (shown, max(clip) / 64)):
            wide, high = sides(picture)
            assert (abs(wide - high) <= cell) == (mode != "stretch")
            assert (picture == 0).any() == (mode == "pad")
        if mode == "pad":  # nothing is cut: a rim around all that is shown is there whole
            rim = np.full((1, 64, 64, 3), 90, np.uint8)
            rim[:, [0, -1]] = rim[:, :, [0, -1]] = 255
            there = fit(model, clip, "pad").apply(rim)[0, ..., 0]
            rows, columns = there.any(axis=1).nonzero()[0], there.any(axis=0).nonzero()[0]
            inside = there[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert abs(len(rows) - len(columns)) <= 1
            assert min(inside[0].min(), inside[-1].min(), inside[:, 0].min(), inside[:, -1].min()) > 150


def test_a_real_photo_scaled_far_down_keeps_its_mean_and_has_no_aliases():
    photo = np.asarray(Image.open(real_photo("coffee.png")).convert("RGB"))
    small = fit((600, 400), (30, 20), "stretch").apply(photo[None])[0]
    cells = photo.reshape(20, 20, 30, 20, 3).mean(axis=(1, 3))
    assert np.abs(small.mean(axis=(0, 1)) - photo.mean(axis=(0, 1))).max() < 1
    assert np.abs(small - cells).mean() < 6  # plain skipping of pixels is off by 17
    stripes = np.zeros((1, 400, 600, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.abs(fit((600, 400), (90, 60), "stretch").apply(stripes).astype(int) - 127).max() <= 2


def test_pictures_of_another_size_are_our_mistake():
    with pytest.raises(AssertionError):
        Fit((64, 64), (32, 32), "crop").apply(np.zeros((1, 32, 32, 3), np.uint8))


def test_no_pictures_stay_no_pictures():
    assert Fit((64, 48), (32, 16), "crop").apply(np.zeros((0, 48, 64, 3), np.uint8)).shape == (0, 16, 32, 3)


@pytest.mark.parametrize("source", [(1280, 720), (720, 1280), (640, 272), (176, 144), (500, 500), (1411, 1411), (3, 2)])
def test_a_model_of_any_size_is_asked_for_the_sources_shape(source):
    width, height = model_size_for(source, (832, 480), 16)
    assert width % 16 == height % 16 == 0
    assert 0.9 < width * height / (832 * 480) < 1.1
    assert 0.93 < Fraction(width, height) / Fraction(*source) < 1.07


def test_a_model_is_asked_for_no_extreme_shape_and_for_its_own_size_when_that_fits():
    assert model_size_for((832, 480), (832, 480), 16) == (832, 480)
    for source in ((10000, 1), (1, 10000)):
        longest, shortest = sorted(model_size_for(source, (832, 480), 16), reverse=True)
        assert longest / shortest < 4.4
    assert model_size_for((64, 64), (8, 8), 16) == (16, 16)


def test_the_drawing_in_the_docs_is_what_fit_does(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root / "examples")
    drawn = np.asarray(importlib.import_module("fit_figure").figure()).astype(int)
    kept = np.asarray(Image.open(root / "docs" / "fit.png").convert("RGB"))
    assert drawn.shape == kept.shape and np.abs(drawn - kept).max() <= 8  # another Pillow may round otherwise
