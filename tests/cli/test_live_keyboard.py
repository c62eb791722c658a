"""Keys of terminals that speak kitty's keyboard protocol, and of those that do not."""

import io

import pytest

from causvid_cli.cli import live_keyboard
from causvid_cli.cli.live_keyboard import Keyboard


class Output(io.StringIO):
    """A terminal's output."""

    write_raw = io.StringIO.write


@pytest.fixture
def told() -> list[tuple[str, bool]]:
    return []


@pytest.fixture
def keyboard(told) -> Keyboard:
    made = Keyboard({"left": 1, "space": 1, "a": 1, "f5": 1, "delete": 1}, lambda key, down: told.append((key, down)))
    made.play(Output(), True)
    return made


def test_a_terminal_tells_when_a_key_is_held_and_let_go(keyboard, told):
    assert keyboard.filter("\x1b[?11u\x1b[D\x1b[1;1:2D\x1b[1;1:3D") == ""
    assert told == [("left", True), ("left", False)]
    told.clear()
    keyboard.filter("\x1b[97u\x1b[32;1:1u\x1b[97;1:3u\x1b[32;1:3u\x1b[15~\x1b[15;1:3~\x1b[3;1:1~")
    pressed = [("a", True), ("space", True), ("a", False), ("space", False), ("f5", True), ("f5", False)]
    assert told == [*pressed, ("delete", True)]


def test_what_is_not_bound_is_typed(keyboard, told):
    assert keyboard.filter("\x1b[98u\x1b[98;1:3u\x1b[98;2u\x1b[99;5u\x1b[C\x1b[13u\x1b[57441;2u") == "bB\x03\x1b[C\r"
    assert told == []


def test_an_old_terminal_repeats_a_key_that_is_held(keyboard, told, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live_keyboard.time, "monotonic", lambda: now[0])
    assert keyboard.filter("a\x1b[Db ") == "b"
    assert told == [("left", True), ("a", True), ("space", True)]
    for now[0] in (0.5, 0.6):
        keyboard.filter("a")
        keyboard.let_go()
    now[0] = 0.8
    keyboard.let_go()
    assert told[3:] == [("left", False), ("space", False)]
    now[0] = 1.4
    keyboard.let_go()
    assert told[5:] == [("a", False)]


def test_typing_lets_all_go_and_types_all(keyboard, told):
    output = Output()
    keyboard.filter("a")
    keyboard.play(output, False)
    assert told == [("a", True), ("a", False)]
    assert output.getvalue() == "\x1b[<u"
    assert keyboard.filter("a\x1b[D") == "a\x1b[D"
