"""The judge: a small network that names what storybook frames show.

It is trained on rendered clips only (`train/judge_stage.py`), so what it says of a generated clip measures how the
prompt was followed. It sees RGB frames of any size and any number, and says a word of each slot in each frame; which of
them count, `seen.py` says. Its own accuracy on rendered clips is its ceiling, and stands beside every score.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli import storybook
from causvid_cli.architectures import load_config
from causvid_cli.config import PackFacts
from causvid_cli.errors import ModelError
from causvid_cli.evaluate.seen import UNSEEN, Asked, classes
from causvid_cli.storybook import ALL_WORDS, Words
from causvid_cli.weights.files import load_safetensors, load_state

STRIDE = 2
"""It sees every second one of them."""
RIGHT_SHARE = 0.75
"""Share of the frames in which a window must show what it should: a turn or a flash may be a frame late."""

Said = dict[str, Any]
"""A word for each slot."""


class Judge(nn.Module):
    """RGB frames uint8 [B, T, H, W, 3] -> scores [B, T, classes] of each slot.

    A frame goes through convolutions to cells of 8 x 8 pixels, which `GLANCES` learned questions look over; a GRU that
    runs both ways joins the frames.
    """

    GLANCES = 6

    def __init__(self, words: Words, width: int = 20) -> None:
        super().__init__()
        self.words = {slot: list(words[slot]) for slot in ALL_WORDS if words.get(slot)}
        self.config: dict[str, Any] = {"width": width, "words": self.words}
        self.classes = classes(self.words)
        w = width
        self.cells = nn.Sequential(
            nn.Conv2d(3, w, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(w, 3 * w, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(3 * w, 5 * w, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(5 * w, 5 * w, 3, padding=1),
            nn.ReLU(),
        )
        channels = 5 * w + 2  # and the place, by column and row
        self.glance = nn.Conv2d(channels, self.GLANCES, 1)
        self.frame = nn.Sequential(nn.Linear((self.GLANCES + 1) * channels, 10 * w), nn.ReLU())
        self.joined = nn.GRU(20 * w, 5 * w, batch_first=True, bidirectional=True)
        self.heads = nn.Linear(20 * w, sum(map(len, self.classes.values())))
        for part in (*self.cells, *self.frame):
            if isinstance(part, nn.Conv2d | nn.Linear):  # as torch begins them it learns a third as fast
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def look(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What each frame looks like to it [B, T, D], and how it divides its glances over the cells.

        The latter are [B, T, GLANCES, h, w] and sum to 1.
        """
        pixels = frames.flatten(0, 1).movedim(-1, 1).float() / 127.5 - 1
        cells = self.cells(pixels.contiguous(memory_format=torch.channels_last))  # [B T, C, h, w]
        rows, columns = (torch.arange(side, device=cells.device) / 4 - side / 8 for side in cells.shape[2:])
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(cells).expand(len(cells), -1, -1, -1)
        cells = torch.cat([cells, place], dim=1)
        share = self.glance(cells).flatten(2).softmax(dim=2)  # [B T, GLANCES, cells]
        seen = share @ cells.flatten(2).transpose(1, 2)
        most = cells.flatten(2).amax(dim=2, keepdim=True).transpose(1, 2)
        looks = self.frame(torch.cat([seen, most], dim=1).flatten(1))
        share = share.unflatten(2, cells.shape[2:])
        return looks.unflatten(0, frames.shape[:2]), share.unflatten(0, frames.shape[:2])

    def features(self, looks: Tensor) -> Tensor:
        """What each frame is to it among the others: [B, T, D] -> [B, T, 2 D]."""
        changes = F.pad(looks.diff(dim=1), (0, 0, 1, 0))
        return torch.cat([looks, self.joined(torch.cat([looks, changes], dim=-1))[0]], dim=-1)

    def scores(self, features: Tensor) -> dict[str, Tensor]:
        parts = self.heads(features).split([len(words) for words in self.classes.values()], dim=-1)
        return dict(zip(self.classes, parts, strict=True))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return self.scores(self.features(self.look(frames)[0]))

    def numbers(self, asked: Sequence[Asked]) -> dict[str, Tensor]:
        """Class numbers int64 [B, T] of what is asked of each frame; -1 where nothing is."""
        return {
            slot: torch.tensor(
                [[-1 if word == UNSEEN else known.index(word) for word in window[slot]] for window in asked]
            )
            for slot, known in self.classes.items()
        }

    @torch.no_grad()
    def names(self, features: Tensor) -> list[Asked]:
        """What it sees in each frame of each window."""
        best = {slot: scores.argmax(dim=-1).tolist() for slot, scores in self.scores(features).items()}
        return [
            {slot: [self.classes[slot][number] for number in best[slot][row]] for slot in best}
            for row in range(len(features))
        ]

    @torch.no_grad()
    def verdicts(self, frames: np.ndarray, asked: Sequence[Asked]) -> list[tuple[Said, Said]]:
        """What was asked of each window, and what it shows, by slot: windows uint8 [B, T, H, W, 3].

        asked: of every frame. A slot of which no frame of the window tells is left out.
        """
        seen = self.names(
            self.features(self.look(torch.from_numpy(frames[:, ::STRIDE]).to(self.heads.weight.device))[0])
        )
        return [
            verdict({slot: words[::STRIDE] for slot, words in one.items()}, said)
            for one, said in zip(asked, seen, strict=True)
        ]


def verdict(asked: Asked, said: Asked) -> tuple[Said, Said]:
    """A word for each slot of a window, asked and seen: the same where RIGHT_SHARE of the frames are as asked."""
    wanted: Said = {}
    shown: Said = {}
    for slot, words in asked.items():
        pairs = [(word, seen) for word, seen in zip(words, said[slot], strict=True) if word != UNSEEN]
        if pairs:
            wanted[slot] = Counter(word for word, _ in pairs).most_common(1)[0][0]
            wrong = Counter(seen for word, seen in pairs if word != seen)
            is_right = wrong.total() <= (1 - RIGHT_SHARE) * len(pairs)
            shown[slot] = wanted[slot] if is_right else _most(wrong, wanted[slot])
    return wanted, shown


def _most(wrong: Mapping[Any, int], wanted: Any) -> Any:
    """The most frequent wrong word; where that is the one most asked, at other times, what is most seen besides."""
    others = {word: count for word, count in wrong.items() if word != wanted}
    return max(others, key=lambda word: others[word]) if others else "at other times"


def loss_of(scores: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy of each slot over the frames of which it is asked; 0 where it is of none."""
    return {
        slot: F.cross_entropy(scores[slot].flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum")
        / (wanted >= 0).sum().clamp(min=1)
        for slot, wanted in numbers.items()
    }


def consistency(looks: Tensor) -> Tensor:
    """How alike neighbouring frames look to the judge: mean cosine, [B, T, D] -> [B].

    VBench's subject consistency (arXiv 2311.17982) is made like this of DINO features; that to the first frame is
    left out, because a storybook subject may turn into another.
    """
    return torch.cosine_similarity(looks[:, 1:], looks[:, :-1], dim=-1).mean(dim=1)


def open_judge(folder: Path, facts: PackFacts, *, device: torch.device) -> Judge:
    """The judge that a pack carries. Raises ModelError when it is damaged or knows words that nothing can draw."""
    assert facts.judge is not None
    config = load_config(folder / facts.judge, "StorybookJudge")
    for slot, words in config["words"].items():
        if lost := set(words) - set(storybook.ALL_WORDS.get(slot, ())):
            raise ModelError(f"{folder / facts.judge}: the storybook of this causvid cannot draw {slot} {min(lost)!r}")
    judge = Judge(config["words"], config["width"])
    load_state(judge, load_safetensors(folder / facts.judge), name=f"{facts.name} {facts.judge}")
    return judge.to(device).eval().requires_grad_(False)
