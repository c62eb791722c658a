"""What is asked of a conversion, and what it answers: plain data. No torch."""

from dataclasses import dataclass
from typing import Any, Literal

STEMS = {"text_encoder": "model"}
"""How transformers names its files; diffusers' stem is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """A LoRA to be merged into the weights. rank: what it must be; alpha: None scales it by 1."""

    source: str
    key: str | None = None
    rank: int | None = None
    alpha: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionSpec:
    """One checkpoint, to become one folder of a pack."""

    source: str
    """The file, or the index of several."""
    target: str
    """The folder, which is not there yet."""
    key: str | None = None
    """Entry of a pickle under which the network lies; by default found."""
    dtype: str | None = None
    """Number format in the pack; None keeps the checkpoint's."""
    config: dict[str, Any] | None = None
    """The network's configuration, where one lies beside the checkpoint."""
    lora: LoraSpec | None = None
    network: Literal["only", "first", "second"] = "only"
    """Which of the networks that lie in the checkpoint (`weights.names.SECOND`)."""

    @property
    def part(self) -> str:
        """What the checkpoint has to be."""
        return "transformer" if self.network == "second" else self.target.rstrip("/").rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        return STEMS.get(self.part, "diffusion_pytorch_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What a checkpoint was recognised as. part: its folder in a pack; bytes: what it will take there.

    left_out: keys of it that are no weights.
    """

    part: str
    config: dict[str, Any]
    parameters: int
    bytes: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPart:
    """Files that were written into the folder of a part, and the sha256 of each of those with weights."""

    part: str
    sha256: dict[str, str]
