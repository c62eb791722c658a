"""Who is in a shot, cut out of how it began, and set on the scene anew, pixel by pixel.

A network that predicts copies copies cells whole, with what of the scene is in them. Where a chunk of its shows who
was there as they were, but elsewhere, or in front of a scene that goes by, this shows the same without seams: layers,
as Wang and Adelson have them ("Representing moving images with layers", 1994), each moved as a whole.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli.network.copies import CELL, Moves

SEAM = 2
"""Cells by which a scene goes on behind its ends, so that its pictures have no seam."""
UNLIKE, ALIKE, ALIKE_ELSEWHERE = 0.25, 0.09, 0.2
"""Mean square errors of the latents of a cell from which on it shows somebody before a scene, and up to which it shows
the same; up to the last also somebody who is set on another part of the scene."""
STAYS, GONE = 0.4, 0.3
"""Who goes along with the camera is set on the scene anew where more than the first share of their cells is as it was;
who has gone elsewhere, where more than the second share is found there."""
LIKELIER = 0.1
"""By how much of their cells somebody is likelier where they were."""
BELOW, FLOODED = 6, 0.1
"""Nobody stands in so many of the lowest rows of pixels. Where more than this share of them shows more than the scene,
it is water in which somebody swims, or a puddle, and who is in it is not cut out."""
STEPS = ((0, 0), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -1), (0, 1), (-1, -1), (-1, 1))
"""Rows down and columns right, in cells, that somebody may have gone since the shot began."""
MOST_PARTS, LEAST_PIXELS = 4, 10
"""Most parts of a picture that go each its own way, the largest; and pixels that one has at least."""


class Compositor(Protocol):
    """What cuts out who is in pictures, and sets them on another scene (`PixelCodec`)."""

    def decode_indices(self, x0: Tensor) -> Tensor: ...
    def encode_indices(self, indices: Tensor) -> Tensor: ...
    def cut_out(self, x0: Tensor, scene: Tensor) -> Any: ...
    def on_scene(self, who: Any, scene: Tensor) -> Tensor: ...
    def on_other_scene(self, x0: Tensor, scene: Tensor, other: Tensor) -> Tensor: ...


@dataclass
class CutOuts:
    """Who is in the latent frame with which a shot began, and the scene behind them.

    scene: finely (`Moves.finely`). began: [B, C, 1, h, w].
    """

    compositor: Compositor
    moves: Moves
    scene: Tensor
    began: Tensor
    _around: tuple[Tensor, Tensor] | None = None
    """For each picture by how much less than a cell it is aside [B, P], and the scene all round [B, P, H, W]."""
    _behind: tuple[Tensor, Tensor] | None = None
    """A place of the camera [B], and the scene as seen from there [B, P, H, W]."""

    @cached_property
    def bare(self) -> Tensor:
        """The scene with nobody in it, as seen when the shot began, [B, C, 1, h, w]."""
        place = self.moves.camera_at(self.scene, self.began)
        return self.moves.seen_from(self.scene, place, self.began.shape[-1])

    @cached_property
    def is_somebody(self) -> Tensor:
        """Cells that show more than the scene, bool [B, P, h, w]."""
        return self._unlike(self.began, self.bare) > UNLIKE

    @cached_property
    def who(self) -> Any:
        return self.compositor.cut_out(self.began, self.bare)

    @cached_property
    def is_dry(self) -> Tensor:
        """Whether nobody stands or swims in water, bool [B]."""
        below: Tensor = self.who.is_somebody[..., -BELOW:, :].float().mean(dim=(1, 2, 3))
        return (below < FLOODED).to(self.began.device)

    @cached_property
    def parts(self) -> Tensor:
        """Who hangs together in each picture, bool [MOST_PARTS, B, P, H, W]: a dancer, and each of the notes."""
        return _parts(self.who.is_somebody)

    def gone_along(self, x0: Tensor, place: Tensor, way: Tensor) -> Tensor:
        """Return a chunk x0 [B, C, 1, h, w] over which a camera goes, with who goes along set on the scene anew.

        place, way: from where it is seen, and on from there with each picture, in pixels, [B] both; where the way is 0,
        and where less of them is there as they were, the chunk is as it was.
        """
        stays = (self.is_somebody & (self._unlike(x0, self.began) < ALIKE)).flatten(1).sum(dim=1)
        goes_on = (way != 0) & (stays > STAYS * self.is_somebody.flatten(1).sum(dim=1))
        if not bool(goes_on.any()) or not bool((goes_on := goes_on & self.is_dry).any()):
            return x0
        seen = self.compositor.on_scene(self.who, self._going_by(place, way, x0.shape[-1])).to(x0)
        return torch.where(goes_on.view(-1, 1, 1, 1, 1), seen, x0)

    def gone_elsewhere(self, x0: Tensor, place: Tensor, can_tell: Tensor) -> Tensor:
        """Return a chunk x0 [B, C, 1, h, w] with who has gone to other cells set on the scene there.

        place: from where the camera, which stands, shows the scene, in pixels [B]. can_tell: where it does, bool [B].
        What hangs together goes together: who dances leaves the notes behind, and pieces of the scene. A picture of
        which some part is nowhere to be found is as it was, and so are cells away from whoever has gone.
        """
        seems = self._found_at(x0, self.is_somebody[None])[1]
        if not bool((seems[0] > 0).any(dim=1).logical_and(can_tell).any()):
            return x0
        cells = _cells_of(self.parts).to(x0.device) & self.is_somebody
        shares, steps = self._found_at(x0, cells)
        is_cells = cells.flatten(-2).any(dim=-1)
        has_gone = (steps > 0) & is_cells
        is_found = ((shares > GONE) | ~is_cells).all(dim=0)
        which = has_gone.any(dim=0) & is_found & (can_tell & self.is_dry)[:, None]  # [B, P]
        if not bool(which.any()):
            return x0
        steps = torch.where(is_cells, steps, 0)
        entries, touched = self._set_elsewhere(steps, self._seen_behind(place))
        anew = self.moves.pictures(self.compositor.encode_indices(entries).to(x0))
        touched = touched.to(x0.device) & which[:, :, None, None]
        return torch.where(touched.unsqueeze(2), anew, self.moves.pictures(x0)).flatten(1, 2).unsqueeze(2)

    def _unlike(self, one: Tensor, other: Tensor) -> Tensor:
        """Mean square errors [B, P, h, w] of the cells of two latent frames."""
        return (self.moves.pictures(one) - self.moves.pictures(other)).square().mean(dim=2)

    def _found_at(self, x0: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return, of parts with these cells [K, B, P, h, w], where in `STEPS` most of them are as they were [K, B, P].

        As the share of their cells that is found there, and its number.
        """
        shown, began, shares = self.moves.pictures(x0), self.moves.pictures(self.began), list[Tensor]()
        for down, right in STEPS:
            unlike = (shown - _moved(began, down, right)).square().mean(dim=2)
            there = _moved(cells, down, right)
            alike = (there & (unlike < ALIKE_ELSEWHERE)).sum(dim=(-2, -1))
            shares.append(alike / there.sum(dim=(-2, -1)).clamp(min=1) + LIKELIER * (down == right == 0))
        found = torch.stack(shares).max(dim=0)
        return found.values, found.indices

    def _set_elsewhere(self, steps: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures [B, P, H, W] of parts [K, B, P] so many `STEPS` further, and the cells that this changes."""
        parts, entries = self.parts, scene.clone()
        touched = torch.zeros_like(parts[0])
        for part, its in zip(parts.flip(0), steps.to(parts.device).flip(0), strict=True):  # the largest in front
            for number in its.unique().tolist():
                down, right = (CELL * cells for cells in STEPS[number])
                mine = part & (its == number)[..., None, None]
                there = _moved(mine, down, right)
                entries = torch.where(there, _moved(self.who.entries, down, right), entries)
                if number:
                    touched |= mine | there
        return entries, _beside(_cells_of(touched[None])[0])

    def _seen_behind(self, place: Tensor) -> Tensor:
        """The scene as a standing camera shows it, palette entries uint8 [B, P, H, W]."""
        if self._behind is None or not torch.equal(self._behind[0], place):
            bare = self.moves.seen_from(self.scene, place, self.began.shape[-1])
            self._behind = place, self.compositor.decode_indices(bare)
        return self._behind[1]

    def _going_by(self, place: Tensor, way: Tensor, cells: int) -> Tensor:
        """The scene as it goes by, so many cells wide, palette entries uint8 [B, P, H, W]."""
        pictures = self.scene.shape[2]
        places = place[:, None] + way[:, None] * torch.arange(pictures, device=place.device)
        if self._around is None or not torch.equal(self._around[0], places % CELL):
            shown = self.compositor.decode_indices(self.moves.looped(self.scene, places, SEAM))
            self._around = places % CELL, shown[..., SEAM * CELL : -SEAM * CELL]
        around, width = self._around[1], CELL * cells
        first = (around.shape[-1] - width) // (2 * CELL) * CELL + places // CELL * CELL
        columns = (first[..., None] + torch.arange(width, device=place.device)) % around.shape[-1]
        return around.gather(-1, columns[:, :, None].to(around.device).expand(*around.shape[:-1], width))


def _parts(mask: Tensor) -> Tensor:
    """What hangs together in masks [B, P, H, W], by sides or corners, bool [MOST_PARTS, B, P, H, W].

    The largest come first.
    """
    numbers = torch.arange(1, mask[0, 0].numel() + 1, device=mask.device).view(mask.shape[-2:])
    label = numbers.float() * mask
    while not torch.equal(grown := _grown(label) * mask, label):
        label = grown
    parts = torch.zeros(MOST_PARTS, *mask.shape, dtype=torch.bool, device=mask.device)
    for row, picture in mask.flatten(2).any(dim=2).nonzero().tolist():
        here = label[row, picture]
        found, pixels = here[here > 0].unique(return_counts=True)
        largest = found[pixels >= LEAST_PIXELS][pixels[pixels >= LEAST_PIXELS].argsort(descending=True)]
        for number, each in enumerate(largest[:MOST_PARTS]):
            parts[number, row, picture] = here == each
    return parts


def _grown(pictures: Tensor) -> Tensor:
    """Pictures [B, P, H, W] in which each pixel is the largest of those around it."""
    return F.max_pool2d(pictures, 3, stride=1, padding=1)


def _cells_of(parts: Tensor) -> Tensor:
    """Cells [..., h, w] in which there is something of parts, bool [K, B, P, H, W]."""
    return F.max_pool2d(parts.flatten(0, 1).float(), CELL).unflatten(0, parts.shape[:2]) > 0


def _beside(cells: Tensor) -> Tensor:
    """Cells, bool [B, P, h, w], and those beside them."""
    return _grown(cells.float()) > 0


def _moved(pictures: Tensor, down: int, right: int) -> Tensor:
    """Pictures [..., h, w] moved by rows and columns; nothing comes from beyond the edges."""
    return F.pad(pictures, (right, -right, down, -down))
