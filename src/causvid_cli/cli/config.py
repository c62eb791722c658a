"""Commands `config`: what is set for all runs, from where, and how to change it."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from causvid_cli.cli import console, settings
from causvid_cli.cli.command import HELP_OPTIONS, Group, PlainCommand, examples, show_help
from causvid_cli.cli.settings import Found, Words
from causvid_cli.config import check_choice, did_you_mean
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.files import write_text
from causvid_cli.geometry import HOLDS
from causvid_cli.models.packs import find_pack
from causvid_cli.request import (
    ATTENTION,
    AUDIO_FITS,
    AUTO,
    FITS,
    INTERPOLATE,
    TRANSITIONS,
    Offload,
    Quantize,
    Vae,
    check_device,
    check_dtype,
    check_guidance,
    check_seed,
    check_strength,
    parse_any_size,
    parse_length,
)
from causvid_cli.timecode import parse_fps, parse_whole

CHOICES: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "audio-fit": AUDIO_FITS,
    "fit": FITS,
    "hold": HOLDS,
    "interpolate": INTERPOLATE,
    "offload": get_args(Offload),
    "quantize": get_args(Quantize),
    "transition": TRANSITIONS,
    "vae": (AUTO, *get_args(Vae)),
}
CHECKS: Mapping[str, Callable[[str], object]] = {
    "device": check_device,
    "dtype": check_dtype,
    "fps": parse_fps,
    "guidance": lambda text: check_guidance(float(text)),
    "length": lambda text: parse_length(text, fps=Fraction(1000)),
    "model": find_pack,
    "seed": lambda text: check_seed(parse_whole(text, name="--seed")),
    "size": parse_any_size,
    "strength": lambda text: check_strength(float(text)),
}
"""What a value of these options must pass, before it is kept for all runs."""

app = typer.Typer()
config = typer.Typer(
    name="config",
    cls=Group,
    help="Show and change what is set for all runs.",
    invoke_without_command=True,
    context_settings=HELP_OPTIONS,
    epilog=examples("causvid config show", "causvid config set length 10s"),
)
config.callback()(show_help)
app.add_typer(config)


def _keys(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: what can be set, for all commands and for one."""
    commands = settings.tree(context.find_root().command)
    keys = {".".join((*words, key)): key for words, command in commands.items() for key in settings.options_of(command)}
    return [key for key in sorted({*keys, *keys.values()}) if key.startswith(incomplete)]


def _commands(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: the words of the commands."""
    return [name for name in context.find_root().command.commands if name.startswith(incomplete)]  # type: ignore[attr-defined]


Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="An option's long name; for one command, with its name before it: t2v.fps.",
        autocompletion=_keys,
    ),
]


@dataclass(frozen=True, slots=True)
class Row:
    """An option of a command, and what holds for it."""

    command: str
    key: str
    found: Found


@config.command(
    cls=PlainCommand,
    epilog=examples("causvid config show", "causvid config show t2v", "causvid config show bench --json"),
)
def show(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Only this command's options, such as t2v.",
            show_default=False,
            autocompletion=_commands,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every option's value and where it comes from: default, config file or environment.

    The command line goes before the environment, the environment before the config file.
    """
    root = context.find_root().command
    known = settings.load_settings(root)
    rows = list(_rows(root, known, _chosen(root, tuple(command or ()))))
    for complaint in settings.unknown_variables(root):
        console.warning(complaint)
    if as_json:
        console.result_json(
            {
                "v": 1,
                "path": str(known.path),
                "exists": known.tables is not None,
                "settings": [
                    {
                        "command": row.command,
                        "option": row.key,
                        "value": _plain(row.found.value),
                        "source": row.found.source,
                        "origin": row.found.origin or None,
                        "variable": settings.variable(row.key),
                    }
                    for row in rows
                ],
            }
        )
    else:
        console.table(_merged(rows), header=("option", "value", "from", "commands"))


@config.command(cls=PlainCommand, epilog=examples("causvid config path", "causvid config path --json"))
def path(as_json: Json = False) -> None:
    """Print the config file's path, whether it exists or not."""
    found = settings.config_path()
    if as_json:
        console.result_json({"v": 1, "path": str(found), "exists": found.is_file()})
    else:
        console.result(str(found))


@config.command(
    "set", cls=PlainCommand, epilog=examples("causvid config set length 10s", "causvid config set t2v.fps 8")
)
def set_(
    context: typer.Context,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As on the command line; true or false for a flag.")],
) -> None:
    """Set an option for all runs, in the config file; the rest of the file stays as it is."""
    set_option(context, key, value)


@config.command(cls=PlainCommand, epilog=examples("causvid config unset length", "causvid config unset t2v.fps"))
def unset(context: typer.Context, key: Key) -> None:
    """Take an option out of the config file."""
    *words, name = key.split(".")
    _write(context.find_root().command, tuple(words), name, None)


def set_option(context: typer.Context, key: str, value: str) -> None:
    """Set an option of the root or of one command (KEY as in `config set`) in the config file.

    Raises what the command line raises for a value that no command would take.
    """
    root = context.find_root().command
    *words, name = key.split(".")
    option = _option(root, tuple(words), name)
    if not (option.is_flag or option.count or option.multiple):
        option.process_value(context, value)
    if name in CHOICES:
        check_choice(value, CHOICES[name], name=f"--{name}")
    CHECKS.get(name, str)(value)
    _write(root, tuple(words), name, _item(value, option))


# --- what holds ----------------------------------------------------------------------------------------------------


def _chosen(root: Any, words: Words) -> dict[Words, Any]:
    """The commands to show: one and those below it, or all."""
    commands = settings.tree(root)
    if words not in commands:
        near = did_you_mean(" ".join(words), [" ".join(names) for names in commands])
        raise UsageError(f"no command {' '.join(words)!r}{near}")
    return {names: command for names, command in commands.items() if names[: len(words)] == words}


def _rows(root: Any, known: settings.Settings, commands: dict[Words, Any]) -> Iterator[Row]:
    for words, command in commands.items():
        if getattr(command, "reads_config", True):
            written = known.of(words)
            for key, option in settings.options_of(command).items():
                yield Row(" ".join(words) or "causvid", key, settings.resolve(key, option, written))


def _merged(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """Table rows: commands for which the same holds share one, and the rows of an option stand together."""
    places = {row.key: place for place, row in reversed(list(enumerate(rows)))}
    shared: dict[tuple[str, str, str], list[str]] = {}
    for row in sorted(rows, key=lambda row: places[row.key]):
        cells = row.key, _shown(row.found.value), row.found.origin or row.found.source
        shared.setdefault(cells, []).append(row.command)
    for cells, commands in shared.items():
        yield (*cells, ", ".join(commands))


def _shown(value: object) -> str:
    plain = _plain(value)
    if plain is None or plain == []:
        return "-"
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def _plain(value: object) -> Any:
    """A value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# --- the file ------------------------------------------------------------------------------------------------------


def _option(root: Any, words: Words, name: str) -> Any:
    """The option that a key names. Raises UsageError when there is none."""
    options: dict[str, Any] = {}
    for command in _chosen(root, words).values():
        options = settings.options_of(command) | options
    if name not in options:
        near = did_you_mean(name, options) or "; `causvid config show` lists what can be set"
        raise UsageError(f"{' '.join((*words, name))}: no such option{near}")
    return options[name]


def _item(value: str, option: Any) -> Any:
    """A value as the config file has it: numbers, true and false as they were typed, all else as text."""
    import tomlkit

    if option.multiple:
        return tomlkit.item([value])
    if value in ("true", "false") or re.fullmatch(r"-?(0|[1-9]\d{0,17})(\.\d+)?", value, re.ASCII):
        return tomlkit.value(value)
    return tomlkit.item(value)


def _write(root: Any, words: Words, name: str, value: Any) -> None:
    """Set a key of the config file, and leave all else in it as it is; None takes the key out."""
    import tomlkit  # here: only who changes the file needs it

    path = settings.config_path()
    try:
        before = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):  # which writing says more of
        before = ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the config file cannot be read: {error}") from error
    settings.read_toml(path, before)
    try:
        document = tomlkit.parse(before)
    except tomlkit.exceptions.TOMLKitError as error:
        raise UsageError(f"{path}: {name} cannot be changed there, but in an editor: {error}") from error
    table: Any = document
    for word in words:
        table = table.setdefault(word, tomlkit.table())
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {word} is no table there, so {name} cannot be in it")
    if value is None:
        said = "is not set" if table.pop(name, None) is None else "is no longer set"
    else:
        table[name], said = value, f"= {value.as_string()}"
    after = tomlkit.dumps(document)
    settings.parse_settings(path, after, root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(os.path.realpath(path)), after)  # a link to the file stays one
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {(error.strerror or '').lower()}") from error
    console.note(f"{path}: {name} {said}")
