"""Workers that pull jobs: started, fed, watched, started again. It knows neither what a job is nor where a worker runs.

A worker answers the messages that it is sent with events: `ready` first; then for each message any number of them, and
at last `end`. A `Link` reaches it: a process here (`local.py`), an actor of a cluster (`cluster.py`).
"""

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Protocol

from causvid_cli import __version__
from causvid_cli.errors import CausvidError, ExitCode

LOOK_AHEAD = 1000
"""Waiting jobs among which a worker's next one is looked for."""
MOST_EARLY_ENDS = 3
"""Workers in a row that may end before they are ready."""
RECOUNT_S = 2.0
"""Seconds until it is asked again how many workers there may be."""

Event = Mapping[str, Any]
Tell = Callable[[Event | None], None]
"""Takes a worker's events, from any thread; None when it has ended."""


class Link(Protocol):
    """The way to one worker."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Give it a job. An end of the worker that is not told yet is no error."""
        ...

    def stop(self) -> None:
        """Let it end after the chunk that it is at."""
        ...

    def close(self) -> None:
        """Let it end when its job is done, and wait for that."""
        ...

    def how_it_ended(self) -> str:
        """Return what is known of a worker that has ended, such as "exit code -9"."""
        ...


@dataclass(slots=True)
class Assignment:
    """Jobs on their way: what a worker is told, how often they were begun, and from when on they may be, on the
    monotonic clock. group: those of one group are best made by one worker, one after the other.
    """

    job: Any
    message: Mapping[str, Any]
    group: object
    tries: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class Worker:
    """A worker, and what it is doing."""

    number: int
    link: Link
    ready: bool = False
    work: Assignment | None = None
    group: object = None
    """What it made last, and has loaded."""
    status: Event = field(default_factory=dict)
    """The last event of the job at work."""


OnEvent = Callable[[Worker, Assignment, Event], None]


class WorkersError(CausvidError):
    """No worker can be kept running."""

    exit_code = ExitCode.DEVICE


class Workers:
    """Workers, and the jobs that wait for them.

    open_link: starts the worker of a number. wanted: how many there may be, asked now and then.
    """

    def __init__(self, open_link: Callable[[int, Tell], Link], wanted: Callable[[], int]) -> None:
        self._open_link, self._wanted = open_link, wanted
        self._events: queue.SimpleQueue[tuple[Worker, Event | None]] = queue.SimpleQueue()
        self._waiting: deque[Assignment] = deque()
        self.workers: list[Worker] = []
        self._early_ends = 0
        self._stopping = False

    def run(self, work: Iterable[Assignment], on_event: OnEvent, *, tick: Callable[[], None] = lambda: None) -> None:
        """Have every assignment made once, and once more for each that is put back with `again`.

        on_event: told of each event but the last; of {"event": "lost", "how": ...} when its worker has ended. tick:
        called at least ten times a second. Raises WorkersError for workers that end before they are ready, and for
        those of another version.
        """
        self._waiting.extend(work)
        recount = 0.0
        try:
            while self._waiting or any(worker.work for worker in self.workers):
                if time.monotonic() >= recount:
                    self._fill()
                    recount = time.monotonic() + RECOUNT_S
                with suppress(queue.Empty):
                    self._take(*self._events.get(timeout=0.1), on_event)
                for worker in self.workers:
                    if worker.ready and worker.work is None:
                        self._feed(worker)
                tick()
        finally:
            self.close()

    def again(self, assignment: Assignment, *, after_s: float = 0.0) -> None:
        """Put a job back, behind all others, to be begun so many seconds from now at the earliest."""
        assignment.not_before = time.monotonic() + after_s
        if not self._stopping:
            self._waiting.append(assignment)

    def stop(self) -> None:
        """Begin no other job, and let those at work end after the chunk that they are at."""
        if not self._stopping:
            self._stopping = True
            self._waiting.clear()
            for worker in self.workers:
                worker.link.stop()

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.link.close()
        self.workers.clear()

    def _fill(self) -> None:
        """Start as many workers as there may be and are of use."""
        taken = {worker.number for worker in self.workers}
        missing = min(self._wanted(), len(self._waiting) + len(taken)) - len(taken)
        if not self._stopping:
            for number in islice((number for number in count() if number not in taken), max(0, missing)):
                self._start(number)

    def _start(self, number: int) -> None:
        worker = Worker(number, link=None)  # type: ignore[arg-type]  # it is opened on the next line
        worker.link = self._open_link(number, lambda event: self._events.put((worker, event)))
        self.workers.append(worker)

    def _take(self, worker: Worker, event: Event | None, on_event: OnEvent) -> None:
        if event is None:
            self._bury(worker, on_event)
        elif event.get("event") == "ready":
            if event.get("version") != __version__:
                who, theirs = event.get("host", "a worker"), event.get("version")
                raise WorkersError(f"{who} has causvid {theirs} and this is {__version__}; install the same everywhere")
            worker.ready, self._early_ends = True, 0
        elif worker.work is not None:
            assignment = worker.work
            worker.status = event
            if event.get("event") == "end":
                worker.work, worker.status = None, {}
            else:
                on_event(worker, assignment, event)

    def _feed(self, worker: Worker) -> None:
        """Give a worker its next job, one of what it has loaded where there is one."""
        now = time.monotonic()
        due = [i for i, each in enumerate(islice(self._waiting, LOOK_AHEAD)) if each.not_before <= now]
        if not due:
            return
        same = next((i for i in due if self._waiting[i].group == worker.group), due[0])
        assignment = self._waiting[same]
        del self._waiting[same]
        assignment.tries += 1
        worker.work, worker.group = assignment, assignment.group
        worker.link.send(assignment.message)

    def _bury(self, worker: Worker, on_event: OnEvent) -> None:
        """A worker has ended: its job is told of, and another worker takes its place."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        how = worker.link.how_it_ended()
        if worker.work is not None:
            assignment, worker.work = worker.work, None
            on_event(worker, assignment, {"event": "lost", "how": how})
        elif not worker.ready and not self._stopping:
            self._early_ends += 1
            if self._early_ends >= MOST_EARLY_ENDS:
                raise WorkersError(f"workers end before they begin ({how}); CAUSVID_DEBUG=1 shows more")
        if self._waiting and not self._stopping:
            self._fill()
