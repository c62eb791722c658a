"""The networks that training builds, and how they begin."""

import torch
from torch import Tensor, nn

from causvid_cli.errors import UsageError
from causvid_cli.network.cache import PromptCache
from causvid_cli.network.copies import CHOICES, HERE
from causvid_cli.network.layers import WanTransformer3DModel
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.story import StoryText
from causvid_cli.sampling.drawings import opening_prompt
from causvid_cli.train.config import NetworkConfig
from causvid_cli.train.look_back import look_back
from causvid_cli.train.prompt_table import PromptTable

STAYS = 0.35
"""Logit of what stays as it is, as a network begins."""


def build_network(shape: NetworkConfig, latent_channels: int, *, pictures: int = 1) -> CausalTransformer:
    """Return an untrained transformer that begins by predicting nothing: its first steps are steadier.

    One that is told where patches stand begins to attend to what was there before (`look_back`). One that predicts
    copies begins by copying what is there, each of a latent frame's `pictures` by itself.
    """
    choices = pictures * CHOICES if shape.prediction == "copies" else 0
    net = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_dim,
        in_channels=latent_channels,
        out_channels=latent_channels + choices,
        text_dim=shape.text_dim,
        freq_dim=128,
        ffn_dim=shape.ffn_dim,
        num_layers=shape.layers,
        grid_embed_size=shape.grid_embed_size,
        copied_channels=latent_channels // pictures if choices else 0,
    )
    look_back(net)
    nn.init.zeros_(net.proj_out.weight)
    nn.init.zeros_(net.proj_out.bias)
    with torch.no_grad():
        net.proj_out.bias.view(-1, latent_channels + choices)[:, latent_channels + HERE :: CHOICES] = STAYS
    return CausalTransformer(net, prediction=shape.prediction)


def with_layers(network: CausalTransformer, layers: int) -> CausalTransformer:
    """A smaller network that begins with some of another's blocks, evenly spread, the first and the last among them.

    That is how DistilBERT begins (arXiv 1910.01108); the blocks left out are learnt over. Raises UsageError where the
    other has fewer.
    """
    config, weights = network.config, network.transformer.state_dict()
    if not 1 <= layers <= config.num_layers:
        raise UsageError(f"network.student_layers: must be 1 to {config.num_layers}, as its start has, got {layers}")
    kept = [round(place * (config.num_layers - 1) / max(1, layers - 1)) for place in range(layers)]
    net = WanTransformer3DModel.from_config({**config, "num_layers": layers})
    state = {name: w for name, w in weights.items() if not name.startswith("blocks.")}
    for place, block in enumerate(kept):
        prefix = f"blocks.{block}."
        state |= {
            f"blocks.{place}.{name.removeprefix(prefix)}": w for name, w in weights.items() if name.startswith(prefix)
        }
    net.load_state_dict(state)
    return CausalTransformer(net, prediction=network.prediction)


class Denoiser(nn.Module):
    """A transformer and the text features it is trained with."""

    def __init__(self, network: CausalTransformer, text: StoryText | PromptTable) -> None:
        super().__init__()
        self.network = network
        self.text = text

    def prompt(self, rows: Tensor) -> PromptCache:
        """Return prompts, given by row numbers [B, L], as the network takes them."""
        return self.network.prompt_cache(self.text(rows))

    def opening_prompt(self, rows: Tensor) -> PromptCache:
        """Return prompts, given by row numbers [B, L], as a network for first chunks sees them."""
        assert isinstance(self.text, StoryText), "a prompt of which nobody knows which way it looks"
        return opening_prompt(self.network, self.text, self.text(rows))

    def scene_prompt(self, rows: Tensor) -> PromptCache:
        """Return what prompts, given by row numbers [B, L], tell of with nobody in it."""
        assert isinstance(self.text, StoryText), "a prompt whose scene cannot be told apart"
        return self.network.prompt_cache(self.text.bare(self.text(rows)))

    def blended_prompt(self, rows: Tensor, others: Tensor, weight: Tensor) -> PromptCache:
        """Return prompts slid towards others; rows, others: row numbers [B, L]. weight: [B] in 0..1, how far."""
        own, other = self.text(rows), self.text(others)
        return self.network.prompt_cache(torch.lerp(own, other, weight.view(-1, 1, 1).to(own)))

    def drop_prompts(self, rows: Tensor, uniform: Tensor, *, rate: float) -> Tensor:
        """Row numbers [B, L] with a share `rate` of the prompts emptied, for guidance; uniform: [B] in [0, 1)."""
        return torch.where((uniform < rate).unsqueeze(1), self.text.empty_rows(len(rows)), rows)
