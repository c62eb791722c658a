import pytest
import torch

from causvid_cli.errors import MediaError, OutputError
from causvid_cli.job.job import journal_path
from causvid_cli.job.journal import Journal, Mark


def latents(index):
    return torch.randn(1, 24, 2, 8, 8, generator=torch.Generator().manual_seed(index))


@pytest.fixture
def path(tmp_path):
    return journal_path(tmp_path / "car.mp4")


def filled(path, chunks=3):
    journal = Journal.create(path, {"prompt": "a red car", "seed": 1})
    for index in range(chunks):
        journal.append(latents(index), Mark(8 * (index + 1), 100 * index, 8 * index))
    return journal


def test_a_journal_gives_back_what_was_put_in_bit_for_bit(path):
    filled(path).close()
    journal = Journal.open(path)
    assert journal.request == {"prompt": "a red car", "seed": 1}
    assert journal.chunks == 3
    assert all(torch.equal(journal.latents(index), latents(index)) for index in range(3))
    assert journal.mark == journal.mark_of(2) == Mark(24, 200, 16)


@pytest.mark.parametrize("kept", range(3))
def test_a_journal_cut_anywhere_holds_the_chunks_before_the_cut(path, kept):
    journal = filled(path, kept)
    end = path.stat().st_size
    journal.append(latents(9), Mark(99))
    journal.close()
    whole = path.read_bytes()
    for cut in (end, end + 1, end + 8, end + 9, (end + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        journal = Journal.open(path)
        assert journal.chunks == kept
        journal.append(latents(kept), Mark(8))
        journal.close()
        journal = Journal.open(path)
        assert journal.chunks == kept + 1
        assert torch.equal(journal.latents(kept), latents(kept))
        journal.close()


def test_a_flipped_bit_ends_the_journal_before_it(path):
    filled(path).close()
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert Journal.open(path).chunks == 2


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"causvid journal 1\n", b"causvid journal 1\n\x05\0\0\0\0\0\0\0hello"]
)
def test_what_is_no_journal_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(MediaError, match="journal"):
        Journal.open(path)


def test_a_journal_that_is_missing_is_refused(path):
    with pytest.raises(MediaError, match="cannot be read: no such file"):
        Journal.open(path)


def test_a_journal_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="no such file"):
        Journal.create(tmp_path / "missing" / "x.journal", {})


def test_a_removed_journal_is_gone(path):
    filled(path).remove()
    assert not path.exists()
