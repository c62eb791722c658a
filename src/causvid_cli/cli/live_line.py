"""What is typed below a live video -> messages: a prompt, or a command that begins with a colon."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from causvid_cli.config import did_you_mean
from causvid_cli.errors import UsageError
from causvid_cli.timecode import parse_time, parse_whole

HELP = {
    ":cut": "[PROMPT] a new shot",
    ":soft": "[PROMPT] the past is seen as it was",
    ":recache": "[PROMPT] the past is seen anew",
    ":blend": "TIME [PROMPT] slide to the prompt",
    ":strength": "0..1 [PROMPT] how far it replaces the one before",
    ":negative": "[TEXT] what not to show",
    ":seed": "NUMBER new noise",
    ":pause": "hold, and go on",
    ":undo": "[CHUNK] go back",
    ":save": "NAME keep what there is",
    ":quit": "end",
}


@dataclass(slots=True)
class PromptLine:
    """Reads lines; what `:soft`, `:blend` and the like say without a prompt is kept for the prompts that follow.

    last_cue: the chunk with which the last cue began, to which `:undo` goes back. is_paused: asked by `:pause`.
    """

    last_cue: Callable[[], int]
    is_paused: Callable[[], bool]
    usual: dict[str, Any] = field(default_factory=dict)
    """What every prompt says besides."""

    def read(self, text: str) -> dict[str, Any] | str:
        """The message that a line says; text where it only changes what is usual. Raises UsageError."""
        text = text.strip()
        if not text.startswith(":"):
            return self._prompt(text)
        word, _, rest = text.partition(" ")
        rest = rest.strip()
        if word not in HELP:
            raise UsageError(f"{word}: unknown; try {' '.join(HELP)}{did_you_mean(word, HELP)}")
        if word == ":cut":
            return {"cue": {"transition": "cut"} | ({"prompt": rest} if rest else {})}
        if word in (":soft", ":recache"):
            return self._with({"transition": word[1:]}, rest)
        if word in (":blend", ":strength"):
            value, _, prompt = rest.partition(" ")
            return self._with({word[1:]: _value(word, value)}, prompt.strip())
        if word == ":negative":
            return {"cue": {"negative": rest}}
        if word == ":seed":
            return {"seed": parse_whole(rest, name=":seed")}
        if word == ":undo":
            return {"undo": parse_whole(rest, name=":undo") if rest else self.last_cue()}
        if word == ":save":
            return {"save": rest}
        return {"pause": not self.is_paused()} if word == ":pause" else {"quit": True}

    def _prompt(self, text: str) -> dict[str, Any]:
        return {"cue": {"prompt": text} | self.usual} if self.usual else {"prompt": text}

    def _with(self, said: dict[str, Any], prompt: str) -> dict[str, Any] | str:
        if prompt:
            usual = {} if said.get("transition") == "cut" else self.usual
            return {"cue": {"prompt": prompt} | usual | said}
        self.usual |= said
        return f"for the prompts that follow: {', '.join(f'{name} {value}' for name, value in self.usual.items())}"


def _value(word: str, text: str) -> str | float:
    if not text:
        raise UsageError(f"{word}: say {HELP[word]}")
    if word == ":blend":
        parse_time(text, name=":blend")
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f":strength {text}: must be 0 to 1")
    return value
