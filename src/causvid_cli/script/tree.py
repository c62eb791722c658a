"""A script's text -> a small tree that knows its places.

YAML is read as events: all values stay text (so `no`, `1:30` and `010` are what they look like), nothing is built that
the script could make large, and what the format does not need is refused where it stands. No torch; PyYAML is
imported when a text is read.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from causvid_cli.errors import shortened
from causvid_cli.script.fields import CONTROL, MOST_CUES
from causvid_cli.script.model import BROKEN
from causvid_cli.script.problems import MOST_PROBLEMS, Mark, ScriptSource, mark

DEEPEST = 4
"""Lists and fields inside one another: the script, its cues, a cue, and one more for the user's own `x-` fields."""
DEEPEST_JSON = 8


@dataclass(slots=True)
class Text:
    """A value; typed already where no text could say it (a latent frame). key_place: where its field's name stands."""

    value: Any
    place: Mark
    key_place: Mark
    quoted: bool = True
    """False for a value of JSON that is no text: a number, true, false, null or NaN."""


@dataclass(slots=True)
class Fields:
    """Named values, such as a script or a cue."""

    entries: "dict[str, Node]"
    place: Mark
    key_place: Mark
    whole: bool = True
    """False where the text broke off in it, so that a missing field says nothing."""


@dataclass(slots=True)
class Items:
    """A list of values."""

    items: "list[Node]"
    place: Mark
    key_place: Mark
    whole: bool = True


Node = Text | Fields | Items


def parse_yaml(source: ScriptSource, *, deepest: int = DEEPEST) -> Node | None:
    """The tree of a YAML text; problems go to the source. None for an empty one."""
    text, controls = CONTROL.subn("\ufffd", source.text)
    if controls:
        _refuse_controls(source, controls)
    return _Builder(source, deepest=deepest).build(text)


def parse_json(source: ScriptSource, text: str | None = None, *, first_line: int = 0) -> Node | None:
    """The tree of a JSON text, numbers as their text; problems go to the source.

    text: what is read in place of the whole source. first_line: the line of the source, from 0, on which it begins.
    """
    text = source.text if text is None else text
    start = mark(max(0, first_line), 0)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        place = mark(max(0, first_line + error.lineno - 1), error.colno - 1)
        source.complain(place, f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}")
        return None
    except RecursionError:
        source.complain(start, f"nested more than {DEEPEST_JSON} deep")
        return None
    except ValueError:  # Python reads no number of 5000 digits
        source.complain(start, "holds a number of thousands of digits")
        return None
    # What JSON has is YAML too, but for tabs between its parts, and letters escaped as two surrogates.
    text = _PAIR.sub(lambda found: json.loads(f'"{found[0]}"') if len(found[0]) > 2 else found[0], text)
    return _Builder(source, deepest=DEEPEST_JSON, first_line=first_line, json=True).build(text.replace("\t", " "))


_PAIR = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|.)", re.DOTALL)


def _refuse_controls(source: ScriptSource, count: int) -> None:
    for found in islice(CONTROL.finditer(source.text), MOST_PROBLEMS):
        name = found[0].encode("unicode_escape").decode("ascii")
        source.complain(source.mark_at(found.start()), f"control character {name}; delete it")
    source.more += max(0, count - MOST_PROBLEMS)


class _Builder:
    """Events -> tree. What YAML can and the format does not need is refused where it stands."""

    def __init__(self, source: ScriptSource, *, deepest: int, first_line: int = 0, json: bool = False) -> None:
        self.source = source
        self.deepest = deepest
        self.first_line = first_line
        self.json = json
        self.root: Node | None = None
        self.open: list[Fields | Items] = []
        self.keys: list[tuple[str | None, Mark] | None] = []
        """Per open collection: the field whose value comes next (None for its name), or None."""
        self.full = False

    def build(self, text: str) -> Node | None:
        import yaml  # type: ignore[import-untyped]

        documents = 0
        try:
            for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self.source.complain(
                            self._place(event.start_mark), "a second document begins here; one file is one script"
                        )
                        break
                elif isinstance(event, yaml.NodeEvent):
                    if not self._node(event, yaml) or self.full:
                        break
                elif isinstance(event, yaml.CollectionEndEvent):
                    self.open.pop()
                    self.keys.pop()
        except yaml.YAMLError as error:
            self.source.complain(*_syntax(error, self.source, self._place))
        for collection in self.open:
            collection.whole = False
        return self.root

    def _node(self, event: Any, yaml: Any) -> bool:
        """Put one value or the beginning of a collection into the tree; False where reading ends."""
        place = self._place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self.source.complain(place, f"*{event.anchor} stands for another value; write the value itself")
            self._put(Text(BROKEN, place, place))
            return True
        if event.anchor:
            self.source.complain(place, f"&{event.anchor} names a value; anchors are not read, delete it")
        if event.tag:
            self.source.complain(place, f"{event.tag} is a tag; tags are not read, delete it")
        if isinstance(event, yaml.ScalarEvent):
            self._put(Text(event.value, place, place, quoted=not self.json or event.style == '"'))
            return True
        if len(self.open) == self.deepest:
            self.source.complain(place, f"nested more than {self.deepest} deep")
            return False
        collection: Fields | Items
        collection = Fields({}, place, place) if isinstance(event, yaml.MappingStartEvent) else Items([], place, place)
        self._put(collection)
        self.open.append(collection)
        self.keys.append(None)
        return True

    def _place(self, at: Any) -> Mark:
        """The place of one of PyYAML's marks."""
        return mark(max(0, at.line + self.first_line), at.column)

    def _put(self, node: Node) -> None:
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        if len(parent.items if isinstance(parent, Items) else parent.entries) == MOST_CUES:
            self.source.complain(node.place, f"more than {MOST_CUES} in one list")
            self.full = True
        elif isinstance(parent, Items):
            parent.items.append(node)
        elif self.keys[-1] is None:
            self.keys[-1] = self._key(node, parent)
        else:
            key, node.key_place = self.keys[-1]
            self.keys[-1] = None
            if key is not None:
                parent.entries[key] = node

    def _key(self, node: Node, parent: Fields) -> tuple[str | None, Mark]:
        if not isinstance(node, Text) or not isinstance(node.value, str):
            self.source.complain(node.place, "a field's name must be a word")
            return None, node.place
        key = node.value
        if key in parent.entries:
            first = self.source.line_of(parent.entries[key].key_place)
            self.source.complain(node.place, f"{shortened(key)} is given twice (first in {first})")
            return None, node.place
        return key, node.place


_SYNTAX = {
    "mapping values are not allowed": (
        "text with ': ' in it must be quoted",
        "quote the prompt, or write 'prompt: >' and go on below",
    ),
    "did not find expected key": ("this line does not fit the ones above", "indent it like its neighbours"),
    "did not find expected '-'": ("this line does not fit the list above", "begin it with '- ', or indent it"),
    "could not find expected ':'": ("a field needs a colon and a space", "write 'name: value'"),
    "unknown escape character": ("'\\' means something else in double quotes", "use single quotes"),
    "invalid Unicode character escape": ("this escape names no character", "write the character itself"),
}
_UNCLOSED = {
    "unexpected end of stream": "a quotation mark is never closed",
    "',' or ']'": "[ is not closed, or a comma is missing after it",
    "',' or '}'": "{ is not closed, or a comma is missing after it",
}


def _syntax(error: Any, source: ScriptSource, place_of: Callable[[Any], Mark]) -> tuple[Mark | None, str, str]:
    """(place, message, hint) of YAML that cannot be read."""
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    at, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    for part, message in _UNCLOSED.items():
        if part in said and (found := context or at):
            return place_of(found), message, ""
    place = place_of(at) if at else None
    if "cannot start any token" in said and place is not None:
        line = source.lines[place >> 24]
        first = line[place & 0xFFFFFF : (place & 0xFFFFFF) + 1]
        if first == "\t":
            return place, "a tab cannot indent", "use spaces"
        return place, f"text that begins with {first} must be quoted", ""
    for part, (message, hint) in _SYNTAX.items():
        if part in said:
            return place, message, hint
    return place, f"cannot be read: {said}", ""
