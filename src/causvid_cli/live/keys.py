"""Keys that tell a live video something when they are pressed and let go. Imports no torch."""

from collections.abc import Mapping

from causvid_cli.config import did_you_mean
from causvid_cli.errors import UsageError
from causvid_cli.live.messages import CueMessage
from causvid_cli.script import ScriptKey


class Keys:
    """What keys are bound to, and which are held.

    A key with a `release` is held: pressed again meanwhile, as terminals repeat it, it tells nothing; let go, the key
    that is held besides says what holds, else its `release` does. A key without one is tapped: each press tells.
    """

    def __init__(self, bound: Mapping[str, ScriptKey]) -> None:
        self.bound = bound
        self._held: list[str] = []

    def tell(self, key: str, *, down: bool) -> CueMessage | None:
        """What a key says that was pressed or let go; None for nothing. Raises UsageError for one that is not bound."""
        if key not in self.bound:
            known = f"; bound: {', '.join(self.bound)}" if self.bound else ""
            raise UsageError(f"key {key!r} is not bound{did_you_mean(key, self.bound) or known}")
        binding = self.bound[key]
        if not binding.release:
            return _pressed(binding) if down else None
        if down == (key in self._held):
            return None
        if down:
            self._held.append(key)
            return _pressed(binding)
        self._held.remove(key)
        return _pressed(self.bound[self._held[-1]]) if self._held else CueMessage(prompt=binding.release)


def _pressed(key: ScriptKey) -> CueMessage:
    return CueMessage(
        prompt=key.prompt or None,
        transition=key.transition,
        blend=None if key.blend is None else str(key.blend),
        strength=key.strength,
        seed=key.seed,
        negative=key.negative,
    )
