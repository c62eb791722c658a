"""What an evaluation asks: the prompts of a file, or the built-in set. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from causvid_cli import storybook
from causvid_cli.errors import UsageError
from causvid_cli.evaluate.config import BUILT_IN
from causvid_cli.files import IS_ADDRESS, is_address
from causvid_cli.request import check_prompt
from causvid_cli.storybook import FIRST_WORDS, Story, Words
from causvid_cli.untrusted import parse_json


def built_in_prompts(count: int = BUILT_IN, *, held_out: bool = True) -> tuple[str, ...]:
    """Captions of storybook stories, always the same; a smaller count is the beginning of a larger one.

    held_out: of combinations that no training of a storybook model has seen, or only of those it may have.
    """
    rng = np.random.default_rng((0, 2 if held_out else 3))
    return tuple(story.caption() for story in sample_stories(rng, count, held_out=held_out))


def sample_stories(
    rng: np.random.Generator, count: int, words: Words = FIRST_WORDS, *, held_out: bool = False
) -> tuple[Story, ...]:
    """Stories with a subject; held_out: of combinations that no training has seen, or only of those it may see."""
    stories: list[Story] = []
    while len(stories) < count:
        story = storybook.sample_story(rng, words)
        if story.subject is not None and storybook.held_out(story) == held_out:
            stories.append(story)
    return tuple(stories)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file: one a line, # begins a comment line; or, in a .json file, a list of texts.

    Raises UsageError where the file cannot be read, holds no prompt, or one that cannot be used.
    """
    where = f"--prompts {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        if is_address(str(path)):
            raise UsageError(f"{path}: {IS_ADDRESS}") from error
        raise UsageError(f"{where}: cannot be read: {(error.strerror or '').lower()}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: is not UTF-8 text") from error
    if path.suffix.lower() == ".json":
        prompts = [(f"entry {index}", entry) for index, entry in enumerate(_json_list(text, where), start=1)]
    else:
        lines = ((f"line {number}", line.strip()) for number, line in enumerate(text.splitlines(), start=1))
        prompts = [(place, line) for place, line in lines if line and not line.startswith("#")]
    if not prompts:
        raise UsageError(f"{where}: holds no prompt; write one a line")
    return tuple(_checked(prompt, f"{where}: {place}") for place, prompt in prompts)


def _json_list(text: str, where: str) -> Sequence[str]:
    entries = parse_json(text, where=where)
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f'{where}: must be a list of texts, such as ["a red car in the snow"]')
    return entries


def _checked(prompt: str, where: str) -> str:
    try:
        return check_prompt(prompt)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
