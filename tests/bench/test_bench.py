import json
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image, ImageColor
from tiny import tiny_pack
from typer.testing import CliRunner, Result

from causvid_cli.bench import chart, cold_start, measure, report, tables
from causvid_cli.bench.cold_start import Fresh
from causvid_cli.bench.config import BenchConfig, BenchSetting
from causvid_cli.bench.measure import ChunkParts, Measured, Round, Run
from causvid_cli.bench.network_calls import NetworkCall, network_calls
from causvid_cli.bench.subjects import Maker, open_maker
from causvid_cli.charts import COLOURS, PIXELS_PER_POINT, drawing
from causvid_cli.cli.app import app
from causvid_cli.errors import DeviceError, ModelError, OutputError, UsageError
from causvid_cli.models.catalogue import find_checkpoint
from causvid_cli.pipeline import Pipeline
from causvid_cli.request import LOADING

ONE_CHUNK = "4f"


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    monkeypatch.setitem(measure.MATRIX_SIZE, "cpu", 64)


def bench(pack: Path, *arguments: str) -> Result:
    options = ["--model", str(pack), "--length", "1s", "--repeats", "1", "--threads", "1"]
    return CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["bench", *options, *arguments])


@pytest.fixture
def quick_starts(monkeypatch):
    """Fresh processes that cost no time."""
    start = Fresh(
        import_s=2.0, torch_s=1.5, load_s=0.5, encode_s=0.1, exit_s=0.05, first_frame_s=0.2, peak_memory_bytes=2**20
    )
    monkeypatch.setattr("causvid_cli.cli.bench.start", lambda role, config: start)


def test_json_is_one_object_of_documented_keys_and_types(pack):
    done = bench(pack, "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)

    assert (figures["v"], figures["model"], figures["device"], figures["dtype"]) == (1, "tiny", "cpu", "float32")
    assert (figures["length"], figures["frames"], figures["repeats"], figures["threads"]) == ("1s", 8, 1, 1)
    for name in ("import_s", "torch_s", "load_s", "encode_s", "exit_s", "matrix_rate_share", "matrix_flops_per_s"):
        assert_median(figures, name)
    for role in ("student", "teacher"):
        for name in ("first_frame_s", "frames_per_s", "first_frame_cold_s"):
            assert_median(figures[role], name)
        assert isinstance(figures[role]["peak_memory_bytes"], int)
        assert figures[role]["peak_memory_bytes"] > 2**20
    for part in ("steps_s", "clean_pass_s", "decode_s", "rest_s"):
        assert_median(figures["chunk"], part)
    student, teacher, ratio = figures["student"], figures["teacher"], figures["ratio"]
    assert ratio == {
        "first_frame": pytest.approx(student["first_frame_s"] / teacher["first_frame_s"]),
        "frames_per_s": pytest.approx(student["frames_per_s"] / teacher["frames_per_s"]),
    }


def assert_median(figures: dict, name: str) -> None:
    least, greatest = figures["spread"][name]
    assert 0 < least <= figures[name] <= greatest, name


def test_without_the_teacher_there_is_nothing_to_compare(pack, quick_starts):
    figures = json.loads(bench(pack, "--json", "--no-teacher", "--quiet").stdout)
    assert (figures["teacher"], figures["ratio"]) == (None, None)
    shown = bench(pack, "--no-teacher").stdout
    assert "student" in shown
    assert "teacher" not in shown


def test_a_pack_without_a_teacher_says_so_and_is_measured(tmp_path, quick_starts):
    done = bench(tiny_pack(tmp_path / "alone", teacher=None), "--json")
    assert done.exit_code == 0, done.output
    assert "alone" not in done.stderr
    assert "tiny comes without its teacher" in done.stderr
    assert json.loads(done.stdout)["teacher"] is None


def test_the_table_holds_the_figures_for_people(pack, quick_starts):
    done = bench(pack)
    subject, circumstances, header, *rows = done.stdout.splitlines()
    assert subject == "tiny: 8 frames of 128x128, 2 chunks of 1 latent frame"
    assert re.match(r"cpu in float32, torch .*, 1 CPU thread; median \(least - greatest\) of 1 round$", circumstances)
    assert header.split() == ["student", "teacher", "student", ":", "teacher"]
    assert [row.split("  ")[0] for row in rows[:3]] == ["first frame", "", "frames per second"]
    starts = (
        "import 2 s (2 s - 2 s), of which torch 1.5 s (1.5 s - 1.5 s), load 500 ms (500 ms - 500 ms), "
        "encode 100 ms (100 ms - 100 ms), exit 50 ms (50 ms - 50 ms), warm-up "
    )
    assert any(row.startswith(starts) for row in rows)
    assert "1 MiB" in done.stdout
    assert re.match(r"A chunk: steps .* ms \(.*\), clean pass .*, decode .*, the rest .*$", rows[-2])
    assert rows[-1].startswith("The clip is too short for a full window; --chunks 5 or more")
    assert all(line.startswith("causvid: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--length", "abc"), 2, "--length 'abc' is not a length"),
        (("--device", "gpu"), 2, "--device gpu: unknown"),
        (("--repeats", "0"), 2, "greater than or equal to 1"),
        (("--model", "nope"), 4, "no model 'nope'"),
        (("--random-weights", "self-forcing"), 2, "--random-weights self-forcing and --model"),
        (("--chunks", "3"), 2, "--chunks 3 and --length 1s: choose one"),
        (("--chunks", "0"), 2, "greater than or equal to 1"),
        (("--steps", "4,x"), 2, "--steps 'x' is not a whole number"),
        (("--steps", "4,0"), 2, "--steps 0: must be 1 to 1000"),
        (("--window", "3,0"), 2, "--window 0: must be 1 to 1000; tiny makes 1 latent frame at a time"),
        (("--window", ""), 2, "--window '' is not a whole number"),
        (("--size", "100x100"), 2, "--size 100x100: tiny paints 64x64 cells"),
        (("--vae", "tiny"), 4, "--vae tiny"),
        (("--quantize", "int7"), 2, "--quantize int7: unknown"),
        (("--chart", "chart.gif"), 2, "must end in .png or .svg"),
        (("--chart", "no-such-folder/chart.svg"), 7, "there is no folder no-such-folder"),
    ],
)
def test_a_bad_request_ends_before_anything_starts(arguments, code, complaint, pack, monkeypatch):
    monkeypatch.delattr("causvid_cli.cli.bench.start")
    done = bench(pack, *arguments)
    assert done.exit_code == code, done.output
    assert complaint in done.stderr
    assert done.stdout == ""


def test_what_ends_a_fresh_process_ends_the_bench():
    with pytest.raises(ModelError, match="no model 'nope'"):
        cold_start.start("student", BenchConfig(model="nope"))


def opened(pack: Path, **config: object) -> Maker:
    return open_maker("student", BenchConfig(model=str(pack), **config))


def test_the_parts_of_a_chunk_are_all_of_its_time(pack):
    student = opened(pack, length="1s")
    done = measure.run_round(student)
    chunks, steps, parts = 2, 2, done.parts
    assert done.decoding.clip_s == pytest.approx(chunks * parts.decode_s)
    assert min(parts.steps_s, parts.clean_pass_s, parts.decode_s, parts.rest_s) > 0
    assert done.whole.frames == done.latents.frames == done.decoding.frames == 8
    assert [len(run.chunk_s) for run in (done.whole, done.latents, done.decoding)] == [chunks] * 3
    assert [call.kind for call in done.calls] == ["step", "step", "joined", "step"]  # as this network on a CPU does it
    assert len(done.calls) == chunks * steps
    assert "forward" not in vars(student.model.model)  # what was clocked is as it was


def test_parts_come_from_calls_that_are_made_apart():
    calls = [NetworkCall("step", 2.0, 1), NetworkCall("clean", 3.0, 1), NetworkCall("step", 5.0, 1)]
    parts = ChunkParts.of(Run(8, (6.0, 6.0), 12.0), calls, Run(8, (1.0, 1.0), 3.0))
    assert parts == ChunkParts(steps_s=3.5, clean_pass_s=3.0, decode_s=1.5, rest_s=1.0)


def test_without_a_clean_pass_there_is_nothing_to_report_of_it(pack):
    assert measure.run_round(opened(pack, length=ONE_CHUNK)).parts.clean_pass_s == 0


def test_a_chunk_that_is_made_while_the_one_before_is_awaited_has_its_own_time():
    """The first frames come at once; those of the second chunk when the third is made; the last is only decoded."""
    assert measure.in_making([5.0, 8.0, 4.0, 3.0, 0.1]) == (5.0, 4.0, 4.0, 4.0, 3.0)
    assert measure.in_making([5.0, 8.0, 0.1]) == (5.0, 4.0, 4.0)
    assert measure.in_making([5.0, 4.0]) == (5.0, 4.0)
    assert measure.in_making([5.0]) == (5.0,)


def test_a_student_is_ahead_where_that_is_faster(pack, monkeypatch):
    """The same frames, in the same chunks; a whole clip takes what it takes."""
    student = opened(pack, length="24f")
    plain = [frames.copy() for frames in student()]
    monkeypatch.setattr(Pipeline, "benefits_from_prefetch", True)
    assert student.is_ahead
    assert all((a == b).all() for a, b in zip(plain, student(), strict=True))
    done = measure.run_round(student)
    assert len(done.whole.chunk_s) == 6
    assert sum(done.whole.chunk_s) <= done.whole.clip_s


@pytest.mark.parametrize(("steps", "window"), [(None, None), (1, 1), (3, 2), (2, 9)])
def test_steps_and_window_change_what_the_network_does(pack, steps, window):
    """Calls, and to how many latent frames each attends: those of the sink and of the window, as far as there are."""
    config = BenchConfig(model=str(pack), length="24f", settings=(BenchSetting(steps=steps, window_frames=window),))
    student = open_maker("student", config)
    student.model.merge_clean_pass = False
    with network_calls(student.model.model, student.device) as calls:
        caches = {id(cache): cache for cache in caches_of(student)}
    (cache,) = caches.values()
    chunks, sink, steps, window = 6, 1, steps or 2, window or 3
    assert cache.capacity_frames == sink + min(window, chunks)
    kinds = [call.kind for call in calls()]
    assert kinds.count("clean") == chunks - 1
    assert kinds.count("step") == chunks * steps
    flops = [call.flops for call in calls() if call.kind == "step"]
    later = [flops[chunk * steps + steps - 1] for chunk in range(chunks)]
    assert [n == later[-1] for n in later] == [frames + 1 >= min(sink + window, chunks) for frames in range(chunks)]
    assert student.first_steady_chunk == sink + window
    assert student.plan.window_frames == window


def caches_of(student: Maker) -> list:
    """The caches that the network is given while a clip is made."""
    seen, plain = [], student.model.model.forward

    def looked_at(*arguments, **options):
        seen.append(options["cache"])
        return plain(*arguments, **options)

    student.model.model.forward = looked_at
    for _ in student():
        pass
    return seen


def test_a_window_of_ones_own_makes_other_pictures_only_once_something_falls_out_of_it(pack):
    pipeline = opened(pack).model
    wide, narrow = (pipeline.generate("a red car", length="24f", seed=1, window_frames=n) for n in (9, 2))
    assert (wide[:12] == narrow[:12]).all()  # a sink of 1 and a window of 2 hold the first three chunks
    assert (wide != narrow).any()
    with pytest.raises(UsageError, match="--window 0: must be 1 to"):
        pipeline.plan(window_frames=0)


def made_up(student: Maker, *rounds: Round) -> Measured:
    """What might have been measured."""
    return Measured([student], None, {student.setting: Run(8, (2.0, 1.0), 3.0)}, {student.setting: list(rounds)})


def a_round(chunk_s: tuple[float, ...], *, network_s: float = 0.5, matrix: float = 800.0) -> Round:
    calls = (
        NetworkCall("step", network_s, 300),
        NetworkCall("clean", network_s, 100),
        NetworkCall("joined", network_s, 200),
    )
    whole, latents, pictures = (
        Run(4 * len(chunk_s), tuple(s / times for s in chunk_s), sum(chunk_s) / times) for times in (1, 2, 4)
    )
    return Round(whole, latents, calls, pictures, ChunkParts.of(latents, calls, pictures), matrix, 7)


def test_figures_are_those_of_a_known_clock(pack):
    """6 chunks of 4 frames; a sink of 1 and a window of 3, so that the fifth chunk is the first in a steady state."""
    student = opened(pack, length="24f", repeats=2)
    rounds = a_round((5.0, 1.0, 2.0, 2.0, 4.0, 4.0)), a_round((7.0, 1.0, 2.0, 4.0, 8.0, 2.0), matrix=400.0)
    start = Fresh(
        import_s=2.0, torch_s=1.5, load_s=0.5, encode_s=0.1, exit_s=0.05, first_frame_s=9.0, peak_memory_bytes=2**20
    )
    figures = report.figures({"student": [start]}, made_up(student, *rounds))
    (setting,) = figures["settings"]
    assert (setting["steps"], setting["window_frames"], setting["sink_frames"]) == (2, 3, 1)
    assert (setting["first_frame_s"], setting["spread"]["first_frame_s"]) == (6.0, (5.0, 7.0))
    assert setting["chunk_s"] == [6.0, 1.0, 2.0, 3.0, 6.0, 3.0]
    assert (setting["first_steady_chunk"], setting["steady_chunk_s"]) == (4, 4.0)
    assert setting["spread"]["steady_chunk_s"] == (2.0, 8.0)
    assert setting["first_chunks_s"] == 2.0
    assert setting["steady_frames_per_s"] == 4 / 4.0
    assert setting["frames_per_s"] == pytest.approx((24 / 18 + 24 / 24) / 2)
    assert setting["diffusion_frames_per_s"] == pytest.approx(2 * setting["frames_per_s"])
    assert setting["decode_frames_per_s"] == pytest.approx(4 * setting["frames_per_s"])
    assert setting["network_flops_per_s"] == 600 / 1.5
    assert (setting["matrix_rate_share"], setting["spread"]["matrix_rate_share"]) == (0.75, (0.5, 1.0))
    assert (setting["warm_up_s"], setting["warm_up_chunks"], setting["peak_memory_bytes"]) == (3.0, 2, 7)
    assert setting["chunk"]["clean_pass_s"] == 0.5
    assert setting["chunk"]["steps_s"] == pytest.approx(1.0 / 6)
    assert figures["student"]["first_frame_cold_s"] == 9.0
    assert figures["student"]["peak_memory_bytes"] == 2**20
    assert figures["complete"]


def test_who_has_to_wait_is_told_how_long(pack):
    student = opened(pack, length="24f", repeats=5)
    assert measure.expected_s(made_up(student)) == 5 * 2 * 6 * 1.0  # rounds, whole and in parts, chunks of 1 s
    assert measure.expected_s(Measured([student])) == 0


def test_what_is_timed_has_been_made_before(pack):
    """As far as the window is full, and one chunk more."""
    for length, warm_up, chunks in (("60f", None, 5), ("8f", None, 2), ("8f", 1, 1), ("8f", 9, 2), ("8f", 0, 0)):
        measured = Measured.of({"student": opened(pack, length=length, warm_up=warm_up, repeats=1)})
        measure.measure(measured, note=lambda _: None)
        assert [len(run.chunk_s) for run in measured.warm_ups.values()] == [chunks] * (chunks > 0)


KEYS = """
    v model device device_name dtype loading torch threads length size fps frames chunks chunk_frames chunk_pictures
    repeats complete import_s torch_s load_s encode_s exit_s matrix_rate_share
    matrix_flops_per_s spread network_flops chunk student teacher ratio settings
"""
SETTING_KEYS = """
    steps window_frames sink_frames rounds warm_up_chunks warm_up_s first_steady_chunk first_frame_s first_chunks_s
    steady_chunk_s steady_frames_per_s frames_per_s diffusion_frames_per_s decode_frames_per_s network_flops_per_s
    matrix_rate_share spread chunk_s chunk network_calls network_flops peak_memory_bytes
"""


def test_the_keys_of_version_1_are_these(pack):
    figures = report.figures({}, made_up(opened(pack), a_round((1.0, 1.0))))
    assert list(figures) == KEYS.split()
    assert list(figures["settings"][0]) == SETTING_KEYS.split()
    assert list(figures["chunk"]) == ["steps_s", "clean_pass_s", "decode_s", "rest_s", "spread"]
    assert json.loads(json.dumps(figures, allow_nan=False))["v"] == 1


def test_a_window_that_keeps_everything_is_never_full(tmp_path):
    student = opened(tiny_pack(tmp_path / "all", window_frames=0), length="24f", repeats=1)
    figures = report.figures({}, made_up(student, a_round((1.0,) * 6)))
    (setting,) = figures["settings"]
    assert (setting["window_frames"], setting["steady_chunk_s"]) == (None, None)
    assert not any("too short" in note for note in tables.footnotes(figures))
    assert tables.setting_label(setting) == "2 steps, window all"


def test_without_fresh_processes_memory_is_that_of_this_one(pack):
    figures = report.figures({}, made_up(opened(pack), a_round((1.0, 1.0))))
    assert (figures["student"]["peak_memory_bytes"], figures["student"]["first_frame_cold_s"]) == (7, None)
    assert (figures["import_s"], figures["load_s"]) == (None, None)
    assert not figures["complete"]  # three rounds were wanted
    (setting,) = figures["settings"]
    assert (setting["steady_chunk_s"], setting["steady_frames_per_s"]) == (None, None)


def test_the_clip_is_10_s_long_unless_asked_otherwise():
    assert BenchConfig().length == "10s"


def test_the_slowest_and_the_fastest_round_stand_beside_the_median():
    runs = [Run(frames=32, chunk_s=(s, s), clip_s=2 * s) for s in (3.0, 1.0, 2.0)]
    start = Fresh(
        import_s=2.0, torch_s=1.5, load_s=0.5, encode_s=0.1, exit_s=0.05, first_frame_s=0.2, peak_memory_bytes=7
    )
    starts = [start, replace(start, peak_memory_bytes=9), replace(start, import_s=5.0, peak_memory_bytes=8)]
    student = report.role_figures(runs, starts)
    assert (student["first_frame_s"], student["spread"]["first_frame_s"]) == (2.0, (1.0, 3.0))
    assert (student["frames_per_s"], student["spread"]["frames_per_s"]) == (8.0, (32 / 6, 16.0))
    assert student["peak_memory_bytes"] == 8


# --- settings ------------------------------------------------------------------------------------------------------


def test_every_pair_of_steps_and_window_is_measured_and_keeps_its_figures(pack, tmp_path):
    chart = tmp_path / "chart.svg"
    grid = ("--steps", "2,1", "--window", "3,2,3", "--no-teacher", "--no-cold", "--warm-up", "1")
    done = bench(pack, "--json", *grid, "--chart", str(chart))
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert [(each["steps"], each["window_frames"]) for each in figures["settings"]] == [(2, 3), (2, 2), (1, 3), (1, 2)]
    assert [each["network_calls"] for each in figures["settings"]] == [4, 4, 2, 2]
    assert [each["warm_up_chunks"] for each in figures["settings"]] == [1] * 4
    assert figures["loading"]["vae"] == "full"
    assert figures["size"] == "128x128"
    for name in ("first_frame_s", "frames_per_s", "diffusion_frames_per_s", "decode_frames_per_s"):
        for each in figures["settings"]:
            assert_median(each, name)
    legend = ElementTree.parse(chart).find(".//*[@id='legend_1']")
    assert [part.get("id").split("_")[0] for part in legend] == ["text", *["line2d", "text"] * 4]  # its title, settings
    again = bench(pack, *grid, "--chart", str(chart))
    assert again.exit_code == 7
    assert "exists; -y replaces it" in again.stderr
    lines = bench(pack, *grid).stdout.splitlines()
    (header,) = (place for place, line in enumerate(lines) if line.startswith("steps  window  "))
    settings = [re.split("  +", line)[:2] for line in lines[header + 1 : header + 5]]
    assert settings == [["2", "1 + 3"], ["2", "1 + 2"], ["1", "1 + 3"], ["1", "1 + 2"]]


def test_ctrl_c_leaves_what_was_measured(pack, monkeypatch):
    rounds, plain = [], measure.run_round

    def stopped(student: Maker) -> Round:
        if len(rounds) == 3:
            raise KeyboardInterrupt
        rounds.append(student)
        return plain(student)

    monkeypatch.setattr(measure, "run_round", stopped)
    options = ("--steps", "2,1", "--no-teacher", "--no-cold", "--repeats", "2")
    done = bench(pack, "--json", *options)
    assert done.exit_code == 130
    figures = json.loads(done.stdout)
    assert [each["rounds"] for each in figures["settings"]] == [2, 1]
    assert not figures["complete"]
    rounds.clear()
    assert "2 rounds, broken off" in bench(pack, *options).stdout
    monkeypatch.setattr(measure, "warm_up", lambda student: stopped(student))
    rounds[:] = [None] * 3
    nothing = bench(pack, *options)
    assert (nothing.exit_code, nothing.stdout) == (130, "")


def test_a_clip_can_be_counted_in_chunks(pack, quick_starts):
    done = CliRunner().invoke(app, ["bench", "--model", str(pack), "--chunks", "3", "--repeats", "1", "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert (figures["length"], figures["frames"], figures["chunks"]) == ("12f", 12, 3)


def test_a_teacher_is_left_out_where_the_size_is_not_its_own(pack):
    done = bench(pack, "--no-cold", "--size", "64x64", "--json")
    assert "tiny has a teacher of its own size only" in done.stderr
    figures = json.loads(done.stdout)
    assert (figures["teacher"], figures["size"]) == (None, "64x64")


class Calls:
    """What calls a function in the fresh process, as soon as that is told what to measure."""

    def __init__(self, function: Callable, argument: object) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> tuple:
        return self.call


def test_a_killed_fresh_process_is_an_error_of_memory():
    with pytest.raises(DeviceError, match="process of the teacher was killed by signal 9, as a system does"):
        cold_start.start("teacher", Calls(signal.raise_signal, signal.SIGKILL))


def test_a_fresh_process_has_loaded_nothing():
    """Neither torch nor what this program's own start has loaded; 40 and a bit would be the number of them."""
    heavy = "{'torch', 'numpy', 'typer', 'rich', 'pydantic', 'pytest'}"
    with pytest.raises(RuntimeError, match="ended with 40$"):
        cold_start.start("student", Calls(exec, f"import sys; sys.exit(40 + len({heavy} & sys.modules.keys()))"))


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_fresh_process_out_of_memory_says_what_to_ask_for(error, monkeypatch):
    def measure(role: str, config: BenchConfig) -> Fresh:
        raise error("")

    sent = []
    monkeypatch.setattr(cold_start, "measure_here", measure)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    cold_start._answer(SimpleNamespace(send=sent.append), "student", BenchConfig())
    (answer,) = sent
    assert isinstance(answer, DeviceError)
    assert str(answer).startswith("the student runs out of memory; ask for less, such as a smaller --size or --window")


# --- random weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["self-forcing", "longlive", "krea-14b"])
@pytest.mark.parametrize("vae", ["full", "tiny"])
def test_any_known_architecture_is_measured_with_no_download(small_networks, name, vae):
    options = ["--random-weights", name, "--size", "48x32", "--vae", vae, "--no-cold", "--repeats", "1"]
    window = ["--steps", "2", "--window", "6", "--chunks", "5", "--dtype", "bfloat16"]
    done = CliRunner().invoke(app, ["bench", *options, *window, "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    (setting,) = figures["settings"]
    facts, chunks, steps = find_checkpoint(name).facts(), 5, 2
    assert (figures["model"], figures["dtype"], figures["teacher"]) == (name, "bfloat16", None)
    assert figures["frames"] == 1 + 4 * (chunks * facts.chunk_frames - 1)
    assert figures["loading"] == {**asdict(LOADING), "loras": [], "vae": vae, "random_weights": True}
    assert setting["network_calls"] == chunks * steps  # clean passes joined to first steps, of small networks
    assert setting["first_steady_chunk"] == (facts.sink_frames + 6) // facts.chunk_frames
    assert setting["steady_chunk_s"] > 0
    shown = CliRunner().invoke(app, ["bench", *options, *window, "--quiet"]).stdout
    assert shown.startswith(
        f"{name} (random weights): {figures['frames']} frames of 48x32, 5 chunks of 3 latent frames"
    )
    assert ("vae tiny, " in shown) == (vae == "tiny")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("self-forcin",), "no checkpoint 'self-forcin' is known; did you mean self-forcing?"),
        (("wan2.1-1.3b",), "bidirectional"),
        (("krea-14b", "--window", "3"), "--window 3: must be 4 to 1000; krea-14b makes 3 latent frames at a time"),
        (("self-forcing", "--window", "2"), "--window 2: must be 3 to 1000"),
        (("self-forcing", "--size", "100x64"), "width 100 is not a multiple of 16"),
    ],
)
def test_what_no_architecture_can_do_is_refused_at_once(arguments, complaint):
    done = CliRunner().invoke(app, ["bench", "--random-weights", *arguments])
    assert done.exit_code in (2, 4), done.output
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- the chart -----------------------------------------------------------------------------------------------------


@pytest.fixture
def result(pack) -> dict:
    student = opened(pack, length="24f", repeats=1)
    one = report.figures({}, made_up(student, a_round((5.0, 1.0, 2.0, 2.0, 4.0, 4.0))))
    other = {**one["settings"][0], "steps": 1, "chunk_s": [0.5] * 6, "steady_chunk_s": None}
    return {**one, "settings": [one["settings"][0], other]}


@pytest.fixture
def in_style() -> Iterator[None]:
    with drawing():
        yield


def test_the_chart_has_a_line_for_each_setting_with_units_and_numbers(result, in_style):
    (axes,) = chart.chart(result).axes
    assert [line.get_label() for line in axes.lines] == [
        "2 steps, window 1 + 3: 4 s once it is full, 1 frames per second",
        f"1 step, window 1 + 3, never full: {result['settings'][1]['frames_per_s']:.3g} frames per second in all",
    ]
    assert [list(line.get_ydata()) for line in axes.lines] == [[5, 1, 2, 2, 4, 4], [0.5] * 6]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("chunk", "time per chunk (s)")
    assert len({line.get_color() for line in axes.lines}) == 2


def test_a_chart_of_milliseconds_says_how_fast_it_plays(result, in_style):
    for each in result["settings"]:
        each["chunk_s"] = [0.4] * 6
    (axes,) = chart.chart(result).axes
    assert axes.get_ylabel() == "time per chunk (ms)"
    assert axes.lines[-1].get_label() == "as fast as it plays, 8 frames per second: 500 ms"
    assert set(axes.lines[-1].get_ydata()) == {500}


@pytest.mark.parametrize("chunks", [1, 2, 13, 200])
def test_a_chart_can_be_drawn_of_any_number_of_chunks_and_settings(result, chunks, tmp_path):
    result["settings"][0]["chunk_s"] = [0.1 + 0.001 * n for n in range(chunks)]
    result["settings"] = [result["settings"][0]] * 8
    chart.write_chart(tmp_path / "chart.svg", result)
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    _, _, width, height = map(float, root.get("viewBox").split())
    texts = root.findall(".//{*}text")
    numbers = [int(text.text) for text in texts if text.text.isdigit() and "middle" in text.get("style")]
    assert len(set(numbers)) == len(numbers) <= 14
    assert set(numbers) <= set(range(chunks))
    assert sum(text.text.startswith("2 steps, window 1 + 3: ") for text in texts) == 8
    for text in texts:
        x, y = float(text.get("x") or 0), float(text.get("y") or 0)
        assert 0 <= x <= width and 0 <= y <= height, text.text


def test_equal_figures_are_equal_files(result, tmp_path):
    for name in ("chart.svg", "chart.png"):
        chart.write_chart(tmp_path / name, result)
        chart.write_chart(tmp_path / f"again-{name}", result)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def test_the_png_is_the_same_picture(result, tmp_path):
    chart.write_chart(tmp_path / "chart.png", result)
    with Image.open(tmp_path / "chart.png") as image:
        assert image.width == chart.WIDTH * PIXELS_PER_POINT
        seen = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {ImageColor.getrgb(COLOURS[name]) for name in ("page", "line", "blue", "orange")} <= seen


def test_a_full_disk_is_an_output_error_and_leaves_the_old_chart(result, tmp_path, monkeypatch):
    path = tmp_path / "chart.svg"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match="cannot be written: no space left"):
        chart.write_chart(path, result)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
