"""When the frames of a live video are due, and how early the next chunk is begun."""

import time
from collections import deque
from collections.abc import Callable

MARGIN_S = 0.02
"""Kept between a chunk that is ready and the time at which it is due, where nobody says how much."""
FIRST_LEAD_S = 0.25
"""Taken for the time of a chunk before one is made."""


class Clock:
    """Video time against a monotonic clock: it stands while the session is paused, and waits for a chunk that is late.

    real: whether frames are due as fast as they are shown; otherwise at once. lead: seconds that a chunk is begun, at
    most, before its first frame is due; None takes what the last chunks took and a little more, so that what is told
    is seen as soon as the machine can.
    """

    def __init__(self, *, real: bool, lead: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._real, self._lead, self._now = real, lead, now
        self._took: deque[float] = deque(maxlen=8)
        self._origin: float | None = None  # when the video's first frame is, or would have been, due
        self._paused: float | None = None

    @property
    def lead(self) -> float:
        """Seconds before a frame is due at which its chunk is begun."""
        if self._lead is not None:
            return self._lead
        return max(self._took, default=FIRST_LEAD_S) + MARGIN_S

    @property
    def is_paused(self) -> bool:
        return self._paused is not None

    def due(self, video_s: float) -> float:
        """When, on the monotonic clock, the frame at this second of the video is to be shown."""
        now = self._now() if self._paused is None else self._paused
        return now if self._origin is None or not self._real else max(now, self._origin + video_s)

    def wait_s(self, video_s: float) -> float:
        """How long to wait before the chunk that begins at this second is made; infinite while paused."""
        if self._paused is not None:
            return float("inf")
        return max(0.0, self.due(video_s) - self.lead - self._now()) if self._real else 0.0

    def made(self, video_s: float, took: float) -> float:
        """A chunk is ready that begins at this second and took so long; returns when it is due."""
        self._took.append(took)
        now = self._now()
        if self._origin is None or now > self._origin + video_s:  # late: everything after it is later too
            self._origin = now - video_s
        return self.due(video_s)

    def rewind(self, video_s: float) -> None:
        """What is shown next, at once, is this second of the video."""
        self._origin = self._now() - video_s

    def pause(self, paused: bool) -> None:
        """Stop, or go on where it stopped."""
        if paused and self._paused is None:
            self._paused = self._now()
        elif not paused and self._paused is not None:
            if self._origin is not None:
                self._origin += self._now() - self._paused
            self._paused = None
