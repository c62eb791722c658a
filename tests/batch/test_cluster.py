"""A cluster that is none is told of in one line, and a real one makes what processes of this machine make."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from causvid_cli.batch import cluster
from causvid_cli.batch.cluster import Cluster
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
        cluster._knock(address)


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster()
for _ in range(int(sys.argv[1])):
    cluster.add_node(num_cpus=1, include_dashboard=False)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


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
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", CLUSTER, str(nodes)], text=True, **pipes) as running:
        while ":" not in (address := running.stdout.readline().strip()) or " " in address:
            assert running.poll() is None
        batch("--dir", "there", "--ray", address)
        running.stdin.close()
    here, there = (
        {path.name: path.read_bytes() for path in Path(tmp_path, name).glob("*.mp4")} for name in ("here", "there")
    )
    assert here == there
    assert len(here) == 8
