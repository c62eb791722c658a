"""Ctrl-C, SIGTERM, SIGHUP: they stop a command at once or, while it writes a video, after the chunk at work."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from causvid_cli.errors import ExitCode

_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
if hasattr(signal, "SIGHUP"):  # not on Windows
    _EXIT_CODES[signal.SIGHUP] = ExitCode.TERMINATED


TOLD_WITHIN_S = 1.0
"""How long is waited for what a first Ctrl-C has to say: a second one may have come before it could begin."""


class Interrupts:
    """What these signals have done to this process. There is one of it: `interrupts`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The last signal that came."""
        self.raised = False
        """Whether it broke into the work; what is raised after that may be its doing (a half-done import, say)."""
        self._deferring = 0
        """How many videos are in the making."""
        self._on_first: Callable[[], None] = lambda: None
        self._told = threading.Event()
        """Set once the first Ctrl-C has been told of, or where there was none."""
        self._told.set()

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES[self.received or signal.SIGINT]

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Inside, each signal is remembered and raises KeyboardInterrupt."""
        self.received, self.raised, self._deferring = None, False, 0
        before = {}
        if threading.current_thread() is threading.main_thread():  # only there do signals arrive
            for number in _EXIT_CODES:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup and `&` in scripts ignore Ctrl-C
                    before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self, on_first: Callable[[], None]) -> Iterator[None]:
        """Inside, the first signal is only remembered, for the work to end at a good place; a second one raises.

        on_first: told of a first Ctrl-C, at once and in a thread of its own, since it may have come in the midst of a
        print.
        """
        self._deferring, self._on_first = self._deferring + 1, on_first
        try:
            yield
        finally:
            self._deferring -= 1
            self._told.wait(TOLD_WITHIN_S)  # what is said next comes after it
            self._told.set()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self.received = self.received is None, signal.Signals(number)
        if not (first and self._deferring):
            self.raised = True
            raise KeyboardInterrupt
        if number == signal.SIGINT:  # a second one may break into the lines below
            self._told.clear()
            threading.Thread(target=self._tell).start()

    def _tell(self) -> None:
        try:
            self._on_first()
        finally:
            self._told.set()


interrupts = Interrupts()
