"""How --help looks: plain text, each argument and option with its help, examples at the end."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP_OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(TyperCommand):
    """A command whose help names arguments plainly: `FILE`, where typer has `{FILE}` and `FILE <path>`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:  # so that the boundary can say whose -h helps
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        records: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                name, text = record
                if param.param_type_name == "argument":
                    records["Arguments"].append((param.metavar or name, text.removesuffix("  [required]")))
                else:
                    records["Options"].append((name, text))
        for title, entries in records.items():
            if entries:
                with formatter.section(title):
                    formatter.write_dl(entries)


class Group(TyperGroup):
    """A group whose help says of each command what its own help begins with, whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(200)) for name, command in commands if command])


def examples(*lines: str, more: str = "") -> str:
    """The end of a command's help. lines: runnable as they stand."""
    listed = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{listed}" + (f"\n\n{more}" if more else "")


def show_help(ctx: typer.Context) -> None:
    """A group that is called without a command explains itself."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
