"""`causvid batch`: the videos that the single commands make, each once, however often it is begun."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import decode, fails, makes, run

from causvid_cli.cli import batch_run
from causvid_cli.cli.app import root
from causvid_cli.cli.batch import parse_shard, row_commands
from causvid_cli.models.packs import find_pack

pytestmark = pytest.mark.usefixtures("work")

ROWS = [
    {"id": "car", "prompt": "a red car moves left", "seed": 7, "length": "16f"},
    {"id": "again", "prompt": "a red car moves left", "seed": 7, "length": "16f"},
    {"id": "then", "prompt": "a cat jumps", "then": ["1s: it spins"], "seed": 1, "length": "16f", "label": "two"},
]


def write(*rows, name="jobs.jsonl"):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(name):
    path = Path("jobs", name)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_batch_makes_what_the_commands_make_and_makes_it_once():
    write(*ROWS, {"id": "none", "prompt": "a cat", "seed": 1, "device": "cuda:7"})
    result = run("batch", "jobs.jsonl", "--workers", 2, "--page")
    assert result.exit_code == 8, result.output
    results, failed = {entry["id"]: entry for entry in lines("results.jsonl")}, lines("failed.jsonl")
    assert set(results) == {"car", "again", "then"}
    assert results["then"]["fields"] == {"label": "two"}
    assert results["again"]["sha256"] == results["car"]["sha256"]
    assert [entry["id"] for entry in failed] == ["none"]
    assert failed[0]["exit_code"] == 5
    page = Path("jobs/index.html").read_text()
    assert page.count('<img src="data:image/webp') == 3
    assert all(f'href="{entry["path"]}"' in page for entry in results.values())
    assert "cuda:7" in page
    makes("t2v", ROWS[0]["prompt"], "--seed", 7, "--length", "16f", "-o", "single.mp4")
    assert (decode(Path("jobs", results["car"]["path"])) == decode("single.mp4")).all()

    before = {path: path.stat().st_mtime_ns for path in Path("jobs").glob("*.mp4")}
    assert run("batch", "jobs.jsonl").exit_code == 8  # what failed is not tried again
    Path("jobs", results["then"]["path"]).write_bytes(b"damaged")
    told = makes("batch", "jobs.jsonl", "--dry-run", "--json")
    plan = json.loads(told.stdout)
    expected = plan.pop("estimate")
    assert plan | {"folder": ""} == {
        **{"v": 1, "folder": "", "jobs": 4, "done": 2, "new": 1, "copies": 0, "failed_before": 1}
    }
    assert expected["measured"] == 2 and expected["seconds"] > 0 and not expected["unknown"]
    assert expected["bytes"] == round((results["car"]["bytes"] + results["then"]["bytes"]) / 2)  # all of one kind
    assert all(path.stat().st_mtime_ns == before[path] for path in before if "then" not in path.name)


def test_a_probe_tells_what_all_take_and_leaves_nothing():
    rows = [{"id": f"j{number}", "prompt": "a red car moves left", "seed": 1, "length": "8f"} for number in range(2)]
    write(*(row | {"seed": number} for number, row in enumerate(rows)), {"id": "other", "prompt": "a", "length": "16f"})
    plan = json.loads(makes("batch", "jobs.jsonl", "--dry-run", "--json").stdout)
    assert plan["estimate"] == {"seconds": 0, "bytes": 0, "unknown": 3, "measured": 0}
    told = makes("batch", "jobs.jsonl", "--dry-run", "--probe", "--workers", 2).stdout
    assert re.search(r"time +\d+ s of 2 workers\ndisk +\d.*\ntold from +2 videos\n", told), told
    assert not Path("jobs").exists()


@pytest.mark.slow
def test_two_batches_at_once_share_the_work_and_tell_of_each_video_once():
    rows = [
        {"id": f"j{number}", "prompt": "a red car moves left", "seed": number, "length": "8f"} for number in range(6)
    ]
    write(*rows)
    command = [sys.executable, "-m", "causvid_cli", "batch", "jobs.jsonl", "-q", "--together", "1"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    assert sorted(entry["id"] for entry in lines("results.jsonl")) == [row["id"] for row in rows]


def test_every_mistake_of_a_file_is_told_in_one_pass_before_anything_is_made():
    write({"promt": "a"}, {"prompt": "a", "length": "3 parsecs"}, {"prompt": "a", "model": "nobody"})
    result = run("batch", "jobs.jsonl")
    assert result.exit_code == 2
    told = result.stderr.splitlines()
    assert told[0] == "jobs.jsonl:1: unknown field 'promt'; did you mean prompt?"
    assert [line.split(": ")[0] for line in told] == ["jobs.jsonl:1", "jobs.jsonl:2", "jobs.jsonl:3", "causvid"]
    assert not Path("jobs").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--shard", "2/2"], "from 0 to N - 1"),
        (["--shard", "2"], "which one"),
        (["--shard", "a/b"], "I/N"),
        (["-o", "-"], "one video at a time"),
        (["-o", "x.mp4"], "must hold {id} and {key}"),
        (["-o", ""], "must hold {id} and {key}"),
        (["--shard", "0/" + "9" * 5000], "I/N"),
    ],
)
def test_options_that_no_batch_has(arguments, complaint):
    write(*ROWS)
    fails(run("batch", "jobs.jsonl", *arguments), 2, complaint)


def test_a_file_of_no_known_format_is_refused_before_anything_is_made():
    write(*ROWS)
    fails(run("batch", "jobs.jsonl", "-o", "{id}-{key}.txt"), 7, "txt cannot be written")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"command": "i2v", "image": "a\0.png", "prompt": "a"}, "jobs.jsonl:1: invalid value for 'IMAGE'"),
        ({"command": "i2v", "image": "\ud800.png", "prompt": "a"}, "jobs.jsonl:1: invalid value for 'IMAGE'"),
        ({"prompt": "a", "length": "inf"}, "jobs.jsonl:1: --length inf: a video of a batch must end"),
    ],
)
def test_what_the_command_itself_complains_about_has_its_line(row, complaint):
    write(row)
    result = run("batch", "jobs.jsonl")
    assert result.exit_code == 2
    assert result.stderr.startswith(complaint), result.stderr


def test_a_model_may_be_a_folder_that_has_no_name_here():
    """The check of a batch looks for no model by its name: the folder that was given is the model."""
    pack = Path(shutil.copytree(find_pack("storybook-fast"), "mine"))
    facts = json.loads((pack / "causvid.json").read_text())
    (pack / "causvid.json").write_text(json.dumps(facts | {"name": "nobody-knows-it"}))
    write({"id": "a", "prompt": "a red car moves left", "seed": 1, "length": "8f", "model": "./mine"})
    makes("batch", "jobs.jsonl", "-q")
    assert [entry["id"] for entry in lines("results.jsonl")] == ["a"]


def test_an_empty_file():
    Path("jobs.txt").write_text("\n\n")
    fails(run("batch", "jobs.txt"), 2, "holds no job")


def test_shards_are_all_jobs_and_no_job_twice(monkeypatch):
    class Job:
        def __init__(self, number):
            self.key = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"

    jobs = [Job(number) for number in range(1000)]
    parts = [[job for job in jobs if parse_shard(f"{index}/7").holds(job)] for index in range(7)]
    assert sorted(job.key for part in parts for job in part) == sorted(job.key for job in jobs)
    assert min(map(len, parts)) > 90
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert parse_shard("7") == parse_shard("3/7")


def test_each_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    seen = []
    monkeypatch.setattr(batch_run, "ProcessLink", lambda _command, _tell, *, environment: seen.append(environment))
    workers = batch_run.local_workers(None)
    assert workers._wanted() == 2
    for number in range(3):
        workers._open_link(number, print)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in seen] == ["2", "5", "2"]


def test_rows_have_the_options_of_the_commands():
    commands = {command.name: command for command in row_commands(root())}
    assert commands["i2v"].inputs == ("image", "prompt")
    assert commands["t2v"].options["then"] == "list"
    assert commands["t2v"].options["lossless"] == "switch"
    assert "output" not in commands["t2v"].options


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_batch_that_is_killed_goes_on_where_its_videos_were(tmp_path):
    write({"id": "long", "prompt": "a red car moves left", "seed": 7, "length": "16s"})
    command = [sys.executable, "-m", "causvid_cli", "batch", "jobs.jsonl", "--json-lines"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        part = wait_for(lambda: next(Path("jobs").glob("*.part"), None))
        wait_for(lambda: part.stat().st_size > 10_000)
        os.kill(running.pid, signal.SIGKILL)
    wait_for(lambda: not alive(part))  # its worker sees that nobody is there, and stops after the chunk at work
    result = makes("batch", "jobs.jsonl", "--json-lines")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["done", "end"]
    assert events[0]["frames"] == 128
    assert sorted(path.suffix for path in Path("jobs").iterdir()) == [".jsonl", ".mp4"]


def alive(part):
    """Whether somebody holds the lock of a video in the making."""
    import fcntl

    if not part.exists():
        return False
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_for(condition, *, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a limit that Linux keeps")
def test_a_job_that_needs_too_much_memory_fails_alone_and_passes_where_there_is_more():
    write(*({"id": name, "prompt": "a red car moves left", "seed": 1, "length": "16f"} for name in ("a", "b")))
    with Path("jobs.jsonl").open("a") as file:
        file.write('{"id": "large", "prompt": "a cat", "seed": 1, "length": "16f", "size": "4096x4096"}\n')
    command = [sys.executable, "-m", "causvid_cli", "batch", "jobs.jsonl", "--max-tries", "2", "-q"]
    done = subprocess.run(["bash", "-c", 'ulimit -v 2000000 && exec "$@"', "bash", *command], stdout=subprocess.DEVNULL)
    assert done.returncode == 8
    assert [line["id"] for line in lines("results.jsonl")] == ["a", "b"]
    (failed,) = lines("failed.jsonl")
    assert (failed["id"], failed["tries"]) == ("large", 2)
    assert failed["what"].startswith("out of memory")
    makes("batch", "jobs.jsonl", "--retry-failed", "-q")
    assert [line["id"] for line in lines("results.jsonl")] == ["a", "b", "large"]


CLOCK = """
import itertools, os, time
jumps = itertools.cycle([0, -1e9, 1e9])
for name in ("time", "time_ns"):
    setattr(time, name, lambda real=getattr(time, name): real() + type(real())(next(jumps)))
"""


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(monkeypatch):
    write(*({**ROWS[2], "id": f"j{number}", "seed": number} for number in range(6)))
    makes("batch", "jobs.jsonl", "--dir", "calm", "-q")
    Path("sitecustomize.py").write_text(CLOCK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]))
    command = [sys.executable, "-m", "causvid_cli", "batch", "jobs.jsonl", "--workers", "2", "-q"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        wait_for(lambda: list(Path("jobs").glob("*.mp4")))
        running.kill()
    for number, path in enumerate(sorted(Path().rglob("*.*"))):  # files of tomorrow, and of long ago
        os.utime(path, ns=(0, (-1) ** number * 10**18 + 10**18))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    made, calm = ({path.name: path.read_bytes() for path in Path(name).glob("*.mp4")} for name in ("jobs", "calm"))
    assert made == calm
    assert all(0 <= line["seconds"] < 600 for line in lines("results.jsonl"))


@pytest.mark.parametrize("count", [15, pytest.param(3334, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_hostile_files_end_in_mistakes_of_one_line_each(kind, count):
    rng, path = random.Random(kind), Path(f"jobs.{kind}")
    rows = [{"id": f"j{i}", "prompt": "a red car", "seed": i, "length": "3s", "lossless": True} for i in range(3)]
    plain = "\n".join(json.dumps(row) for row in rows).encode()
    if kind == "csv":
        plain = b"id,prompt,seed,length,lossless\n" + b"\n".join(b"j%d,a red car,%d,3s,true" % (i, i) for i in range(3))
    for _ in range(count):
        data = bytearray(plain)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 4)] = rng.choice(
                [rng.randbytes(rng.randint(0, 3)), b'"', b"\n", b"-", b"null"]
            )
        path.write_bytes(data)
        result = run("batch", path, "--dry-run")
        assert result.exit_code in (0, 2, 4), (data, result.output)
        assert "bug" not in result.stderr, (data, result.stderr)
        assert all(line.startswith(("causvid: ", f"{path}:")) for line in result.stderr.splitlines()), result.stderr
