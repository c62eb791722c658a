"""A Ray cluster of several nodes on this machine."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES = """
import contextlib, signal, sys
from ray.cluster_utils import Cluster
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # or a raylet that was killed seems alive to its workers
cluster = Cluster()
for _ in range(int(sys.argv[1])):
    cluster.add_node(num_cpus=1, include_dashboard=False)
print(cluster.address, flush=True)
for line in sys.stdin:
    with contextlib.suppress(Exception):  # it may be killed before it has come
        cluster.add_node(wait=False, num_cpus=1, include_dashboard=False)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or to wait for one process is to wait for all
cluster.shutdown()
"""


@contextmanager
def cluster(count: int) -> Iterator[tuple[subprocess.Popen, str]]:
    """So many nodes and their address; each line on the process's stdin is a node more."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", NODES, str(count)], text=True, **pipes) as nodes:
        while ":" not in (address := nodes.stdout.readline().strip()) or " " in address:
            assert nodes.poll() is None
        try:
            yield nodes, address
        finally:
            nodes.stdin.close()


def processes(name: str) -> list[psutil.Process]:
    """Live processes whose command begins so, the oldest first."""
    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        with suppress(psutil.Error):
            said = " ".join(process.info["cmdline"] or ())  # the dead have none
            if said.startswith(name) or Path(said.split(" ")[0]).name == name:
                found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])
