"""The root command, and the boundary where every failure becomes one line on stderr and an exit code."""

import errno
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from causvid_cli import __version__
from causvid_cli.cli import (
    batch,
    bench,
    completion,
    config,
    console,
    distill,
    doctor,
    edit_script,
    eval,
    generate,
    info,
    live,
    models,
    resume,
)
from causvid_cli.cli.command import HELP_OPTIONS, Group, PlainCommand, examples, show_help
from causvid_cli.cli.interrupts import interrupts
from causvid_cli.cli.torchrun import is_first
from causvid_cli.config import did_you_mean
from causvid_cli.errors import CausvidError, ExitCode, UsageError

COMMANDS = (generate, edit_script, live, batch, resume, distill, info, models, bench, eval, doctor, config)
"""Modules whose `app` holds commands, in the order of the help."""

EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.BUG: "a bug in causvid",
    ExitCode.USAGE: "a wrong option, prompt or script",
    ExitCode.MEDIA: "an input picture or video that cannot be read",
    ExitCode.MODEL: "a model that is missing or damaged",
    ExitCode.DEVICE: "no such device here, or too little memory",
    ExitCode.NUMERICS: "the model failed (its numbers are not finite)",
    ExitCode.OUTPUT: "an output that exists or cannot be written",
    ExitCode.JOBS: "some jobs of a batch failed",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
    ExitCode.PIPE_CLOSED: "the reader of a pipe went away",
    ExitCode.TERMINATED: "stopped by SIGTERM, or by the terminal that closed",
}
MOST_PROBLEMS = 100
"""Of a script, that are shown."""


class Root(Group):
    """The root command inside the boundary, so that tests and users meet the same one."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *others: Any, **extra: Any
    ) -> NoReturn:
        if "_CAUSVID_COMPLETE" in os.environ:  # the shell asks for completions
            super().main(args, prog_name, *others, **extra)
        arguments = sys.argv[1:] if args is None else list(args)
        console.voice.reset()

        def run() -> None:
            with self.make_context(prog_name or "causvid", arguments) as context:
                self.invoke(context)

        sys.exit(guarded(run))


app = typer.Typer(
    name="causvid",
    cls=Root,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP_OPTIONS,
    epilog=examples(
        'causvid t2v "a red car moves left in the snow" -o car.mp4',
        "causvid info car.mp4",
        more="\b\nExit codes:\n" + "\n".join(f"  {code.value:3}  {text}" for code, text in EXIT_CODES.items()),
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"causvid {__version__}")
        raise typer.Exit


@app.callback()
def causvid(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.", show_default=False),
    ] = False,
    color: Annotated[
        str | None,
        typer.Option(
            "--color",
            metavar="WHEN",
            callback=console.set_color,
            autocompletion=completion.words(*console.COLORS),
            help="Colour what is said on stderr: auto (on a terminal), always or never. NO_COLOR and FORCE_COLOR "
            "in the environment are heeded too.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make videos from prompts on this machine, with or without a GPU.

    `causvid COMMAND -h` explains a command.
    """
    show_help(context)


for module in COMMANDS:
    app.add_typer(module.app)


@app.command("help", cls=PlainCommand, epilog=examples("causvid help t2v", "causvid help models pull"))
def explain_command(
    context: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Such as t2v, or models pull.", show_default=False)
    ] = None,
) -> None:
    """Explain a command, as its -h does."""
    shown = context.find_root()
    for word in words or ():
        known = getattr(shown.command, "commands", {})
        if word not in known:
            raise UsageError(f"help: no command {' '.join(words or ())!r}{did_you_mean(word, known)}")
        shown = type(shown)(known[word], info_name=word, parent=shown)
    print(shown.get_help())


def root() -> Any:
    """The `causvid` command and all below it, as click has them."""
    return typer.main.get_command(app)


def main() -> NoReturn:
    """The `causvid` command."""
    _occupy_standard_streams()
    if isinstance(sys.stdout, TextIOWrapper):  # a file name goes out as it came, a tick is spelt out for old terminals
        plain = sys.stdout.encoding.lower() not in ("utf-8", "utf8")
        sys.stdout.reconfigure(errors="backslashreplace" if plain else "surrogateescape")
    try:
        root().main(prog_name="causvid")
    finally:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # torch takes a while to go: Ctrl-C then just ends it
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise AssertionError("unreachable: Root.main exits")


def _occupy_standard_streams() -> None:
    """Open what the caller has closed, or the next file opened, a video say, would get what libraries print there."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


def guarded(run: Callable[[], None]) -> int:
    """Run a command; whatever it raises becomes a line on stderr. Returns the exit code."""
    try:
        with interrupts.handled():
            code = 0
            try:
                run()
            except typer.Exit as done:  # after --help and --version
                code = done.exit_code
            console.flush_result()  # here, where a reader that went away can still be told from a bug
            return code
    except SystemExit:
        raise
    except BaseException as error:  # the boundary: nothing gets past it
        code, line = explain(error)
        if not is_first() and (code == ExitCode.USAGE or isinstance(error, CausvidError | KeyboardInterrupt)):
            return code  # the first process says so
        with suppress(OSError):  # stderr may be gone too
            if code == ExitCode.INTERRUPTED and console.is_terminal():
                print(file=sys.stderr)  # the terminal has shown ^C on a line of its own
            if os.environ.get("CAUSVID_DEBUG"):
                for told in "".join(traceback.format_exception(error)).splitlines():
                    print(console.shown(told), file=sys.stderr)  # file names and prompts may hold what terminals obey
            if problems := getattr(error, "problems", ()):
                line = _show_problems(problems, more=getattr(error, "more", 0))
            if line:
                console.error("; ".join([line, *getattr(error, "__notes__", ())]))
        try:
            console.flush_result()
        except OSError:
            console.abandon(sys.stdout)
        return code


def _show_problems(problems: Sequence[Any], *, more: int) -> str:
    """Each place that is wrong in a script, in its own lines: where and what, the line, a caret. Returns the sum."""
    for problem in problems[:MOST_PROBLEMS]:
        for line in problem.lines():
            console.complaint(line)
    count = len(problems) + more
    unseen = f", {MOST_PROBLEMS} of them shown" if count > MOST_PROBLEMS else ""
    return f"{count} mistake{'s' * (count != 1)}{unseen}; nothing was made"


def explain(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code of what ended a command, and the line that says why ("" for none)."""
    if _is_out_of_files(error):  # also where a reader took it for a damaged file
        return ExitCode.DEVICE, "too many files are open at once; let a process open more, as by ulimit -n 1024"
    if isinstance(error, CausvidError):
        return error.exit_code, str(error)
    hung_up = isinstance(error, OSError) and interrupts.received is not None  # the terminal went, and stderr with it
    if isinstance(error, KeyboardInterrupt) or interrupts.raised or hung_up:
        return interrupts.exit_code, "stopped"
    if isinstance(error, BrokenPipeError):
        return ExitCode.PIPE_CLOSED, ""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):  # stdout on a full disk
        return ExitCode.OUTPUT, f"cannot write: {(error.strerror or '').lower()}"
    if hasattr(error, "format_message"):  # typer's and click's usage errors share no public class
        return ExitCode.USAGE, _usage_line(error)
    if is_out_of_memory(error):
        wanted = re.search(r"allocate (?:memory: you tried to allocate )?([\d.]+ \w+)", str(error), re.IGNORECASE)
        size = f" ({wanted[1]} more were wanted)" if wanted else ""
        return ExitCode.DEVICE, f"out of memory{size}; close other programs or ask for less, such as a smaller --size"
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return ExitCode.BUG, f"this is a bug, please report it: {said[:300]}; CAUSVID_DEBUG=1 shows where it happened"


SYNONYMS = {
    **dict.fromkeys(
        ("--duration", "--seconds", "--num-frames", "--frames", "-t"), "--length 5s (or 81f for 81 frames)"
    ),
    **dict.fromkeys(("--width", "--height", "--resolution"), "--size WxH"),
    **dict.fromkeys(("--framerate", "--frame-rate", "-r"), "--fps"),
    **dict.fromkeys(("--num-inference-steps", "--num-steps", "--sampling-steps"), "--steps"),
    **dict.fromkeys(("--guidance-scale", "--cfg", "--cfg-scale"), "--guidance"),
    **dict.fromkeys(("--num-videos", "--num-videos-per-prompt", "--batch", "--batch-size"), "--count"),
    **dict.fromkeys(("--out", "--out-dir", "--output-dir"), "--output"),
    **dict.fromkeys(("--force", "--yes", "-f"), "--overwrite"),
    "--prompt": "the prompt itself, in quotes",
    "--negative-prompt": "--negative",
    "--image": "causvid i2v",
    **dict.fromkeys(("--list-models", "list"), "causvid models list"),
    **dict.fromkeys(("--version", "-V", "version"), "causvid --version"),
    **dict.fromkeys(("generate", "run", "make", "txt2vid", "text2video"), "causvid t2v"),
    **dict.fromkeys(("img2vid", "image2video", "animate"), "causvid i2v"),
    **dict.fromkeys(("v2v", "vid2vid"), "causvid restyle"),
    **dict.fromkeys(("train", "finetune", "fine-tune"), "causvid distill"),
    **dict.fromkeys(("pull", "download", "install"), "causvid models pull"),
}
"""What options and commands of other programs (diffusers, ffmpeg, the models' own scripts) are called here."""


def _usage_line(error: Any) -> str:
    """typer's complaint in our words, with the way to the help."""
    said: str = error.format_message().rstrip(".")
    command = re.match(r"""No such command (['"])(.*?)\1(\. Did|$)""", said)
    asked: str = command[2] if command else getattr(error, "option_name", "")
    near: Iterable[str] = getattr(error, "possibilities", None) or re.findall(r"Did you mean '(.+?)'", said)
    if asked.startswith("--"):  # two dashes alone make no names alike
        near = [name for name in near if get_close_matches(asked.strip("-"), [name.strip("-")])]
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "causvid"
    options = {name for param in context.command.params for name in param.opts} if context else set()
    ours = SYNONYMS.get(asked.replace("_", "-"), "")
    if ours.startswith(path) if command else ours and (ours.split()[0] in options or not ours.startswith("--")):
        near = [ours]
    elif command and " " in asked:
        near = [f"causvid t2v {shlex.quote(asked)}"]
    said = re.sub(r" ?\(Possible options: .*\)|\.? Did you mean .*|, unable to parse .*", "", said)
    said = said.replace("Input should be", "must be")
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    if "unexpected extra argument" in said:
        hints.append("put text with spaces in quotes")
    return "; ".join([said[:1].lower() + said[1:], *hints, f"see {path} -h"])


def _is_out_of_files(error: BaseException | None) -> bool:
    """Whether what is at the root of an error is that a process may open no more files."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        if isinstance(error, (RuntimeError, ImportError)) and "too many open files" in str(error).lower():
            return True
        error = error.__cause__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """torch's, Python's and the system's ways of saying so, without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = (
        "can't allocate memory|not enough memory|can't start new thread|failed to map segment|annot allocate memory"
        "|could not create a (primitive|memory object)|std::bad_alloc"
    )
    return isinstance(error, (RuntimeError, ImportError)) and bool(re.search(said, str(error)))
