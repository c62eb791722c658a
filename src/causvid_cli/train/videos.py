"""Stage `prepare`, the user's own videos: which clips are cut from them, and their pictures.

A plan comes first: every video is opened, and what cannot be used is listed with its reason. The plan is kept, so that
a run that was stopped cuts the same clips. What proves to be damaged only when its clips are read, is listed as well.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream

from causvid_cli.config import from_json, to_json
from causvid_cli.errors import MediaError, ModelError, OutputError, UsageError
from causvid_cli.files import write_text
from causvid_cli.geometry import CodecFacts, Geometry
from causvid_cli.media.probe import open_video, read_info
from causvid_cli.train.captions import Captioned, Problem, find_videos
from causvid_cli.train.config import DataConfig

Size = tuple[int, int]
"""(width, height) in pixels."""

PLAN_FILE = "videos.json"
DAMAGED_FILE = "damaged.txt"
NAMED = 3
"""Videos that a message names; the others are counted."""
LATE_S = 0.002
"""A picture may come so much after its time and still be shown then: some containers count in milliseconds."""
SLACK = 2
"""Pictures that may be missing at the end, where a container miscounts; the last one is shown for so much longer."""
UNSPECIFIED = 2
"""ITU-T H.273: a matrix that is not told."""
HD_LINES = 720
"""From this height on, colours without a tag are BT.709."""


class CaptionText(Protocol):
    """What a model makes of captions (`text.StoryText`)."""

    def doubt(self, caption: str) -> str | None:
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
    problems: tuple[Problem, ...]
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

    def notes(self, folder: Path, found_later: Sequence[Problem] = ()) -> Iterator[str]:
        """What the user should know, a line each."""
        problems, bad = (*self.problems, *found_later), {problem.path for problem in found_later}
        good = [video for video in self.videos if video.path not in bad]
        yield f"{_counted(len(good), 'video')}, {_counted(sum(len(video.clips) for video in good), 'clip')}"
        if problems:
            listed = f"left out and listed in {folder / DAMAGED_FILE}"
            yield f"{_counted(len(problems), 'video')} {listed}: {_first_few(problems)}"
        if self.unknown_words:
            most = sorted(self.unknown_words.items(), key=lambda item: (-item[1], item[0]))
            shown = ", ".join(f"{word} ({count})" for word, count in most[:8])
            more = f" and {len(most) - 8} more" if len(most) > 8 else ""
            yield f"words of captions that the model does not know: {shown}{more}; data.words makes them known"

    def check(self, found_later: Sequence[Problem] = ()) -> None:
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
        doubts = {video.path: next(filter(None, map(text.doubt, video.captions)), None) for video in found}
        problems += [Problem(str(path), doubt, of_caption=True) for path, doubt in doubts.items() if doubt]
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
            problems.append(Problem(str(video.path), str(error).removeprefix(f"{video.path}: ")))
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


def write_damaged(folder: Path, plan: VideoPlan, found_later: Sequence[Problem] = ()) -> None:
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
    """The clips that begin at `starts`, each uint8 RGB [frames, H, W, 3]. Raises MediaError where the video breaks."""
    clip: list[np.ndarray] = []
    with open_video(Path(video.path)) as (_, container, stream):
        stream.thread_type = "AUTO"
        aspect = pixel_aspect(stream)
        shown = enumerate(shown_frames(container, stream, fps=fps))
        for start in video.starts:
            for number, frame in shown:
                if number >= start:
                    clip.append(crop(frame, video.size, aspect=aspect))
                if len(clip) == frames:
                    break
            else:
                missing = frames - len(clip)
                if missing <= SLACK and clip:
                    clip += clip[-1:] * missing
            if len(clip) < frames:
                raise MediaError(f"{video.path}: ends within the clip that begins at {float(start / fps):.2f} s")
            yield np.stack(clip)
            clip.clear()


def shown_frames(container: InputContainer, stream: VideoStream, *, fps: Fraction) -> Iterator[VideoFrame]:
    """The frame that is seen at each tick of `fps` a second, from the first frame to the end of the last."""
    shown, begin, end, tick = None, 0.0, 0.0, 0
    usual = float(1 / stream.average_rate) if stream.average_rate else 0.0
    untimed = container.format.name == "avi"  # it keeps a rate, and FFmpeg's guesses at its times stumble
    for count, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise MediaError(f"{container.name}: is damaged at frame {count}")
        time = count * usual if untimed or frame.pts is None else frame.time
        begin = time if shown is None else begin
        while shown is not None and tick / fps < time - begin - LATE_S:
            yield shown
            tick += 1
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
        shown, end = frame, time - begin + lasts
    while shown is not None and tick / fps < end - LATE_S:
        yield shown
        tick += 1


def crop(frame: VideoFrame, size: Size, *, aspect: float) -> np.ndarray:
    """A frame as it is meant to be seen, scaled to cover a size and cropped around its middle: uint8 RGB [H, W, 3].

    aspect: width of a stored pixel over its height.
    """
    width, height = size[::-1] if frame.rotation % 180 else size
    scale = max(width / (frame.width * aspect), height / frame.height)
    wide, tall = max(width, round(frame.width * aspect * scale)), max(height, round(frame.height * scale))
    kind = Interpolation.AREA if wide <= frame.width and tall <= frame.height else Interpolation.BICUBIC
    untagged_hd = frame.colorspace == UNSPECIFIED and frame.height >= HD_LINES
    scaled = frame.reformat(
        width=wide,
        height=tall,
        format="rgb24",
        interpolation=kind | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND,
        src_colorspace=Colorspace.ITU709 if untagged_hd else None,
    ).to_ndarray()  # [tall, wide, 3]
    top, left = (tall - height) // 2, (wide - width) // 2
    return np.rot90(scaled[top : top + height, left : left + width], frame.rotation // 90)


def pixel_aspect(stream: VideoStream) -> float:
    """Width of a stored pixel over its height; most videos do not say, and mean 1."""
    return float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)


def _plan_video(video: Captioned, sizes: Sequence[Size], *, frames: int, fps: Fraction, most: int) -> PlannedVideo:
    """Where to cut a video: its first clip begins with it, others follow at even distances, none over another."""
    info = read_info(video.path)
    seconds = max(info.duration_s, float(info.frames / info.fps) if info.fps else 0.0)
    pictures = math.floor((seconds + LATE_S) * fps)
    count = pictures // frames
    if not count:
        raise MediaError(f"is too short: {seconds:.2f} s, and a clip takes {float(frames / fps):.2f} s")
    count = min(count, most) if most else count
    with open_video(video.path) as (_, container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise MediaError("holds no whole frame")
        shape = first.width * pixel_aspect(stream) / first.height
    shape = 1 / shape if first.rotation % 180 else shape
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
    return from_json(VideoPlan, path.read_text(encoding="utf-8"), where=str(path), error=ModelError)


def _fingerprint(found: Sequence[Captioned], problems: Sequence[Problem], *settings: object) -> str:
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


def _first_few(problems: Sequence[Problem]) -> str:
    shown = ", ".join(f"{problem.path} ({problem.reason})" for problem in problems[:NAMED])
    return f"{shown} and {len(problems) - NAMED} more" if len(problems) > NAMED else shown


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
