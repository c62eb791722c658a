"""Sizes by name and the VAE that suits a machine, from the command line to the file and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import decode, fails, makes, run
from PIL import Image
from tiny import tiny_facts, tiny_pack
from tiny_wan import tiny_student

pytest.importorskip("transformers")

from causvid_cli.cli import completion
from causvid_cli.config import load_facts

pytestmark = pytest.mark.usefixtures("work")

SIZES = {"small": (32, 16, 3), "medium": (48, 32, 2)}
SHORT = ("--seed", 1, "--length", "5f", "--lossless", "-y")


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """A pack like a published student's, with a tiny VAE and sizes by name."""
    return tiny_student(tmp_path_factory.mktemp("packs") / "tiny-student", chunk_frames=1, sizes=SIZES)


def is_enlarged(frames: np.ndarray, times: int) -> bool:
    """Whether frames are squares of so many equal pixels."""
    return np.array_equal(frames, frames[:, ::times, ::times].repeat(times, axis=1).repeat(times, axis=2))


def test_a_size_by_name_is_made_small_and_enlarged_however_it_is_asked_for(student):
    told = json.loads(makes("t2v", "a cat", "-m", student, "--size", "small", *SHORT, "-o", "a.mkv", "--json").stdout)
    assert (told["size"], told["vae"]) == ("96x48", "tiny")
    frames = decode("a.mkv")
    assert frames.shape[1:] == (48, 96, 3) and is_enlarged(frames, 3) and not is_enlarged(frames, 6)
    makes("t2v", "a cat", "-m", student, "--size", "32x16@3", *SHORT, "-o", "b.mkv")
    Path("c.yaml").write_text(yaml.dump({"version": 1, "size": "small", "cues": [{"at": 0, "prompt": "a cat"}]}))
    makes("edit-script", "c.yaml", "-m", student, *SHORT, "-o", "c.mkv")
    makes("rerun", "a.mkv", "--model", student, "-o", "d.mkv")
    for name in ("b.mkv", "c.mkv", "d.mkv"):
        assert np.array_equal(decode(name), frames), name
    row = {"prompt": "a cat", "model": str(student), "size": "small"}
    Path("jobs.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'size': 'smal'})}\n")
    told = run("batch", "jobs.jsonl", "--dry-run")
    assert "jobs.jsonl:2" in told.stderr and "jobs.jsonl:1" not in told.stderr, told.output


def test_the_tiny_vae_is_taken_off_cuda_and_said(student):
    said = makes("t2v", "a cat", "-m", student, *SHORT, "-o", "a.mkv").stderr
    assert said.count("decoded by the tiny VAE, which is faster and a little less sharp; --vae full is the other") == 1
    tiny = makes("t2v", "a cat", "-m", student, "--vae", "tiny", *SHORT, "-o", "b.mkv")
    full = makes("t2v", "a cat", "-m", student, "--vae", "full", *SHORT, "-o", "c.mkv", "--dry-run", "--json")
    assert "tiny VAE" not in tiny.stderr + full.stderr
    assert json.loads(full.stdout)["vae"] == "full"
    assert np.array_equal(decode("a.mkv"), decode("b.mkv"))


def test_a_photo_and_a_source_keep_their_shape_in_a_size_by_name(student):
    makes("t2v", "a cat", "-m", student, "--size", "48x48", *SHORT, "-o", "square.mkv")
    makes("restyle", "square.mkv", "a dog", "-m", student, "--size", "small", "--seed", 1, "--lossless", "-o", "r.mkv")
    frames = decode("r.mkv")
    assert frames.shape[1:] == (48, 48, 3) and is_enlarged(frames, 3)
    fails(run("extend", "square.mkv", "a dog", "-m", student, "--size", "small"), 2, "--size small: the new part has")


def test_sizes_by_name_are_told_and_offered(student, monkeypatch):
    plan = makes("t2v", "a cat", "-m", student, "--size", "medium", "--dry-run").stdout
    assert "96x64 (48x32, 2 times enlarged) at" in plan
    fails(run("t2v", "a cat", "--size", "small"), 2, "--size small: storybook has no size of that name; try native")
    fails(
        run("t2v", "a cat", "--size", "huge"),
        2,
        "write WIDTHxHEIGHT, such as 512x512, or small, medium, wide, tall, native",
    )
    fails(run("t2v", "a cat", "-m", student, "--size", "32x16@300"), 2, "the longest side is 4096 pixels")
    monkeypatch.setattr(completion, "find_pack", lambda name: student)
    context = type("Context", (), {"params": {}})
    offered = dict(completion.sizes(context, ""))
    assert offered["small"] == "32x16, 3 times enlarged" and offered["native"] == "the model's own"
    assert load_facts(student).sizes == SIZES and tiny_facts().sizes == {}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A pack of cells in three shapes."""
    sizes = {"wide": (112, 64, 2), "tall": (64, 112, 2)}
    return tiny_pack(tmp_path_factory.mktemp("packs") / "shapes", sizes=sizes, steps=(1000.0,))


def test_cells_come_in_the_shapes_that_a_model_was_taught(shapes):
    makes("t2v", "a cat", "-m", shapes, "--size", "wide", *SHORT, "-o", "wide.mkv")
    makes("t2v", "a cat", "-m", shapes, "--size", "64x112", *SHORT, "-o", "tall.mkv")
    makes("rerun", "wide.mkv", "--model", shapes, "-o", "again.mkv")
    assert np.array_equal(decode("again.mkv"), decode("wide.mkv"))
    assert (decode("wide.mkv").shape[1:3], decode("tall.mkv").shape[1:3]) == ((128, 224), (112, 64))
    fails(
        run("t2v", "a cat", "-m", shapes, "--size", "1280x720"),
        2,
        "paints 64x64 or 112x64 or 64x112 cells, all enlarged by one whole number; try 1232x704 or 1344x768",
    )


def test_a_file_is_set_in_motion_in_the_shape_nearest_to_its_own(shapes):
    """A phone's clip is not stretched to a square; a size that is asked for goes before."""
    makes("t2v", "a cat", "-m", shapes, "--size", "wide", *SHORT, "-o", "wide.mkv")
    Image.fromarray(decode("wide.mkv")[0]).rotate(90, expand=True).save("tall.png")
    for command, made in {
        ("i2v", "tall.png", "it jumps"): (224, 128),
        ("i2v", "tall.png", "it jumps", "--size", "native"): (128, 128),
        ("extend", "wide.mkv", "it jumps"): (128, 224),
        ("restyle", "wide.mkv", "a dog"): (128, 224),
    }.items():
        told = makes(*command, "-m", shapes, "--seed", 1, "-o", "b.mkv", "-y")
        assert "stretched" not in told.stderr or "native" in command
        assert decode("b.mkv").shape[1:3] == made, command
