"""Every model of the catalogue, in every way it is used, on a CUDA device that is not there (`make cuda-rehearsal`).

A run fails where tensors of two devices meet, where a value of the device is read while chunks are made, where a
product is computed in another number format than was asked for, and where the memory is not what `--dry-run` tells.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rehearsal import GPU, Rehearsal, empty
from torch import nn

from causvid_cli.models.catalogue import catalogue
from causvid_cli.models.empty import empty_network
from causvid_cli.models.memory import Video, estimate, networks_of
from causvid_cli.network.model import CausalTransformer
from causvid_cli.pipeline import Pipeline
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import Loading
from causvid_cli.sampling.ode import solve_ode
from causvid_cli.sampling.schedule import add_noise
from causvid_cli.train.config import DmdConfig, RolloutFacts
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.dmd import Matching
from causvid_cli.train.layout import Layout, few_steps, first_steps
from causvid_cli.train.losses import flow_matching
from causvid_cli.weights.lora import Lora, LowRank, add_loras

pytestmark = [
    pytest.mark.cuda_build,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs torch's CUDA build: make cuda-rehearsal"),
]

STUDENTS = [name for name, each in catalogue().checkpoints.items() if each.kind == "student"]
WIDTH, HEIGHT = 832, 480
TWO_CHUNKS = {1: "5f", 3: "21f"}
"""Lengths of two chunks, by latent frames of a chunk."""
TOLERANCE = 0.1
"""How far `--dry-run` may be from what tensors take."""


def two_chunks(pipeline: Pipeline) -> str:
    return TWO_CHUNKS[pipeline.facts.chunk_frames]


def cues(transition: str) -> list[Cue]:
    return [Cue(prompt="a cat"), Cue(prompt="a dog", start_chunk=1, transition=transition)]  # type: ignore[arg-type]


PICTURE = np.zeros((1, HEIGHT, WIDTH, 3), dtype=np.uint8)
WAYS = {
    "t2v": lambda p: {"prompt": "a cat"},
    "i2v": lambda p: {"prompt": "a cat", "given": held(p), "shows_given": True},
    "restyle": lambda p: {"prompt": "a cat", "source": iter([PICTURE[0]] * 60), "strength": 0.6},
    "recache": lambda p: {"prompt": cues("recache")},
    "soft": lambda p: {"prompt": cues("soft")},
    "cut": lambda p: {"prompt": cues("cut")},
    "negative": lambda p: {"prompt": [Cue(prompt="a cat", negative="a dog")], "guidance": 3.0},
}


def held(pipeline: Pipeline) -> np.ndarray:
    frames = {1: 1, 3: 9}[pipeline.facts.chunk_frames]
    return np.repeat(PICTURE, frames, axis=0)


@pytest.fixture
def rehearsal(monkeypatch) -> Rehearsal:
    return Rehearsal(monkeypatch)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("vae", ["tiny", "full"])
@pytest.mark.parametrize("name", STUDENTS)
def test_a_video(name, vae, way, rehearsal):
    loading = Loading(vae=vae, random_weights=True)
    pipeline = rehearsal.load(name, loading)
    play_and_check(rehearsal, pipeline, way, loading)


@pytest.mark.parametrize("how", ["lora", "int8", "group"])
@pytest.mark.parametrize("name", STUDENTS)
def test_a_model_loaded_in_another_way(name, how, rehearsal):
    quantize, offload = "int8" if how == "int8" else "none", "group" if how == "group" else "none"
    loading = Loading(vae="tiny", random_weights=True, quantize=quantize, offload=offload)
    pipeline = rehearsal.load(name, loading)
    if how == "lora":
        with rehearsal.inside(), torch.no_grad():
            weight = pipeline.model.transformer.blocks[0].attn1.to_q.weight
            change = LowRank(up=torch.empty(len(weight), 8), down=torch.empty(8, weight.shape[1]), scale=1.0)
            lora = Lora("lora", products={"blocks.0.attn1.to_q.weight": change})
            add_loras(pipeline.model.transformer, [(lora, 1.0)])
            pipeline.model.fuse()
    play_and_check(rehearsal, pipeline, "t2v", loading)


def play_and_check(rehearsal, pipeline, way, loading):
    witness = rehearsal.witness
    options = WAYS[way](pipeline)
    stream = rehearsal.play(
        pipeline, options.pop("prompt"), length=two_chunks(pipeline), size=(WIDTH, HEIGHT), **options
    )
    assert witness.read_back == []
    assert witness.doubles == []
    networks = networks_of(None, pipeline.facts, loading)
    video = Video(
        height=HEIGHT,
        width=WIDTH,
        latent_frames=stream.plan.latent_frames,
        guided=way == "negative",
        has_source=way == "restyle",
    )
    terms = estimate(networks, video, loading, dtype="bfloat16", device="cuda")
    moments = replace(terms, overlapped=False).moments  # here nothing is done beside anything else
    if loading.offload == "group":  # nor is a block there while a chunk is decoded
        moments["decoding"] -= terms.network
    told = max(moments.values())
    if report := os.environ.get("CUDA_REHEARSAL_REPORT"):
        row = [pipeline.facts.name, loading.vae, way, loading.quantize, loading.offload, witness.peak, told]
        with open(report, "a") as file:
            file.write(json.dumps(row) + "\n")
    assert set(witness.products) == {torch.bfloat16}
    assert witness.peak == pytest.approx(told, rel=TOLERANCE)


ROLL_OUT = RolloutFacts(chunk_frames=3, window_frames=6, steps=(1000.0, 750.0, 500.0, 250.0), shift=5.0)
LATENT = (1, 16, 6, HEIGHT // 8, WIDTH // 8)


class Rows(nn.Module):
    """Stands for the prompts' features."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.empty(len(rows), 512, 4096, device=GPU)

    def empty_rows(self, count: int) -> torch.Tensor:
        return torch.zeros(count, 1, dtype=torch.long, device=GPU)


@pytest.fixture
def denoiser(rehearsal):
    """A network of 1.3 B weights in float32, as training has it. Each call gives another."""
    layout = Layout.of(LATENT[2], ROLL_OUT), few_steps(ROLL_OUT), first_steps(ROLL_OUT)
    assert len(layout[0].chunks) == 2  # and both are made before tensors are fake

    def make(*, learns: bool) -> Denoiser:
        network = empty_network("transformer", catalogue().architectures["wan2.1-1.3b"].config)
        empty(network, torch.float32)
        return Denoiser(CausalTransformer(network), Rows()).requires_grad_(learns)

    return make


@contextmanager
def in_bfloat16() -> Iterator[None]:
    """`device.training_arithmetic`, whose autocast switches itself off where there is no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def learns(rehearsal: Rehearsal, loss: torch.Tensor) -> bool:
    """Whether a loss is on the device and has a graph; its backward pass wants the driver, and is not rehearsed."""
    assert rehearsal.witness.read_back == []
    assert rehearsal.witness.doubles == []
    assert torch.bfloat16 in rehearsal.witness.products
    return loss.device == GPU and loss.requires_grad


def test_a_step_of_the_teacher(rehearsal, denoiser):
    with rehearsal.inside(), in_bfloat16():
        teacher, x0 = denoiser(learns=True), torch.empty(LATENT, device=GPU)
        sigma, noise = torch.empty(1, device=GPU), torch.empty_like(x0)
        x_t = add_noise(x0, noise, sigma)
        output = teacher.network.forward_whole(x_t, 1000 * sigma, teacher.prompt(teacher.text.empty_rows(1)))
        assert learns(rehearsal, flow_matching("flow", x_t, output, x0, noise, sigma))


def test_points_of_the_teachers_ode(rehearsal, denoiser):
    with rehearsal.inside(), in_bfloat16(), torch.no_grad():
        teacher, noise = denoiser(learns=False), torch.empty(LATENT, device=GPU)
        rows = teacher.text.empty_rows(1)
        solution = solve_ode(
            teacher.network.forward_whole,
            teacher.network.prediction,
            noise,
            [1.0, 0.5, 0.0],
            teacher.prompt(rows),
            empty=teacher.prompt(rows),
            guidance=3.0,
        )
        assert all(x_t.device == GPU and x_t.shape == LATENT for _, x_t in solution)
    assert rehearsal.witness.read_back == []


@pytest.mark.parametrize("turn", ["critic", "student"])
def test_a_step_of_distribution_matching(turn, rehearsal, denoiser):
    rng = np.random.default_rng(0)
    with rehearsal.inside(), in_bfloat16():
        student, critic, teacher = (denoiser(learns=learns) for learns in (True, True, False))
        clip = SimpleNamespace(rows=student.text.empty_rows(1), x0=torch.empty(LATENT, device=GPU))
        clips = SimpleNamespace(latent_frames=LATENT[2], batch=lambda *_, **__: clip)
        matching = Matching(student, critic, teacher, clips, ROLL_OUT, DmdConfig(), batch=1, shift=5.0, device=GPU)
        loss = matching.critic_loss(rng) if turn == "critic" else matching.student_loss(rng)
        assert learns(rehearsal, loss[turn])
