"""prompt -> prompt_embeds [B, L, D]."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from causvid_cli.errors import UsageError
from causvid_cli.prompt.encoded import EncodedPrompt
from causvid_cli.request import check_prompt
from causvid_cli.storybook import LEXICON, NAMED, VOCABULARY, Parsed, Story, parse

SLOTS = ("subject", "colour", "scene", "action", "target")


class StoryText(nn.Module):
    """The embedded model's text features: one learned vector for each slot of a parsed prompt.

    words: for each slot, the words it knows, in the order of its vectors; some may be the model's own, outside the
    storybook's vocabulary. Every slot also has a vector for "nothing said" (no subject, no target) and one for the
    empty prompt that guidance compares with.
    """

    def __init__(self, words: dict[str, list[str]], *, dim: int = 64) -> None:
        super().__init__()
        self.words = words
        self.lexicon = LEXICON.with_words({kind: words[kind] for kind in NAMED})
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
        return cls(cls.vocabulary(), dim=dim)

    @staticmethod
    def vocabulary() -> dict[str, list[str]]:
        """All words that the storybook itself knows, for each slot."""
        names = {
            "subject": VOCABULARY.subjects,
            "colour": VOCABULARY.colours,
            "scene": VOCABULARY.scenes,
            "action": VOCABULARY.actions,
            "target": VOCABULARY.subjects,
        }
        return {slot: list(words) for slot, words in names.items()}

    @property
    def config(self) -> dict[str, Any]:
        return {"words": self.words, "dim": self.embed.embedding_dim}

    @torch.no_grad()
    def with_words(self, new: Mapping[str, Sequence[str]]) -> Self:
        """This encoder with more words: subject, colour, scene, action -> names; a new subject is a target as well.

        The vector of a new word begins as the mean of its slot's. Raises UsageError for a word that cannot be read in
        a prompt or that means something already.
        """
        words = {slot: list(known) for slot, known in self.words.items()}
        for kind, names in new.items():
            for name in dict.fromkeys(names):
                if name not in words[kind]:
                    self._check_new(kind, name)
                    for slot in ("subject", "target") if kind == "subject" else (kind,):
                        words[slot].append(name)
        if words == self.words:
            return self
        larger = type(self)(words, dim=self.embed.embedding_dim).to(self.embed.weight)
        for slot, mine, theirs in zip(SLOTS, self._rows, larger._rows, strict=True):
            first = mine[None] - 1  # the slot's empty prompt, then "nothing said", then its words
            old = self.embed.weight[first : first + len(mine) + 1]
            rows = torch.cat([old, old[2:].mean(dim=0).expand(len(words[slot]) - len(self.words[slot]), -1)])
            larger.embed.weight[theirs[None] - 1 :][: len(rows)] = rows
        return larger

    def _check_new(self, kind: str, name: str) -> None:
        meaning = self.lexicon.phrases.get(tuple(name.split()))
        if meaning is not None:
            raise UsageError(
                f"new {kind} {name!r}: the model knows it already, as {meaning.kind} {meaning.name}".rstrip()
            )
        if not name or name != " ".join(part for part in name.casefold().split() if part.isalpha()):
            raise UsageError(f"new {kind} {name!r}: must be words of lower-case letters, such as 'robot'")

    def parse(self, prompt: str, previous: Story | None = None) -> Parsed:
        """The story that a prompt tells, in the words that this encoder knows."""
        return parse(prompt, previous, self.lexicon)

    def caption_rows(self, captions: Sequence[str]) -> Tensor:
        """Row numbers int64 [B, 5] of captions."""
        return self.rows([self.parse(caption).story for caption in captions])

    def unknown_words(self, captions: Iterable[str]) -> Counter[str]:
        """How often captions use words that this encoder does not know."""
        return Counter(word.word for caption in captions for word in self.parse(caption).unknown)

    def rejection_reason(self, caption: str) -> str | None:
        """Why nothing can be learnt under a caption: it has words, but none that names a subject; None if it can."""
        parsed = self.parse(caption)
        if parsed.story.subject is not None or not parsed.unknown:
            return None
        names = ", ".join(repr(word.word) for word in parsed.unknown)
        return f"its caption names no subject that the model knows (unknown: {names})"

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


class StoryTextEncoder:
    """Parses free English into a story and looks its features up."""

    def __init__(self, text: StoryText) -> None:
        self.text = text

    @torch.inference_mode()
    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None) -> EncodedPrompt:
        parsed = self.text.parse(check_prompt(prompt), previous.reading if previous else None)
        notes = tuple(_notes(parsed, self.text.words["subject"]))
        embeds = self.text(self.text.rows([parsed.story]))
        whole, understood = parsed.story.caption(), parsed.understood
        return EncodedPrompt(prompt, embeds, notes, parsed.story, whole=whole, understood=understood)

    @torch.inference_mode()
    def empty(self) -> Tensor:
        return self.text(self.text.empty_rows(1))

    def release(self) -> None:
        """Nothing: it is a small table."""


def _notes(parsed: Parsed, subjects: Sequence[str]) -> Iterator[str]:
    for unknown in parsed.unknown:
        near = f"; near: {', '.join(unknown.near)}" if unknown.near else ""
        yield f"{unknown.word!r} is not a word that this model knows{near}"
    for word in parsed.unused:
        yield f"{word!r} found no place in the story"
    if parsed.story.subject is None:
        yield f"no subject was understood: the bare scene is shown; known: {', '.join(subjects)}"
