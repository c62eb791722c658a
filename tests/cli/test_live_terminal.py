"""`causvid live` in a pseudo-terminal: typed on, resized, stopped, and gone."""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from commands import PROMPT, decode, makes, names

from causvid_cli.script import read_script

pexpect = pytest.importorskip("pexpect")
pyte = pytest.importorskip("pyte")
pytest.importorskip("prompt_toolkit")
pytestmark = [pytest.mark.usefixtures("work"), pytest.mark.skipif(sys.platform == "win32", reason="has no pexpect")]


class Terminal:
    """A session in a terminal of so many columns, and what can be read there."""

    def __init__(self, words: list[str], *, columns: int, env: dict[str, str]) -> None:
        self.child = pexpect.spawn(words[0], words[1:], dimensions=(24, columns), env=env, timeout=30)
        self.screen = pyte.Screen(columns, 24)
        self._stream = pyte.ByteStream(self.screen)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def read(self, seconds: float) -> bool:
        """Take in what is written; returns False at its end."""
        try:
            self._stream.feed(self.child.read_nonblocking(2**16, timeout=seconds))
        except pexpect.TIMEOUT:
            pass
        except pexpect.EOF:
            return False
        return True

    def sees(self, pattern: str) -> None:
        """Wait until something can be read."""
        end = time.monotonic() + 30
        while not re.search(pattern, self.text):
            assert self.read(0.1) and time.monotonic() < end, (pattern, self.text)

    def types(self, text: str) -> None:
        self.child.send(f"{text}\r")

    def resize(self, columns: int, rows: int) -> None:
        self.child.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def ends(self) -> None:
        """Wait for the session to end well."""
        while self.read(1):
            pass
        self.child.close()
        assert (self.child.exitstatus, self.child.signalstatus) == (0, None), self.text


@pytest.fixture
def start(tiny) -> Iterator[Callable[..., Terminal]]:
    """Starts a session, and waits for its second chunk."""
    started = []

    def started_with(*live: str, columns: int = 80, shell: bool = False, **environment: str) -> Terminal:
        words = [sys.executable, "-m", "causvid_cli", "live", *(live or [PROMPT])]
        words += ["-m", str(tiny), "-s", "1", "-o", "x.mp4"]
        if shell:  # with job control: what is stopped goes on by `fg`
            words = ["bash", "-c", f"set -m; {shlex.join(words)}; echo stopped here; sleep 1; fg"]
        env = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment
        terminal = Terminal(words, columns=columns, env=env)
        started.append(terminal)
        terminal.sees(r"chunk [1-9]")
        return terminal

    yield started_with
    for terminal in started:
        if not terminal.child.closed:
            terminal.child.close(force=True)


def makes_the_same_again() -> None:
    makes("edit-script", "x.causvid.yaml", "-o", "again.mp4")
    np.testing.assert_array_equal(decode("again.mp4"), decode("x.mp4"))


def test_what_is_typed_takes_hold_and_is_kept(start):
    terminal = start()
    assert "▀" in terminal.text
    terminal.types("a swan flies up")
    terminal.sees(r"lands in \d\.\d s, chunk \d+")
    terminal.sees("chunk .*a swan flies up")
    terminal.resize(40, 30)
    terminal.types(":bogus")
    terminal.sees(":bogus: unknown")
    terminal.types(":undo")
    terminal.sees("back before chunk")
    terminal.types("xyzzy")
    terminal.sees("nothing of 'xyzzy'")
    terminal.types(":cut a blue boat on the sea")
    terminal.sees("lands in")
    terminal.child.send("\x03")
    terminal.ends()
    assert read_script(Path("x.causvid.yaml")).cues[-1].transition == "cut"
    makes_the_same_again()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 200])
def test_it_fits_narrow_and_wide_terminals(start, columns):
    terminal = start(columns=columns)
    terminal.types("it jumps")
    terminal.sees("lands in")
    assert max(map(len, terminal.text.splitlines())) <= columns
    terminal.types(":quit")
    terminal.ends()
    makes_the_same_again()


@pytest.mark.slow
def test_without_colours_there_is_no_picture_and_all_else_works(start):
    terminal = start(NO_COLOR="1")
    assert "▀" not in terminal.text
    terminal.types("it jumps")
    terminal.sees("lands in")
    terminal.types(":quit")
    terminal.ends()
    makes_the_same_again()


@pytest.mark.slow
def test_ctrl_z_pauses_and_it_goes_on_after_that(start):
    terminal = start(shell=True)
    terminal.child.send("\x1a")
    terminal.sees("stopped here")
    terminal.sees("paused; :pause goes on")
    terminal.types(":pause")
    terminal.sees("it goes on")
    terminal.types(":quit")
    terminal.ends()


@pytest.mark.slow
def test_a_terminal_that_dies_ends_the_session_and_keeps_the_video(start):
    terminal = start()
    terminal.child.ptyproc.fileobj.close()  # hangs up
    terminal.child.closed = terminal.child.ptyproc.closed = True
    assert psutil.Process(terminal.child.pid).wait(timeout=20) is not None
    assert names() == ["x.causvid.yaml", "x.mp4"]
    makes_the_same_again()


@pytest.mark.slow
def test_a_scene_is_played_with_keys(start):
    Path("play.causvid.yaml").write_text(
        "version: 1\ncues:\n  - prompt: a red car in the snow\nkeys:\n"
        "  left: {prompt: a red car moves left, release: a red car stays still}\n  j: a red car jumps\n"
    )
    terminal = start("play.causvid.yaml")
    terminal.sees("keys play")
    terminal.child.send("\x1b[D")
    terminal.sees("chunk .*a red car moves left")
    terminal.sees("chunk .*a red car stays still")  # not repeated: let go
    terminal.child.send("j")
    terminal.sees("chunk .*a red car jumps")
    terminal.types("")
    terminal.sees("typing")
    terminal.types("a jumping cat")
    terminal.sees("chunk .*a jumping cat")
    terminal.child.send("\x03")
    terminal.ends()
    makes_the_same_again()
