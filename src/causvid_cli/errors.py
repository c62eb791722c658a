"""What can go wrong in a way that a user can mend, and the exit code of each."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the `causvid` command."""

    DONE = 0
    BUG = 1
    USAGE = 2
    MEDIA = 3
    MODEL = 4
    DEVICE = 5
    NUMERICS = 6
    OUTPUT = 7
    JOBS = 8
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


class CausvidError(Exception):
    """A failure that the user can mend: one line that says what was given and what would work.

    Only the boundary in `cli/app.py` prints it and turns it into an exit code.
    """

    exit_code = ExitCode.BUG


class UsageError(CausvidError):
    """An option, prompt or script that cannot be carried out."""

    exit_code = ExitCode.USAGE


class MediaError(CausvidError):
    """An input picture or video that cannot be read."""

    exit_code = ExitCode.MEDIA


class ModelError(CausvidError):
    """A model that is missing, damaged, unsafe or of another architecture."""

    exit_code = ExitCode.MODEL


class DeviceError(CausvidError):
    """A device that is absent or has too little memory."""

    exit_code = ExitCode.DEVICE


class NumericsError(CausvidError):
    """The model produced NaN or infinity."""

    exit_code = ExitCode.NUMERICS


class OutputError(CausvidError):
    """An output that exists, is full, is denied, or did not verify."""

    exit_code = ExitCode.OUTPUT


class BusyError(OutputError):
    """An output that another process is writing."""


class ProcessLost(DeviceError):
    """Another of the processes that make a video together has ended."""


def shortened(text: str, most: int = 60) -> str:
    """Text in quotes for a message; of a long one the beginning."""
    return repr(text if len(text) <= most else f"{text[:most]}...")
