"""Chunks -> a file: playable at every moment, published in one step, an error for every byte that did not arrive."""

import os
import shutil
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import av
import numpy as np

from causvid_cli.errors import MediaError, OutputError
from causvid_cli.files import output_file, sha256_of_file
from causvid_cli.media.probe import Chapter
from causvid_cli.video.encode import FragmentEncoder, VideoFormat
from causvid_cli.video.files import crc_of, create_file, give_name, open_locked, output_errors, remove_open, sync_folder
from causvid_cli.video.formats import PUBLISH, check_output, finished_files, form_of, numbered, part_of, partial_of
from causvid_cli.video.publish import Finish, write_frames
from causvid_cli.video.verify import fault_of_video, fault_of_webp

BeforeNaming = Callable[[Mapping[str, str]], None]
"""Called when the finished files are whole, before the first gets its name: takes their SHA-256 by name."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A position in a `.part` at which its encoder began anew: the bytes before it, their CRC-32, their frames."""

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
        """The latest position at which a broken-off video can be taken up."""

    def write(self, frames: np.ndarray) -> None:
        """Append one chunk, uint8 RGB [T, H, W, 3]; when this returns, the chunk outlives the process."""

    @property
    def keeps_part(self) -> bool:
        """Whether the `.part` is where it was, with all frames that were written."""

    def cut(self, restart: Restart) -> None:
        """Go back to a `restart` of this video: what was written after it is made anew."""

    def retell(self, metadata: Mapping[str, str], chapters: Sequence[Chapter]) -> None:
        """Say what the finished video tells of itself, where that is known only at its end."""

    def publish(self, *, before_naming: BeforeNaming | None = None) -> Path:
        """Finish the video under its name, and return that."""

    def publish_partial(self) -> Path:
        """Finish what there is under another name, and return that; the video itself can still go on."""

    def discard_part(self) -> None:
        """Remove the `.part` of a published video."""

    def discard_partial(self) -> None:
        """Remove what publish_partial() left, when there is more by now."""

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
    named: files that may be there, since an earlier run of this video gave them their names before it was killed.
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
        named: Collection[str] = (),
        resume: Restart | None = None,
        finish: Finish | None = None,
    ) -> None:
        check_output(path, video, overwrite=overwrite, joins=finish is not None, named=named)
        form = form_of(path, lossless=video.lossless)
        self.path, self.part_path = path, part_of(path)
        self._video, self._form, self._overwrite, self._named = video, form, overwrite, named
        self._finish = finish or (form.finish(video.soundtrack) if form.finish else None)
        self._joins = finish is not None
        self._resume = resume or Restart()
        self._told = video
        self._encoder = self._new_encoder(self._resume.frames)
        # What is whole, and where its encoder began; one value, so that no Ctrl-C parts them.
        self._whole = (self._resume, self._resume)
        self._published = False

    def __enter__(self) -> Self:
        with output_errors(self._failure):
            self._part = open_locked(self.part_path, kept_bytes=self._resume.bytes)
        return self

    def __exit__(self, *_: object) -> None:
        with output_errors(self._failure):
            if self._published or not os.fstat(self._part.fileno()).st_size:
                self.discard_part()
            self._part.close()  # lets go of the lock

    def _new_encoder(self, start_frame: int) -> FragmentEncoder:
        video = replace(self._video, encoding=self._video.encoding or self._form.encoding)
        return FragmentEncoder(video, container=self._form.container, start_frame=start_frame)

    @property
    def frames_written(self) -> int:
        """Frames that the file holds, those of the run before included."""
        return self._whole[0].frames

    @property
    def restart(self) -> Restart:
        """The latest position in the `.part` from which `resume` goes on."""
        return self._whole[1]

    @property
    def keeps_part(self) -> bool:
        """Whether the `.part` is where it was, with all frames that were written."""
        with suppress(OSError, ValueError):  # removed; closed
            return os.path.samestat(os.fstat(self._part.fileno()), os.stat(self.part_path))
        return False

    def write(self, frames: np.ndarray) -> None:
        """Append one chunk, uint8 RGB [T, H, W, 3]; when this returns, the chunk outlives the process.

        After an exception the file holds the chunks before, and only publish() makes sense.
        """
        assert not self._published
        if not len(frames):
            return
        self._check_part()
        piece = self._encoder.encode(frames)
        before, restart = self._whole
        if self._encoder.began == before.frames:
            restart = before
        with output_errors(self._failure):
            try:
                self._part.seek(before.bytes)
                self._part.write(piece)
                self._part.truncate()  # an earlier run's frames go when others have replaced them
                crc = zlib.crc32(piece, before.crc)
                self._whole = (Restart(before.bytes + len(piece), before.frames + len(frames), crc), restart)
            except BaseException:
                with suppress(OSError):
                    self._part.truncate(self._whole[0].bytes)
                raise

    def cut(self, restart: Restart) -> None:
        """Go back to a `restart` of this video: what was written after it is made anew. Raises OutputError."""
        self._check_part()
        with output_errors(self._failure):
            if crc_of(self.part_path, restart.bytes) != restart.crc:
                raise OutputError(f"{self.part_path} is not as it was written")
            self._part.truncate(restart.bytes)
        self._whole = (restart, restart)
        self._encoder = self._new_encoder(restart.frames)

    def retell(self, metadata: Mapping[str, str], chapters: Sequence[Chapter]) -> None:
        """Say what the finished video tells of itself, where that is known only at its end."""
        self._told = replace(self._video, metadata=metadata, chapters=chapters)

    def publish(self, *, before_naming: BeforeNaming | None = None) -> Path:
        """Finish the video under its name, and return that; the `.part` goes when the block is left.

        The name gets a verified, synced file or, on failure, nothing: then the `.part` stays. Raises OutputError, also
        when the name was taken meanwhile and `overwrite` is off.
        """
        self._publish_as(self.path, overwrite=self._overwrite, before_naming=before_naming)
        self._published = True
        return self.path

    def discard_part(self) -> None:
        """Remove the `.part` of a published video."""
        if self.keeps_part:
            with output_errors(self._failure):
                remove_open(self._part, self.part_path)

    def discard_partial(self) -> None:
        """Remove what publish_partial() left, when there is more by now."""
        with output_errors(self._failure):
            for path in finished_files(partial_of(self.path)):
                path.unlink()

    def publish_copy(self, path: Path) -> None:
        """Finish what there is under another name, which must be free; the video goes on. As publish()."""
        self._publish_as(path, overwrite=False)

    def publish_partial(self) -> Path:
        """Finish what there is as `NAME.partial.mp4`, replacing an older one; the `.part` stays. As publish()."""
        path = partial_of(self.path)
        self._publish_as(path, overwrite=True)
        return path

    def _publish_as(self, path: Path, *, overwrite: bool, before_naming: BeforeNaming | None = None) -> None:
        if not self.frames_written:
            raise OutputError(f"{self.path}: no frames were made, so nothing was written")
        self._check_part()
        with output_errors(self._failure):
            self._verify_part()
            remove_unpublished(self.path)  # a run killed while publishing left it, perhaps linked to the old video
            try:
                made = self._make_files(self.path.with_name(self.path.name + PUBLISH), path)
                if before_naming is not None:
                    before_naming({name: sha256_of_file(file) for name, file in made.items()})
                self._name(made, path, overwrite=overwrite)
                sync_folder(path.parent)
            finally:
                remove_unpublished(self.path)

    def _make_files(self, finished: Path, path: Path) -> dict[str, Path]:
        """Make the finished files at or in `finished`; return them by the names that they are to get."""
        self._make(finished)
        self._verify_finished(finished)
        return {path.name: finished}

    def _name(self, made: Mapping[str, Path], path: Path, *, overwrite: bool) -> None:
        """Give the finished files their names beside `path`."""
        for name, file in made.items():
            give_name(file, path.with_name(name), overwrite=overwrite or name in self._named)

    def _check_part(self) -> None:
        if not self.keeps_part:
            raise OutputError(f"{self.path}: {self.part_path} was removed or replaced while it was being written")

    def _make(self, path: Path) -> None:
        """Write the finished file, and sync it."""
        assert self._finish is not None
        chapters = [chapter for chapter in self._told.chapters if chapter.start_frame < self.frames_written]
        with create_file(path) as target:
            try:
                self._finish(self.part_path, target, metadata=self._told.metadata, chapters=chapters)
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
            fps=None if self._joins or not self._form.has_tags else self._video.fps,
            tick=self._form.tick,
            metadata=self._told.metadata if self._form.has_tags else {},
        )
        self._verify(fault)

    def _verify(self, fault: str) -> None:
        if fault:
            raise OutputError(self._failure(f"did not verify: {fault}"))

    def _failure(self, reason: str) -> str:
        whole = self._whole[0]
        if not whole.frames or not self.keeps_part:
            return f"{self.path}: {reason}"
        return f"{self.path}: {reason}; {whole.frames} frames ({whole.bytes} bytes) are kept in {self.part_path}"


class NumberedFramesWriter(FileWriter):
    """Writes `folder/%05d.png`: a lossless `.part`, and all frames, numbered from 1, when it is published.

    The folder is made, unless the one above it is missing as well.
    """

    def __enter__(self) -> Self:
        with output_errors(self._failure):
            self._made_folder = not self.path.parent.exists()
            self.path.parent.mkdir(exist_ok=True)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._made_folder:
            with suppress(OSError):  # something is in it
                self.path.parent.rmdir()

    def discard_partial(self) -> None:
        super().discard_partial()
        with suppress(OSError):  # there is none, or something else is in it
            partial_of(self.path).parent.rmdir()

    def _make_files(self, finished: Path, path: Path) -> dict[str, Path]:
        finished.mkdir()
        made = {}
        for file in write_frames(self.part_path, finished, self.path.name):
            with open(file, "r+b") as written:
                os.fsync(written.fileno())
            made[file.name] = file
        if len(made) != self.frames_written:
            self._verify(f"{self.part_path} gave {len(made)} frames, not {self.frames_written}")
        return made

    def _name(self, made: Mapping[str, Path], path: Path, *, overwrite: bool) -> None:
        """Give the frames their names; without `overwrite`, none if one of them is taken."""
        path.parent.mkdir(exist_ok=True)  # of a partial video
        old = {file.name: file for file in numbered(path)}
        taken = sorted(set(old) - set(self._named))
        if taken and not overwrite:
            raise FileExistsError(0, f"{taken[0]} was made meanwhile; -y overwrites, or choose another -o")
        super()._name(made, path, overwrite=overwrite)
        for name in set(old) - set(made):
            old[name].unlink()


def remove_unpublished(path: Path) -> None:
    """Remove the finished file, or the folder of frames, that has not got its name."""
    finished = path.with_name(path.name + PUBLISH)
    if finished.is_dir() and not finished.is_symlink():
        shutil.rmtree(finished, ignore_errors=True)
    else:
        finished.unlink(missing_ok=True)


def open_writer(
    path: str | Path,
    video: VideoFormat,
    *,
    overwrite: bool = False,
    named: Collection[str] = (),
    resume: Restart | None = None,
    finish: Finish | None = None,
) -> FileWriter:
    """What writes a file of this name: .mp4, .m4v, .mov, .mkv, .webm, .gif, .webp or folder/%05d.png.

    A lossless video is FFV1 in .mkv, .webp or .png. The options are those of `FileWriter`; finish and an encoding of
    the video's own are for MP4. Raises OutputError for a name that cannot be written, UsageError for a size, a rate or
    a loss.
    """
    path = output_file(os.fspath(path))
    kind = NumberedFramesWriter if form_of(path).finish is None else FileWriter
    return kind(path, video, overwrite=overwrite, named=named, resume=resume, finish=finish)
