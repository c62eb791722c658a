"""Sound beside a video's frames: how it is encoded, and a soundtrack as packets."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, repeat

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer

from causvid_cli.media.sound import Soundtrack, silence

BITS_PER_CHANNEL = 128_000
"""Of AAC and Opus, where sound is encoded."""
LOWEST_RATE = 32_000
"""Of a soundtrack: below it, a packet would be longer than a frame."""
_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_OPUS_RATES = (48_000, 24_000, 16_000, 12_000, 8_000)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""For sound that tells but how many channels it has."""


def add_encoder(output: OutputContainer, *, rate: int, layout: str, codec: str = "aac") -> AudioStream:
    """Put a track of encoded sound into a file, at the rate and with the channels of its source where they can be had.

    codec: aac, or libopus for WebM.
    """
    rates = _OPUS_RATES if codec == "libopus" else _AAC_RATES
    rate = rate if rate in rates else 48_000
    channels = av.AudioLayout(layout).nb_channels
    layout = _LAYOUTS.get(channels, "stereo") if "channels" in layout or codec == "libopus" else layout
    bits = BITS_PER_CHANNEL * av.AudioLayout(layout).nb_channels
    stream = output.add_stream(codec, rate=rate, layout=layout, bit_rate=bits)
    assert isinstance(stream, AudioStream)
    stream.time_base = Fraction(1, rate)
    return stream


def add_soundtrack(
    output: OutputContainer, soundtrack: Soundtrack, *, end: Fraction, codec: str = "aac"
) -> Iterator[av.Packet]:
    """Put a track for a soundtrack into a file; return its packets, to the sample at which the video ends, in s."""
    rate = soundtrack.rate if soundtrack.rate >= LOWEST_RATE else 48_000
    stream = add_encoder(output, rate=rate, layout=soundtrack.layout, codec=codec)
    return _packets(soundtrack, stream, end=end)


def due_s(packet: av.Packet) -> float:
    """Return when a packet is due, in seconds."""
    ticks = packet.dts if packet.dts is not None else packet.pts or 0
    return float(ticks * packet.time_base)


def _packets(soundtrack: Soundtrack, stream: AudioStream, *, end: Fraction) -> Iterator[av.Packet]:
    context = stream.codec_context
    context.open()  # now it knows how many samples a packet takes
    rate, layout, kind = context.rate, context.layout.name, context.format.name
    total, given, fifo = round(end * rate), 0, av.AudioFifo()
    to_encoder = av.AudioResampler(format=kind, layout=layout, rate=rate)
    silent = repeat(silence(rate, format="fltp", layout=layout, rate=rate))
    for samples in chain(soundtrack.samples(rate=rate, layout=layout), silent):
        samples.pts = None
        for frame in to_encoder.resample(samples):
            frame.pts = None
            fifo.write(frame)
        while given < total and fifo.samples >= (size := min(context.frame_size, total - given)):
            block = fifo.read(size)
            assert block is not None
            block.pts, block.time_base, given = given, Fraction(1, rate), given + size
            yield from stream.encode(block)
        if given == total:
            break
    yield from stream.encode(None)
