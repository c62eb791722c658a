"""The sound and the subtitles of a clip, beside new pictures: copied packet by packet where MP4 holds them."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from causvid_cli.errors import MediaError, OutputError
from causvid_cli.media.probe import open_video
from causvid_cli.video.join.mp4 import mux, write_mp4

SOUND_IN_MP4 = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
"""Codecs that players expect in an MP4."""
SUBTITLES_IN_MP4 = frozenset({"mov_text"})
MARKS = frozenset({"creation_time", "handler_name", "language", "title", "vendor_id"})
"""What a track says of itself that stays true in another file."""
BITS_PER_CHANNEL = 128_000
"""Of AAC, where the sound is encoded anew."""
_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""For sound that tells but how many channels it has."""

Convert = Callable[[av.Packet], Iterable[av.Packet]]


@dataclass(frozen=True, slots=True)
class Track:
    """A stream of the source that the new file holds as well.

    encode: as AAC. tolerate_damage: packets that cannot be decoded for that are left out.
    """

    index: int
    encode: bool = False
    tolerate_damage: bool = False


def choose_tracks(
    source: Path, container: InputContainer, video: Stream, *, sound_only: bool = False, tolerate_damage: bool = False
) -> tuple[tuple[Track, ...], list[str]]:
    """The streams beside the frames that are kept, and a line for each that is not, or not as it is.

    Raises MediaError with the remedy for sound that cannot be copied, unless damage is tolerated.
    """
    tracks, notes = [], []
    for stream in container.streams:
        codec = "" if stream.codec_context is None else stream.codec_context.codec.canonical_name
        if stream.index == video.index or (stream.type == "data" and container.chapters()):
            continue  # MP4 keeps the titles of chapters in a track of their own
        if stream.type == "audio" and codec:
            tracks.append(Track(stream.index, encode=codec not in SOUND_IN_MP4, tolerate_damage=tolerate_damage))
            if tracks[-1].encode:
                notes.append(f"its sound ({codec}) is encoded anew as AAC, since MP4 does not hold it as it is")
        elif stream.type == "subtitle" and codec in SUBTITLES_IN_MP4 and not sound_only:
            tracks.append(Track(stream.index))
        elif not sound_only:
            notes.append(f"track {stream.index + 1} ({stream.type}{f', {codec}' if codec else ''}) is left out")
    if not _can_be_written(source, container, tracks):
        if not tolerate_damage:
            name, copy = shlex.quote(str(source)), shlex.quote(f"{source.stem}-mended.mp4")
            remedy = f"ffmpeg -i {name} -c:v copy -c:a aac {copy} makes a clip that can be used"
            raise MediaError(f"{source}: its sound is damaged; {remedy}, and --tolerate-damage goes on without that")
        kept = [replace(track, encode=True) for track in tracks if container.streams[track.index].type == "audio"]
        tracks = kept if _can_be_written(source, container, kept) else []
        notes.append(f"its sound is damaged, and {'encoded anew as AAC' if tracks else 'left out'}")
    return tuple(tracks), notes


def _can_be_written(source: Path, container: InputContainer, tracks: Sequence[Track]) -> bool:
    """Write the tracks once, alone: what cannot be copied is found before new frames are made.

    MP4 stores them as it holds them, so there nothing is tried.
    """
    if not tracks or ("mov" in container.format.name and not any(track.encode for track in tracks)):
        return True
    with TemporaryFile(buffering=0) as target, suppress(OSError):  # no room to try is no reason not to begin
        try:
            with write_mp4(target) as output, open_video(source) as (_, again, _):
                mux(output, other_packets(again, add_tracks(output, again, tracks), start=Fraction(0)))
        except (MediaError, OutputError):
            return False
    return True


def add_tracks(output: OutputContainer, container: InputContainer, tracks: Sequence[Track]) -> dict[int, Convert]:
    """Put the tracks into a new file: by the source's index, what makes its packets of the source's."""
    return {track.index: _add_track(output, container.streams[track.index], track) for track in tracks}


def _add_track(output: OutputContainer, stream: Stream, track: Track) -> Convert:
    if track.encode:
        assert isinstance(stream, AudioStream)
        encoder = _SoundEncoder(output, stream, tolerate_damage=track.tolerate_damage)
        added: Stream = encoder.stream
        convert: Convert = encoder
    else:
        added = output.add_stream_from_template(stream, opaque=True)
        convert = _copier(added)
    keep_marks(stream, added)
    return convert


def keep_marks(stream: Stream, added: Stream) -> None:
    """Give a track the language, the names and the role of the source's."""
    added.metadata.update({key: value for key, value in stream.metadata.items() if key.lower() in MARKS})
    added.disposition = stream.disposition


def other_packets(
    container: InputContainer, converts: dict[int, Convert], *, start: Fraction, end: Fraction | None = None
) -> Iterator[av.Packet]:
    """The packets of the tracks in the new file. start: taken off their times; end: when they stop, both in s."""
    if not converts:
        return
    for packet in container.demux(*converts):
        index, shown = packet.stream.index, packet.pts
        if packet.is_corrupt:
            continue
        if packet.size and shown is not None:
            late = end is not None and shown * packet.time_base - start >= end
            if late or (packet.is_discard and shown >= 0):  # the second by an edit list
                continue
        for made in converts[index](packet):
            yield shift(made, -start)


def shift(packet: av.Packet, seconds: Fraction) -> av.Packet:
    """A packet, so many seconds later."""
    if ticks := round(seconds / packet.time_base):
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
    return packet


def _copier(added: Stream) -> Convert:
    def copy(packet: av.Packet) -> Iterable[av.Packet]:
        if not packet.size:  # the end, which only encoders need to know
            return ()
        packet.stream = added
        return (packet,)

    return copy


class _SoundEncoder:
    """A track of sound, decoded and encoded as AAC."""

    def __init__(self, output: OutputContainer, source: AudioStream, *, tolerate_damage: bool) -> None:
        self._source, self._tolerate_damage = source, tolerate_damage
        rate = source.rate if source.rate in _AAC_RATES else 48_000
        told = source.layout.name
        layout = _LAYOUTS.get(source.layout.nb_channels, "stereo") if "channels" in told else told
        bits = BITS_PER_CHANNEL * av.AudioLayout(layout).nb_channels
        self.stream = output.add_stream("aac", rate=rate, layout=layout, bit_rate=bits)
        self.stream.time_base = Fraction(1, rate)
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=1024)

    def __call__(self, packet: av.Packet) -> Iterator[av.Packet]:
        for frame in self._decoded(packet if packet.size else None):
            yield from self._encode(frame)
        if not packet.size:
            yield from self._encode(None)
            yield from self.stream.encode(None)

    def _decoded(self, packet: av.Packet | None) -> list[av.AudioFrame]:
        try:
            return self._source.decode(packet)
        except av.error.FFmpegError:
            if not self._tolerate_damage:
                raise
            return []

    def _encode(self, frame: av.AudioFrame | None) -> Iterator[av.Packet]:
        for made in self._resampler.resample(frame):
            yield from self.stream.encode(made)
