"""What can be kept of a clip that new frames follow, and what those must be like; only the first frame is decoded."""

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.stream import VideoStream

from causvid_cli.errors import MediaError
from causvid_cli.media.probe import missing_frames, open_video
from causvid_cli.media.view import Damaged, damage_noted, decoded, reason_of
from causvid_cli.video.encode import BT601, BT709, FULL, H264, LIMITED, VP9, Encoding
from causvid_cli.video.join.audio import Track, choose_tracks
from causvid_cli.video.join.containers import MP4, JoinContainer
from causvid_cli.video.join.h264 import MOST_SETS, ParameterSets, parse_header, sets_among, units

UNSPECIFIED = 2
"""The code of H.273 for a colour that a video does not tell."""
_CONTAINERS = ("mov", "matroska", "mpegts", "flv")
"""The formats whose packets carry the time at which each frame is shown."""
_PROFILES = {66: "baseline", 77: "main", 88: "main"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What the new frames must be encoded with, to go on in the source's track.

    codec: "h264" or "vp9". width, height: as coded. The colours are H.273 codes (`UNSPECIFIED`: leave them out, and
    encode with `matrix`); full_range: 0..255 in place of 16..235. options: for the encoder.
    """

    codec: str
    width: int
    height: int
    primaries: int
    transfer: int
    tagged_matrix: int
    tagged_range: int
    """0 untold, else LIMITED or FULL."""
    sample_aspect_ratio: Fraction
    options: Mapping[str, str]

    @property
    def matrix(self) -> int:
        """From RGB: the one that the video tells, else the one that players take for its size."""
        if self.tagged_matrix != UNSPECIFIED:
            return self.tagged_matrix
        return BT709 if self.width >= 1280 or self.height > 576 else BT601

    @property
    def full_range(self) -> bool:
        return self.tagged_range == FULL

    @property
    def encoding(self) -> Encoding:
        """How the writer encodes the new frames."""
        base = H264 if self.codec == "h264" else VP9
        return Encoding(
            codec=base.codec,
            options=MappingProxyType({**base.options, **self.options}),
            primaries=self.primaries,
            transfer=self.transfer,
            matrix=self.matrix,
            tagged_matrix=self.tagged_matrix,
            range=FULL if self.full_range else LIMITED,
            tagged_range=self.tagged_range,
            sample_aspect_ratio=self.sample_aspect_ratio,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """How a clip goes on. exact: its frames can be kept as they are; else `reason` says why not."""

    source: Path
    container: JoinContainer
    """In which the finished file is written."""
    exact: bool
    reason: str
    notes: tuple[str, ...]
    """What is left out or changed, beside the frames."""
    tail: Tail
    frames: int
    """How many packets of frames are kept."""
    start: Fraction
    """Time that is taken off every packet, in seconds: MPEG-TS and its like count from anywhere."""
    end: Fraction
    """When the last frame has been shown for its time, in seconds; the first new one follows."""
    display_matrix: tuple[int, ...] | None
    """From coded to shown, as FFmpeg lays it out; None shows as coded."""
    interlaced: bool
    decode_times: Sequence[int] | None
    """Where the source tells none that can be used, in ticks of its track."""
    sets: ParameterSets | None
    tracks: tuple[Track, ...]
    stamp: tuple[int, ...]
    tolerate_damage: bool
    """Whether what cannot be read of the source is left out; else it is an error."""

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the frames that `to_coded` takes."""
        sides = self.tail.width, self.tail.height
        return sides[::-1] if self.display_matrix and not self.display_matrix[0] else sides

    def to_coded(self, frames: np.ndarray) -> np.ndarray:
        """Return upright frames [T, H, W, 3] as the track stores them: [T, height, width, 3] of the tail."""
        if self.display_matrix is None:
            return frames
        a, b, _, c, d, *_ = self.display_matrix
        down, right = (b, c) if a == 0 else (d, a)  # along the shown frame's axes
        frames = frames[:, :: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
        return np.ascontiguousarray(frames.swapaxes(1, 2) if a == 0 else frames)

    @contextmanager
    def open_source(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Yield the source as it was when it was planned. Raises MediaError when it is gone or another."""
        with open_source(self.source, self.stamp) as opened:
            yield opened


def plan_join(
    source: Path, container: JoinContainer = MP4, *, keeps_sound: bool = True, tolerate_damage: bool = False
) -> JoinPlan:
    """Look at a clip from its first packet to its last, as it is to go on in `container`.

    keeps_sound: else another takes the place of its own.
    Raises MediaError when it cannot be read or, unless that is tolerated, is damaged or cut short.
    """
    damaged = damage_noted(str(source), [], tolerate=tolerate_damage)  # `open_clip` notes where
    first = _first_frame(source, damaged)
    with open_video(source) as (file, opened, stream):
        times = _read_packets(source, file, opened, stream, damaged)
        step = times.step or 1 / (stream.average_rate or Fraction(25))
        matrix = _display_matrix(first)
        obstacles = [*_obstacles(container, opened, stream, first, matrix), *times.obstacles(container)]
        start = Fraction(0) if "mov" in opened.format.name else Fraction(opened.start_time or 0, av.time_base)
        tracks, notes = choose_tracks(
            source,
            opened,
            stream,
            container,
            keeps_sound=keeps_sound,
            pads=True,
            tolerate_damage=tolerate_damage,
        )
        sets = None if obstacles else times.sets
        tail = _tail(stream, first, sets, _codec(stream, container))
        if (tail.width, tail.height) != (first.width, first.height):
            own, even = f"{first.width}x{first.height}", f"{tail.width}x{tail.height}"
            notes.append(f"its frames of {own} are scaled to {even}: H.264 needs even sides")
        return JoinPlan(
            source=source,
            container=container,
            exact=not obstacles,
            reason=f"{source}: {obstacles[0]}: its frames are encoded anew" if obstacles else "",
            notes=tuple(f"{source}: {note}" for note in notes),
            tail=tail,
            frames=times.frames,
            start=start,
            end=times.last + (times.last_duration or step) - start,
            display_matrix=matrix,
            interlaced=first.interlaced_frame,
            decode_times=times.decode_times(),
            sets=sets,
            tracks=tracks,
            stamp=make_stamp(file),
            tolerate_damage=tolerate_damage,
        )


def _codec(stream: VideoStream, container: JoinContainer) -> str:
    """Return the codec in which a clip goes on: its own, where the container can hold it and frames can be made so."""
    own = stream.codec_context.codec.canonical_name
    return own if own in container.video else container.video[0]


def make_stamp(file: BinaryIO) -> tuple[int, ...]:
    """Return what changes when a file is written to: its size and its date."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


@contextmanager
def open_source(source: Path, stamp: tuple[int, ...]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yield a video, if it still has this stamp. Raises MediaError when it is gone or another."""
    with open_video(source) as (file, container, stream):
        if make_stamp(file) != stamp:
            raise MediaError(f"{source}: was changed while the new frames were made; put it back as it was")
        yield container, stream


class _Packets:
    """What the packets of a track tell, gathered one by one."""

    def __init__(self, stream: VideoStream) -> None:
        assert stream.time_base is not None
        self._tick = stream.time_base
        self._shown, self._decoded = array("q"), array("q")
        self._ordered, self._untimed = True, False
        self._hidden, self._hides_between, self._hides_first = False, False, False
        self._last, self._last_duration = 0, 0
        self._begins_with_key = True
        self._count = 0
        self.frames = 0
        """Packets up to the last that is shown: what an edit list cuts off at the end need not be kept."""
        self.error = ""
        self.sets: ParameterSets | None = None
        if stream.codec_context.name == "h264":
            try:
                self.sets = parse_header(stream.codec_context.extradata or b"")
            except ValueError as error:
                self.error = str(error)

    def add(self, packet: av.Packet) -> None:
        if not self._count:
            self._begins_with_key = packet.is_keyframe
        self._count += 1
        if packet.is_discard:  # by an edit list; before time 0, MP4 hides it by itself
            self._hidden |= packet.pts is not None and packet.pts >= 0
            self._hides_first |= packet.pts is not None and packet.pts < 0
        else:
            self._hides_between |= self._hidden
            self.frames = self._count
        if packet.pts is None:
            self._untimed = True
            self._last, self._last_duration = packet.dts or self._last, packet.duration or 0
            return
        if not packet.is_discard and packet.pts >= self._last:
            self._last, self._last_duration = packet.pts, packet.duration or 0
        if packet.dts is None or (self._decoded and packet.dts <= self._decoded[-1]) or packet.dts > packet.pts:
            self._ordered = False
        else:
            self._decoded.append(packet.dts)
        self._shown.append(packet.pts)
        self._look_for_sets(packet)

    def _look_for_sets(self, packet: av.Packet) -> None:
        """Gather the sets that come with the frames, which take numbers too."""
        if self.sets is None or self.error:
            return
        try:
            inside = sets_among(units(bytes(packet), self.sets.length_size))
        except ValueError as error:
            self.error = str(error)
        else:
            self.sets = self.sets.add(inside) if inside.sps or inside.pps else self.sets

    @property
    def first(self) -> Fraction:
        return min(self._shown, default=0) * self._tick

    @property
    def last(self) -> Fraction:
        return self._last * self._tick

    @property
    def last_duration(self) -> Fraction:
        return self._last_duration * self._tick

    @property
    def step(self) -> Fraction:
        """The mean time from frame to frame; 0 for a single one."""
        return (self.last - self.first) / max(1, self.frames - 1)

    def obstacles(self, container: JoinContainer) -> Iterator[str]:
        """Yield what keeps the packets from being copied."""
        if self.error:
            yield self.error
        if self._untimed or len(set(self._shown)) < len(self._shown):
            yield "its packets do not tell when each frame is shown"
        if self._hides_between:
            yield "its edit list hides frames between others"
        if self._hides_first and not container.hides_first_frames:
            yield f"its edit list hides frames at its start, which {container.name} cannot do"
        if not self._begins_with_key:
            yield "it does not begin with a key frame"
        if self.sets and (len(self.sets.sps) >= MOST_SETS or not _free_ids(self.sets)):
            yield f"it was extended {MOST_SETS - 1} times, and no more parameter sets fit"

    def decode_times(self) -> Sequence[int] | None:
        """Return the latest times of decoding that keep the order; None where the packets' own do."""
        if self._ordered or self._untimed:
            return None
        kept = self._shown[: self.frames]
        ordered = sorted(kept)
        delay = max(early - shown for early, shown in zip(ordered, kept, strict=True))
        return array("q", (early - delay for early in ordered))


def _read_packets(
    source: Path, file: BinaryIO, container: InputContainer, stream: VideoStream, damaged: Damaged
) -> _Packets:
    packets = _Packets(stream)
    if missing := missing_frames(file, stream):
        damaged(stream.frames - missing, f"cut short: {missing} of its {stream.frames} frames are missing")
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_corrupt:
                packets.add(packet)
    except av.error.FFmpegError as error:
        damaged(packets.frames, reason_of(error))
    if not packets.frames:
        raise MediaError(f"{source}: holds no whole frame")
    return packets


def _first_frame(source: Path, damaged: Damaged) -> av.VideoFrame:
    with open_video(source) as (_, container, stream):
        for frame in decoded(container, stream, damaged, strict=False):
            return frame
    raise MediaError(f"{source}: holds no frame that can be decoded")


def _display_matrix(first: av.VideoFrame) -> tuple[int, ...] | None:
    """Return how the frame is turned to be shown; None for upright ones."""
    every: Any = first.side_data  # a mapping by type; PyAV's stubs take it for a TypedDict
    found = every.get(Type.DISPLAYMATRIX)
    matrix = None if found is None else tuple(np.frombuffer(bytes(found), np.int32).tolist())
    return None if matrix is None or matrix[:2] + matrix[3:5] == (65536, 0, 0, 65536) else matrix


def _obstacles(
    container: JoinContainer,
    opened: InputContainer,
    stream: VideoStream,
    first: av.VideoFrame,
    matrix: tuple[int, ...] | None,
) -> Iterator[str]:
    """Yield what of the track cannot go on in ours, the weightiest first."""
    own, codec = stream.codec_context.codec.canonical_name, _codec(stream, container)
    if own != codec:
        names = {"h264": "H.264", "vp9": "VP9"}
        yield f"{names.get(own, own.upper())} and the new frames' {names[codec]} cannot share a track"
    elif first.format.name not in ("yuv420p", "yuvj420p"):
        yield f"{first.format.name} cannot go on as yuv420p"
    if first.interlaced_frame:
        yield "it is interlaced, and the new frames are not"
    if not any(name in opened.format.name for name in _CONTAINERS):
        yield f"the packets of {opened.format.name} do not tell when each frame is shown"
    if matrix and not (matrix[0] == matrix[4] == 0 or matrix[1] == matrix[3] == 0):
        yield "it is turned by something else than 90 degrees"


def _tail(stream: VideoStream, first: av.VideoFrame, sets: ParameterSets | None, codec: str) -> Tail:
    width, height, options = first.width, first.height, {}
    if codec == "h264":
        width, height = width - width % 2, height - height % 2
        options["x264-params"] = f"sps-id={1 if sets is None else min(_free_ids(sets))}"
    if sets and sets.profile in _PROFILES:
        options["profile"] = _PROFILES[sets.profile]
    full = first.format.name.startswith("yuvj")
    return Tail(
        codec=codec,
        width=width,
        height=height,
        primaries=int(first.color_primaries),
        transfer=int(first.color_trc),
        tagged_matrix=int(first.colorspace) or UNSPECIFIED,  # 0 is RGB, which no tail of ours is
        tagged_range=FULL if full else int(first.color_range),
        sample_aspect_ratio=stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1),
        options=MappingProxyType(options),
    )


def _free_ids(sets: ParameterSets) -> set[int]:
    """Return the numbers for the tail's parameter sets that no set of the source has."""
    return set(range(32)) - sets.ids
