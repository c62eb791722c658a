"""Several processes make what one does, each with its heads' part of the cache."""

from collections.abc import Iterator

import pytest
import torch
from processes import in_processes
from tiny import SHAPE, tiny_transformer
from torch import Tensor

from causvid_cli.errors import UsageError
from causvid_cli.geometry import Chunk, take_chunks
from causvid_cli.network.cache import PromptCache
from causvid_cli.network.model import CausalTransformer
from causvid_cli.network.ulysses import Ulysses, check_heads
from causvid_cli.sampling.context import CleanPasses, LastCalls
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import Step
from causvid_cli.train.config import NetworkConfig

CPU = torch.device("cpu")
STEPS = (Step(1000.0, 1.0), Step(600.0, 0.6))
WAN_LIKE = NetworkConfig(layers=2, heads=6, head_dim=12, ffn_dim=96, text_dim=16)
CELLS = {"latent_height": 6, "latent_width": 10}
"""15 tokens a frame, which neither 2 nor 6 processes share evenly."""
MAX_ERROR = 1e-5
"""Of latents about 1: float32 sums in another order."""


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def network(seed: int = 0) -> CausalTransformer:
    return tiny_transformer(seed=seed, shape=WAN_LIKE, latent_channels=8)


def prompts_of(model: CausalTransformer) -> list[PromptCache]:
    rng = torch.Generator().manual_seed(3)
    return [model.prompt_cache(torch.randn(1, 5, SHAPE.text_dim, generator=rng)) for _ in range(3)]


def latents(
    model: CausalTransformer, *, switch: str = "recache", chunk_frames: int = 1, prefix: bool = False, last_call=False
) -> list[Tensor]:
    """A roll-out whose past is evicted, and whose prompt changes on the way: to another, and to one with a negative."""
    plain, other, negative = prompts_of(model)
    guided = PromptCache(other.embeds, negative=negative, guidance=2.0)
    noise = seeded_noise(7, batch=1, channels=8, **CELLS)
    given = [(Chunk(-1, 0, 1), torch.randn(1, 8, 1, 6, 10, generator=torch.Generator().manual_seed(1)))]
    writer = LastCalls(model, lambda _: STEPS, noise) if last_call else CleanPasses(model)
    made = rollout(
        model,
        prompt=lambda chunk: plain if chunk.index < 3 else other if chunk.index < 5 else guided,
        steps=STEPS,
        cache=model.kv_cache(window_frames=3, sink_frames=1, **CELLS),
        chunks=take_chunks(7 * chunk_frames, chunk_frames, start_frame=int(prefix)),
        noise=noise,
        writer=writer,
        switch=switch,
        prefix=given if prefix else (),
    )
    return [x0 for _, x0 in made]


ROLLOUTS = {
    "recache": {},
    "soft, chunks of 3": {"switch": "soft", "chunk_frames": 3},
    "cut, after a photo": {"switch": "cut", "prefix": True},
    "noisy past": {"last_call": True},
}
Made = dict[str, list[Tensor]]


def all_latents(plain: CausalTransformer, fused: CausalTransformer) -> Made:
    return {name: latents(plain if "3" in name else fused, **options) for name, options in ROLLOUTS.items()}


def in_step(networks: list[CausalTransformer], wanted: Made) -> None:
    """What each process does: the first makes and compares, the others follow."""
    with torch.inference_mode():
        processes = Ulysses(CPU)
        processes.spread(networks)
        cache = networks[0].kv_cache(window_frames=3, **CELLS)
        assert cache.keys.shape == (2, 1, 45, 6 // processes.size, 12)
        if not processes.leads:
            processes.follow()
            return
        got = all_latents(*networks)
        processes.tell(None)
    for name, theirs in wanted.items():
        assert len(got[name]) == len(theirs) == 7
        for number, (a, b) in enumerate(zip(got[name], theirs, strict=True)):
            error = (a - b).abs().max().item()
            assert error < MAX_ERROR, f"{name}, chunk {number}: largest error {error:.3g}"


@pytest.mark.parametrize("count", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 6))])
def test_several_processes_make_the_latents_of_one(count):
    networks = [network(), network(seed=1).fuse()]
    in_processes(count, in_step, networks, all_latents(*networks))


def count_sent(network: CausalTransformer) -> None:
    """One step and a clean pass, of 16 tokens."""
    processes, sent = Ulysses(CPU), []
    exchange = processes._exchange
    processes._exchange = lambda x: (sent.append(x.numel() * (processes.size - 1) // processes.size), exchange(x))[1]
    processes.spread([network])
    with torch.inference_mode():
        if not processes.leads:
            processes.follow()
        else:
            noise = seeded_noise(7, batch=1, channels=8, latent_height=8, latent_width=8)
            cells = {"latent_height": 8, "latent_width": 8}
            cache, [prompt, *_] = network.kv_cache(window_frames=3, **cells), prompts_of(network)
            made = rollout(
                network, prompt=lambda _: prompt, steps=STEPS[:1], cache=cache, chunks=take_chunks(2, 1), noise=noise
            )
            next(made), next(made)
            processes.tell(None)
    n, tokens, width, layers = processes.size, 16, 6 * 12, 2
    steps = 2  # of the first chunk and of the second, and one clean pass between
    assert sum(sent) == (n - 1) * tokens * width * (steps * 4 * layers + 4 * layers - 2) // n**2  # docs/scale.md


@pytest.mark.slow
def test_as_much_is_sent_as_the_docs_say():
    in_processes(2, count_sent, network().fuse())


def test_heads_have_to_go_round():
    check_heads(12, 4, name="wan")
    with pytest.raises(
        UsageError, match="^5 processes cannot share the 12 heads of wan evenly; try 1, 2, 3, 4, 6 or 12"
    ):
        check_heads(12, 5, name="wan")
