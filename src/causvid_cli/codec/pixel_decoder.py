"""The pixel codec's decoder: as it is trained, and the same in larger operations for weights that change no more."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.network.packed_linear import Product

Sizes = tuple[int, int, int]
"""One number for each of the sizes that frames have on their way: 1/2, 1/4 and 1/8."""


class Residual(nn.Module):
    """Two 3x3 convolutions whose sum starts as the identity; no norm, so a frame's neighbours change nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Decoder(nn.Sequential):
    """Scores each palette entry [N, P, 8 h, 8 w] from cells [N, c, h, w].

    widths, blocks: channels and residual blocks at 1/2, 1/4 and 1/8 of the size.
    """

    def __init__(self, *, cell_channels: int, widths: Sizes, blocks: Sizes, colours: int) -> None:
        half, quarter, eighth = widths
        at_half, at_quarter, at_eighth = blocks
        super().__init__(
            nn.Conv2d(cell_channels, eighth, 3, padding=1),
            *(Residual(eighth) for _ in range(at_eighth)),
            nn.Conv2d(eighth, 4 * quarter, 1),
            nn.PixelShuffle(2),
            *(Residual(quarter) for _ in range(at_quarter)),
            nn.Conv2d(quarter, 4 * half, 1),
            nn.PixelShuffle(2),
            *(Residual(half) for _ in range(at_half)),
            nn.SiLU(),
            nn.Conv2d(half, 4 * colours, 1),
            nn.PixelShuffle(2),
        )


class FusedDecoder:
    """Finds the palette entry with the best score, uint8 [N, 8 h, 8 w], as a `Decoder` would as it is now.

    Entries are chosen before pixels are laid out, and laying out copies runs of channels, not single numbers.
    """

    def __init__(self, decoder: Decoder) -> None:
        *layers, scores = [layer for layer in decoder if not isinstance(layer, nn.PixelShuffle)]
        assert isinstance(scores, nn.Conv2d)
        self.layers = [_fused(layer) for layer in layers]
        self.scores = FourPixels(scores)

    def __call__(self, cells: Tensor) -> Tensor:
        x = cells.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer(x)
        best = self.scores(x).max(dim=-1, keepdim=True).indices  # a quarter faster than argmax
        return laid_out(best.to(torch.uint8)).squeeze(-1)


class FourPixels:
    """A 1x1 convolution before PixelShuffle(2): [N, in, h, w] -> [N, h, w, 2, 2, channels]."""

    def __init__(self, layer: nn.Conv2d) -> None:
        assert layer.bias is not None
        weight, bias = (p.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for p in (layer.weight, layer.bias))
        self.product = Product(weight.flatten(1), bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x.permute(0, 2, 3, 1)).unflatten(-1, (2, 2, -1))


def laid_out(pixels: Tensor) -> Tensor:
    """[N, h, w, 2, 2, channels] -> [N, 2 h, 2 w, channels]."""
    return pixels.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _fused(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a layer for inference, with the pixel shuffle that comes after a 1x1 convolution."""
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1):
        return layer
    four = FourPixels(layer)
    return lambda x: laid_out(four(x)).movedim(-1, 1)
