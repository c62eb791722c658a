"""What the shell offers after Tab: names and sizes of models, and words from short lists. Imports no torch.

File names need nothing here: where these functions offer nothing, the shell offers files.
"""

from collections.abc import Callable
from itertools import takewhile

import typer

from causvid_cli.config import load_facts
from causvid_cli.errors import CausvidError
from causvid_cli.models.catalogue import checkpoint_names
from causvid_cli.models.packs import find_pack, list_packs
from causvid_cli.request import AUTO, DTYPES, NATIVE

LARGEST_SIDE = 1024
"""Of the sizes that are offered; larger ones can be typed."""


def models(incomplete: str) -> list[tuple[str, str]]:
    """Names that --model takes, each with what it makes."""
    found = []
    for name, folder in list_packs().items():
        if name.startswith(incomplete):
            try:
                facts = load_facts(folder)
            except CausvidError:  # a damaged pack: its own command will say so
                continue
            found.append((name, f"{facts.width * facts.enlarge}x{facts.height * facts.enlarge} at {facts.fps:g} fps"))
    return found


def checkpoints(incomplete: str) -> list[str]:
    """Names of the known checkpoints."""
    return [name for name in checkpoint_names() if name.startswith(incomplete)]


def known_models(incomplete: str) -> list[tuple[str, str]]:
    """Names of models that are here, and of those that can be had."""
    here = models(incomplete)
    names = {name for name, _ in here}
    return here + [(name, "to pull") for name in checkpoints(incomplete) if name not in names]


def sizes(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Sizes that the model makes: its own first, then those that it can be enlarged or turned to."""
    try:
        facts = load_facts(find_pack(context.params.get("model") or AUTO))
    except CausvidError:
        return []
    width, height = facts.width, facts.height
    if facts.enlarge == 1:  # it paints other sizes too, too many to list
        known = {f"{width}x{height}": "the model's own", f"{height}x{width}": "turned"}
    else:
        times = takewhile(lambda n: n * max(width, height) <= LARGEST_SIDE, range(1, LARGEST_SIDE))
        ordered = sorted(times, key=lambda n: n != facts.enlarge)
        known = {f"{width * n}x{height * n}": f"{n} times enlarged" for n in ordered}
        known[f"{width * facts.enlarge}x{height * facts.enlarge}"] = "the model's own"
    known |= {name: f"{size[0]}x{size[1]}, {size[2]} times enlarged" for name, size in facts.sizes.items()}
    known[NATIVE] = "the model's own"
    return [(size, what) for size, what in known.items() if size.startswith(incomplete)]


def words(*known: str) -> Callable[[str], list[str]]:
    """Offers these words."""

    def offer(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return offer


devices = words(AUTO, "cpu", "cuda", "cuda:0", "mps")
dtypes = words(AUTO, *DTYPES)
