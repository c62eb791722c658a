"""`convert` in a process of its own: what opens a pickle holds nothing of the user's, and goes away afterwards.

The two speak JSON, a line at a time: orders down, what was recognised up, a word to go on down, progress and the
result up.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from causvid_cli.config import to_json
from causvid_cli.errors import CausvidError, DeviceError, ModelError
from causvid_cli.models.install.conversion import Lora, Made, Order, Seen

REPORT_BYTES = 64 * 2**20
"""Progress is told each time so many more are written."""
OUT_OF_MEMORY = 5
"""The child's exit code."""


def convert_apart(
    orders: Sequence[Order], *, approve: Callable[[list[Seen]], None], report: Callable[[int], None]
) -> list[Made]:
    """`convert.convert`, elsewhere. Raises what it raises, and DeviceError when the system stops it for its memory."""
    package = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    # -P: no module of the folder that the user happens to be in
    command = [sys.executable, "-P", "-m", __name__]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment, text=True
        )
        assert process.stdin and process.stdout
        try:
            _send(process.stdin, [asdict(order) for order in orders])
            for line in process.stdout:
                kind, value = json.loads(line)
                if kind == "seen":
                    approve([Seen(**each) for each in value])
                    _send(process.stdin, "go")
                elif kind == "written":
                    report(value)
                elif kind == "error":
                    raise ModelError(value)
                elif kind == "system":
                    raise OSError(*value)
                else:
                    return [Made(**each) for each in value]
            process.wait()
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):  # of what it did not read any more
                process.stdin.close()
            process.stdout.close()
        if process.returncode in (-signal.SIGKILL, OUT_OF_MEMORY):
            raise DeviceError("the conversion ran out of memory; close other programs and try again")
        said.seek(0)
        raise RuntimeError(f"the conversion ended with {process.returncode}: {said.read()[-500:].strip()}")


def _send(stream: IO[str], value: Any) -> None:
    try:
        stream.write(to_json(value) + "\n")
        stream.flush()
    except BrokenPipeError:  # it has ended; what it said last tells why
        pass


class _Line:
    """The child's end."""

    def __init__(self) -> None:
        # What libraries print goes where errors go, not between our lines.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._bytes = 0

    def say(self, kind: str, value: Any) -> None:
        _line = to_json([kind, value])
        self._out.write(_line + "\n")
        self._out.flush()

    def approve(self, seen: list[Seen]) -> None:
        self.say("seen", [asdict(each) for each in seen])
        if sys.stdin.readline().strip() != '"go"':
            raise SystemExit(1)

    def report(self, count: int) -> None:
        self._bytes += count
        if self._bytes >= REPORT_BYTES:
            self.flush()

    def flush(self) -> None:
        self.say("written", self._bytes)
        self._bytes = 0


def main() -> None:
    """What the child does."""
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    warnings.simplefilter("ignore")
    line = _Line()
    orders = []
    for told in json.loads(sys.stdin.readline()):
        lora = told.pop("lora")
        orders.append(Order(**told, lora=Lora(**lora) if lora else None))
    try:
        from causvid_cli.models.install.convert import convert

        made = convert(orders, approve=line.approve, report=line.report)
        line.flush()
        line.say("made", [asdict(each) for each in made])
    except CausvidError as error:
        line.say("error", str(error))
    except OSError as error:
        line.say("system", [error.errno, error.strerror or str(error)])
    except MemoryError:
        raise SystemExit(OUT_OF_MEMORY) from None


if __name__ == "__main__":
    main()
