"""`causvid distill`."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.progress import LINE_EVERY_S
from causvid_cli.cli.torchrun import is_first
from causvid_cli.request import AUTO, check_device
from causvid_cli.train.config import STAGES, check_stages, load_config
from causvid_cli.train.logs import has_tensorboard, read_log, sparkline
from causvid_cli.units import duration_text

if TYPE_CHECKING:
    from causvid_cli.train.distill import Distillation, StageReport

app = typer.Typer()

RUNS = Path("runs")
HIDDEN = {"step", "clips", "pairs", "lr", "step_s"}
"""Values of a log row that have a column of their own, or none."""
RECENT = 10
"""Log rows over which the pace is averaged."""
COLUMNS = {"stage": 0, "steps": 13, "time": 17, "loss": 8}
"""Headings of the table and the least width of each, so that it stands still while its numbers change."""
CURVE = range(8, 41)
"""Characters of a curve: at least, at most."""


@app.command(
    cls=Command,
    epilog=examples(
        "causvid distill examples/storybook.toml",
        "causvid distill examples/storybook.toml --stage judge --stage eval --run-dir runs/storybook",
        "torchrun --nproc-per-node 4 -m causvid_cli distill examples/storybook.toml",
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
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="CPU threads; if not given, torch's own choice.")
    ] = None,
    quiet: options.Quiet = 0,
) -> None:
    """Train a model of your own, stage by stage, and print the path of its pack.

    Stop it whenever you like: the same command goes on from the last checkpoint, under torchrun with as many processes
    as it starts.
    """
    plan = load_config(config)
    stages = check_stages(stage or (), plan)
    folder = run_dir or RUNS / plan.name
    check_device(device)

    import torch  # so late, so that mistakes in the file are found at once

    from causvid_cli.device import resolve_device
    from causvid_cli.processes import joined
    from causvid_cli.train.distill import Distillation

    if threads:
        torch.set_num_threads(threads)
    first = is_first()
    quiet = quiet or not first
    try:
        with joined(resolve_device(device)) as own:
            run = Distillation(plan, folder, own, note=None if quiet else console.message)
            with reporting(run, stages, quiet=quiet) as run.report:
                run.run(stages)
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"the same command goes on from the last checkpoint in {folder}")
        raise
    if "eval" in stages and not quiet:
        console.message(f"scores and contact sheets: {folder / 'eval'}")
    if "export" in stages and first:
        console.result(str(run.pack))


@dataclass
class StageProgress:
    """How a stage is doing, from the rows of its log."""

    done: int = 0
    total: int = 1
    row: Mapping[str, float] = field(default_factory=dict)
    curve: dict[float, float] = field(default_factory=dict)
    """Step -> what it is judged by, earlier runs included."""
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Seconds a step of the last rows."""
    begun: float | None = None
    took: float | None = None
    """When it began, on the monotonic clock, and how long it took."""
    first: tuple[float, int] | None = None
    """When its first row came, and what was done by then."""

    def begin(self, past: Sequence[Mapping[str, float]]) -> None:
        """It is at work; past: its log so far."""
        self.begun = time.monotonic()
        for row in past:
            self._draw(row)

    def update(self, row: Mapping[str, float], done: int, total: int) -> None:
        self.row, self.done, self.total = row, done, total
        self._draw(row)
        if "step_s" in row:
            self.paces.append(row["step_s"])
        if row and self.first is None:
            self.first = time.monotonic(), done

    def finish(self) -> None:
        if self.begun is not None and self.took is None:
            self.took = time.monotonic() - self.begun

    @property
    def finished(self) -> bool:
        return self.took is not None

    def _draw(self, row: Mapping[str, float]) -> None:
        """Add a point; points of later steps are of a run that was broken off, and are taken again."""
        if judged := headline(row):
            self.curve = {step: value for step, value in self.curve.items() if step < row["step"]}
            self.curve[row["step"]] = judged[1]

    def steps(self) -> str:
        if self.begun is None:
            return ""
        if self.finished:
            return "done"
        return f"{self.done} of {self.total}" if self.row else "at work"

    def loss(self) -> str:
        """The latest value that it is judged by."""
        if judged := headline(self.row):
            name, value = judged
            return f"{value:.3g}" if name == "loss" else f"{name} {value:.3g}"
        return f"{self.curve[max(self.curve)]:.3g}" if self.curve else ""

    def values(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in shown_values(self.row).items())

    def rate(self) -> float | None:
        """Steps (clips, pairs) per second."""
        if self.paces:
            return len(self.paces) / max(sum(self.paces), 1e-9)
        if self.first is None or self.done == self.first[1]:
            return None
        return (self.done - self.first[1]) / (time.monotonic() - self.first[0])

    def pace(self) -> str:
        rate = self.rate()
        return "" if rate is None or self.done == self.total else f"{rate:.3g} a second"

    def time(self) -> str:
        """How long it will take, or took."""
        if self.took is not None:
            return f"took {duration_text(self.took)}" if self.row else ""
        rate = self.rate()
        if rate is None or self.done == self.total:
            return ""
        return f"{duration_text((self.total - self.done) / rate)} left"

    def details(self) -> str:
        """All that its last row says."""
        values = {name: value for name, value in self.row.items() if name not in {"step", "clips", "pairs", "step_s"}}
        return ", ".join(part for part in (self.pace(), *(f"{name} {v:.3g}" for name, v in values.items())) if part)


def shown_values(row: Mapping[str, float]) -> dict[str, float]:
    """The values of a row that are the stage's own, by name."""
    return {name: value for name, value in row.items() if name not in HIDDEN and not name.endswith("grad_norm")}


def headline(row: Mapping[str, float]) -> tuple[str, float] | None:
    """What a stage is judged by: its loss, or its first value when it has several."""
    values = shown_values(row)
    return ("loss", values["loss"]) if "loss" in values else next(iter(values.items()), None)


class RunProgress:
    """How the stages of a run are doing."""

    def __init__(self, run: "Distillation", stages: Sequence[str]) -> None:
        self.run = run
        self.stages = {stage: StageProgress() for stage in stages}
        self.begun: list[str] = []

    def update(self, stage: str, row: Mapping[str, float]) -> StageProgress:
        """Take in a row; an empty one begins the stage, and ends the one before it."""
        now = self.stages[stage]
        if not row:
            self.finish()
            self.begun.append(stage)
            now.begin(read_log(self.run.folder / stage))
        now.update(row, *self.run.progress(stage, row))
        return now

    def finish(self) -> None:
        """All that has begun is done."""
        for stage in self.begun:
            self.stages[stage].finish()

    def view(self, width: int, *, curves: bool = True) -> Any:
        """All stages for a terminal of so many columns, and below them all values of the one at work."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rows = [(stage, now.steps(), now.time(), now.loss()) for stage, now in self.stages.items()]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        left = width
        for i, (heading, least) in enumerate(COLUMNS.items()):
            column = max(least, *(len(row[i]) for row in rows))
            table.add_column(heading, min_width=column, no_wrap=True)
            left -= column + 2
        columns = min(left, CURVE[-1])
        if curves := curves and columns >= CURVE[0]:
            table.add_column("curve", min_width=columns, no_wrap=True)
        for row, now in zip(rows, self.stages.values(), strict=True):
            curve = [sparkline(list(now.curve.values()), columns)] if curves else []
            table.add_row(*row, *curve, style="dim" if now.begun is None else "" if now.finished else "bold")
        at_work = [now for now in self.stages.values() if now.begun is not None and not now.finished]
        return Group(table, *(Text(now.details(), style="dim") for now in at_work))


@contextmanager
def reporting(run: "Distillation", stages: Sequence[str], *, quiet: int) -> Iterator["StageReport | None"]:
    """A live table on a terminal, a line now and then elsewhere, nothing when quiet."""
    progress = RunProgress(run, stages)
    if quiet:
        yield None
        return
    if has_tensorboard():
        console.message(f"curves and sheets of samples: tensorboard --logdir {run.folder}")
    if not console.is_terminal():
        yield lines(progress)
        return
    from rich.console import Console
    from rich.live import Live

    screen = Console(stderr=True)

    def view() -> Any:
        return progress.view(screen.width, curves=not screen.options.ascii_only)

    def update(stage: str, row: dict[str, float]) -> None:
        progress.update(stage, row)

    with Live(console=screen, get_renderable=view, refresh_per_second=2):
        yield update
        progress.finish()


def lines(progress: RunProgress) -> "StageReport":
    """A line when a stage begins, when it ends, and now and then."""
    last = time.monotonic()

    def report(stage: str, row: dict[str, float]) -> None:
        nonlocal last
        now = progress.update(stage, row)
        if not row or now.done == now.total or time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            parts = (f"{stage}: {now.steps()}", now.values(), now.pace(), now.time())
            console.message(", ".join(part for part in parts if part))

    return report
