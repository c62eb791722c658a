"""Command `batch`: many videos from one file, each made once."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid_cli.batch.jobs import TEMPLATE, Job, JobReader, Pack, RowCommand, check_template
from causvid_cli.batch.ledger import RESULTS
from causvid_cli.batch.page import PAGE
from causvid_cli.batch.rows import JobsError, read_rows
from causvid_cli.cli import console
from causvid_cli.cli.batch_run import TOGETHER, Batch
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.run import planned
from causvid_cli.cli.torchrun import process_count
from causvid_cli.cli.video_options import VideoOptions, with_video_options_but
from causvid_cli.errors import UsageError

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


@app.command(
    cls=Command,
    epilog=examples(
        "causvid batch jobs.jsonl",
        "causvid batch prompts.txt --dir clips --length 3s --workers 2",
        "causvid batch jobs.csv --dry-run --probe",
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
    together: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            metavar="N",
            help=f"Videos that are made in one roll-out; if not given, {TOGETHER} of a small model, 1 of others.",
            show_default=False,
        ),
    ] = None,
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
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="With --dry-run: make a video of each kind of job somewhere else, to tell the time and disk that all "
            "take.",
            show_default=False,
        ),
    ] = False,
) -> None:
    """Make every video of a file, each exactly once, however often this is broken off and begun again.

    A row is a command (t2v if it does not say) with the options of the command line under the same names; what is typed
    here holds for rows that do not say otherwise. Fields of other names go into results.jsonl as they are. A row
    without a seed gets one of its own that is always the same. The same batch again makes what is missing, and of a row
    that has changed the new video. Batches that share a folder share the work. Exit code 8: some jobs failed.
    """
    from causvid_cli.video.formats import form_of  # loads PyAV

    if process_count() > 1:
        raise UsageError("batch: torchrun's processes make one video together; here --workers N makes several at once")
    if video_options.output == "-":
        raise UsageError("-o -: one video at a time goes there; name a file, such as {id}-{key}.mp4")
    part = parse_shard(shard)
    template = TEMPLATE if video_options.output is None else check_template(video_options.output)
    form_of(Path(template))  # whose complaint comes first
    place = folder or Path(jobs.stem or "jobs")
    root = typer_context.find_root().command
    if ray is not None and workers is not None:
        raise UsageError("--ray and --workers: a cluster has as many workers as it has room for; leave --workers out")
    if ray is not None:  # other machines have other working directories
        jobs, place = jobs.absolute(), place.absolute()
    found = _read(jobs, root, _shared(typer_context, video_options), template)
    chosen = [job for job in found if part is None or part.holds(job)]
    Batch(
        folder=place,
        jobs=chosen,
        options=video_options,
        workers=workers,
        ray=ray,
        cpus_per_worker=cpus_per_worker,
        together=together,
        max_tries=max_tries,
        retry_failed=retry_failed,
        page=page,
        probe=probe,
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

    def check(arguments: tuple[str, ...]) -> tuple[Mapping[str, Any], Pack]:
        task = planned(root, arguments)
        if task.is_endless:
            raise UsageError("--length inf: a video of a batch must end; try --length 1h")
        job = task.job.plain
        facts = job.recipe({})
        for name in ("prompt", "seed") if job.command == "edit-script" else ("prompt", "seed", "cues"):
            facts.pop(name)
        size = sum(file.bytes for file in task.facts.files.values())
        return facts, Pack(job.model.name, job.model.sha256, task.folder, size)

    reader = JobReader(
        row_commands(root),
        base=path.parent,
        shared=shared,
        template=template,
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
    if not (re.fullmatch(r"\d{1,15}/\d{1,15}", f"{index}/{count}", re.ASCII) and int(index) < int(count)):
        told = f" ({name}={index})" if not slash else ""
        raise UsageError(f"--shard {text}{told}: must be I/N, with I from 0 to N - 1, such as 0/4")
    return Shard(int(index), int(count))
