"""Keys that are bound to prompts and cues, in a script and in a file."""

from pathlib import Path

import pytest
from commands import fails, run

from causvid_cli.errors import UsageError
from causvid_cli.live.keys import Keys
from causvid_cli.live.messages import CueMessage
from causvid_cli.script import KEYS, ScriptError, ScriptKey, read_keys, read_script, schema, to_yaml

LEFT = ScriptKey(prompt="a car moves left", release="a car")
RIGHT = ScriptKey(prompt="a car moves right", release="a car")


def test_a_held_key_tells_when_it_is_pressed_and_when_it_is_let_go():
    keys = Keys({"left": LEFT, "right": RIGHT})
    assert keys.tell("left", down=True) == CueMessage(prompt="a car moves left")
    assert keys.tell("left", down=True) is None  # the terminal repeats it
    assert keys.tell("right", down=True) == CueMessage(prompt="a car moves right")
    assert keys.tell("right", down=False) == CueMessage(prompt="a car moves left")  # which is held besides
    assert keys.tell("left", down=False) == CueMessage(prompt="a car")
    assert keys.tell("left", down=False) is None


def test_a_tapped_key_tells_each_time():
    keys = Keys({"n": ScriptKey(seed=5), "space": ScriptKey(prompt="it jumps")})
    assert [keys.tell("space", down=down) for down in (True, False, True)] == [
        CueMessage(prompt="it jumps"),
        None,
        CueMessage(prompt="it jumps"),
    ]
    assert keys.tell("n", down=True) == CueMessage(seed=5)
    with pytest.raises(UsageError, match="key 'spce' is not bound; did you mean space"):
        keys.tell("spce", down=True)


def test_keys_stand_in_a_script_and_in_a_file_of_their_own(tmp_path):
    text = "left: {prompt: a car moves left, release: a car}\nspace: it jumps\n"
    (tmp_path / "keys.yaml").write_text(text)
    bound = read_keys(tmp_path / "keys.yaml")
    assert bound == {"left": LEFT, "space": ScriptKey(prompt="it jumps")}
    indented = "".join(f"  {line}\n" for line in text.splitlines())
    script = read_script(f"version: 1\ncues: [{{prompt: a car}}]\nkeys:\n{indented}")
    assert script.keys == bound
    assert read_script(to_yaml(script)) == script
    (tmp_path / "script.yaml").write_text(to_yaml(script))
    assert read_keys(tmp_path / "script.yaml") == bound


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lft: a car", "keys.yaml:1:1: unknown key 'lft'"),
        ("left: a car\nleft: a boat", "keys.yaml:2:1: 'left' is given twice"),
        ("left: {release: a car}", "keys.yaml:1:7: left is bound to nothing"),
        ("left: [a, b]", "left must be a prompt or the fields of a cue"),
        ("left: {promt: a car}", "unknown field 'promt'"),
        ("{}", "binds no key"),
    ],
)
def test_what_binds_no_key_is_said_with_its_place(tmp_path, monkeypatch, text, complaint):
    monkeypatch.chdir(tmp_path)
    Path("keys.yaml").write_text(text)
    with pytest.raises(ScriptError) as error:
        read_keys(Path("keys.yaml"))
    assert complaint in str(error.value.problems[0])
    assert run("live", "a car", "--stdin", "--keys", "keys.yaml").exit_code == 2


def test_the_schema_knows_the_keys():
    keys = schema()["properties"]["keys"]
    assert keys["propertyNames"]["enum"] == list(KEYS)


def test_a_key_file_that_is_not_there_is_one_line(work):
    fails(run("live", "a car", "--stdin", "--keys", "none.yaml"), 2, "none.yaml: the script cannot be read")


def test_the_example_can_be_played():
    assert list(read_script(Path(__file__).parents[2] / "examples" / "play.causvid.yaml").keys)[:2] == ["left", "right"]
