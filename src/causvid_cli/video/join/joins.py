"""What makes the finished file of a clip and new frames; `publish()` calls it. Memory does not grow with the length."""

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
from causvid_cli.video.encode import VP9
from causvid_cli.video.join.audio import add_tracks, choose_tracks, keep_marks, other_packets, shift
from causvid_cli.video.join.containers import MP4, JoinContainer, mux, write_container
from causvid_cli.video.join.h264 import ParameterSets, parse_header, units, with_lengths
from causvid_cli.video.join.plan_join import JoinPlan, make_stamp, open_source
from causvid_cli.video.sound import add_soundtrack, due_s

if TYPE_CHECKING:
    from av.container.core import Chapter as Mark

X264_OPTIONS = {"preset": "fast", "crf": "16", "x264-params": "sps-id=0"}
"""Of frames that are encoded anew: 43 dB and more to the source."""
THREADS = 4
"""A fixed number, so that equal frames give equal bytes on every machine."""
FINEST = 1_000_000
"""Ticks per second of a track, at most."""
_OF_THE_CONTAINER = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", RECIPE_KEY})


class Join:
    """Makes the finished file of a clip and new frames, with the clip's sound, or another, beside them.

    Where the plan is exact, the clip's own packets come before those of the `.part`; else its frames are encoded anew
    at a high quality. Both parts of an H.264 track have parameter sets with numbers of their own, all in the track's
    header (`avc1`); the new key frames carry theirs once more, for decoders that take but the first set of a header.
    """

    def __init__(self, plan: JoinPlan, soundtrack: Soundtrack | None = None) -> None:
        self._plan, self._soundtrack = plan, soundtrack
        self.frames_before = plan.frames
        """Frames of the finished file before the first new one; as many as could be decoded, once it is called."""

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        """Write the finished file. Raises MediaError for the source, OutputError for what its container cannot hold."""
        plan = self._plan
        with (
            write_container(target, plan.container) as output,
            plan.open_source() as (container, source),
            plan.open_source() as (others, _),
            _open_part(part) as new,
        ):
            base = common_base(source.time_base or Fraction(1, FINEST), new.step)
            old = _SourceCopier(plan) if plan.exact else _SourceEncoder(plan, base, source.average_rate)
            stream = output.add_stream_from_template(source if plan.exact else new.stream, opaque=True, time_base=base)
            if old.sets and new.sets:
                stream.codec_context.extradata = old.sets.add(new.sets).header()
            if not plan.exact:
                stream.set_display_matrix(plan.display_matrix)
            keep_marks(source, stream)
            beside = _beside(output, others, plan, self._soundtrack, end=plan.end + new.frames * new.step)
            output.metadata.update(join_metadata(container.metadata, metadata))
            marks = _chapters(container, plan, or_one=bool(chapters))
            output.set_chapters(marks + new.chapters(chapters, plan.end, first_id=len(marks)))
            frames = _reading(plan.source, old.packets(container, source, stream))
            added = _reading(part, _later(lambda: new.packets(stream, base, max(plan.end, old.end))))
            mux(output, heapq.merge(chain(frames, added), *beside, key=due_s))
            self.frames_before = old.frames


class WithSound:
    """Makes the finished file of the frames of the `.part` and the sound of the source, which stops when they do.

    notes: what of its sound is changed. Raises MediaError when the source cannot be read.
    """

    frames_before = 0

    def __init__(self, source: Path, container: JoinContainer = MP4, *, tolerate_damage: bool = False) -> None:
        self._source, self._container, self._tolerate_damage = source, container, tolerate_damage
        with open_video(source) as (file, opened, video):
            self._stamp = make_stamp(file)
            self._tracks, notes = choose_tracks(
                source, opened, video, container, sound_only=True, tolerate_damage=tolerate_damage
            )
            self._start = Fraction(video.start_time or 0) * (video.time_base or 1)
        self.notes = tuple(f"{source}: {note}" for note in notes)

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        """Write the finished file. Raises MediaError for the source, OutputError for what its container cannot hold."""
        with (
            write_container(target, self._container) as output,
            open_source(self._source, self._stamp) as (container, _),
            _open_part(part) as new,
        ):
            stream = output.add_stream_from_template(new.stream, opaque=True)
            converts = add_tracks(output, container, self._tracks)
            output.metadata.update(metadata)
            output.set_chapters(new.chapters(chapters, Fraction(0)))
            frames = _reading(part, new.plain_packets(stream))
            sound = other_packets(container, converts, start=self._start, end=new.frames * new.step)
            mux(output, heapq.merge(frames, _reading(self._source, sound, self._tolerate_damage), key=due_s))


def _beside(
    output: OutputContainer, source: InputContainer, plan: JoinPlan, soundtrack: Soundtrack | None, *, end: Fraction
) -> list[Iterator[av.Packet]]:
    """Add the tracks beside the frames, and return their packets; sound goes on to `end`, in seconds."""
    converts = add_tracks(output, source, plan.tracks, end=plan.start + end)
    beside = [_reading(plan.source, other_packets(source, converts, start=plan.start), plan.tolerate_damage)]
    if soundtrack:
        beside.append(add_soundtrack(output, soundtrack, end=end, codec=plan.container.audio_encoder))
    return beside


@dataclass(frozen=True, slots=True)
class _NewFrames:
    """The frames of a `.part`: at a constant rate, in order; of H.264 with lengths of 4 bytes.

    sets: None for another codec. step: how long a frame is shown, in seconds.
    """

    container: InputContainer
    stream: VideoStream
    sets: ParameterSets | None
    step: Fraction
    frames: int

    def packets(self, stream: VideoStream, base: Fraction, begin: Fraction) -> Iterator[av.Packet]:
        """Yield the packets, from `begin` (seconds) on, in another track; key frames bring their parameter sets."""
        in_band = self.sets.in_band() if self.sets else b""
        for number, packet in enumerate(self._whole()):
            moved = av.Packet(in_band + bytes(packet) if packet.is_keyframe else bytes(packet))
            moved.stream, moved.time_base, moved.is_keyframe = stream, base, packet.is_keyframe
            moved.pts = moved.dts = round((begin + number * self.step) / base)
            moved.duration = round((begin + (number + 1) * self.step) / base) - moved.pts
            yield moved

    def plain_packets(self, stream: VideoStream) -> Iterator[av.Packet]:
        """Yield the packets as they are."""
        for packet in self._whole():
            packet.stream = stream
            yield packet

    def chapters(self, chapters: Sequence[Chapter], begin: Fraction, *, first_id: int = 0) -> "list[Mark]":
        """Return the titles as PyAV takes them; those beyond the last frame are left out."""
        kept = [chapter for chapter in chapters if chapter.start_frame < self.frames]
        starts = [begin + chapter.start_frame * self.step for chapter in kept]
        ends = [*starts[1:], begin + self.frames * self.step]
        return [
            _chapter(index, start, end, {"title": chapter.title})
            for index, (chapter, start, end) in enumerate(zip(kept, starts, ends, strict=False), first_id)
        ]

    def _whole(self) -> Iterator[av.Packet]:
        return (packet for packet in self.container.demux(self.stream) if packet.size and not packet.is_corrupt)


class _SourceCopier:
    """The source's packets, their bytes unchanged where the track can hold them: all that the plan counted."""

    end = Fraction(0)

    def __init__(self, plan: JoinPlan) -> None:
        self._plan, self.sets, self.frames = plan, plan.sets, plan.frames

    def packets(self, container: InputContainer, source: VideoStream, stream: VideoStream) -> Iterator[av.Packet]:
        plan, number = self._plan, 0
        whole = (packet for packet in container.demux(source) if packet.size and not packet.is_corrupt)
        for number, packet in enumerate(islice(whole, plan.frames), 1):
            if plan.decode_times is not None:
                packet.dts = plan.decode_times[number - 1]
            if plan.sets is None or plan.sets.length_size == 4:
                packet.stream = stream
            else:
                packet = _with_lengths(packet, plan.sets.length_size, stream, packet.time_base)
            yield shift(packet, -plan.start)
        if number != plan.frames:
            held = f"holds {number} frames, and held {plan.frames} before"
            raise MediaError(f"{plan.source}: {held}; put the old one back")


class _SourceEncoder:
    """The frames of a source encoded anew, each at its own time, in the colours it had."""

    def __init__(self, plan: JoinPlan, base: Fraction, rate: Fraction | None) -> None:
        self.frames = 0
        self.end = Fraction(0)
        """When the last frame begins, and a tick, in seconds."""
        self._plan, self._base, self._last = plan, base, -1
        tail, is_h264 = plan.tail, plan.tail.codec == "h264"
        encoder = av.CodecContext.create("libx264" if is_h264 else VP9.codec, "w")
        assert isinstance(encoder, VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = tail.width, tail.height, "yuv420p"
        encoder.time_base, encoder.framerate = base, rate or Fraction(25)
        encoder.sample_aspect_ratio = tail.sample_aspect_ratio
        encoder.color_primaries, encoder.color_trc = tail.primaries, tail.transfer
        encoder.colorspace, encoder.color_range = tail.tagged_matrix, tail.tagged_range
        encoder.options = dict(X264_OPTIONS if is_h264 else VP9.options)
        encoder.thread_count = THREADS
        encoder.flags |= Flags.global_header
        encoder.open()
        self._encoder = encoder
        self.sets = parse_header(encoder.extradata or b"") if is_h264 else None

    def packets(self, container: InputContainer, source: VideoStream, stream: VideoStream) -> Iterator[av.Packet]:
        for frame in self._frames(container, source):
            yield from self._encode(self._prepared(frame), stream)
        yield from self._encode(None, stream)
        if not self.frames:
            raise MediaError(f"{self._plan.source}: holds no frame that can be decoded")

    def _frames(self, container: InputContainer, source: VideoStream) -> Iterator[av.VideoFrame]:
        source.thread_type = "AUTO"
        damaged = damage_noted(str(self._plan.source), [], tolerate=self._plan.tolerate_damage)
        frames = decoded(container, source, damaged, strict=False)
        return deinterlace(frames) if self._plan.interlaced else frames

    def _prepared(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return a frame as the encoder takes it, at its time; one without a time follows the one before."""
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
            if self.sets:
                yield _with_lengths(packet, 0, stream, self._base)
            else:
                packet.stream, packet.time_base = stream, self._base
                yield packet


def common_base(source: Fraction, step: Fraction) -> Fraction:
    """Return the tick of a track that counts the source's times and, where it can, frames of `step` seconds exactly."""
    ticks = lcm(source.denominator, step.denominator)
    return Fraction(1, ticks) if ticks <= max(FINEST, source.denominator) else Fraction(1, source.denominator)


@contextmanager
def _open_part(part: Path) -> Iterator[_NewFrames]:
    info = read_info(part)
    with open_video(part) as (_, container, stream):
        sets = parse_header(stream.codec_context.extradata or b"") if stream.codec_context.name == "h264" else None
        yield _NewFrames(container, stream, sets, 1 / info.fps, info.frames)


def _with_lengths(packet: av.Packet, length_size: int, stream: VideoStream, base: Fraction) -> av.Packet:
    """Return an H.264 packet in our track, whose NAL units have lengths of 4 bytes. length_size: those it has now."""
    moved = av.Packet(with_lengths(units(bytes(packet), length_size)))
    moved.stream, moved.time_base, moved.is_keyframe = stream, base, packet.is_keyframe
    moved.pts, moved.dts, moved.duration = packet.pts, packet.dts, packet.duration
    return moved


def _chapters(container: InputContainer, plan: JoinPlan, *, or_one: bool) -> "list[Mark]":
    """Return the source's chapters. or_one: where none begins with the video, one that has its name comes first."""
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
    """Return the tags of both: the source's own win, but what causvid wrote into it told how that was made.

    Names are compared without case: Matroska's are in capitals.
    """
    names = {key.lower() for key in source}
    dropped = _OF_THE_CONTAINER | ({"comment"} if RECIPE_KEY in names else set())
    kept = {key: value for key, value in source.items() if key.lower() not in dropped}
    return {**{key: value for key, value in ours.items() if key.lower() not in {k.lower() for k in kept}}, **kept}


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
    """Yield packets of a file; an error on the way names it, or where damage is tolerated is their end."""
    try:
        yield from packets
    except (av.error.FFmpegError, ValueError) as error:
        if not tolerate_damage:
            reason = getattr(error, "strerror", None) or str(error)
            raise MediaError(f"{path}: cannot be read as a video: {reason}") from error


def _later(make: Callable[[], Iterator[av.Packet]]) -> Iterator[av.Packet]:
    """Yield packets that are made when the first is asked for."""
    yield from make()
