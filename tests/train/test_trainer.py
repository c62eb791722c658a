import errno
import importlib.util
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_transformer
from torch import Tensor, nn

from causvid_cli.errors import NumericsError, OutputError, UsageError
from causvid_cli.train import logs, trainer
from causvid_cli.train.config import ComputeConfig, Optimisation
from causvid_cli.train.logs import StageLog, read_log, sparkline
from causvid_cli.train.parallel import my_share
from causvid_cli.train.resume import check_same_run, finished, last_step
from causvid_cli.train.trainer import Loss, StageSetting, Trainer, averaged_weights, lr_at

CPU = StageSetting(device=torch.device("cpu"))
PLAN = Optimisation(steps=20, lr=1e-2, warmup=3, save_every=4, log_every=2, ema=0.9)


class Interrupted(Exception):
    """What stands for a kill."""


def net(seed: int = 0) -> nn.Module:
    """A linear layer, a convolution laid out channels last as the codec's are, and one that is frozen."""
    torch.manual_seed(seed)
    module = nn.ModuleDict({"line": nn.Linear(3, 4), "fold": nn.Conv2d(3, 4, 2), "still": nn.Linear(2, 2)})
    module["still"].requires_grad_(False)
    return module.to(memory_format=torch.channels_last)


def loss_of(module: nn.Module, *, stop_at: int | None = None) -> Loss:
    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        if step == stop_at:
            raise Interrupted
        x = my_share(torch.from_numpy(rng.standard_normal((16, 3), dtype=np.float32)))
        picture = my_share(torch.from_numpy(rng.standard_normal((2, 3, 5, 5), dtype=np.float32)))
        value = (module["line"](x) - 2).square().mean() + (module["fold"](picture) - 1).square().mean()
        return {"loss": value, "half": value / 2}

    return loss


def trained(folder: Path, plan: Optimisation = PLAN, *, stops: tuple[int, ...] = ()) -> tuple[nn.Module, Trainer]:
    """A whole run; `stops` are the steps at which it is killed and begun again."""
    for stop in stops:
        module = net()
        with pytest.raises(Interrupted):
            Trainer(folder, module, plan, CPU).run(loss_of(module, stop_at=stop))
    module = net()
    run = Trainer(folder, module, plan, CPU)
    run.run(loss_of(module))
    return module, run


def log_rows(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "step_s"} for row in read_log(folder)]


def assert_same_tensors(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, limit: float = 0) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        error = (got[name].float() - tensor.float()).abs().max().item()
        assert error <= limit, f"{name}: largest error {error:.3g}"


def checkpoint(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoint" / "state.safetensors")


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


# --- one module ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_of_a_batch_is_left_out_of_the_log(tmp_path):
    """A measure of what only some batches hold; a log from before, with NaN in it, goes on."""
    tmp_path.joinpath(logs.LOG).write_text('{"step": 0, "loss": NaN, "sprite_error": 1.0}\n')
    module = net()

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        odd = torch.tensor(float(step) if step in (1, 4, 5) else math.nan)
        return {"loss": module["line"].weight.square().mean(), "sprite_error": odd}

    Trainer(tmp_path, module, replace(PLAN, steps=6), CPU).run(loss)
    lines = (tmp_path / logs.LOG).read_text().splitlines()
    rows = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]
    assert [(row["step"], row.get("sprite_error")) for row in rows] == [(0, 1.0), (2, 1.0), (4, None), (6, 4.5)]
    assert ["loss" in row for row in rows] == [False, True, True, True]


@pytest.mark.parametrize("stops", [(0,), (3,), (4,), (9,), (6, 7, 19)], ids=str)
@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_a_run_that_was_killed_ends_as_an_unbroken_one_bit_for_bit(tmp_path, stops, ema):
    plan = replace(PLAN, ema=ema)
    module, run = trained(tmp_path / "unbroken", plan)
    again, resumed = trained(tmp_path / "killed", plan, stops=stops)
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable == {"line.weight", "line.bias", "fold.weight", "fold.bias"}
    assert_same_tensors(again.state_dict(), module.state_dict())
    assert_same_tensors(resumed.ema, run.ema)
    assert_same_tensors(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "unbroken"))
    assert log_rows(tmp_path / "killed") == log_rows(tmp_path / "unbroken")


def test_a_line_of_the_log_that_was_cut_short_is_no_hindrance(tmp_path):
    module = net()
    with pytest.raises(Interrupted):
        Trainer(tmp_path, module, PLAN, CPU).run(loss_of(module, stop_at=7))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"loss": 1.2, "st')
    trained(tmp_path)
    assert [row["step"] for row in log_rows(tmp_path)] == list(range(2, 21, 2))


def test_a_finished_run_takes_no_further_step(tmp_path):
    module, _ = trained(tmp_path)
    again, run = trained(tmp_path)
    assert run.step == PLAN.steps
    assert_same_tensors(again.state_dict(), module.state_dict())


def test_the_log_holds_means_norms_and_learning_rates(tmp_path):
    seen, module = [], net()
    Trainer(tmp_path, module, PLAN, replace(CPU, report=seen.append)).run(loss_of(module))
    rows = log_rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    assert all(row["half"] == pytest.approx(row["loss"] / 2) for row in rows)
    assert all(row["grad_norm"] > 0 for row in rows)
    assert [row["lr"] for row in rows] == [lr_at(PLAN, row["step"]) for row in rows]
    assert [row["step"] for row in seen] == [row["step"] for row in rows]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_every_step_and_every_seed_has_randomness_of_its_own(tmp_path):
    drawn = []

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        drawn.append(rng.random())
        return loss_of(module)(step, rng)

    for seed in (0, 1):
        module = net()
        Trainer(tmp_path / str(seed), module, PLAN, replace(CPU, seed=seed)).run(loss)
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
    plan = replace(PLAN, steps=3, ema=0.999)
    wanted = module["line"].weight.detach().clone()
    run = Trainer(tmp_path, module, plan, CPU)
    for step in range(3):
        run.plan = replace(plan, steps=step + 1)
        run.run(loss_of(module))
        keep = (2 + step) / (11 + step)  # faster at first than 0.999
        wanted = keep * wanted + (1 - keep) * module["line"].weight.detach()
    torch.testing.assert_close(run.ema["line.weight"], wanted, atol=1e-6, rtol=0)  # float32 rounding


def test_a_gradient_longer_than_allowed_is_clipped(tmp_path):
    module = nn.ModuleDict({"one": nn.Linear(1, 1, bias=False)})
    run = Trainer(tmp_path, module, replace(PLAN, steps=1, clip=0.5, ema=0), CPU)
    run.run(lambda step, rng: {"loss": 8 * module["one"].weight.sum()})
    assert log_rows(tmp_path)[0]["grad_norm"] == 8
    moment = checkpoint(tmp_path)["optimizer.exp_avg.one.weight"].item()
    assert moment == pytest.approx(0.1 * 0.5, rel=1e-5)  # Adam's first moment: 1 - 0.9 of the clipped gradient


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_takes_the_same_steps(tmp_path, accumulate):
    """The picture's batch of 2 does not go round in 4 parts: its rows are then seen twice, as often as each other."""
    _, one = trained(tmp_path / "1")
    _, run = trained(tmp_path / "n", replace(PLAN, accumulate=accumulate))
    assert_same_tensors(run.ema, one.ema, limit=1e-5)  # float32 sums in another order, over 20 steps of Adam
    losses, wanted = ([row["loss"] for row in log_rows(tmp_path / name)] for name in ("n", "1"))
    assert losses == pytest.approx(wanted, rel=1e-5)


def test_a_batch_that_does_not_go_round_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"teacher.batch: 16 cannot be shared evenly \(accumulate = 3\); try 18"):
        Trainer(tmp_path / "teacher", net(), replace(PLAN, accumulate=3), CPU)


def test_bf16_changes_roundings_only(tmp_path):
    module, run = trained(tmp_path / "float32")
    other = net()
    setting = replace(CPU, compute=ComputeConfig(precision="bf16"))
    Trainer(tmp_path / "bf16", other, PLAN, setting).run(loss_of(other))
    assert {t.dtype for t in checkpoint(tmp_path / "bf16").values()} == {torch.float32}
    assert torch.is_autocast_cache_enabled()
    difference = (averaged_weights(tmp_path / "bf16")["line.weight"] - run.ema["line.weight"]).abs().max()
    assert 0 < difference < 0.02  # 8 bits of mantissa, 20 steps of 0.01


# --- parts that take turns -----------------------------------------------------------------------------------------

STUDENT, CRITIC = PLAN, replace(PLAN, lr=3e-3, ema=0, clip=0.1)
TURNS = 3
"""Two updates of the critic, then one of the student."""


def pair() -> nn.ModuleDict:
    torch.manual_seed(0)
    teacher = nn.Linear(3, 3).requires_grad_(False)
    return nn.ModuleDict({"student": nn.Linear(3, 3), "critic": nn.Linear(3, 3), "teacher": teacher})


def turns_of(module: nn.ModuleDict, *, stop_at: int | None = None) -> Loss:
    """The critic learns what the student makes; the student's loss reaches both networks."""

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        if step == stop_at:
            raise Interrupted
        x = torch.from_numpy(rng.standard_normal((8, 3), dtype=np.float32))
        if step % TURNS < TURNS - 1:
            with torch.no_grad():
                made = module["student"](x)
            return {"critic": (module["critic"](x) - made).square().mean(), "made": made.square().mean()}
        return {"student": (module["student"](x) - module["teacher"](x) + module["critic"](x)).square().mean()}

    return loss


def turned(folder: Path, *, steps: int = 20, stops: tuple[int, ...] = ()) -> tuple[nn.ModuleDict, Trainer]:
    plan = replace(PLAN, steps=steps)
    for stop in (*stops, None):
        module = pair()
        run = Trainer(folder, module, plan, CPU, parts={"student": STUDENT, "critic": CRITIC})
        try:
            run.run(turns_of(module, stop_at=stop))
        except Interrupted:
            assert stop is not None
    return module, run


@pytest.mark.parametrize("stops", [(2,), (7,), (9, 13)], ids=str)
def test_parts_that_take_turns_go_on_where_they_were_bit_for_bit(tmp_path, stops):
    turned(tmp_path / "unbroken")
    turned(tmp_path / "killed", stops=stops)
    assert_same_tensors(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "unbroken"))
    assert log_rows(tmp_path / "killed") == log_rows(tmp_path / "unbroken")


def test_a_step_moves_only_the_part_that_the_loss_names(tmp_path):
    before = pair()
    after, _ = turned(tmp_path, steps=2)  # the critic's turns
    assert torch.equal(after["student"].weight, before["student"].weight)
    assert (after["critic"].weight != before["critic"].weight).all()
    assert not any("student" in name for name in checkpoint(tmp_path) if name.startswith("optimizer."))
    critic = after["critic"].weight.clone()
    again, _ = turned(tmp_path, steps=3)  # the student's
    assert (again["student"].weight != before["student"].weight).all()
    assert torch.equal(again["critic"].weight, critic)  # though the loss has a gradient there
    assert checkpoint(tmp_path)["optimizer.step.critic.weight"] == 2
    assert checkpoint(tmp_path)["optimizer.step.student.weight"] == 1


def test_only_parts_with_an_average_have_one(tmp_path):
    module, run = turned(tmp_path)
    assert run.ema.keys() == {"student.weight", "student.bias"}
    assert_same_tensors(averaged_weights(tmp_path, "critic"), dict(module["critic"].named_parameters()))
    student = averaged_weights(tmp_path, "student")
    assert_same_tensors(student, {name: run.ema[f"student.{name}"] for name in ("weight", "bias")})
    with run.averaged() as averaged:
        assert torch.equal(averaged["student"].weight, student["weight"])
        assert_same_tensors(averaged_weights(tmp_path, "critic"), dict(averaged["critic"].named_parameters()))


def test_each_part_has_its_own_learning_rate_and_clipping(tmp_path):
    module = nn.ModuleDict({"a": nn.Linear(1, 1, bias=False), "b": nn.Linear(1, 1, bias=False)})
    start = {name: child.weight.item() for name, child in module.items()}
    quick, slow = (replace(PLAN, lr=lr, warmup=0, weight_decay=0, clip=clip) for lr, clip in ((1e-2, 9.0), (1e-3, 0.5)))
    run = Trainer(tmp_path, module, replace(PLAN, steps=1), CPU, parts={"a": quick, "b": slow})
    run.run(lambda step, rng: {"a": 3 * module["a"].weight.sum(), "b": 3 * module["b"].weight.sum()})
    assert start["a"] - module["a"].weight.item() == pytest.approx(1e-2, rel=1e-3)  # Adam's first step is the rate
    assert start["b"] - module["b"].weight.item() == pytest.approx(1e-3, rel=1e-3)
    moments = [checkpoint(tmp_path)[f"optimizer.exp_avg.{name}.weight"].item() for name in "ab"]
    assert moments == pytest.approx([0.3, 0.05], rel=1e-4)
    assert {name: log_rows(tmp_path)[0][name] for name in ("a_grad_norm", "b_grad_norm")} == {
        "a_grad_norm": 3,
        "b_grad_norm": 3,
    }


def test_a_loss_that_names_no_part_is_a_slip(tmp_path):
    module = pair()
    run = Trainer(tmp_path, module, PLAN, CPU, parts={"student": STUDENT, "critic": CRITIC})
    with pytest.raises(AssertionError, match=r"step 0 returned none of \['student', 'critic'\]"):
        run.run(lambda step, rng: {"loss": module["student"].weight.sum()})


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["save_file", "write_text", "first rename", "second rename"])
def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch, broken):
    folder, module = tmp_path / "killed", net()
    with pytest.raises(Interrupted):
        Trainer(folder, module, PLAN, CPU).run(loss_of(module, stop_at=6))
    wanted = averaged_weights(folder)  # of step 4

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        fail_at(patch, broken)
        Trainer(folder, module, PLAN, CPU).run(loss_of(module))  # at step 8
    assert finished(folder, 4)
    assert not finished(folder, 5)

    again = Trainer(folder, net(1), PLAN, CPU)
    assert again.step == 4
    assert_same_tensors(again.ema, wanted)
    assert_same_tensors(averaged_weights(folder), wanted)
    again.run(loss_of(again.module))
    assert {path.name for path in folder.iterdir()} - {"tensorboard"} == {"checkpoint", "log.jsonl"}
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


def stopping_at_6(wrong: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Loss]:
    module = net()

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        values = loss_of(module)(step, rng)
        return {**values, "loss": wrong(values["loss"])} if step == 6 else values

    return module, loss


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda loss: loss * math.nan, "loss"),
        (lambda loss: loss + math.inf, "loss"),
        # sqrt has an infinite slope at 0
        (lambda loss: loss + (loss - loss.detach()).sqrt(), "gradient"),
    ],
    ids=["nan", "inf", "gradient"],
)
def test_numbers_that_are_not_finite_stop_the_run_and_nothing_is_saved(tmp_path, wrong, what):
    module, loss = stopping_at_6(wrong)
    complaint = (
        rf"stage teacher: the {what} is not finite at step 7 \(seed 5\); the checkpoint of step 4 is kept; "
        r"lower the learning rate \(0.01\)$"
    )
    with pytest.raises(NumericsError, match=complaint) as caught:
        Trainer(tmp_path / "teacher", module, PLAN, replace(CPU, seed=5)).run(loss)
    assert caught.value.exit_code == 6
    assert Trainer(tmp_path / "teacher", net(), PLAN, CPU).step == 4
    assert all(tensor.isfinite().all() for tensor in averaged_weights(tmp_path / "teacher").values())


def test_the_part_that_failed_is_named(tmp_path):
    module = pair()
    run = Trainer(tmp_path, module, PLAN, CPU, parts={"student": STUDENT, "critic": CRITIC})
    with pytest.raises(
        NumericsError, match=r"the loss of critic is not finite at step 1 .* nothing is saved yet.*0.003"
    ):
        run.run(lambda step, rng: {"critic": module["critic"].weight.sum() * math.nan})


@pytest.mark.parametrize("full", ["save_file", "safetensors", "log"])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch, full):
    module, folder = net(), tmp_path / "teacher"
    with pytest.raises(Interrupted):
        Trainer(folder, module, PLAN, CPU).run(loss_of(module, stop_at=6))

    def save(tensors: Mapping[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half of it")
        if full == "save_file":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise trainer.SafetensorError("I/O error: No space left on device (os error 28)")

    def write(self: StageLog, row: Mapping[str, float]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((StageLog, "write", write) if full == "log" else (trainer, "save_file", save)))
        what = "the log" if full == "log" else "the checkpoint of step 8"
        with pytest.raises(OutputError, match=f"{folder}: {what} .*no space left .*; the checkpoint of step 4 is kept"):
            Trainer(folder, module, PLAN, CPU).run(loss_of(module))
    assert not (folder / "checkpoint.new").exists()
    trained(tmp_path / "unbroken")
    trained(folder)
    assert_same_tensors(averaged_weights(folder), averaged_weights(tmp_path / "unbroken"))


def test_a_checkpoint_that_the_system_does_not_take_is_an_error(tmp_path):
    """For once really: no file may grow beyond 100 bytes, as on a disk that is nearly full."""
    resource = pytest.importorskip("resource")
    module, limits = net(), resource.getrlimit(resource.RLIMIT_FSIZE)
    run = Trainer(tmp_path, module, PLAN, CPU)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(OutputError, match="the checkpoint of step 0 cannot be written: .*file too large"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="its folder cannot be written: not a directory"):
        Trainer(tmp_path / "file" / "teacher", net(), PLAN, CPU)


def test_the_checkpoint_of_another_network_is_refused(tmp_path):
    trained(tmp_path)
    other = nn.ModuleDict({"line": nn.Linear(3, 5), "fold": nn.Conv2d(3, 4, 2)})
    with pytest.raises(UsageError, match=r"of another network \(2 weights differ, such as line.weight\); give another"):
        Trainer(tmp_path, other, PLAN, CPU)


# --- the folder of a run -------------------------------------------------------------------------------------------

CONFIG = {
    "name": "a",
    "seed": 0,
    "compute": {"precision": "float32"},
    "network": {"layers": 8, "heads": 6},
    "clips": {"count": 100},
    "ode": {"pairs": 10},
    "teacher": {"steps": 100, "lr": 1e-3, "save_every": 10},
    "causal": {"steps": 50, "lr": 1e-3},
    "student": {"steps": 50, "lr": 1e-3, "save_every": 10},
}
USES = {"network": ("teacher", "student"), "clips": ("prepare",), "ode": ("ode",)}


def changed(key: str, value: object) -> dict[str, object]:
    """CONFIG with one key, named by its path, changed or new."""
    config = json.loads(json.dumps(CONFIG))
    *path, last = key.split(".")
    table = config
    for name in path:
        table = table.setdefault(name, {})
    table[last] = value
    return config


def complaint(key: str, value: object, *, begun: tuple[str, ...], finished: tuple[str, ...]) -> str:
    try:
        check_same_run(CONFIG, changed(key, value), begun=begun, finished=finished, uses=USES, folder="runs/a")
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "b"),
        ("compute.precision", "bf16"),
        ("teacher.save_every", 5),  # a finished stage, but not its weights
        ("student.steps", 80),
        ("student.lr", 1e-4),  # begun, not finished
        ("causal.lr", 1e-4),  # not begun
        ("ode.pairs", 20),  # a stage that has not run
        ("teacher.accumulate", 2),  # a key that is new
        ("matching.guidance", 3.0),
    ],
)
def test_what_does_not_touch_a_stage_that_has_run_may_change(key, value):
    assert not complaint(key, value, begun=("prepare", "teacher", "student"), finished=("prepare", "teacher"))


@pytest.mark.parametrize(
    ("key", "value", "said", "stage"),
    [
        ("seed", 1, "seed: 1, but runs/a was made with 0", "prepare"),
        ("network.layers", 12, "network.layers: 12, but runs/a was made with 8", "teacher"),
        ("clips.count", 7, "clips.count: 7, but runs/a was made with 100", "prepare"),
        ("teacher.steps", 200, "teacher.steps: 200, but runs/a was made with 100", "teacher"),
    ],
)
def test_what_a_stage_has_used_may_not_change(key, value, said, stage):
    line = complaint(key, value, begun=("prepare", "teacher"), finished=("prepare", "teacher"))
    assert line.startswith(said)
    assert line.endswith(f", and stage {stage} has used it; set it back, or give another --run-dir")
    assert not complaint(key, value, begun=(), finished=())


def test_a_stage_is_begun_with_its_first_checkpoint_and_finished_with_its_last(tmp_path):
    module, plan = net(), replace(PLAN, steps=10, save_every=4)
    assert last_step(tmp_path) is None
    assert not finished(tmp_path, 1)
    with pytest.raises(Interrupted):
        Trainer(tmp_path, module, plan, CPU).run(loss_of(module, stop_at=6))
    assert last_step(tmp_path) is not None
    assert not finished(tmp_path, plan.steps)
    trained(tmp_path, plan)
    assert finished(tmp_path, plan.steps)


# --- logs ----------------------------------------------------------------------------------------------------------


def test_sheets_of_samples_are_made_on_the_way_with_averaged_weights(tmp_path):
    seen = {}

    def samples(step: int, module: nn.Module) -> np.ndarray:
        assert not torch.is_grad_enabled()
        seen[step] = module["line"].weight.clone()
        return np.full((2, 3, 3), step, np.uint8)

    plan, setting = replace(PLAN, sample_every=8), replace(CPU, samples=samples)
    for stop in (11, None):
        module = net()
        run = Trainer(tmp_path, module, plan, setting)
        try:
            run.run(loss_of(module, stop_at=stop))
        except Interrupted:
            (tmp_path / "samples" / "step-000010.png").touch()  # after the checkpoint: made by a step taken again
    assert torch.equal(seen[20], run.ema["line.weight"])
    sheets = sorted((tmp_path / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-000008.png", "step-000016.png", "step-000020.png"]
    assert [imageio.imread(sheet)[0, 0, 0] for sheet in sheets] == [8, 16, 20]


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="needs tensorboard")
def test_tensorboard_sees_each_step_once_however_often_a_run_is_stopped(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = replace(PLAN, sample_every=10)
    setting = replace(CPU, samples=lambda step, module: np.zeros((2, 2, 3), np.uint8))
    for stop in (7, 15, None):
        module = net()
        try:
            Trainer(tmp_path, module, plan, setting).run(loss_of(module, stop_at=stop))
        except Interrupted:
            pass
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(2, 21, 2))
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(
        [row["loss"] for row in log_rows(tmp_path)]
    )
    assert [event.step for event in board.Images("samples")] == [10, 20]


def test_without_tensorboard_there_is_the_log_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "has_tensorboard", lambda: False)
    trained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "log.jsonl"}


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([0.0, 7.0, 3.5, math.nan, 1.0], "▁█▅ ▂"),
        ([1, 1, 1], "▁▁▁"),
        ([100.0, 10.0, 1.0], "█▅▁"),  # a logarithmic scale: 10 lies half way
        ([-1.0, 1.0], "▁█"),
        ([math.nan, math.inf], "  "),
    ],
)
def test_a_curve_in_a_line(values, curve):
    assert sparkline(values, 10) == curve


def test_a_long_curve_is_drawn_in_means():
    assert sparkline([0, 0, 7, 7, 0, 0, 3, 4], 4) == "▁█▁▅"
    assert len(sparkline(range(1, 1000), 30)) == 30


# --- memory --------------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_keeps_fewer_activations_and_the_same_gradients():
    gradients, kept = [], []
    for on in (False, True):
        network = tiny_transformer(latent_channels=4).requires_grad_(True)
        network.transformer.gradient_checkpointing = on
        saved = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        torch.manual_seed(0)
        x_t, text = torch.randn(2, 4, 3, 4, 4), torch.randn(2, 5, 16)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network.forward_whole(x_t, 500.0, network.prompt_cache(text)).square().mean()
        loss.backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
        kept.append(saved)
    assert len(gradients[0]) > 20
    assert_same_tensors(gradients[1], gradients[0])
    assert kept[1] < kept[0] / 3, kept
