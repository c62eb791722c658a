"""A stream on its way into a file: every chunk is written, then kept in the journal, so that a kill loses nothing.

    begin      Recording(...)      a new `.part` and journal, or those of an earlier run, taken up at a restart place
    go on      for chunk in ...    the chunk is in the file and in the journal when it is yielded
    end        publish()           the file gets its name, the journal goes

A resumed video is the same roll-out with the chunks that the journal has not denoised again: the cache is filled by the
same clean passes, the encoder begins anew where it did before. So latents and frames are those of an unbroken run.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from causvid_cli.geometry import Chunk, ChunkGrid
from causvid_cli.job.job import Job, journal_path
from causvid_cli.job.journal import Journal, Mark
from causvid_cli.pipeline import GIVEN, ChunkResult, Stream
from causvid_cli.video import Restart, Writer, crc_of


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a run that was broken off has left."""

    journal: Journal
    job: Job
    local: Mapping[str, Any]
    """Where its things lie on this machine."""
    restart: Restart
    """Where the file is taken up."""

    @property
    def chunks(self) -> int:
        """How many chunks need not be made again."""
        return self.journal.chunks

    @property
    def frames(self) -> int:
        """How many frames need not be made again."""
        return self.journal.mark.frames if self.journal.mark else 0

    def first_chunk(self, grid: ChunkGrid) -> int:
        """The first chunk that is written; those before it are in the file."""
        return grid.chunk_of(self.restart.frames) if self.restart.frames else GIVEN


def find_earlier(output: Path, part: Path) -> Earlier | None:
    """What an earlier run has left of this video, if it left a journal. Raises MediaError when that is damaged."""
    path = journal_path(output)
    if not path.exists():
        return None
    journal = Journal.open(path)
    try:
        job = Job.from_recipe(journal.request.get("recipe", {}), where=str(path))
        return Earlier(journal, job, journal.request.get("local", {}), _restart(journal, part))
    except BaseException:
        journal.close()
        raise


def _restart(journal: Journal, part: Path) -> Restart:
    """The last place in the `.part` where its encoder began anew; the beginning when the file is not as it was left."""
    mark = journal.mark
    with suppress(OSError):
        if mark and part.is_file() and crc_of(part, mark.restart_bytes) == mark.restart_crc:
            return Restart(mark.restart_bytes, mark.restart_frames, mark.restart_crc)
    return Restart()


class Recording:
    """One stream and its writer; iterate for the chunks, each written when it comes.

    writer: entered by the caller. show: model pictures -> the file's, where those differ.
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
        beside: bool = False,
    ) -> None:
        self.stream, self.writer, self.journal = stream, writer, journal
        self._known, self._show, self._beside = known_chunks, show, beside
        self.frames = 0
        """Written up to the chunk that was given last."""

    def __iter__(self) -> Generator[ChunkResult, None, None]:
        if not self._beside:
            for chunk in self.stream:
                self.frames = self._write(chunk)
                yield chunk
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

    def _written(self, chunk: ChunkResult, written: "Future[int]") -> ChunkResult:
        self.frames = written.result()
        return chunk

    def _write(self, chunk: ChunkResult) -> int:
        """How many frames are in the file with these."""
        self.writer.write(self._show(chunk.frames) if self._show else chunk.frames)
        if self.journal is not None and chunk.index >= self._known:
            restart = self.writer.restart
            mark = Mark(self.writer.frames_written, restart.bytes, restart.frames, restart.crc)
            self.journal.append(chunk.latent, mark)
        return self.writer.frames_written

    def publish(self, *, keep_latents: bool = False) -> Path:
        """Finish the file under its name; returns that."""
        path = self.writer.publish()
        if self.journal is not None:
            self.journal.close() if keep_latents else self.journal.remove()
        return path


def known_latents(earlier: Earlier, device: Any) -> Callable[[Chunk], Tensor | None]:
    """What the roll-out need not make again."""
    journal, known = earlier.journal, earlier.chunks

    def latents(chunk: Chunk) -> Tensor | None:
        return journal.latents(chunk.index).to(device) if chunk.index < known else None

    return latents
