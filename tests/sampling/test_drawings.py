"""What an opening network draws of prompts, to be begun with and to be copied from."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_pack
from torch import Tensor

from causvid_cli import pipeline as pipelines
from causvid_cli.evaluate.clip_sources import EvalClip, together
from causvid_cli.geometry import ROUND
from causvid_cli.network.cache import PromptCache
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import Transition
from causvid_cli.sampling.drawings import Drawings, LastShown, Opening
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.storybook import ALL_WORDS, PALETTE, Story, is_mirrored, render_indices

LEFT, RIGHT, JUMPS = (f"a red car {does} in the snow" for does in ("moves left", "moves right", "jumps"))


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    facts = {"opening_network": "opening", "prediction": "copies", "steps": (1000.0,)}
    return load(tiny_pack(tmp_path / "pack", words=ALL_WORDS, **facts), device="cpu", dtype="float32")


def video(pipeline: Pipeline, *prompts: str, seed: int = 0, transition: Transition = "recache") -> list[Tensor]:
    """Latents of a video of two chunks under each prompt."""
    cues = [Cue(prompt=prompt, start_chunk=2 * number, transition=transition) for number, prompt in enumerate(prompts)]
    frames = pipeline.plan(length="1f").grid.first_frame(2 * len(prompts))
    return [chunk.latent for chunk in pipeline.stream(cues, length=f"{frames}f", seed=seed)]


def drawings_of(pipeline: Pipeline) -> Drawings:
    return Drawings(pipeline.opening(pipeline.plan(length="1s")), pipeline.model.moves)


def any_scene(opening: Opening, prompt: PromptCache, like: Tensor) -> Tensor:
    """A scene for each prompt of which no place is like another; NaN where nobody knows it."""
    rows = []
    for embeds in prompt.embeds:
        seed = 0 if embeds.isnan().any() else int(1e6 * embeds.double().sum().abs())
        scene = torch.randn(like.shape[1], 1, like.shape[3], ROUND, generator=torch.Generator().manual_seed(seed))
        rows.append(scene.masked_fill(embeds.isnan().any(), torch.nan))
    return torch.stack(rows)


def told(pipeline: Pipeline, prompt: str, seed: int = 0) -> PromptCache:
    previous = pipeline.text.picture() if prompt.startswith("it") else None
    return pipeline.prompt_cache(pipeline.text.encode(prompt, previous=previous, seed=seed).embeds)


def test_a_shot_of_who_goes_left_begins_as_the_mirror_image_of_one_to_the_right(pipeline, monkeypatch):
    other_way = next(seed for seed in range(1, 99) if is_mirrored(seed) != is_mirrored(0))
    monkeypatch.setattr(pipelines, "seeded_noise", lambda seed, *of, **how: seeded_noise(0, *of, **how))
    left, right = video(pipeline, LEFT)[0], video(pipeline, RIGHT, seed=other_way)[0]
    assert torch.equal(left, pipeline.model.moves.mirrored(right)) and not torch.equal(left, right)
    assert torch.equal(video(pipeline, LEFT, JUMPS)[0], left)


def test_what_goes_on_softly_or_from_a_picture_can_copy_what_its_own_prompt_begins_with(pipeline, monkeypatch):
    drawn = []

    def noted(self: Opening, prompt: PromptCache, like: Tensor) -> Tensor:
        drawn.append(beginning(self, prompt, like))
        return drawn[-1]

    beginning = Opening.beginning
    monkeypatch.setattr(Opening, "beginning", noted)
    video(pipeline, RIGHT, JUMPS)
    assert not drawn  # each shot has begun with it
    goes_on = video(pipeline, RIGHT, JUMPS, transition="soft")
    assert len(drawn) == 1
    monkeypatch.setattr(Drawings, "began", lambda self, prompt, began, **how: began)
    assert not torch.equal(goes_on[2], video(pipeline, RIGHT, JUMPS, transition="soft")[2])


@torch.inference_mode()
def test_a_beginning_is_drawn_once_for_each_prompt_that_tells_who_and_where(pipeline):
    drawings, jumps, left = drawings_of(pipeline), told(pipeline, JUMPS), told(pipeline, LEFT)
    began = torch.zeros(1, pipeline.codec.facts.latent_channels, 1, 8, 8)
    begin = partial(drawings.began, began=began, chunk_frames=1)
    drawn = begin(jumps)
    assert begin(jumps) is not drawn and torch.equal(begin(jumps), drawn) and drawn.any()
    assert torch.equal(begin(left), pipeline.model.moves.mirrored(drawings.opening.beginning(left.opening, began)))
    assert torch.equal(begin(told(pipeline, "it jumps")), began)
    assert torch.equal(begin(None), began)
    drawings.shot = jumps
    assert torch.equal(begin(jumps), began)
    both = PromptCache.batch([told(pipeline, JUMPS), told(pipeline, "it jumps"), left])
    assert both.opening.is_turned.tolist() == [False, False, True]
    batch = drawings.began(both, began.expand(3, -1, -1, -1, -1), chunk_frames=1)
    for row, alone in zip(batch, (drawn, began, begin(left)), strict=True):
        torch.testing.assert_close(row, alone[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_new_shot_in_the_same_scene_is_seen_from_where_the_camera_was(pipeline):
    drawings, moves, codec = drawings_of(pipeline), pipeline.model.moves, pipeline.codec
    jumps, elsewhere = told(pipeline, JUMPS), told(pipeline, "a red car jumps in the forest")
    x0 = torch.randn(1, codec.facts.latent_channels, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = moves.finely(drawings.opening.scene(jumps.scene, x0))

    def seen_from(place: int) -> Tensor:
        return moves.seen_from(drawn, torch.tensor([place]), 8)

    assert moves.camera_at(drawn, seen_from(38)).tolist() == [38]
    before = LastShown(told(pipeline, RIGHT), seen_from(38))
    there = drawings.in_place(x0, jumps, before)
    assert torch.equal(there, codec.on_other_scene(x0, seen_from(0), seen_from(38)))
    assert not torch.equal(there, x0)
    for nowhere in (None, LastShown(elsewhere, before.x0), LastShown(before.prompt, seen_from(0))):
        assert drawings.in_place(x0, jumps, nowhere) is x0
    assert drawings.in_place(x0, elsewhere, before) is x0
    for camera in ("zoom in", "zoom out"):
        zooms = told(pipeline, f"{JUMPS}, {camera}")
        assert (
            drawings.in_place(x0, zooms, before) is x0
            and drawings.in_place(x0, jumps, LastShown(zooms, before.x0)) is x0
        )
    pans = told(pipeline, f"{JUMPS}, pan left")
    assert drawings.in_place(x0, pans, before) is not x0
    it = told(pipeline, "it jumps")
    assert drawings.in_place(x0, it, LastShown(it, before.x0)) is x0  # nobody knows the scene
    both = PromptCache.batch([jumps, elsewhere])
    batch = drawings.in_place(x0.expand(2, -1, -1, -1, -1), both, LastShown(both, before.x0.expand(2, -1, -1, -1, -1)))
    assert len(batch) == 2 and torch.equal(batch[:1], there)


@torch.inference_mode()
def test_who_goes_along_with_the_camera_is_set_on_the_scene_as_they_were_when_the_shot_began(pipeline, monkeypatch):
    monkeypatch.setattr(Opening, "scene", any_scene)
    drawings, moves, codec = drawings_of(pipeline), pipeline.model.moves, pipeline.codec
    right, elsewhere = told(pipeline, RIGHT), told(pipeline, "a red car moves right in the forest")
    began = torch.randn(1, codec.facts.latent_channels, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = moves.finely(drawings.opening.scene(right.scene, began))
    stood = moves.seen_from(drawn, torch.tensor([0]), 8)
    wet = torch.cat([stood[..., :2], began[..., 2:6], stood[..., 6:]], dim=-1)
    began = torch.cat([wet[..., :6, :], stood[..., 6:, :]], dim=-2)

    def going(place: int, way: int, scene: Tensor = drawn) -> Tensor:
        pictures = [moves.seen_from(scene, torch.tensor([place + way * k]), 8) for k in range(4)]
        return torch.stack([moves.pictures(each)[:, k] for k, each in enumerate(pictures)], dim=1).flatten(1, 2)[
            :, :, None
        ]

    x0 = going(30, 2)
    x0[..., 3:5] = began[..., 3:5]  # the others frayed
    for place, way in ((30, 2), (100, -4), (2, -2), (64, 0), (126, 4)):
        shown = going(place, way)
        shown[..., 3:5] = began[..., 3:5]  # whoever stands there
        assert [each.tolist() for each in moves.camera_goes(drawn, shown)] == [[place], [way]]
    who = codec.cut_out(began, stood)
    whole = drawings.set_on_scene(x0, right, began)
    entries = codec.decode_indices(whole)
    seam = codec.on_scene(who, codec.decode_indices(going(30, 2)))
    assert not torch.equal(whole, x0)
    # the scene is decoded all round, where it goes on beyond the edges of what is seen
    assert (entries == codec.decode_indices(seam)).float().mean() > 0.9
    for same in (going(30, 2), going(30, 0), began):  # nobody is there, or the camera stands
        assert drawings.set_on_scene(same, right, began) is same
    swims = torch.cat([x0[..., :2], wet[..., 2:6], x0[..., 6:]], dim=-1)
    assert drawings.set_on_scene(swims, right, wet) is swims  # something reaches below all feet: water
    tall = torch.cat([swims[..., :6, :], x0[..., 6:, :]], dim=-2)
    assert drawings.set_on_scene(tall, right, began) is not tall  # nothing does
    on_the_way = pipeline.prompt_cache(
        torch.lerp(*(pipeline.text.encode(text).embeds for text in (RIGHT, RIGHT.replace("car", "dog"))), 0.5)
    )
    goes = going(30, 2, moves.finely(drawings.opening.scene(on_the_way.scene, began)))
    goes = torch.cat([goes[..., :2], wet[..., 2:6], goes[..., 6:]], dim=-1)
    assert drawings.set_on_scene(goes, on_the_way, began) is goes
    assert drawings.set_on_scene(x0, elsewhere, began) is x0
    assert drawings.set_on_scene(x0, told(pipeline, f"{RIGHT}, zoom in"), began) is x0
    assert drawings.set_on_scene(x0, told(pipeline, "it moves right"), began) is x0  # nobody knows the scene
    both = PromptCache.batch([elsewhere, right])
    batch = drawings.set_on_scene(x0.expand(2, -1, -1, -1, -1), both, began.expand(2, -1, -1, -1, -1))
    assert torch.equal(batch[:1], x0)
    torch.testing.assert_close(batch[1:], whole, rtol=0, atol=1e-4)


def test_every_chunk_after_a_shots_first_may_be_set_on_the_scene_anew(pipeline, monkeypatch):
    seen = []

    def noted(self: Drawings, x0: Tensor, prompt: PromptCache, began: Tensor) -> Tensor:
        seen.append((prompt is self.shot, began))
        return x0 + 1

    before = video(pipeline, RIGHT, JUMPS)
    monkeypatch.setattr(Drawings, "set_on_scene", noted)
    after = video(pipeline, RIGHT, JUMPS)
    assert [is_shot for is_shot, _ in seen] == [True, True]
    assert torch.equal(seen[0][1], after[0][:, :, -1:]) and torch.equal(seen[1][1], after[2][:, :, -1:])
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1] + 1)


def test_a_video_whose_shots_begin_where_the_camera_was_goes_on_after_a_stop_as_it_would_have(pipeline):
    whole = video(pipeline, RIGHT, JUMPS, LEFT)
    cues = [Cue(prompt=prompt, start_chunk=2 * number) for number, prompt in enumerate((RIGHT, JUMPS, LEFT))]
    frames = pipeline.plan(length="1f").grid.first_frame(6)
    for known in (1, 2, 3, 5):
        rest = pipeline.stream(
            cues,
            length=f"{frames}f",
            seed=0,
            made=lambda chunk, known=known: whole[chunk.index] if chunk.index < known else None,
            first_chunk=known,
            known_chunks=known,
        )
        for x0, again in zip(whole[known:], rest, strict=True):
            assert torch.equal(again.latent, x0)


def test_after_a_picture_that_is_known_a_shot_begins_there_alone_as_together_with_others(pipeline, monkeypatch):
    goes = Story("car", "red", "snow", "moves right", mirrored=is_mirrored(0))
    (still,), _ = render_indices(goes, length=1, seed=0, start=25)
    given = PALETTE[np.repeat(still[None], 4, axis=0)]
    placed = []
    monkeypatch.setattr(Drawings, "in_place", lambda self, x0, prompt, last: placed.append(last) or x0)
    clips, alone = [], []
    for seed, prompt in enumerate((JUMPS, "a blue dog jumps in the snow")):
        clips.append(EvalClip(group="", number=seed, take=0, seed=seed, encoded=pipeline.text.encode(prompt)))
        made = pipeline.stream(prompt, length="12f", seed=seed, given=given, shows_given=True)
        alone.append([chunk.latent for chunk in made])
        assert len(placed) == 1  # of the picture, which shows no dog
    cues = [[Cue(prompt=clip.prompt)] for clip in clips]
    both = list(together(pipeline, clips, cues, frames=12, given=[given, given]))
    assert torch.equal(placed[0].x0, placed[1].x0) and len(placed) == 2
    for row, latents in enumerate(alone):
        assert torch.equal(torch.cat(latents, dim=2), torch.cat(both, dim=2)[row : row + 1])
