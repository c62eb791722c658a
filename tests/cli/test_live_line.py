"""What is typed below a live video."""

import pytest

from causvid_cli.cli.live_line import HELP, PromptLine
from causvid_cli.errors import UsageError
from causvid_cli.live.messages import read_message


@pytest.fixture
def line() -> PromptLine:
    return PromptLine(last_cue=lambda: 5, is_paused=lambda: False)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("  it jumps ", {"prompt": "it jumps"}),
        (":cut", {"cue": {"transition": "cut"}}),
        (":cut a swan", {"cue": {"transition": "cut", "prompt": "a swan"}}),
        (":soft a swan", {"cue": {"transition": "soft", "prompt": "a swan"}}),
        (":blend 2s a swan", {"cue": {"blend": "2s", "prompt": "a swan"}}),
        (":strength .5 a swan", {"cue": {"strength": 0.5, "prompt": "a swan"}}),
        (":negative snow", {"cue": {"negative": "snow"}}),
        (":negative", {"cue": {"negative": ""}}),
        (":seed 7", {"seed": 7}),
        (":pause", {"pause": True}),
        (":undo", {"undo": 5}),
        (":undo 3", {"undo": 3}),
        (":save here", {"save": "here"}),
        (":quit", {"quit": True}),
    ],
)
def test_a_line_says_a_message(line, typed, message):
    assert line.read(typed) == message
    read_message(message)


def test_what_is_said_without_a_prompt_holds_for_those_that_follow(line):
    assert line.read(":blend 2s") == "for the prompts that follow: blend 2s"
    assert line.read(":soft") == "for the prompts that follow: blend 2s, transition soft"
    assert line.read("a swan") == {"cue": {"prompt": "a swan", "blend": "2s", "transition": "soft"}}
    assert line.read(":cut a swan") == {"cue": {"prompt": "a swan", "transition": "cut"}}


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (":bogus", ":bogus: unknown; try :cut"),
        (":qit", "did you mean :quit"),
        (":blend", ":blend: say TIME"),
        (":blend soon a swan", "'soon' is not a time"),
        (":strength 2", ":strength 2: must be 0 to 1"),
        (":seed x", ":seed 'x' is not a whole number"),
        (":undo x", ":undo 'x' is not a whole number"),
    ],
)
def test_a_line_that_says_nothing_is_told_why(line, typed, complaint):
    with pytest.raises(UsageError, match=complaint):
        line.read(typed)


def test_every_command_is_told():
    assert set(HELP) == set(":cut :soft :recache :blend :strength :negative :seed :pause :undo :save :quit".split())
