"""The embedded models as they ship in weights/: whole, small, and telling what they are asked."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from causvid_cli import storybook
from causvid_cli.config import load_facts
from causvid_cli.models.packs import find_pack, verify_pack
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.prompt.cues import Cue
from causvid_cli.storybook import FIRST_WORDS
from causvid_cli.storybook.story import CHANGE
from causvid_cli.teacher import load_teacher
from causvid_cli.train.config import load_config

FIRST, WORLD = ("storybook", "storybook-fast"), "storybook-world"
SHIPPED = (*FIRST, WORLD)


@pytest.fixture(scope="module", params=FIRST)
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return load(request.param, device="cpu")


def test_the_packs_are_whole_and_small() -> None:
    in_wheel = 0  # which is a zip
    for name in SHIPPED:
        folder = find_pack(name)
        facts = load_facts(folder)
        verify_pack(folder, facts)
        assert facts.name == name
        assert max(file.bytes for file in facts.files.values()) < 16 * 2**20
        in_wheel += sum(len(zlib.compress((folder / file).read_bytes())) for file in facts.files)
    assert in_wheel < 60 * 10**6


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


# --- the larger world ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Pipeline:
    return load(WORLD, device="cpu")


def stories(count: int, pipeline: Pipeline, *, seed: int = 0) -> list[storybook.Story]:
    """Stories that training never saw, of one who is alone."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        story = storybook.sample_story(rng, pipeline.text.text.words)  # type: ignore[attr-defined]
        if storybook.held_out(story) and story.count == 1 and story.other is None:
            found.append(story)
    return found


def test_the_larger_world_knows_what_its_recipe_teaches(world: Pipeline) -> None:
    recipe = load_config(Path(__file__).parents[1] / "examples" / f"{WORLD}.toml")
    words = dict(recipe.world.words())
    words["action"] = tuple(name for name in words["action"] if name != CHANGE)  # told in two shots
    assert {slot: tuple(known) for slot, known in world.text.text.words.items()} == words  # type: ignore[attr-defined]


def test_it_begins_with_who_and_where_a_prompt_tells_in_squares_and_in_wide_and_tall_frames(world: Pipeline) -> None:
    """Its first second is nearer to the drawing of its own story than to that of any other."""
    for seed, frame in enumerate((storybook.SQUARE, storybook.WIDE, storybook.TALL)):
        told, size = stories(8, world, seed=seed), (frame.width, frame.height)
        drawn = [
            storybook.PALETTE[
                storybook.render_indices(
                    replace(story, mirrored=storybook.is_mirrored(1)), length=8, seed=1, size=frame
                )[0]
            ]
            for story in told
        ]
        for place, story in enumerate(told):
            frames = world.generate(story.caption(), length="1s", size=size, seed=1)
            nearest = max(range(len(told)), key=lambda other: (frames == drawn[other]).all(axis=-1).mean())
            assert nearest == place, (story, told[nearest])


def test_what_stands_there_is_still_there_after_a_minute(world: Pipeline) -> None:
    frames = world.generate("a brown dog reads a book on the beach", length="60s", size=(64, 64), seed=3)
    same = (frames[8:16] == frames[-8:]).all(axis=-1).mean()
    assert same > 0.9, same


def test_its_longer_video_begins_with_the_shorter_one(world: Pipeline) -> None:
    options = {"size": (64, 64), "seed": 11}
    short = world.generate("a robot walks to the left on the road", length="2s", **options)
    assert np.array_equal(world.generate("a robot walks to the left on the road", length="4s", **options)[:16], short)


def test_who_stops_stays_where_they_have_come_to() -> None:
    """The camera went along: a new shot of the same scene is seen from there, not from where the video began."""
    pipeline, prompts = load(WORLD, device="cpu"), ("a red fox runs right on the farm", "it jumps")
    cues = [Cue(prompt=prompt, start_chunk=5 * number) for number, prompt in enumerate(prompts)]
    video = pipeline.generate(cues, length="40f", seed=1, size=(64, 64))
    runs = pipeline.text.encode(prompts[0], seed=1).reading
    shown = storybook.show_script([(0, runs), (20, replace(runs, action="jumps"))], cuts=[20])
    there, at_the_beginning = (
        (storybook.PALETTE[storybook.render_shown([shot], range(20, 40), seed=1)[0]] == video[20:]).all(axis=-1).mean()
        for shot in (shown[1], replace(shown[1], pan=0))
    )
    assert shown[1].pan == 30 and there > 0.85 > at_the_beginning + 0.1
