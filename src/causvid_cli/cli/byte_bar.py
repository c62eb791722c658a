"""How many of so many bytes are written."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from causvid_cli.cli import console


class ByteBar:
    """How many of so many bytes are written: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.total: int | None = None
        self._done = 0
        self._said = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        if console.voice.quiet or not console.is_terminal():
            yield
            return
        with console.screen("bytes", self):
            yield

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if not console.is_terminal() and self.total and now - self._said >= console.LINE_EVERY_S:
            self._said = now
            console.note(self._text())

    def _text(self) -> str:
        if not self.total:
            return f"{self._what}: reading"
        return f"{self._what}: {console.bytes_text(self._done)} of {console.bytes_text(self.total)}"

    def __rich_console__(self, _console: Any, rich_options: Any) -> Iterator[Any]:
        yield console.bar(self._text(), rich_options.max_width, total=self.total, done=self._done)
