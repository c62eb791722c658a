"""Stage `judge`: the judge (`evaluate/judge.py`), trained on rendered clips. It never sees a generated one.

It learns beginnings, windows from the middle of videos, what follows a change of the prompt, and what follows a photo.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.evaluate.judge import ATTRIBUTES, FRAMES, Judge, Said, asked, asked_late, labels
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.storybook import Story
from causvid_cli.train import story_clips
from causvid_cli.train.config import Optimisation
from causvid_cli.train.trainer import StageSetting, Trainer, averaged_weights

BEGINNINGS, LATE, SWITCHES, PHOTOS = 0.4, 0.25, 0.15, 0.2
"""Shares of the windows that it learns: of these kinds in turn."""
SEEN_WHOLE, SEEN_AFTER = 10, 16
"""A window that begins by the first of these frames of its story shows all that happens once; one that begins from
the second on, only what has come of it."""
LATEST = 480
"""Windows begin within so many frames: a minute."""
HELD = (4, 8)
"""Frames for which a photo stands still."""


def train_judge(folder: Path, plan: Optimisation, setting: StageSetting) -> Judge:
    """Train the judge, or go on with its training, and return it."""
    torch.manual_seed(setting.seed)
    device = setting.device
    judge = Judge().to(device)

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        windows, said = sample_windows(rng, plan.batch)
        wanted = {name: classes.to(device) for name, classes in labels(said).items()}
        indices = _spoil(windows, rng).to(device)
        scores = judge(indices)
        losses = {name: F.cross_entropy(scores[name], wanted[name]) for name in ATTRIBUTES}
        right = {f"{name}_right": (scores[name].argmax(1) == wanted[name]).float().mean() for name in ATTRIBUTES}
        return {"loss": torch.stack(list(losses.values())).sum(), **right}

    Trainer(folder, judge, plan, setting).run(loss)
    return load_judge(folder, device=device)


def load_judge(folder: Path, *, device: torch.device) -> Judge:
    """Return the judge that `train_judge` left in its folder."""
    judge = Judge()
    judge.load_state_dict(averaged_weights(folder))
    return judge.to(device).eval().requires_grad_(False)


def sample_windows(rng: np.random.Generator, count: int) -> tuple[Tensor, list[Said]]:
    """Return windows, palette entries uint8 [B, FRAMES, 64, 64], and what the judge must say of each."""
    windows, said = [], []
    for story in sample_stories(rng, count):
        kind = int(rng.choice(4, p=(BEGINNINGS, LATE, SWITCHES, PHOTOS)))
        window, late = _window(story, kind, rng)
        windows.append(window)
        said.append(asked_late(story) if late else asked(story))
    return torch.from_numpy(np.stack(windows)), said


def _window(story: Story, kind: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Return a window of this story, and whether what happens once has happened before it."""
    seed = int(rng.integers(2**31))
    if kind == 3:
        photo = story_clips.changed_story(story, rng, at=0, changes=story_clips.PHOTO_CHANGES, same=True)
        at, held = int(rng.integers(story_clips.PHOTO_TO)), int(rng.choice(HELD))
        return storybook.render_photo(photo, story, at=at, held=held, length=FRAMES, seed=seed)[0], False
    if kind == 0:
        return storybook.render_indices(story, length=FRAMES, seed=seed)[0], False
    late = bool(rng.random() < 0.5) if kind == 2 else True
    after = int(rng.integers(SEEN_AFTER, LATEST) if late else rng.integers(SEEN_WHOLE + 1))
    if kind == 1:
        return storybook.render_indices(story, length=FRAMES, seed=seed, start=after)[0], late
    change = int(rng.integers(1, LATEST))
    cues = [(0, story_clips.training_story(rng)), (change, story)]
    return storybook.render_script(cues, length=FRAMES, start=change + after, seed=seed)[0], late


def _spoil(indices: Tensor, rng: np.random.Generator) -> Tensor:
    """Return clips with a little of what a generated clip has wrong: single pixels of another entry."""
    rate = rng.random() * 0.03
    wrong = torch.from_numpy(rng.random(tuple(indices.shape), dtype=np.float32) < rate)
    other = torch.from_numpy(rng.integers(len(storybook.PALETTE), size=tuple(indices.shape), dtype=np.uint8))
    return torch.where(wrong, other, indices)
