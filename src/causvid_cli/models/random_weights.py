"""Random numbers in the place of a published model's weights: any architecture of the catalogue, with no download.

How long a step takes and how much memory it needs do not depend on the values, so this is what a machine is measured
with. The numbers are drawn where and as they are used, a network of 14 B weights in its 28 GB and no more, and scaled
so that activations stay finite. In the place of umT5 (5.7 B weights, run once a prompt) stand features that are drawn
from the prompt.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from causvid_cli.codec import Codec
from causvid_cli.config import PackFacts
from causvid_cli.models.catalogue import catalogue, find_checkpoint
from causvid_cli.models.empty import empty_network
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.encoded import EncodedPrompt
from causvid_cli.prompt.umt5 import ROWS
from causvid_cli.request import Vae, check_prompt

NOTE = "the weights are random: the pictures mean nothing, their speed and memory do"
POOL = 2**22
"""So many numbers are drawn; larger tensors hold them again and again, which takes a tenth of the time."""
STEP = 1_000_003
"""How far on in the pool each next tensor begins."""


def random_transformer(facts: PackFacts, *, device: torch.device, dtype: torch.dtype) -> CausalTransformer:
    """A transformer of a known checkpoint's architecture."""
    architecture = catalogue().architectures[find_checkpoint(facts.name).architecture]
    network = empty_network("transformer", architecture.config)
    fill(network, device=device, dtype=dtype)
    model = CausalTransformer(network, prediction=facts.prediction, context_noise=facts.context_noise)
    return model.eval().requires_grad_(False)


def random_codec(vae: Vae, *, device: torch.device, dtype: torch.dtype) -> Codec:
    """The Wan VAE, or TAEHV."""
    if vae == "tiny":
        tiny = empty_network("vae_tiny", _config("tiny_vae"))
        fill(tiny, device=device, dtype=dtype)
        return tiny.ready(device, dtype)
    from causvid_cli.codec.wan import WanCodec

    full = empty_network("vae", _config("vae"))
    fill(full, device=device, dtype=dtype)
    return WanCodec(full)


def _config(part: Any) -> dict[str, Any]:
    return catalogue().parts[part].config or {}


class RandomText:
    """Features drawn from a prompt's hash, as many rows as it has words (`text.TextEncoder`)."""

    def __init__(self, *, dim: int, rows: int = ROWS) -> None:
        self.dim, self.rows = dim, rows

    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None, seed: int = 0) -> EncodedPrompt:
        words = check_prompt(prompt).split()
        return EncodedPrompt(prompt, self._features(" ".join(words), len(words) + 1), (NOTE,), " ".join(words))

    def empty(self) -> Tensor:
        return self._features("", 1)

    def release(self) -> None:
        """Nothing is held."""

    def _features(self, text: str, tokens: int) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        embeds = torch.zeros(1, self.rows, self.dim)
        rng = torch.Generator().manual_seed(seed)
        embeds[:, :tokens] = torch.randn(min(tokens, self.rows), self.dim, generator=rng)
        return embeds


def random_text(facts: PackFacts) -> RandomText:
    config = catalogue().architectures[find_checkpoint(facts.name).architecture].config
    return RandomText(dim=config["text_dim"])


def fill(network: nn.Module, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """Give a network on the meta device random weights, in this dtype on this device: the same for the same seed.

    Weights get the deviation that keeps a signal's size (1 / sqrt of their inputs), norms ones, biases zeros.
    """
    nn.Module.to(network, dtype)  # on the meta device still; diffusers' own `to` warns about nothing here
    network.to_empty(device=device)
    # CPU generator: CUDA's draws other numbers from the same seed
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    with torch.no_grad():
        for number, (name, tensor) in enumerate(network.state_dict().items()):
            deviation = _deviation(name, tensor)
            if isinstance(deviation, float):
                for piece, drawn in _pieces(tensor.view(-1), pool, start=number * STEP % POOL):
                    torch.mul(drawn, deviation, out=piece)
            else:
                tensor.fill_(deviation)


def _pieces(flat: Tensor, pool: Tensor, *, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of a tensor, and the part of the pool that goes there."""
    done = 0
    while done < len(flat):
        size = min(len(flat) - done, len(pool) - start)
        yield flat[done : done + size], pool[start : start + size]
        done, start = done + size, 0


def _deviation(name: str, tensor: Tensor) -> float | int:
    """Spread of a tensor's numbers; a whole number is what they all are."""
    leaf = name.rpartition(".")[2]
    if leaf == "bias":
        return 0
    if leaf == "gamma" or (leaf == "weight" and tensor.ndim == 1):
        return 1
    if leaf == "scale_shift_table":
        return float(tensor.shape[-1] ** -0.5)
    return float(max(1, tensor[0].numel()) ** -0.5)
