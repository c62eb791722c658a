from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.prompt.story import StoryText
from causvid_cli.sampling.schedule import add_noise, flow_from_x0, steps_of
from causvid_cli.storybook import Story
from causvid_cli.storybook.motion import LEAD
from causvid_cli.storybook.story import WHERE, WHO
from causvid_cli.train import prepare as preparation
from causvid_cli.train import story_clips
from causvid_cli.train.config import (
    NetworkConfig,
    Optimisation,
)
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser, build_network
from causvid_cli.train.layout import known_frames
from causvid_cli.train.losses import (
    flow_matching,
    palette_cross_entropy,
    sample_sigma,
    weighted_mean,
    x0_regression,
)
from causvid_cli.train.parallel import my_weight
from causvid_cli.train.prepare import prepare

CPU = torch.device("cpu")
CHANNELS, FRAMES, CELLS = 4, 4, 4
SHAPE = NetworkConfig(layers=2, heads=2, head_dim=24, ffn_dim=64, text_dim=16)
STEPS = steps_of((1000, 500), shift=3.0, warped=True)
FEW = Optimisation(steps=2, batch=2, warmup=1, save_every=1, log_every=1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- losses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sample() -> dict[str, Tensor]:
    x0, noise = random(2, 3, 4, 2, 2), random(2, 3, 4, 2, 2, seed=1)
    sigma = torch.linspace(0.1, 1, 8).view(2, 4)
    return {"x0": x0, "noise": noise, "sigma": sigma, "x_t": add_noise(x0, noise, sigma)}


@pytest.mark.parametrize("prediction", ["flow", "x0"])
def test_the_truth_costs_nothing(sample, prediction):
    truth = sample["x0"] if prediction == "x0" else sample["noise"] - sample["x0"]
    assert flow_matching(prediction, output=truth, **sample) == 0
    del sample["noise"]
    assert x0_regression(prediction, output=truth, **sample) < 1e-12  # float32 roundings, squared


@pytest.mark.parametrize("weighted", [False, True])
def test_flow_matching_has_the_gradient_that_the_paper_states(sample, weighted):
    output = random(2, 3, 4, 2, 2, seed=2).requires_grad_()
    weight = my_weight(random(2, 1, 4, 2, 2, seed=3).abs()) if weighted else None
    flow_matching("flow", output=output, weight=weight, **sample).backward()
    share = torch.ones_like(output) if weight is None else weight.expand_as(output)
    wanted = 2 * (output.detach() - (sample["noise"] - sample["x0"])) * share / share.sum()
    torch.testing.assert_close(output.grad, wanted, atol=1e-7, rtol=1e-5)  # float32 roundings of numbers near 0.1


def test_both_kinds_of_prediction_cost_the_same(sample):
    x0 = random(2, 3, 4, 2, 2, seed=2)
    flow = flow_from_x0(sample["x_t"], x0, sample["sigma"])
    by_x0, by_flow = (
        flow_matching(kind, output=output, **sample).item() for kind, output in (("x0", x0), ("flow", flow))
    )
    assert by_x0 == pytest.approx(by_flow, rel=1e-5)  # float32, divided by sigmas of 0.1 and more
    del sample["noise"]
    by_x0, by_flow = (
        x0_regression(kind, output=output, **sample).item() for kind, output in (("x0", x0), ("flow", flow))
    )
    assert by_x0 == pytest.approx(by_flow, rel=1e-5)


def test_near_sigma_zero_an_x0_prediction_is_not_judged_without_measure():
    x0, noise, sigma = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1), torch.tensor([1e-6])
    loss = flow_matching("x0", add_noise(x0, noise, sigma), x0 + 0.1, x0, noise, sigma, least_sigma=0.05)
    assert loss.item() == pytest.approx((0.1 / 0.05) ** 2)


def test_a_weighted_mean_counts_what_its_weight_says():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert weighted_mean(values, None) == 2.5
    assert weighted_mean(values, my_weight(torch.tensor([[0.0], [1.0]]))) == 3.5
    assert weighted_mean(values, my_weight(torch.tensor([[3.0], [1.0]]))) == 2.0


def test_palette_cross_entropy_is_small_for_the_right_entries_and_counts_the_weight():
    indices = torch.tensor([[[0, 2], [1, 1]]])
    scores = 20 * nn.functional.one_hot(indices, 3).movedim(-1, 1).float()
    weight = torch.ones(1, 2, 2)
    assert palette_cross_entropy(scores, indices, weight) < 1e-6
    wrong = (indices + 1) % 3
    assert palette_cross_entropy(scores, wrong, weight) > 10
    mixed = torch.where(weight.bool() & (torch.arange(2) == 0), wrong, indices)
    assert palette_cross_entropy(scores, mixed, (torch.arange(2) == 1).float().expand(1, 2, 2)) < 1e-6


def test_noise_levels_lie_above_zero_and_lean_to_noise():
    uniform = torch.linspace(0, 1, 1001)[:-1]
    even, shifted = sample_sigma(uniform, shift=1.0), sample_sigma(uniform, shift=3.0)
    assert torch.equal(even, 1 - uniform)
    assert shifted.max() == 1
    assert shifted.min() > 0
    assert (shifted[1:] > even[1:]).all()


def test_a_cell_shows_what_any_of_its_pixels_shows_a_thing_before_a_sprite():
    mask = torch.zeros(1, 8, 16, 24, dtype=torch.uint8)
    mask[0, 6, 15, 8] = storybook.SPRITE  # one pixel: second latent frame, lower row, middle column
    mask[0, 4:6, 12:, 17:] = storybook.SPRITE
    mask[0, 7, 15, 23] = storybook.THING
    assert preparation.most_seen(mask, stack=4, factor=8).tolist() == [[[[0] * 3] * 2, [[0] * 3, [0, 1, 2]]]]


# --- data ----------------------------------------------------------------------------------------------------------


def test_stories_that_are_held_out_never_reach_training():
    rng = np.random.default_rng(0)
    stories = [story_clips.training_story(rng) for _ in range(2000)]
    assert not any(storybook.held_out(story) for story in stories)
    drawn = [storybook.sample_story(rng) for _ in range(2000)]
    share = sum(map(storybook.held_out, drawn)) / len(drawn)
    assert 0.03 < share < 0.1  # a sixteenth: without the filter some hundred would be there
    changed = [story_clips.changed_story(story, rng, at=20) for story in stories[:500]]
    assert not any(storybook.held_out(story) for story in changed)
    assert all(before != after for before, after in zip(stories, changed, strict=False))


def test_a_changed_story_keeps_what_is_seen_not_what_was_or_will_be():
    rng, story = np.random.default_rng(0), Story("car", "red", "snow", "turns into", "swan")
    for at, seen in ((0, "car"), (13 + LEAD, "car"), (14 + LEAD, "swan"), (99, "swan")):
        only = {"action": 1.0}
        changed = [story_clips.changed_story(story, rng, at=at, changes=only) for _ in range(20)]
        assert {(other.subject, other.colour, other.scene) for other in changed} == {(seen, "red", "snow")}
    moved = [story_clips.changed_story(story, rng, at=0, changes={"scene": 1.0}) for _ in range(20)]
    assert {other.subject for other in moved} == {"car"}
    assert len({other.scene for other in moved}) > 3
    anew = [
        story_clips.changed_story(moved[0], rng, at=0, changes=story_clips.PHOTO_CHANGES, same=True) for _ in range(200)
    ]
    assert moved[0] in anew
    assert any(
        other.subject is None for other in anew + [story_clips.changed_story(story, rng, at=0) for _ in range(500)]
    )


def test_a_changed_prompt_is_told_of_the_pictures_before_it_too():
    starts = [0, 32]
    clips = story_clips.sample_switches(np.random.default_rng(2), 2, frames=24, switch_frames=[8, 16], starts=starts)
    again = story_clips.sample_switches(np.random.default_rng(2), 2, frames=24, switch_frames=[8, 16], starts=starts)
    assert torch.equal(clips.indices, again.indices)
    assert clips.indices.shape == (2, 24, storybook.SIZE, storybook.SIZE)
    assert len(clips.stories) == 2


def test_a_clip_of_a_photo_begins_with_one_picture():
    clips = story_clips.sample_photos(np.random.default_rng(0), 6, frames=16, held=[8, 8, 8, 8, 4, 4])
    for indices, held in zip(clips.indices, (8, 8, 8, 8, 4, 4), strict=True):
        assert (indices[:held] == indices[0]).all()
        assert (indices[held] != indices[0]).any()  # the scene lives, and mostly more than that


@pytest.mark.parametrize("words", [storybook.FIRST_WORDS, {**storybook.ALL_WORDS, "camera": ()}])
def test_in_one_shot_only_what_happens_changes(words, monkeypatch):
    """Also where a first draw was a bare scene, in which nothing else can happen."""
    told = []
    monkeypatch.setattr(storybook, "render_script", lambda cues, **_: told.append(cues) or (np.zeros(1), np.zeros(1)))
    story_clips.sample_switches(
        np.random.default_rng(0),
        150,
        words,
        frames=8,
        switch_frames=[4] * 150,
        starts=[0] * 150,
        changes=story_clips.SAME_SHOT,
    )
    assert len(told) == 150
    for (_, before), (at, after) in told:
        shown = replace(before, subject=storybook.shown_subject(before, at))
        assert before.subject is not None and before != after
        slots = (*WHO, *WHERE, "mirrored")
        assert [getattr(shown, slot) for slot in slots] == [getattr(after, slot) for slot in slots]


def test_what_moves_about_or_has_a_thing_in_the_larger_world_is_shown_more_often():
    dog = Story("dog", "natural", "beach", "jumps")
    weights = {
        action: story_clips.sampling_weight(replace(dog, action=action))
        for action in storybook.ALL_WORDS["action"]
        if action != "turns into"
    }
    with_things = {"eats", "drinks", "waves", "sleeps", "reads", "writes", "plays", "talks"}
    assert {action for action, weight in weights.items() if weight == 2} == with_things
    assert {action for action, weight in weights.items() if weight != 5} == {*with_things, "stays still"}
    assert weights["stays still"] == 1
    assert story_clips.sampling_weight(replace(dog, relation="chases", other="cat", action="stays still")) == 5
    first = replace(dog, subject="car", scene="snow", edge="wraps")
    assert story_clips.sampling_weight(first) == 1
    assert story_clips.sampling_weight(replace(first, action="moves left")) == 2.5


def test_what_is_told_after_a_photo_may_leave_to_it_where_that_is():
    for pictures in (False, True):
        clips = story_clips.sample_photos(
            np.random.default_rng(0), 30, storybook.ALL_WORDS, frames=8, held=[4] * 30, pictures=pictures
        )
        left = [story for story in clips.stories if story.scene is None]
        assert all(story.mirrored is None and story.sky is None and story.seen for story in left)
        assert (5 < len(left) < 25) if pictures else not left


def test_clips_from_the_middle_begin_in_step_with_chunks_or_anywhere():
    starts = story_clips.sample_starts(np.random.default_rng(0), 400, step=8)
    assert min(starts) >= story_clips.LATE_FROM
    assert max(starts) <= story_clips.LATE_TO
    assert 200 < sum(start % 8 == 0 for start in starts) < 300  # half, and an eighth of the others


def test_clips_are_made_of_their_seed_alone():
    a, b = (story_clips.sample_clips(np.random.default_rng(3), 3, frames=4) for _ in range(2))
    assert torch.equal(a.indices, b.indices)
    assert a.stories == b.stories
    assert a.indices.shape == a.mask.shape == (3, 4, storybook.SIZE, storybook.SIZE)


def test_a_clip_that_begins_late_is_the_later_part_of_the_video():
    story = Story("car", "red", "snow", "moves left")
    whole = story_clips.render_clips((story,), np.random.default_rng(1), frames=12)
    late = story_clips.render_clips((story,), np.random.default_rng(1), frames=4, starts=[8])
    assert torch.equal(late.indices, whole.indices[:, 8:])
    assert torch.equal(late.mask, whole.mask[:, 8:])


def test_crops_show_the_sprite_half_of_them_on_the_grid_of_latent_cells():
    pictures, masks = story_clips.sample_frames(np.random.default_rng(0), 20, crop=32)
    assert pictures.shape == masks.shape == (20, 32, 32)
    whole, sprites = story_clips.sample_frames(np.random.default_rng(0), 20)
    assert whole.shape == (20, 64, 64)
    shown = masks.flatten(1).any(1)
    assert shown.sum() >= 15  # bare scenes have none
    rng = np.random.default_rng(5)
    for mask in sprites.numpy():
        top, left = story_clips._crop_corner(rng, mask, 32)
        assert top % 8 == left % 8 == 0
        assert 0 <= min(top, left) <= max(top, left) <= 32
        assert mask[top : top + 32, left : left + 32].any() == mask.any()


def tiny_pixel_codec() -> Callable[..., PixelCodec]:
    return partial(PixelCodec, encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8), blocks=1)


def test_an_unnamed_clip_shows_anybody_and_tells_all_but_who_it_is():
    words = storybook.FIRST_WORDS
    clips = story_clips.sample_unnamed(np.random.default_rng(0), 40, words, frames=8)
    assert all(story.subject is None and story.colour == "natural" and story.seen for story in clips.stories)
    assert 10 < sum(story.scene is None and story.sky is None for story in clips.stories) < 30  # left to the picture
    assert {story.action for story in clips.stories} <= {*words["action"]} - {"turns into"}
    assert len({story.action for story in clips.stories}) > 4
    assert clips.mask.flatten(1).any(dim=1).float().mean() > 0.9  # the others are bare scenes
    assert preparation.sample_first_predictable_frames(
        np.random.default_rng(0), "unnamed", 3, frames=6, chunk_frames=2
    ) == [2, 2, 2]


def test_scenes_all_round_have_nobody_in_them_and_are_as_wide_as_they_go_on():
    clips = story_clips.sample_bare(
        np.random.default_rng(0), 5, storybook.ALL_WORDS, frames=4, size=storybook.TALL_ALL_ROUND
    )
    assert clips.indices.shape == (5, 4, 112, 128) and not clips.mask.any()
    assert all(story.subject is None and story.scene for story in clips.stories)


def test_prepared_clips_resume_shard_by_shard_and_tell_training_stories_only(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_CLIPS", 3)
    torch.manual_seed(0)
    codec, text = (
        tiny_pixel_codec()(palette=torch.tensor(storybook.PALETTE)),
        StoryText.for_vocabulary(storybook.FIRST_WORDS, dim=16),
    )
    options = {"clips": 15, "switches": 3, "photos": 3, "latent_frames": 6, "chunk_frames": 2, "device": CPU}
    (clips,) = prepare(tmp_path, codec, text, **options).buckets
    assert clips.x0.shape == (21, 24, 6, 8, 8)
    assert clips.x0.dtype == torch.float16
    assert clips.first_predictable_frame[:12].tolist() == [0] * 12
    assert (
        clips.first_predictable_frame[12:] > 0
    ).all()  # the fifth shard begins late, then prompts change, then there are photos
    assert (clips.first_predictable_frame[15:18] % 2 == 0).all()
    photo = clips.x0[torch.arange(18, 21)].unflatten(1, (4, 6))
    assert (photo[:, :1, :, 0] == photo[:, :, :, 0]).all()  # four pictures of a latent frame are one

    shards = sorted(tmp_path.glob("clips-*.safetensors"))
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    prepare(tmp_path, codec, text, **options)
    assert [shard.read_bytes() for shard in shards] == before

    stories = {tuple(row): story for story in every_story() for row in text.rows([story]).tolist()}
    told = [stories[tuple(row)] for row in clips.rows.tolist()]
    assert not any(map(storybook.held_out, told))


def test_wide_and_tall_clips_are_buckets_of_their_own_and_batches_cost_the_same(tmp_path):
    torch.manual_seed(0)
    codec, text = tiny_pixel_codec()(palette=torch.tensor(storybook.PALETTE)), StoryText.for_vocabulary(dim=16)
    clips = prepare(tmp_path, codec, text, clips=8, wide=3, tall=2, latent_frames=2, device=CPU)
    shapes = {tuple(bucket.x0.shape[3:]): len(bucket.x0) for bucket in clips.buckets}
    assert shapes == {(8, 8): 8, (8, 14): 3, (14, 8): 2}
    rng = np.random.default_rng(0)
    batches = [clips.batch(rng, 14, device=CPU, sprite_weight=2.0) for _ in range(12)]
    assert {(len(batch.x0), *batch.x0.shape[3:]) for batch in batches} == {(14, 8, 8), (8, 8, 14), (8, 14, 8)}


def test_known_frames_lie_where_roll_outs_have_them():
    rng = np.random.default_rng(0)

    def known(kind: preparation.Kind, frames: int = 8, chunk_frames: int = 2) -> set[int]:
        return set(
            preparation.sample_first_predictable_frames(rng, kind, 200, frames=frames, chunk_frames=chunk_frames)
        )

    assert known("plain") == {0}
    assert known("switch") == {2, 4, 6}
    assert known("switch", chunk_frames=3) == {3, 6}
    assert known("photo") == {1, 2}
    assert known("late") == {2, 3, 4, 5, 6}
    assert known("late", frames=3, chunk_frames=1) == {2}
    assert known("late", frames=2) == known("switch", frames=2) == known("photo", frames=2) == {1}


def every_story() -> list[Story]:
    known = storybook.FIRST_WORDS
    alone = [Story(None, "natural", scene, "stays still") for scene in known["scene"]]
    return alone + [
        Story(subject, colour, scene, action, target)
        for subject in known["subject"]
        for colour in known["colour"]
        for scene in known["scene"]
        for action in known["action"]
        for target in ([t for t in known["subject"] if t != subject] if action == "turns into" else [None])
    ]


def small_clips(
    folder: Path, *, count: int = 2, first_predictable_frame: int = 0, share: Tensor | None = None
) -> LatentClips:
    folder.mkdir(exist_ok=True)
    tensors = small_tensors(
        count=count, first_predictable_frame=torch.full((count,), first_predictable_frame), share=share
    )
    save_file(tensors, folder / "clips-00000.safetensors")
    return LatentClips(folder)


def small_tensors(*, count: int, first_predictable_frame: Tensor, share: Tensor | None = None) -> dict[str, Tensor]:
    text = StoryText.for_vocabulary(dim=SHAPE.text_dim)
    slots = torch.tensor([2 + len(words) for words in text.words.values()])  # rows of each
    rows = text.empty_rows(count) + torch.arange(count)[:, None] % slots
    return {
        "x0": random(count, CHANNELS, FRAMES, CELLS, CELLS).half(),
        "rows": rows.contiguous(),
        "sprite": torch.ones(count, FRAMES, CELLS, CELLS, dtype=torch.uint8),
        "known_from": first_predictable_frame,
        "share": torch.ones(count) if share is None else share,
    }


def small_denoiser(**changes: object) -> Denoiser:
    torch.manual_seed(0)
    text = StoryText.for_vocabulary(dim=SHAPE.text_dim)
    return Denoiser(build_network(replace(SHAPE, **changes), CHANNELS), text)


def test_a_batch_is_a_random_stretch_of_random_clips(tmp_path):
    clips = small_clips(tmp_path, count=3)
    batch = clips.batch(np.random.default_rng(0), 20, device=CPU, sprite_weight=4.0, frames=2)
    assert batch.x0.shape == (20, CHANNELS, 2, CELLS, CELLS)
    assert batch.x0.dtype == torch.float32
    whole = clips.buckets[0].x0[torch.arange(3)].float()
    stretches = [whole[clip, :, start : start + 2] for clip in range(3) for start in range(FRAMES - 1)]
    found = {place for x0 in batch.x0 for place, stretch in enumerate(stretches) if torch.equal(x0, stretch)}
    assert len(found) >= 5
    assert all(any(torch.equal(x0, stretch) for stretch in stretches) for x0 in batch.x0)
    assert (batch.weight == 4).all()


def test_scenes_all_round_are_prepared_for_square_and_for_tall_frames():
    torch.manual_seed(0)
    codec = tiny_pixel_codec()(palette=torch.tensor(storybook.PALETTE))
    text = StoryText.for_vocabulary(storybook.ALL_WORDS, dim=8)
    counts = dict.fromkeys(("clips", "switches", "photos", "unnamed", "long", "wide"), 0)
    shards = preparation.story_shards(
        codec,
        text,
        **counts,
        tall=1,
        all_round=3,
        latent_frames=1,
        long_latent_frames=1,
        chunk_frames=1,
        same_shot=True,
        device=CPU,
        seed=0,
    )
    made = [shard.make(number)[0] for number, shard in enumerate(shards)]
    assert [tuple(shard["x0"].shape[3:]) for shard in made] == [(14, 8), (8, 16), (14, 16)]
    assert [shard["share"].tolist() for shard in made[1:]] == [[8.0] * 3] * 2
    assert not any(shard["sprite"].any() for shard in made[1:])


def test_first_chunks_of_who_has_something_along_or_is_all_round_are_shown_more_often_of_who_goes_left_never():
    dog = Story("dog", "natural", "beach", "jumps")
    actions = ("jumps", "moves left", "reads")
    for turns, mirrored, left in ((False, True, 1), (True, True, 0), (True, None, 1)):
        told = [replace(dog, action=name, mirrored=mirrored) for name in actions]
        assert [story_clips.opening_weight(story, turns=turns) for story in told] == [1, left, 2]
    assert (
        story_clips.opening_weight(replace(dog, relation="meets", other="cat", action="stays still"), turns=True) == 1
    )
    bare = Story(None, "natural", "beach", "stays still")
    assert (story_clips.opening_weight(bare), story_clips.opening_weight(bare, all_round=True)) == (1, 8)


def test_what_an_action_brings_along_counts_four_times_as_much_as_who_does_it(tmp_path):
    tensors = small_tensors(count=1, first_predictable_frame=torch.zeros(1).long())
    tensors["sprite"] = torch.zeros_like(tensors["sprite"])
    tensors["sprite"][:, 1:, 0, :2] = torch.tensor([storybook.SPRITE, storybook.THING], dtype=torch.uint8)
    save_file(tensors, tmp_path / "clips-00000.safetensors")
    (weight,) = LatentClips(tmp_path).batch(np.random.default_rng(0), 1, device=CPU, sprite_weight=4.0).weight
    assert weight[0, :, 0, :3].tolist() == [[1, 1, 1], *[[4, 16, 1]] * (FRAMES - 1)]


def test_what_is_behind_who_has_left_counts_as_much_as_who_is_there(tmp_path):
    tensors = small_tensors(count=1, first_predictable_frame=torch.zeros(1).long())
    tensors["sprite"] = torch.zeros_like(tensors["sprite"])
    for frame in range(FRAMES):
        tensors["sprite"][:, frame, 0, frame % CELLS] = 1  # it walks along the top
    save_file(tensors, tmp_path / "clips-00000.safetensors")
    (weight,) = LatentClips(tmp_path).batch(np.random.default_rng(0), 1, device=CPU, sprite_weight=4.0).weight
    for frame in range(FRAMES):
        walked = min(frame + 1, CELLS)
        assert (weight[0, frame, 0, :walked] == 4).all()
        assert weight[0, frame].sum() == CELLS**2 + 3 * walked


def test_clips_are_drawn_as_often_as_their_share_says(tmp_path):
    clips = small_clips(tmp_path, count=4, share=torch.tensor([1.0, 0.0, 3.0, 0.0]))
    batch = clips.batch(np.random.default_rng(0), 400, device=CPU, sprite_weight=1.0)
    drawn = [(batch.rows == rows).all(dim=1).sum().item() for rows in clips.buckets[0].rows]
    assert drawn[1] == drawn[3] == 0
    assert 260 < drawn[2] < 340  # three quarters of 400, give or take four standard deviations


def test_clips_can_be_drawn_by_what_foretells_them(tmp_path):
    save_file(
        small_tensors(count=4, first_predictable_frame=torch.tensor([0, 1, 2, 3])), tmp_path / "clips-00000.safetensors"
    )
    clips, rng = LatentClips(tmp_path), np.random.default_rng(0)
    drawn = clips.batch(rng, 50, device=CPU, sprite_weight=1.0, first_predictable_frames=[1, 3]).first_predictable_frame
    assert set(drawn.tolist()) == {1, 3}
    assert {clips.random_first_predictable_frame(rng) for _ in range(50)} == {0, 1, 2, 3}


def test_frames_that_cannot_be_foretold_count_for_nothing(tmp_path):
    batch = small_clips(tmp_path, first_predictable_frame=2).batch(
        np.random.default_rng(0), 1, device=CPU, sprite_weight=1.0
    )
    assert known_frames(batch).flatten().tolist() == [0, 0, 1, 1]


def test_prompts_are_dropped_at_their_rate():
    denoiser = small_denoiser()
    rows = denoiser.text.empty_rows(4) + 3
    dropped = denoiser.drop_prompts(rows, torch.tensor([0.05, 0.5, 0.0999, 0.1]), rate=0.1)
    assert [torch.equal(row, denoiser.text.empty_rows(1)[0]) for row in dropped] == [True, False, True, False]
    assert torch.equal(dropped[1], rows[1])
