"""How soon a live video shows what is told: from telling to the first changed frame being due, over many switches.

python examples/live_latency.py [SWITCHES]

A program tells a new prompt at random moments of a session at real time, as a user would type; measured is the time
until the first frame made under it is due on the screen, and its parts: waiting for the next chunk to be begun, making
it, and waiting for its time to come.
"""

import random
import statistics
import sys
import time

import causvid_cli

PROMPTS = ["a red car moves left in the snow", "a swan flies up over the sea"]


def main(switches: int = 100, model: str = "storybook", pace: str = "real") -> None:
    pipeline = causvid_cli.load(model)
    told: dict[object, float] = {}
    applied: dict[int, tuple[object, float]] = {}
    parts: dict[str, list[float]] = {"wait for the chunk": [], "make it": [], "until it is due": [], "total": []}
    with causvid_cli.open_live(pipeline, PROMPTS[0], None, pace=pace, seed=1) as live:

        def hear(event: dict) -> None:
            if event["event"] == "applied":
                applied[event["chunk"]] = event["event_id"], time.monotonic()

        live.listen(hear)
        watcher = live.watch(kept=1000)
        with causvid_cli.running(live):
            watcher.get()
            rng = random.Random(0)
            for number in range(switches):
                time.sleep(rng.uniform(0.1, 1.5))
                identity = f"switch {number}"
                told[identity] = time.monotonic()
                live.send({"prompt": PROMPTS[1 - number % 2], "event_id": identity})
                while (shown := watcher.get(timeout=60)) is not None:
                    ready = time.monotonic()
                    if shown.index in applied and applied[shown.index][0] == identity:
                        began = applied[shown.index][1]
                        due, asked = max(ready, shown.due_s), told[identity]
                        took = (began - asked, ready - began, due - ready, due - asked)
                        for name, seconds in zip(parts, took, strict=True):
                            parts[name].append(1000 * seconds)
                        break
    for name, values in parts.items():
        cuts = statistics.quantiles(values, n=100)
        print(f"{name:20} p50 {cuts[49]:6.0f} ms   p95 {cuts[94]:6.0f} ms")
    chunk_ms = 1000 * float(live.grid.frames_per_chunk / live.job.retiming.made)
    print(f"a chunk is {chunk_ms:.0f} ms of video; {len(parts['total'])} switches")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
