"""Rows -> jobs: each a command with its options, a key that says what it makes, and a file of its own."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path, PurePath
from string import Formatter
from typing import Any, Literal

from causvid_cli.batch.rows import Mistake, Row
from causvid_cli.config import did_you_mean, to_json
from causvid_cli.errors import CausvidError, UsageError
from causvid_cli.request import check_prompt, check_seed
from causvid_cli.timecode import parse_whole
from causvid_cli.untrusted import shown

DEFAULT_COMMAND = "t2v"
KEY_CHARACTERS = 8
"""Of a job's key, in the name of its file."""
TEMPLATE = "{id}-{key}.mp4"
ID_RULE = "1 to 100 letters, digits and . _ -, the first no dot and no dash"
LONGEST_NAME = 240
"""Bytes of a file's name: what a file system takes, less what is added while a video is made."""
_ID = re.compile(r"\w[\w.-]{0,99}")
_OWN = {"id": "id", "custom-id": "id", "command": "command"}
"""Fields that are about the row itself, by the names they may be written under."""
_FIELDS = ("id", "key", "seed", "command")
_FILES = ("audio", "lora")
"""Options that name files."""


@dataclass(frozen=True, slots=True)
class RowCommand:
    """What a row of a command may say.

    inputs: its arguments in their order, such as ("image", "prompt"). options: the long names of its options and
    whether each is a switch, a text or number, or a list of them.
    """

    name: str
    inputs: tuple[str, ...]
    options: Mapping[str, Literal["switch", "value", "list"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One video to be made. Jobs of one key make the very same frames."""

    line: int
    id: str
    arguments: tuple[str, ...]
    """Command and options as the command line has them, without -o."""
    title: str
    """Its prompt; of a script, the name of its file."""
    group: str
    """Equal for jobs that differ in prompt and seed only."""
    key: str
    path: str
    """Of its file, relative to the batch's folder; it holds the id and the key."""
    pack: "Pack"
    carried: Mapping[str, Any]
    """The row's free fields, which go with it into the results."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A job's model: its name, its hash, where it lies (None: random weights) and the size of its files."""

    name: str
    sha256: str
    folder: Path | None
    bytes: int


Check = Callable[[tuple[str, ...]], tuple[Mapping[str, Any], Pack]]
"""A command line, checked -> what it makes, but for prompt and seed, and by which model. Raises CausvidError."""


class JobReader:
    """Turns rows into jobs, and collects every mistake.

    base: what paths in rows are relative to. shared: options of every row that does not say otherwise.
    reserved: names that no row may use.
    """

    def __init__(
        self,
        commands: Iterable[RowCommand],
        *,
        base: Path,
        shared: Mapping[str, Any],
        template: str,
        check: Check,
        reserved: Collection[str] = (),
    ) -> None:
        self.mistakes: list[Mistake] = []
        self.carried: set[str] = set()
        """Names of free fields."""
        self._commands = {command.name: command for command in commands}
        self._base, self._shared, self._template, self._check = base, shared, template, check
        self._reserved = reserved
        self._checked: dict[str, tuple[Mapping[str, Any], Pack] | CausvidError] = {}
        self._alike: Counter[str] = Counter()
        self._lines: dict[str, int] = {}  # by id
        self._nears: dict[tuple[str, str], str] = {}

    def read(self, rows: Iterable[Row]) -> Iterator[Job]:
        """Yield a job for each row that is one."""
        for row in rows:
            try:
                yield self._job(row)
            except CausvidError as error:
                self.mistakes.append(Mistake(row.line, str(error)))

    def _job(self, row: Row) -> Job:
        own, fields = _parted(row.fields)
        name = own.get("command", DEFAULT_COMMAND)
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            near = did_you_mean(str(name), self._commands) or f"; known: {', '.join(self._commands)}"
            raise UsageError(f"unknown command {shown(name)}{near}")
        said, carried = self._told(command, fields)
        if missing := next((each for each in command.inputs if each not in said), None):
            raise UsageError(f"no {missing}: {command.name} needs one")
        identity = self._identity(own.get("id"), row.line)
        alike = _hash({"command": name, **said})
        self._alike[alike] += 1
        if "seed" not in said:  # the same at every run, and another one for each row that says the same
            said["seed"] = int(_hash([alike, self._alike[alike]])[:8], 16)
        recipe, pack = self._recipe(command, said)
        files = {key: value for key, value in said.items() if key not in command.inputs or key == "prompt"}
        key, slug = _hash([files, recipe]), re.sub(r"\W+", "-", str(said.get("prompt", name)).lower(), flags=re.ASCII)
        identity = identity or slug.strip("-")[:40].strip("-") or str(name)
        path = self._template.format(id=identity, key=key[:KEY_CHARACTERS], seed=said["seed"], command=name)
        if (too_long := max(len(part.encode()) for part in PurePath(path).parts) - LONGEST_NAME) > 0:
            raise UsageError(f"{path}: the name is {too_long} bytes too long; give a shorter id or -o")
        return Job(
            line=row.line,
            id=identity,
            arguments=command_line(command, said),
            title=str(said.get("prompt", said[command.inputs[0]])),
            group=_hash(recipe),
            key=key,
            path=path,
            pack=pack,
            carried=carried,
        )

    def _told(self, command: RowCommand, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and options by name, with those of all rows, and the free fields."""
        said: dict[str, Any] = {name: value for name, value in self._shared.items() if name in command.options}
        carried: dict[str, Any] = {}
        seen: set[str] = set()
        for given, value in fields.items():
            name = _plain(given)
            if name in seen and (name in command.inputs or name in command.options):
                raise UsageError(f"{given}: another field says the {name} already")
            seen.add(name)
            if name in command.inputs:
                said[name] = self._input(name, value)
            elif name in command.options:
                said[name] = self._option(name, value, command.options[name])
            elif name in self._reserved:
                raise UsageError(f"{given}: is said for the whole batch, on the command line")
            elif near := self._near(command, name):
                raise UsageError(f"unknown field {given!r}{near}")
            else:
                carried[given] = _carriable(given, value)
                self.carried.add(given)
        return said, carried

    def _near(self, command: RowCommand, name: str) -> str:
        """What to say of a field that is nearly one that the command knows; "" for a free one."""
        if (command.name, name) not in self._nears:
            known = (*command.inputs, *command.options, *_OWN)
            self._nears[command.name, name] = did_you_mean(name, known)
        return self._nears[command.name, name]

    def _input(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise UsageError(f"{name}: must be text, got {shown(value)}")
        if name == "prompt":
            if value.startswith("@") or value.strip() == "-":
                raise UsageError(f"prompt {shown(value)}: in a jobs file it is the text itself, no file and no stdin")
            return check_prompt(value)
        if value == "-":
            raise UsageError(f"{name} '-': a file is wanted here, not stdin")
        return str(self._base / value)

    def _option(self, name: str, value: Any, kind: str) -> Any:
        if kind == "switch":
            if isinstance(value, str):  # as CSV has it
                value = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(
                    value.lower()
                )
            if not isinstance(value, bool):
                raise UsageError(f"{name}: must be true or false")
            return value
        values = value if isinstance(value, list) and kind == "list" else [value]
        if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values):
            raise UsageError(f"{name}: must be {'texts' if kind == 'list' else 'text or a number'}, got {shown(value)}")
        texts = [str(self._base / str(each)) if name in _FILES else str(each) for each in values]
        if name == "seed":
            return check_seed(parse_whole(texts[0], name="seed"))
        return texts if kind == "list" else texts[0]

    def _identity(self, own: Any, line: int) -> str:
        """The row's own id, or "" where it has none. Raises UsageError for one that is no name, or there twice."""
        if own is None:
            return ""
        identity = str(own)
        if not isinstance(own, str | int) or isinstance(own, bool) or not _ID.fullmatch(identity):
            raise UsageError(f"id {shown(own)}: must be {ID_RULE}")
        if (first := self._lines.setdefault(identity, line)) != line:
            raise UsageError(f"id {identity!r}: line {first} has it already")
        return identity

    def _recipe(self, command: RowCommand, said: Mapping[str, Any]) -> tuple[Mapping[str, Any], Pack]:
        """What a row makes but for prompt and seed, checked once for all rows that are equal in the rest."""
        rest = _hash([command.name, {key: value for key, value in said.items() if key not in ("prompt", "seed")}])
        if rest not in self._checked:
            try:
                self._checked[rest] = self._check(command_line(command, said))
            except CausvidError as error:
                self._checked[rest] = error
        checked = self._checked[rest]
        if isinstance(checked, CausvidError):
            raise checked
        return checked


def _plain(given: str) -> str:
    """A field's name as the command line spells it."""
    return given.strip().lower().replace("_", "-")


def _parted(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is about the row itself, by id and command, and the other fields. Raises UsageError for one said twice."""
    own: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for given, value in fields.items():
        name = _OWN.get(_plain(given))
        if name is None:
            others[given] = value
        elif name in own:
            raise UsageError(f"{given}: another field says the {name} already")
        else:
            own[name] = value
    return own, others


def _carriable(name: str, value: Any) -> Any:
    """A free field's value, moments and decimal numbers as text. Raises UsageError for what JSON cannot hold."""
    if isinstance(value, date | time | Decimal):
        return str(value)
    try:
        to_json(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{name}: {shown(value)} cannot be kept as JSON; leave the field out, or make text of it"
        ) from None
    return value


def command_line(command: RowCommand, said: Mapping[str, Any]) -> tuple[str, ...]:
    """What a row says, as the command line has it."""
    words = [command.name]
    for name, value in sorted(said.items()):
        if name in command.options:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}"] * value if isinstance(value, bool) else [f"--{name}={each}" for each in values]
    return (*words, "--", *(said[name] for name in command.inputs))


def check_template(template: str) -> str:
    """The -o of a batch. Raises UsageError unless it names one file in the batch's folder, by id and key."""
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        raise UsageError(f"-o {template}: a brace without its pair; write {{{{ for one of the name") from None
    fields = {name for _, name, _, _ in parts}
    if not fields <= set(_FIELDS):
        known = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise UsageError(f"-o {template}: only {known} can be filled in; {{{{ is a brace itself")
    if not {"id", "key"} <= fields:
        raise UsageError(f"-o {template}: must hold {{id}} and {{key}}, so that each job has a file of its own")
    if any(width or conversion for _, _, width, conversion in parts):  # a key cut short is no key
        raise UsageError(f"-o {template}: its fields are filled in as they are; write {{id}}, {{key}} and no more")
    path = PurePath(template)
    if path.is_absolute() or ".." in path.parts or "%" in template:
        raise UsageError(f"-o {template}: must be one file inside the folder (--dir)")
    return template


def _hash(value: Any) -> str:
    return hashlib.sha256(to_json(value, sort_keys=True).encode()).hexdigest()
