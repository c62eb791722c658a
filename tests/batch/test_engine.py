"""Workers that die, hang back, or never begin: every job is told of exactly as often as it was begun."""

import os
import signal
import sys
from collections import Counter

import pytest

from causvid_cli import __version__
from causvid_cli.batch.engine import Assignment, Workers, WorkersError
from causvid_cli.batch.local import ProcessLink

WORKER = """
import json, os, signal, sys
print(json.dumps({"event": "ready", "version": VERSION}), flush=True)
print("not an event", flush=True)
for line in sys.stdin:
    job = json.loads(line)["job"]
    if job == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps({"event": "frames", "done": 1}), flush=True)
    print(json.dumps({"event": "failed" if job == "fails" else "done", "pid": os.getpid()}), flush=True)
    print(json.dumps({"event": "end"}), flush=True)
"""


def pool(count=2, code=WORKER, version=__version__):
    command = (sys.executable, "-c", f"VERSION = {version!r}\n{code}")
    return Workers(lambda number, tell: ProcessLink(command, tell), lambda: count)


def work(*jobs):
    return [Assignment(job, {"job": job}, group=job[0]) for job in jobs]


def events_of(workers, assignments, *, tries=3):
    told = []

    def on_event(worker, assignment, event):
        told.append((assignment.job, event["event"]))
        if event["event"] == "lost" and assignment.tries < tries:
            workers.again(assignment)

    workers.run(assignments, on_event)
    return Counter(told)


def test_every_job_is_made_once():
    jobs = [f"{letter}{number}" for letter in "ab" for number in range(20)]
    told = events_of(pool(), work(*jobs))
    assert told == Counter({(job, event): 1 for job in jobs for event in ("frames", "done")})


def test_a_worker_that_dies_takes_nothing_with_it_but_its_job():
    told = events_of(pool(), work("a", "dies", "b", "fails", "c"))
    assert told["dies", "lost"] == 3
    assert all(told[job, "done"] == 1 for job in "abc")
    assert told["fails", "failed"] == 1


def test_a_worker_goes_on_with_what_it_has_loaded():
    order = []
    workers = pool(count=1)
    workers.run(work("a1", "b1", "a2", "b2"), lambda _w, a, e: e["event"] == "done" and order.append(a.job))
    assert order == ["a1", "a2", "b1", "b2"]


def test_a_job_put_back_waits():
    workers, seen = pool(count=1), []

    def on_event(_worker, assignment, event):
        if event["event"] == "done":
            seen.append(assignment.job)
            if seen == ["a"]:
                workers.again(assignment, after_s=0.3)

    workers.run(work("a", "b"), on_event)
    assert seen == ["a", "b", "a"]


def test_workers_that_end_before_they_begin_are_given_up():
    with pytest.raises(WorkersError, match="exit code 3"):
        events_of(pool(code="raise SystemExit(3)"), work("a"))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_stopped_workers_are_given_no_other_job():
    workers, seen = pool(count=1), []

    def on_event(_worker, assignment, event):
        seen.append((assignment.job, event["event"]))
        if event["event"] == "frames":
            workers.stop()

    workers.run(work("a", "b"), on_event)
    assert {job for job, _ in seen} == {"a"}
    assert workers.workers == []


def test_no_process_is_left_behind():
    workers, pids = pool(), set()
    workers.run(work("a", "b"), lambda _w, _a, event: pids.add(event.get("pid")))
    for pid in pids - {None}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_worker_of_another_version_is_refused_by_name():
    with pytest.raises(WorkersError, match=f"has causvid 0.0.0 and this is {__version__}"):
        events_of(pool(version="0.0.0"), work("a"))


def test_workers_become_more_when_there_is_room_for_more():
    counts, pids = iter([1, 3, 3, 3, 3, 3]), set()
    workers = Workers(pool()._open_link, lambda: next(counts, 3))
    slow = work(*[f"a{number}" for number in range(400)])
    workers.run(slow, lambda worker, _a, event: pids.add(worker.number) if event["event"] == "done" else None)
    assert pids <= {0, 1, 2}
