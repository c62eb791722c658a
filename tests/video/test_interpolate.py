"""Frames of one rate shown at another: time stays true, and no chunk's edge can be seen."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from clips import walk

from causvid_cli.timecode import Retiming
from causvid_cli.video import Interpolator

RATES = [(8, 25), (16, 24), (16, Fraction(30000, 1001)), (8, 8 * 3), (25, 8), (24, Fraction(15000, 1001))]


def retiming(made, shown) -> Retiming:
    return Retiming(Fraction(made), Fraction(shown))


def interpolated(frames: np.ndarray, rates: Retiming, way: str, edges: list[int], **options: int) -> list[np.ndarray]:
    """What each chunk gives, and at last the rest."""
    interpolator = Interpolator(rates, way, **options)
    chunks = [interpolator.add(frames[start:end], start=start) for start, end in pairwise(edges)]
    return [*chunks, interpolator.rest()]


@pytest.mark.parametrize("rates", RATES)
def test_a_repeated_frame_is_the_one_that_is_on_the_screen(rates):
    rates, frames = retiming(*rates), walk(20)
    shown = np.concatenate(interpolated(frames, rates, "repeat", [0, 5, 12, 20]))
    assert len(shown) == rates.shown_until(20) == -(-20 * rates.shown // rates.made)
    for number, frame in enumerate(shown):
        assert np.array_equal(frame, frames[int(number / rates.shown * rates.made)])


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("way", ["repeat", "blend", "motion"])
def test_chunks_and_a_restart_at_any_edge_change_no_frame(way, rates):
    rates, frames = retiming(*rates), walk(14)
    whole = np.concatenate(interpolated(frames, rates, way, [0, 14]))
    edges = [0, 1, 4, 5, 9, 14]
    chunks = interpolated(frames, rates, way, edges)
    assert np.array_equal(np.concatenate(chunks), whole)
    for index in range(1, 5):
        restart = sum(map(len, chunks[:index]))
        seen_from = max(edge for edge in edges if edge <= rates.made_at(restart))  # as `Earlier.first_chunk` says
        again = interpolated(frames, rates, way, [*edges[edges.index(seen_from) :]], start_frame=restart)
        assert np.array_equal(np.concatenate(again), whole[restart:])


@pytest.mark.parametrize("way", ["blend", "motion"])
def test_frames_that_are_due_are_shown_as_they_are_and_others_are_drawn_between(way):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[16:32, 8 + 4 * number : 24 + 4 * number] = 240
    shown = np.concatenate(interpolated(frames, retiming(8, 16), way, [0, 3]))
    assert np.array_equal(shown[[0, 2, 4, 5]], frames[[0, 1, 2, 2]])
    middle = shown[1, 24, :, 1].astype(int)
    if way == "blend":
        assert np.abs(middle[[8, 11, 24, 27]] - 120).max() <= 2
    else:
        assert middle[24:26].min() > 200 > 100 > middle[27]  # the block is on its way


def test_the_end_is_where_the_file_ends():
    frames, rates = walk(8), retiming(8, 25)
    assert rates.made_for(20) == 7
    for way in ("repeat", "blend"):
        assert sum(map(len, interpolated(frames[:7], rates, way, [0, 7], end_frame=20))) == 20


@pytest.mark.parametrize("rates", RATES)
def test_counts_of_both_rates_agree(rates):
    rates = retiming(*rates)
    for shown in range(1, 100):
        made = rates.made_for(shown)
        assert rates.shown_until(made) >= shown > rates.shown_until(made - 1)
    for made in range(100):
        first = rates.shown_until(made)
        assert first / rates.shown >= made / rates.made > (first - 1) / rates.shown
