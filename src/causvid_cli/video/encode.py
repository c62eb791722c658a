"""Frames -> the bytes of one piece of a video, in memory; the pieces joined are a video that plays up to the last one.

PyAV never writes a piece to the disk itself: its last flush swallows a full disk, and it has no call that ends a
piece now. So each chunk gets a muxer of its own, which writes to memory, and whose header is left out but once.
The encoder lives on across chunks, and begins anew at chunk edges some seconds apart: there a broken-off video can be
taken up, and the pieces that follow are those of an unbroken run, byte by byte.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

import av
import numpy as np
from av.video.stream import VideoStream

from causvid_cli.errors import DeviceError, UsageError
from causvid_cli.media.probe import Chapter
from causvid_cli.media.sound import Soundtrack

CRF = 17
"""x264's constant quality: about where a viewer sees no loss."""
PRESET = "fast"
"""x264's speed: 55 frames/s at 832x480 on one 2026 core, 15 % smaller than "veryfast"."""
KEY_FRAME_SECONDS = 2
"""The encoder begins anew at the first chunk edge after so long."""

BT709, BT601 = 1, 6
"""Colours in ITU-T H.273; both are codes of primaries, transfer and matrix alike."""
LIMITED, FULL = 1, 2
"""16..235 or 0..255; FFmpeg's codes."""

_X264 = MappingProxyType({"preset": PRESET, "tune": "zerolatency", "crf": str(CRF)})
_VP9 = MappingProxyType({"crf": "16", "b": "0", "deadline": "realtime", "cpu-used": "5", "lag-in-frames": "0"})
"""As good as H.264 above (42.4 dB on a 640x272 clip), 17 % smaller, twice as fast; SVT-AV1 was larger and slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How frames become packets, and the colours they are converted to and tagged with. None may wait for a later one.

    options: for the encoder. primaries, transfer, matrix: H.273 codes. tagged_matrix, tagged_range: where another is
    told than is used (2 and 0 tell none); None is the one used.
    """

    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=lambda: _X264)
    primaries: int = BT709
    transfer: int = BT709
    matrix: int = BT709
    tagged_matrix: int | None = None
    range: int = LIMITED
    tagged_range: int | None = None
    sample_aspect_ratio: Fraction = Fraction(1)

    @property
    def is_rgb(self) -> bool:
        return self.pixel_format in ("rgb24", "bgr0")

    def check_size(self, width: int, height: int) -> None:
        """Raise UsageError for sides that this encoder cannot have."""
        if self.codec == "libx264" and (width % 2 or height % 2):
            even = f"{width + width % 2}x{height + height % 2}"
            raise UsageError(f"size {width}x{height}: H.264 needs even sides; try {even}")


H264 = Encoding()
VP9 = Encoding(codec="libvpx-vp9", options=_VP9)
FFV1 = Encoding(
    codec="ffv1", pixel_format="bgr0", options=MappingProxyType({"level": "3", "slicecrc": "1"}), matrix=0, range=FULL
)
RAW_RGB = Encoding(codec="rawvideo", pixel_format="rgb24", options=MappingProxyType({}), matrix=0, range=FULL)


def raw_yuv(width: int, height: int) -> Encoding:
    """Return the encoding of yuv4mpeg. It has no tag for colours, so the matrix is what players assume at this size."""
    matrix = BT709 if width >= 1280 or height > 576 else BT601
    return Encoding(codec="rawvideo", options=MappingProxyType({}), matrix=matrix)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFormat:
    """What a video is, whatever it is written to.

    width, height: pixels. metadata: tags, such as `recipe_to_metadata` gives; GIF, WebP and PNG hold none.
    chapters: titles by first frame; a pipe has none, and a file only those that begin within it.
    lossless: exact RGB. soundtrack: what is laid under it; a pipe, GIF, WebP and PNG hold none.
    encoding: None takes the one of the file's kind.
    """

    width: int
    height: int
    fps: Fraction
    metadata: Mapping[str, str] = field(default_factory=dict)
    chapters: Sequence[Chapter] = ()
    lossless: bool = False
    soundtrack: Soundtrack | None = None
    encoding: Encoding | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A muxer that writes pieces: its options, with {index} for what must rise, and where a piece's frames begin."""

    muxer: str
    options: Mapping[str, str]
    body: Callable[[bytes], int] = field(compare=False)


def _first_box(piece: bytes, name: bytes = b"moof") -> int:
    """Return the byte at which the first such box of an MP4 begins."""
    start = 0
    while piece[start + 4 : start + 8] != name:
        start += int.from_bytes(piece[start : start + 4])
    return start


def _first_cluster(piece: bytes) -> int:
    """Return the byte at which a Matroska file's first cluster begins: past the EBML header, inside the segment."""
    segment, cluster = 0x18538067, 0x1F43B675
    start = 0
    while True:
        element, after = _ebml_number(piece, start)
        if element == cluster:
            return start
        size, after = _ebml_number(piece, after, marked=False)
        start = after if element == segment else after + size


def _ebml_number(piece: bytes, start: int, *, marked: bool = True) -> tuple[int, int]:
    """Read an EBML number (RFC 8794, 4); return it and the byte after it. marked: keep the length bit, as names do."""
    length = 9 - piece[start].bit_length()
    number = int.from_bytes(piece[start : start + length])
    return number if marked else number & ((1 << 7 * length) - 1), start + length


_MATROSKA = MappingProxyType({"live": "1", "avoid_negative_ts": "disabled", "fflags": "+bitexact"})  # no random ids
CONTAINERS = {
    "mp4": Container(
        "mp4",
        {
            "movflags": "frag_custom+empty_moov+default_base_moof+frag_discont+skip_trailer+use_metadata_tags",
            "avoid_negative_ts": "disabled",  # else every muxer would start at time 0
            "fragment_index": "{index}",
        },
        _first_box,
    ),
    "mkv": Container("matroska", _MATROSKA, _first_cluster),
    "webm": Container("webm", _MATROSKA, _first_cluster),
    "nut": Container(
        "nut",
        {"write_index": "0", "avoid_negative_ts": "disabled", "fflags": "+bitexact"},
        lambda piece: piece.index(0x4E4BE4ADEECA4569.to_bytes(8)),  # NUT's startcode of a sync point
    ),
    "yuv4mpeg": Container("yuv4mpegpipe", {}, lambda piece: piece.index(b"FRAME")),
    "rawvideo": Container("rawvideo", {}, lambda piece: 0),
}
"""By the names that `--format` has."""


class FragmentEncoder:
    """Encodes chunks of frames; each becomes a piece of a video, and the pieces joined are the video.

    By default H.264 yuv420p in fragmented MP4, converted to BT.709 and tagged so; constant frame rate, a timestamp per
    frame. No look-ahead, so no frame waits in the encoder; one thread, so equal frames give equal bytes.

    start_frame: where a video is taken up whose pieces before exist; an encoder began anew there.
    """

    def __init__(self, video: VideoFormat, *, container: str = "mp4", start_frame: int = 0) -> None:
        self._encoding = video.encoding or H264
        self._encoding.check_size(video.width, video.height)
        self.frames = start_frame
        self.began = start_frame
        """The frame at which the encoder at work began."""
        self._shape = (video.height, video.width, 3)
        self._fps = video.fps
        self._metadata = dict(video.metadata)
        self._container = CONTAINERS[container]
        self._period = max(1, round(KEY_FRAME_SECONDS * video.fps))
        self._stream = self._new_stream()

    def encode(self, frames: np.ndarray) -> bytes:
        """Return one piece; the first of a video has its header as well. frames: uint8 RGB [T, H, W, 3], T >= 1."""
        fits = len(frames) and frames.dtype == np.uint8 and frames.shape[1:] == self._shape
        assert fits, (frames.dtype, frames.shape, self._shape)
        if self.frames - self.began >= self._period:
            self._stream, self.began = self._new_stream(), self.frames
        first, target = self.frames == 0, io.BytesIO()
        options = {key: value.format(index=self.frames + 1) for key, value in self._container.options.items()}
        with av.open(target, "w", format=self._container.muxer, options=options) as muxer:
            if first:
                muxer.metadata.update(self._metadata)
            stream = muxer.add_stream_from_template(self._stream, opaque=True)
            stream.time_base = 1 / self._fps
            for pixels in frames:
                for packet in self._stream.encode(self._frame(pixels)):
                    packet.stream = stream
                    muxer.mux(packet)
        piece = target.getvalue()
        return piece if first else piece[self._container.body(piece) :]

    def _new_stream(self) -> VideoStream:
        """Open an encoder that has seen no frame yet."""
        # Its packets go to other muxers; this one opens the encoder, is the template of their streams, and is done:
        # some PyAV releases crash when a muxer that was started is first closed by the garbage collector.
        height, width, _ = self._shape
        carrier = av.open(io.BytesIO(), "w", format="mp4" if self._encoding.codec == "libx264" else "nut")
        options = dict(self._encoding.options)
        stream = carrier.add_stream(self._encoding.codec, rate=self._fps, options=options, width=width, height=height)
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = self._encoding.pixel_format
        encoder = stream.codec_context
        encoder.time_base = 1 / self._fps
        encoder.thread_count = 1
        encoder.gop_size = 2 * self._period  # for chunks that are longer than it takes to begin anew
        self._tag(stream)
        try:
            carrier.start_encoding()
        except av.error.ExternalError as error:  # x264 says no more when memory is short
            raise DeviceError(
                f"{self._encoding.codec} did not start for frames of {width}x{height}, as when memory is short; "
                "close other programs or ask for less, such as a smaller --size"
            ) from error
        carrier.close()
        return stream

    def _tag(self, stream: VideoStream) -> None:
        encoder, encoding = stream.codec_context, self._encoding
        encoder.color_primaries, encoder.color_trc = encoding.primaries, encoding.transfer
        encoder.colorspace = encoding.matrix if encoding.tagged_matrix is None else encoding.tagged_matrix
        encoder.color_range = encoding.range if encoding.tagged_range is None else encoding.tagged_range
        encoder.sample_aspect_ratio = encoding.sample_aspect_ratio

    def _frame(self, pixels: np.ndarray) -> av.VideoFrame:
        """Convert the next frame [H, W, 3] to the encoder's pixel format, and give it its timestamp."""
        encoding = self._encoding
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if encoding.is_rgb:
            frame = frame.reformat(format=encoding.pixel_format)
        else:
            frame = frame.reformat(
                format=encoding.pixel_format, dst_colorspace=encoding.matrix, dst_color_range=encoding.range
            )
        frame.pts, frame.time_base = self.frames, 1 / self._fps
        self.frames += 1
        return frame
