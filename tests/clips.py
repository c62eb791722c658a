"""Small clips to write, and what a file holds."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from causvid_cli.video import FileWriter, Finish, Restart, VideoFormat, open_writer

FPS = Fraction(16)
HEIGHT, WIDTH = 48, 64


def video_format(**facts: object) -> VideoFormat:
    """The format of these clips, or another in what is said."""
    return VideoFormat(**{"width": WIDTH, "height": HEIGHT, "fps": FPS} | facts)


def open_clip_writer(
    path: Path, *, overwrite: bool = False, resume: Restart | None = None, finish: Finish | None = None, **facts: object
) -> FileWriter:
    """A writer of a video of this format."""
    return open_writer(path, video_format(**facts), overwrite=overwrite, resume=resume, finish=finish)


def noise(frames: int, seed: int = 0) -> np.ndarray:
    """uint8 [frames, HEIGHT, WIDTH, 3] that does not compress, so that every file limit is met soon."""
    return np.random.default_rng(seed).integers(0, 256, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)


def walk(frames: int, *, start: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [frames, height, width, 3] of few colours: a block that walks over stripes, from frame `start` on."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = (40, 90, 160)
    clip[:, np.arange(height) // 8 % 2 == 1] = (230, 200, 30)
    for number, picture in enumerate(clip, start):
        left = 3 * number % (width - 10)
        picture[8:20, left : left + 10] = (250, 10, 60)
    return clip


def decode(path: Path) -> list[av.VideoFrame]:
    with open(path, "rb") as file, av.open(file, "r") as container:
        return list(container.decode(video=0))


def pixels(path: Path) -> np.ndarray:
    """uint8 RGB [T, H, W, 3]."""
    return np.stack([frame.to_ndarray(format="rgb24") for frame in decode(path)])


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}
