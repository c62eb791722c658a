"""Decoded frames -> RGB as they are meant to be seen, and which of them is seen when.

A frame is what a decoder gives: YUV of some matrix and range, pixels that need not be square, perhaps lying on its
side, perhaps two fields. What is seen is uint8 RGB [H, W, 3].
"""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count

import av
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream

from causvid_cli.errors import MediaError
from causvid_cli.media.probe import MAX_PIXELS

LATE_S = Fraction(1, 500)
"""A frame counts as shown at a tick when it comes at most so much later: Matroska rounds times to milliseconds."""

USUAL_FPS = Fraction(25)
"""The rate of a video that does not say its own."""

Timed = tuple[Fraction, Fraction, VideoFrame]
"""When a frame comes and how long it lasts, seconds; the frame."""
Damaged = Callable[[int, str], None]
"""Is told the number of a frame and what is wrong with it; may raise."""

_UNSPECIFIED = 2  # colour matrix, ITU-T H.273
_HDR = {16: "PQ", 18: "HLG"}  # transfer, ITU-T H.273
_BT2020 = 9  # primaries, ITU-T H.273
_STRANGEST_PIXEL = 4  # times as wide as high, or the other way round; more is a slip or a trap
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_TONE_MAP = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How all frames of a video are shown.

    stored: size of its frames. square: the same with square pixels.
    sideways, mirrored, upside_down: rows and columns swapped first, then columns, then rows reversed.
    """

    stored: tuple[int, int]
    square: tuple[int, int]
    sideways: bool = False
    mirrored: bool = False
    upside_down: bool = False
    interlaced: bool = False
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as shown."""
        return self.square[::-1] if self.sideways else self.square

    @property
    def rotation(self) -> int:
        """Degrees that the frames are turned clockwise: 0, 90, 180 or 270."""
        if self.sideways:
            return 90 if self.mirrored else 270
        return 180 if self.upside_down else 0

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """Return uint8 RGB [H, W, 3]: transparent parts on black, colours by the matrix that the frame tells."""
        pixels = (
            flattened(frame)
            .reformat(
                *self.square,
                "rgb24",
                src_colorspace=_matrix_of(frame),
                interpolation=_SCALING,
            )
            .to_ndarray()
        )
        if self.sideways:
            pixels = pixels.swapaxes(0, 1)
        pixels = pixels[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]
        return np.ascontiguousarray(pixels)


def view_of(frame: VideoFrame, *, aspect: Fraction | None, name: str, sdr_name: str) -> View:
    """Return the view of a video by its first frame.

    aspect: width of a stored pixel over its height. name: of the video, for errors; sdr_name: for what HDR becomes.
    Raises MediaError for HDR and for frames that are too large.
    """
    check_frame_size(frame.width, frame.height, name)
    if frame.color_trc in _HDR:
        command = f"ffmpeg -i {_file_argument(name)} -vf {_TONE_MAP} -c:a copy {_file_argument(sdr_name)}"
        raise MediaError(f"{name}: is HDR ({_HDR[frame.color_trc]}), made for other screens; map it first: {command}")
    notes = []
    if frame.color_primaries == _BT2020:
        notes.append("its wide-gamut colours look paler")
    square = (frame.width, frame.height)
    if aspect and aspect != 1:
        if not Fraction(1, _STRANGEST_PIXEL) <= aspect <= _STRANGEST_PIXEL:
            notes.append(f"its pixels of {aspect.numerator}:{aspect.denominator} taken as square")
        else:  # the longer side grows, so that nothing is lost
            if aspect > 1:
                square = _even(frame.width * aspect), frame.height
            else:
                square = frame.width, _even(frame.height / aspect)
            check_frame_size(*square, name)
            notes.append(f"its pixels of {aspect.numerator}:{aspect.denominator} made square")
    sideways, mirrored, upside_down = _orientation(frame, notes)
    if frame.interlaced_frame:
        notes.append("its fields put together (deinterlaced)")
    if has_alpha(frame) and frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255:
        notes.append("its transparent parts filled with black")
    return View(
        stored=(frame.width, frame.height),
        square=square,
        sideways=sideways,
        mirrored=mirrored,
        upside_down=upside_down,
        interlaced=bool(frame.interlaced_frame),
        notes=tuple(notes),
    )


def flattened(frame: VideoFrame) -> VideoFrame:
    """Return a frame with its transparent parts filled with black, as RGB; one without transparency as it is."""
    if not has_alpha(frame):
        return frame
    rgba = frame.reformat(format="rgba", src_colorspace=_matrix_of(frame), interpolation=_SCALING).to_ndarray()
    colour = (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255
    flat = VideoFrame.from_ndarray(colour.astype(np.uint8), format="rgb24")
    flat.pts, flat.time_base, flat.duration = frame.pts, frame.time_base, frame.duration
    return flat


def has_alpha(frame: VideoFrame) -> bool:
    """Return whether the format of a frame can hold transparency."""
    return any(component.is_alpha for component in frame.format.components)


def _matrix_of(frame: VideoFrame) -> Colorspace | None:
    """Return the matrix of a frame's colours that players take for its size; None where the frame says it."""
    if frame.colorspace != _UNSPECIFIED:
        return None
    return Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601


def check_frame_size(width: int, height: int, name: str) -> None:
    """Refuse frames beyond MAX_PIXELS, before one is decoded."""
    if width * height > MAX_PIXELS:
        most = f"more than {MAX_PIXELS // 10**6} megapixels a frame"
        raise MediaError(f"{name}: {width}x{height} is {most}; scale it down first")


REMEDY = "; --tolerate-damage goes on with what can be read"
"""The end of a message about damage."""


def damage_noted(name: str, notes: list[str], *, tolerate: bool, remedy: str = REMEDY) -> Damaged:
    """Return what is told of a file's damage: it notes the first where that is tolerated, else raises MediaError."""

    def damaged(number: int, reason: str) -> None:
        where = f"damaged at frame {number} ({reason})"
        if not tolerate:
            raise MediaError(f"{name}: {where}{remedy}")
        if not any(note.startswith("damaged") for note in notes):
            notes.append(where)

    return damaged


def decoded(
    container: InputContainer,
    stream: VideoStream,
    damaged: Damaged,
    *,
    strict: bool,
    number: int = 0,
    first_pts: int | None = None,
) -> Iterator[VideoFrame]:
    """Yield every frame that can be decoded. damaged(frame number, reason) is told of the others, and may raise.

    number: of the first frame. strict: the decoder reports what it would otherwise patch up.
    first_pts: of the key frame sought. Frames shown before it may need what was skipped: they are left out, and the
    decoder is not strict, since it would call that damage.
    """
    explode = {"err_detect": "explode"} if strict and first_pts is None else {}
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)} | explode
    packets = container.demux(stream)
    while True:
        packet = None
        try:
            packet = next(packets, None)
            if packet is None:
                return
            if packet.is_corrupt:
                damaged(number, "torn")
                continue
            frames = packet.decode()
        except av.error.FFmpegError as error:
            damaged(number, reason_of(error))
            if packet is None:
                return
            continue
        for frame in frames:
            if first_pts is not None and frame.pts is not None and frame.pts < first_pts:
                continue
            if frame.is_corrupt:
                damaged(number, "parts of it are lost")
            yield frame
            number += 1


def reason_of(error: OSError | av.error.FFmpegError) -> str:
    """Return why the system or FFmpeg failed, to be put in brackets."""
    return (error.strerror or str(error)).lower()


def resample(timed: Iterable[Timed], *, fps: Fraction, start: Fraction) -> Iterator[VideoFrame]:
    """Yield the frame that is seen at each tick of `fps` a second, from `start` to the end of the last frame.

    timed: in order. A frame is handed on as soon as it is due.
    """
    ticks = (start + number / fps for number in count())
    seen, tick, end = None, next(ticks), start
    for begin, lasts, frame in timed:
        while seen is not None and tick < begin - LATE_S:
            yield seen
            tick = next(ticks)
        seen, end = frame, begin + lasts
        while tick <= begin + LATE_S:
            yield seen
            tick = next(ticks)
    while seen is not None and tick < end - LATE_S:
        yield seen
        tick = next(ticks)


def rgb_frames(frames: Iterable[VideoFrame], view: View) -> Iterator[np.ndarray]:
    """Yield each frame as RGB; one that is seen again is not converted again, and must not be written to."""
    seen, pixels = None, None
    for frame in frames:
        if frame is not seen or pixels is None:
            seen, pixels = frame, view.rgb(frame)
            pixels.flags.writeable = False
        yield pixels


def deinterlace(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Yield whole frames for interlaced ones, at the same rate; frames that are whole pass unchanged."""
    graph = None
    for frame in frames:
        if graph is None:
            graph = _deinterlacer(frame)
        graph.vpush(frame)
        yield from pulled(graph)
    if graph is not None:
        graph.vpush(None)
        yield from pulled(graph)


def _deinterlacer(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(
        source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def pulled(graph: av.filter.Graph) -> Iterator[VideoFrame]:
    """Yield the frames that a filter graph has ready."""
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _orientation(frame: VideoFrame, notes: list[str]) -> tuple[bool, bool, bool]:
    """Return (sideways, mirrored, upside_down) by the display matrix (ISO 14496-12): x' = ax + cy, y' = bx + dy."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, Buffer):
        return False, False, False
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), np.int32)[:5])
    tilt = math.degrees(math.atan2(b, a)) % 90
    if 1 < tilt < 89 or a * d == b * c:
        notes.append(f"its tilt of {tilt:.0f} degrees left out")
        return False, False, False
    sideways = abs(b) > abs(a)
    mirrored, upside_down = (c < 0, b < 0) if sideways else (a < 0, d < 0)
    if sideways or mirrored or upside_down:
        notes.append("turned upright")
    return sideways, mirrored, upside_down


def _even(side: Fraction) -> int:
    return max(2, 2 * round(side / 2))


def _file_argument(name: str) -> str:
    """Return a file's name for a command line: quoted, and no option or URL."""
    plain = name if name == "-" or name.startswith(("/", "./", "../")) else f"./{name}"
    return shlex.quote(plain)
