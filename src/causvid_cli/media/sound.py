"""A file of sound -> samples, for a video that it is laid under."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import av

from causvid_cli.errors import MediaError
from causvid_cli.files import sha256_of_file
from causvid_cli.media.probe import open_sound
from causvid_cli.request import AudioFit

_TOLD = frozenset({"wav", "w64", "aiff", "caf", "flac", "mov,mp4,m4a,3gp,3g2,mj2"})
"""Formats whose header tells the length, where others estimate it."""
_UNTOLD = 0xFFFF_FF00
"""A RIFF size from here on is no size: the file was written to a pipe."""
_SHORT_S = Fraction(1, 10)
"""By how much a whole file may be shorter than its header says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Soundtrack:
    """Sound that is laid under a video, from the video's first frame to its last.

    rate: samples per second. layout: its channels, as FFmpeg names them. seconds: how long it is, by its samples.
    """

    path: Path
    fit: AudioFit
    sha256: str
    rate: int
    layout: str
    seconds: Fraction
    stamp: tuple[int, int]

    @property
    def name(self) -> str:
        return self.path.name

    def samples(self, *, rate: int, layout: str) -> Iterator[av.AudioFrame]:
        """Yield its samples as float, planar ("fltp"), again and again if it loops.

        Raises MediaError when it is gone, or another than it was.
        """
        for _ in count() if self.fit == "loop" else range(1):
            yield from _samples(self.path, rate=rate, layout=layout, stamp=self.stamp)


def open_soundtrack(path: Path, *, fit: AudioFit = "pad") -> Soundtrack:
    """Listen to a file of sound, or to a video's, from its first sample to its last.

    Raises MediaError when it is missing, holds no sound or only silence, is damaged or cut short.
    """
    with open_sound(path) as (file, container, stream):
        rate, layout, stamp = stream.rate, stream.layout.name, _stamp(file.fileno())
        sha256, is_told = sha256_of_file(path), container.format.name in _TOLD
        expected = stream.duration * stream.time_base if is_told and stream.duration and stream.time_base else 0
        _check_riff(path, stamp[0])
    samples, is_silent = 0, True
    for frame in _samples(path, rate=rate, layout=layout, stamp=stamp):
        samples += frame.samples
        is_silent = is_silent and not frame.to_ndarray().any()
    seconds = Fraction(samples, rate)
    if expected - seconds > _SHORT_S:
        raise MediaError(f"{path}: damaged: {float(expected - seconds):.3g} s of its sound are missing")
    if is_silent:
        raise MediaError(f"{path}: holds nothing but silence; give another, or leave --audio out")
    return Soundtrack(path=path, fit=fit, sha256=sha256, rate=rate, layout=layout, seconds=seconds, stamp=stamp)


def silence(samples: int, *, format: str, layout: str, rate: int) -> av.AudioFrame:
    """Return a frame of samples that are all silent."""
    frame = av.AudioFrame(format=format, layout=layout, samples=samples)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    for plane in frame.planes:
        plane.update((b"\x80" if format.startswith("u8") else b"\0") * plane.buffer_size)
    return frame


def _samples(path: Path, *, rate: int, layout: str, stamp: tuple[int, int]) -> Iterator[av.AudioFrame]:
    with open_sound(path) as (file, container, stream):
        if _stamp(file.fileno()) != stamp:
            raise MediaError(f"{path}: was changed while the video was made; put it back as it was")
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        for frame in container.decode(stream):
            frame.pts = None  # its samples follow each other
            yield from resampler.resample(frame)
        yield from resampler.resample(None)


def _check_riff(path: Path, size: int) -> None:
    """Raise MediaError for a WAV file that is shorter than its header says, which FFmpeg takes for whole."""
    with open(path, "rb") as file:
        name, told = file.read(4), int.from_bytes(file.read(4), "little") + 8
    if name == b"RIFF" and size < told < _UNTOLD:
        raise MediaError(f"{path}: cut short: {told - size} of its {told} bytes are missing")


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
