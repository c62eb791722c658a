"""Chunks of frames as they are made, and a prompt that changes while the video runs.

python examples/stream.py crossing.mp4
"""

import sys
from pathlib import Path

import causvid_cli
from causvid_cli.video import VideoFormat, open_writer


def main(output: Path) -> None:
    pipeline = causvid_cli.load("storybook")
    stream = pipeline.stream("a man walks to the right on the street", length="8s", seed=7)
    plan = stream.plan
    video = VideoFormat(width=plan.width, height=plan.height, fps=pipeline.fps)
    with open_writer(output, video, overwrite=True) as writer:
        for chunk in stream:
            print(f"frames {chunk.start_frame} to {chunk.start_frame + len(chunk.frames) - 1}: {chunk.prompt}")
            writer.write(chunk.frames)
            if writer.frames_written == 32:  # what comes next happens under the new prompt
                stream.prompt = "he jumps"
        writer.publish()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "crossing.mp4"))
