"""prompt -> prompt_embeds [B, L, D]."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from causvid_cli.errors import UsageError
from causvid_cli.prompt.encoded import EncodedPrompt
from causvid_cli.request import check_prompt
from causvid_cli.storybook import (
    ALL_WORDS,
    DOES,
    NAMED,
    PICTURE,
    SLOTS,
    WHERE,
    WHO,
    Lexicon,
    Parsed,
    Recognised,
    Story,
    Words,
    is_mirrored,
    is_name_of,
    limited_to,
    parse,
    recognise,
)

MIRROR_IMAGE: Mapping[str, Mapping[Any, Any]] = {
    "action": {"moves left": "moves right"},
    "mirrored": {False: True, True: False},
    "relation": {"left of": "right of", "right of": "left of"},
    "camera": {"pan left": "pan right", "pan right": "pan left"},
}
"""By slot, the words of who goes left, and those of whose mirror image that is."""
MORE = "what else the picture shows is left out: what follows is drawn from the prompt"
SUBJECTS_NAMED = 14
"""Known subjects that a note lists."""


class ToDraw(NamedTuple):
    """What a network for first chunks is to draw of prompts.

    embeds: text features [B, slots, dim]. is_turned: where it is to draw the mirror image, bool [B]. is_whole: where it
    is told both who is there and where, in words that it has learnt, not between two of them, bool [B]. is_zoomed:
    where the camera zooms, bool [B].
    """

    embeds: Tensor
    is_turned: Tensor
    is_whole: Tensor
    is_zoomed: Tensor


class StoryText(nn.Module):
    """The embedded model's text features: one learned vector for each slot of a parsed prompt.

    words: for each slot that it knows, the words it knows, in the order of its vectors; some may be the model's own,
    outside the storybook's vocabulary. pictures: whether a prompt may leave who and where to a picture that was given
    before it. Every slot also has a vector for "nothing said" (no subject, no target) and one
    for the empty prompt that guidance compares with.
    """

    def __init__(self, words: Mapping[str, Sequence[Any]], *, dim: int = 64, pictures: bool = False) -> None:
        super().__init__()
        self.pictures = pictures
        self.words = {slot: list(words[slot]) for slot in SLOTS if words.get(slot)}
        self.lexicon = Lexicon.of(self.words)
        self._rows: dict[str, dict[Any, int]] = {}
        rows = 0
        for slot, known in self.words.items():
            self._rows[slot] = {None: rows + 1} | {word: rows + 2 + i for i, word in enumerate(known)}
            rows += 2 + len(known)
        self._empty = [row[None] - 1 for row in self._rows.values()]
        self.embed = nn.Embedding(rows, dim)
        nn.init.normal_(self.embed.weight)

    @classmethod
    def for_vocabulary(cls, words: Words = ALL_WORDS, *, dim: int = 64, pictures: bool = False) -> "StoryText":
        """An untrained encoder for all that the storybook knows, or for a part of it."""
        return cls(words, dim=dim, pictures=pictures)

    @property
    def config(self) -> dict[str, Any]:
        return {"words": self.words, "dim": self.embed.embedding_dim, "pictures": self.pictures}

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
                    for slot in ("subject", "target", "other") if kind == "subject" else (kind,):
                        if slot in words:
                            words[slot].append(name)
        if words == self.words:
            return self
        larger = type(self)(words, dim=self.embed.embedding_dim, pictures=self.pictures).to(self.embed.weight)
        for slot, mine in self._rows.items():
            first = mine[None] - 1  # the slot's empty prompt, then "nothing said", then its words
            old = self.embed.weight[first : first + len(mine) + 1]
            rows = torch.cat([old, old[2:].mean(dim=0).expand(len(words[slot]) - len(self.words[slot]), -1)])
            larger.embed.weight[larger._rows[slot][None] - 1 :][: len(rows)] = rows
        return larger

    def _check_new(self, kind: str, name: str) -> None:
        for meaning in self.lexicon.phrases.get(tuple(name.split()), ()):
            if meaning.kind not in NAMED or meaning.name in self.words[meaning.kind]:
                raise UsageError(
                    f"new {kind} {name!r}: the model knows it already, as {meaning.kind} {meaning.name}".rstrip()
                )
        if not name or name != " ".join(part for part in name.casefold().split() if part.isalpha()):
            raise UsageError(f"new {kind} {name!r}: must be words of lower-case letters, such as 'robot'")

    def parse(self, prompt: str, previous: Story | None = None) -> Parsed:
        """The story that a prompt tells, in the words that this encoder knows."""
        return parse(prompt, previous, self.lexicon)

    def shown(self, story: Story, *, seed: int) -> tuple[Story, tuple[str, ...]]:
        """A story as this model shows it under a seed, and the slots in which that is not what was said."""
        story, lost = limited_to(story, self.words)
        if "mirrored" in self.words:
            return replace(story, mirrored=None if story.seen else is_mirrored(seed)), lost
        return replace(story, edge="wraps"), lost

    def caption_rows(self, captions: Sequence[str]) -> Tensor:
        """Row numbers int64 [B, slots] of captions; what only a seed would tell is left unsaid."""
        return self.rows([limited_to(self.parse(caption).story, self.words)[0] for caption in captions])

    def unknown_words(self, captions: Iterable[str]) -> Counter[str]:
        """How often captions use words that this encoder does not know."""
        return Counter(word for caption in captions for word in _not_known(self.parse(caption)))

    def rejection_reason(self, caption: str) -> str | None:
        """Why nothing can be learnt under a caption: it has words, but none that names a subject; None if it can."""
        parsed = self.parse(caption)
        unknown = tuple(_not_known(parsed))
        is_nearest = any(
            word.name == parsed.story.subject and not is_name_of(word.name, word.said) for word in parsed.shown_as
        )
        if not unknown or (parsed.story.subject is not None and not is_nearest):
            return None
        return f"its caption names no subject that the model knows (unknown: {_quoted(unknown)})"

    def rows(self, stories: Sequence[Story]) -> Tensor:
        """Row numbers int64 [B, slots] of stories."""
        return torch.tensor([[row[getattr(story, slot)] for slot, row in self._rows.items()] for story in stories])

    def empty_rows(self, batch: int) -> Tensor:
        """Row numbers [B, slots] of the empty prompt."""
        return torch.tensor([self._empty]).expand(batch, -1)

    @torch.no_grad()
    def bare(self, embeds: Tensor) -> Tensor:
        """Text features [B, slots, dim] of the scenes that these tell of, with nobody in them.

        They are NaN where a prompt leaves to a picture where that is: no network has learnt to draw what nobody says.
        """
        bare = embeds.clone()
        for place, (slot, rows) in enumerate(self._rows.items()):
            if slot in (*WHO, *DOES, "camera"):
                bare[:, place] = self.embed.weight[rows[SLOTS[slot]]].to(bare)
            elif None in rows:
                unsaid = (embeds[:, place] == self.embed.weight[rows[None]].to(embeds)).all(dim=1)
                bare[unsaid] = torch.nan
        return bare

    @torch.no_grad()
    def to_draw(self, embeds: Tensor) -> ToDraw:
        """What a network for first chunks is to draw of text features [B, slots, dim].

        Who goes left is the mirror image of who goes right, where the scene faces the other way: one side is to be
        learnt, not both.
        """
        places = {slot: place for place, slot in enumerate(self._rows)}

        def says(slot: str, word: Any) -> Tensor:
            row = self._rows.get(slot, {}).get(word)
            if row is None:
                return torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
            return (embeds[:, places[slot]] == self.embed.weight[row].to(embeds)).all(dim=1)

        faces = says("mirrored", False) | says("mirrored", True)
        is_turned = says("action", "moves left") & faces & ~says("relation", "meets")
        drawn = embeds.clone()
        for slot, images in MIRROR_IMAGE.items():
            for word, image in images.items():
                if image in self._rows.get(slot, {}):
                    drawn[is_turned & says(slot, word), places[slot]] = self.embed.weight[self._rows[slot][image]].to(
                        drawn
                    )
        is_whole = faces
        for slot in ("subject", "action", *WHERE):
            words = [word for word in self._rows.get(slot, ()) if word is not None]
            is_whole = is_whole & torch.stack([says(slot, word) for word in words or [None]]).any(dim=0)
        is_zoomed = says("camera", "zoom in") | says("camera", "zoom out")
        return ToDraw(drawn, is_turned, is_whole, is_zoomed)

    def forward(self, rows: Tensor) -> Tensor:
        """Text features [B, slots, dim]."""
        return self.embed(rows.to(self.embed.weight.device))


class StoryTextEncoder:
    """Parses free English into a story and looks its features up."""

    def __init__(self, text: StoryText) -> None:
        self.text = text

    @torch.inference_mode()
    def picture(self, shown: np.ndarray | None = None) -> EncodedPrompt | None:
        """What is known of a picture that a video begins with, to be given as `previous`; None: nothing.

        shown: that picture, palette indices [H, W]; it tells where it is and who is there, if the storybook draws them.
        """
        if not self.text.pictures:
            return None
        found = None if shown is None else recognise(shown, self.text.words)
        reading = replace(PICTURE, **found.place._asdict()) if found else PICTURE
        embeds = self.text(self.text.rows([reading]))
        return EncodedPrompt("", embeds, (), reading, begins_with=found and found.place, picture=found)

    @torch.inference_mode()
    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None, seed: int = 0) -> EncodedPrompt:
        parsed = self.text.parse(check_prompt(prompt), previous.reading if previous else None)
        told, loses = parsed.story, False
        if previous and _is_elsewhere(told, previous.reading):
            told = replace(told, seen=told.seen and told.subject is None)
        if previous and previous.picture and told.seen:
            told = _as_shown(told, previous.picture)
            loses = not told.seen and previous.picture.has_more(told)
        story, _ = self.text.shown(told, seed=seed)
        if previous and previous.reading.scene == story.scene and previous.reading.mirrored is not None:
            story = replace(story, mirrored=previous.reading.mirrored)  # the same place looks the same under any seed
        notes = (*_notes(parsed, self.text.words["subject"]), *((MORE,) if loses else ()))
        embeds = self.text(self.text.rows([story]))
        whole, summary = story.caption(), replace(parsed, story=story).summary
        begins_with: Hashable = tuple(getattr(story, slot) for slot in (*WHO, *WHERE, "action"))
        if previous and story.seen:
            begins_with = previous.begins_with  # whoever the picture shows goes on, there
        return EncodedPrompt(
            prompt,
            embeds,
            notes,
            story,
            whole=whole,
            summary=summary,
            understood=parsed.understood,
            begins_with=begins_with,
        )

    @torch.inference_mode()
    def bare(self, embeds: Tensor) -> Tensor:
        """Text features of the scenes that these tell of, with nobody in them, as `StoryText.bare` has them."""
        return self.text.bare(embeds)

    @torch.inference_mode()
    def empty(self) -> Tensor:
        return self.text(self.text.empty_rows(1))

    def release(self) -> None:
        """Nothing: it is a small table."""


def _as_shown(story: Story, picture: Recognised) -> Story:
    """A story after a picture: of whom that shows and the story tells no more, what it leaves unsaid is as they are.

    Where it is about somebody who is there alone, or about just those several, it is told whole: nothing has to be
    copied from there.
    """
    who = picture.who._asdict() if picture.who else {}
    if story.subject in (None, who.get("subject")):
        unsaid = [slot for slot in who if getattr(story, slot) == SLOTS[slot]]
        return replace(story, seen=not who, **{slot: who[slot] for slot in unsaid})
    return replace(story, seen=bool(who) or not picture.shows(story))


def _is_elsewhere(story: Story, before: Story) -> bool:
    """Whether a story is somewhere else than a picture, or who was told to be there, as far as that is known."""
    return before.seen and any(getattr(before, slot) not in (None, getattr(story, slot)) for slot in WHERE)


def _notes(parsed: Parsed, subjects: Sequence[str]) -> Iterator[str]:
    """A line for each kind of thing that is not as it was said."""
    for word in parsed.corrected:
        yield f"{word.said!r} is read as {word.name!r}"
    if parsed.shown_as:
        shown = ", ".join(f"{word.said!r} as {word.name!r}" for word in parsed.shown_as)
        yield f"shown as the nearest that this model knows: {shown}"
    if not parsed.is_english:
        yield "this model reads English only, such as 'a red car moves left in the snow'"
    elif parsed.unknown:
        several = len(parsed.unknown) > 1
        are = "are not words" if several else "is not a word"
        yield f"{_quoted(parsed.unknown)} {are} that this model knows"
    if parsed.not_shown:
        yield f"this model cannot show {_quoted(dict.fromkeys(parsed.not_shown))}"
    if unused := [word for word in parsed.unused if word not in (*parsed.unknown, *parsed.not_shown)]:
        yield f"{_quoted(unused)} found no place in the story"
    if (
        parsed.story.subject is None
        and not parsed.story.seen
        and (parsed.unknown or parsed.not_shown or "scene" in parsed.filled)
    ):
        more = f" and {len(subjects) - SUBJECTS_NAMED} more" if len(subjects) > SUBJECTS_NAMED else ""
        known = ", ".join(subjects[:SUBJECTS_NAMED])
        yield f"no subject was understood: the bare scene is shown; known: {known}{more}"


def _not_known(parsed: Parsed) -> Iterator[str]:
    """Words that a model does not know, understood or not, but for those that are a name for what it knows."""
    yield from (*parsed.unknown, *parsed.not_shown)
    yield from (word.said for word in parsed.shown_as if not is_name_of(word.name, word.said))


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(map(repr, words))
