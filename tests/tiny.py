"""Random models small enough for any test."""

from dataclasses import replace
from pathlib import Path

import torch

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import FIRST_WORDS, Words
from causvid_cli.train.config import NetworkConfig
from causvid_cli.train.denoiser import build_network
from causvid_cli.train.export import export_pack

SHAPE = NetworkConfig(layers=2, heads=2, head_dim=12, ffn_dim=48, text_dim=16)


def tiny_transformer(
    *, seed: int = 0, latent_channels: int = 24, shape: NetworkConfig = SHAPE, pictures: int = 4
) -> CausalTransformer:
    """A random transformer whose output is not zero. pictures: of a latent frame."""
    torch.manual_seed(seed)
    model = build_network(shape, latent_channels, pictures=pictures)
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.2)
    if (moves := model.transformer.moves) is not None:
        out = model.transformer.proj_out.weight.view(4, -1, model.transformer.proj_out.in_features)
        out.data[:, latent_channels:] /= 3  # steep shares of random logits let rounding grow from frame to frame
        torch.nn.init.normal_(moves.weight, std=moves.weight[0, 0].numel() ** -0.5)
        torch.nn.init.normal_(moves.bias, std=0.1)
    return model.eval().requires_grad_(False)


def tiny_codec(*, seed: int = 0) -> PixelCodec:
    torch.manual_seed(seed)
    codec = PixelCodec(
        palette=torch.tensor(storybook.PALETTE), encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8), blocks=1
    )
    return codec.eval().requires_grad_(False)


def tiny_facts(**changes: object) -> PackFacts:
    facts: dict[str, object] = {
        "name": "tiny",
        "chunk_frames": 1,
        "steps": (1000.0, 500.0),
        "shift": 3.0,
        "warp_steps": True,
        "sink_frames": 1,
        "window_frames": 3,
        "rope": "relative",
        "prediction": "flow",
        "fps": 8.0,
        "height": 64,
        "width": 64,
        "enlarge": 2,
        "text": "storybook",
        "codec": "pixel",
        "teacher": "teacher",
        "teacher_guidance": 2.0,
        "teacher_steps": 4,
        "license": "Apache-2.0",
        "source": "tests/tiny.py",
    }
    return PackFacts(**{**facts, **changes})  # type: ignore[arg-type]


def tiny_pack(folder: Path, *, words: Words = FIRST_WORDS, **changes: object) -> Path:
    """A pack of random weights, as `load` wants it; noise for pictures, but every path is the real one.

    words: that it knows; of the larger world a prompt may leave some of it to a picture.
    """
    facts = tiny_facts(**changes)
    export_pack(
        folder,
        facts,
        student=tiny_transformer(seed=1, shape=replace(SHAPE, prediction=facts.prediction)),
        opening=tiny_transformer(seed=3) if facts.opening_network else None,
        teacher=tiny_transformer(seed=2),
        codec=tiny_codec(),
        text=StoryText.for_vocabulary(words, dim=SHAPE.text_dim, pictures=words is not FIRST_WORDS),
    )
    return folder
