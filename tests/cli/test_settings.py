import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner, Result

from causvid_cli.cli import config as configure
from causvid_cli.cli import settings
from causvid_cli.cli.app import app
from causvid_cli.cli.command import Command, Group
from causvid_cli.errors import UsageError

ROOT = typer.main.get_command(app)
COMMANDS = {" ".join(words): command for words, command in settings.tree(ROOT).items()}

APP_DIR = typer.get_app_dir


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch) -> Path:
    """The user's config file, which does not exist yet."""
    for name in os.environ:
        if name.startswith("CAUSVID_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(typer, "get_app_dir", lambda _: str(tmp_path / "settings"))
    return tmp_path / "settings" / "config.toml"


def write(config: Path, text: str) -> None:
    config.parent.mkdir(exist_ok=True)
    config.write_text(text)


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner(env={"NO_COLOR": "1", **environment}).invoke(app, list(map(str, arguments)))


def complains(result: Result, complaint: str) -> None:
    """Exit code 2, this line on stderr and nothing on stdout."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr == f"causvid: {complaint}\n"


def shown(*command: str, **environment: str) -> dict[str, tuple[object, str, str | None]]:
    """Option -> value, source, origin, as `config show` tells."""
    result = run("config", "show", *command, "--json", **environment)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["settings"]
    return {row["option"]: (row["value"], row["source"], row["origin"]) for row in found}


# --- which value holds ---------------------------------------------------------------------------------------------


def probe() -> typer.Typer:
    """A program of our kind of command that prints what it was given."""
    small = typer.Typer(cls=Group, rich_markup_mode=None)
    small.callback()(lambda: None)

    @small.command(cls=Command)
    def make(
        context: typer.Context,
        length: Annotated[str, typer.Option()] = "5s",
        repeats: Annotated[int, typer.Option(min=1)] = 3,
        teacher: Annotated[bool, typer.Option("--teacher/--no-teacher")] = True,
        quiet: Annotated[int, typer.Option("--quiet", "-q", count=True)] = 0,
        then: Annotated[list[str] | None, typer.Option()] = None,
        output: Annotated[str, typer.Option()] = "",
    ) -> None:
        print(json.dumps([length, repeats, teacher, quiet, settings.typed(context, "length")]))

    return small


def made(*arguments: str, **environment: str) -> list[object]:
    result = CliRunner(env=environment).invoke(probe(), ["make", *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(config):
    assert made() == ["5s", 3, True, 0, False]
    write(config, 'length = "7s"\n')
    assert made()[0] == "7s"
    assert made(CAUSVID_LENGTH="8s")[0] == "8s"
    assert made("--length", "9s", CAUSVID_LENGTH="8s") == ["9s", 3, True, 0, True]


def test_a_table_goes_before_the_top_of_the_file(config):
    write(config, "repeats = 4\nquiet = true\n[make]\nrepeats = 5\nteacher = false\nlength = 7\n")
    assert made()[:4] == ["7", 5, False, 1]


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("0", False), ("FALSE", False)])
def test_a_flag_in_the_environment_is_a_word(text, value):
    assert made(CAUSVID_TEACHER=text)[2] is value


def test_an_empty_variable_is_as_good_as_none():
    assert made(CAUSVID_LENGTH="", CAUSVID_CONFIG="")[0] == "5s"


def test_another_config_file_can_be_named(tmp_path, config):
    write(config, "repeats = 9\n")
    (tmp_path / "mine.toml").write_text("repeats = 4\n", encoding="utf-8-sig")
    assert made(CAUSVID_CONFIG=str(tmp_path / "mine.toml"))[1] == 4
    assert made(CAUSVID_CONFIG=os.devnull)[1] == 3


def test_what_one_run_is_to_do_is_not_set_from_outside(config):
    assert {"output", "then"}.isdisjoint(settings.options_of(typer.main.get_command(probe()).commands["make"]))
    for command in COMMANDS.values():
        assert {"help", "version", "output", "out", "install-completion"}.isdisjoint(settings.options_of(command))
    write(config, 'output = "x.mp4"\n')
    complains(run("t2v", "x"), f"{config}:1: output: no such option; `causvid config show` lists what can be set")


def test_help_names_the_variable_of_every_option():
    for name, command in COMMANDS.items():
        if not getattr(command, "reads_config", True):
            continue
        said = " ".join(run(*name.split(), "-h").stdout.split())
        for key in settings.options_of(command):
            assert f"[env: {settings.variable(key)}" in said, (name, key)
    assert "[env: CAUSVID_MODEL; default: auto]" in " ".join(run("t2v", "-h").stdout.split())


def test_help_and_version_work_whatever_the_file_says(config):
    plain = run("t2v", "-h").stdout
    write(config, 'length = "9s"\n')
    assert run("t2v", "-h").stdout == plain
    write(config, "length = \n")
    for arguments in (["-h"], ["--version"], ["t2v", "-h"], ["config", "path"]):
        assert run(*arguments).exit_code == 0


# --- what is wrong with it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# mine\nlenght = 5\n", ":2: lenght: no such option; did you mean length?"),
        ("[t2v]\nrepeats = 5\n", ":2: t2v repeats: no such option"),
        ("[bench]\nno-teacher = true\n", ":2: bench no-teacher: no such option; did you mean teacher?"),
        ("\n\n[tv2]\n", ":3: [tv2]: no such command; did you mean t2v?"),
        ("[models.lst]\n", ":1: [models.lst]: no such command; did you mean list?"),
        ("length = [1]\n", ":1: length = [1]: must be a number or text in quotes"),
        ("length = true\n", ":1: length = true: must be a number or text in quotes"),
        ("overwrite = 'yes'\n", ":1: overwrite = 'yes': must be true or false"),
        ("length = 12:30\n", ":1:12: not TOML: "),
        ("length = 5\nlength = 6\n", ":2:11: not TOML: "),
        ("\nlength = '5", ":2: not TOML: "),
        ('t2v = {"lenght" = 5}\n', ": t2v lenght: no such option; did you mean length?"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(text, complaint, config):
    write(config, text)
    result = run("t2v", "x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"causvid: {config}{complaint}"), result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
def test_a_home_that_is_no_folder_stops_nothing(variable, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(typer, "get_app_dir", APP_DIR)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert run("config", "show", "t2v").exit_code == 0
    result = run("config", "set", "length", "5s")
    assert result.exit_code == 7
    assert result.stderr.endswith("config.toml: cannot be written: not a directory\n")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    complains(run("t2v", "x", CAUSVID_CONFIG="no.toml"), "CAUSVID_CONFIG=no.toml: no such file; write it, or unset "
              "CAUSVID_CONFIG")  # fmt: skip
    complains(run("t2v", "x", CAUSVID_CONFIG="latin.toml"), "latin.toml: the config file is not UTF-8 text")
    complains(run("t2v", "x", CAUSVID_CONFIG="."), ".: the config file cannot be read: is a directory")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("seed", "abc", "--seed 'abc' is not a whole number"),
        ("size", "9000", "--size '9000' is not a size"),
        ("t2v.length", "soon", "--length 'soon' is not a length"),
        ("t2v.fps", "0", "--fps 0: must be more than 0"),
        ("device", "gpu", "--device gpu: unknown"),
        ("transition", "fade", "--transition fade: unknown; try recache, soft or cut"),
        ("progress", "dots", "--progress dots: unknown"),
        ("guidance", "abc", "invalid value for '--guidance': must be a valid number"),
        ("guidance", "0", "--guidance 0: must be 1 to 20"),
        ("threads", "0", "invalid value for '--threads': must be greater than or equal to 1"),
    ],
)
def test_what_no_command_would_take_is_not_kept(key, value, complaint, config):
    result = run("config", "set", key, value)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"causvid: {complaint}"), result.stderr
    assert not config.exists()


def test_a_value_that_nobody_typed_is_traced_to_its_place(config):
    wrong = "--fps 'abc' is not a frame rate; write 8, 29.97 or 30000/1001"
    complains(run("t2v", "x", "--fps", "abc"), wrong)
    complains(run("t2v", "x", CAUSVID_FPS="abc"), f"{wrong}; --fps comes from CAUSVID_FPS")
    write(config, '[t2v]\nfps = "abc"\n')
    complains(run("t2v", "x"), f"{wrong}; --fps comes from {config}:2")
    complains(
        run("bench", CAUSVID_REPEATS="many"),
        "invalid value for '--repeats': must be a valid integer; see causvid bench -h; --repeats comes from "
        "CAUSVID_REPEATS",
    )
    complains(run("--color", "red", "doctor"), "--color red: unknown; try auto, always or never")


def test_a_model_that_nobody_typed_is_traced_too():
    result = run("t2v", "x", CAUSVID_MODEL="storyboko")
    assert result.exit_code == 4
    assert result.stderr.endswith("; --model comes from CAUSVID_MODEL\n")


# --- config show ---------------------------------------------------------------------------------------------------


def test_show_says_where_each_value_is_from(config):
    write(config, "length = 7\n[t2v]\nfps = 12.5\n")
    found = shown("t2v", CAUSVID_SEED="42")
    assert found["length"] == (7, "config", f"{config}:1")
    assert found["fps"] == (12.5, "config", f"{config}:3")
    assert found["seed"] == ("42", "environment", "CAUSVID_SEED")
    assert found["model"] == ("auto", "default", None)
    assert shown("bench")["length"][1] == "config"


def test_show_tells_what_the_command_then_takes(config):
    """`resolve` and the parser must not drift apart."""
    write(config, "repeats = 4\n[bench]\nteacher = false\n")
    command = COMMANDS["bench"]
    with ROOT.make_context("causvid", ["bench"]) as parent:
        taken = command.make_context("bench", [], parent=parent).params
    told = shown("bench")
    for key, option in settings.options_of(command).items():
        assert told[key][0] == taken[option.name], key


def test_show_is_a_table_in_which_commands_share_a_row(config):
    write(config, 'device = "cpu"\n')
    rows = [line.split("  ") for line in run("config", "show").stdout.splitlines()]
    cells = {row[0]: [cell.strip() for cell in row if cell.strip()] for row in rows}
    assert cells["option"] == ["option", "value", "from", "commands"]
    assert cells["device"][:3] == ["device", "cpu", f"{config}:1"]
    assert {"t2v", "bench"} <= set(cells["device"][3].split(", "))


def test_show_names_variables_that_set_nothing():
    result = run("config", "show", CAUSVID_LENGHT="5s", CAUSVID_DEBUG="", CAUSVID_DEVICE="cpu")
    assert result.stderr == "causvid: CAUSVID_LENGHT sets no option; did you mean CAUSVID_LENGTH?\n"
    complains(run("config", "show", "tv2"), "no command 'tv2'; did you mean t2v?")


# --- config path, set, unset ---------------------------------------------------------------------------------------


def test_path_is_printed_whether_it_exists_or_not(config):
    assert run("config", "path").stdout == f"{config}\n"
    assert json.loads(run("config", "path", "--json").stdout) == {"v": 1, "path": str(config), "exists": False}


def test_set_and_unset_change_one_line_and_keep_the_rest(config):
    write(config, "# mine\nlength = 5 # short\n\n[t2v]\nfps = 8\n\n# end\n[bench]\n")
    for arguments in (["set", "length", "1:30"], ["set", "t2v.seed", "42"], ["set", "device", "cpu"],
                      ["unset", "t2v.fps"], ["set", "models.list.json", "true"], ["unset", "dtype"]):  # fmt: skip
        assert run("config", *arguments).exit_code == 0
    assert config.read_text() == (
        '# mine\nlength = "1:30" # short\ndevice = "cpu"\n\n[t2v]\n\n# end\nseed = 42\n[bench]\n'
        "\n[models.list]\njson = true\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["set", "lenght", "5"], "lenght: no such option; did you mean length?"),
        (["set", "t2v.repeats", "5"], "t2v repeats: no such option; "),
        (["set", "tv2.fps", "5"], "no command 'tv2'; did you mean t2v?"),
        (["set", "overwrite", "maybe"], "overwrite = 'maybe': must be true or false"),
    ],
)
def test_set_refuses_what_would_not_hold(arguments, complaint, config):
    result = run("config", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr
    assert not config.exists()


def test_a_file_is_edited_however_it_is_written(config):
    write(config, '# mine\nt2v = {fps = 8} # inline\nlength = """\n5s"""\n"device" = "cpu"\nbench."length" = 3\n')
    for arguments in (["set", "t2v.fps", "9"], ["set", "length", "9"], ["unset", "device"], ["set", "t2v.seed", "1"]):
        assert run("config", *arguments).exit_code == 0
    assert config.read_text() == '# mine\nt2v = {fps = 9,seed = 1} # inline\nlength = 9\nbench."length" = 3\n'


def test_an_edited_file_keeps_its_mode_and_its_links(config, tmp_path):
    real = tmp_path / "real.toml"
    write(real, "length = 5\n")
    real.chmod(0o600)
    config.parent.mkdir(parents=True, exist_ok=True)
    config.symlink_to(real)
    assert run("config", "set", "length", "6").exit_code == 0
    assert config.is_symlink() and real.read_text() == "length = 6\n"
    assert real.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("**/.*")) == []


def test_unset_mends_a_file_with_an_unknown_option(config):
    write(config, "lenght = 5\nlength = 6\n")
    assert run("config", "unset", "lenght").stderr == f"causvid: {config}: lenght is no longer set\n"
    assert run("config", "unset", "lenght").stderr == f"causvid: {config}: lenght is not set\n"
    assert config.read_text() == "length = 6\n"


@pytest.mark.parametrize("value", ["a b", 'say "x"', "\\", "é", "007", "1e5", "-3", "0.5", "true", "'", "\t", "#"])
def test_any_value_is_read_back_as_it_was_given(value, config):
    option = settings.options_of(COMMANDS["t2v"])["seed"]
    parsed = settings.read_toml(config, f"seed = {configure._item(value, option).as_string()}")["seed"]
    assert (str(parsed).lower() if isinstance(parsed, bool) else str(parsed)) == value


def test_a_file_of_noise_is_refused_and_never_a_bug():
    for text in (
        "=",
        "[",
        "[[t2v]]\n",
        "a" * 10_000,
        "length.x = 1",
        "[t2v.length]\n",
        '"" = 1',
        "length = 1979-05-27",
    ):
        with pytest.raises(UsageError):
            settings.parse_settings(Path("c.toml"), text, ROOT)


def test_settings_are_read_without_anything_heavy(config):
    write(config, "length = 5\n")
    code = (
        "import sys; from causvid_cli.cli.app import app\n"
        "try: app(['config', 'show'])\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit(', '.join({'torch', 'av', 'numpy', 'rich', 'tomlkit'} & set(sys.modules)) or 0)"
    )
    environment = os.environ | {"CAUSVID_CONFIG": str(config)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{config}:1" in done.stdout
