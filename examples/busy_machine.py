"""Measure how fast a video is made beside busy neighbours, by one CPU thread and by several; print a table.

    python examples/busy_machine.py --threads 1 2 --neighbours 0 1 2 4

A neighbour is a process that computes without end. Each figure is the median of the `frames_per_s` of several runs of
`causvid t2v`, which take turns so that what else the machine does meets all of them alike. Run it on an idle machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

PROMPT = "a paper airplane turns into a swan"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to compare")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2, 4], help="numbers of busy processes")
    parser.add_argument("--length", default="20s", help="of each video")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--model", default="storybook")
    asked = parser.parse_args()
    print(f"| busy neighbours | {' | '.join(f'--threads {count}' for count in asked.threads)} |")
    print("|---" * (1 + len(asked.threads)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for count in asked.neighbours:
            figures: dict[int, list[float]] = {threads: [] for threads in asked.threads}
            with neighbours(count):
                for _ in range(asked.repeats):
                    for threads, found in figures.items():
                        found.append(frames_per_s(asked.model, asked.length, threads, Path(folder)))
            cells = " | ".join(f"{median(found):.0f} frames/s" for found in figures.values())
            print(f"| {count or 'none'} | {cells} |", flush=True)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Inside, so many processes compute without end."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def frames_per_s(model: str, length: str, threads: int, folder: Path) -> float:
    """Make one video by the command line; return the frames per second that it reports."""
    command = [sys.executable, "-m", "causvid_cli", "t2v", PROMPT, "--model", model, "--length", length, "--seed", "1"]
    output = ["--threads", str(threads), "--json", "--quiet", "-y", "-o", str(folder / "video.mp4")]
    done = subprocess.run([*command, *output], stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout)["frames_per_s"])


if __name__ == "__main__":
    main()
