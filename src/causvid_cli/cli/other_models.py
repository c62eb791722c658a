"""Which other model on this machine shows what this one cannot: named in a note, or chosen where none was."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import CausvidError
from causvid_cli.models.packs import list_packs, shipped_roots
from causvid_cli.request import DEFAULT_MODEL
from causvid_cli.untrusted import read_object

MOST = 4
"""Words that a note quotes."""

Lost = Mapping[str, str]
"""The user's words that a model leaves out, or shows as something else: as what."""


def usual_model(
    prompts: Sequence[str], suits: Callable[[PackFacts], bool], *, after_picture: bool = False
) -> tuple[str, str]:
    """The embedded model that shows most of the prompts, and a note where it is not the first one.

    suits: whether it may be one of these facts. after_picture: whether they may leave to a picture who it is about.
    """
    embedded = {name: folder for name, folder in _storybooks().items() if folder.parent in shipped_roots()}
    able = {name: folder for name, folder in embedded.items() if suits(load_facts(folder))}
    if not able or DEFAULT_MODEL not in embedded:
        return DEFAULT_MODEL, ""
    other = f"-m {DEFAULT_MODEL} is the other"
    if DEFAULT_MODEL not in able:
        best = next(iter(able))
        return best, f"{best} makes it, which does all that is asked for; {other}"
    if after_picture and _leaves_who_open(prompts[0]):
        seeing = [name for name, folder in able.items() if _text(folder).get("pictures")]
        return (seeing[0], f"{seeing[0]} makes it, which looks who that is; {other}") if seeing else (DEFAULT_MODEL, "")
    best, words = _best(prompts, able[DEFAULT_MODEL], able)
    return (best, f"{best} makes it, because of {words}; {other}") if best else (DEFAULT_MODEL, "")


def who_shows_more(prompts: Sequence[str], facts: PackFacts, folder: Path) -> str | None:
    """A note that names the pack here that shows most of what this one leaves out of the prompts; None: there is none.

    Both are models of the storybook, which read the same English. facts, folder: of the pack that reads it now.
    """
    if facts.text != "storybook":
        return None
    best, words = _best(prompts, folder, _storybooks())
    return f"{best} shows more of {words}: try -m {best}" if best else None


def _best(prompts: Sequence[str], folder: Path, others: Mapping[str, Path]) -> tuple[str, str]:
    """The pack that shows most of what another leaves out of the prompts, and all that that one shows; these words."""
    own = _words(folder)
    lost = _lost(prompts, own)
    more: dict[str, list[str]] = {}
    for name, other in others.items():
        if lost and other.resolve() != folder.resolve():
            words = _words(other)
            still = _lost(prompts, words)
            knows_all = set(own.get("subject", ())) <= set(words.get("subject", ()))  # so what it takes is nearer
            better = [said for said, shown in lost.items() if said not in still or (knows_all and still[said] != shown)]
            more[name] = better if set(still) <= set(lost) else []
    best = max(more, key=lambda name: len(more[name]), default=None)
    if best is None or not more[best]:
        return "", ""
    rest = f" and {len(more[best]) - MOST} more" if len(more[best]) > MOST else ""
    return best, f"{', '.join(map(repr, more[best][:MOST]))}{rest}"


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


def _storybooks() -> dict[str, Path]:
    """The packs of the storybook that are here; a damaged one is passed over."""
    found: dict[str, Path] = {}
    for name, folder in list_packs().items():
        try:
            if load_facts(folder).text == "storybook" and _words(folder):
                found[name] = folder
        except CausvidError:
            continue
    return found


def _words(folder: Path) -> dict[str, list[Any]]:
    """Slot -> the words of it that a pack of the storybook knows."""
    words: dict[str, list[Any]] = _text(folder).get("words", {})
    return words


def _text(folder: Path) -> dict[str, Any]:
    return read_object(folder / "text_encoder" / "config.json")
