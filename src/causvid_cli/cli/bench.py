"""`causvid bench`."""

from fractions import Fraction
from typing import Annotated

import typer

from causvid_cli.bench.fresh import BenchConfig, Fresh, Role, start
from causvid_cli.cli import console, options
from causvid_cli.cli.help import Command, examples
from causvid_cli.config import load_facts
from causvid_cli.packs import find_pack
from causvid_cli.request import check_device, check_dtype
from causvid_cli.timecode import parse_frames

DEFAULTS = BenchConfig()

app = typer.Typer()


@app.command(cls=Command, epilog=examples("causvid bench", "causvid bench --length 4s --no-teacher --json"))
def bench(
    model: options.Model = DEFAULTS.model,
    device: options.Device = DEFAULTS.device,
    dtype: options.Dtype = DEFAULTS.dtype,
    length: options.ClipLength = DEFAULTS.length,
    repeats: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="How often everything is measured.")
    ] = DEFAULTS.repeats,
    teacher: Annotated[bool, typer.Option(help="Let the model's teacher make the same video.")] = DEFAULTS.teacher,
    threads: options.Threads = None,
    quiet: options.Quiet = 0,
    as_json: options.Json = False,
) -> None:
    """Measure this machine: start-up, first frame, frames per second, memory, and the teacher beside the student."""
    facts = load_facts(find_pack(model))
    parse_frames(length, fps=Fraction(str(facts.fps)))
    config = BenchConfig(
        model=model,
        device=check_device(device),
        dtype=check_dtype(dtype),
        length=length,
        repeats=repeats,
        teacher=teacher and facts.teacher is not None,
        threads=threads,
    )

    def note(text: str) -> None:
        if not quiet:
            console.message(text)

    if teacher and not config.teacher:
        note(f"{facts.name} comes without its teacher: only the student is measured")
    fresh: dict[Role, list[Fresh]] = {role: [] for role in config.roles}
    for turn in range(repeats):
        note(f"fresh processes, {turn + 1} of {repeats}")
        for role, starts in fresh.items():
            starts.append(start(role, config))

    from causvid_cli.bench.measure import measure, open_maker  # torch loads here, after the fresh processes
    from causvid_cli.bench.report import figures, footnotes, headline, rows

    makers = {role: open_maker(role, config) for role in config.roles}
    result = figures(fresh, makers, measure(makers, repeats=repeats, note=note))
    if as_json:
        console.result_json(result)
        return
    console.result(headline(result))
    header, *body = rows(result)
    console.table(body, header=header)
    for line in footnotes(result):
        console.result(line)
