"""Stage `prepare`, the user's own videos: which clips are cut from them, and the frames of those.

A plan comes first: every video is opened, and what cannot be used is listed with its reason. The plan is kept, so that
a run that was stopped cuts the same clips. What proves to be damaged only when its clips are read, is listed as well.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from causvid_cli.config import from_json, to_json
from causvid_cli.errors import MediaError, ModelError, OutputError, UsageError
from causvid_cli.files import write_text
from causvid_cli.geometry import CodecFacts, Geometry
from causvid_cli.media.clips import open_clip
from causvid_cli.media.fit import Fit
from causvid_cli.media.view import LATE_S
from causvid_cli.train.captions import Captioned, VideoProblem, find_videos
from causvid_cli.train.config import DataConfig
from causvid_cli.units import counted

Size = tuple[int, int]
"""(width, height) in pixels."""

PLAN_FILE = "videos.json"
DAMAGED_FILE = "damaged.txt"
NAMED = 3
"""Videos that a message names; the others are counted."""
SLACK = 2
"""Pictures that may be missing at the end, where a container miscounts; the last one is shown for so much longer."""


class CaptionText(Protocol):
    """What a model makes of captions (`text.StoryText`)."""

    def rejection_reason(self, caption: str) -> str | None:
        """Why nothing can be learnt under a caption; None if it can."""
        ...

    def unknown_words(self, captions: Sequence[str]) -> Mapping[str, int]:
        """How often captions use words that say nothing to the model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVideo:
    """The clips of one video. starts: the first picture of each, counted at the model's rate."""

    __pydantic_config__ = {"extra": "forbid"}

    path: str
    captions: tuple[str, ...]
    size: Size
    starts: tuple[int, ...]

    @property
    def clips(self) -> tuple[tuple[int, str], ...]:
        """(start, caption) of each clip: of several captions each has its turn, a clip that comes again if need be."""
        turns = range(max(len(self.starts), len(self.captions)))
        return tuple((self.starts[i % len(self.starts)], self.captions[i % len(self.captions)]) for i in turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPlan:
    """All clips that a run learns from, and the videos that are left out. frames: pictures of a clip."""

    __pydantic_config__ = {"extra": "forbid"}

    fingerprint: str
    """Of everything that the plan was made from."""
    source: str
    fps: str
    frames: int
    latent_frames: int
    uncaptioned_share: float
    damaged_share: float
    videos: tuple[PlannedVideo, ...]
    problems: tuple[VideoProblem, ...]
    unknown_words: dict[str, int]
    weight: float = 1.0
    """How often training shows a clip, relative to one of the storybook's."""

    @property
    def captions(self) -> tuple[str, ...]:
        """Every caption once, in the order of the clips."""
        return tuple(dict.fromkeys(caption for video in self.videos for caption in video.captions))

    @property
    def clips(self) -> int:
        return sum(len(video.clips) for video in self.videos)

    def notes(self, folder: Path, found_later: Sequence[VideoProblem] = ()) -> Iterator[str]:
        """What the user should know, a line each."""
        problems, bad = (*self.problems, *found_later), {problem.path for problem in found_later}
        good = [video for video in self.videos if video.path not in bad]
        yield f"{counted(len(good), 'video')}, {counted(sum(len(video.clips) for video in good), 'clip')}"
        if problems:
            listed = f"left out and listed in {folder / DAMAGED_FILE}"
            yield f"{counted(len(problems), 'video')} {listed}: {_first_few(problems)}"
        if self.unknown_words:
            most = sorted(self.unknown_words.items(), key=lambda item: (-item[1], item[0]))
            shown = ", ".join(f"{word} ({count})" for word, count in most[:8])
            more = f" and {len(most) - 8} more" if len(most) > 8 else ""
            yield f"words of captions that the model does not know: {shown}{more}; data.words makes them known"

    def check(self, found_later: Sequence[VideoProblem] = ()) -> None:
        """Raise MediaError when more is left out than the user allows, or nothing is left."""
        problems = (*self.problems, *found_later)
        total = len(self.videos) + len(self.problems)
        for of_caption, share, what in (
            (True, self.uncaptioned_share, "have no caption that can be used"),
            (False, self.damaged_share, "cannot be used"),
        ):
            bad = [problem for problem in problems if problem.of_caption == of_caption]
            if len(bad) > share * total:
                option = "uncaptioned_share" if of_caption else "damaged_share"
                remedy = "write clip.txt beside clip.mp4, name new words in data.words" if of_caption else "mend them"
                raise MediaError(
                    f"{self.source}: {len(bad)} of {total} videos {what}: {_first_few(bad)}; "
                    f"{remedy}, or allow it with data.{option}"
                )
        if len(problems) >= total:
            raise MediaError(f"{self.source}: none of {total} videos can be used: {_first_few(problems)}")


def plan_videos(
    folder: Path,
    data: DataConfig,
    facts: CodecFacts,
    *,
    fps: float,
    size: Size,
    latent_frames: int,
    text: CaptionText | None = None,
) -> VideoPlan:
    """The plan kept in `folder`, or a new one, which is then kept there with the list of what is left out.

    size: the model's own. text: what the model makes of captions, where it does not take any English.
    Raises UsageError when the folder holds clips of another plan, MediaError when too much is left out.
    """
    sizes = data.sizes or (size,)
    for width, height in sizes:
        Geometry(height=height, width=width, spatial_factor=facts.spatial_factor)
    source, kept = Path(data.videos), _kept_plan(folder)
    if kept and not source.exists():
        return kept  # its clips may be here, though the videos have gone
    found, problems = find_videos(source)
    if text:
        doubts = {video.path: next(filter(None, map(text.rejection_reason, video.captions)), None) for video in found}
        problems += [VideoProblem(str(path), doubt, of_caption=True) for path, doubt in doubts.items() if doubt]
        found = [video for video in found if not doubts[video.path]]
    frames = facts.frames(latent_frames)
    rate = Fraction(str(fps)).limit_denominator(1001)
    fingerprint = _fingerprint(found, problems, sizes, frames, rate, data.clips_per_video, data.words)
    if kept and kept.fingerprint == fingerprint:
        kept = replace(kept, uncaptioned_share=data.uncaptioned_share, damaged_share=data.damaged_share)
        write_damaged(folder, kept)
        kept.check()
        return kept
    if next(folder.glob("clips-*.safetensors"), None):
        raise UsageError(
            f"{folder} holds clips of other videos or of other settings; delete it, or choose another --run-dir"
        )
    videos: list[PlannedVideo] = []
    for video in found:
        try:
            videos.append(_plan_video(video, sizes, frames=frames, fps=rate, most=data.clips_per_video))
        except MediaError as error:
            problems.append(VideoProblem(str(video.path), str(error).removeprefix(f"{video.path}: ")))
    captions = [caption for video in videos for caption in video.captions]
    plan = VideoPlan(
        fingerprint=fingerprint,
        source=data.videos,
        fps=str(rate),
        frames=frames,
        latent_frames=latent_frames,
        uncaptioned_share=data.uncaptioned_share,
        damaged_share=data.damaged_share,
        videos=tuple(sorted(videos, key=lambda video: video.size)),  # a shard holds clips of one size
        problems=tuple(sorted(problems, key=lambda problem: problem.path)),
        unknown_words=dict(text.unknown_words(captions)) if text else {},
        weight=data.weight,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / PLAN_FILE, to_json(plan, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    write_damaged(folder, plan)
    plan.check()
    return plan


def write_damaged(folder: Path, plan: VideoPlan, found_later: Sequence[VideoProblem] = ()) -> None:
    """List what is left out in `damaged.txt`, a line each: video, tab, reason. Nothing left out leaves no list."""
    path = folder / DAMAGED_FILE
    lines = [f"{problem.path}\t{' '.join(problem.reason.split())}\n" for problem in (*plan.problems, *found_later)]
    try:
        if lines:
            write_text(path, "".join(lines))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def read_clips(video: PlannedVideo, *, frames: int, fps: Fraction) -> Iterator[np.ndarray]:
    """The clips that begin at `starts`, each uint8 RGB [frames, H, W, 3], cropped around the middle to `size`.

    Raises MediaError where the video cannot be read or is damaged.
    """
    clip = open_clip(Path(video.path), remedy="")
    fit = Fit((clip.width, clip.height), video.size, "crop")
    shown, position = clip.frames(fps), 0
    for start in video.starts:
        found = fit.apply(islice(shown, start - position, start - position + frames))
        missing, position = frames - len(found), start + frames
        if missing > (SLACK if len(found) else 0):
            raise MediaError(f"{video.path}: ends within the clip that begins at {float(start / fps):.2f} s")
        yield np.concatenate([found, found[-1:].repeat(missing, axis=0)])


def _plan_video(video: Captioned, sizes: Sequence[Size], *, frames: int, fps: Fraction, most: int) -> PlannedVideo:
    """Where to cut a video: its first clip begins with it, others follow at even distances, none over another."""
    clip = open_clip(video.path, remedy="")
    pictures = math.floor((clip.duration_s + LATE_S) * fps)
    count = pictures // frames
    if not count:
        raise MediaError(f"is too short: {float(clip.duration_s):.2f} s, and a clip takes {float(frames / fps):.2f} s")
    count = min(count, most) if most else count
    shape = clip.width / clip.height
    return PlannedVideo(
        path=str(video.path),
        captions=video.captions,
        size=min(sizes, key=lambda size: abs(math.log(size[0] / size[1] / shape))),
        starts=tuple(np.linspace(0, pictures - frames, count).astype(int).tolist()),
    )


def _kept_plan(folder: Path) -> VideoPlan | None:
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    return from_json(VideoPlan, path.read_text(encoding="utf-8"), where=str(path), error=ModelError, large=True)


def _fingerprint(found: Sequence[Captioned], problems: Sequence[VideoProblem], *settings: object) -> str:
    """Equal for equal videos, captions and settings."""
    files = [(str(video.path), video.captions, _stamp(video.path)) for video in found]
    left_out = [(problem.path, problem.reason) for problem in problems]
    return hashlib.sha256(to_json([files, left_out, list(map(str, settings))]).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file's last change; None when it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _first_few(problems: Sequence[VideoProblem]) -> str:
    shown = ", ".join(f"{problem.path} ({problem.reason})" for problem in problems[:NAMED])
    return f"{shown} and {len(problems) - NAMED} more" if len(problems) > NAMED else shown
