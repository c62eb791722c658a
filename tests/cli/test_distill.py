import io
import json
import signal
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from causvid_cli.cli.app import app
from causvid_cli.cli.distill import RunProgress, StageProgress, lines
from causvid_cli.cli.progress import LINE_EVERY_S
from causvid_cli.train.distill import Distillation

STEPS = {"autoencoder": 40, "pictures": 2, "teacher": 2, "causal": 2, "student": 2, "judge": 2}


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "run.toml"
    stages = "".join(f"[{stage}]\nsteps = {steps}\nbatch = 2\nlog_every = 1\n" for stage, steps in STEPS.items())
    path.write_text(f'name = "mine"\n[clips]\n[ode]\n[eval]\n{stages}')
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
    done = distill(config, "--run-dir", run, "--stage", "export", "--stage", "judge", "--threads", 1)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run / 'pack' / 'mine'}\n"
    assert stages == ["judge", "export"]  # in the order of the run, not of the options
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
    """A run of stages of 100 steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def progress(self, stage, row):
        return int(row.get("step", 0)), 100


def test_without_a_terminal_there_is_a_line_now_and_then(tmp_path, monkeypatch, capsys):
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    report = lines(RunProgress(Counted(tmp_path), ("teacher", "export")))
    report("teacher", {})
    for step in range(1, 101):
        clock += 1.0
        report("teacher", {"step": step, "loss": 1 / step, "lr": 1e-3, "step_s": 1.0, "grad_norm": 2.0})
    report("export", {})
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "causvid: teacher: at work"
    assert said[1] == "causvid: teacher: 10 of 100, loss 0.1, 1 a second, 1 min 30 s left"
    assert said[-2:] == ["causvid: teacher: 100 of 100, loss 0.01", "causvid: export: at work"]
    assert len(said) == 2 + 100 / LINE_EVERY_S


def screen(progress: RunProgress, width: int, **options: bool) -> list[str]:
    """What a terminal of this width shows, line by line."""
    drawn = Console(width=width, file=io.StringIO())
    drawn.print(progress.view(width, **options))
    return [line.rstrip() for line in drawn.file.getvalue().splitlines()]


@pytest.fixture
def at_work(tmp_path, monkeypatch) -> RunProgress:
    """A run whose first stage is done and whose second goes on from step 20 of 40 that an earlier run has taken."""
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    (tmp_path / "causal").mkdir()
    past = [{"step": step, "loss": 100 / step, "step_s": 2.0} for step in range(10, 50, 10)]
    (tmp_path / "causal" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in past))
    progress = RunProgress(Counted(tmp_path), ("teacher", "causal", "dmd", "export"))
    progress.update("teacher", {})
    for step, loss in ((50, 4.0), (100, 1.0)):
        clock += 75.0
        progress.update("teacher", {"step": step, "loss": loss, "step_s": 1.5})
    progress.update("causal", {})
    progress.update("causal", {"step": 30, "loss": 2.0, "x0_error": 0.5, "lr": 1e-3, "step_s": 2.0, "grad_norm": 3.0})
    return progress


def test_the_table_shows_every_stage_with_its_curve(at_work):
    assert screen(at_work, 80) == [
        "stage    steps          time               loss      curve",
        "teacher  done           took 2 min 30 s    1         █▁",
        "causal   30 of 100      2 min 20 s left    2         █▅▁",  # of steps 10, 20 and, taken again, 30
        "dmd",
        "export",
        "0.5 a second, loss 2, x0_error 0.5, lr 0.001, grad_norm 3",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_table_fits_and_does_without_curves_where_they_do_not(at_work, width):
    lines = screen(at_work, width)
    assert all(len(line) <= width for line in lines)
    assert ("curve" in lines[0]) == (width > 60)
    assert not any(bar in line for line in screen(at_work, width, curves=False) for bar in "▁█")


def test_a_stage_of_several_losses_is_known_by_the_first(at_work):
    at_work.update("dmd", {})
    assert "at work" in screen(at_work, 80)[3]
    at_work.update("dmd", {"step": 10, "critic": 0.25, "student": 3.0, "step_s": 1.0})
    assert screen(at_work, 80)[3] == "dmd      10 of 100      1 min 30 s left    critic 0.25  ▁"
    at_work.finish()
    assert screen(at_work, 80)[3:] == ["dmd      done           took 0 s           critic 0.25  ▁", "export"]


def test_a_stage_that_does_not_time_its_steps_is_timed(monkeypatch):
    clock = iter((5.0, 10.0, 10.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stage = StageProgress()
    stage.update({"clips": 500}, 500, 2000)
    stage.update({"clips": 1000}, 1000, 2000)
    assert stage.pace() == "100 a second"
    assert stage.time() == "10 s left"


def test_of_torchruns_processes_one_speaks(config, tmp_path, stages, monkeypatch):
    for module in ("app", "distill"):
        monkeypatch.setattr(f"causvid_cli.cli.{module}.is_first", lambda: False)
    done = distill(config, "--run-dir", tmp_path / "run", "--stage", "export")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    done = distill(config, "--run-dir", tmp_path / "run", "--stage", "jugde")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", "")
    monkeypatch.setattr(Distillation, "judge", lambda self: signal.raise_signal(signal.SIGINT))
    done = distill(config, "--run-dir", tmp_path / "run", "--stage", "judge")
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "")


def test_tensorboard_is_said_where_it_is(config, tmp_path, stages, monkeypatch):
    said = f"causvid: curves and sheets of samples: tensorboard --logdir {tmp_path}\n"
    for there in (True, False):
        monkeypatch.setattr("causvid_cli.cli.distill.has_tensorboard", lambda there=there: there)
        done = distill(config, "--run-dir", tmp_path, "--stage", "export")
        assert (said in done.stderr) == there
