"""Batches on a Ray cluster whose actors and nodes are killed at random moments: every video is there in the end."""

import random
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from cli.test_batch_kills import BATCH, check, ends, whole, write  # noqa: F401

pytest.importorskip("ray")

pytestmark = [pytest.mark.usefixtures("work"), pytest.mark.slow]

KILLS = 40
NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster()
for _ in range(3):
    cluster.add_node(num_cpus=1, include_dashboard=False)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.add_node(num_cpus=1, include_dashboard=False)
cluster.shutdown()
"""


@contextmanager
def cluster():
    """A cluster of three nodes here, and its address; each line on its stdin is a node more."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", NODES], text=True, **pipes) as nodes:
        while ":" not in (address := nodes.stdout.readline().strip()) or " " in address:
            assert nodes.poll() is None
        try:
            yield nodes, address
        finally:
            nodes.stdin.close()


def processes(nodes, name):
    """Processes of a cluster whose name begins so, the oldest first."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "create_time"]):
        with suppress(psutil.Error):
            said = " ".join(process.info["cmdline"] or [process.info["name"]])
            if said.startswith(name) or Path(said.split(" ")[0]).name == name:
                found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])


def kill_actor(nodes, rng):
    if actors := processes(nodes, "ray::_Actor"):
        rng.choice(actors).kill()
        return 1
    return 0


def kill_node(nodes, rng):
    """Kill a node's raylet, but for the first node's, which is the cluster; another node comes in its place."""
    if others := processes(nodes, "raylet")[1:]:
        rng.choice(others).kill()
        nodes.stdin.write("another\n")
        nodes.stdin.flush()
        return 1
    return 0


@pytest.mark.parametrize("kill", [kill_actor, kill_node])
def test_killed_on_a_cluster_at_random_moments(whole, kill):  # noqa: F811
    kills, rng = 0, random.Random(kill.__name__)
    with cluster() as (nodes, address):
        while kills < KILLS:
            for path in Path().rglob("*.*"):
                path.unlink()
            write(".")
            since = kills
            while True:
                command = [*(word for word in BATCH if word not in ("--workers", "2")), "--ray", address]
                with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as batch:
                    while not ends(batch, before=time.monotonic() + rng.uniform(1, 8)):
                        kills += kill(nodes, rng)
                    said = batch.stderr.read()
                assert "Traceback" not in said
                if batch.returncode in (0, 8):
                    break
            check(whole, kills - since)
