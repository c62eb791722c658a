"""The world of the first packs: what must stay true of its clips and of its understanding of English."""

from __future__ import annotations

import time

import numpy as np
import pytest

from causvid_cli import storybook
from causvid_cli.storybook import (
    CYCLE,
    FIRST_LEXICON,
    FIRST_WORDS,
    PALETTE,
    SIZE,
    Parsed,
    Story,
    held_out,
    render,
    render_indices,
    render_photo,
    render_script,
    reword,
    sample_story,
    shown_subject,
)
from causvid_cli.storybook.skies import scene_frames
from causvid_cli.storybook.sprites import SCALE_STEPS, sprite


def parse(text: str, previous: Story | None = None) -> Parsed:
    """What the first packs read in a text."""
    return storybook.parse(text, previous, FIRST_LEXICON)


def story_of(subject: str | None = "car", action: str = "stays still", scene: str = "meadow") -> Story:
    target = ("swan" if subject != "swan" else "cat") if action == "turns into" else None
    return Story(subject, "red" if subject else "natural", scene, action, target, edge="wraps")


def test_palette_is_small_and_has_no_colour_twice() -> None:
    assert PALETTE.shape[0] <= 48
    assert len(np.unique(PALETTE, axis=0)) == len(PALETTE)


@pytest.mark.parametrize("scene", FIRST_WORDS["scene"])
def test_scene_repeats_after_8_frames_moves_and_is_mirrored(scene: str) -> None:
    frames, mask = render_indices(story_of(None, scene=scene), length=24, seed=3)
    assert (frames[:8] == frames[8:16]).all() and (frames[:8] == frames[16:]).all()
    assert (frames[:8] != frames[0]).any() and not mask.any()
    assert frames.max() < len(PALETTE)
    assert (scene_frames(scene, "day", True) == scene_frames(scene, "day", False)[..., ::-1]).all()


@pytest.mark.parametrize("action", FIRST_WORDS["action"])
def test_frame_depends_on_its_number_only(action: str) -> None:
    story = story_of("bird", action)
    frames, mask = render_indices(story, length=48, seed=5)
    for start, length in ((0, 7), (11, 9), (29, 1), (33, 15)):
        part, part_mask = render_indices(story, length=length, seed=5, start=start)
        assert (part == frames[start : start + length]).all()
        assert (part_mask == mask[start : start + length]).all()


@pytest.mark.parametrize("action", ["moves left", "moves right"])
def test_torus_returns_after_32_frames_and_hides_nothing(action: str) -> None:
    frames, mask = render_indices(story_of("car", action), length=64, seed=1)
    assert (frames[:32] == frames[32:]).all()
    assert len(set(mask[::CYCLE].sum(axis=(1, 2)).tolist())) == 1


def test_a_part_of_a_script_is_what_the_whole_shows_there() -> None:
    cues = [(0, story_of("car", "moves left")), (12, story_of("cat", "jumps", "snow")), (30, story_of("cat", "grows"))]
    whole, whole_mask = render_script(cues, length=48, seed=3)
    for start, length in ((5, 20), (12, 8), (29, 19)):
        part, mask = render_script(cues, length=length, seed=3, start=start)
        assert (part == whole[start : start + length]).all() and (mask == whole_mask[start : start + length]).all()


def test_a_photo_stands_still_and_then_its_story_begins_where_it_stands() -> None:
    photo, story = story_of("car", "moves left", "snow"), story_of("bird", "jumps", "sea")
    picture, _ = render_indices(photo, length=1, seed=4, start=13)
    frames, mask = render_photo(photo, story, at=13, held=8, length=24, seed=4)
    assert frames.shape == mask.shape == (24, SIZE, SIZE)
    assert (frames[:8] == picture).all()
    plain, plain_mask = render_indices(story, length=24, seed=4)
    empty, _ = render_indices(story_of(None, scene="sea"), length=24, seed=4)
    assert (frames[8:][mask[8:] == 0] == empty[8:][mask[8:] == 0]).all()  # the scene is in step with the video
    column = 48 - 2 * 13  # where the car is
    assert (mask[8:] == np.roll(plain_mask[:16], column - SIZE // 2, axis=2)).all()
    short, _ = render_photo(photo, story, at=13, held=8, length=5, seed=4)
    assert (short == frames[:5]).all()


def test_the_shown_subject_changes_when_it_is_drawn_as_another() -> None:
    changing = story_of("car", "turns into")
    assert [shown_subject(changing, frame) for frame in (0, 13, 14, 90)] == ["car", "car", "swan", "swan"]
    assert shown_subject(story_of("cat", "jumps"), 90) == "cat"
    assert shown_subject(story_of(None), 3) is None


def test_every_subject_renders_in_every_action_and_colour() -> None:
    for subject in FIRST_WORDS["subject"]:
        for action in FIRST_WORDS["action"]:
            frames, mask = render_indices(story_of(subject, action, "street"), length=18, seed=2)
            assert frames.max() < len(PALETTE) and mask.any(axis=(1, 2)).all()
        for colour in FIRST_WORDS["colour"]:
            frames, mask = render_indices(Story(subject, colour, "sea", "stays still"), length=1, seed=2)
            assert len(np.unique(frames[mask > 0])) >= 4


@pytest.mark.parametrize("subject", FIRST_WORDS["subject"])
def test_sprite_is_large_and_moves(subject: str) -> None:
    for phase in range(CYCLE):
        drawn = sprite(subject, phase) != 255
        assert 30 <= max(drawn.any(axis=0).sum(), drawn.any(axis=1).sum()) <= 38
    edge = (sprite(subject, 0, SCALE_STEPS, 2) != 255).any(axis=0).sum()
    assert 3 <= edge <= 8
    cycle = [sprite(subject, phase).tobytes() for phase in range(CYCLE)]
    assert len(set(cycle)) >= 3


def test_actions_move_as_written() -> None:
    def row_of_top(action: str, length: int) -> list[int]:
        _, mask = render_indices(story_of("cat", action), length=length, seed=0)
        return [int(np.flatnonzero(frame.any(axis=1))[0]) for frame in mask]

    def area(action: str) -> list[int]:
        return render_indices(story_of("cat", action), length=32, seed=0)[1].sum(axis=(1, 2)).tolist()

    jump = row_of_top("jumps", 16)
    assert jump[:8] == jump[8:] and 12 <= jump[0] - jump[4] <= 16
    rise = row_of_top("flies up", 40)
    assert 19 <= rise[0] - rise[20] <= 21 and rise[24:32] == rise[32:40]
    growing, shrinking = area("grows"), area("shrinks")
    assert growing[24] == growing[31] > 4 * growing[0] and growing[0] == growing[1] < growing[2]
    assert shrinking[0] > 4 * shrinking[31] == 4 * shrinking[24]


def test_spin_mirrors_and_transformation_changes() -> None:
    _, spin = render_indices(story_of("car", "spins"), length=16, seed=0)
    assert (spin[:8] == spin[8:]).all() and (spin[4] == spin[0][:, ::-1]).all() and spin[2].sum() < spin[0].sum() / 3
    change, mask = render_indices(story_of("car", "turns into"), length=40, seed=0)
    swan, _ = render_indices(story_of("swan"), length=40, seed=0)
    car, _ = render_indices(story_of("car"), length=40, seed=0)
    assert (change[:12] == car[:12]).all() and (change[16:] == swan[16:]).all()
    assert mask[12:16].any(axis=(1, 2)).all()


def test_seeds_mirror_the_scene_and_nothing_else() -> None:
    story = story_of("car", "moves left")
    clips = {render_indices(story, length=2, seed=seed)[0].tobytes() for seed in range(200)}
    masks = {render_indices(story, length=2, seed=seed)[1].tobytes() for seed in range(200)}
    assert len(clips) == 2
    assert len(masks) == 1


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A RED CAR moves left, in the night city!", "a red car moves left in the night city"),
        ("a paper plane becomes a swan in a grassy field", "a paper airplane turns into a swan in the meadow"),
        ("two crimson bunnies are hopping in the woods", "a red rabbit jumps in the forest"),
        ("The kid walks to the left on the road", "a child moves left on the street"),
        ("a woman crosses the street", "a man moves right on the street"),
        ("the ship sails", "a boat moves right at sea"),
        ("an elephant in winter", "a mammoth stays still in the snow"),
        ("spaceship taking off", "a rocket flies up in space"),
        ("in the city at night a violet kitten spins around", "a purple cat spins in the night city"),
        ("a taxi gets bigger by the sea", "a car grows at sea"),
        ("the birds are flying upwards", "a bird flies up in the forest"),
        ("a white swan swims", "a swan moves right at sea"),
        ("a fish that is shrinking in the desert", "a fish shrinks in the desert"),
        ("a yellow ball transforms into a butterfly in outer space", "a yellow ball turns into a butterfly in space"),
        ("Ball, blue, rolling right on a road at night", "a blue ball moves right in the night city"),
        ("an empty street", "only the street"),
        ("a cat doesn\u2019t move", "a cat stays still on the street"),
    ],
)
def test_parse_reads_free_english(text: str, caption: str) -> None:
    parsed = parse(text)
    assert parsed.story.caption() == caption
    assert parsed.unknown == ()


def test_parse_reports_words_that_it_does_not_know() -> None:
    parsed = parse("a zorgle frobnicates on the street")
    assert parsed.unknown == ("zorgle", "frobnicates")
    assert parsed.story == Story(None, "natural", "street", "stays still")
    assert "subject" in parsed.filled


def test_unknown_target_leaves_the_subject_still() -> None:
    parsed = parse("a cat turns into a volcano")
    assert parsed.story.action == "stays still" and parsed.story.subject == "cat"
    assert parsed.not_shown == ("volcano",) and parsed.unused == ("turns into",)


def test_second_subject_and_action_are_reported_as_unused() -> None:
    parsed = parse("a red car jumps and a blue boat spins")
    assert parsed.story.caption() == "a red car jumps on the street"
    assert set(parsed.unused) == {"boat", "spins"}


def test_previous_story_fills_what_is_left_open() -> None:
    first = parse("a red car moves left in the night city").story
    assert parse("it jumps", first).story == Story("car", "red", "night city", "jumps")
    assert parse("in the desert", first).story == Story("car", "red", "desert", "moves left")
    changed = parse("it turns into a boat", first).story
    assert changed == Story("car", "red", "night city", "turns into", "boat")
    assert parse("it flies up", changed).story.subject == "boat"
    assert parse("", changed).story == changed
    assert parse("only the sea", first).story == Story(None, "natural", "sea", "stays still")
    assert set(parse("it jumps", first).filled) == {"subject", "scene", "colour"}


def test_prompts_round_trip() -> None:
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        story = sample_story(rng)
        text = reword(story, rng)
        parsed = parse(text)
        assert parsed.story == story, text
        assert parsed.unknown == () and parsed.unused == (), text
        assert parse(story.caption()).story == story


def test_any_string_parses_and_quickly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        points = rng.integers(0, 0x110000, size=int(rng.integers(0, 80)))
        parse("".join(map(chr, points)))
    letters = "".join(rng.choice(list("abcdefghij       "), 100_000))
    for text in (letters, "a" * 100_000, "cat " * 25_000, "\x00", "turns into " * 9_000, "", "\u0130'\u0130 's"):
        before = time.process_time()
        parse(text, parse("a cat jumps").story)
        assert time.process_time() - before < 10  # half a second; what is quadratic takes minutes


def test_story_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="gryphon"):
        Story("gryphon", "red", "sea", "jumps")
    with pytest.raises(ValueError, match="target"):
        Story("cat", "red", "sea", "turns into")


def test_one_combination_in_16_is_held_out() -> None:
    stories = [
        Story(subject, colour, scene, action, "cat" if action == "turns into" else None)
        for subject in FIRST_WORDS["subject"]
        for colour in FIRST_WORDS["colour"]
        for scene in FIRST_WORDS["scene"]
        for action in FIRST_WORDS["action"]
    ]
    assert 0.055 < np.mean([held_out(story) for story in stories]) < 0.07
    assert not any(held_out(story_of(None, scene=scene)) for scene in FIRST_WORDS["scene"])


def test_render_gives_rgb_of_the_palette() -> None:
    frames = render("a green fish in the snow", length=3, seed=7)
    assert frames.shape == (3, SIZE, SIZE, 3) and frames.dtype == np.uint8
    indices, _ = render_indices(parse("a green fish in the snow").story, length=3, seed=7)
    assert (PALETTE[indices] == frames).all()
