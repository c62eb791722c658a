"""The page of a live video: who is let in, what they see and may say, and that none of it harms the video."""

import io
import json
import re
import socket
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from threading import Event, Thread
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from commands import decode, fails, run
from PIL import Image

from causvid_cli import load, open_live
from causvid_cli.errors import DeviceError
from causvid_cli.live.packets import H264, Pictures
from causvid_cli.live.server import Page, open_page
from causvid_cli.live.session import Live
from causvid_cli.pipeline import Pipeline
from causvid_cli.script import ScriptKey

client = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")
msgpack = pytest.importorskip("msgspec.msgpack")
av = pytest.importorskip("av")

pytestmark = pytest.mark.usefixtures("work")

CAR = "a red car moves left in the snow"
SGLANG = "v1/realtime_video/generate"


@pytest.fixture(scope="module")
def pipeline(tiny) -> Pipeline:
    return load(tiny, device="cpu")


class Session:
    """A live video with a page, made chunk by chunk when a test says so."""

    def __init__(self, page: Page, live: Live, log: list[str]) -> None:
        self.page, self.live, self.log = page, live, log
        self._chunks = iter(live)
        self.shown: list[np.ndarray] = []
        page.hub.attach(live)

    def make(self, chunks: int = 1) -> None:
        for _ in range(chunks):
            self.shown.append(next(self._chunks).frames)

    @property
    def brightness(self) -> np.ndarray:
        return brightness(np.concatenate(self.shown))

    def end(self) -> None:
        self.live.send({"quit": True})
        for _ in self._chunks:
            pass

    def connect(self, *, url: str | None = None, where: str = "live?codec=jpeg", **options: Any):
        address = (url or self.page.url).replace("http:", "ws:") + where
        return client.connect(address, max_size=None, max_queue=None, **options)


@contextmanager
def served(pipeline: Pipeline, output: str | None = "x.mp4", **options) -> Iterator[Session]:
    log: list[str] = []
    with open_page(note=log.append) as page, open_live(pipeline, CAR, output, pace="fast", seed=1, **options) as live:
        session = Session(page, live, log)
        yield session
        session.end()


def told(socket, kind: str, timeout: float = 10) -> dict:
    """The next event of this kind."""
    while True:
        news = socket.recv(timeout=timeout)
        if isinstance(news, str) and (event := json.loads(news))["event"] == kind:
            return event


def chunk(socket, timeout: float = 10) -> tuple[dict, list[bytes]]:
    """The next chunk: its header and packets."""
    while isinstance(news := socket.recv(timeout=timeout), str):
        pass
    (length,) = struct.unpack_from("<I", news)
    header, at = json.loads(news[4 : 4 + length]), 4 + length
    packets = []
    for size in header["sizes"]:
        packets.append(news[at : at + size])
        at += size
    assert at == len(news)
    return header, packets


def get(url: str, **headers: str) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def brightness(frames: np.ndarray) -> np.ndarray:
    """[T, H, W], 0 to 255: what both codecs keep of the colours of noise."""
    return frames.astype(float) @ [0.299, 0.587, 0.114]


def until(is_so, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- who is let in ---------------------------------------------------------------------------------------------------


def test_the_page_is_for_who_knows_its_address_on_this_machine(pipeline):
    with served(pipeline) as session:
        url = session.page.url
        bare = url.split("/")[2]
        for name, kind in (("", "text/html"), ("page.js", "text/javascript"), ("page.css", "text/css")):
            status, body, headers = get(url + name)
            assert (status, headers.get_content_type()) == (200, kind) and body
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Referrer-Policy"] == "no-referrer" and "Access-Control-Allow-Origin" not in headers
        assert get(url[:-1])[0] == 200  # is sent to the folder
        for refused in (
            (f"http://{bare}/", {}),
            (f"http://{bare}/{'a' * 24}/", {}),
            (url, {"Host": "evil.example"}),
            (url, {"Origin": "http://evil.example"}),
            (url + "server.py", {}),
            (url + "..%2fserver.py", {}),
            (url + "../packets.py", {}),
        ):
            assert get(refused[0], **refused[1])[0] == 404, refused
        for wrong, headers in (
            (url.replace(url.split("/")[3], "b" * 24), {}),
            (url, {"Origin": "https://evil.example"}),
        ):
            with pytest.raises(exceptions.InvalidStatus):
                session.connect(url=wrong, additional_headers=headers)
        with session.connect(additional_headers={"Origin": f"http://{bare}"}) as writer:
            assert told(writer, "hello")["writes"]
        assert {line.partition(": ")[2] for line in session.log} == {
            "asked without a token; refused",
            "asked by another name than this machine's own; refused",
            "asked from another page; refused",
        }
        assert not any(session.page.url.split("/")[3] in line for line in session.log)


def test_a_port_that_is_taken_and_packages_that_are_missing(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=f"--port {port}: address already in use; try another port"):
            Page(port)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(DeviceError, match=r"--page needs the package uvicorn; try pip install '.\[live\]'"):
        Page()


# --- what they see ---------------------------------------------------------------------------------------------------


def test_a_page_gets_what_the_file_gets(pipeline):
    with served(pipeline) as session, session.connect() as pictures, session.connect(where="live?codec=h264") as packed:
        hello = told(pictures, "hello")
        assert (hello["size"], hello["fps"], hello["next_chunk"], hello["cues"]) == (
            session.live.job.size,
            8.0,
            0,
            [{"chunk": 0, "frame": 0, "prompt": CAR}],
        )
        until(lambda: session.page.hub.count == 2)
        session.make(3)
        seen, coded = [], []
        for index in range(3):
            header, jpegs = chunk(pictures)
            said = [header[name] for name in ("index", "start_frame", "prompt", "lost")]
            assert said == [index, 4 * index, CAR, 0]
            seen += [np.asarray(Image.open(io.BytesIO(data))) for data in jpegs]
            header, packets = chunk(packed)
            assert header["keys"] == [True, False, False, False]
            coded += packets
        decoder = av.CodecContext.create("h264", "r")
        shown = [frame.to_ndarray(format="rgb24") for data in coded for frame in decoder.decode(av.Packet(data))]
        shown += [frame.to_ndarray(format="rgb24") for frame in decoder.decode(None)]
    for frames in (seen, shown):
        assert np.abs(brightness(np.stack(frames)) - session.brightness).mean() < 8  # of noise


def test_a_size_of_odd_length_loses_a_line():
    packets = H264(33, 17, Fraction(8))(np.zeros((2, 17, 33, 3), np.uint8))
    (frame, *_) = [
        *(decoder := av.CodecContext.create("h264", "r")).decode(av.Packet(packets[0].data)),
        *decoder.decode(None),
    ]
    assert (frame.width, frame.height) == (32, 16)


def test_who_comes_later_is_told_all_and_an_undo_reaches_everyone(pipeline):
    keys = {"left": ScriptKey(prompt="a red car moves left", release="a red car stays still"), "space": "it jumps"}
    with served(pipeline, keys=keys) as session, session.connect() as writer:
        told(writer, "hello")
        session.make()
        for message in ({"prompt": "it jumps"}, {"cue": {"prompt": "a swan flies up"}, "at": 5, "event_id": "later"}):
            writer.send(json.dumps(message))
            told(writer, "received")
        session.make(2)
        with session.connect() as second:
            hello = told(second, "hello")
            assert not hello["writes"] and hello["may_write"] and hello["next_chunk"] == 3
            assert [(cue["chunk"], cue["prompt"]) for cue in hello["cues"]] == [(0, CAR), (1, "it jumps")]
            assert [(plan["event_id"], plan["chunk"]) for plan in hello["planned"]] == [("later", 5)]
            assert hello["keys"] == {"left": True, "space": False}
            writer.send(json.dumps({"undo": 1}))
            told(writer, "received")
            session.make()
            assert told(second, "undone")["chunk"] == 1
            assert chunk(second)[0]["index"] == 1
            with session.connect() as third:
                assert [cue["chunk"] for cue in told(third, "hello")["cues"]] == [0]


def test_chunks_that_are_still_coded_come_before_the_end(pipeline, monkeypatch):
    coded = Pictures.__call__
    monkeypatch.setattr(Pictures, "__call__", lambda self, frames: (time.sleep(0.2), coded(self, frames))[1])
    with served(pipeline) as session:
        socket = session.connect()
        session.make(3)
    with socket:
        assert [chunk(socket)[0]["index"] for _ in range(3)] == [0, 1, 2]


def test_what_there_is_so_far_can_be_downloaded(pipeline):
    with served(pipeline) as session:
        session.make(2)
        answers: list = []
        thread = Thread(target=lambda: answers.append(get(session.page.url + "video")))
        thread.start()
        until(lambda: session.live._copies)
        session.make()
        thread.join()
        ((status, data, headers),) = answers
        assert status == 200 and 'filename="x.mp4"' in headers["Content-Disposition"]
        Path("so_far.mp4").write_bytes(data)
        status, script, headers = get(session.page.url + "script")
        assert status == 200 and b"prompt: a red car" in script and "x.causvid.yaml" in headers["Content-Disposition"]
        until(lambda: not list(Path().glob(".x-*")))
        session.make(2)
    so_far, whole = decode("so_far.mp4"), decode("x.mp4")
    assert (len(so_far), len(whole)) == (8, 20)
    np.testing.assert_array_equal(so_far, whole[:8])


def test_who_asks_for_a_copy_and_goes_leaves_the_video_unharmed(pipeline):
    with served(pipeline) as session:
        session.make()
        gone, kept = session.live.copy(Path("gone")), session.live.copy(Path("kept"))
        assert gone.cancel()
        Path("kept").mkdir()
        session.make()
        assert kept.result() == Path("kept/x.mp4") and not Path("gone").exists()
    assert kept.done() and len(decode("kept/x.mp4")) == 4
    assert session.live.copy(Path("late")).cancelled()


def test_numbered_frames_are_downloaded_as_one_file(pipeline):
    with served(pipeline, "x/%05d.png") as session:
        session.make(2)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(get, session.page.url + "video")
            until(lambda: session.live._copies)
            session.make()
        status, data, headers = answer.result()
        assert status == 200 and 'filename="x.zip"' in headers["Content-Disposition"]
        assert "x.causvid.yaml" in get(session.page.url + "script")[2]["Content-Disposition"]
    with ZipFile(io.BytesIO(data)) as frames:
        assert frames.namelist() == [f"{number:05d}.png" for number in range(1, 9)]
        assert all(frames.read(name) == Path("x", name).read_bytes() for name in frames.namelist())
    assert len(list(Path("x").iterdir())) == 12  # and nothing else is left there


def test_a_pipe_has_nothing_to_download(pipeline):
    with served(pipeline, output=None) as session:
        session.make()
        assert get(session.page.url + "video")[0] == 404


# --- what they may say -----------------------------------------------------------------------------------------------


def test_one_writes_and_the_others_watch(pipeline):
    with served(pipeline) as session, session.connect() as first, session.connect() as second:
        with session.connect(url=session.page.watch_url) as watcher:
            only = "this address is to watch only"
            assert [told(each, "hello")["writes"] for each in (first, second, watcher)] == [True, False, False]
            for each, why in ((second, "another page writes; take over first"), (watcher, only)):
                each.send(json.dumps({"prompt": "it jumps", "event_id": "mine"}))
                refused = told(each, "refused")
                assert (refused["why"], refused["event_id"]) == (why, "mine")
            watcher.send(json.dumps({"pen": True}))
            assert told(watcher, "refused")["why"] == only
            second.send(json.dumps({"pen": True}))
            assert told(second, "pen")["writes"] and not told(first, "pen")["writes"]
            second.send(json.dumps({"prompt": "it jumps", "event_id": "heard"}))
            assert told(second, "received")["event_id"] == "heard"
            session.make()
            assert told(watcher, "applied")["event_id"] == "heard"
            second.close()
            assert told(first, "pen")["writes"]
    assert [cue.prompt for cue in session.live.cues] == ["a red car jumps in the snow"]


@pytest.mark.parametrize(
    "garbage", ["", "[]", "{", '"x"', '{"prompt": 5}', '{"promt": "x"}', "NaN", b"\x00\xff", "[" * 500]
)
def test_what_is_no_message_is_refused_in_a_line(pipeline_page, garbage):
    session, writer = pipeline_page
    writer.send(garbage)
    refused = told(writer, "refused")
    assert refused["why"] and "\n" not in refused["why"]


@pytest.fixture
def pipeline_page(pipeline):
    with served(pipeline, output=None) as session, session.connect() as writer:
        told(writer, "hello")
        session.make()
        yield session, writer


def test_floods_and_giants_are_sent_away_and_the_video_is_unharmed(pipeline):
    with served(pipeline) as session:
        with session.connect() as giant:
            with pytest.raises(exceptions.ConnectionClosed) as closed:
                giant.send("x" * 10_000_000)
                giant.recv(timeout=10)
                giant.recv(timeout=10)
                giant.recv(timeout=10)
            assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        rng = np.random.default_rng(0)
        with session.connect() as flood, pytest.raises(exceptions.ConnectionClosed) as closed:
            for _ in range(10_000):
                flood.send(rng.bytes(20))
            while True:
                flood.recv(timeout=10)
        assert closed.value.rcvd.code == 1008
        half_open = socket.create_connection(("127.0.0.1", session.page.port))
        half_open.send(b"GET /")
        session.make(3)
        half_open.close()
        until(lambda: session.page.hub.count == 0)
    assert [line for line in session.log if "long" in line or "end" in line] == [
        "page: a message was too long; disconnected",
        "page: messages came without end; disconnected",
    ]
    with open_live(pipeline, CAR, "alone.mp4", pace="fast", seed=1) as live:
        for _ in zip(range(3), live, strict=False):
            pass
    np.testing.assert_array_equal(decode("x.mp4")[:12], decode("alone.mp4")[:12])


def test_who_reads_slowly_loses_chunks_and_the_file_none(pipeline):
    with served(pipeline) as session, ExitStack() as stack:
        slow = stack.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", session.page.port))
        path = session.page.watch_url.partition(str(session.page.port))[2]
        asked = [f"GET {path}live HTTP/1.1", f"Host: 127.0.0.1:{session.page.port}", "Connection: Upgrade"]
        asked += ["Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {'A' * 22}==", "", ""]
        slow.send("\r\n".join(asked).encode())
        until(lambda: session.page.hub.count == 1)
        watchers = [stack.enter_context(session.connect(url=session.page.watch_url)) for _ in range(20)]
        until(lambda: session.page.hub.count == 21)
        for index in range(40):
            session.make()
            for each in watchers:
                assert chunk(each)[0]["index"] == index
        lost = [viewer.lost for viewer in session.page.hub._viewers]
    assert lost[0] > 4 and not any(lost[1:]) and len(decode("x.mp4")) == 160


# --- SGLang ----------------------------------------------------------------------------------------------------------


def batches(socket, chunks: int) -> tuple[dict[int, list[tuple[dict, bytes]]], list[dict]]:
    """Frame batches and statistics, as a client of SGLang's reads them."""
    got: dict[int, list[tuple[dict, bytes]]] = {}
    stats: list[dict] = []
    while len(stats) < chunks:
        header = msgpack.decode(socket.recv(timeout=10))
        if header["type"] == "chunk_stats":
            stats.append(header)
            continue
        assert header["type"] in ("frame_batch", "frame_batch_header"), header
        payload = header.pop("payload") if header["type"] == "frame_batch" else socket.recv(timeout=10)
        assert len(payload) == header["total_size"]
        got.setdefault(header["chunk_index"], []).append((header, payload))
    return got, stats


def test_a_client_of_sglang_gets_raw_frames_and_tells_prompts(pipeline):
    with served(pipeline) as session, session.connect(where=SGLANG) as socket:
        session.make()
        socket.send(
            msgpack.encode({"type": "init", "prompt": "it jumps", "max_chunks": 3, "size": "832x480", "seed": 7})
        )
        until(lambda: session.live._inbox)
        session.make()
        event = {"type": "event", "kind": "prompt", "payload": {"prompt": "a swan flies up"}, "event_id": 12}
        socket.send(msgpack.encode({"type": "event", "kind": "heartbeat"}))
        socket.send(msgpack.encode(event))
        until(lambda: session.live._inbox)
        session.make(3)
        got, stats = batches(socket, 3)
        with pytest.raises(exceptions.ConnectionClosedOK):
            socket.recv(timeout=10)
    assert list(got) == [0, 1, 2] and [each.get("event_id") for each in stats] == [None, 12, 12]
    assert all(isinstance(value, int) for name, value in stats[0].items() if name.endswith(("_ms", "_bytes")))
    frames = []
    for parts in got.values():
        assert parts[-1][0]["is_final_frame_batch"] and parts[0][0]["content_type"] == "application/x-raw-rgb"
        for header, payload in parts:
            shape = header["num_frames"], header["height"], header["width"], header["channels"]
            assert header["bytes_per_frame"] * header["num_frames"] == len(payload)
            frames.append(np.frombuffer(payload, np.uint8).reshape(shape))
    np.testing.assert_array_equal(np.concatenate(frames), np.concatenate(session.shown[1:4]))
    cues = session.live.cues
    assert [(cue.start_chunk, cue.prompt, cue.transition, cue.seed) for cue in cues[1:3]] == [
        (1, "it jumps", "cut", 7),
        (2, "a swan flies up", "recache", None),
    ]


def test_a_client_of_sglang_at_the_watch_address_gets_what_others_tell(pipeline):
    with served(pipeline) as session, session.connect(url=session.page.watch_url, where=SGLANG) as socket:
        socket.send(msgpack.encode({"type": "init", "prompt": "it jumps", "max_chunks": 2}))
        socket.send(msgpack.encode({"type": "event", "kind": "prompt", "payload": "it spins", "event_id": 1}))
        refused = msgpack.decode(socket.recv(timeout=10))
        assert refused == {"type": "error", "content": "this address is to watch only"}
        session.make(2)
        got, _ = batches(socket, 2)
    payload = b"".join(payload for parts in got.values() for _, payload in parts)
    assert list(got) == [0, 1] and payload == np.concatenate(session.shown[:2]).tobytes()
    assert [cue.prompt for cue in session.live.cues] == [CAR]


def test_a_client_of_sglang_gets_no_more_chunks_than_it_asked_for(pipeline):
    with served(pipeline) as session, session.connect(where=SGLANG) as socket:
        session.make()
        socket.send(msgpack.encode({"type": "init", "prompt": "it jumps", "max_chunks": 1}))
        until(lambda: session.live._inbox)
        stopped = Event()
        session.page._loop.call_soon_threadsafe(stopped.wait, 5)
        session.make(3)  # which wait together
        stopped.set()
        assert list(batches(socket, 1)[0]) == [0]
        with pytest.raises(exceptions.ConnectionClosedOK):
            socket.recv(timeout=10)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_a_client_of_sglang_gets_pictures(pipeline, form):
    with served(pipeline, output=None) as session, session.connect(where=SGLANG) as socket:
        asked = {"type": "init", "prompt": "it jumps", "realtime_output_format": form, "realtime_preview_max_width": 32}
        socket.send(msgpack.encode(asked))
        until(lambda: session.live._inbox)
        session.make(1)
        got, _ = batches(socket, 1)
    ((header, payload),) = got[0]
    sizes = header["payload_lengths"]
    assert sum(sizes) == len(payload) and len(sizes) == 4 and header["content_type"] == f"image/{form}"
    picture = Image.open(io.BytesIO(payload[: sizes[0]]))
    assert picture.size == (header["width"], header["height"]) == (32, 32)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\xc1", "no MessagePack"),
        ({"type": "hello"}, "a map of the type init or event"),
        ({"type": "init"}, "init must have a prompt"),
        ({"type": "init", "prompt": "x", "first_frame": b"png"}, "first_frame and condition_inputs are not served"),
        ({"type": "init", "prompt": "x", "realtime_output_format": "h264"}, "one of raw, jpeg, webp"),
        ({"type": "init", "prompt": "x", "max_chunks": 0}, "max_chunks must be 1"),
        ({"type": "event", "kind": "camera_actions", "payload": []}, "'camera_actions' are not served; prompt is"),
        ({"type": "event", "kind": "prompt", "payload": 5}, "must have it as its payload"),
    ],
)
def test_what_is_not_served_of_sglang_is_an_error_in_words(pipeline, message, why):
    with served(pipeline, output=None) as session, session.connect(where=SGLANG) as socket:
        socket.send(message if isinstance(message, bytes) else msgpack.encode(message))
        answer = msgpack.decode(socket.recv(timeout=10))
        assert answer["type"] == "error" and why in answer["content"]
        session.make()


# --- before there is a session, and the command ----------------------------------------------------------------------


def test_the_first_prompt_can_be_told_by_the_page():
    with open_page() as page:
        pool = ThreadPoolExecutor(1)
        with client.connect(page.url.replace("http:", "ws:") + "live") as writer:
            assert told(writer, "hello")["state"] == "loading"
            asked = pool.submit(page.hub.first_prompt)
            assert told(writer, "hello")["state"] == "waiting"
            assert get(page.url + "video")[:2] == (404, b"nothing is made yet\n")
            for wrong, why in (
                ({"seed": 7}, "say a prompt first"),
                ({"prompt": " "}, "prompt"),
                ({"prompt": "\ud800"}, ""),
            ):
                writer.send(json.dumps(wrong))
                assert why in told(writer, "refused")["why"]
            writer.send(json.dumps({"prompt": CAR}))
            assert asked.result(timeout=10) == CAR
            assert told(writer, "hello")["state"] == "loading"
            writer.send(json.dumps({"prompt": "too soon"}))
            assert "loading" in told(writer, "refused")["why"]


def test_what_does_not_go_with_a_page():
    fails(run("live", CAR, "--port", "8000"), 2, "--port 8000 is for the page; add --page")
    fails(run("live", CAR, "--no-open"), 2, "--no-open is for the page; add --page")


def test_the_command_says_the_address_and_ends_with_the_video(tiny):
    result = run("live", CAR, "-m", tiny, "--page", "--no-open", "--length", "8f", "--pace", "fast", "-o", "x.mp4")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"the page: http://127\.0\.0\.1:\d+/[\w-]{24}/\n", result.stderr)
    assert re.search(r"to watch only: http://127\.0\.0\.1:\d+/[\w-]{24}/\n", result.stderr)
    assert len(decode("x.mp4")) == 8
