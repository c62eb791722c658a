"""VBench's dimensions for videos of any prompt, where the package `vbench` is installed.

Each dimension stands for itself. VBench's total score belongs to its own prompts, five clips of each, and is never
made from these (Huang et al., arXiv 2311.17982).
"""

import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from causvid_cli.errors import UsageError
from causvid_cli.untrusted import read_object

DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
"""What VBench measures of custom input (its README, "Evaluate Your Own Videos")."""


def check_vbench() -> None:
    """Raise UsageError where the package is not installed."""
    if find_spec("vbench") is None:
        raise UsageError("--vbench: the package vbench is not installed; pip install vbench, or leave it out")


def measure_vbench(videos: Path, *, device: str, out: Path) -> dict[str, float]:
    """Each of DIMENSIONS over the .mp4 files of a folder. VBench downloads its networks; what it prints is for stderr.

    out: where VBench keeps its own files.
    """
    vbench = import_module("vbench")
    facts = Path(str(vbench.__file__)).with_name("VBench_full_info.json")
    with redirect_stdout(sys.stderr):
        measuring = vbench.VBench(device, str(facts), str(out))
        measuring.evaluate(
            videos_path=str(videos), name=videos.name, dimension_list=list(DIMENSIONS), mode="custom_input"
        )
    found: dict[str, Any] = read_object(out / f"{videos.name}_eval_results.json")
    return {name: float(found[name][0]) for name in DIMENSIONS}
