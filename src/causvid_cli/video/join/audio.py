"""The sound and subtitles of a clip, beside new frames: copied packet by packet where the container holds them."""

import io
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryFile

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

from causvid_cli.errors import MediaError, OutputError
from causvid_cli.media.probe import open_video
from causvid_cli.media.sound import silence
from causvid_cli.video.files import OutputFile
from causvid_cli.video.join.containers import JoinContainer, mux, write_container
from causvid_cli.video.publish import MILLISECOND
from causvid_cli.video.sound import BITS_PER_CHANNEL, add_encoder

MARKS = frozenset({"creation_time", "handler_name", "language", "title", "vendor_id"})
"""What a track says of itself that stays true in another file."""
_ENCODERS = {"opus": "libopus"}
"""The encoder of a codec where FFmpeg's own should not be used."""
_SILENT = 1e-4
"""The most that silence comes to, of 1, once it was encoded: AC-3 makes some noise."""
_TRIED = 4
"""How many packets of silence are decoded, to see whether a track takes them."""

Convert = Callable[[av.Packet], Iterable[av.Packet]]


@dataclass(frozen=True, slots=True)
class Track:
    """A stream of the source that the new file holds as well.

    encoder: with which it is encoded anew; "" copies its packets. tolerate_damage: packets that cannot be decoded for
    that are left out.
    """

    index: int
    encoder: str = ""
    tolerate_damage: bool = False


def choose_tracks(
    source: Path,
    file: InputContainer,
    video: Stream,
    container: JoinContainer,
    *,
    sound_only: bool = False,
    keeps_sound: bool = True,
    pads: bool = False,
    tolerate_damage: bool = False,
) -> tuple[tuple[Track, ...], list[str]]:
    """Return the streams beside the frames that are kept, and a line for each that is not, or not as it is.

    keeps_sound: else another takes its place. pads: silence is to follow the sound.
    Raises MediaError with the remedy for sound that cannot be copied, unless damage is tolerated.
    """
    tracks, notes, anew = [], [], f"encoded anew as {container.audio_encoder_name}"
    for stream in file.streams:
        codec = None if stream.codec_context is None else stream.codec_context.codec
        name, encoder = "" if codec is None else codec.canonical_name, ""
        if stream.index == video.index or (stream.type == "data" and file.chapters()):
            continue  # MP4 keeps the titles of chapters in a track of their own
        if sound_only and stream.type != "audio":
            continue
        if stream.type == "audio" and not keeps_sound:
            notes.append("its sound makes way for --audio")
            continue
        if stream.type == "audio" and codec:
            reason = ""
            if name not in container.audio:
                reason = f"since {container.name} does not hold it as it is"
            elif pads and isinstance(stream, AudioStream) and not _takes_silence(stream):
                reason = "so that silence can follow it"
            if reason:
                encoder = container.audio_encoder
                notes.append(f"its sound ({name}) is {anew}, {reason}")
        elif stream.type == "subtitle" and codec and codec.text_sub and name not in container.subtitles:
            encoder = container.subtitle_encoder
            notes.append(f"its subtitles ({name}) are converted to {encoder}, which {container.name} holds")
        elif stream.type != "subtitle" or name not in container.subtitles:
            notes.append(f"track {stream.index + 1} ({stream.type}{f', {name}' if name else ''}) is left out")
            continue
        tracks.append(Track(stream.index, encoder=encoder, tolerate_damage=tolerate_damage))
    if pads and file.streams.audio and keeps_sound:
        notes.append("silence follows its sound, to the video's end")
    if not _can_be_written(source, file, tracks, container):
        if not tolerate_damage:
            name, copy = shlex.quote(str(source)), shlex.quote(f"{source.stem}-mended.mp4")
            remedy = f"ffmpeg -i {name} -c:v copy -c:a aac {copy} makes a clip that can be used"
            raise MediaError(f"{source}: its sound is damaged; {remedy}, and --tolerate-damage goes on without that")
        encoder = container.audio_encoder
        kept = [replace(track, encoder=encoder) for track in tracks if file.streams[track.index].type == "audio"]
        tracks = kept if _can_be_written(source, file, kept, container) else []
        notes.append(f"its sound is damaged, and {anew if tracks else 'left out'}")
    return tuple(tracks), notes


def _can_be_written(source: Path, file: InputContainer, tracks: Sequence[Track], container: JoinContainer) -> bool:
    """Write the tracks once, alone: what cannot be copied is found before new frames are made.

    MP4 stores them as it holds them, so from one into another nothing is tried.
    """
    as_it_is = "mov" in file.format.name and container.muxer == "mp4" and not any(track.encoder for track in tracks)
    if not tracks or as_it_is:
        return True
    with TemporaryFile(buffering=0) as place, OutputFile(place.fileno(), "r+", closefd=False) as target:
        try:
            with write_container(target, container) as output, open_video(source) as (_, again, _):
                mux(output, other_packets(again, add_tracks(output, again, tracks), start=Fraction(0)))
        except (MediaError, OutputError, OSError):
            return target.failure is not None  # no room to try is no reason not to begin
    return True


def add_tracks(
    output: OutputContainer, container: InputContainer, tracks: Sequence[Track], *, end: Fraction | None = None
) -> dict[int, Convert]:
    """Put the tracks into a new file; return, by the source's index, what makes its packets of the source's.

    end: until when silence follows sound, in seconds by the source's clock; None lets sound end as it does.
    """
    return {track.index: _add_track(output, container.streams[track.index], track, end) for track in tracks}


def _add_track(output: OutputContainer, stream: Stream, track: Track, end: Fraction | None) -> Convert:
    if track.encoder and isinstance(stream, AudioStream):
        encoder = _SoundEncoder(output, stream, track.encoder, end=end, tolerate_damage=track.tolerate_damage)
        added: Stream = encoder.stream
        convert: Convert = encoder
    elif track.encoder:
        assert isinstance(stream, SubtitleStream)
        added, convert = _subtitle_converter(output, stream, track.encoder)
    else:
        added = output.add_stream_from_template(stream, opaque=True)
        convert = _SoundCopier(added, stream, end) if isinstance(stream, AudioStream) else _copier(added)
    keep_marks(stream, added)
    return convert


def keep_marks(stream: Stream, added: Stream) -> None:
    """Give a track the language, the names and the role of the source's."""
    added.metadata.update({key: value for key, value in stream.metadata.items() if key.lower() in MARKS})
    added.disposition = stream.disposition


def other_packets(
    container: InputContainer, converts: dict[int, Convert], *, start: Fraction, end: Fraction | None = None
) -> Iterator[av.Packet]:
    """Yield the packets of the tracks in the new file. start: taken off their times; end: when they stop, both in s."""
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
    """Return a packet so many seconds later."""
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


def _subtitle_converter(output: OutputContainer, source: SubtitleStream, codec: str) -> tuple[Stream, Convert]:
    """Put a track of subtitles into a file as another kind of text; return it, and what makes its packets."""
    source.codec_context.open()  # which fills the header with the styles
    added = output.add_stream(codec)
    assert isinstance(added, SubtitleStream)
    encoder, added.time_base = added.codec_context, MILLISECOND
    encoder.time_base, encoder.subtitle_header = MILLISECOND, source.codec_context.subtitle_header

    def convert(packet: av.Packet) -> Iterator[av.Packet]:
        found = source.decode2(packet) if packet.size else None
        if found is not None:  # MP4 has empty ones between two
            made = encoder.encode_subtitle(found)
            made.stream, made.time_base = added, packet.time_base
            made.pts = made.dts = packet.pts
            made.duration = packet.duration
            yield made

    return added, convert


class _SoundCopier:
    """Copies a track of sound, and adds packets of silence in its codec until the end."""

    def __init__(self, added: Stream, source: AudioStream, end: Fraction | None) -> None:
        self._copy, self._added, self._source, self._end = _copier(added), added, source, end
        self._begun = self._at = Fraction(0)
        """When the last packet begins, and when it has been heard, in seconds."""

    def __call__(self, packet: av.Packet) -> Iterator[av.Packet]:
        if packet.size:
            if packet.pts is not None:
                begins = packet.pts * packet.time_base
                lasts = packet.duration * packet.time_base if packet.duration else begins - self._begun
                self._begun, self._at = begins, begins + lasts
            yield from self._copy(packet)
        elif self._end is not None:
            yield from self._silence(self._end)

    def _silence(self, end: Fraction) -> Iterator[av.Packet]:
        tick = Fraction(1, self._source.rate)
        at, stop = round(self._at / tick), round(end / tick)
        for data, samples in _silent_packets(self._source):
            if at >= stop:
                return
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = self._added, tick, True
            packet.pts, packet.dts, packet.duration = at, at, min(samples, stop - at)
            at += samples
            yield packet


def _silent_packets(source: AudioStream) -> Iterator[tuple[bytes, int]]:
    """Yield packets of silence as they would follow a track's own, and how many samples each is; without end."""
    told = source.codec_context
    encoder = av.CodecContext.create(_ENCODERS.get(told.codec.canonical_name, told.codec.canonical_name), "w")
    assert isinstance(encoder, av.AudioCodecContext)
    formats = [each.name for each in encoder.codec.audio_formats or ()]
    encoder.rate, encoder.layout, encoder.bit_rate = source.rate, source.layout, source.bit_rate or BITS_PER_CHANNEL
    encoder.format = told.format.name if told.format.name in formats else formats[0]
    encoder.time_base = Fraction(1, source.rate)
    encoder.open()
    size = encoder.frame_size or source.rate
    in_adts = told.name == "aac" and not told.extradata  # as MPEG-TS has it; MP4's muxer takes it off again
    frame = silence(size, format=encoder.format.name, layout=source.layout.name, rate=source.rate)
    for number in count():
        frame.pts = number * size
        for packet in encoder.encode(frame):
            yield _in_adts(bytes(packet), source) if in_adts else bytes(packet), size


def _in_adts(data: bytes, source: AudioStream) -> bytes:
    """Return a packet of AAC behind a header of its own (ISO/IEC 13818-7, 6.2)."""
    target = io.BytesIO()
    with av.open(target, "w", format="adts") as muxer:
        packet = av.Packet(data)
        packet.stream = muxer.add_stream("aac", rate=source.rate, layout=source.layout.name)
        packet.pts = packet.dts = 0
        packet.time_base = Fraction(1, source.rate)
        muxer.mux(packet)
    return target.getvalue()


def _takes_silence(source: AudioStream) -> bool:
    """Return whether a decoder of a track, set up as its header says, hears silence in what would follow."""
    try:
        decoder = av.CodecContext.create(source.codec_context.name, "r")
        decoder.extradata = source.codec_context.extradata
        assert isinstance(decoder, av.AudioCodecContext)
        decoder.rate, decoder.layout = source.rate, source.layout  # which PCM does not tell
        heard: list[bool] = []
        for data, size in islice(_silent_packets(source), _TRIED):
            for frame in decoder.decode(av.Packet(data)):
                alike = (frame.sample_rate, frame.layout.name) == (source.rate, source.layout.name)
                whole = frame.samples == size or not heard  # the first may lack Opus's pre-skip
                heard.append(alike and whole and bool(np.abs(frame.to_ndarray()).max() <= _SILENT))
        return bool(heard) and all(heard)
    except (av.error.FFmpegError, ValueError, IndexError, LookupError):  # no such encoder; not these channels
        return False


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


class _SoundEncoder:
    """Decodes a track of sound and encodes it anew, with silence until the end."""

    def __init__(
        self, output: OutputContainer, source: AudioStream, codec: str, *, end: Fraction | None, tolerate_damage: bool
    ) -> None:
        self._source, self._end, self._tolerate_damage = source, end, tolerate_damage
        self.stream = add_encoder(output, rate=source.rate, layout=source.layout.name, codec=codec)
        context = self.stream.codec_context
        context.open()  # now it knows its format
        self._make_resampler = partial(
            av.AudioResampler, format=context.format.name, layout=context.layout, rate=context.rate
        )
        self._resampler = self._make_resampler()
        self._last: av.AudioFrame | None = None

    def __call__(self, packet: av.Packet) -> Iterator[av.Packet]:
        for frame in self._decoded(packet if packet.size else None):
            if self._last is not None and _kind(frame) != _kind(self._last):  # damage can do that, and broadcasts do
                yield from self._encode(None)
                self._resampler = self._make_resampler()
            self._last = frame
            yield from self._encode(frame)
        if not packet.size:
            for frame in self._silence():
                yield from self._encode(frame)
            yield from self._encode(None)
            yield from self.stream.encode(None)

    def _silence(self) -> Iterator[av.AudioFrame]:
        """Yield silent frames that follow the last one, as it is, until the end."""
        last = self._last
        if last is None or last.pts is None or last.time_base is None or self._end is None:
            return
        rate = last.sample_rate
        at, stop = round(last.pts * last.time_base * rate) + last.samples, round(self._end * rate)
        while at < stop:
            samples = min(rate, stop - at)
            frame = silence(samples, format=last.format.name, layout=last.layout.name, rate=rate)
            frame.pts, frame.time_base = round(Fraction(at, rate) / last.time_base), last.time_base
            at += samples
            yield frame

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
