"""The pixel-art codec: frames on a fixed palette, one palette entry per pixel.

Every frame is encoded by itself (a small 2-D network, 8 pixels to a cell) and `stack` neighbouring frames share
one latent frame as more channels, so there is no state to stream. The decoder scores the palette for each pixel and
takes the best entry: frames are crisp however small the network is, and small latent errors change nothing.
"""

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.codec.codec import rows_enlarged
from causvid_cli.codec.pixel_decoder import Decoder, FusedDecoder, Residual, Sizes
from causvid_cli.errors import MediaError
from causvid_cli.geometry import CodecFacts, check_multiple

SPATIAL_FACTOR = 8
DRAWN_DISTANCE, DRAWN_SHARE = 24.0, 0.85
"""A picture is drawn in a palette where so many of its pixels are nearer to an entry than this, in RGB."""
HARDLY, MOSTLY = 2.5 / 9, 4.5 / 9
"""A pixel that differs is somebody's where more of the 3 x 3 around it differ than the first share; any, where more
than the second do."""
ZOOM, PAN = 0.015, 0.06
"""How much larger a photograph is with each frame, and how far the zoom's centre goes, in halves of its width."""


class CutOut(NamedTuple):
    """Who is seen in pictures: palette entries uint8 [B, T, H, W], and which of them are somebody's, bool."""

    entries: Tensor
    is_somebody: Tensor


class PixelCodec(nn.Module):
    """Encodes frames of palette colours as latents, and back; implements `codec.Codec`.

    palette: uint8 [P, 3]. cell_channels: numbers per frame and 8x8 cell; a latent frame has stack * cell_channels.
    encoder_widths, decoder_widths: channels at 1/2, 1/4 and 1/8 of the size. blocks: the decoder's residual blocks at
    each of these sizes, or at all of them.
    """

    palette: Tensor
    latents_mean: Tensor
    """The mean of each cell channel over training frames: latents are cells that these two have normalised."""
    latents_std: Tensor

    def __init__(
        self,
        *,
        palette: Tensor,
        cell_channels: int = 6,
        stack: int = 4,
        encoder_widths: Sizes = (32, 64, 96),
        decoder_widths: Sizes = (64, 96, 128),
        blocks: Sizes | int = 2,
    ) -> None:
        super().__init__()
        self.stack, self.cell_channels = stack, cell_channels
        colours, embed = len(palette), 8
        self.config = {
            "colours": colours,
            "cell_channels": cell_channels,
            "stack": stack,
            "encoder_widths": list(encoder_widths),
            "decoder_widths": list(decoder_widths),
            "blocks": blocks if isinstance(blocks, int) else list(blocks),
        }
        self.register_buffer("palette", palette.to(torch.uint8))
        self.register_buffer("latents_mean", torch.zeros(cell_channels))
        self.register_buffer("latents_std", torch.ones(cell_channels))
        self.embed = nn.Embedding(colours, embed)
        half, quarter, eighth = encoder_widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * embed, half, 3, padding=1),
            Residual(half),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            Residual(quarter),
            nn.Conv2d(quarter, eighth, 4, stride=2, padding=1),
            Residual(eighth),
            nn.SiLU(),
            nn.Conv2d(eighth, cell_channels, 1),
        )
        each = (blocks, blocks, blocks) if isinstance(blocks, int) else blocks
        self.decoder = Decoder(cell_channels=cell_channels, widths=decoder_widths, blocks=each, colours=colours)
        self._fused: FusedDecoder | None = None

    @torch.no_grad()
    def fuse(self) -> Self:
        """Let cells be decoded in fewer, larger operations, for weights that change no more.

        Moving or converting them undoes it.
        """
        self._fused = FusedDecoder(self.decoder)
        return self

    def _apply(self, *args: Any, **options: Any) -> Self:
        self._fused = None  # it holds the weights as they were before
        return super()._apply(*args, **options)

    def channels_last(self) -> Self:
        """Lay the weights out for a CPU, on which the codec then runs about twice as fast, and return it."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def facts(self) -> CodecFacts:
        return CodecFacts(
            latent_channels=self.stack * self.cell_channels,
            spatial_factor=SPATIAL_FACTOR,
            frames_first=self.stack,
            frames_next=self.stack,
        )

    def encode_state(self) -> None:
        """Nothing is carried from chunk to chunk."""

    def decode_state(self) -> None:
        """Nothing is carried from chunk to chunk."""

    def encode_frames(self, indices: Tensor) -> Tensor:
        """Return the cells [N, c, H / 8, W / 8], not normalised, of palette entries [N, H, W]."""
        pixels = self.embed(indices.long()).movedim(-1, 1)
        return self.encoder(pixels.contiguous(memory_format=torch.channels_last))

    def decode_frames(self, cells: Tensor) -> Tensor:
        """Return the scores of each palette entry [N, P, 8 h, 8 w] of cells [N, c, h, w] that are not normalised."""
        return self.decoder(cells.contiguous(memory_format=torch.channels_last))

    def best_entries(self, cells: Tensor) -> Tensor:
        """Return the palette entry with the best score, uint8 [N, 8 h, 8 w], of cells as `decode_frames` has them."""
        return self._fused(cells) if self._fused else self.decode_frames(cells).argmax(dim=1).to(torch.uint8)

    def encode_indices(self, indices: Tensor) -> Tensor:
        """Return the normalised latents [B, stack * c, T / stack, h, w] of palette entries [B, T, H, W]."""
        batch, frames, height, width = indices.shape
        if frames == 0 or frames % self.stack:
            raise MediaError(f"{frames} frames do not fill whole latent frames of {self.stack}")
        for name, side in (("height", height), ("width", width)):
            check_multiple(name, side, SPATIAL_FACTOR)
        # One latent frame at a time: with another number of frames convolutions round in another way.
        parts = [self.encode_frames(part.flatten(0, 1)) for part in indices.split(self.stack, dim=1)]
        return torch.cat([self.stack_cells(part.unflatten(0, (batch, self.stack))) for part in parts], dim=2)

    def stack_cells(self, cells: Tensor) -> Tensor:
        """Return the normalised latents [B, stack * c, T / stack, h, w] of the cells of frames [B, T, c, h, w]."""
        cells = (cells - _per_channel(self.latents_mean)) / _per_channel(self.latents_std)
        cells = cells.unflatten(1, (-1, self.stack))  # [B, F, stack, c, h, w]
        return cells.flatten(2, 3).transpose(1, 2).contiguous()

    def unstack_cells(self, x0: Tensor) -> Tensor:
        """Return the cells of frames [B, T, c, h, w] of normalised latents [B, stack * c, T / stack, h, w]."""
        cells = x0.transpose(1, 2).unflatten(2, (self.stack, self.cell_channels)).flatten(1, 2)
        return cells * _per_channel(self.latents_std) + _per_channel(self.latents_mean)

    def decode_indices(self, x0: Tensor) -> Tensor:
        """Return the palette entries uint8 [B, F * stack, 8 h, 8 w] of normalised latents [B, stack * c, F, h, w]."""
        cells = self.unstack_cells(x0.to(self.palette.device))
        dtype: torch.dtype = self.decoder[0].weight.dtype  # type: ignore[assignment]
        entries = self.best_entries(cells.flatten(0, 1).to(dtype))
        return entries.unflatten(0, cells.shape[:2])

    def on_other_scene(self, x0: Tensor, scene: Tensor, other: Tensor) -> Tensor:
        """Return the latents of who is seen in x0 on a scene, set on another; all [B, C, F, h, w]."""
        return self.on_scene(self.cut_out(x0, scene), self.decode_indices(other)).to(x0)

    def cut_out(self, x0: Tensor, scene: Tensor) -> CutOut:
        """Return who is seen in x0 on a scene, both latents [B, C, F, h, w].

        Somebody is where the pictures of the two differ, single pixels aside, and where they are all round: there they
        have the scene's own colours.
        """
        shown, empty = (self.decode_indices(each) for each in (x0, scene))
        differs = (shown != empty).float()
        near = F.avg_pool2d(differs, 3, stride=1, padding=1, count_include_pad=False)
        return CutOut(shown, _filled((near > MOSTLY) | ((differs > 0) & (near > HARDLY))))

    def on_scene(self, who: CutOut, scene: Tensor) -> Tensor:
        """Return the latents [B, C, F, h, w] of who was cut out before a scene, palette entries uint8 [B, T, H, W]."""
        return self.encode_indices(torch.where(who.is_somebody, who.entries, scene))

    def encode_chunk(self, frames: Tensor, *, state: Any = None) -> Tensor:
        return self.encode_indices(self.nearest_entries(frames))

    def decode_chunk(self, x0: Tensor, *, state: Any = None, enlarge: int = 1) -> Tensor:
        entries = self.decode_indices(x0)
        # an entry is looked up once, however wide it is painted
        side_by_side = self.palette.unsqueeze(1).expand(-1, enlarge, -1).flatten(1)
        wide = side_by_side.index_select(0, entries.flatten().int())
        return rows_enlarged(wide.view(*entries.shape[:-1], entries.shape[-1] * enlarge, 3), enlarge)

    def nearest_entries(self, frames: Tensor) -> Tensor:
        """Return the palette entry nearest to each pixel: uint8 [..., 3] -> int64 [...], on the codec's device."""
        red, green, blue = frames.to(self.palette.device).reshape(-1, 3).int().unbind(dim=1)
        packed, places = torch.unique(red << 16 | green << 8 | blue, return_inverse=True)  # many times faster than rows
        colours = torch.stack([packed >> 16, packed >> 8 & 255, packed & 255], dim=1)
        nearest = torch.cdist(colours.float(), self.palette.float()).argmin(dim=1)
        return nearest[places].reshape(frames.shape[:-1])

    def is_drawn(self, frames: Tensor) -> bool:
        """Whether frames uint8 [..., 3] are drawn in the palette's colours, a little compression aside."""
        nearest = self.palette[self.nearest_entries(frames)]
        distance = (frames.to(nearest.device).float() - nearest.float()).norm(dim=-1)
        return bool((distance < DRAWN_DISTANCE).float().mean() > DRAWN_SHARE)

    def photograph(self, frames: Tensor, *, enlarge: int = 1) -> Tensor:
        """Return a photograph, held as frames uint8 [T, H, W, 3], in the palette's colours: it pans and zooms slowly.

        The codec's latents could not show it. It is moved before its colours are chosen, by parts of a pixel.
        """
        pixels = frames.to(self.palette.device).movedim(-1, 1).float()  # [T, 3, H, W]
        time = torch.arange(len(frames), device=pixels.device)
        size, aside = 1 / (1 + ZOOM * time), PAN * time
        about = torch.zeros(len(frames), 2, 3, device=pixels.device)
        about[:, 0, 0], about[:, 1, 1], about[:, 0, 2] = size, size, aside * (1 - size)
        grid = F.affine_grid(about, list(pixels.shape), align_corners=False)
        moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
        shown = self.palette[self.nearest_entries(moved.movedim(1, -1).round().to(torch.uint8))]
        return rows_enlarged(shown.repeat_interleave(enlarge, dim=2), enlarge)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PixelCodec":
        """Return an untrained codec of this shape; its palette comes with the weights."""
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in config.items()
            if not key.startswith("_") and key != "colours"
        }
        return cls(palette=torch.zeros(config["colours"], 3), **options)


def _filled(mask: Tensor) -> Tensor:
    """A mask [B, T, H, W] with what it encloses, from side to side."""
    around = F.pad(~mask, (1, 1, 1, 1), value=True).float()
    outside = F.pad(torch.zeros_like(mask), (1, 1, 1, 1), value=True).float()
    while not torch.equal(grown := _beside(outside) * around, outside):
        outside = grown
    return outside[..., 1:-1, 1:-1] == 0


def _beside(pictures: Tensor) -> Tensor:
    """Pictures [B, T, H, W] in which each pixel is the largest of itself and of the four at its sides."""
    down = F.max_pool2d(pictures, (3, 1), stride=1, padding=(1, 0))
    return torch.maximum(down, F.max_pool2d(pictures, (1, 3), stride=1, padding=(0, 1)))


def _per_channel(values: Tensor) -> Tensor:
    """Shape one value per channel to go with [..., c, h, w]."""
    return values.view(-1, 1, 1)
