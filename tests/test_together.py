"""Every stage that processes run together takes the steps that one process takes."""

from pathlib import Path

import pytest
import torch
from train.test_distill import FACTS, ode_pairs, random_output
from train.test_parallel import assert_same_run, in_two
from train.test_story_clips import small_clips, small_denoiser

from causvid_cli.train.causal import train_causal
from causvid_cli.train.config import DmdConfig, Optimisation
from causvid_cli.train.dmd import Matching, train_dmd
from causvid_cli.train.student import Regression, train_student
from causvid_cli.train.teacher_stage import train_teacher
from causvid_cli.train.trainer import StageSetting

CPU = torch.device("cpu")
SETTING = StageSetting(device=CPU)
PLAN = Optimisation(steps=3, lr=1e-3, batch=4, warmup=1, save_every=3, log_every=1)


def teacher(folder: Path, data: Path) -> None:
    clips, denoiser = small_clips(data, count=5), random_output(small_denoiser())
    train_teacher(folder, denoiser, clips, PLAN, frames=None, shift=1.5, setting=SETTING)


def causal(folder: Path, data: Path) -> None:
    clips, denoiser = small_clips(data, count=5, first_predictable_frame=2), random_output(small_denoiser())
    denoiser.text.requires_grad_(False)
    train_causal(folder, denoiser, clips, PLAN, FACTS, shift=2.0, setting=SETTING)


def student(folder: Path, data: Path) -> None:
    clips, denoiser = small_clips(data, count=5), random_output(small_denoiser())
    pairs = ode_pairs(data, denoiser, clips, chunk_frames=1)
    regression = Regression(denoiser, clips, pairs, FACTS, batch=4, device=CPU, supervise_rollout=True)
    train_student(folder, denoiser, regression, PLAN, SETTING)


def dmd(folder: Path, data: Path) -> None:
    clips = small_clips(data, count=5)
    student, critic, real = (random_output(small_denoiser()) for _ in range(3))
    for denoiser in (student, critic, real):
        denoiser.text.requires_grad_(False)
    plan = DmdConfig(critic_updates=1)
    matching = Matching(student, critic, real, clips, FACTS, plan, batch=4, shift=2.0, device=CPU)
    train_dmd(folder, matching, PLAN, SETTING)


@pytest.mark.parametrize("stage", [teacher, causal, student, dmd])
def test_two_processes_take_the_steps_of_one(tmp_path, stage):
    stage(tmp_path / "one", tmp_path / "data")
    in_two(stage, tmp_path / "two", tmp_path / "data")
    assert_same_run(tmp_path / "two", tmp_path / "one")
