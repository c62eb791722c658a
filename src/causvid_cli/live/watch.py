"""Who watches a live session: each gets the frames by a queue of its own, and loses the oldest when it is slow."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Condition

import numpy as np

KEPT_CHUNKS = 4
"""Chunks that wait for a watcher, if it says nothing else."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Frames of one chunk, as a watcher gets them.

    frames: uint8 RGB [T, H, W, 3], at the model's rate. index: number of the chunk; -1 for a photo that was given.
    start_frame: number of the first, at the model's rate. due_s: when it is to be shown, on the monotonic clock.
    prompt: what holds for it.
    """

    frames: np.ndarray
    index: int
    start_frame: int
    due_s: float
    prompt: str


class Watcher:
    """One who watches; iterate for the chunks, until the session ends or `close` is called.

    kept: chunks that wait at most; when more come, the oldest is lost. lost: how many were.
    """

    def __init__(self, kept: int = KEPT_CHUNKS) -> None:
        self._queue: deque[Shown] = deque(maxlen=kept)
        self._changed = Condition()
        self._ended = False
        self.lost = 0

    def put(self, shown: Shown) -> None:
        """Add a chunk; never waits."""
        with self._changed:
            self.lost += len(self._queue) == self._queue.maxlen
            self._queue.append(shown)
            self._changed.notify()

    def drop(self) -> None:
        """Forget the chunks that were not taken: they are made anew."""
        with self._changed:
            self._queue.clear()

    def get(self, timeout: float | None = None) -> Shown | None:
        """The oldest chunk that waits, or the next; None when there is none in time, or the session has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended, timeout)
            return self._queue.popleft() if self._queue else None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended and not self._queue

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Shown]:
        while (shown := self.get()) is not None:
            yield shown
