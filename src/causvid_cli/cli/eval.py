"""`causvid eval`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.command import Command, examples
from causvid_cli.cli.progress import Progress, show_progress
from causvid_cli.config import PackFacts, did_you_mean, load_facts
from causvid_cli.errors import UsageError
from causvid_cli.evaluate.config import (
    BUILT_IN,
    DEFAULT_LENGTH,
    DEFAULT_SHOTS,
    MEASURE_NAMES,
    MOST_SHOTS,
    MOST_TRIALS,
    EvalRequest,
    ExperimentRequest,
    MeasureRequest,
)
from causvid_cli.evaluate.results_folder import PAGE, VBENCH, VIDEOS, Folder
from causvid_cli.evaluate.vbench import check_vbench, measure_vbench
from causvid_cli.models.packs import find_pack
from causvid_cli.request import AUTO, DEFAULT_MODEL, check_device, check_dtype, check_seed
from causvid_cli.timecode import parse_whole

MOST_SEEDS = 16

app = typer.Typer()


@app.command(
    name="eval",
    cls=Command,
    epilog=examples(
        "causvid eval",
        "causvid eval --teacher --seen --seeds 4 --count 50 --out eval-teacher",
        "causvid eval --prompts prompts.txt --length 60s --json",
        "causvid eval --switches 45",
        "causvid eval --photos 40",
        "causvid eval --measure end --measure photo --count 20",
        "causvid eval --measure prompts --against storybook-fast --seeds 2",
    ),
)
def evaluate(
    model: options.Model = DEFAULT_MODEL,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Prompts, one a line (# begins a comment), or a .json list; if not given, the built-in {BUILT_IN}: "
            "storybook stories of combinations held out of training.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, max=BUILT_IN, metavar="NUMBER", help="Only so many of the built-in prompts.", show_default=False
        ),
    ] = None,
    seen: Annotated[
        bool,
        typer.Option(
            "--seen",
            help="Also as many combinations that training may have seen: the gap shows what was learned by heart.",
            show_default=False,
        ),
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_SEEDS, metavar="NUMBER", help="Clips of each prompt; 2 or more measure diversity."
        ),
    ] = 1,
    length: options.ClipLength = DEFAULT_LENGTH,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Also let the model's teacher answer: slow.", show_default=False)
    ] = False,
    switches: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_TRIALS,
            metavar="NUMBER",
            help="Instead: whether prompt changes take hold, in so many storybook scripts and every way to change.",
            show_default=False,
        ),
    ] = None,
    photos: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_TRIALS,
            metavar="NUMBER",
            help="Instead: whether so many storybook photos keep what they show when they are set in motion.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Instead: only this of a storybook model, pixel by pixel and as its judge sees it; one option each: "
            f"{', '.join(MEASURE_NAMES)}. --count says of how many prompts.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --measure: also of this model, by the same prompts and seeds.",
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        int,
        typer.Option(min=2, max=MOST_SHOTS, metavar="NUMBER", help="With --measure alternate: shots of 2 s."),
    ] = DEFAULT_SHOTS,
    videos: Annotated[
        bool, typer.Option("--videos", help="Keep the clips as .mp4, under DIR/clips.", show_default=False)
    ] = False,
    vbench: Annotated[
        bool,
        typer.Option(
            "--vbench",
            help="Also VBench's dimensions for custom videos. Needs the package vbench, which downloads "
            "its networks; keeps the clips.",
            show_default=False,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for the figures, the page and its pictures; if not given, eval-MODEL here.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        str, typer.Option("--seed", "-s", metavar="NUMBER", help="Seed of the first clip; each other has the next.")
    ] = "0",
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = 0,
    as_json: options.Json = False,
) -> None:
    """Measure a model: prompt following, temporal consistency, drift and diversity, as a table and a page of plots.

    Stop it whenever you like: the same command goes on with the clips that are missing.
    """
    pack = find_pack(model)
    facts = load_facts(pack)
    if measure:
        alone = {
            "--switches": switches,
            "--photos": photos,
            "--prompts": prompts is not None,
            "--seen": seen,
            "--length": length != DEFAULT_LENGTH,
            "--teacher": teacher,
            "--videos": videos,
            "--vbench": vbench,
        }
        check_alone("--measure", alone)
        other = find_pack(against) if against else None
        measures = MeasureRequest(
            pack=pack,
            facts=facts,
            measures=check_measures(measure),
            against=(other, load_facts(other)) if other else None,
            count=count,
            seeds=seeds,
            seed=check_seed(parse_whole(seed, name="--seed")),
            shots=shots,
            device=check_device(device),
            dtype=check_dtype(dtype),
        )
        folder = Folder(out or Path(f"eval-{facts.name}-measures"), measures.settings, overwrite=overwrite)
        with going_on_later(folder), show_progress(f"loading {facts.name}", quiet=quiet) as progress:
            result = carry_out_measures(measures, folder, progress, threads=threads)
        report(result, folder, quiet=quiet, as_json=as_json)
        return
    if against or shots != DEFAULT_SHOTS:
        raise UsageError(f"{'--against' if against else '--shots'} says nothing without --measure; add one")
    if switches or photos:
        alone = {
            "--photos": switches and photos,
            "--prompts": prompts is not None,
            "--count": count is not None,
            "--seen": seen,
            "--seeds": seeds != 1,
            "--length": length != DEFAULT_LENGTH,
            "--teacher": teacher,
            "--videos": videos,
            "--vbench": vbench,
        }
        check_alone("--switches" if switches else "--photos", alone)
        trial = ExperimentRequest(
            pack=pack,
            facts=facts,
            kind="switches" if switches else "photos",
            count=switches or photos or 0,
            seed=check_seed(parse_whole(seed, name="--seed")),
            device=check_device(device),
            dtype=check_dtype(dtype),
        )
        evaluate_trials(trial, out, threads=threads, overwrite=overwrite, quiet=quiet, as_json=as_json)
        return
    request = EvalRequest(
        pack=pack,
        facts=facts,
        prompts=choose_prompts(facts, prompts, count=count, seen=seen),
        length=length,
        seeds=seeds,
        seed=check_seed(parse_whole(seed, name="--seed")),
        teacher=teacher and facts.teacher is not None,
        videos=videos or vbench,
        device=check_device(device),
        dtype=check_dtype(dtype),
    )
    settings = request.settings
    if vbench:
        check_vbench()
    folder = Folder(out or Path(f"eval-{facts.name}"), settings, overwrite=overwrite)
    if teacher and not request.teacher and not quiet:
        console.message(f"{facts.name} comes without its teacher: only the student is measured")
    with going_on_later(folder), show_progress(f"loading {facts.name}", quiet=quiet) as progress:
        result = carry_out(request, folder, progress, threads=threads, vbench=vbench)
    report(result, folder, quiet=quiet, as_json=as_json)


def check_measures(names: Sequence[str]) -> tuple[str, ...]:
    """The measures, each once. Raises UsageError for an unknown name."""
    if unknown := [name for name in names if name not in MEASURE_NAMES]:
        hint = did_you_mean(unknown[0], MEASURE_NAMES) or f"; try {', '.join(MEASURE_NAMES)}"
        raise UsageError(f"--measure {unknown[0]}: unknown{hint}")
    return tuple(dict.fromkeys(names))


def check_alone(option: str, others: Mapping[str, Any]) -> None:
    """Refuse what goes with the prompts of a plain evaluation only."""
    if given := [name for name, is_given in others.items() if is_given]:
        raise UsageError(f"{option} has clips of its own, so {given[0]} says nothing; leave one of them out")


def evaluate_trials(
    request: ExperimentRequest, out: Path | None, *, threads: int | None, overwrite: bool, quiet: int, as_json: bool
) -> None:
    """Prompt changes, or photos."""
    path = out or Path(f"eval-{request.facts.name}-{request.kind}")
    folder = Folder(path, request.settings, overwrite=overwrite)
    with going_on_later(folder), show_progress(f"loading {request.facts.name}", quiet=quiet) as progress:
        result = carry_out_trials(request, folder, progress, threads=threads)
    report(result, folder, quiet=quiet, as_json=as_json)


@contextmanager
def going_on_later(folder: Folder) -> Iterator[None]:
    """Say to who stops it how to go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"the same command goes on from what is in {folder.path}")
        raise


def choose_prompts(facts: PackFacts, file: Path | None, *, count: int | None, seen: bool) -> dict[str, tuple[str, ...]]:
    """The prompts, by group."""
    from causvid_cli.evaluate.prompts import built_in_prompts, read_prompts  # numpy loads here

    if file is not None:
        for given, option in ((count is not None, "--count"), (seen, "--seen")):
            if given:
                raise UsageError(f"{option} chooses among the built-in prompts; leave it out, or leave out --prompts")
        return {"prompts": read_prompts(file)}
    if facts.text != "storybook":
        if seen:
            raise UsageError(f"--seen: {facts.name} was not trained on the storybook, so it has seen none of them")
        return {"built_in": built_in_prompts(count or BUILT_IN)}
    groups = {"held_out": True, "seen": False} if seen else {"held_out": True}
    return {name: built_in_prompts(count or BUILT_IN, held_out=held_out) for name, held_out in groups.items()}


def carry_out(
    request: EvalRequest, folder: Folder, progress: Progress, *, threads: int | None, vbench: bool
) -> dict[str, Any]:
    """Load, make, measure; the figures."""
    from causvid_cli.device import use_threads  # torch loads here, so late that mistakes are found at once
    from causvid_cli.evaluate.run import open_evaluation, run

    evaluation = open_evaluation(request)
    use_threads(threads, is_small=evaluation.student.model.is_small, device=evaluation.student.device)

    def dimensions() -> dict[str, dict[str, float]] | None:
        if not vbench:
            return None
        device, videos, out = str(evaluation.student.device), folder.path / VIDEOS, folder.path / VBENCH
        return {maker: measure_vbench(videos / maker, device=device, out=out) for maker in request.makers}

    return run(evaluation, folder, vbench=dimensions, on_frames=shower(progress))


def carry_out_trials(
    request: ExperimentRequest, folder: Folder, progress: Progress, *, threads: int | None
) -> dict[str, Any]:
    """Load, make, measure; the figures."""
    from causvid_cli.device import use_threads
    from causvid_cli.evaluate import photos, switches
    from causvid_cli.evaluate.experiments import open_trial_maker, run_trials

    trials = open_trial_maker(request)
    use_threads(threads, is_small=trials.student.model.is_small, device=trials.student.device)
    experiment = switches.experiment(trials) if request.kind == "switches" else photos.experiment(trials)
    return run_trials(trials, experiment, folder, on_frames=shower(progress))


def carry_out_measures(
    request: MeasureRequest, folder: Folder, progress: Progress, *, threads: int | None
) -> dict[str, Any]:
    """Load, make, measure; the figures."""
    from causvid_cli.device import use_threads
    from causvid_cli.evaluate.measuring import STUDENT, open_measuring, run_measures

    measuring = open_measuring(request)
    student = measuring.models[STUDENT].student
    use_threads(threads, is_small=student.model.is_small, device=student.device)
    return run_measures(measuring, folder, on_frames=shower(progress))


def shower(progress: Progress) -> Callable[[int, int], None]:
    """What tells a progress bar how many frames are done, of how many."""

    def on_frames(done: int, of: int) -> None:
        if done:
            progress.update(done)
        else:
            progress.start(of)

    return on_frames


def report(result: dict[str, Any], folder: Folder, *, quiet: int, as_json: bool) -> None:
    """The figures on stdout; where the page is, on stderr."""
    if as_json:
        console.result_json(result)
    else:
        headline, (header, *body), notes = told(result)
        console.result(headline)
        console.table(body, header=header)
        for line in notes:
            console.result(line)
    if not quiet:
        console.message(f"plots and pictures: {folder.path / PAGE}")


def told(result: dict[str, Any]) -> tuple[str, list[list[str]], list[str]]:
    """Headline, table and notes of any kind of figures."""
    from causvid_cli.evaluate.experiment_figures import experiment_headline, experiment_notes, experiment_rows
    from causvid_cli.evaluate.figures import footnotes, headline, rows
    from causvid_cli.evaluate.measure_figures import measure_headline, measure_notes, measure_rows

    if "measures" in result:
        return measure_headline(result), measure_rows(result), measure_notes(result)
    if "scores" in result:
        return headline(result), rows(result), footnotes(result)
    return experiment_headline(result), experiment_rows(result), experiment_notes(result)
