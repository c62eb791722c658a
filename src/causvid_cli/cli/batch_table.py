"""How far a batch is: one table on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from causvid_cli.batch.engine import Worker
from causvid_cli.cli import console
from causvid_cli.cli.progress import LINE_EVERY_S, bar
from causvid_cli.units import counted, duration_text


class BatchTable:
    """What is done, what failed, and what each worker is at."""

    def __init__(self, *, total: int, done: int, failed: int) -> None:
        self.total, self.done, self.failed = total, done, failed
        self._before, self._started = done, time.monotonic()
        self._workers: Sequence[Worker] = ()
        self._said = self._started

    @contextmanager
    def shown(self, workers: Sequence[Worker]) -> Iterator[None]:
        """Inside, the table is drawn where stderr is a terminal."""
        self._workers = workers
        if console.voice.quiet or console.voice.progress in ("none", "plain") or not console.is_terminal():
            yield
            return
        with console.screen("batch", self):
            yield

    def tick(self) -> None:
        """Print a line where no table is drawn, unless the last one is new."""
        now = time.monotonic()
        drawn = console.is_terminal() and console.voice.progress != "plain"
        if not drawn and not console.voice.quiet and now - self._said >= LINE_EVERY_S:
            self._said = now
            console.message(self.line())

    def line(self) -> str:
        """ "12 of 200 videos, 1 failed, 31 a minute, 6 min left", with what is known of it."""
        parts = [f"{self.done} of {counted(self.total, 'video')}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if made := self.done - self._before:
            left = (self.total - self.done - self.failed) * (time.monotonic() - self._started) / made
            parts += [self.pace(), f"{duration_text(left)} left"]
        return ", ".join(parts)

    def pace(self) -> str:
        """Videos a minute since this batch began."""
        seconds = time.monotonic() - self._started
        return f"{(self.done - self._before) * 60 / seconds:.3g} a minute" if seconds else ""

    def __rich_console__(self, _console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        yield bar(self.line(), options.max_width, total=self.total, done=self.done + self.failed)
        for worker in list(self._workers):
            what = "starting" if not worker.ready else "waiting"
            if (work := worker.work) is not None:
                status = worker.status
                frames = f", {status['done']} of {status.get('total') or '?'} frames" if "done" in status else ""
                first, *others = work.job.values() or [None]
                more = f" and {len(others)} more" if others else ""
                what = f"{console.shown(first.id)}{more}{frames}" if first else "waiting"
            yield Text(f"  worker {worker.number + 1}: {what}", style="dim", no_wrap=True, overflow="ellipsis")
