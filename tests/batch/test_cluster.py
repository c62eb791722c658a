"""A cluster that is none is told of in one line, and a real one makes what processes of this machine make."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.test_batch import wait_for, write
from ray_cluster import cluster, processes

from causvid_cli.batch.cluster import Cluster, _knock
from causvid_cli.batch.engine import WorkersError
from causvid_cli.errors import ModelError


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelError, match=r"--ray needs the package ray; .*\[ray\]"):
        Cluster("local", cpus_per_worker=1, command=())


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "nowhere", "127.0.0.1:x", "127.0.0.1:99999999", "ray://127.0.0.1:9"]
)
def test_an_address_where_nobody_answers(address):
    with pytest.raises(WorkersError, match=f"--ray {address}: nobody answers .*; write local, auto or HOST:PORT"):
        _knock(address)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [2, 4])
def test_a_cluster_makes_what_processes_make(tmp_path, nodes):
    pytest.importorskip("ray")
    rows = [{"id": f"j{n}", "prompt": "a red car moves left", "seed": n, "length": "16f"} for n in range(8)]
    Path(tmp_path, "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def batch(*arguments):
        command = [sys.executable, "-m", "causvid_cli", "batch", "jobs.jsonl", "-q", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)

    batch("--dir", "here", "--workers", "2")
    with cluster(nodes) as (_, address):
        batch("--dir", "there", "--ray", address)
    here, there = (
        {path.name: path.read_bytes() for path in Path(tmp_path, name).glob("*.mp4")} for name in ("here", "there")
    )
    assert here == there
    assert len(here) == 8


@pytest.mark.slow
@pytest.mark.usefixtures("work")
def test_a_node_without_the_model_has_it_from_the_cluster(tiny):
    """The model's folder goes as soon as the driver has sent it; an actor that comes later loads it all the same."""
    pytest.importorskip("ray")
    write(*({"id": f"j{n}", "prompt": "a red car moves left", "seed": n, "length": "16f"} for n in range(6)))
    shutil.copytree(tiny, "pack")
    command = [
        sys.executable,
        "-m",
        "causvid_cli",
        "batch",
        "jobs.jsonl",
        "--model",
        "./pack",
        "-q",
        "--max-tries",
        "9",
    ]
    with cluster(1) as (nodes, address), subprocess.Popen([*command, "--ray", address]) as batch:
        wait_for(lambda: list(Path("jobs").glob("*.mp4")))
        shutil.move("pack", "elsewhere")
        for actor in processes("ray::_Actor"):
            actor.kill()
        assert batch.wait() == 0
    assert len(list(Path("jobs").glob("*.mp4"))) == 6
