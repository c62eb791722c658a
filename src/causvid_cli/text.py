"""prompt -> prompt_embeds [B, L, D]."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from causvid_cli.request import check_prompt
from causvid_cli.storybook import VOCABULARY, Parsed, Story, parse

SLOTS = ("subject", "colour", "scene", "action", "target")


class StoryText(nn.Module):
    """The embedded model's text features: one learned vector for each slot of a parsed prompt.

    words: for each slot, the words it knows, in the order of its vectors. Every slot also has a vector for "nothing
    said" (no subject, no target) and one for the empty prompt that guidance compares with.
    """

    def __init__(self, words: dict[str, list[str]], *, dim: int = 64) -> None:
        super().__init__()
        self.words = words
        self._rows: list[dict[str | None, int]] = []
        rows = 0
        for slot in SLOTS:
            self._rows.append({None: rows + 1} | {word: rows + 2 + i for i, word in enumerate(words[slot])})
            rows += 2 + len(words[slot])
        self._empty = [row[None] - 1 for row in self._rows]
        self.embed = nn.Embedding(rows, dim)
        nn.init.normal_(self.embed.weight)

    @classmethod
    def for_vocabulary(cls, *, dim: int = 64) -> "StoryText":
        """An untrained encoder for all that the storybook knows."""
        names = {
            "subject": VOCABULARY.subjects,
            "colour": VOCABULARY.colours,
            "scene": VOCABULARY.scenes,
            "action": VOCABULARY.actions,
            "target": VOCABULARY.subjects,
        }
        return cls({slot: list(words) for slot, words in names.items()}, dim=dim)

    @property
    def config(self) -> dict[str, Any]:
        return {"words": self.words, "dim": self.embed.embedding_dim}

    def rows(self, stories: Sequence[Story]) -> Tensor:
        """Row numbers int64 [B, 5] of stories."""
        return torch.tensor(
            [[row[getattr(s, slot)] for slot, row in zip(SLOTS, self._rows, strict=True)] for s in stories]
        )

    def empty_rows(self, batch: int) -> Tensor:
        """Row numbers [B, 5] of the empty prompt."""
        return torch.tensor([self._empty]).expand(batch, -1)

    def forward(self, rows: Tensor) -> Tensor:
        """Text features [B, 5, dim]."""
        return self.embed(rows.to(self.embed.weight.device))


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the network wants it, and what was understood.

    embeds: [1, L, D]. notes: one line for each word that was not understood. reading: the prompt as it was read.
    """

    prompt: str
    embeds: Tensor
    notes: tuple[str, ...]
    reading: Any


class TextEncoder(Protocol):
    """prompt -> features; `previous` is the prompt before it in the same video, for what the new one leaves unsaid."""

    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None) -> EncodedPrompt: ...

    def empty(self) -> Tensor:
        """Features [1, L, D] of the empty prompt, for guidance."""
        ...


class StoryTextEncoder:
    """Parses free English into a story and looks its features up."""

    def __init__(self, text: StoryText) -> None:
        self.text = text

    @torch.inference_mode()
    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None) -> EncodedPrompt:
        parsed = parse(check_prompt(prompt), previous.reading if previous else None)
        return EncodedPrompt(prompt, self.text(self.text.rows([parsed.story])), tuple(_notes(parsed)), parsed.story)

    @torch.inference_mode()
    def empty(self) -> Tensor:
        return self.text(self.text.empty_rows(1))


def _notes(parsed: Parsed) -> Iterator[str]:
    for unknown in parsed.unknown:
        near = f"; near: {', '.join(unknown.near)}" if unknown.near else ""
        yield f"{unknown.word!r} is not a word that this model knows{near}"
    for word in parsed.unused:
        yield f"{word!r} found no place in the story"
    if parsed.story.subject is None:
        yield f"no subject was understood: the bare scene is shown; known: {', '.join(VOCABULARY.subjects)}"
