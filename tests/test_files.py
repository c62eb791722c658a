"""Files that are the old one or the whole new one."""

import errno
import os
import subprocess
import sys

import pytest
from clips import names

from causvid_cli.files import write_text


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_mode_that_the_umask_gives(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.toml", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.toml").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_a_file_written_again_keeps_its_mode(mode, tmp_path):
    (tmp_path / "a.toml").write_text("old")
    (tmp_path / "a.toml").chmod(mode)
    write_text(tmp_path / "a.toml", "new")
    assert (tmp_path / "a.toml").read_text() == "new"
    assert (tmp_path / "a.toml").stat().st_mode & 0o777 == mode


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    code = "import os; open(f'.causvid-{os.getpid()}-0', 'w')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert len(names(tmp_path)) == 1
    theirs = f".causvid-{os.getppid()}-0"
    for name in (theirs, ".causvid-notes-0"):
        (tmp_path / name).write_text("")
    write_text(tmp_path / "a.toml", "x")
    assert names(tmp_path) == {"a.toml", theirs, ".causvid-notes-0"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "a.toml").write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.toml", "new")
    assert (tmp_path / "a.toml").read_text() == "old"
    assert names(tmp_path) == {"a.toml"}
