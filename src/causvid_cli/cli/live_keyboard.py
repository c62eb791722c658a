"""Keys of a terminal that are held and let go: told by the terminal (kitty's keyboard protocol), or by a timeout."""

import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_toolkit.output import Output

REPEATS_S = 0.7
"""A key that is not repeated for so long is taken to be let go, where the terminal does not tell: it begins to repeat
after half a second."""
_EVENT = re.compile(
    r"\x1b\[(?:(?P<code>\d+)?(?::\d*)*(?:;(?P<held>\d*)(?::(?P<kind>\d))?(?:;[\d:]*)?)?(?P<final>[u~A-DFHPQS])"
    r"|\?(?P<flags>\d+)u)"
)
_LETTERS = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}
_LETTERS |= {"P": "f1", "Q": "f2", "S": "f4"}
_TILDES = {2: "insert", 3: "delete", 5: "pageup", 6: "pagedown", 13: "f3", 15: "f5", 17: "f6", 18: "f7", 19: "f8"}
_TILDES |= {20: "f9", 21: "f10", 23: "f11", 24: "f12"}
_NAMED = {32: "space", 9: "tab"}
_OLD = {" ": "space", "\t": "tab"}
_ASK = "\x1b[>11u\x1b[?u"
"""Tell of presses, repeats and releases of all keys; and say whether you do."""
_STOP = "\x1b[<u"
_RELEASE = "3"
_PRIVATE = 57344
"""From here on codes are keys that type nothing, such as Shift."""


class Keyboard:
    """Which of the bound keys are down.

    tell: takes a key and whether it is down. While `playing`, bound keys are told; otherwise all are typed.
    """

    def __init__(self, bound: Collection[str], tell: Callable[[str, bool], Any]) -> None:
        self.bound, self.playing, self._tell = bound, False, tell
        self._protocol = False
        self._seen: dict[str, float] = {}

    def play(self, output: "Output", playing: bool) -> None:
        """Begin, or end, to take keys as they are held."""
        if playing == self.playing or not self.bound:
            return
        self.playing = playing
        output.write_raw(_ASK if playing else _STOP)
        output.flush()
        if not playing:
            for key in list(self._seen):
                self._release(key)

    def let_go(self) -> None:
        """Let go what is not repeated any more; asked now and then."""
        now = time.monotonic()
        for key, seen in list(self._seen.items()):
            if now - seen > REPEATS_S and not self._protocol:
                self._release(key)

    def filter(self, data: str) -> str:
        """Take the bound keys out of what comes from a terminal, however it says them; the rest is typed."""
        if not self.playing:
            return data
        rest = _EVENT.sub(self._take, data)
        return "".join(character for character in rest if not self._take_old(character))

    def _press(self, key: str) -> None:
        if key not in self._seen:
            self._tell(key, True)
        self._seen[key] = time.monotonic()

    def _release(self, key: str) -> None:
        if self._seen.pop(key, None) is not None:
            self._tell(key, False)

    def _take_old(self, character: str) -> bool:
        key = _OLD.get(character, character)
        if self._protocol or key not in self.bound:
            return False
        self._press(key)
        return True

    def _take(self, found: "re.Match[str]") -> str:
        if found["flags"] is not None:
            self._protocol = found["flags"] != "0"
            return ""
        code, final = int(found["code"] or 1), found["final"]
        key = _LETTERS.get(final) or (_TILDES.get(code) if final == "~" else _NAMED.get(code) or _text(code)) or ""
        if key not in self.bound:
            return "" if found["kind"] == _RELEASE else _typed(code, int(found["held"] or 1) - 1, final)
        self._release(key) if found["kind"] == _RELEASE else self._press(key)
        return ""


def _text(code: int) -> str:
    return chr(code) if code < _PRIVATE else ""


def _typed(code: int, held: int, final: str) -> str:
    """A key that is not bound, as an old terminal says it. held: 1 Shift, 4 Ctrl."""
    if final == "~":
        return f"\x1b[{code}~"
    if final != "u":
        return f"\x1b[{final}"
    if held & 4:
        return chr(code & 31)
    return _text(code).upper() if held & 1 else _text(code)
