"""The clips of examples/robot.toml: 20 videos of a robot, a subject that the embedded model has never seen.

python examples/robot_clips.py                # writes examples/robot: 20 videos of 4 s, and metadata.csv

They stand for a user's own folder. The storybook's renderer draws them: it can draw more than the embedded model knows.
"""

import csv
import sys
from fractions import Fraction
from pathlib import Path

from causvid_cli import storybook
from causvid_cli.storybook import Story
from causvid_cli.video import VideoFormat, open_writer

FRAMES, ENLARGE = 32, 8
CLIPS = (
    ("snow", "stays still"),
    ("snow", "moves left"),
    ("snow", "spins"),
    ("meadow", "jumps"),
    ("meadow", "moves right"),
    ("meadow", "grows"),
    ("sea", "flies up"),
    ("sea", "moves right"),
    ("street", "moves right"),
    ("street", "shrinks"),
    ("street", "stays still"),
    ("night city", "grows"),
    ("night city", "moves left"),
    ("night city", "jumps"),
    ("desert", "jumps"),
    ("desert", "flies up"),
    ("space", "spins"),
    ("space", "moves left"),
    ("forest", "shrinks"),
    ("forest", "stays still"),
)
"""(scene, action) of each clip: every scene and every action two or three times, 44 of the 64 pairs never."""


def robot_story(scene: str, action: str) -> Story:
    """What a clip shows, in the world that the embedded model knows, where what travels goes round the edge."""
    return Story("robot", "natural", scene, action, edge="wraps")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (scene, action) in enumerate(CLIPS, start=1):
        story, name = robot_story(scene, action), f"robot-{number:02d}.mp4"
        indices, _ = storybook.render_indices(story, length=FRAMES, seed=number)  # the seed mirrors the scene or not
        frames = storybook.PALETTE[indices].repeat(ENLARGE, axis=1).repeat(ENLARGE, axis=2)
        height, width = frames.shape[1:3]
        fps = Fraction(storybook.FPS)
        with open_writer(folder / name, VideoFormat(width=width, height=height, fps=fps), overwrite=True) as writer:
            writer.write(frames)
            writer.publish()
        rows.append((name, story.caption()))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file_name", "caption"), *rows])
    print(f"{folder}: {len(rows)} clips")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/robot"))
