"""A `.part` and its name -> the finished file: packets moved into an ordinary container, or decoded into others."""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from causvid_cli.media.probe import Chapter, VideoInfo, open_video, read_info
from causvid_cli.media.sound import Soundtrack
from causvid_cli.media.view import pulled
from causvid_cli.video.files import open_muxer
from causvid_cli.video.sound import add_soundtrack, due_s

MILLISECOND = Fraction(1, 1000)
GIF_FPS = 50
"""A GIF counts in 1/100 s, and browsers show a frame that lasts one of these for ten."""


class Finish(Protocol):
    """Makes the finished file of a verified `.part`. Runs again when it is asked to: for a partial video, then for all.

    frames_before: how many frames that file has before those of the `.part`; true at the latest after the call.
    """

    frames_before: int

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        """Write all of it to `target`, an empty file open for writing and reading, which stays open.

        chapters: those that begin within the `.part`, by its frames.
        """


class Remux:
    """The packets as they are, in an ordinary file: of MP4 and MOV the index is first, of Matroska last."""

    frames_before = 0

    def __init__(self, muxer: str, soundtrack: Soundtrack | None = None) -> None:
        self._muxer, self._soundtrack = muxer, soundtrack
        self._options = {"fflags": "+bitexact"} if muxer in ("matroska", "webm") else {}  # no random ids
        if muxer in ("mp4", "mov"):
            self._options = {"movflags": "faststart+use_metadata_tags"}

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        info = read_info(part) if chapters or self._soundtrack else None
        with (
            open_video(part) as (_, source, video),
            open_muxer(target, self._muxer, self._options) as output,
        ):
            stream = output.add_stream_from_template(video, opaque=True)
            output.metadata.update(metadata)
            packets = _moved(source.demux(video), stream)
            if info and chapters:
                _set_chapters(output, chapters, info)
            if info and self._soundtrack:
                codec = "libopus" if self._muxer == "webm" else "aac"
                sound = add_soundtrack(output, self._soundtrack, end=info.frames / info.fps, codec=codec)
                packets = heapq.merge(packets, sound, key=due_s)
            for packet in packets:
                output.mux(packet)


def _moved(packets: Iterable[av.Packet], stream: VideoStream) -> Iterator[av.Packet]:
    """Yield packets that hold something as those of another stream."""
    for packet in packets:
        if packet.size:
            packet.stream = stream
            yield packet


class Gif:
    """A GIF that repeats for ever: one palette for all frames, and delays whose sum is exact.

    Memory does not grow with the length: the `.part` is read twice, for the palette and for the frames.
    """

    frames_before = 0

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        info = read_info(part)
        fps, palette = info.fps, _palette(part)
        last, before = (math.floor(100 * count / fps + Fraction(1, 2)) for count in (info.frames, info.frames - 1))
        options = {"loop": "0", "final_delay": str(last - before)}  # FFmpeg would repeat the delay before
        with (
            open_muxer(target, "gif", options) as output,
            _frames(part) as (source, frames),
        ):
            stream = output.add_stream("gif", rate=fps, width=source.width, height=source.height)
            stream.pix_fmt = "pal8"
            stream.codec_context.time_base = 1 / fps
            for number, frame in enumerate(_with_palette(frames, source, palette)):
                frame.pts, frame.time_base = number, 1 / fps  # the muxer rounds the time, not the delay
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))


class Webp:
    """An animated WebP that repeats for ever. The encoder keeps the compressed frames: memory grows by the file."""

    frames_before = 0

    def __init__(self, *, lossless: bool) -> None:
        self._options = {"lossless": "1"} if lossless else {"quality": "90"}

    def __call__(
        self, part: Path, target: BinaryIO, *, metadata: Mapping[str, str], chapters: Sequence[Chapter]
    ) -> None:
        fps = read_info(part).fps
        with open_muxer(target, "webp", {"loop": "0"}) as output, _frames(part) as (source, frames):
            stream = output.add_stream(
                "libwebp_anim", rate=fps, options=self._options, width=source.width, height=source.height
            )
            stream.pix_fmt = "bgra"
            stream.codec_context.time_base = MILLISECOND
            for number, frame in enumerate(frames):
                shown = frame.reformat(format="bgra")
                shown.pts, shown.time_base = round(number / fps / MILLISECOND), MILLISECOND
                shown.duration = round((number + 1) / fps / MILLISECOND) - shown.pts
                output.mux(stream.encode(shown))
            output.mux(stream.encode(None))


def write_frames(part: Path, folder: Path, pattern: str) -> Iterator[Path]:
    """Write the frames of a `.part` as PNG files, numbered from 1; yield each when it is written."""
    for number, pixels in enumerate(_pixels(part), start=1):
        path = folder / (pattern % number)
        with open(path, "xb") as file:
            Image.fromarray(pixels).save(file, format="PNG")
        yield path


def _pixels(part: Path) -> Iterator[np.ndarray]:
    """Yield each frame, RGB [H, W, 3]. What the caller raises meanwhile is not taken for a fault of the `.part`."""
    with _frames(part) as (_, frames):
        for frame in frames:
            yield frame.to_ndarray(format="rgb24")


def _set_chapters(output: OutputContainer, chapters: Sequence[Chapter], info: VideoInfo) -> None:
    ends = [chapter.start_frame for chapter in chapters[1:]] + [info.frames]
    output.set_chapters(
        [
            {
                "id": index,
                "start": chapter.start_frame,
                "end": end,
                "time_base": 1 / info.fps,
                "metadata": {"title": chapter.title},
            }
            for index, (chapter, end) in enumerate(zip(chapters, ends, strict=True))
        ]
    )


@contextmanager
def _frames(part: Path) -> Iterator[tuple[VideoStream, Iterator[av.VideoFrame]]]:
    """Yield the video stream of a `.part`, and its frames."""
    with open_video(part) as (_, container, stream):
        yield stream, _decoded(container, stream)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    yield from container.decode(stream)


def _palette(part: Path) -> av.VideoFrame:
    """Return a frame of the 255 colours that suit all frames best, and transparency."""
    with _frames(part) as (source, frames):
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(template=source), graph.add("palettegen", "stats_mode=full"), graph.add("buffersink")
        ).configure()
        for frame in frames:
            graph.vpush(frame)
        graph.vpush(None)
        return graph.vpull()


def _with_palette(
    frames: Iterator[av.VideoFrame], source: VideoStream, palette: av.VideoFrame
) -> Iterator[av.VideoFrame]:
    """Yield frames in the palette's colours; what it lacks is dithered by a pattern that stands still."""
    graph = av.filter.Graph()
    shown = graph.add_buffer(template=source)
    colours = graph.add_buffer(
        width=palette.width, height=palette.height, format=palette.format, time_base=source.time_base
    )
    choose = graph.add("paletteuse", "dither=bayer:bayer_scale=4:diff_mode=rectangle")
    sink = graph.add("buffersink")
    shown.link_to(choose, 0, 0)
    colours.link_to(choose, 0, 1)
    choose.link_to(sink)
    graph.configure()
    palette.pts, palette.time_base = 0, source.time_base
    colours.push(palette)
    colours.push(None)
    for frame in _then_end(frames):
        shown.push(frame)
        yield from pulled(graph)


def _then_end(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame | None]:
    yield from frames
    yield None
