"""Frames at a model's rate -> frames at a file's, chunk by chunk; what comes out depends on no chunk's edge.

A frame between two others is made of these two alone. So a video that is taken up on its way has the frames of an
unbroken one, and nothing but the latest frame is carried from chunk to chunk.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

import av
import numpy as np

from causvid_cli.media.view import pulled
from causvid_cli.request import Interpolate
from causvid_cli.timecode import Retiming

_MODES = {"blend": "blend", "motion": "mci"}
"""Names that ffmpeg's minterpolate has for them."""
_FORMAT = "yuvj444p"
"""The pixel format for minterpolate, which takes no RGB: each pixel keeps its colour, but for rounding."""


class Interpolator:
    """Takes a video's made frames in their order; gives the shown ones from `start_frame` on, before `end_frame`."""

    def __init__(
        self, retiming: Retiming, way: Interpolate, *, start_frame: int = 0, end_frame: int | None = None
    ) -> None:
        self._retiming, self._way = retiming, way
        self._next, self._end = start_frame, end_frame
        self._made = 0
        self._last: np.ndarray | None = None
        """The made frame `_made` - 1."""

    def add(self, frames: np.ndarray, *, start: int) -> np.ndarray:
        """Return the shown frames that are settled by now, uint8 RGB [N, H, W, 3]; N may be 0.

        frames: made ones, uint8 RGB [T, H, W, 3], T >= 1. start: number of the first of them.
        """
        known = dict(enumerate(frames, start))
        if self._last is not None:
            known[start - 1] = self._last
        self._made, self._last = start + len(frames), frames[-1]
        if self._way == "repeat":
            due = self._due(self._retiming.shown_until(self._made))
            shown = [known[self._retiming.made_at(frame)] for frame in due]
        else:
            due = self._due(self._retiming.shown_until(self._made - 1))
            runs = groupby(due, key=self._retiming.made_at)
            shown = [frame for number, run in runs for frame in self._between(number, known, run)]
        return np.stack(shown) if shown else frames[:0]

    def rest(self) -> np.ndarray:
        """Return the frames that waited for a later made one: the last that there was stays on the screen."""
        if self._last is None:
            return np.empty((0, 1, 1, 3), np.uint8)
        return self._last[None].repeat(len(self._due(self._retiming.shown_until(self._made))), axis=0)

    def _due(self, stop: int) -> range:
        """Take the numbers of the shown frames before `stop` that have not been given."""
        due = range(self._next, stop if self._end is None else min(stop, self._end))
        self._next = max(self._next, due.stop)
        return due

    def _between(self, number: int, known: dict[int, np.ndarray], due: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield the shown frames that are due from made frame `number` until the next."""
        drawn: dict[int, np.ndarray] = {}
        for frame in due:
            if frame * self._retiming.made == number * self._retiming.shown:
                yield known[number]
                continue
            drawn = drawn or self._drawn(number, known[number], known[number + 1])
            yield drawn[frame]

    def _drawn(self, number: int, one: np.ndarray, other: np.ndarray) -> dict[int, np.ndarray]:
        """Return frames that are drawn around two made ones, by their numbers; `one` is made frame `number`."""
        height, width, _ = one.shape
        graph, step = av.filter.Graph(), 1 / self._retiming.made
        options = f"fps={self._retiming.shown}:mi_mode={_MODES[self._way]}"
        graph.link_nodes(
            graph.add_buffer(width=width, height=height, format=av.VideoFormat(_FORMAT), time_base=step),
            graph.add("minterpolate", options),
            graph.add("buffersink"),
        ).configure()
        drawn: dict[int, np.ndarray] = {}
        for at, pixels in enumerate((one, one, other, other), number - 1):  # it looks at one more on either side
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=_FORMAT)
            frame.pts, frame.time_base = at, step
            graph.vpush(frame)
            drawn |= {shown.pts or 0: shown.to_ndarray(format="rgb24") for shown in pulled(graph)}
        return drawn
