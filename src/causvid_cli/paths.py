"""The user's folders: models, caches. Imports no torch."""

import os
import sys
from pathlib import Path

MODELS_FOLDER = "CAUSVID_MODELS"
"""The environment variable that names another folder for the user's models."""
CACHE_FOLDER = "CAUSVID_CACHE"
"""The environment variable that names another folder for what can be made again."""
TEXT_CACHE = "CAUSVID_TEXT_CACHE"
"""The environment variable that says how much of encoded prompts is kept there, such as 500MB or 2GiB; 0 is nothing."""


def cache_folder() -> Path:
    """Where what can be made again is kept, whether or not it is there yet."""
    if named := os.environ.get(CACHE_FOLDER):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "causvid"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "causvid" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "causvid"


def models_folder() -> Path:
    """Where models that the user gets are kept, whether or not it is there yet."""
    if named := os.environ.get(MODELS_FOLDER):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "causvid" / "models"
