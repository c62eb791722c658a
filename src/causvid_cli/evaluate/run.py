"""Make the clips, measure each while it is made, and keep what was measured."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch

from causvid_cli.codec import enlarged
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import to_json
from causvid_cli.evaluate.clip_sources import EvalClip, Make, codec_maker, renderer, student_maker, teacher_maker
from causvid_cli.evaluate.config import EvalRequest
from causvid_cli.evaluate.figures import figures
from causvid_cli.evaluate.judge import STRIDE, Judge, consistency, open_judge, verdict
from causvid_cli.evaluate.metrics import Course, Meter, mean_angle, mean_distance, thumbnails
from causvid_cli.evaluate.page import page
from causvid_cli.evaluate.pixel_match import PixelMatch
from causvid_cli.evaluate.results_folder import Folder, Record, prompt_key
from causvid_cli.evaluate.seen import WINDOW, asked
from causvid_cli.models.packs import pack_digest
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.request import LARGEST_SEED
from causvid_cli.storybook import Story, show_script
from causvid_cli.teacher import load_teacher
from causvid_cli.video import FileWriter, VideoFormat, open_writer

MOST_CLIPS, MOST_TOKENS = 16, 1024
"""Clips that are made at once: as many as these allow, tokens being those of one latent frame of each."""
SHEET_PROMPTS, SHEET_FRAMES, SHEET_SIDE = 16, 8, 192
"""Prompts of each group that the page shows, frames of each clip, and the longest side of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What is evaluated, loaded."""

    request: EvalRequest
    makers: Mapping[str, Make]
    student: Pipeline
    judge: Judge | None
    edges: frozenset[int]
    """Frames that begin a chunk, but for the first."""
    at_once: int
    """Clips that are made together."""

    @property
    def about(self) -> dict[str, Any]:
        """What the figures say first."""
        request, facts = self.request, self.student.facts
        notes = []
        if self.judge is None:
            notes.append(f"{facts.name} comes without a judge: prompt following is not measured")
        elif request.frames < WINDOW:
            notes.append(f"the judge looks at {WINDOW} frames: prompt following is not measured of shorter clips")
        return {
            "model": facts.name,
            "sha256": pack_digest(facts),
            "device": str(self.student.device),
            "dtype": str(self.student.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "prompts": {group: len(prompts) for group, prompts in request.prompts.items()},
            "seeds": request.seeds,
            "seed": request.seed,
            "length": request.length,
            "frames": request.frames,
            "fps": float(self.student.fps),
            "notes": notes,
        }


def open_evaluation(request: EvalRequest, *, judge: Judge | None = None) -> Evaluation:
    """Load all that is asked for. judge: another than the pack's own, or one for a pack without."""
    student = load(request.pack, device=request.device, dtype=request.dtype)
    if judge is None and request.facts.judge is not None:
        judge = open_judge(request.pack, request.facts, device=student.device)
    plan, codec = student.plan(length=request.length, seed=request.seed), student.codec
    return Evaluation(
        request=request,
        makers={name: _maker(name, request, student) for name in request.makers},
        student=student,
        judge=judge,
        edges=frozenset(codec.facts.frames(chunk.start_frame) for chunk in plan.chunks[1:]),
        at_once=max(1, min(MOST_CLIPS, MOST_TOKENS // plan.geometry.tokens_per_latent_frame)),
    )


def _maker(name: str, request: EvalRequest, student: Pipeline) -> Make:
    if name == "student":
        return student_maker(student)
    if name == "teacher":
        return teacher_maker(load_teacher(request.pack, device=request.device, dtype=request.dtype))
    if name == "codec":
        assert isinstance(student.codec, PixelCodec)
        return codec_maker(student.codec, device=student.device)
    return renderer


def run(
    evaluation: Evaluation,
    folder: Folder,
    *,
    vbench: Callable[[], Mapping[str, Any] | None] = lambda: None,
    on_frames: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Make and measure what is missing; write and return the figures (`figures.figures`), and the page.

    vbench: figures of the finished clips, by maker. on_frames: told how many frames are done, of those that were
    missing; 0 at the start.
    """
    request = evaluation.request
    folder.begin()
    records = folder.records(request.seeds)
    known = {prompt_key(record) for record in records}
    done, missing_frames = 0, (request.clips - len(records)) * request.frames
    on_frames(done, missing_frames)
    together = max(1, evaluation.at_once // request.seeds)
    for maker in evaluation.makers:
        for group, prompts in request.prompts.items():
            missing = [number for number in range(len(prompts)) if (maker, group, number) not in known]
            for start in range(0, len(missing), together):
                clips = [takes_of(evaluation, group, number) for number in missing[start : start + together]]
                new = measure(evaluation, folder, maker, clips, partial(_added, on_frames, done, missing_frames))
                folder.append(new)
                records += new
                done += len(new) * request.frames
    result = figures(evaluation.about, records, vbench=vbench())
    folder.finish(result, page(result, records, folder))
    return result


def _added(on_frames: Callable[[int, int], None], done: int, of: int, more: int) -> None:
    on_frames(done + more, of)


def takes_of(evaluation: Evaluation, group: str, number: int) -> list[EvalClip]:
    """The clips of one prompt: no two of an evaluation have the same seed."""
    request = evaluation.request
    before = sum(len(prompts) for name, prompts in request.prompts.items() if name < group)
    first = request.seed + (before + number) * request.seeds
    prompt, text = request.prompts[group][number], evaluation.student.text
    seeds = [(first + take) % (LARGEST_SEED + 1) for take in range(request.seeds)]
    return [
        EvalClip(group=group, number=number, take=take, seed=seed, encoded=text.encode(prompt, seed=seed))
        for take, seed in enumerate(seeds)
    ]


def measure(
    evaluation: Evaluation,
    folder: Folder,
    maker: str,
    prompts: Sequence[Sequence[EvalClip]],
    on_frames: Callable[[int], None],
) -> list[Record]:
    """Make the clips of these prompts, all takes of each, and measure them."""
    request, clips = evaluation.request, [clip for takes in prompts for clip in takes]
    watches: list[Watch] = []
    for start in range(0, len(clips), evaluation.at_once):
        batch = clips[start : start + evaluation.at_once]
        with ExitStack() as stack:
            watching = [stack.enter_context(Watch(evaluation, folder, maker, clip)) for clip in batch]
            for part in evaluation.makers[maker](batch, request.frames):
                for row, watch in enumerate(watching):
                    watch.add(part.frames[row], None if part.indices is None else part.indices[row])
                on_frames(sum(watch.made for watch in watches + watching))
            for watch in watching:
                watch.finish()
        watches += watching
    records = [watch.record() for watch in watches]
    features = judged(evaluation, watches, records)
    for first in range(0, len(watches), request.seeds):
        takes = range(first, first + request.seeds)
        if len(takes) > 1:
            records[first]["diversity"] = mean_distance([thumbnails(watches[take].samples()) for take in takes])
        if len(takes) > 1 and all(take in features for take in takes):
            records[first]["judged_diversity"] = mean_angle(np.stack([features[take] for take in takes]))
    return [rounded(record) for record in records]


class Watch:
    """Looks at one clip while it is made, and keeps what the figures need of it: never all of its frames."""

    def __init__(self, evaluation: Evaluation, folder: Folder, maker: str, clip: EvalClip) -> None:
        self.clip, self.made = clip, 0
        self._evaluation, self._folder, self._maker = evaluation, folder, maker
        self._meter = Meter(fps=evaluation.student.fps, edges=evaluation.edges)
        last = evaluation.request.frames - 1
        self._shown = set(np.linspace(0, last, SHEET_FRAMES).round().astype(int).tolist())
        self._samples: list[np.ndarray] = []
        reading = clip.encoded.reading
        self._match = PixelMatch(reading) if isinstance(reading, Story) and evaluation.request.renders else None
        self._first: list[np.ndarray] = []
        self._last: deque[np.ndarray] = deque(maxlen=WINDOW)
        self._stack = ExitStack()
        self._writer: FileWriter | None = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, frames: np.ndarray, indices: np.ndarray | None) -> None:
        """Take in the next frames uint8 [T, H, W, 3] and, where there are such, palette entries [T, H, W]."""
        if not len(frames):
            return
        self._meter.add(frames)
        self._samples += [frame for place, frame in enumerate(frames, start=self.made) if place in self._shown]
        self._first.extend(frames[: WINDOW - len(self._first)])
        self._last.extend(frames)
        if indices is not None and self._match:
            self._match.add(indices)
        if self._evaluation.request.videos:
            shown = enlarged(torch.from_numpy(frames), self._evaluation.student.facts.enlarge).numpy()
            self._writer = self._writer or self._open(shown.shape)
            self._writer.write(shown)
        self.made += len(frames)

    def finish(self) -> None:
        """All frames have come: publish the video, write the strip of frames."""
        clip = self.clip
        if self._writer:
            self._writer.publish()
        if clip.number < SHEET_PROMPTS and clip.take == 0:
            with self._folder.writing():
                path = self._folder.strip(self._maker, clip.group, clip.number)
                imageio.imwrite(path, strip(self.samples()))

    def samples(self) -> np.ndarray:
        """A few frames from all over the clip, uint8 [P, H, W, 3]."""
        return np.stack(self._samples)

    def window(self, *, end: bool = False) -> np.ndarray | None:
        """What the judge looks at: the first frames, uint8 [WINDOW, H, W, 3].

        end: of the last ones, where the clip is longer. None where there is nothing to judge.
        """
        if self.clip.story is None or len(self._first) < WINDOW or (end and self.made == WINDOW):
            return None
        return np.stack(self._last if end else self._first)

    def record(self) -> Record:
        clip, courses = self.clip, self._meter.courses()
        if self._match:
            courses["as_drawn"] = Course.of(self._match.shares, fps=self._evaluation.student.fps)
        return {
            "maker": self._maker,
            **clip.identity,
            "prompt": clip.prompt,
            "notes": list(clip.encoded.notes),
            "consistency": self._meter.consistency,
            "courses": {name: asdict(course) for name, course in courses.items()},
        }

    def _open(self, shape: tuple[int, ...]) -> FileWriter:
        clip, path = self.clip, self._folder.video(self._maker, self.clip.group, self.clip.number, self.clip.take)
        with self._folder.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
        video = VideoFormat(
            width=shape[2],
            height=shape[1],
            fps=self._evaluation.student.fps,
            metadata={"comment": to_json({"prompt": clip.prompt, "seed": clip.seed})},
        )
        return self._stack.enter_context(open_writer(path, video, overwrite=True))


@torch.inference_mode()
def judged(evaluation: Evaluation, watches: Sequence[Watch], records: Sequence[Record]) -> dict[int, np.ndarray]:
    """Put into the records what the judge says; returns what it looks at when it compares clips, by place."""
    judge = evaluation.judge
    if judge is None:
        return {}
    features: dict[int, np.ndarray] = {}
    for end, suffix in ((False, ""), (True, "_at_end")):
        seen = [(place, window) for place, watch in enumerate(watches) if (window := watch.window(end=end)) is not None]
        if not seen:
            continue
        frames = torch.from_numpy(np.stack([window[::STRIDE] for _, window in seen])).to(evaluation.student.device)
        looks, _ = judge.look(frames)
        features_of = judge.features(looks)
        alike, whole = consistency(looks).tolist(), features_of.mean(dim=1).cpu().numpy()
        for row, ((place, _), said) in enumerate(zip(seen, judge.names(features_of), strict=True)):
            story, start = watches[place].clip.story, watches[place].made - WINDOW if end else 0
            assert story is not None
            wanted = asked(show_script([(0, story)]), range(start, start + WINDOW, STRIDE), judge.words)
            records[place][f"asked{suffix}"], records[place][f"judged{suffix}"] = verdict(wanted, said)
            if not end:
                records[place]["judged_consistency"] = alike[row]
                features[place] = whole[row]
    return features


def strip(frames: np.ndarray) -> np.ndarray:
    """Frames [P, H, W, 3] from left to right with a line between, made smaller by whole numbers if they are large."""
    times = -(-max(frames.shape[1:3]) // SHEET_SIDE)
    small = np.pad(frames[:, ::times, ::times], ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    return np.concatenate(list(small), axis=1)[:, :-1]


def rounded(value: Any) -> Any:
    """Numbers to six digits, NaN (nothing to measure) as None."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value
