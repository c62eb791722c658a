"""Batches on a Ray cluster whose actors and nodes are killed at random moments: every video is there in the end."""

import json
import random
import subprocess
import time
from pathlib import Path

import pytest
from cli.test_batch_kills import BATCH, check, ends, whole, write  # noqa: F401
from ray_cluster import cluster, processes

pytest.importorskip("ray")

pytestmark = [pytest.mark.usefixtures("work"), pytest.mark.slow]

KILLS = 40


def kill_actor(nodes, rng):
    if actors := processes("ray::_Actor"):
        rng.choice(actors).kill()
        return 1
    return 0


def kill_node(nodes, rng):
    """Kill a node's raylet, but for the first node's, which is the cluster; another node comes in its place."""
    if others := processes("raylet")[1:]:
        rng.choice(others).kill()
        nodes.stdin.write("another\n")
        nodes.stdin.flush()
        return 1
    return 0


@pytest.mark.parametrize("kill", [kill_actor, kill_node])
def test_killed_on_a_cluster_at_random_moments(whole, kill):  # noqa: F811
    kills, rng = 0, random.Random(kill.__name__)
    with cluster(3) as (nodes, address):
        while kills < KILLS:
            for path in Path().rglob("*.*"):
                path.unlink()
            write(".")
            since = kills
            while True:
                command = [*(word for word in BATCH if word not in ("--workers", "2", "-q")), "--ray", address]
                with (
                    Path("told").open("wb") as told,
                    Path("complaints").open("wb") as complaints,
                    subprocess.Popen([*command, "--json-lines"], stdout=told, stderr=complaints) as batch,
                ):
                    while not ends(batch, before=time.monotonic() + rng.uniform(1, 8)):
                        kills += kill(nodes, rng)
                assert all("event" in json.loads(line) for line in Path("told").read_text().splitlines())
                assert "Traceback" not in Path("complaints").read_text()
                assert nodes.poll() is None
                if batch.returncode in (0, 8):
                    break
            check(whole, kills - since)
