"""The storybook world: procedural 64 x 64 pixel-art clips and the English that tells them. Needs only numpy.

A prompt is parsed to a Story (parse.py); a Story and a seed are an endless video (render.py) of palette indices.
"""

from __future__ import annotations

from .palette import PALETTE
from .parse import Parsed, UnknownWord, parse
from .render import FPS, render, render_indices, render_script
from .scenes import SIZE
from .sprites import CYCLE
from .story import Story, held_out
from .vocabulary import VOCABULARY
from .wording import reword, sample_prompt, sample_story

__all__ = [
    "CYCLE",
    "FPS",
    "PALETTE",
    "SIZE",
    "VOCABULARY",
    "Parsed",
    "Story",
    "UnknownWord",
    "held_out",
    "parse",
    "render",
    "render_indices",
    "render_script",
    "reword",
    "sample_prompt",
    "sample_story",
]
