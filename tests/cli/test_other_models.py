"""A note names the model that knows what this one leaves out; where none was named, that one makes the video."""

import json
import shutil
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from commands import makes
from tiny import tiny_pack

from causvid_cli.cli import other_models
from causvid_cli.cli.other_models import usual_model, who_shows_more
from causvid_cli.config import FACTS_FILE, load_facts
from causvid_cli.models.packs import find_pack
from causvid_cli.storybook import ALL_WORDS, FIRST_WORDS

DOG = "a brown dog jumps on the beach"


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A pack that knows the words of the first ones."""
    return tiny_pack(tmp_path_factory.mktemp("packs") / "first")


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """A folder of models, the only ones that are here."""
    root = tmp_path / "models"
    monkeypatch.setattr(other_models, "list_packs", lambda: {folder.name: folder for folder in sorted(root.iterdir())})
    return root


def knows(folder: Path, like: Path, words: dict) -> None:
    """Another pack, of which nothing is read but what it says of itself."""
    (folder / "text_encoder").mkdir(parents=True)
    shutil.copy(like / FACTS_FILE, folder)
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"words": words}))


def note_on(pack: Path, *prompts: str) -> str | None:
    return who_shows_more(prompts, load_facts(pack), pack)


def test_the_pack_that_shows_most_of_what_is_left_out_is_named_with_the_words(first, models):
    knows(models / "animals", first, {**FIRST_WORDS, "subject": [*FIRST_WORDS["subject"], "dog"]})
    assert note_on(first, DOG) == "animals shows more of 'brown', 'dog': try -m animals"
    knows(models / "larger", first, dict(ALL_WORDS))
    assert note_on(first, f"small {DOG[2:]}", "it eats", "it sleeps slowly") == (
        "larger shows more of 'brown', 'small', 'dog', 'eats' and 2 more: try -m larger"
    )


def test_nothing_is_said_where_no_pack_knows_more_or_another_lacks_what_this_one_has(first, models):
    knows(models / "larger", first, {**ALL_WORDS, "subject": ["dog"]})
    assert note_on(first, "a red car jumps") is None
    assert note_on(first, "a dog jumps, then a red car jumps in the snow", "a red car") is None
    knows(models / "damaged", first, dict(ALL_WORDS))
    (models / "damaged" / FACTS_FILE).write_text("{")
    assert note_on(first, "a blarfly car") is None


def test_only_models_of_the_storybook_are_compared(first, models, tmp_path):
    knows(models / "larger", first, dict(ALL_WORDS))
    facts = json.loads((first / FACTS_FILE).read_text())
    (models / "larger" / FACTS_FILE).write_text(json.dumps(facts | {"text": "umt5"}))
    assert note_on(first, DOG) is None
    shutil.copytree(first, tmp_path / "wan")
    (tmp_path / "wan" / FACTS_FILE).write_text(json.dumps(facts | {"text": "umt5"}))
    assert note_on(tmp_path / "wan", DOG) is None


def test_a_model_that_was_named_names_that_of_the_larger_world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = json.loads(makes("t2v", DOG, "-m", "storybook", "--length", "1s", "-o", "dog.mp4", "--json").stdout)
    assert made["notes"][-1] == "storybook-world shows more of 'brown', 'dog': try -m storybook-world"
    assert note_on(find_pack("storybook"), "a red car drives left in the snow") is None


def plans(*arguments: str) -> tuple[str, str]:
    """The model that would make a video, and what is said besides."""
    done = makes(*arguments, "--dry-run", "--json")
    return json.loads(done.stdout)["model"], done.stderr


def test_where_no_model_is_named_the_embedded_one_that_knows_the_prompt_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, said = plans("t2v", DOG)
    assert model == "storybook-world"
    assert "storybook-world makes it, because of 'brown', 'dog'; -m storybook is the other" in said
    assert plans("t2v", DOG, "-m", "auto")[0] == "storybook-world"
    assert plans("t2v", "a dog in the snow, then it turns into a cat")[0] == "storybook-world"  # told in two shots
    model, said = plans("t2v", "a red car drives left in the snow")
    assert (model, "makes it" in said) == ("storybook", False)
    assert plans("t2v", "a blarfly in the snow")[0] == "storybook"
    assert plans("t2v", "a witch")[0] == "storybook-world"  # as a wizard, and not as a man
    assert plans("t2v", "a red car jumps", "--then", "2s: a dog jumps")[0] == "storybook-world"


def test_a_picture_of_which_nobody_says_who_it_shows_is_for_the_model_that_looks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    imageio.imwrite("drawing.png", np.zeros((64, 64, 3), np.uint8))
    assert plans("i2v", "drawing.png", "it jumps")[0] == "storybook-world"
    assert plans("i2v", "drawing.png", "a red car jumps")[0] == "storybook"


def test_a_size_that_only_one_has_is_made_by_that_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plans("t2v", "a red car jumps", "--size", "wide")[0] == "storybook-world"


@pytest.mark.parametrize("options", [("--negative", "cat"), ("--steps", "2"), ("-m", "storybook")])
def test_what_else_is_asked_for_must_be_what_the_chosen_model_does(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plans("t2v", DOG, *options)[0] == "storybook"


def test_a_model_of_ones_own_is_not_chosen_unnamed(first, models):
    knows(models / "own", first, dict(ALL_WORDS))
    assert usual_model([DOG], lambda facts: True) == ("storybook", "")
