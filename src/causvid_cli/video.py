"""Frames -> MP4 file: playable at every moment, published in one step, an error for every byte that did not arrive.

    encode    FragmentEncoder   frames -> the bytes of one MP4 fragment, H.264, in memory
    keep      Mp4Writer.write   appended to NAME.mp4.part with our own write(), so that a full disk is an error
    publish   Mp4Writer.publish verified, remuxed to NAME.mp4.publish, verified, synced, linked to NAME.mp4

PyAV never writes a fragment to the disk itself: its last flush swallows a full disk, and it has no call that ends a
fragment now. So each chunk gets a muxer of its own, which writes to memory, and the encoder lives on across them.
"""

import errno
import fcntl
import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace

from causvid_cli.errors import MediaError, OutputError, UsageError
from causvid_cli.probe import Chapter, read_info
from causvid_cli.recipe import metadata_to_recipe

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CRF = 17
"""x264's constant quality: about where a viewer sees no loss."""
PRESET = "fast"
"""x264's speed: 55 frames/s at 832x480 on one 2026 core, 15 % smaller than "veryfast"."""
KEY_FRAME_SECONDS = 2
MIN_FREE_BYTES = 100_000

_PART, _PUBLISH = ".part", ".publish"
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # exFAT, some network and FUSE mounts


def check_output(path: Path, *, overwrite: bool, expected_bytes: int | None = None) -> None:
    """Find what would keep `path` from being written, before a model loads. Raises OutputError; leaves no trace.

    expected_bytes: size of the finished video. Twice that must be free: the `.part` and the remuxed file exist at once.
    """
    folder = path.parent
    with _output_errors(lambda reason: f"{path}: {reason}"):
        if not folder.exists():
            raise OutputError(f"folder {folder} does not exist; create it with mkdir -p {shlex.quote(str(folder))}")
        if not folder.is_dir():
            raise OutputError(f"{folder} is not a folder; choose another -o")
        longest, limit = len(os.fsencode(path.name + _PUBLISH)), os.pathconf(folder, "PC_NAME_MAX")
        if longest > limit:
            raise OutputError(f"{path}: the name is {longest - limit} bytes too long; choose a shorter -o")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; try -o {shlex.quote(str(path / 'video.mp4'))}")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe, not a file; choose another -o")
        if path.suffix.lower() != ".mp4":
            raise OutputError(f"{path}: only .mp4 can be written for now; try -o {shlex.quote(f'{path}.mp4')}")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} exists; -y overwrites it, or choose another -o")
    with (
        _output_errors(lambda reason: f"cannot write in folder {folder}: {reason}; choose another -o"),
        tempfile.TemporaryFile(dir=folder),  # asking for permission instead is wrong for root and on some mounts
    ):
        needed, free = max(2 * (expected_bytes or 0), MIN_FREE_BYTES), shutil.disk_usage(folder).free
        if free < needed:
            room = f"{path} needs {needed / 1e6:.1f} MB and folder {folder} has {free / 1e6:.1f} MB free"
            raise OutputError(f"{room}; free some space or choose another -o")


class FragmentEncoder:
    """Frames -> fragmented MP4, a fragment per chunk; the fragments joined are a video that plays up to the last one.

    H.264 yuv420p, converted to BT.709 and tagged so; constant frame rate, a timestamp per frame. No look-ahead, so no
    frame waits in the encoder; one thread, so equal frames give equal bytes.
    """

    def __init__(
        self,
        *,
        width: int,
        height: int,
        fps: Fraction,
        metadata: Mapping[str, str],
        crf: int = CRF,
        preset: str = PRESET,
    ) -> None:
        if width % 2 or height % 2:
            even = f"{width + width % 2}x{height + height % 2}"
            raise UsageError(f"size {width}x{height}: H.264 needs even sides; try {even}")
        self.frames = 0
        self._shape = (height, width, 3)
        self._metadata = dict(metadata)
        self._time_base = 1 / fps
        # Its packets go to other muxers; this one opens the encoder, is the template of their streams, and is done:
        # some PyAV releases crash when a muxer that was started is first closed by the garbage collector.
        self._carrier = av.open(io.BytesIO(), "w", format="mp4")
        options = {"preset": preset, "tune": "zerolatency", "crf": str(crf)}
        self._stream = self._carrier.add_stream("libx264", rate=fps, options=options, width=width, height=height)
        encoder = self._stream.codec_context
        encoder.time_base = self._time_base
        encoder.thread_count = 1
        encoder.gop_size = max(1, round(KEY_FRAME_SECONDS * fps))
        encoder.colorspace = encoder.color_primaries = encoder.color_trc = 1  # BT.709 in ITU-T H.273, all three
        encoder.color_range = ColorRange.MPEG
        self._carrier.start_encoding()
        self._carrier.close()

    def encode(self, frames: np.ndarray) -> bytes:
        """One fragment. frames: uint8 RGB [T, H, W, 3], T >= 1. The first fragment carries the header as well."""
        fits = len(frames) and frames.dtype == np.uint8 and frames.shape[1:] == self._shape
        assert fits, (frames.dtype, frames.shape, self._shape)
        first, target = self.frames == 0, io.BytesIO()
        options = {
            "movflags": "frag_custom+empty_moov+default_base_moof+frag_discont+skip_trailer+use_metadata_tags",
            "avoid_negative_ts": "disabled",  # else every muxer would start at time 0
            "fragment_index": str(self.frames + 1),  # rising is enough
        }
        with av.open(target, "w", format="mp4", options=options) as muxer:
            if first:
                muxer.metadata.update(self._metadata)
            stream = muxer.add_stream_from_template(self._stream, opaque=True)
            for pixels in frames:
                for packet in self._stream.encode(self._frame(pixels)):
                    packet.stream = stream
                    muxer.mux(packet)
        fragment, start = target.getvalue(), 0
        while not first and fragment[start + 4 : start + 8] != b"moof":  # skip ftyp and moov, box by box
            start += int.from_bytes(fragment[start : start + 4])
        return fragment[start:]

    def _frame(self, pixels: np.ndarray) -> av.VideoFrame:
        """The next frame of the video, as BT.709 limited-range yuv420p."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.time_base = self.frames, self._time_base
        self.frames += 1
        return frame


class Mp4Writer:
    """Writes one MP4, chunk by chunk; what was written survives whatever happens.

        with Mp4Writer(path, width=832, height=480, fps=Fraction(16), metadata=recipe_to_metadata(recipe)) as writer:
            for chunk in chunks:
                writer.write(chunk.frames)
            writer.publish()

    Chunks go to `NAME.mp4.part`, which is locked against a second writer and replaces a stale one of an earlier run.
    Leaving the block unpublished (an error, Ctrl-C) keeps it: it plays, has the metadata, and nothing has the final
    name. A kill in the middle of write() may leave a torn last fragment, which players skip.

    metadata: tags, in the `.part` from the first chunk on (`recipe_to_metadata`).
    chapters: titles, by first frame; written on publish(); those beyond the last frame are left out.
    Everything the system refuses (full disk, quota, denied, ...) raises OutputError. Needs POSIX (flock).
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: Fraction,
        overwrite: bool = False,
        metadata: Mapping[str, str] | None = None,
        chapters: Sequence[Chapter] = (),
        crf: int = CRF,
        preset: str = PRESET,
    ) -> None:
        check_output(path, overwrite=overwrite)
        self.path = path
        self.part_path = path.with_name(path.name + _PART)
        self._overwrite = overwrite
        self._fps = fps
        self._metadata = dict(metadata or {})
        self._chapters = chapters
        self._encoder = FragmentEncoder(
            width=width, height=height, fps=fps, metadata=self._metadata, crf=crf, preset=preset
        )
        self._whole = (0, 0)  # bytes and frames of the whole fragments; one value, so that no Ctrl-C parts them
        self._published = False

    def __enter__(self) -> Self:
        with _output_errors(self._failure):
            self._part = _open_locked(self.part_path)
        return self

    def __exit__(self, *_: object) -> None:
        with _output_errors(self._failure):
            if not self._published and not self.frames_written:
                self.part_path.unlink(missing_ok=True)
            self._part.close()  # lets go of the lock

    @property
    def frames_written(self) -> int:
        """Frames that the file holds."""
        return self._whole[1]

    def write(self, frames: np.ndarray) -> None:
        """Append one chunk, uint8 RGB [T, H, W, 3]; when this returns, the chunk outlives the process.

        After an exception the file holds the chunks before, and only publish() makes sense.
        """
        assert not self._published
        if not len(frames):
            return
        fragment = self._encoder.encode(frames)
        size, count = self._whole
        with _output_errors(self._failure):
            try:
                self._part.write(fragment)
                self._whole = (size + len(fragment), count + len(frames))
            except BaseException:
                with suppress(OSError):
                    self._part.truncate(self._whole[0])
                raise

    def publish(self) -> Path:
        """Finish the video under its name, and return that.

        The name gets a verified, synced file with the index in front (faststart) or, on failure, nothing: then the
        `.part` stays. Raises OutputError, also when the name was taken meanwhile and `overwrite` is off.
        """
        if not self.frames_written:
            raise OutputError(f"{self.path}: no frames were made, so nothing was written")
        finished = self.path.with_name(self.path.name + _PUBLISH)
        with _output_errors(self._failure):
            self._verify(self.part_path)
            finished.unlink(missing_ok=True)  # a run killed while publishing left it, perhaps linked to the old video
            try:
                self._remux(finished)
                self._verify(finished)
                _publish(finished, self.path, overwrite=self._overwrite)
                _sync_folder(self.path.parent)
            finally:
                finished.unlink(missing_ok=True)
            self._published = True
            self.part_path.unlink(missing_ok=True)
        return self.path

    def _remux(self, target_path: Path) -> None:
        """Copy the packets of the `.part` into an ordinary MP4, its index first, and sync it."""
        created = os.open(target_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # PyAV takes a name for UTF-8
        with _OutputFile(created, "r+") as target_file, open(self.part_path, "rb") as source_file:
            try:
                with (
                    av.open(source_file, "r", format="mp4") as source,
                    av.open(
                        target_file,
                        "w",
                        format="mp4",
                        options={"movflags": "faststart+use_metadata_tags"},
                        io_open=lambda *_: open(target_path, "rb"),  # faststart reads back what it moves
                    ) as target,
                ):
                    stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
                    target.metadata.update(self._metadata)
                    self._set_chapters(target)
                    for packet in source.demux(video=0):
                        if packet.size:
                            packet.stream = stream
                            target.mux(packet)
            except av.error.FFmpegError:
                if target_file.failure is None:
                    raise
            if target_file.failure is not None:
                raise target_file.failure
            os.fsync(target_file.fileno())

    def _set_chapters(self, target: OutputContainer) -> None:
        chapters = [chapter for chapter in self._chapters if chapter.start_frame < self.frames_written]
        ends = [chapter.start_frame for chapter in chapters[1:]] + [self.frames_written]
        target.set_chapters(
            [
                {
                    "id": index,
                    "start": chapter.start_frame,
                    "end": end,
                    "time_base": 1 / self._fps,
                    "metadata": {"title": chapter.title},
                }
                for index, (chapter, end) in enumerate(zip(chapters, ends, strict=False))
            ]
        )

    def _verify(self, path: Path) -> None:
        """Read a file back: exactly our frames, our rate and our recipe, or OutputError."""
        try:
            info = read_info(path)
        except MediaError as error:
            raise OutputError(self._failure(f"did not verify: {error}")) from error
        if (info.frames, info.fps) != (self.frames_written, self._fps):
            counts = f"{info.frames} frames at {info.fps}/s, not {self.frames_written} at {self._fps}/s"
            raise OutputError(self._failure(f"did not verify: {path} has {counts}"))
        if info.recipe != metadata_to_recipe(self._metadata):
            raise OutputError(self._failure(f"did not verify: the recipe in {path} is not the one written"))

    def _failure(self, reason: str) -> str:
        size, frames = self._whole
        kept = f"; {frames} frames ({size} bytes) are kept in {self.part_path}" if frames else ""
        return f"{self.path}: {reason}{kept}"


class _OutputFile(io.FileIO):
    """An unbuffered file whose write() writes all it is given or raises; PyAV takes a short write for a whole one."""

    failure: BaseException | None = None
    """What write() raised first. PyAV, when it called write(), may report another error, and loses a Ctrl-C."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            rest = memoryview(data).cast("B")
            size = len(rest)
            while rest:
                rest = rest[super().write(rest) or 0 :]
            return size
        except BaseException as error:
            self.failure = self.failure or error
            raise


@contextmanager
def _output_errors(message: Callable[[str], str]) -> Iterator[None]:
    """Turn what the system refuses into OutputError; `message` makes its line from the system's reason."""
    try:
        yield
    except OSError as error:
        raise OutputError(message((error.strerror or str(error)).lower())) from error


def _open_locked(path: Path) -> _OutputFile:
    """An empty file at `path`, locked until it is closed. Raises OutputError when another writer holds the lock."""
    while True:
        file = _OutputFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _lock_owner(file)
            file.close()
            raise OutputError(f"{path} is being written by another causvid{owner}; choose another -o") from error
        except OSError:
            pass  # a file system without locks: rather unguarded than no video
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.truncate(0)
                return file
        file.close()  # published and removed between our open and our lock


def _lock_owner(file: _OutputFile) -> str:
    """Who holds a file's lock, as " (pid 123)"; empty where the system does not tell (only Linux does)."""
    status = os.fstat(file.fileno())
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError):
        # a line: 1: FLOCK  ADVISORY  WRITE 4019 fe:00:2146380 0 EOF
        for _, kind, _, _, pid, place, *_ in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if kind == "FLOCK" and place == device:
                return f" (pid {pid})"
    return ""


def _publish(finished: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its name in one step; without `overwrite`, a name that exists is an OutputError.

    Where hard links do not exist, the name is claimed with an empty file and that is replaced: nobody's video is ever
    overwritten, but a kill between the two calls leaves the empty file.
    """
    if overwrite:
        os.replace(finished, path)
        return
    try:
        try:
            os.link(finished, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            try:
                os.replace(finished, path)
            except BaseException:
                path.unlink()
                raise
    except FileExistsError as error:
        taken = "the name was taken meanwhile; -y overwrites, or choose another -o"
        raise FileExistsError(error.errno, taken) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network and FUSE mounts cannot
            raise
    finally:
        os.close(descriptor)
