"""Which other model on this machine shows what this one cannot: named in a note, or chosen where none was."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import CausvidError
from causvid_cli.models.packs import find_pack, list_packs, shipped_roots
from causvid_cli.request import DEFAULT_MODEL
from causvid_cli.untrusted import read_object

MOST = 4
"""Words that a note quotes."""


def usual_model(prompts: Sequence[str], suits: Callable[[PackFacts], bool]) -> tuple[str, str]:
    """The embedded model that knows most of the prompts, and a note where it is not the first one.

    suits: whether it may be one of these facts.
    """
    best, words = _best(
        prompts, find_pack(DEFAULT_MODEL), lambda folder: _is_embedded(folder) and suits(load_facts(folder))
    )
    return (best, f"{best} makes it, which knows {words}; -m {DEFAULT_MODEL} does not") if best else (DEFAULT_MODEL, "")


def who_shows_more(prompts: Sequence[str], facts: PackFacts, folder: Path) -> str | None:
    """A note that names the pack here that knows most of what this one leaves out of the prompts; None: there is none.

    Both are models of the storybook, which read the same English. facts, folder: of the pack that reads it now.
    """
    if facts.text != "storybook":
        return None
    best, words = _best(prompts, folder)
    return f"{best} knows {words}: try -m {best}" if best else None


def _is_embedded(folder: Path) -> bool:
    return folder.parent in shipped_roots()


def _best(
    prompts: Sequence[str], folder: Path, may_be: Callable[[Path], bool] = lambda folder: True
) -> tuple[str, str]:
    """The pack that knows most of what another leaves out of the prompts, and all that it knows; and these words."""
    from causvid_cli.storybook import IN_SHOTS

    own, others = _words(folder), {name: _words(other) for name, other in _others(folder) if may_be(other)}
    told = set(_told(prompts)) if others else set()
    lost = {(slot, name) for slot, name in told if name not in own.get(slot, ())}
    more = {
        other: sorted(str(name) for slot, name in lost if name in words.get(slot, ()))
        for other, words in others.items()
        if not any(name not in (*words.get(slot, ()), *IN_SHOTS) for slot, name in told - lost)
    }
    best = max(more, key=lambda other: len(more[other]), default=None)
    if best is None or not more[best]:
        return "", ""
    rest = f" and {len(more[best]) - MOST} more" if len(more[best]) > MOST else ""
    return best, f"{', '.join(map(repr, more[best][:MOST]))}{rest}"


def _told(prompts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The slots and words of what is told to a model that knows all that the storybook can draw.

    What is only the nearest that can be drawn is left out.
    """
    from causvid_cli.storybook import ALL_WORDS, SLOTS, Lexicon, is_name_of, parse

    lexicon, story = Lexicon.of(ALL_WORDS), None
    for prompt in prompts:
        parsed = parse(prompt, story, lexicon)
        story = parsed.story
        nearest = {word.name for word in parsed.shown_as if not is_name_of(word.name, word.said)}
        for slot, unsaid in SLOTS.items():
            if (name := getattr(story, slot)) not in (unsaid, None, *nearest) and slot != "mirrored":
                yield slot, name


def _others(folder: Path) -> Iterator[tuple[str, Path]]:
    """The other packs of the storybook; a damaged one is passed over."""
    for name, other in list_packs().items():
        if other.resolve() == folder.resolve():
            continue
        try:
            if load_facts(other).text == "storybook" and _words(other):
                yield name, other
        except CausvidError:
            continue


def _words(folder: Path) -> dict[str, list[Any]]:
    """Slot -> the words of it that a pack of the storybook knows."""
    words: dict[str, list[Any]] = read_object(folder / "text_encoder" / "config.json").get("words", {})
    return words
