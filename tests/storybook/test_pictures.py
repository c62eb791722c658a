"""Which place of the storybook's a picture shows, and who is there."""

from dataclasses import replace

import numpy as np
import pytest

from causvid_cli.storybook import (
    ALL_WORDS,
    FIRST_WORDS,
    SQUARE,
    TALL,
    WIDE,
    Frame,
    Place,
    Recognised,
    Story,
    recognise,
    render_indices,
)

DOG = Story("dog", "natural", "beach", "eats", mirrored=False)


def found(story: Story, *, at: int = 0, size: Frame = SQUARE) -> Recognised | None:
    (picture,), _ = render_indices(story, length=1, seed=0, start=at, size=size)
    return recognise(picture, ALL_WORDS)


def shown(story: Story, *, at: int = 0, size: Frame = SQUARE) -> Place | None:
    recognised = found(story, at=at, size=size)
    return recognised and recognised.place


@pytest.mark.parametrize("scene", ["beach", "farm", "kitchen", "canyon", "night city"])
def test_a_picture_of_the_storybook_tells_where_it_is(scene):
    for number, sky in enumerate(("day", "night", "sunset")):
        story = replace(DOG, scene=scene, sky=sky, mirrored=bool(number % 2))
        assert shown(story, at=3 * number, size=(SQUARE, WIDE, TALL)[number]) == (scene, sky, bool(number % 2))


def test_also_what_falls_is_seen_and_who_hides_much_hides_nothing():
    for sky in ("rain", "snow", "storm", "fog"):
        assert shown(replace(DOG, sky=sky, size="big"), at=6) == ("beach", sky, False)
    assert shown(replace(DOG, count=2, action="stays still"), at=6) == ("beach", "day", False)


def test_a_camera_may_have_gone_along_with_somebody():
    place = shown(replace(DOG, action="moves right", scene="farm"), at=17)
    assert place is not None and (place.scene, place.sky) == ("farm", "day")


def test_what_is_no_place_of_the_storybooks_and_what_a_model_has_no_word_for_is_none():
    noise = np.random.default_rng(0).integers(48, size=(64, 64)).astype(np.uint8)
    assert recognise(noise, ALL_WORDS) is None
    assert recognise(np.full((64, 64), 3, np.uint8), ALL_WORDS) is None
    assert recognise(np.zeros((32, 200), np.uint8), ALL_WORDS) is None
    (beach,), _ = render_indices(DOG, length=1, seed=0)
    known = recognise(beach, {"scene": ["my own", "beach"], "subject": ["my own"]})
    assert known and (known.place, known.who) == (("beach", "day", False), None)
    assert recognise(beach, {"scene": ["my own"]}) is None
    (canyon,), _ = render_indices(replace(DOG, scene="canyon"), length=1, seed=0)
    assert recognise(canyon, {**FIRST_WORDS, "sky": ("day",)}) is None


@pytest.mark.parametrize(
    ("story", "at"),
    [
        (Story("fox", "natural", "beach", "stays still", mirrored=True), 5),
        (Story("king", "orange", "farm", "jumps", sky="rain", mirrored=False), 9),
        (Story("bus", "blue", "road", "moves left", size="big", mirrored=False), 30),
        (Story("snowman", "pink", "mountain", "reads", size="small", mirrored=True), 3),
        (Story("owl", "natural", "kitchen", "flies up", mirrored=False), 40),
    ],
)
def test_a_picture_of_one_tells_who_that_is(story, at):
    """However high they are, whatever they hold; looking left as well, in squares and in wide frames."""
    for size in (SQUARE, WIDE):
        recognised = found(story, at=at, size=size)
        assert recognised and recognised.who == (story.subject, story.colour, story.size)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 3},
        {"count": 2, "size": "small"},  # each as large as a small one that is alone
        {"relation": "left of", "other": "bus"},
        {"relation": "left of", "other": "cat", "size": "big"},  # as large as one that is alone
        {"relation": "behind", "other": "cat", "size": "big"},
        {"subject": None},
    ],
)
def test_nobody_is_known_where_several_stand_or_none(changes):
    recognised = found(replace(DOG, action="stays still", **changes), at=5)
    assert recognised and recognised.who is None


@pytest.mark.parametrize("stranger", ["zebra", "queen", "police car", "leopard"])
def test_who_has_no_word_is_not_taken_for_somebody_who_looks_alike(stranger):
    (picture,), _ = render_indices(replace(DOG, subject=stranger, action="stays still"), length=1, seed=0)
    recognised, among_all = (
        recognise(picture, words)
        for words in ({**ALL_WORDS, "subject": ("horse", "king", "car", "tiger", "my own")}, ALL_WORDS)
    )
    assert recognised and recognised.who is None
    assert among_all and among_all.who and among_all.who.subject == stranger


def test_a_street_at_night_is_the_night_city_to_those_who_have_that_word():
    (picture,), _ = render_indices(replace(DOG, scene="street", sky="night"), length=1, seed=0)
    recognised = recognise(picture, ALL_WORDS)
    assert recognised is None or (recognised.place.scene, recognised.place.sky) != ("street", "night")


def test_where_somebody_swims_what_is_above_the_water_tells():
    recognised = found(replace(DOG, action="swims", scene="farm", sky="sunset"), at=20)
    assert recognised and recognised.place == ("farm", "sunset", False)
    assert recognised.who and recognised.who.subject == "dog"


@pytest.mark.parametrize(
    "story",
    [
        replace(DOG, count=3, action="dances"),
        replace(DOG, count=2, size="small", action="moves left"),
        replace(DOG, relation="left of", other="bus", other_colour="red", action="stays still"),
        replace(DOG, relation="behind", other="cat", action="jumps", size="big"),
        replace(DOG, relation="meets", other="cat"),
        replace(DOG, relation="chases", other="cat", action="stays still"),
        replace(DOG, colour="red", action="flies up"),
    ],
)
def test_a_picture_shows_those_of_whom_a_story_tells_whatever_they_do_and_nobody_else(story):
    recognised = found(story, at=21)
    assert recognised and recognised.shows(replace(story, action="eats"))
    alone = {"count": 1, "relation": None, "other": None}
    others = [{"subject": "fox"}, *([{"other": "owl"}] if story.other else ()), alone]
    for other in (replace(story, **told) for told in others):
        assert recognised.shows(other) == (other == story)
