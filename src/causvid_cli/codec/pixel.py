"""The pixel-art codec: pictures on a fixed palette, one palette entry per pixel.

Every picture is encoded by itself (a small 2-D network, 8 pixels to a cell) and `stack` neighbouring pictures share
one latent frame as more channels, so there is no state to stream. The decoder scores the palette for each pixel and
takes the best entry: pictures are crisp however small the network is, and small latent errors change nothing.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.errors import MediaError
from causvid_cli.geometry import CodecFacts, check_multiple

SPATIAL_FACTOR = 8


class Residual(nn.Module):
    """Two 3x3 convolutions whose sum starts as the identity; no norm, so a picture's neighbours change nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class PixelCodec(nn.Module):
    """Palette pictures <-> latents; implements `codec.Codec`.

    palette: uint8 [P, 3]. cell_channels: numbers per picture and 8x8 cell; a latent frame has stack * cell_channels.
    encoder_widths, decoder_widths: channels at 1/2, 1/4 and 1/8 of the size. blocks: residual blocks per decoder size.
    """

    palette: Tensor
    latents_mean: Tensor
    """Per cell channel, over training pictures: latents are cells that these two have normalised."""
    latents_std: Tensor

    def __init__(
        self,
        *,
        palette: Tensor,
        cell_channels: int = 6,
        stack: int = 4,
        encoder_widths: tuple[int, int, int] = (32, 64, 96),
        decoder_widths: tuple[int, int, int] = (64, 96, 128),
        blocks: int = 2,
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
            "blocks": blocks,
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
        half, quarter, eighth = decoder_widths
        self.decoder = nn.Sequential(
            nn.Conv2d(cell_channels, eighth, 3, padding=1),
            *(Residual(eighth) for _ in range(blocks)),
            nn.Conv2d(eighth, 4 * quarter, 1),
            nn.PixelShuffle(2),
            *(Residual(quarter) for _ in range(blocks)),
            nn.Conv2d(quarter, 4 * half, 1),
            nn.PixelShuffle(2),
            *(Residual(half) for _ in range(blocks)),
            nn.SiLU(),
            nn.Conv2d(half, 4 * colours, 1),
            nn.PixelShuffle(2),
        )

    def channels_last(self) -> Self:
        """The codec with its weights laid out for a CPU, on which it then runs about twice as fast."""
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

    def encode_pictures(self, indices: Tensor) -> Tensor:
        """Palette entries [N, H, W] -> cells [N, c, H / 8, W / 8], not normalised."""
        pixels = self.embed(indices.long()).movedim(-1, 1)
        return self.encoder(pixels.contiguous(memory_format=torch.channels_last))

    def decode_pictures(self, cells: Tensor) -> Tensor:
        """Cells [N, c, h, w], not normalised -> scores of each palette entry [N, P, 8 h, 8 w]."""
        return self.decoder(cells.contiguous(memory_format=torch.channels_last))

    def best_entries(self, cells: Tensor) -> Tensor:
        """Cells as `decode_pictures` has them -> the palette entry with the best score, uint8 [N, 8 h, 8 w].

        The same as there, but enlarging copies runs of channels, not single numbers: a sixth of the time is saved.
        """
        x, layers = cells.contiguous(memory_format=torch.channels_last), list(self.decoder)
        *others, scores, _ = layers  # the last two: scores of four pixels, and those laid out
        for layer, following in zip(others, layers[1:], strict=False):
            if isinstance(following, nn.PixelShuffle):
                x = _laid_out(_four_pixels(layer, x)).movedim(-1, 1)
            elif not isinstance(layer, nn.PixelShuffle):
                x = layer(x)
        best = _four_pixels(scores, x).argmax(dim=-1, keepdim=True)
        return _laid_out(best.to(torch.uint8)).squeeze(-1)

    def encode_indices(self, indices: Tensor) -> Tensor:
        """Palette entries [B, T, H, W] -> normalised latents [B, stack * c, T / stack, h, w]."""
        batch, frames, height, width = indices.shape
        if frames == 0 or frames % self.stack:
            raise MediaError(f"{frames} pictures do not fill whole latent frames of {self.stack}")
        for name, side in (("height", height), ("width", width)):
            check_multiple(name, side, SPATIAL_FACTOR)
        # One latent frame at a time: with another number of pictures convolutions round in another way.
        parts = [self.encode_pictures(part.flatten(0, 1)) for part in indices.split(self.stack, dim=1)]
        return torch.cat([self.stack_cells(part.unflatten(0, (batch, self.stack))) for part in parts], dim=2)

    def stack_cells(self, cells: Tensor) -> Tensor:
        """Cells of pictures [B, T, c, h, w] -> normalised latents [B, stack * c, T / stack, h, w]."""
        cells = (cells - _per_channel(self.latents_mean)) / _per_channel(self.latents_std)
        cells = cells.unflatten(1, (-1, self.stack))  # [B, F, stack, c, h, w]
        return cells.flatten(2, 3).transpose(1, 2).contiguous()

    def decode_indices(self, x0: Tensor) -> Tensor:
        """Normalised latents [B, stack * c, F, h, w] -> palette entries uint8 [B, F * stack, 8 h, 8 w]."""
        cells = x0.transpose(1, 2).unflatten(2, (self.stack, self.cell_channels))  # [B, F, stack, c, h, w]
        batch, frames = cells.shape[:2]
        cells = cells.flatten(0, 2) * _per_channel(self.latents_std) + _per_channel(self.latents_mean)
        entries = self.best_entries(cells.to(self.decoder[0].weight.dtype))
        return entries.unflatten(0, (batch, frames * self.stack))

    def encode_chunk(self, frames: Tensor, *, state: Any = None) -> Tensor:
        return self.encode_indices(self.nearest_entries(frames))

    def decode_chunk(self, x0: Tensor, *, state: Any = None) -> Tensor:
        return self.palette[self.decode_indices(x0).long()]

    def nearest_entries(self, frames: Tensor) -> Tensor:
        """The palette entry nearest to each pixel: uint8 [..., 3] -> int64 [...]."""
        red, green, blue = frames.reshape(-1, 3).int().unbind(dim=1)
        packed, places = torch.unique(red << 16 | green << 8 | blue, return_inverse=True)  # many times faster than rows
        colours = torch.stack([packed >> 16, packed >> 8 & 255, packed & 255], dim=1)
        nearest = torch.cdist(colours.float(), self.palette.float()).argmin(dim=1)
        return nearest[places].reshape(frames.shape[:-1])

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PixelCodec":
        """An untrained codec of this shape; its palette comes with the weights."""
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in config.items()
            if not key.startswith("_") and key != "colours"
        }
        return cls(palette=torch.zeros(config["colours"], 3), **options)


def _four_pixels(layer: nn.Module, x: Tensor) -> Tensor:
    """What a 1x1 convolution before PixelShuffle(2) makes of [N, C, h, w]: [N, h, w, 2, 2, channels]."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    weight, bias = (p.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for p in (layer.weight, layer.bias))
    return F.conv2d(x, weight, bias).permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))


def _laid_out(pixels: Tensor) -> Tensor:
    """[N, h, w, 2, 2, channels] -> [N, 2 h, 2 w, channels]."""
    return pixels.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _per_channel(values: Tensor) -> Tensor:
    """One value per channel, to go with [..., c, h, w]."""
    return values.view(-1, 1, 1)
