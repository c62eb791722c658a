"""Prompts, one a row, and what an embedded model makes of them: 8 frames of each clip, from left to right.

python examples/contact_sheet.py sheet.png                    # and, beside it, sheet.gif with the first clip moving
python examples/contact_sheet.py world.png storybook-world    # other prompts, by the model of the larger world
"""

import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

import causvid_cli

PROMPTS = {
    "storybook": (
        "a paper airplane turns into a swan",
        "a red car drives to the left in the city at night",
        "a man walks to the right on the street",
        "a mammoth grows in the snow",
        "a green fish jumps out of the sea",
        "a rocket flies up in space",
        "a pink rabbit spins around in the forest",
        "a blue cat stays still in the desert",
    ),
    "storybook-world": (
        "a brown dog jumps on the beach",
        "a robot walks to the right on the road at night",
        "two bears dance in the snow",
        "a woman reads a book in the kitchen",
        "a train drives to the left in the rain",
        "a red dragon flies up over the mountains at sunset",
        "an elephant drinks at the river",
        "a panda sleeps in the forest while it snows",
    ),
}
COLUMNS, CELL, LINE = 8, 128, 2


def main(sheet: Path, model: str) -> None:
    pipeline = causvid_cli.load(model)
    rows = []
    for seed, prompt in enumerate(PROMPTS[model], start=1):
        frames = pipeline.generate(prompt, length="5s", size=(CELL, CELL), seed=seed)
        print(f"seed {seed}: {prompt}")
        if seed == 1:
            clip = frames.repeat(2, axis=1).repeat(2, axis=2)
            imageio.imwrite(sheet.with_suffix(".gif"), clip, duration=1000 / float(pipeline.fps), loop=0)
        shown = frames[np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)]
        shown = np.pad(shown, ((0, 0), (0, LINE), (0, LINE), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(shown), axis=1))
    imageio.imwrite(sheet, np.concatenate(rows, axis=0))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sheet.png"), sys.argv[2] if len(sys.argv) > 2 else "storybook")
