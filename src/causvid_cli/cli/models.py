"""Commands `models list` and `models show`: which models are here, and what they are."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid_cli.cli import completion, console, options
from causvid_cli.cli.help import HELP_OPTIONS, Command, Group, examples, show_help
from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import ModelError
from causvid_cli.packs import find_pack, list_packs, verify_pack

app = typer.Typer()
models = typer.Typer(
    name="models",
    cls=Group,
    help="Show which models are here and what they are.",
    invoke_without_command=True,
    context_settings=HELP_OPTIONS,
    epilog=examples("causvid models list", "causvid models show storybook"),
)
models.callback()(show_help)
app.add_typer(models)


@models.command("list", cls=Command, epilog=examples("causvid models list", "causvid models list --json"))
def list_(as_json: options.Json = False) -> None:
    """List the models that --model takes by name."""
    found = {name: (folder, load_facts(folder)) for name, folder in list_packs().items()}
    if as_json:
        entries = [
            {
                "name": name,
                "size": _size(facts),
                "fps": facts.fps,
                "license": facts.license,
                "bytes": _bytes(folder),
                "folder": str(folder),
            }
            for name, (folder, facts) in found.items()
        ]
        console.result_json({"v": 1, "models": entries})
    elif found:
        rows = (
            (name, f"{_size(facts)} at {facts.fps:g} fps", console.bytes_text(_bytes(folder)), facts.license)
            for name, (folder, facts) in found.items()
        )
        console.table(rows, header=("name", "makes", "on disk", "licence"))
    else:
        console.message("no model is installed; the embedded one is missing, so reinstall causvid")


@models.command(cls=Command, epilog=examples("causvid models show storybook", "causvid models show storybook --json"))
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model's name, or the folder of a model pack.",
            autocompletion=completion.models,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show what a model is, and verify its files."""
    folder = find_pack(name)
    facts = load_facts(folder)
    problem = _problem(folder, facts)
    if as_json:
        entry = asdict(facts) | {"folder": str(folder), "bytes": _bytes(folder)}
        console.result_json({"v": 1} | entry | {"verified": problem is None})
    else:
        console.table(_rows(folder, facts, problem))
    if problem:
        raise problem


def _problem(folder: Path, facts: PackFacts) -> ModelError | None:
    """What is wrong with the files of a pack."""
    try:
        verify_pack(folder, facts)
    except ModelError as error:
        return error
    return None


def _rows(folder: Path, facts: PackFacts, problem: ModelError | None) -> Iterator[tuple[str, Any]]:
    window = f"the last {facts.window_frames}" if facts.window_frames else "all"
    yield "name", facts.name
    yield "makes", f"{_size(facts)} at {facts.fps:g} frames per second"
    yield "steps", f"{len(facts.steps)} network calls per chunk, of {facts.chunk_frames} latent frames"
    yield "sees", f"{window} latent frames" + (f" and the first {facts.sink_frames}" if facts.sink_frames else "")
    yield "reads", f"prompts by {facts.text}"
    yield "teacher", facts.teacher or "none"
    yield "licence", facts.license
    yield "source", facts.source
    yield "folder", folder
    yield "on disk", console.bytes_text(_bytes(folder))
    yield "files", "damaged" if problem else f"{len(facts.files)}, all verified by sha256"


def _size(facts: PackFacts) -> str:
    """What a user gets to see: "512x512"."""
    return f"{facts.width * facts.enlarge}x{facts.height * facts.enlarge}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
