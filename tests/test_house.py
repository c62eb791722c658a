"""README, CI, constraints and packaging say the same thing."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny import tiny_pack
from typer.testing import CliRunner

from causvid_cli import __version__
from causvid_cli.cli.app import app
from causvid_cli.models import packs

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci" / "run"
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SH_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PINS = {
    canonicalize_name(requirement.name): requirement
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}


def commands() -> dict[str, object]:
    """Every command that does something, by its path."""

    def walk(name: str, command) -> dict[str, object]:
        children = getattr(command, "commands", {})
        found = {} if children else {name: command}
        for child in children.values():
            found |= walk(f"{name} {child.name}", child)
        return found

    return walk("causvid", typer.main.get_command(app))


PAGES = [
    "README.md",
    "CHANGELOG.md",
    *(f"docs/{name}.md" for name in ("design", "models", "performance", "scale", "scripts")),
]


# --- the README ----------------------------------------------------------------------------------------------------


def test_the_first_two_sh_blocks_are_one_line_each():
    make, check = SH_BLOCKS[:2]
    for block in (make, check):
        assert block.count("\n") == 1
        assert block.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt ")
    assert make.endswith('&& causvid t2v "a paper airplane turns into a swan" -o swan.mp4\n')
    assert check.endswith("'.[test]' && pytest\n")


def test_what_else_it_does_can_be_pasted_in_order_into_a_fresh_clone(tmp_path, monkeypatch):
    """By a tiny model in the place of the embedded one, which any input suits as well."""
    (block,) = [block for block in SH_BLOCKS if "causvid rerun" in block]
    tiny_pack(tmp_path / "weights" / "storybook", name="storybook")
    monkeypatch.setattr(packs, "pack_roots", lambda: [tmp_path / "weights"])
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(clone)
    for line in block.splitlines():
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert done.exit_code == 0, (line, done.output)
    assert {path.name for path in clone.iterdir()} == set(re.findall(r"-o (\S+)", block)) | {"examples"}


def test_every_command_of_the_readme_exists_and_every_command_is_in_it():
    named = re.findall(r"(?:^|`|&& )(causvid(?: [a-z][a-z0-9-]*)+)", "\n".join([README, *SH_BLOCKS]), re.MULTILINE)
    known = commands()
    assert len(named) > len(known)
    for words in named:
        assert any(f"{words} ".startswith(f"{name} ") for name in known), words
    missing = [name for name in known if not re.search(rf"\b{name}\b", README)]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    for name in re.findall(r"`([\w./-]+(?:\.py|\.toml|\.md|\.txt|/))`", text):
        name = name.removeprefix("src/causvid_cli/")
        assert (ROOT / name).exists() or (ROOT / "src/causvid_cli" / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_options_that_a_page_names_exist(page):
    known = {option for command in commands().values() for param in command.params for option in param.opts}
    known |= {option for param in typer.main.get_command(app).params for option in param.opts}
    known |= {"-h", "--golden-dir", "-c", "-m", "-qq"}
    for option in re.findall(r"`(?:causvid [a-z -]+ )?(--?[a-z][a-z-]*)`", (ROOT / page).read_text()):
        assert option in known, option


def test_every_station_of_the_walks_is_there():
    """docs/design.md: a file of the package, then a name that it defines, or a class and its method."""
    walks = (ROOT / "docs" / "design.md").read_text().split("## Four walks")[1].split("\n## ")[0]
    stations = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", walks)
    assert len(stations) > 25
    for file, name in stations:
        body = ast.parse((ROOT / "src" / "causvid_cli" / file).read_text()).body
        for part in name.split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{file} has no {name}"
            body = found[0].body
    for walk in re.split(r"^\*\*", walks, flags=re.MULTILINE)[1:]:
        assert 3 < len(re.findall(r"^\d\.", walk, re.MULTILINE)) <= 8


# --- CI ------------------------------------------------------------------------------------------------------------


def test_ci_can_be_run_and_asks_no_address():
    assert CI.stat().st_mode & stat.S_IXUSR
    assert "://" not in CI.read_text()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize(("block", "code"), [("cat kept.txt new.txt", 0), ("false", 1)])
def test_ci_runs_the_second_block_of_the_readme_on_a_clean_copy(block, code, tmp_path):
    checkout, temporary = tmp_path / "checkout", tmp_path / "temporary"
    (checkout / ".ci").mkdir(parents=True)
    temporary.mkdir()
    shutil.copy(CI, checkout / ".ci" / "run")
    (checkout / "README.md").write_text(f"```sh\nfalse first\n```\n```python\nfalse\n```\n```sh\n{block}\n```\n")
    (checkout / ".gitignore").write_text("*.left\n")
    for name in ("kept.txt", "deleted.txt", "with space.txt"):
        (checkout / name).write_text(f"{name}\n")
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    (checkout / "deleted.txt").unlink()
    (checkout / "new.txt").write_text("new.txt")
    (checkout / "over.left").write_text("")

    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run([checkout / ".ci" / "run"], capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == code, done.stderr
    assert done.stdout == f"+ {block}\n" + ("kept.txt\nnew.txt" if code == 0 else "")
    assert list(temporary.iterdir()) == []


# --- what is installed ---------------------------------------------------------------------------------------------


def asked() -> list[Requirement]:
    """What pyproject.toml asks for, with the tests' extra."""
    project = PROJECT["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["test"]]


def test_constraints_lie_in_the_ranges_of_the_project():
    for requirement in asked():
        pin = next(iter(PINS[canonicalize_name(requirement.name)].specifier))
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version, prereleases=True), requirement


def test_constraints_name_all_that_is_needed():
    """Followed through what is installed here; a package for other systems may be absent."""
    wanted, seen = [(requirement, "") for requirement in asked()], set()
    while wanted:
        requirement, extra = wanted.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            below = requires(name) or []
        except PackageNotFoundError:
            continue
        assert name in PINS, f"{name} is not in constraints.txt"
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                wanted += [(Requirement(text), extra) for text in below]
    assert len(seen) > 20


def test_the_version_has_one_source():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    source = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'^__version__ = "(.+)"$', source.read_text(), re.MULTILINE) == [__version__]
    assert CliRunner().invoke(app, ["--version"]).stdout == f"causvid {__version__}\n"


def test_the_changelog_begins_with_what_is_not_released_yet():
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == ("Unreleased" if "dev" in __version__ else __version__)


def test_types_are_for_others_too():
    assert importlib.util.find_spec("causvid_cli").origin
    assert (Path(importlib.util.find_spec("causvid_cli").origin).parent / "py.typed").exists()
