"""Make and measure scripts or photos batch by batch: what `causvid eval --switches` and `--photos` have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.evaluate.by_drawing import verdict_by_drawing
from causvid_cli.evaluate.clip_sources import EvalClip, decoded, together
from causvid_cli.evaluate.config import ExperimentRequest
from causvid_cli.evaluate.experiment_figures import experiment_figures
from causvid_cli.evaluate.judge import Judge, open_judge
from causvid_cli.evaluate.page import experiment_page
from causvid_cli.evaluate.results_folder import Folder, Record
from causvid_cli.evaluate.run import MOST_CLIPS, rounded, strip
from causvid_cli.evaluate.seen import asked
from causvid_cli.models.packs import pack_digest
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.prompt.cues import Cue
from causvid_cli.prompt.story import StoryTextEncoder
from causvid_cli.prompt.track import PromptTrack
from causvid_cli.request import LARGEST_SEED
from causvid_cli.storybook import FIRST_WORDS, Shown, Words

SHEET_TRIALS, SHEET_FRAMES = 9, 10
"""Scripts or photos that the page shows, and frames of each of their clips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryMaker:
    """A storybook model and, if there is one, a judge, loaded: it makes clips and has them judged."""

    student: Pipeline
    judge: Judge | None

    @property
    def codec(self) -> PixelCodec:
        assert isinstance(self.student.codec, PixelCodec)  # `config.renders`
        return self.student.codec

    @property
    def first_words(self) -> Words:
        """The words of the first packs, as far as this model can be told them."""
        return {slot: tuple(word for word in words if word in self.words[slot]) for slot, words in FIRST_WORDS.items()}

    @property
    def words(self) -> Words:
        """By slot, the words that this model can be told."""
        assert isinstance(self.student.text, StoryTextEncoder)  # `config.renders`
        return self.student.text.text.words

    def make(
        self, clips: Sequence[EvalClip], cues: Sequence[Sequence[Cue]], *, frames: int, given: Sequence[np.ndarray] = ()
    ) -> tuple[list[torch.Tensor], np.ndarray]:
        """Latents x0 of each chunk, given ones first, and palette entries uint8 [B, T, H, W]; as in `together`."""
        latents = list(together(self.student, clips, cues, frames=frames, given=given))
        with torch.inference_mode():
            parts = [part.indices for part in decoded(self.codec, latents, clips=clips, frames=frames)]
        return latents, np.concatenate([part for part in parts if part is not None], axis=1)

    def track(self, cues: Sequence[Cue], *, seed: int, photo: np.ndarray | None = None) -> PromptTrack:
        """How the model takes the prompts of a video. photo: palette entries uint8 [T, H, W] that it begins with."""
        picture = None if photo is None or not len(photo) else storybook.PALETTE[photo[-1]]
        return self.student.track(cues, seed=seed, guidance=1.0, picture=picture)

    def windows(self, indices: np.ndarray, start: int, shown: Sequence[Sequence[Shown]]) -> list[Record]:
        """What was asked, and what the judge says, of frames that are those from `start` on of their videos.

        indices: palette entries [B, T, H, W]. shown: the stories that each video should show. Without a judge drawings
        tell.
        """
        if self.judge is None:
            pairs = zip(indices, shown, strict=True)
            verdicts = [verdict_by_drawing(window, stories, start, self.words) for window, stories in pairs]
        else:
            numbers = range(start, start + indices.shape[1])
            questions = [asked(stories, numbers, self.judge.words) for stories in shown]
            verdicts = self.judge.verdicts(storybook.PALETTE[indices], questions)
        return [{"asked": wanted, "judged": said} for wanted, said in verdicts]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialMaker(StoryMaker):
    """What is measured, loaded."""

    request: ExperimentRequest

    def clip(self, number: int, prompt: str) -> EvalClip:
        """What one script or photo makes; each has a seed of its own."""
        seed = (self.request.seed + number) % (LARGEST_SEED + 1)
        encoded = self.student.text.encode(prompt, seed=seed)
        return EvalClip(group=self.request.kind, number=number, take=0, seed=seed, encoded=encoded)


OnMade = Callable[[int], None]
"""Told how many more frames are made."""
Measure = Callable[[TrialMaker, Folder, Sequence[int], OnMade], list[Record]]
"""Make and measure the scripts or photos of these numbers: a record of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One kind of trial."""

    about: Mapping[str, Any]
    """What its figures say first."""
    frames: int
    """Frames that each trial makes, all ways together."""
    measure: Measure


def open_trial_maker(request: ExperimentRequest) -> TrialMaker:
    """Load the model and its judge."""
    student = load(request.pack, device=request.device, dtype=request.dtype)
    return TrialMaker(
        request=request, student=student, judge=open_judge(request.pack, request.facts, device=student.device)
    )


def run_trials(
    trials: TrialMaker,
    experiment: Experiment,
    folder: Folder,
    *,
    on_frames: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Make and measure what is missing; write and return the figures (`experiment_figures`), and the page.

    on_frames: told how many frames are done, of those that were missing; 0 at the start.
    """
    request = trials.request
    folder.begin()
    records = folder.records(1)
    known = {record["number"] for record in records}
    missing = [number for number in range(request.count) if number not in known]
    done, missing_frames = 0, len(missing) * experiment.frames
    on_frames(done, missing_frames)

    def on_made(frames: int) -> None:
        nonlocal done
        done += frames
        on_frames(done, missing_frames)

    for start in range(0, len(missing), MOST_CLIPS):
        new: list[Record] = rounded(experiment.measure(trials, folder, missing[start : start + MOST_CLIPS], on_made))
        folder.append(new)
        records += new
    records.sort(key=lambda record: record["number"])
    result = experiment_figures(
        {**about_of(trials.student, seed=request.seed), **experiment.about}, request.kind, records
    )
    folder.finish(result, experiment_page(result, records, folder))
    return result


def about_of(student: Pipeline, *, seed: int) -> dict[str, Any]:
    """What figures say first: of which model, and how it was run."""
    return {
        "model": student.facts.name,
        "sha256": pack_digest(student.facts),
        "device": str(student.device),
        "dtype": str(student.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "seed": seed,
        "fps": float(student.fps),
    }


def keep_strips(
    trials: StoryMaker, folder: Folder, way: str, group: str, numbers: Sequence[int], indices: np.ndarray
) -> None:
    """Strips of frames of the first trials' clips, palette entries [B, T, H, W]."""
    palette = trials.codec.palette.cpu().numpy()
    count = indices.shape[1]
    places = (np.arange(SHEET_FRAMES) + 0.5) * count / SHEET_FRAMES
    for number, clip in zip(numbers, indices, strict=True):
        if number < SHEET_TRIALS:
            with folder.writing():
                path = folder.strip(way, group, number)
                imageio.imwrite(path, strip(palette[clip[places.astype(int)]]))


def as_drawn(indices: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Share of each frame's pixels that are as drawn: palette entries [T, H, W] twice -> [T]."""
    shares: np.ndarray = (indices == drawn).mean(axis=(1, 2))
    return shares
