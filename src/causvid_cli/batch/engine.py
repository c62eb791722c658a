"""Worker processes that pull jobs: started, fed, watched, started again. It knows nothing of what a job is.

A worker is a program that reads JSON objects, one a line, on stdin and answers in the same way on stdout: `ready`
first; then for each job any number of events and at last `done` or `failed`. It ends when its stdin does.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

from causvid_cli.config import to_json
from causvid_cli.errors import CausvidError, ExitCode

LOOK_AHEAD = 1000
"""Waiting jobs among which a worker's next one is looked for."""
MOST_EARLY_ENDS = 3
"""Workers in a row that may end before they are ready."""


@dataclass(slots=True)
class Assignment:
    """A job on its way: what the worker is told, how often it was begun, and why it may have to be begun again.

    group: jobs of one group are best made by one worker, one after the other.
    """

    job: Any
    message: Mapping[str, Any]
    group: object
    tries: int = 0
    not_before: float = 0.0
    """On the monotonic clock."""


@dataclass(slots=True)
class Worker:
    """A process, and what it is doing."""

    number: int
    process: "subprocess.Popen[bytes]"
    started: float
    ready: bool = False
    work: Assignment | None = None
    group: object = None
    """What it made last, and has loaded."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """The last event of the job at work."""


OnEvent = Callable[[Worker, Assignment, Mapping[str, Any]], None]


class WorkersError(CausvidError):
    """No worker can be kept running."""

    exit_code = ExitCode.DEVICE


class LocalWorkers:
    """Processes on this machine; `run` feeds them until nothing is left.

    environments: of each worker, what differs from this process's own.
    """

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._command, self._environments = command, environments
        self._events: queue.SimpleQueue[tuple[Worker, Mapping[str, Any] | None]] = queue.SimpleQueue()
        self.workers: list[Worker] = []
        self._early_ends = 0
        self._stopping = False

    def run(self, work: Iterable[Assignment], on_event: OnEvent, *, tick: Callable[[], None] = lambda: None) -> None:
        """Have every assignment made once; those that `retry` puts back are made again.

        on_event: told of each event of a job; {"event": "lost"} when its worker ended. It may call `again`. tick:
        called at least ten times a second. Raises WorkersError when workers end before they are ready.
        """
        self._waiting = deque(work)
        try:
            for number in range(min(len(self._environments), len(self._waiting))):
                self._start(number)
            while self.workers and (self._waiting or any(worker.work for worker in self.workers)):
                with suppress(queue.Empty):
                    worker, event = self._events.get(timeout=0.1)
                    self._take(worker, event, on_event)
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
        self._stopping = True
        self._waiting.clear()
        for worker in self.workers:
            with suppress(OSError):
                worker.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            with suppress(OSError):
                worker.process.stdin.close()  # type: ignore[union-attr]
        for worker in self.workers:
            try:
                worker.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self.workers.clear()

    def _start(self, number: int) -> None:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | self._environments[number],
            start_new_session=True,  # Ctrl-C is for this process, which tells them
        )
        worker = Worker(number, process, time.monotonic())
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(worker, process.stdout), daemon=True).start()

    def _listen(self, worker: Worker, pipe: IO[bytes]) -> None:
        """Pass a worker's events on, in a thread of its own; None when it has ended."""
        for line in pipe:
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    self._events.put((worker, event))
        self._events.put((worker, None))

    def _take(self, worker: Worker, event: Mapping[str, Any] | None, on_event: OnEvent) -> None:
        if event is None:
            self._bury(worker, on_event)
        elif event.get("event") == "ready":
            worker.ready, self._early_ends = True, 0
        elif worker.work is not None:
            assignment = worker.work
            worker.status = event
            if event.get("event") in ("done", "failed"):
                worker.work, worker.status = None, {}
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
        with suppress(OSError):  # it has just ended, which its thread tells
            pipe = worker.process.stdin
            pipe.write(f"{to_json(assignment.message)}\n".encode())  # type: ignore[union-attr]
            pipe.flush()  # type: ignore[union-attr]

    def _bury(self, worker: Worker, on_event: OnEvent) -> None:
        """A worker has ended: its job is told of, and another worker takes its place."""
        code = worker.process.wait()
        self.workers.remove(worker)
        if worker.work is not None:
            assignment, worker.work = worker.work, None
            on_event(worker, assignment, {"event": "lost", "exit_code": code})
        elif not worker.ready:
            self._early_ends += 1
            if self._early_ends >= MOST_EARLY_ENDS:
                raise WorkersError(f"workers end before they begin (exit code {code}); try --workers 1")
        if self._waiting and not self._stopping:
            self._start(worker.number)
