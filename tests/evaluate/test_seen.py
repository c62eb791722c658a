from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from causvid_cli import storybook
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.evaluate.seen import SHORT, UNSEEN, WINDOW, as_seen, asked, asked_late
from causvid_cli.storybook import ALL_WORDS, FIRST_WORDS, VOCABULARY, Story, show_photo, show_script
from causvid_cli.storybook.motion import LEAD, lead

DOG = Story("dog", "red", "meadow", "jumps", mirrored=False)


def seen(story: Story, start: int = 0, frames: int = WINDOW, words=ALL_WORDS) -> dict:
    """The word of each slot, where it is one in all frames from `start` of what it does."""
    start += lead(story)
    rows = asked(show_script([(0, story)]), range(start, start + frames), words)
    return {slot: row[0] if len(set(row)) == 1 else list(row) for slot, row in rows.items()}


def test_a_natural_colour_is_asked_by_the_word_that_is_seen():
    car = replace(DOG, subject="car", colour="natural")
    assert seen(car)["colour"] == VOCABULARY.subject["car"].natural[1].split(".")[0]
    assert seen(replace(car, colour="blue"))["colour"] == "blue"


@pytest.mark.parametrize(
    ("changes", "start", "found"),
    [
        ({"action": "shrinks"}, 0, {"action": "shrinks", "size": UNSEEN, "speed": "normal"}),
        ({"action": "shrinks"}, 6, {"action": UNSEEN, "size": UNSEEN, "speed": UNSEEN}),
        ({"action": "shrinks"}, 200, {"action": "stays still", "size": "small", "speed": UNSEEN}),
        ({"action": "grows", "size": "big"}, 200, {"action": "stays still", "size": "big"}),
        ({"action": "grows", "size": "small"}, 200, {"action": "stays still", "size": "big"}),
        ({"action": "jumps", "size": "small", "count": 3}, 0, {"size": UNSEEN, "count": 3}),  # as three of normal size
        ({"relation": "meets", "other": "cat", "size": "big"}, 0, {"size": "big"}),
        ({"relation": "meets", "other": "cat"}, 1, {"speed": "normal"}),
        ({"relation": "meets", "other": "cat"}, 2, {"speed": UNSEEN}),  # they have met
        ({"action": "turns into", "target": "cat"}, 200, {"subject": "cat", "action": "stays still", "target": None}),
        ({"action": "turns into", "target": "cat", "speed": "slowly"}, 0, {"action": UNSEEN, "target": UNSEEN}),
        ({"action": "lands"}, 30, {"action": "stays still", "speed": UNSEEN}),
        ({"action": "stays still"}, 0, {"action": "stays still", "speed": UNSEEN}),
        ({"camera": "zoom out"}, 0, {"camera": "zoom out"}),
        ({"camera": "zoom out"}, 40, {"camera": "still"}),
        ({"camera": "pan left"}, 1, {"camera": "pan left", "mirrored": UNSEEN}),
        ({"scene": "space", "sky": "rain"}, 0, {"sky": UNSEEN}),  # nothing falls there
        ({"relation": "chases", "other": "cat"}, 0, {"action": UNSEEN, "relation": "chases", "other": "cat"}),
        ({"action": "reads", "count": 2}, 0, {"action": "reads", "count": 2}),
        (
            {"action": "stays still", "relation": "right of", "other": "cat", "other_colour": "blue"},
            0,
            {"subject": "cat", "colour": "blue", "relation": "left of", "other": "dog", "other_colour": "red"},
        ),
    ],
)
def test_what_draws_the_same_frames_is_asked_alike_and_what_cannot_be_seen_not_at_all(changes, start, found):
    words = seen(replace(DOG, **changes), start)
    assert {slot: words[slot] for slot in found} == found


def test_where_no_size_is_told_what_has_shrunk_has_shrunk():
    assert seen(replace(DOG, action="shrinks"), 200, words=FIRST_WORDS)["action"] == "shrinks"
    assert asked_late(replace(DOG, action="shrinks"), ALL_WORDS)["size"] == "small"


@pytest.mark.parametrize(
    ("told", "seen_as"),
    [
        ({"relation": "left of"}, {"relation": "follows"}),
        ({"relation": "left of", "speed": "fast"}, {"relation": "chases"}),
        ({"relation": "follows", "speed": "fast"}, {"relation": "chases"}),
        ({"relation": "right of"}, {"relation": "follows", "subject": "cat", "other": "dog"}),
        ({"relation": "left of", "action": "moves left"}, {"relation": "follows", "subject": "cat", "other": "dog"}),
        ({"relation": "right of", "size": "big"}, {"relation": "right of"}),
        ({"relation": "meets"}, {"relation": "meets"}),
    ],
)
def test_who_walks_beside_another_is_asked_as_what_draws_the_same_frames(told, seen_as):
    story = replace(DOG, **{"action": "moves right", "other": "cat", "other_colour": "black", **told})
    other = as_seen(story)
    assert {slot: getattr(other, slot) for slot in seen_as} == seen_as
    drawn, same = (storybook.render_indices(each, length=20, seed=0)[0] for each in (story, other))
    assert (drawn == same).mean() > 0.995 and seen(story, 8) == seen(other, 8)  # the two blink at other times
    assert other.subject != story.subject or (drawn == same).all()


def test_a_traveller_is_asked_which_way_it_goes_for_as_long_as_it_does():
    for edge in ("open", "wraps"):
        assert seen(replace(DOG, action="moves right", edge=edge), 0, 64)["action"] == "moves right"


def test_who_stands_before_it_acts_is_seen_but_not_what_it_will_do():
    rows = asked(show_script([(0, DOG)]), range(WINDOW), ALL_WORDS)
    assert rows["subject"] == ["dog"] * WINDOW
    assert rows["action"] == [UNSEEN] * LEAD + ["jumps"] * (WINDOW - LEAD)


def test_few_frames_tell_no_motion():
    words = seen(replace(DOG, camera="pan left"), 3, SHORT - 1)
    assert {words[slot] for slot in ("action", "speed", "camera", "target")} == {UNSEEN}
    assert (words["subject"], words["count"]) == ("dog", 1)


def test_each_frame_is_asked_of_the_story_that_it_belongs_to():
    rows = asked(show_script([(0, DOG), (40, replace(DOG, scene="sea"))]), range(24, 56), ALL_WORDS)
    assert rows["scene"] == ["meadow"] * 16 + ["sea"] * 16
    rows = asked([show_photo(DOG, DOG, at=3, held=8)], range(32), ALL_WORDS)
    assert rows["scene"] == [UNSEEN] * 8 + ["meadow"] * 24


@pytest.mark.slow
def test_stories_that_draw_the_same_are_never_asked_apart():
    rng = np.random.default_rng(4)
    for story in sample_stories(rng, 8, ALL_WORDS):
        start = int(rng.choice([0, 16, 300]))
        drawn, _ = storybook.render_indices(story, length=WINDOW, seed=0, start=start)
        told = seen(story, start)
        others = ((slot, word) for slot in ("action", "size", "speed", "camera", "sky") for word in ALL_WORDS[slot])
        for slot, word in others:
            if getattr(story, slot) == word or (slot == "action" and "turns into" in (word, story.action)):
                continue
            other = replace(story, **{slot: word})
            same, _ = storybook.render_indices(other, length=WINDOW, seed=0, start=start)
            if np.array_equal(same, drawn):
                apart = [
                    name
                    for name, row in seen(other, start).items()
                    for a, b in product([row], [told[name]])
                    if UNSEEN not in (a, b) and a != b
                ]
                assert not apart, (story, slot, word, start)
