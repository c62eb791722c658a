"""How well the model of examples/robot.toml shows the robot, before and after, where code knows what is right.

python examples/robot_figures.py runs/robot/pack/robot sheet.png

Every prompt is a pair of scene and action that is not among the 20 clips. A clip is named by the rendered clip with
which it shares most pixels: of the robot, the storybook's 14 subjects and the bare scene, and then of the robot in all
its actions.
"""

import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from robot_clips import CLIPS, FRAMES, robot_story

import causvid_cli
from causvid_cli import storybook
from causvid_cli.pipeline import Pipeline
from causvid_cli.storybook import FIRST_WORDS, PALETTE, Story

ACTIONS = tuple(action for action in FIRST_WORDS["action"] if action != "turns into")
NEW = tuple(pair for pair in product(FIRST_WORDS["scene"], ACTIONS) if pair not in CLIPS)
SUBJECTS = ("robot", None, *FIRST_WORDS["subject"])
SEEDS = (0, 2)
"""Of rendered clips: one has the scene mirrored, one has not."""
SHOWN = (("snow", "jumps"), ("forest", "moves right"), ("space", "flies up"), ("sea", "spins"), ("street", "grows"))
COLUMNS, CELL, LINE = 8, 128, 2


def main(model: str, sheet: Path) -> None:
    rows = []
    for name in ("storybook", model):
        pipeline = causvid_cli.load(name)
        seen, done, right = 0, 0, []
        for number, (scene, action) in enumerate(NEW):
            clip = make(pipeline, scene, action, seed=number)
            named = nearest(clip, (Story(who, "natural", scene, action, edge="wraps") for who in SUBJECTS))
            seen += named.subject == "robot"
            does = nearest(clip, (robot_story(scene, other) for other in ACTIONS))
            done += named.subject == "robot" and does.action == action
            right.append(sprite_right(clip, scene, action))
            if (scene, action) in SHOWN[: None if name == model else 1]:
                rows.append((SHOWN.index((scene, action)) + (name == model), clip))
        print(
            f"{name}: {len(NEW)} new prompts: the robot is shown in {seen}, and does what is asked in {done}; "
            f"{np.mean(right):.1%} of its pixels are right"
        )
    imageio.imwrite(sheet, np.concatenate([strip(clip) for _, clip in sorted(rows, key=lambda row: row[0])]))


def make(pipeline: Pipeline, scene: str, action: str, *, seed: int) -> np.ndarray:
    """Palette entries uint8 [FRAMES, 64, 64] of a clip of the robot."""
    size = (storybook.SIZE, storybook.SIZE)
    frames = pipeline.generate(robot_story(scene, action).caption(), length=f"{FRAMES}f", seed=seed, size=size)
    return (frames[..., None, :] == PALETTE).all(-1).argmax(-1).astype(np.uint8)


def nearest(clip: np.ndarray, stories: Iterable[Story]) -> Story:
    """The story whose rendered clip agrees with this one in most pixels."""
    return max(stories, key=lambda story: max((clip == truth).mean() for truth, _ in rendered(story)))


def rendered(story: Story) -> list[tuple[np.ndarray, np.ndarray]]:
    """Palette entries and what is seen in each pixel [FRAMES, 64, 64], the scene both ways round."""
    return [storybook.render_indices(story, length=FRAMES, seed=seed) for seed in SEEDS]


def sprite_right(clip: np.ndarray, scene: str, action: str) -> float:
    """Share of the robot's pixels, in all frames, that are as they should be."""
    truth, mask = rendered(robot_story(scene, action))[0]
    return float((clip == truth)[mask > 0].mean())


def strip(clip: np.ndarray) -> np.ndarray:
    """A few frames of a clip side by side, RGB."""
    shown = PALETTE[clip[np.linspace(0, FRAMES - 1, COLUMNS).round().astype(int)]]
    shown = shown.repeat(CELL // storybook.SIZE, axis=1).repeat(CELL // storybook.SIZE, axis=2)
    shown = np.pad(shown, ((0, 0), (0, LINE), (0, LINE), (0, 0)), constant_values=255)
    return np.concatenate(list(shown), axis=1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "sheet.png"))
