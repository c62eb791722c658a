"""One video in the processes of torchrun: the same video, one voice, and an end whatever becomes of a process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from commands import PROMPT, decode, fails, makes, names, run

from causvid_cli import processes
from causvid_cli.cli import torchrun
from causvid_cli.job.journal import Journal

pytestmark = [pytest.mark.usefixtures("work"), pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]
DRAWING = Path(__file__).parents[2] / "examples" / "drawing.png"
MAX_ERROR = 1e-5
"""Of latents about 1: float32 sums in another order."""
LIMIT_S = 60
"""By when a command has to have ended that has lost a process; torchrun itself allows 30 s."""


def torchrun_command(count: int, *arguments: object) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    return [*launcher, "-m", "causvid_cli", *map(str, arguments)]


def check_same(count: int, command: str, *arguments: object) -> None:
    """A video of several processes is that of one; latents and files lie there as after one, and one speaks."""
    options = [*arguments, "--seed", 1, "--keep-latents", "--lossless"]
    alone = makes(command, *options, "-o", "alone.mkv")
    done = subprocess.run(
        torchrun_command(count, command, *options, "-o", "shared.mkv"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "shared.mkv\n"
    spoken = [line for line in done.stderr.splitlines() if line.startswith("causvid: ")]
    assert [line.split(": first frame")[0] for line in spoken] == [
        line.split(": first frame")[0] for line in alone.stderr.splitlines()
    ]
    theirs, ours = (Journal.open(Path(f"{name}.mkv.journal")) for name in ("alone", "shared"))
    assert ours.chunks == theirs.chunks > 1
    for chunk in range(ours.chunks):
        error = (ours.latents(chunk).float() - theirs.latents(chunk).float()).abs().max().item()
        assert error < MAX_ERROR, f"chunk {chunk}: largest error {error:.3g}"
    assert np.array_equal(decode("shared.mkv"), decode("alone.mkv"))


def test_two_processes_make_the_video_of_one():
    check_same(2, "t2v", PROMPT, "--then", "1s: a blue boat", "--length", "2s")


@pytest.mark.slow
@pytest.mark.parametrize("transition", ["cut", "soft"])
def test_a_network_for_first_chunks_and_what_is_copied_from_it(transition):
    told = ("a brown dog runs left on the beach", "--then", "1s: it eats", "--length", "2s")
    check_same(2, "t2v", *told, "-m", "storybook-world", "--transition", transition)


@pytest.mark.slow
def test_three_processes_make_the_video_of_one():
    check_same(3, "t2v", PROMPT, "--then", "3s: a blue boat", "--length", "8s")


@pytest.mark.slow
@pytest.mark.parametrize("way", [("--quantize", "int8"), ("--offload", "group")], ids=" ".join)
def test_ways_to_save_memory_go_together_with_several_processes(way):
    check_same(2, "t2v", PROMPT, "--length", "3s", *way)


@pytest.mark.slow
def test_commands_that_begin_with_pictures():
    check_same(2, "i2v", DRAWING, PROMPT, "--length", "4s")
    makes("t2v", PROMPT, "--length", "2s", "-o", "clip.mkv", "--lossless")
    check_same(2, "restyle", "clip.mkv", "a blue boat", "-y")


@pytest.mark.slow
def test_a_script():
    cues = "  - {at: 0s, prompt: a red car}\n  - {at: 1s, prompt: a blue boat, transition: cut}\n"
    Path("day.causvid.yaml").write_text(f"version: 1\nlength: 3s\ncues:\n{cues}")
    check_same(2, "edit-script", "day.causvid.yaml")


@pytest.mark.slow
def test_a_clip_goes_on():
    makes("t2v", PROMPT, "--length", "1s", "-o", "clip.mkv")
    options = ("extend", "clip.mkv", PROMPT, "--length", "2s", "--seed", 1)
    makes(*options, "-o", "alone.mkv")
    subprocess.run(torchrun_command(2, *options, "-o", "shared.mkv"), check=True, capture_output=True)
    assert np.array_equal(decode("shared.mkv"), decode("alone.mkv"))


@pytest.fixture
def four_processes(monkeypatch):
    """This process is the first of four."""
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "4", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("four_processes")
@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (("t2v", PROMPT), "4 processes cannot share the 6 heads of storybook evenly; try 1, 2, 3 or 6 of them$"),
        (("t2v", PROMPT, "--compile"), "--compile: not with 4 processes that make one video; leave it out$"),
        (("batch", "jobs.txt"), "batch: torchrun's processes make one video together; here --workers N makes several"),
    ],
    ids=["heads", "compile", "batch"],
)
def test_what_processes_cannot_share_is_refused(command, complaint):
    fails(run(*command), 2, complaint)
    assert names() == []


def test_only_the_first_complains(monkeypatch, four_processes):
    monkeypatch.setenv("RANK", "1")
    refused = run("t2v", PROMPT, "--lenght", "3s")
    assert (refused.exit_code, refused.output) == (2, "")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # a number that something else gave
    fails(run("t2v", PROMPT, "--lenght", "3s"), 2, "no such option: --lenght; did you mean --length?")


def test_a_first_process_that_needs_no_others_lets_them_go(monkeypatch, four_processes):
    said = {}
    monkeypatch.setattr(processes, "meet", lambda: type("Store", (), {"set": lambda _, *pair: said.update([pair])})())
    monkeypatch.setenv("WORLD_SIZE", "2")
    Path("there.mp4").touch()
    makes("t2v", PROMPT, "-o", "there.mp4", "--skip-existing")
    assert said == {torchrun.INVITATION: torchrun.LEAVE}


# --- processes that end --------------------------------------------------------------------------------------------


LONG = ("t2v", PROMPT, "--then", "4s: a blue boat", "--length", "40s", "--seed", 1, "--lossless", "-o", "long.mkv")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "long.mkv"
    makes(*LONG[:-1], path)
    return decode(path)


def wait_for(what) -> None:
    end = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_video_goes_on(whole, rank):
    command = subprocess.Popen(torchrun_command(2, *LONG), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: os.path.exists("long.mkv.journal") and os.path.getsize("long.mkv.journal") > 20_000)
    started = psutil.Process(command.pid).children()
    [one] = [process for process in started if process.environ()["RANK"] == str(rank)]
    one.kill()
    _, said = command.communicate(timeout=LIMIT_S)
    assert command.returncode
    assert all(not process.is_running() for process in started)
    lines = [line for line in said.splitlines() if line.startswith("causvid: ") and "read as" not in line]
    if rank:
        [line] = lines
        assert line.startswith("causvid: another of the 2 processes that make this video together has ended; ")
        assert line.endswith("`causvid resume long.mkv.part` goes on")
    else:
        assert lines == []
    assert names() == ["long.mkv.journal", "long.mkv.part"]
    subprocess.run(torchrun_command(2, "resume", "long.mkv"), check=True, capture_output=True)
    assert names() == ["long.mkv"]
    assert np.array_equal(decode("long.mkv"), whole)


@pytest.mark.slow
def test_ctrl_c_ends_after_the_chunk_at_work():
    command = subprocess.Popen(torchrun_command(2, *LONG), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: os.path.exists("long.mkv.journal") and os.path.getsize("long.mkv.journal") > 20_000)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=LIMIT_S)
    assert "are kept in long.partial.mkv; `causvid resume long.mkv.part` goes on" in said
    assert "long.mkv" not in names()
    assert len(decode("long.partial.mkv")) % 8 == 0


@pytest.mark.slow
def test_a_process_that_cannot_load_the_model_is_told_of(monkeypatch):
    """The second process finds other weights: a folder that differs between machines."""
    patch = Path("sitecustomize.py")
    patch.write_text(
        "import os\nif os.environ.get('RANK') == '1':\n"
        "    from causvid_cli.models import resolve\n    resolve.pack_digest = lambda facts: 'another'\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(torchrun_command(2, *LONG), capture_output=True, text=True, timeout=2 * LIMIT_S)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("causvid: ")]
    assert line.endswith("storybook: other weights than in the first process; in process 1 of 2")
    assert "(exitcode: 4) local_rank: 0" in done.stderr
    assert names() == ["sitecustomize.py"]
