"""Text features of stories, and which of them follow from which."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from causvid_cli.prompt.story import StoryText, StoryTextEncoder
from causvid_cli.storybook import ALL_WORDS, DOES, SLOTS, WHO, sample_story


def test_a_scene_is_bare_as_a_story_of_nobody_is_told():
    text, rng = StoryText.for_vocabulary(dim=8), np.random.default_rng(0)
    stories = [sample_story(rng, ALL_WORDS) for _ in range(50)]
    nobody = [replace(story, **{slot: SLOTS[slot] for slot in (*WHO, *DOES, "camera")}) for story in stories]
    with torch.no_grad():
        told = text(text.rows(stories))
        assert torch.equal(text.bare(told), text(text.rows(nobody)))
        assert torch.equal(text.bare(text.bare(told)), text.bare(told))
        assert not torch.equal(text.bare(told), told)


@pytest.mark.parametrize(
    ("before", "after", "goes_on"),
    [
        ("a dog runs on the beach", "it runs", True),
        ("a dog runs on the beach", "it runs slowly", True),
        ("a dog runs on the beach", "it stops", False),
        ("a panda eats in the forest", "the panda eats at night", False),
        ("a dog stands on the beach", "a cat stands on the beach", False),
    ],
)
def test_a_prompt_goes_on_from_another_where_who_and_where_and_what_they_do_is_the_same(before, after, goes_on):
    encoder = StoryTextEncoder(StoryText.for_vocabulary(dim=8))
    first = encoder.encode(before)
    assert (encoder.encode(after, previous=first).begins_with == first.begins_with) is goes_on
