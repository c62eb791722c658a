"""Several videos of one plan as one roll-out: each network call makes a chunk of all of them."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import PromptCache
from causvid_cli.sampling.noise import Noise

Made = Iterator[tuple[Chunk, Tensor]]
"""What `rollout` yields."""


@dataclass(slots=True)
class Member:
    """One of the videos: what it is told of each chunk, its noise [1, C, f, h, w], and chunks not asked for yet."""

    prompt: Callable[[Chunk], PromptCache]
    noise: Noise
    waiting: deque[tuple[Chunk, Tensor]] = field(default_factory=deque)


class Together:
    """The roll-out of several videos, made when the first chunk is asked for; until then videos may join.

    Their prompts must change at the same chunks. A video's chunks are those that it has alone, but for the rounding of
    products of another size: none on the CPUs that were tried.
    """

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._made: Made | None = None
        self._prompts: tuple[tuple[PromptCache, ...], PromptCache] | None = None

    def join(self, prompt: Callable[[Chunk], PromptCache], noise: Noise) -> Member:
        """Add a video. Raises ValueError once chunks are being made."""
        if self._made is not None:
            raise ValueError("the roll-out has begun: no other video can join it")
        self._members.append(Member(prompt, noise))
        return self._members[-1]

    def chunks_of(self, member: Member, begin: Callable[[int, Callable[[Chunk], PromptCache], Noise], Made]) -> Made:
        """Yield each chunk of one video and its clean latent x0 [1, C, f, h, w].

        begin: makes the roll-out of so many videos, of prompts and noise that hold all of them. The first that asks for
        a chunk has it made for all, and it is kept for the others: videos are best made in step.
        """
        if self._made is None:
            self._made = begin(len(self._members), self._prompt, self._noise)
        while True:
            if not member.waiting:
                made = next(self._made, None)
                if made is None:
                    return
                chunk, x0 = made
                for each, own in zip(self._members, x0.split(1), strict=True):
                    each.waiting.append((chunk, own))
            yield member.waiting.popleft()

    def _prompt(self, chunk: Chunk) -> PromptCache:
        """The prompts of all videos, the same object as long as each is the same."""
        prompts = tuple(member.prompt(chunk) for member in self._members)
        if self._prompts is None or any(a is not b for a, b in zip(prompts, self._prompts[0], strict=True)):
            self._prompts = (prompts, PromptCache.batch(prompts))
        return self._prompts[1]

    def _noise(self, chunk: Chunk, step: int) -> Tensor:
        return torch.cat([member.noise(chunk, step) for member in self._members])
