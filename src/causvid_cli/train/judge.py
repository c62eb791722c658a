"""Stage `judge`: the judge (`evaluate/judge.py`), trained on rendered clips. It never sees a generated one."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.evaluate.judge import ATTRIBUTES, FRAMES, Judge, labels
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.train import world
from causvid_cli.train.config import Optimisation
from causvid_cli.train.trainer import Setting, Trainer, averaged_weights


def train_judge(folder: Path, plan: Optimisation, setting: Setting) -> Judge:
    """Train, or go on training, the judge."""
    torch.manual_seed(setting.seed)
    device = setting.device
    judge = Judge().to(device)

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        clips = world.render_clips(sample_stories(rng, plan.batch), rng, frames=FRAMES)
        wanted = {name: classes.to(device) for name, classes in labels(clips.stories).items()}
        indices = _spoil(clips.indices, rng).to(device)
        scores = judge(indices)
        losses = {name: F.cross_entropy(scores[name], wanted[name]) for name in ATTRIBUTES}
        right = {f"{name}_right": (scores[name].argmax(1) == wanted[name]).float().mean() for name in ATTRIBUTES}
        return {"loss": torch.stack(list(losses.values())).sum(), **right}

    Trainer(folder, judge, plan, setting).run(loss)
    return load_judge(folder, device=device)


def load_judge(folder: Path, *, device: torch.device) -> Judge:
    """The judge that `train_judge` left in its folder."""
    judge = Judge()
    judge.load_state_dict(averaged_weights(folder))
    return judge.to(device).eval().requires_grad_(False)


def _spoil(indices: Tensor, rng: np.random.Generator) -> Tensor:
    """Clips with a little of what a generated clip has wrong: single pixels of another entry."""
    rate = rng.random() * 0.03
    wrong = torch.from_numpy(rng.random(tuple(indices.shape), dtype=np.float32) < rate)
    other = torch.from_numpy(rng.integers(len(storybook.PALETTE), size=tuple(indices.shape), dtype=np.uint8))
    return torch.where(wrong, other, indices)
