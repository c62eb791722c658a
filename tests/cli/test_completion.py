import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from tiny import tiny_facts
from typer.testing import CliRunner

from causvid_cli.cli import completion, settings
from causvid_cli.cli.app import app
from causvid_cli.config import load_facts
from causvid_cli.models.packs import find_pack, list_packs

ROOT = typer.main.get_command(app)
COMMANDS = settings.tree(ROOT)
SHELLS = ("bash", "zsh", "fish", "powershell")

WATCHED = (
    "import sys; from causvid_cli.cli.app import main\n"
    "try: main()\n"
    "except SystemExit as end: code = end.code\n"
    "heavy = {'torch', 'av', 'numpy', 'diffusers'} & set(sys.modules)\n"
    "sys.exit(f'imported {heavy}' if heavy else code)"
)
"""The real command, which then tells what it imported."""


def offered(line: str, shell: str = "bash") -> list[str]:
    """What the shell offers at the end of a line, asked as its own script asks."""
    words = re.findall(r'"[^"]*"|\S+|(?<= )$', line)  # a shell hands over quoted words in their quotes
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAUSVID_")} | {
        "_CAUSVID_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "CAUSVID_CONFIG": "/no/such/file",  # a broken config file must not break the shell
    }
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip().splitlines()


def test_commands_options_models_and_sizes_are_offered_without_torch():
    assert {"t2v", "config", "models"} <= set(offered("causvid "))
    assert offered("causvid t2v x --mo") == ["--model"]
    assert offered('causvid t2v "a red car" --model s') == ["storybook", "storybook-fast", "storybook-world"]
    facts = load_facts(find_pack("storybook"))
    own = f"{facts.width * facts.enlarge}x{facts.height * facts.enlarge}"
    assert own in offered("causvid t2v x --model storybook --size ")
    assert offered("causvid bench --device cu") == ["cuda", "cuda:0"]
    assert offered("causvid --color a") == ["auto", "always"]
    assert offered("causvid config set t2v.fp") == ["t2v.fps"]


@pytest.mark.parametrize("line", ["causvid info ", "causvid t2v x -o ", "causvid distill --run-dir a"])
def test_where_a_file_is_wanted_the_shell_offers_files(line):
    assert offered(line) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_is_answered_in_its_own_way(shell):
    [line] = offered("causvid t2v x --dtype float16", shell)
    assert "float16" in line


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_can_have_its_script(shell):
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"} | os.environ
    done = subprocess.run(
        [sys.executable, "-m", "causvid_cli", "--show-completion", shell], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "_CAUSVID_COMPLETE" in done.stdout


def test_models_are_offered_with_what_they_make():
    assert [name for name, _ in completion.models("")] == list(list_packs())
    assert completion.models("no such model") == []


@pytest.mark.parametrize(
    ("facts", "first", "some", "never"),
    [
        ({"width": 64, "height": 64, "enlarge": 2}, "128x128", {"64x64", "192x192", "1024x1024"}, "1088x1088"),
        ({"width": 832, "height": 480, "enlarge": 1}, "832x480", {"480x832"}, "1664x960"),
    ],
)
def test_sizes_begin_with_the_models_own(facts, first, some, never, monkeypatch):
    monkeypatch.setattr(completion, "find_pack", lambda name: name)
    monkeypatch.setattr(completion, "load_facts", lambda folder: tiny_facts(**facts))
    sizes = [size for size, _ in completion.sizes(SimpleNamespace(params={}), "")]
    assert sizes[0] == first
    assert some <= set(sizes)
    assert never not in sizes
    assert len(sizes) == len(set(sizes))


def test_a_model_that_is_not_there_offers_nothing():
    assert completion.sizes(SimpleNamespace(params={"model": "absent"}), "") == []


# --- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_has_two_examples_that_parse(words):
    lines = [line.strip() for line in (COMMANDS[words].epilog or "").splitlines()]
    found = [line for line in lines if line.startswith(("causvid ", "torchrun "))]
    assert len(found) >= 2
    for line in found:
        for part in filter(lambda part: part.strip().startswith("causvid "), re.split(" [|<>] ", line)):
            name, *arguments = shlex.split(part)
            command, context = ROOT, None
            while True:
                with command.make_context(name, arguments, parent=context) as context:
                    if not hasattr(command, "commands") or not (rest := context._protected_args + context.args):
                        break
                    name, command, arguments = command.resolve_command(context, rest)
            assert words == () or context.command is COMMANDS[words] or hasattr(COMMANDS[words], "commands"), line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_readme_way_to_help_works_for_all(words):
    result = CliRunner(env={"CAUSVID_CONFIG": os.devnull}).invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.stdout


def test_help_imports_nothing_that_it_does_not_need():
    code = (
        "import sys; from causvid_cli.cli.app import app\n"
        "for args in (['-h'], ['t2v', '-h'], ['config', 'show', '-h']):\n"
        "    try: app(args)\n"
        "    except SystemExit as end: assert not end.code\n"
        "sys.exit(', '.join({'torch', 'av', 'numpy', 'rich', 'pydantic', 'PIL', 'yaml'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
