"""No float64 reaches a device that is not a CPU, as Apple's GPUs have none: the meta device stands for those.

Its tensors have a device, a shape and a dtype, but no values: what a CPU gets back from it is ones.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from train.test_distill import FACTS, FEW, ode_pairs
from train.test_story_clips import small_clips, small_denoiser

from causvid_cli import pipeline, teacher
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import Loading
from causvid_cli.train.causal import train_causal
from causvid_cli.train.config import DmdConfig
from causvid_cli.train.dmd import Matching, train_dmd
from causvid_cli.train.student import Regression, train_student
from causvid_cli.train.teacher_stage import train_teacher
from causvid_cli.train.trainer import StageSetting

META = torch.device("meta")
aten = torch.ops.aten
SIZED_BY_VALUES = (aten.nonzero.default, aten._unique2.default)


class WithoutFloat64(TorchDispatchMode):
    """Fails where an operation makes a float64 tensor that is not on the CPU; counts what goes there and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, first = kwargs or {}, args[0] if args and isinstance(args[0], Tensor) else None
        with self:  # in inference mode operations come here whole, as .to(), and not as what they are made of
            if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                return out
        if first is not None and first.is_meta:
            if func is aten._local_scalar_dense.default:
                return torch.ones((), dtype=first.dtype).item()
            if func in SIZED_BY_VALUES:
                out = func(torch.ones(first.shape, dtype=first.dtype), *args[1:], **kwargs)
                return tree_map_only(Tensor, lambda tensor: tensor.to(META), out)
            if func is aten._to_copy.default and torch.device(kwargs.get("device") or META).type == "cpu":
                return torch.ones(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if func is aten.copy_.default and args[1].is_meta and not first.is_meta:
            return first.fill_(1)
        out = func(*args, **kwargs)
        for tensor in tree_leaves((args, out)):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self.made += 1
                assert tensor.dtype not in (torch.float64, torch.complex128), f"{func} made {tensor.dtype} on {META}"
        return out


@contextmanager
def no_float64() -> Iterator[None]:
    with WithoutFloat64() as spy:
        yield
    assert spy.made > 100


def test_the_spy_sees_float64():
    with WithoutFloat64(), pytest.raises(AssertionError, match="made torch.float64 on meta"):
        torch.ones(2, device=META).double()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("command", ["t2v", "i2v", "extend", "restyle"])
def test_videos_are_made_without_float64(tiny, monkeypatch, command, dtype):
    monkeypatch.setattr(pipeline, "resolve_device", lambda name: META)
    made, clip = pipeline.load(tiny, dtype=dtype), np.zeros((8, 64, 64, 3), dtype=np.uint8)
    for module in (made.model, made.codec):
        assert all(tensor.dtype != torch.float64 for tensor in module.state_dict().values())
    assert made.dtype == getattr(torch, dtype)
    more = {
        "t2v": {"guidance": 2.0},
        "i2v": {"given": clip[:4], "shows_given": True},
        "extend": {"given": clip, "switch": "soft"},
        "restyle": {"source": iter(clip), "strength": 0.7},
    }[command]
    with no_float64():
        stream = made.stream("a red car", length="3s", seed=1, **more)
        for chunk in stream:
            assert chunk.latent.device == META
            stream.prompt = "a blue cat"


@pytest.mark.parametrize("way", ["i2v", "restyle"])
@pytest.mark.parametrize(
    ("name", "vae", "dtype"),
    [
        ("causal-rcm-framewise-2step-noisy", "tiny", "float16"),
        pytest.param("causal-rcm-framewise-2step-noisy", "full", "float32", marks=pytest.mark.slow),
        pytest.param("sgf-plus", "tiny", "bfloat16", marks=pytest.mark.slow),
        pytest.param("krea-14b", "tiny", "float32", marks=pytest.mark.slow),
        pytest.param("streamdiffusion-v2", "full", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_public_students_make_videos_without_float64(small_networks, monkeypatch, name, vae, dtype, way):
    monkeypatch.setattr(pipeline, "resolve_device", lambda name: META)
    made = pipeline.load(name, dtype=dtype, loading=Loading(vae=vae, random_weights=True))
    frames = 8 * made.facts.chunk_frames - 3  # of two chunks
    clip = np.zeros((frames, 32, 48, 3), dtype=np.uint8)
    more = {
        "i2v": {"given": clip[: 4 * made.facts.chunk_frames - 3], "shows_given": True, "guidance": 2.0},
        "restyle": {"source": iter(clip), "strength": 0.7},
    }[way]
    with no_float64():
        prompt = [Cue(prompt="a cat", negative="a dog"), Cue(prompt="a dog", start_chunk=1, transition="recache")]
        for chunk in made.stream(prompt, size=(48, 32), length=f"{frames}f", seed=1, **more):
            assert chunk.latent.device == META


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_teacher_makes_a_clip_without_float64(tiny, monkeypatch, dtype):
    monkeypatch.setattr(teacher, "resolve_device", lambda name: META)
    loaded = teacher.load_teacher(tiny, dtype=dtype)
    with no_float64():
        assert loaded.generate("a red car", length="1s", seed=1).shape == (8, 128, 128, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stage", ["teacher", "causal", "student", "dmd"])
def test_a_step_of_training_is_taken_without_float64(tmp_path, monkeypatch, stage, dtype):
    adam_w = torch.optim.AdamW
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # neither is there for meta
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused, **options: adam_w(*args, **options))
    clips, denoiser, facts = small_clips(tmp_path / "clips"), small_denoiser(), FACTS
    pairs = ode_pairs(tmp_path, denoiser, clips)
    denoiser, folder, plan = denoiser.to(META, dtype), tmp_path / "run", replace(FEW, steps=1)
    setting = StageSetting(device=META)
    with no_float64():
        if stage == "teacher":
            train_teacher(folder, denoiser, clips, plan, frames=None, shift=2.0, setting=setting)
        elif stage == "causal":
            train_causal(folder, denoiser, clips, plan, facts, shift=2.0, setting=setting, blends=0.5)
        elif stage == "student":
            regression = Regression(denoiser, clips, pairs, facts, batch=2, device=META, blends=0.5)
            train_student(folder, denoiser, regression, plan, setting)
        else:
            nets = (denoiser, copy.deepcopy(denoiser), copy.deepcopy(denoiser))
            options = DmdConfig(critic_updates=1)
            matching = Matching(*nets, clips, facts, options, batch=2, shift=2.0, device=META)
            train_dmd(folder, matching, replace(plan, steps=2), setting)
