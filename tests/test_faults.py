"""Whatever goes wrong: the final name is absent or complete, `.part` plays, resume gives the same frames."""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import faults
import psutil
import pytest
from clips import decode, names
from faults import Command, Unbroken, check_left, equal, kill_somewhere, latents_of
from real_media import real_clip
from safetensors.torch import load_file, save_file
from tiny import tiny_pack
from typer.testing import CliRunner, Result

from causvid_cli import pipeline
from causvid_cli.cli.app import app
from causvid_cli.config import load_facts
from causvid_cli.job import journal, recording
from causvid_cli.job.job import journal_path
from causvid_cli.media.probe import read_info
from causvid_cli.models.packs import write_pack_manifest
from causvid_cli.video import part_of
from causvid_cli.video.files import OutputFile

KILLS = 100
SCRIPT = """\
version: 1
seed: 3
length: 5s
cues:
  - prompt: a red car moves left in the snow
  - {at: 2s, prompt: a blue boat moves left on the sea}
  - {at: 3s, transition: cut, prompt: a green frog jumps on the grass}
"""


def commands() -> dict[str, tuple[object, ...]]:
    """What is killed, of 5 chunks each; cheap pictures, so that most of the time goes into keeping them."""
    clip = real_clip("carphone_pristine.mp4")
    return {
        "t2v": ("t2v", "a red car moves left in the snow", "--seed", 1, "--length", "5s", "--size", "128x128"),
        "extend": ("extend", clip, "a boat moves left on the sea", "--seed", 2, "--length", "5s"),
        "edit-script": ("edit-script", "day.causvid.yaml", "--size", "128x128"),
    }


def prepared(tmp_path: Path, name: str) -> tuple[tuple[object, ...], Path, Unbroken]:
    """A command with few network calls, an empty folder, and what comes of it when nothing happens."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        (folder / "day.causvid.yaml").write_text(SCRIPT)
    arguments = (*commands()[name], "--steps", 1, "-q", "--progress", "none")
    return arguments, broken, Unbroken.of(arguments, whole, "x.mp4")


@pytest.fixture(autouse=True)
def no_command_is_left() -> Iterator[None]:
    yield
    faults.end_all()


@pytest.fixture
def figures(request) -> Callable[[str], None]:
    """Takes a line of counts; shown when the test has ended, whatever pytest captures."""
    lines: list[str] = []
    yield lines.append
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        for line in lines:
            print(f"\n{request.node.name}: {line}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t2v", "extend", "edit-script"])
def test_a_kill_at_any_moment_costs_no_frame(name, tmp_path, figures):
    arguments, folder, unbroken = prepared(tmp_path, name)
    arguments = (*arguments, "-o", "x.mp4", "--keep-latents")
    rng, output, stages = random.Random(name), folder / "x.mp4", Counter()
    for _ in range(KILLS):
        first = faults.start(*arguments, folder=folder)
        stages[kill_somewhere(first, unbroken, output, rng)] += 1
        check_left(output, unbroken)
        while journal_path(output).exists() and not is_done(output) and rng.random() < 0.3:
            again = faults.start(*resume_of(output), folder=folder)
            stages["resumed: " + kill_somewhere(again, unbroken, output, rng)] += 1
            check_left(output, unbroken)
        if not journal_path(output).exists():
            assert not output.exists()
            done(faults.start(*arguments, folder=folder))
        elif not is_done(output):
            done(faults.start(*resume_of(output), folder=folder))
        check_whole(output, unbroken)
        for path in folder.glob("x.mp4*"):
            path.unlink()
    figures(f"{KILLS} videos, {stages.total()} kills, all whole in the end: {dict(stages)}")


def is_done(output: Path) -> bool:
    return output.exists() and not part_of(output).exists()


def resume_of(output: Path) -> tuple[object, ...]:
    return ("resume", part_of(output).name, "-q")


def done(command: Command) -> None:
    assert command.wait() == 0, command.said.read_text()


def check_whole(output: Path, unbroken: Unbroken) -> None:
    """The very file and latents of an unbroken run, and nothing else beside them."""
    assert output.read_bytes() == unbroken.video
    assert equal(latents_of(journal_path(output)), unbroken.latents)
    assert {path.name for path in output.parent.glob("x.mp4*")} == {"x.mp4", "x.mp4.journal"}


# --- on a model of random weights, with every test run ----------------------------------------------------------------


PROMPT = "a red car moves left in the snow"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def t2v(tiny, work) -> tuple[object, ...]:
    """A video of 5 s: 40 frames in 10 chunks, the encoder begins anew at frame 16 and 32."""
    return ("t2v", PROMPT, "-m", tiny, "-s", 1, "--size", "64x64", "-o", "x.mp4", "-q")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> bytes:
    """What it is when nothing happens."""
    output = tmp_path_factory.mktemp("whole") / "x.mp4"
    assert run("t2v", PROMPT, "-m", tiny, "-s", 1, "--size", "64x64", "-o", output, "-q").exit_code == 0
    return output.read_bytes()


def run(*arguments: object) -> Result:
    return CliRunner(env={"NO_COLOR": "1", "CAUSVID_DEBUG": None}).invoke(app, list(map(str, arguments)))


def fails(result: Result, code: int, complaint: str) -> None:
    """The command ended with this code, one line on stderr that matches, and nothing on stdout."""
    assert result.exit_code == code, result.output
    assert re.fullmatch(r"causvid: [^\n]+\n", result.stderr), result.stderr
    assert re.search(complaint, result.stderr), result.stderr
    assert result.stdout == ""


@contextmanager
def stopped_after(chunks: int, error: BaseException | None = None) -> Iterator[None]:
    """Inside, a roll-out ends with an error after so many chunks."""
    real = pipeline.rollout

    def rollout(*arguments: object, **options: object) -> Iterator:
        for number, made in enumerate(real(*arguments, **options)):
            if number == chunks:
                raise error or RuntimeError("out of luck")
            yield made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "rollout", rollout)
        yield


def broken_off(t2v: tuple[object, ...], *, chunks: int = 6) -> Path:
    """Begin the video, and stop in the middle; returns its `.part`."""
    with stopped_after(chunks):
        assert run(*t2v).exit_code == 1
    return Path("x.mp4.part")


def goes_on(whole: bytes) -> None:
    result = run("resume", "x.mp4.part", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    assert Path("x.mp4").read_bytes() == whole
    assert names(Path()) == {"x.mp4"}


@pytest.mark.parametrize("chunks", [1, 5, 9])
def test_a_video_goes_on_from_any_chunk(chunks, t2v, whole):
    assert read_info(broken_off(t2v, chunks=chunks)).frames == 4 * chunks
    goes_on(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part.unlink(),
        lambda part: part.write_bytes(b""),
        lambda part: part.write_bytes(part.read_bytes()[:5000]),
        lambda part: part.write_bytes(part.read_bytes()[:-7]),
        lambda part: part.write_bytes(bytes(reversed(part.read_bytes()))),
        lambda part: part.write_bytes(part.read_bytes() * 2),
        lambda part: shutil.copy(real_clip("carphone_pristine.mp4"), part),
    ],
    ids=["gone", "empty", "short", "torn", "garbage", "longer", "another video"],
)
def test_a_part_that_is_not_as_it_was_left_is_made_again_from_the_journal(change, t2v, whole):
    change(broken_off(t2v))
    goes_on(whole)


def test_a_bit_that_flips_in_the_part_is_made_again(t2v, whole):
    part = broken_off(t2v)
    data = bytearray(part.read_bytes())
    data[2000] ^= 1
    part.write_bytes(data)
    goes_on(whole)


def test_a_resume_that_fails_leaves_the_part_as_it_was(t2v, whole):
    part = broken_off(t2v)
    before = part.read_bytes()
    with stopped_after(0):
        fails(run("resume", part, "-q"), 1, "out of luck")
    assert part.read_bytes() == before
    goes_on(whole)


@pytest.mark.parametrize("cut", [-1, -20000])
def test_a_torn_journal_goes_on_from_what_is_whole(cut, t2v, whole):
    broken_off(t2v)
    journal = Path("x.mp4.journal")
    journal.write_bytes(journal.read_bytes()[:cut])
    goes_on(whole)


@pytest.mark.parametrize("at", [-1, -20000])
def test_a_journal_with_a_flipped_bit_goes_on_from_what_is_before_it(at, t2v, whole):
    broken_off(t2v)
    journal = Path("x.mp4.journal")
    data = bytearray(journal.read_bytes())
    data[at] ^= 1
    journal.write_bytes(data)
    goes_on(whole)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda data: b"", "not a journal of this causvid; make the video again, with -y"),
        (lambda data: data.replace(b"journal 1", b"journal 2"), "not a journal of this causvid"),
        (lambda data: data[:200], "damaged: its request is not whole; make the video again, with -y"),
        (lambda data: data[:60] + b"?" + data[61:], "damaged: its request is not whole"),
    ],
    ids=["empty", "another version", "torn", "flipped"],
)
def test_a_journal_that_says_nothing_is_refused_until_it_is_given_up(damage, complaint, t2v, whole):
    part = broken_off(t2v)
    frames = part.read_bytes()
    journal = Path("x.mp4.journal")
    journal.write_bytes(damage(journal.read_bytes()))
    for arguments in (("resume", part), t2v):
        fails(run(*arguments), 3, f"x.mp4.journal: {complaint}")
    assert part.read_bytes() == frames
    assert run(*t2v, "-y").exit_code == 0
    assert Path("x.mp4").read_bytes() == whole
    assert names(Path()) == {"x.mp4"}


def test_a_model_that_changed_is_not_gone_on_with(t2v, tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    part = broken_off(tuple(model if argument == tiny else argument for argument in t2v))
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    write_pack_manifest(model, load_facts(model))
    fails(run("resume", part), 4, "was made by another version of tiny .*; get that one, or make a new video")
    shutil.rmtree(model)
    fails(run("resume", part), 4, "tiny")
    assert part.exists()


@pytest.mark.parametrize(
    ("name", "number"),
    [("x.mp4", errno.ENOSPC), ("x.mkv", errno.EDQUOT), ("x.gif", errno.EIO), ("%02d.png", errno.ENOSPC)],
)
def test_a_disk_that_fails_keeps_what_was_written(name, number, t2v, monkeypatch):
    part, real = Path(f"{name}.part"), OutputFile.write
    room = 150_000 if name.endswith(("gif", "png")) else 50_000  # several chunks, not all

    def write(file: OutputFile, data: bytes) -> int:
        if file.tell() + len(data) > room:
            real(file, data[: room - file.tell()])  # as much as goes
            file.failure = OSError(number, os.strerror(number))
            raise file.failure
        return real(file, data)

    arguments = [name if argument == "x.mp4" else argument for argument in t2v]
    with monkeypatch.context() as patch:
        patch.setattr(OutputFile, "write", write)
        kept = r"; \d+ frames \(\d+ bytes\) are kept in .*\.part; `causvid resume .*` goes on"
        fails(run(*arguments), 7, f"{re.escape(os.strerror(number).lower())}{kept}")
    assert read_info(part).frames == len(decode(part)) > 0
    assert names(Path()) == {f"{name}.part", f"{name}.journal"}
    assert run("resume", part, "-q").exit_code == 0
    assert not part.exists() and not Path(f"{name}.journal").exists()


@pytest.mark.parametrize("after", [0, 1, 30_000])
def test_a_full_disk_under_the_journal_loses_nothing(after, t2v, whole, monkeypatch):
    room, real = after, journal._write

    def write(file, data: bytes) -> None:
        nonlocal room
        room -= len(data)
        if room < 0:
            file.write(data[:room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", write)
        kept = "; 4+ of 40 frames are kept in x.mp4.part; `causvid resume x.mp4.part` goes on" if after > 1 else ""
        fails(run(*t2v), 7, f"x.mp4.journal: no space left on device{kept}".replace("4+", r"\d+"))
    if names(Path()):
        goes_on(whole)
    else:
        assert run(*t2v).exit_code == 0  # nothing is in its way


def left_by_a_kill_after_naming(t2v: tuple[object, ...]) -> None:
    """What lies there when a run that keeps its latents was killed before it removed the rest."""
    assert run(*t2v, "--sidecar", "--keep-latents").exit_code == 0
    os.link("x.mp4", "x.mp4.publish")
    Path("x.mp4.part").write_bytes(b"not removed yet")
    Path("x.mp4.json").unlink()


@pytest.mark.parametrize("again", ["the same command", "resume"])
def test_a_video_killed_after_it_was_named_is_finished_without_the_model(again, t2v, whole, monkeypatch):
    left_by_a_kill_after_naming(t2v)
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    result = run(*(t2v if again != "resume" else ("resume", "x.mp4.part", "-q")))
    assert (result.exit_code, result.output) == (0, "")
    assert Path("x.mp4").read_bytes() == whole
    assert json.loads(Path("x.mp4.json").read_text())["recipe"]["seed"] == 1
    assert names(Path()) == {"x.mp4", "x.mp4.journal", "x.mp4.json"}


def test_another_video_of_that_name_is_not_taken_for_the_finished_one(t2v):
    left_by_a_kill_after_naming(t2v)
    Path("x.mp4").unlink()
    Path("x.mp4").write_text("mine")
    for arguments in (t2v, ("resume", "x.mp4.part")):
        fails(run(*arguments), 7, "x.mp4 exists; -y overwrites it")
    assert Path("x.mp4").read_text() == "mine"


def test_another_command_for_that_name_is_refused(t2v):
    left_by_a_kill_after_naming(t2v)
    fails(run("t2v", "a blue boat", *t2v[2:]), 7, "x.mp4 exists; -y overwrites it")


def test_a_name_claimed_where_there_are_no_hard_links_is_taken_up(t2v, whole, monkeypatch):
    left_by_a_kill_after_naming(t2v)
    Path("x.mp4").write_bytes(b"")  # by `give_name`, which was killed before it replaced this
    assert run(*t2v).exit_code == 0
    assert Path("x.mp4").read_bytes() == whole


@pytest.mark.parametrize("change", [os.unlink, lambda part: os.replace(shutil.copy(part, "copy"), part)])
def test_a_part_that_is_taken_away_is_noticed_and_made_again(change, t2v, whole, monkeypatch):
    real = pipeline.rollout

    def rollout(*arguments: object, **options: object) -> Iterator:
        for number, made in enumerate(real(*arguments, **options)):
            if number == 6:
                change("x.mp4.part")
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "rollout", rollout)
        noticed = "x.mp4: x.mp4.part was removed or replaced while it was being written"
        fails(run(*t2v), 7, f"^causvid: {noticed}; `causvid resume x.mp4.part` goes on\n$")
    assert "x.mp4" not in names(Path())
    goes_on(whole)


def test_what_ctrl_c_published_goes_when_there_is_more(t2v, whole):
    with stopped_after(6, KeyboardInterrupt()):
        assert run(*t2v).exit_code == 130
    assert read_info(Path("x.partial.mp4")).frames == 24
    with stopped_after(0):
        assert run("resume", "x.mp4", "-q").exit_code == 1
    assert Path("x.partial.mp4").exists()
    goes_on(whole)


def test_a_full_disk_under_the_sidecar_leaves_the_video(t2v, whole, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(recording, "write_text", full)
        complaint = "x.mp4.json: no space left on device; the video itself is whole; `causvid resume x.mp4` tries again"
        fails(run(*t2v, "--sidecar"), 7, complaint)
    assert Path("x.mp4").read_bytes() == whole
    assert run("resume", "x.mp4").exit_code == 0
    assert names(Path()) == {"x.mp4", "x.mp4.json"}


def contents(folder: Path) -> dict[str, object]:
    """What each file of a folder holds; of a sidecar the recipe, for it tells times as well."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): json.loads(path.read_text())["recipe"]
        if path.suffix == ".json"
        else path.read_bytes()
        for path in files
    }


def every_kill_is_made_good(work: Path, *arguments: object, begun: Path | None = None, step: int) -> int:
    """Kill a command before each of its file-system calls; after each kill, it and `resume` end with what it makes.

    begun: a folder in which an earlier run was broken off, where the command begins. Returns how many kills it was.
    """
    output, kills = arguments[arguments.index("-o") + 1] if "-o" in arguments else arguments[1], 0

    def put_back(state: Path | None) -> None:
        for path in work.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if state is not None:
            shutil.copytree(state, work, dirs_exist_ok=True)

    put_back(begun)
    done(faults.start(*arguments, folder=work))
    whole, killed = contents(work), work.parent / "killed"
    given = contents(begun) if begun else {}
    put_back(begun)
    for number in faults.kill_at_every_call(
        *arguments, folder=work, prepare=lambda: put_back(begun), first=min(step, 7), step=step
    ):
        kills += 1
        found = contents(work)
        if found == whole:  # only its report was missing
            continue
        finished = {name: data for name, data in found.items() if name in whole and ".mp4." not in name}
        assert finished == {name: whole[name] for name in finished}, f"half a file after call {number}"
        shutil.copytree(work, killed)
        for again in {arguments, ("resume", output, "-q")}:
            put_back(killed)
            command = faults.start(*again, folder=work)
            if command.wait() == 3 and again != arguments:  # killed before there was anything to resume
                made = found.keys() - given.keys()
                assert not any(name in whole or name.endswith(".journal") for name in made), number
                command = faults.start(*arguments, folder=work)
            assert command.wait() == 0, f"after call {number}: {command.said.read_text()}"
            assert contents(work) == whole, f"after call {number}: {sorted(contents(work))}"
        shutil.rmtree(killed)
    return kills


SHORT = ("--length", "12f", "--size", "64x64", "-s", 1, "-q")
EVERY, SOME = 1, 23
"""Before which calls a command is killed."""


@pytest.mark.parametrize(
    ("options", "step"),
    [
        pytest.param(("-o", "x.mp4", "--sidecar"), EVERY, marks=pytest.mark.slow),
        (("-o", "x.mp4", "--sidecar"), SOME),
        pytest.param(("-o", "frames/%02d.png"), EVERY, marks=pytest.mark.slow),
        (("-o", "frames/%02d.png"), 2 * SOME),
        pytest.param(("-o", "x.gif", "-y"), EVERY, marks=pytest.mark.slow),
        pytest.param(("-o", "x.mp4", "--keep-latents"), EVERY, marks=pytest.mark.slow),
    ],
)
def test_a_kill_before_any_call_is_made_good_by_the_same_command_and_by_resume(options, step, tiny, work, figures):
    kills = every_kill_is_made_good(work, "t2v", PROMPT, "-m", tiny, *SHORT, *options, step=step)
    assert kills >= (40 if step == 1 else 2)
    figures(f"{kills} kills, each made good by the same command and by resume")


@pytest.mark.parametrize("step", [pytest.param(EVERY, marks=pytest.mark.slow), SOME])
@pytest.mark.parametrize("command", ["extend", "edit-script"])
def test_a_kill_of_a_command_with_an_input_is_made_good_as_well(command, step, tiny, work, tmp_path, figures):
    begun = tmp_path / "begun"
    begun.mkdir()
    assert run("t2v", PROMPT, "-m", tiny, *SHORT, "-o", begun / "clip.mp4").exit_code == 0
    (begun / "two.causvid.yaml").write_text(
        f"version: 1\ncues:\n  - prompt: {PROMPT}\n  - at: 1s\n    prompt: it jumps\n"
    )
    arguments = {
        "extend": ("extend", "clip.mp4", PROMPT, "--length", "8f"),
        "edit-script": ("edit-script", "two.causvid.yaml", "--length", "12f", "--size", "64x64"),
    }[command]
    kills = every_kill_is_made_good(work, *arguments, "-m", tiny, "-s", 1, "-q", "-o", "x.mp4", begun=begun, step=step)
    assert kills >= (40 if step == 1 else 1)
    figures(f"{kills} kills of {command}, each made good by the same command and by resume")


@pytest.mark.parametrize(
    ("name", "step"),
    [("x.mp4", SOME), *(pytest.param(name, EVERY, marks=pytest.mark.slow) for name in ("x.mp4", "%02d.png"))],
)
def test_a_resume_that_is_killed_before_any_call_is_resumed(name, step, tiny, work, tmp_path, figures):
    with stopped_after(2):
        assert run("t2v", PROMPT, "-m", tiny, *SHORT, "-o", name).exit_code == 1
    begun = shutil.copytree(work, tmp_path / "begun")
    kills = every_kill_is_made_good(work, "resume", name, "-q", begun=begun, step=step)
    assert kills >= (20 if step == 1 else 1)
    figures(f"{kills} kills, each made good by another resume")


@pytest.mark.parametrize("change", [("set", "t2v.fps", 8), ("unset", "length")])
def test_a_config_file_whose_change_is_killed_is_the_old_one_or_the_new_one(change, work, monkeypatch):
    config, old = work / "config.toml", b"# mine\nlength = 5\n"
    monkeypatch.setenv("CAUSVID_CONFIG", str(config))
    config.write_bytes(old)
    assert run("config", *change).exit_code == 0
    new = config.read_bytes()
    assert new != old
    kills = 0
    for number in faults.kill_at_every_call("config", *change, folder=work, prepare=lambda: config.write_bytes(old)):
        kills += 1
        assert config.read_bytes() in (old, new), f"after call {number}"
        assert run("config", "set", *change[1:2], "3").exit_code == 0  # whatever changes it next
        assert list(work.iterdir()) == [config], f"after call {number}"
    assert kills >= 4


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to be root, to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["t2v", "extend", "edit-script"])
def test_a_full_disk_is_gone_on_from_when_there_is_room(command, small_disk, tiny, work):
    Path("day.causvid.yaml").write_text(SCRIPT.replace("5s", "20s"))
    arguments = {
        "t2v": ("t2v", PROMPT, "--length", "20s"),
        "extend": ("extend", real_clip("carphone_distorted.mp4"), PROMPT, "--length", "20s"),
        "edit-script": ("edit-script", "day.causvid.yaml"),
    }[command]
    arguments = (*arguments, "-s", 1, "-m", tiny, "-q")
    output = small_disk / "x.mp4"
    fails(
        run(*arguments, "-o", output), 7, r"x.mp4.*: no space left on device; \d+ .*frames .*are kept in .*x.mp4.part"
    )
    assert not output.exists()
    assert read_info(part_of(output)).frames == len(decode(part_of(output))) > 16
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert run("resume", output, "-q").exit_code == 0
    assert run(*arguments, "-o", "whole.mp4").exit_code == 0
    assert output.read_bytes() == Path("whole.mp4").read_bytes()
    assert names(small_disk) == {"x.mp4"}


@pytest.mark.parametrize(
    ("prepare", "name", "complaint"),
    [
        (lambda: None, "missing/x.mp4", "folder missing does not exist; create it with mkdir -p missing"),
        (lambda: None, "é" * 130 + ".mp4", "the name is 21 bytes too long; choose a shorter -o"),
        (lambda: os.mkdir("x.mp4"), "x.mp4", "x.mp4 is a folder; try -o x.mp4/video.mp4"),
        (lambda: os.mkfifo("x.mp4"), "x.mp4", "is a device or a pipe, not a file"),
        (lambda: None, "/dev/full", "is a device or a pipe, not a file"),
        (lambda: os.symlink("nowhere", "x.mp4"), "x.mp4", "x.mp4 exists; -y overwrites it"),
        (lambda: os.symlink("elsewhere", "x.mp4.part"), "x.mp4", "x.mp4: too many levels of symbolic links"),
        (lambda: os.mkdir("x.mp4.part"), "x.mp4", "x.mp4: is a directory"),
        (lambda: os.mkdir("file") or os.rmdir("file") or Path("file").touch(), "file/x.mp4", "file is not a folder"),
    ],
    ids=["missing folder", "long name", "folder", "fifo", "device", "link", "link as .part", "folder as .part", "file"],
)
def test_an_output_that_cannot_be_is_found_before_the_model_loads(prepare, name, complaint, tiny, work, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    prepare()
    before = names(work)
    fails(run("t2v", PROMPT, "-m", tiny, "-o", name), 7, complaint)
    assert names(work) == before


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_journal_that_is_no_file_is_no_wait(make, t2v):
    make("x.mp4.journal")
    fails(run(*t2v), 3, "x.mp4.journal: ")


def test_a_new_journal_is_not_written_through_a_link(t2v, work):
    mine = work / "mine.txt"
    mine.write_text("dear diary")
    os.symlink(mine, "x.mp4.journal")
    assert run(*t2v, "-y").exit_code == 0
    assert mine.read_text() == "dear diary"


def test_the_input_is_no_output(tiny, work):
    clip = work / "clip.mp4"
    shutil.copy(real_clip("carphone_distorted.mp4"), clip)
    before = clip.read_bytes()
    os.link(clip, "same.mp4")
    for command, name in (("extend", "clip.mp4"), ("extend", "same.mp4"), ("restyle", "./clip.mp4")):
        fails(run(command, clip, PROMPT, "-m", tiny, "-o", name, "-y"), 7, "is the input; choose another -o")
    assert clip.read_bytes() == before


def test_of_two_at_once_one_wins_and_the_other_names_it(t2v, work, tmp_path):
    other, instead = tmp_path / "other", tuple("a blue boat" if part == PROMPT else part for part in t2v)
    other.symlink_to(work)  # the same folder, so that each has a place to speak of its own
    for loser in ((*instead, "-y"), ("resume", "x.mp4")):
        first = faults.start(*t2v, "--length", "5h", folder=work)
        assert first.wait_until(lambda: latents_kept(work / "x.mp4") > 2)
        second = faults.start(*loser, folder=other)
        assert second.wait() == 7
        line = f"causvid: x.mp4.part is being written by another causvid (pid {first.pid}); choose another -o\n"
        assert second.said.read_text() == line
        first.kill()
        first.wait()
        assert len(latents_of(Path("x.mp4.journal"))) > 2
        assert read_info(Path("x.mp4.part")).frames > 8  # the last one may be torn
        Path("x.mp4.part").unlink()
        Path("x.mp4.journal").unlink()


def latents_kept(output: Path) -> int:
    return len(latents_of(journal_path(output))) if journal_path(output).exists() else 0


def test_a_journal_that_another_run_went_on_with_is_left_alone(t2v, whole, monkeypatch):
    broken_off(t2v)
    real = pipeline.load

    def load(*arguments: object, **options: object) -> pipeline.Pipeline:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "load", real)
            goes_on(whole)  # while the other loads its model
        Path("x.mp4").rename("first.mp4")
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "load", load)
    result = run("resume", "x.mp4.part", "-q")
    assert (result.exit_code, result.stdout) == (7, "")
    assert names(Path()) == {"first.mp4"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_publishes_what_there_is_and_a_second_one_ends_it_at_once(number, code, t2v, work):
    endless = (*t2v, "--length", "5h")
    first = begun(endless, work)
    first.kill(number)
    assert first.wait() == code
    lines = first.said.read_text()
    kept = r"(\d+) of \d+ frames are kept in x.partial.mp4; `causvid resume x.mp4.part` goes on"
    frames = int(re.fullmatch(f"causvid: stopped; {kept}\n", lines)[1])
    assert read_info(Path("x.partial.mp4")).frames == read_info(Path("x.mp4.part")).frames == frames
    assert not psutil_children(first.pid)
    Path("x.partial.mp4").unlink()

    second = begun(("resume", "x.mp4"), work, more_than=frames)
    second.kill(signal.SIGSTOP)
    second.kill(number)
    second.kill(signal.SIGTERM if number != signal.SIGTERM else signal.SIGINT)  # two kinds: equal ones are one
    second.kill(signal.SIGCONT)
    assert second.wait() in (130, 143)
    assert re.fullmatch(r"causvid: stopped; .* frames are kept in .*\n", last_line(second))
    assert names(work) == {"x.mp4.part", "x.mp4.journal"}
    assert len(decode(Path("x.mp4.part"))) >= frames


def begun(arguments: tuple[object, ...], folder: Path, *, more_than: int = 8) -> Command:
    """A command that has made more than so many frames."""
    command = faults.start(*arguments, folder=folder)
    assert command.wait_until(lambda: 4 * latents_kept(folder / "x.mp4") > more_than), command.said.read_text()
    return command


def last_line(command: Command) -> str:
    return command.said.read_text().splitlines(keepends=True)[-1]


def psutil_children(session: int) -> list[psutil.Process]:
    """Processes of a session that has ended."""
    return [process for process in psutil.process_iter() if _session_of(process.pid) == session]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_a_reader_that_goes_away_ends_it_in_silence(t2v, work):
    reading, writing = os.pipe()
    arguments = tuple("-" if part == "x.mp4" else part for part in t2v)

    def to_pipe() -> None:
        os.dup2(writing, 1)
        os.close(writing)
        os.close(reading)

    command = faults.start(*arguments, "--length", "inf", folder=work, setup=to_pipe)
    os.close(writing)
    assert len(os.read(reading, 1000)) > 0
    os.close(reading)
    assert command.wait() == 141
    assert command.said.read_text() == ""
    assert not psutil_children(command.pid)


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_do_no_harm(closed, t2v, whole, work):
    command = faults.start(*t2v, folder=work, setup=lambda: [os.close(stream) for stream in closed])
    assert command.wait() == 0
    assert Path("x.mp4").read_bytes() == whole


def test_a_full_stderr_ends_no_video(t2v, whole, work):
    command = faults.start(
        *t2v[:-1], "--progress", "plain", folder=work, setup=lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    )
    assert command.wait() == 0
    assert command.said.read_text() == "x.mp4\n"
    assert Path("x.mp4").read_bytes() == whole


@pytest.mark.parametrize("command", [("t2v", PROMPT), ("rerun", "made.mp4")])
def test_a_video_for_a_closed_stdout_is_refused_in_one_line(command, t2v, work):
    assert run(*t2v[:-2], "made.mp4").exit_code == 0
    closed = faults.start(*command, "-o", "-", folder=work, setup=lambda: os.close(1))
    assert closed.wait() == 7
    assert re.fullmatch(r"causvid: -o -: stdout is closed; .* or name a file\n", closed.said.read_text())


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_changes_nothing(days, t2v, whole, monkeypatch):
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + days * 86400 * next(calls))
    assert run(*t2v).exit_code == 0
    assert Path("x.mp4").read_bytes() == whole


@pytest.mark.parametrize(
    "name", ["-x.mp4", "$(touch evil).mp4", "a\nb.mp4", "\x1b]0;evil\a.mp4", "\u202egpj.mp4", "x" + "ü" * 119]
)
def test_any_name_goes_through_a_break_and_a_resume(name, t2v, whole):
    name = name if name.endswith(".mp4") else f"{name}.mp4"
    with stopped_after(6):
        result = run(*t2v[:-3], "-o", name)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 2  # how the prompt was read, and the error
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", result.stderr)
    assert run("resume", f"./{name}.part", "-q").exit_code == 0
    assert Path(name).read_bytes() == whole
    assert names(Path()) == {name}


def test_a_clip_of_any_name_is_continued_after_a_break(tiny, work):
    clip = work / "a\nb $(x) é.mp4"
    shutil.copy(real_clip("carphone_distorted.mp4"), clip)
    arguments = ("extend", clip, PROMPT, "-m", tiny, "-s", 1, "--length", "3s", "-q")
    assert run(*arguments, "-o", "whole.mp4").exit_code == 0
    with stopped_after(4):
        assert run(*arguments, "-o", "x.mp4").exit_code == 1
    assert run("resume", "x.mp4.part", "-q").exit_code == 0
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def hostile(folder: Path) -> dict[str, bytes]:
    """What claims to be a clip, and is none that can be read."""
    clip = real_clip("carphone_pristine.mp4").read_bytes()
    secret = folder / "secret.mp4"
    secret.write_bytes(clip)
    flipped = bytearray(clip)
    for at in range(2000, len(clip), 997):
        flipped[at] ^= 0x55
    return {
        "truncated": clip[: len(clip) // 2],
        "flipped": bytes(flipped),
        "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n" + bytes(secret) + b"\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile " + bytes(secret) + b"\n",
        "text": b"hello\n",
        "empty": b"",
    }


@pytest.mark.parametrize("kind", ["truncated", "flipped", "m3u8", "concat", "text", "empty"])
@pytest.mark.parametrize("command", ["extend", "restyle", "i2v"])
def test_hostile_media_is_refused_before_the_model_loads(kind, command, tiny, work, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    Path("in.mp4").write_bytes(hostile(tmp_path)[kind])
    fails(run(command, "in.mp4", PROMPT, "-m", tiny, "-o", "x.mp4"), 3, r"^causvid: in\.mp4")
    assert names(work) == {"in.mp4"}


def test_a_picture_of_60000_pixels_a_side_is_refused_unread(tiny, work):
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b"")]
    png = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    Path("in.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fails(run("i2v", "in.png", PROMPT, "-m", tiny, "-o", "x.mp4"), 3, "in.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_too_little_memory_ends_with_one_line(t2v, work):
    def limit() -> None:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)

    command = faults.start(*t2v, "--size", "4096x4096", folder=work, setup=limit)
    assert command.wait() == 5
    assert re.fullmatch(r"(x264 .*\n)?causvid: .*memory.*\n", command.said.read_text())  # x264 speaks for itself
    assert names(work) <= {"x.mp4.part", "x.mp4.journal"}
