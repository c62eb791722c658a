"""The tree of a script's text -> `Script`, with every problem found in one pass. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from causvid_cli.errors import UsageError, shortened
from causvid_cli.script.fields import MOST_CUES, NEWER, FieldError
from causvid_cli.script.model import BROKEN, KEYS, Script, ScriptCue, ScriptKey, clashes, readers
from causvid_cli.script.problems import ScriptSource
from causvid_cli.script.tree import Fields, Items, Node, Text, parse_yaml


def script_of_tree(root: Node | None, source: ScriptSource, *, defaults: Mapping[str, Any] | None = None) -> Script:
    """The script that a tree says. Raises ScriptError with all problems, those found before included.

    defaults: top fields that the text need not give (`version`, where another format is read).
    """
    if not isinstance(root, Fields):
        if not source.problems:
            place = root.place if root else None
            source.complain(place, "not a script; it begins with 'version: 1', and below 'cues:' lists the prompts")
        source.check()
    assert isinstance(root, Fields)
    top = dict(defaults or {}) | _values(root, Script, source, besides=("cues", "keys"))
    _check_version(top.get("version"), root, source)
    nodes, cues = _cues(root, source, misspelt=top.pop("cues", None) is BROKEN)
    keys = read_keys(root.entries.get("keys"), source)
    _report_clashes(top, cues, nodes, root, source)
    source.check()
    made = [ScriptCue(**cue, line=_line(node, source)) for cue, node in zip(cues, nodes, strict=True)]
    return Script(**top, cues=tuple(made), keys=keys, path=source.name)


def read_keys(node: Node | None, source: ScriptSource) -> dict[str, ScriptKey]:
    """What keys are bound to: a prompt, or the fields of a cue. Problems go to the source."""
    if node is None:
        return {}
    if not isinstance(node, Fields):
        source.complain(node.place, "keys must be fields, such as 'left: the car moves left'")
        return {}
    bound: dict[str, ScriptKey] = {}
    for name, child in node.entries.items():
        values = {"prompt": child.value} if isinstance(child, Text) else {}
        if name not in KEYS:
            near = get_close_matches(name[:100], KEYS, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KEYS[:12])}, f1 to f12, letters, digits"
            )
            source.complain(child.key_place, f"unknown key {shortened(name)}", hint)
        elif isinstance(child, Fields):
            values = _values(child, ScriptKey, source)
        elif isinstance(child, Items):
            source.complain(child.place, f"{name} must be a prompt or the fields of a cue, not a list")
        if BROKEN in values.values():
            continue
        if not any(value for name_, value in values.items() if name_ != "release") and name in KEYS:
            source.complain(child.place, f"{name} is bound to nothing; write a prompt")
        elif name in KEYS:
            bound[name] = ScriptKey(**{name_: value for name_, value in values.items() if name_ != "extra"})
    return bound


def keys_of_text(source: ScriptSource) -> dict[str, ScriptKey]:
    """The bindings in a YAML text of `key: prompt` lines, or below `keys:` in a script. Raises ScriptError."""
    root = parse_yaml(source)
    if isinstance(root, Fields) and isinstance(below := root.entries.get("keys"), Fields):
        root = below
    bound = read_keys(root, source)
    if not bound and not source.problems:
        source.complain(None, "binds no key; write lines such as 'left: the car moves left'")
    source.check()
    return bound


def _check_version(version: Any, root: Fields, source: ScriptSource) -> None:
    """Complain of a missing version. Raises ScriptError for a newer one: of that nothing else can be said."""
    if version is None and root.whole:
        source.complain(root.place, "'version' is missing; write 'version: 1' at the top")
    newer = [problem for problem in source.problems if NEWER in problem.message]
    if version is BROKEN and newer:
        source.problems = newer
        source.check()


def _line(node: Node, source: ScriptSource) -> int | None:
    return (node.place >> 24) + 1 if source.text else None


def _values(node: Fields, kind: type, source: ScriptSource, *, besides: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of a script or a cue, read; BROKEN for one that cannot be, or that is misspelt."""
    known = readers(kind)
    misspelt: dict[str, Any] = {}
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, child in node.entries.items():
        if name in known:
            values[name] = _value(child, name, known[name].read, source)
        elif name.startswith("x-"):
            extra[name] = _content(child)
        elif name not in besides:
            near = [] if source.full else get_close_matches(name[:100], [*known, *besides], n=1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            source.complain(child.key_place, f"unknown field {shortened(name)}", hint)
            misspelt |= dict.fromkeys(near, BROKEN)
    if extra:
        values["extra"] = extra
    return misspelt | values


def _value(node: Node, name: str, read: Callable[[str, str], Any], source: ScriptSource) -> Any:
    if not isinstance(node, Text):
        source.complain(node.place, f"{name} must be text, not {'a list' if isinstance(node, Items) else 'fields'}")
        return BROKEN
    if not isinstance(node.value, str):  # typed already, or broken and said so
        return node.value
    try:
        return read(node.value, name)
    except FieldError as error:
        source.complain(node.place, str(error), error.hint)
    except UsageError as error:
        source.complain(node.place, str(error))
    return BROKEN


def _content(node: Node) -> Any:
    """A user's own field as plain text, lists and dicts."""
    if isinstance(node, Fields):
        return {name: _content(child) for name, child in node.entries.items()}
    if isinstance(node, Items):
        return [_content(child) for child in node.items]
    return node.value if isinstance(node.value, str) else ""


def _cues(root: Fields, source: ScriptSource, *, misspelt: bool) -> tuple[list[Fields], list[dict[str, Any]]]:
    """The nodes of the cues, and the values of each by field; both are empty where there is no list of cues."""
    node = root.entries.get("cues")
    if node is None:
        if root.whole and not misspelt:
            source.complain(root.place, "'cues' is missing; below it list the prompts")
        return [], []
    if not isinstance(node, Items):
        source.complain(node.place, "cues must be a list; begin each with '- prompt: '")
        return [], []
    if len(node.items) > MOST_CUES:
        source.complain(node.items[MOST_CUES].place, f"{len(node.items)} cues; {MOST_CUES} are the most")
        return [], []
    nodes: list[Fields] = []
    cues: list[dict[str, Any]] = []
    for child in node.items:
        if not isinstance(child, Fields):
            source.complain(child.place, "a cue is a list of fields; begin it with '- prompt: '")
            continue
        values = _values(child, ScriptCue, source)
        if "prompt" not in values and child.whole:
            source.complain(child.place, "'prompt' is missing")
        nodes.append(child)
        cues.append(values)
    return nodes, cues


def _report_clashes(
    top: Mapping[str, Any], cues: list[dict[str, Any]], nodes: list[Fields], root: Fields, source: ScriptSource
) -> None:
    cues_node = root.entries.get("cues")
    listed = isinstance(cues_node, Items) and len(cues_node.items) == len(nodes)
    for clash in clashes(top, cues):
        if clash.field == "cues" and not (listed and root.whole):
            continue  # said already, or perhaps below the place where reading ended
        owner = root if clash.cue is None else nodes[clash.cue]
        if not owner.whole and clash.field not in owner.entries:
            continue
        child = owner.entries.get(clash.field)
        place = child.place if child else owner.place
        source.complain(place, clash.text(lambda near: source.line_of(nodes[near].place)))
