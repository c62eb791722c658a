"""What of diffusers every network is built on, loaded in silence.

diffusers loads torchao, peft and transformers where they are installed, and some of them report which of their own
parts suit another torch: nothing that a user could mend, or needs to know.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what packages say while they load off the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


with quietly():
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
    from diffusers.models.attention_dispatch import _check_attention_backend_requirements as check_attention_backend
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

__all__ = [
    "AttentionBackendName",
    "WanTransformer3DModel",
    "check_attention_backend",
    "dispatch_attention_fn",
    "quietly",
]
