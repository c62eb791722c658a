"""JSON goes one way in and one way out. What packs, recipes and runs must hold is tested beside them."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import causvid_cli
from causvid_cli.config import PackFacts, from_data, from_json, to_json
from causvid_cli.errors import MediaError, UsageError


@dataclass(frozen=True)
class Inner:
    rate: float
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None = None
    rates: tuple[float, ...] = field(default=())


def test_what_is_written_is_read_back():
    outer = Outer("é \u2028 \x00", Inner(0.1, (1, 2)), (1e300, -0.0))
    for layout in ({}, {"indent": 2}, {"ensure_ascii": False, "sort_keys": True}):
        assert from_json(Outer, to_json(outer, **layout), where="x") == outer
    assert from_data(Outer, json.loads(to_json(outer)), where="x") == outer


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_written(value):
    for holder in (value, [value], {"a": {"b": value}}, Outer("a", rates=(1.0, value))):
        with pytest.raises(ValueError, match="not JSON compliant"):
            to_json(holder)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"name": "a", "inner": {"rate": math.nan}}, "inner.rate"),
        ({"name": "a", "rates": [1.0, math.inf]}, "rates.1"),
    ],
)
def test_what_is_no_number_is_refused_with_its_place(data, place):
    for error in (UsageError, MediaError):
        with pytest.raises(error, match=rf"^run\.toml: {re.escape(place)}: not a finite number$"):
            from_data(Outer, data, where="run.toml", error=error)


def test_json_is_written_in_one_place():
    """So that no NaN gets into a file that other programs read."""
    source = Path(causvid_cli.__file__).parent
    writers = {str(path.relative_to(source)) for path in source.rglob("*.py") if "json.dump" in path.read_text()}
    assert writers == {"config.py"}


def test_half_a_character_is_refused_with_its_place():
    with pytest.raises(UsageError, match=r"^there: Invalid JSON: [a-z ]+ hex escape at line 1 column 1"):
        from_json(PackFacts, '{"name": "\\ud800"}', where="there")
