"""Pictures <-> the size of a model: what is kept, what is cut, and where it comes back."""

from fractions import Fraction
from itertools import product

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
    back = way.back(np.full_like(there, 100))
    assert back.shape == (2, source[1], source[0], 3)
    assert set(np.unique(there)) <= ({0, 200} if mode == "pad" else {200})
    assert set(np.unique(back)) <= ({0, 100} if mode == "crop" else {100})


@pytest.mark.parametrize("mode", MODES)
def test_equal_sizes_change_nothing(mode):
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    way = fit((48, 32), (48, 32), mode)
    assert np.array_equal(way.apply(frames), frames)
    assert np.array_equal(way.back(frames), frames)
    assert np.array_equal(way.back(frames, nearest=True), frames)


def test_cropping_keeps_the_middle_and_the_proportions():
    there = fit((200, 100), (100, 100), "crop").apply(ramp(200, 100))[0]
    assert (
        abs(int(there[50, 0, 0]) - 64) <= 1 and abs(int(there[50, -1, 0]) - 191) <= 1
    )  # a quarter is cut on each side
    assert there[0, 50, 1] == 0 and there[-1, 50, 1] == 255
    back = fit((200, 100), (100, 100), "crop").back(there[None])[0]
    assert np.array_equal(back[:, 50:150], there)
    assert not back[:, :50].any() and not back[:, 150:].any()


def test_padding_shows_all_between_black_bars():
    way = fit((200, 100), (100, 100), "pad")
    there = way.apply(ramp(200, 100))[0]
    assert way.place == (0, 25, 100, 75)
    assert not there[:25].any() and not there[75:].any()
    assert there[50, 0, 0] <= 2 and there[50, -1, 0] >= 253
    assert np.abs(way.back(there[None])[0].astype(int) - ramp(200, 100)[0]).max() <= 3


def test_going_back_crisply_makes_whole_blocks():
    colors = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    back = fit((64, 64), (8, 8), "stretch").back(colors, nearest=True)
    assert np.array_equal(back, colors.repeat(8, axis=1).repeat(8, axis=2))
    uneven = fit((61, 67), (8, 8), "pad").back(colors, nearest=True)
    assert {tuple(c) for c in uneven.reshape(-1, 3)} <= {tuple(c) for c in colors.reshape(-1, 3)}


def test_pixel_art_blown_up_comes_back_exactly():
    small = np.random.default_rng(0).integers(256, size=(2, 32, 48, 3), dtype=np.uint8)
    large = small.repeat(8, axis=1).repeat(8, axis=2)
    assert np.array_equal(fit((384, 256), (48, 32), "stretch").apply(large), small)
    wider = np.pad(large, ((0, 0), (0, 0), (64, 64), (0, 0)))
    assert np.array_equal(fit((512, 256), (48, 32), "crop").apply(wider), small)


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
