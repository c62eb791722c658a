"""A small hub on this machine, which speaks as the real one does where huggingface_hub asks for files and cards."""

import hashlib
import json
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
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Repository -> status and error code of every answer."""
    cut: dict[str, int] = field(default_factory=dict)
    """Path -> bytes after which a connection breaks, once."""
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
                self._file(path, file.read_bytes(), body=body)

        def _card(self, repository: str) -> None:
            if repository in hub.refuse:
                self._refuse(*hub.refuse[repository])
                return
            told = {"id": repository, "sha": COMMIT, "siblings": [], "tags": [], "cardData": hub.cards.get(repository)}
            self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

        def _file(self, path: str, content: bytes, *, body: bool) -> None:
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            status, start = 200, 0
            if found := self.headers.get("Range"):
                start = int(found.removeprefix("bytes=").split("-")[0])
                status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
            if body:
                hub.asked.append(path if not start else f"{path} from {start}")
                if path in hub.spoil:
                    content = content[:-1] + bytes([content[-1] ^ 1])
            self._send(status, content[start:], headers, body=body, cut=hub.cut.pop(path, None) if body else None)

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(
            self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(content[:cut])
            if cut is not None:
                self.close_connection = True
                self.connection.close()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
