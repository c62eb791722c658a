"""t2v as a user meets it: what it writes and says. What it has in common with other commands is tested by it."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import PROMPT, after_chunks, decode, fails, makes, names, notes, run, said
from PIL import Image, ImageSequence
from tiny import tiny_pack

from causvid_cli import __version__, pipeline, video
from causvid_cli.cli.task import slug
from causvid_cli.config import load_facts
from causvid_cli.job.journal import Journal
from causvid_cli.media.probe import read_info
from causvid_cli.models import packs

pytestmark = pytest.mark.usefixtures("work")


def frames_of(pack: Path, *, length: str) -> np.ndarray:
    """What the model makes of PROMPT with seed 7."""
    stream = pipeline.load(pack, device="cpu").stream(PROMPT, length=length, seed=7)
    return np.concatenate([chunk.frames for chunk in stream])


def test_t2v_writes_the_frames_it_planned_and_prints_the_path(tiny):
    result = run("t2v", PROMPT, "-m", tiny, "-o", "car.mp4", "-s", 7, "--length", "2.3s")
    assert (result.exit_code, result.stdout) == (0, "car.mp4\n")
    pattern = (
        r"causvid: read as: red car, moves left, snow\n"
        r"causvid: 18 frames, 128x128, 2\.2 s at 8 fps, seed 7: "
        r"first frame after \d+\.\d\d s, [\d.e+]+ frames per second\n"
    )
    assert re.fullmatch(pattern, result.stderr), result.stderr
    assert [path.name for path in Path().iterdir()] == ["car.mp4"]
    assert decode(Path("car.mp4")).shape == (18, 128, 128, 3)


def test_a_video_carries_its_recipe(tiny):
    run("t2v", f"  {PROMPT}\n", "-m", tiny, "-o", "car.mp4", "-s", 7, "--length", "2s", "--steps", 3, "--fps", "12.5")
    info = json.loads(run("info", "car.mp4", "--json").stdout)
    recipe = info["recipe"]
    versions = recipe.pop("versions")
    assert recipe == {
        "v": 1,
        "command": "t2v",
        "prompt": PROMPT,
        "cues": [{"prompt": PROMPT, "name": PROMPT}],
        "model": {"name": "tiny", "sha256": packs.pack_digest(load_facts(tiny))},
        "input": None,
        "audio": None,
        "length": "2s",
        "frames": 25,
        "fps": "25/2",
        "model_fps": "8",
        "interpolate": "repeat",
        "size": "128x128",
        "cells": "64x64",
        "seed": 7,
        "steps": 3,
        "rope": None,
        "guidance": 1.5,
        "device": "cpu",
        "dtype": "float32",
        "loading": {},
        "lossless": False,
    }
    assert (versions["causvid"], versions["torch"]) == (__version__, torch.__version__)
    assert (info["frames"], info["fps"], info["duration_s"]) == (25, 12.5, 2.0)
    assert str(tiny.parent) not in json.dumps(recipe)


def test_json_is_one_object_of_documented_keys(tiny):
    result = run("t2v", "a blarfly car", "-m", tiny, "--json", "-s", 7, "--length", "1s")
    assert result.stdout.count("\n") == 1
    made = json.loads(result.stdout)
    assert {key: type(value) for key, value in made.items()} == {
        "v": int,
        "output": str,
        "frames": int,
        "fps": float,
        "size": str,
        "seed": int,
        "model": str,
        "vae": str,
        "resumed_frames": int,
        "first_frame_s": float,
        "generate_s": float,
        "frames_per_s": float,
        "warm_up_s": float,
        "import_s": float,
        "load_s": float,
        "total_s": float,
        "peak_memory_bytes": int,
        "read_as": list,
        "notes": list,
    }
    assert (made["v"], made["frames"], made["seed"], made["model"]) == (1, 8, 7, "tiny")
    assert made["output"] == "causvid-a-blarfly-car-7.mp4"
    assert Path(made["output"]).exists()
    assert 0 < made["first_frame_s"] <= made["generate_s"] <= made["total_s"]
    assert made["frames_per_s"] == pytest.approx(8 / made["generate_s"], rel=0.01)
    [note] = made["notes"]
    assert note == "'blarfly' is not a word that this model knows"
    assert result.stderr.count(note) == 1


def test_what_was_read_is_said_in_one_line_and_in_json(tiny):
    arguments = ["t2v", "a red car drives left", "--then", "0.5s: it jumps in the snow", "-m", tiny, "--length", "1s"]
    read_as = ["red car, drives left, street", "red car, jumps, snow"]
    result = makes(*arguments, "--json", "--sidecar", "-o", "x.mp4")
    assert f"causvid: read as: {'; then: '.join(read_as)}\n" in result.stderr
    assert json.loads(result.stdout)["read_as"] == read_as
    assert json.loads(Path("x.mp4.json").read_text())["read_as"] == read_as
    start, *_, done = map(json.loads, makes(*arguments, "--json-lines", "-q", "-o", "y.mp4").stdout.splitlines())
    assert start["read_as"] == done["read_as"] == read_as


def test_a_note_names_the_prompt_that_it_is_about(tiny):
    then = ["--then", "0.5s: he jupms", "--then", "1s: a volcano jupms"]
    result = makes("t2v", "a man walks", *then, "-m", tiny, "--length", "2s", "--json")
    first, second, *_ = json.loads(result.stdout)["notes"]
    assert first == "'he jupms': 'jupms' is read as 'jumps'"
    assert second == "'a volcano jupms': this model cannot show 'volcano'"


def test_actions_that_follow_each_other_become_cues(tiny):
    prompt = "a red car drives left, then jumps and then spins, in the snow"
    result = makes("t2v", prompt, "-m", tiny, "--length", "2s", "--json-lines", "-o", "x.mp4")
    start = json.loads(result.stdout.splitlines()[0])
    assert start["read_as"] == ["red car, drives left, snow", "red car, jumps, snow", "red car, spins, snow"]
    assert [cue["start_chunk"] for cue in start["cues"]] == [0, 1, 2]
    assert start["notes"] == []
    short = makes("t2v", prompt, "-m", tiny, "--length", "2f", "--json", "-o", "y.mp4")
    assert json.loads(short.stdout)["notes"] == ["'jumps', 'spins' found no place in the story"]
    again = makes("rerun", "x.mp4", "--model", tiny, "--json", "-o", "z.mp4")
    assert json.loads(again.stdout)["read_as"] == start["read_as"]


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        (["the blarfly of a zog"], "the blarfly of a zog"),
        ([PROMPT, "--then", "1s: blarfly"], "blarfly"),
        (["..."], "..."),
    ],
)
def test_strict_refuses_a_prompt_of_which_nothing_is_understood(arguments, prompt, tiny):
    Path("x.mp4").write_bytes(b"another")
    for more in ([], ["--dry-run"]):
        result = run("t2v", *arguments, "-m", tiny, "-y", "-o", "x.mp4", "--strict", *more)
        fails(result, 2, re.escape(f"--strict: nothing of {prompt!r} was understood"))
    assert names() == ["x.mp4"]
    assert Path("x.mp4").read_bytes() == b"another"
    makes("t2v", *arguments, "-m", tiny, "-y", "-o", "x.mp4", "--length", "2s")


def test_strict_is_content_with_one_word(tiny):
    makes("t2v", "a blarfly car", "-m", tiny, "--strict", "--length", "1s")
    makes("t2v", "only the sea", "-m", tiny, "--strict", "--length", "1s")


def test_quiet_says_nothing_but_the_result(tiny):
    result = run("t2v", "a blarfly car", "-m", tiny, "-q", "-o", "x.mp4", "--length", "1s")
    assert (result.stdout, result.stderr) == ("x.mp4\n", "")


def test_a_seed_makes_the_same_frames_and_another_makes_others(tiny):
    frames = {}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert run("t2v", PROMPT, "-m", tiny, "-o", f"{name}.mp4", "-s", seed, "--length", "2s").exit_code == 0
        frames[name] = decode(Path(f"{name}.mp4"))
    assert np.array_equal(frames["a"], frames["b"])
    assert not np.array_equal(frames["a"], frames["c"])


def test_one_thread_and_two_make_the_same_frames(tiny, monkeypatch):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            makes("t2v", PROMPT, "-m", tiny, "-o", f"{threads}.mkv", "--lossless", "-s", 7, "--threads", threads)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(decode("1.mkv"), decode("2.mkv"))


def test_the_first_2_s_of_a_4_s_video_are_the_2_s_video(tiny):
    loaded = pipeline.load(tiny, device="cpu")
    short = list(loaded.stream(PROMPT, length="2s", seed=7))
    long = list(loaded.stream(PROMPT, length="4s", seed=7))
    assert sum(len(chunk.frames) for chunk in long) == 32
    for a, b in zip(short, long, strict=False):
        assert torch.equal(a.latent, b.latent)
        assert np.array_equal(a.frames, b.frames)


def test_a_seed_that_is_not_given_is_random_and_reported(tiny):
    seeds = [json.loads(run("t2v", PROMPT, "-m", tiny, "--json", "--length", "4f").stdout)["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert all(Path(f"causvid-a-red-car-moves-left-in-the-snow-{seed}.mp4").exists() for seed in seeds)


def test_size_and_rate_are_those_asked_for(tiny):
    run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--size", "192x192", "--fps", "30000/1001", "--length", "1s")
    info = read_info(Path("x.mp4"))
    assert (info.width, info.height, str(info.fps), info.frames) == (192, 192, "30000/1001", 30)


def test_time_stays_true_at_any_rate_unless_it_is_not_to(tiny):
    def shown(*options: object) -> np.ndarray:
        makes("t2v", PROMPT, "-m", tiny, "-s", 1, "-o", "x.mkv", "-y", "--lossless", "--length", "2s", *options)
        return decode("x.mkv")

    own, repeated = shown(), shown("--fps", 20)
    assert len(own) == 16
    assert np.array_equal(repeated, own[np.arange(40) * 8 // 20])
    blended = shown("--fps", 20, "--interpolate", "blend")
    assert len(blended) == 40
    assert np.array_equal(blended[::5], own[::2])
    assert not np.array_equal(blended, repeated)
    faster = shown("--fps", 20, "--interpolate", "none")
    assert len(faster) == 40
    assert np.array_equal(faster[:16], own)


def test_a_change_of_rate_is_said_in_one_line(tiny):
    def told(*options: object) -> list[str]:
        return notes(makes("t2v", PROMPT, "-m", tiny, "-s", 1, "-o", "x.mp4", "-y", "--length", "4f", *options))

    rates = "tiny makes 8 frames per second and the video has"
    more = "(--interpolate blend or motion draws some between)"
    assert told() == told("--fps", 8) == told("--fps", 25, "--interpolate", "none") == []
    assert told("--fps", 25) == [f"{rates} 25: frames are repeated {more}"]
    assert told("--fps", 5) == [f"{rates} 5: frames are left out {more}"]
    assert told("--fps", 25, "--interpolate", "motion") == [f"{rates} 25: frames are drawn between, by motion"]


def test_a_prompt_holds_from_its_time_at_any_rate(tiny):
    makes("t2v", PROMPT, "-m", tiny, "--then", "2s: it jumps", "-o", "x.mp4", "--length", "4s", "--fps", 25)
    info = read_info(Path("x.mp4"))
    assert (info.frames, info.fps) == (100, 25)
    assert [chapter.start_frame for chapter in info.chapters] == [0, 50]
    assert info.recipe["cues"][1]["start_chunk"] == 4
    told = json.loads(run("t2v", PROMPT, "-m", tiny, "--dry-run", "--json", "--length", "4s", "--fps", 25).stdout)
    assert (told["frames"], told["chunks"]) == (100, 8)


@pytest.mark.parametrize("arguments", [[], ["-"], ["@prompt.txt"]])
def test_a_prompt_comes_from_stdin_or_a_file(arguments, tiny):
    text = f"\ufeff{PROMPT} – ünïcode\r\n".encode()
    Path("prompt.txt").write_bytes(text)
    result = run("t2v", *arguments, "-m", tiny, "-o", "x.mp4", "--length", "4f", input=text)
    assert result.exit_code == 0, result.output
    assert read_info(Path("x.mp4")).recipe["prompt"] == f"{PROMPT} – ünïcode"


@pytest.mark.parametrize(
    ("text", "complaint"), [(b"", "is empty"), (b"\xff\xfe", "in stdin is not UTF-8"), (b"a" * 10**6, "is too long")]
)
def test_a_prompt_from_stdin_is_checked(text, complaint):
    fails(run("t2v", input=text), 2, complaint)


@pytest.mark.parametrize(("argument", "name"), [("-", "stdin"), ("@prompts.txt", "prompts.txt")])
def test_a_prompt_of_several_lines_is_one_prompt_and_that_is_said(argument, name, tiny):
    for count in (74, 1):
        text = f"\n{PROMPT}\n" * count
        Path("prompts.txt").write_text(text)
        result = run("t2v", argument, "-m", tiny, "--dry-run", input=text)
        assert result.exit_code == 0, result.output
        said = f"{name}: its 74 lines are one prompt; prompts over time are for causvid edit-script"
        assert (said in " ".join(result.stderr.split())) == (count == 74)


def test_no_prompt_at_a_terminal_is_an_error_and_no_wait(monkeypatch):
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: True)
    fails(run("t2v"), 2, 'no prompt; say what to show, such as causvid t2v "a red car')


@pytest.mark.parametrize(
    "arguments",
    [["t2v", "@https://example.org/prompt.txt"], ["edit-script", "https://example.org/day.causvid.yaml"]],
)
def test_an_address_is_called_one(arguments, tiny):
    fails(run(*arguments, "-m", tiny), 2, "is an address, and only files are read; download it first")


def test_one_frame_is_one_frame(tiny):
    assert "causvid: 1 frame, 128x128" in makes("t2v", PROMPT, "-m", tiny, "--length", "1f").stderr


@pytest.mark.parametrize(
    "name", ["-x.mp4", "file:x.mp4", "a b\n$(c).mp4", "白鳥.mp4", os.fsdecode(b"\xff.mp4"), "x.MP4"]
)
def test_any_name_is_a_plain_name(name, tiny):
    result = run("t2v", PROMPT, "-m", tiny, "--json", "-o", name, "--length", "4f")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["output"] == name
    assert [path.name for path in Path().iterdir()] == [name]
    assert run("info", "--json", "--", name).exit_code == 0


def test_overwrite_replaces_the_output(tiny):
    Path("x.mp4").write_bytes(b"mine")
    assert run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "-y", "--length", "4f").exit_code == 0
    assert read_info(Path("x.mp4")).frames == 4


def test_a_name_taken_meanwhile_is_kept(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(9, lambda: Path("x.mp4").write_bytes(b"mine") and None))
    result = run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "-q")
    fails(
        result,
        7,
        "taken meanwhile; .* 40 frames .* kept in x.mp4.part; `causvid resume x.mp4.part` goes on\n$",
    )
    assert Path("x.mp4").read_bytes() == b"mine"


def test_too_little_disk_is_found_before_the_model_loads(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr(video.formats.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**7))
    fails(run("t2v", PROMPT, "-m", tiny, "--length", "24h"), 7, "needs .* MB.* has 10.* MB free")


@pytest.mark.parametrize(
    ("prompt", "part"),
    [(PROMPT, "a-red-car-moves-left-in-the-snow"), ("Ein Bär, 2 Vögel!", "ein-bar-2-vogel"), ("白鳥", "video")]
    + [("../../etc/passwd", "etc-passwd"), ("a " * 100, "-".join("a" * 20))],
)
def test_a_prompt_becomes_a_tame_file_name(prompt, part):
    assert slug(prompt) == part


# --- -o ------------------------------------------------------------------------------------------------------------


def test_a_name_has_fields_and_count_makes_several(tiny):
    name = "{{{slug}}}-{model}-{seed:04}-{n:02}.mp4"
    result = makes("t2v", PROMPT, "-m", tiny, "-s", 9, "--count", 2, "--length", "4f", "-o", name)
    one, two = (f"{{a-red-car-moves-left-in-the-snow}}-tiny-{end}.mp4" for end in ("0009-01", "0010-02"))
    assert result.stdout.splitlines() == [one, two]
    assert [read_info(Path(name)).recipe["seed"] for name in (one, two)] == [9, 10]
    makes("t2v", PROMPT, "-m", tiny, "-s", 10, "--length", "4f", "-o", "alone.mp4")
    assert np.array_equal(decode("alone.mp4"), decode(two))


def test_skip_existing_makes_what_is_not_there(tiny, monkeypatch):
    Path("1.mp4").write_bytes(b"mine")
    arguments = ["t2v", PROMPT, "-m", tiny, "-s", 9, "--length", "4f", "--skip-existing"]
    result = makes(*arguments, "--count", 2, "-o", "{n}.mp4")
    assert result.stdout == "2.mp4\n"
    assert notes(result) == ["1.mp4 exists: nothing to do"]
    assert Path("1.mp4").read_bytes() == b"mine"
    Path("0001.png").touch()
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    for name, there in (("2.mp4", "2.mp4"), ("%04d.png", "0001.png")):
        result = makes(*arguments, "-o", name)
        assert (result.stdout, result.stderr) == ("", f"causvid: {there} exists: nothing to do\n")


@pytest.mark.parametrize(
    ("name", "lossless"),
    [("x.mkv", False), ("x.webm", False), ("x.gif", False), ("x.webp", False), ("x.mkv", True), ("x.webp", True)],
)
def test_the_name_says_the_format(name, lossless, tiny):
    options = ["--lossless"] if lossless else []
    result = makes("t2v", PROMPT, "-m", tiny, "-o", name, "-s", 7, "--length", "1s", *options)
    assert result.stdout == f"{name}\n"
    assert names() == [name]
    if name.endswith(".webp"):
        with Image.open(name) as picture:
            shown = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])
    else:
        shown = decode(name)
    wanted = frames_of(tiny, length="1s")
    assert shown.shape == wanted.shape
    if lossless:
        assert np.array_equal(shown, wanted)


def test_numbered_pictures_are_exact(tiny):
    Path("frames").mkdir()
    result = makes("t2v", PROMPT, "-m", tiny, "-o", "frames/%03d.png", "-s", 7, "--length", "6f")
    assert result.stdout == "frames/%03d.png\n"
    made = sorted(Path("frames").iterdir())
    assert [path.name for path in made] == [f"{number:03}.png" for number in range(1, 7)]
    wanted = frames_of(tiny, length="6f")
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in made]), wanted)
    fails(run("t2v", PROMPT, "-m", tiny, "-o", "frames/%03d.png"), 7, "frames/001.png exists; -y overwrites it")


@pytest.mark.parametrize("format", [None, "mp4", "mkv", "nut", "rawvideo", "yuv4mpeg"])
def test_stdout_gets_the_video_and_nothing_else(format, tiny):
    options = [] if format is None else ["--format", format]
    result = makes("t2v", PROMPT, "-m", tiny, "-o", "-", "-s", 7, "--length", "2s", *options)
    assert len(said(result).splitlines()) == 1
    sent = result.stdout_bytes
    if format == "rawvideo":
        shown = np.frombuffer(sent, np.uint8).reshape(-1, 128, 128, 3)
        assert np.array_equal(shown, frames_of(tiny, length="2s"))
    else:
        Path("sent").write_bytes(sent)
        assert decode("sent").shape == (16, 128, 128, 3)
    assert names() == [] if format == "rawvideo" else ["sent"]


def test_a_terminal_gets_no_video(tiny, monkeypatch):
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: True)
    fails(run("t2v", PROMPT, "-m", tiny, "-o", "-"), 2, r"stdout is a terminal, .*\.\.\. -o - \| mpv -")


# --- what else is written ------------------------------------------------------------------------------------------


def test_no_metadata_leaves_no_word_of_the_prompt(tiny):
    makes("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "4f", "--no-metadata")
    assert read_info(Path("x.mp4")).recipe is None
    assert b"red car" not in Path("x.mp4").read_bytes()


def test_a_sidecar_tells_each_chunk_by_its_hash(tiny):
    for name in ("a", "b"):
        makes("t2v", PROMPT, "-m", tiny, "-o", f"{name}.mp4", "-s", 7, "--length", "10f", "--sidecar")
    told = json.loads(Path("a.mp4.json").read_text())
    assert {key: type(value) for key, value in told.items()} == {
        "v": int,
        "output": str,
        "recipe": dict,
        "first_frame_s": float,
        "generate_s": float,
        "resumed_frames": int,
        "read_as": list,
        "chunks": list,
    }
    assert told["recipe"] == read_info(Path("a.mp4")).recipe
    assert [(chunk["chunk"], chunk["start_frame"], chunk["frames"]) for chunk in told["chunks"]] == [
        (0, 0, 4),
        (1, 4, 4),
        (2, 8, 2),
    ]
    hashes = [chunk["latent_sha256"] for chunk in told["chunks"]]
    assert len(set(hashes)) == 3
    assert [chunk["latent_sha256"] for chunk in json.loads(Path("b.mp4.json").read_text())["chunks"]] == hashes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prediction", ["flow", "x0"])
def test_a_sidecars_hashes_are_of_the_latents_bytes_in_every_number_format(tmp_path, prediction, dtype):
    pack = tiny_pack(tmp_path / prediction, prediction=prediction)
    makes("t2v", PROMPT, "-m", pack, "-o", "x.mp4", "-s", 7, "--length", "8f", "--sidecar", "--dtype", dtype)
    stream = pipeline.load(pack, device="cpu", dtype=dtype).stream(PROMPT, length="8f", seed=7)
    latents = [chunk.latent.contiguous().view(torch.uint8).numpy().tobytes() for chunk in stream]
    told = json.loads(Path("x.mp4.json").read_text())["chunks"]
    assert [chunk["latent_sha256"] for chunk in told] == [hashlib.sha256(latent).hexdigest() for latent in latents]


def test_keep_latents_keeps_them_and_they_are_no_broken_off_video(tiny):
    arguments = ["t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "8f", "--keep-latents"]
    makes(*arguments)
    assert names() == ["x.mp4", "x.mp4.journal"]
    seed = read_info(Path("x.mp4")).recipe["seed"]
    journal = Journal.open(Path("x.mp4.journal"))
    for chunk in pipeline.load(tiny, device="cpu").stream(PROMPT, length="8f", seed=seed):
        assert torch.equal(journal.latents(chunk.index), chunk.latent)
    journal.close()
    result = makes("resume", "x.mp4")
    assert (result.stdout, result.stderr) == ("", "causvid: x.mp4 is finished: nothing to resume\n")
    again = makes(*arguments, "-y")
    assert "going on" not in again.stderr
    assert read_info(Path("x.mp4")).recipe["seed"] != seed


def test_json_lines_tell_every_chunk(tiny):
    result = makes("t2v", PROMPT, "-m", tiny, "-s", 7, "--then", "1s: it jumps", "--length", "10f", "--json-lines")
    start, *chunks, done = map(json.loads, result.stdout.splitlines())
    name = "causvid-a-red-car-moves-left-in-the-snow-7.mp4"
    assert start == {
        "v": 1,
        "event": "start",
        "output": name,
        "frames": 10,
        "fps": 8.0,
        "size": "128x128",
        "seed": 7,
        "model": "tiny",
        "cues": [{"start_chunk": 0, "prompt": PROMPT}, {"start_chunk": 2, "prompt": "it jumps"}],
        "read_as": ["red car, moves left, snow", "red car, jumps, snow"],
        "notes": start["notes"],
    }
    assert [(each["event"], each["chunk"], each["start_frame"], each["frames"], each["cue"]) for each in chunks] == [
        ("chunk", 0, 0, 4, 0),
        ("chunk", 1, 4, 8, 0),
        ("chunk", 2, 8, 10, 1),
    ]
    assert set(chunks[0]) == {
        *("v", "event", "chunk", "start_frame", "frames", "cue", "seconds", "frames_per_s", "eta_s")
    }
    assert chunks[-1]["eta_s"] == 0
    as_json = json.loads(makes("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "4f", "--json").stdout)
    assert set(done) == {*as_json, "event"}
    assert (done["event"], done["frames"], done["output"]) == ("done", 10, name)


# --- prompts over time ---------------------------------------------------------------------------------------------


def test_then_changes_what_comes_after_and_nothing_before(tiny):
    arguments = ["t2v", PROMPT, "-m", tiny, "--lossless", "-s", 7, "--length", "2s"]
    makes(*arguments, "-o", "plain.mkv")
    result = makes(*arguments, "-o", "then.mkv", "--then", "1s: a blue boat")
    plain, then = decode("plain.mkv"), decode("then.mkv")
    assert np.array_equal(plain[:8], then[:8])
    assert not np.array_equal(plain[8:], then[8:])
    assert [(chapter.start_frame, chapter.title) for chapter in read_info(Path("then.mkv")).chapters] == [
        (0, PROMPT),
        (8, "a blue boat"),
    ]
    assert notes(result) == []


def test_only_a_cue_that_moved_is_told_unless_v_asks_for_all(tiny):
    arguments = ["t2v", PROMPT, "-m", tiny, "--then", "1s: it jumps", "--then", "1.6s: it stops", "--length", "2s"]
    moved = "cue 3 asked 1.600s -> chunk 3, frame 12, 1.500s (-0.100s)"
    assert notes(makes(*arguments, "-o", "a.mp4")) == [moved]
    told = notes(makes(*arguments, "-o", "b.mp4", "-v"))
    assert [line.partition(" asked")[0] for line in told[:4]] == ["cue 1", "cue 2", "cue 3", "length"]
    assert makes(*arguments, "-o", "c.mp4", "-q").stderr == ""


def test_a_cue_beyond_the_end_is_told(tiny):
    result = makes("t2v", PROMPT, "-m", tiny, "--then", "5s: it jumps", "--length", "2s", "-o", "x.mp4")
    [warning] = notes(result)
    assert "begins at 5s, and the video ends at 2.000s; left out" in warning
    assert len(read_info(Path("x.mp4")).recipe["cues"]) == 1


def test_a_then_that_is_none_is_shown(tiny):
    for then, complaint in (
        ("it jumps", 'must be a time, a colon and a prompt; try "5s: the car jumps"'),
        ("0.1s: it jumps", "falls on chunk 0 like cue 1"),
        ("4s:", "prompt"),
    ):
        result = run("t2v", PROMPT, "-m", tiny, "--then", then, "--length", "8s")
        assert (result.exit_code, result.stdout) == (2, "")
        assert complaint in result.stderr.splitlines()[0]
        assert result.stderr.splitlines()[-1] == "causvid: 1 mistake; nothing was made"
    assert names() == []


# --- what would be made, and what has no end -----------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_tells_what_it_takes(tiny):
    result = makes("t2v", PROMPT, "-m", tiny, "--length", "10s", "--dry-run")
    rows = dict(re.split(" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert rows["would write"] == "causvid-a-red-car-moves-left-in-the-snow-SEED.mp4"
    assert rows["video"] == "128x128 at 8 per second, 80 frames, 10 s"
    assert (rows["chunks"], rows["seed"]) == ("20, 2 steps each", "a random one")
    assert rows["read as"] == "red car, moves left, snow"
    assert {"first frame", "each chunk", "in all", "file", "disk", "memory"} < set(rows)
    plan = json.loads(makes("t2v", PROMPT, "-m", tiny, "-s", 3, "--dry-run", "--json").stdout)
    assert {key: type(value) for key, value in plan.items()} == {
        "v": int,
        "dry_run": bool,
        "output": str,
        "command": str,
        "model": str,
        "vae": str,
        "device": str,
        "frames": int,
        "fps": float,
        "size": str,
        "seed": int,
        "steps": int,
        "chunks": int,
        "cues": list,
        "memory": dict,
        "read_as": list,
        "notes": list,
        "first_frame_s": float,
        "chunk_s": float,
        "generate_s": float,
        "peak_memory_bytes": int,
        "file_bytes": int,
        "disk_bytes": int,
    }
    assert plan["output"] == "causvid-a-red-car-moves-left-in-the-snow-3.mp4"
    endless = makes("t2v", PROMPT, "-m", tiny, "--length", "inf", "--dry-run").stdout
    assert "until it is stopped" in endless
    assert names() == []


def test_a_dry_run_guesses_the_size_of_the_file(tiny):
    plan = json.loads(makes("t2v", PROMPT, "-m", tiny, "-s", 3, "--dry-run", "--json", "-o", "x.mp4").stdout)
    makes("t2v", PROMPT, "-m", tiny, "-s", 3, "-o", "x.mp4")
    assert plan["file_bytes"] == pytest.approx(Path("x.mp4").stat().st_size, rel=0.3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_video_without_end_is_whole_when_it_is_stopped(number, tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(5, lambda: signal.raise_signal(number)))
    result = makes("t2v", PROMPT, "-m", tiny, "--length", "inf", "-o", "x.mp4", "-s", 7)
    assert result.stdout == "x.mp4\n"
    assert names() == ["x.mp4"]
    assert read_info(Path("x.mp4")).frames == 24


def test_a_pipe_without_end_ends_with_the_signal(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(5, lambda: signal.raise_signal(signal.SIGINT)))
    result = makes("t2v", PROMPT, "-m", tiny, "--length", "inf", "-o", "-", "--format", "mkv")
    Path("sent").write_bytes(result.stdout_bytes)
    assert len(decode("sent")) == 24


def test_a_pipe_whose_reader_goes_ends_it_at_once(tiny):
    read, write = os.pipe()
    command = [sys.executable, "-m", "causvid_cli", "t2v", PROMPT, "-m", tiny, "--length", "inf", "-o", "-", "-q"]
    maker = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert os.read(read, 1000)
    os.close(read)
    _, said = maker.communicate(timeout=300)
    assert (maker.returncode, said) == (141, b"")
    assert names() == []
