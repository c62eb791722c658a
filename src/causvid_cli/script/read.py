"""Scripts from files of every format, and from the short form on the command line. No torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from causvid_cli.config import did_you_mean
from causvid_cli.errors import UsageError
from causvid_cli.files import IS_ADDRESS, is_address
from causvid_cli.script.fields import VERSION
from causvid_cli.script.formats import TIMED, UNTIMED
from causvid_cli.script.formats.shared import TIME, cue_node, script_node
from causvid_cli.script.model import Script, ScriptKey, readers
from causvid_cli.script.parse import keys_of_text, script_of_tree
from causvid_cli.script.problems import Problem, ScriptSource, mark
from causvid_cli.script.tree import Node, Text, parse_yaml

MOST_BYTES = 8 * 2**20
OURS = (".yaml", ".yml")


def read_script(
    script: Path | str,
    *,
    name: str = "script",
    kind: str | None = None,
    switch: str | None = None,
    row: int | None = None,
    on_note: Callable[[Problem], None] | None = None,
) -> Script:
    """The script in a file (a Path) or in a text (a str, called `name` in messages).

    kind: the format by its file extension; a file's own and .yaml for a text where not given.
    switch: when each prompt after the first begins, for formats that do not say: latent frames (40,80) or times
    (5s,10s). row: which of several videos in one file, from 1.
    on_note: is told what another format holds and a script does not need (the look of subtitles).
    Raises ScriptError with every problem, each with its place; UsageError where there is nothing to read.
    """
    source = load_source(script) if isinstance(script, Path) else ScriptSource(name, script)
    kind = (kind or (script.suffix if isinstance(script, Path) else "") or OURS[0]).lower()
    if kind in UNTIMED:
        tree = UNTIMED[kind](source, switch, row)
    elif kind in TIMED or kind in OURS:
        _refuse_options(source, switch, row)
        if kind in OURS:
            return script_of_tree(parse_yaml(source), source)
        tree = TIMED[kind](source)
    else:
        known = [*OURS, *TIMED, *UNTIMED]
        near = did_you_mean(kind, known) or f"; known: {', '.join(known)}"
        raise UsageError(f"{source.name}: {kind} is no kind of script{near}")
    made = script_of_tree(tree, source, defaults={"version": VERSION})
    for note in source.notes if on_note else ():
        on_note(note)  # type: ignore[misc]
    return made


def read_keys(path: Path) -> Mapping[str, ScriptKey]:
    """What a file binds to keys: YAML lines `key: prompt`, or a script's `keys`. Raises ScriptError, UsageError."""
    return keys_of_text(load_source(path))


def script_of(prompt: str, then: Sequence[str] = (), **fields: str | None) -> Script:
    """The script of a prompt and of `--then "5s: text"` options; fields: a script's own, as text (length="12s").

    Raises ScriptError whose problems name the option.
    """
    given = {name: text for name, text in fields.items() if text is not None}
    unknown = [name for name in given if name not in readers(Script)]
    assert not unknown, unknown
    labels = ["PROMPT", *(f'--then "{text}"' for text in then), *(f"--{name}" for name in given)]
    source = ScriptSource("PROMPT", "", labels=[label[:200] for label in labels])
    cues = [cue_node(mark(0, 0), prompt=prompt)]
    for number, text in enumerate(then, start=1):
        if found := _THEN.fullmatch(text):
            cues.append(cue_node(mark(number, 0), at=found["time"], prompt=found["prompt"]))
        else:
            source.complain(mark(number, 0), 'must be a time, a colon and a prompt; try "5s: the car jumps"')
    top: dict[str, Node | None] = {
        name: Text(text, place, place)
        for place, (name, text) in ((mark(len(then) + 1 + n, 0), item) for n, item in enumerate(given.items()))
    }
    return script_of_tree(script_node(source, cues, **top), source, defaults={"version": VERSION})


_THEN = re.compile(rf"\s*(?P<time>-?{TIME})\s*:(?P<prompt>.*)", re.DOTALL | re.ASCII)


def _refuse_options(source: ScriptSource, switch: str | None, row: int | None) -> None:
    """Raises UsageError for options that say what the script says itself."""
    for name, given in (("--switch", switch), ("--row", row)):
        if given is not None:
            raise UsageError(f"{name} {given}: {source.name} says it itself; leave {name} out")


def load_source(path: Path) -> ScriptSource:
    """A file's text. Raises UsageError where it cannot be read, is too large or is not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if is_address(str(path)):
            raise UsageError(f"{path}: {IS_ADDRESS}") from error
        said = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(f"{path}: the script cannot be read: {said}") from error
    return ScriptSource(str(path), decode(content, str(path)))


def decode(content: bytes, name: str) -> str:
    """Bytes as UTF-8 text. Raises UsageError, with the place, where they are none or too many."""
    if len(content) > MOST_BYTES:
        raise UsageError(f"{name}: more than 8 MiB; a script is shorter")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        found = " (UTF-16?)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UsageError(f"{name}:{line}:{column}: not UTF-8 text{found}; save it as UTF-8") from None
