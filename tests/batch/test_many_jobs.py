"""A hundred thousand jobs of no work and workers that die: nothing is lost, nothing is told twice, little is kept."""

import random
import resource
import time
from collections import Counter

import pytest

from causvid_cli import __version__
from causvid_cli.batch.engine import Assignment, Workers
from causvid_cli.batch.ledger import Ledger

DIES = 0.05


class NoWork:
    """A worker of this process that does nothing, and dies in one of twenty jobs."""

    def __init__(self, tell, rng):
        self._tell, self._rng = tell, rng
        tell({"event": "ready", "version": __version__})

    def send(self, message):
        if self._rng.random() < DIES:
            self._tell(None)
            return
        self._tell({"event": "done", "path": message["path"]})
        self._tell({"event": "end"})

    def stop(self): ...

    def close(self): ...

    def how_it_ended(self):
        return "killed"


def simulate(folder, *, jobs, workers):
    """Run a batch; its ledger, how often each job was told done, and how often a worker was lost."""
    rng, ledger, told = random.Random(1), Ledger.open(folder), Counter()
    pool = Workers(lambda _number, tell: NoWork(tell, rng), lambda: workers)

    def on_event(_worker, assignment, event):
        told[event["event"]] += 1
        if event["event"] == "lost":
            pool.again(assignment)
            return
        told[event["path"]] += 1
        ledger.add_result({"path": event["path"], "bytes": 0, "sha256": ""})

    pool.run((Assignment(number, {"path": f"{number}.mp4"}, number % 7) for number in range(jobs)), on_event)
    return Ledger.open(folder), told


@pytest.mark.parametrize(("jobs", "workers"), [(500, 20), pytest.param(100_000, 200, marks=pytest.mark.slow)])
def test_nothing_is_lost_and_nothing_is_told_twice(tmp_path, jobs, workers):
    started = time.process_time()
    ledger, told = simulate(tmp_path, jobs=jobs, workers=workers)
    assert set(ledger.results) == {f"{number}.mp4" for number in range(jobs)}
    assert told.pop("done") == jobs
    assert 0.5 * DIES < told.pop("lost") / jobs < 2 * DIES
    assert set(told.values()) == {1}
    milliseconds = (time.process_time() - started) / jobs * 1e3
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{jobs} jobs, {workers} workers: {milliseconds:.2f} ms of CPU a job, at most {memory:.0f} MiB")
