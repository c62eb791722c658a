"""Make the videos of `measures.MEASURES` batch by batch, and count what of them is as it should be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from causvid_cli import storybook
from causvid_cli.evaluate.clip_sources import EvalClip
from causvid_cli.evaluate.config import MeasureRequest
from causvid_cli.evaluate.experiments import StoryMaker, about_of, keep_strips
from causvid_cli.evaluate.figures import ATTRIBUTES
from causvid_cli.evaluate.judge import Judge, open_judge
from causvid_cli.evaluate.measure_figures import measure_figures
from causvid_cli.evaluate.measures import END_STATES, MEASURES, Ask, Look, Trial, common_words, shown_of, trials_of
from causvid_cli.evaluate.metrics import brightness, luma, saturation, sharpness
from causvid_cli.evaluate.page import measure_page
from causvid_cli.evaluate.pixel_match import Drawing, nearest_drawing, pixel_counts
from causvid_cli.evaluate.results_folder import Folder, Record
from causvid_cli.evaluate.run import MOST_CLIPS
from causvid_cli.geometry import held_frames
from causvid_cli.pipeline import load
from causvid_cli.prompt.cues import Cue
from causvid_cli.prompt.story import StoryTextEncoder
from causvid_cli.request import LARGEST_SEED
from causvid_cli.storybook import SLOTS, Lexicon, Shown, Story, Words

BY_DRAWING = "a word is right where its drawing is nearer than those of all others that could stand in its place"
SEGMENT_S = 5
"""Seconds of each segment that drift compares."""
STUDENT, AGAINST = "student", "against"

Counts = dict[str, tuple[float, float]]
"""By figure, how much is as it should be, and of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What is measured, loaded."""

    request: MeasureRequest
    models: Mapping[str, StoryMaker]
    """The model, and the one beside it: STUDENT and AGAINST."""
    asks: Mapping[str, Ask]

    def count(self, measure: str) -> int:
        return self.request.count or MEASURES[measure][1]


def open_measuring(request: MeasureRequest, *, judge: Judge | None = None) -> Measuring:
    """Load the models and the judge. judge: another than the pack's own."""
    student = load(request.pack, device=request.device, dtype=request.dtype)
    if judge is None and request.facts.judge is not None:
        judge = open_judge(request.pack, request.facts, device=student.device)
    models = {STUDENT: StoryMaker(student=student, judge=judge)}
    if request.against:
        other = load(request.against[0], device=request.device, dtype=request.dtype)
        models[AGAINST] = StoryMaker(student=other, judge=judge)
    words = common_words(*(text_of(model).text.words for model in models.values()))
    asks = {
        name: Ask(
            words=words,
            lexicon=Lexicon.of(words),
            grid=model.student.plan(length="1f").grid,
            fps=float(model.student.fps),
            shots=request.shots,
        )
        for name, model in models.items()
    }
    return Measuring(request=request, models=models, asks=asks)


def text_of(model: StoryMaker) -> StoryTextEncoder:
    assert isinstance(model.student.text, StoryTextEncoder)  # `config.renders`
    return model.student.text


def run_measures(
    measuring: Measuring, folder: Folder, *, on_frames: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, Any]:
    """Make and measure what is missing; write and return the figures (`measure_figures`), and the page.

    on_frames: told how many frames are done, of those that were missing; 0 at the start.
    """
    request = measuring.request
    folder.begin()
    records = folder.records(request.seeds)
    known = {(record["maker"], record["group"], record["number"]) for record in records}
    work = []
    for measure in request.measures:
        for name in measuring.models:
            trials = trials_of(measure, measuring.asks[name], measuring.count(measure))
            missing = [number for number in range(len(trials)) if (name, measure, number) not in known]
            together = max(1, MOST_CLIPS // request.seeds)
            parts = [missing[start : start + together] for start in range(0, len(missing), together)]
            work += [(measure, name, trials, part) for part in parts]
    done, frames = 0, sum(request.seeds * trials[number].frames for _, _, trials, part in work for number in part)
    on_frames(done, frames)
    for measure, name, trials, part in work:
        new = measure_trials(measuring, folder, measure, name, {number: trials[number] for number in part})
        folder.append(new)
        records += new
        done += sum(request.seeds * trials[number].frames for number in part)
        on_frames(done, frames)
    records.sort(key=lambda record: (record["maker"], record["group"], record["number"], record["take"]))
    about = about_of(measuring.models[STUDENT].student, seed=request.seed) | {"seeds": request.seeds}
    about["against"] = request.against[1].name if request.against else None
    about["notes"] = [] if request.facts.judge else [f"{request.facts.name} comes without a judge: {BY_DRAWING}"]
    result = measure_figures(about, request.measures, records)
    folder.finish(result, measure_page(result, records, folder))
    return result


@dataclass(frozen=True, slots=True)
class Video:
    """One video that is measured: how it is made, and the stories that it should show."""

    trial: Trial
    clip: EvalClip
    shown: tuple[Shown, ...]
    photo: np.ndarray
    """What it begins with, palette entries uint8 [held, H, W]; of no frame where there is no photo."""

    @property
    def cues(self) -> list[Cue]:
        return cues_of(self.trial)

    def draw(self, look: Look, indices: np.ndarray) -> Drawing:
        """What the frames of a look should be; where a scene may face either way, as they are more like."""
        numbers = range(look.start, look.start + look.frames)
        draw = partial(storybook.render_shown, self.shown, numbers)
        return nearest_drawing(indices, self.shown[0].story, lambda seed: draw(seed=seed))


def cues_of(trial: Trial) -> list[Cue]:
    """What a trial's video is told."""
    told = zip(trial.captions(), trial.chunks, strict=True)
    return [Cue(prompt=text, start_chunk=chunk) for text, chunk in told]


def video_of(measuring: Measuring, name: str, measure: str, number: int, take: int, trial: Trial) -> Video:
    """One take of a trial by one model; its seed is the same for all models."""
    request, model, ask = measuring.request, measuring.models[name], measuring.asks[name]
    seed = (request.seed + number * request.seeds + take) % (LARGEST_SEED + 1)
    text = text_of(model)
    encoded = text.encode(trial.captions()[0], seed=seed)
    stories = [text.text.shown(story, seed=seed)[0] for story in trial.stories]
    photo, held = np.empty((0, storybook.SIZE, storybook.SIZE), np.uint8), 0
    if trial.photo is not None:
        still, at = text.text.shown(trial.photo[0], seed=seed)[0], trial.photo[1]
        held = held_frames(model.codec.facts, model.student.facts.chunk_frames, "chunk")
        photo = storybook.render_photo(still, still, at=at, held=held, length=held, seed=seed)[0]
        trial = replace(trial, photo=(still, at))
    clip = EvalClip(group=measure, number=number, take=take, seed=seed, encoded=encoded)
    track = model.track(cues_of(trial), seed=seed, photo=photo)
    shown = shown_of(trial, stories, ask, held=held, begins_anew=track.begins_anew, transitions=track.transitions)
    return Video(trial, clip, shown, photo)


def measure_trials(
    measuring: Measuring, folder: Folder, measure: str, name: str, trials: Mapping[int, Trial]
) -> list[Record]:
    """Make these trials of a measure in one roll-out, all takes of each, and count: a record of each video."""
    model, ask, takes = measuring.models[name], measuring.asks[name], range(measuring.request.seeds)
    videos = [
        video_of(measuring, name, measure, number, take, trial) for number, trial in trials.items() for take in takes
    ]
    given = [storybook.PALETTE[video.photo] for video in videos if len(video.photo)]
    cues, frames = [video.cues for video in videos], videos[0].trial.frames
    _, made = model.make([video.clip for video in videos], cues, frames=frames, given=given)
    keep_strips(model, folder, name, measure, list(trials), made[:: len(takes)])
    return [
        {
            "maker": name,
            **video.clip.identity,
            "prompt": video.clip.prompt,
            "prompts": list(dict.fromkeys(video.trial.captions())),
            **counts,
        }
        for video, counts in zip(videos, count(model, ask, videos, made), strict=True)
    ]


def count(model: StoryMaker, ask: Ask, videos: Sequence[Video], made: np.ndarray) -> list[dict[str, Any]]:
    """What of videos of equal looks is as it should be: palette entries uint8 [B, T, H, W].

    counts, drawn: by look, the counts of the video, and of the drawing as the judge sees it; wrong: by look, [asked,
    seen] of what the judge takes for something else.
    """
    found: list[dict[str, Any]] = [{"counts": {}, "drawn": {}, "wrong": {}} for _ in videos]
    shown = [video.shown for video in videos]
    for look in videos[0].trial.looks:
        own = made[:, look.start : look.start + look.frames]
        drawings = [video.draw(look, indices) for video, indices in zip(videos, own, strict=True)]
        looks = model.windows(own, look.start, shown)
        if model.judge:
            truths = model.windows(np.stack([truth for truth, _ in drawings]), look.start, shown)
        else:  # nothing is nearer to a drawing than itself
            truths = [{"asked": seen["asked"], "judged": seen["asked"]} for seen in looks]
        for row, (video, into) in enumerate(zip(videos, found, strict=True)):
            story = video.trial.stories[-1]
            seen = judged_counts(looks[row], story, ask.words) | pixel_counts(own[row], drawings[row])
            add(into["counts"].setdefault(look.name, {}), seen)
            add(into["drawn"].setdefault(look.name, {}), judged_counts(truths[row], story, ask.words))
            if mistakes := mistakes_of(looks[row]):
                into["wrong"].setdefault(look.name, []).append(mistakes)
    whole = Look("whole video", 0, videos[0].trial.frames)
    if len(videos[0].trial.stories) == 1 and whole.frames >= 2 * SEGMENT_S * ask.fps:
        for video, indices, into in zip(videos, made, found, strict=True):
            truth, _ = video.draw(whole, indices)
            into["counts"][whole.name] = drift_counts(indices, truth, ask.frame(SEGMENT_S))
    return found


def judged_counts(window: Record, story: Story, words: Words) -> Counts:
    """By slot that was asked and for all of them, whether it is right; of what has an end state, all of them again.

    words: what can be told. Of a slot that cannot, only what is not ordinary counts: what has shrunk is small.
    """
    asked = {slot: window["asked"][slot] for slot in ATTRIBUTES if window["asked"].get(slot) is not None}
    told = [slot for slot, word in asked.items() if slot in words or word != SLOTS[slot]]
    right = {slot: window["judged"][slot] == asked[slot] for slot in told}
    if not asked:
        return {}
    found: Counts = {f"{slot.replace('_', ' ')} right": (hit, 1) for slot, hit in right.items()}
    found["all right"] = (all(right.values()), 1)
    if story.action in END_STATES and story.relation is None:
        found["end state right"] = found["all right"]
    return found


def mistakes_of(window: Record) -> dict[str, list[Any]]:
    """By slot, [asked, seen] of what is wrong."""
    pairs = {slot: [word, window["judged"][slot]] for slot, word in window["asked"].items() if slot in ATTRIBUTES}
    return {slot: pair for slot, pair in pairs.items() if pair[0] is not None and pair[0] != pair[1]}


def drift_counts(indices: np.ndarray, drawn: np.ndarray, segment: int) -> Counts:
    """How far a video's look goes from the drawing's as it goes on: palette entries [T, H, W] twice.

    Each segment's mean is compared with that of the drawing, and that difference with the first segment's; the largest
    counts, in shares of the full range.
    """
    palette, found = storybook.PALETTE, {}
    lumas = [luma(palette[clip]) for clip in (indices, drawn)]
    curves = {
        "brightness": [brightness(each) for each in lumas],
        "saturation": [saturation(palette[clip]) for clip in (indices, drawn)],
        "sharpness": [sharpness(each) for each in lumas],
    }
    for name, (made, truth) in curves.items():
        whole = len(made) // segment * segment
        apart = (made - truth)[:whole].reshape(-1, segment).mean(axis=1)
        found[f"largest drift of {name}"] = (float(np.abs(apart - apart[0]).max()), 1.0)
    return dict(found)


def add(counts: Counts, more: Mapping[str, tuple[float, float]]) -> None:
    """Count further frames of the same look, in place."""
    for figure, (hits, of) in more.items():
        known = counts.get(figure, (0, 0))
        counts[figure] = known[0] + hits, known[1] + of
