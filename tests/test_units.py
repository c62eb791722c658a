import pytest

from causvid_cli.units import bytes_text, counted, duration_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (13_544_326_246, "13.5 GB"),
        (2 * 10**12, "2000.0 GB"),
    ],
)
def test_bytes_are_said_in_the_unit_that_shows_them(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(9, "9 s"), (61, "1 min 1 s"), (3725, "1 h 2 min")])
def test_durations_are_said_in_two_units(seconds, text):
    assert duration_text(seconds) == text


def test_one_is_singular():
    assert [counted(number, "frame") for number in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
