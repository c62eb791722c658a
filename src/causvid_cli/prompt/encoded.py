"""What a text encoder gives, whichever it is."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
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
    of prompts that begin alike one can follow from the pictures of the other. shows: slots of the reading that a
    picture tells, for a prompt that leaves to it who is there.
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
    shows: Mapping[str, Any] = field(default_factory=dict)


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
