"""The storybook world: procedural 64 x 64 pixel-art clips and the English that tells them. Needs only numpy.

A prompt is parsed to a Story (parse.py); a Story and a seed are an endless video (render.py) of palette indices.
"""

from __future__ import annotations

from .lexicon import FIRST_LEXICON, LEXICON, NAMED, Lexicon, is_name_of
from .palette import DARK, LIGHT, MID, PALETTE, ink
from .parse import Parsed, parse
from .pictures import Place, Recognised, Who, recognise
from .raster import Canvas
from .render import (
    FPS,
    SPRITE,
    THING,
    Shown,
    is_mirrored,
    render,
    render_indices,
    render_photo,
    render_script,
    render_shown,
    show_photo,
    show_script,
    shown_subject,
)
from .scenes import ALL_ROUND, SIZE, SQUARE, TALL, TALL_ALL_ROUND, WIDE, Frame
from .sprites import CYCLE
from .story import (
    ALL_WORDS,
    DOES,
    FIRST_WORDS,
    IN_SHOTS,
    PICTURE,
    SLOTS,
    WHERE,
    WHO,
    PackStory,
    Story,
    held_out,
    limited_to,
)
from .vocabulary import VOCABULARY, Subject, Words
from .wording import reword, sample_story

__all__ = [
    "ALL_ROUND",
    "ALL_WORDS",
    "CYCLE",
    "DARK",
    "DOES",
    "FIRST_LEXICON",
    "FIRST_WORDS",
    "FPS",
    "LEXICON",
    "LIGHT",
    "MID",
    "NAMED",
    "PALETTE",
    "PICTURE",
    "SIZE",
    "SLOTS",
    "SPRITE",
    "SQUARE",
    "TALL",
    "TALL_ALL_ROUND",
    "THING",
    "VOCABULARY",
    "WHERE",
    "WHO",
    "WIDE",
    "Canvas",
    "Frame",
    "Lexicon",
    "PackStory",
    "Parsed",
    "Place",
    "Recognised",
    "Who",
    "Shown",
    "Story",
    "Subject",
    "Words",
    "held_out",
    "is_mirrored",
    "IN_SHOTS",
    "is_name_of",
    "limited_to",
    "ink",
    "parse",
    "recognise",
    "render",
    "render_indices",
    "render_photo",
    "render_script",
    "render_shown",
    "reword",
    "sample_story",
    "show_photo",
    "show_script",
    "shown_subject",
]
