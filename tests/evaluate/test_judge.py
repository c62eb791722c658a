import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SHAPE, tiny_codec, tiny_facts, tiny_transformer

from causvid_cli import storybook
from causvid_cli.config import load_facts
from causvid_cli.errors import ModelError
from causvid_cli.evaluate.judge import (
    ATTRIBUTES,
    FRAMES,
    Judge,
    asked,
    asked_at_end,
    asked_late,
    consistency,
    labels,
    open_judge,
)
from causvid_cli.models.packs import verify_pack
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import FIRST_WORDS, VOCABULARY, Story
from causvid_cli.train.config import EvalConfig, Optimisation
from causvid_cli.train.eval_stage import clips_of, evaluate
from causvid_cli.train.export import export_pack
from causvid_cli.train.judge_stage import load_judge, sample_windows, train_judge
from causvid_cli.train.trainer import StageSetting

CAR = Story("car", "natural", "snow", "moves left")
CHANGING = Story("bird", "red", "sea", "turns into", "fish")
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
        judge=Judge(width=4),
    )
    return tmp_path / "judged"


def clip(story: Story) -> torch.Tensor:
    return torch.from_numpy(storybook.render_indices(story, length=FRAMES, seed=1)[0])[None]


def test_a_natural_colour_is_asked_by_the_word_that_is_seen():
    assert asked(CAR)["colour"] == VOCABULARY.subject["car"].natural[1].split(".")[0]
    assert asked(replace(CAR, colour="blue"))["colour"] == "blue"


def test_at_the_end_something_that_changes_is_asked_as_what_it_has_become():
    assert asked_at_end(CHANGING) == {"subject": "fish", "colour": "red", "scene": "sea"}
    assert asked_at_end(CAR) == {name: asked(CAR)[name] for name in ("subject", "colour", "scene")}


def test_later_every_action_but_a_finished_change_is_asked():
    assert asked_late(CAR) == asked(CAR)
    assert asked_late(CHANGING) == asked(Story("fish", "red", "sea", "stays still"))
    known = FIRST_WORDS["action"]
    for action in known:  # by their pictures late in a video, no two actions are one
        if action != "turns into":
            story = replace(CAR, action=action)
            late = storybook.render_indices(story, length=FRAMES, seed=0, start=64)[0]
            others = [replace(CAR, action=other) for other in known if other not in (action, "turns into")]
            assert not any(
                np.array_equal(late, storybook.render_indices(other, length=FRAMES, seed=0, start=64)[0])
                for other in others
            )


def test_the_judge_learns_windows_from_everywhere():
    windows, said = sample_windows(np.random.default_rng(0), 64)
    again, _ = sample_windows(np.random.default_rng(0), 64)
    assert torch.equal(windows, again)
    assert windows.shape == (64, FRAMES, storybook.SIZE, storybook.SIZE)
    held = [(window[:8] == window[0]).all().item() for window in windows]
    assert 3 < sum(held) < 20  # photos, most of them held for 8 pictures, are a fifth
    assert all(words[name] in ATTRIBUTES[name] for words in said for name in ATTRIBUTES)
    assert all((words["target"] is not None) == (words["action"] == "turns into") for words in said)


def test_labels_are_places_among_the_words():
    numbers = labels([asked(CAR), asked(CHANGING)])
    assert [ATTRIBUTES["target"][row] for row in numbers["target"].tolist()] == [None, "fish"]
    assert [ATTRIBUTES["scene"][row] for row in numbers["scene"].tolist()] == ["snow", "sea"]


def test_the_judge_names_every_attribute_with_a_known_word():
    torch.manual_seed(1)
    judge = Judge(width=4).eval()
    both = torch.cat([clip(CAR), clip(CHANGING)])
    named = judge.name(both)
    assert len(named) == 2
    assert all(said[name] in ATTRIBUTES[name] for said in named for name in ATTRIBUTES)
    longer = torch.cat([both, both.flip(1)], dim=1)
    assert judge.name(longer) == named  # it looks at its own FRAMES only


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
    scores = judge(clip(CAR))
    assert {name: tuple(score.shape) for name, score in scores.items()} == {
        name: (1, len(words)) for name, words in ATTRIBUTES.items()
    }
    assert all(np.isfinite(score.numpy()).all() for score in scores.values())


def test_a_judge_is_trained_and_used_by_the_stages_of_a_distillation(judged, tmp_path):
    device, rows = torch.device("cpu"), []
    plan = Optimisation(steps=2, batch=2, save_every=1)
    judge = train_judge(tmp_path / "judge", plan, StageSetting(device=device))
    again = load_judge(tmp_path / "judge", device=device)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))

    options = {"device": device, "report": rows.append}
    result = evaluate(tmp_path / "eval", judged, judge, EvalConfig(prompts=1), **options)
    assert list(result["scores"]) == ["student", "codec", "rendered"]
    assert all(scores["seen"]["follows"] for scores in result["scores"].values())
    assert rows[-1] == {"step": clips_of(EvalConfig(prompts=1))}
    assert result == evaluate(tmp_path / "eval", judged, judge, EvalConfig(prompts=1), **options)


def test_a_judge_of_other_words_is_refused(judged):
    path = judged / "judge" / "config.json"
    config = json.loads(path.read_text())
    config["words"]["scene"].reverse()
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="judge: this judge knows other words than the storybook of this causvid"):
        open_judge(judged, load_facts(judged), device=CPU)
