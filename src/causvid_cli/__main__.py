"""The `causvid` command, from its first moment on: Ctrl-C ends it quietly also while it is still being loaded."""

import signal
from typing import NoReturn

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as under nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command knows how to end (`cli/interrupts.py`)


def main() -> NoReturn:
    """Run what is asked for on the command line."""
    from causvid_cli.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
