"""Commands `models pull` and `models import`: from the hub, or from files of the user's own, to an installed model."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from causvid_cli.cli import completion, console, options
from causvid_cli.cli.command import PlainCommand, examples
from causvid_cli.cli.progress import ByteBar
from causvid_cli.config import FACTS_FILE, ContextForm, SinkPlacement, check_choice, load_facts
from causvid_cli.errors import UsageError
from causvid_cli.models.catalogue import Checkpoint, find_checkpoint, is_non_commercial, timestep
from causvid_cli.paths import models_folder
from causvid_cli.request import DTYPES, ROPES
from causvid_cli.units import bytes_text
from causvid_cli.weights.names import mismatch

if TYPE_CHECKING:
    from causvid_cli.models.install.build_pack import PackRecipe
    from causvid_cli.models.install.conversion import Recognised
    from causvid_cli.models.install.hub import PullPlan

app = typer.Typer()

SINK_PLACEMENTS: tuple[str, ...] = get_args(SinkPlacement)
CONTEXT_FORMS: tuple[str, ...] = get_args(ContextForm)
MUCH_BYTES = 10**9
"""More than this is downloaded only when somebody says yes."""

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, and replace what is there.", show_default=False)]
OwnName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="What to call it; if not given, as it is known.", show_default=False),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help=f"Number format of the transformer on disk: {', '.join(DTYPES)}; if not given, bfloat16.",
        show_default=False,
        autocompletion=completion.words(*DTYPES),
    ),
]


@app.command(
    cls=PlainCommand, epilog=examples("causvid models pull causal-forcing", "causvid models pull longlive --yes")
)
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model that `causvid models list` shows as one to pull.",
            autocompletion=completion.checkpoints,
        ),
    ],
    own_name: OwnName = None,
    dtype: Dtype = None,
    keep_download: Annotated[
        bool,
        typer.Option(
            "--keep-download/--rm-download",
            help="Whether the files stay in the hub's cache beside the model that is made of them. What was there "
            "before stays always.",
        ),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use what the hub's cache has, and no network.", show_default=False)
    ] = False,
    yes: Yes = False,
    quiet: options.Quiet = 0,
    verbose: options.Verbose = 0,
    as_json: options.Json = False,
) -> None:
    """Download a known model, make a model pack of it and install it.

    Size, repository and licence are told first. A download that was broken off goes on; HF_HOME and HF_TOKEN are
    heeded.
    """
    checkpoint = find_checkpoint(name)
    check_choice(dtype, DTYPES, name="--dtype")
    from causvid_cli.models.install import hub
    from causvid_cli.models.install.build_pack import check_name
    from causvid_cli.models.packs import sweep

    sweep()
    check_name(own_name or checkpoint.name, replacing=yes)
    plan = hub.plan_pull(checkpoint, tell=console.note, offline=offline)
    _tell(plan)
    _ask_download(plan, yes=yes)
    with _hub_bars():
        files = hub.download(plan, tell=console.note, offline=offline)
    recipe = hub.recipe_of(plan, files, name=own_name, dtype=dtype)
    folder = _build(recipe, checkpoint, replacing=yes)
    if not keep_download and (freed := hub.forget(plan.items, files)):
        console.note(f"{bytes_text(freed)} of downloads are removed again; --keep-download keeps them")
    _report(folder, as_json=as_json)


@app.command(
    "import",
    cls=PlainCommand,
    epilog=examples(
        "causvid models import ./self_forcing_dmd.pt --base ./Wan2.1-T2V-1.3B",
        "causvid models import ./model.pt --as causvid --name mine",
        "causvid models import ./runs/robot/pack/robot",
    ),
)
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A .safetensors, .gguf, .pt or .pth file, or the folder of a repository or a model pack.",
        ),
    ],
    own_name: OwnName = None,
    known_as: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Which known checkpoint it is, where its bytes do not tell.",
            show_default=False,
            autocompletion=completion.checkpoints,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where VAE, text encoder and tokenizer are: a folder of Wan2.1, or an installed model. If not given, "
            "beside PATH, or in any installed Wan model.",
            show_default=False,
        ),
    ] = None,
    lora: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The LoRA that a checkpoint needs, as longlive does.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="ENTRY",
            help="Under which entry of a .pt file the network lies; if not given, as its publisher has it, or "
            "generator_ema or generator.",
            show_default=False,
        ),
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, help="Latent frames per chunk.", show_default=False)
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Timesteps that it was trained for, such as 1000,750,500,250 or, as parts of 1, 15/16,5/6,5/8.",
            show_default=False,
        ),
    ] = None,
    first_steps: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Those of the first chunk, where it takes others.", show_default=False),
    ] = None,
    shift: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="Shift of its noise schedule.", show_default=False)
    ] = None,
    warp: Annotated[
        bool | None,
        typer.Option(
            "--warp/--no-warp",
            help="Whether --steps are indices into the shifted schedule (Self-Forcing), not timesteps (CausVid).",
            show_default=False,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=0, help="Latent frames that it looks back on; 0: all.", show_default=False),
    ] = None,
    sink: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=0, help="First latent frames that it never forgets.", show_default=False),
    ] = None,
    rope: Annotated[
        str | None,
        typer.Option(metavar="HOW", help=f"Where they stand in time: {', '.join(ROPES)}.", show_default=False),
    ] = None,
    sink_placement: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help=f"With relative positions: {', '.join(SINK_PLACEMENTS)}, as far from the window as in training.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            help=f"What later chunks see of one: {', '.join(CONTEXT_FORMS)}, if it was taught a noisy past.",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="Its licence.", show_default=False)
    ] = None,
    dtype: Dtype = None,
    yes: Yes = False,
    quiet: options.Quiet = 0,
    verbose: options.Verbose = 0,
    as_json: options.Json = False,
) -> None:
    """Make a model pack of a checkpoint and install it.

    The file is recognised by the names and shapes of its tensors, read piece by piece, and left as it is. A .pt file
    is opened once, in a process of its own that runs no code of it.
    """
    check_choice(dtype, DTYPES, name="--dtype")
    from causvid_cli.models.install.build_pack import check_name
    from causvid_cli.models.packs import sweep

    sweep()  # first, since a model that a killed run put aside may be the one that is meant
    if os.path.isfile(path / FACTS_FILE):
        _import_pack(path, own_name, yes=yes, as_json=as_json)
        return
    from causvid_cli.models.install.plan_import import ImportRequest, plan_import

    if own_name or known_as:
        check_name(own_name or find_checkpoint(str(known_as)).name, replacing=yes)
    facts = {
        "chunk_frames": chunk,
        "steps": _timesteps(steps, "--steps"),
        "first_steps": _timesteps(first_steps, "--first-steps"),
        "shift": shift,
        "warp_steps": warp,
        "window_frames": window,
        "sink_frames": sink,
        "rope": check_choice(rope, ROPES, name="--rope"),
        "sink_placement": check_choice(sink_placement, SINK_PLACEMENTS, name="--sink-placement"),
        "context": check_choice(context, CONTEXT_FORMS, name="--context"),
        "license": licence,
    }
    request = ImportRequest(
        path=path,
        name=own_name,
        known_as=known_as,
        base=base,
        lora=lora,
        key=key,
        dtype=dtype,
        facts={name: value for name, value in facts.items() if value is not None},
    )
    planned = plan_import(request)
    for note in planned.notes:
        console.note(note)
    _warn_of_licence(planned.recipe.facts.license)
    _report(_build(planned.recipe, planned.checkpoint, replacing=yes), as_json=as_json)


def ask(question: str, *, yes: bool) -> None:
    """Go on only when somebody says yes: here, or before by --yes. Raises UsageError where nobody can be asked."""
    if yes:
        return
    import sys

    if not (sys.stdin and sys.stdin.isatty() and console.is_terminal()):
        raise UsageError(f"{question} nobody can be asked here; --yes says yes")
    if not typer.confirm(f"causvid: {console.shown(question)}", err=True):
        raise UsageError("no; nothing was changed")


# --- what is done --------------------------------------------------------------------------------------------------


def _build(recipe: "PackRecipe", checkpoint: Checkpoint | None, *, replacing: bool) -> Path:
    """Convert and install, with a bar."""
    from causvid_cli.models.install.build_pack import build_pack
    from causvid_cli.models.install.plan_import import check_recognised

    bar = ByteBar(f"converting {recipe.facts.name}")

    def approve(seen: "list[Recognised]") -> None:
        check_recognised(recipe, checkpoint, seen)
        bar.total = sum(each.bytes for each in seen)
        for each in seen:
            if left := mismatch({"left out, which are counters or have an average beside them": each.left_out}):
                console.note(f"{each.part}: {left}")
            console.detail(f"{each.part}: {each.parameters / 1e6:.0f} million numbers, {bytes_text(each.bytes)}")

    with bar.shown():
        return build_pack(recipe, replacing=replacing, approve=approve, report=bar.add)


def _import_pack(path: Path, name: str | None, *, yes: bool, as_json: bool) -> None:
    from causvid_cli.models.install.build_pack import copy_pack

    _report(copy_pack(path, name or load_facts(path).name, replacing=yes), as_json=as_json)


def _report(folder: Path, *, as_json: bool) -> None:
    facts = load_facts(folder)
    size = sum(file.bytes for file in facts.files.values())
    if as_json:
        console.result_json(
            {
                "v": 1,
                "name": facts.name,
                "kind": facts.kind,
                "license": facts.license,
                "bytes": size,
                "folder": str(folder),
            }
        )
    else:
        console.result(str(folder))
    use = "base = " if facts.kind == "base" else "--model "
    console.note(f"{folder.name} is installed, {bytes_text(size)}: {use}{folder.name}")


def _tell(pull: "PullPlan") -> None:
    """Repository, files, size and licence, before anything is downloaded."""
    checkpoint = pull.checkpoint
    console.note(f"{checkpoint.name}: {checkpoint.title}")
    sources: dict[tuple[str, str], list[Any]] = {}
    for item in pull.items:
        sources.setdefault((item.source.repository, item.revision), []).append(item)
    for (repository, revision), items in sources.items():
        known = [item.bytes for item in items]
        size = bytes_text(sum(known)) if None not in known else "of unknown size"
        cached = sum(item.bytes or 0 for item in items if item.cached)
        here = f", {bytes_text(cached)} of them here already" if cached else ""
        own = items[0].source == checkpoint
        licence = (pull.licence if own else None) or items[0].source.license
        files = ", ".join(item.remote.path for item in items)
        console.note(f"{repository}@{revision[:12]}: {files}, {size}{here}; licence: {licence}")
    if pull.linked:
        console.note(f"{', '.join(pull.linked)}: shared with {', '.join({each.name for each in pull.linked.values()})}")
    for note in pull.notes:
        console.warning(note)
    _warn_of_licence(pull.licence or checkpoint.license, checkpoint)
    if pull.licence and is_non_commercial(checkpoint.license) and not is_non_commercial(pull.licence):
        console.note(f"its card now says {pull.licence}; causvid knew {checkpoint.license}")


def _warn_of_licence(licence: str, checkpoint: Checkpoint | None = None) -> None:
    if is_non_commercial(licence) or (checkpoint and checkpoint.non_commercial):
        shown = licence if is_non_commercial(licence) or not checkpoint else checkpoint.license
        console.warning(f"licence {shown}: NOT FOR COMMERCIAL USE, neither the model nor, by its terms, what it makes")
    if checkpoint and checkpoint.license_note:
        console.warning(f"licence: {checkpoint.license_note}")


def _ask_download(pull: "PullPlan", *, yes: bool) -> None:
    size = pull.download_bytes
    if size == 0:
        return
    text = bytes_text(size) if size is not None else "a download of unknown size"
    import sys

    if size is not None and size <= MUCH_BYTES and not (sys.stdin and sys.stdin.isatty()):
        return
    ask(f"download {text} for {pull.checkpoint.name} into {models_folder()}?", yes=yes)


@contextmanager
def _hub_bars() -> Iterator[None]:
    """The hub's library draws its own bars: on a terminal, and unless -q."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    logging.set_verbosity_error()
    silent = are_progress_bars_disabled()
    if console.voice.quiet or not console.is_terminal():
        disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            enable_progress_bars()


def _timesteps(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        steps = tuple(timestep(part) for part in text.replace(" ", ",").split(",") if part)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{option} {text}: timesteps are wanted, such as 1000,750,500,250") from None
    if not steps or list(steps) != sorted(set(steps), reverse=True) or not 0 <= steps[-1] <= steps[0] <= 1000:
        raise UsageError(f"{option} {text}: timesteps 1000..0 that fall are wanted, such as 1000,750,500,250")
    return steps if steps[-1] > 0 else steps[:-1]  # CausVid's configurations list a last 0, which is no step
