"""Times and lengths as users write them: exact fractions, never floats. Imports no torch."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from causvid_cli.errors import UsageError

_NUMBER = r"\d{1,18}(?:\.\d{1,18})?"
_PLAIN = re.compile(rf"({_NUMBER})(s|ms|f|m|min|h)?", re.ASCII)
_CLOCK = re.compile(rf"(?:(\d{{1,18}}):)?(\d{{1,18}}):({_NUMBER})", re.ASCII)
_RATE = re.compile(rf"-?(?:{_NUMBER}|\d{{1,18}}/0*[1-9]\d{{0,17}})", re.ASCII)
_SECONDS = {None: Fraction(1), "s": Fraction(1), "ms": Fraction(1, 1000), "m": Fraction(60), "min": Fraction(60)}
_SECONDS["h"] = Fraction(3600)
LONGEST_S = 24 * 3600
FASTEST_FPS = 240


@dataclass(frozen=True, slots=True)
class Time:
    """A time or a length as it was asked for.

    number: how many seconds (`s`), frames (`f`), latent frames of a model (`latent`) or its chunks (`chunk`); all but
    seconds become seconds only when the rate or the model is known. Exact, 0 or more.
    """

    number: Fraction
    unit: Literal["s", "f", "latent", "chunk"] = "s"

    def __str__(self) -> str:
        """As a user writes it: 4.5s, 96f; `latent 40` and `chunk 3` are for reading only."""
        if self.unit == "f":
            return f"{self.number}f"
        if self.unit != "s":
            return f"{self.unit} {self.number}"
        text = decimal_text(self.number)
        whole = len(text.partition(".")[2]) <= 18  # more digits than the grammar takes: 18 of ms are 21 of s
        return f"{text}s" if whole else f"{decimal_text(self.number * 1000)}ms"

    def frames(self, fps: Fraction) -> Fraction:
        """How many frames pass until then, exactly; for seconds and frames only."""
        assert self.unit in ("s", "f"), self
        return self.number * fps if self.unit == "s" else self.number


@dataclass(frozen=True, slots=True)
class Retiming:
    """Frames that are made at one rate and shown at another, so that time stays true.

    made, shown: frames per second. Shown frame k is due k / shown seconds after the first frame of both; when it is
    repeated rather than drawn between two, it is the made frame that is on the screen then.
    """

    made: Fraction
    shown: Fraction

    @property
    def is_same(self) -> bool:
        """Whether the made frames are the shown ones."""
        return self.made == self.shown

    def shown_until(self, made_frame: int) -> int:
        """Return how many shown frames are due before a made frame, which is the number of the first that is not."""
        return math.ceil(made_frame * self.shown / self.made)

    def made_at(self, shown_frame: int) -> int:
        """Return the number of the made frame that is on the screen when a shown one is due."""
        return math.floor(shown_frame * self.made / self.shown)

    def made_for(self, shown_frames: int) -> int:
        """Return the fewest made frames from which so many shown ones (>= 1) can be had."""
        return self.made_at(shown_frames - 1) + 1


def decimal_text(number: Fraction) -> str:
    """A fraction as a decimal: exact where it ends within 24 places, else its first 24."""
    whole, rest = divmod(number, 1)
    digits = f"{int(rest * 10**24):024}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def parse_time(text: str | float, *, name: str, what: str = "time") -> Time:
    """A time of 0 or more: 5, 5s, 250ms, 1m, 1h, 1:04.5, 0:01:04.5 or 96f (frames).

    what: "time" or "length", for the complaint. Raises UsageError for what is none, or is longer than a day.
    """
    given = str(text).strip().lower()
    if plain := _PLAIN.fullmatch(given):
        number, unit = Fraction(plain[1]), plain[2]
        if unit == "f" and number.denominator != 1:
            raise UsageError(f"{name} {text}: frames are whole; try {int(number)}f or {int(number) + 1}f")
        time = Time(number, "f") if unit == "f" else Time(number * _SECONDS[unit])
    elif clock := _CLOCK.fullmatch(given):
        hours, minutes, rest = int(clock[1] or 0), int(clock[2]), Fraction(clock[3])
        if rest >= 60 or (clock[1] and minutes >= 60):
            raise UsageError(f"{name} {text}: in h:m:s, minutes and seconds stay below 60; try 90s or 1:30")
        time = Time(hours * 3600 + minutes * 60 + rest)
    elif given.startswith("-"):
        least = "more than 0; try 5s" if what == "length" else "0 or more"
        raise UsageError(f"{name} {text}: must be {least}")
    else:
        raise UsageError(f"{name} {text!r} is not a {what}; write 5s, 250ms, 1:04.5 or 96f")
    if time.number > LONGEST_S * (FASTEST_FPS if time.unit == "f" else 1):
        raise UsageError(f"{name} {text}: longer than a day; try 1h or less")
    return time


def parse_frames(text: str | float, *, fps: Fraction, name: str = "--length") -> int:
    """How many frames a length is at this rate, rounded half up: 5, 5s, 250ms, 1m, 1:04.5, 0:01:04.5 or 96f.

    Raises UsageError for what is no length, is not above 0, or is longer than a day.
    """
    exact = parse_time(text, name=name, what="length").frames(fps)
    if exact / fps > LONGEST_S:
        raise UsageError(f"{name} {text}: longer than a day; try 1h or less")
    frames = nearest_whole(exact)
    if frames < 1:
        least = float(1 / fps)
        raise UsageError(f"{name} {text}: holds no frame at {float(fps):g} frames per second; try {least:g}s or more")
    return frames


def nearest_whole(number: Fraction) -> int:
    """Rounded half up, where round() would take 2.5 to 2."""
    return int(number + Fraction(1, 2))


def parse_fps(text: str | float, *, name: str = "--fps") -> Fraction:
    """A frame rate as an exact fraction: 8, 29.97 or 30000/1001; above 0, at most 240."""
    given = str(text).strip()
    if not _RATE.fullmatch(given):
        raise UsageError(f"{name} {text!r} is not a frame rate; write 8, 29.97 or 30000/1001")
    fps = Fraction(given).limit_denominator(1001)
    if not 0 < fps <= FASTEST_FPS:
        raise UsageError(f"{name} {text}: must be more than 0 and at most {FASTEST_FPS}")
    return fps


def parse_size(text: str, *, name: str = "--size") -> tuple[int, int]:
    """(width, height) in pixels from WIDTHxHEIGHT."""
    match = re.fullmatch(r"(\d{1,5})[x×*](\d{1,5})", text.strip().lower(), re.ASCII)
    if not match:
        raise UsageError(f"{name} {text!r} is not a size; write WIDTHxHEIGHT, such as 512x512")
    return int(match[1]), int(match[2])


def parse_whole(text: str, *, name: str) -> int:
    """A whole number in decimal digits, perhaps with a sign."""
    if not re.fullmatch(r"[+-]?\d{1,40}", text.strip(), re.ASCII):
        raise UsageError(f"{name} {text!r} is not a whole number; write it in digits, such as 7")
    return int(text)
