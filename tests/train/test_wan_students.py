"""Students of Wan's shape, as their publishers run them: checked against one masked pass a step, without a cache."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_wan import tiny_student
from torch import Tensor
from typer.testing import CliRunner

pytest.importorskip("transformers")

from causvid_cli.cli.app import app
from causvid_cli.codec.taehv import TAEHV
from causvid_cli.codec.wan import WanCodec
from causvid_cli.errors import ModelError, UsageError
from causvid_cli.network.masks import frame_mask
from causvid_cli.network.model import CausalTransformer
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import Loading
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import add_noise, x0_from_flow

CPU = torch.device("cpu")
NOISE = {"batch": 1, "channels": 16, "latent_height": 4, "latent_width": 6}
LONGLIVE = {"sink_frames": 3, "window_frames": 9}


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return tiny_student(tmp_path_factory.mktemp("packs") / "tiny-student")


@pytest.fixture(scope="module")
def student(pack) -> Pipeline:
    return load(pack, device="cpu")


def like(student: Pipeline, **changes) -> Pipeline:
    """The same weights as another kind of student."""
    facts = replace(student.facts, **changes)
    model = CausalTransformer(
        student.model.transformer, prediction=facts.prediction, context_noise=facts.context_noise
    ).fuse()
    return Pipeline(facts, folder=None, model=model, codec=student.codec, text=student.text, device=CPU)


@torch.inference_mode()
def by_hand(pipeline: Pipeline, prompts: list[str], *, seed: int, given: np.ndarray | None = None) -> list[Tensor]:
    """Chunks x0, one for each prompt, every past frame seen under the prompt that holds now."""
    model, facts = pipeline.model, pipeline.facts
    noise = seeded_noise(seed, **NOISE)
    past, sizes, times = torch.zeros(1, 16, 0, 4, 6), [], []
    if given is not None:
        past = pipeline.codec.encode_chunk(torch.from_numpy(given)[None], state=pipeline.codec.encode_state())
        count = past.shape[2]
        first = count % facts.chunk_frames
        sizes = [first] * (first > 0) + [facts.chunk_frames] * (count // facts.chunk_frames)
        times = [0.0] * count
    plan = pipeline.plan(length=f"{pipeline.codec.facts.frames(len(prompts) * facts.chunk_frames)}f", seed=seed)
    made = []
    for chunk, prompt in zip(plan.chunks, prompts, strict=True):
        told = model.prompt_cache(pipeline.text.encode(prompt).embeds)
        x_t = noise(chunk, 0)
        for call, step in enumerate(plan.steps):
            timesteps = torch.tensor([times + [step.timestep] * chunk.frames])
            mask = frame_mask([*sizes, chunk.frames])
            flow = model.forward_whole(torch.cat([past, x_t], dim=2), timesteps, told, mask=mask)
            x0 = x0_from_flow(x_t, flow[:, :, -chunk.frames :], step.sigma)
            if call + 1 < len(plan.steps):
                x_t = add_noise(x0, noise(chunk, call + 1), plan.steps[call + 1].sigma)
        past, sizes = torch.cat([past, x0], dim=2), [*sizes, chunk.frames]
        times += [facts.context_noise] * chunk.frames
        made.append(x0)
    return made


def pictures(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8)


def close(got: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=3e-4, rtol=1e-4)


# --- what a chunk sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        pytest.param({}, None, id="chunkwise"),
        pytest.param({"chunk_frames": 1}, None, id="framewise"),
        pytest.param({"chunk_frames": 1}, 1, id="framewise from a photo"),
        pytest.param({}, 1, id="chunkwise from a photo"),
        pytest.param({}, 9, id="chunkwise from a photo held for a chunk, or a clip"),
        pytest.param({"chunk_frames": 1}, 13, id="framewise from a clip"),
        pytest.param({}, 17, id="a clip of five latent frames"),
        pytest.param({"context_noise": 200.0}, None, id="context noise"),
        pytest.param({"context_noise": 200.0}, 9, id="context noise, and a clip that is clean"),
    ],
)
def test_a_video_is_what_masked_passes_make(student, kind, given):
    pipeline, prompts = like(student, **kind), ["a cat"] * 3
    shown = None if given is None else pictures(given)
    frames = pipeline.codec.facts.frames(3 * pipeline.facts.chunk_frames, start=given or 0)
    stream = pipeline.stream("a cat", length=f"{frames}f", seed=1, given=shown)
    close([chunk.latent for chunk in stream], by_hand(pipeline, prompts, seed=1, given=shown))


def test_prompts_over_time_are_what_masked_passes_make(student):
    cues = [Cue(prompt="a cat"), Cue(prompt="a dog", start_chunk=1), Cue(prompt="a bird", start_chunk=2)]
    got = [chunk.latent for chunk in student.stream(cues, length="33f", seed=1)]
    close(got, by_hand(student, ["a cat", "a dog", "a bird"], seed=1))


def test_a_prompt_that_is_set_on_the_way_is_a_cue(student):
    stream = student.stream("a cat", length="33f", seed=1)
    got = [next(stream).latent]
    stream.prompt = "a dog"
    got += [chunk.latent for chunk in stream]
    cues = [Cue(prompt="a cat"), Cue(prompt="a dog", start_chunk=1)]
    assert all(map(torch.equal, got, [chunk.latent for chunk in student.stream(cues, length="33f", seed=1)]))


def test_context_noise_makes_a_difference(student):
    clean, noisy = (
        [chunk.latent for chunk in like(student, context_noise=noise).stream("a cat", length="21f", seed=1)]
        for noise in (0.0, 200.0)
    )
    assert torch.equal(clean[0], noisy[0])
    assert (clean[1] - noisy[1]).abs().max() > 1e-3


@torch.inference_mode()
def test_a_clean_pass_in_the_next_chunks_first_call_has_the_context_noise_too(student):
    pipeline = like(student, context_noise=200.0)
    plan = pipeline.plan(length="33f", seed=1)
    told = pipeline.model.prompt_cache(pipeline.text.encode("a cat").embeds)

    def made(joined: bool) -> list[Tensor]:
        chunks = rollout(
            pipeline.model,
            prompt=lambda chunk: told,
            steps=plan.steps,
            cache=pipeline.kv_cache(plan),
            chunks=plan.chunks,
            noise=seeded_noise(1, **NOISE),
            merge_clean_pass=joined,
        )
        return [x0 for _, x0 in chunks]

    close(made(True), made(False))


def test_a_photo_of_a_framewise_student_is_one_latent_frame_and_the_first_picture(student):
    pipeline, photo = like(student, chunk_frames=1), pictures(1)
    chunks = list(pipeline.stream("a cat", length="9f", seed=1, given=photo, shows_given=True))
    assert [(chunk.index, chunk.start_frame, len(chunk.frames)) for chunk in chunks] == [
        (-1, 0, 1),
        (0, 1, 4),
        (1, 5, 4),
    ]
    codec = pipeline.codec
    x0 = codec.encode_chunk(torch.from_numpy(photo)[None], state=codec.encode_state())
    assert np.array_equal(chunks[0].frames, codec.decode_chunk(x0, state=codec.decode_state())[0].numpy())


# --- long roll-outs ---------------------------------------------------------------------------------------------------


def test_a_long_video_with_a_sink_is_at_first_the_one_that_sees_everything(student):
    longlive = like(student, **LONGLIVE)
    long = [chunk.latent for chunk in longlive.stream("a cat", length="117f", seed=1)]
    assert len(long) == 10
    whole = [chunk.latent for chunk in like(student, window_frames=0).stream("a cat", length="117f", seed=1)]
    close(long[:4], whole[:4])
    assert (long[4] - whole[4]).abs().max() > 1e-3  # from here on frames are left out
    assert all(x0.isfinite().all() for x0 in long)


@torch.inference_mode()
def test_memory_does_not_grow_with_a_long_video(student):
    longlive = like(student, **LONGLIVE)
    caches = []
    kv_cache = longlive.kv_cache
    longlive.kv_cache = lambda plan, **options: caches.append(kv_cache(plan, **options)) or caches[-1]
    for _ in islice(longlive.stream("a cat", length="inf", seed=1, steps=1), 12):
        pass
    (cache,) = caches
    assert cache.frames() == [0, 1, 2, *range(27, 33)]  # sink, and window without the chunk at work
    assert cache.capacity_frames == 12


def test_a_long_videos_beginning_is_the_short_video(student):
    longlive = like(student, **LONGLIVE)
    short = longlive.generate("a cat", length="45f", seed=1)
    assert np.array_equal(longlive.generate("a cat", length="93f", seed=1)[:45], short)


def test_a_short_videos_cache_is_no_larger_than_the_video(student):
    plan = student.plan(length="9f", seed=1)
    assert student.facts.window_frames == 21
    assert student.kv_cache(plan).capacity_frames == 3
    assert student.kv_cache(student.plan(length="0.1s", seed=1)).capacity_frames == 3
    assert student.kv_cache(student.plan(length="200f", seed=1)).capacity_frames == 21
    assert student.kv_cache(student.plan(length="inf", seed=1)).capacity_frames == 21


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (32, 64), (112, 48), (48, 112)])
@pytest.mark.parametrize("vae", ["full", "tiny"])
def test_any_multiple_of_16_can_be_made(pack, size, vae):
    pipeline = load(pack, device="cpu", loading=Loading(vae=vae))
    frames = pipeline.generate("a cat", length="9f", seed=1, steps=1, size=size)
    assert frames.shape == (9, size[1], size[0], 3)


def test_another_size_names_the_nearest(student):
    with pytest.raises(UsageError, match="width 830 is not a multiple of 16; try 816 or 832"):
        student.stream("a cat", size=(830, 480))


@pytest.mark.parametrize(("size", "tokens"), [((832, 480), 1560), ((480, 832), 1560), ((1280, 720), 3600)])
def test_published_sizes_have_the_published_tokens(student, size, tokens):
    assert student.plan(size=size).geometry.tokens_per_latent_frame == tokens


def test_720p_can_be_made(pack):
    pipeline = like(load(pack, device="cpu", loading=Loading(vae="tiny")), chunk_frames=1)
    assert pipeline.generate("a cat", length="1f", seed=1, steps=1, size=(1280, 720)).shape == (1, 720, 1280, 3)


# --- the tiny codec ---------------------------------------------------------------------------------------------------


def test_the_tiny_codec_changes_the_pictures_and_not_the_latents(pack, student):
    tiny = load(pack, device="cpu", loading=Loading(vae="tiny"))
    assert isinstance(student.codec, WanCodec)
    assert isinstance(tiny.codec, TAEHV)
    one, other = (list(pipeline.stream("a cat", length="21f", seed=1)) for pipeline in (student, tiny))
    for full, small in zip(one, other, strict=True):
        assert torch.equal(full.latent, small.latent)
        assert full.frames.shape == small.frames.shape
        assert not np.array_equal(full.frames, small.frames)


def test_the_command_line_takes_the_tiny_codec_and_says_so_in_the_recipe(pack, work):
    options = ["--model", str(pack), "--vae", "tiny", "--length", "9f", "--seed", "1", "--device", "cpu", "--sidecar"]
    done = CliRunner().invoke(app, ["t2v", "a cat", *options, "-o", "cat.mp4"])
    assert done.exit_code == 0, done.stderr
    recipe = json.loads(Path("cat.mp4.json").read_text())["recipe"]
    assert recipe["loading"] == {"vae": "tiny"}
    again = CliRunner().invoke(app, ["rerun", "cat.mp4", "--device", "cpu", "-o", "again.mp4"])
    assert again.exit_code == 4, again.stderr  # a pack elsewhere is not found by its name
    assert "tiny-student" in again.stderr


def test_a_photo_is_set_in_motion_by_the_tiny_codec(pack):
    tiny = load(pack, device="cpu", loading=Loading(vae="tiny"))
    chunks = list(tiny.stream("a cat", length="9f", seed=1, given=pictures(1), shows_given=True))
    assert [len(chunk.frames) for chunk in chunks] == [1, 8]


def test_a_pack_without_the_tiny_codec_names_the_remedy(pack, tmp_path, tiny):
    bare = shutil.copytree(pack, tmp_path / "bare")
    shutil.rmtree(bare / "vae_tiny")
    wanted = (
        rf"^--vae tiny: tiny-student has none in {bare}/vae_tiny; `causvid models pull tiny-student` gets it; "
        "or leave it out$"
    )
    with pytest.raises(ModelError, match=wanted):
        load(bare, device="cpu", loading=Loading(vae="tiny"))
    with pytest.raises(ModelError, match="^--vae tiny: tiny has one codec only; leave it out$"):
        load(tiny, device="cpu", loading=Loading(vae="tiny"))
