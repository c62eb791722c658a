"""The door for JSON that a file or a stranger brings: read within bounds, or refused in one line.

What the values may be is said by dataclasses, which `config.from_json` checks. Imports no torch and no pydantic.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from causvid_cli.errors import CausvidError, UsageError
from causvid_cli.files import open_regular

MOST_BYTES = 4 * 2**20
"""Size of the largest JSON text that is read; a pack's manifest has some kB, a long script's recipe some hundred."""
MOST_CHECKED = 50_000
"""Values in the largest JSON text that a dataclass is made of, as each may be wrong and have an error of its own."""
LARGE = 2**30
"""The same two limits for what a user has made to be large, such as the captions of a training set."""
DEEPEST = 32
"""Levels of brackets in brackets; a pack's manifest has 3."""
LARGEST_WHOLE = 2**64
SHOWN = 80
"""Characters of a value that a message shows."""


def read_text(
    path: Path, *, error: type[CausvidError] = UsageError, most_bytes: int = MOST_BYTES, remedy: str = ""
) -> str:
    """The UTF-8 text of a regular file of at most so many bytes. Raises `error`; remedy: what it says at its end."""
    try:
        with open_regular(path) as file:
            data = file.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise error(f"{path}: larger than {most_bytes:,} bytes, the most that is read{remedy}")
        return data.decode()
    except OSError as failure:
        raise error(f"{path}: cannot be read: {(failure.strerror or str(failure)).lower()}{remedy}") from None
    except UnicodeDecodeError:
        raise error(f"{path}: not UTF-8 text{remedy}") from None


def parse_json(
    text: str | bytes,
    *,
    where: str,
    error: type[CausvidError] = UsageError,
    most_bytes: int = MOST_BYTES,
    most_values: int = LARGE,
) -> Any:
    """What a JSON text of at most so many bytes and values holds.

    Raises `error` for what is no JSON, and for JSON that programs read in more than one way or not at all: a key twice
    in an object, NaN, infinity, a number too large, brackets nested deeper than `DEEPEST`.
    """
    if len(text) > most_bytes:
        raise error(f"{where}: larger than {most_bytes:,} bytes, the most that is read")
    try:
        data = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_real, parse_int=_whole
        )
    except RecursionError:
        raise error(f"{where}: brackets nested deeper than {DEEPEST} levels") from None
    except ValueError as failure:  # of JSON, of UTF-8, of the hooks
        raise error(f"{where}: not JSON: {failure}") from None
    level, depth, values = [data], 0, 1
    while level := [inner for each in level for inner in _inner(each)]:
        depth, values = depth + 1, values + len(level)
        if depth > DEEPEST:
            raise error(f"{where}: brackets nested deeper than {DEEPEST} levels")
        if values > most_values:
            raise error(f"{where}: holds more than {most_values:,} values, the most that is read")
    return data


def parse_object(
    text: str | bytes, *, where: str, error: type[CausvidError] = UsageError, **limits: int
) -> dict[str, Any]:
    """The object that a JSON text holds. Raises `error`, as `parse_json` does and for anything but an object."""
    data = parse_json(text, where=where, error=error, **limits)
    if not isinstance(data, dict):
        raise error(f"{where}: must hold a JSON object, not {shown(data)}")
    return data


def read_object(path: Path, *, error: type[CausvidError] = UsageError, remedy: str = "") -> dict[str, Any]:
    """The object that a JSON file holds. Raises `error`, as `read_text` and `parse_object` do."""
    return parse_object(read_text(path, error=error, remedy=remedy), where=str(path), error=error)


def shown(value: object) -> str:
    """A value as a message shows it: its beginning where it is long."""
    if isinstance(value, dict | list) and len(value) > SHOWN:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _inner(value: object) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {shown(counts.most_common(1)[0][0])} stands there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:SHOWN]} is too large a number")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) >= LARGEST_WHOLE:
        raise ValueError(f"{text[:20]}... is too large a number")
    return number
