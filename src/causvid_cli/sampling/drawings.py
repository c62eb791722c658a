"""What a network for first chunks draws of prompts: how a shot begins, and its scene with nobody in it, each once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from causvid_cli.geometry import ROUND
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.copies import Moves
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.story import StoryText
from causvid_cli.sampling.schedule import Step, x0_from


@dataclass(frozen=True, slots=True)
class Opening:
    """The network that makes what nothing comes before (`PackFacts.opening_network`), and an empty cache of its own.

    steps: those that it has learnt, noisiest first.
    """

    model: CausalTransformer
    cache: KVCache
    steps: Sequence[Step]

    def scene(self, prompt: PromptCache, like: Tensor) -> Tensor:
        """Return what a prompt tells of with nobody in it, all round: a latent frame [B, C, 1, h, ROUND].

        like: a chunk [B, C, f, h, w].
        """
        return self._from_mean(prompt, torch.zeros_like(like[..., :1]).repeat(1, 1, 1, 1, ROUND))[:, :, :1]

    def beginning(self, prompt: PromptCache, like: Tensor) -> Tensor:
        """Return the latent frame [B, C, 1, h, w] with which a shot of a prompt begins, before it is turned round.

        like: a chunk [B, C, f, h, w].
        """
        return self._from_mean(prompt, torch.zeros_like(like))[:, :, -1:]

    def _from_mean(self, prompt: PromptCache, mean: Tensor) -> Tensor:
        """A chunk that begins with the mean of all noise: no seed tells what is there."""
        step = self.steps[0]
        output = self.model.forward_whole(mean, step.timestep, prompt)
        return x0_from(self.model.prediction, mean, output, step.sigma)


def opening_prompt(model: CausalTransformer, text: StoryText, embeds: Tensor) -> PromptCache:
    """Return text features [B, slots, dim] as a network for first chunks sees them, which draws one side of the world.

    What it draws of those that look the other way is to be turned round (`Drawings.turned_round`).
    """
    told = text.to_draw(embeds)
    prompt = model.prompt_cache(told.embeds)
    prompt.is_turned, prompt.is_whole = told.is_turned, told.is_whole
    return prompt


@dataclass
class Drawings:
    """What there is to copy from that an opening network has drawn, for a network that predicts copies."""

    opening: Opening | None
    moves: Moves
    shot: PromptCache | None = None
    """The prompt with which the shot began, where this network began it: that is then what it draws of it."""
    _scene: tuple[PromptCache, Tensor, bool] | None = None
    """Of a prompt, its bare scene, and whether somebody knows it in all rows."""
    _beginning: tuple[PromptCache, Tensor | None] | None = None
    """Of a prompt, what it begins with; None: none of its rows tells that."""

    def turned_round(self, x0: Tensor, prompt: PromptCache) -> Tensor:
        """Return a first chunk x0 [B, C, f, h, w] as its prompt tells it."""
        if prompt.is_turned is None or not bool(prompt.is_turned.any()):
            return x0
        return torch.where(prompt.is_turned.view(-1, 1, 1, 1, 1), self.moves.mirrored(x0), x0)

    def scene(self, prompt: PromptCache | None, last: Tensor, *, chunk_frames: int) -> Tensor:
        """Return the bare scene of a prompt as `Moves.scene_or_last` does."""
        if self.opening is None or prompt is None or prompt.scene is None:
            return self.moves.scene_or_last(None, last)
        if self._scene is None or prompt is not self._scene[0]:
            like = last.expand(-1, -1, chunk_frames, -1, -1)
            drawn = self.moves.finely(self.opening.scene(prompt.scene, like))
            self._scene = prompt, drawn, last.shape[-1] <= ROUND and not bool(drawn.isnan().any())
        _, drawn, is_known = self._scene
        return drawn if is_known else self.moves.scene_or_last(drawn, last)

    def began(self, prompt: PromptCache | None, began: Tensor, *, chunk_frames: int) -> Tensor:
        """Return what a shot of a prompt begins with, [B, C, 1, h, w].

        began: what it did begin with. That it is where this network made it for this prompt, or where a prompt leaves
        to a picture who is there, or where.
        """
        told = prompt.opening if prompt else None
        if self.opening is None or told is None or told.is_whole is None or prompt is self.shot:
            return began
        assert prompt
        if self._beginning is None or prompt is not self._beginning[0]:
            drawn = None
            if bool(told.is_whole.any()):
                like = began.expand(-1, -1, chunk_frames, -1, -1)
                drawn = self.turned_round(self.opening.beginning(told, like), told)
            self._beginning = prompt, drawn
        _, drawn = self._beginning
        return began if drawn is None else torch.where(told.is_whole.view(-1, 1, 1, 1, 1), drawn, began)
