"""Signals that come one upon the other."""

import _thread
import signal
import threading
import time

import pytest

from causvid_cli.cli.interrupts import Interrupts


def test_a_second_signal_that_breaks_into_the_first_hides_nothing(monkeypatch):
    """Which it does when it comes while the thread that tells of the first is being started."""
    said, interrupts, start = [], Interrupts(), threading.Thread.start

    def broken_into(thread: threading.Thread) -> None:
        def begin() -> None:
            time.sleep(0.05)
            start(thread)

        _thread.start_new_thread(begin, ())
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", broken_into)
    with pytest.raises(KeyboardInterrupt), interrupts.deferred(lambda: said.append("stopping")):
        interrupts._handle(signal.SIGINT, None)
    assert said == ["stopping"]  # what is said next comes after it


def test_a_first_signal_is_remembered_and_told_of_once():
    said, interrupts = [], Interrupts()
    with interrupts.deferred(lambda: said.append("stopping")):
        interrupts._handle(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            interrupts._handle(signal.SIGTERM, None)
    assert said == ["stopping"] and interrupts.received == signal.SIGTERM and interrupts.raised
