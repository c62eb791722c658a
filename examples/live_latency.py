"""How soon a live video shows what is told: from telling to the first changed frame being due, over many switches.

python examples/live_latency.py [SWITCHES] [page]

A program tells a new prompt at random moments of a session at real time, as a user would type; measured is the time
until the first frame made under it is due on the screen, and its parts. With "page" it does so as a browser would, by
the page's WebSocket, and the frame has to be there as H.264: what coding and sending take is measured as well.
"""

import json
import random
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import causvid_cli
from causvid_cli.live.server import open_page

PROMPTS = ["a red car moves left in the snow", "a swan flies up over the sea"]


def in_this_process(live: causvid_cli.Live, switches: Iterator[str]) -> Iterator[dict[str, float]]:
    """Tell each prompt, and yield the parts of its latency in seconds."""
    begun: dict[object, tuple[int, float]] = {}

    def hear(event: dict) -> None:
        if event["event"] == "applied":
            begun[event["event_id"]] = event["chunk"], time.monotonic()

    live.listen(hear)
    watcher = live.watch(kept=1000)
    watcher.get()
    for prompt in switches:
        told = time.monotonic()
        event_id = live.send(prompt)
        while (shown := watcher.get(timeout=60)) is not None:
            ready = time.monotonic()
            if event_id in begun and shown.index >= begun[event_id][0]:
                began = begun[event_id][1]
                due = max(ready, shown.due_s)
                yield {"wait for the chunk": began - told, "make it": ready - began, "until it is due": due - ready}
                break


def by_the_page(switches: Iterator[str], url: str) -> Iterator[dict[str, float]]:
    """The same by a WebSocket. url: of the page."""
    from websockets.sync.client import connect

    with connect(url.replace("http:", "ws:") + "live?codec=h264", max_size=None, max_queue=None) as socket:
        while isinstance(socket.recv(), str):
            pass
        for number, prompt in enumerate(switches):
            told, began, chunk, made = time.monotonic(), 0.0, -1, 0.0
            socket.send(json.dumps({"prompt": prompt, "event_id": number}))
            while True:
                news, now = socket.recv(), time.monotonic()
                if isinstance(news, str):
                    event = json.loads(news)
                    if event["event"] == "applied" and event["event_id"] == number:
                        began, chunk = now, event["chunk"]
                    elif event["event"] == "chunk" and event["index"] == chunk:
                        made = now
                    continue
                (length,) = struct.unpack_from("<I", news)
                head = json.loads(news[4 : 4 + length])
                if 0 <= chunk <= head["index"]:
                    yield {
                        "wait for the chunk": began - told,
                        "make it": made - began,
                        "code it": head["encode"],
                        "send it": max(0.0, now - made - head["encode"]),
                        "until it is due": max(0.0, head["due_in"]),
                    }
                    break


def prompts(switches: int) -> Iterator[str]:
    """Prompts in turn, at random moments."""
    rng = random.Random(0)
    for number in range(switches):
        time.sleep(rng.uniform(0.1, 1.5))
        yield PROMPTS[1 - number % 2]


def main(switches: int = 100, way: str = "process", model: str = "storybook", pace: str = "real") -> None:
    pipeline = causvid_cli.load(model)
    with ExitStack() as stack:
        page = stack.enter_context(open_page()) if way == "page" else None
        live = stack.enter_context(causvid_cli.open_live(pipeline, PROMPTS[0], None, pace=pace, seed=1))
        if page:
            page.hub.attach(live)
        stack.enter_context(causvid_cli.running(live))
        told = prompts(switches)
        parts = list(by_the_page(told, page.url) if page else in_this_process(live, told))
    rows = {name: [part[name] for part in parts] for name in parts[0]}
    rows["from telling to the first changed frame"] = [sum(part.values()) for part in parts]
    for name, seconds in rows.items():
        cuts = statistics.quantiles(seconds, n=100)
        print(f"{name:40} p50 {1000 * cuts[49]:5.0f} ms   p95 {1000 * cuts[94]:5.0f} ms")
    chunk_ms = 1000 * float(live.grid.frames_per_chunk / live.job.retiming.made)
    print(f"a chunk is {chunk_ms:.0f} ms of video; {len(parts)} switches")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100, *sys.argv[2:])
