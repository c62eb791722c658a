"""Which other model on this machine shows what this one cannot: named in a note, or chosen where none was."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import CausvidError
from causvid_cli.models.packs import list_packs, shipped_roots
from causvid_cli.request import DEFAULT_MODEL
from causvid_cli.untrusted import read_object

MOST = 4
"""Words that a note quotes."""

Lost = Mapping[str, str]
"""The user's words that a model leaves out, or shows as something else: as what."""


class _Storybook(NamedTuple):
    """A pack that reads the storybook's English."""

    folder: Path
    facts: PackFacts
    words: Mapping[str, Sequence[Any]]
    """By slot, those that it knows."""
    sees: bool
    """Whether it looks at a picture for whom a prompt leaves open."""

    @classmethod
    def of(cls, folder: Path, facts: PackFacts) -> Self:
        text = read_object(folder / "text_encoder" / "config.json")
        return cls(folder, facts, text.get("words", {}), bool(text.get("pictures")))


def usual_model(
    prompts: Sequence[str], suits: Callable[[PackFacts], bool], *, after_picture: bool = False
) -> tuple[str, str]:
    """The embedded model that shows most of the prompts, and a note where it is not the first one.

    suits: whether it may be one of these facts. after_picture: whether they may leave to a picture who it is about.
    """
    embedded = {name: pack for name, pack in _storybooks().items() if pack.folder.parent in shipped_roots()}
    able = {name: pack for name, pack in embedded.items() if suits(pack.facts)}
    if not able or DEFAULT_MODEL not in embedded:
        return DEFAULT_MODEL, ""
    best, why = "", ""
    if DEFAULT_MODEL not in able:
        best, why = next(iter(able)), "which does all that is asked for"
    elif after_picture and _leaves_who_open(prompts[0]):
        best, why = next((name for name, pack in able.items() if pack.sees), ""), "which looks who that is"
    else:
        best, words = _best(prompts, able[DEFAULT_MODEL], able)
        why = f"because of {words}"
    return (best, f"{best} makes it, {why}; -m {DEFAULT_MODEL} is the other") if best else (DEFAULT_MODEL, "")


def who_shows_more(prompts: Sequence[str], facts: PackFacts, folder: Path) -> str | None:
    """A note that names the pack here that shows most of what this one leaves out of the prompts; None: there is none.

    Both are models of the storybook, which read the same English. facts, folder: of the pack that reads it now.
    """
    if facts.text != "storybook":
        return None
    best, words = _best(prompts, _Storybook.of(folder, facts), _storybooks())
    return f"{best} shows more of {words}: try -m {best}" if best else None


def _best(prompts: Sequence[str], own: _Storybook, others: Mapping[str, _Storybook]) -> tuple[str, str]:
    """The pack that shows most of what another leaves out of the prompts, and all that that one shows; these words."""
    if not (lost := _lost(prompts, own.words)):
        return "", ""
    more = {name: _better(prompts, lost, own, other) for name, other in others.items() if other.words != own.words}
    best = max(more, key=lambda name: len(more[name]), default="")
    if not best or not more[best]:
        return "", ""
    rest = f" and {len(more[best]) - MOST} more" if len(more[best]) > MOST else ""
    return best, f"{', '.join(map(repr, more[best][:MOST]))}{rest}"


def _better(prompts: Sequence[str], lost: Lost, own: _Storybook, other: _Storybook) -> list[str]:
    """The words of what a pack has lost that another shows, or shows as what is nearer; none if it loses others."""
    still = _lost(prompts, other.words)
    if not set(still) <= set(lost):
        return []
    is_nearer = set(own.words.get("subject", ())) <= set(other.words.get("subject", ()))
    return [said for said, shown in lost.items() if said not in still or (is_nearer and still[said] != shown)]


def _lost(prompts: Sequence[str], words: Mapping[str, Sequence[Any]]) -> Lost:
    """What a model of these words leaves out of the prompts, or shows as something else."""
    from causvid_cli.storybook import Lexicon, is_name_of, parse

    lexicon, story = Lexicon.of(words), None
    lost: dict[str, str] = {}
    for prompt in prompts:
        whole = parse(prompt, story, lexicon)  # whose shots may be told in other words
        for told in whole.shots or (prompt,):
            parsed = parse(told, story, lexicon)
            lost |= dict.fromkeys((*parsed.not_shown, *parsed.unused), "")
            shown_as = (*whole.shown_as, *parsed.shown_as)
            lost |= {word.said: word.name for word in shown_as if not is_name_of(word.name, word.said)}
            story = parsed.story
    return lost


def _leaves_who_open(prompt: str) -> bool:
    """Whether a prompt tells of somebody without saying who."""
    from causvid_cli.storybook import PICTURE, parse

    return parse(prompt, PICTURE).story.subject is None


def _storybooks() -> dict[str, _Storybook]:
    """The packs of the storybook that are here; a damaged one is passed over."""
    found: dict[str, _Storybook] = {}
    for name, folder in list_packs().items():
        with suppress(CausvidError):
            facts = load_facts(folder)
            if facts.text == "storybook" and (pack := _Storybook.of(folder, facts)).words:
                found[name] = pack
    return found
