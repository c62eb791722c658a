"""What storybook frames show, told by drawings alone, where a pack comes without a judge.

Of each slot it is the word of which the drawing is nearest, all else being as it was told.

That is how retrieval judges text-to-image models (R-precision, AttnGAN, arXiv 1711.10485): among everything that could
have been said, is what was said the nearest? Nothing is trained, and of a drawing every word is right. Frame by frame
only pixels count in which the drawings of two words differ.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from causvid_cli import storybook
from causvid_cli.evaluate.judge import STRIDE, Said, verdict
from causvid_cli.evaluate.pixel_match import nearest_drawing
from causvid_cli.evaluate.seen import UNSEEN, Asked, as_seen, asked
from causvid_cli.storybook import DOES, SLOTS, WHO, Shown, Story, Words
from causvid_cli.storybook.cast import begins
from causvid_cli.storybook.story import CHANGE

NOBODY = "nobody"
"""Said of a subject that the scene is shown without."""


def verdict_by_drawing(indices: np.ndarray, shown: Sequence[Shown], start: int, words: Words) -> tuple[Said, Said]:
    """What was asked of a window, and what it shows, by slot.

    indices: palette entries [T, H, W] of the frames from `start` on. shown: the stories of the video. words: of the
    model.
    """
    numbers = range(start, start + len(indices), STRIDE)
    shown = [replace(each, story=as_seen(each.story)) for each in shown]
    wanted = asked(shown, numbers, words)
    return verdict(wanted, _seen(indices[::STRIDE], shown, numbers, words, wanted))


def _seen(indices: np.ndarray, shown: Sequence[Shown], numbers: range, words: Words, wanted: Asked) -> Asked:
    """By slot, the word of each frame of which the drawing is nearest; the one asked where no other is nearer."""
    story = shown[-1].story

    def draw(told: Sequence[Shown]) -> np.ndarray:
        return nearest_drawing(indices, story, lambda seed: storybook.render_shown(told, numbers, seed=seed))[0]

    truth = draw(shown)
    said = {slot: list(names) for slot, names in wanted.items()}
    for slot in (slot for slot, names in wanted.items() if set(names) != {UNSEEN}):
        nearest = np.zeros(len(indices), int)
        for other in _others(story, slot, words):
            told = (*shown[:-1], _instead(shown[-1], other))
            drawn = draw(told)
            gain = ((indices == drawn).astype(int) - (indices == truth)).sum(axis=(1, 2))
            closer = np.flatnonzero(gain > nearest).tolist()
            names = _names(told, numbers, words, slot) if closer else ()
            for frame in closer:
                if names[frame] not in (UNSEEN, wanted[slot][frame]):
                    said[slot][frame], nearest[frame] = names[frame], gain[frame]
    return said


def _names(shown: Sequence[Shown], numbers: range, words: Words, slot: str) -> Sequence[Any]:
    """The word of a slot that is seen in each frame."""
    return [NOBODY] * len(numbers) if shown[-1].story.subject is None else asked(shown, numbers, words)[slot]


def _others(story: Story, slot: str, words: Words) -> Iterator[Story]:
    """The stories that differ from this one in a word of a slot, or in who is there; of what it does not have, none."""
    own = getattr(story, slot)
    if own is None:
        return
    if slot == "subject":
        yield replace(story, **{left: SLOTS[left] for left in (*WHO, *DOES)})
    for word in words[slot]:
        if word != own and word not in (CHANGE, story.target, story.other):
            told = {slot: word} | ({"target": None} if slot == "action" else {})
            with suppress(ValueError):  # what cannot be told of one story
                yield replace(story, **told)


def _instead(told: Shown, story: Story) -> Shown:
    """Another story in the place of one: where that began as a video does, so does this one."""
    return replace(told, story=story, column=begins(story) if told.column == begins(told.story) else told.column)
