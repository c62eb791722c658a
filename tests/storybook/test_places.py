"""Which place of the storybook's a picture shows."""

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
    Story,
    place_shown,
    render_indices,
)

DOG = Story("dog", "natural", "beach", "eats", mirrored=False)


def shown(story: Story, *, at: int = 0, size: Frame = SQUARE) -> Place | None:
    (picture,), _ = render_indices(story, length=1, seed=0, start=at, size=size)
    return place_shown(picture, ALL_WORDS)


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
    assert place_shown(noise, ALL_WORDS) is None
    assert place_shown(np.full((64, 64), 3, np.uint8), ALL_WORDS) is None
    assert place_shown(np.zeros((32, 200), np.uint8), ALL_WORDS) is None
    (beach,), _ = render_indices(DOG, length=1, seed=0)
    assert place_shown(beach, {"scene": ["my own", "beach"]}) == ("beach", "day", False)
    assert place_shown(beach, {"scene": ["my own"]}) is None
    (canyon,), _ = render_indices(replace(DOG, scene="canyon"), length=1, seed=0)
    assert place_shown(canyon, {**FIRST_WORDS, "sky": ("day",)}) is None
