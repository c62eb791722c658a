"""Krea's way with the past: seen anew before every chunk, as if the video began with the window."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_facts
from tiny_wan import tiny_student
from torch import Tensor

pytest.importorskip("transformers")

from causvid_cli.errors import ModelError
from causvid_cli.evaluate.clip_sources import EvalClip, student_maker
from causvid_cli.geometry import Chunk
from causvid_cli.network.masks import frame_mask
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.prompt.cues import Cue
from causvid_cli.sampling.krea import Recomputed
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.sampling.schedule import add_noise, x0_from_flow

CPU = torch.device("cpu")
OPTIONS = {"length": "45f", "seed": 3}
"""Four chunks of three latent frames."""


@pytest.fixture(scope="module")
def krea(tmp_path_factory) -> Pipeline:
    folder = tiny_student(tmp_path_factory.mktemp("packs") / "tiny-krea", window_frames=6, recompute=True)
    return load(folder, device="cpu")


def by_hand(pipeline: Pipeline, prompts: list[str]) -> list[Tensor]:
    """Chunks x0 by the description alone: no cache, one masked pass over window and chunk for every step."""
    codec, model = pipeline.codec, pipeline.model
    plan = pipeline.plan(**OPTIONS)
    noise = seeded_noise(3, batch=1, channels=16, latent_height=4, latent_width=6)
    state, made, pictures = codec.decode_state(), [], torch.zeros(1, 0, 32, 48, 3, dtype=torch.uint8)
    for number, prompt in enumerate(prompts):
        chunk, window = Chunk(number, 3 * number, 3), torch.zeros(1, 16, 0, 4, 6)
        told = model.prompt_cache(pipeline.text.encode(prompt).embeds)
        if made:
            window = made[-1]
        if number > 1:  # the last eight pictures are of two latent frames; the one before them begins the window
            first = codec.encode_chunk(pictures[:, -9:-8], state=codec.encode_state())
            window = torch.cat([first, window[:, :, 1:]], dim=2)
        x_t = noise(chunk, 0)
        for call, step in enumerate(plan.steps):
            frames = window.shape[2]
            timesteps = torch.tensor([[0.0] * frames + [step.timestep] * 3])
            mask = frame_mask([3] * (frames // 3 + 1))
            flow = model.forward_whole(torch.cat([window, x_t], dim=2), timesteps, told, mask=mask)[:, :, frames:]
            x0 = x0_from_flow(x_t, flow, step.sigma)
            if call + 1 < len(plan.steps):
                x_t = add_noise(x0, noise(chunk, call + 1), plan.steps[call + 1].sigma)
        made.append(x0)
        pictures = torch.cat([pictures, codec.decode_chunk(x0, state=state)], dim=1)
    return made


@torch.inference_mode()
def test_it_equals_recomputing_by_hand(krea):
    wanted = by_hand(krea, ["a cat"] * 4)
    got = [chunk.latent for chunk in krea.stream("a cat", **OPTIONS)]
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_it_is_another_video_than_one_whose_past_is_kept(krea):
    kept = Pipeline(
        replace(krea.facts, recompute=False),
        folder=None,
        model=krea.model,
        codec=krea.codec,
        text=krea.text,
        device=CPU,
    )
    new, old = ([chunk.latent for chunk in pipeline.stream("a cat", **OPTIONS)] for pipeline in (krea, kept))
    assert torch.equal(new[0], old[0])
    torch.testing.assert_close(new[1], old[1], atol=1e-5, rtol=0)  # until then nothing is left out
    assert (new[2] - old[2]).abs().max() > 0.01


@torch.inference_mode()
def test_a_new_prompt_takes_hold_of_the_window_at_once(krea):
    prompts = ["a cat", "a cat", "a dog", "a dog"]
    wanted = by_hand(krea, prompts)
    cues = [Cue(prompt="a cat"), Cue(prompt="a dog", start_chunk=2)]
    for one, other in zip(krea.stream(cues, **OPTIONS), wanted, strict=True):
        torch.testing.assert_close(one.latent, other, atol=2e-4, rtol=1e-4)


def test_transitions_differ_as_they_do_elsewhere(krea):
    def chunks(transition):
        cues = [Cue(prompt="a cat"), Cue(prompt="a dog", start_chunk=2, transition=transition)]
        return [chunk.latent for chunk in krea.stream(cues, **OPTIONS)]

    recache, soft, cut = chunks("recache"), chunks("soft"), chunks("cut")
    for before in (0, 1):
        assert torch.equal(recache[before], soft[before])
        assert torch.equal(recache[before], cut[before])
    assert len({x0[2].sum().item() for x0 in (recache, soft, cut)}) == 3
    alone = next(iter(krea.stream("a dog", **OPTIONS)))
    assert alone.latent.shape == cut[2].shape


def test_a_resumed_video_is_the_same_bit_for_bit(krea):
    whole = list(krea.stream("a cat", **OPTIONS))
    known = {chunk.index: chunk.latent for chunk in whole[:2]}
    stream = krea.stream("a cat", **OPTIONS, made=lambda chunk: known.get(chunk.index), first_chunk=2)
    for one, other in zip(stream, whole[2:], strict=True):
        assert np.array_equal(one.frames, other.frames)


def test_a_photo_begins_the_window_until_it_is_left_out(krea):
    photo = np.full((9, 32, 48, 3), 200, dtype=np.uint8)
    chunks = list(krea.stream("a cat", **OPTIONS, given=photo, shows_given=True))
    assert [len(chunk.frames) for chunk in chunks] == [9, 12, 12, 12]
    other = list(krea.stream("a cat", **OPTIONS, given=255 - photo, shows_given=True))
    assert (chunks[1].latent - other[1].latent).abs().max() > 1e-3


@torch.inference_mode()
def test_a_window_of_several_chunks_is_seen_chunk_by_chunk(krea):
    seen = Recomputed(krea.codec, frames=6, chunk_frames=3)
    x0 = torch.randn(1, 16, 12, 4, 6, generator=torch.Generator().manual_seed(0))
    state = krea.codec.decode_state()
    for start in range(0, 12, 3):
        frames = krea.codec.decode_chunk(x0[:, :, start : start + 3], state=state)
        seen.show(frames, start_frame=start, count=3)
    parts = seen([(Chunk(number, 3 * number, 3), x0[:, :, 3 * number : 3 * number + 3]) for number in range(4)])
    assert [(chunk.index, chunk.start_frame, chunk.frames) for chunk, _ in parts] == [(2, 6, 3), (3, 9, 3)]
    assert torch.equal(parts[0][1][:, :, 1:], x0[:, :, 7:9])
    assert not torch.equal(parts[0][1][:, :, :1], x0[:, :, 6:7])
    assert torch.equal(parts[1][1], x0[:, :, 9:])
    assert seen([]) == []
    assert len(seen._last_pictures) == 6


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"window_frames": 3, "chunk_frames": 3}, "needs a window larger than a chunk"),
        ({"window_frames": 6, "sink_frames": 3}, "goes without a sink"),
        ({"window_frames": 6, "sink_frames": 0, "rope": "absolute"}, "needs relative positions"),
    ],
)
def test_facts_that_contradict_it_are_refused(changes, complaint):
    with pytest.raises(ModelError, match=f"recompute: {complaint}"):
        tiny_facts(**{"sink_frames": 0, "recompute": True} | changes)


def test_videos_of_an_evaluation_are_those_made_alone(krea):
    clips = [
        EvalClip(group="", number=0, take=take, seed=seed, encoded=krea.text.encode(prompt))
        for take, (prompt, seed) in enumerate((("a cat", 3), ("a dog", 4)))
    ]
    parts = list(student_maker(krea)(clips, 33))
    for number, clip in enumerate(clips):
        alone = krea.generate(clip.prompt, length="33f", seed=clip.seed)
        got = np.concatenate([part.frames[number] for part in parts])
        assert np.abs(got.astype(int) - alone).max() <= 2  # a batch rounds in another way
