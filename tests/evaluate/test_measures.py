import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import judged_pack, pictures_of, run_eval
from tiny import tiny_pack

from causvid_cli import storybook
from causvid_cli.config import load_facts
from causvid_cli.evaluate.clip_sources import EvalClip, together
from causvid_cli.evaluate.config import MEASURE_NAMES, MeasureRequest
from causvid_cli.evaluate.judge import Judge, verdict
from causvid_cli.evaluate.measure_figures import figure, measure_figures
from causvid_cli.evaluate.measures import MEASURES, Trial, trials_of
from causvid_cli.evaluate.measuring import BY_DRAWING, STUDENT, Measuring, count, drift_counts, open_measuring, video_of
from causvid_cli.evaluate.pixel_match import pixel_counts
from causvid_cli.evaluate.results_folder import CLIPS, FIGURES, PAGE
from causvid_cli.pipeline import load
from causvid_cli.prompt.cues import Cue
from causvid_cli.storybook import ALL_WORDS, Lexicon, Story

CAR = Story("car", "red", "snow", "stays still")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return judged_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="module")
def measuring(pack) -> Measuring:
    facts = load_facts(pack)
    return open_measuring(MeasureRequest(pack=pack, facts=facts, measures=("end",), shots=3, device="cpu"))


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def all_knowing(monkeypatch) -> None:
    """A judge that sees what it is asked for in a coloured window, and a swan in one of a single ink."""

    def verdicts(self: Judge, frames: np.ndarray, asked: list) -> list:
        return [
            verdict(one, one if np.ptp(window, axis=(0, 1, 2)).any() else one | {"subject": ["swan"] * len(window)})
            for one, window in zip(asked, frames, strict=True)
        ]

    monkeypatch.setattr(Judge, "verdicts", verdicts)


# --- what is asked -------------------------------------------------------------------------------------------------


def world_asks(measuring: Measuring) -> object:
    return replace(measuring.asks[STUDENT], words=ALL_WORDS, lexicon=Lexicon.of(ALL_WORDS))


@pytest.mark.parametrize("name", MEASURES)
def test_trials_are_always_the_same_and_held_out(measuring, name):
    asks = world_asks(measuring)
    trials = trials_of(name, asks, 2)
    assert trials_of(name, asks, 1) == trials[:1]
    for trial in trials:
        assert all(storybook.held_out(story) for story in trial.stories)
        assert all(look.start + look.frames <= trial.frames for look in trial.looks)
        before = None
        for story, caption in zip(trial.stories, trial.captions(), strict=True):
            told = storybook.parse(caption, before).story
            assert trial.photo or replace(told, mirrored=None) == replace(story, mirrored=None)
            before = story


def test_every_measure_asks_what_its_name_says(measuring):
    assert tuple(MEASURES) == MEASURE_NAMES
    asks = world_asks(measuring)
    assert all(trial.stories[0].relation for trial in trials_of("pairs", asks, 3))
    (back,) = trials_of("return", asks, 1)
    assert back.stories[0] == back.stories[2] != back.stories[1]
    (shots,) = trials_of("alternate", asks, 1)
    assert [story == shots.stories[0] for story in shots.stories] == [True, False, True]
    assert len(shots.looks) == 3 and len({look.name for look in shots.looks}) == 1
    assert [look.start + look.frames for look in trials_of("end", asks, 1)[0].looks] == [320, 480]
    assert [trial.stories[0].action for trial in trials_of("end", asks, 3)] == list(ALL_WORDS["action"][:3])


# --- what is counted ----------------------------------------------------------------------------------------------


def drawn_videos(measuring: Measuring, name: str) -> tuple[list, np.ndarray]:
    trials = trials_of(name, measuring.asks[STUDENT], 2)
    videos = [video_of(measuring, STUDENT, name, number, 0, trial) for number, trial in enumerate(trials)]
    whole = range(videos[0].trial.frames)
    made = []
    for video in videos:
        held = len(video.photo)
        frames, _ = storybook.render_shown(video.shown, whole[held:], seed=video.clip.seed)
        made.append(np.concatenate([video.photo, frames]))
    return videos, np.stack(made)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "pairs"])
@pytest.mark.usefixtures("all_knowing")
def test_drawings_are_wholly_right_by_every_measure(measuring, name):
    videos, made = drawn_videos(measuring, name)
    for found in count(measuring.models[STUDENT], measuring.asks[STUDENT], videos, made):
        assert found["counts"].keys() >= {look.name for look in videos[0].trial.looks}
        for look, counts in found["counts"].items():
            assert {"pixels as drawn", "sprite pixels", "all right"} <= counts.keys() or look == "whole video"
            for figure_name, (hits, of) in counts.items():
                assert hits == (0 if "drift" in figure_name else of), (look, figure_name)
        assert not found["wrong"]


@pytest.mark.usefixtures("all_knowing")
def test_what_is_of_another_look_counts_in_that_look_alone(measuring):
    videos, made = drawn_videos(measuring, "end")
    made[0, 470:] = 0
    broken, whole = count(measuring.models[STUDENT], measuring.asks[STUDENT], videos, made)
    assert broken["counts"]["at 40 s"]["subject right"] == (1, 1)
    assert broken["counts"]["at 60 s"]["subject right"] == (1, 1)  # the first of the look's frames are still there
    made[0, 448:] = 0
    broken, _ = count(measuring.models[STUDENT], measuring.asks[STUDENT], videos, made)
    assert broken["counts"]["at 60 s"]["subject right"] == broken["counts"]["at 60 s"]["all right"] == (0, 1)
    assert broken["drawn"]["at 60 s"]["all right"] == (1, 1)
    assert broken["wrong"]["at 60 s"][0]["subject"][1] == "swan"
    assert whole["counts"]["at 60 s"]["all right"] == (1, 1)
    assert broken["counts"]["whole video"]["largest drift of brightness"][0] > 0.1


def test_pixels_are_counted_all_of_the_sprite_at_its_edges_and_by_frames():
    truth, mask = storybook.render_indices(CAR, length=4, seed=0)
    mask = mask > 0
    indices, right = truth.copy(), {"pixels as drawn": (4 * 64 * 64, 4 * 64 * 64)}
    counts = pixel_counts(truth, (truth, mask))
    assert counts["pixels as drawn"] == right["pixels as drawn"]
    assert counts["sprite pixels"] == (mask.sum(), mask.sum())
    assert counts["frames with four fifths of the sprite"] == (4, 4)
    edges = counts["edge pixels"][1]
    assert 0 < edges < mask.sum()
    rows, columns = np.nonzero(mask[0])
    third = len(rows) // 3
    indices[0, rows[:third], columns[:third]] ^= 1  # a third of one frame's sprite is torn, from above
    counts = pixel_counts(indices, (truth, mask))
    assert counts["sprite pixels"] == (mask.sum() - third, mask.sum())
    assert counts["pixels as drawn"] == (4 * 64 * 64 - third, 4 * 64 * 64)
    assert counts["frames with four fifths of the sprite"] == (3, 4)
    assert edges - third <= counts["edge pixels"][0] < edges


def test_a_fade_is_a_drift_and_a_steady_error_none():
    drawn, _ = storybook.render_indices(CAR, length=30, seed=0)
    steady = drawn.copy()
    steady[:, :8] = 0
    assert {name: value for name, (value, _) in drift_counts(steady, drawn, 10).items()} == {
        f"largest drift of {name}": pytest.approx(0, abs=1e-3) for name in ("brightness", "saturation", "sharpness")
    }
    fading = drawn.copy()
    fading[20:] = 0
    dark = storybook.PALETTE[0] @ np.array([0.2126, 0.7152, 0.0722]) / 255
    light = (storybook.PALETTE[drawn] @ np.array([0.2126, 0.7152, 0.0722]) / 255)[20:].mean()
    assert drift_counts(fading, drawn, 10)["largest drift of brightness"][0] == pytest.approx(light - dark, abs=1e-3)


# --- figures -------------------------------------------------------------------------------------------------------


def records(maker: str, hits: list[int], of: int = 1) -> list[dict]:
    return [
        {
            "maker": maker,
            "group": "prompts",
            "number": number,
            "counts": {"first 4 s": {"all right": [hit, of]}},
            "drawn": {"first 4 s": {"all right": [of, of]}},
        }
        for number, hit in enumerate(hits)
    ]


def test_two_models_are_compared_prompt_by_prompt():
    ours, theirs = [1] * 30 + [0] * 10, [1] * 20 + [0] * 20
    of = figure(records("student", ours) + records("against", theirs), "first 4 s", "all right")
    assert (of["share"], of["against"], of["difference"], of["drawn"], of["prompts"]) == (0.75, 0.5, 0.25, 1, 40)
    assert of["low"] < 0.75 < of["high"]
    # ten of forty prompts differ, all one way: the interval of pairs is that of a share of 0.25, and above 0
    assert of["difference_low"] == pytest.approx(0.125, abs=0.03)
    assert of["difference_high"] == pytest.approx(0.4, abs=0.04)
    same = figure(records("student", ours) + records("against", ours), "first 4 s", "all right")
    assert same["difference"] == same["difference_low"] == same["difference_high"] == 0


def test_videos_of_one_prompt_are_drawn_together():
    apart = figure(records("student", [1, 0] * 10), "first 4 s", "all right")
    doubled = figure(records("student", [2, 0] * 10, of=2), "first 4 s", "all right")
    assert (doubled["low"], doubled["high"]) == (apart["low"], apart["high"])
    result = measure_figures({"model": "tiny"}, ["prompts"], records("student", [1, 0]))
    assert result["measures"]["prompts"]["first 4 s"]["all right"]["share"] == 0.5


def test_of_a_model_that_cuts_a_new_shot_should_begin_as_a_video_does(measuring):
    car, boat = replace(CAR, action="moves left"), Story("boat", "red", "snow", "jumps")
    trial = Trial(stories=(car, replace(car, action="jumps"), boat), chunks=(0, 3, 6), frames=64, looks=())
    goes_on = video_of(measuring, STUDENT, "change", 0, 0, trial).shown
    student = copy.copy(measuring.models[STUDENT].student)
    student.opening_model = student.model
    cutting = replace(measuring, models={STUDENT: replace(measuring.models[STUDENT], student=student)})
    cuts = video_of(cutting, STUDENT, "change", 0, 0, trial).shown
    assert cuts[0] == goes_on[0] and len(cuts) == len(goes_on) == 3
    for shown, before in zip(cuts[1:], goes_on[1:], strict=True):
        (alone,) = storybook.show_script([(0, shown.story)])
        assert shown.first == before.first and shown.column == alone.column != before.column


def test_videos_that_cut_and_videos_that_go_on_are_made_together_as_alone(tmp_path):
    student = load(tiny_pack(tmp_path / "pack", opening_network="opening"), device="cpu")
    car, jumps, boat = (f"a {what} in the snow" for what in ("red car moves left", "red car jumps", "boat jumps"))
    cues = [[Cue(prompt=car), Cue(prompt=then, start_chunk=2)] for then in (boat, jumps, boat)]
    clips = [
        EvalClip(group="", number=number, take=0, seed=number, encoded=student.text.encode(car)) for number in range(3)
    ]
    frames = student.plan(length="1f").grid.first_frame(4)
    every = list(together(student, clips, cues, frames=frames))
    for row, (clip, own) in enumerate(zip(clips, cues, strict=True)):
        alone = list(together(student, [clip], [own], frames=frames))
        assert len(alone) == len(every) == 4
        for one, all_ in zip(alone, every, strict=True):
            torch.testing.assert_close(one, all_[row : row + 1], rtol=0, atol=2e-5)


# --- a whole run ---------------------------------------------------------------------------------------------------


def test_a_run_gives_figures_a_table_and_a_page_and_goes_on(pack, work):
    arguments = ("--measure", "prompts", "--measure", "alternate", "--shots", 2, "--count", 2, "--against", pack)
    done = run_eval(pack, *arguments, "--out", "eval", "--seeds", 2, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((work / "eval" / FIGURES).read_text())
    assert list(result["measures"]) == ["prompts", "alternate"]
    for looks in result["measures"].values():
        for of in looks.values():
            assert {"all right", "subject right", "sprite pixels", "edge pixels"} <= of.keys()
            for each in of.values():
                assert 0 <= each["low"] <= each["share"] <= each["high"] <= 1
                assert each["difference"] == each["difference_low"] == each["difference_high"] == 0  # the same model
    lines = (work / "eval" / CLIPS).read_text().splitlines(keepends=True)
    assert len(lines) == 2 * 2 * 2 * 2
    assert len(pictures_of(work / "eval" / PAGE)) == 2 * 2 * 2
    (work / "eval" / FIGURES).unlink()
    (work / "eval" / CLIPS).write_text("".join(lines[:6]) + '{"torn')
    again = run_eval(pack, *arguments, "--out", "eval", "--seeds", 2)
    assert again.exit_code == 0, again.output
    assert json.loads((work / "eval" / FIGURES).read_text()) == result
    assert "prompts, first 4 s" in again.stdout and "  all right" in again.stdout


def test_a_model_without_a_judge_is_measured_by_drawings(work):
    done = run_eval(tiny_pack(work / "plain", teacher=None), "--measure", "prompts", "--count", 1, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["notes"] == [f"tiny comes without a judge: {BY_DRAWING}"]
    figures = result["measures"]["prompts"]["first 4 s"]
    assert {"pixels as drawn", "sprite pixels", "subject right", "all right"} <= set(figures)
    assert figures["all right"]["drawn"] == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--measure", "promts"), "--measure promts: unknown; did you mean prompts?"),
        (("--measure", "x"), "--measure x: unknown; try prompts, pairs, end, change, return, alternate, photo"),
        (("--measure", "end", "--photos", 2), "--measure has clips of its own, so --photos says nothing"),
        (("--measure", "pairs"), "--measure pairs: this model knows no two actors"),
        (("--against", "storybook"), "--against says nothing without --measure; add one"),
        (("--shots", 4), "--shots says nothing without --measure; add one"),
    ],
)
def test_what_cannot_be_measured_is_said(pack, work, arguments, complaint):
    done = run_eval(pack, *arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
