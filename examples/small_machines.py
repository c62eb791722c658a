"""Measure seconds of work for a second of video, of a full-size network on this CPU, and print a table.

    python examples/small_machines.py --sizes small medium --repeats 2

One chunk of each kind in turn, as `causvid t2v --vae tiny` makes it once its window is full: the network's calls, the
clean pass, decoding, enlarging and H.264. The weights are random: 1.3 billion of them take 4.5 GB in both formats.
Times are of one thread's own work (`time.thread_time`), which a busy machine disturbs least.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from statistics import median

import torch
from torch import Tensor

from causvid_cli.geometry import Chunk
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.request import Loading
from causvid_cli.sampling.plan import GenerateOptions
from causvid_cli.sampling.rollout import denoise_chunk
from causvid_cli.video import FragmentEncoder, VideoFormat

PROMPT = "a paper airplane turns into a swan"
STEPS = (2, 4)
FORMATS = {"bf16": "none", "int8": "int8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="causal-forcing", help="a name in the catalogue")
    parser.add_argument("--sizes", nargs="+", default=["small", "medium"], help="as --size has them")
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pipelines = {name: opened(asked.model, quantize) for name, quantize in FORMATS.items()}
    found: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(asked.repeats):
        for size in asked.sizes:
            for name, pipeline in pipelines.items():
                for steps, seconds in chunk_seconds(pipeline, size, label=f"{size} {name}"):
                    found.setdefault((size, name, steps), []).append(seconds)
    print(f"| seconds for a second of video | {' | '.join(f'{s} steps, {f}' for s in STEPS for f in FORMATS)} |")
    print("|---" * (1 + len(STEPS) * len(FORMATS)) + "|")
    for size in asked.sizes:
        cells = (found[size, name, steps] for steps in STEPS for name in FORMATS)
        print(f"| {size} | {' | '.join(f'{median(each):.0f} ({min(each):.0f}-{max(each):.0f})' for each in cells)} |")


def opened(model: str, quantize: str) -> Pipeline:
    loading = Loading(vae="tiny", quantize=quantize, random_weights=True)  # type: ignore[arg-type]
    return load(model, device="cpu", dtype="bfloat16", loading=loading)


@torch.inference_mode()
def chunk_seconds(pipeline: Pipeline, size: str, *, label: str) -> Iterator[tuple[int, float]]:
    """Steps of a chunk, and the seconds of work that a second of video takes with so many.

    The chunk is made with the most steps; with fewer the last of their calls are left out.
    """
    options = GenerateOptions(size=size, length="inf", seed=0, steps=max(STEPS))
    plan, codec = pipeline.plan(options), pipeline.codec
    cache, prompt = pipeline.kv_cache(plan), pipeline.prompt_cache(pipeline.text.encode(PROMPT).embeds)
    *before, chunk = islice(plan.grid.chunks(None), plan.window_frames // plan.grid.chunk_frames + 1)
    for each in before:  # whose keys and values are whatever lies there: what they are takes no time
        cache.begin(each)
        cache.commit()
    latent = 1, codec.facts.latent_channels, chunk.frames, plan.geometry.latent_height, plan.geometry.latent_width

    def noise(_: Chunk, call: int) -> Tensor:
        return torch.randn(latent, generator=torch.Generator().manual_seed(call))

    clock = [time.thread_time()]

    def lap(*_: object) -> None:
        clock.append(time.thread_time())

    x0 = denoise_chunk(pipeline.model, chunk, prompt, plan.steps, cache, noise, on_step=lap)
    pipeline.context_writer(plan.steps_of, noise).write(chunk, x0, prompt, cache)
    lap()
    state = codec.decode_state()
    codec.decode_chunk(x0[:, :, :1], state=state)  # the video's first frame, which takes another way
    encoder = FragmentEncoder(VideoFormat(width=plan.width, height=plan.height, fps=pipeline.fps))
    lap()
    frames = codec.decode_chunk(x0, state=state, enlarge=plan.enlarge)[0].numpy()
    encoder.encode(frames)
    lap()
    _, *calls, clean, _, shown = (after - before for before, after in pairwise(clock))
    parts = f"calls {', '.join(f'{each:.2f}' for each in calls)} s, clean pass {clean:.2f} s, frames {shown:.2f} s"
    print(f"{label}: {parts}", file=sys.stderr, flush=True)
    for steps in STEPS:
        yield steps, (sum(calls[:steps]) + clean + shown) / (len(frames) / pipeline.fps)


if __name__ == "__main__":
    main()
