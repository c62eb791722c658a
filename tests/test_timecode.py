from fractions import Fraction

import pytest

from causvid_cli.errors import UsageError
from causvid_cli.timecode import parse_fps, parse_frames, parse_size, parse_whole

EIGHT = Fraction(8)
NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("5", 40),
        ("5s", 40),
        (" 5S ", 40),
        ("0.5s", 4),
        ("250ms", 2),
        ("1m", 480),
        ("1min", 480),
        ("1h", 28800),
        ("1:04.5", 516),
        ("0:01:04.5", 516),
        ("90:00", 43200),
        ("24:00:00", 691200),
        ("96f", 96),
        (5, 40),
        (0.125, 1),
    ],
)
def test_a_length_is_whole_frames(text, frames):
    assert parse_frames(text, fps=EIGHT) == frames


def test_lengths_are_exact_and_round_half_up():
    assert parse_frames("0.0625s", fps=EIGHT) == 1  # half a frame
    assert parse_frames("0.3125s", fps=EIGHT) == 3  # two and a half, where round() says 2
    assert parse_frames("1h", fps=NTSC) == 107892
    assert parse_frames("96f", fps=NTSC) == 96
    assert parse_frames("0.1s", fps=Fraction(10)) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a length"),
        ("abc", "not a length"),
        ("5 s", "not a length"),
        ("5sec", "not a length"),
        ("5s5s", "not a length"),
        ("٥s", "not a length"),
        ("1e3", "not a length"),
        ("nan", "not a length"),
        ("1:", "not a length"),
        ("1:2:3:4", "not a length"),
        ("9" * 5000, "not a length"),
        ("0", "holds no frame"),
        ("0s", "holds no frame"),
        ("0:00", "holds no frame"),
        ("0.01s", "holds no frame at 8 frames per second; try 0.125s or more"),
        ("-1", "must be more than 0"),
        ("-5s", "must be more than 0"),
        ("2.5f", "frames are whole; try 2f or 3f"),
        ("1:75", "stay below 60"),
        ("1:60:00", "stay below 60"),
        ("25h", "longer than a day"),
        ("9" * 18 + "h", "longer than a day"),
    ],
)
def test_what_is_no_length_says_why(text, complaint):
    with pytest.raises(UsageError, match=complaint) as error:
        parse_frames(text, fps=EIGHT)
    assert "--length" in str(error.value)


def test_a_length_is_named_as_the_caller_says():
    with pytest.raises(UsageError, match="^cue 2: at 'abc' is not a length"):
        parse_frames("abc", fps=EIGHT, name="cue 2: at")


@pytest.mark.parametrize(
    ("text", "fps"),
    [
        ("8", Fraction(8)),
        (8.0, Fraction(8)),
        ("29.97", Fraction(2997, 100)),
        ("30000/1001", NTSC),
        ("23.976", Fraction(2997, 125)),
        ("0.5", Fraction(1, 2)),
        ("240", Fraction(240)),
    ],
)
def test_a_frame_rate_is_an_exact_fraction(text, fps):
    assert parse_fps(text) == fps


@pytest.mark.parametrize(
    "text", ["", "abc", "8fps", "1/0", "1/00", "/2", "1.5/2", "nan", "inf", "1e9", "1e999999999", "1_0", "9" * 5000]
)
def test_what_is_no_frame_rate_is_refused_at_once(text):
    with pytest.raises(UsageError, match="--fps .* is not a frame rate"):
        parse_fps(text)


@pytest.mark.parametrize("text", ["0", "-8", "-1/2", "241", "0.0001", "1/999999"])
def test_a_frame_rate_out_of_range_is_refused(text):
    with pytest.raises(UsageError, match="must be more than 0 and at most 240"):
        parse_fps(text)


@pytest.mark.parametrize("text", ["512x256", "512X256", "512×256", "512*256", " 512x256 "])
def test_a_size_is_width_and_height(text):
    assert parse_size(text) == (512, 256)


@pytest.mark.parametrize("text", ["", "512", "512x", "x512", "512x256x3", "-512x256", "5.5x5", "999999x1", "512 x 256"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="--size .* is not a size; write WIDTHxHEIGHT"):
        parse_size(text)


def test_a_whole_number_may_be_negative_and_nothing_else():
    assert [parse_whole(text, name="--seed") for text in ("7", "-7", "+7", " 7 ")] == [7, -7, 7, 7]
    for text in ("", "7.0", "1e3", "0x7", "1_000", "٧", "9" * 5000, "seven"):
        with pytest.raises(UsageError, match="^--seed .* is not a whole number"):
            parse_whole(text, name="--seed")
