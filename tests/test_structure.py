"""The folder list is the architecture: rooms import downwards only, in no circle, and a start loads what it needs."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "docs" / "structure.py"
SPEC = importlib.util.spec_from_file_location("structure", PATH)
structure = importlib.util.module_from_spec(SPEC)
sys.modules["structure"] = structure  # dataclasses look their module up
SPEC.loader.exec_module(structure)

SLOW = {"torch", "diffusers", "transformers", "av", "numpy", "imageio", "huggingface_hub", "matplotlib", "jinja2"}
"""Libraries that no start of the command line may load."""


@pytest.fixture(scope="module")
def house():
    return structure.Structure.read()


def test_no_modules_import_each_other_in_a_circle(house):
    assert house.circles() == [], "\n".join(structure.describe(house))


def test_rooms_import_only_those_below_them(house):
    assert house.upward(list(structure.order_of())) == []


def test_every_room_of_the_list_is_there(house):
    assert set(structure.order_of()) <= set(house.rooms)


def test_a_start_of_the_command_line_loads_no_slow_library(house):
    ways = house.loaded_by("cli.app")
    assert len(ways) > 20
    slow = [" -> ".join(way) for name, way in ways.items() if name.removeprefix("+") in SLOW]
    assert slow == []


def test_the_drawing_is_of_the_code_as_it_is(house):
    drawn = structure.DRAWING.read_text(encoding="utf-8")
    assert drawn == structure.draw(house, structure.order_of()), "run: python docs/structure.py"


# --- the guard itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A package of two rooms; what each file says is given."""

    def write(**files: str):
        package = tmp_path / "package"
        for name, text in files.items():
            path = package / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return structure.Structure.read(package)

    return write


@pytest.mark.parametrize(
    "late", ["import package.low.b", "def f():\n    from package.low import b", "from ..low.b import x"]
)
def test_an_import_upwards_is_found_wherever_it_stands(small, late):
    text = f"from typing import TYPE_CHECKING\n{late}\n"
    house = small(high__a=text, low__b="x = 1\n")
    assert house.upward(["high", "low"]) == []
    assert house.upward(["low", "high"]) == ["high.a imports low.b"]
    assert house.upward(["high"]) == ["low is not in the list"]


def test_a_circle_is_found_by_way_of_others_and_for_types_only(small):
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.high.a import A\n"
    house = small(high__a="import package.low.b\n", low__b="from package.low import c\n", low__c=types)
    assert house.circles() == [["high.a", "low.b", "low.c"]]


def test_what_a_function_imports_is_not_loaded_at_the_start(small):
    house = small(a="import package.b\ndef f():\n    import torch\n", b="import numpy.linalg\n")
    assert set(house.loaded_by("a")) == {"a", "b", "+numpy"}
