"""A jobs file -> rows: JSON lines, CSV, plain text, Parquet or a folder of the datasets library. Imports no torch."""

import csv
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causvid_cli.errors import CausvidError, UsageError
from causvid_cli.extras import require
from causvid_cli.files import open_regular
from causvid_cli.untrusted import parse_object

MOST_BYTES = 2**30
"""Size of the largest jobs file that is read."""
LONGEST_LINE = 2**20
"""Characters of one row."""
KINDS = (".jsonl", ".csv", ".txt", ".parquet")


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong in one row: the line, from 1, and what would work."""

    line: int
    text: str


class JobsError(UsageError):
    """A jobs file that cannot be carried out. problems: every mistake, to be shown line by line."""

    def __init__(self, path: Path, mistakes: Iterable[Mistake]) -> None:
        self.problems = [_Place(path, each) for each in sorted(mistakes, key=lambda each: each.line)]
        super().__init__("\n".join(line for problem in self.problems for line in problem.lines()))


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    mistake: Mistake

    def lines(self) -> tuple[str, ...]:
        return (f"{self.path}:{self.mistake.line}: {self.mistake.text}",)


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was written: its line, from 1, and its fields by name. An empty field is one that is not there."""

    line: int
    fields: Mapping[str, Any]


def read_rows(path: Path, mistakes: list[Mistake]) -> Iterator[Row]:
    """Yield the rows of a jobs file in their order; what is no row becomes a mistake.

    Raises UsageError for a file of another kind, and for one that cannot be read, ModelError where the package is
    missing that reads it.
    """
    if path.is_dir():
        yield from _dataset_rows(path)
    elif path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix.lower() == ".jsonl":
        yield from _json_rows(path, mistakes)
    elif path.suffix.lower() == ".csv":
        yield from _csv_rows(path, mistakes)
    elif path.suffix.lower() == ".txt":
        yield from (Row(number, {"prompt": line.strip()}) for number, line in _lines(path) if line.strip())
    else:
        raise UsageError(f"{path}: a jobs file is one of {', '.join(KINDS)}, or a folder of a dataset")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers, from 1, without what ends them."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path}: larger than {MOST_BYTES:,} bytes, the most that is read; part it, or use .parquet")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text") from error
    for number, said in enumerate(text.split("\n"), 1):
        yield number, said.removesuffix("\r")


def _json_rows(path: Path, mistakes: list[Mistake]) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = parse_object(line, where="", most_bytes=LONGEST_LINE)
        except CausvidError as error:
            mistakes.append(Mistake(number, str(error).removeprefix(": ")))
            continue
        yield Row(number, _said(row))


def _csv_rows(path: Path, mistakes: list[Mistake]) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, LONGEST_LINE))
    ends: list[int] = [0]
    lines = (ends.__setitem__(0, number) or f"{line}\n" for number, line in _lines(path))
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    while True:
        begins = ends[0] + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            mistakes.append(Mistake(begins, f"not CSV: {error}"))
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if twice := next((name for name in header if header.count(name) > 1), None):
                raise UsageError(f"{path}:{begins}: the column {twice!r} is there twice")
        elif len(cells) != len(header):
            mistakes.append(Mistake(begins, f"{len(cells)} cells, but the first line names {len(header)} columns"))
        else:
            yield Row(begins, _said(dict(zip(header, cells, strict=True))))


def _parquet_rows(path: Path) -> Iterator[Row]:
    require("pyarrow", extra="datasets", what=f"{path}: .parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(number, _said(row))
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path}: no Parquet file that can be read: {str(error).splitlines()[0]}") from error


def _dataset_rows(path: Path) -> Iterator[Row]:
    """The rows of a folder that the datasets library has saved, or of its split `train` where it has several."""
    require("datasets", extra="datasets", what=f"{path}: a dataset folder")
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"{path}: no folder that `Dataset.save_to_disk` has written: {said}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded:
            raise UsageError(f"{path}: holds the splits {', '.join(loaded)}; name the folder of one")
        loaded = loaded["train"]
    for number, row in enumerate(loaded, 1):
        yield Row(number, _said(row))


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something: CSV leaves one out by an empty cell only, Parquet by null or NaN."""
    return {str(name): value for name, value in row.items() if value is not None and value != "" and not _is_nan(value)}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
