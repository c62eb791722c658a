"""A video file -> frames at a constant rate, upright, with square pixels, in true colours.

    clip = open_clip(path)              facts first; nothing stays open
    clip.frames(Fraction(16))           all of it, frame by frame
    clip.tail(2, Fraction(16))          the last two seconds, [T, H, W, 3]

No more than a few frames are held: a clip may last a day.
"""

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from causvid_cli.errors import MediaError
from causvid_cli.media.probe import missing_frames, open_video, transfer_name
from causvid_cli.media.streams import LiveClip as LiveClip
from causvid_cli.media.streams import RawFormat as RawFormat
from causvid_cli.media.streams import open_stream as open_stream  # a clip that arrives through a pipe
from causvid_cli.media.view import (
    LATE_S,
    REMEDY,
    USUAL_FPS,
    Damaged,
    Timed,
    View,
    check_frame_size,
    damage_noted,
    decoded,
    deinterlace,
    reason_of,
    resample,
    rgb_frames,
    view_of,
)
from causvid_cli.timecode import LONGEST_S

Shape = Callable[[np.ndarray], np.ndarray]

_SHORT_S = Fraction(1, 2)  # a Matroska file may end so much before the length in its header


@dataclass(slots=True, kw_only=True)
class Clip:
    """A video file: what it holds, and its frames.

    width, height: upright, with square pixels. fps: exact where the rate is constant, else the average (`variable`).
    frame_count: of its packets. rotation: degrees clockwise. pixel_aspect: width of a stored pixel over its height.
    notes: what is done to its frames, as parts of a sentence; damage that is tolerated is added as it is met.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    variable: bool
    frame_count: int
    duration_s: Fraction
    pixel_format: str
    bit_depth: int
    transfer: str
    rotation: int
    pixel_aspect: Fraction
    has_sound: bool
    notes: list[str]
    view: View = field(repr=False)
    times: "_Times" = field(repr=False)
    damaged: Damaged = field(repr=False)
    tolerate_damage: bool = False

    def frames(self, fps: Fraction, *, start_s: Fraction | float = 0) -> Iterator[np.ndarray]:
        """Yield what is seen at each tick of `fps` a second from `start_s` to the end: uint8 RGB [H, W, 3], read-only.

        Raises MediaError where the file is damaged, unless that is tolerated.
        """
        start = Fraction(start_s)
        return rgb_frames(resample(self._timed(start), fps=fps, start=start), self.view)

    def tail(self, seconds: Fraction | float, fps: Fraction, *, shape: Shape | None = None) -> np.ndarray:
        """Return the last frames at `fps` a second: uint8 RGB [T, H, W, 3], T as many as `seconds` hold, or the clip.

        The last is the clip's last, and the ones before lie on ticks counted back from there, so that a frame made
        for the next tick follows on. shape: done to each frame on the way, such as scaling, to save memory.
        """
        step = 1 / fps
        last = max(self.times.last_s, self.duration_s - step)
        count = min(max(1, round(Fraction(seconds) * fps)), math.floor((last + LATE_S) * fps) + 1)
        start = max(Fraction(0), last - (count - 1) * step)
        shown = rgb_frames(resample(self._timed(start), fps=fps, start=start), self.view)
        found = deque((shape(frame) if shape else frame for frame in islice(shown, count)), maxlen=count)
        if not found and self.tolerate_damage:  # its end is lost: what comes last of the rest
            found.extend(shape(frame) if shape else frame for frame in self.frames(fps))
        if not found:
            raise MediaError(f"{self.path}: its last {float(seconds):g} s cannot be read")
        return np.stack([*found, *[found[-1]] * (count - len(found))])

    def read_through(self, *, end_s: Fraction | None = None) -> None:
        """Decode that much of the clip once, so that damage is met now: noted where tolerated, else MediaError."""
        for begin, _, _ in self._timed(Fraction(0)):
            if end_s is not None and begin >= end_s:
                return

    def _timed(self, start: Fraction) -> Iterator[Timed]:
        """Yield (when it comes, how long it lasts, frame), from the frame that is seen at `start` on, or before."""
        begin = self.times.before(start - (2 / self.fps if self.view.interlaced else 0))
        frames = self._decoded(begin)
        first = next(frames, None)
        if begin is not None and (first is None or self.times.of(first, 0)[0] > start + LATE_S):
            frames = self._decoded(None)  # a key frame that is none, or an index that lies
            first = next(frames, None)
        if first is None:
            return
        whole = chain([first], frames)
        for number, frame in enumerate(deinterlace(whole) if self.view.interlaced else whole):
            yield *self.times.of(frame, number), frame

    def _decoded(self, start_pts: int | None) -> Iterator[VideoFrame]:
        """Yield frames from the key frame at `start_pts` on, or all."""
        number = 0 if start_pts is None else self.times.number(start_pts)
        with open_video(self.path) as (_, container, stream):
            stream.thread_type = "AUTO"
            if start_pts is not None:
                container.seek(start_pts, stream=stream)
            strict = not self.tolerate_damage
            yield from decoded(container, stream, self.damaged, strict=strict, number=number, first_pts=start_pts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """When each frame of a file comes. pts: int64, sorted; keys: those of key frames, sorted.

    counted: times are the frame's number over the rate, for files that keep none (AVI).
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base: Fraction
    last_lasts: Fraction
    fps: Fraction
    variable: bool
    counted: bool

    @property
    def last_s(self) -> Fraction:
        """When the last frame comes."""
        if self.counted:
            return (len(self.pts) - 1) / self.fps
        return int(self.pts[-1] - self.pts[0]) * self.time_base

    @property
    def duration_s(self) -> Fraction:
        return self.last_s + self.last_lasts

    def before(self, start: Fraction) -> int | None:
        """Return the last key frame that comes before what is seen at `start`; None for the first frame of all."""
        if self.counted or start <= 0:
            return None
        wanted = int(self.pts[0]) + math.floor(start / self.time_base)
        shown = self.pts[max(0, int(np.searchsorted(self.pts, wanted, side="right")) - 1)]
        number = int(np.searchsorted(self.keys, shown, side="right")) - 1
        return int(self.keys[number]) if number > 0 else None

    def number(self, pts: int) -> int:
        """Return how many frames come before a time."""
        return int(np.searchsorted(self.pts, pts))

    def of(self, frame: VideoFrame, number: int) -> tuple[Fraction, Fraction]:
        """Return when a frame comes and how long it lasts; `number` counts from the first that was decoded."""
        usual = 1 / self.fps
        if self.counted or frame.pts is None or frame.time_base is None:
            return number / self.fps, usual
        begin = frame.pts * frame.time_base - int(self.pts[0]) * self.time_base
        if begin >= self.last_s:
            return begin, self.last_lasts
        return begin, frame.duration * frame.time_base if frame.duration else usual


def open_clip(
    path: Path,
    *,
    tolerate_damage: bool = False,
    remedy: str = REMEDY,
) -> Clip:
    """Look at a video file: its packets are counted and its first frame is decoded; nothing stays open.

    remedy: how the message about damage ends. Raises MediaError when it is missing, no video, too large, longer than a
    day, HDR, or (unless tolerated) cut short.
    """
    notes: list[str] = []
    damaged = damage_noted(str(path), notes, tolerate=tolerate_damage, remedy=remedy)
    with open_video(path) as (file, container, stream):
        check_frame_size(stream.codec_context.width, stream.codec_context.height, str(path))
        if missing := missing_frames(file, stream):
            damaged(stream.frames - missing, f"cut short: {missing} of its {stream.frames} frames are missing")
        times = _scan(container, stream, path, damaged)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        has_sound, transfer = bool(container.streams.audio), transfer_name(stream.codec_context.color_trc)
    with open_video(path) as (_, container, stream):
        first = next(decoded(container, stream, damaged, strict=not tolerate_damage), None)
        if first is None:
            raise MediaError(f"{path}: holds no whole frame")
        view = view_of(first, aspect=aspect, name=str(path), sdr_name=f"{path.stem}-sdr.mp4")
    if times.variable:
        notes.append(f"its frames come at an uneven rate, about {float(times.fps):.4g} a second")
    notes[:0] = view.notes
    return Clip(
        path=path,
        width=view.size[0],
        height=view.size[1],
        fps=times.fps,
        variable=times.variable,
        frame_count=len(times.pts),
        duration_s=times.duration_s,
        pixel_format=first.format.name,
        bit_depth=max(component.bits for component in first.format.components),
        transfer=transfer,
        rotation=view.rotation,
        pixel_aspect=aspect,
        has_sound=has_sound,
        notes=notes,
        view=view,
        times=times,
        damaged=damaged,
        tolerate_damage=tolerate_damage,
    )


def _scan(container: InputContainer, stream: VideoStream, path: Path, damaged: Damaged) -> _Times:
    """Return when each frame comes, by the packets; nothing is decoded."""
    pts, keys, last, lasts, end = array("q"), array("q"), None, 0, Fraction(0)
    untimed = container.format.name == "avi"  # it keeps a rate, and FFmpeg's guesses at its times stumble
    try:
        for packet in container.demux():
            if not packet.size or packet.is_corrupt or packet.is_discard:
                continue
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream_index != stream.index:
                continue
            untimed = untimed or packet.pts is None
            at = packet.pts or 0
            pts.append(at)
            if packet.is_keyframe:
                keys.append(at)
            if last is None or at >= last:
                last, lasts = at, packet.duration or 0
    except av.error.FFmpegError as error:
        damaged(len(pts), reason_of(error))
    if "matroska" in container.format.name and container.duration:  # has no table of its frames, only their length
        missing = Fraction(container.duration, av.time_base) - end
        if missing > _SHORT_S:
            damaged(len(pts), f"cut short: {float(missing):.3g} s are missing")
    if not pts or stream.time_base is None:
        raise MediaError(f"{path}: holds no whole frame")
    order = np.sort(np.frombuffer(pts, np.int64))
    untimed = untimed or (len(pts) > 1 and order[0] == order[-1])
    fps, variable = _rate(order, stream, untimed=untimed)
    times = _Times(
        pts=order,
        keys=np.sort(np.frombuffer(keys, np.int64)),
        time_base=stream.time_base,
        last_lasts=lasts * stream.time_base if lasts > 0 and not untimed else 1 / fps,
        fps=fps,
        variable=variable,
        counted=untimed,
    )
    if times.duration_s > LONGEST_S:
        raise MediaError(
            f"{path}: lasts {float(times.duration_s) / 3600:.4g} h by its own clock; cut it to 24 h or less"
        )
    return times


def _rate(pts: np.ndarray, stream: VideoStream, *, untimed: bool) -> tuple[Fraction, bool]:
    """Return (frames per second, whether that is only an average) for sorted times."""
    stated = [rate for rate in (stream.guessed_rate, stream.average_rate) if rate]
    if untimed or len(pts) == 1 or stream.time_base is None:
        return (stated or [USUAL_FPS])[0], False
    measured = Fraction(len(pts) - 1) / (int(pts[-1] - pts[0]) * stream.time_base)
    rounded = measured.limit_denominator(1001) or measured
    for rate in (*stated, rounded):
        even = pts[0] + np.arange(len(pts)) * float(1 / (rate * stream.time_base))
        if np.abs(pts - even).max() <= 1.01:  # both ends of a step are rounded to a tick
            return rate, False
    return rounded, True
