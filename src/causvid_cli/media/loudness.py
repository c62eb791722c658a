"""How loud sound is, step by step: of a file, or of a pipe while it plays."""

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from causvid_cli.errors import MediaError
from causvid_cli.media.probe import SOUND_CONTAINERS
from causvid_cli.media.sound import open_soundtrack
from causvid_cli.media.streams import Pipe
from causvid_cli.media.view import reason_of

RATE = 16_000
STEP_S = Fraction(1, 10)
SILENCE_DB = -100.0
"""Of samples that are all 0."""


def levels_of_file(path: Path) -> list[float]:
    """The level of each STEP_S of a file's sound (`levels`). Raises MediaError for what is none."""
    return list(levels(open_soundtrack(path).samples(rate=RATE, layout="mono")))


def levels_of_pipe(file: BinaryIO, *, name: str = "stdin") -> Iterator[float]:
    """The level of each STEP_S as it arrives: WAV, MP3, FLAC, OGG, MPEG-TS ... Raises MediaError for what is none."""
    pipe = Pipe(file)
    options = {"format_whitelist": ",".join(SOUND_CONTAINERS), "probesize": "4096", "analyzeduration": "0"}
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
    try:
        with av.open(pipe, "r", options=options, buffer_size=4096) as container:
            if not container.streams.audio:
                raise MediaError(f"{name}: holds no sound")
            decoded = container.decode(container.streams.audio[0])
            yield from levels(each for frame in decoded for each in resampler.resample(frame))
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{name}: no sound that can be read as it arrives ({reason_of(error)}); try WAV") from error


def levels(frames: Iterable[av.AudioFrame]) -> Iterator[float]:
    """The root mean square of each STEP_S of samples, in dB of full scale; a rest that is shorter counts as one.

    frames: mono, float ("fltp"), RATE samples per second.
    """
    step = int(RATE * STEP_S)
    rest = np.empty(0, np.float32)
    for frame in frames:
        rest = np.concatenate([rest, frame.to_ndarray().reshape(-1)])
        while len(rest) >= step:
            yield _db(rest[:step])
            rest = rest[step:]
    if len(rest):
        yield _db(rest)


def _db(samples: np.ndarray) -> float:
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(SILENCE_DB, 10 * math.log10(power)) if power > 0 else SILENCE_DB


def is_loud(levels: Sequence[float], *, start_s: Fraction, end_s: Fraction, threshold_db: float) -> bool:
    """Whether the loudest step between two times is louder than the threshold; behind the end it is silent."""
    first, last = int(start_s / STEP_S), math.ceil(end_s / STEP_S)
    return max(levels[first:last], default=SILENCE_DB) > threshold_db
