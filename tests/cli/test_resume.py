"""A video that was broken off goes on, to the very frames that it would have had; a finished one is made again."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import PROMPT, after_chunks, decode, fails, makes, names, raise_, run
from PIL import Image
from safetensors.torch import load_file, save_file

from causvid_cli import pipeline
from causvid_cli.config import load_facts
from causvid_cli.job.journal import Journal
from causvid_cli.media.probe import read_info
from causvid_cli.models.packs import write_pack_manifest

pytestmark = pytest.mark.usefixtures("work")

Act = Callable[[], object]


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise_(RuntimeError("out of luck"))


@pytest.fixture
def broken_off(monkeypatch) -> Callable[..., None]:
    """Runs a command that is broken off after some chunks: three are in the file then."""

    def run_part(*arguments: object, act: Act = interrupt, chunks: int = 2) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "rollout", after_chunks(chunks, act))
            result = run(*arguments, "-q")
        assert result.exit_code == (130 if act is interrupt else 1), result.output

    return run_part


def t2v(pack: Path, *options: object, name: str = "x.mp4", seed: int | None = 7) -> list[object]:
    seeded = [] if seed is None else ["-s", seed]
    return ["t2v", PROMPT, "-m", pack, "--length", "3s", "-o", name, *seeded, *options]


def given(kind: str, pack: Path, name: str) -> list[object]:
    """A command of each kind; those that need a file make it."""
    if kind == "t2v":
        return t2v(pack, "--then", "1s: it jumps", name=name)
    if kind == "i2v":
        Image.fromarray(np.full((64, 96, 3), 200, np.uint8)).save("in.png")
        return ["i2v", "in.png", *t2v(pack, name=name)[1:]]
    if not Path("in.mp4").exists():
        makes("t2v", PROMPT, "-m", pack, "--length", "3s", "-o", "in.mp4", "-s", 3)
    if kind == "edit-script":
        Path("day.yaml").write_text(
            "version: 1\nvideo: in.mp4\ncues:\n  - prompt: a\n  - {at: 1s, prompt: a blue boat}\n"
        )
        return ["edit-script", "day.yaml", *t2v(pack, name=name)[2:]]
    return [kind, "in.mp4", *t2v(pack, name=name)[1:]]


# --- resume --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t2v", "i2v", "extend", "restyle", "edit-script"])
def test_a_resumed_video_is_the_unbroken_one(kind, tiny, broken_off):
    makes(*given(kind, tiny, "whole.mp4"))
    broken_off(*given(kind, tiny, "x.mp4"))
    left = names()
    assert {"x.mp4.part", "x.mp4.journal", "x.partial.mp4"} <= set(left)
    result = makes("resume", "x.mp4.part")
    assert result.stdout == "x.mp4\n"
    frames = 16 if kind == "i2v" else 12  # the photo's come first
    assert f"{frames} of them made before" in result.stderr
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert names() == sorted({*left, "x.mp4"} - {"x.mp4.part", "x.mp4.journal", "x.partial.mp4"})


WAYS_OF_KINDS = [(kind, way) for kind in ("t2v", "i2v", "extend") for way in ("repeat", "blend", "motion")]
BY_DEFAULT = [("t2v", "repeat"), ("i2v", "motion"), ("extend", "blend")]
"""Each kind once and each way once."""


@pytest.mark.parametrize(
    ("kind", "way"),
    [pytest.param(*each, marks=() if each in BY_DEFAULT else pytest.mark.slow) for each in WAYS_OF_KINDS],
)
def test_a_resumed_video_of_another_rate_is_the_unbroken_one(kind, way, tiny, broken_off):
    options = ["--fps", 25, "--interpolate", way, "--length", "6s"]
    makes(*given(kind, tiny, "whole.mp4"), *options)
    broken_off(*given(kind, tiny, "x.mp4"), *options, chunks=9)
    makes("resume", "x.mp4.part")
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert read_info(Path("x.mp4")).frames == 150 + (24 if kind == "extend" else 0)


@pytest.mark.parametrize("act", [interrupt, fail])
def test_a_video_that_is_made_ahead_is_the_same_and_is_resumed(act, tiny, broken_off, monkeypatch):
    makes(*given("t2v", tiny, "whole.mp4"))
    monkeypatch.setattr(pipeline.Pipeline, "benefits_from_prefetch", True)  # as on a GPU
    makes(*given("t2v", tiny, "ahead.mp4"))
    assert Path("ahead.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    broken_off(*given("t2v", tiny, "x.mp4"), act=act, chunks=4)
    made = read_info(Path("x.partial.mp4")).frames if act is interrupt else None
    result = makes("resume", "x.mp4.part")
    assert made is None or f"{made} of them made before" in result.stderr
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()


@pytest.mark.parametrize("name", ["x.webm", "x.gif", "x.mkv", "%02d.png"])
def test_every_format_is_resumed(name, tiny, broken_off):
    makes(*t2v(tiny, name="whole.mkv"))
    lossless = ["--lossless"] if name == "x.mkv" else []
    broken_off(*t2v(tiny, *lossless, name=name), act=fail)
    assert makes("resume", name).stdout == f"{name}\n"
    if name == "%02d.png":
        assert [path for path in names() if path.endswith(".png")] == [f"{number:02}.png" for number in range(1, 25)]
    else:
        assert len(decode(name)) == 24


@pytest.mark.parametrize("name", ["x.mp4.part", "x.mp4", "x.mp4.journal"])
def test_any_name_of_a_broken_off_video_resumes_it(name, tiny, broken_off):
    makes(*t2v(tiny, name="whole.mp4"))
    broken_off(*t2v(tiny), act=fail)
    assert names() == ["whole.mp4", "x.mp4.journal", "x.mp4.part"]
    told = json.loads(makes("resume", name, "--json").stdout)
    assert (told["frames"], told["resumed_frames"], told["output"]) == (24, 8, "x.mp4")
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def test_a_video_can_be_broken_off_again_and_again(tiny, broken_off):
    makes(*t2v(tiny, "--sidecar", name="whole.mp4"))
    broken_off(*t2v(tiny, "--sidecar"), chunks=0)
    for frames in (8, 12):
        broken_off("resume", "x.mp4", chunks=frames // 4 - 1)
        assert read_info(Path("x.mp4.part")).frames == frames
    makes("resume", "x.mp4")
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    hashes = [
        [chunk["latent_sha256"] for chunk in json.loads(Path(f"{name}.mp4.json").read_text())["chunks"]]
        for name in ("x", "whole")
    ]
    assert hashes[1][-len(hashes[0]) :] == hashes[0]


def test_a_part_that_is_gone_is_written_anew_from_the_journal(tiny, broken_off, monkeypatch):
    makes(*t2v(tiny, name="whole.mp4"))
    broken_off(*t2v(tiny), act=fail)
    Path("x.mp4.part").unlink()
    makes("resume", "x.mp4")
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def test_an_input_that_moved_is_asked_for(tiny, broken_off):
    makes(*given("extend", tiny, "whole.mp4"))
    broken_off(*given("extend", tiny, "x.mp4"))
    Path("in.mp4").rename("elsewhere.mp4")
    fails(run("resume", "x.mp4"), 3, "in.mp4: not there, the clip that x.mp4 began from; say where it lies by --input")
    shutil.copy("whole.mp4", "in.mp4")
    fails(run("resume", "x.mp4"), 3, "in.mp4: not the clip that x.mp4 began from; give that one by --input")
    makes("resume", "x.mp4", "--input", "elsewhere.mp4")
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def test_another_model_is_refused(tiny, tmp_path, broken_off):
    pack = tmp_path / "pack"
    shutil.copytree(tiny, pack)
    broken_off(*t2v(pack))
    weights = pack / "transformer/diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["proj_out.bias"] += 1
    save_file(state, weights)
    write_pack_manifest(pack, load_facts(pack))
    left = names()
    fails(run("resume", "x.mp4"), 4, r"x.mp4 was made by another version of tiny \(sha256 \w+\.\.\., here \w+\.\.\.\)")
    assert names() == left


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "x.mp4.journal: not a journal"), (b"no journal" * 99, "not a journal"), (b"cut", "x.mp4.journal: damaged")],
)
def test_a_journal_that_is_none_is_told(content, complaint, tiny, broken_off):
    broken_off(*t2v(tiny), act=fail)
    journal = Path("x.mp4.journal")
    journal.write_bytes(journal.read_bytes()[:40] if content == b"cut" else content)
    fails(run("resume", "x.mp4"), 3, complaint)
    fails(run(*t2v(tiny)), 3, complaint)
    makes(*t2v(tiny, "-y"))
    assert names() == ["x.mp4", "x.partial.mp4"] or names() == ["x.mp4"]


def test_where_nothing_is_to_be_resumed_that_is_said(tiny):
    fails(run("resume", "x.mp4.part"), 3, "x.mp4.journal: not there, so there is nothing to resume; make the video")
    fails(run("resume", "."), 3, "[.]: not a file; name the .part of a video")
    Path("text.png").write_text("no picture")
    fails(run("resume", "text.png"), 3, "text.png: is a picture, not a video")
    makes("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "4f")
    for name in ("x.mp4", "x.mp4.part"):
        result = makes("resume", name)
        assert (result.stdout, result.stderr) == ("", "causvid: x.mp4 is finished: nothing to resume\n")


# --- the same command again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [7, None])
def test_the_same_command_goes_on(seed, tiny, broken_off):
    broken_off(*t2v(tiny, seed=seed))
    partial = decode("x.partial.mp4")
    result = makes(*t2v(tiny, seed=seed))
    assert "causvid: going on with x.mp4.part, which has 12 frames\n" in result.stderr
    assert np.array_equal(decode("x.mp4")[:12], partial)
    assert names() == ["x.mp4"]
    if seed is not None:
        makes(*t2v(tiny, seed=seed, name="whole.mp4"))
        assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()


@pytest.mark.parametrize(
    "asked",
    [["--length", "3000ms"], ["--length", "0:03"], ["--length", "24f"], ["--guidance", "3"], ["--transition", "cut"]],
)
def test_the_same_video_asked_for_in_other_words_goes_on(asked, tiny, broken_off):
    broken_off(*t2v(tiny), act=fail)
    assert "causvid: going on with x.mp4.part, which has 8 frames\n" in makes(*t2v(tiny, *asked)).stderr


@pytest.mark.parametrize(
    "changes",
    [
        *(["-s", "8"], ["--steps", "3"], ["--length", "2s"], ["--then", "1s: it jumps"], ["--fps", "9"]),
        *(["--dtype", "bfloat16"], ["--negative", "snow"]),
    ],
)
def test_another_video_does_not_take_its_place_unasked(changes, tiny, broken_off):
    broken_off(*t2v(tiny), act=fail)
    left = {name: Path(name).read_bytes() for name in names()}
    result = run(*t2v(tiny, *changes))
    fails(result, 7, rf"x.mp4.part holds 8 frames of another video \('{PROMPT}'\); `causvid resume x.mp4.part` goes on")
    assert {name: Path(name).read_bytes() for name in names()} == left


def test_y_gives_a_broken_off_video_up_for_another(tiny, broken_off):
    broken_off(*t2v(tiny), act=fail)
    makes(*t2v(tiny, "-y", seed=8))
    assert names() == ["x.mp4"]
    assert read_info(Path("x.mp4")).recipe["seed"] == 8


# --- rerun ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t2v", "i2v", "extend", "restyle", "edit-script"])
def test_a_rerun_is_the_same_file(kind, tiny, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tiny.parent])
    makes(*given(kind, tiny, "x.mp4"))
    assert makes("rerun", "x.mp4").stdout == "x-rerun.mp4\n"
    assert Path("x-rerun.mp4").read_bytes() == Path("x.mp4").read_bytes()


def test_a_rerun_begins_from_the_sidecar_too(tiny, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tiny.parent])
    makes(*t2v(tiny, "--sidecar", "--no-metadata"))
    fails(run("rerun", "x.mp4"), 3, "x.mp4: holds no recipe: causvid did not make it, or its metadata was removed")
    assert makes("rerun", "x.mp4.json").stdout == "x-rerun.mp4\n"
    assert np.array_equal(decode("x-rerun.mp4"), decode("x.mp4"))
    assert len(makes("rerun", "x.mp4.json", "-o", "-").stdout_bytes) > 10_000


def test_a_rerun_looks_for_its_input_beside_the_video(tiny, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tiny.parent])
    Path("below").mkdir()
    makes(*given("i2v", tiny, "below/x.mp4"))
    missing = "below/in.png: not there, the photo that below/x.mp4 began from; say where it lies by --input"
    fails(run("rerun", "below/x.mp4"), 3, missing)
    makes("rerun", "below/x.mp4", "--input", "in.png", "-o", "a.mp4")
    Path("in.png").rename("below/in.png")
    makes("rerun", "below/x.mp4", "-o", "b.mp4")
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes() == Path("below/x.mp4").read_bytes()


def test_a_rerun_of_a_video_without_end_ends_where_that_ended(tiny, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tiny.parent])
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "rollout", after_chunks(2, interrupt))
        makes("t2v", PROMPT, "-m", tiny, "--length", "inf", "-o", "x.mp4", "--sidecar")
    for name in ("x.mp4", "x.mp4.json"):
        makes("rerun", name, "-o", "again.mp4", "-y")
        assert np.array_equal(decode("again.mp4"), decode("x.mp4"))


def test_a_rerun_of_what_was_stopped_is_the_whole_video(tiny, broken_off, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tiny.parent])
    makes(*t2v(tiny, name="whole.mp4"))
    broken_off(*t2v(tiny))
    makes("rerun", "x.partial.mp4", "-o", "again.mp4")
    assert Path("again.mp4").read_bytes() == Path("whole.mp4").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "code", "complaint"),
    [
        ("x.json", b"{", 3, "x.json: not JSON"),
        ("x.json", b"{}", 3, "x.json: holds no recipe"),
        ("x.json", b"[]", 3, r"x.json: must hold a JSON object, not \[\]"),
        ("x.json", b'{"recipe": {"v": 99}}', 3, "x.json: its recipe was made by a newer causvid"),
        ("x.json", b'{"recipe": {"v": 1, "seed": 7}}', 3, "x.json: its recipe: "),
        ("x.json", b"\xff\xfe", 3, "x.json: not UTF-8 text"),
        ("x.json", b'{"recipe": {"seed": NaN}}', 3, "x.json: not JSON: NaN is no number"),
        ("x.json", b'{"recipe": {"seed": 1e400}}', 3, "x.json: not JSON: 1e400 is too large a number"),
        ("x.json", b'{"recipe": {"a": 1, "a": 2}}', 3, "x.json: not JSON: the key 'a' stands there twice"),
        ("x.json", b'{"a":' * 100_000, 3, "x.json: brackets nested deeper than 32 levels"),
        ("x.json", None, 3, "x.json: cannot be read: no such file"),
        ("x.mp4", None, 3, "x.mp4: does not exist"),
        ("x.mp4", b"no video", 3, "x.mp4: cannot be read as a video"),
    ],
)
def test_what_holds_no_recipe_is_told(name, content, code, complaint):
    if content is not None:
        Path(name).write_bytes(content)
    fails(run("rerun", name), code, complaint)
    assert names() == ([] if content is None else [name])


# --- what a stranger's files may do --------------------------------------------------------------------------------


@pytest.fixture
def foreign(tiny, broken_off, monkeypatch, tmp_path) -> Callable[..., None]:
    """Breaks a video off; then another user, who has another key, has the files. Their journal may be changed."""

    def make(kind: str = "t2v", *options: object, change: Callable[[dict], object] = lambda request: None) -> None:
        broken_off(*given(kind, tiny, "x.mp4"), *options)
        Path("x.partial.mp4").unlink()
        journal = Journal.open(Path("x.mp4.journal"))
        request = json.loads(json.dumps(journal.request))
        chunks = [(journal.latents(index), journal.mark_of(index)) for index in range(journal.chunks)]
        journal.close()
        change(request)
        journal = Journal.create(Path("x.mp4.journal"), request)
        for chunk in chunks:
            journal.append(*chunk)
        journal.close()
        monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path / "another user"))

    return make


def test_a_foreign_journal_overwrites_nothing_unasked(tiny, foreign, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tiny.parent])
    foreign("t2v", "-y")
    Path("x.mp4").write_bytes(b"my own")
    result = run("resume", "x.mp4.part")
    assert result.exit_code == 7, result.output
    told, complaint = result.stderr.splitlines()
    assert told == (
        "causvid: x.mp4.journal was not written by you on this machine: a video of 24 frames by tiny, into x.mp4"
    )
    assert "x.mp4 exists" in complaint and "-y" in complaint
    assert Path("x.mp4").read_bytes() == b"my own"
    makes("resume", "x.mp4.part", "-y")
    assert read_info(Path("x.mp4")).frames == 24


def test_a_foreign_journal_loads_no_model_from_a_path(tiny, foreign):
    foreign()
    left = names()
    result = run("resume", "x.mp4")
    assert result.exit_code == 4, result.output
    assert result.stderr.endswith(
        "causvid: x.mp4 was made by tiny, which is not installed; say where it lies by --model\n"
    )
    assert names() == left
    makes("resume", "x.mp4", "--model", tiny)


@pytest.mark.parametrize("kind", ["i2v", "extend"])
def test_a_foreign_journal_finds_its_input_beside_it(kind, tiny, foreign):
    elsewhere = lambda request: request["local"].update(input="/dev/zero", loras=["/dev/zero"])  # noqa: E731
    foreign(kind, change=elsewhere)
    makes("resume", "x.mp4", "-m", tiny)


def test_a_changed_journal_is_not_ones_own(tiny, foreign, monkeypatch):
    key = os.environ["CAUSVID_CACHE"]
    foreign(change=lambda request: request["local"].update(overwrite=True))
    monkeypatch.setenv("CAUSVID_CACHE", key)
    assert run("resume", "x.mp4").exit_code == 4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"input": {"name": "/dev/zero"}}, r"input.*name '/dev/zero': must be the name of a file, without a folder"),
        ({"input": {"name": "../in.png"}}, "must be the name of a file, without a folder"),
        ({"model": {"name": "../tiny"}}, r"model.name '\.\./tiny': letters, digits"),
        ({"model": {"name": "a$(touch X)"}}, "model.name .*: letters, digits"),
        ({"loading": {"loras": [{"name": "/dev/zero", "sha256": "0"}]}}, "loras.name '/dev/zero': must be the name"),
        (
            {"loading": {"loras": [{"name": "a", "sha256": "0", "weight": -99}]}},
            "loras.weight -99.0: must be -10 to 10",
        ),
        ({"fps": "0"}, "fps '0': must be more than 0 and at most 10000"),
        ({"fps": "-8"}, "fps '-8': must be more than 0"),
        ({"fps": "nan"}, "fps 'nan': must be more than 0"),
        ({"fps": "1/0"}, "fps '1/0': must be more than 0"),
        ({"fps": "1e999999999"}, "fps '1e999999999': must be more than 0"),
        ({"model_fps": "0/1"}, "fps '0/1': must be more than 0"),
        ({"size": "0x0"}, "size 0x0: each side must be 1 or more"),
        ({"cells": "64x"}, "cells '64x' is not a size"),
        ({"frames": -1}, "frames -1: must be 1 to "),
        ({"seed": -1}, "seed -1: must be 0 to"),
        ({"steps": 0}, "steps 0: must be 1 to 1000"),
        ({"guidance": -1.0}, "guidance -1: must be 1 to 20"),
        ({"device": "rm -rf"}, "device rm -rf: unknown; try auto"),
        ({"command": "rm"}, "command 'rm': unknown; known: t2v"),
    ],
)
def test_a_recipe_of_no_sense_is_refused_in_one_line(change, complaint, tiny):
    makes(*given("i2v", tiny, "x.mp4"), "--sidecar")
    told = json.loads(Path("x.mp4.json").read_text())
    for name, value in change.items():
        told["recipe"][name] = told["recipe"][name] | value if isinstance(value, dict) else value
    Path("bad.json").write_text(json.dumps(told))
    fails(run("rerun", "bad.json", "-m", tiny), 3, f"bad.json: its recipe: .*{complaint}")


def test_an_input_that_never_ends_is_not_read(tiny):
    makes(*given("i2v", tiny, "x.mp4"))
    Path("in.png").unlink()
    Path("in.png").symlink_to("/dev/zero")
    fails(run("rerun", "x.mp4", "-m", tiny), 3, "in.png: not there, the photo that x.mp4 began from")
    Path("in.png").unlink()
    os.mkfifo("in.png")
    fails(run("rerun", "x.mp4", "-m", tiny), 3, "in.png: not there, the photo that x.mp4 began from")


def test_a_folder_of_the_models_name_is_not_the_model(tiny):
    makes(*t2v(tiny))
    shutil.copytree(tiny, "tiny")
    fails(run("rerun", "x.mp4"), 4, "x.mp4 was made by tiny, which is not installed; say where it lies by --model")
    makes("rerun", "x.mp4", "-m", "./tiny")


@pytest.mark.parametrize("command", ["resume", "rerun"])
def test_a_name_longer_than_the_system_allows_is_told(command):
    fails(
        run(command, "x" * 300 + ".mp4"),
        3,
        "not there, so there is nothing to resume|cannot be read: file name too long",
    )
