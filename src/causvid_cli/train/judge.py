"""Stages `judge` and `eval`: a small network that names what a storybook clip shows, trained on rendered clips.

It never sees a generated clip in training, so what it says of one is a measure of prompt following. Its own accuracy
on rendered clips of held-out combinations is its ceiling and stands beside every score.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli import storybook
from causvid_cli.storybook import VOCABULARY, Story
from causvid_cli.train import world
from causvid_cli.train.config import Optimisation
from causvid_cli.train.trainer import Report, Trainer, averaged_weights

FRAMES = 32
"""Pictures of a clip that the judge looks at, from its beginning."""
STRIDE = 2
"""It sees every second one of them."""
ATTRIBUTES = {
    "subject": VOCABULARY.subjects,
    "colour": VOCABULARY.colours,
    "scene": VOCABULARY.scenes,
    "action": VOCABULARY.actions,
    "target": (None, *VOCABULARY.subjects),
}


def shown_colour(story: Story) -> str:
    """The colour word that fits what is seen: a natural car is a red car."""
    if story.colour != "natural" or story.subject is None:
        return story.colour
    ramp = VOCABULARY.subject[story.subject].natural[1].split(".")[0]
    return ramp if ramp in VOCABULARY.colours else "natural"


def labels(stories: Sequence[Story]) -> dict[str, Tensor]:
    """Class numbers [B] of each attribute."""
    said = [{**{name: getattr(s, name) for name in ATTRIBUTES}, "colour": shown_colour(s)} for s in stories]
    return {name: torch.tensor([words.index(row[name]) for row in said]) for name, words in ATTRIBUTES.items()}


class Judge(nn.Module):
    """Palette clip [B, FRAMES, 64, 64] -> scores [B, classes] of each attribute."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(storybook.PALETTE), 8)
        w = width
        self.picture = nn.Sequential(
            nn.Conv2d(8, w, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(w, 2 * w, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * w, 4 * w, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4 * w, 4 * w, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4 * w, 2 * w, 1),
            nn.Flatten(),
            nn.Linear(2 * w * 16, 128),
            nn.ReLU(),
        )
        self.motion = nn.Sequential(
            nn.Conv1d(128, 128, 3, padding=1), nn.ReLU(), nn.Conv1d(128, 128, 5, padding=2, groups=1), nn.ReLU()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(4 * 128, len(words)) for name, words in ATTRIBUTES.items()})

    def forward(self, indices: Tensor) -> dict[str, Tensor]:
        clip = indices[:, :FRAMES:STRIDE]
        pixels = self.embed(clip.flatten(0, 1).long()).movedim(-1, 1)
        looks = self.picture(pixels.contiguous(memory_format=torch.channels_last)).unflatten(0, clip.shape[:2])
        looks = looks.transpose(1, 2)  # [B, 128, T]
        moves = self.motion(looks)
        first, last = looks[:, :, :4].mean(2), looks[:, :, -4:].mean(2)
        features = torch.cat([moves.mean(2), moves.amax(2), first, last], dim=1)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def name(self, indices: Tensor) -> dict[str, Tensor]:
        """Class numbers [B] of each attribute."""
        return {name: scores.argmax(dim=1) for name, scores in self(indices).items()}


def train_judge(
    folder: Path, plan: Optimisation, *, device: torch.device, seed: int = 0, report: Report | None = None
) -> Judge:
    """Train, or go on training, the judge on rendered clips."""
    torch.manual_seed(seed)
    judge = Judge().to(device)

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        clips = world.render_clips(sample_stories(rng, plan.batch), rng, frames=FRAMES)
        wanted = {name: classes.to(device) for name, classes in labels(clips.stories).items()}
        indices = _spoil(clips.indices, rng).to(device)
        scores = judge(indices)
        losses = {name: F.cross_entropy(scores[name], wanted[name]) for name in ATTRIBUTES}
        right = {f"{name}_right": (scores[name].argmax(1) == wanted[name]).float().mean() for name in ATTRIBUTES}
        return {"loss": torch.stack(list(losses.values())).sum(), **right}

    Trainer(folder, judge, plan, seed=seed, report=report).run(loss)
    return load_judge(folder, device=device)


def load_judge(folder: Path, *, device: torch.device) -> Judge:
    """The judge that `train_judge` left in its folder."""
    judge = Judge()
    judge.load_state_dict(averaged_weights(folder))
    return judge.to(device).eval().requires_grad_(False)


def sample_stories(rng: np.random.Generator, count: int, *, held_out: bool = False) -> tuple[Story, ...]:
    """Stories with a subject; held_out: of combinations that no training has seen, or only of those it may see."""
    stories: list[Story] = []
    while len(stories) < count:
        story = storybook.sample_story(rng)
        if story.subject is not None and storybook.held_out(story) == held_out:
            stories.append(story)
    return tuple(stories)


def score(judge: Judge, indices: Tensor, stories: Sequence[Story]) -> dict[str, float]:
    """Share of clips [B, FRAMES, 64, 64] in which the judge sees each attribute as asked, and all of them ("all").

    The target counts only where there is one.
    """
    named, wanted = judge.name(indices), labels(stories)
    right = {name: named[name].cpu() == wanted[name] for name in ATTRIBUTES}
    turns = torch.tensor([s.target is not None for s in stories])
    shares = {name: hits.float().mean().item() for name, hits in right.items() if name != "target"}
    if turns.any():
        shares["target"] = right["target"][turns].float().mean().item()
    right["target"] |= ~turns
    shares["all"] = torch.stack(list(right.values())).all(dim=0).float().mean().item()
    return shares


def _spoil(indices: Tensor, rng: np.random.Generator) -> Tensor:
    """Clips with a little of what a generated clip has wrong: single pixels of another entry."""
    rate = rng.random() * 0.03
    wrong = torch.from_numpy(rng.random(tuple(indices.shape), dtype=np.float32) < rate)
    other = torch.from_numpy(rng.integers(len(storybook.PALETTE), size=tuple(indices.shape), dtype=np.uint8))
    return torch.where(wrong, other, indices)
