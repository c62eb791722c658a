"""The recipe of a video as metadata of its file: what `causvid info` prints and `causvid rerun` repeats."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from causvid_cli.config import to_json
from causvid_cli.errors import MediaError
from causvid_cli.untrusted import parse_object

RECIPE_KEY = "causvid"


def recipe_to_metadata(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata tags that hold a recipe: `causvid` (all of it, JSON), `title` (its prompt), `comment` (a line).

    recipe: what JSON can hold: prompt, seed, model and whatever else a rerun needs. It travels with the video, so
    the caller puts no host names and no absolute paths into it. Raises ValueError for NaN and infinity.
    """
    # Escaped to ASCII, so that NUL and lone surrogates (from a shell that is not UTF-8) survive C strings and UTF-8.
    metadata = {RECIPE_KEY: to_json(recipe, separators=(",", ":"))}
    if prompt := recipe.get("prompt"):
        metadata["title"] = _printable(str(prompt))
    model = recipe.get("model")
    facts = {"model": model.get("name") if isinstance(model, Mapping) else model, "seed": recipe.get("seed")}
    metadata["comment"] = _printable(
        ", ".join(["made with causvid", *(f"{k} {v}" for k, v in facts.items() if v is not None)])
    )
    return metadata


def metadata_to_recipe(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the recipe that the tags hold, or None for a video without one. Raises MediaError when it is damaged."""
    text = next((value for key, value in metadata.items() if key.lower() == RECIPE_KEY), None)  # Matroska: CAUSVID
    if text is None:
        return None
    return parse_object(text, where="its recipe", error=MediaError)


def _printable(text: str) -> str:
    """Return one line without control characters and lone surrogates."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).strip()
