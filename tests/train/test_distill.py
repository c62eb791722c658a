"""The stages of a distillation, and a whole one in small."""

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from train.test_story_clips import (
    CELLS,
    CHANNELS,
    CPU,
    FEW,
    FRAMES,
    STEPS,
    small_clips,
    small_denoiser,
    small_tensors,
    tiny_pixel_codec,
)

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import load_facts
from causvid_cli.device import training_arithmetic
from causvid_cli.errors import UsageError
from causvid_cli.geometry import take_chunks
from causvid_cli.network.backbone import attention
from causvid_cli.network.copies import PARTS
from causvid_cli.pipeline import load
from causvid_cli.sampling.ode import solve_ode
from causvid_cli.sampling.schedule import sampler_sigmas
from causvid_cli.storybook import ALL_WORDS, FIRST_WORDS, SQUARE, WIDE
from causvid_cli.teacher import load_teacher
from causvid_cli.train import autoencoder, story_clips
from causvid_cli.train import prepare as preparation
from causvid_cli.train.causal import noisy_context, train_causal
from causvid_cli.train.config import (
    STAGES,
    AutoencoderConfig,
    CausalConfig,
    ClipsConfig,
    DmdConfig,
    EvalConfig,
    NetworkConfig,
    OdeConfig,
    Optimisation,
    RolloutFacts,
    StudentConfig,
    TrainConfig,
    WorldConfig,
    load_config,
)
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser, build_network, with_layers
from causvid_cli.train.distill import Distillation
from causvid_cli.train.layout import Layout, few_steps, first_steps, slid_prompts
from causvid_cli.train.losses import palette_cross_entropy
from causvid_cli.train.ode import OdePairs, make_ode_pairs
from causvid_cli.train.opening import LATENTS_SHARE, FirstChunks, train_opening, train_pixels
from causvid_cli.train.student import Regression, own_past, train_student
from causvid_cli.train.teacher_stage import train_teacher
from causvid_cli.train.trainer import StageSetting

FACTS = RolloutFacts(chunk_frames=1, window_frames=2, steps=(1000.0, 500.0))
SETTING = StageSetting(device=CPU)


# --- stages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "steps", "factor"), [pytest.param("flow", 200, 6, marks=pytest.mark.slow), ("x0", 120, 15)]
)
def test_one_clip_can_be_learnt_by_heart(tmp_path, prediction, steps, factor):
    clips, rows = small_clips(tmp_path / "clips", count=1), []
    denoiser = small_denoiser(prediction=prediction)
    plan = Optimisation(steps=steps, lr=1e-2, batch=16, warmup=10, log_every=20, ema=0.9)
    setting = StageSetting(device=CPU, report=rows.append)
    train_teacher(tmp_path, denoiser, clips, plan, frames=None, shift=1.5, setting=setting)
    losses = [row["loss"] for row in rows]
    assert losses[-1] < losses[0] / factor, losses
    assert rows[-1]["x0_error"] < 0.3, rows[-1]  # a clip of variance 1


def test_teacher_forcing_learns_from_every_chunk_at_its_own_noise_level(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips"), small_denoiser()
    denoiser.text.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
    train_causal(tmp_path / "run", denoiser, clips, FEW, FACTS, shift=2.0, setting=SETTING)
    assert torch.equal(denoiser.text.embed.weight, before["text.embed.weight"])
    assert (denoiser.network.transformer.proj_out.weight != 0).any()


def test_stages_learn_at_noise_levels_that_lean_to_noise_by_their_shift(tmp_path, monkeypatch):
    """The same uniform numbers give s at shift 1 and shift * s / (1 + (shift - 1) * s) at another."""
    clips = small_clips(tmp_path / "clips")
    stages = {
        "teacher": lambda folder, net, shift: train_teacher(
            folder, net, clips, FEW, frames=None, shift=shift, setting=SETTING
        ),
        "causal": lambda folder, net, shift: train_causal(folder, net, clips, FEW, FACTS, shift=shift, setting=SETTING),
    }
    for name, train in stages.items():
        fed: dict[float, list[Tensor]] = {1.0: [], 3.0: []}
        for shift, timesteps in fed.items():
            denoiser = small_denoiser()
            call = denoiser.network.forward_whole

            def spy(x_t, timestep, prompt, *, call=call, timesteps=timesteps, **options):
                timesteps.append(timestep.flatten())
                return call(x_t, timestep, prompt, **options)

            monkeypatch.setattr(denoiser.network, "forward_whole", spy)
            train(tmp_path / f"{name}-{shift}", denoiser, shift)
        s, shifted = (torch.cat(timesteps) / 1000 for timesteps in fed.values())
        assert len(s) >= 4, name
        torch.testing.assert_close(shifted, 3 * s / (1 + 2 * s), msg=lambda said, name=name: f"{name}: {said}")


def test_clean_context_gets_a_little_noise_of_its_own_for_each_clip():
    x0 = torch.zeros(50, 1, 2, 4, 4)
    spread = noisy_context(x0, np.random.default_rng(0)).flatten(1).std(dim=1)
    assert spread.max() < 0.25  # 0.15, give or take what 32 numbers allow
    assert spread.min() < 0.03
    assert spread.unique().numel() == 50


def ode_pairs(folder: Path, denoiser: Denoiser, clips: LatentClips, *, chunk_frames: int = 2, **plan: str) -> OdePairs:
    facts = replace(FACTS, chunk_frames=chunk_frames)
    options = OdeConfig(**{"source": "causal", "pairs": 4, "steps": 5, "batch": 2, **plan})
    path = folder / "pairs.safetensors"
    return make_ode_pairs(path, denoiser, clips, options, facts, shift=2.0, setting=SETTING)


def random_output(denoiser: Denoiser) -> Denoiser:
    """The same, but its untrained prediction is not zero."""
    torch.manual_seed(1)
    nn.init.normal_(denoiser.network.transformer.proj_out.weight, std=0.2)
    return denoiser


def test_ode_pairs_are_points_of_the_guided_solution_at_the_students_levels(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips", count=1), random_output(small_denoiser())
    pairs = ode_pairs(tmp_path, denoiser, clips)
    assert pairs.points.shape == (4, len(STEPS) + 1, CHANNELS, 2, CELLS, CELLS)
    assert not pairs.points[torch.arange(4)].requires_grad

    sigmas = sorted({*sampler_sigmas(5, shift=2.0), *(step.sigma for step in STEPS)}, reverse=True)
    network = denoiser.network
    with torch.no_grad():
        solution = solve_ode(
            network.forward_whole,
            "flow",
            pairs.points[torch.arange(2)][:, 0].float(),
            sigmas,
            denoiser.prompt(pairs.rows[:2]),
            empty=denoiser.prompt(denoiser.text.empty_rows(2)),
            guidance=2.5,
        )
        points = dict(solution)
    kept = pairs.points[torch.arange(2)].float()
    for i, sigma in enumerate([*(step.sigma for step in STEPS), 0.0]):
        error = (points[sigma] - kept[:, i]).abs().max().item()
        assert error < 0.02, f"sigma {sigma:.3f}: largest error {error:.3g}"  # kept as float16, solved from float16


def test_ode_pairs_are_made_once(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips"), small_denoiser()
    first = ode_pairs(tmp_path, denoiser, clips)
    again = ode_pairs(tmp_path, random_output(denoiser), clips)
    assert torch.equal(first.points[torch.arange(4)], again.points[torch.arange(4)])


def test_the_students_own_past_begins_with_the_truth_and_gives_no_gradient(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips"), random_output(small_denoiser())
    batch = clips.batch(np.random.default_rng(0), 2, device=CPU, sprite_weight=1.0)
    past = own_past(denoiser, batch, Layout.of(FRAMES, FACTS), FACTS, given=2, rng=np.random.default_rng(1))
    assert past.shape == batch.x0.shape
    assert torch.equal(past[:, :, :2], batch.x0[:, :, :2])
    assert (past[:, :, 2:] != batch.x0[:, :, 2:]).any()
    assert not past.requires_grad


def test_the_students_own_past_begins_with_what_the_opening_network_makes(tmp_path):
    clips, denoiser, opening = small_clips(tmp_path / "clips"), random_output(small_denoiser()), small_denoiser()
    batch, layout = clips.batch(np.random.default_rng(0), 2, device=CPU, sprite_weight=1.0), Layout.of(FRAMES, FACTS)
    other = replace(FACTS, first_steps=FACTS.steps[:1])
    own, another, told = (
        own_past(denoiser, batch, layout, other, given=0, opening=each, rng=np.random.default_rng(1))
        for each in (None, random_output(opening), denoiser)
    )
    assert torch.allclose(own, told, atol=1e-5)  # it was the student itself
    nn.init.zeros_(opening.network.transformer.proj_out.weight)
    nn.init.zeros_(opening.network.transformer.proj_out.bias)
    made = own_past(denoiser, batch, layout, other, given=0, opening=opening, rng=np.random.default_rng(1))
    noise = np.random.default_rng(1).standard_normal(made[:, :, :1].shape, dtype=np.float32)
    sigma = first_steps(other)[0].sigma
    assert torch.allclose(made[:, :, :1], sigma * torch.from_numpy(noise), atol=1e-5)  # it predicts no flow at all
    assert (made[:, :, 1:] - another[:, :, 1:]).abs().max() > 1e-3
    regression = Regression(denoiser, clips, None, FACTS, batch=2, device=CPU, opening=opening)
    assert regression(np.random.default_rng(0))["loss"] > 0


@pytest.mark.parametrize("first_predictable_frame", [0, 1, 2, 3])
@pytest.mark.parametrize("chunk_frames", [1, 2])
def test_the_student_learns_from_clips_of_every_kind(tmp_path, first_predictable_frame, chunk_frames):
    clips = small_clips(tmp_path / "clips", first_predictable_frame=first_predictable_frame)
    denoiser, rows = random_output(small_denoiser()), []
    pairs = ode_pairs(tmp_path, denoiser, small_clips(tmp_path / "plain"), chunk_frames=chunk_frames)
    facts = replace(FACTS, chunk_frames=chunk_frames)
    regression = Regression(denoiser, clips, pairs, facts, batch=2, device=CPU, supervise_rollout=True, blends=0.5)
    train_student(tmp_path / "run", denoiser, regression, FEW, StageSetting(device=CPU, report=rows.append))
    assert len(rows) == 2
    assert all(row["loss"] == pytest.approx(row["later"] + row["pairs"]) for row in rows)
    assert all(row["later"] > 0 and row["pairs"] > 0 for row in rows)


def test_the_teachers_whole_clips_are_learnt_chunk_by_chunk(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips"), random_output(small_denoiser())
    pairs = ode_pairs(tmp_path, denoiser, clips, chunk_frames=1, source="teacher")
    assert pairs.latent_frames == FRAMES
    layout = Layout.of(FRAMES, FACTS)
    x_t, x0, _, step = pairs.batch(np.random.default_rng(0), 8, layout, FACTS, device=CPU)
    assert step.shape == (8, FRAMES)
    assert len({tuple(row) for row in step.tolist()}) > 1  # every chunk at a level of its own
    every = pairs.points[torch.arange(len(pairs))]
    for clip in range(8):
        (place,) = [i for i, points in enumerate(every) if torch.equal(points[-1].float(), x0[clip])]
        wanted = [every[place, step[clip, frame], :, frame] for frame in range(FRAMES)]
        assert torch.equal(x_t[clip], torch.stack(wanted, dim=1).float())
    regression = Regression(denoiser, clips, pairs, FACTS, batch=2, device=CPU, supervise_rollout=False)
    values = regression(np.random.default_rng(0))
    assert values.keys() == {"loss", "pairs"}
    values["loss"].backward()
    assert denoiser.network.transformer.proj_out.weight.grad.any()


def test_given_frames_that_fill_no_chunk_shift_all_chunks():
    layout = Layout.of(8, replace(FACTS, chunk_frames=2, window_frames=8), first_frames=1)
    assert [(chunk.start_frame, chunk.frames) for chunk in layout.chunks] == [(0, 1), (1, 2), (3, 2), (5, 2), (7, 1)]
    assert layout.per_frame(torch.arange(5)[None]).tolist() == [[0, 1, 1, 2, 2, 3, 3, 4]]
    assert layout.mask.shape == (16, 16)
    assert layout.mask[9].nonzero().flatten().tolist() == [0, 9, 10]  # sees the clean first frame, and its own chunk


@pytest.mark.parametrize("first_predictable_frame", [0, 1, 2])
def test_teacher_forcing_cuts_clips_where_they_can_be_foretold(tmp_path, first_predictable_frame, monkeypatch):
    clips, denoiser, layouts = (
        small_clips(tmp_path / "clips", first_predictable_frame=first_predictable_frame),
        small_denoiser(),
        [],
    )
    of = Layout.of
    monkeypatch.setattr(Layout, "of", lambda *args, **named: layouts.append(of(*args, **named)) or layouts[-1])
    facts = replace(FACTS, chunk_frames=2)
    train_causal(tmp_path / "run", denoiser, clips, FEW, facts, shift=1.0, setting=StageSetting(device=CPU), blends=0.5)
    assert {layout.chunks[0].frames for layout in layouts} == {first_predictable_frame % 2 or 2}


def test_clips_that_chunks_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="chunk_frames 3 does not divide clips of 8 latent frames"):
        Layout.of(8, replace(FACTS, chunk_frames=3))


# --- a whole run ---------------------------------------------------------------------------------------------------


def test_where_nothing_is_untold_first_chunks_learn_the_truth_and_no_ode_is_needed(tmp_path):
    clips, denoiser, rows = small_clips(tmp_path / "clips"), random_output(small_denoiser()), []
    options = {"batch": 2, "device": CPU, "supervise_rollout": True}
    regression = Regression(denoiser, clips, None, FACTS, first_chunks=True, **options)
    train_student(tmp_path / "run", denoiser, regression, FEW, StageSetting(device=CPU, report=rows.append))
    assert all(row["loss"] == row["later"] > 0 for row in rows)
    denoiser = small_denoiser()  # it makes zeros, whatever it sees: only what is counted can differ
    with_first = Regression(denoiser, clips, None, FACTS, first_chunks=True, **options)(np.random.default_rng(0))
    without = Regression(denoiser, clips, None, FACTS, **options)(np.random.default_rng(0))
    assert with_first["later"] != without["later"]


def test_one_step_from_noise_learns_a_clip_by_heart_where_its_prompt_tells_it(tmp_path):
    clips, rows = small_clips(tmp_path / "clips", count=1), []
    facts, denoiser = replace(FACTS, steps=(1000.0,)), small_denoiser(prediction="x0")
    plan = CausalConfig(steps=150, lr=1e-2, batch=8, warmup=10, log_every=30, ema=0.9)
    setting = StageSetting(device=CPU, report=rows.append)
    train_causal(tmp_path / "run", denoiser, clips, plan, facts, shift=2.0, setting=setting, few=True)
    losses = [row["loss"] for row in rows]
    assert losses[-1] < losses[0] / 3, losses


@pytest.mark.parametrize("chunk_frames", [1, 2])
def test_chunks_of_copies_begin_with_what_was_there_last(chunk_frames):
    layout = Layout.of(FRAMES, replace(FACTS, chunk_frames=chunk_frames))
    noise, x0 = torch.randn(2, 2, CHANNELS, FRAMES, CELLS, CELLS)
    shape = small_denoiser().network
    given = torch.tensor([0, 2])
    assert layout.begun(shape, noise, x0, given) is noise
    network = small_denoiser(prediction="copies").network
    moves = network.moves
    torch.nn.init.normal_(moves.weight)
    begun = layout.begun(network, noise, x0, given)
    began = torch.stack([x0[0, :, chunk_frames - 1 : chunk_frames], x0[1, :, 1:2]])
    assert torch.equal(begun[:, :, :chunk_frames], torch.cat([noise] * PARTS, dim=1)[:, :, :chunk_frames])
    for frame in range(chunk_frames, FRAMES):
        last = frame // chunk_frames * chunk_frames - 1
        last, before = (x0[:, :, max(0, place)].unsqueeze(2) for place in (last, last - 1))
        assert torch.equal(
            begun[:, :, [frame]], moves.what_was_there(last, before, began, moves.scene_or_last(None, last))
        )


def test_what_stands_is_right_before_anything_is_learnt_and_what_moves_is_learnt_by_heart(tmp_path):
    facts, tensors = (
        replace(FACTS, steps=(1000.0,)),
        small_tensors(count=1, first_predictable_frame=torch.ones(1).long()),
    )
    for moves, steps, first, last in ((0, 15, 0.1, 1e-3), (1, 80, 10.0, 0.01)):
        begin = tensors["x0"][:, :, 0]
        x0 = torch.stack([begin.roll(frame * moves, -1) for frame in range(FRAMES)], dim=2)  # cells to the right
        (folder := tmp_path / f"clips-{moves}").mkdir()
        save_file({**tensors, "x0": x0}, folder / "clips-00000.safetensors")
        clips, denoiser, rows = LatentClips(folder), small_denoiser(prediction="copies"), []
        plan = CausalConfig(steps=steps, lr=3e-3, batch=8, warmup=10, log_every=1, ema=0.9)
        setting = StageSetting(device=CPU, report=rows.append)
        train_causal(tmp_path / f"{moves}", denoiser, clips, plan, facts, shift=2.0, setting=setting, few=True)
        losses = [row["flow"] for row in rows]
        assert losses[0] < first and losses[-1] < last, losses


def test_openings_are_learnt_by_a_network_of_their_own_at_the_levels_of_the_first_chunk(tmp_path, monkeypatch):
    openings, denoiser = small_clips(tmp_path / "openings", count=1), small_denoiser(prediction="x0")
    seen, rows, call = [], [], denoiser.network.forward_whole

    def spy(x_t, timestep, prompt, **options):
        seen.append((x_t.shape[2], bool(options), set(timestep.flatten().tolist())))
        return call(x_t, timestep, prompt, **options)

    monkeypatch.setattr(denoiser.network, "forward_whole", spy)
    plan = Optimisation(steps=100, lr=1e-2, batch=8, warmup=5, log_every=20, ema=0.9)
    facts = replace(FACTS, steps=(1000.0,), first_steps=(1000.0, 500.0))
    setting = StageSetting(device=CPU, report=rows.append)
    train_opening(tmp_path / "run", FirstChunks(denoiser, openings, facts, False, CPU), plan, setting)
    levels = {round(1000 * step.sigma, 3) for step in first_steps(facts)}
    assert [(frames, masked) for frames, masked, _ in seen] == [(openings.latent_frames, False)] * 100
    assert {round(time, 3) for *_, times in seen for time in times} == levels and len(levels) == 2
    assert rows[-1]["loss"] < rows[0]["loss"] / 2


def codec_of_few_channels() -> PixelCodec:
    torch.manual_seed(0)
    codec = tiny_pixel_codec()(palette=torch.tensor(storybook.PALETTE), cell_channels=CHANNELS // 4)
    codec.latents_mean.fill_(0.3)
    codec.latents_std.fill_(2.0)
    return codec.eval().requires_grad_(False)


@pytest.mark.parametrize(("size", "shapes", "count"), [(SQUARE, (), 5), (WIDE, (WIDE,), 2)])
def test_first_chunks_then_learn_what_the_decoder_shows_of_them(tmp_path, monkeypatch, size, shapes, count):
    """A network that made what the codec encodes of the drawings would be as wrong as the codec is, no more."""
    monkeypatch.setattr("causvid_cli.train.opening.PICTURES", 4)
    monkeypatch.setattr("causvid_cli.train.opening.SQUARE_SHARE", 0)
    openings, denoiser, rows = small_clips(tmp_path / "openings", count=1), small_denoiser(prediction="x0"), []
    codec, facts = codec_of_few_channels(), replace(FACTS, steps=(1000.0,))
    chunks = FirstChunks(denoiser, openings, facts, False, CPU)
    rng = np.random.default_rng(3)
    if shapes:  # which of them
        rng.random(), rng.integers(1)
    drawn = story_clips.render_clips(story_clips.opening_stories(rng, count), rng, frames=4, size=size)
    right = codec.encode_indices(drawn.indices)
    scores = codec.decode_frames(codec.unstack_cells(right).flatten(0, 1))
    weight = torch.tensor([1.0, 3.0, 12.0])[drawn.mask.long()].flatten(0, 1)
    wrong = palette_cross_entropy(scores, drawn.indices.flatten(0, 1), weight)
    with monkeypatch.context() as patched:
        patched.setattr(denoiser.network, "forward_whole", lambda *_, **__: right)
        loss = chunks.pixels_loss(np.random.default_rng(3), 5, codec, FIRST_WORDS, shapes)
        assert loss == pytest.approx(wrong.item())

    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    setting = StageSetting(device=CPU, report=rows.append)
    train_pixels(tmp_path / "run", chunks, codec, FIRST_WORDS, replace(FEW, log_every=1), setting)
    row = rows[-1]
    assert row["loss"] == pytest.approx(row["pixels"] + LATENTS_SHARE * row["latents"], rel=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())
    assert denoiser.network.transformer.proj_out.weight.abs().max() > 0


@pytest.mark.parametrize("stage", ["causal", "few", "opening", "pixels"])
def test_a_batch_in_parts_takes_the_same_steps_of_a_stage(tmp_path, stage):
    """As several processes would share it."""
    clips, losses = small_clips(tmp_path / "clips"), []
    for accumulate in (1, 2):
        rows: list[dict[str, float]] = []
        plan = Optimisation(steps=6, lr=1e-2, batch=4, warmup=2, log_every=1, ema=0.9, accumulate=accumulate)
        facts = replace(FACTS, steps=(1000.0, 500.0), first_steps=(1000.0, 250.0))
        setting = StageSetting(device=CPU, report=rows.append)
        folder, denoiser = tmp_path / str(accumulate), small_denoiser(prediction="x0")
        chunks = FirstChunks(denoiser, clips, facts, False, CPU)
        if stage == "opening":
            train_opening(folder, chunks, plan, setting)
        elif stage == "pixels":
            train_pixels(folder, chunks, codec_of_few_channels(), FIRST_WORDS, plan, setting)
        else:
            few = stage == "few"
            train_causal(folder, denoiser, clips, plan, facts, shift=2.0, setting=setting, few=few, blends=0.5)
        losses.append([row["loss"] for row in rows])
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_teacher_forcing_at_few_levels_learns_at_those_alone(tmp_path, monkeypatch):
    clips, denoiser, seen = small_clips(tmp_path / "clips"), small_denoiser(), []
    call = denoiser.network.forward_whole

    def spy(x_t, timestep, prompt, **options):
        seen.append(timestep.flatten())
        return call(x_t, timestep, prompt, **options)

    monkeypatch.setattr(denoiser.network, "forward_whole", spy)
    train_causal(tmp_path / "run", denoiser, clips, FEW, FACTS, shift=2.0, setting=SETTING, few=True)
    levels = [1000 * step.sigma for step in few_steps(FACTS)]
    assert set(torch.cat(seen).round(decimals=2).tolist()) == {round(level, 2) for level in levels}


TINY = TrainConfig(
    name="tiny",
    clips=ClipsConfig(clips=10, switches=2, photos=2, latent_frames=6, openings=4, all_round=2, wide=5),
    network=NetworkConfig(layers=1, heads=2, head_dim=12, ffn_dim=32, text_dim=16),
    rollout=RolloutFacts(window_frames=4, steps=(1000.0,), first_steps=(1000.0, 500.0)),
    ode=OdeConfig(source="causal", pairs=2, steps=3, batch=2, supervise_rollout=True),
    teacher_steps=2,
    autoencoder=AutoencoderConfig(**asdict(FEW)),
    pictures=FEW,
    teacher=FEW,
    causal=CausalConfig(**asdict(FEW), few_steps=True),
    student=StudentConfig(**asdict(FEW)),
    dmd=FEW,
    matching=DmdConfig(critic_updates=1, long_latent_frames=8, long_share=0.5, regression=0.1),
    judge=FEW,
    eval=EvalConfig(prompts=1),
)


@pytest.fixture
def small_world(monkeypatch):
    """Few pictures and a small codec, so that a whole run takes seconds."""
    monkeypatch.setattr(preparation, "SHARD_CLIPS", 2)
    monkeypatch.setattr(autoencoder, "PixelCodec", tiny_pixel_codec())
    monkeypatch.setattr(autoencoder, "measure_latents", partial(autoencoder.measure_latents, count=8))


def test_a_whole_distillation_ends_in_a_pack_that_loads_and_makes_videos(tmp_path, small_world):
    for stage in TINY.stages():  # one by one, as after a stop between any two of them
        told = []
        run = Distillation(TINY, tmp_path, CPU, report=lambda name, row, told=told: told.append(name))
        run.run((stage,))
        assert set(told) == {stage}

    facts = load_facts(run.pack)
    assert (facts.name, facts.steps, facts.first_steps) == ("tiny", (1000.0,), (1000.0, 500.0))
    assert facts.window_frames == 4
    assert facts.sizes == {"wide": (112, 64, 8)}
    pipeline = load(run.pack, device="cpu")
    assert [len(pipeline.plan().steps_of(chunk)) for chunk in take_chunks(3, 1)] == [2, 1, 1]
    frames = pipeline.generate("a red car moves left in the snow", length="13f", seed=1, size=(64, 64))
    assert frames.shape == (13, 64, 64, 3)
    palette = {tuple(colour) for colour in storybook.PALETTE.tolist()}
    assert {tuple(colour) for colour in np.unique(frames.reshape(-1, 3), axis=0).tolist()} <= palette
    scores = json.loads((tmp_path / "eval" / "eval.json").read_text())["scores"]
    assert {"rendered", "codec", "student"} <= scores.keys()
    openings = LatentClips(run.latents / "openings")
    assert (len(openings), openings.latent_frames) == (4 + 2 + 2, 1)
    assert {tuple(bucket.x0.shape[2:]): len(bucket.x0) for bucket in openings.buckets} == {
        (1, 8, 8): 4,
        (1, 8, 14): 2,
        (1, 8, 16): 2,
    }
    assert openings.all_first_predictable_frames.tolist() == [0] * 8


def test_a_smaller_student_and_decoder_are_made_from_a_base(tmp_path, small_world, tiny):
    config = replace(
        TINY,
        base=str(tiny),
        network=NetworkConfig(student_layers=1),
        rollout=RolloutFacts(window_frames=4, steps=(1000.0,)),
        autoencoder=AutoencoderConfig(**asdict(FEW), decoder_widths=(3, 4, 5), decoder_blocks=(0, 1, 2)),
        ode=OdeConfig(source="base", pairs=2, steps=3, batch=2, supervise_rollout=True),
        pictures=None,
        teacher=None,
        judge=None,
        eval=None,
    )
    run = Distillation(config, tmp_path, CPU)
    run.run()

    before, after = load(tiny, device="cpu"), load(run.pack, device="cpu")
    assert (before.model.config.num_layers, after.model.config.num_layers) == (2, 1)
    assert load_teacher(run.pack).model.config.num_layers == 2
    assert after.codec.config["decoder_widths"] == [3, 4, 5]
    assert after.codec.config["blocks"] == [0, 1, 2]
    pairs = OdePairs(run.pairs)
    assert len(pairs) == 2 and pairs.latent_frames == 1  # first chunks, of the base's student
    solver = run.solver("base").network.transformer
    assert torch.equal(solver.proj_out.weight, before.model.transformer.proj_out.weight)
    old, new = before.codec.state_dict(), after.codec.state_dict()
    kept = [name for name in old if not name.startswith("decoder.")]
    assert all(torch.equal(old[name], new[name]) for name in kept)  # so latents mean what they meant
    assert after.generate("a red car jumps", length="8f", seed=1).shape == (8, 128, 128, 3)


@pytest.mark.parametrize("prediction", ["x0", "copies"])
def test_where_one_step_can_be_right_a_run_needs_no_teacher(tmp_path, small_world, prediction):
    config = replace(
        TINY,
        pictures=None,
        teacher=None,
        opening=FEW,
        pixels=FEW,
        rollout=RolloutFacts(window_frames=4, steps=(1000.0,)),
        ode=None,
        dmd=None,
        matching=DmdConfig(),
        judge=None,
        eval=None,
        network=replace(TINY.network, prediction=prediction, grid_embed_size=8, opening_ffn_dim=40),
    )
    assert config.student is not None
    config = replace(config, student=replace(config.student, sample_every=1))
    run = Distillation(config, tmp_path, CPU)
    run.run()
    assert sorted((tmp_path / "student" / "samples").glob("*.png"))
    facts, rows = load_facts(run.pack), run.clips().buckets
    assert (facts.teacher, facts.networks) == (None, ("transformer", "opening"))
    assert run.clips().all_first_predictable_frames.min() == 0
    assert run.clips(going_on=True).all_first_predictable_frames.min() == 1  # what is before is the other network's
    pipeline = load(run.pack, device="cpu")
    opening, later = (model.transformer.proj_out.weight for model in (pipeline.opening_model, pipeline.model))
    assert opening.abs().max() > 0 and not torch.equal(opening, later)
    assert (pipeline.opening_model.prediction, pipeline.model.prediction) == ("x0", prediction)
    widths = [model.transformer.config["ffn_dim"] for model in (pipeline.opening_model, pipeline.model)]
    assert widths == [40, TINY.network.ffn_dim]
    index = json.loads((run.pack / "model_index.json").read_text())
    assert (
        "scheduler" in index and not {"transformer", "opening"} & index.keys()
    )  # diffusers would leave out their grid
    assert pipeline.generate("a red car moves left in the snow", length="13f", seed=1, size=(64, 64)).shape[0] == 13
    assert sum(len(bucket.x0) for bucket in rows) == 10 + 2 + 2 + 5

    assert (tmp_path / "pixels" / "checkpoint").exists()
    left = [
        run.opening_net(before=stage).network.state_dict()["transformer.proj_out.weight"] for stage in ("pixels", None)
    ]
    assert not torch.equal(*left) and torch.allclose(left[1].bfloat16().float(), opening)

    without = replace(
        config, opening=None, pixels=None, network=replace(config.network, prediction="x0", opening_ffn_dim=0)
    )
    with pytest.raises(UsageError, match=r"\[opening\]: is gone, but .*, and stage autoencoder has used that"):
        Distillation(without, tmp_path, CPU).run()

    again = replace(
        config, name="again", base=str(run.pack), opening=None, pixels=None, autoencoder=None, network=NetworkConfig()
    )
    more = Distillation(again, tmp_path / "again", CPU)
    more.run()
    kept = load(more.pack, device="cpu").opening_model
    assert torch.equal(kept.transformer.proj_out.weight, opening)
    with pytest.raises(UsageError, match=r"\[opening\]: missing; stage teacher"):
        Distillation(replace(again, teacher=FEW), tmp_path / "t", CPU).run()
    with pytest.raises(UsageError, match=r"\[dmd\]: its clips begin with the student's own"):
        Distillation(replace(again, dmd=FEW), tmp_path / "d", CPU).run()
    with pytest.raises(UsageError, match=r"eval.teacher: this run has no teacher"):
        Distillation(replace(again, eval=EvalConfig(teacher=True)), tmp_path / "e", CPU).run()


def test_an_opening_network_begins_as_what_made_the_first_chunks_of_its_base(tmp_path, tiny):
    config = replace(TINY, base=str(tiny), opening=FEW, network=NetworkConfig(), pictures=None, teacher=None)
    run, base = Distillation(config, tmp_path, CPU), load(tiny, device="cpu")
    begins = run.opening_net(before="opening").network
    assert begins.prediction == base.model.prediction
    torch.testing.assert_close(begins.state_dict(), base.model.state_dict())
    assert run.words == run.new_text().words  # what its text knows is told


def test_a_student_of_more_layers_than_its_start_is_refused(tmp_path, tiny):
    config = replace(TINY, base=str(tiny), network=NetworkConfig(student_layers=3), pictures=None, teacher=None)
    run = Distillation(config, tmp_path, CPU)
    with pytest.raises(UsageError, match=r"network.student_layers: must be 1 to 2, as its start has, got 3"):
        run.student_net(before="causal")


@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4])])
def test_a_smaller_network_begins_with_evenly_spread_blocks(layers, kept):
    whole = build_network(NetworkConfig(layers=5, heads=1, head_dim=12, ffn_dim=8, text_dim=4), 2)
    part = with_layers(whole, layers)
    assert part.config.num_layers == layers
    for block, other in zip(part.transformer.blocks, kept, strict=True):
        theirs = whole.transformer.blocks[other].state_dict()
        assert all(torch.equal(weight, theirs[name]) for name, weight in block.state_dict().items())
    assert torch.equal(part.transformer.patch_embedding.weight, whole.transformer.patch_embedding.weight)


def test_a_stage_without_the_one_before_it_says_so(tmp_path):
    with pytest.raises(UsageError, match="--stage teacher: needs stage pictures, which has not run in"):
        Distillation(TINY, tmp_path, CPU).run(("teacher",))
    with pytest.raises(UsageError, match="--stage teachr: unknown; did you mean teacher"):
        Distillation(TINY, tmp_path, CPU).run(("teachr",))


FROM_TRUTH = "[clips]\n[autoencoder]\nsteps = 5\n[causal]\nsteps = 5\nfew_steps = true\n"
COPIES = '[network]\nprediction = "copies"\n[rollout]\nsteps = [1000.0]\n'
OPENING_TABLE = "[opening]\nsteps = 5\n"
STAGE_TABLES = "".join(f"[{stage}]\nsteps = 5\n" for stage in ("autoencoder", "teacher"))


def test_a_config_file_is_read_strictly(tmp_path):
    text = 'name = "x"\n[clips]\n' + STAGE_TABLES
    path = tmp_path / "run.toml"
    path.write_text(text)
    config = load_config(path)
    assert config.teacher == Optimisation(steps=5)
    assert config.stages() == ("autoencoder", "prepare", "teacher", "export")
    path.write_text(text + "stps = 5\n")
    with pytest.raises(UsageError, match=r"teacher.stps: unknown; did you mean steps\?"):
        load_config(path)
    path.write_text(text + "[ode]\nforetell = true\n")
    with pytest.raises(UsageError, match="ode.foretell: is called supervise_rollout now"):
        load_config(path)
    path.write_text("name = ")
    with pytest.raises(UsageError, match="not TOML"):
        load_config(path)
    with pytest.raises(UsageError, match="No such file"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[clips]\n[teacher]\nsteps = 5\n", r"\[autoencoder\]: missing; without base"),
        ("[clips]\n[autoencoder]\nsteps = 5\n", r"\[teacher\]: missing; without base"),
        ('base = "storybook"\n[clips]\n[autoencoder]\nsteps = 5\ndecoder_blocks = -1\n', r"decoder_blocks must be 0"),
        (STAGE_TABLES, r"\[data\] or \[clips\]: missing"),
        ("[clips]\n" + STAGE_TABLES + "[student]\nsteps = 5\n", r"\[ode\]: missing; stage student"),
        (
            "[clips]\n" + STAGE_TABLES + '[world]\nsubjects = ["dog", "gryphon"]\n',
            r"world.subjects: 'gryphon' is no subject",
        ),
        (
            "[clips]\n" + STAGE_TABLES + '[world.only]\nspeeds = ["fast"]\n',
            r"world.only: 'speeds' is not one of: action, size, speed, sky, camera, count, relation",
        ),
        (
            "[clips]\n" + STAGE_TABLES + '[world.only]\naction = ["spins", "moves left", "moves right"]\n',
            r"world.only.action: lacks 'jumps', which every model of the storybook knows",
        ),
        (
            "[clips]\n" + STAGE_TABLES + '[world.only]\nsky = ["hail"]\n',
            r"world.only.sky: 'hail' is not one of: day, rain",
        ),
        ("base = 'y'\n[clips]\n[world]\n", r"\[world\]: is for runs from nothing"),
        ("base = 'y'\n[clips]\n[network]\nopening_ffn_dim = 9\n", r"network.opening_ffn_dim: is for runs from nothing"),
        (
            "[clips]\n" + STAGE_TABLES + "[network]\nopening_ffn_dim = 9\n",
            r"network.opening_ffn_dim: .*\[opening\]",
        ),
        ("[clips]\n" + STAGE_TABLES + OPENING_TABLE, r"clips.openings: missing; stage opening"),
        (
            "[clips]\nopenings = 5\n[pixels]\nsteps = 5\n" + STAGE_TABLES + OPENING_TABLE,
            r"rollout.steps: must be one; stage pixels",
        ),
        ("[clips]\n" + STAGE_TABLES + "[pixels]\nsteps = 5\n", r"\[opening\]: missing; stage pixels goes on from it"),
        (
            "[clips]\nopenings = 5\n[rollout]\nsteps = [1000.0, 500.0]\n"
            + STAGE_TABLES
            + OPENING_TABLE
            + "[pixels]\nsteps = 5\n",
            r"rollout.steps: must be one",
        ),
        (COPIES.partition("[r")[0] + FROM_TRUTH + OPENING_TABLE, r"rollout.steps: must be one"),
        (COPIES + FROM_TRUTH, r"\[opening\]: missing; a network that predicts copies makes no first chunk"),
        (COPIES + FROM_TRUTH + OPENING_TABLE + "[teacher]\nsteps = 5\n", r"\[teacher\]: sees nothing that was there"),
        (
            COPIES + FROM_TRUTH + OPENING_TABLE + "[student]\nsteps = 5\nfirst_chunks = true\n",
            r"student.first_chunks: must be false",
        ),
        (
            "[clips]\n[autoencoder]\nsteps = 5\n[causal]\nsteps = 5\n",
            r"\[teacher\]: missing; without base there is no t.* begin",
        ),
        (FROM_TRUTH + "[ode]\n", r"\[teacher\]: missing; .* for stage ode"),
        (FROM_TRUTH + "[dmd]\nsteps = 5\n", r"\[teacher\]: missing; .* for stage dmd"),
        ("[clips]\n" + STAGE_TABLES + "[matching]\nregression = 0.5\n", r"\[ode\]: missing; matching.regression"),
        ("[clips]\n" + STAGE_TABLES + '[ode]\nsource = "causal"\n', r"\[causal\]: missing; its network"),
        ("[clips]\n" + STAGE_TABLES + '[ode]\nsource = "base"\n', r"base: missing; its student"),
        ("[clips]\n" + STAGE_TABLES + '[matching]\nreal_score = "causal"\n', r"\[causal\]: missing; its network"),
    ],
)
def test_a_run_that_lacks_something_is_refused_before_it_starts(tmp_path, text, complaint):
    path = tmp_path / "run.toml"
    path.write_text('name = "x"\n' + text)
    with pytest.raises(UsageError, match=complaint):
        load_config(path)


def test_a_world_teaches_the_words_that_are_chosen_and_those_that_are_ordinary():
    words = WorldConfig(subjects=("dog",), only={"speed": (), "count": (2,), "sky": ("fog",)}).words()
    assert words["count"] == (1, 2) and words["sky"] == ("day", "fog") and "speed" not in words
    assert words["relation"] == ALL_WORDS["relation"] and words["other"] == words["subject"]
    assert words["subject"] == (*FIRST_WORDS["subject"], "dog")
    alone = WorldConfig(only={"relation": ()}).words()
    assert not {"relation", "other", "other_colour"} & alone.keys() and alone["subject"] == ALL_WORDS["subject"]


def numbers_of(kind: type, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """(path, whether it is a list of numbers) of every number of a configuration, through its sections."""
    for name, hint in get_type_hints(kind).items():
        options = [option for option in get_args(hint) or (hint,) if option is not type(None)]
        if is_dataclass(options[0]):
            yield from numbers_of(options[0], (*path, name))
        elif options[0] in (int, float):
            yield (*path, name), hint == tuple[options[0], ...]
        elif name == "sizes":
            yield (*path, name), True


@pytest.mark.parametrize("number", ["-1e30", "1e30", "nan", "inf", "-1000000000000", "100000000000000000000"])
def test_every_number_of_a_run_has_a_range(tmp_path, number):
    file, places = tmp_path / "run.toml", list(numbers_of(TrainConfig))
    assert len(places) > 60
    for (*section, name), is_list in places:
        value = f"[[{number}, 64]]" if name == "sizes" else f"[{number}]" if is_list else number
        own = "steps = 5\n" if "steps" != name and section and section[0] in STAGES and section[0] != "eval" else ""
        own += 'prompts = "x"\n' if section == ["data"] and name != "prompts" else ""
        table = f"[{'.'.join(section)}]\n{own}" if section else ""
        file.write_text(f'name = "x"\nbase = "y"\n{table}{name} = {value}\n')
        with pytest.raises(
            UsageError,
            match=rf"run.toml: {'.'.join([*section, name])}[.0]*: (must be |not a finite)|too large a number",
        ):
            load_config(file)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("save_every = 0", "teacher.save_every: must be greater than or equal to 1, got 0"),
        ("log_every = 0", "teacher.log_every: must be greater than or equal to 1, got 0"),
        ("batch = 0", "teacher.batch: must be greater than or equal to 1, got 0"),
        ("accumulate = 0", "teacher.accumulate: must be greater than or equal to 1, got 0"),
        ("lr = -1", "teacher.lr: must be greater than 0, got -1"),
        ("ema = 2.0", "teacher.ema: must be less than 1, got 2.0"),
        ("ema = nan", "teacher.ema: not a finite number"),
        ("decay = 1.5", "teacher.decay: must be less than or equal to 1, got 1.5"),
        ("clip = 0", "teacher.clip: must be greater than 0, got 0"),
        ("[network]\nhead_dim = 7", "network.head_dim: must be a multiple of 2, got 7"),
        ("[data]\nvideos = 'x'\nsizes = [[0, 64]]", "data.sizes.0.0: must be greater than or equal to 1, got 0"),
        ("[data]\nvideos = 'x'\ndamaged_share = 1.5", "data.damaged_share: must be less than or equal to 1, got 1.5"),
        ("[clips]\n[rollout]\nsteps = [500, 750]", "rollout.steps: must fall, noisiest first"),
        ("[clips]\n[rollout]\nfirst_steps = [500, 750]", "rollout.first_steps: must fall, noisiest first"),
        ("[clips]\n[rollout]\nchunk_frames = 9", "rollout.window_frames: must be 9 or more, as a chunk is"),
        ("[clips]\n[matching]\nmin_sigma = 0.99", "matching.min_sigma: must not be more than matching.max_sigma"),
    ],
)
def test_a_number_that_cannot_work_is_refused_with_its_place(tmp_path, line, complaint):
    file = tmp_path / "run.toml"
    file.write_text(f'name = "x"\nbase = "y"\n[teacher]\nsteps = 5\n{line}\n')
    with pytest.raises(UsageError, match=re.escape(f"run.toml: {complaint}") + "$"):
        load_config(file)


@pytest.mark.parametrize("name", ["robot", "storybook", "storybook-fast", "storybook-world", "wan-1.3b"])
def test_the_examples_are_runs(name):
    load_config(Path(__file__).parents[2] / "examples" / f"{name}.toml")


def test_a_stage_that_the_file_does_not_have_stands_for_those_before_it(tmp_path):
    run = Distillation(replace(TINY, ode=None, student=None, matching=DmdConfig()), tmp_path, CPU)
    assert run.needs("dmd") == {"causal"}
    assert run.needs("export") == {"dmd", "judge", "teacher"}
    with pytest.raises(UsageError, match=r"--stage student: the file has no section \[student\]; it has autoencoder"):
        run.run(("student",))


@pytest.mark.parametrize("frames", [None, 2])
def test_a_batch_can_be_drawn_under_autocast(tmp_path, frames):
    clips, wanted = small_clips(tmp_path, count=3), []
    for bf16 in (False, True):
        with training_arithmetic(CPU, bf16=bf16):
            batch = clips.batch(np.random.default_rng(0), 4, device=CPU, sprite_weight=2.0, frames=frames)
        wanted.append(batch.x0)
    assert torch.equal(*wanted)


def test_a_step_in_bfloat16_warns_of_nothing():
    """Norms keep their weights in float32, of which torch says that they take its slower way."""
    norm, x = torch.nn.RMSNorm(16), torch.randn(2, 16, dtype=torch.bfloat16)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with training_arithmetic(CPU, bf16=True):
                assert norm(x).dtype == torch.bfloat16
    finally:
        torch.set_warn_always(False)


def test_a_step_in_bfloat16_has_no_product_in_float32():
    """Attention's own are the slowest there."""

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
                seen.add((function.overloadpacket, args[-1].dtype))
            return function(*args, **(kwargs or {}))

    seen: set = set()
    projection, x = torch.nn.Linear(8, 8), torch.randn(2, 6, 2, 8)
    with training_arithmetic(CPU, bf16=True), Products():
        q = projection(x)
        attention(q, q, q, attn_mask=torch.ones(6, 6, dtype=torch.bool)).sum().backward()
    assert {dtype for _, dtype in seen} == {torch.bfloat16} and len(seen) == 3
    assert not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()


def test_sheets_of_samples_are_made_on_the_way(tmp_path, small_world):
    seen = replace(FEW, sample_every=1)
    config = replace(TINY, ode=None, student=None, judge=None, eval=None, matching=DmdConfig(critic_updates=1))
    config = replace(config, pictures=seen, teacher=seen, causal=CausalConfig(**asdict(seen)), dmd=seen)
    Distillation(config, tmp_path, CPU).run()
    for stage, pictures in (("pictures", 4), ("teacher", 6), ("causal", 6), ("dmd", 6)):
        sheets = sorted((tmp_path / stage / "samples").glob("*.png"))
        assert [sheet.name for sheet in sheets] == ["step-000001.png", "step-000002.png"]
        picture = imageio.imread(sheets[-1])
        assert picture.shape == (6 * 64, pictures * 64, 3)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1


def test_slid_prompts_stay_nearer_to_their_own_than_to_the_others():
    denoiser = small_denoiser()
    rows = denoiser.text.caption_rows(["a red car in the snow", "a blue cat in the forest"])
    slid = slid_prompts(denoiser, rows, rows.roll(1, 0), np.random.default_rng(0), share=1.0)
    own, other = denoiser.prompt(rows), denoiser.prompt(rows.roll(1, 0))
    assert not torch.equal(slid.embeds, own.embeds)
    near, far = ((slid.embeds - end.embeds).norm() for end in (own, other))
    assert near < far
    unslid = slid_prompts(denoiser, rows, rows.roll(1, 0), np.random.default_rng(0), share=0.0)
    assert torch.equal(unslid.embeds, own.embeds)
