"""The structure of the code, read from its imports: `python docs/structure.py` prints it and draws docs/structure.svg.

A room is a folder, or a file beside the folders, of src/causvid_cli; an arrow is an import from one room to another,
wherever in a file it stands. The order of the rooms is the list that docs/design.md opens with.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "causvid_cli"
PAGE = ROOT / "docs" / "design.md"
DRAWING = ROOT / "docs" / "structure.svg"
ROW, BOX, GAP, TEXT = 30, 150, 16, 620
"""Sizes of the drawing, in pixels."""


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module. always: whether it is loaded with the file, not in a function or for types only."""

    source: str
    target: str
    always: bool


@dataclass(frozen=True)
class Structure:
    """The modules of a package and what they import; dotted names without the package's own."""

    imports: tuple[Import, ...]
    rooms: dict[str, int]
    """Room -> how many lines it has."""
    files: dict[str, int]
    """Room -> how many files it has."""

    @classmethod
    def read(cls, package: Path = PACKAGE) -> "Structure":
        """Read every file below a folder."""
        paths = {_module(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}
        imports, rooms, files = list[Import](), dict[str, int](), dict[str, int]()
        for name, path in paths.items():
            text, room = path.read_text(encoding="utf-8"), room_of(name)
            rooms[room] = rooms.get(room, 0) + text.count("\n")
            files[room] = files.get(room, 0) + 1
            for target, always in _imports(ast.parse(text), package.name, name, is_package=path.name == "__init__.py"):
                imports.append(Import(name, _longest(target, set(paths)), always))
        return cls(tuple(imports), rooms, files)

    @cached_property
    def arrows(self) -> dict[tuple[str, str], list[Import]]:
        """(room, room that it imports) -> the imports, without those of the package's own door."""
        found: dict[tuple[str, str], list[Import]] = {}
        for each in self.imports:
            if each.target.startswith("+"):
                continue
            ends = room_of(each.source), room_of(each.target)
            if ends[0] != ends[1] and "" not in ends:
                found.setdefault(ends, []).append(each)
        return found

    def circles(self) -> list[list[str]]:
        """Modules that import each other, directly or by way of others, each circle once."""
        edges: dict[str, set[str]] = {}
        for each in self.imports:
            if each.source != each.target and not each.target.startswith("+"):
                edges.setdefault(each.source, set()).add(each.target)
        reach = {name: _reachable(name, edges) for name in edges}
        inside = [name for name in reach if name in reach[name]]
        circles = {tuple(o for o in sorted(inside) if o in reach[name] and name in reach[o]) for name in inside}
        return [list(circle) for circle in sorted(circles)]

    def upward(self, order: list[str]) -> list[str]:
        """What imports a room that stands above it in the order, or one that the order lacks."""
        place = {room: number for number, room in enumerate(order)}
        missing = [f"{room} is not in the list" for room in self.rooms if room and room not in place]
        return missing + [
            f"{each.source} imports {each.target}"
            for (source, target), imports in self.arrows.items()
            if source in place and target in place and place[target] <= place[source]
            for each in imports
        ]

    def loaded_by(self, name: str) -> dict[str, list[str]]:
        """Everything that is loaded with a module, each with the way that leads to it; libraries begin with "+"."""
        ways, waiting = {name: [name]}, [name]
        while waiting:
            at = waiting.pop()
            for each in self.imports:
                if each.source == at and each.always and each.target not in ways:
                    ways[each.target] = [*ways[at], each.target]
                    waiting.append(each.target)
        return ways

    def reduced(self) -> set[tuple[str, str]]:
        """The arrows without those that follow from others: A -> C where A -> B and B -> C are there."""
        edges: dict[str, set[str]] = {}
        for source, target in self.arrows:
            edges.setdefault(source, set()).add(target)
        return {
            (source, target)
            for source, target in self.arrows
            if not any(target in _reachable(other, edges) for other in edges[source] - {target})
        }


def order_of(page: Path = PAGE) -> dict[str, str]:
    """The rooms from the top down, and what each is, as the first code block of docs/design.md lists them."""
    block = re.search(r"^```\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert block, f"{page} holds no list of rooms"
    lines = (line.split(maxsplit=1) for line in block[1].splitlines() if line and not line.startswith(" "))
    return {name.removesuffix("/").removesuffix(".py"): text for name, text in lines}


def room_of(module: str) -> str:
    """The room of a module: what follows the package in its name; "" for the package's own door."""
    return "" if module in ("", "__main__") else module.split(".")[0]


def draw(structure: Structure, order: dict[str, str]) -> str:
    """The rooms from the top down as SVG, with the arrows that do not follow from others as arcs beside them."""
    row = {room: number for number, room in enumerate(order)}
    arrows = sorted((row[a], row[b]) for a, b in structure.reduced())
    widest = max(b - a for a, b in arrows)
    left = 12 + widest * GAP // 2
    width, height = left + BOX + TEXT, len(order) * ROW + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for a, b in arrows:
        y1, y2, bend = a * ROW + 20, b * ROW + 16, (b - a) * GAP // 2
        parts.append(
            f'<path d="M{left} {y1} C{left - bend} {y1} {left - bend} {y2} {left} {y2}" fill="none" '
            f'stroke="hsl({a * 47 % 360},60%,45%)" stroke-width="1.2"/>'
        )
        parts.append(f'<path d="M{left} {y2} l-6 -3 v6 z" fill="hsl({a * 47 % 360},60%,45%)"/>')
    for room, text in order.items():
        y = row[room] * ROW + 6
        name = f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"
        parts.append(
            f'<rect x="{left}" y="{y}" width="{BOX - 16}" height="{ROW - 6}" rx="4" fill="#f2f4f8" stroke="#556"/>'
        )
        parts.append(f'<text x="{left + 8}" y="{y + 16}" font-size="13" font-weight="bold">{escape(name)}</text>')
        parts.append(f'<text x="{left + BOX}" y="{y + 16}" font-size="13" fill="#334">{escape(text)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def describe(structure: Structure) -> Iterator[str]:
    """Lines with the counts, then a line a room."""
    rooms = {room: lines for room, lines in structure.rooms.items() if room}
    yield (
        f"{len(rooms)} rooms, {len(structure.arrows)} arrows, {len(structure.circles())} circles, "
        f"{sum(structure.files.values())} files, {sum(structure.rooms.values())} lines"
    )
    for room in order_of():
        yield f"  {room:<12} {structure.files[room]:3} files {rooms[room]:6} lines"


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, package: str, module: str, *, is_package: bool) -> Iterator[tuple[str, bool]]:
    """(name, whether it is loaded with the file); names of libraries begin with "+"."""

    def walk(node: ast.AST, always: bool) -> Iterator[tuple[ast.AST, bool]]:
        for child in ast.iter_child_nodes(node):
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            )
            yield child, always
            yield from walk(child, always and not later)

    for node, always in walk(tree, True):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                inside = module.split(".") if is_package else module.split(".")[:-1]
                inside = inside[: len(inside) - node.level + 1]
                base = ".".join([package, *inside, *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            own = name == package or name.startswith(f"{package}.")
            yield (name.removeprefix(package).lstrip(".") if own else f"+{name}"), always


def _longest(name: str, known: set[str]) -> str:
    """The module of an imported name: the name itself, or what it is taken from."""
    if name.startswith("+"):
        return "+" + name[1:].split(".")[0]
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(edges.get(start, ()))
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += edges.get(at, ())
    return found


def main() -> None:
    structure = Structure.read()
    DRAWING.write_text(draw(structure, order_of()), encoding="utf-8")
    print("\n".join(describe(structure)))


if __name__ == "__main__":
    main()
