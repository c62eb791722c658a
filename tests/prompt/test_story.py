"""Text features of stories, and which of them follow from which."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from causvid_cli.prompt.story import StoryText, StoryTextEncoder
from causvid_cli.storybook import ALL_WORDS, DOES, FIRST_WORDS, SLOTS, WHO, sample_story


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


def test_who_goes_left_is_told_to_be_drawn_as_a_mirror_image_and_nobody_else():
    text, rng = StoryText.for_vocabulary(dim=8), np.random.default_rng(0)
    going = {**ALL_WORDS, "action": ("moves left", "moves right", "jumps")}
    left = [sample_story(rng, going) for _ in range(120)]
    is_left = [story.action == "moves left" and story.relation != "meets" for story in left]
    beside, pans = {"left of": "right of", "right of": "left of"}, {"pan left": "pan right", "pan right": "pan left"}
    right = [
        replace(
            story,
            action="moves right",
            mirrored=not story.mirrored,
            relation=beside.get(story.relation or "", story.relation),
            camera=pans.get(story.camera, story.camera),
        )
        if turned
        else story
        for story, turned in zip(left, is_left, strict=True)
    ]
    with torch.no_grad():
        drawn = text.to_draw(text(text.rows(left)))
        assert drawn.is_turned.tolist() == is_left and any(is_left) and not all(is_left)
        assert torch.equal(drawn.embeds, text(text.rows(right)))
        assert drawn.is_whole.tolist() == [story.subject is not None for story in left]
        between = torch.lerp(drawn.embeds[:1], text(text.rows([replace(left[0], subject="cat")])), 0.5)
        assert not text.to_draw(between).is_whole.any()
        unsaid = [replace(left[0], subject="dog", **{slot: None}) for slot in ("scene", "sky", "mirrored")]
        assert not text.to_draw(text(text.rows(unsaid))).is_whole.any()


def test_a_model_of_the_first_packs_world_is_never_told_to_turn_anything_round():
    text = StoryText.for_vocabulary(FIRST_WORDS, dim=8)
    told = text(text.caption_rows(["a red car moves left in the snow"]))
    drawn = text.to_draw(told)
    assert torch.equal(drawn.embeds, told) and not drawn.is_turned.any() and not drawn.is_whole.any()
