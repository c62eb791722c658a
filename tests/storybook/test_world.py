"""The whole world: everything that a story can say is drawn, always alike, and stays within its frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from causvid_cli.prompt.story import StoryText, StoryTextEncoder
from causvid_cli.storybook import (
    ALL_WORDS,
    FIRST_WORDS,
    PALETTE,
    SIZE,
    SLOTS,
    SQUARE,
    TALL,
    VOCABULARY,
    WIDE,
    Frame,
    Story,
    held_out,
    ink,
    limited_to,
    render_indices,
    render_photo,
    render_script,
    sample_story,
    show_photo,
    show_script,
    sketches,
)
from causvid_cli.storybook.cast import Actor, cast, half_width, on_cells
from causvid_cli.storybook.motion import BEAT, CELL, LEAD, MEETING, brings_along, followed
from causvid_cli.storybook.render import brought, coloured, corner
from causvid_cli.storybook.skies import panorama, scene_frames
from causvid_cli.storybook.sprites import CYCLE, sprite
from causvid_cli.storybook.story import CAMERAS, COUNTS, RELATIONS, SIZES, SKIES, SPEEDS

DOG = Story("dog", "natural", "beach", "stays still", mirrored=False)
MINUTE = 320
"""Frames of 40 seconds."""


def drawn(story: Story, length: int = 32, *, seed: int = 0, start: int = 0) -> np.ndarray:
    return render_indices(story, length=length, seed=seed, start=start)[0]


def box(story: Story, length: int = 32) -> list[tuple[int, int, int, int]]:
    """Left, right, top and bottom of what is no scene, frame by frame."""
    _, mask = render_indices(story, length=length, seed=0)
    edges = []
    for frame in mask:
        rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
        edges.append((columns[0], columns[-1], rows[0], rows[-1]))
    return edges


def test_the_world_is_large() -> None:
    assert len(VOCABULARY.subjects) >= 120
    assert {"black", "white", "brown", "grey"} <= set(VOCABULARY.colours)


@pytest.mark.parametrize("subjects", [VOCABULARY.subjects[part::6] for part in range(6)])
def test_every_subject_is_drawn_as_itself_and_lives(subjects: tuple[str, ...]) -> None:
    looks = set()
    for name in subjects:
        cycle = [sprite(name, phase) for phase in range(4)]
        assert not VOCABULARY.subject[name].alive or len({cells.tobytes() for cells in cycle}) > 1, name
        assert all(16 <= max(cells.shape) <= 40 for cells in cycle), name
        looks.add(cycle[1].tobytes())
        for colour in ("natural", "black"):
            frame = drawn(replace(DOG, subject=name, colour=colour), 1)
            assert frame.max() < len(PALETTE)
            assert (frame != drawn(replace(DOG, subject=None, colour="natural"), 1)).sum() > 60, name
    assert len(looks) == len(subjects)


@pytest.mark.parametrize("action", VOCABULARY.actions)
def test_every_action_differs_is_repeatable_and_keeps_its_end_for_40_seconds(action: str) -> None:
    story = replace(DOG, action=action, target="swan" if action == "turns into" else None)
    whole = drawn(story, MINUTE + 32)
    assert (drawn(story, 9, start=20) == whole[20:29]).all()
    assert (whole[:32] != drawn(replace(DOG, action="moves left" if action == "moves right" else "moves right"))).any()
    settled = {frame.tobytes() for frame in whole[64:128]}  # from then on nothing new is seen, nor anything lost
    assert {frame.tobytes() for frame in whole[-64:]} <= {frame.tobytes() for frame in whole[64:-64]}
    assert len(settled) < 64 or action in ("moves right", "moves left", "swims")


@pytest.mark.parametrize("scene", VOCABULARY.scenes)
def test_every_sky_is_seen_over_every_scene(scene: str) -> None:
    loops = {sky: scene_frames(scene, sky, False) for sky in SKIES}
    for sky, loop in loops.items():
        assert loop.max() < len(PALETTE)
        assert (scene_frames(scene, sky, True) == loop[..., ::-1]).all()
        assert (loop != loop[0]).any() if sky == "day" else (loop[:8] != loops["day"]).any(), sky


def test_what_two_stories_tell_alike_is_drawn_alike_under_any_seed() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        story = sample_story(rng, ALL_WORDS)
        same = Story(**{slot: getattr(story, slot) for slot in SLOTS})
        assert story == same and (drawn(story, 12, seed=1, start=5) == drawn(same, 12, seed=2, start=5)).all()
        other_way = replace(story, mirrored=not story.mirrored)
        assert (drawn(other_way, 1) != drawn(story, 1)).any()


@pytest.mark.parametrize(
    ("slot", "words"), [("size", SIZES), ("speed", SPEEDS), ("sky", SKIES), ("camera", CAMERAS), ("count", COUNTS)]
)
def test_every_word_of_a_slot_is_seen(slot: str, words: tuple[object, ...]) -> None:
    walking = replace(DOG, action="moves right")
    clips = {drawn(replace(walking, **{slot: word})).tobytes() for word in words}
    assert len(clips) == len(words)


def test_two_stand_to_each_other_as_is_said() -> None:
    def columns(relation: str, t: int, action: str = "stays still") -> tuple[int, int]:
        actors = cast(replace(DOG, relation=relation, other="cat", action=action), t, 32)
        place = {actor.subject: actor.pose for actor in actors}
        return place["dog"].x, place["cat"].x

    assert columns("left of", 0)[0] < columns("left of", 0)[1]
    assert columns("right of", 0)[0] > columns("right of", 0)[1]
    assert [actor.subject for actor in cast(replace(DOG, relation="behind", other="cat"), 0, 32)] == ["dog", "cat"]
    for relation in ("follows", "chases"):
        assert columns(relation, 2)[0] < columns(relation, 2)[1]
        assert columns(relation, 2, "moves left")[0] > columns(relation, 2, "moves left")[1]
    apart = [dog - cat for dog, cat in (columns("meets", t) for t in range(30))]
    assert apart[0] < apart[1] < apart[-1] < 0 and apart[-1] == apart[-5]
    who = {**ALL_WORDS, "relation": ("meets",), "camera": ("still",)}
    for story in (sample_story(np.random.default_rng(seed), who) for seed in range(200)):
        for actor in cast(story, 0, 32) if story.other else ():  # as good as whole: none has to come in
            half = half_width(actor.subject, actor.pose.scale_step) - (4 if story.size == "big" else 0)
            assert half <= actor.pose.x <= SQUARE.width - half
    clips = {drawn(replace(DOG, relation=relation, other="cat")).tobytes() for relation in RELATIONS}
    assert len(clips) == len(RELATIONS)


def test_who_goes_left_is_the_mirror_image_of_who_goes_right() -> None:
    beside = {"left of": "right of", "right of": "left of"}
    rng = np.random.default_rng(0)
    for size in (SQUARE, WIDE):
        for _ in range(40):
            story = replace(sample_story(rng, {**ALL_WORDS, "camera": CAMERAS[:3]}), action="moves right", target=None)
            if story.relation == "meets" or story.subject is None:
                continue
            relation = beside.get(story.relation or "", story.relation)
            camera = {"pan left": "pan right", "pan right": "pan left"}.get(story.camera, story.camera)
            told = {"mirrored": not story.mirrored, "relation": relation, "camera": camera}
            left = replace(story, action="moves left", **told)
            right, there = (render_indices(each, length=9, seed=0, size=size)[0] for each in (story, left))
            assert (right == there[..., ::-1]).all()


@pytest.mark.parametrize("relation", RELATIONS[:3])
def test_beside_who_turns_or_steps_aside_the_other_stays_in_its_place(relation: str) -> None:
    for action in ("spins", "dances", "jumps"):
        story = replace(DOG, action=action, relation=relation, other="cat")
        cats = [next(actor for actor in cast(story, t, 32) if actor.subject == "cat") for t in range(-LEAD, 8)]
        assert len({(cat.pose.x, cat.pose.rise, cat.pose.faces_left) for cat in cats}) == 1, action


def test_whoever_acts_is_in_motion_on_the_spot_first() -> None:
    """So that a network for first chunks draws what goes on, and the next has nothing to draw."""
    for action in ("moves right", "eats", "drinks", "waves", "reads", "writes", "plays", "talks", "dances"):
        story = replace(DOG, action=action)
        before, after = (cast(story, t, 32)[0].pose for t in (LEAD * -1 + 2, 2))
        assert (before.phase, before.things) == (after.phase, after.things) and (before.x, before.rise) == (32, 0)
        first = drawn(story, LEAD)
        assert (first != first[0]).any(), action


@pytest.mark.parametrize("subject", ["dog", "car", "man", "bus", "giraffe"])
def test_the_camera_goes_along_with_who_travels_and_the_scene_goes_by(subject: str) -> None:
    for side, way in (("left", -1), ("right", 1)):
        story = replace(DOG, subject=subject, action=f"moves {side}", scene="mountain", mirrored=False)
        places = [cast(story, t, 32)[0].pose for t in range(200)]
        assert {pose.x for pose in places} == {32} and {pose.faces_left for pose in places} == {side == "left"}
        assert len({pose.phase for pose in places}) == CYCLE  # it walks
        frames, mask = render_indices(story, length=70, seed=0)
        around = panorama("mountain", "day", False)
        for number in (0, LEAD, LEAD + 1, LEAD + 31, LEAD + 64):
            gone = way * 2 * max(0, number - LEAD)
            scene = np.roll(around[number % 8], -gone, axis=1)[:, :SIZE]
            assert (frames[number] == scene)[mask[number] == 0].all()


def test_what_somebody_has_along_is_whole_and_nobody_stands_before_it() -> None:
    brings = [action for action in ALL_WORDS["action"] if brings_along(action)]
    words = {**ALL_WORDS, "action": brings, "camera": ("still",), "relation": ("left of", "behind")}
    kinds = set()
    for story in (sample_story(np.random.default_rng(seed), words) for seed in range(300)):
        for t in (-1, 0, 3) if story.subject else ():
            actors = cast(story, t, 32)
            along = [brought(actor, thing, SIZE) for actor in actors for thing in actor.pose.things]
            seen = drawn(story, 1, start=t + LEAD)[0]
            for each in along[-1:]:  # which none of the others hides
                cells, solid = coloured(each)
                top, left = corner(each)
                assert top >= 0 and left >= 0 and left + solid.shape[1] <= SIZE
                assert (seen[top:, left:][: solid.shape[0], : solid.shape[1]] == cells)[solid].all()
            kinds.add((story.size, story.count, bool(story.other), len(along)))
    assert len(kinds) > 10


def test_a_new_shot_in_the_same_place_begins_where_the_camera_was() -> None:
    goes = replace(DOG, action="moves right")
    told = {"jumps": True, "cat": True, "forest": False, "night": False, "mirrored": False}
    zoomed = replace(goes, action="jumps", camera="zoom in")
    assert show_script([(0, goes), (16, zoomed)], cuts=[16])[1].pan == 0  # nobody finds it again
    changes = [{"action": "jumps"}, {"subject": "cat"}, {"scene": "forest"}, {"sky": "night"}, {"mirrored": True}]
    for (name, stays), change in zip(told.items(), changes, strict=True):
        after = replace(goes, action="jumps") if name == "jumps" else replace(goes, **change)
        (before, shot) = show_script([(0, goes), (16, after)], cuts=[16])
        assert shot.pan == (before.pan_at(before.t(15)) if stays else 0), name
        assert (shot.column, shot.wait) == (32, LEAD)
    photo = show_photo(goes, replace(goes, action="jumps"), at=20, held=4, is_cut=True)
    assert (photo.first, photo.pan, photo.wait) == (4, 2 * (20 - LEAD), LEAD)
    frames, _ = render_photo(goes, replace(goes, action="jumps"), at=20, held=4, length=12, seed=0, is_cut=True)
    still, _ = render_indices(goes, length=1, seed=0, start=20)
    assert (frames[0] == still).all() and (frames[4][:40] == still[0][:40]).mean() > 0.9  # what is far does not jump


def test_two_that_follow_are_gone_along_with_and_who_chases_is_twice_as_fast() -> None:
    follows, chases, meets = (
        replace(DOG, relation=relation, other="cat", action="moves left") for relation in ("follows", "chases", "meets")
    )
    assert [followed(story, 10) for story in (follows, chases, meets)] == [-20, -40, 0]
    assert followed(replace(follows, action="stays still"), 10) == 20
    assert followed(replace(DOG, action="moves right", edge="wraps"), 10) == 0
    for story in (follows, chases):
        (cat, dog), later = (cast(story, t, 32) for t in (0, 40))
        assert cat.pose.x < dog.pose.x and [actor.pose.x for actor in later] == [cat.pose.x, dog.pose.x]


def test_a_new_story_begins_where_the_one_before_has_left_off() -> None:
    walking = replace(DOG, subject="man", action="moves right")
    cues = [(0, walking), (27, replace(walking, action="jumps")), (40, replace(walking, action="moves left"))]
    frames, mask = render_script(cues, length=60, seed=0)
    gone = {0: 0, LEAD + 1: 2, 26: 2 * (26 - LEAD), 27: 2 * (27 - LEAD), 39: 2 * (27 - LEAD), 44: 2 * (27 - LEAD) - 8}
    around = panorama("beach", "day", False)
    for number, columns in gone.items():
        scene = np.roll(around[number % 8], -columns, axis=1)[:, :SIZE]
        assert (frames[number] == scene)[mask[number] == 0].all(), number


def test_two_of_a_kind_stand_where_they_stood_when_the_story_changes() -> None:
    pair = replace(DOG, relation="follows", other="dog", action="moves right")
    for at in (9, 23, 40):
        shown = show_script([(0, pair), (at, replace(pair, action="jumps"))])
        assert shown[1].column == shown[0].column == SIZE // 2


def places(actor: Actor) -> tuple[object, ...]:
    pose = actor.pose
    return pose.x, pose.rise, pose.scale_step, pose.squash_step, pose.faces_left, pose.lies


@pytest.mark.parametrize("action", VOCABULARY.actions)
def test_a_video_begins_with_who_it_is_about_in_its_place_and_goes_on_at_once(action: str) -> None:
    story = replace(DOG, action=action, target="cat" if action == "turns into" else None)
    frames, mask = render_indices(story, length=LEAD + 8, seed=0)
    assert len({places(*cast(story, t, 32)) for t in range(-LEAD, 1)}) == 1
    assert {actor.pose.faces_left for actor in cast(story, -1, 32)} == {action == "moves left"}
    assert (cast(replace(story, speed="fast"), -LEAD, 32)[0].pose.things != ()) == bool(brings_along(action))
    if action in ("moves right", "moves left", "jumps", "spins"):
        assert (frames[LEAD + 1] != frames[1]).any()
        _, later = render_script(
            [(0, replace(story, action="stays still", target=None)), (8, story)], length=12, seed=0
        )
        assert (later[9] != later[8]).any()
        entering = replace(story, subject="lion")
        new, _ = render_script([(0, replace(DOG, action="moves right")), (16, entering)], length=24, seed=0)
        assert (new[16 + LEAD + 1] != new[16 + 1]).any()
    if not brings_along(action) and not action.startswith("moves"):
        assert (mask[0] == mask[2]).all()


def test_the_camera_pans_on_and_stays_where_it_is_when_the_story_changes() -> None:
    bare = Story(None, "natural", "mountain", "stays still", camera="pan right", mirrored=False)
    frames, _ = render_script([(0, bare), (16 + LEAD, replace(bare, camera="still"))], length=24 + LEAD, seed=0)
    scene = scene_frames("mountain", "day", False)
    for number, gone in ((LEAD, 0), (8 + LEAD, 16), (16 + LEAD, 32), (23 + LEAD, 32)):
        assert (frames[number][:, : SIZE - gone] == scene[number % 8][:, gone:]).all()
    closer = replace(bare, camera="zoom in")
    assert (drawn(closer, 1) == scene[0]).all() and (drawn(closer, 60)[-1] != scene[59 % 8]).any()
    assert (drawn(replace(closer, camera="zoom out"), 60)[-1] == scene[59 % 8]).all()


def test_a_photo_of_many_comes_to_life_within_the_frame() -> None:
    photo = replace(DOG, action="moves left", count=3)
    frames, mask = render_photo(photo, replace(DOG, action="eats"), at=9, held=4, length=12, seed=0)
    assert (frames[:4] == frames[0]).all() and mask[4:].any(axis=(1, 2)).all()


def test_a_puddle_splashes_and_a_swimmer_is_half_in_the_water() -> None:
    wet, dry = (replace(DOG, scene="meadow", action="jumps", sky=sky) for sky in ("rain", "night"))
    assert (render_indices(wet, length=1, seed=0)[1] > 0).sum() > (render_indices(dry, length=1, seed=0)[1] > 0).sum()
    assert max(bottom for _, _, _, bottom in box(replace(DOG, action="swims"), 16)) < 48 <= box(DOG, 1)[0][3]


def test_everyone_alive_blinks_and_things_do_not() -> None:
    assert len({actor.pose.blinks for t in range(16) for actor in cast(DOG, t, 32)}) == 2
    assert not any(actor.pose.blinks for t in range(16) for actor in cast(replace(DOG, subject="car"), t, 32))


def test_a_story_sampled_in_few_words_says_nothing_else() -> None:
    words = {**ALL_WORDS, "subject": FIRST_WORDS["subject"], "target": FIRST_WORDS["subject"], "sky": ()}
    rng = np.random.default_rng(0)
    stories = [sample_story(rng, words) for _ in range(300)]
    assert {story.sky for story in stories} == {"day"} and len({story.count for story in stories}) == 3
    assert all(story.subject in (None, *FIRST_WORDS["subject"]) for story in stories)
    assert 0.02 < np.mean([held_out(story) for story in stories]) < 0.1


def test_a_pack_says_what_it_cannot_show_and_shows_the_rest() -> None:
    said = replace(
        DOG, subject="car", speed="slowly", sky="rain", relation="follows", other="dragon", action="moves right"
    )
    shown, lost = limited_to(said, FIRST_WORDS)
    assert shown == Story("car", "natural", "meadow", "moves right")
    assert set(lost) == {"scene", "speed", "sky", "relation", "other", "mirrored"}
    assert limited_to(said, ALL_WORDS) == (said, ())
    changed, lost = limited_to(replace(DOG, action="turns into", target="dragon"), {**ALL_WORDS, "target": ("swan",)})
    assert changed == DOG and lost == ("target",)


def test_a_pack_that_is_told_which_way_the_scene_faces_is_told_it_by_the_seed() -> None:
    told = StoryTextEncoder(StoryText.for_vocabulary(dim=8))
    ways = {told.encode("a dog on the beach", seed=seed).reading.mirrored for seed in range(20)}
    assert ways == {True, False}
    untold = StoryTextEncoder(StoryText.for_vocabulary(FIRST_WORDS, dim=8))
    assert untold.encode("a cat at sea", seed=1).reading.mirrored is None


@pytest.mark.parametrize("line", ["q 1 2 3", "b 1 2 3", "e M 1 2", "l M 1,2 3,4"])
def test_a_line_of_a_sketch_that_is_no_shape_is_named(line: str) -> None:
    from causvid_cli.storybook.raster import Canvas

    with pytest.raises(ValueError, match="is no shape"):
        sketches.sketch(Canvas.for_sprite(1.0, 1.0), 0, life="still", lines=[line])


@pytest.mark.parametrize("size", [WIDE, TALL])
def test_a_wide_and_a_tall_frame_show_the_same_world_and_more_of_it(size: Frame) -> None:
    story = replace(DOG, action="jumps", scene="mountain")
    frames, mask = render_indices(story, length=16, seed=0, size=size)
    square, inner = render_indices(story, length=16, seed=0)
    left = (size.width - SIZE) // 2
    middle = (slice(None), slice(size.above, size.above + SIZE), slice(left, left + SIZE))
    assert frames.shape == mask.shape == (16, size.height, size.width)
    assert (frames[middle] == square).all() and (mask[middle] == inner).all() and mask.sum() == inner.sum()
    assert {cast(replace(story, action="moves right"), t, size.centre, size.width)[0].pose.x for t in range(60)} == {
        size.centre
    }
    for relation in RELATIONS:
        pair = replace(story, action="moves left", relation=relation, other="bus", scene="farm", sky="storm")
        assert render_indices(pair, length=40, seed=0, size=size)[1].any(axis=(1, 2)).all()


def test_there_is_one_sun_all_round_and_frames_of_other_sizes_are_refused() -> None:
    around = panorama("meadow", "day", False)[0]
    assert (around == ink("yellow.light")).any(axis=0)[:SIZE].any()
    assert not (around[:24] == ink("yellow.light")).any(axis=0)[SIZE:].any()
    with pytest.raises(ValueError, match="a frame of 32 x 64"):
        Frame(width=32)


def test_what_the_larger_world_does_stays_on_the_grid_of_cells_and_comes_again() -> None:
    """A network meets few drawings: but for who comes to meet, places are whole cells, and a beat is a period."""
    rng = np.random.default_rng(1)
    words = {**ALL_WORDS, "speed": (), "camera": ()}
    for story in (sample_story(rng, words) for _ in range(400)):
        frames = [cast(story, t, 32) for t in range(-LEAD, 120)]
        poses = [actor.pose for frame in frames for actor in frame]
        assert {pose.scale_step for pose in poses} <= {20, 30, 40, 50}
        assert all(pose.rise % CELL == 0 for pose in poses)
        if story.relation == "meets":
            assert all(abs(pose.x - on_cells(pose.x)) <= MEETING for pose in poses)
        else:
            assert all(pose.x % CELL == 0 for pose in poses)
            assert frames[40] == frames[48] == frames[112]
            awake = [
                [replace(actor.pose, blinks=False, breathes=False) for actor in frame]
                for frame in frames[40 : 40 + 3 * BEAT : BEAT]
            ]
            assert awake[0] == awake[1] == awake[2]  # but for breath and blinking, one latent frame is the next
