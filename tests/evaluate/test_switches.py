import json
from pathlib import Path

import numpy as np
import pytest
from judged import judged_pack, pictures_of, run_eval, trials_of
from tiny import tiny_codec, tiny_pack
from typer.testing import Result

from causvid_cli import storybook
from causvid_cli.evaluate import photos, switches
from causvid_cli.evaluate.experiment_figures import experiment_rows, switch_scores
from causvid_cli.evaluate.pixel_match import both_ways
from causvid_cli.evaluate.results_folder import CLIPS, FIGURES, PAGE, Folder
from causvid_cli.evaluate.switches import CUT, DRAWN, DRAWN_CUT, NONE, PARTS, WAYS, SwitchScript, Times, draw, likeness
from causvid_cli.geometry import ChunkGrid
from causvid_cli.storybook import FIRST_WORDS, Story

TIMES = Times(cue=32, chunk=4, settled=48, frames=80, edges=tuple(range(32, 80, 8)))
CHANGED = [way for way in WAYS if way != NONE]
CAR = Story("car", "red", "snow", "moves left")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return judged_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what is asked -------------------------------------------------------------------------------------------------


def test_scripts_are_always_the_same_and_each_changes_what_it_says():
    of = switches.scripts(45)
    assert switches.scripts(7) == of[:7]
    assert len(set(of)) == 45
    kinds = [script.kind for script in of]
    assert [kinds.count(kind) for kind in (*PARTS, "all")] == [10, 10, 10, 10, 5]
    for script in of:
        assert storybook.held_out(script.before) and storybook.held_out(script.after)
        assert storybook.parse(script.after.caption(), script.before).story == script.after
        differ = {name for name in PARTS if getattr(script.before, name) != getattr(script.after, name)}
        assert differ == (set(PARTS) if script.kind == "all" else {script.kind})
        assert script.changed


@pytest.mark.parametrize("sample", [switches.scripts, photos.shots])
def test_a_model_is_asked_for_no_action_that_it_cannot_be_told(sample):
    whole = sample(18)
    assert sample(18, FIRST_WORDS) == whole and "turns into" in str(whole)
    changes_nothing = tuple(action for action in FIRST_WORDS["action"] if action != "turns into")
    assert "turns into" not in str(sample(18, {**FIRST_WORDS, "action": changes_nothing}))


def test_the_judge_sees_both_stories_whole():
    times = Times.of(trials_grid(chunk_frames=2))
    assert times == TIMES
    times = Times.of(trials_grid(chunk_frames=3))  # 12 pictures: the cue waits for the first chunk's edge after 32
    assert (times.cue, times.chunk, times.settled, times.frames) == (36, 3, 60, 92)


def trials_grid(*, chunk_frames: int) -> ChunkGrid:
    return ChunkGrid(codec=tiny_codec().facts, chunk_frames=chunk_frames)


# --- what should be seen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", both_ways())
@pytest.mark.parametrize("way", WAYS)
def test_what_is_drawn_as_it_should_be_is_wholly_as_drawn(way, seed):
    script = SwitchScript("scene", CAR, Story("car", "red", "sea", "moves left"))
    like = likeness(script, way, draw(script, way, TIMES, seed), TIMES)
    assert like["drawn_before"] == like["drawn"] == 1
    assert like["drawn_chunks"] == [1] * 6


def test_a_video_without_the_change_is_not_as_drawn_after_it():
    script = SwitchScript("scene", CAR, Story("car", "red", "sea", "moves left"))
    like = likeness(script, "recache", draw(script, NONE, TIMES, 0), TIMES)
    assert like["drawn_before"] == 1
    assert like["drawn"] < 0.5


def test_a_kept_scene_must_face_the_way_it_did():
    night = Story("car", "red", "night city", "moves left")
    script = SwitchScript("colour", night, Story("car", "blue", "night city", "moves left"))
    one, other = (draw(script, "recache", TIMES, seed) for seed in both_ways())
    turned = np.concatenate([one[: TIMES.cue], other[TIMES.cue :]])
    assert likeness(script, "recache", turned, TIMES)["drawn"] < 1
    one, other = (draw(script, CUT, TIMES, seed) for seed in both_ways())
    turned = np.concatenate([one[: TIMES.cue], other[TIMES.cue :]])
    assert likeness(script, CUT, turned, TIMES)["drawn"] == 1  # a new shot may face either way


# --- a whole run ---------------------------------------------------------------------------------------------------


def few(monkeypatch: pytest.MonkeyPatch, *ways: str) -> None:
    """Make only these ways, to be quick."""
    monkeypatch.setattr(switches, "WAYS", {way: WAYS[way] for way in (NONE, *ways)})


@pytest.fixture(scope="module")
def evaluated(pack, tmp_path_factory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("out") / "eval"
    return out, run_eval(pack, "--switches", 3, "--out", out, "--json")


def test_frames_before_the_cue_are_those_of_the_unchanged_video(evaluated):
    out, done = evaluated
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((out / FIGURES).read_text())
    assert list(result["switches"]) == [*WAYS, DRAWN, DRAWN_CUT]
    assert {way: result["switches"][way]["same_before"] for way in CHANGED} == dict.fromkeys(CHANGED, 3)
    assert (result["v"], result["frames"], result["cue_s"], result["settled_s"]) == (1, 72, 4, 5)
    for scores in result["switches"].values():
        assert scores["scripts"] == 3
        assert set(scores["takes_hold_by_kind"]) == {"subject", "colour", "scene"}
        low, high = scores["takes_hold_range"]
        assert 0 <= low <= scores["takes_hold"] <= high <= 1
        assert len(scores.get("drawn_chunks", [0] * 10)) == 10


def test_each_script_is_one_line_and_the_page_shows_all_ways(evaluated):
    out, _ = evaluated
    records = [json.loads(line) for line in (out / CLIPS).read_text().splitlines()]
    assert [(record["number"], record["kind"]) for record in records] == [(0, "subject"), (1, "colour"), (2, "scene")]
    assert all(set(look) == {"asked", "judged"} for r in records for look in r["ways"]["soft"]["windows"].values())
    assert len(pictures_of(out / PAGE)) == 3 * (len(WAYS) + 2)
    assert all(record["then"] in (out / PAGE).read_text() for record in records)


def test_a_cue_that_came_too_early_would_be_noticed(pack, monkeypatch):
    cues = switches.cues
    few(monkeypatch, "soft", CUT)
    monkeypatch.setattr(switches, "cues", lambda script, second, chunk: cues(script, second, chunk - 1))
    done = run_eval(pack, "--switches", 1, "--json")
    assert done.exit_code == 0, done.output
    assert [json.loads(done.stdout)["switches"][way]["same_before"] for way in ("soft", CUT)] == [0, 0]


@pytest.mark.parametrize("way", WAYS)
def test_a_script_is_made_as_it_is_alone(pack, way):
    trials = trials_of(pack, "switches")
    of = switches.scripts(2)
    clips = [trials.clip(number, script.before.caption()) for number, script in enumerate(of)]
    cues = [switches.cues(script, WAYS[way], 2) for script in of]
    _, made = trials.make(clips, cues, frames=20)
    for clip, own, indices in zip(clips, cues, made, strict=True):
        alone = trials.student.generate(own, length="20f", seed=clip.seed, size=(64, 64))
        assert (storybook.PALETTE[indices] == alone).mean() > 0.999  # sums are rounded otherwise in a batch
    assert len(made[0]) == 20


def test_what_cuts_by_itself_is_measured_as_a_cut(pack, tmp_path, monkeypatch):
    """Of a model whose shots begin by a network of their own."""
    few(monkeypatch, "recache", "soft", CUT)
    trials = trials_of(pack, "switches")
    trials.student.opening_model = trials.student.model
    subject, _, _, action = switches.scripts(4)
    times = Times.of(trials_grid(chunk_frames=trials.student.facts.chunk_frames))
    folder = Folder(tmp_path / "eval", {}, overwrite=False)
    records = switches.measure_scripts(trials, folder, (9, 10), (subject, action), times, lambda frames: None)
    for record in records:
        assert record["ways"]["recache"] == record["ways"][CUT]
        assert record["ways"]["soft"] != record["ways"][CUT]


def test_a_run_that_was_stopped_goes_on_to_the_same_figures(pack, monkeypatch):
    few(monkeypatch, "soft")
    monkeypatch.setattr("causvid_cli.evaluate.experiments.MOST_CLIPS", 1)
    whole = run_eval(pack, "--switches", 2, "--out", "whole", "--json")
    append, kept = Folder.append, []

    def stopping(folder: Folder, records: list) -> None:
        append(folder, records)
        kept.append(len(records))
        if len(kept) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "append", stopping)
    stopped = run_eval(pack, "--switches", 2, "--out", "broken")
    assert stopped.exit_code == 130
    assert stopped.stderr == "causvid: stopped; the same command goes on from what is in broken\n"
    done = run_eval(pack, "--switches", 2, "--out", "broken", "--json")
    assert done.stdout == whole.stdout
    assert kept == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--switches", 2, "--teacher"), "--switches has clips of its own, so --teacher says nothing"),
        (("--switches", 2, "--photos", 2), "--switches has clips of its own, so --photos says nothing"),
        (("--photos", 2, "--length", "8s"), "--photos has clips of its own, so --length says nothing"),
        (("--switches", 0), "--switches': must be greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_together_is_said(pack, work, arguments, complaint):
    done = run_eval(pack, *arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(work.iterdir())


def test_a_model_without_a_judge_is_refused(work):
    done = run_eval(tiny_pack(work / "plain", teacher=None), "--switches", 2)
    assert done.exit_code == 2
    assert done.stderr == "causvid: --switches: tiny is no storybook model with a judge; try another --model\n"


# --- figures -------------------------------------------------------------------------------------------------------


def record(kind: str, changed: tuple[str, ...], judged: dict[str, str], **way: object) -> dict:
    words = {"subject": "car", "colour": "red", "scene": "sea", "action": "jumps", "target": None}
    look = {"asked": words, "judged": words | judged}
    way = {"drawn_before": 0.9, "drawn": 0.8, "drawn_chunks": [0.5, 0.88, 0.9], "same_before": True} | way
    return {"kind": kind, "changed": changed, "ways": {"soft": {"windows": {"before": look, "after": look}, **way}}}


def test_what_changes_and_what_is_kept_are_counted_apart():
    scores = switch_scores(
        [
            record("subject", ("subject",), {}),
            record("subject", ("subject",), {"subject": "cat"}),
            record("colour", ("colour",), {"scene": "snow"}, same_before=False),
            record("all", PARTS, {"action": "spins"}),
        ],
        "soft",
    )
    assert scores["takes_hold"] == 0.5
    assert scores["takes_hold_by_kind"] == {"subject": 0.5, "colour": 1, "all": 0}
    assert scores["keeps"] == pytest.approx(2 / 3)  # of what changes all, nothing can be kept
    assert scores["keeps_by"] == {"subject": 1, "colour": 1, "scene": pytest.approx(2 / 3), "action": 1}
    assert (scores["same_before"], scores["scripts"]) == (3, 4)


def test_chunks_are_counted_until_pixels_are_as_before():
    one = record("subject", ("subject",), {})
    assert switch_scores([one], "soft")["chunks_to_level"] == 2
    one["ways"]["soft"]["drawn_before"] = 0.95
    scores = switch_scores([one], "soft")
    assert scores["chunks_to_level"] is None
    table = experiment_rows({"switches": {"soft": scores}})
    assert ["  chunks until as before", "never"] in table
    assert ["the same before the cue", "1 of 1"] in table
