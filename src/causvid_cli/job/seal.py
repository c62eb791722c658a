"""Which journals are this user's own: those with a seal that only who has the user's key can make. Imports no torch.

A journal says where its model and inputs lie and what may be overwritten. That is believed of one's own only: of a
journal that came with a stranger's files, paths and consent are asked for.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from causvid_cli.config import to_json
from causvid_cli.files import open_regular
from causvid_cli.paths import cache_folder

KEY_FILE = "journal.key"
_BYTES = 32


def seal_of(request: Mapping[str, Any]) -> str:
    """The seal of a request under the user's key, which is made when there is none; empty where none can be kept."""
    path = cache_folder() / KEY_FILE
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "xb", opener=_private) as new:
            new.write(secrets.token_bytes(_BYTES))
        with open_regular(path) as file:
            key = file.read(_BYTES)
        if len(key) == _BYTES:
            return hmac.new(key, to_json(request, sort_keys=True).encode(), hashlib.sha256).hexdigest()
    return ""


def is_own(request: Mapping[str, Any], seal: object) -> bool:
    """Whether a request was sealed by this user."""
    known = seal_of(request)
    return isinstance(seal, str) and bool(known) and hmac.compare_digest(known.encode(), seal.encode(errors="replace"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
