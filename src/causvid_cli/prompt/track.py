"""Cues -> what the network is told for each chunk: text features, and how they take hold."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from causvid_cli.errors import UsageError, shortened
from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import PromptCache
from causvid_cli.prompt.cues import Cue, Telling, check_cues
from causvid_cli.prompt.encoded import EncodedPrompt, TextEncoder
from causvid_cli.request import Transition

ToCache = Callable[[Tensor], PromptCache]
"""Text features [1, L, D] -> as the network wants them."""


class PromptTrack:
    """Which prompt holds for each chunk of one video. Chunks are asked for in order; a prompt may be added on the way.

    guidance: how far to be led away from a cue's negative prompt. known_chunks: how many of its chunks are made
    already: what is told holds after them. cuts: whether a prompt that begins with another picture than the one before
    (`EncodedPrompt.begins_with`) is a new shot, where `recache` is asked for and no blend. before: what was before the
    first prompt, which that may leave unsaid.
    """

    def __init__(
        self,
        text: TextEncoder,
        cues: Sequence[Cue],
        *,
        seed: int,
        guidance: float,
        to_cache: ToCache,
        known_chunks: int = 0,
        cuts: bool = False,
        before: EncodedPrompt | None = None,
    ) -> None:
        self._text, self._seed, self._guidance, self._to_cache = text, seed, guidance, to_cache
        self._cuts, self._first_previous = cuts, before
        self.cues: list[Cue] = []
        self._encoded: list[EncodedPrompt] = []
        self._negative: dict[int, EncodedPrompt] = {}  # by the cue's number
        self._set(check_cues(cues))
        self._next = known_chunks  # the next chunk that is neither made nor asked for
        self._place = -1  # the cue that the last chunk had
        self._before = self._after = self._encoded[0].embeds  # its blend goes from the one to the other
        self._told: tuple[float, PromptCache] | None = None  # weight of `_after`, and the two so mixed

    @property
    def current(self) -> EncodedPrompt:
        """What holds for the next chunk."""
        return self._encoded[self.place_of(self._next)]

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the prompts was not understood; of several, the one that a note is about is named, each note once."""
        every = self._told_all
        found: dict[str, str] = {}
        for encoded in every:
            for note in encoded.notes:
                found.setdefault(note, f"{shortened(encoded.prompt)}: {note}" if len(every) > 1 else note)
        return tuple(found.values())

    @property
    def read_as(self) -> tuple[str, ...]:
        """How each cue's prompt was read, in few words; nothing where no encoder can tell."""
        summaries = tuple(encoded.summary for encoded in self._encoded)
        return summaries if all(summaries) else ()

    @property
    def not_understood(self) -> dict[str, tuple[str, ...]]:
        """Prompts of which nothing was understood, and the notes on each."""
        return {encoded.prompt: encoded.notes for encoded in self._encoded if not encoded.understood}

    @property
    def details(self) -> tuple[str, ...]:
        """Where the features of the prompts are from, where that may differ."""
        every = (f"{encoded.prompt!r}: {encoded.origin}" for encoded in self._told_all if encoded.origin)
        return tuple(dict.fromkeys(every))

    @property
    def _told_all(self) -> list[EncodedPrompt]:
        before = [self._first_previous] if self._first_previous and self._first_previous.prompt else []
        return [*before, *self._encoded, *self._negative.values()]

    def place_of(self, chunk_index: int) -> int:
        """The number, from 0, of the cue that holds for a chunk."""
        return bisect_right(self.cues, chunk_index, key=lambda cue: cue.start_chunk) - 1

    def add(self, prompt: str, *, transition: Transition) -> None:
        """Let a prompt hold from the next chunk on, until the next cue. Raises UsageError for an empty one.

        It says all of its cue: what a cue in its place said besides is gone.
        """
        if prompt != self.cues[self.place_of(self._next)].prompt:
            self._put(Cue(prompt=prompt, start_chunk=self._next, transition=transition))

    def tell(self, telling: Telling, *, switch: Transition) -> Cue:
        """Begin a cue with the next chunk, until the next cue; returns that. What it leaves open stays as it is.

        switch: how a new prompt takes hold where nothing is told. Raises UsageError for what contradicts itself, and
        for a prompt of which nothing is understood; then nothing has changed.
        """
        start, before = self._next, self.cues
        place = self.place_of(start)
        holding, goes_on = before[place], telling.prompt in (None, before[place].prompt)
        if holding.start_chunk == start:
            usual = replace(holding, name="") if goes_on else Cue(prompt=telling.prompt or "-", transition=switch)
            usual = replace(usual, seed=holding.seed)
        elif goes_on:  # what was made of the prompt stays: a blend at work goes on, what is done is left as it is
            running = max(0, holding.start_chunk + holding.blend_chunks - start) if place else 0
            usual = Cue(
                prompt=self._encoded[place].whole or holding.prompt,
                transition="soft",
                blend_chunks=running,
                strength=holding.strength if running else 0.0,
            )
        else:
            usual = Cue(prompt=telling.prompt or "-", transition=switch)
        said = {each.name: getattr(telling, each.name) for each in fields(telling) if each.name != "prompt"}
        said = {"negative": holding.negative} | {name: value for name, value in said.items() if value is not None}
        if said.get("transition") == "cut":
            said = {"blend_chunks": 0, "strength": 1.0} | said
        self._put(replace(usual, start_chunk=start, **said))
        place = self.place_of(start)
        if not goes_on and not self._encoded[place].understood:
            notes = self._encoded[place].notes
            self._set(before)
            raise UsageError(f"nothing of {telling.prompt!r} was understood: {'; '.join(notes)}")
        return self.cues[place]

    def _put(self, cue: Cue) -> None:
        """Take a cue that begins with the next chunk.

        `cues` then says what was told: a track of those cues tells every chunk the same. So a cue that would have
        begun with the next chunk is gone: what the prompt leaves to it is said in its stead ("it jumps": "a red car
        jumps in the snow"), and what later cues leave unsaid is as in this prompt.
        """
        place = self.place_of(self._next)
        kept = self.cues[: place + 1]
        if self.cues[place].start_chunk == self._next:
            kept = self.cues[:place]
            if cue.prompt != self.cues[place].prompt:
                cue = replace(cue, prompt=self._spelt_out(cue.prompt, place))
        self._set([*kept, cue, *self.cues[place + 1 :]])

    def _spelt_out(self, prompt: str, place: int) -> str:
        """Return a prompt that says by itself what it leaves to the cue whose place it takes."""
        said = self._encode(prompt, self._encoded[place])
        alone = self._encode(prompt, self._encoded[place - 1] if place else self._first_previous)
        return prompt if said.reading == alone.reading else said.whole or prompt

    def _encode(self, prompt: str, previous: EncodedPrompt | None) -> EncodedPrompt:
        return self._text.encode(prompt, previous=previous, seed=self._seed)

    def _set(self, cues: Sequence[Cue]) -> None:
        """Take these cues, and encode those that are not at the same place among the same cues already."""
        same = next((i for i, (a, b) in enumerate(zip(cues, self.cues, strict=False)) if a != b), len(self.cues))
        encoded = self._encoded[:same]
        negative = {number: each for number, each in self._negative.items() if number < same}
        for number, cue in enumerate(cues[same:], same):
            encoded.append(self._encode(cue.prompt, encoded[-1] if encoded else self._first_previous))
            if cue.negative:  # what it leaves unsaid is as in the prompt, so that only what it says is avoided
                negative[number] = self._encode(cue.negative, encoded[number])
        self.cues, self._encoded, self._negative = list(cues), encoded, negative

    def prompt(self, chunk: Chunk) -> PromptCache:
        """What the network is told; the same object as long as it is the same."""
        place = self.place_of(chunk.index)
        for entered in range(self._place + 1, place + 1):
            self._enter(entered)
        self._next = max(self._next, chunk.index + 1)
        cue = self.cues[place]
        done = chunk.index - cue.start_chunk + 1
        weight = 1.0 if done > cue.blend_chunks or not place else done / (cue.blend_chunks + 1)
        if self._told is None or self._told[0] != weight:
            self._told = (weight, self._cache(self._mixed(weight), place))
        return self._told[1]

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """How the prompt of each cue takes hold, the first's aside."""
        return tuple(self._transition(place) for place in range(1, len(self.cues)))

    def transition(self, chunk: Chunk) -> Transition:
        """How the prompt of a chunk takes hold where it is new."""
        return self._transition(self.place_of(chunk.index))

    @property
    def begins_anew(self) -> bool:
        """Whether the first prompt is a new shot after what was before it, where that is known."""
        before = self._first_previous
        return before is not None and before.begins_with is not None and self._transition(0) == "cut"

    @property
    def told_before(self) -> PromptCache | None:
        """What was told of what was before the first prompt, as the network wants it; None: nobody knows."""
        return self._to_cache(self._first_previous.embeds) if self._first_previous else None

    def _transition(self, place: int) -> Transition:
        cue, now = self.cues[place], self._encoded[place]
        before = self._encoded[place - 1] if place else self._first_previous or now
        at_once = cue.transition == "recache" and not cue.blend_chunks and cue.strength == 1
        return "cut" if self._cuts and at_once and now.begins_with != before.begins_with else cue.transition

    def seed(self, chunk: Chunk) -> int:
        """Where a chunk's noise comes from."""
        earlier = self.cues[: self.place_of(chunk.index) + 1]
        return next((cue.seed for cue in reversed(earlier) if cue.seed is not None), self._seed)

    def _enter(self, place: int) -> None:
        if place:
            self._before = self._mixed(self._told[0]) if self._told else self._after
            self._after = torch.lerp(self._before, self._encoded[place].embeds, self.cues[place].strength)
        else:
            self._before = self._after = self._encoded[0].embeds
        self._place, self._told = place, None

    def _mixed(self, weight: float) -> Tensor:
        return self._after if weight == 1 else torch.lerp(self._before, self._after, weight)

    def _cache(self, embeds: Tensor, place: int) -> PromptCache:
        told = self._to_cache(embeds)
        if place in self._negative and self._guidance != 1:
            told.negative, told.guidance = self._to_cache(self._negative[place].embeds), self._guidance
            if told.opening:
                told.opening.negative, told.opening.guidance = told.negative.opening, self._guidance
        return told
