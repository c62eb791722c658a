"""`causvid distill`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.help import Command, examples
from causvid_cli.request import AUTO, check_device
from causvid_cli.train.config import STAGES, check_stages, load_config

if TYPE_CHECKING:
    from causvid_cli.train.distill import Distillation, StageReport

app = typer.Typer()

RUNS = Path("runs")
HIDDEN = {"step", "clips", "pairs", "lr", "step_s"}
"""Values of a log row that have a column of their own, or none."""


@app.command(
    cls=Command,
    epilog=examples(
        "causvid distill examples/storybook.toml",
        "causvid distill examples/storybook.toml --stage judge --stage eval --run-dir runs/storybook",
    ),
)
def distill(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run: a TOML file.", show_default=False)],
    stage: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help=f"Run only this stage, or these, one option each: {', '.join(STAGES)}."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For checkpoints, logs and the pack; if not given, runs/NAME."),
    ] = None,
    device: options.Device = AUTO,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a model of your own, stage by stage, and print the path of its pack.

    Stop it whenever you like: the same command goes on from the last checkpoint.
    """
    plan = load_config(config)
    stages = check_stages(stage or ())
    folder = run_dir or RUNS / plan.name
    check_device(device)

    import torch  # so late, so that mistakes in the file are found at once

    from causvid_cli.device import resolve_device
    from causvid_cli.train.distill import Distillation

    if threads:
        torch.set_num_threads(threads)
    run = Distillation(plan, folder, resolve_device(device))
    try:
        with reporting(run, stages, quiet=quiet) as run.report:
            run.run(stages)
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"the same command goes on from the last checkpoint in {folder}")
        raise
    if "eval" in stages and not quiet:
        console.message(f"scores and contact sheets: {folder / 'eval'}")
    if "export" in stages:
        console.result(str(run.pack))


@dataclass
class StageProgress:
    """How a stage is doing, from the rows of its log."""

    done: int = 0
    total: int = 1
    row: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False
    first: tuple[float, int] | None = None
    """When its first row came, on the monotonic clock, and what was done by then."""

    def update(self, row: Mapping[str, float], done: int, total: int) -> None:
        self.row, self.done, self.total = row, done, total
        if row and self.first is None:
            self.first = time.monotonic(), done

    def steps(self) -> str:
        if self.row:
            return f"{self.done} of {self.total}"
        return "done" if self.finished else "at work"

    def values(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in self.row.items() if name not in HIDDEN)

    def rate(self) -> float | None:
        """Steps (clips, pairs) per second."""
        if "step_s" in self.row:
            return 1 / self.row["step_s"]
        if self.first is None or self.done == self.first[1]:
            return None
        return (self.done - self.first[1]) / (time.monotonic() - self.first[0])

    def pace(self) -> str:
        rate = self.rate()
        if rate is None or self.done == self.total:
            return ""
        return f"{rate:.3g} a second, {duration((self.total - self.done) / rate)} left"


class RunProgress:
    """How the stages of a run are doing."""

    def __init__(self, run: "Distillation", stages: Sequence[str]) -> None:
        self.run = run
        self.stages = {stage: StageProgress() for stage in stages}
        self.begun: list[str] = []

    def update(self, stage: str, row: Mapping[str, float]) -> StageProgress:
        """Take in a row; an empty one begins the stage, and ends the one before it."""
        if not row:
            self.finish()
            self.begun.append(stage)
        self.stages[stage].update(row, *self.run.progress(stage, row))
        return self.stages[stage]

    def finish(self) -> None:
        """All that has begun is done."""
        for stage in self.begun:
            self.stages[stage].finished = True

    def table(self) -> Any:
        """All stages, for a terminal."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in ("stage", "steps", "pace", "values"):
            table.add_column(heading, no_wrap=heading != "values")
        for stage, now in self.stages.items():
            if stage in self.begun:
                table.add_row(stage, now.steps(), now.pace(), now.values())
            else:
                table.add_row(stage, style="dim")
        return table


@contextmanager
def reporting(run: "Distillation", stages: Sequence[str], *, quiet: bool) -> Iterator["StageReport | None"]:
    """A live table on a terminal, a line now and then elsewhere, nothing when quiet."""
    progress = RunProgress(run, stages)
    if quiet:
        yield None
    elif console.is_terminal():
        from rich.console import Console
        from rich.live import Live

        with Live(progress.table(), console=Console(stderr=True), refresh_per_second=2) as live:

            def redraw(stage: str, row: dict[str, float]) -> None:
                progress.update(stage, row)
                live.update(progress.table())

            yield redraw
            progress.finish()
            live.update(progress.table())
    else:
        yield lines(progress)


def lines(progress: RunProgress) -> "StageReport":
    """A line when a stage begins, when it ends, and now and then."""
    last = time.monotonic()

    def report(stage: str, row: dict[str, float]) -> None:
        nonlocal last
        now = progress.update(stage, row)
        if not row or now.done == now.total or time.monotonic() - last >= console.LINE_EVERY_S:
            last = time.monotonic()
            console.message(", ".join(part for part in (f"{stage}: {now.steps()}", now.values(), now.pace()) if part))

    return report


def duration(seconds: float) -> str:
    """3725 -> "1 h 2 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
