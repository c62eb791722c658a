import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SHAPE, tiny_codec, tiny_facts, tiny_transformer

from causvid_cli import storybook
from causvid_cli.config import load_facts
from causvid_cli.errors import ModelError
from causvid_cli.evaluate.judge import STRIDE, Judge, consistency, loss_of, open_judge, verdict
from causvid_cli.evaluate.seen import UNSEEN, WINDOW, asked
from causvid_cli.models.packs import find_pack, verify_pack
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import ALL_WORDS, FIRST_WORDS, SQUARE, TALL, WIDE, Story, show_script
from causvid_cli.train.config import EvalConfig, Optimisation
from causvid_cli.train.eval_stage import clips_of, evaluate
from causvid_cli.train.export import export_pack
from causvid_cli.train.judge_stage import KINDS, load_judge, sample_window, train_judge
from causvid_cli.train.trainer import StageSetting

CAR = Story("car", "natural", "snow", "moves left", edge="wraps")
CHANGING = Story("bird", "red", "sea", "turns into", "fish", edge="wraps")
CPU = torch.device("cpu")


@pytest.fixture
def judged(tmp_path) -> Path:
    """A pack with an untrained judge."""
    torch.manual_seed(0)
    export_pack(
        tmp_path / "judged",
        tiny_facts(teacher=None),
        student=tiny_transformer(),
        codec=tiny_codec(),
        text=StoryText.for_vocabulary(dim=SHAPE.text_dim),
        judge=Judge(FIRST_WORDS, width=4),
    )
    return tmp_path / "judged"


def clip(story: Story) -> np.ndarray:
    return storybook.PALETTE[storybook.render_indices(story, length=WINDOW, seed=1)[0]][None]


def question(story: Story) -> dict:
    return dict(asked(show_script([(0, story)]), range(WINDOW), FIRST_WORDS))


@pytest.mark.parametrize("size", [SQUARE, WIDE, TALL])
@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_learns_windows_of_every_kind(kind, size):
    window, again = (sample_window(np.random.default_rng(4), ALL_WORDS, kind=kind, size=size) for _ in range(2))
    assert np.array_equal(window.indices, again.indices) and window.asked == again.asked
    assert window.indices.shape == window.mask.shape == (WINDOW // STRIDE, size.height, size.width)
    assert {len(words) for words in window.asked.values()} == {WINDOW // STRIDE}
    seen = [slot for slot in window.asked if set(window.asked[slot]) != {UNSEEN}]
    assert {"scene", "size", "count"} <= set(seen)
    if kind == "photo":
        assert (window.indices[:2] == window.indices[0]).all()
        assert window.asked["scene"][0] == UNSEEN != window.asked["scene"][-1]


def test_labels_are_places_among_the_words():
    judge = Judge(FIRST_WORDS, width=4)
    numbers = judge.numbers([question(CAR), question(CHANGING)])
    assert [judge.classes["target"][row] for row in numbers["target"][:, 0].tolist()] == [None, "fish"]
    assert [judge.classes["scene"][row] for row in numbers["scene"][:, 0].tolist()] == ["snow", "sea"]
    assert (numbers["subject"][1] == -1).sum() == 4  # while it flashes


def test_what_is_not_asked_teaches_nothing():
    scores = {"subject": torch.zeros(1, 3, 4)}
    assert loss_of(scores, {"subject": torch.tensor([[-1, -1, -1]])})["subject"] == 0
    assert loss_of(scores, {"subject": torch.tensor([[-1, 2, -1]])})["subject"] == pytest.approx(np.log(4))


def test_a_window_is_right_where_three_frames_in_four_are():
    words = {"scene": ["sea"] * 3 + ["snow"], "colour": [UNSEEN] * 4, "action": ["jumps"] * 4}
    said = {"scene": ["sea"] * 4, "colour": ["red"] * 4, "action": ["jumps", "spins", "spins", "jumps"]}
    assert verdict(words, said) == ({"scene": "sea", "action": "jumps"}, {"scene": "sea", "action": "spins"})
    late = {"scene": ["sea", "sea", "snow", "snow"]}
    asked_word, seen = verdict(late, {"scene": ["snow", "snow", "sea", "sea"]})
    assert asked_word["scene"] != seen["scene"]


@pytest.mark.parametrize("size", [SQUARE, WIDE])
def test_the_judge_names_every_slot_with_a_known_word(size):
    torch.manual_seed(1)
    judge = Judge(FIRST_WORDS, width=4).eval()
    both = [storybook.render_indices(story, length=WINDOW, seed=1, size=size)[0] for story in (CAR, CHANGING)]
    verdicts = judge.verdicts(storybook.PALETTE[np.stack(both)], [question(CAR), question(CHANGING)])
    assert len(verdicts) == 2
    for wanted, seen in verdicts:
        assert wanted.keys() == seen.keys() == FIRST_WORDS.keys()
        assert all(word in (*judge.classes[slot], "at other times") for slot, word in seen.items())


def test_a_still_clip_is_as_consistent_as_can_be():
    looks = torch.rand(1, 1, 8).expand(2, 5, 8)
    assert consistency(looks).tolist() == pytest.approx([1, 1])
    turned = torch.tensor([[[1.0, 0], [0, 1], [1, 0]]])
    assert consistency(turned).tolist() == pytest.approx([0])


def test_a_pack_carries_its_judge(judged):
    facts = load_facts(judged)
    assert facts.judge == "judge"
    assert "judge/config.json" in facts.files
    verify_pack(judged, facts)
    judge = open_judge(judged, facts, device=CPU)
    torch.manual_seed(0)
    scores = judge(torch.from_numpy(clip(CAR)))
    assert {name: tuple(score.shape) for name, score in scores.items()} == {
        name: (1, WINDOW, len(words) + (name == "target")) for name, words in FIRST_WORDS.items()
    }
    assert all(np.isfinite(score.numpy()).all() for score in scores.values())


@pytest.mark.parametrize("name", ["storybook", "storybook-fast"])
def test_the_judge_of_a_pack_is_right_of_drawings_in_every_kind_of_window(name):
    folder = find_pack(name)
    judge, rng = open_judge(folder, load_facts(folder), device=CPU), np.random.default_rng(8)
    for kind in KINDS:
        windows = [sample_window(rng, FIRST_WORDS, kind=kind, held_out=True) for _ in range(10)]
        frames = storybook.PALETTE[np.stack([window.indices for window in windows])]
        with torch.inference_mode():
            said = judge.names(judge.features(judge.look(torch.from_numpy(frames))[0]))
        for slot in ("subject", "colour", "scene", "action"):
            pairs = [verdict(window.asked, seen) for window, seen in zip(windows, said, strict=True)]
            assert sum(wanted.get(slot) == seen.get(slot) for wanted, seen in pairs) >= 9, (kind, slot)


def test_a_judge_is_trained_and_used_by_the_stages_of_a_distillation(judged, tmp_path):
    device, rows = torch.device("cpu"), []
    plan = Optimisation(steps=2, batch=2, save_every=1)
    judge = train_judge(tmp_path / "judge", FIRST_WORDS, plan, StageSetting(device=device))
    again = load_judge(tmp_path / "judge", FIRST_WORDS, device=device)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))

    options = {"device": device, "report": rows.append}
    result = evaluate(tmp_path / "eval", judged, judge, EvalConfig(prompts=1), **options)
    assert list(result["scores"]) == ["student", "codec", "rendered"]
    assert all(scores["seen"]["follows"] for scores in result["scores"].values())
    assert rows[-1] == {"step": clips_of(EvalConfig(prompts=1))}
    assert result == evaluate(tmp_path / "eval", judged, judge, EvalConfig(prompts=1), **options)


def test_a_judge_of_words_that_nothing_draws_is_refused(judged):
    path = judged / "judge" / "config.json"
    config = json.loads(path.read_text())
    config["words"]["scene"][0] = "moon base"
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="judge: the storybook of this causvid cannot draw scene 'moon base'"):
        open_judge(judged, load_facts(judged), device=CPU)
