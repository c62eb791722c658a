"""What a batch will take: told from the jobs that are done, and from one of each other kind that is made to see."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from causvid_cli.batch.jobs import Job
from causvid_cli.batch.ledger import Ledger

MOST_PROBES = 3
"""Kinds of jobs of which one is made to see, those with the most jobs first."""
PROBE_S = 120.0
"""How long that may take; what takes longer stays unknown."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """seconds: of one worker's time. bytes: of all files. unknown: jobs of which nothing like them was measured."""

    seconds: float
    bytes: int
    unknown: int
    measured: int
    """Videos that this was told from."""


def estimate(new: Sequence[Job], known: Iterable[Job], ledger: Ledger, *, probe: bool) -> Estimate:
    """Return what the new jobs will take. known: jobs of the same batch that are done. probe: whether to make some."""
    cost: dict[str, list[tuple[float, int]]] = {}
    for job in known:
        entry = ledger.results.get(job.path, {})
        if isinstance(entry.get("seconds"), int | float) and entry["seconds"] > 0:
            cost.setdefault(job.group, []).append((entry["seconds"], entry["bytes"]))
    kinds = Counter(job.group for job in new)
    unlike = [group for group, _ in kinds.most_common() if group not in cost]
    for group in unlike[: MOST_PROBES if probe else 0]:
        if probed := _probe(next(job for job in new if job.group == group)):
            cost[group] = [probed]
    seconds = sum(number * fmean(took for took, _ in cost[group]) for group, number in kinds.items() if group in cost)
    size = sum(number * fmean(held for _, held in cost[group]) for group, number in kinds.items() if group in cost)
    unknown = sum(number for group, number in kinds.items() if group not in cost)
    return Estimate(seconds, round(size), unknown, sum(map(len, cost.values())))


def _probe(job: Job) -> tuple[float, int] | None:
    """Make a job's video somewhere else; returns its seconds, without the start, and its bytes; None if it fails."""
    with TemporaryDirectory(prefix="causvid-probe-") as folder:
        output = Path(folder, Path(job.path).name)
        name, *arguments = job.arguments
        command = [sys.executable, "-m", "causvid_cli", name, "-o", str(output), "--json", "-qq", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROBE_S, check=True, text=True)
            said = json.loads(done.stdout)
            seconds = said["total_s"] - said["import_s"] - said["load_s"]
        except (subprocess.SubprocessError, OSError, ValueError, KeyError):
            return None
        made = [output] if output.is_file() else output.parent.rglob("*.*")
        return max(0.001, seconds), sum(file.stat().st_size for file in made)
