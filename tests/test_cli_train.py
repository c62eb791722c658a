import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from causvid_cli.cli import console
from causvid_cli.cli.app import app
from causvid_cli.cli.train import RunProgress, StageProgress, duration, lines
from causvid_cli.train.distill import Distillation

STEPS = {"autoencoder": 40, "pictures": 2, "teacher": 2, "causal": 2, "student": 2, "judge": 2}


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "run.toml"
    stages = "".join(f"[{stage}]\nsteps = {steps}\nbatch = 2\nlog_every = 1\n" for stage, steps in STEPS.items())
    path.write_text(f'name = "mine"\n{stages}')
    return path


@pytest.fixture
def stages(monkeypatch) -> list[str]:
    """Stages that do nothing but report; the list says which ran."""
    ran: list[str] = []

    def stage(name: str):
        def run(self: Distillation) -> None:
            ran.append(name)
            if self.report:
                self.report(name, {"step": 1, "loss": 0.25, "lr": 1e-3, "step_s": 0.5})

        return run

    for name in ("export", "judge", "eval"):
        monkeypatch.setattr(Distillation, name, stage(name))
    monkeypatch.setattr("causvid_cli.train.distill.NEEDS", dict.fromkeys(("export", "judge", "eval"), ()))
    return ran


def distill(*arguments: object) -> Result:
    return CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["distill", *map(str, arguments)])


def test_it_prints_the_path_of_the_pack_and_nothing_else(config, tmp_path, stages):
    run = tmp_path / "run"
    done = distill(config, "--run-dir", run, "--stage", "judge", "--stage", "export", "--threads", 1)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run / 'pack' / 'mine'}\n"
    assert stages == ["export", "judge"]  # in the order of the run, not of the options
    assert "causvid: judge: at work\n" in done.stderr
    assert json.loads((run / "config.json").read_text())["name"] == "mine"


def test_the_folder_of_a_run_is_named_after_it(config, tmp_path, stages, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = distill(config, "--stage", "eval", "--quiet")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "runs" / "mine" / "config.json").is_file()


def test_a_stage_really_trains(config, tmp_path):
    done = distill(config, "--run-dir", tmp_path, "--stage", "judge", "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "causvid: judge: 2 of 2, loss " in done.stderr
    assert (tmp_path / "judge" / "checkpoint" / "state.safetensors").is_file()


def test_ctrl_c_says_how_to_go_on(config, tmp_path, stages, monkeypatch):
    def stopped(self: Distillation) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Distillation, "judge", stopped)
    done = distill(config, "--run-dir", tmp_path, "--stage", "judge")
    assert (done.exit_code, done.stdout) == (130, "")
    assert f"the same command goes on from the last checkpoint in {tmp_path}\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--stage", "jugde"), "--stage jugde: unknown; did you mean judge?"),
        (("--stage", "student"), "--stage student: needs stage ode, which has not run in"),
        (("--device", "gpu"), "--device gpu: unknown"),
    ],
)
def test_what_cannot_run_is_refused(arguments, complaint, config, tmp_path):
    done = distill(config, "--run-dir", tmp_path / "run", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_an_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    done = distill(config, "--run-dir", tmp_path / "file" / "run", "--stage", "judge")
    assert done.exit_code == 7
    assert "cannot be written" in done.stderr


class Counted:
    """A run of two stages of 100 steps."""

    def progress(self, stage, row):
        return int(row.get("step", 0)), 100


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys):
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    report = lines(RunProgress(Counted(), ("teacher", "export")))
    report("teacher", {})
    for step in range(1, 101):
        clock += 1.0
        report("teacher", {"step": step, "loss": 1 / step, "lr": 1e-3, "step_s": 1.0})
    report("export", {})
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "causvid: teacher: at work"
    assert said[1] == "causvid: teacher: 10 of 100, loss 0.1, 1 a second, 1 min 30 s left"
    assert said[-2:] == ["causvid: teacher: 100 of 100, loss 0.01", "causvid: export: at work"]
    assert len(said) == 2 + 100 / console.LINE_EVERY_S


def test_the_table_names_every_stage():
    progress = RunProgress(Counted(), ("teacher", "causal", "export"))
    for stage, row in (("teacher", {}), ("causal", {}), ("causal", {"step": 50, "loss": 0.5, "step_s": 2.0})):
        progress.update(stage, row)
    columns = [list(column.cells) for column in progress.table().columns]
    assert columns[0] == ["teacher", "causal", "export"]
    assert columns[1] == ["done", "50 of 100", ""]
    assert columns[2] == ["", "0.5 a second, 1 min 40 s left", ""]
    assert columns[3] == ["", "loss 0.5", ""]


def test_a_stage_that_does_not_time_its_steps_is_timed(monkeypatch):
    clock = iter((5.0, 10.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stage = StageProgress()
    stage.update({"clips": 500}, 500, 2000)
    stage.update({"clips": 1000}, 1000, 2000)
    assert stage.pace() == "100 a second, 10 s left"


@pytest.mark.parametrize(("seconds", "text"), [(9, "9 s"), (61, "1 min 1 s"), (3725, "1 h 2 min")])
def test_durations_are_said_in_two_units(seconds, text):
    assert duration(seconds) == text
