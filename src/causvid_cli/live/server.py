"""The page of a live video: on this machine only, for who knows its address.

    http://127.0.0.1:PORT/TOKEN/           the page; of those who have this address one writes, the others watch
    http://127.0.0.1:PORT/OTHER TOKEN/     the same page, to watch only
    .../live                               its WebSocket: messages and events as JSON, chunks as bytes (`chunk_bytes`)
    .../video, .../script                  what there is so far, to download
    .../v1/realtime_video/generate         SGLang's messages (`live.sglang`)

Asked by another name than this machine's own (DNS rebinding), from another page (Origin) or without a token, it answers
nothing, and says so in a line.
"""

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from causvid_cli.config import to_json
from causvid_cli.errors import CausvidError, DeviceError, UsageError
from causvid_cli.extras import require
from causvid_cli.job.told import script_path
from causvid_cli.live.hub import Codec, CodedChunk, Flood, Hub, Viewer
from causvid_cli.untrusted import parse_object

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send
    from starlette.websockets import WebSocket

LOOPBACK = "127.0.0.1"
LONGEST_MESSAGE = 2**16
"""Bytes of a message; a longer one ends the connection."""
MOST_VIEWERS = 64
PING_S = 20.0
"""Between two questions whether somebody is still there, and how long the answer may take."""
END_S = 2.0
"""How long those who are connected have to take what waits for them at the end."""
COPY_S = 60.0
LOG_S = 5.0
"""Between two lines that say the same."""
TYPES = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Page:
    """The server, in a thread of its own. note: takes lines for its log.

    Raises ModelError's kin where a package is missing, DeviceError where the port is taken.
    """

    def __init__(self, port: int = 0, *, note: Callable[[str], None] = lambda line: None) -> None:
        require("starlette", "uvicorn", "websockets", "msgspec", "av", extra="live", what="--page", error=DeviceError)
        import uvicorn

        self._socket = _bind(port)
        self.port = int(self._socket.getsockname()[1])
        self._tokens = {secrets.token_urlsafe(18): may_write for may_write in (True, False)}
        self.url, self.watch_url = (f"http://{LOOPBACK}:{self.port}/{token}/" for token in self._tokens)
        self._note, self._noted = note, dict[str, float]()
        self._loop = asyncio.new_event_loop()
        self.hub = Hub(self._loop)
        self._server = uvicorn.Server(
            uvicorn.Config(
                Door(self._tokens, self.port, application(self.hub, self._log), self._log),
                log_level="critical",
                access_log=False,
                lifespan="off",
                ws="websockets-sansio",
                ws_max_size=LONGEST_MESSAGE,
                ws_ping_interval=PING_S,
                ws_ping_timeout=PING_S,
                ws_per_message_deflate=False,
                limit_concurrency=2 * MOST_VIEWERS,
                timeout_graceful_shutdown=1,
                server_header=False,
            )
        )
        self._thread = Thread(target=self._run, name="causvid page server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let everyone hear of the end, and stop."""
        self.hub.wait(END_S)
        with suppress(RuntimeError):  # its thread has ended before
            self._loop.call_soon_threadsafe(self.hub.close)
        deadline = time.monotonic() + END_S
        while self.hub.count and time.monotonic() < deadline:
            time.sleep(0.02)
        self._server.should_exit = True
        self._thread.join(END_S + 2)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))

    def _log(self, line: str) -> None:
        now = time.monotonic()
        if now - self._noted.get(line, -LOG_S) >= LOG_S and len(self._noted) < 1000:
            self._noted[line] = now
            self._note(f"page: {line}")


@contextmanager
def open_page(port: int = 0, *, note: Callable[[str], None] = lambda line: None) -> Iterator[Page]:
    """A page, until the block ends."""
    page = Page(port, note=note)
    try:
        yield page
    finally:
        page.close()


def _bind(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise DeviceError(f"--port {port}: {(error.strerror or str(error)).lower()}; try another port") from error
    return listening


class Door:
    """Lets in who asks this machine by its own name, from its own page or a program, with a token; and nobody else."""

    def __init__(self, tokens: dict[str, bool], port: int, inside: "Starlette", log: Callable[[str], None]) -> None:
        self._tokens, self._inside, self._log = tokens, inside, log
        self._hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import PlainTextResponse, RedirectResponse
        from starlette.websockets import WebSocketClose

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        token, _, rest = scope["path"].removeprefix("/").partition("/")
        why = self._refusal(headers, token)
        if why:
            self._log(why)
            closed = WebSocketClose(1008) if scope["type"] == "websocket" else PlainTextResponse("not found\n", 404)
            await closed(scope, receive, send)
        elif scope["path"] == f"/{token}" and scope["type"] == "http":
            await RedirectResponse(f"/{token}/")(scope, receive, send)
        else:
            inner = {**scope, "path": f"/{rest}", "may_write": self._may_write(token)}
            inner.pop("raw_path", None)
            await self._inside(inner, receive, send)

    def _refusal(self, headers: dict[str, str], token: str) -> str:
        if headers.get("host", "").lower() not in self._hosts:
            return "asked by another name than this machine's own; refused"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self._hosts}:
            return "asked from another page; refused"
        return "" if self._may_write(token) is not None else "asked without a token; refused"

    def _may_write(self, token: str) -> bool | None:
        """What a token lets one do; None for an unknown one. All are compared, in constant time."""
        said = token.encode()
        known = [may for each, may in self._tokens.items() if secrets.compare_digest(each.encode(), said)]
        return known[0] if known else None


def application(hub: Hub, log: Callable[[str], None]) -> "Starlette":
    """What is served to who is let in."""
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import FileResponse, PlainTextResponse, Response
    from starlette.routing import Route, WebSocketRoute

    from causvid_cli.live import sglang

    async def shown(request: "Request") -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in TYPES:
            return PlainTextResponse("not found\n", 404)
        return Response(files(__package__).joinpath("page", name).read_bytes(), media_type=TYPES[name], headers=HEADERS)

    async def video(request: "Request") -> Response:
        live = hub.live
        if live is None or live.output is None:
            why = "nothing is made yet" if live is None else "the video is kept in no file"
            return PlainTextResponse(f"{why}\n", 404)
        output = live.output
        try:
            folder = TemporaryDirectory(prefix=f".{output.stem}-", dir=output.parent)
        except OSError as error:
            return PlainTextResponse(f"{output.parent}: {(error.strerror or str(error)).lower()}\n", 503)
        try:
            path = await asyncio.wait_for(asyncio.wrap_future(live.copy(Path(folder.name))), COPY_S)
            if not path.exists():  # numbered frames
                path = await asyncio.to_thread(_zipped, path.parent)
        except (CausvidError, OSError, asyncio.CancelledError) as error:  # one of them is TimeoutError
            folder.cleanup()
            return PlainTextResponse(f"{error or 'the session has ended'}\n", 503)
        name = output.name if path.name == output.name else f"{output.parent.name}.zip"
        return FileResponse(path, filename=name, headers=HEADERS, background=BackgroundTask(folder.cleanup))

    async def script(request: "Request") -> Response:
        if hub.live is None:
            return PlainTextResponse("nothing is made yet\n", 404)
        try:
            text = hub.live.script(Path.cwd())
        except CausvidError as error:
            return PlainTextResponse(f"{error}\n", 404)
        name = script_path(hub.live.output or Path("live.mp4")).name
        attached = {"Content-Disposition": f"attachment; filename*=utf-8''{_quoted(name)}"}
        return Response(text, media_type="text/yaml", headers=HEADERS | attached)

    async def live(socket: "WebSocket") -> None:
        codec: Codec = "h264" if socket.query_params.get("codec") == "h264" else "jpeg"
        await socket.accept()
        await serve(socket, hub, hub.join(codec, may_write=socket.scope["may_write"]), read_page, send_to_page, log)

    async def realtime(socket: "WebSocket") -> None:
        await socket.accept()
        talk = sglang.Realtime(hub)
        viewer = hub.join("frames", may_write=socket.scope["may_write"])
        await serve(socket, hub, viewer, talk.read, talk.send, log)

    return Starlette(
        routes=[
            Route("/", shown),
            Route("/video", video),
            Route("/script", script),
            Route("/{name}", shown),
            WebSocketRoute("/live", live),
            WebSocketRoute(sglang.PATH, realtime),
        ]
    )


Read = Callable[["WebSocket", Hub, Viewer, str | bytes], Awaitable[None]]
"""Do what a message says. Raises UsageError, which the viewer is told."""
Tell = Callable[["WebSocket", Viewer, dict[str, Any] | CodedChunk], Awaitable[None]]
"""Send an event or a chunk."""


async def serve(
    socket: "WebSocket", hub: Hub, viewer: Viewer, read: Read, tell: Tell, log: Callable[[str], None]
) -> None:
    """Hear and tell one viewer until it goes, or all is said."""
    hearing = asyncio.ensure_future(_hear(socket, hub, viewer, read))
    telling = asyncio.ensure_future(_tell(socket, viewer, tell))
    try:
        await asyncio.wait((hearing, telling), return_when=asyncio.FIRST_COMPLETED)
        if hearing.done() and (why := hearing.result()):
            log(why)
    finally:
        for task in (hearing, telling):
            task.cancel()
        await asyncio.gather(hearing, telling, return_exceptions=True)
        hub.leave(viewer)
    with suppress(RuntimeError):  # closed by the other side
        await socket.close(1008 if hearing.done() and not hearing.cancelled() and hearing.result() else 1000)


async def _hear(socket: "WebSocket", hub: Hub, viewer: Viewer, read: Read) -> str:
    """Do what a viewer says until it goes; returns why it was sent away, if it was."""
    while True:
        event = await socket.receive()
        if event["type"] == "websocket.disconnect":
            return "a message was too long; disconnected" if event.get("code") == 1009 else ""
        try:
            if not viewer.is_too_fast():
                await read(socket, hub, viewer, event.get("text") or event.get("bytes") or "")
        except UsageError as error:
            viewer.refuse(None, str(error))
        except Flood:
            return "messages came without end; disconnected"


async def _tell(socket: "WebSocket", viewer: Viewer, tell: Tell) -> None:
    from starlette.websockets import WebSocketDisconnect

    with suppress(WebSocketDisconnect, RuntimeError):
        while (news := await viewer.next()) is not None:
            await tell(socket, viewer, news)


async def read_page(socket: "WebSocket", hub: Hub, viewer: Viewer, message: str | bytes) -> None:
    """Do what the page says: a JSON object (`live.messages`), or `{"pen": true}`, which takes over."""
    if isinstance(message, bytes):
        raise UsageError("a message must be JSON text")
    hub.tell(viewer, parse_object(message, where="message", error=UsageError))


async def send_to_page(socket: "WebSocket", viewer: Viewer, news: dict[str, Any] | CodedChunk) -> None:
    if isinstance(news, CodedChunk):
        await socket.send_bytes(chunk_bytes(news, lost=viewer.lost))
    else:
        await socket.send_text(to_json(news))


def chunk_bytes(coded: CodedChunk, *, lost: int) -> bytes:
    """A chunk as the page gets it: the length of a JSON header (uint32, little endian), the header, the packets."""
    shown = coded.shown
    header = {
        "index": shown.index,
        "start_frame": shown.start_frame,
        "due_in": round(shown.due_s - time.monotonic(), 4),
        "prompt": shown.prompt,
        "codec": coded.codec,
        "width": shown.frames.shape[2],
        "height": shown.frames.shape[1],
        "sizes": [len(packet.data) for packet in coded.packets],
        "keys": [packet.is_key for packet in coded.packets],
        "encode": round(coded.encode_s, 4),
        "lost": lost,
    }
    said = to_json(header).encode()
    return b"".join([struct.pack("<I", len(said)), said, *(packet.data for packet in coded.packets)])


def _zipped(folder: Path) -> Path:
    """The numbered frames of a folder as one file in it."""
    path = folder / "frames.zip"
    with ZipFile(path, "w") as file:
        for frame in sorted(folder.glob("*.png")):
            file.write(frame, frame.name)
    return path


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")
