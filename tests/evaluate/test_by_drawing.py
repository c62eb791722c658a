"""Without a judge, of each word that could stand in a prompt the one counts of which the drawing is nearest."""

from dataclasses import replace

import numpy as np
import pytest

from causvid_cli import storybook
from causvid_cli.evaluate.by_drawing import verdict_by_drawing
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.evaluate.seen import WINDOW
from causvid_cli.storybook import ALL_WORDS, Story

WORDS = {
    **ALL_WORDS,
    "subject": ("dog", "cat", "tree", "car"),
    "other": ("dog", "cat", "tree", "car"),
    "target": ("dog", "cat", "tree", "car"),
    "scene": ("beach", "snow", "street"),
}
DOG = Story(subject="dog", colour="red", scene="beach", action="jumps", mirrored=False)


def judged(told: Story, seen: Story, *, noise: float = 0.0) -> dict[str, tuple[object, object]]:
    """By slot, what was asked and what is seen, where that differs; noise: share of the pixels that are any."""
    indices, _ = storybook.render_indices(seen, length=WINDOW, seed=0)
    rng = np.random.default_rng(0)
    any_pixel = rng.integers(len(storybook.PALETTE), size=indices.shape).astype(np.uint8)
    indices = np.where(rng.random(indices.shape) < noise, any_pixel, indices)
    asked, said = verdict_by_drawing(indices, storybook.show_script([(0, told)]), 0, WORDS)
    assert asked.keys() == said.keys()
    return {slot: (word, said[slot]) for slot, word in asked.items() if said[slot] != word}


def test_all_is_right_of_a_drawing_a_noisy_one_as_well():
    for story in sample_stories(np.random.default_rng(3), 6, WORDS):
        story = replace(story, mirrored=False)
        assert judged(story, story) == {}
        assert judged(story, story, noise=0.3) == {}


@pytest.mark.parametrize(
    ("slot", "word"),
    [("subject", "cat"), ("colour", "blue"), ("scene", "snow"), ("sky", "night"), ("size", "small"), ("count", 2)],
)
def test_what_is_shown_instead_is_named(slot, word):
    assert judged(DOG, replace(DOG, **{slot: word}))[slot] == (getattr(DOG, slot), word)


def test_what_somebody_does_not_do_is_wrong():
    assert "action" in judged(DOG, replace(DOG, action="stays still"))
    assert judged(replace(DOG, action="moves left"), replace(DOG, action="moves right"))["action"] == (
        "moves left",
        "moves right",
    )


def test_nobody_is_not_the_one_that_was_told():
    nobody = replace(DOG, subject=None, colour="natural", action="stays still")
    assert judged(DOG, nobody)["subject"] == ("dog", "nobody")


def test_after_a_change_the_words_of_the_new_story_count():
    cat = replace(DOG, subject="cat", colour="blue")
    shown = storybook.show_script([(0, DOG), (32, cat)])
    for drawn, wrong in ((shown, set()), (shown[:1], {"subject", "colour"})):
        indices, _ = storybook.render_shown(drawn, range(48, 48 + WINDOW), seed=0)
        asked, said = verdict_by_drawing(indices, shown, 48, WORDS)
        assert {slot for slot, word in asked.items() if said[slot] != word} >= wrong
        assert bool(wrong) == (said != asked)
        assert asked["subject"] == "cat"
