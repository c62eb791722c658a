"""What is done of a batch is read back whole, whatever killed the process that wrote it."""

import multiprocessing
import os

import pytest

from causvid_cli.batch.ledger import FAILED, RESULTS, Ledger, append
from causvid_cli.errors import OutputError
from causvid_cli.files import sha256_of_file

UNHASHABLE = b'{"path": [], "bytes": 1, "sha256": "x"}'


def result(folder, name="a.mp4", content=b"video"):
    file = folder / name
    file.write_bytes(content)
    return {"path": name, "bytes": len(content), "sha256": sha256_of_file(file)}


def test_done_is_a_file_that_is_there_as_it_was_written(tmp_path):
    Ledger.open(tmp_path).add_result(result(tmp_path))
    ledger = Ledger.open(tmp_path)
    assert ledger.is_done("a.mp4")
    assert not ledger.is_done("b.mp4")
    (tmp_path / "a.mp4").write_bytes(b"other")
    assert not ledger.is_done("a.mp4")
    (tmp_path / "a.mp4").unlink()
    assert not ledger.is_done("a.mp4")


@pytest.mark.parametrize(
    "torn", [b'{"path": "b.m', b"\xff\xfe", b"{}", b"null", b'{"path": "b.mp4"}', UNHASHABLE, b"[" * 99_999]
)
def test_a_torn_line_is_passed_over_and_the_next_is_whole(tmp_path, torn):
    ledger = Ledger.open(tmp_path)
    ledger.add_result(result(tmp_path))
    with (tmp_path / RESULTS).open("ab") as file:
        file.write(torn)
    Ledger.open(tmp_path).add_result(result(tmp_path, "c.mp4"))
    assert set(Ledger.open(tmp_path).results) == {"a.mp4", "c.mp4"}


def write_many(folder, first):
    for number in range(first, first + 50):
        append(folder / RESULTS, {"path": f"{number}", "bytes": 0, "sha256": "x" * number})


def test_two_batches_write_into_one_file(tmp_path):
    writers = [multiprocessing.Process(target=write_many, args=(tmp_path, first)) for first in (0, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {*Ledger.open(tmp_path).results} == {str(number) for number in range(100)}


def test_what_cannot_be_written_is_said_in_one_line(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        append(tmp_path / "no" / RESULTS, {})
    (tmp_path / RESULTS).mkdir()
    with pytest.raises(OutputError, match="cannot be read"):
        Ledger.open(tmp_path)
    os.mkfifo(tmp_path / FAILED)
    (tmp_path / RESULTS).rmdir()
    with pytest.raises(OutputError, match="not a regular file"):
        Ledger.open(tmp_path)


def test_what_another_batch_adds_is_read_without_reading_the_rest_again(tmp_path):
    ours, theirs = Ledger.open(tmp_path), Ledger.open(tmp_path)
    for number in range(3):
        theirs.add_result(result(tmp_path, f"{number}.mp4"))
        ours.read()
        assert set(ours.results) == set(theirs.results)
    before = dict(ours._read)
    ours.read()
    assert ours._read == before == {RESULTS: (tmp_path / RESULTS).stat().st_size}
