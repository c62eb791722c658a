"""What comes next as copies of what was there: each latent cell takes what stood in it, or beside it, or some pixels
aside, or the mirror image of what stood near, or what the shot began with, or its scene with nobody in it, as it goes
by where the camera goes along with somebody, or what the network draws anew: one of them, whole, as it chooses.

Video prediction by motion and masks (CDNA, Finn et al., arXiv 1605.07157): who walks a cell further is copied from
there, what stands is copied as it is and never fades, waves that come again after two latent frames are copied from
there, who sets off is moved by parts of a cell, who turns round is mirrored, what was behind who has left, and what a
camera comes to, is copied from the bare scene, which the network for first chunks has drawn once, all round, what has
been lost by a wrong choice is copied from the latent frame that the shot began with, and only what nothing was like is
drawn.

CDNA predicts the kernels of its motions. Here they are constants of the codec (`Moves`, measured by `train/moves.py`):
its latents of a picture that has moved by some pixels are, within a few per cent, a linear function of those of the
picture, each cell's of its neighbourhood. And CDNA mixes by masks. What is copied again and again frays if it is mixed
at all, so only in training is each cell a mixture, by shares that are steep, and it also learns outright which choice
would have been right after a past that is the truth, though what it sees is its own (`wrong_choices`; DAgger, Ross et
al., arXiv 1011.0686).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.config import Prediction
from causvid_cli.geometry import ROUND

SHIFTS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -2), (0, 2))
"""Rows down and columns right of the cell that a copy comes from: who jumps, or chases, is soon two cells further."""
BACK = (0, -2, 2, -4, 4)
"""Columns right of the cell that a copy from two latent frames back comes from: what goes by has gone so far."""
HERE = 0
"""Place of the copy from the cell itself."""
MOVES = (-6, -4, -2, 2, 4, 6)
"""Pixels by which a picture is moved to the right: steps of who comes to meet, or goes by, from a cell to the next."""
BEGAN = ((0, 0), (1, 0), (2, 0), (-1, 0), (-2, 0))
"""Rows down and columns right of the cell that a copy from the shot's beginning comes from: who rose, or landed."""
PANS = ((0, 0), (2, 0), (2, 2), (-2, 0), (-2, -2), (4, 0), (4, 4), (-4, 0), (-4, -4), (0, 2), (0, -2))
"""How a camera may go on, and how it may have gone in the last latent frame: pixels to the right with each picture."""
CELL = 8
"""Pixels of a cell."""
STEP = 2
"""Pixels of which all that moves goes a multiple."""
UNLIKE = 0.5
"""Mean square errors of latents that differ by more are as good as any: somebody stands there."""
STOOD = 0.01
"""By how much a place may be less like than where a video begins, and is not taken for where the camera is."""
MIRRORS = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
"""Columns right of the cell whose mirror image a copy is; half of their sum is where the mirror stands."""
CHOICES = len(SHIFTS) + len(MOVES) + len(MIRRORS) + len(BACK) + len(BEGAN) + len(PANS) + 1
"""What a cell chooses from, a logit each: the copies of the last latent frame, of the one before, of the first, of the
bare scene, and the new."""
SHARP = 12.0
"""Factor of the logits, so that small weights can make steep shares."""
NEAR = 0.03
"""Mean square errors of latents that differ by less are as good as equal (`wrong_choices`)."""
PARTS = 3 + len(MOVES) + 1 + len(PANS)
"""What was there: the last latent frame, the one before, the one that the shot began with, the last one's first picture
moved, the last one mirrored, the bare scene as it may go by."""
OWN = 0.1
"""How much it counts that a copy of a network's own past is wrong, beside that of the truth (`wrong_choices`)."""


class Moves(nn.Module):
    """Latents of pictures that have moved by pixels, or are mirrored, from their latents: a kernel of 3x3 cells each.

    channels: of one picture's cells. Constants, as the codec is: training measures them, and does not change them.
    """

    weight: Tensor
    """[MOVES, then the mirror image; channels, channels, 3, 3]."""
    bias: Tensor
    """[MOVES, then the mirror image; channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(len(MOVES) + 1, channels, channels, 3, 3))
        self.register_buffer("bias", torch.zeros(len(MOVES) + 1, channels))

    def what_was_there(self, last: Tensor, before: Tensor, began: Tensor, scene: Tensor) -> Tensor:
        """Return what is x_t where a network predicts copies [B, PARTS * C, 1, h, w], of latent frames [B, C, 1, ...].

        last, before: the last two. began: that with which a shot of the prompt begins, or the last that was given.
        scene: of `scene_or_last`. All pictures are moved from the first of the last latent frame, in which nobody
        breathes or blinks.
        """
        cells = self.pictures(last)
        pictures = cells.shape[1]
        moved = _through(cells[:, 0], self.weight[:-1].flatten(0, 1), self.bias[:-1].flatten())
        moved = moved.unflatten(1, (len(MOVES), 1, -1)).expand(-1, -1, pictures, -1, -1, -1).flatten(1, 3)
        mirrored = self._mirrored(cells)
        gone_by = self._gone_by(scene, cells[:, 0])
        made = torch.cat([moved, mirrored.flatten(1, 2), gone_by], dim=1).unsqueeze(2)
        return torch.cat([last, before, began, made.to(last.dtype)], dim=1)

    def mirrored(self, x0: Tensor) -> Tensor:
        """Return the mirror images of latent frames [B, C, F, h, w], each about the middle of the frame."""
        frames = [self._mirrored(self.pictures(frame)).flatten(1, 2) for frame in x0.split(1, dim=2)]
        return torch.stack(frames, dim=2).flip(-1).to(x0.dtype)

    def finely(self, scene: Tensor) -> Tensor:
        """Return a scene, all round [B, C, 1, h, w], from every place between cells [B, places, P, c, h, w]."""
        around = self.pictures(scene)
        return torch.stack([self._further(around, pixels) for pixels in range(0, CELL, STEP)], dim=1)

    def scene_or_last(self, scene: Tensor | None, last: Tensor) -> Tensor:
        """Return what goes by where a camera goes along, as `finely` does.

        scene: what is there with nobody in it, all round, finely, in its middle what a camera sees first; None, or NaN
        in some rows: nobody knows, and the first picture of what was there last [B, C, 1, h, w] goes by, again and
        again, as it does in frames that are wider.
        """
        pictures = last.shape[1] // self.weight.shape[1]
        first = self.pictures(last)[:, :1].expand(-1, pictures, -1, -1, -1)
        own = self.finely(_round_again(first).flatten(1, 2).unsqueeze(2))
        return own if scene is None or own.shape != scene.shape else torch.where(scene.isnan(), own, scene)

    def pictures(self, frame: Tensor) -> Tensor:
        """The pictures [B, P, c, h, w] of a latent frame [B, C, 1, h, w]."""
        return frame.squeeze(2).unflatten(1, (-1, self.weight.shape[1]))

    def _mirrored(self, cells: Tensor) -> Tensor:
        """Pictures [B, P, c, h, w] with each cell mirrored in its place."""
        return _through(cells.flatten(0, 1), self.weight[-1], self.bias[-1]).unflatten(0, cells.shape[:2])

    def camera_at(self, scene: Tensor, shown: Tensor) -> Tensor:
        """Return from where a latent frame [B, C, 1, h, w] shows a scene in the end: pixels to the right [B].

        scene: finely. What falls in it may fall anywhere: of each cell its likest picture counts. Where a video begins
        is likelier than any other place.
        """
        unlike = self._unlike(scene, self.pictures(shown)[:, -1])
        unlike[:, 0] -= STOOD
        return self._likest(unlike, scene.shape[-1])

    def camera_goes(self, scene: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Return from where the first picture of a latent frame shows a scene, and how far it goes with each: pixels to
        the right, [B] both.

        scene, shown: as of `camera_at`. Of all places and ways the first and the last picture together are least unlike
        these; it stands where nobody can tell.
        """
        cells, ways = self.pictures(shown), sorted({way // STEP for way, _ in PANS}, key=abs)
        unlike = (self._unlike(scene, picture) for picture in (cells[:, 0], cells[:, -1]))
        first, last = (each.unflatten(1, (CELL // STEP, -1)).mT.flatten(1) for each in unlike)  # by steps to the right
        together = [first + last.roll(-way * (cells.shape[1] - 1), dims=1) for way in ways]
        found = torch.stack(together, dim=1).flatten(1).argmin(dim=1)
        places = first.shape[1]
        return STEP * (found % places), STEP * torch.tensor(ways, device=found.device)[found // places]

    def looped(self, scene: Tensor, places: Tensor, margin: int) -> Tensor:
        """Return a scene, finely, all round, each picture from a place of its own [B, P] by parts of a cell.

        It is a latent frame [B, C, 1, h, all round + 2 margin], whose ends go round by `margin` cells.
        """
        rows, pictures = (torch.arange(size, device=places.device) for size in places.shape)
        cells = scene[rows[:, None], places % CELL // STEP, pictures]  # [B, P, c, h, all round]
        return torch.cat([cells[..., -margin:], cells, cells[..., :margin]], dim=-1).flatten(1, 2).unsqueeze(2)

    def seen_from(self, scene: Tensor, place: Tensor, width: int) -> Tensor:
        """Return a scene, finely, from so many pixels [B] to the right, so many cells wide [B, C, 1, h, w]."""
        return torch.cat([self._seen(scene, place, number, width) for number in range(scene.shape[2])], 1).unsqueeze(2)

    def _gone_by(self, finely: Tensor, first: Tensor) -> Tensor:
        """The scene as it may go by [B, len(PANS) * C, h, w]; finely: all of it, first: a picture of what was there."""
        pictures, width = finely.shape[2], first.shape[-1]
        place = self._likest(self._unlike(finely[:, :, :1], first), finely.shape[-1])
        parts = [
            self._seen(finely, place + pictures * went + number * way, number, width)
            for way, went in PANS
            for number in range(pictures)
        ]
        return torch.cat(parts, dim=1)

    def _unlike(self, finely: Tensor, picture: Tensor) -> Tensor:
        """How unlike a picture [B, c, h, w] a scene is, from each of its places: in any of its own pictures."""
        all_round, width = finely.shape[-1], picture.shape[-1]
        places = torch.arange(all_round, device=picture.device)
        seen = finely[..., (_columns(all_round, width, picture) + places[:, None]) % all_round]
        unlike = (seen - picture[:, None, None, :, :, None]).float().square().mean(dim=3)  # [B, pixels, P, h, cells, w]
        return unlike.clamp(max=UNLIKE).amin(dim=2).mean(dim=(2, 4)).flatten(1)

    def _likest(self, unlike: Tensor, all_round: int) -> Tensor:
        """The least unlike place [B], in pixels; where nobody can tell, it is on the grid of cells."""
        found = unlike.argmin(dim=1)
        return CELL * (found % all_round) + STEP * (found // all_round)

    def _seen(self, finely: Tensor, at: Tensor, number: int, width: int) -> Tensor:
        """One picture of a scene from so many pixels [B] to the right [B, c, h, width]."""
        all_round, rows = finely.shape[-1], torch.arange(len(at), device=at.device)
        picture = finely[rows, at % CELL // STEP, number]
        of = (_columns(all_round, width, finely) + (at // CELL)[:, None]) % all_round
        return picture.gather(-1, of[:, None, None].expand(*picture.shape[:-1], width))

    def _further(self, around: Tensor, pixels: int) -> Tensor:
        """A scene's pictures [B, P, c, h, all round] seen from so many pixels further right, fewer than a cell."""
        if not pixels:
            return around
        cells = int(pixels > CELL // 2)  # a step back from the next cell, rather than three on from this one
        looped = around.roll(-cells, dims=-1)
        looped = torch.cat([looped[..., -1:], looped, looped[..., :1]], dim=-1).flatten(0, 1)
        move = MOVES.index(cells * CELL - pixels)
        return _through(looped, self.weight[move], self.bias[move])[..., 1:-1].unflatten(0, around.shape[:2])


def input_of(prediction: Prediction, x_t: Tensor) -> Tensor:
    """Return what of an x_t the network is fed: of what was there, the last latent frame; it remembers the others."""
    return x_t[:, : x_t.shape[1] // PARTS] if prediction == "copies" else x_t


def composed(was_there: Tensor, output: Tensor) -> Tensor:
    """Return clean latents x0 [B, C, F, h, w], in the dtype of what was there.

    was_there: for each frame (`Moves.what_was_there`), [B, PARTS * C, F, h, w]; beyond the edges the outermost cells go
    on. output: of the network, [B, C + P * CHOICES, F, h, w]: what it draws, then logits for each picture of a latent
    frame, where the codec keeps P of them side by side as channels (else P is 1). Each picture copies itself. Logits
    that carry a gradient make a mixture, others a choice.
    """
    parts, logits = _parted(was_there, output)
    if logits.requires_grad:
        x0 = (logits.softmax(dim=2).unsqueeze(3) * parts).sum(dim=2)
    else:
        choice = logits.argmax(dim=2, keepdim=True)
        x0 = parts.gather(2, choice.unsqueeze(3).expand(-1, -1, -1, *parts.shape[3:])).squeeze(2)
    return x0.flatten(1, 2).to(was_there.dtype)


def wrong_choices(was_there: Tensor, output: Tensor, x0: Tensor, own: Tensor | None = None) -> Tensor:
    """Return how far each cell is from choosing what is nearest to the truth x0, and from drawing it: [B, 1, F, h, w].

    was_there, output: as of `composed`; what was there may be another than the network has seen. own: what it has
    seen, where that is another: of two copies that are as right of the truth, the one that is also right of its own
    past heals what has frayed. Of the choice it is a cross-entropy, a mean over pictures, against probabilities that
    fall off with a part's mean square error; a cell weighs as much as it would be better than as it was. Of what is
    drawn anew it is the square error, which weighs as much as the best copy is wrong.
    """
    parts, logits = _parted(was_there, output)
    errors = _wrong(parts, x0)
    found = errors.detach()
    if own is not None:
        found = found + OWN * _wrong(_parted(own, output.detach())[0], x0)
    wanted = (-found / NEAR).softmax(dim=2)
    matters = (found[:, :, HERE] - found.amin(dim=2)).clamp(max=1)
    chosen = -(wanted * logits.log_softmax(dim=2)).sum(dim=2) * matters
    drawn = errors[:, :, -1] * found[:, :, :-1].amin(dim=2).clamp(max=1)
    return (chosen + drawn).mean(dim=1, keepdim=True)


def _wrong(parts: Tensor, x0: Tensor) -> Tensor:
    """Return the mean square errors [B, P, CHOICES, F, h, w] of what there is to choose from."""
    return (parts - x0.float().unflatten(1, (parts.shape[1], 1, -1))).square().mean(dim=3)


def _parted(was_there: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return what there is to choose from [B, P, CHOICES, c, F, h, w], and its logits [B, P, CHOICES, F, h, w]."""
    channels = was_there.shape[1] // PARTS
    pictures = pictures_of(channels, output.shape[1])
    new, logits = output.float().split([channels, pictures * CHOICES], dim=1)
    there = (part.unflatten(1, (pictures, -1)) for part in (*was_there.float().chunk(PARTS, dim=1), new))
    last, before, began, *others, new = there
    moved, (mirrored, *scenes) = others[: len(MOVES)], others[len(MOVES) :]
    parts = [
        *(_shifted(last, down, right) for down, right in SHIFTS),
        *moved,
        *(_shifted(mirrored, 0, right) for right in MIRRORS),
        *(_shifted(before, 0, right) for right in BACK),
        *(_shifted(began, down, right) for down, right in BEGAN),
        *scenes,
        new,
    ]
    return torch.stack(parts, dim=2), SHARP * logits.unflatten(1, (pictures, CHOICES))


def pictures_of(channels: int, returned: int) -> int:
    """Return how many pictures of a latent frame choose for themselves, of a network that returns so many channels.

    0 where they are not those of such a network.
    """
    pictures, rest = divmod(returned - channels, CHOICES)
    return pictures if rest == 0 and pictures > 0 and channels % pictures == 0 else 0


def _through(cells: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cells [N, c, h, w] through kernels of 3x3 cells; beyond the edges the outermost cells go on."""
    padded = F.pad(cells.to(weight.dtype), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, weight, bias)


def _columns(all_round: int, width: int, like: Tensor) -> Tensor:
    """The columns of a scene that a camera sees first."""
    return (all_round - width) // 2 + torch.arange(width, device=like.device)


def _round_again(pictures: Tensor) -> Tensor:
    """Pictures [..., w] again and again, [..., ROUND] or as wide as they are; they themselves are in the middle."""
    width = pictures.shape[-1]
    around = max(width, ROUND)
    columns = torch.arange(around, device=pictures.device) - (around - width) // 2
    return pictures.index_select(-1, columns % width)


def _shifted(frames: Tensor, down: int, right: int) -> Tensor:
    rows, columns = (torch.arange(size, device=frames.device) for size in frames.shape[-2:])
    if down:
        frames = frames.index_select(-2, (rows + down).clamp(0, len(rows) - 1))
    return frames.index_select(-1, (columns + right).clamp(0, len(columns) - 1)) if right else frames
