"""Our kind of command: its help is plain text with examples, and its options heed environment and config file."""

import os
import shlex
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from causvid_cli.cli import settings
from causvid_cli.errors import CausvidError

SECTIONS = ("Input", "Video", "Model", "Output", "Running")
"""Of a long help, after the options that are a command's own: what an option's `rich_help_panel` may be."""
MANY_OPTIONS = 20
HELP_OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Configurable:
    """What commands and groups share: option values from outside, and help that names where they may come from."""

    reads_config = True

    @property
    def has_sections(self) -> bool:
        """Whether there are so many options that the help shows them in sections."""
        return len(self.params) >= MANY_OPTIONS  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.reads_config:
            settings.assign_variables(self)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if self.reads_config and not extra.get("resilient_parsing"):  # resilient: while the shell completes
            extra["default_map"] = settings.Defaults(self, parent, info_name)
        return super().make_context(info_name, args, parent=parent, **extra)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            _spare(param)
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:
            for name in given:
                if name.startswith("-") and hasattr(error, "possibilities") and os.path.isfile(name):
                    error.add_note(f"the file of that name is ./{name}")
                if name.startswith("-") and " " in name and hasattr(error, "possibilities"):
                    error.add_note(f"a text that begins with a dash goes last, behind --: -- {shlex.quote(name)}")
            if getattr(error, "ctx", ctx) is None:  # so that the boundary can say whose -h helps
                error.ctx = ctx  # type: ignore[attr-defined]
            if hasattr(error, "format_message"):
                settings.add_origins(error, ctx, said=error.format_message())
            elif isinstance(error, CausvidError):
                settings.add_origins(error, ctx, said=str(error))
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        ctx.default_map = None  # help shows the defaults that all users have; `config show` shows one user's
        records: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", "Options", *SECTIONS)}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                name, text = record
                if param.param_type_name == "argument":
                    records["Arguments"].append((param.metavar or name, text.removesuffix("  [required]")))
                else:
                    own = SECTIONS[-1] if param.name == "help" else "Options"
                    section = getattr(param, "rich_help_panel", None) or own if self.has_sections else "Options"
                    records[section].append((name, _with_variable(text, param.envvar)))
        for title, entries in records.items():
            if entries:
                with formatter.section(title):
                    formatter.write_dl(entries)


def _spare(param: Any) -> None:
    """Let a parameter that nobody set go unparsed, its callback uncalled: the first one parsed loads pydantic."""
    if "process_value" in vars(param) or param.required or param.multiple or param.nargs != 1:
        return
    parse = param.process_value
    param.process_value = lambda ctx, value: None if value is None else parse(ctx, value)


def _with_variable(text: str, variable: str | None) -> str:
    """An option's help with its environment variable among the facts that end it in brackets."""
    if not variable:
        return text
    said, bracket, facts = text.rpartition("  [")
    return f"{said}  [env: {variable}; {facts}" if bracket and facts.endswith("]") else f"{text}  [env: {variable}]"


class Command(Configurable, TyperCommand):
    """A command whose help names arguments plainly: `FILE`, where typer has `{FILE}` and `FILE <path>`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CausvidError as error:
            settings.add_origins(error, ctx, said=str(error))
            raise


class Group(Configurable, TyperGroup):
    """A group whose help says of each command what its own help begins with, whole."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(200)) for name, command in commands if command])


class PlainCommand(Command):
    """A command that works whatever the config file and the environment say."""

    reads_config = False


def examples(*lines: str, more: str = "") -> str:
    """The end of a command's help. lines: runnable as they stand."""
    listed = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{listed}" + (f"\n\n{more}" if more else "")


def show_help(ctx: typer.Context) -> None:
    """A group that is called without a command explains itself."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
