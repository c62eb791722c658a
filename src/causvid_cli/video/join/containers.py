"""The containers that a clip and new frames can go into: what their tracks may hold, and how a file is written."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import av
from av.container import OutputContainer

from causvid_cli.errors import OutputError
from causvid_cli.video.files import open_muxer

TICKS = 90_000
"""Per second, of where tracks of an MP4 begin; FFmpeg's own 1000 would move sound against frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinContainer:
    """A container that a clip and new frames can go into.

    video: the codecs that both can share a track in; a clip of another codec is encoded anew with the first.
    audio, subtitles: the codecs that are copied. Other sound is encoded anew with `audio_encoder`, other subtitles of
    text are converted with `subtitle_encoder`. hides_first_frames: whether it can hold frames that are not shown.
    """

    name: str
    muxer: str
    options: Mapping[str, str]
    video: tuple[str, ...]
    audio: frozenset[str]
    audio_encoder: str
    audio_encoder_name: str
    subtitles: frozenset[str]
    subtitle_encoder: str
    hides_first_frames: bool = False


_NO_RANDOM_IDS = MappingProxyType({"fflags": "+bitexact"})
MP4 = JoinContainer(
    name="MP4",
    muxer="mp4",
    options=MappingProxyType({"movflags": "faststart+use_metadata_tags", "movie_timescale": str(TICKS)}),
    video=("h264",),
    audio=frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}),  # those that players expect
    audio_encoder="aac",
    audio_encoder_name="AAC",
    subtitles=frozenset({"mov_text"}),
    subtitle_encoder="mov_text",
    hides_first_frames=True,
)
MATROSKA = JoinContainer(
    name="Matroska",
    muxer="matroska",
    options=_NO_RANDOM_IDS,
    video=("h264", "vp9"),
    audio=MP4.audio
    | {"dts", "mlp", "mp1", "mp2", "truehd", "tta", "vorbis", "wavpack"}
    | {f"pcm_{kind}" for kind in ("f32le", "f64le", "s16be", "s16le", "s24be", "s24le", "s32be", "s32le", "u8")},
    audio_encoder="aac",
    audio_encoder_name="AAC",
    subtitles=frozenset({"ass", "dvb_subtitle", "dvd_subtitle", "hdmv_pgs_subtitle", "subrip", "text", "webvtt"}),
    subtitle_encoder="subrip",
)
WEBM = JoinContainer(
    name="WebM",
    muxer="webm",
    options=_NO_RANDOM_IDS,
    video=("vp9",),
    audio=frozenset({"opus", "vorbis"}),
    audio_encoder="libopus",
    audio_encoder_name="Opus",
    subtitles=frozenset({"webvtt"}),
    subtitle_encoder="webvtt",
)


def container_of(path: Path | None) -> JoinContainer:
    """Return the container of a file of this name; that of a name which holds no clip does not matter."""
    suffix = path.suffix.lower() if path else ""
    return {".mkv": MATROSKA, ".webm": WEBM}.get(suffix, MP4)


@contextmanager
def write_container(target: BinaryIO, container: JoinContainer) -> Iterator[OutputContainer]:
    """Yield a container that writes to `target`, an empty file open for writing and reading, which stays open.

    Raises OutputError for what the container cannot hold. What `target` itself refuses may come out as another error,
    or as none: an `OutputFile` remembers it.
    """
    with _refusals(container.name), open_muxer(target, container.muxer, dict(container.options)) as output:
        yield output


def mux(output: OutputContainer, packets: Iterable[av.Packet]) -> None:
    """Write packets, which know their streams. Raises OutputError for what the container cannot hold."""
    for packet in packets:
        with _refusals(output.format.name):
            output.mux(packet)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise OutputError(f"the video cannot be put into {name}: {error.strerror}") from error
