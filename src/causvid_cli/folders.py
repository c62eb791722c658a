"""Where what a user's runs leave for later runs lies. Imports no torch."""

import os
import sys
from pathlib import Path

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
