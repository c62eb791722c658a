"""The embedded model as it ships in weights/: whole, small, and telling what it is asked."""

import numpy as np
import pytest

from causvid_cli import storybook
from causvid_cli.config import load_facts
from causvid_cli.models.packs import find_pack, verify_pack
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.storybook import FIRST_WORDS
from causvid_cli.teacher import load_teacher

SHIPPED = ("storybook", "storybook-fast")


@pytest.fixture(scope="module", params=SHIPPED)
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return load(request.param, device="cpu")


def test_the_packs_are_whole_and_small() -> None:
    sizes = []
    for name in SHIPPED:
        folder = find_pack(name)
        facts = load_facts(folder)
        verify_pack(folder, facts)
        assert facts.name == name
        sizes += [file.bytes for file in facts.files.values()]
    assert sum(sizes) < 60 * 10**6
    assert max(sizes) < 16 * 2**20


def test_it_knows_every_word_of_the_vocabulary(pipeline: Pipeline) -> None:
    words = pipeline.text.text.config["words"]  # type: ignore[attr-defined]
    assert words["subject"] == words["target"] == list(FIRST_WORDS["subject"])
    assert [words["colour"], words["scene"], words["action"]] == [
        list(names) for names in (FIRST_WORDS[slot] for slot in ("colour", "scene", "action"))
    ]


def test_it_paints_the_scene_that_is_asked(pipeline: Pipeline) -> None:
    """Each picture agrees with the asked scene, in one of its mirrorings, in more pixels than with any other."""
    scenes = {
        name: [storybook.skies.scene_frames(name, "day", mirrored) for mirrored in (False, True)]
        for name in FIRST_WORDS["scene"]
    }
    for seed, asked in enumerate(FIRST_WORDS["scene"]):
        story = storybook.Story("cat", "natural", asked, "stays still", None)
        frames = pipeline.generate(story.caption(), length="1s", size=(64, 64), seed=seed)
        agreement = {
            name: max(float((frames == storybook.PALETTE[loop[: len(frames)]]).all(axis=-1).mean()) for loop in loops)
            for name, loops in scenes.items()
        }
        best = max(agreement, key=agreement.__getitem__)
        assert best == asked, f"asked for {asked}, got {agreement}"


def test_a_longer_video_begins_with_the_shorter_one(pipeline: Pipeline) -> None:
    """The first 5 s of a 10 s video are the 5 s video, bit for bit."""
    options = {"size": (64, 64), "seed": 11}
    short = pipeline.generate("a bird flies to the left at sea", length="5s", **options)
    long = pipeline.generate("a bird flies to the left at sea", length="10s", **options)
    assert len(short) == 40 and len(long) == 80
    assert np.array_equal(long[:40], short)


def test_pictures_use_the_palette_only(pipeline: Pipeline) -> None:
    frames = pipeline.generate("a yellow boat spins in space", length="1s", size=(128, 128), seed=2)
    used = np.unique(frames.reshape(-1, 3), axis=0)
    assert {tuple(colour) for colour in used} <= {tuple(colour) for colour in storybook.PALETTE}
    assert np.array_equal(frames[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2), frames)  # enlarged by whole pixels


def test_its_teacher_makes_a_clip() -> None:
    frames = load_teacher("storybook", device="cpu").generate("a cat jumps", length="1s", seed=3, steps=2)
    assert frames.shape == (8, 512, 512, 3)
