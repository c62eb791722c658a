"""What is told now for a later chunk; until that is made it can be moved or dropped. Imports no torch."""

from typing import NamedTuple

from causvid_cli.errors import UsageError
from causvid_cli.live.messages import CueMessage

MOST_PLANNED = 1000


class PlannedCue(NamedTuple):
    chunk: int
    cue: CueMessage


class Planned:
    """Cues by their event_id, each with the chunk with which it takes hold."""

    def __init__(self) -> None:
        self._cues: dict[str | int, PlannedCue] = {}

    def add(self, event_id: str | int, planned: PlannedCue) -> None:
        """Plan a cue, in place of one of the same event_id. Raises UsageError where too many are planned."""
        if len(self._cues) >= MOST_PLANNED and event_id not in self._cues:
            raise UsageError(f"{MOST_PLANNED} cues are planned already; drop some")
        self._cues[event_id] = planned

    def move(self, event_id: str | int, chunk: int) -> PlannedCue:
        """Plan a cue for another chunk. Raises UsageError for one that is not planned."""
        self._cues[event_id] = moved = self.drop(event_id)._replace(chunk=chunk)
        return moved

    def drop(self, event_id: str | int) -> PlannedCue:
        """Forget a cue, and return it. Raises UsageError for one that is not planned."""
        if event_id not in self._cues:
            raise UsageError(f"{event_id}: is not planned; it was told already, or dropped")
        return self._cues.pop(event_id)

    def due(self, chunk: int) -> list[tuple[str | int, CueMessage]]:
        """Take out what takes hold with this chunk, the earliest first."""
        due = sorted((planned.chunk, number, event_id) for number, (event_id, planned) in enumerate(self._cues.items()))
        return [(event_id, self._cues.pop(event_id).cue) for at, _, event_id in due if at <= chunk]
