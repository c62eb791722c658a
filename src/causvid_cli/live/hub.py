"""Everyone who is connected to a live video: who writes, who watches, and what each still has to get.

A session is heard and watched once; what it brings is handed to all, in the thread of the event loop. Each viewer has a
short queue, so who reads slowly loses chunks, and holds nobody up.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from causvid_cli.errors import UsageError
from causvid_cli.live.messages import read_message
from causvid_cli.live.packets import H264, Packet, Pictures
from causvid_cli.live.watch import KEPT_CHUNKS, Shown

if TYPE_CHECKING:
    from causvid_cli.live.session import Live

Codec = Literal["h264", "jpeg", "frames"]
"""How a viewer gets chunks; frames: as they are, in this process."""

KEPT_EVENTS = 500
MESSAGES_PER_S = 20
MOST_AT_ONCE = 60
MOST_REFUSED = 2000
"""Messages over the rate until the connection is closed."""


@dataclass(frozen=True, slots=True)
class CodedChunk:
    """A chunk as viewers of one codec get it; packets is empty for "frames". encode_s: seconds that coding took."""

    shown: Shown
    codec: Codec
    packets: list[Packet]
    encode_s: float


class Flood(Exception):
    """A viewer sends far more than anybody may."""


@dataclass(eq=False)
class Viewer:
    """One connection. may_write: whether its address lets it write; one viewer at a time does."""

    codec: Codec
    may_write: bool
    lost: int = 0
    """Chunks that it was too slow for."""
    _events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    _chunks: deque[CodedChunk] = field(default_factory=lambda: deque(maxlen=KEPT_CHUNKS))
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False
    _tokens: float = MOST_AT_ONCE
    _counted_s: float = 0.0
    _refused: int = 0

    def put(self, news: dict[str, Any] | CodedChunk) -> None:
        if isinstance(news, CodedChunk):
            self.lost += len(self._chunks) == KEPT_CHUNKS
            self._chunks.append(news)
        else:
            self._events.append(news)
        self._news.set()

    def drop_chunks(self) -> None:
        """Forget chunks that are made anew."""
        self._chunks.clear()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._news.set()

    async def next(self) -> dict[str, Any] | CodedChunk | None:
        """What it is to get next, events first; None at the end."""
        while not self._events and not self._chunks and not self._ended:
            self._news.clear()
            await self._news.wait()
        if self._events:
            return self._events.popleft()
        return self._chunks.popleft() if self._chunks else None

    def is_too_fast(self) -> bool:
        """Count a message, and return whether it is over the rate. Raises Flood when far too many were."""
        now = time.monotonic()
        self._tokens = min(MOST_AT_ONCE, self._tokens + (now - self._counted_s) * MESSAGES_PER_S)
        self._counted_s = now
        if self._tokens >= 1:
            self._tokens -= 1
            return False
        self._refused += 1
        if self._refused > MOST_REFUSED:
            raise Flood
        if self._refused == 1:
            self.refuse(None, f"more than {MESSAGES_PER_S} messages a second; send fewer")
        return True

    def refuse(self, event_id: Any, why: str) -> None:
        """Tell this viewer alone that something was not done."""
        self.put({"event": "refused", "event_id": event_id, "why": " ".join(why.split())})


class Hub:
    """All viewers of one session, which may begin after they have come. But for `first_prompt`, `attach` and `wait`,
    everything is called in the thread of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.live: Live | None = None
        self._loop, self._viewers = loop, list[Viewer]()
        self._writer: Viewer | None = None
        self._watching: Thread | None = None
        self._first_prompt: Future[str] = Future()
        self._waits_for_prompt = False
        self._cues: list[dict[str, Any]] = []
        self._planned: dict[Any, dict[str, Any]] = {}
        self._next_chunk, self._paused, self._undone = 0, False, 0

    # --- from the session's side ---

    def first_prompt(self) -> str:
        """Wait until a viewer says what to show first."""
        self._waits_for_prompt = True
        self._soon(self._greet_all)
        while True:
            with suppress(TimeoutError):  # waits in pieces, for a signal wakes no waiting thread
                return self._first_prompt.result(timeout=0.1)

    def attach(self, live: "Live") -> None:
        """Let viewers see and tell a session; before it is run."""
        self._cues = [
            {"chunk": cue.start_chunk, "frame": live.frame_of(cue.start_chunk), "prompt": cue.prompt}
            for cue in live.cues
        ]
        self._next_chunk = live.next_chunk
        self.live = live
        live.listen(self._hear_soon)
        self._watching = Thread(target=self._watch, args=(live,), name="causvid page", daemon=True)
        self._watching.start()
        self._soon(self._greet_all)

    def wait(self, seconds: float) -> None:
        """Wait until the session has ended, and all of it is handed out; not longer than this."""
        if self._watching is not None:
            self._watching.join(seconds)

    def _hear_soon(self, event: dict[str, Any]) -> None:
        self._undone += event["event"] == "undone"  # before the first chunk that is made anew
        self._soon(self._hear, event)

    def _soon(self, call: Callable[..., None], *values: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *values)

    def _watch(self, live: "Live") -> None:
        """Code each chunk in every codec that somebody watches, once."""
        coders: dict[Codec, Callable[[np.ndarray], list[Packet]]] = {"jpeg": Pictures(), "frames": lambda _: []}
        for shown in live.watch(kept=2 * KEPT_CHUNKS):
            undone = self._undone
            for codec in {viewer.codec for viewer in list(self._viewers)}:
                if codec == "h264" and codec not in coders:
                    height, width = shown.frames.shape[1:3]
                    coders[codec] = H264(width, height, Fraction(live.job.retiming.made))
                started = time.monotonic()
                packets = coders[codec](shown.frames)
                coded = CodedChunk(shown, codec, packets, time.monotonic() - started)
                self._soon(self._hand_out, coded, undone)

    # --- in the event loop ---

    def join(self, codec: Codec, *, may_write: bool) -> Viewer:
        """Somebody comes, and writes if nobody does."""
        viewer = Viewer(codec, may_write)
        self._viewers.append(viewer)
        if may_write and self._writer is None:
            self._writer = viewer
        viewer.put(self._greeting(viewer))
        self._tell_count()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Somebody goes; if it was who wrote, the next one that may does."""
        self._viewers.remove(viewer)
        if viewer is self._writer:
            self._give_pen(next((each for each in self._viewers if each.may_write), None))
        self._tell_count()

    def close(self) -> None:
        """Let everyone go, when they have got what waits for them."""
        for viewer in self._viewers:
            viewer.end()

    @property
    def count(self) -> int:
        return len(self._viewers)

    def tell(self, viewer: Viewer, message: Mapping[str, Any]) -> None:
        """Do what a viewer says; what is wrong with it is told to this viewer, or by the session."""
        event_id = message.get("event_id")
        if "pen" in message:
            if not viewer.may_write:
                viewer.refuse(event_id, "this address is to watch only")
            elif viewer is not self._writer:
                self._give_pen(viewer)
        elif viewer is not self._writer:
            why = "this address is to watch only" if not viewer.may_write else "another page writes; take over first"
            viewer.refuse(event_id, why)
        elif self.live is not None:
            self.live.send(message)
        elif not self._waits_for_prompt:
            viewer.refuse(event_id, "the model is loading; wait a moment")
        else:
            try:
                if (prompt := read_message(message).prompt) is None:
                    raise UsageError("nothing is shown yet; say a prompt first")
                self._first_prompt.set_result(prompt)
                self._waits_for_prompt = False
                self._greet_all()
            except UsageError as error:
                viewer.refuse(event_id, str(error))

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "applied":
            self._planned.pop(event["event_id"], None)
            self._cues = [cue for cue in self._cues if cue["chunk"] != event["chunk"]]
            self._cues.append({name: event[name] for name in ("chunk", "frame", "prompt")})
        elif kind == "planned":
            self._planned[event["event_id"]] = {name: event[name] for name in ("event_id", "chunk", "frame", "cue")}
        elif kind in ("dropped", "refused"):
            self._planned.pop(event["event_id"], None)
        elif kind == "undone":
            self._next_chunk = event["chunk"]
            self._cues = [cue for cue in self._cues if cue["chunk"] < event["chunk"] or not cue["chunk"]]
            for viewer in self._viewers:
                viewer.drop_chunks()
        elif kind == "paused":
            self._paused = event["paused"]
        elif kind == "chunk":
            self._next_chunk = event["index"] + 1
        for viewer in self._viewers:
            viewer.put(event)

    def _hand_out(self, coded: CodedChunk, undone: int) -> None:
        if undone == self._undone:
            for viewer in self._viewers:
                if viewer.codec == coded.codec:
                    viewer.put(coded)

    def _give_pen(self, viewer: Viewer | None) -> None:
        before, self._writer = self._writer, viewer
        for each in (before, viewer):
            if each in self._viewers:
                each.put({"event": "pen", "writes": each is viewer})

    def _tell_count(self) -> None:
        for viewer in self._viewers:
            viewer.put({"event": "viewers", "count": self.count})

    def _greet_all(self) -> None:
        for viewer in self._viewers:
            viewer.put(self._greeting(viewer))

    def _greeting(self, viewer: Viewer) -> dict[str, Any]:
        """All that a page has to know that comes just now, perhaps after its connection was lost."""
        greeting = {"event": "hello", "writes": viewer is self._writer, "may_write": viewer.may_write}
        live = self.live
        if live is None:
            return greeting | {"state": "loading" if not self._waits_for_prompt else "waiting"}
        return greeting | {
            "state": "live",
            "model": live.job.model.name,
            "size": live.job.size,
            "fps": float(live.job.retiming.made),
            "seed": live.job.seed,
            "has_file": live.output is not None,
            "first_frames": [live.grid.first_frame(0), live.grid.first_frame(1)],
            "frames_per_chunk": live.grid.frames_per_chunk,
            "next_chunk": self._next_chunk,
            "paused": self._paused,
            "cues": self._cues,
            "planned": list(self._planned.values()),
            "keys": {name: bool(key.release) for name, key in live.keys.bound.items()},
        }
