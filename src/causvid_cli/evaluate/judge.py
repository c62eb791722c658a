"""The judge: a small network that names what a storybook clip shows.

It is trained on rendered clips only (`train/judge_stage.py`), so what it says of a generated clip measures how the
prompt was followed. It sees frames as palette entries. Its own accuracy on rendered clips is its ceiling, and
stands beside every score.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from causvid_cli import storybook
from causvid_cli.architectures import load_config
from causvid_cli.config import PackFacts
from causvid_cli.errors import ModelError
from causvid_cli.storybook import FIRST_WORDS, VOCABULARY, Story
from causvid_cli.weights.files import load_safetensors, load_state

FRAMES = 32
"""Frames that the judge looks at."""
STRIDE = 2
"""It sees every second one of them."""
ATTRIBUTES: Mapping[str, Sequence[str | None]] = {
    **FIRST_WORDS,
    "target": (None, *FIRST_WORDS["target"]),
}
LASTING = ("subject", "colour", "scene")
"""What still shows at the end of a long clip, whatever has happened before."""

Said = dict[str, str | None]
"""A word for each attribute."""


def asked(story: Story) -> Said:
    """What the judge must say of a clip that begins to tell this story, after a photo or not."""
    return {**{name: getattr(story, name) for name in ATTRIBUTES}, "colour": _shown_colour(story)}


def asked_late(story: Story) -> Said:
    """What it must say of later frames of this story, when all that happens once has happened.

    Every action can still be told: what has grown or shrunk keeps its size, what flew up hovers. Only what has turned
    into something is then nothing but that, and stays still.
    """
    if story.target is not None:
        story = Story(story.target, story.colour, story.scene, "stays still")
    return asked(story)


def asked_at_end(story: Story) -> Said:
    """What it must say of a long clip's last frames: of LASTING only."""
    said = asked_late(story)
    return {name: said[name] for name in LASTING}


def _shown_colour(story: Story) -> str:
    """The colour word that fits what is seen: a natural car is a red car."""
    if story.colour != "natural" or story.subject is None:
        return story.colour
    ramp = VOCABULARY.subject[story.subject].natural[1].split(".")[0]
    return ramp if ramp in ATTRIBUTES["colour"] else "natural"


def labels(said: Sequence[Said]) -> dict[str, Tensor]:
    """Class numbers [B] of each attribute."""
    return {name: torch.tensor([words.index(row[name]) for row in said]) for name, words in ATTRIBUTES.items()}


class Judge(nn.Module):
    """Palette clip [B, FRAMES, 64, 64] -> scores [B, classes] of each attribute."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "width": width,
            "words": {name: list(words) for name, words in ATTRIBUTES.items()},
        }
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

    def looks(self, indices: Tensor) -> Tensor:
        """What each frame that it sees looks like to it: [B, FRAMES / STRIDE, 128]."""
        clip = indices[:, :FRAMES:STRIDE]
        pixels = self.embed(clip.flatten(0, 1).long()).movedim(-1, 1)
        return self.picture(pixels.contiguous(memory_format=torch.channels_last)).unflatten(0, clip.shape[:2])

    def features(self, looks: Tensor) -> Tensor:
        """What the whole clip looks like to it: [B, 512]."""
        looks = looks.transpose(1, 2)  # [B, 128, T]
        moves = self.motion(looks)
        first, last = looks[:, :, :4].mean(2), looks[:, :, -4:].mean(2)
        return torch.cat([moves.mean(2), moves.amax(2), first, last], dim=1)

    def forward(self, indices: Tensor) -> dict[str, Tensor]:
        features = self.features(self.looks(indices))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def name(self, indices: Tensor) -> list[Said]:
        """What it takes each clip for."""
        classes = {name: scores.argmax(dim=1).tolist() for name, scores in self(indices).items()}
        return [{name: ATTRIBUTES[name][classes[name][row]] for name in ATTRIBUTES} for row in range(len(indices))]


def consistency(looks: Tensor) -> Tensor:
    """How alike neighbouring frames look to the judge: mean cosine, [B, T, D] -> [B].

    VBench's subject consistency (arXiv 2311.17982) is made like this of DINO features; that to the first frame is
    left out, because a storybook subject may turn into another.
    """
    return torch.cosine_similarity(looks[:, 1:], looks[:, :-1], dim=-1).mean(dim=1)


def open_judge(folder: Path, facts: PackFacts, *, device: torch.device) -> Judge:
    """The judge that a pack carries. Raises ModelError when it is damaged or knows other words than this storybook."""
    assert facts.judge is not None
    config = load_config(folder / facts.judge, "StorybookJudge")
    judge = Judge(config["width"])
    if config["words"] != judge.config["words"]:
        raise ModelError(f"{folder / facts.judge}: this judge knows other words than the storybook of this causvid")
    load_state(judge, load_safetensors(folder / facts.judge), name=f"{facts.name} {facts.judge}")
    return judge.to(device).eval().requires_grad_(False)
