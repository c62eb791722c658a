"""What a user has set once for all runs: options in a config file, and in environment variables.

An option's value is looked for on the command line, in the environment, in the config file, in this order; then its
default holds. The file is TOML: an option's long name is its key, at the top for every command that has it, in a table
for one command. Imports no torch.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import typer

from causvid_cli.config import did_you_mean
from causvid_cli.errors import CausvidError, UsageError
from causvid_cli.paths import CACHE_FOLDER, MODELS_FOLDER, TEXT_CACHE

CONFIG_FILE = "CAUSVID_CONFIG"
"""The environment variable that names another config file; /dev/null is none."""
PREFIX = "CAUSVID_"
NO_OPTIONS = frozenset({CONFIG_FILE, MODELS_FOLDER, CACHE_FOLDER, TEXT_CACHE, "CAUSVID_DEBUG"})
"""Variables that set no option."""
OF_ONE_RUN = frozenset(
    {
        "output",
        "audio",
        "out",
        "chart",
        "then",
        "dry-run",
        "check",
        "schema",
        "upgrade",
        "to",
        "switch",
        "count",
        "stage",
        "run-dir",
        "random-weights",
    }
)
"""Options that say what one run is to do, so they are not set from outside."""

Words = tuple[str, ...]
"""A command by its words: () is causvid itself."""


@dataclass(frozen=True, slots=True)
class Found:
    """An option's value, and where it is from."""

    value: Any
    source: str
    """default, config or environment."""
    origin: str = ""
    """The file and line, or the variable; nothing for a default."""


@dataclass(frozen=True)
class Settings:
    """A config file that is checked against the commands there are."""

    path: Path
    text: str = ""
    tables: Mapping[str, Any] | None = None

    def of(self, command: Words) -> dict[str, Found]:
        """Key -> what the file says for a command; a command's own table goes before those around it."""
        found: dict[str, Found] = {}
        table = self.tables or {}
        for depth in range(len(command) + 1):
            for key, value in table.items():
                if not isinstance(value, dict):
                    found[key] = Found(value, "config", place(self.path, self.text, command[:depth], key))
            table = table.get(command[depth], {}) if depth < len(command) else {}
        return found


def config_path() -> Path:
    """Where the user's config file is, or would be."""
    named = os.environ.get(CONFIG_FILE)
    return Path(named) if named else Path(typer.get_app_dir("causvid")) / "config.toml"


def load_settings(root: Any) -> Settings:
    """The user's config file, or no settings where there is none.

    Raises UsageError, with the line where it is known, for what is no TOML, an unknown key, or a value of a wrong kind.
    """
    path = config_path()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:  # also where HOME is no folder
        if os.environ.get(CONFIG_FILE):
            raise UsageError(f"{CONFIG_FILE}={path}: no such file; write it, or unset {CONFIG_FILE}") from error
        return Settings(path)
    except OSError as error:
        raise UsageError(f"{path}: the config file cannot be read: {(error.strerror or '').lower()}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the config file is not UTF-8 text") from error
    return parse_settings(path, text, root)


def parse_settings(path: Path, text: str, root: Any) -> Settings:
    """The settings that a text holds. Raises UsageError as `load_settings` does; path is for its message."""
    tables = read_toml(path, text)
    _check(tables, root, (), path, text)
    return Settings(path, text, tables)


def read_toml(path: Path, text: str) -> dict[str, Any]:
    """What a TOML text holds. Raises UsageError, which names the line."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{path}: not TOML: brackets in brackets without end") from error
    except tomllib.TOMLDecodeError as error:
        said, _, place = str(error).partition(" (at ")
        at = re.match(r"line (\d+), column (\d+)", place)
        where = f"{path}:{at[1]}:{at[2]}" if at else f"{path}:{text.count(chr(10)) + 1}"  # else the end of the file
        raise UsageError(f"{where}: not TOML: {said[:1].lower()}{said[1:]}") from error


def _check(table: Mapping[str, Any], command: Any, words: Words, path: Path, text: str) -> None:
    children = getattr(command, "commands", {})
    known: dict[str, list[Any]] = {}
    for below in tree(command).values():
        for key, option in options_of(below).items():
            known.setdefault(key, []).append(option)
    for key, value in table.items():
        where = place(path, text, words, key)
        if isinstance(value, dict):
            inner = (*words, key)
            if key not in children:
                where, near = place(path, text, inner, ""), did_you_mean(key, children)
                raise UsageError(f"{where}: [{'.'.join(inner)}]: no such command{near}")
            _check(value, children[key], inner, path, text)
        elif key not in known:
            near = did_you_mean(key, known) or "; `causvid config show` lists what can be set"
            raise UsageError(f"{where}: {' '.join((*words, key))}: no such option{near}")
        elif wanted := next((_kind(option) for option in known[key] if not _fits(value, option)), None):
            raise UsageError(f"{where}: {key} = {_toml(value)}: must be {wanted}")


def _fits(value: object, option: Any) -> bool:
    if getattr(option, "is_flag", False):
        return isinstance(value, bool)
    if getattr(option, "count", False):
        return isinstance(value, int)
    if option.multiple:
        return isinstance(value, list) and all(isinstance(each, str | int | float) for each in value)
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _kind(option: Any) -> str:
    """What an option's value must be in TOML, in words."""
    if getattr(option, "is_flag", False):
        return "true or false"
    if getattr(option, "count", False):
        return "a whole number, such as 1"
    return 'a list, such as ["a", "b"]' if option.multiple else "a number or text in quotes"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def place(path: Path, text: str, table: Words, key: str) -> str:
    """`FILE:LINE` of a key, or of its table's head when the key is ""; `FILE` alone where it is written otherwise."""
    line = find_line(text, table, key)
    return f"{path}:{line + 1}" if line is not None else str(path)


def find_line(text: str, table: Words, key: str) -> int | None:
    """The line, from 0, of a key in a table, as people write them; tomllib tells no places."""
    now: Words = ()
    for number, line in enumerate(text.splitlines()):
        if head := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            now = tuple(part.strip().strip("\"'") for part in head[1].split("."))
            if now == table and not key:
                return number
        elif key and now == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return None


def tree(root: Any, names: Words = ()) -> dict[Words, Any]:
    """A command and all below it, by their words."""
    found = {names: root}
    for name, command in getattr(root, "commands", {}).items():
        found |= tree(command, (*names, name))
    return found


def options_of(command: Any) -> dict[str, Any]:
    """The options of a command that can be set from outside, by key: the long name without its dashes."""
    options = (param for param in command.params if param.param_type_name == "option")
    named = {max(option.opts, key=len).lstrip("-"): option for option in options}
    return {
        key: option
        for key, option in named.items()
        if key not in OF_ONE_RUN and option.expose_value and not option.is_eager  # --help and the like
    }


def variable(key: str) -> str:
    """The environment variable of an option: no-metadata -> CAUSVID_NO_METADATA."""
    return PREFIX + key.replace("-", "_").upper()


def resolve(key: str, option: Any, written: Mapping[str, Found]) -> Found:
    """What holds for an option that is not on the command line. written: of the file, for the command."""
    if said := os.environ.get(variable(key)):
        return Found(said, "environment", variable(key))
    if key in written:
        return written[key]
    return Found(option.default, "default")


def unknown_variables(root: Any) -> Iterator[str]:
    """A complaint for each CAUSVID_ variable that sets nothing: an option misspelt, mostly."""
    known = {variable(key) for command in tree(root).values() for key in options_of(command)} | NO_OPTIONS
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            yield f"{name} sets no option{did_you_mean(name, known)}"


class Defaults:
    """A command's values from the config file, by parameter name, read when first asked: --help never does."""

    def __init__(self, command: Any, context: Any, name: str | None) -> None:
        """context: the parent's, None for causvid itself; name: of the command, as it was typed."""
        self._command, self._parent, self._name = command, context, name

    def get(self, name: str, default: Any = None) -> Any:
        found = self.found.get(name)
        return default if found is None else found.value

    @cached_property
    def found(self) -> dict[str, Found]:
        """Parameter name -> what the file says."""
        options = options_of(self._command)
        try:
            settings = load_settings(self._parent.find_root().command if self._parent else self._command)
        except UsageError:
            if hasattr(self._command, "commands"):  # a group: the command after it will say so, if it reads settings
                return {}
            raise
        written = settings.of((*_words(self._parent), self._name or "") if self._parent else ())
        return {options[key].name: found for key, found in written.items() if key in options}


def _words(context: Any) -> Words:
    """The command of a context by its words."""
    return (*_words(context.parent), context.info_name) if context.parent else ()


def typed(context: Any, name: str) -> bool:
    """Whether a parameter is on the command line itself, so that it goes before what a script file says."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def add_origins(error: Exception, context: Any, *, said: str) -> None:
    """Note on an error where the values are from that it complains about and nobody typed. said: its text."""
    for key, option in options_of(context.command).items():
        source = context.get_parameter_source(option.name)
        value = context.params.get(option.name)
        if source is None or source.name not in ("ENVIRONMENT", "DEFAULT_MAP"):
            continue
        if re.search(rf"--{re.escape(key)}(?![\w-])", said) or (isinstance(value, str) and repr(value) in said):
            found = context.default_map.found.get(option.name) if source.name == "DEFAULT_MAP" else None
            origin = found.origin if found else variable(key)
            if not isinstance(error, CausvidError) or origin not in said:
                error.add_note(f"--{key} comes from {origin}")


def assign_variables(command: Any) -> None:
    """Give every option of a command that can be set from outside its environment variable."""
    for key, option in options_of(command).items():
        option.envvar = variable(key)
        option.show_envvar = False  # our help shows it, and complaints name it only where the value is from there
