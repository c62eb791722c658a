"""`causvid bench`."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid_cli.bench.cold_start import Fresh, start
from causvid_cli.bench.config import BenchConfig, BenchSetting, Role
from causvid_cli.cli import console, options, settings
from causvid_cli.cli.command import Command, examples
from causvid_cli.config import PackFacts
from causvid_cli.errors import UsageError
from causvid_cli.models.resolve import ResolvedModel, resolve_model
from causvid_cli.request import (
    Loading,
    check_device,
    check_dtype,
    check_size,
    check_steps,
    check_window,
    parse_any_size,
)
from causvid_cli.timecode import parse_frames, parse_whole

DEFAULTS = BenchConfig()
MOST_CHUNKS = 10_000

app = typer.Typer()


@app.command(
    cls=Command,
    epilog=examples(
        "causvid bench",
        "causvid bench --length 4s --no-teacher --json",
        "causvid bench --random-weights self-forcing --vae tiny --steps 4,3,2 --window 21,12,9 --chart bench.svg",
    ),
)
def bench(
    context: typer.Context,
    length: options.ClipLength = DEFAULTS.length,
    chunks: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_CHUNKS,
            metavar="NUMBER",
            help="How long each clip is, in chunks: instead of --length.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Network calls per chunk, such as 4 or 4,3,2: each is measured. If not given, the model's own.",
            show_default=False,
            rich_help_panel=options.VIDEO,
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="FRAMES",
            help="Latent frames that a chunk looks back on besides the sink, itself included, such as 21 or 21,12,9: "
            "each is measured. If not given, the model's own.",
            show_default=False,
            rich_help_panel=options.VIDEO,
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="How often everything is measured.")
    ] = DEFAULTS.repeats,
    warm_up: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="CHUNKS",
            help="Chunks that are made before anything is timed; if not given, until the window is full, and one more.",
            show_default=False,
        ),
    ] = None,
    cold: Annotated[
        bool, typer.Option(help="Also start fresh processes: for the cold start and the memory of one run.")
    ] = True,
    teacher: Annotated[bool, typer.Option(help="Let the model's teacher make the same video.")] = DEFAULTS.teacher,
    chart: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the time of each chunk, a line for each setting, into an .svg or .png file.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    size: options.Size = None,
    model: options.Model = DEFAULTS.model,
    random_weights: options.RandomWeights = None,
    device: options.Device = DEFAULTS.device,
    dtype: options.Dtype = DEFAULTS.dtype,
    vae: options.WhichVae = DEFAULTS.loading.vae,
    quantize: options.QuantizeTo = DEFAULTS.loading.quantize,
    offload: options.OffloadWhat = DEFAULTS.loading.offload,
    compile_: options.Compile = DEFAULTS.loading.compile,
    attention: options.AttentionBy = DEFAULTS.loading.attention,
    threads: options.Threads = None,
    quiet: options.Quiet = 0,
    as_json: options.Json = False,
) -> None:
    """Measure this machine: start-up, first frame, frames per second, memory, and the teacher beside the student.

    Ctrl-C ends it early; what is measured by then is shown.
    """
    if random_weights is not None and settings.typed(context, "model"):
        raise UsageError(f"--random-weights {random_weights} and --model {model}: choose one")
    if chunks is not None and settings.typed(context, "length"):
        raise UsageError(f"--chunks {chunks} and --length {length}: choose one")
    loading = Loading(
        vae=vae,  # type: ignore[arg-type]  # what was typed; it is checked there
        quantize=quantize,  # type: ignore[arg-type]
        offload=offload,  # type: ignore[arg-type]
        compile=compile_,
        attention=attention,
        random_weights=random_weights is not None,
    )
    chosen = resolve_model(random_weights or model, loading=loading)
    facts = chosen.facts
    config = BenchConfig(
        model=random_weights or model,
        device=check_device(device),
        dtype=check_dtype(dtype),
        loading=loading,
        length=_length(length, chunks, chosen),
        size=None if size is None else parse_any_size(size),
        settings=_settings(steps, window, facts),
        repeats=repeats,
        warm_up=warm_up,
        teacher=teacher and facts.teacher is not None and size is None and not loading.random_weights,
        threads=threads,
    )
    check_size(config.size, facts)
    if chart:
        from causvid_cli.bench.chart import check_chart

        check_chart(chart, overwrite=overwrite)
    _run(config, facts, teacher=teacher, cold=cold, chart=chart, as_json=as_json)


def _run(
    config: BenchConfig, facts: PackFacts, *, teacher: bool, cold: bool, chart: Path | None, as_json: bool
) -> None:
    if teacher and not config.teacher and not config.loading.random_weights:
        why = "comes without its teacher" if facts.teacher is None else "has a teacher of its own size only"
        console.note(f"{facts.name} {why}: only the student is measured")
    fresh: dict[Role, list[Fresh]] = {role: [] for role in config.roles}
    for turn in range(config.repeats if cold else 0):
        console.note(f"fresh processes, {turn + 1} of {config.repeats}")
        for role, starts in fresh.items():
            starts.append(start(role, config))

    from causvid_cli.bench.measure import Measured, measure
    from causvid_cli.bench.report import figures
    from causvid_cli.bench.subjects import open_maker  # torch loads here, after the fresh processes

    console.note("loading")
    measured = Measured.of({role: open_maker(role, config) for role in config.roles})
    try:
        measure(measured, note=console.note)
    finally:  # broken off, it shows what it has
        if measured.known:
            _show(figures(fresh, measured), chart, as_json=as_json)


def _show(result: dict[str, Any], chart: Path | None, *, as_json: bool) -> None:
    from causvid_cli.bench.chart import write_chart
    from causvid_cli.bench.tables import footnotes, headlines, rows, setting_rows

    if as_json:
        console.result_json(result)
    else:
        for line in headlines(result):
            console.result(line)
        for table in (rows(result), setting_rows(result)):
            console.table(table)
        for line in footnotes(result):
            console.result(line)
    if chart:
        write_chart(chart, result)
        console.note(f"wrote {chart}")


def _length(length: str, chunks: int | None, chosen: ResolvedModel) -> str:
    """Of the clip, as `parse_frames` reads it. Raises UsageError when it is none."""
    if chunks is None:
        parse_frames(length, fps=Fraction(str(chosen.facts.fps)))
        return length
    return f"{chosen.facts.grid(chosen.codec).first_frame(chunks)}f"


def _settings(steps: str | None, window: str | None, facts: PackFacts) -> tuple[BenchSetting, ...]:
    """Every pair of what was asked for; what the model has of its own is None. Raises UsageError."""
    calls: list[int | None] = [check_steps(each, facts) for each in _numbers(steps, "--steps")] or [None]
    frames: list[int | None] = [check_window(each, facts) for each in _numbers(window, "--window")] or [None]
    return tuple(BenchSetting(steps=each, window_frames=held) for each, held in product(calls, frames))


def _numbers(text: str | None, name: str) -> Sequence[int]:
    """The whole numbers of "4,3,2", each once."""
    if text is None:
        return ()
    return list(dict.fromkeys(parse_whole(number, name=name) for number in text.split(",")))
