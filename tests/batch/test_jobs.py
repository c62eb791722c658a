"""A row becomes a job whose key is what it makes: equal for equal frames, another for anything else."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from causvid_cli.batch.jobs import TEMPLATE, JobReader, Pack, RowCommand, check_template
from causvid_cli.batch.rows import Row
from causvid_cli.errors import UsageError

COMMANDS = (
    RowCommand("t2v", ("prompt",), {"length": "value", "seed": "value", "lossless": "switch", "lora": "list"}),
    RowCommand("i2v", ("image", "prompt"), {"length": "value", "seed": "value"}),
)


PACK = Pack("m", "abc", None, 0)


class Checked(list):
    """Every command line that was checked through."""

    def __call__(self, arguments):
        self.append(arguments)
        if "--length=bad" in arguments:
            raise UsageError("--length bad: is none")
        return {"command": arguments[0], "model": PACK.sha256}, PACK


def reader(**others):
    facts = {"base": Path("there"), "shared": {}, "template": TEMPLATE, "check": Checked(), "reserved": {"output"}}
    return JobReader(COMMANDS, **facts | others)


def jobs(*rows, **others):
    found = reader(**others)
    made = list(found.read(Row(number, fields) for number, fields in enumerate(rows, 1)))
    assert not found.mistakes
    return made


def test_a_row_is_a_command_line():
    (job,) = jobs({"id": "a", "prompt": "-- a car", "seed": 7, "lossless": True, "lora": ["x", "y"], "Length": "3s"})
    assert job.arguments == (
        *("t2v", "--length=3s", f"--lora={Path('there/x')}", f"--lora={Path('there/y')}", "--lossless", "--seed=7"),
        *("--", "-- a car"),
    )
    assert job.path == f"a-{job.key[:8]}.mp4"


def test_files_lie_beside_the_jobs_file_and_absolute_ones_where_they_lie(tmp_path):
    near, far = jobs(
        {"command": "i2v", "image": "a.png", "prompt": "a"},
        {"command": "i2v", "image": str(tmp_path / "b.png"), "prompt": "a"},
    )
    assert near.arguments[-2:] == (str(Path("there/a.png")), "a")
    assert far.arguments[-2:] == (str(tmp_path / "b.png"), "a")


def test_the_seed_of_a_row_without_one_is_its_own_and_stays():
    a, b, other = jobs({"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"})
    assert len({a.key, b.key, other.key}) == 3
    again = jobs({"prompt": "new"}, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"})
    assert [job.key for job in again[1:]] == [a.key, other.key, b.key]


def test_a_key_changes_with_what_is_made_and_with_nothing_else():
    row = {"id": "a", "prompt": "a", "seed": 1, "length": "3s"}
    (key,) = {job.key for job in (*jobs(row), *jobs(row | {"id": "b"}), *jobs(row | {"label": "x"}))}
    for change in ({"prompt": "b"}, {"seed": 2}, {"length": "4s"}, {"lossless": True}):
        assert jobs(row | change)[0].key != key
    assert jobs(row, check=lambda _: ({"model": "x"}, PACK))[0].key != key


def test_rows_that_differ_in_prompt_and_seed_only_are_checked_once_and_are_a_group():
    check = Checked()
    rows = [{"prompt": f"p{i}", "seed": i} for i in range(100)] + [{"prompt": "p", "length": "9s"}]
    made = jobs(*rows, check=check)
    assert len(check) == 2
    assert len({job.group for job in made[:100]}) == 1


def test_what_is_typed_holds_for_rows_that_say_nothing_else():
    a, b = jobs({"prompt": "a"}, {"prompt": "a", "length": "4s"}, shared={"length": "2s", "fit": "crop"})
    assert "--length=2s" in a.arguments
    assert "--length=4s" in b.arguments


def test_free_fields_are_carried():
    found = reader()
    (job,) = found.read([Row(1, {"prompt": "a", "label": [1, {"x": None}]})])
    assert job.carried == {"label": [1, {"x": None}]}
    assert found.carried == {"label"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"promt": "a"}, "unknown field 'promt'; did you mean prompt"),
        ({"prompt": ""}, "empty"),
        ({"length": "3s"}, "no prompt: t2v needs one"),
        ({"prompt": 3}, "prompt: must be text, got 3"),
        ({"prompt": "@file"}, "the text itself"),
        ({"prompt": "-"}, "the text itself"),
        ({"prompt": "a", "seed": "x"}, "not a whole number"),
        ({"prompt": "a", "seed": -1}, "must be 0 to"),
        ({"prompt": "a", "lossless": "perhaps"}, "true or false"),
        ({"prompt": "a", "length": {"s": 3}}, "text or a number"),
        ({"prompt": "a", "length": "bad"}, "--length bad"),
        ({"prompt": "a", "output": "x.mp4"}, "for the whole batch"),
        ({"prompt": "a", "id": "../x"}, "must be 1 to 100 letters"),
        ({"prompt": "a", "id": "x" * 101}, "must be 1 to 100 letters"),
        ({"prompt": "a", "id": True}, "must be 1 to 100 letters"),
        ({"prompt": "a", "ID": "../x"}, "must be 1 to 100 letters"),
        ({"prompt": "a", "custom-id": "../x"}, "must be 1 to 100 letters"),
        ({"prompt": "a", "id": "x", "custom_id": "x"}, "custom_id: another field says the id already"),
        ({"prompt": "a", "Prompt": "b"}, "Prompt: another field says the prompt already"),
        ({"prompt": "a", "seed": 1, "SEED": 2}, "SEED: another field says the seed already"),
        ({"prompt": "a", "Command": "i2v"}, "no image: i2v needs one"),
        ({"prompt": "a", "id": "\u6f22" * 100}, "the name is 73 bytes too long"),
        ({"prompt": "a", "picture": b"\xff"}, r"picture: b'\\xff' cannot be kept as JSON"),
        ({"prompt": "a", "scores": [float("nan")]}, "scores: .* cannot be kept as JSON"),
        ({"prompt": "a", "id": ["x"]}, "must be 1 to 100 letters"),
        ({"prompt": "a", "command": "i3v"}, "unknown command 'i3v'; did you mean i2v"),
        ({"prompt": "a", "command": ["t2v"]}, "unknown command"),
        ({"prompt": "a", "command": "i2v"}, "no image: i2v needs one"),
        ({"prompt": "a", "command": "i2v", "image": "-"}, "not stdin"),
    ],
)
def test_every_mistake_is_collected_with_its_line(row, complaint):
    found = reader()
    made = list(found.read([Row(3, row), Row(4, {"prompt": "a"}), Row(9, row)]))
    assert len(made) == 1
    assert [mistake.line for mistake in found.mistakes] == [3, 9]
    import re

    assert re.search(complaint, found.mistakes[0].text), found.mistakes


def test_an_id_is_there_once():
    found = reader()
    list(found.read([Row(1, {"prompt": "a", "id": "x"}), Row(2, {"prompt": "b", "custom_id": "x"})]))
    assert [mistake.text for mistake in found.mistakes] == ["id 'x': line 1 has it already"]


def test_moments_and_decimal_numbers_are_carried_as_text():
    (job,) = jobs({"prompt": "a", "day": date(2026, 11, 29), "price": Decimal("1.50")})
    assert job.carried == {"day": "2026-11-29", "price": "1.50"}


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{id}.mp4",
        "{id}-{key}-{what}.mp4",
        "../{id}{key}.mp4",
        "/{id}{key}.mp4",
        "{",
        "{id}-{key:.0}.mp4",
        "{id!r}-{key}.mp4",
        "{id:>5000000000}{key}.mp4",
    ],
)
def test_a_template_names_one_file_in_the_folder(template):
    with pytest.raises(UsageError, match="-o "):
        check_template(template)
