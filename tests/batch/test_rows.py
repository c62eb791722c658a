"""A jobs file becomes rows, and what is no row a mistake with its line; nothing in a file gets past that."""

import json
import random

import pytest

from causvid_cli.batch.rows import Mistake, read_rows
from causvid_cli.errors import UsageError


def read(path):
    mistakes: list[Mistake] = []
    return [(row.line, dict(row.fields)) for row in read_rows(path, mistakes)], mistakes


def test_json_lines(tmp_path):
    path = tmp_path / "jobs.jsonl"
    path.write_text('﻿{"prompt": "a", "seed": 3}\r\n\n{"prompt": "b", "label": ""}\n[1]\n{"a": 1, "a": 2}\n')
    rows, mistakes = read(path)
    assert rows == [(1, {"prompt": "a", "seed": 3}), (3, {"prompt": "b"})]
    assert [each.line for each in mistakes] == [4, 5]


def test_csv_with_cells_over_several_lines(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text('id, prompt,seed\r\na,"one\ntwo",\n\nb,three,4\nc,too few\n')
    rows, mistakes = read(path)
    assert rows == [(2, {"id": "a", "prompt": "one\ntwo"}), (5, {"id": "b", "prompt": "three", "seed": "4"})]
    assert mistakes == [Mistake(6, "2 cells, but the first line names 3 columns")]


def test_a_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red car\n\n  a swan \n")
    assert read(path)[0] == [(1, {"prompt": "a red car"}), (3, {"prompt": "a swan"})]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("jobs.toml", b"", "is one of"),
        ("jobs.txt", b"a\nb\xff\n", "jobs.txt:2: not UTF-8"),
        ("jobs.csv", b"id,id\n", "'id' is there twice"),
    ],
)
def test_a_file_that_is_no_jobs_file(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=complaint):
        read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "jobs.jsonl")


def test_parquet_and_dataset_folders_say_which_extra_reads_them(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    for path in (tmp_path / "jobs.parquet", tmp_path):
        with pytest.raises(Exception, match="needs the package .*datasets"):
            read(path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_hostile_files_give_rows_and_mistakes_and_nothing_else(tmp_path, suffix):
    rng, path = random.Random(suffix), tmp_path / f"jobs.{suffix}"
    plain = "\n".join(json.dumps({"id": f"j{i}", "prompt": "a red car", "seed": i}) for i in range(5)).encode()
    for _ in range(300):
        data = bytearray(plain)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3)) or b'"\n'
        path.write_bytes(data)
        try:
            rows, mistakes = read(path)
        except UsageError as error:
            assert "\n" not in str(error)
        else:
            assert all("\n" not in mistake.text for mistake in mistakes)
            assert all(isinstance(name, str) for _, fields in rows for name in fields)
