"""The storybook world: procedural 64 x 64 pixel-art clips and the English that tells them. Needs only numpy.

A prompt is parsed to a Story (parse.py); a Story and a seed are an endless video (render.py) of palette indices.
"""

from __future__ import annotations

from .lexicon import LEXICON, NAMED, Lexicon
from .palette import DARK, LIGHT, MID, PALETTE, ink
from .parse import Parsed, UnknownWord, parse
from .raster import Canvas
from .render import FPS, add_subject, render, render_indices, render_photo, render_script, shown_subject
from .scenes import SIZE
from .sprites import CYCLE
from .story import PackStory, Story, held_out
from .vocabulary import VOCABULARY, Subject
from .wording import reword, sample_story

__all__ = [
    "CYCLE",
    "DARK",
    "FPS",
    "LEXICON",
    "LIGHT",
    "MID",
    "NAMED",
    "PALETTE",
    "SIZE",
    "VOCABULARY",
    "Canvas",
    "Lexicon",
    "PackStory",
    "Parsed",
    "Story",
    "Subject",
    "UnknownWord",
    "add_subject",
    "held_out",
    "ink",
    "parse",
    "render",
    "render_indices",
    "render_photo",
    "render_script",
    "reword",
    "sample_story",
    "shown_subject",
]
