"""Packages that only some things need, loaded in silence, and how causvid itself is installed. Imports nothing slow."""

import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Literal

from causvid_cli.errors import CausvidError, ModelError

INSTALL = "try pip install '.[{extra}]' in causvid's source folder"
UPDATE = "try git pull and pip install . in causvid's source folder"


Extra = Literal["wan", "lora", "quantize", "datasets", "ray", "live", "gym", "osc"]


def require(*packages: str, extra: Extra, what: str, error: type[CausvidError] = ModelError) -> None:
    """Load optional packages. Raises `error`, which says what needs a missing one and which extra brings it."""
    try:
        with quietly():
            for package in packages:
                import_module(package)
    except ImportError as failure:
        missing = (failure.name or packages[0]).partition(".")[0]
        raise error(f"{what} needs the package {missing}; {INSTALL.format(extra=extra)}") from None


@contextmanager
def staying() -> Iterator[None]:
    """Inside, torch is imported: what is there afterwards stays, and is never looked through for garbage.

    Importing it makes 170 000 objects. Python looks through them again and again meanwhile, which takes a sixth of the
    import, and once more when the process ends, which takes as long.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what packages say while they load off the user's terminal.

    diffusers loads torchao, peft and transformers where they are installed, and some of them report which of their own
    parts suit another torch: nothing that a user could mend, or needs to know.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
