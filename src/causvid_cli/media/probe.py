"""Video file -> what it holds. The file may come from anywhere: PyAV sees our file object and opens nothing else."""

import errno
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

import av
import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import ContainerFormat
from av.video.stream import VideoStream

from causvid_cli.errors import MediaError
from causvid_cli.files import IS_ADDRESS, is_address
from causvid_cli.media.recipe import metadata_to_recipe
from causvid_cli.media.webp import is_animated_webp, webp_as_video

CONTAINERS: tuple[str, ...] = (
    "mov",
    "matroska",
    "avi",
    "mpegts",
    "mpeg",
    "flv",
    "ogg",
    "asf",
    "gif",
    "apng",
    "nut",
    "yuv4mpegpipe",
)
CONTAINERS += ("h264", "hevc", "mpegvideo", "dv", "ivf")  # bare streams of one codec
"""Demuxers that may open a user's file. Playlists (m3u8, ffconcat), which name other files, are not among them."""
SOUND_CONTAINERS = (*CONTAINERS, "wav", "w64", "aiff", "caf", "mp3", "flac", "aac", "ac3", "eac3", "amr", "au", "wv")
"""Demuxers that may open a user's sound."""
MAX_PIXELS = 64_000_000
"""Larger frames are refused before they are decoded: twice what 8K video has; 64 megapixels take 200 MB."""
_PLAYLISTS = ("concat", "hls", "dash", "imf")

# ITU-T H.273, the codes met in practice; another code is given as its number.
_PRIMARIES = {1: "bt709", 2: "unknown", 5: "bt470bg", 6: "smpte170m", 9: "bt2020", 12: "smpte432"}
_TRANSFERS = {1: "bt709", 2: "unknown", 6: "smpte170m", 13: "srgb", 14: "bt2020-10", 16: "pq", 18: "hlg"}
_MATRICES = {0: "rgb", 1: "bt709", 2: "unknown", 5: "bt470bg", 6: "smpte170m", 9: "bt2020"}
_RANGES = {0: "unknown", 1: "tv", 2: "pc"}


@dataclass(frozen=True, slots=True)
class ColorTags:
    """How a video says that its numbers are to be shown; ours say bt709, bt709, bt709, tv."""

    primaries: str
    transfer: str
    matrix: str
    range: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """A title that holds from a frame on (a cue of a script)."""

    start_frame: int
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What a video file holds. `frames` and `duration_s` are counted from its packets, not believed from its header."""

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int
    duration_s: float
    codec: str
    pixel_format: str
    color: ColorTags
    size_bytes: int
    recipe: dict[str, Any] | None
    chapters: tuple[Chapter, ...] = ()


def read_info(path: Path) -> VideoInfo:
    """Return what the first video stream of a file holds; nothing is decoded.

    Reads a `.part` too: the whole frames that are there, even when a kill tore the last fragment.
    Raises MediaError when the file is missing, empty, no video, or cut short.
    """
    with open_video(path) as (file, container, stream):
        size_bytes = os.fstat(file.fileno()).st_size
        if missing := missing_frames(file, stream):
            raise MediaError(f"{path}: cut short: {missing} of its {stream.frames} frames are missing")
        frames, start, end, longest, untimed = 0, None, 0, 0, False
        for packet in container.demux(stream):
            if packet.size and not packet.is_corrupt:
                frames += 1
                untimed |= packet.pts is None
                pts = packet.pts or 0
                start = pts if start is None else min(start, pts)
                longest = max(longest, packet.duration or 0)
                end = max(end, pts + (packet.duration or 0))
        if not frames or start is None or stream.time_base is None:
            raise MediaError(f"{path}: holds no whole frame")
        try:
            recipe = metadata_to_recipe(container.metadata)
        except MediaError as error:
            raise MediaError(f"{path}: {error}") from error
        context, fps = stream.codec_context, stream.average_rate or Fraction(0)
        if longest and end - start == frames * longest:  # constant rate: exact, where FFmpeg's average is an estimate
            fps = 1 / (longest * stream.time_base)
        duration_s = (end - start) * stream.time_base
        if fps and untimed:
            duration_s = frames / fps
        elif fps and not longest:  # a file that tells when frames begin, and not how long they last
            duration_s += 1 / fps
        return VideoInfo(
            path=path,
            width=context.width,
            height=context.height,
            fps=fps,
            frames=frames,
            duration_s=float(duration_s),
            codec="webp" if is_animated_webp(file) else context.name,
            pixel_format=context.pix_fmt or "unknown",
            color=ColorTags(
                primaries=_PRIMARIES.get(context.color_primaries, str(context.color_primaries)),
                transfer=transfer_name(context.color_trc),
                matrix=_MATRICES.get(context.colorspace, str(context.colorspace)),
                range=_RANGES.get(context.color_range, str(context.color_range)),
            ),
            size_bytes=size_bytes,
            recipe=recipe,
            chapters=tuple(
                Chapter(round(entry["start"] * entry["time_base"] * fps), entry["metadata"].get("title", ""))
                for entry in container.chapters()
                if entry["time_base"] is not None
            ),
        )


def check_input(path: Path) -> None:
    """Raise MediaError unless `path` is a file that holds something."""
    try:
        if not path.exists():
            raise MediaError(f"{path}: {_why_absent(path)}")
        if not path.is_file():  # opening a pipe would wait for ever
            raise MediaError(f"{path}: not a file")
        if not path.stat().st_size:
            raise MediaError(f"{path}: is empty")
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from error


def _why_absent(path: Path) -> str:
    """Return what is said of a file that does not exist."""
    if is_address(str(path)):
        return IS_ADDRESS
    if re.search(r"%\d*d", path.name):
        name, clip = shlex.quote(str(path)), "clip.mp4"
        return f"does not exist; numbered frames become a clip with ffmpeg -framerate 16 -i {name} -crf 12 {clip}"
    return "does not exist"


@contextmanager
def open_video(path: Path) -> Iterator[tuple[BinaryIO, InputContainer, VideoStream]]:
    """Yield the file, its container and its first video stream. What goes wrong inside the block becomes MediaError.

    The container of an animated WebP is the same frames as a lossless video.
    """
    try:
        check_input(path)
        with _File(io.FileIO(path)) as file:
            source: IO[bytes] = file
            if is_animated_webp(file):
                status = os.fstat(file.fileno())
                stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                source = open(webp_as_video(str(path), stamp, MAX_PIXELS).name, "rb")
            with source, _open_container(source) as container:
                yield file, container, first_video(container, str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: {_why_refused(path) or f'cannot be read as a video: {error.strerror}'}") from error


@contextmanager
def open_sound(path: Path) -> Iterator[tuple[BinaryIO, InputContainer, AudioStream]]:
    """The file, its container and its first track of sound. What goes wrong inside the block becomes MediaError."""
    try:
        check_input(path)
        with _File(io.FileIO(path)) as file, _open_container(file, SOUND_CONTAINERS) as container:
            stream = next((each for each in container.streams.audio if each.codec_context is not None), None)
            if stream is None:
                raise MediaError(f"{path}: holds no sound that can be read")
            yield file, container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: its format changes on the way
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{path}: cannot be read as sound: {reason}") from error


class _File(io.BufferedReader):
    """A file for PyAV, which would raise where a demuxer tries a position: NUT without an index looks for one."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


def _open_container(file: IO[bytes], formats: Sequence[str] = CONTAINERS) -> InputContainer:
    return av.open(
        file,
        "r",
        options={"format_whitelist": ",".join(formats)},
        metadata_errors="replace",
        io_open=refuse_other_file,
    )


def _why_refused(path: Path) -> str:
    """Return what a file is whose format is none of CONTAINERS, and what to do; "" for any other file."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)  # FFmpeg names the format in its log, and nowhere else
    try:
        with av.logging.Capture(), _File(io.FileIO(path)) as file, _open_container(file):
            return ""
    except (av.error.FFmpegError, OSError) as error:
        log = getattr(error, "log", None)
        if log is None or "not on whitelist" not in log[2]:
            return ""
        name = log[1]
    finally:
        av.logging.set_level(level)
    shown = shlex.quote(str(path))
    if name in _PLAYLISTS:
        return f"is a list of other files ({name}), which are not opened; give one of them"
    if name == "rawvideo":
        return f"tells no frame size; try causvid restyle - --input-size WxH --input-fps N < {shown}, or mkv"
    if name.endswith("_pipe") or name == "image2":
        return f"is a picture, not a video; try causvid i2v {shown}"
    converted = shlex.quote(f"{path.stem}-converted.mp4")
    remedy = f"ffmpeg -i {shown} -c:v libx264 -crf 12 -c:a aac {converted} makes one that is"
    return f"its format, {ContainerFormat(name, 'r').long_name} ({name}), is not read; {remedy}"


def first_video(container: InputContainer, name: str) -> VideoStream:
    """Return the first video stream of a container that can be decoded. Raises MediaError if there is none."""
    pictures = av.stream.Disposition.attached_pic  # the cover of a song is no video
    stream = next((s for s in container.streams.video if not s.disposition & pictures), None)
    if stream is None or stream.codec_context is None:
        raise MediaError(f"{name}: holds no video that can be read")
    return stream


def missing_frames(file: BinaryIO, stream: VideoStream) -> int:
    """Return how many frames lie, by the file's own index, beyond its end.

    MP4 says where each frame lies. In fragments (stream.frames == 0) a torn end is what a kill leaves: none is missing.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    missing = sum(entry.pos + entry.size > size_bytes for entry in stream.index_entries)
    return missing if stream.frames else 0


def transfer_name(code: int) -> str:
    """Return a transfer characteristic of ITU-T H.273 by its name."""
    return _TRANSFERS.get(code, str(code))


def refuse_other_file(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """For `av.open(io_open=...)`: what a user gives may name no other file and no address."""
    raise PermissionError("a video may not open another file")
