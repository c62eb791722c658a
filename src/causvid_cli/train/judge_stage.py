"""Stage `judge`: the judge (`evaluate/judge.py`), trained on rendered clips. It never sees a generated one.

It learns beginnings, windows from the middle of videos, what is around a change of the prompt, and what follows a
photo. In the first third of its steps every second one is of single frames, many of them: they tell what things look
like at little cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.evaluate.judge import STRIDE, Judge, loss_of
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.evaluate.seen import WINDOW, Asked, asked
from causvid_cli.storybook import FIRST_WORDS, SQUARE, Frame, Shown, Story, Words
from causvid_cli.train import story_clips
from causvid_cli.train.config import Optimisation
from causvid_cli.train.trainer import StageSetting, Trainer, averaged_weights

KINDS = {"beginning": 0.35, "late": 0.25, "change": 0.2, "photo": 0.2}
"""Shares of the windows that it learns."""
ON_SPRITES = 4
"""So many of the judge's glances learn to lie on sprites."""
FRAMES_A_WINDOW = 8
"""Single frames in the place of one window."""
LATEST = 640
"""Windows begin within so many frames: 80 seconds."""
AROUND = 16
"""A change of the prompt is at most so many frames after a window's first one, or before it."""
HELD = (4, 8)
"""Frames for which a photo stands still."""
FIRST_SHARE = 0.15
"""Share of the windows from the first packs' world, so that the judge of a larger one serves their models too."""
PAIR_SHARE, TURN_SHARE = 0.3, 0.2
"""Shares of the stories of two actors, where the words have any, and of those in which one turns into another: both are
rare, and have most to tell."""


@dataclass(frozen=True, slots=True)
class Window:
    """Frames that the judge is to name, and what is asked of each.

    indices: palette entries uint8 [T, H, W]. mask: bool [T, H, W], where sprites are.
    """

    kind: str
    indices: np.ndarray
    mask: np.ndarray
    asked: Asked


def train_judge(
    folder: Path, words: Words, plan: Optimisation, setting: StageSetting, *, sizes: Sequence[Frame] = (SQUARE,)
) -> Judge:
    """Train the judge of these words, or go on with its training, and return it."""
    torch.manual_seed(setting.seed)
    judge = Judge(words).to(setting.device)
    palette = torch.from_numpy(storybook.PALETTE.copy()).to(setting.device)

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        size = sizes[int(rng.integers(len(sizes)))] if rng.random() < 0.5 else SQUARE
        is_single = step % 2 > 0 and step < plan.steps // 3
        count = plan.batch * FRAMES_A_WINDOW if is_single else plan.batch
        windows = [sample_window(rng, words, size=size, frames=1 if is_single else WINDOW) for _ in range(count)]
        indices = _spoil(torch.from_numpy(np.stack([window.indices for window in windows])), rng)
        looks, share = judge.look(palette[indices.to(setting.device).long()])
        scores = judge.scores(judge.features(looks))
        numbers = judge.numbers([window.asked for window in windows])
        losses = loss_of(scores, {slot: wanted.to(setting.device) for slot, wanted in numbers.items()})
        mask = torch.from_numpy(np.stack([window.mask for window in windows])).to(setting.device)
        total = torch.stack([*losses.values(), _beside(share[:, :, :ON_SPRITES], mask)]).sum()
        return {"loss": total} | ({} if is_single else _right(scores, numbers))

    Trainer(folder, judge, plan, setting).run(loss)
    return load_judge(folder, words, device=setting.device)


def _beside(share: Tensor, mask: Tensor) -> Tensor:
    """Minus the logarithm of what part of glances [B, T, N, h, w] is where sprites are, bool [B, T, H, W].

    Told where to look, the judge learns who is there several times as fast.
    """
    cells = F.max_pool2d(mask.float(), mask.shape[-1] // share.shape[-1])[:, :, None]  # [B, T, 1, h, w]
    on = (share.float() * cells).sum(dim=(-2, -1))
    return -(on + 1e-4).log()[cells.amax(dim=(-2, -1)).expand_as(on) > 0].mean()


def _right(scores: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Share of the frames that are right, slot by slot; NaN of a slot that no frame tells."""
    known = {slot: wanted.to(scores[slot].device) for slot, wanted in numbers.items()}
    return {
        f"{slot}_right": (scores[slot].argmax(-1) == wanted)[wanted >= 0].float().mean()
        for slot, wanted in known.items()
    }


def load_judge(folder: Path, words: Words, *, device: torch.device) -> Judge:
    """Return the judge that `train_judge` left in its folder."""
    judge = Judge(words)
    judge.load_state_dict(averaged_weights(folder))
    return judge.to(device).eval().requires_grad_(False)


def sample_window(
    rng: np.random.Generator,
    words: Words,
    *,
    size: Frame = SQUARE,
    frames: int = WINDOW,
    kind: str | None = None,
    held_out: bool = False,
) -> Window:
    """Return every STRIDE-th frame of a window, of one kind of KINDS or any; held_out: of a story kept out of training.

    What was before a change, or is on a photo, training may see in any case.
    """
    kind = kind or str(rng.choice(list(KINDS), p=list(KINDS.values())))
    is_first = "mirrored" in words and size == SQUARE and rng.random() < FIRST_SHARE
    told = FIRST_WORDS if is_first else words
    story, seed = _story(rng, told, held_out=held_out), int(rng.integers(2**31))
    if kind == "photo":
        held, at = int(rng.choice(HELD)), int(rng.integers(story_clips.PHOTO_TO))
        changes = story_clips.PHOTO_CHANGES
        photo = story_clips.changed_story(story, rng, told, at=0, changes=changes, same=True)
        shown: tuple[Shown, ...] = (storybook.show_photo(photo, story, at=at, held=held, size=size),)
        start = 0 if frames > 1 else held + int(rng.integers(WINDOW))
    elif kind == "change":
        at = int(rng.integers(AROUND, LATEST))
        before = story_clips.changed_story(story, rng, told, at=0)
        shown = storybook.show_script([(0, before), (at, story)], size=size)
        start = at + int(rng.integers(-AROUND, AROUND + 1))
    else:
        shown = storybook.show_script([(0, story)], size=size)
        start = int(rng.integers(LATEST)) if kind == "late" else 0 if frames > 1 else int(rng.integers(WINDOW))
    numbers = range(max(start, shown[0].first), start + frames, STRIDE)
    indices, mask = storybook.render_shown(shown, numbers, seed=seed, size=size)
    rows = asked(shown, range(start, start + frames), words)
    if missing := -(-frames // STRIDE) - len(numbers):  # the photo, while it stands still
        still = storybook.render_indices(photo, length=1, seed=seed, start=at, size=size)
        indices, mask = (
            np.concatenate([np.repeat(a, missing, axis=0), b]) for a, b in zip(still, (indices, mask), strict=True)
        )
    return Window(kind, indices, mask > 0, {slot: each[::STRIDE] for slot, each in rows.items()})


def _story(rng: np.random.Generator, words: Words, *, held_out: bool) -> Story:
    kind = rng.random()
    is_pair, turns = "relation" in words and kind < PAIR_SHARE, kind >= 1 - TURN_SHARE
    while True:
        (story,) = sample_stories(rng, 1, words, held_out=held_out)
        if (story.relation is not None or not is_pair) and (story.target is not None or not turns):
            return story


def _spoil(indices: Tensor, rng: np.random.Generator) -> Tensor:
    """Return clips with a little of what a generated clip has wrong: single pixels of another entry."""
    rate = rng.random() * 0.03
    wrong = torch.from_numpy(rng.random(tuple(indices.shape), dtype=np.float32) < rate)
    other = torch.from_numpy(rng.integers(len(storybook.PALETTE), size=tuple(indices.shape), dtype=np.uint8))
    return torch.where(wrong, other, indices)
