"""The finished file of a clip and new pictures: what `publish()` calls to make it, in constant memory."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream

from causvid_cli.errors import MediaError
from causvid_cli.media.probe import Chapter, open_video, read_info
from causvid_cli.media.recipe import RECIPE_KEY
from causvid_cli.media.sound import Soundtrack
from causvid_cli.media.view import damage_noted, decoded, deinterlace, flattened
from causvid_cli.video.join.audio import add_tracks, choose_tracks, keep_marks, other_packets, shift
from causvid_cli.video.join.h264 import ParameterSets, parse_header, units, with_lengths
from causvid_cli.video.join.mp4 import mux, write_mp4
from causvid_cli.video.join.plan_join import JoinPlan, make_stamp, open_source
from causvid_cli.video.sound import add_soundtrack, due_s

if TYPE_CHECKING:
    from av.container.core import Chapter as Mark

CRF = 16
"""x264's quality for pictures that are encoded anew: 43 dB and more to the source."""
PRESET = "fast"
THREADS = 4
"""A fixed number, so that equal pictures give equal bytes on every machine."""
FINEST = 1_000_000
"""Ticks per second of a track, at most."""
_OF_THE_CONTAINER = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", RECIPE_KEY})


class ExactJoin:
    """The source's own packets, then those of the `.part`, in one H.264 track; its sound, or another, beside them.

    Both have parameter sets with numbers of their own, all in the track's header (`avc1`); the new key frames carry
    theirs once more, for decoders that take but the first set of a header.
    """

    def __init__(self, plan: JoinPlan, soundtrack: Soundtrack | None = None) -> None:
        assert plan.exact, plan.reason
        self._plan, self._soundtrack = plan, soundtrack
        self.frames_before = plan.frames
        """Pictures of the finished file before the first new one."""

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        """Write the finished file. Raises MediaError for the source, OSError or OutputError for the target."""
        plan = self._plan
        assert plan.sets is not None
        with (
            write_mp4(target) as output,
            plan.open_source() as (container, source),
            plan.open_source() as (others, _),
            _open_part(part) as new,
        ):
            base = common_base(source.time_base or Fraction(1, FINEST), new.step)
            stream = output.add_stream_from_template(source, opaque=True, time_base=base)
            stream.codec_context.extradata = plan.sets.add(new.sets).header()
            keep_marks(source, stream)
            beside = _beside(output, others, plan, self._soundtrack, end=plan.end + new.frames * new.step)
            _describe(output, container, plan, new, metadata, chapters)
            pictures = _reading(plan.source, _source_packets(plan, container, source, stream))
            tail = _reading(part, new.packets(stream, base, plan.end))
            mux(output, heapq.merge(chain(pictures, tail), *beside, key=due_s))


class ReencodeJoin:
    """The source's pictures encoded anew at a high quality, then the packets of the `.part`; sound as in ExactJoin."""

    def __init__(self, plan: JoinPlan, soundtrack: Soundtrack | None = None) -> None:
        self._plan, self._soundtrack = plan, soundtrack
        self.frames_before = plan.frames
        """Pictures of the finished file before the first new one; as many as could be decoded, once it is called."""

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        """Write the finished file. Raises MediaError for the source, OSError or OutputError for the target."""
        plan = self._plan
        with (
            write_mp4(target) as output,
            plan.open_source() as (container, source),
            plan.open_source() as (others, _),
            _open_part(part) as new,
        ):
            base = common_base(source.time_base or Fraction(1, FINEST), new.step)
            encoder = _SourceEncoder(plan, base, source.average_rate)
            stream = output.add_stream_from_template(new.stream, opaque=True, time_base=base)
            stream.codec_context.extradata = encoder.sets.add(new.sets).header()
            stream.set_display_matrix(plan.display_matrix)
            keep_marks(source, stream)
            beside = _beside(output, others, plan, self._soundtrack, end=plan.end + new.frames * new.step)
            _describe(output, container, plan, new, metadata, chapters)
            pictures = _reading(plan.source, encoder.packets(container, source, stream))
            tail = _reading(part, _later(lambda: new.packets(stream, base, max(plan.end, encoder.end))))
            mux(output, heapq.merge(chain(pictures, tail), *beside, key=due_s))
            self.frames_before = encoder.frames


class WithSound:
    """The pictures of the `.part` with the sound of the source, which stops when they do.

    Raises MediaError when the source cannot be read. notes: what of its sound is changed.
    """

    frames_before = 0

    def __init__(self, source: Path, *, tolerate_damage: bool = False) -> None:
        self._source, self._tolerate_damage = source, tolerate_damage
        with open_video(source) as (file, container, video):
            self._stamp = make_stamp(file)
            self._tracks, notes = choose_tracks(
                source, container, video, sound_only=True, tolerate_damage=tolerate_damage
            )
            self._start = Fraction(video.start_time or 0) * (video.time_base or 1)
        self.notes = tuple(f"{source}: {note}" for note in notes)

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        """Write the finished file. Raises MediaError for the source, OSError or OutputError for the target."""
        with (
            write_mp4(target) as output,
            open_source(self._source, self._stamp) as (container, _),
            _open_part(part) as new,
        ):
            stream = output.add_stream_from_template(new.stream, opaque=True)
            converts = add_tracks(output, container, self._tracks)
            output.metadata.update(metadata)
            output.set_chapters(new.chapters(chapters, Fraction(0)))
            pictures = _reading(part, new.plain_packets(stream))
            sound = other_packets(container, converts, start=self._start, end=new.frames * new.step)
            mux(output, heapq.merge(pictures, _reading(self._source, sound, self._tolerate_damage), key=due_s))


def _beside(
    output: OutputContainer, source: InputContainer, plan: JoinPlan, soundtrack: Soundtrack | None, *, end: Fraction
) -> list[Iterator[av.Packet]]:
    """Add the tracks beside the frames, and return their packets; sound goes on to `end`, in seconds."""
    converts = add_tracks(output, source, plan.tracks, end=plan.start + end)
    beside = [_reading(plan.source, other_packets(source, converts, start=plan.start), plan.tolerate_damage)]
    return [*beside, add_soundtrack(output, soundtrack, end=end)] if soundtrack else beside


@dataclass(frozen=True, slots=True)
class _Part:
    """The new pictures: constant rate, in order, lengths of 4 bytes. step: time of one, in seconds."""

    container: InputContainer
    stream: VideoStream
    sets: ParameterSets
    step: Fraction
    frames: int

    def packets(self, stream: VideoStream, base: Fraction, begin: Fraction) -> Iterator[av.Packet]:
        """Its packets from `begin` (seconds) on, in another track; key frames bring their parameter sets."""
        for number, packet in enumerate(self._whole()):
            data = bytes(packet)
            moved = av.Packet(self.sets.in_band() + data if packet.is_keyframe else data)
            moved.stream, moved.time_base, moved.is_keyframe = stream, base, packet.is_keyframe
            moved.pts = moved.dts = round((begin + number * self.step) / base)
            moved.duration = round((begin + (number + 1) * self.step) / base) - moved.pts
            yield moved

    def plain_packets(self, stream: VideoStream) -> Iterator[av.Packet]:
        """Its packets as they are."""
        for packet in self._whole():
            packet.stream = stream
            yield packet

    def chapters(self, chapters: Sequence[Chapter], begin: Fraction, *, first_id: int = 0) -> "list[Mark]":
        """The titles as PyAV takes them; those beyond the last picture are left out."""
        kept = [chapter for chapter in chapters if chapter.start_frame < self.frames]
        starts = [begin + chapter.start_frame * self.step for chapter in kept]
        ends = [*starts[1:], begin + self.frames * self.step]
        return [
            _chapter(index, start, end, {"title": chapter.title})
            for index, (chapter, start, end) in enumerate(zip(kept, starts, ends, strict=False), first_id)
        ]

    def _whole(self) -> Iterator[av.Packet]:
        return (packet for packet in self.container.demux(self.stream) if packet.size and not packet.is_corrupt)


class _SourceEncoder:
    """The pictures of a source as H.264 packets, each at its own time, in the colours and the place it had."""

    def __init__(self, plan: JoinPlan, base: Fraction, rate: Fraction | None) -> None:
        self.frames = 0
        self.end = Fraction(0)
        """When the last picture begins, and a tick; in seconds."""
        self._plan, self._base, self._last = plan, base, -1
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, VideoCodecContext)
        tail = plan.tail
        encoder.width, encoder.height, encoder.pix_fmt = tail.width, tail.height, "yuv420p"
        encoder.time_base, encoder.framerate = base, rate or Fraction(25)
        encoder.sample_aspect_ratio = tail.sample_aspect_ratio
        encoder.color_primaries, encoder.color_trc = tail.primaries, tail.transfer
        encoder.colorspace, encoder.color_range = tail.tagged_matrix, tail.tagged_range
        encoder.options = {"preset": PRESET, "crf": str(CRF), "x264-params": "sps-id=0"}
        encoder.thread_count = THREADS
        encoder.flags |= Flags.global_header
        encoder.open()
        self._encoder = encoder
        self.sets = parse_header(encoder.extradata or b"")

    def packets(self, container: InputContainer, source: VideoStream, stream: VideoStream) -> Iterator[av.Packet]:
        for frame in self._frames(container, source):
            yield from self._encode(self._prepared(frame), stream)
        yield from self._encode(None, stream)
        if not self.frames:
            raise MediaError(f"{self._plan.source}: holds no picture that can be decoded")

    def _frames(self, container: InputContainer, source: VideoStream) -> Iterator[av.VideoFrame]:
        source.thread_type = "AUTO"
        damaged = damage_noted(str(self._plan.source), [], tolerate=self._plan.tolerate_damage)
        frames = decoded(container, source, damaged, strict=False)
        return deinterlace(frames) if self._plan.interlaced else frames

    def _prepared(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A picture as the encoder takes it, at its time; one without a time follows the one before."""
        tail, seconds = self._plan.tail, None
        if frame.pts is not None and frame.time_base:
            seconds = frame.pts * frame.time_base - self._plan.start
        step = max(1, round(1 / (self._encoder.framerate * self._base)))
        ticks = self._last + step if seconds is None else round(seconds / self._base)
        frame = flattened(frame)
        if (frame.format.name, frame.width, frame.height) != ("yuv420p", tail.width, tail.height):
            frame = frame.reformat(
                width=tail.width,
                height=tail.height,
                format="yuv420p",
                dst_colorspace=tail.matrix if frame.format.is_rgb else None,
                dst_color_range=2 if tail.full_range else 1,
            )
        frame.pict_type = PictureType.NONE  # else x264 would repeat the source's key frames
        frame.pts, frame.time_base = max(ticks, self._last + 1), self._base
        self._last = frame.pts
        self.frames += 1
        self.end = (self._last + 1) * self._base
        return frame

    def _encode(self, frame: av.VideoFrame | None, stream: VideoStream) -> Iterator[av.Packet]:
        for packet in self._encoder.encode(frame):
            moved = av.Packet(with_lengths(units(bytes(packet), 0)))
            moved.stream, moved.time_base, moved.is_keyframe = stream, self._base, packet.is_keyframe
            moved.pts, moved.dts, moved.duration = packet.pts, packet.dts, packet.duration
            yield moved


def common_base(source: Fraction, step: Fraction) -> Fraction:
    """The tick of a track that counts the source's times, and where it can, pictures of `step` seconds, exactly."""
    ticks = lcm(source.denominator, step.denominator)
    return Fraction(1, ticks) if ticks <= max(FINEST, source.denominator) else Fraction(1, source.denominator)


@contextmanager
def _open_part(part: Path) -> Iterator[_Part]:
    info = read_info(part)
    with open_video(part) as (_, container, stream):
        sets = parse_header(stream.codec_context.extradata or b"")
        yield _Part(container, stream, sets, 1 / info.fps, info.frames)


def _source_packets(
    plan: JoinPlan, container: InputContainer, source: VideoStream, stream: VideoStream
) -> Iterator[av.Packet]:
    """The source's packets, their bytes unchanged where MP4 can hold them; all that the plan counted."""
    assert plan.sets is not None
    whole = (packet for packet in container.demux(source) if packet.size and not packet.is_corrupt)
    number = 0
    for number, packet in enumerate(islice(whole, plan.frames), 1):
        if plan.decode_times is not None:
            packet.dts = plan.decode_times[number - 1]
        yield shift(_with_long_lengths(packet, plan.sets.length_size, stream), -plan.start)
    if number != plan.frames:
        raise MediaError(f"{plan.source}: holds {number} frames, and held {plan.frames} before; put the old one back")


def _with_long_lengths(packet: av.Packet, length_size: int, stream: VideoStream) -> av.Packet:
    """A packet in our track, whose NAL units have lengths of 4 bytes."""
    if length_size == 4:
        packet.stream = stream
        return packet
    moved = av.Packet(with_lengths(units(bytes(packet), length_size)))
    moved.stream, moved.time_base, moved.is_keyframe = stream, packet.time_base, packet.is_keyframe
    moved.pts, moved.dts, moved.duration = packet.pts, packet.dts, packet.duration
    return moved


def _describe(
    output: OutputContainer,
    container: InputContainer,
    plan: JoinPlan,
    new: _Part,
    metadata: Mapping[str, str],
    chapters: Sequence[Chapter],
) -> None:
    """The source's tags and chapters, and ours."""
    output.metadata.update(join_metadata(container.metadata, metadata))
    old = _chapters(container, plan, or_one=bool(chapters))
    output.set_chapters(old + new.chapters(chapters, plan.end, first_id=len(old)))


def _chapters(container: InputContainer, plan: JoinPlan, *, or_one: bool) -> "list[Mark]":
    """The source's chapters. or_one: where none begins with the video, as MP4's first does, one that has its name."""
    kept = [
        (entry["start"] * entry["time_base"] - plan.start, entry["end"] * entry["time_base"] - plan.start, entry)
        for entry in container.chapters()
        if entry["time_base"] is not None
    ]
    marks = [(start, end, entry["metadata"]) for start, end, entry in kept]
    if or_one and (not marks or marks[0][0] > 0):
        title = container.metadata.get("title") or plan.source.stem
        marks.insert(0, (Fraction(0), marks[0][0] if marks else plan.end, {"title": title}))
    return [_chapter(index, *mark) for index, mark in enumerate(marks)]


def join_metadata(source: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The tags of both: the source's own come first, but what causvid wrote into it told how that was made."""
    dropped = _OF_THE_CONTAINER | ({"comment"} if RECIPE_KEY in source else set())
    return {**ours, **{key: value for key, value in source.items() if key.lower() not in dropped}}


def _chapter(index: int, start: Fraction, end: Fraction, metadata: Mapping[str, str]) -> "Mark":
    tick = Fraction(1, FINEST)
    return {
        "id": index,
        "start": round(start / tick),
        "end": round(end / tick),
        "time_base": tick,
        "metadata": dict(metadata),
    }


def _reading(path: Path, packets: Iterable[av.Packet], tolerate_damage: bool = False) -> Iterator[av.Packet]:
    """Packets of a file; an error on the way names it, or where damage is tolerated is their end."""
    try:
        yield from packets
    except (av.error.FFmpegError, ValueError) as error:
        if not tolerate_damage:
            reason = getattr(error, "strerror", None) or str(error)
            raise MediaError(f"{path}: cannot be read as a video: {reason}") from error


def _later(make: Callable[[], Iterator[av.Packet]]) -> Iterator[av.Packet]:
    """Packets that are made when the first is asked for."""
    yield from make()
