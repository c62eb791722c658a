"""What may be told to a live session, and what it answers: in Python, as JSON lines, by the page. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from causvid_cli.config import from_data
from causvid_cli.errors import UsageError
from causvid_cli.geometry import ChunkGrid
from causvid_cli.prompt.cues import Telling
from causvid_cli.request import LONGEST_PROMPT, Transition, check_file_name, check_prompt, check_seed
from causvid_cli.timecode import nearest_whole, parse_time

LONGEST_NAME = 200
"""Characters of a key, an event_id or the name of a saved video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CueMessage:
    """A cue in full; what is left out stays as it is, and without a prompt the one that holds goes on."""

    __pydantic_config__ = {"extra": "forbid"}

    prompt: str | None = None
    transition: Transition | None = None
    blend: str | float | None = None
    """A time, such as 2s or 2: over how long the text slides from the old prompt to this one."""
    strength: float | None = None
    seed: int | None = None
    negative: str | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None:
            check_prompt(self.prompt)
        if self.blend is not None:
            parse_time(self.blend, name="blend")
            if self.transition == "cut":
                raise UsageError("blend and transition cut contradict each other; leave one out")
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise UsageError(f"strength {self.strength:g}: must be 0 to 1")
        if self.seed is not None:
            check_seed(self.seed)
        if self.negative is not None and len(self.negative) > LONGEST_PROMPT:
            raise UsageError(f"negative has {len(self.negative)} characters; {LONGEST_PROMPT} are the most")
        names = [each.name for each in fields(self)]
        if all(getattr(self, name) is None for name in names):
            raise UsageError(f"the cue is empty; say at least one of {', '.join(names)}")

    def telling(self, grid: ChunkGrid, fps: Fraction) -> Telling:
        """What it tells a stream. fps: at which the model's frames are made, for the time of a blend."""
        blend = None
        if self.blend is not None:
            blend = nearest_whole(parse_time(self.blend, name="blend").frames(fps) / grid.frames_per_chunk)
        return Telling(
            prompt=self.prompt.strip() if self.prompt else None,
            transition=self.transition,
            blend_chunks=blend,
            strength=self.strength,
            seed=self.seed,
            negative=self.negative,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing that is told. Raises UsageError unless it says exactly one."""

    __pydantic_config__ = {"extra": "forbid"}

    prompt: str | None = None
    """Holds from the next chunk on."""
    cue: CueMessage | None = None
    at: int | None = None
    """With a prompt, a cue or a seed: the chunk with which it takes hold, if that is not the next one."""
    move: str | int | None = None
    """The event_id of what is planned for a later chunk (`at`), and is to take hold with another."""
    drop: str | int | None = None
    """The event_id of what is planned for a later chunk, and is not to be."""
    key: str | None = None
    """A key that is bound (`Keys`) was pressed, or with `down` false let go."""
    down: bool = True
    pause: bool | None = None
    undo: int | None = None
    """Go back to before this chunk: it and what came after it is made anew, and what was told from then on is gone."""
    seed: int | None = None
    """Noise comes from this seed, from the next chunk on."""
    save: str | None = None
    """Keep what there is so far as NAME and NAME.causvid.yaml, and go on."""
    quit: bool | None = None
    event_id: str | int | None = None
    """Comes back in the events about this message; a number of the session's own where left out."""

    def __post_init__(self) -> None:
        said = [name for name in VERBS if getattr(self, name) is not None]
        if len(said) != 1:
            found = f"it says {' and '.join(said)}" if said else "it says nothing"
            raise UsageError(f"a message says one of {', '.join(VERBS)}; {found}")
        if not self.down and self.key is None:
            raise UsageError("down is for a key; leave it out")
        if self.prompt is not None:
            check_prompt(self.prompt)
        if self.seed is not None:
            check_seed(self.seed)
        for name in ("undo", "at"):
            if (chunk := getattr(self, name)) is not None and chunk < 0:
                raise UsageError(f"{name} {chunk}: chunks are counted from 0")
        if self.at is not None and self.as_cue is None and self.move is None:
            raise UsageError("at is for a prompt, a cue, a seed or a move; leave it out")
        if self.move is not None and self.at is None:
            raise UsageError(f"move {self.move}: say the chunk as well, in at")
        if self.save is not None:
            check_file_name(self.save, "save")
        for name in ("key", "event_id", "save", "move", "drop"):
            if isinstance(text := getattr(self, name), str) and not 0 < len(text) <= LONGEST_NAME:
                raise UsageError(f"{name}: must have 1 to {LONGEST_NAME} characters")

    @property
    def as_cue(self) -> CueMessage | None:
        """What of it becomes a cue: a prompt, a cue or a seed."""
        if self.prompt is not None:
            return CueMessage(prompt=self.prompt)
        return CueMessage(seed=self.seed) if self.seed is not None else self.cue


VERBS = ("prompt", "cue", "key", "pause", "undo", "seed", "move", "drop", "save", "quit")
EVENTS = {
    "started": "prompt, chunk (the first that is made now), fps, size, seed, model",
    "received": "event_id, chunk (with which it takes hold), in (seconds until that is seen)",
    "planned": "event_id, chunk (a later one, with which it takes hold), frame, cue (what it says)",
    "dropped": "event_id (of what was planned, and is not to be)",
    "applied": "event_id, chunk, frame (of the video, from 0), in (seconds until that is seen), prompt, notes",
    "chunk": "index, frame, frames, seconds (that it took), latency (seconds until what is told now is seen), prompt",
    "paused": "event_id, paused (false: it goes on)",
    "undone": "event_id, chunk (the next that is made), frame, prompt",
    "saved": "event_id, output (none of a pipe), script",
    "refused": "event_id, why",
    "ended": "frames, why (quit, length, source or stopped), output, script",
}
"""What a session tells, and the values of each event."""


def read_message(data: Mapping[str, Any], *, where: str = "message") -> Message:
    """The message that a JSON object or a dict says. Raises UsageError, which names the field that is wrong."""
    return from_data(Message, dict(data), where=where)
