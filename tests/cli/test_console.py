import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import tiny_pack

from causvid_cli.cli import console, progress
from causvid_cli.cli.app import MOST_PROBLEMS, guarded
from causvid_cli.cli.progress import show_progress
from causvid_cli.errors import UsageError
from causvid_cli.media.probe import read_info

PROMPT = "a red car moves left in the snow"


@pytest.fixture(autouse=True)
def plain_voice(monkeypatch):
    """As every run begins, in an environment that says nothing of colours."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CAUSVID_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAUSVID_CONFIG", os.devnull)
    console.voice.reset()
    yield
    console.voice.reset()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The monotonic clock, which stands still: set its only number."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def terminal(monkeypatch, yes: bool = True) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: yes, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


# --- how much is said ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quiet", "verbose", "said"),
    [
        (0, 0, "message error warning note"),
        (0, 1, "message error warning note detail"),
        (1, 0, "message error warning"),
        (2, 0, "message error"),
        (3, 0, "message error"),
    ],
)
def test_each_q_leaves_out_more(quiet, verbose, said, capsys):
    console.set_quiet(quiet)
    console.set_verbose(verbose)
    for kind in ("message", "error", "warning", "note", "detail"):
        getattr(console, kind)(kind)
    assert capsys.readouterr().err.split() == [word for kind in said.split() for word in ("causvid:", kind)]


@pytest.mark.parametrize(
    ("color", "environment", "on_terminal", "colored"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour_is_where_it_is_wanted(color, environment, on_terminal, colored, monkeypatch, capsys):
    terminal(monkeypatch, on_terminal)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    console.set_color(color)
    console.error("broken")
    console.note("by the way")
    console.message("plain")
    red, yellow = ("\x1b[31mcausvid:\x1b[0m", "\x1b[33mcausvid:\x1b[0m") if colored else ("causvid:", "causvid:")
    assert capsys.readouterr().err == f"{red} broken\n{yellow} by the way\ncausvid: plain\n"


def test_words_that_the_options_do_not_know_are_refused():
    with pytest.raises(UsageError, match="^--color red: unknown; try auto, always or never$"):
        console.set_color("red")
    with pytest.raises(
        UsageError, match="^--progress line: unknown; try auto, bar, plain or none; did you mean plain[?]$"
    ):
        console.set_progress("line")


def test_an_event_is_a_json_object_on_a_line(capsys):
    console.event("chunk", frame=12, cue="Ein Bär\n", path="\x1b[2J")
    said = capsys.readouterr().out
    assert said.isascii()
    assert said.count("\n") == 1
    assert json.loads(said) == {"v": 1, "event": "chunk", "frame": 12, "cue": "Ein Bär\n", "path": "\x1b[2J"}


def test_an_event_that_is_no_json_is_our_mistake():
    with pytest.raises(ValueError):
        console.event("chunk", pace=float("nan"))


# --- errors of many lines ------------------------------------------------------------------------------------------


@dataclass
class Problem:
    where: str

    def lines(self) -> list[str]:
        return [f"{self.where}: unknown field 'promt'", "    promt: a car\x1b[2J", "    ^^^^^"]


def stop_with(problems: list[Problem]) -> int:
    error = UsageError(f"{len(problems)} mistakes in a.yaml")
    error.problems = problems

    def run() -> None:
        raise error

    return guarded(run)


def test_every_problem_of_a_script_is_shown_and_the_last_line_sums_up(capsys):
    assert stop_with([Problem("a.yaml:7:5"), Problem("a.yaml:9:1")]) == 2
    caret = [r"    promt: a car\x1b[2J", "    ^^^^^"]
    assert capsys.readouterr().err.splitlines() == [
        "a.yaml:7:5: unknown field 'promt'",
        *caret,
        "a.yaml:9:1: unknown field 'promt'",
        *caret,
        "causvid: 2 mistakes; nothing was made",
    ]


def test_of_endless_problems_the_first_are_shown(capsys):
    stop_with([Problem(f"a.yaml:{line}:1") for line in range(1, 100_001)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"causvid: 100000 mistakes, {MOST_PROBLEMS} of them shown; nothing was made"
    assert len(lines) == 3 * MOST_PROBLEMS + 1


# --- progress ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "frames", "seconds", "options", "text"),
    [
        (120, 400, 2.0, {}, "120 of 400 frames, 60 frames/s, 5 s left"),
        (120, 400, 2.0, {"rate": 8.0}, "120 of 400 frames, 60 frames/s (7.5x), 5 s left"),
        (120, 400, 1.0, {"rate": 8.0, "before": 100}, "120 of 400 frames, 20 frames/s (2.5x), 14 s left"),
        (100, 400, 0.0, {"rate": 8.0, "before": 100}, "100 of 400 frames"),
        (0, 400, 0.0, {}, "0 of 400 frames"),
        (1, 1, 2.0, {}, "1 of 1 frame, 0.5 frames/s, 0 s left"),
        (960, None, 10.0, {"rate": 16.0}, "960 frames, 1 min 0 s long, 96 frames/s (6x)"),
        (12, None, 600.0, {"rate": 16.0}, "12 frames, 1 s long, 0.02 frames/s (0.0013x)"),
        (250_000, 250_000, 10.0, {"rate": 8.0}, "250000 of 250000 frames, 25000 frames/s (3125x), 0 s left"),
    ],
)
def test_the_pace_is_told_in_frames_and_as_a_multiple(done, frames, seconds, options, text, clock):
    tally = progress._begin(frames, options.get("before", 0), options.get("rate"), None)
    if seconds:
        clock[0] = seconds
        tally.update(done, "")
    assert tally.pace() == text


def test_a_slow_chunk_is_told_by_its_steps(clock, capsys):
    """A network call of 3 minutes, four in a chunk, and a fifth of a minute to decode it."""
    said = []
    with show_progress("loading") as progress:
        progress.start(18, rate=16.0, watch=Path("x.mp4.part"))
        for chunk in (1, 2):
            for done in range(5):
                progress.step(f"chunk {chunk} of 2, step {min(done + 1, 4)} of 4", made=9 * done / 4)
                clock[0] += 180.0 if done < 4 else 12.0
            progress.update(9 * chunk)
        said = capsys.readouterr().err.splitlines()
    assert said == [
        "causvid: 0 of 18 frames, 21 min 0 s left, chunk 1 of 2, step 2 of 4",
        "causvid: 0 of 18 frames, 18 min 0 s left, chunk 1 of 2, step 3 of 4",
        "causvid: 0 of 18 frames, 15 min 0 s left, chunk 1 of 2, step 4 of 4",
        "causvid: 0 of 18 frames, 12 min 0 s left, chunk 1 of 2, step 4 of 4",
        "causvid: 9 of 18 frames, 0.0123 frames/s (0.00077x), 12 min 12 s left, watch meanwhile: x.mp4.part",
        "causvid: 9 of 18 frames, 0.0123 frames/s (0.00077x), 9 min 7 s left, chunk 2 of 2, step 2 of 4",
        "causvid: 9 of 18 frames, 0.0123 frames/s (0.00077x), 6 min 4 s left, chunk 2 of 2, step 3 of 4",
        "causvid: 9 of 18 frames, 0.0123 frames/s (0.00077x), 3 min 2 s left, chunk 2 of 2, step 4 of 4",
        "causvid: 9 of 18 frames, 0.0123 frames/s (0.00077x), 0 s left, chunk 2 of 2, step 4 of 4",
    ]


def test_a_bar_counts_down_while_a_step_is_at_work(clock):
    bar = progress._Bar("loading")
    bar.start(9, watch=Path("x.mp4.part"))
    bar.step("chunk 1 of 1, step 1 of 4", made=0.0)
    clock[0] = 0.5
    assert [line.lstrip("━╺ ") for line in drawn(bar, 80)] == ["0 of 9 frames"]  # a quick model's steps would flicker
    clock[0] = 60.0
    assert [line.lstrip("━╺ ") for line in drawn(bar, 80)] == [
        "0 of 9 frames, 1 min 0 s so far",
        "chunk 1 of 1, step 1 of 4",
    ]
    bar.step("chunk 1 of 1, step 2 of 4", made=2.25)
    clock[0] = 90.0
    first, second = drawn(bar, 80)
    assert first.endswith(" 0 of 9 frames, 2 min 30 s left")
    assert second == "chunk 1 of 1, step 2 of 4"


def test_lines_tell_the_cue_and_once_what_to_watch(clock, capsys):
    with show_progress("loading") as progress:
        progress.start(None, rate=8.0, watch=Path("a\x1b.mp4.part"))
        for clock[0] in (9.0, 11.0, 15.0, 22.0):
            progress.update(int(clock[0]) * 8, cue="cue 2 of 3: he writes")
    assert capsys.readouterr().err.splitlines() == [
        r"causvid: 88 frames, 11 s long, 8 frames/s (1x), cue 2 of 3: he writes, watch meanwhile: a\x1b.mp4.part",
        "causvid: 176 frames, 22 s long, 8 frames/s (1x), cue 2 of 3: he writes",
    ]


@pytest.mark.parametrize("silence", [{"quiet": True}, {"voice": ("quiet", 1)}, {"voice": ("progress", "none")}])
def test_progress_can_be_left_out(silence, clock, capsys):
    if "voice" in silence:
        setattr(console.voice, *silence["voice"])
    with show_progress("loading", quiet=silence.get("quiet", False)) as progress:
        progress.start(100)
        clock[0] = 100.0
        progress.update(50)
    assert capsys.readouterr().err == ""


def test_plain_progress_is_lines_on_a_terminal_too(clock, capsys, monkeypatch):
    terminal(monkeypatch)
    console.set_progress("plain")
    with show_progress("loading") as progress:
        progress.start(100)
        clock[0] = 10.0
        progress.update(50)
    assert capsys.readouterr().err == "causvid: 50 of 100 frames, 5 frames/s, 10 s left\n"


def test_a_bar_needs_a_terminal():
    console.set_progress("bar")
    with (
        pytest.raises(UsageError, match="^--progress bar: stderr is no terminal .*; try --progress plain$"),
        show_progress("loading"),
    ):
        pass


def drawn(part: object, width: int) -> list[str]:
    """What a renderable shows on a terminal of so many columns."""
    from rich.console import Console

    screen = Console(width=width, height=24, force_terminal=True, color_system=None, legacy_windows=False)
    with screen.capture() as captured:
        screen.print(part)
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", captured.get()).splitlines()]


@pytest.mark.parametrize("width", [200, 100, 60, 30, 10, 1])
def test_the_bar_fits_any_terminal(width, clock):
    bar = progress._Bar("loading [red]storybook")
    assert len(drawn(bar, width)) == 1
    bar.start(400, rate=8.0, watch=Path("video.mp4.part"))
    assert len(drawn(bar, width)) == 1  # nothing to watch yet
    assert drawn(bar, width)[0][-1:] in "s…"
    clock[0] = 2.0
    bar.update(120, cue="cue 2 of 3: he takes out his [notebook] and writes in it for a long, long while")
    lines = drawn(bar, width)
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    if width >= 60:
        assert lines[0].endswith(" 120 of 400 frames, 60 frames/s (7.5x), 5 s left")
        assert lines[0].startswith("━━━")
        assert lines[1].startswith("cue 2 of 3: he takes out his [notebook]")
        assert lines[2] == "watch meanwhile: video.mp4.part"
    elif width == 30:
        assert lines[0].endswith("120 of 400 frames")


def test_an_endless_video_has_no_bar(clock):
    bar = progress._Bar("loading")
    bar.start(None, rate=8.0)
    clock[0] = 1.0
    bar.update(16)
    assert drawn(bar, 80) == ["16 frames, 2 s long, 16 frames/s (2x)"]


def test_bar_and_another_part_are_one_drawing(monkeypatch):
    terminal(monkeypatch)
    with console.screen("progress", "the bar") as outer, console.screen("picture", "the picture") as inner:
        assert outer is inner
        assert drawn(inner._draw(), 80) == ["the picture", "the bar"]
    assert console._screens == []


# --- real processes ------------------------------------------------------------------------------------------------


def causvid(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "causvid_cli", *map(str, arguments)]


def test_what_json_lines_say_stays_on_stdout_while_a_bar_is_drawn():
    code = (
        "from causvid_cli.cli import console; from causvid_cli.cli.progress import show_progress\n"
        "with show_progress('loading') as progress:\n"
        "    progress.start(40); progress.update(20); console.event('chunk', frames=20)"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    os.close(ours)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"v": 1, "event": "chunk", "frames": 20})


def in_terminal(command: list[str], folder: Path) -> tuple[subprocess.Popen, int]:
    """A process with a terminal of its own, and our end of that."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm-256color"},
        preexec_fn=own_terminal,
    )
    os.close(theirs)
    return process, ours


SLOWLY = """
import time
from causvid_cli.cli.app import main
from causvid_cli.sampling import rollout
real = rollout.predict
def predict(*arguments, **options):
    time.sleep(0.7)
    return real(*arguments, **options)
rollout.predict = predict
main()
"""
"""causvid, whose network takes its time."""


def test_a_slow_model_tells_its_steps_and_answers_ctrl_c_at_once(tiny, tmp_path):
    arguments = causvid("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "5h", "--steps", 3)
    maker, ours = in_terminal([sys.executable, "-c", SLOWLY, *arguments[3:]], tmp_path)
    seen = ""

    def until(pattern: str) -> None:
        nonlocal seen
        while not re.search(pattern, seen):
            try:
                seen += re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", os.read(ours, 65536).decode())
            except OSError as error:  # how Linux ends a pty
                raise AssertionError(seen) from error

    try:
        until("chunk 1 of 36000, step 3 of 3")
        assert re.search(r"0 of 144000 frames, \d+ h \d+ min left", seen)
        assert "watch meanwhile" not in seen
        until("watch meanwhile: x.mp4.part")
        until("chunk 2 of 36000, step 2 of 3")
        os.write(ours, b"\x03")
        until("causvid: stopping after this chunk; Ctrl-C again stops now")
        assert "are kept" not in seen
        until("stopped; 8 of 144000 frames are kept in")
        assert maker.wait(timeout=300) == 130
    finally:
        maker.kill()
        maker.wait()
        os.close(ours)


def test_a_terminal_that_closes_stops_it_like_sigterm(tiny, tmp_path):
    maker, ours = in_terminal(causvid("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "5h"), tmp_path)
    os.set_blocking(ours, False)
    part, patience = tmp_path / "x.mp4.part", time.monotonic() + 300
    try:
        while not (part.exists() and part.stat().st_size > 50_000):
            assert maker.poll() is None
            assert time.monotonic() < patience
            try:
                os.read(ours, 65536)
            except BlockingIOError:
                time.sleep(0.02)
        os.close(ours)
        assert maker.wait(timeout=300) == 143
    finally:
        maker.kill()
    assert not (tmp_path / "x.mp4").exists()
    assert read_info(part).frames > 0


def test_streams_that_the_caller_closed_change_nothing(tiny, tmp_path):
    def run(*arguments: object, closed: str) -> int:
        return subprocess.run(f"{shlex.join(causvid(*arguments))} {closed}", shell=True, cwd=tmp_path).returncode

    assert run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "4f", closed=">&- 2>&- <&-") == 0
    assert read_info(tmp_path / "x.mp4").frames == 4
    assert run("info", "x.mp4", closed=">&-") == 0
    assert run("info", "absent.mp4", closed="2>&-") == 3


def test_no_file_takes_the_number_of_a_closed_stream():
    code = (
        "import os; from causvid_cli.cli import app\n"
        "for number in (0, 1, 2): os.close(number)\n"
        "app._occupy_standard_streams()\n"
        "file = open(os.devnull)\n"
        "os._exit(file.fileno())"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3


def test_a_reader_of_messages_that_went_away_does_not_change_the_exit_code():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(causvid("t2v", "x", "--size", "abc"), stdout=subprocess.PIPE, stderr=write)
    os.close(write)
    assert (done.returncode, done.stdout) == (2, b"")
