"""What is wrong with a script: where, what, and how it is shown. Imports no torch."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from causvid_cli.errors import UsageError

MOST_PROBLEMS = 1000
"""How many problems are kept; further ones of a hopeless file are only counted."""
WIDEST = 100
"""How many characters of a source line are shown."""

Mark = int
"""A place in a text: line << 24 | column, both from 0. One number, since a long script has a million of them."""


def mark(line: int, column: int) -> Mark:
    """The place of a line and a column, both from 0."""
    return line << 24 | column


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, or worth saying, about a script."""

    path: str
    """The file as it was named, or the option that holds the script."""
    message: str
    hint: str = ""
    line: int | None = None
    """Counted from 1; None where the problem has no place."""
    column: int | None = None
    """Counted from 1, in characters."""
    excerpt: str = ""
    """The source line, or of a long one the part around the column."""
    caret: int = 0
    """Characters of `excerpt` before the column."""

    def __str__(self) -> str:
        """One line: `file:line:col: message; hint`. What stands in it is as it came: see `lines`."""
        place = ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)
        return f"{place}: {self.message}" + (f"; {self.hint}" if self.hint else "")

    def lines(self) -> tuple[str, ...]:
        """For people, harmless for a terminal: what is wrong, the source line, and a caret below the place."""
        said = harmless(str(self))
        if not self.excerpt.strip():
            return (said,)
        from rich.cells import cell_len  # wide letters take two cells

        before = cell_len(harmless(self.excerpt[: self.caret]))
        return said, f"  {harmless(self.excerpt)}", f"  {' ' * before}^"


class ScriptError(UsageError):
    """A script that cannot be carried out: all its problems. As text, the first of them on one line.

    more: problems beyond those that are kept.
    """

    def __init__(self, problems: Iterable[Problem], *, more: int = 0) -> None:
        self.problems = tuple(problems)
        self.more = more
        others = len(self.problems) - 1 + more
        super().__init__(harmless(str(self.problems[0])) + (f" (and {others} more)" if others else ""))


def render_all(problems: Iterable[Problem]) -> str:
    """Problems as text for people, with source lines and carets."""
    return "\n".join(line for problem in problems for line in problem.lines())


def harmless(text: str) -> str:
    """Text on one line, with nothing that a terminal would obey: control and reordering characters are spelt out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(character) for character in text)


def _spelt(character: str) -> str:
    if character == "\t":
        return " "
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in _REORDERS:
        return character.encode("unicode_escape").decode("ascii")
    return character if character not in _MARKS else f"\\u{ord(character):04x}"


_REORDERS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
_MARKS = frozenset("\u200e\u200f\u061c\ufeff")


class ScriptSource:
    """A text that is read, and all that is wrong with it.

    labels: what the lines are called where they are no lines of a file (`--then "5s: ..."`).
    """

    def __init__(self, name: str, text: str, *, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self.more = 0
        """Problems that are counted and not kept."""
        self._labels = labels
        self._lines: list[str] | None = None
        self._last = (0, 0, 0)
        """Position, line and beginning of that line of the place that was asked for last."""

    @property
    def lines(self) -> list[str]:
        if self._lines is None:
            self._lines = self.text.split("\n")
        return self._lines

    def mark_at(self, position: int) -> Mark:
        """The place of a character, counted over the whole text; quick where places are asked for in order."""
        last, line, start = self._last if self._last[0] <= position else (0, 0, 0)
        passed = self.text.count("\n", last, position)
        if passed:
            line, start = line + passed, self.text.rfind("\n", last, position) + 1
        self._last = (position, line, start)
        return mark(line, position - start)

    def complain(self, place: Mark | None, message: str, hint: str = "") -> None:
        """Keep a problem; place: None for the whole text."""
        if self.full:
            self.more += 1
        else:
            self.problems.append(self._problem(place, message, hint))

    @property
    def full(self) -> bool:
        """Whether further problems are only counted."""
        return len(self.problems) >= MOST_PROBLEMS

    def remark(self, place: Mark | None, message: str) -> None:
        """Keep something that the user should know and that is no error."""
        self.notes.append(self._problem(place, message, ""))

    def check(self) -> None:
        """Raise ScriptError if there is any problem, in the order of the text."""
        if self.problems:
            ordered = sorted(self.problems, key=lambda problem: (problem.line or 0, problem.column or 0))
            raise ScriptError(ordered, more=self.more)

    def line_of(self, place: Mark) -> str:
        """How another message calls a line: `line 5`, or the option."""
        line = place >> 24
        return self._labels[line] if self._labels else f"line {line + 1}"

    def _problem(self, place: Mark | None, message: str, hint: str) -> Problem:
        if place is None:
            return Problem(path=self.name, message=message, hint=hint)
        line, column = place >> 24, place & 0xFFFFFF
        if self._labels:
            return Problem(path=self._labels[line], message=message, hint=hint)
        excerpt, caret = _excerpt(self.lines[line] if line < len(self.lines) else "", column)
        return Problem(
            path=self.name,
            message=message,
            hint=hint,
            line=line + 1,
            column=column + 1,
            excerpt=excerpt,
            caret=caret,
        )


def _excerpt(line: str, column: int) -> tuple[str, int]:
    """At most WIDEST characters around a column, and how many of them stand before it."""
    start = max(0, min(column - WIDEST // 2, len(line) - WIDEST))
    head, tail = "..." if start else "", "..." if len(line) > start + WIDEST else ""
    return f"{head}{line[start : start + WIDEST]}{tail}", len(head) + min(column, len(line)) - start
