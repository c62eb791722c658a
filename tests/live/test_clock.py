"""When frames are due, and how early a chunk is begun."""

import pytest

from causvid_cli.live.clock import FIRST_LEAD_S, MARGIN_S, Clock


class Time:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_chunk_is_begun_no_earlier_than_its_lead_before_it_is_due(time):
    clock = Clock(real=True, lead=0.5, now=time)
    assert clock.wait_s(0) == 0
    assert clock.made(0.0, 0.2) == 100
    assert clock.wait_s(1.0) == 0.5
    time.now = 100.5
    assert clock.wait_s(1.0) == 0


def test_without_a_lead_it_is_what_the_last_chunks_took(time):
    clock = Clock(real=True, lead=None, now=time)
    assert clock.lead == pytest.approx(FIRST_LEAD_S + MARGIN_S)
    for took in (0.9, *[0.1] * 8):
        clock.made(0.0, took)
    assert clock.lead == pytest.approx(0.1 + MARGIN_S)


def test_a_late_chunk_makes_all_that_follow_later(time):
    clock = Clock(real=True, lead=0.1, now=time)
    clock.made(0.0, 0.1)
    time.now = 101.5
    assert clock.made(1.0, 1.5) == 101.5
    assert clock.due(2.0) == 102.5


def test_time_stands_while_it_is_paused(time):
    clock = Clock(real=True, lead=0.0, now=time)
    clock.made(0.0, 0.1)
    clock.pause(True)
    assert clock.wait_s(1.0) == float("inf")
    time.now = 110.0
    clock.pause(False)
    assert clock.due(1.0) == 111.0


def test_after_going_back_the_next_frame_is_due_at_once(time):
    clock = Clock(real=True, lead=0.0, now=time)
    clock.made(0.0, 0.1)
    time.now = 105.0
    clock.rewind(2.0)
    assert (clock.due(2.0), clock.due(3.0)) == (105.0, 106.0)


def test_a_fast_clock_waits_for_nothing(time):
    clock = Clock(real=False, lead=None, now=time)
    clock.made(0.0, 0.1)
    assert clock.wait_s(60.0) == 0
    clock.pause(True)
    assert clock.wait_s(60.0) == float("inf")
