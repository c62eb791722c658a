"""The Wan VAE, streaming: diffusers' network, our own state.

The network's layers take a cache with one slot per causal convolution (`feat_cache`), the last features that each
convolution saw. diffusers keeps that cache on the model and clears it with every call; here it is the state of a
video, so that chunks join without a seam and videos interleave.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from causvid_cli.architectures import load_config
from causvid_cli.codec.codec import enlarged, frames_per_latent_frame
from causvid_cli.errors import MediaError
from causvid_cli.extras import quietly
from causvid_cli.geometry import CodecFacts, check_multiple
from causvid_cli.weights.files import load_safetensors, load_state

with quietly():
    from diffusers.models.autoencoders.autoencoder_kl_wan import (
        AutoencoderKLWan,
        WanCausalConv3d,
        patchify,
        unpatchify,
    )

State = list[Any]
"""A slot for each causal convolution, None until its first call; written by diffusers' layers."""


class WanCodec:
    """Runs the Wan VAE chunk by chunk; implements `codec.Codec`.

    The network is run one latent frame at a time, whatever the chunks: so they change no bit of the result, and
    memory does not grow with them.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = _laid_out(vae.eval().requires_grad_(False))
        config: Any = vae.config
        self._patch = config.patch_size or 1
        self.facts = CodecFacts(
            latent_channels=config.z_dim,
            spatial_factor=2 ** (len(config.dim_mult) - 1) * self._patch,
            frames_first=1,
            frames_next=2 ** sum(config.temperal_downsample),
        )
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=vae.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )

    @classmethod
    def from_pack(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> "WanCodec":
        """Load the codec in a folder in diffusers layout. Raises ModelError unless every tensor is there and fits."""
        vae = empty_vae(load_config(folder, "AutoencoderKLWan"))
        load_state(vae, load_safetensors(folder), name=str(folder))
        return cls(nn.Module.to(vae, device, dtype))  # diffusers' own `to` warns about nothing here

    def encode_state(self) -> State:
        return _empty_state(self.vae.encoder)

    def decode_state(self) -> State:
        return _empty_state(self.vae.decoder)

    def encode_chunk(self, frames: Tensor, *, state: State) -> Tensor:
        """Return the clean latents x0 [B, C, F, h, w] of frames uint8 [B, T, H, W, 3], float32, normalised.

        T is 1 + 4k in the first call of a video and 4k later; MediaError otherwise.
        """
        pixels = frames.to(self.vae.device).permute(0, 4, 1, 2, 3)  # [B, 3, T, H, W]
        return self.encode_pixels(pixels / 127.5 - 1, state=state)

    def decode_chunk(self, x0: Tensor, *, state: State, enlarge: int = 1) -> Tensor:
        """Return the frames uint8 [B, T, H, W, 3], on x0's device, of clean latents x0 [B, C, F, h, w]."""
        pixels = self.decode_pixels(x0, state=state).clamp(-1, 1)
        return enlarged(((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1), enlarge)

    def encode_pixels(self, pixels: Tensor, *, state: State) -> Tensor:
        """Return the latents' mean [B, C, F, h, w], float32, normalised, of pixels -1..1 [B, 3, T, H, W].

        T as in `encode_chunk`.
        """
        for name, side in zip(("height", "width"), pixels.shape[-2:], strict=True):
            check_multiple(name, side, self.facts.spatial_factor)
        counts = frames_per_latent_frame(pixels.shape[2], self.facts, begun=_is_begun(state))
        groups = pixels.to(self.vae.device, self.vae.dtype).split(counts, dim=2)
        means = [self._encode(group, state).chunk(2, dim=1)[0].float() for group in groups]
        return (torch.cat(means, dim=2) - self._mean) / self._std

    def decode_pixels(self, x0: Tensor, *, state: State) -> Tensor:
        """Return pixels [B, 3, T, H, W], float32, about -1..1 and not clamped, of clean latents x0 [B, C, F, h, w]."""
        if x0.shape[2] == 0:
            raise MediaError("0 latent frames cannot be decoded; try 1 or more")
        z = x0.to(self.vae.device, torch.float32) * self._std + self._mean
        pixels = [self._decode(latent, state).float() for latent in z.to(self.vae.dtype).split(1, dim=2)]
        return torch.cat(pixels, dim=2).to(x0.device)

    def _encode(self, group: Tensor, state: State) -> Tensor:
        """Return mean and log-variance [B, 2 C, 1, h, w] of the frames of one latent frame."""
        group = patchify(group.contiguous(), self._patch)
        return self.vae.quant_conv(self.vae.encoder(group, feat_cache=state, feat_idx=[0]))

    def _decode(self, latent: Tensor, state: State) -> Tensor:
        """Decode one latent frame, not normalised, to its frames [B, 3, 1 or 4, H, W]."""
        latent = self.vae.post_quant_conv(latent.contiguous())
        first = not _is_begun(state)
        return unpatchify(
            self.vae.decoder(latent, feat_cache=state, feat_idx=[0], first_chunk=first), patch_size=self._patch
        )


def empty_vae(config: dict[str, Any]) -> AutoencoderKLWan:
    """Return the network of this configuration, without weights (on the meta device)."""
    with torch.device("meta"):
        return AutoencoderKLWan.from_config(config)


def _laid_out(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Lay the weights out for a CPU, on which the network then takes a fifth less time."""
    for weight in vae.parameters() if vae.device.type == "cpu" else ():
        if weight.ndim > 3:  # of 3-D convolutions, and of 2-D ones
            layout = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
            weight.data = weight.data.contiguous(memory_format=layout)
    return vae


def _empty_state(network: nn.Module) -> State:
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.modules())


def _is_begun(state: State) -> bool:
    return state[0] is not None
