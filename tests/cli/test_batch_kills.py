"""Batches whose processes are killed at random moments: in the end every video is there, and made hardly twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from commands import makes

pytestmark = [
    pytest.mark.usefixtures("work"),
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
]
JOBS = 12
BATCH = [sys.executable, "-m", "causvid_cli", "batch", "jobs.jsonl", "--workers", "2", "--max-tries", "100", "-q"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a batch that nobody kills makes: bytes by file name."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    subprocess.run(BATCH, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return {path.name: path.read_bytes() for path in Path(folder, "jobs").glob("*.mp4")}


def write(folder):
    rows = [
        {"id": f"j{number}", "prompt": f"a {color} car moves left", "seed": number, "length": "24f"}
        for number, color in enumerate(["red", "blue", "green"] * (JOBS // 3))
    ]
    Path(folder, "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def workers_of(batch):
    try:
        return psutil.Process(batch.pid).children()
    except psutil.NoSuchProcess:
        return []


def ends(batch, *, before):
    """Whether a process ends before a time on the monotonic clock."""
    try:
        batch.wait(max(0.0, before - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def check(whole, kills):
    """All is there, byte for byte; nothing lies about; no video was made more often than kills explain."""
    makes("batch", "jobs.jsonl", "--workers", 2, "-q")
    made = {path.name: path.read_bytes() for path in Path("jobs").glob("*.mp4")}
    assert made == whole
    assert {path.name for path in Path("jobs").iterdir()} - made.keys() == {"results.jsonl"}
    told = Counter(json.loads(line)["path"] for line in Path("jobs/results.jsonl").read_text().splitlines())
    assert set(told) == set(whole)
    assert sum(told.values()) <= JOBS + kills


def kill_driver(batch):
    batch.kill()


def kill_worker(batch):
    if workers := workers_of(batch):
        random.choice(workers).kill()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_driver, kill_worker])
def test_killed_at_random_moments(whole, kill):
    kills, rng = 0, random.Random(kill.__name__)
    while kills < 40:
        for path in Path().rglob("*.*"):
            path.unlink()
        write(".")
        since = kills
        while kills < 40:
            with subprocess.Popen(BATCH, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as batch:
                while not ends(batch, before=time.monotonic() + rng.uniform(0, 4)):
                    kill(batch)
                    kills += 1
                if batch.returncode in (0, 8):
                    break
        check(whole, kills - since)


@pytest.mark.slow
def test_stopped_by_ctrl_c_at_random_moments(whole):
    rng = random.Random(1)
    for _ in range(10):
        for path in Path().rglob("*.*"):
            path.unlink()
        write(".")
        with subprocess.Popen(BATCH, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as batch:
            if not ends(batch, before=time.monotonic() + rng.uniform(0, 8)):
                os.kill(batch.pid, signal.SIGINT)
                said = batch.stderr.read()
                assert batch.wait() in (130, -signal.SIGINT), said
                assert "Traceback" not in said
        check(whole, 0)
