"""Lint, format and types are tests, so that one command checks all."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}


@pytest.mark.parametrize(
    "command", [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)], ids=lambda command: " ".join(command)
)
def test_style(command):
    if not importlib.util.find_spec(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_needs_posix_when_it_is_imported():
    modules = sorted((ROOT / "src").rglob("*.py"))
    assert len(modules) > 100
    for path in modules:
        found = set(imported_at_once(ast.parse(path.read_text(encoding="utf-8")))) & POSIX_ONLY
        assert not found, f"{path}: {found} is not on Windows; import it where it is used"


def imported_at_once(node: ast.AST) -> Iterator[str]:
    """Top-level names of the modules that are imported when a module is, not when a function of it is called."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield (child.module or "").partition(".")[0]
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_once(child)


def test_no_file_keeps_what_a_merge_left_open():
    marks = tuple(mark * 7 + " " for mark in "<>")  # as merges write them
    texts = [path for kind in ("py", "md", "toml", "yaml", "txt") for path in ROOT.rglob(f"*.{kind}")]
    assert len(texts) > 300
    for path in texts:
        if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            assert not [line for line in lines if line.startswith(marks)], path
