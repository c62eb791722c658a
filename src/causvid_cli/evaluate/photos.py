"""Whether a photo's subject is kept: single frames of storybook videos, set in motion as `causvid i2v` does it.

Each photo is held for a chunk, and for one latent frame. Beside the videos stand what should be seen, the photo and
then the action, begun where the subject stands ("drawn chunk", "drawn frame"): the judge's own ceiling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from causvid_cli import storybook
from causvid_cli.evaluate.clip_sources import EvalClip
from causvid_cli.evaluate.experiments import Experiment, OnMade, TrialMaker, as_drawn, keep_strips
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.evaluate.results_folder import Folder, Record
from causvid_cli.evaluate.seen import WINDOW
from causvid_cli.geometry import Hold, held_frames
from causvid_cli.prompt.cues import Cue
from causvid_cli.storybook import FIRST_WORDS, Story, Words

HOLDS: tuple[Hold, ...] = ("chunk", "frame")
EARLY_S, LATE_S = 1, 4
"""Seconds from which on the judge looks."""
LATEST = 48
"""A photo is one of so many first frames of its video."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A photo, frame `at` of a story's video, and the story that is told under it."""

    photo: Story
    at: int
    story: Story


def shots(count: int, words: Words = FIRST_WORDS) -> tuple[Shot, ...]:
    """Always the same; a smaller count is the beginning of a larger one. All stories are held out of training.

    The story has the photo's subject, colour and scene, and another action: each action comes in turn.
    words: what can be told.
    """
    rng, actions = np.random.default_rng((0, 6)), words["action"]
    return tuple(_shot(actions[number % len(actions)], rng, words) for number in range(count))


def _shot(action: str, rng: np.random.Generator, words: Words) -> Shot:
    while True:
        (photo,) = sample_stories(rng, 1, words, held_out=True)
        story = _doing(photo, action, rng)
        # a photo of the moment of change would show no subject
        if photo.target is None and photo.action != action and storybook.held_out(story):
            return Shot(photo, int(rng.integers(LATEST)), story)


def _doing(story: Story, action: str, rng: np.random.Generator) -> Story:
    others = [other for other in FIRST_WORDS["subject"] if other != story.subject]
    return replace(story, action=action, target=str(rng.choice(others)) if action == "turns into" else None)


def experiment(trials: TrialMaker) -> Experiment:
    """Photos, each held in all ways of HOLDS."""
    fps, of = trials.student.fps, shots(trials.request.count, trials.first_words)
    starts = {f"from {seconds} s": round(seconds * fps) for seconds in (EARLY_S, LATE_S)}
    frames = max(starts.values()) + WINDOW

    def measure(trials: TrialMaker, folder: Folder, numbers: Sequence[int], on_made: OnMade) -> list[Record]:
        return measure_shots(trials, folder, numbers, [of[number] for number in numbers], starts, frames, on_made)

    return Experiment(about={"frames": frames}, frames=len(HOLDS) * frames, measure=measure)


def measure_shots(
    trials: TrialMaker,
    folder: Folder,
    numbers: Sequence[int],
    of: Sequence[Shot],
    starts: Mapping[str, int],
    frames: int,
    on_made: OnMade,
) -> list[Record]:
    """A record of each photo: what the judge sees of every way, and how far its pixels are as drawn.

    starts: the first frame of each of the judge's two looks.
    """
    clips = [trials.clip(number, shot.story.caption()) for number, shot in zip(numbers, of, strict=True)]
    cues = [[Cue(prompt=clip.prompt)] for clip in clips]
    ways: list[dict[str, Record]] = [{} for _ in clips]
    for hold in HOLDS:
        held = held_frames(trials.codec.facts, trials.student.facts.chunk_frames, hold)
        stills = [draw(shot, held, held, clip.seed) for shot, clip in zip(of, clips, strict=True)]
        given = [storybook.PALETTE[still] for still in stills]
        tracks = [
            trials.track(own, seed=clip.seed, photo=still) for own, clip, still in zip(cues, clips, stills, strict=True)
        ]
        cuts = [track.begins_anew for track in tracks]
        drawn = np.stack(
            [draw(shot, held, frames, clip.seed, cut) for shot, clip, cut in zip(of, clips, cuts, strict=True)]
        )
        shown = [
            [storybook.show_photo(shot.photo, shot.story, at=shot.at, held=held, is_cut=cut)]
            for shot, cut in zip(of, cuts, strict=True)
        ]
        _, made = trials.make(clips, cues, frames=frames, given=given)
        for way, indices in ((hold, made), (f"drawn {hold}", drawn)):
            keep_strips(trials, folder, way, "photos", numbers, indices)
            looks = [trials.windows(indices[:, start : start + WINDOW], start, shown) for start in starts.values()]
            for row, windows in enumerate(zip(*looks, strict=True)):
                ways[row][way] = {"windows": dict(zip(starts, windows, strict=True))}
        for row, (clip, truth) in enumerate(zip(made, drawn, strict=True)):
            ways[row][hold] |= likeness(as_drawn(clip, truth), held, starts)
        on_made(made.shape[0] * made.shape[1])
    return [record(shot, clip, seen) for shot, clip, seen in zip(of, clips, ways, strict=True)]


def record(shot: Shot, clip: EvalClip, ways: Record) -> Record:
    """What is kept of one photo."""
    return {
        "maker": "student",
        **clip.identity,
        "photo": shot.photo.caption(),
        "at": shot.at,
        "prompt": clip.prompt,
        "ways": ways,
    }


def draw(shot: Shot, held: int, frames: int, seed: int, is_cut: bool = False) -> np.ndarray:
    """What should be seen, palette entries [T, H, W]. is_cut: as of `storybook.show_photo`."""
    return storybook.render_photo(
        shot.photo, shot.story, at=shot.at, held=held, length=frames, seed=seed, is_cut=is_cut
    )[0]


def likeness(shares: np.ndarray, held: int, starts: Mapping[str, int]) -> Record:
    """How far a video's pixels are as drawn [T]: those of the photo, and those that the judge looks at."""
    looks = {name: float(shares[start : start + WINDOW].mean()) for name, start in starts.items()}
    return {"drawn_photo": float(shares[:held].mean()), "drawn": looks}
