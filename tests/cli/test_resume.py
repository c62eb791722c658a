"""A video that was broken off goes on, to the very frames that it would have had; a finished one is made again."""

import json
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


@pytest.mark.parametrize("way", ["repeat", "blend", "motion"])
@pytest.mark.parametrize("kind", ["t2v", "i2v", "extend"])
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
    "changes", [["-s", "8"], ["--steps", "3"], ["--length", "2s"], ["--then", "1s: it jumps"], ["--fps", "9"]]
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
        ("x.json", b"[]", 3, "x.json: holds no recipe"),
        ("x.json", b'{"recipe": {"v": 99}}', 3, "x.json: its recipe was made by a newer causvid"),
        ("x.json", b'{"recipe": {"v": 1, "seed": 7}}', 3, "x.json: its recipe: "),
        ("x.json", b"\xff\xfe", 3, "x.json: not JSON"),
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
