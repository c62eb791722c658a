"""Prompts that training never saw, one a row, as both students and their teacher show them, side by side.

python examples/side_by_side.py sheet.png             # storybook-fast, storybook, teacher; the same seed in each row
"""

import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

import causvid_cli
from causvid_cli.evaluate.prompts import built_in_prompts
from causvid_cli.teacher import load_teacher

ROWS, COLUMNS, GAP = 16, 5, 6


def main(sheet: Path) -> None:
    makers = [causvid_cli.load("storybook-fast"), causvid_cli.load("storybook"), load_teacher("storybook")]
    rows = []
    for seed, prompt in enumerate(built_in_prompts(ROWS), start=1):
        print(f"seed {seed}: {prompt}")
        clips = [maker.generate(prompt, length="4s", seed=seed)[:, ::8, ::8] for maker in makers]  # a pixel a cell
        rows.append(np.concatenate([shown(clip) for clip in clips], axis=1)[:, :-GAP])
    imageio.imwrite(sheet, np.concatenate(rows, axis=0))


def shown(clip: np.ndarray) -> np.ndarray:
    """A few pictures from all over a clip in a row, with white space behind them and below."""
    pictures = clip[np.linspace(0, len(clip) - 1, COLUMNS).round().astype(int)]
    row = np.concatenate(list(pictures), axis=1)
    return np.pad(row, ((0, 2), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sheet.png"))
