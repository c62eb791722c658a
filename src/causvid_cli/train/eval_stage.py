"""Stage `eval`: what `causvid eval` measures, of an exported model and for stories new and known.

Beside the student stand the clips as they should be ("rendered": how far the judge itself can be trusted) and those
after the codec ("codec": the best that any network could do through it).
"""

from pathlib import Path
from typing import Any

import torch

from causvid_cli.config import load_facts
from causvid_cli.evaluate.config import EvalRequest
from causvid_cli.evaluate.judge import Judge
from causvid_cli.evaluate.prompts import built_in_prompts
from causvid_cli.evaluate.results_folder import Folder
from causvid_cli.evaluate.run import open_evaluation, run
from causvid_cli.train.config import EvalConfig
from causvid_cli.train.trainer import Report


def evaluate(
    folder: Path,
    pack: Path,
    judge: Judge | None,
    plan: EvalConfig,
    *,
    device: torch.device,
    seed: int = 0,
    report: Report | None = None,
) -> dict[str, Any]:
    """Make clips, measure them, write what `causvid eval` writes, and return the figures.

    judge: by default the pack's own. Goes on with an unfinished evaluation of the same pack; replaces any other.
    """
    request = EvalRequest(
        pack=pack,
        facts=load_facts(pack),
        prompts={name: built_in_prompts(plan.prompts, held_out=name == "held_out") for name in ("held_out", "seen")},
        seeds=plan.seeds,
        seed=seed,
        teacher=plan.teacher,
        codec=True,
        device=str(device),
    )
    evaluation = open_evaluation(request, judge=judge)

    def on_frames(done: int, of: int) -> None:
        if report:
            report({"step": request.clips - (of - done) // request.frames})

    return run(evaluation, Folder(folder, request.settings, overwrite=True), on_frames=on_frames)


def clips_of(plan: EvalConfig) -> int:
    """Return how many clips an evaluation makes."""
    return (4 if plan.teacher else 3) * 2 * plan.prompts * plan.seeds
