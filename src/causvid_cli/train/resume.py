"""A run's folder: which stages have run in it, and whether a configuration may go on there. Imports no torch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from causvid_cli.config import to_json
from causvid_cli.errors import UsageError
from causvid_cli.train.config import STAGES
from causvid_cli.untrusted import read_object

FREE = frozenset({"name", "license", "source", "compute", "eval"})
"""Keys and sections that may change at any time: that does not reach the weights, or is looked at anew in every run."""
FREE_OF_STAGE = frozenset({"save_every", "log_every", "sample_every", "accumulate"})
"""Keys that may change at any time within a stage's own section."""


def last_step(folder: Path) -> int | None:
    """Return the step at which a stage's last checkpoint stands; None when it has none."""
    for name in ("checkpoint", "checkpoint.old"):  # the old one when `Trainer.save` was killed between its renames
        state = folder / name / "state.json"
        if state.is_file():
            return int(read_object(state)["step"])
    return None


def finished(folder: Path, steps: int) -> bool:
    """Return whether a stage that trains has taken all its steps."""
    return (last_step(folder) or 0) >= steps


def check_same_run(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    begun: Sequence[str],
    finished: Sequence[str],
    uses: Mapping[str, Collection[str]],
    presence: Mapping[str, Collection[str]] = {},
    folder: Path | str = "the folder",
) -> None:
    """Raise UsageError at the first key that a run's folder can no longer follow.

    old, new: the configuration that the folder was made with and the one it is to go on with, as JSON has them.
    begun: stages that have left something in it, in their order; finished: those of them that are done.
    uses: the stages that a section matters to. One that is not named there but called like a stage is that stage's
    plan, which may change until the stage is finished; any other matters to all stages. presence: the stages to which
    it matters whether there is a section at all.
    Keys that only one of the two has are no matter: they came or went with a version of this program.
    """
    for section, stages in presence.items():
        is_new, is_gone = not old.get(section), not new.get(section)
        if is_new != is_gone and (hurt := [stage for stage in begun if stage in stages]):
            what, how = ("new", "without") if is_new else ("gone", "with")
            raise UsageError(
                f"[{section}]: is {what}, but {folder} was made {how} it, and stage {hurt[0]} has used that; "
                "set it back, or give another --run-dir"
            )
    past = dict(_leaves(old))
    for path, value in _leaves(new):
        section, key = path[0], path[-1]
        if path not in past or past[path] == value or section in FREE:
            continue
        if section in STAGES and section not in uses:
            hurt = [section] if section in finished and key not in FREE_OF_STAGE else []
        else:
            hurt = [stage for stage in begun if stage in uses.get(section, begun)]
        if hurt:
            was, now = to_json(past[path]), to_json(value)
            raise UsageError(
                f"{'.'.join(path)}: {now}, but {folder} was made with {was}, and stage {hurt[0]} has used it; "
                "set it back, or give another --run-dir"
            )


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, value) for every value that is no table, in order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value
