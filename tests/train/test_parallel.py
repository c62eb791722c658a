"""Several processes are one: what a run makes does not tell how many there were."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import in_processes
from safetensors.torch import load_file
from tiny import SHAPE, tiny_transformer
from torch import Tensor

from causvid_cli import processes
from causvid_cli.errors import CausvidError, DeviceError, NumericsError, OutputError, UsageError
from causvid_cli.processes import own_device
from causvid_cli.prompt.story import StoryText
from causvid_cli.train import parallel
from causvid_cli.train.config import ComputeConfig, Optimisation
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.logs import read_log
from causvid_cli.train.parallel import Share, my_normal, my_share, my_weight, shares, working_on
from causvid_cli.train.resume import last_step
from causvid_cli.train.trainer import Loss, StageSetting, Trainer

CPU = torch.device("cpu")
PLAN = Optimisation(steps=4, lr=1e-2, batch=4, warmup=1, save_every=2, log_every=1, sample_every=2, ema=0.9)


# --- shares of a batch ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows:
    x0: Tensor
    rows: Tensor


def test_one_process_has_everything():
    assert shares(1) == [Share(0, 1)]
    assert shares(3) == [Share(0, 3), Share(1, 3), Share(2, 3)]
    whole = torch.arange(5)
    assert my_share(whole) is whole
    assert parallel.is_first()


@pytest.mark.parametrize(("whole", "of", "wanted"), [(6, 2, [[0, 1, 2], [3, 4, 5]]), (5, 3, [[0, 1], [2, 3], [4, 0]])])
def test_shares_are_of_one_size_and_leave_nothing_out(whole, of, wanted):
    batch = Rows(torch.arange(whole), torch.arange(2 * whole).view(whole, 2))
    for index in range(of):
        with working_on(Share(index, of)):
            mine = my_share(batch)
        assert mine.x0.tolist() == wanted[index]
        assert (mine.rows[:, 0] == 2 * mine.x0).all()


@pytest.mark.parametrize("of", [1, 2, 3, 4])
def test_the_mean_over_shares_is_the_weighted_mean_over_the_batch(of):
    rng = torch.Generator().manual_seed(0)
    values, weight = torch.rand(5, 3, 4, generator=rng), torch.rand(5, 1, 4, generator=rng)
    weight[2] = 0
    means = []
    for index in range(of):
        with working_on(Share(index, of)):
            means.append((my_share(values) * my_weight(weight)).mean())
    wanted = (values * weight).sum() / weight.expand_as(values).sum()
    torch.testing.assert_close(torch.stack(means).mean(), wanted)


def test_noise_of_a_share_is_a_share_of_the_noise():
    whole = np.random.default_rng(3).standard_normal((6, 2, 2), dtype=np.float32)
    for index in range(3):
        rng = np.random.default_rng(3)
        with working_on(Share(index, 3)):
            mine = my_normal(rng, torch.zeros(2, 2, 2))
        assert np.array_equal(mine.numpy(), whole[2 * index : 2 * index + 2])
        assert rng.random() == pytest.approx(0.4, abs=0.6)  # and every process draws as much


def test_a_device_for_each_process(monkeypatch):
    assert own_device(CPU, local_rank=3, count=4) == CPU
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(processes.dist, "is_nccl_available", lambda: True)
    cuda = torch.device("cuda")
    assert own_device(cuda, local_rank=1, count=2) == torch.device("cuda:1")
    assert own_device(torch.device("cuda:1"), local_rank=0, count=1) == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="4 processes need a device each, here are 2; try --nproc-per-node 2"):
        own_device(cuda, local_rank=0, count=4)
    with pytest.raises(DeviceError, match="--device cuda:1: 2 processes need a device each; leave out --device"):
        own_device(torch.device("cuda:1"), local_rank=0, count=2)
    with pytest.raises(DeviceError, match="--device mps: torchrun's processes cannot share work there"):
        own_device(torch.device("mps"), local_rank=0, count=2)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "cpu:gloo,cuda:nccl")])
def test_a_group_exchanges_what_is_on_its_devices_and_on_the_cpu(device, backend, monkeypatch):
    """A machine with GPUs may be told to compute on its CPU, and objects lie there."""
    asked = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda *names, **_: asked.extend(names))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    processes.join(torch.device(device), None)
    assert asked == [backend]


# --- two processes -------------------------------------------------------------------------------------------------


def denoiser() -> Denoiser:
    torch.manual_seed(0)
    text = StoryText.for_vocabulary(dim=SHAPE.text_dim)
    return Denoiser(tiny_transformer(latent_channels=4).requires_grad_(True), text)


def loss_of(module: Denoiser, *, wrong_at: int | None = None) -> Loss:
    """Flow matching as the stages have it, on noise, with rows of unequal weight; the past is rolled out before."""

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        x0 = torch.from_numpy(rng.standard_normal((4, 4, 2, 4, 4), dtype=np.float32))
        sigma = torch.from_numpy(rng.random(4, dtype=np.float32))
        weight = torch.from_numpy(rng.random((4, 1, 2, 1, 1), dtype=np.float32))
        rows = torch.from_numpy(rng.integers(1, 20, size=(4, 5)))
        x0, sigma, rows, weight = my_share(x0), my_share(sigma), my_share(rows), my_weight(weight)
        noise = my_normal(rng, x0)
        network, prompt = module.network, module.prompt(rows)
        with torch.no_grad():
            past = network.forward_whole(noise, 1000.0, prompt)
        output = network.forward_whole(x0 + sigma.view(-1, 1, 1, 1, 1) * noise, 1000 * sigma, prompt, clean=past)
        value = ((output - noise + x0).square() * weight).mean()
        if step == wrong_at and parallel.shares(1)[0].index == parallel.size() - 1:
            value = value * torch.nan  # in the last process only
        return {"loss": value, "past": past.square().mean()}

    return loss


def train(folder: Path, plan: Optimisation = PLAN, *, shard: bool = True, wrong_at: int | None = None) -> None:
    """A run of a small denoiser, or what is left of it, in as many processes as there are."""
    module = denoiser()
    setting = StageSetting(device=CPU, compute=ComputeConfig(shard=shard), samples=sheet)
    Trainer(folder, module, plan, setting).run(loss_of(module, wrong_at=wrong_at))


def sheet(step: int, module: torch.nn.Module) -> np.ndarray:
    """Grey as the network's answer."""
    network = module.network
    answer = network.forward_whole(torch.ones(1, 4, 1, 4, 4), 500.0, module.prompt(module.text.empty_rows(1)))
    return np.full((2, 2, 3), min(255, 100 * answer.square().mean().item()), np.uint8)


def in_two(work: Callable[..., None], *arguments: object) -> None:
    """Let two processes do this together, as torchrun would start them."""
    in_processes(2, work, *arguments)


def assert_same_run(got: Path, wanted: Path) -> None:
    """Alike but for float32 sums in another order.

    Adam at 0.01 moves every weight by about 0.01 a step. Where a gradient is nearly nothing it makes much of its
    rounding, so a few weights may differ by a part of that; a slip would show in all.
    """
    ours, theirs = (load_file(folder / "checkpoint" / "state.safetensors") for folder in (got, wanted))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        error = (ours[name].float() - tensor.float()).abs().flatten()
        assert error.max() < 5e-3, f"{name}: largest error {error.max():.3g}"
        assert error.quantile(0.9) < 1e-4, f"{name}: a tenth of the errors exceeds {error.quantile(0.9):.3g}"
    for ours, theirs in zip(read_log(got), read_log(wanted), strict=True):
        for name in theirs.keys() & {"loss", "student", "critic"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder)
    return folder


FEW = replace(PLAN, steps=2)


@pytest.mark.parametrize("shard", [True, False])
def test_two_processes_take_the_steps_of_one(tmp_path, alone, shard):
    in_two(partial(train, tmp_path, replace(PLAN, accumulate=2), shard=shard))
    assert_same_run(tmp_path, alone)
    for name in ("step-000002.png", "step-000004.png"):
        ours, theirs = (imageio.imread(folder / "samples" / name).astype(int) for folder in (tmp_path, alone))
        assert abs(ours - theirs).max() <= 1  # of 255: the average was whole when it was looked at
        assert theirs.max() > 0


def test_one_process_begins_and_two_go_on(tmp_path, alone):
    train_in_part(tmp_path)
    in_two(train, tmp_path)
    assert_same_run(tmp_path, alone)


def test_two_processes_begin_and_one_goes_on(tmp_path, alone):
    in_two(train_in_part, tmp_path)
    train(tmp_path)
    assert_same_run(tmp_path, alone)


def train_in_part(folder: Path) -> None:
    """A run that breaks off after its first checkpoint."""
    with pytest.raises(NumericsError):
        train(folder, wrong_at=2)


def test_the_blocks_are_spread_and_the_rest_is_whole():
    def work() -> None:
        module = denoiser()
        parallel.shard(module, CPU)
        whole, mine = [0, 0], [0, 0]
        for name, parameter in module.named_parameters():
            whole[".blocks." in name] += parameter.numel()
            mine[".blocks." in name] += parallel.local(parameter).numel()
        assert mine[0] == whole[0]
        assert 0.45 < mine[1] / whole[1] < 0.55

    in_two(work)


def test_what_is_not_finite_in_one_process_stops_both_and_keeps_the_checkpoint(tmp_path):
    def work() -> None:
        with pytest.raises(NumericsError, match=r"step 3 \(seed 0\); the checkpoint of step 2 is kept"):
            train(tmp_path, wrong_at=2)

    in_two(work)
    assert last_step(tmp_path) == 2


def test_the_first_process_works_by_itself_while_the_other_waits(tmp_path):
    def work() -> None:
        parallel.on_first(lambda: train(tmp_path, FEW))
        assert last_step(tmp_path) == FEW.steps

    in_two(work)
    assert len(read_log(tmp_path)) == FEW.steps


@pytest.mark.parametrize(("error", "heard"), [(OutputError("a full disk"), OutputError), (KeyError(1), CausvidError)])
def test_what_the_first_process_cannot_do_ends_the_other_too(error, heard):
    def fail() -> None:
        raise error

    def work() -> None:
        with pytest.raises(type(error) if parallel.is_first() else heard):
            parallel.on_first(fail)

    in_two(work)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(tmp_path):
    def work() -> None:
        with pytest.raises(UsageError, match=r"teacher.batch: 3 cannot be shared evenly \(2 processes\); try 4"):
            Trainer(tmp_path / "teacher", denoiser(), replace(PLAN, batch=3), StageSetting(device=CPU))

    in_two(work)


# --- torchrun ------------------------------------------------------------------------------------------------------


STAGES = ("autoencoder", "pictures", "teacher", "judge")


@pytest.mark.slow
def test_torchrun_runs_the_command_and_says_things_once(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('name = "mine"\n[clips]\n' + "".join(f"[{s}]\nsteps = 2\nbatch = 2\n" for s in STAGES))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "causvid_cli", "distill", config, "--run-dir", tmp_path / "run", "--stage", "judge"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("causvid: judge: 2 of 2") == 1
    assert last_step(tmp_path / "run" / "judge") == 2


def test_who_is_done_stays_until_the_others_have_received_all(tmp_path):
    in_processes(2, _leave_after_the_other, tmp_path / "done")


def _leave_after_the_other(done: Path) -> None:
    """The first of two processes is done at once, the second later; whoever left meanwhile would reset the other."""
    leave = processes.leave

    def checked() -> None:
        assert done.exists()
        leave()

    processes.leave = checked  # of this process alone
    if dist.get_rank():
        time.sleep(0.5)
        done.touch()
