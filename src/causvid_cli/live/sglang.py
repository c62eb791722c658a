"""SGLang's realtime messages, so that its clients can watch and tell a live video.

The form is that of sgl-project/sglang, runtime/entrypoints/openai/realtime (realtime_video_api.py,
realtime_output_adapter.py), as of 2026-11: MessagePack maps over one WebSocket. docs/live.md says what of it is served.
"""

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from causvid_cli.errors import UsageError
from causvid_cli.live.hub import CodedChunk, Hub, Viewer
from causvid_cli.live.packets import QUALITY, picture

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

Format = Literal["raw", "jpeg", "webp"]
PATH = "/v1/realtime_video/generate"
FRAMES_A_MESSAGE: dict[Format, int] = {"raw": 16, "jpeg": 6, "webp": 6}
CONTENT_TYPES: dict[Format, str] = {"raw": "application/x-raw-rgb", "jpeg": "image/jpeg", "webp": "image/webp"}
NOT_YET, NEXT = -1, -2
"""In the place of a client's first chunk: none before its prompt is applied; whichever is made next."""
KEPT = 16
"""Chunks and events that are remembered until they are shown."""
APART_BYTES = 64 * 1024
"""A payload of so many bytes comes in a message of its own, behind its header."""


class Realtime:
    """One client of SGLang's protocol: its `init` tells the first prompt, each `event` another."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._format: Format = "raw"
        self._quality, self._widest, self._most_chunks = QUALITY, 0, 0
        self._init_id, self._request_id = f"init-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        self._began, self._first_chunk = False, NOT_YET
        self._event_ids: dict[str, int] = {}
        self._applied: list[tuple[int, int]] = []  # chunk, event_id
        self._seconds: dict[int, float] = {}
        self._sent = 0

    async def read(self, socket: "WebSocket", hub: Hub, viewer: Viewer, message: str | bytes) -> None:
        """Do what a message says. Raises UsageError."""
        import msgspec

        if isinstance(message, str):
            raise UsageError("a message must be MessagePack bytes")
        try:
            said = msgspec.msgpack.decode(message)
        except (msgspec.DecodeError, RecursionError):
            raise UsageError("a message that is no MessagePack") from None
        if not isinstance(said, dict) or said.get("type") not in ("init", "event"):
            raise UsageError("a message must be a map of the type init or event")
        if said["type"] == "init":
            self._init(viewer, said)
        else:
            self._event(viewer, said)

    def _init(self, viewer: Viewer, said: dict[Any, Any]) -> None:
        if said.get("first_frame") is not None or said.get("condition_inputs"):
            raise UsageError("first_frame and condition_inputs are not served; begin with causvid live --image FILE")
        asked = said.get("realtime_output_format") or "raw"
        known = {form: form for form in CONTENT_TYPES}
        if not isinstance(asked, str) or asked not in known:
            raise UsageError(f"realtime_output_format must be one of {', '.join(CONTENT_TYPES)}")
        self._format = known[asked]
        self._quality = _whole(said, "output_compression", 1, 100) or QUALITY
        self._widest = _whole(said, "realtime_preview_max_width", 1, 2**16)
        self._most_chunks = _whole(said, "max_chunks", 1, 2**31)
        prompt = said.get("prompt")
        if not isinstance(prompt, str):
            raise UsageError("init must have a prompt")
        self._began, self._sent = True, 0
        if not viewer.may_write:  # the prompt is not told; what is watched is what others tell
            self._first_chunk = NEXT
        elif self._hub.live is None:
            self._hub.tell(viewer, {"prompt": prompt, "event_id": self._init_id})
            self._first_chunk = 0
        else:
            cue: dict[str, Any] = {"prompt": prompt, "transition": "cut"}
            cue |= {"seed": said["seed"]} if isinstance(said.get("seed"), int) else {}
            self._hub.tell(viewer, {"cue": cue, "event_id": self._init_id})

    def _event(self, viewer: Viewer, said: dict[Any, Any]) -> None:
        kind, payload = said.get("kind"), said.get("payload")
        if kind == "heartbeat":
            return
        if kind != "prompt":
            raise UsageError(f"events of the kind {kind!r} are not served; prompt is"[:200])
        prompt = payload.get("prompt") if isinstance(payload, dict) else payload
        if not isinstance(prompt, str):
            raise UsageError("an event of the kind prompt must have it as its payload")
        event_id = f"event-{uuid.uuid4().hex[:8]}"
        if isinstance(number := said.get("event_id"), int):
            self._event_ids[event_id] = number
        self._hub.tell(viewer, {"prompt": prompt, "event_id": event_id})

    async def send(self, socket: "WebSocket", viewer: Viewer, news: dict[str, Any] | CodedChunk) -> None:
        """Tell what of an event or a chunk this protocol has words for."""
        if isinstance(news, CodedChunk):
            if self._first_chunk == NEXT:
                self._first_chunk = news.shown.index
            ended = 0 < self._most_chunks <= self._sent  # what has waited since is more than was asked for
            if self._began and 0 <= self._first_chunk <= news.shown.index and not ended:
                await self._send_chunk(socket, viewer, news)
            return
        kind, event_id = news["event"], news.get("event_id")
        if kind == "chunk":
            self._seconds = {**dict(list(self._seconds.items())[-KEPT:]), news["index"]: news["seconds"]}
        elif kind == "applied" and event_id == self._init_id:
            self._first_chunk = news["chunk"]
        elif kind == "applied" and event_id in self._event_ids:
            self._applied = [*self._applied[-KEPT:], (news["chunk"], self._event_ids.pop(event_id))]
        elif kind == "refused" and (event_id is None or event_id == self._init_id or event_id in self._event_ids):
            self._event_ids.pop(str(event_id), None)
            await _pack(socket, {"type": "error", "content": news["why"]})

    async def _send_chunk(self, socket: "WebSocket", viewer: Viewer, coded: CodedChunk) -> None:
        began, shown = time.monotonic(), coded.shown
        index = shown.index - self._first_chunk
        ids = [number for chunk, number in self._applied if chunk <= shown.index]
        same = {"request_id": f"{self._request_id}-{index}", "chunk_index": index}
        same |= {"event_id": ids[-1]} if ids else {}
        of_each = FRAMES_A_MESSAGE[self._format]
        parts = [shown.frames[start : start + of_each] for start in range(0, len(shown.frames), of_each)]
        built_s = written_s = 0.0
        sent_bytes = 0
        for number, frames in enumerate(parts):
            started = time.monotonic()
            payload, facts = await asyncio.to_thread(self._payload, frames)
            built_s += time.monotonic() - started
            header = {
                **same,
                "content_type": CONTENT_TYPES[self._format],
                "num_frames": len(frames),
                "total_size": len(payload),
                "frame_batch_index": number,
                "num_frame_batches": len(parts),
                "is_final_frame_batch": number == len(parts) - 1,
                **facts,
            }
            started = time.monotonic()
            if len(payload) >= APART_BYTES:
                await _pack(socket, {"type": "frame_batch_header", **header})
                await socket.send_bytes(payload)
            else:
                await _pack(socket, {"type": "frame_batch", **header, "payload": payload})
            written_s += time.monotonic() - started
            sent_bytes += len(payload)
        made_s = self._seconds.get(shown.index, 0.0)
        stats = {
            "content_type": CONTENT_TYPES[self._format],
            "num_frames": len(shown.frames),
            "raw_bytes": shown.frames.nbytes,
            "ws_payload_bytes": sent_bytes,
            "request_prepare_ms": 0,
            "scheduler_forward_ms": round(1000 * made_s),
            "raw_payload_build_ms": round(1000 * built_s),
            "raw_write_ms": round(1000 * written_s),
            "ws_write_ms": round(1000 * written_s),
            "chunk_total_ms": round(1000 * (made_s + time.monotonic() - began)),
        }
        await _pack(socket, {"type": "chunk_stats", **same, **stats})
        self._sent += 1
        if self._sent == self._most_chunks:
            viewer.end()

    def _payload(self, frames: np.ndarray) -> tuple[bytes, dict[str, Any]]:
        """Frames uint8 RGB [T, H, W, 3] as one payload, and what its header says of it."""
        height, width = frames.shape[1:3]
        facts: dict[str, Any] = {"encoding": self._format, "width": width, "height": height}
        if self._format == "raw":
            data = np.ascontiguousarray(frames).tobytes()
            return data, {
                **facts,
                "format": "rgb24",
                "channels": 3,
                "bytes_per_frame": 3 * width * height,
                "raw_size": len(data),
            }
        if 0 < self._widest < width:
            from PIL import Image

            size = self._widest, max(1, round(height * self._widest / width))
            frames = np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])
        pictures = [picture(frame, self._format, quality=self._quality) for frame in frames]
        seen = {"width": frames.shape[2], "height": frames.shape[1]}
        return b"".join(pictures), {
            **facts,
            **seen,
            "format": self._format,
            "source_width": width,
            "source_height": height,
            "preview_width": seen["width"],
            "preview_height": seen["height"],
            "payload_lengths": [len(each) for each in pictures],
        }


async def _pack(socket: "WebSocket", message: dict[str, Any]) -> None:
    import msgspec

    await socket.send_bytes(msgspec.msgpack.encode(message))


def _whole(said: dict[Any, Any], name: str, least: int, most: int) -> int:
    """A whole number of a message; 0 where it is left out. Raises UsageError."""
    value = said.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name} must be {least} to {most}")
    return value
