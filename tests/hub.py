"""A small hub on this machine, which speaks as the real one does where huggingface_hub asks for files and cards."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """folder: REPOSITORY/PATH. cards: what the model card of each repository says."""

    folder: Path
    endpoint: str = ""
    cards: dict[str, dict] = field(default_factory=dict)
    has_cards: bool = True
    """Whether it tells of repositories at all, as a mirror of files alone does not."""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Repository -> status and error code of every answer."""
    busy: list[dict[str, str]] = field(default_factory=list)
    """Headers of answers 429, one after another, which come before others once `let_through` were given."""
    let_through: int = 0
    cut: dict[str, int] = field(default_factory=dict)
    """Path -> bytes after which a connection breaks, once."""
    slow: dict[str, float] = field(default_factory=dict)
    """Path -> seconds before each tenth of it is sent."""
    spoil: set[str] = field(default_factory=set)
    """Paths of which another byte is sent than the hash is of."""
    asked: list[str] = field(default_factory=list)
    """What was fetched, with the range where only a part was wanted."""


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None: ...

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
            if hub.busy and not hub.let_through:
                self._send(429, b"", hub.busy.pop(0))
                return
            hub.let_through = max(hub.let_through - 1, 0)
            if parts[:2] == ["api", "models"]:
                self._card("/".join(parts[2:4]))
                return
            repository, path = "/".join(parts[:2]), "/".join(parts[4:])
            file = hub.folder / repository / path
            if repository in hub.refuse:
                self._refuse(*hub.refuse[repository])
            elif not (hub.folder / repository).is_dir():
                self._refuse(404, "RepoNotFound")
            elif not file.is_file():
                self._refuse(404, "EntryNotFound")
            else:
                self._file(path, file.read_bytes(), body=body, revision=parts[3])

        def _card(self, repository: str) -> None:
            if not hub.has_cards:
                self._refuse(404, "RepoNotFound")
                return
            told = {"id": repository, "sha": COMMIT, "siblings": [], "tags": [], "cardData": hub.cards.get(repository)}
            self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

        def _file(self, path: str, content: bytes, *, body: bool, revision: str) -> None:
            commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else COMMIT
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            status, start = 200, 0
            if found := self.headers.get("Range"):
                start = int(found.removeprefix("bytes=").split("-")[0])
                status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
            if body:
                hub.asked.append(path if not start else f"{path} from {start}")
                if path in hub.spoil:
                    content = content[:-1] + bytes([content[-1] ^ 1])
            pause = hub.slow.get(path, 0.0) if body else 0.0
            cut = hub.cut.pop(path, None) if body else None
            self._send(status, content[start:], headers, body=body, cut=cut, pause=pause)

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str],
            *,
            body: bool = True,
            cut: int | None = None,
            pause: float = 0.0,
        ) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command == "GET":
                for piece in _tenths(content[:cut]) if pause else [content[:cut]]:
                    threading.Event().wait(pause)  # which a test that replaces time.sleep does not hurry
                    self.wfile.write(piece)
            if cut is not None:
                self.close_connection = True
                self.connection.close()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *given: None  # a client that goes away is none of it
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # looks so often for its end
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _tenths(content: bytes) -> Iterator[bytes]:
    size = len(content) // 10 + 1
    return (content[start : start + size] for start in range(0, len(content), size))
