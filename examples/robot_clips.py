"""The clips of examples/robot.toml: 20 videos of a robot, a subject that the embedded model has never seen.

python examples/robot_clips.py                # writes examples/robot: 20 videos of 4 s, and metadata.csv

They stand for a user's own folder. The robot is drawn here, on the storybook's cells and palette; the storybook's
renderer puts it into its scenes and moves it.
"""

import csv
import sys
from fractions import Fraction
from pathlib import Path

from causvid_cli import storybook
from causvid_cli.storybook import DARK, LIGHT, MID, Canvas, PackStory, Subject, ink
from causvid_cli.video import VideoFormat, open_writer

FRAMES, ENLARGE = 32, 8
ROBOT = Subject(
    name="robot",
    natural=("white.light", "white.mid", "white.dark"),
    scene="street",
    altitude="ground",
    moves=("walks", "marches"),
)
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

OUTLINE, GLASS = ink("outline"), ink("glass")
STEEL, STEEL_DARK = ink("grey.mid"), ink("grey.dark")
LAMP, GLOW = ink("orange.mid"), ink("orange.light")
SWING = (0, 1, 0, -1)
"""Legs and arms over the four phases: together, apart, together, apart the other way."""


def draw_robot(c: Canvas, phase: int) -> None:
    """A white robot with a dark visor and orange lamps, facing right in a 36 x 36 box (y down)."""
    s = SWING[phase]
    c.line([(19, 28), (19 - 4 * s, 33)], 4.2, STEEL_DARK)  # the far leg, the near one, the far arm
    c.box(16 - 4 * s, 33, 24 - 4 * s, 36, DARK)
    c.line([(14, 28), (14 + 4 * s, 33)], 4.2, STEEL)
    c.box(11 + 4 * s, 33, 19 + 4 * s, 36, MID)
    c.line([(24.5, 21), (27.5 + 2 * s, 26)], 3.6, STEEL_DARK)
    c.box(9, 18, 25, 30, MID)  # the body, its lamp, the near arm
    c.box(9, 18, 12, 30, LIGHT)
    c.box(9, 28, 25, 30, DARK)
    c.box(22, 18, 25, 30, DARK)
    c.ellipse(18, 23.5, 3.2, 3.2, STEEL_DARK)
    c.ellipse(18, 23.5, 2.3, 2.3, LAMP)
    c.line([(11, 21), (8 - 2.5 * s, 27)], 4, STEEL)
    c.ellipse(7.6 - 2.8 * s, 28, 2.4, 2.4, DARK)
    c.box(16, 3, 18, 6, STEEL_DARK)  # the antenna
    c.ellipse(17, 1.5, 3.1, 2.9, LAMP)
    c.box(15, 0, 17, 2, GLOW)
    c.box(6, 6, 29, 17, MID)  # the head, the visor with two eyes, the ear
    c.box(8, 5, 27, 18, MID)
    c.box(8, 5, 27, 7, LIGHT)
    c.box(6, 7, 9, 15, LIGHT)
    c.box(8, 16, 28, 18, DARK)
    c.box(14, 8, 29, 15, OUTLINE)
    c.box(16, 9, 19, 13, GLASS)
    c.box(23, 9, 26, 13, GLASS)
    c.ellipse(7, 11.5, 3.2, 3.2, LAMP)
    c.box(5, 10, 7, 12, GLOW)


def robot_story(scene: str, action: str) -> PackStory:
    """What a clip shows; the storybook's own stories cannot tell of a robot."""
    return PackStory("robot", "natural", scene, action)


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


storybook.add_subject(ROBOT, draw_robot)

if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/robot"))
