"""What a text encoder gives, whichever it is."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the network wants it, and what was understood.

    embeds: [1, L, D]. notes: one line for each word that was not understood. reading: the prompt as it was read.
    origin: where the features are from, where that may differ.
    whole: a prompt of the same reading that leaves nothing unsaid, where the encoder can tell; summary: the same in few
    words.
    understood: whether anything of it was. begins_with: what the first picture of it shows, where the encoder can tell:
    of prompts that begin alike one can follow from the pictures of the other. picture: what the encoder knows of the
    picture that this stands for, where it is no prompt.
    """

    prompt: str
    embeds: Tensor
    notes: tuple[str, ...]
    reading: Any
    origin: str = ""
    whole: str = ""
    summary: str = ""
    understood: bool = True
    begins_with: Hashable = None
    picture: Any = None


class TextEncoder(Protocol):
    """prompt -> features.

    previous: the prompt before it in the same video, for what the new one leaves unsaid. seed: the video's, for a model
    that is told what else a seed decides.
    """

    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None, seed: int = 0) -> EncodedPrompt: ...

    def empty(self) -> Tensor:
        """Features [1, L, D] of the empty prompt, for guidance."""
        ...

    def release(self) -> None:
        """Give back what memory encoding takes: for now no prompt is to be encoded."""
        ...
