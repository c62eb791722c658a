"""Command `batch`: many videos from one file, each made once."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid_cli.batch.engine import Assignment, Tell, Worker, Workers
from causvid_cli.batch.jobs import TEMPLATE, Job, JobReader, RowCommand, check_template
from causvid_cli.batch.ledger import FAILED, RESULTS, Ledger
from causvid_cli.batch.local import ProcessLink
from causvid_cli.batch.page import PAGE, write_page
from causvid_cli.batch.rows import JobsError, read_rows
from causvid_cli.cli import console
from causvid_cli.cli.batch_table import BatchTable
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.run import planned
from causvid_cli.cli.video_options import VideoOptions, with_video_options_but
from causvid_cli.errors import CausvidError, ExitCode, OutputError, UsageError
from causvid_cli.models.resolve import resolve_model
from causvid_cli.request import Loading
from causvid_cli.units import counted

if TYPE_CHECKING:
    from causvid_cli.batch.cluster import Cluster

app = typer.Typer()

ROW_COMMANDS = ("t2v", "i2v", "extend", "restyle", "edit-script")
NOT_OF_A_BATCH = ("preview", "format", "count", "skip_existing", "overwrite")
"""Options of a single video that a batch does not have; a row may have some of them."""
OF_THE_BATCH = frozenset(
    "output count format dry-run preview progress quiet verbose json json-lines skip-existing overwrite help check to "
    "schema upgrade input-size input-fps".split()
)
"""Options that no row has: they are about the whole run, or about pipes."""
RANKS = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "SKYPILOT_JOB_RANK")
"""Environment variables in which schedulers say which shard a process is, from 0."""
WORKER = (sys.executable, "-m", "causvid_cli.cli.batch_worker")
BUSY_S = 2.0
"""Seconds until a job is tried again that another batch is making."""


class SomeFailed(CausvidError):
    """Some jobs of a batch failed; the others are done."""

    exit_code = ExitCode.JOBS


@app.command(
    cls=Command,
    epilog=examples(
        "causvid batch jobs.jsonl",
        "causvid batch prompts.txt --dir clips --length 3s --workers 2",
        "causvid batch jobs.csv --dry-run",
        more="\b\nRows of .jsonl; .csv names the same fields in its first line:\n"
        '  {"id": "car-1", "prompt": "a red car moves left", "seed": 7}\n'
        '  {"command": "i2v", "image": "swan.png", "prompt": "a swan flies up"}',
    ),
)
@with_video_options_but(*NOT_OF_A_BATCH)
def batch(
    typer_context: typer.Context,
    video_options: VideoOptions,
    jobs: Annotated[
        Path,
        typer.Argument(
            metavar="JOBS",
            help="What to make: .jsonl, .csv, .txt (a prompt a line), .parquet, or a folder that the datasets library "
            "has saved.",
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="FOLDER",
            help="Where videos, results.jsonl and failed.jsonl go; if not given, a folder named like JOBS, here.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            metavar="N",
            help="Processes that make videos, each with a model of its own; if not given, one for each GPU, else one.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let actors of a Ray cluster make the videos: local starts one here, auto joins this machine's, "
            "HOST:PORT another; --dir is a folder that all its machines see.",
            show_default=False,
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int,
        typer.Option(min=1, max=1024, metavar="N", help="Cores of each actor of a cluster without GPUs, with --ray."),
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help=f"Make only the I-th of N parts, I from 0. A plain N takes I from {', '.join(RANKS)}.",
            show_default=False,
        ),
    ] = None,
    max_tries: Annotated[
        int,
        typer.Option(
            min=1, max=100, metavar="N", help="How often a job is begun that fails for memory or for a lost worker."
        ),
    ] = 3,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also make what failed before.", show_default=False)
    ] = False,
    page: Annotated[
        bool,
        typer.Option("--page", help=f"Write {PAGE} as well: pictures, prompts and links.", show_default=False),
    ] = False,
) -> None:
    """Make every video of a file, each exactly once, however often this is broken off and begun again.

    A row is a command (t2v if it does not say) with the options of the command line under the same names; what is typed
    here holds for rows that do not say otherwise. Fields of other names go into results.jsonl as they are. A row
    without a seed gets one of its own that is always the same. The same batch again makes what is missing, and of a row
    that has changed the new video. Batches that share a folder share the work. Exit code 8: some jobs failed.
    """
    if video_options.output == "-":
        raise UsageError("-o -: one video at a time goes there; name a file, such as {id}-{key}.mp4")
    part = parse_shard(shard)
    place = folder or Path(jobs.stem or "jobs")
    root = typer_context.find_root().command
    if ray is not None and workers is not None:
        raise UsageError("--ray and --workers: a cluster has as many workers as it has room for; leave --workers out")
    if ray is not None:  # other machines have other working directories
        jobs, place = jobs.absolute(), place.absolute()
    found = _read(jobs, root, _shared(typer_context, video_options), video_options.output or TEMPLATE)
    chosen = [job for job in found if part is None or part.holds(job)]
    _Batch(
        folder=place,
        jobs=chosen,
        options=video_options,
        workers=workers,
        ray=ray,
        cpus_per_worker=cpus_per_worker,
        max_tries=max_tries,
        retry_failed=retry_failed,
        page=page,
    ).run()


def _shared(context: typer.Context, video_options: VideoOptions) -> dict[str, Any]:
    """The options typed here that hold for every row, by their long names."""
    names = {option.name: key for key, option in _options(context.command).items()}
    told: dict[str, Any] = {}
    for name in video_options.typed:
        if name in names and names[name] not in OF_THE_BATCH:
            value = getattr(video_options, name)
            told[names[name]] = value if isinstance(value, bool) else _texts(value)
    return told


def _texts(value: Any) -> Any:
    return [str(each) for each in value] if isinstance(value, list | tuple) else str(value)


def _options(command: Any) -> dict[str, Any]:
    """The options of a command by their long names without dashes."""
    found = (param for param in command.params if param.param_type_name == "option")
    return {max(option.opts, key=len).lstrip("-"): option for option in found}


def row_commands(root: Any) -> Iterator[RowCommand]:
    """Yield what a row may say, command by command, as the commands themselves declare it."""
    for name in ROW_COMMANDS:
        command = root.commands[name]
        inputs = tuple(param.name for param in command.params if param.param_type_name == "argument")
        yield RowCommand(
            name,
            inputs,
            {
                key: "switch" if option.is_flag else "list" if option.multiple else "value"
                for key, option in _options(command).items()
                if key not in OF_THE_BATCH
            },
        )


def _read(path: Path, root: Any, shared: Mapping[str, Any], template: str) -> list[Job]:
    """The jobs of a file. Raises JobsError, with every mistake in it."""

    def check(arguments: tuple[str, ...]) -> Mapping[str, Any]:
        job = planned(root, arguments).job.plain
        facts = job.recipe({})
        for name in ("prompt", "seed") if job.command == "edit-script" else ("prompt", "seed", "cues"):
            facts.pop(name)
        return facts

    reader = JobReader(
        row_commands(root),
        base=path.parent,
        shared=shared,
        template=check_template(template),
        check=check,
        reserved=OF_THE_BATCH,
    )
    mistakes = reader.mistakes
    with console.hushed():  # what is said of one row is kept for its result
        found = list(reader.read(read_rows(path, mistakes)))
    if mistakes:
        raise JobsError(path, mistakes)
    if not found:
        raise UsageError(f"{path}: holds no job; write one a line")
    if reader.carried:
        console.note(f"carried into {RESULTS}: {', '.join(sorted(reader.carried))}")
    return found


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a batch, from 0; keys decide, so that the parts need not know of each other."""

    index: int
    count: int

    def holds(self, job: Job) -> bool:
        return int(job.key[:15], 16) % self.count == self.index


def parse_shard(text: str | None) -> Shard | None:
    """The shard that is asked for; None is all of a batch. Raises UsageError for one that there is not."""
    if text is None:
        return None
    index, slash, count = text.rpartition("/")
    name = next((name for name in RANKS if os.environ.get(name)), "")
    if not slash:
        if not name:
            raise UsageError(f"--shard {text}: which one? write I/N, or set one of {', '.join(RANKS)}")
        index = os.environ[name]
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        told = f" ({name}={index})" if not slash else ""
        raise UsageError(f"--shard {text}{told}: must be I/N, with I from 0 to N - 1, such as 0/4")
    return Shard(int(index), int(count))


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Jobs on their way into a folder."""

    folder: Path
    jobs: Sequence[Job]
    options: VideoOptions
    workers: int | None
    ray: str | None
    cpus_per_worker: int
    max_tries: int
    retry_failed: bool
    page: bool
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
            self._tell_plan(done=done, given_up=len(given_up), new=len(firsts), copies=len(new) - len(firsts))
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

    def _tell_plan(self, *, done: int, given_up: int, new: int, copies: int) -> None:
        plan = {"jobs": len(self.jobs), "done": done, "new": new, "copies": copies, "failed_before": given_up}
        if self.options.as_json or self.options.json_lines:
            console.result_json({"v": 1, "folder": str(self.folder), **plan})
            return
        console.table(
            [
                ("jobs", len(self.jobs)),
                ("done", f"{done} in {self.folder}"),
                ("new", new),
                ("the same as another", copies),
                ("failed before", f"{given_up} (--retry-failed makes them)" if given_up else 0),
            ]
        )

    def _make(self, jobs: Sequence[Job]) -> None:
        with ExitStack() as stack:
            cluster = self._cluster(stack)
            self.pool = Workers(cluster.open_link, cluster.wanted) if cluster else local_workers(self.workers)
            work = [Assignment(job, self._message(job, cluster), job.group) for job in jobs]
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

    def _message(self, job: Job, cluster: "Cluster | None") -> dict[str, Any]:
        message: dict[str, Any] = {"arguments": job.arguments, "output": str(self.folder / job.path)}
        folder = cluster and resolve_model(job.model["name"], loading=Loading()).folder
        if cluster and folder:
            message["model"] = cluster.send_pack(job.model["name"], job.model["sha256"], folder)
        return message

    def _say_stopping(self) -> None:
        console.note("stopping after the chunks at work; Ctrl-C again stops now")

    def _tick(self) -> None:
        if interrupts.received:
            self.pool.stop()
        self.table.tick()

    def _take(self, worker: Worker, assignment: Assignment, event: Mapping[str, Any]) -> None:
        """What a worker tells of its job."""
        try:
            match event.get("event"):
                case "done":
                    self._done(assignment, event)
                case "failed" if event.get("busy"):
                    assignment.tries -= 1
                    self.pool.again(assignment, after_s=BUSY_S)
                case "failed" if event.get("full"):
                    told = str(event["what"]).partition(";")[0]
                    raise OutputError(f"{told}; the batch stops, and the same command goes on with it")
                case "failed":
                    self._failed(assignment, str(event["what"]), event["exit_code"], may_pass=bool(event["may_pass"]))
                case "lost" if not interrupts.received and not self.stopped:
                    what = f"its worker ended ({event['how']})"
                    self._failed(assignment, what, ExitCode.BUG, may_pass=True)
        except OutputError as error:
            self.stopped = self.stopped or error
            self.pool.stop()

    def _done(self, assignment: Assignment, event: Mapping[str, Any]) -> None:
        job: Job = assignment.job
        facts = {name: event[name] for name in ("bytes", "sha256", "frames", "seconds", "device", "notes")}
        self._keep(job, facts | {"tries": assignment.tries})
        for copy in self.copies.pop(job.key, ()):
            _copy(self.folder / job.path, self.folder / copy.path)
            self._keep(copy, facts | {"seconds": 0.0, "tries": 0, "copy_of": job.path})

    def _keep(self, job: Job, facts: Mapping[str, Any]) -> None:
        entry = {"id": job.id, "key": job.key, "path": job.path, **facts, "line": job.line, "fields": job.carried}
        self.ledger.add_result(entry)
        self.table.done += 1
        self._announce("done", entry)

    def _failed(self, assignment: Assignment, what: str, code: int, *, may_pass: bool) -> None:
        if may_pass and assignment.tries < self.max_tries:
            console.note(f"{assignment.job.id}: {what}; trying again")
            self.pool.again(assignment)
            return
        for job in (assignment.job, *self.copies.pop(assignment.job.key, ())):
            entry = {
                "id": job.id,
                "key": job.key,
                "path": job.path,
                "what": what,
                "exit_code": int(code),
                "tries": assignment.tries,
                "line": job.line,
                "fields": job.carried,
            }
            self.ledger.add_failure(entry)
            self.failed += 1
            self.table.failed += 1
            console.warning(f"{job.id} failed: {what}")
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
