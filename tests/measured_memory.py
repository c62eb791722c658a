"""A process of its own that makes a chunk with random weights of Wan's form, and tells what memory that took.

python tests/measured_memory.py bfloat16 240x416 none [full|tiny] [layers]
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch

from causvid_cli import pipeline as pipelines
from causvid_cli.codec.wan import WanCodec  # noqa: F401  diffusers takes memory of its own, once
from causvid_cli.device import peak_memory_bytes
from causvid_cli.extras import quietly
from causvid_cli.models.catalogue import catalogue
from causvid_cli.models.empty import empty_network
from causvid_cli.models.load import make_ready
from causvid_cli.models.memory import Video, estimate, networks_of
from causvid_cli.models.memory_terms import TransformerTerms
from causvid_cli.models.random_weights import fill, random_codec, random_text
from causvid_cli.models.resolve import find_model
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import Loading

LAYERS = 6
"""Of the 1.3B network's 30: 0.33 billion weights."""
CPU = torch.device("cpu")


def main(dtype: str, size: str, quantize: str, vae: str = "full", layers: str = str(LAYERS)) -> None:
    height, width = map(int, size.split("x"))
    loading = Loading(random_weights=True, quantize=quantize, vae=vae)  # type: ignore[arg-type]
    folder, facts = find_model("self-forcing", loading=loading)
    config = catalogue().architectures["wan2.1-1.3b"].config | {"num_layers": int(layers)}
    networks = networks_of(folder, facts, loading)
    assert networks is not None
    video = Video(height=height, width=width, latent_frames=3)
    told = estimate(replace(networks, transformers=(TransformerTerms.count(config),)), video, loading, dtype=dtype)
    if quantize != "none":
        with quietly():
            import torchao.quantization  # noqa: F401
    # libraries take what they take when they are first used
    torch.nn.functional.linear(torch.randn(64, 64), torch.randn(64, 64))
    torch.nn.functional.conv3d(torch.randn(1, 4, 3, 8, 8), torch.randn(4, 4, 3, 3, 3))
    before = peak_memory_bytes(CPU)

    kind = getattr(torch, dtype)
    network = empty_network("transformer", config)
    fill(network, device=CPU, dtype=kind)
    model = CausalTransformer(network).eval().requires_grad_(False)
    make_ready(model, facts, loading, lora_files=(), device=CPU, dtype=kind)
    made = pipelines.Pipeline(
        facts,
        folder=None,
        model=model,
        codec=random_codec(loading.vae, device=CPU, dtype=kind),
        text=random_text(facts),
        device=CPU,
    )
    frames = 0
    for chunk in made.stream("a", length="9f", size=(width, height), seed=1, steps=1):
        frames += len(chunk.frames)
    assert frames == 9
    took = peak_memory_bytes(CPU) - before
    moments = {name: round(bytes_ / 1e6) for name, bytes_ in told.moments.items()}
    print(json.dumps({"told": told.peak, "took": took, "ratio": round(told.peak / took, 3), "moments": moments}))


if __name__ == "__main__":
    main(*sys.argv[1:])
