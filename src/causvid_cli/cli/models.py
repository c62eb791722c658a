"""Commands `models ...`: which models are here or to be had, what they are, and what is done with them."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid_cli.cli import completion, console, models_get, options, settings
from causvid_cli.cli import config as configure
from causvid_cli.cli.command import HELP_OPTIONS, Command, Group, PlainCommand, examples, show_help
from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import ModelError, UsageError
from causvid_cli.models.catalogue import Checkpoint, catalogue
from causvid_cli.models.packs import find_pack, list_packs, verify_pack
from causvid_cli.paths import models_folder
from causvid_cli.request import AUTO, DEFAULT_MODEL
from causvid_cli.units import bytes_text, counted

app = typer.Typer()
models = typer.Typer(
    name="models",
    cls=Group,
    help="Show, get, check and remove models.",
    invoke_without_command=True,
    context_settings=HELP_OPTIONS,
    epilog=examples(
        "causvid models list",
        "causvid models show storybook",
        "causvid models pull causal-forcing",
        "causvid models import ./model.pt --as self-forcing",
    ),
)
models.callback()(show_help)
models.add_typer(models_get.app)
app.add_typer(models)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A model's name, or the folder of a model pack.", autocompletion=completion.models
    ),
]


@models.command("list", cls=Command, epilog=examples("causvid models list", "causvid models list --json"))
def list_(context: typer.Context, as_json: options.Json = False) -> None:
    """List the models that --model takes by name, and those that `models pull` gets."""
    found: dict[str, tuple[Path, PackFacts]] = {}
    unreadable: dict[str, tuple[Path, ModelError]] = {}
    for name, folder in list_packs().items():
        try:
            found[name] = folder, load_facts(folder)
        except ModelError as error:
            unreadable[name] = folder, error
    known = [checkpoint for name, checkpoint in catalogue().checkpoints.items() if name not in found | unreadable]
    default = _default(context)
    if as_json:
        entries = [
            {
                "name": name,
                "kind": facts.kind,
                "default": name == default,
                "size": _size(facts),
                "fps": facts.fps,
                "license": facts.license,
                "bytes": _bytes(folder),
                "folder": str(folder),
            }
            for name, (folder, facts) in found.items()
        ]
        damaged = [
            {"name": name, "folder": str(folder), "problem": str(problem)}
            for name, (folder, problem) in unreadable.items()
        ]
        available = [_available(each) for each in known]
        console.result_json({"v": 1, "models": entries, "unreadable": damaged, "available": available})
        return
    rows: list[tuple[str, ...]] = [
        (name, _makes(facts), bytes_text(_bytes(folder)) + ", default" * (name == default), facts.license)
        for name, (folder, facts) in found.items()
    ]
    rows += [(name, "unreadable", "", "") for name in unreadable]
    for each in known:
        size = f"{bytes_text(each.bytes)} to pull" if each.bytes else "to pull"
        rows.append((each.name, _makes(each.facts()), size, each.license))
    console.table(rows, header=("name", "makes", "on disk", "licence"))
    for _, problem in unreadable.values():
        console.warning(str(problem))
    if not found:
        console.message("no model is installed; the embedded one is missing, so reinstall causvid")


@models.command(cls=Command, epilog=examples("causvid models show storybook", "causvid models show krea-14b --json"))
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model's name, installed or not, or the folder of a model pack.",
            autocompletion=completion.known_models,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show what a model is, and verify its files; of one that is not here, what is known of it."""
    if name not in list_packs() and (checkpoint := catalogue().checkpoints.get(name)):
        if as_json:
            known = asdict(checkpoint.facts()) | _available(checkpoint)
            console.result_json({"v": 1, "installed": False} | {key: known[key] for key in known if key != "files"})
        else:
            console.table(_known_rows(checkpoint))
        return
    folder = find_pack(name)
    facts = load_facts(folder)
    problem = _problem(folder)
    if as_json:
        entry = asdict(facts) | {"folder": str(folder), "bytes": _bytes(folder)}
        console.result_json({"v": 1, "installed": True} | entry | {"verified": problem is None})
    else:
        console.table(_rows(folder, facts, problem))
    if problem:
        raise problem


@models.command(cls=PlainCommand, epilog=examples("causvid models verify", "causvid models verify storybook --json"))
def verify(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Models; if none is given, all.", show_default=False, autocompletion=completion.models
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Read every byte of models, and compare it with what was installed."""
    results: list[tuple[str, ModelError | None]] = []
    for each in name or list_packs():
        problem = _problem(find_pack(each), every=True)
        results.append((each, problem))
        if not as_json:
            console.result(f"{each}: {'damaged' if problem else 'whole'}")
    if as_json:
        entries = [{"name": each, "whole": not problem, "problem": str(problem or "")} for each, problem in results]
        console.result_json({"v": 1, "models": entries})
    for _, problem in results:
        if problem:
            raise problem


@models.command(cls=PlainCommand, epilog=examples("causvid models path storybook", "causvid models path"))
def path(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A model; if none is given, where models that you get are kept.",
            show_default=False,
            autocompletion=completion.models,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the folder of a model."""
    folder = find_pack(name) if name else models_folder()
    if as_json:
        console.result_json({"v": 1, "path": str(folder), "exists": folder.is_dir()})
    else:
        console.result(str(folder))


@models.command(cls=PlainCommand, epilog=examples("causvid models use causal-forcing", "causvid models use storybook"))
def use(context: typer.Context, name: Name) -> None:
    """Make a model the one that is used where --model is not given; the config file keeps it."""
    folder = find_pack(name)
    facts = load_facts(folder)
    if facts.kind == "base":
        raise UsageError(f"{name} is a base to distil from, which makes no video chunk by chunk; choose another")
    value = name if name in (AUTO, *list_packs()) else str(folder.absolute())
    configure.set_option(context, "model", value)


@models.command(cls=PlainCommand, epilog=examples("causvid models rm self-forcing", "causvid models rm krea-14b -y"))
def rm(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.", show_default=False)] = False,
    as_json: options.Json = False,
) -> None:
    """Remove an installed model; what other models share with it stays."""
    folder = list_packs().get(name)
    if folder is None:
        find_pack(name)  # says what there is, or
        raise UsageError(f"{name} is not an installed model; remove its folder yourself")
    if folder.parent.resolve() != models_folder().resolve():
        raise UsageError(f"{name} came with causvid and stays")
    models_get.ask(f"remove {name} ({bytes_text(_bytes(folder))}) from {folder.parent}?", yes=yes)
    from causvid_cli.models.install.build_pack import remove_pack

    was_default = name == _default(context)
    freed = remove_pack(folder)
    if as_json:
        console.result_json({"v": 1, "name": name, "freed_bytes": freed})
    else:
        console.note(f"{name} is removed; {bytes_text(freed)} are free again")
    if was_default:
        console.warning(f"{name} was the default model; `causvid models use {DEFAULT_MODEL}` sets another")


SINKS = {
    "absolute": "absolute: the first frames stay where they were",
    "beside": "relative: the first frames stand just before the others",
    "apart": "relative: the first frames stand as far before the others as in {0.trained_frames} latent frames",
}
"""Where a sink stands, in words."""

# --- what they are -------------------------------------------------------------------------------------------------


def _default(context: typer.Context) -> str:
    """The model that is used where none is named."""
    root = context.find_root().command
    options_ = settings.options_of(settings.tree(root)[("t2v",)])
    name = str(settings.resolve("model", options_["model"], settings.load_settings(root).of(("t2v",))).value)
    return DEFAULT_MODEL if name == AUTO else name


def _problem(folder: Path, *, every: bool = False) -> ModelError | None:
    """What is wrong with the files of a pack."""
    try:
        verify_pack(folder, load_facts(folder), every=every)
    except ModelError as error:
        return error
    return None


def _available(checkpoint: Checkpoint) -> dict[str, Any]:
    """What JSON says of a checkpoint that is not here."""
    return {
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "title": checkpoint.title,
        "repository": checkpoint.repository,
        "license": checkpoint.license,
        "non_commercial": checkpoint.non_commercial,
        "download_bytes": checkpoint.bytes,
        "note": checkpoint.note,
        "unseen": checkpoint.unseen,
    }


def _known_rows(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    size = bytes_text(checkpoint.bytes) if checkpoint.bytes else "the hub will say"
    yield "name", checkpoint.name
    yield "title", checkpoint.title
    if checkpoint.paper:
        yield "paper", checkpoint.paper
    yield from _shared_rows(checkpoint.facts())
    if checkpoint.license_note:
        yield "", checkpoint.license_note
    if checkpoint.note:
        yield "note", checkpoint.note
    if checkpoint.unseen:
        yield "not seen yet", checkpoint.unseen
    if checkpoint.native_i2v:
        yield "photos", "it was trained to begin from a given frame"
    yield "source", f"{checkpoint.repository}: {', '.join(file.path for file in checkpoint.files)}"
    yield "download", f"{size}, and the parts that all Wan models share"
    yield "on disk", f"not installed; `causvid models pull {checkpoint.name}` gets it"


def _rows(folder: Path, facts: PackFacts, problem: ModelError | None) -> Iterator[tuple[str, Any]]:
    yield "name", facts.name
    yield from _shared_rows(facts)
    yield "source", facts.source
    yield "folder", folder
    yield "on disk", bytes_text(_bytes(folder))
    yield "files", "damaged" if problem else f"{len(facts.files)}, all verified by sha256"


def _shared_rows(facts: PackFacts) -> Iterator[tuple[str, Any]]:
    yield "makes", f"{_size(facts)} at {facts.fps:g} frames per second"
    if facts.kind == "base":
        yield "kind", "a bidirectional base for `causvid distill`"
    else:
        window = f"the last {facts.window_frames}" if facts.window_frames else "all"
        calls, chunk = counted(len(facts.steps), "network call"), counted(facts.chunk_frames, "latent frame")
        first = f", {len(facts.first_steps)} for the first one" if facts.first_steps else ""
        yield "steps", f"{calls} per chunk, of {chunk}{first}"
        yield "sees", f"{window} latent frames" + (f" and the first {facts.sink_frames}" if facts.sink_frames else "")
        if facts.sink_frames:
            yield "positions", SINKS[facts.rope if facts.rope == "absolute" else facts.sink_placement].format(facts)
        if facts.opening_network:
            yield "begins", "a video, and each new shot, by a network of its own"
        yield (
            "remembers",
            "what its last step left"
            if facts.context == "last_call"
            else "each chunk by a clean pass" + (" of a second network" if facts.context_network else ""),
        )
    if facts.native_frames:
        yield "length", f"at most {facts.native_frames} frames, as its authors say"
    yield "reads", f"prompts by {facts.text}"
    yield "teacher", f"that of {facts.teacher_of}" if facts.teacher_of else facts.teacher or "none"
    yield "licence", facts.license


def _makes(facts: PackFacts) -> str:
    return "a base to distil from" if facts.kind == "base" else f"{_size(facts)} at {facts.fps:g} fps"


def _size(facts: PackFacts) -> str:
    """What a user gets to see: "512x512"."""
    return f"{facts.width * facts.enlarge}x{facts.height * facts.enlarge}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
