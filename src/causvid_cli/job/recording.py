"""A stream on its way into a file: every chunk is written, then kept in the journal, so that a kill loses nothing.

    begin      Recording(...)      a new `.part` and journal, or those of an earlier run, from its last restart on
    go on      for chunk in ...    the chunk is in the file and in the journal when it is yielded
    end        publish()           the journal says what is whole, and that gets its name
               clean_up()          the sidecar is written, `.part` and journal go

A resumed video is the same roll-out with the chunks that the journal has not denoised again: the cache is filled by the
same clean passes, the encoder begins anew where it did before. So latents and frames are those of an unbroken run.
"""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from causvid_cli.config import from_data
from causvid_cli.errors import MediaError, OutputError
from causvid_cli.files import sha256_of_file, write_text
from causvid_cli.geometry import Chunk, ChunkGrid
from causvid_cli.job.job import Job, journal_path
from causvid_cli.job.journal import Finished, Journal, Mark
from causvid_cli.job.seal import is_own
from causvid_cli.pipeline import GIVEN, ChunkResult, Stream
from causvid_cli.video import Interpolator, Restart, Writer, crc_of, part_of
from causvid_cli.video.files import open_locked, remove_open
from causvid_cli.video.formats import finished_files
from causvid_cli.video.writer import remove_unpublished


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """Where a video's things lie on this machine, and how it is to be written: nothing that its frames depend on."""

    __pydantic_config__ = {"extra": "forbid"}

    model: str | None = None
    """The model pack's folder."""
    input: str | None = None
    audio: str | None = None
    loras: tuple[str, ...] = ()
    tolerate_damage: bool = False
    overwrite: bool = False
    no_metadata: bool = False
    sidecar: bool = False
    keep_latents: bool = False


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a run that was broken off has left."""

    journal: Journal
    job: Job
    local: Local
    """Where its things lie, and how it is to be written; nothing of a stranger's."""
    is_own: bool
    """Whether this user began it here."""
    restart: Restart
    """Where the file is taken up."""
    named: frozenset[str] = frozenset()
    """Files that it had given their names when it was killed; nobody's but this video's."""
    is_finished: bool = False
    """Whether these are all."""

    @property
    def chunks(self) -> int:
        """How many chunks need not be made again."""
        return self.journal.chunks

    @property
    def frames(self) -> int:
        """How many frames need not be made again."""
        return self.journal.mark.frames if self.journal.mark else 0

    def first_chunk(self, grid: ChunkGrid) -> int:
        """The first chunk that is shown again: all frames of those before it are in the file."""
        return first_chunk_after(self.restart, self.job, grid)

    def clean_up(self, output: Path) -> bool:
        """Do what is left to do for a finished video; returns whether there was anything."""
        keep_latents, part, finished = self.local.keep_latents, part_of(output), self.journal.finished
        sidecar = finished.sidecar if finished else None
        if keep_latents and not part.exists() and (sidecar is None or sidecar_path(output).exists()):
            self.journal.close()
            return False
        with open_locked(part) as file:
            if sidecar is not None:
                write_sidecar(output, sidecar)
            remove_unpublished(output)
            remove_open(file, part)
            self.journal.close() if keep_latents else self.journal.remove()
        return True


def first_chunk_after(restart: Restart, job: Job, grid: ChunkGrid) -> int:
    """The first chunk with frames behind a restart; GIVEN where nothing is before it."""
    return grid.chunk_of(job.retiming.made_at(restart.frames)) if restart.frames else GIVEN


def restart_of(mark: Mark | None) -> Restart:
    """Where the file is taken up that a mark is about."""
    return Restart(mark.restart_bytes, mark.restart_frames, mark.restart_crc) if mark else Restart()


def find_earlier(output: Path, part: Path) -> Earlier | None:
    """What an earlier run has left of this video, if it left a journal. Raises MediaError when that is damaged."""
    path = journal_path(output)
    if not os.path.exists(path):  # also for a name that is too long
        return None
    journal = Journal.open(path)
    try:
        recipe, local = journal.request.get("recipe"), journal.request.get("local")
        if not isinstance(recipe, dict) or not isinstance(local, dict):
            raise MediaError(f"{path}: damaged: must hold a recipe and local; make the video again, with -y")
        job = Job.from_recipe(recipe, where=str(path))
        own = is_own({"recipe": recipe, "local": local}, journal.request.get("seal"))
        if not own:  # what it says of its end could name files of others
            journal.finished = None
        named, whole = _names_given(output, journal)
        known = from_data(Local, local, where=f"{path}: local", error=MediaError) if own else Local()
        return Earlier(journal, job, known, own, _restart(journal, part), named, whole)
    except BaseException:
        journal.close()
        raise


def _names_given(output: Path, journal: Journal) -> tuple[frozenset[str], bool]:
    """Return which files of a finished video have their names, and whether these are all, and whole."""
    if journal.finished is None:
        return frozenset(), False
    wanted, empty, whole = journal.finished.files, set(), set()
    with suppress(OSError):
        for path in finished_files(output):
            if path.name in wanted and path.is_file():
                if not path.stat().st_size:  # a name that was claimed, by `give_name`
                    empty.add(path.name)
                elif sha256_of_file(path) == wanted[path.name]:
                    whole.add(path.name)
    return frozenset(empty | whole), bool(whole) and whole == set(wanted)


def sidecar_path(output: Path) -> Path:
    """Return the file into which --sidecar writes how a video was made."""
    return output.with_name(output.name + ".json")


def write_sidecar(output: Path, text: str) -> None:
    """Write FILE.json beside a video that has its name. Raises OutputError."""
    path = sidecar_path(output)
    try:
        write_text(path, text)
    except OSError as error:
        raise OutputError(f"{path}: {(error.strerror or str(error)).lower()}; the video itself is whole") from error


def _restart(journal: Journal, part: Path) -> Restart:
    """The last place in the `.part` where its encoder began anew; the beginning when the file is not as it was left."""
    mark = journal.mark
    with suppress(OSError):
        if mark and part.is_file() and crc_of(part, mark.restart_bytes) == mark.restart_crc:
            return restart_of(mark)
    return Restart()


class Recording:
    """One stream and its writer; iterate for the chunks, each written when it comes.

    writer: entered by the caller. show: the model's frames -> frames of the file's size, where those differ.
    interpolator: brings them to the file's rate, from the first that the writer lacks on.
    journal: a pipe has none. beside: whether chunks are written in a thread of their own while the stream makes the
    next; close the iteration before the writer is used for anything else.
    """

    def __init__(
        self,
        stream: Stream,
        writer: Writer,
        *,
        journal: Journal | None,
        known_chunks: int = 0,
        show: Callable[[np.ndarray], np.ndarray] | None = None,
        interpolator: Interpolator | None = None,
        beside: bool = False,
    ) -> None:
        self.stream, self.writer, self.journal = stream, writer, journal
        self._known, self._show, self._beside = known_chunks, show, beside
        self._interpolator = interpolator
        self._sidecar: str | None = None
        self.frames = 0
        """Written up to the chunk that was given last."""

    def __iter__(self) -> Generator[ChunkResult, None, None]:
        if not self._beside:
            for chunk in self.stream:
                self.frames = self._write(chunk)
                yield chunk
            self.write_rest()
            return
        writing: deque[tuple[ChunkResult, Future[int]]] = deque()
        ahead = 0  # the first chunk is given at once
        with ThreadPoolExecutor(1) as thread:
            for chunk in self.stream:
                writing.append((chunk, thread.submit(self._write, chunk)))
                if len(writing) > ahead:
                    yield self._written(*writing.popleft())
                    ahead = 1
            for chunk, written in writing:
                yield self._written(chunk, written)
        self.write_rest()

    def _written(self, chunk: ChunkResult, written: "Future[int]") -> ChunkResult:
        self.frames = written.result()
        return chunk

    def _write(self, chunk: ChunkResult) -> int:
        """How many frames are in the file with these."""
        frames = self._show(chunk.frames) if self._show else chunk.frames
        if self._interpolator:
            frames = self._interpolator.add(frames, start=chunk.start_frame)
        self.writer.write(frames)
        if self.journal is not None and chunk.index >= self._known:
            if chunk.index == self._known > 0:
                self.writer.discard_partial()  # the `.part` has more now
            restart = self.writer.restart
            mark = Mark(self.writer.frames_written, restart.bytes, restart.frames, restart.crc)
            self.journal.append(chunk.latent, mark)
        return self.writer.frames_written

    def write_rest(self) -> None:
        """Write the frames that waited for another chunk."""
        if self._interpolator:
            self.writer.write(self._interpolator.rest())
            self.frames = self.writer.frames_written

    def publish(self, *, sidecar: str | None = None) -> Path:
        """Finish the file under its name; returns that. The journal tells what is left to do, should we be killed.

        sidecar: the text of FILE.json; None for none.
        """
        self._sidecar, journal = sidecar, self.journal
        if journal is None:
            return self.writer.publish()
        return self.writer.publish(before_naming=lambda files: journal.finish(Finished(files, sidecar)))

    def clean_up(self, *, keep_latents: bool = False) -> None:
        """Write the sidecar of a published video, and remove what it needs no more. Raises OutputError."""
        if self._sidecar is not None:
            write_sidecar(self.writer.path, self._sidecar)
        self.writer.discard_part()
        if self.journal is not None:
            self.journal.close() if keep_latents else self.journal.remove()


def known_latents(journal: Journal, device: Any) -> Callable[[Chunk], Tensor | None]:
    """What the roll-out need not make again: the chunks that the journal has by now."""
    known = journal.chunks

    def latents(chunk: Chunk) -> Tensor | None:
        return journal.latents(chunk.index).to(device) if chunk.index < known else None

    return latents
