"""What a network for first chunks draws of prompts: how a shot begins, and its scene with nobody in it, each once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from causvid_cli.geometry import ROUND
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.copies import Moves
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.story import StoryText
from causvid_cli.sampling.cutouts import Compositor, CutOuts
from causvid_cli.sampling.schedule import Step, x0_from


@dataclass(frozen=True, slots=True)
class Opening:
    """The network that makes what nothing comes before (`PackFacts.opening_network`), and an empty cache of its own.

    steps: those that it has learnt, noisiest first. compositor: what shows another scene behind who is in a chunk;
    None: nobody can.
    """

    model: CausalTransformer
    cache: KVCache
    steps: Sequence[Step]
    compositor: Compositor | None = None

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
    prompt.is_turned, prompt.is_whole, prompt.is_zoomed = told.is_turned, told.is_whole, told.is_zoomed
    return prompt


class LastShown(NamedTuple):
    """The latent frame [B, C, 1, h, w] that was shown last, and what was told of it."""

    prompt: PromptCache
    x0: Tensor


@dataclass
class Drawings:
    """What there is to copy from that an opening network has drawn, for a network that predicts copies."""

    opening: Opening | None
    moves: Moves
    shot: PromptCache | None = None
    """The prompt with which the shot began, where this network began it: that is then what it draws of it."""
    _who: CutOuts | None = None
    """Who was there when the shot began, to be set on the scene anew."""
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
        drawn, is_known = self._finely(self.opening, prompt, last.expand(-1, -1, chunk_frames, -1, -1))
        return drawn if is_known else self.moves.scene_or_last(drawn, last)

    def in_place(self, x0: Tensor, prompt: PromptCache, last: LastShown | None) -> Tensor:
        """Return a first chunk x0 [B, C, 1, h, w] seen from where the camera was last, if that was in its scene.

        So who does something else stays where they are, whatever a new shot forgets. A chunk of several latent frames,
        or whose camera zooms, is as it is.
        """
        if self.opening is None or self.opening.compositor is None or last is None or x0.shape[2] > 1:
            return x0
        is_there = _is_same_scene(last.prompt, prompt)
        if not bool(is_there.any()) or x0.shape[-1] > ROUND:
            return x0
        drawn, _ = self._finely(self.opening, prompt, x0)
        place = self.moves.camera_at(drawn, last.x0)
        has_gone = is_there & (place != 0)
        if not bool(has_gone.any()):
            return x0
        here, there = (self.moves.seen_from(drawn, at, x0.shape[-1]) for at in (0 * place, place))
        return torch.where(has_gone.view(-1, 1, 1, 1, 1), self.opening.compositor.on_other_scene(x0, here, there), x0)

    def set_on_scene(self, x0: Tensor, prompt: PromptCache, began: Tensor) -> Tensor:
        """Return a chunk x0 [B, C, 1, h, w] with who goes along with a camera, or to other cells, set there anew.

        began: what the shot began with. Who is at an edge of cells is copied with some of what was behind them, or cut
        off by what comes; pixel for pixel they are whole, as they were when the shot began (`CutOuts`). Who is not
        there any more as they were then stays as they are. So does who is on the way from one prompt to another, and
        who a prompt leaves to a picture.
        """
        if self.opening is None or self.opening.compositor is None or prompt.scene is None:
            return x0
        if x0.shape[2] > 1 or x0.shape[-1] > ROUND:
            return x0
        scene, _ = self._finely(self.opening, prompt, x0)
        can_tell = ~scene.isnan().flatten(1).any(dim=1)
        told = prompt.opening
        if told and told.is_zoomed is not None:
            can_tell = can_tell & ~told.is_zoomed
        if told and told.is_whole is not None and prompt is not self.shot:
            can_tell = can_tell & told.is_whole
        if not bool(can_tell.any()):
            return x0
        place, way = self.moves.camera_goes(scene, x0)
        if self._who is None or self._who.scene is not scene or not torch.equal(self._who.began, began):
            self._who = CutOuts(self.opening.compositor, self.moves, scene, began)
        x0 = self._who.gone_along(x0, place, way * can_tell)
        return self._who.gone_elsewhere(x0, place, can_tell & (way == 0))

    def _finely(self, opening: Opening, prompt: PromptCache, like: Tensor) -> tuple[Tensor, bool]:
        """The scene of a prompt all round (`Moves.finely`), and whether somebody knows it in all rows.

        like: a chunk [B, C, f, h, w].
        """
        if self._scene is None or prompt is not self._scene[0]:
            assert prompt.scene
            drawn = self.moves.finely(opening.scene(prompt.scene, like))
            self._scene = prompt, drawn, like.shape[-1] <= ROUND and not bool(drawn.isnan().any())
        return self._scene[1:]

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


def _is_same_scene(before: PromptCache, now: PromptCache) -> Tensor:
    """Where two prompts tell of one scene, neither with a camera that zooms, bool [B]."""
    nowhere = torch.zeros(len(now.embeds), dtype=torch.bool, device=now.embeds.device)
    if before.scene is None or now.scene is None:
        return nowhere
    zooms = [told.opening.is_zoomed for told in (before, now) if told.opening and told.opening.is_zoomed is not None]
    return (before.scene.embeds == now.scene.embeds).flatten(1).all(dim=1) & ~sum(zooms, nowhere)
