"""TAEHV, a tiny autoencoder for Wan's latents (`taew2_1`), streaming: `--vae tiny`.

It decodes with a twenty-fifth of the work of the Wan VAE, a little less sharply. The architecture, its names and the
meaning of its numbers are those of madebyollin/taehv (`taehv.py` at 115aaa7, and its README, MIT): 2-D convolutions,
and blocks that also see their own input of one time step ago, which is all the state that there is. It reads and
writes latents as the transformer has them, without the Wan VAE's mean and deviation, and pixels 0..1.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid_cli.architectures import load_config
from causvid_cli.codec.codec import enlarged, frames_per_latent_frame
from causvid_cli.errors import MediaError, ModelError
from causvid_cli.geometry import CodecFacts, check_multiple
from causvid_cli.weights.files import load_safetensors, load_state

CLASS = "TAEHV"
STRIDE = 2
"""How many time steps one becomes, or become one, where a layer changes their number."""
FRAMES = STRIDE**2
"""How many frames a latent frame has; of a video's first only the last is shown, as the Wan VAE makes one there."""

ONLY: dict[str, Any] = {
    "image_channels": 3,
    "patch_size": 1,
    "encoder_time_downscale": [True, True, False],
    "decoder_time_upscale": [False, True, True],
    "decoder_space_upscale": [True, True, True],
}
"""What a configuration may say of the architecture besides its sizes: relatives for other latents differ here."""

State = dict[int, Tensor]
"""By a layer's number, what it was given in the last time step [B, C, h, w]; empty before the first."""


class MemBlock(nn.Module):
    """A residual block that sees its input beside that of one time step ago."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv3(2 * width, width), nn.ReLU(), conv3(width, width), nn.ReLU(), conv3(width, width)
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x: [T * B, C, h, w]. before: the step before the first, [B, C, h, w]."""
        past = torch.cat([before, x[: -len(before)]])
        return F.relu(self.conv(torch.cat([x, past], dim=1)) + x)


class Pool(nn.Module):
    """Makes one time step of `stride`."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(stride * width, width, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        steps = x.split(batch)
        groups = [torch.cat(steps[t : t + self.stride], dim=1) for t in range(0, len(steps), self.stride)]
        return self.conv(torch.cat(groups))


class Grow(nn.Module):
    """Makes `stride` time steps, of twice the size, of one.

    The published network enlarges first; a 1x1 convolution and the nearest neighbour give the same in either order,
    and this one is four times less work.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, stride * width, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        parts = [part.split(batch) for part in self.conv(x).chunk(self.stride, dim=1)]
        steps = [step for group in zip(*parts, strict=True) for step in group]
        return F.interpolate(torch.cat(steps), scale_factor=2.0, mode="nearest")


class Clamp(nn.Module):
    """Clamps softly to -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TAEHV(nn.Module):
    """Encodes and decodes Wan's latents with small networks; implements `codec.Codec`.

    encoder_channels: of all its layers. channels: of the decoder's, from the smallest size to the largest.

    The network is run one latent frame at a time, whatever the chunks: so they change no bit of the result.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 16,
        encoder_channels: int = 64,
        channels: tuple[int, int, int, int] = (256, 128, 64, 64),
    ) -> None:
        super().__init__()
        sizes = {"latent_channels": latent_channels, "encoder_channels": encoder_channels, "channels": list(channels)}
        self.config: dict[str, Any] = ONLY | sizes
        self.facts = CodecFacts(latent_channels=latent_channels, spatial_factor=8, frames_first=1, frames_next=FRAMES)
        # The numbers of the layers are part of their names, so those without weights are there too.
        layers: list[nn.Module] = [conv3(3, encoder_channels), nn.ReLU()]
        for stride in (STRIDE, STRIDE, 1):
            layers += [Pool(encoder_channels, stride), conv3(encoder_channels, encoder_channels, stride=2, bias=False)]
            layers += [MemBlock(encoder_channels) for _ in range(3)]
        self.encoder = nn.Sequential(*layers, conv3(encoder_channels, latent_channels))
        layers = [Clamp(), conv3(latent_channels, channels[0]), nn.ReLU()]
        for stride, width, narrower in zip((1, STRIDE, STRIDE), channels, channels[1:], strict=False):
            layers += [MemBlock(width) for _ in range(3)]
            layers += [nn.Identity(), Grow(width, stride), conv3(width, narrower, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), conv3(channels[-1], 3))
        self._last_grow = max(number for number, layer in enumerate(self.decoder) if isinstance(layer, Grow))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TAEHV":
        """Return a network of this shape, as its config.json tells. Raises ModelError for what that cannot mean."""
        given = {key: value for key, value in config.items() if not key.startswith("_")}
        if other := [f"{key} {given[key]!r}" for key in ONLY.keys() & given.keys() if given[key] != ONLY[key]]:
            raise ModelError(f"a {CLASS} of another kind than Wan2.1's: {', '.join(sorted(other))}")
        sizes: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if key not in ONLY
        }
        try:
            return cls(**sizes)
        except (TypeError, ValueError) as error:
            raise ModelError(f"not the configuration of a {CLASS}: {error}") from None

    @classmethod
    def from_pack(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> "TAEHV":
        """Load the codec in a folder. Raises ModelError unless every tensor is there and fits."""
        config = load_config(folder, CLASS)
        with torch.device("meta"):
            codec = cls.from_config(config)
        load_state(codec, load_safetensors(folder), name=str(folder))
        return codec.ready(device, dtype)

    def ready(self, device: torch.device | str, dtype: torch.dtype) -> "TAEHV":
        """Return the codec for inference, its weights laid out as convolutions are fastest."""
        self.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.eval().requires_grad_(False)

    def encode_state(self) -> State:
        return {}

    def decode_state(self) -> State:
        return {}

    def encode_chunk(self, frames: Tensor, *, state: State) -> Tensor:
        """Return the clean latents x0 [B, C, F, h, w] of frames uint8 [B, T, H, W, 3], float32.

        T is 1 + 4k in the first call of a video and 4k later; MediaError otherwise.
        """
        for name, side in zip(("height", "width"), frames.shape[2:4], strict=True):
            check_multiple(name, side, self.facts.spatial_factor)
        weight = self.get_parameter("encoder.0.weight")
        counts = frames_per_latent_frame(frames.shape[1], self.facts, begun=bool(state))
        pixels = frames.to(weight.device).permute(1, 0, 4, 2, 3)  # [T, B, 3, H, W]
        x0 = [self._encode(group.to(weight.dtype) / 255, state) for group in pixels.split(counts)]
        return torch.stack(x0, dim=2).float()

    def decode_chunk(self, x0: Tensor, *, state: State, enlarge: int = 1) -> Tensor:
        """Return the frames uint8 [B, T, H, W, 3], on x0's device, of clean latents x0 [B, C, F, h, w]."""
        pixels = self.decode_pixels(x0, state=state).clamp(0, 1)
        return enlarged((pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1), enlarge)

    def decode_pixels(self, x0: Tensor, *, state: State) -> Tensor:
        """Return pixels [B, 3, T, H, W], float32, about 0..1 and not clamped, of clean latents x0 [B, C, F, h, w]."""
        if x0.shape[2] == 0:
            raise MediaError("0 latent frames cannot be decoded; try 1 or more")
        weight = self.get_parameter("decoder.1.weight")
        latents = x0.to(weight.device, weight.dtype).unbind(dim=2)
        return torch.cat([self._decode(latent, state).float() for latent in latents], dim=2).to(x0.device)

    def _encode(self, group: Tensor, state: State) -> Tensor:
        """Encode the frames [1 or 4, B, 3, H, W] of one latent frame [B, C, h, w].

        A video's first frame stands for the three before it as well, which are those that the decoder does not
        show. The published program repeats a video's last frame instead; for a single one that is the same, for
        more of them it lets latents run ahead of the frames that the decoder makes of them.
        """
        x = group.expand(FRAMES, *group.shape[1:]).flatten(0, 1)  # [T * B, 3, H, W]
        return _run(self.encoder, x, group.shape[1], state)

    def _decode(self, latent: Tensor, state: State) -> Tensor:
        """Decode one latent frame [B, C, h, w] to its frames [B, 3, 1 or 4, H, W]."""
        batch, first = len(latent), not state
        x = _run(self.decoder[: self._last_grow + 1], latent, batch, state)
        if first:  # no later layer looks back, so the other frames need not be finished
            x = x[-batch:]
        x = self.decoder[self._last_grow + 1 :](x)
        return x.unflatten(0, (-1, batch)).permute(1, 2, 0, 3, 4)


def conv3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def _run(layers: Any, x: Tensor, batch: int, state: State) -> Tensor:
    """Run all layers in turn over time steps one after another, [T * B, C, h, w]; changes the state in place."""
    x = x.contiguous(memory_format=torch.channels_last)
    for number, layer in enumerate(layers):
        if isinstance(layer, MemBlock):
            before = state.get(number)
            if before is None:
                before = torch.zeros_like(x[:batch])
            state[number] = x[-batch:]
            x = layer(x, before)
        elif isinstance(layer, Pool | Grow):
            x = layer(x, batch)
        else:
            x = layer(x)
    return x
