import json
from pathlib import Path

import numpy as np
import pytest
from judged import judged_pack, pictures_of, run_eval, trials_of

from causvid_cli import storybook
from causvid_cli.evaluate import photos
from causvid_cli.evaluate.experiments import as_drawn
from causvid_cli.evaluate.photos import HOLDS
from causvid_cli.evaluate.results_folder import CLIPS, FIGURES, PAGE
from causvid_cli.geometry import held_frames
from causvid_cli.prompt.cues import Cue
from causvid_cli.storybook import FIRST_WORDS


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return judged_pack(tmp_path_factory.mktemp("packs") / "tiny")


def test_shots_are_always_the_same_and_their_prompts_keep_what_the_photo_shows():
    of = photos.shots(18)
    assert photos.shots(7) == of[:7]
    for shot in of:
        assert storybook.held_out(shot.photo) and storybook.held_out(shot.story)
        assert shot.photo.target is None
        for name in ("subject", "colour", "scene"):
            assert getattr(shot.photo, name) == getattr(shot.story, name)
        assert shot.story.action != shot.photo.action
    assert {shot.story.action for shot in of[:9]} == set(FIRST_WORDS["action"])
    assert len({shot.at for shot in of}) > 9


@pytest.mark.parametrize("held", [4, 8])
def test_the_truth_is_the_photo_and_then_the_action(held):
    shot = photos.shots(1)[0]
    drawn = photos.draw(shot, held, 64, 0)
    photo, _ = storybook.render_indices(shot.photo, length=1, seed=0, start=shot.at)
    assert np.array_equal(drawn[:held], photo.repeat(held, axis=0))
    like = photos.likeness(as_drawn(drawn, drawn), held, {"from 1 s": 8, "from 4 s": 32})
    assert like == {"drawn_photo": 1, "drawn": {"from 1 s": 1, "from 4 s": 1}}


@pytest.mark.parametrize("hold", HOLDS)
def test_a_photo_is_set_in_motion_as_it_is_alone(pack, hold):
    trials = trials_of(pack, "photos")
    held = held_frames(trials.codec.facts, 1, hold)
    of = photos.shots(2)
    clips = [trials.clip(number, shot.story.caption()) for number, shot in enumerate(of)]
    given = [storybook.PALETTE[photos.draw(shot, held, held, 0)] for shot in of]
    cues = [[Cue(prompt=clip.prompt)] for clip in clips]
    latents, made = trials.make(clips, cues, frames=20, given=given)
    assert made.shape == (2, 20, 64, 64)
    assert latents[0].shape[2] == held // 4
    for clip, photo, indices in zip(clips, given, made, strict=True):
        alone = trials.student.generate(
            clip.prompt, length="20f", seed=clip.seed, size=(64, 64), given=photo, shows_given=True
        )
        assert (storybook.PALETTE[indices] == alone).mean() > 0.999  # sums are rounded otherwise in a batch


def test_a_run_gives_figures_a_table_and_a_page(pack, tmp_path):
    done = run_eval(pack, "--photos", 2, "--out", tmp_path / "eval", "--quiet")
    assert done.exit_code == 0, done.output
    headline, header, *lines = done.stdout.splitlines()
    assert headline == "tiny: 2 photos, 64 frames a clip, on cpu in float32"
    assert header.split("  ")[-1].strip() == "drawn frame"
    assert [line.split("  ")[0] for line in lines[:3]] == ["photos", "subject, from 1 s", "colour, from 1 s"]
    result = json.loads((tmp_path / "eval" / FIGURES).read_text())
    assert list(result["photos"]) == ["chunk", "drawn chunk", "frame", "drawn frame"]
    for way, scores in result["photos"].items():
        assert scores["photos"] == 2
        assert list(scores["follows"]) == ["from 1 s", "from 4 s"]
        assert {"subject", "colour", "scene", "action", "all"} <= scores["follows"]["from 4 s"].keys()
        assert ("drawn" in scores) == (way in HOLDS)
    records = [json.loads(line) for line in (tmp_path / "eval" / CLIPS).read_text().splitlines()]
    assert [record["number"] for record in records] == [0, 1]
    assert len(pictures_of(tmp_path / "eval" / PAGE)) == 2 * 4
