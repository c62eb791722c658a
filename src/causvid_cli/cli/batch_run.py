"""Jobs -> videos in a folder: what is missing is made by workers, and what becomes of each job is kept and told."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causvid_cli.batch.engine import Assignment, Tell, Worker, Workers
from causvid_cli.batch.jobs import Job
from causvid_cli.batch.ledger import FAILED, Ledger
from causvid_cli.batch.local import ProcessLink
from causvid_cli.batch.page import write_page
from causvid_cli.cli import console
from causvid_cli.cli.batch_estimate import Estimate, estimate
from causvid_cli.cli.batch_table import BatchTable
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.video_options import VideoOptions
from causvid_cli.errors import CausvidError, ExitCode, OutputError
from causvid_cli.units import bytes_text, counted, duration_text

if TYPE_CHECKING:
    from causvid_cli.batch.cluster import Cluster

WORKER = (sys.executable, "-m", "causvid_cli.cli.batch_worker")
TOGETHER = 4
"""Videos of a small model in one roll-out."""
SMALL_BYTES = 64 * 2**20
"""Size of a model pack whose network calls are mostly waiting, so that several videos in one call cost little more."""
BUSY_S = 2.0
"""Seconds until a job is tried again that another batch is making."""


class SomeFailed(CausvidError):
    """Some jobs of a batch failed; the others are done."""

    exit_code = ExitCode.JOBS


@dataclass(slots=True, kw_only=True)
class Batch:
    """Jobs on their way into a folder.

    together: videos in one roll-out. page: whether a page is written as well. probe: whether a dry run makes some
    videos to tell what the others take.
    """

    folder: Path
    jobs: Sequence[Job]
    options: VideoOptions
    workers: int | None
    ray: str | None
    cpus_per_worker: int
    together: int | None
    max_tries: int
    retry_failed: bool
    page: bool
    probe: bool
    ledger: Ledger = field(init=False)
    pool: Workers = field(init=False)
    table: BatchTable = field(init=False)
    copies: dict[str, list[Job]] = field(default_factory=dict)
    """Further jobs by the key of the one that is made; they become copies of its file."""
    failed: int = 0
    stopped: CausvidError | None = None
    """What ends the batch before its end."""

    def run(self) -> None:
        """Make what is missing. Raises SomeFailed when some of it failed, OutputError when nothing can be written."""
        self.ledger = Ledger.open(self.folder)
        missing, done = self._missing()
        given_up = [job for job in missing if job.path in self.ledger.failed and not self.retry_failed]
        new = [job for job in missing if job.path not in {each.path for each in given_up}]
        firsts = self._firsts(new)
        if self.options.dry_run:
            known = [job for job in self.jobs if job.path in self.ledger.results]
            expected = estimate(firsts, known, self.ledger, probe=self.probe) if firsts else None
            counts = {
                "done": done,
                "new": len(firsts),
                "copies": len(new) - len(firsts),
                "failed_before": len(given_up),
            }
            self._tell_plan(counts | {"failed_before": len(given_up)}, expected)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made: {(error.strerror or '').lower()}") from error
        self.failed = len(given_up)
        self.table = BatchTable(total=len(self.jobs), done=done, failed=self.failed)
        if firsts:
            self._make(firsts)
        self._report()

    def _missing(self) -> tuple[list[Job], int]:
        """The jobs whose files are not there, or not as they were written, and how many are."""
        missing = [job for job in self.jobs if not self.ledger.is_done(job.path)]
        return missing, len(self.jobs) - len(missing)

    def _firsts(self, jobs: Sequence[Job]) -> list[Job]:
        """One job of each key, those that one model makes together; the others are kept to be copied."""
        firsts: dict[str, Job] = {}
        for job in jobs:
            if job.key in firsts:
                self.copies.setdefault(job.key, []).append(job)
            else:
                firsts[job.key] = job
        places = {group: place for place, group in enumerate(dict.fromkeys(job.group for job in firsts.values()))}
        return sorted(firsts.values(), key=lambda job: places[job.group])

    def _tell_plan(self, counts: Mapping[str, int], expected: Estimate | None) -> None:
        plan = {"jobs": len(self.jobs), **counts}
        if self.options.as_json or self.options.json_lines:
            told = asdict(expected) if expected else {"seconds": 0, "bytes": 0, "unknown": 0, "measured": 0}
            console.result_json({"v": 1, "folder": str(self.folder), **plan, "estimate": told})
            return
        given_up = counts["failed_before"]
        rows = [
            ("jobs", len(self.jobs)),
            ("done", f"{counts['done']} in {self.folder}"),
            ("new", counts["new"]),
            ("the same as another", counts["copies"]),
            ("failed before", f"{given_up} (--retry-failed makes them)" if given_up else 0),
        ]
        if expected and expected.measured:
            workers = 1 if self.ray else self.workers or 1
            by = "a worker" if self.ray else counted(workers, "worker")
            rest = f", and {counted(expected.unknown, 'job')} unlike these" if expected.unknown else ""
            rows += [
                ("time", f"{duration_text(expected.seconds / workers)} of {by}{rest}"),
                ("disk", bytes_text(expected.bytes)),
                ("told from", counted(expected.measured, "video")),
            ]
        console.table(rows)

    def _make(self, jobs: Sequence[Job]) -> None:
        with ExitStack() as stack:
            cluster = self._cluster(stack)
            self.pool = Workers(cluster.open_link, cluster.wanted) if cluster else local_workers(self.workers)
            work = [self._assignment(part, cluster) for part in self._bundles(jobs)]
            with interrupts.deferred(self._say_stopping), self.table.shown(self.pool.workers):
                self.pool.run(work, self._take, tick=self._tick)
        if self.stopped:
            raise self.stopped
        if interrupts.received:
            console.message(f"{self.table.done} of {counted(len(self.jobs), 'video')}; the same command goes on")
            raise KeyboardInterrupt

    def _cluster(self, stack: ExitStack) -> "Cluster | None":
        if self.ray is None:
            return None
        from causvid_cli.batch.cluster import Cluster

        cluster = Cluster(self.ray, cpus_per_worker=self.cpus_per_worker, command=WORKER)
        stack.callback(cluster.close)
        return cluster

    def _bundles(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        """Parts of the jobs that one worker is given at once, no more than leave work for the others."""
        for _, group in groupby(jobs, key=lambda job: job.group):
            alike = list(group)
            size = self.together or (TOGETHER if alike[0].pack.bytes < SMALL_BYTES else 1)
            size = max(1, min(size, len(jobs) // (self.workers or 1)))
            for start in range(0, len(alike), size):
                yield alike[start : start + size]

    def _assignment(self, jobs: Sequence[Job], cluster: "Cluster | None") -> Assignment:
        message: dict[str, Any] = {
            "jobs": [{"arguments": job.arguments, "output": str(self.folder / job.path)} for job in jobs]
        }
        pack = jobs[0].pack
        if cluster and pack.folder:
            message["model"] = cluster.send_pack(pack.name, pack.sha256, pack.folder)
        return Assignment(dict(enumerate(jobs)), message, jobs[0].group)

    def _say_stopping(self) -> None:
        console.note("stopping after the chunks at work; Ctrl-C again stops now")

    def _tick(self) -> None:
        if interrupts.received:
            self.pool.stop()
        self.table.tick()

    def _take(self, worker: Worker, assignment: Assignment, event: Mapping[str, Any]) -> None:
        """What a worker tells of its jobs. Those that it has not told of yet are `assignment.job`, by their number."""
        left: dict[int, Job] = assignment.job
        number: int = event.get("number", 0)
        try:
            match event.get("event"):
                case "done":
                    self._done(left.pop(number), assignment, event)
                case "failed" if event.get("busy"):
                    self._again(number, left.pop(number), assignment, tries=assignment.tries - 1, after_s=BUSY_S)
                case "failed" if event.get("full"):
                    told = str(event["what"]).partition(";")[0]
                    raise OutputError(f"{told}; the batch stops, and the same command goes on with it")
                case "failed":
                    what, may_pass = str(event["what"]), bool(event["may_pass"])
                    self._failed(number, left.pop(number), assignment, what, event["exit_code"], may_pass=may_pass)
                case "lost" if not interrupts.received and not self.stopped:
                    what = f"its worker ended ({event['how']})"
                    for number, job in left.items():
                        self._failed(number, job, assignment, what, ExitCode.BUG, may_pass=True)
        except OutputError as error:
            self.stopped = self.stopped or error
            self.pool.stop()

    def _again(self, number: int, job: Job, assignment: Assignment, *, tries: int, after_s: float = 0.0) -> None:
        """Have a job made once more, by itself."""
        message = {**assignment.message, "jobs": [assignment.message["jobs"][number]]}
        self.pool.again(Assignment({0: job}, message, assignment.group, tries), after_s=after_s)

    def _done(self, job: Job, assignment: Assignment, event: Mapping[str, Any]) -> None:
        facts = {name: event[name] for name in ("bytes", "sha256", "frames", "seconds", "model", "device", "notes")}
        if event["found"]:  # another batch that shares the folder has made it, and may have said so
            self.ledger.read()
        known = self.ledger.results.get(job.path, {})
        if event["found"] and known.get("sha256") == event["sha256"]:
            self._tell_done(known)
        else:
            self._keep(job, facts | {"tries": assignment.tries})
        for copy in self.copies.pop(job.key, ()):
            _copy(self.folder / job.path, self.folder / copy.path)
            self._keep(copy, facts | {"seconds": 0.0, "tries": 0, "copy_of": job.path})

    def _keep(self, job: Job, facts: Mapping[str, Any]) -> None:
        entry = {"id": job.id, "key": job.key, "path": job.path, **facts, "line": job.line, "fields": job.carried}
        self.ledger.add_result(entry)
        self._tell_done(entry)

    def _tell_done(self, entry: Mapping[str, Any]) -> None:
        self.table.done += 1
        self._announce("done", entry)

    def _failed(self, number: int, job: Job, assignment: Assignment, what: str, code: int, *, may_pass: bool) -> None:
        if may_pass and assignment.tries < self.max_tries:
            console.note(f"{job.id}: {what}; trying again")
            self._again(number, job, assignment, tries=assignment.tries)
            return
        for each in (job, *self.copies.pop(job.key, ())):
            entry = {
                "id": each.id,
                "key": each.key,
                "path": each.path,
                "what": what,
                "exit_code": int(code),
                "tries": assignment.tries,
                "line": each.line,
                "fields": each.carried,
            }
            self.ledger.add_failure(entry)
            self.failed += 1
            self.table.failed += 1
            console.warning(f"{each.id} failed: {what}")
            self._announce("failed", entry)

    def _announce(self, event: str, entry: Mapping[str, Any]) -> None:
        if self.options.json_lines:
            console.event(event, **entry)
        elif event == "done" and not self.options.as_json:
            console.result(str(self.folder / entry["path"]))

    def _report(self) -> None:
        done = self.table.done
        if self.page:
            console.note(f"the page is {write_page(self.jobs, self.ledger)}")
        if self.options.as_json or self.options.json_lines:
            facts = {"jobs": len(self.jobs), "done": done, "failed": self.failed, "folder": str(self.folder)}
            console.event("end", **facts) if self.options.json_lines else console.result_json({"v": 1, **facts})
        elif not console.voice.quiet:
            console.message(f"{done} of {counted(len(self.jobs), 'video')} in {self.folder}, {self.table.pace()}")
        if self.failed:
            raise SomeFailed(f"{counted(self.failed, 'job')} failed; {self.folder / FAILED} says why")


def local_workers(count: int | None) -> Workers:
    """Processes of this machine, each with a GPU of its own where there are some; one where nothing is said."""
    gpus = _visible_gpus()
    number = count or len(gpus) or 1

    def open_link(index: int, tell: Tell) -> ProcessLink:
        environment = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if len(gpus) > 1 else {}
        return ProcessLink(WORKER, tell, environment=environment)

    return Workers(open_link, lambda: number)


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, without loading torch."""
    if said := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return said.split(",")
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(folder.iterdir())] if folder.is_dir() else []


def _copy(made: Path, to: Path) -> None:
    """Let a file stand under another name as well. Raises OutputError."""
    import shutil

    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.unlink(missing_ok=True)
        try:
            os.link(made, to)
        except OSError:  # a file system without links
            shutil.copyfile(made, to)
    except OSError as error:
        raise OutputError(f"{to}: cannot be written: {(error.strerror or '').lower()}") from error
