"""Chunks -> a file: playable at every moment, published in one step, an error for every byte that did not arrive."""

import os
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import av
import numpy as np

from causvid_cli.errors import MediaError, OutputError
from causvid_cli.video.encode import FragmentEncoder, VideoFormat
from causvid_cli.video.files import create_file, give_name, open_locked, output_errors, remove_open, sync_folder
from causvid_cli.video.formats import PUBLISH, check_output, form_of, numbered, part_of, partial_of
from causvid_cli.video.publish import Finish, write_pictures
from causvid_cli.video.verify import fault_of_video, fault_of_webp


@dataclass(frozen=True, slots=True)
class Restart:
    """A place in a `.part` where its encoder began anew: the bytes before it, their CRC-32, the frames in them."""

    bytes: int = 0
    frames: int = 0
    crc: int = 0


class Writer(Protocol):
    """Takes the chunks of a video; entered before the first, left after the last, whatever happened."""

    path: Path
    part_path: Path

    @property
    def frames_written(self) -> int:
        """Frames that the output holds."""

    @property
    def restart(self) -> Restart:
        """The latest place where a broken-off video can be taken up."""

    def write(self, frames: np.ndarray) -> None:
        """Append one chunk, uint8 RGB [T, H, W, 3]; when this returns, the chunk outlives the process."""

    def publish(self) -> Path:
        """Finish the video under its name, and return that."""

    def publish_partial(self) -> Path:
        """Finish what there is under another name, and return that; the video itself can still go on."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class FileWriter:
    """Writes one video, chunk by chunk; what was written survives whatever happens.

        video = VideoFormat(width=832, height=480, fps=Fraction(16), metadata=recipe_to_metadata(recipe))
        with open_writer(path, video) as writer:
            for chunk in chunks:
                writer.write(chunk.frames)
            writer.publish()

    Chunks go to `NAME.part`, which is locked against a second writer and, without `resume`, replaces a stale one of
    an earlier run. Leaving the block unpublished (an error, Ctrl-C) keeps it: it plays, has the metadata, and nothing
    has the final name. A kill in the middle of write() may leave a torn last piece, which players skip.

    The tags are in the `.part` from the first chunk on, the chapters come on publish().
    resume: go on with the `.part` from there (the `restart` of the writer that was broken off): equal frames give the
    bytes of an unbroken run. finish: makes the finished file; what it makes has all frames of the `.part`.
    Everything the system refuses (full disk, quota, denied, ...) raises OutputError.
    """

    def __init__(
        self,
        path: Path,
        video: VideoFormat,
        *,
        overwrite: bool = False,
        resume: Restart | None = None,
        finish: Finish | None = None,
    ) -> None:
        check_output(path, video, overwrite=overwrite, joins=finish is not None)
        form = form_of(path, lossless=video.lossless)
        self.path, self.part_path = path, part_of(path)
        self._video, self._form, self._overwrite = video, form, overwrite
        self._finish = finish or (form.finish() if form.finish else None)
        self._joins = finish is not None
        self._resume = resume or Restart()
        self._encoder = FragmentEncoder(
            replace(video, encoding=video.encoding or form.encoding),
            container=form.container,
            start_frame=self._resume.frames,
        )
        # What is whole, and where its encoder began; one value, so that no Ctrl-C parts them.
        self._whole = (self._resume, self._resume)
        self._published = False

    def __enter__(self) -> Self:
        with output_errors(self._failure):
            self._part = open_locked(self.part_path, kept_bytes=self._resume.bytes)
        return self

    def __exit__(self, *_: object) -> None:
        with output_errors(self._failure):
            if not self._part.closed and not os.fstat(self._part.fileno()).st_size:
                remove_open(self._part, self.part_path)
            self._part.close()  # lets go of the lock

    @property
    def frames_written(self) -> int:
        """Frames that the file holds, those of the run before included."""
        return self._whole[0].frames

    @property
    def restart(self) -> Restart:
        """The latest place in the `.part` from which `resume` goes on."""
        return self._whole[1]

    def write(self, frames: np.ndarray) -> None:
        """Append one chunk, uint8 RGB [T, H, W, 3]; when this returns, the chunk outlives the process.

        After an exception the file holds the chunks before, and only publish() makes sense.
        """
        assert not self._published
        if not len(frames):
            return
        piece = self._encoder.encode(frames)
        before, restart = self._whole
        if self._encoder.began == before.frames:
            restart = before
        with output_errors(self._failure):
            try:
                self._part.seek(before.bytes)
                self._part.write(piece)
                self._part.truncate()  # an earlier run's pictures go when others have taken their place
                crc = zlib.crc32(piece, before.crc)
                self._whole = (Restart(before.bytes + len(piece), before.frames + len(frames), crc), restart)
            except BaseException:
                with suppress(OSError):
                    self._part.truncate(self._whole[0].bytes)
                raise

    def publish(self) -> Path:
        """Finish the video under its name, and return that.

        The name gets a verified, synced file or, on failure, nothing: then the `.part` stays. Raises OutputError, also
        when the name was taken meanwhile and `overwrite` is off.
        """
        self._publish_as(self.path, overwrite=self._overwrite)
        with output_errors(self._failure):
            self._published = True
            remove_open(self._part, self.part_path)
        return self.path

    def publish_partial(self) -> Path:
        """Finish what there is as `NAME.partial.mp4`, in the place of an older one; the `.part` stays. As publish()."""
        path = partial_of(self.path)
        self._publish_as(path, overwrite=True)
        return path

    def _publish_as(self, path: Path, *, overwrite: bool) -> None:
        if not self.frames_written:
            raise OutputError(f"{self.path}: no frames were made, so nothing was written")
        finished = self.path.with_name(self.path.name + PUBLISH)
        with output_errors(self._failure):
            self._verify_part()
            finished.unlink(missing_ok=True)  # a run killed while publishing left it, perhaps linked to the old video
            try:
                self._make(finished)
                self._verify_finished(finished)
                give_name(finished, path, overwrite=overwrite)
                sync_folder(path.parent)
            finally:
                finished.unlink(missing_ok=True)

    def _make(self, path: Path) -> None:
        """Write the finished file, and sync it."""
        assert self._finish is not None
        chapters = [chapter for chapter in self._video.chapters if chapter.start_frame < self.frames_written]
        with create_file(path) as target:
            try:
                self._finish(self.part_path, target, metadata=self._video.metadata, chapters=chapters)
            except (av.error.FFmpegError, MediaError, OutputError):
                if target.failure is None:
                    raise
            if target.failure is not None:
                raise target.failure
            os.fsync(target.fileno())

    def _verify_part(self) -> None:
        self._part.truncate(self._whole[0].bytes)
        self._verify(
            fault_of_video(
                self.part_path,
                frames=self.frames_written,
                fps=self._video.fps,
                tick=self._form.tick,
                metadata=self._video.metadata,
            )
        )

    def _verify_finished(self, path: Path) -> None:
        """Read the finished file back: all its frames, our rate unless it is joined to another's, and our recipe."""
        assert self._finish is not None
        if self._form.is_webp:
            self._verify(fault_of_webp(path, frames=self.frames_written, fps=self._video.fps))
            return
        fault = fault_of_video(
            path,
            frames=self._finish.frames_before + self.frames_written,
            fps=None if self._joins or not self._form.tells else self._video.fps,
            tick=self._form.tick,
            metadata=self._video.metadata if self._form.tells else {},
        )
        self._verify(fault)

    def _verify(self, fault: str) -> None:
        if fault:
            raise OutputError(self._failure(f"did not verify: {fault}"))

    def _failure(self, reason: str) -> str:
        whole = self._whole[0]
        kept = f"; {whole.frames} frames ({whole.bytes} bytes) are kept in {self.part_path}" if whole.frames else ""
        return f"{self.path}: {reason}{kept}"


class PicturesWriter(FileWriter):
    """Writes `folder/%05d.png`: a lossless `.part`, and all pictures, numbered from 1, when it is published."""

    def _publish_as(self, path: Path, *, overwrite: bool) -> None:
        if not self.frames_written:
            raise OutputError(f"{self.path}: no frames were made, so nothing was written")
        finished = self.path.with_name(self.path.name + PUBLISH)
        with output_errors(self._failure):
            self._verify_part()
            shutil.rmtree(finished, ignore_errors=True)
            finished.mkdir()
            try:
                made = self._make_pictures(finished)
                path.parent.mkdir(exist_ok=True)  # of a partial video
                _name_all(made, path, overwrite=overwrite)
            finally:
                shutil.rmtree(finished, ignore_errors=True)

    def _make_pictures(self, folder: Path) -> list[Path]:
        made = []
        for path in write_pictures(self.part_path, folder, self.path.name):
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
            made.append(path)
        if len(made) != self.frames_written:
            self._verify(f"{self.part_path} gave {len(made)} pictures, not {self.frames_written}")
        return made


def _name_all(made: Sequence[Path], path: Path, *, overwrite: bool) -> None:
    """Give finished pictures their names; without `overwrite`, none if one of them is taken."""
    old = numbered(path)
    if old and not overwrite:
        raise FileExistsError(0, f"{old[0].name} was made meanwhile; -y overwrites, or choose another -o")
    for picture in made:
        give_name(picture, path.with_name(picture.name), overwrite=overwrite)
    for picture in set(old) - {path.with_name(picture.name) for picture in made}:
        picture.unlink()
    sync_folder(path.parent)


def open_writer(
    path: Path,
    video: VideoFormat,
    *,
    overwrite: bool = False,
    resume: Restart | None = None,
    finish: Finish | None = None,
) -> FileWriter:
    """What writes a file of this name: .mp4, .m4v, .mov, .mkv, .webm, .gif, .webp or folder/%05d.png.

    A lossless video is FFV1 in .mkv, .webp or .png. finish, as `FileWriter` has it, and an encoding of the video's own
    are for MP4. Raises OutputError for a name that cannot be written, UsageError for a size, a rate or a loss.
    """
    kind = PicturesWriter if form_of(path).finish is None else FileWriter
    return kind(path, video, overwrite=overwrite, resume=resume, finish=finish)
