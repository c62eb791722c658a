"""The embedded model learns a new subject from a folder of clips: examples/robot.toml, in small."""

import csv
import re
import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_codec, tiny_pack
from typer.testing import CliRunner, Result

from causvid_cli import storybook
from causvid_cli.cli.app import app
from causvid_cli.errors import UsageError
from causvid_cli.models.load import load_pixel_codec, load_story_text
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import FIRST_WORDS, Story
from causvid_cli.train.autoencoder import CROP, OwnFrames, redrawn
from causvid_cli.train.config import load_config
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.distill import Distillation
from causvid_cli.train.prepare import new_cells
from causvid_cli.train.videos import PlannedVideo, read_clips

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPE = (EXAMPLES / "robot.toml").read_text()
PROMPT = "a robot jumps in the snow"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The names of examples/robot_clips.py."""
    return runpy.run_path(str(EXAMPLES / "robot_clips.py"))


@pytest.fixture(scope="module")
def clips(example, tmp_path_factory) -> Path:
    """The folder that the example makes, of its first four clips."""
    folder = tmp_path_factory.mktemp("robot")
    example["main"].__globals__["CLIPS"] = example["CLIPS"][:4]
    example["main"](folder)
    return folder


def causvid(*arguments: object) -> Result:
    return CliRunner(env={"NO_COLOR": "1"}).invoke(app, [str(argument) for argument in arguments])


# --- the clips -----------------------------------------------------------------------------------------------------


def test_the_clips_show_every_scene_and_action_but_few_pairs(example):
    pairs = example["CLIPS"]
    assert len(set(pairs)) == 20
    assert {scene for scene, _ in pairs} == set(FIRST_WORDS["scene"])
    assert {action for _, action in pairs} == set(FIRST_WORDS["action"]) - {"turns into"}


def test_the_clips_are_read_back_as_they_were_drawn(example, clips):
    with (clips / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    text = StoryText.for_vocabulary(FIRST_WORDS, dim=8).with_words({"subject": ["robot"]})
    for number, ((scene, action), row) in enumerate(zip(example["CLIPS"], rows, strict=False), start=1):
        assert text.parse(row["caption"]).story == Story("robot", "natural", scene, action)
        video = PlannedVideo(path=str(clips / row["file_name"]), captions=(), size=(64, 64), starts=(0,))
        (pictures,) = read_clips(video, frames=32, fps=Fraction(8))
        drawn, mask = storybook.render_indices(example["robot_story"](scene, action), length=32, seed=number)
        read = tiny_codec().nearest_entries(torch.from_numpy(pictures)).numpy()
        assert (read == drawn).mean() > 0.999, row  # H.264 at crf 17 is not quite without loss
        assert (read == drawn)[mask > 0].mean() > 0.995, row


# --- what the decoder learns from ----------------------------------------------------------------------------------


def test_crops_of_own_pictures_hold_something_that_the_codec_gets_wrong():
    codec, rng = tiny_codec(), np.random.default_rng(0)
    known = redrawn(np.zeros((64, 64), np.uint8), codec)
    own = OwnFrames([known], codec)
    own.wrong = [np.zeros((64, 64), bool)]
    own.wrong[0][50, 40] = True
    pictures, masks = own.sample(rng, 5)
    assert pictures.shape == masks.shape == (5, CROP, CROP)
    assert masks.sum(dim=(1, 2)).tolist() == [1] * 5


def test_cells_that_the_codec_cannot_show_are_new():
    known = SimpleNamespace(
        stack=4,
        facts=SimpleNamespace(spatial_factor=8),
        nearest_entries=lambda pixels: pixels[..., 0].long(),
        encode_indices=lambda indices: indices,
        decode_indices=lambda cells: cells.clamp(max=6),
    )
    pixels = torch.zeros(1, 8, 16, 24, 3, dtype=torch.uint8)
    pixels[:, 4:6, 8:12, 16:24] = 7  # a quarter of a cell's pixels, in the second latent frame
    pixels[:, :4, 0, :4] = 7  # a sixteenth
    assert new_cells(pixels, known).nonzero().tolist() == [[0, 1, 1, 2]]


def test_only_the_pixel_codec_can_learn(tmp_path):
    run = Distillation(load_config(EXAMPLES / "robot.toml"), tmp_path, torch.device("cpu"))
    run.__dict__["base"] = SimpleNamespace(codec=object())
    with pytest.raises(UsageError, match=r"\[autoencoder\]: only the storybook's codec can learn; leave the section"):
        run.autoencoder()


def test_a_weight_that_shows_nothing_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(re.sub(r"weight = [\d.]+", "weight = 0", RECIPE))
    with pytest.raises(UsageError, match="data.weight: must be greater than 0, got 0"):
        load_config(path)


# --- the whole run -------------------------------------------------------------------------------------------------


def test_a_new_word_is_learnt_from_clips_and_understood_afterwards(clips, tmp_path):
    base, run = tiny_pack(tmp_path / "base"), tmp_path / "run"
    small = re.sub(r"^(steps|pairs|batch|clips|switches) = \d+", r"\1 = 2", RECIPE, flags=re.MULTILINE)
    small = small.replace('"storybook"', f'"{base}"').replace('"examples/robot"', f'"{clips}"')
    (tmp_path / "robot.toml").write_text(small)
    before = causvid("t2v", PROMPT, "--model", base, "--length", "4f", "-o", tmp_path / "before.mp4")
    assert before.exit_code == 0, before.output
    assert "shown as the nearest that this model knows: 'robot' as 'man'" in before.stderr

    done = causvid("distill", tmp_path / "robot.toml", "--run-dir", run, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run / 'pack' / 'robot'}\n"
    assert "4 videos, 4 clips" in done.stderr

    pack = run / "pack" / "robot"
    after = causvid("t2v", PROMPT, "--model", pack, "--length", "4f", "-o", tmp_path / "after.mp4")
    assert after.exit_code == 0, after.output
    assert "robot'" not in after.stderr
    assert load_story_text(pack / "text_encoder").words["subject"][-1] == "robot"

    old, new = (load_pixel_codec(folder / "vae").state_dict() for folder in (base, pack))
    changed = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"decoder"}  # so that the networks' latents mean what they meant
    (bucket,) = LatentClips(run / "latents").buckets
    assert bucket.sampling_weight[:4].tolist() == [load_config(EXAMPLES / "robot.toml").data.weight] * 4

    trained = Distillation(load_config(tmp_path / "robot.toml"), run, torch.device("cpu"))
    start = trained.student_net(before="student").network.state_dict()
    student, teacher, learnt = (
        net.state_dict() for net in (trained.base.student, trained.base.teacher, trained.teacher_net().network)
    )
    assert any(not torch.equal(learnt[name], teacher[name]) for name in teacher)
    for name in start:  # the student begins with what the teacher has learned
        torch.testing.assert_close(start[name], student[name] + learnt[name] - teacher[name])
