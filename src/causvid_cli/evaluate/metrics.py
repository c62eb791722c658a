"""What can be measured of any clip, without a network or a download: pure functions of frames, and a meter of a stream.

Frames are uint8 RGB [T, H, W, 3], as the codec makes them (not enlarged). What is measured of a frame lies in 0..1,
a share of the full range, unless said otherwise.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np

Array = np.ndarray

CURVES = ("brightness", "saturation", "clipped", "sharpness", "motion", "edge_motion", "inner_motion")
"""What is followed through a clip, second by second."""
END_SHARE = 0.15
"""Drift compares this share of the frames at the end with as many at the beginning, as FramePack does (arXiv
2504.12626, section 4.1: "start-end contrast")."""
LOWEST, HIGHEST = 2, 253
"""A channel at or below the one, or at or above the other, is clipped: full black or full light, give or take
rounding."""
SIDE, BLOCK, REACH = 64, 8, 4
"""Consistency looks at frames of at most SIDE pixels, in blocks of BLOCK, each moved by at most REACH a frame."""


def luma(frames: Array) -> Array:
    """Brightness of each pixel, float32 [T, H, W] in 0..1: BT.709's weights on the gamma-corrected channels."""
    return frames.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32) / 255


def brightness(luma: Array) -> Array:
    """Mean luma of each frame: [T, H, W] -> [T]."""
    return luma.mean(axis=(1, 2))


def saturation(frames: Array) -> Array:
    """Mean saturation of each frame, as HSV has it, (max - min) / max of the channels and 0 for black: [T]."""
    red, green, blue = np.moveaxis(frames, -1, 0).astype(np.float32)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return ((high - low) / np.maximum(high, 1)).mean(axis=(1, 2))


def clipped(frames: Array) -> Array:
    """Share of each frame's channel values that are at an end of their range: [T]."""
    return ((frames <= LOWEST) | (frames >= HIGHEST)).mean(axis=(1, 2, 3))


def sharpness(luma: Array) -> Array:
    """Standard deviation of each frame's Laplacian (4 neighbours; 0..4): [T, H, W] -> [T].

    The focus measure LAPV (Pech-Pacheco et al., ICPR 2000) is its square; blur brings it down, noise brings it up.
    """
    inner = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (around - 4 * inner).std(axis=(1, 2))


def motion(luma: Array) -> Array:
    """Mean absolute change of luma from each frame to the next: [T, H, W] -> [T - 1].

    VBench's "temporal flickering" (arXiv 2311.17982) is 1 minus this, on RGB.
    """
    return np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))


def consistency(luma: Array) -> Array:
    """How far each frame is the one before it with its parts moved: [T, H, W] -> [T - 1] in 0..1.

    1 minus the squared error left after motion, as a share of the frame's variance: 1 is a perfect continuation, 0
    says that the frame before tells no more than a flat grey. Motion is searched block by block, as video coders
    do; that is the warping error of Lai et al. (arXiv 1808.00449) with blocks in place of an optical-flow network.
    What moves is not punished; what flickers, melts or pops up is.
    """
    small = _shrink(luma)
    before, after = small[:-1], small[1:]
    count, height, width = after.shape
    rows, columns = height // BLOCK, width // BLOCK
    padded = np.pad(before, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    least = np.full((count, rows, columns), np.inf, np.float32)
    for down in range(2 * REACH + 1):
        for right in range(2 * REACH + 1):
            error = after - padded[:, down : down + height, right : right + width]
            strips = np.square(error, out=error).reshape(count, rows, BLOCK, width).sum(axis=2)
            np.minimum(least, strips.reshape(count, rows, columns, BLOCK).sum(axis=3), out=least)
    error, variance = least.sum(axis=(1, 2)), after.var(axis=(1, 2)) * height * width
    unlike = np.where(error > 1e-6, 1.0, 0.0)  # of a flat frame
    return 1 - np.minimum(1, np.divide(error, variance, out=unlike, where=variance > 1e-6))


def _shrink(luma: Array) -> Array:
    """Averages of whole squares, so that no side is longer than SIDE, cut to whole blocks."""
    times = -(-max(luma.shape[1:]) // SIDE)
    height, width = (side // times // BLOCK * BLOCK for side in luma.shape[1:])
    cut = luma[:, : height * times, : width * times]
    return cut.reshape(len(luma), height, times, width, times).mean(axis=(2, 4))


def thumbnails(frames: Array) -> Array:
    """Small frames to compare clips by, float32 in 0..1: [T, H, W, 3] -> [T, h, w, 3]."""
    return np.stack([_shrink(frames[..., channel].astype(np.float32)) for channel in range(3)], axis=-1) / 255


def mean_distance(clips: Sequence[Array]) -> float:
    """Diversity: mean absolute difference over all pairs of clips of one prompt, each [T, h, w, 3] in 0..1."""
    return float(np.mean([np.abs(one - other).mean() for one, other in combinations(clips, 2)]))


def mean_angle(features: Array) -> float:
    """Diversity: 1 minus the cosine, mean over all pairs of features [N, D]; 0 (all alike) .. 2."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    return float(np.mean([1 - one @ other for one, other in combinations(unit, 2)]))


def ends(values: Array) -> tuple[float, float]:
    """Means over the first and over the last END_SHARE of values [T], those that are NaN left out (NaN if all are)."""
    count = max(1, round(END_SHARE * len(values)))
    return _mean(values[:count]), _mean(values[-count:])


def per_second(values: Array, *, fps: Fraction) -> list[float]:
    """Means over each second of values [T], those that are NaN left out; a last second that is not whole counts."""
    seconds = np.arange(len(values)) * fps.denominator // fps.numerator
    return [_mean(values[seconds == second]) for second in range(int(seconds[-1]) + 1)]


def _mean(values: Array) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


@dataclass(frozen=True, slots=True)
class Course:
    """How a measure goes through a clip: its mean, that of the first and the last END_SHARE, and second by second."""

    mean: float
    first: float
    last: float
    curve: tuple[float, ...]

    @classmethod
    def of(cls, values: Array, *, fps: Fraction) -> "Course":
        """The course of a measure of each frame, [T]."""
        return cls(_mean(values), *ends(values), tuple(per_second(values, fps=fps)))


class Meter:
    """Measures one clip as its frames come. It keeps one frame, and a few numbers of each.

    edges: the frames that begin a chunk, the first one aside: what changes there is `edge_motion`, what changes
    elsewhere `inner_motion`, and how many times more the one is than the other shows the seams.
    """

    def __init__(self, *, fps: Fraction, edges: Collection[int] = ()) -> None:
        self._fps, self._edges = fps, edges
        self._values: dict[str, list[float]] = {name: [] for name in CURVES}
        self._consistency: list[float] = []
        self._last: Array | None = None

    def add(self, frames: Array) -> None:
        """Take in the next frames, uint8 [T, H, W, 3]."""
        new = luma(frames)
        known = new if self._last is None else np.concatenate([self._last, new])
        first = len(self._values["motion"])
        change = motion(known) if first else np.concatenate([[np.nan], motion(known)])
        at_edge = np.array([first + place in self._edges for place in range(len(new))])
        measured = {
            "brightness": brightness(new),
            "saturation": saturation(frames),
            "clipped": clipped(frames),
            "sharpness": sharpness(new),
            "motion": change,
            "edge_motion": np.where(at_edge, change, np.nan),
            "inner_motion": np.where(at_edge, np.nan, change),
        }
        for name, values in measured.items():
            self._values[name] += values.tolist()
        if len(known) > 1:
            self._consistency += consistency(known).tolist()
        self._last = new[-1:]

    @property
    def consistency(self) -> float:
        """Mean over the clip's frames; NaN for a single one."""
        return _mean(np.array(self._consistency))

    def courses(self) -> dict[str, Course]:
        """How each of CURVES goes through the clip."""
        return {name: Course.of(np.array(values), fps=self._fps) for name, values in self._values.items()}
