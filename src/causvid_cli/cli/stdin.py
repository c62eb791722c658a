"""What comes on stdin, for a thread that may still wait for it when the program ends."""

import os
import sys
from functools import lru_cache
from typing import BinaryIO, TextIO


def stdin_bytes() -> BinaryIO:
    """The bytes of stdin, the same reader at every call.

    Python closes `sys.stdin` on its way out, and dies where a thread is reading that ("could not acquire lock ... at
    interpreter shutdown"); this one nobody closes.
    """
    return _own(sys.stdin)


@lru_cache(maxsize=1)
def _own(stdin: TextIO) -> BinaryIO:
    try:
        return os.fdopen(os.dup(stdin.fileno()), "rb")
    except OSError:  # it is no file, as where a command is called in Python
        return stdin.buffer
