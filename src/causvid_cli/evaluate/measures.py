"""The measures of a storybook model, each asked for by its name: what is told, from when on, and where it is looked at.

Every measure is a list of trials, always the same for the same words; a smaller count is the beginning of a larger one.
All stories are held out of training. What a trial should show is drawn by the storybook.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from causvid_cli import storybook
from causvid_cli.errors import UsageError
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.evaluate.seen import WINDOW, asked_late
from causvid_cli.geometry import ChunkGrid
from causvid_cli.request import Transition
from causvid_cli.storybook import ALL_WORDS, Lexicon, Shown, Story, Words

PARTS = ("subject", "colour", "scene", "action")
KINDS = (*PARTS, *PARTS, "all")
"""What changes from trial to trial, over and over."""
END_STATES = ("grows", "shrinks", "turns into", "falls", "lands", "flies up")
"""Actions after which something is not what it was."""
CHANGE_S, SETTLED_S, SHOT_S = 4, 2, 2
"""Seconds of a prompt before the next one, seconds after which it must be seen, and seconds of an alternating shot."""
SHOT_FRAMES = 12
"""The last frames of an alternating shot, by which it is judged."""
LATEST = 48
"""A photo is one of so many first frames of its video."""
MOST_TRIES = 10_000


@dataclass(frozen=True, slots=True)
class Look:
    """Frames of a video that are judged and compared with the drawing. Looks of one name are counted together."""

    name: str
    start: int
    frames: int = WINDOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One video: its stories, and the chunks with which they begin."""

    stories: tuple[Story, ...]
    chunks: tuple[int, ...] = (0,)
    photo: tuple[Story, int] | None = None
    """A story, and the number of the frame of its video that the video begins with."""
    frames: int
    looks: tuple[Look, ...]

    def captions(self) -> list[str]:
        return [story.caption() for story in self.stories]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What measures are made of. fps: frames a second; shots: of alternating prompts."""

    words: Words
    lexicon: Lexicon
    grid: ChunkGrid
    fps: float
    shots: int

    def frame(self, seconds: float) -> int:
        return round(seconds * self.fps)

    def chunk(self, seconds: float) -> int:
        """The first chunk that begins no earlier."""
        return next(each.index for each in self.grid.chunks(None) if self.begins(each.index) >= self.frame(seconds))

    def tells(self, story: Story, before: Story | None = None) -> bool:
        """Whether a story's caption, under another one or none, is read as this story."""
        told = storybook.parse(story.caption(), before, self.lexicon).story
        return replace(told, mirrored=None) == replace(story, mirrored=None)

    def begins(self, chunk: int) -> int:
        """The first frame of a chunk."""
        return self.grid.first_frame(chunk)


def of_prompts(ask: Ask, rng: np.random.Generator) -> Iterator[Trial]:
    while True:
        yield Trial(stories=_stories(ask, rng), frames=WINDOW, looks=(Look("first 4 s", 0),))


def of_pairs(ask: Ask, rng: np.random.Generator) -> Iterator[Trial]:
    if not ask.words.get("relation"):
        raise UsageError("--measure pairs: this model knows no two actors; leave it out, or try another --model")
    while True:
        stories = _stories(ask, rng, lambda story: story.relation is not None)
        yield Trial(stories=stories, frames=WINDOW, looks=(Look("first 4 s", 0),))


def of_end(ask: Ask, rng: np.random.Generator) -> Iterator[Trial]:
    looks = tuple(Look(f"at {seconds} s", ask.frame(seconds) - WINDOW) for seconds in (40, 60))
    while True:
        for action in ask.words["action"]:
            stories = _stories(ask, rng, lambda story, action=action: story.action == action)  # type: ignore[misc]
            yield Trial(stories=stories, frames=ask.frame(60), looks=looks)


def of_change(ask: Ask, rng: np.random.Generator) -> Iterator[Trial]:
    cue = ask.chunk(CHANGE_S)
    start = ask.begins(cue) + ask.frame(SETTLED_S)
    for stories in _pairs(ask, rng):
        yield Trial(
            stories=stories, chunks=(0, cue), frames=start + WINDOW, looks=(Look("from 2 s after the change", start),)
        )


def of_return(ask: Ask, rng: np.random.Generator) -> Iterator[Trial]:
    first, second = ask.chunk(CHANGE_S), ask.chunk(2 * CHANGE_S)
    start = ask.begins(second) + ask.frame(SETTLED_S)
    for before, after in _pairs(ask, rng, returns=True):
        yield Trial(
            stories=(before, after, before),
            chunks=(0, first, second),
            frames=start + WINDOW,
            looks=(Look("from 2 s after the return", start),),
        )


def of_alternate(ask: Ask, rng: np.random.Generator) -> Iterator[Trial]:
    chunks = [ask.chunk(SHOT_S * shot) for shot in range(ask.shots + 1)]
    ends = [ask.begins(chunk) for chunk in chunks[1:]]
    looks = tuple(Look("every shot", end - SHOT_FRAMES, SHOT_FRAMES) for end in ends)
    for pair in _pairs(ask, rng, returns=True):
        stories = tuple(pair[shot % 2] for shot in range(ask.shots))
        yield Trial(stories=stories, chunks=tuple(chunks[:-1]), frames=ends[-1], looks=looks)


def of_photo(ask: Ask, rng: np.random.Generator) -> Iterator[Trial]:
    looks = tuple(Look(f"from {seconds} s", ask.frame(seconds)) for seconds in (1, 4))
    while True:
        for action in ask.words["action"]:
            (photo,) = _stories(ask, rng, lambda story: story.target is None)
            target = str(rng.choice([name for name in ask.words["target"] if name != photo.subject]))
            story = replace(photo, action=action, target=target if action == "turns into" else None)
            if action != photo.action and storybook.held_out(story):
                at = int(rng.integers(LATEST))
                yield Trial(stories=(story,), photo=(photo, at), frames=looks[-1].start + WINDOW, looks=looks)


MEASURES: Mapping[str, tuple[Callable[[Ask, np.random.Generator], Iterator[Trial]], int]] = {
    "prompts": (of_prompts, 200),
    "pairs": (of_pairs, 100),
    "end": (of_end, 42),
    "change": (of_change, 45),
    "return": (of_return, 45),
    "alternate": (of_alternate, 9),
    "photo": (of_photo, 42),
}
"""By name, what makes the trials, and how many are usual."""


def trials_of(name: str, ask: Ask, count: int) -> tuple[Trial, ...]:
    """The first trials of a measure. Raises UsageError where the model cannot show what it asks."""
    make, _ = MEASURES[name]
    made = make(ask, np.random.default_rng((0, 7, list(MEASURES).index(name))))
    return tuple(next(made) for _ in range(count))


def common_words(*models: Words) -> Words:
    """The words, by slot, that all of these models know and the storybook draws."""
    known = [{slot: set(words) for slot, words in model.items()} for model in models]
    words = {
        slot: [word for word in ALL_WORDS[slot] if all(word in each.get(slot, ()) for each in known)]
        for slot in ALL_WORDS
    }
    return {slot: found for slot, found in words.items() if found}


def _stories(ask: Ask, rng: np.random.Generator, fits: Callable[[Story], bool] = lambda story: True) -> tuple[Story]:
    """One held-out story that its caption tells whole."""
    for _ in range(MOST_TRIES):
        (story,) = sample_stories(rng, 1, ask.words, held_out=True)
        if fits(story) and ask.tells(story):
            return (story,)
    raise UsageError("this model knows too few words for a held-out story of each kind")


def _pairs(ask: Ask, rng: np.random.Generator, *, returns: bool = False) -> Iterator[tuple[Story, Story]]:
    """Two stories, the second told under the first one; what differs between them comes in turn.

    returns: the first must be told whole under the second one, too.
    """
    while True:
        for kind in KINDS:
            yield _pair(ask, kind, rng, returns=returns)


def _pair(ask: Ask, kind: str, rng: np.random.Generator, *, returns: bool) -> tuple[Story, Story]:
    for _ in range(MOST_TRIES):
        (before,) = _stories(ask, rng, lambda story: story.target is None)
        for after in _others(ask, before, kind, rng):
            both_ways = ask.tells(after, before) and (not returns or ask.tells(before, after))
            seen, then = (asked_late(story, ask.words) for story in (before, after))
            differ = {name for name in PARTS if seen.get(name) != then.get(name)}
            if both_ways and differ == (set(PARTS) if kind == "all" else {kind}):
                return before, after
    raise UsageError("this model knows too few words for two held-out stories that differ in one of them")


def _others(ask: Ask, story: Story, kind: str, rng: np.random.Generator) -> Iterator[Story]:
    """Held-out stories that differ from this one in one part, in random order, or one of another subject."""
    if kind == "all":
        yield from _stories(ask, rng, lambda other: other.target is None)
        return
    names = [name for name in ask.words[kind] if name not in (getattr(story, kind), "turns into")]
    for name in rng.permutation(names).tolist():
        if storybook.held_out(other := replace(story, **{kind: name})):
            yield other


def shown_of(
    trial: Trial,
    readings: Sequence[Story],
    ask: Ask,
    *,
    held: int,
    begins_anew: bool,
    transitions: Sequence[Transition],
) -> tuple[Shown, ...]:
    """What a trial should show. readings: its stories as the model was told them; held: frames of its photo.

    begins_anew: whether the model begins a shot after that. transitions: how it lets each story but the first take
    hold.
    """
    if trial.photo is not None:
        photo, at = trial.photo
        return (storybook.show_photo(photo, readings[0], at=at, held=held, is_cut=begins_anew),)
    starts = [ask.begins(chunk) for chunk in trial.chunks]
    cuts = [start for start, transition in zip(starts[1:], transitions, strict=True) if transition == "cut"]
    return storybook.show_script(list(zip(starts, readings, strict=True)), cuts=cuts)
