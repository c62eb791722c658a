"""Text features of stories."""

from dataclasses import replace

import numpy as np
import torch

from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import ALL_WORDS, DOES, SLOTS, WHO, sample_story


def test_a_scene_is_bare_as_a_story_of_nobody_is_told():
    text, rng = StoryText.for_vocabulary(dim=8), np.random.default_rng(0)
    stories = [sample_story(rng, ALL_WORDS) for _ in range(50)]
    nobody = [replace(story, **{slot: SLOTS[slot] for slot in (*WHO, *DOES)}) for story in stories]
    with torch.no_grad():
        told = text(text.rows(stories))
        assert torch.equal(text.bare(told), text(text.rows(nobody)))
        assert torch.equal(text.bare(text.bare(told)), text.bare(told))
        assert not torch.equal(text.bare(told), told)
