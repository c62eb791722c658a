import json
import math
import os
from collections.abc import Callable, Mapping
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
from causvid_cli.config import load_facts
from causvid_cli.errors import NumericsError, UsageError
from causvid_cli.model import frame_mask
from causvid_cli.pipeline import load
from causvid_cli.sampler import solve_ode
from causvid_cli.schedule import add_noise, flow_from_x0, sampler_sigmas, steps_of
from causvid_cli.storybook import Story
from causvid_cli.text import StoryText
from causvid_cli.train import autoencoder, latents, trainer, world
from causvid_cli.train.config import (
    STAGES,
    ClipsConfig,
    EvalConfig,
    NetworkConfig,
    OdeConfig,
    Optimisation,
    RolloutFacts,
    TrainConfig,
    load_config,
)
from causvid_cli.train.distill import Distillation
from causvid_cli.train.latents import LatentClips, prepare
from causvid_cli.train.losses import (
    flow_matching,
    latent_weight,
    palette_cross_entropy,
    sample_sigma,
    weighted_mean,
    x0_regression,
)
from causvid_cli.train.network import Denoiser, build_network
from causvid_cli.train.student import known_frames, make_ode_pairs, noisy_context, own_past, train_causal, train_student
from causvid_cli.train.teacher import train_teacher
from causvid_cli.train.trainer import Trainer, averaged_weights, lr_at

CPU = torch.device("cpu")
CHANNELS, FRAMES, CELLS = 4, 4, 4
SHAPE = NetworkConfig(layers=2, heads=2, head_dim=24, ffn_dim=64, text_dim=16)
STEPS = steps_of((1000, 500), shift=3.0, warped=True)
FEW = Optimisation(steps=2, batch=2, warmup=1, save_every=1, log_every=1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- learning rate -------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_stays_and_falls_to_a_fiftieth():
    plan = Optimisation(steps=1000, lr=2e-3, warmup=100, decay=0.6)
    rates = [lr_at(plan, step) for step in range(1001)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[49] == pytest.approx(1e-3)
    assert rates[99:401] == [2e-3] * 302
    assert all(a > b for a, b in zip(rates[400:], rates[401:], strict=False))
    assert rates[700] == pytest.approx(2e-3 * 0.51)  # half of the cosine
    assert rates[1000] == pytest.approx(2e-3 * 0.02)
    assert max(abs(a - b) for a, b in zip(rates, rates[1:], strict=False)) <= 2.1e-5  # no jump


def test_without_decay_the_learning_rate_stays():
    plan = Optimisation(steps=10, lr=1e-3, warmup=0, decay=0)
    assert {lr_at(plan, step) for step in range(11)} == {1e-3}


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
    weight = random(2, 1, 4, 2, 2, seed=3).abs() if weighted else None
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
    assert weighted_mean(values, torch.tensor([[0.0], [1.0]])) == 3.5
    assert weighted_mean(values, torch.tensor([[3.0], [1.0]])) == 2.0


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


def test_cells_that_the_sprite_touches_weigh_more():
    mask = torch.zeros(1, 8, 16, 24, dtype=torch.bool)
    mask[0, 6, 15, 8] = True  # one pixel: second latent frame, lower row, middle column
    weight = latent_weight(mask, stack=4, factor=8, sprite_weight=3.0)
    assert weight.shape == (1, 1, 2, 2, 3)
    assert weight[0, 0, 1, 1, 1] == 3
    assert weight.sum() == 3 + 11


# --- trainer -------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """What stands for a kill."""


def net(seed: int = 0) -> nn.Module:
    """A linear layer, a convolution laid out channels last as the codec's are, and one that is frozen."""
    torch.manual_seed(seed)
    module = nn.ModuleDict({"line": nn.Linear(3, 4), "fold": nn.Conv2d(3, 4, 2), "still": nn.Linear(2, 2)})
    module["still"].requires_grad_(False)
    return module.to(memory_format=torch.channels_last)


def loss_of(
    module: nn.Module, *, stop_at: int | None = None
) -> Callable[[int, np.random.Generator], Mapping[str, Tensor]]:
    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        if step == stop_at:
            raise Interrupted
        x = torch.from_numpy(rng.standard_normal((5, 3), dtype=np.float32))
        picture = torch.from_numpy(rng.standard_normal((2, 3, 5, 5), dtype=np.float32))
        value = (module["line"](x) - x.sum()).square().mean() + (module["fold"](picture) - 1).square().mean()
        return {"loss": value, "half": value / 2}

    return loss


PLAN = Optimisation(steps=20, lr=1e-2, warmup=3, save_every=4, log_every=2, ema=0.9)


def trained(folder: Path, plan: Optimisation = PLAN, *, stops: tuple[int, ...] = ()) -> tuple[nn.Module, Trainer]:
    """A whole run; `stops` are the steps at which it is killed and begun again."""
    for stop in stops:
        module = net()
        with pytest.raises(Interrupted):
            Trainer(folder, module, plan).run(loss_of(module, stop_at=stop))
    module = net()
    run = Trainer(folder, module, plan)
    run.run(loss_of(module))
    return module, run


def log_rows(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "step_s"} for row in rows]


def assert_same_tensors(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        error = (got[name] - tensor).abs().max().item()
        assert error == 0, f"{name}: largest error {error:.3g}"


@pytest.mark.parametrize("stops", [(0,), (3,), (4,), (9,), (6, 7, 19)], ids=str)
@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_a_run_that_was_killed_ends_as_an_unbroken_one_bit_for_bit(tmp_path, stops, ema):
    plan = replace(PLAN, ema=ema)
    module, run = trained(tmp_path / "unbroken", plan)
    again, resumed = trained(tmp_path / "killed", plan, stops=stops)
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable == {"line.weight", "line.bias", "fold.weight", "fold.bias"}
    for name in trainable:
        assert_same_tensors({name: again.state_dict()[name]}, {name: module.state_dict()[name]})
    assert_same_tensors(resumed.ema, run.ema)
    assert_same_tensors(averaged_weights(tmp_path / "killed"), averaged_weights(tmp_path / "unbroken"))
    assert log_rows(tmp_path / "killed") == log_rows(tmp_path / "unbroken")


def test_a_line_of_the_log_that_was_cut_short_is_no_hindrance(tmp_path):
    module = net()
    with pytest.raises(Interrupted):
        Trainer(tmp_path, module, PLAN).run(loss_of(module, stop_at=7))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"loss": 1.2, "st')
    trained(tmp_path)
    assert [row["step"] for row in log_rows(tmp_path)] == list(range(2, 21, 2))


def test_a_finished_run_takes_no_further_step(tmp_path):
    module, _ = trained(tmp_path)
    wanted = {name: p.clone() for name, p in module.named_parameters() if p.requires_grad}
    again, run = trained(tmp_path)
    assert run.step == PLAN.steps
    assert_same_tensors({name: p for name, p in again.named_parameters() if p.requires_grad}, wanted)


def test_the_log_holds_means_and_learning_rates(tmp_path):
    seen = []
    module = net()
    Trainer(tmp_path, module, PLAN, report=seen.append).run(loss_of(module))
    rows = log_rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    assert all(row["half"] == pytest.approx(row["loss"] / 2) for row in rows)
    assert [row["lr"] for row in rows] == [lr_at(PLAN, row["step"]) for row in rows]
    assert [row["step"] for row in seen] == [row["step"] for row in rows]
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("broken", ["save_file", "write_text", "first rename", "second rename"])
def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch, broken):
    folder, module = tmp_path / "killed", net()
    with pytest.raises(Interrupted):
        Trainer(folder, module, PLAN).run(loss_of(module, stop_at=6))
    wanted = averaged_weights(folder)  # of step 4

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        fail_at(patch, broken)
        Trainer(folder, module, PLAN).run(loss_of(module))  # at step 8

    again = Trainer(folder, net(1), PLAN)
    assert again.step == 4
    assert_same_tensors(again.ema, wanted)
    assert_same_tensors(averaged_weights(folder), wanted)
    again.run(loss_of(again.module))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "log.jsonl"]
    trained(tmp_path / "unbroken")
    assert_same_tensors(averaged_weights(folder), averaged_weights(tmp_path / "unbroken"))


def fail_at(patch: pytest.MonkeyPatch, broken: str) -> None:
    """Make one of the things that saving does fail."""

    def fail(*_: object, **__: object) -> None:
        raise Interrupted

    renames = []

    def rename(source: str | Path, target: str | Path) -> None:
        renames.append(source)
        if len(renames) == ("first rename", "second rename").index(broken) + 1:
            raise Interrupted
        os.replace(source, target)

    if broken == "save_file":
        patch.setattr(trainer, "save_file", fail)
    elif broken == "write_text":
        patch.setattr(Path, "write_text", fail)
    else:
        patch.setattr(trainer.os, "rename", rename)


def test_every_step_and_every_seed_has_randomness_of_its_own(tmp_path):
    drawn = []

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        drawn.append(rng.random())
        return loss_of(module)(step, rng)

    for seed in (0, 1):
        module = net()
        Trainer(tmp_path / str(seed), module, PLAN, seed=seed).run(loss)
    assert len(set(drawn)) == 2 * PLAN.steps


def test_averaged_weights_are_lent_and_taken_back(tmp_path):
    module, run = trained(tmp_path)
    own = {name: p.clone() for name, p in module.named_parameters()}
    with run.averaged() as averaged:
        assert_same_tensors({name: averaged.get_parameter(name) for name in run.ema}, run.ema)
        assert (module["line"].weight != own["line.weight"]).any()
    assert_same_tensors(dict(module.named_parameters()), own)
    with pytest.raises(Interrupted), run.averaged():
        raise Interrupted
    assert_same_tensors(dict(module.named_parameters()), own)


def test_the_average_follows_the_weights(tmp_path):
    module = net()
    line = [module["line"].weight.detach().clone()]
    plan = replace(PLAN, steps=3, ema=0.999)
    run = Trainer(tmp_path, module, plan)
    wanted = line[0]
    for step in range(3):
        run.plan = replace(plan, steps=step + 1)
        run.run(loss_of(module))
        keep = (2 + step) / (11 + step)  # faster at first than 0.999
        wanted = keep * wanted + (1 - keep) * module["line"].weight.detach()
    torch.testing.assert_close(run.ema["line.weight"], wanted, atol=1e-6, rtol=0)  # float32 rounding


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(tmp_path):
    module = net()

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        values = loss_of(module)(step, rng)
        return {"loss": values["loss"] * (math.nan if step == 6 else 1)}

    with pytest.raises(NumericsError, match=r"not finite at step 7; lower the learning rate \(0.01\)"):
        Trainer(tmp_path, module, PLAN).run(loss)
    assert Trainer(tmp_path, net(), PLAN).step == 4
    assert all(tensor.isfinite().all() for tensor in averaged_weights(tmp_path).values())


# --- data ----------------------------------------------------------------------------------------------------------


def test_stories_that_are_held_out_never_reach_training():
    rng = np.random.default_rng(0)
    stories = [world.training_story(rng) for _ in range(2000)]
    assert not any(storybook.held_out(story) for story in stories)
    drawn = [storybook.sample_story(rng) for _ in range(2000)]
    share = sum(map(storybook.held_out, drawn)) / len(drawn)
    assert 0.03 < share < 0.1  # a sixteenth: without the filter some hundred would be there
    changed = [world.changed_story(story, rng) for story in stories[:500]]
    assert not any(storybook.held_out(story) for story in changed)
    assert all(before != after for before, after in zip(stories, changed, strict=False))


def test_clips_are_made_of_their_seed_alone():
    a, b = (world.sample_clips(np.random.default_rng(3), 3, frames=4) for _ in range(2))
    assert torch.equal(a.indices, b.indices)
    assert a.stories == b.stories
    assert a.indices.shape == a.mask.shape == (3, 4, storybook.SIZE, storybook.SIZE)


def test_a_clip_that_begins_late_is_the_later_part_of_the_video():
    story = Story("car", "red", "snow", "moves left")
    whole = world.render_clips((story,), np.random.default_rng(1), frames=12)
    late = world.render_clips((story,), np.random.default_rng(1), frames=4, start=8)
    assert torch.equal(late.indices, whole.indices[:, 8:])
    assert torch.equal(late.mask, whole.mask[:, 8:])


def test_crops_lie_on_the_grid_of_latent_cells_and_show_the_sprite():
    pictures, masks = world.sample_pictures(np.random.default_rng(0), 20, crop=32)
    assert pictures.shape == masks.shape == (20, 32, 32)
    whole, sprites = world.sample_pictures(np.random.default_rng(0), 20)
    assert whole.shape == (20, 64, 64)
    shown = masks.flatten(1).any(1)
    assert shown.sum() >= 15  # bare scenes have none
    rng = np.random.default_rng(5)
    for mask in sprites.numpy():
        top, left = world._crop_corner(rng, mask, 32)
        assert top % 8 == left % 8 == 0
        assert 0 <= min(top, left) <= max(top, left) <= 32
        assert mask[top : top + 32, left : left + 32].any() == mask.any()


def tiny_pixel_codec() -> Callable[..., PixelCodec]:
    return partial(PixelCodec, encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8), blocks=1)


def test_prepared_clips_resume_shard_by_shard_and_tell_training_stories_only(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD_CLIPS", 3)
    torch.manual_seed(0)
    codec, text = tiny_pixel_codec()(palette=torch.tensor(storybook.PALETTE)), StoryText.for_vocabulary(dim=16)
    options = {"clips": 15, "switches": 3, "latent_frames": 6, "device": CPU}
    clips = prepare(tmp_path, codec, text, **options)
    assert clips.x0.shape == (18, 24, 6, 8, 8)
    assert clips.x0.dtype == torch.float16
    assert clips.known_from[:12].tolist() == [0] * 12
    assert (clips.known_from[12:] > 0).all()  # the fifth shard begins late, the sixth changes its prompt

    shards = sorted(tmp_path.glob("clips-*.safetensors"))
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    prepare(tmp_path, codec, text, **options)
    assert [shard.read_bytes() for shard in shards] == before

    stories = {tuple(row): story for story in every_story() for row in text.rows([story]).tolist()}
    told = [stories[tuple(row)] for row in clips.rows.tolist()]
    assert not any(map(storybook.held_out, told))


def every_story() -> list[Story]:
    known = storybook.VOCABULARY
    alone = [Story(None, "natural", scene, "stays still") for scene in known.scenes]
    return alone + [
        Story(subject, colour, scene, action, target)
        for subject in known.subjects
        for colour in known.colours
        for scene in known.scenes
        for action in known.actions
        for target in ([t for t in known.subjects if t != subject] if action == "turns into" else [None])
    ]


def small_clips(folder: Path, *, count: int = 2, known_from: int = 0, share: Tensor | None = None) -> LatentClips:
    text = StoryText.for_vocabulary(dim=SHAPE.text_dim)
    rows = text.empty_rows(count) + 2 + torch.arange(count)[:, None]
    folder.mkdir(exist_ok=True)
    save_file(
        {
            "x0": random(count, CHANNELS, FRAMES, CELLS, CELLS).half(),
            "rows": rows.contiguous(),
            "sprite": torch.ones(count, FRAMES, CELLS, CELLS, dtype=torch.uint8),
            "known_from": torch.full((count,), known_from),
            "share": torch.ones(count) if share is None else share,
        },
        folder / "clips-00000.safetensors",
    )
    return LatentClips(folder)


def small_denoiser(**changes: object) -> Denoiser:
    torch.manual_seed(0)
    text = StoryText.for_vocabulary(dim=SHAPE.text_dim)
    return Denoiser(build_network(replace(SHAPE, **changes), CHANNELS), text)


def test_a_batch_is_a_random_stretch_of_random_clips(tmp_path):
    clips = small_clips(tmp_path, count=3)
    batch = clips.batch(np.random.default_rng(0), 20, device=CPU, sprite_weight=4.0, frames=2)
    assert batch.x0.shape == (20, CHANNELS, 2, CELLS, CELLS)
    assert batch.x0.dtype == torch.float32
    stretches = [clips.x0[clip, :, start : start + 2].float() for clip in range(3) for start in range(FRAMES - 1)]
    found = {place for x0 in batch.x0 for place, stretch in enumerate(stretches) if torch.equal(x0, stretch)}
    assert len(found) >= 5
    assert all(any(torch.equal(x0, stretch) for stretch in stretches) for x0 in batch.x0)
    assert (batch.weight == 4).all()


def test_clips_are_drawn_as_often_as_their_share_says(tmp_path):
    clips = small_clips(tmp_path, count=4, share=torch.tensor([1.0, 0.0, 3.0, 0.0]))
    batch = clips.batch(np.random.default_rng(0), 400, device=CPU, sprite_weight=1.0)
    drawn = [(batch.rows == rows).all(dim=1).sum().item() for rows in clips.rows]
    assert drawn[1] == drawn[3] == 0
    assert 260 < drawn[2] < 340  # three quarters of 400, give or take four standard deviations


def test_frames_that_cannot_be_foretold_count_for_nothing(tmp_path):
    batch = small_clips(tmp_path, known_from=2).batch(np.random.default_rng(0), 1, device=CPU, sprite_weight=1.0)
    assert known_frames(batch).flatten().tolist() == [0, 0, 1, 1]


def test_prompts_are_dropped_at_their_rate():
    denoiser = small_denoiser()
    rows = denoiser.text.empty_rows(4) + 3
    dropped = denoiser.drop_prompts(rows, torch.tensor([0.05, 0.5, 0.0999, 0.1]), rate=0.1)
    assert [torch.equal(row, denoiser.text.empty_rows(1)[0]) for row in dropped] == [True, False, True, False]
    assert torch.equal(dropped[1], rows[1])


# --- stages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prediction", "steps", "factor"), [("flow", 200, 6), ("x0", 120, 15)])
def test_one_clip_can_be_learnt_by_heart(tmp_path, prediction, steps, factor):
    clips, rows = small_clips(tmp_path / "clips", count=1), []
    denoiser = small_denoiser(prediction=prediction)
    plan = Optimisation(steps=steps, lr=1e-2, batch=16, warmup=10, log_every=20, ema=0.9)
    train_teacher(tmp_path, denoiser, clips, plan, frames=None, shift=1.5, device=CPU, report=rows.append)
    losses = [row["loss"] for row in rows]
    assert losses[-1] < losses[0] / factor, losses
    assert rows[-1]["x0_error"] < 0.3, rows[-1]  # a clip of variance 1


def test_teacher_forcing_learns_from_every_chunk_at_its_own_noise_level(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips"), small_denoiser()
    denoiser.text.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
    options = {"chunk_frames": 1, "window_frames": 2, "shift": 2.0, "device": CPU}
    train_causal(tmp_path / "run", denoiser, clips, FEW, **options)
    assert torch.equal(denoiser.text.embed.weight, before["text.embed.weight"])
    assert (denoiser.network.transformer.proj_out.weight != 0).any()


def test_clean_context_gets_a_little_noise_of_its_own_for_each_clip():
    x0 = torch.zeros(50, 1, 2, 4, 4)
    spread = noisy_context(x0, np.random.default_rng(0)).flatten(1).std(dim=1)
    assert spread.max() < 0.25  # 0.15, give or take what 32 numbers allow
    assert spread.min() < 0.03
    assert spread.unique().numel() == 50


def ode_pairs(folder: Path, denoiser: Denoiser, clips: LatentClips):
    return make_ode_pairs(
        folder / "pairs.safetensors",
        denoiser,
        clips,
        count=4,
        steps=STEPS,
        chunk_frames=2,
        guidance=2.5,
        ode_steps=5,
        shift=2.0,
        device=CPU,
        batch=2,
    )


def random_output(denoiser: Denoiser) -> Denoiser:
    """The same, but its untrained prediction is not zero."""
    torch.manual_seed(1)
    nn.init.normal_(denoiser.network.transformer.proj_out.weight, std=0.2)
    return denoiser


def test_ode_pairs_are_points_of_the_guided_solution_at_the_students_levels(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips", count=1), random_output(small_denoiser())
    pairs = ode_pairs(tmp_path, denoiser, clips)
    assert pairs.points.shape == (4, len(STEPS) + 1, CHANNELS, 2, CELLS, CELLS)
    assert not pairs.points.requires_grad

    sigmas = sorted({*sampler_sigmas(5, shift=2.0), *(step.sigma for step in STEPS)}, reverse=True)
    network = denoiser.network
    with torch.no_grad():
        solution = solve_ode(
            partial(network.forward_whole, mask=frame_mask([2])),
            "flow",
            pairs.points[:2, 0].float(),
            sigmas,
            denoiser.prompt(pairs.rows[:2]),
            empty=denoiser.prompt(denoiser.text.empty_rows(2)),
            guidance=2.5,
        )
        points = dict(solution)
    for i, sigma in enumerate([*(step.sigma for step in STEPS), 0.0]):
        error = (points[sigma] - pairs.points[:2, i].float()).abs().max().item()
        assert error < 0.02, f"sigma {sigma:.3f}: largest error {error:.3g}"  # kept as float16, solved from float16


def test_ode_pairs_are_made_once(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips"), small_denoiser()
    first = ode_pairs(tmp_path, denoiser, clips)
    again = ode_pairs(tmp_path, random_output(denoiser), clips)
    assert torch.equal(first.points, again.points)


def test_the_students_own_past_begins_with_the_truth_and_gives_no_gradient(tmp_path):
    clips, denoiser = small_clips(tmp_path / "clips"), random_output(small_denoiser())
    batch = clips.batch(np.random.default_rng(0), 2, device=CPU, sprite_weight=1.0)
    options = {"chunk_frames": 1, "window_frames": 2, "rng": np.random.default_rng(1)}
    past = own_past(denoiser, batch, STEPS, given=2, **options)
    assert past.shape == batch.x0.shape
    assert torch.equal(past[:, :, :2], batch.x0[:, :, :2])
    assert (past[:, :, 2:] != batch.x0[:, :, 2:]).any()
    assert not past.requires_grad


@pytest.mark.parametrize("known_from", [0, 2])
@pytest.mark.parametrize("chunk_frames", [1, 2])
def test_the_student_learns_from_clips_of_every_kind(tmp_path, known_from, chunk_frames):
    clips = small_clips(tmp_path / "clips", known_from=known_from)
    denoiser, rows = random_output(small_denoiser()), []
    pairs = ode_pairs(tmp_path, denoiser, small_clips(tmp_path / "plain"))
    pairs.points = pairs.points[:, :, :, :chunk_frames]
    options = {"chunk_frames": chunk_frames, "window_frames": 2, "device": CPU, "report": rows.append}
    train_student(tmp_path / "run", denoiser, clips, FEW, steps=STEPS, pairs=pairs, **options)
    assert len(rows) == 2
    assert all(row["loss"] == pytest.approx(row["later"] + row["first"]) for row in rows)
    assert all(row["later"] > 0 and row["first"] > 0 for row in rows)


# --- a whole run ---------------------------------------------------------------------------------------------------

TINY = TrainConfig(
    name="tiny",
    clips=ClipsConfig(count=10, switches=2, latent_frames=6),
    network=NetworkConfig(layers=1, heads=2, head_dim=12, ffn_dim=32, text_dim=16),
    rollout=RolloutFacts(window_frames=4, steps=(1000.0, 500.0)),
    ode=OdeConfig(pairs=2, steps=3),
    teacher_steps=2,
    autoencoder=FEW,
    pictures=FEW,
    teacher=FEW,
    causal=FEW,
    student=FEW,
    judge=FEW,
    eval=EvalConfig(prompts=1),
)


@pytest.fixture
def small_world(monkeypatch):
    """Few pictures and a small codec, so that a whole run takes seconds."""
    monkeypatch.setattr(latents, "SHARD_CLIPS", 2)
    monkeypatch.setattr(autoencoder, "PixelCodec", tiny_pixel_codec())
    monkeypatch.setattr(autoencoder, "measure_latents", partial(autoencoder.measure_latents, count=8))


def test_a_whole_distillation_ends_in_a_pack_that_loads_and_makes_videos(tmp_path, small_world):
    begun = []
    for stage in STAGES:  # one by one, as after a stop between any two of them
        run = Distillation(TINY, tmp_path, CPU, report=lambda name, row: begun.append(name))
        run.run((stage,))
        assert set(begun) == {*STAGES[: STAGES.index(stage) + 1]}

    facts = load_facts(run.pack)
    assert (facts.name, facts.steps, facts.window_frames) == ("tiny", (1000.0, 500.0), 4)
    pipeline = load(run.pack, device="cpu")
    frames = pipeline.generate("a red car moves left in the snow", length="13f", seed=1, size=(64, 64))
    assert frames.shape == (13, 64, 64, 3)
    palette = {tuple(colour) for colour in storybook.PALETTE.tolist()}
    assert {tuple(colour) for colour in np.unique(frames.reshape(-1, 3), axis=0).tolist()} <= palette
    scores = json.loads((tmp_path / "eval" / "eval.json").read_text())["scores"]
    assert {"rendered", "codec", "student"} <= scores.keys()


def test_a_stage_without_the_one_before_it_says_so(tmp_path):
    with pytest.raises(UsageError, match="--stage teacher: needs stage pictures, which has not run in"):
        Distillation(TINY, tmp_path, CPU).run(("teacher",))
    with pytest.raises(UsageError, match="--stage teachr: unknown; did you mean teacher"):
        Distillation(TINY, tmp_path, CPU).run(("teachr",))


def test_a_config_file_is_read_strictly(tmp_path):
    stages = ("autoencoder", "pictures", "teacher", "causal", "student", "judge")
    text = 'name = "x"\n' + "".join(f"[{stage}]\nsteps = 5\n" for stage in stages)
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert load_config(path).teacher == Optimisation(steps=5)
    path.write_text(text + "stps = 5\n")
    with pytest.raises(UsageError, match=r"judge.stps: unknown; did you mean steps\?"):
        load_config(path)
    path.write_text("name = ")
    with pytest.raises(UsageError, match="not TOML"):
        load_config(path)
    with pytest.raises(UsageError, match="No such file"):
        load_config(tmp_path / "none.toml")
