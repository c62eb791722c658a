"""Measures of clips whose values are known."""

from fractions import Fraction

import numpy as np
import pytest

from causvid_cli import storybook
from causvid_cli.evaluate import metrics
from causvid_cli.evaluate.metrics import Meter
from causvid_cli.evaluate.pixel_match import PixelMatch
from causvid_cli.storybook import Story

FPS = Fraction(8)


def grey(*levels: float) -> np.ndarray:
    """A flat frame of each level 0..255: [T, 16, 16, 3]."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 16, 16, 3)).copy()


def noise(frames: int = 1, *, side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(frames, side, side, 3), dtype=np.uint8)


def measured(frames: np.ndarray, *, parts: int = 1, **options: object) -> Meter:
    meter = Meter(fps=FPS, **options)  # type: ignore[arg-type]
    for part in np.array_split(frames, parts):
        meter.add(part)
    return meter


def test_measures_of_flat_pictures():
    frames = grey(0, 51, 255)
    luma = metrics.luma(frames)
    assert metrics.brightness(luma) == pytest.approx([0, 0.2, 1], abs=1e-6)
    assert metrics.saturation(frames) == pytest.approx([0, 0, 0])
    assert metrics.clipped(frames) == pytest.approx([1, 0, 1])
    assert metrics.sharpness(luma) == pytest.approx([0, 0, 0], abs=1e-6)
    assert metrics.motion(luma) == pytest.approx([0.2, 0.8], abs=1e-6)


def test_saturation_is_that_of_hsv():
    frames = grey(0)
    frames[..., :] = (200, 100, 50)
    assert metrics.saturation(frames) == pytest.approx([0.75])


def test_blur_brings_sharpness_down_and_noise_brings_it_up():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None] + np.zeros((1, 64, 64, 3), np.uint8)
    sharp, smooth = (metrics.sharpness(metrics.luma(frames))[0] for frames in (noise(), ramp))
    assert sharp > 50 * smooth
    single = np.zeros((1, 9, 9), np.float32)
    single[0, 4, 4] = 1  # a Laplacian of -4 and four of 1, in 49
    assert metrics.sharpness(single)[0] == pytest.approx(np.sqrt(20 / 49))


def test_what_moves_is_consistent_and_what_flickers_is_not():
    scene = noise(side=80)[0]
    moving = np.stack([scene[:64, place : place + 64] for place in range(0, 16, 4)])
    inside = metrics.consistency(metrics.luma(moving))
    assert np.all(inside > 0.85)  # all but the strip that comes into view
    assert metrics.consistency(metrics.luma(moving[[0, 0]])) == pytest.approx([1])
    assert np.all(metrics.consistency(metrics.luma(noise(4))) < 0.4)


def test_consistency_of_flat_pictures_is_whether_they_are_alike():
    assert metrics.consistency(metrics.luma(grey(9, 9, 200))).tolist() == [1, 0]


def test_large_pictures_are_made_smaller_first():
    frames = noise(2, side=16).repeat(13, axis=1).repeat(20, axis=2)
    assert metrics.thumbnails(frames).shape == (2, 40, 64, 3)
    assert metrics.consistency(metrics.luma(frames)).shape == (1,)


def test_a_fading_video_drifts_by_as_much_as_it_fades():
    levels = np.linspace(200, 100, 40)
    course = measured(grey(*levels)).courses()["brightness"]
    kept = levels.astype(np.uint8) / 255
    assert course.mean == pytest.approx(kept.mean(), abs=1e-5)
    assert course.first == pytest.approx(kept[:6].mean(), abs=1e-5)  # 15 % of 40
    assert course.last == pytest.approx(kept[-6:].mean(), abs=1e-5)
    assert course.curve == pytest.approx([second.mean() for second in np.split(kept, 5)], abs=1e-5)


def test_a_steady_video_does_not_drift():
    for name, course in measured(noise().repeat(20, axis=0)).courses().items():
        if name != "edge_motion":  # nothing is known to be an edge
            assert course.last == pytest.approx(course.first, abs=1e-6), name


def test_in_parts_a_stream_measures_the_same():
    frames = noise(21)
    whole, parts = (measured(frames, parts=parts, edges={4, 8, 12, 16, 20}) for parts in (1, 8))
    assert parts.consistency == pytest.approx(whole.consistency)
    for name, course in whole.courses().items():
        other = parts.courses()[name]
        assert np.array([*other.curve, other.mean]) == pytest.approx([*course.curve, course.mean], nan_ok=True), name


def test_a_meter_keeps_one_picture_and_numbers():
    meter = measured(noise(30), parts=10)
    kept = [value for value in vars(meter).values() if isinstance(value, np.ndarray)]
    assert [value.shape for value in kept] == [(1, 64, 64)]


def test_seams_are_what_changes_at_chunk_edges():
    levels = np.repeat([10, 60, 110, 160], 4) + np.tile([0, 5, 10, 15], 4)  # 5 inside a chunk, 35 at its edge
    courses = measured(grey(*levels), edges={4, 8, 12}).courses()
    assert courses["edge_motion"].mean / courses["inner_motion"].mean == pytest.approx(7, abs=1e-3)
    assert courses["edge_motion"].curve == pytest.approx((35 / 255, 35 / 255), abs=1e-6)


def test_a_single_picture_is_measured_too():
    meter = measured(grey(51))
    assert np.isnan(meter.consistency)
    assert np.isnan(meter.courses()["motion"].mean)
    assert meter.courses()["brightness"].curve == pytest.approx((0.2,), abs=1e-6)


def test_seconds_are_whole_at_fractional_rates():
    values = np.arange(5.0)
    assert metrics.per_second(values, fps=Fraction(5, 2)) == [1.0, 3.5]  # frames 0 1 2, then 3 4
    assert metrics.per_second(values, fps=Fraction(1)) == [0, 1, 2, 3, 4]


def test_diversity_is_the_mean_distance_of_pairs():
    clips = [np.full((1, 2, 2, 3), value) for value in (0.0, 0.5, 1.0)]
    assert metrics.mean_distance(clips) == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert metrics.mean_distance([clips[0]] * 3) == 0
    assert metrics.mean_angle(np.array([[1.0, 0], [0, 2], [3, 0]])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_clip_is_as_drawn_whichever_way_its_scene_faces(seed):
    story = Story("car", "red", "snow", "moves left")
    indices, _ = storybook.render_indices(story, length=20, seed=seed)
    whole, torn = PixelMatch(story), PixelMatch(story)
    for part in np.array_split(indices, 3):
        whole.add(part)
        torn.add(np.where(np.arange(64) < 16, 255, part))
    assert whole.shares.tolist() == [1] * 20
    assert torn.shares == pytest.approx(0.75)
