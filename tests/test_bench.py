import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import SHAPE, tiny_pack
from typer.testing import CliRunner, Result

from causvid_cli.bench import fresh, measure, report
from causvid_cli.bench.fresh import BenchConfig, Fresh
from causvid_cli.bench.measure import Measured, Run, Samples
from causvid_cli.cli.app import app
from causvid_cli.errors import ModelError

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
    start = Fresh(import_s=2.0, load_s=0.5, first_frame_s=0.2, peak_memory_bytes=2**20)
    monkeypatch.setattr("causvid_cli.cli.bench.start", lambda role, config: start)


def test_json_is_one_object_of_documented_keys_and_types(pack):
    done = bench(pack, "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)

    assert (figures["v"], figures["model"], figures["device"], figures["dtype"]) == (1, "tiny", "cpu", "float32")
    assert (figures["length"], figures["frames"], figures["repeats"], figures["threads"]) == ("1s", 8, 1, 1)
    for name in ("import_s", "load_s", "matrix_rate_share", "matrix_flops_per_s"):
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
    headline, header, *rows = done.stdout.splitlines()
    assert headline.startswith("tiny: 8 frames on cpu in float32, 1 CPU threads")
    assert header.split() == ["student", "teacher", "student", ":", "teacher"]
    assert [row.split("  ")[0] for row in rows[:2]] == ["first frame", ""]
    assert "import 2 s (2 s - 2 s), load 500 ms (500 ms - 500 ms)" in rows
    assert "1 MiB" in done.stdout
    assert re.match(r"A chunk: steps .* ms \(.*\), clean pass .*, decode .*, the rest .*$", rows[-1])
    assert all(line.startswith("causvid: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--length", "abc"), 2, "--length 'abc' is not a length"),
        (("--device", "gpu"), 2, "--device gpu: unknown"),
        (("--repeats", "0"), 2, "greater than or equal to 1"),
        (("--model", "nope"), 4, "no model 'nope'"),
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
        fresh.start("student", BenchConfig(model="nope"))


def test_the_count_of_flops_is_that_of_the_layers(pack):
    """One chunk of two steps: no clean pass, an empty cache, and the prompt's keys and values made once."""
    student = measure.open_maker("student", BenchConfig(model=str(pack), length=ONE_CHUNK))
    dim, tokens, words, steps = SHAPE.heads * SHAPE.head_dim, 16, 5, 2
    patch, frequencies = 4 * 24, 128  # of a token: 2 x 2 cells of 24 channels; of the timestep
    per_layer = (
        tokens * (4 + 2) * dim * dim  # q, k, v and out of self-attention, q and out of cross-attention
        + 2 * tokens * (tokens + words) * dim  # what attends to what, and the sums
        + 2 * tokens * dim * SHAPE.ffn_dim
    )
    per_step = SHAPE.layers * per_layer + 2 * tokens * patch * dim + (frequencies + dim + 6 * dim) * dim
    once = SHAPE.layers * 2 * words * dim * dim
    measured = measure.measure({"student": student}, repeats=1, note=lambda _: None)
    assert measured.network_flops == 2 * (steps * per_step + once)


def test_the_parts_of_a_chunk_are_all_of_its_time(pack):
    student = measure.open_maker("student", BenchConfig(model=str(pack), length="1s"))
    whole = measure.run_clip(student).clip_s
    parts, network_s = measure.take_apart(student)
    chunks, clean_passes = 2, 1
    assert network_s == pytest.approx(chunks * parts.steps_s + clean_passes * parts.clean_pass_s)
    assert 0 < parts.decode_s + parts.rest_s < 10 * whole
    assert "forward" not in vars(student.model.model)  # what was clocked is as it was
    assert "decode_chunk" not in vars(student.model.codec)


def test_without_a_clean_pass_there_is_nothing_to_report_of_it(pack):
    parts, _ = measure.take_apart(measure.open_maker("student", BenchConfig(model=str(pack), length=ONE_CHUNK)))
    assert parts.clean_pass_s == 0


def test_the_clip_is_10_s_long_unless_asked_otherwise():
    assert BenchConfig().length == "10s"


def test_the_slowest_and_the_fastest_round_stand_beside_the_median():
    runs = [Run(frames=32, first_frame_s=s, clip_s=2 * s) for s in (3.0, 1.0, 2.0)]
    measured = Measured({"student": runs}, Samples([4.0, 6.0, 5.0]), Samples([0.1, 0.3, 0.2]), 100, [])
    start = Fresh(import_s=2.0, load_s=0.5, first_frame_s=0.2, peak_memory_bytes=7)
    starts = [start, replace(start, peak_memory_bytes=9), replace(start, import_s=5.0, peak_memory_bytes=8)]
    student = report.role_figures(measured.runs["student"], starts)
    assert (student["first_frame_s"], student["spread"]["first_frame_s"]) == (2.0, (1.0, 3.0))
    assert (student["frames_per_s"], student["spread"]["frames_per_s"]) == (8.0, (32 / 6, 16.0))
    assert student["peak_memory_bytes"] == 8
