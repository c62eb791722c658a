"""Compiled blocks and recorded calls give the frames of plain ones, and nothing is compiled or recorded twice."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from commands import PROMPT, makes
from sampling.test_rollout import assert_close, prefix_of, roll, small_cache, switching
from tiny import SHAPE, tiny_pack, tiny_transformer
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config

from causvid_cli.errors import DeviceError
from causvid_cli.network import model as causal
from causvid_cli.network.cache import PromptCache
from causvid_cli.network.compiled import CompiledBlock, CudaGraphs, StaticPast, check_compiler
from causvid_cli.network.model import CausalTransformer
from causvid_cli.pipeline import load
from causvid_cli.request import Loading

ROUNDING = 5e-5
"""Sums in another order, carried from chunk to chunk; 2e-6 is measured, and a wrong place in the window costs 0.1."""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with torch.inference_mode():
        yield


def fused(*, merged: bool = True, frames: int = 1, backend: str = "aot_eager") -> CausalTransformer:
    """A network with compiled blocks; aot_eager traces as inductor does, and makes no C++ of it."""
    with pytest.MonkeyPatch.context() as patch:
        if not merged:
            patch.setattr(causal, "LARGEST_MERGED", 0)
        model = tiny_transformer().fuse()
    model._fused.compiled = CompiledBlock(CPU, frames=frames, backend=backend)
    return model


def plain_of(model: CausalTransformer) -> CausalTransformer:
    with pytest.MonkeyPatch.context() as patch:
        if not model._fused.blocks[0].merged:
            patch.setattr(causal, "LARGEST_MERGED", 0)
        return tiny_transformer().fuse()


def prompts_of(model: CausalTransformer) -> list[PromptCache]:
    rng = torch.Generator().manual_seed(3)
    return [model.prompt_cache(torch.randn(1, 5, SHAPE.text_dim, generator=rng)) for _ in range(2)]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


# --- compiled -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [True, False])
def test_one_compiled_block_serves_all_layers_steps_chunks_and_prompts(merged):
    model = fused(merged=merged)
    wanted = roll(plain_of(model), switching(prompts_of(model), 6), 12)
    assert_close(roll(model, switching(prompts_of(model), 6), 12), wanted, ROUNDING)
    assert graphs() == 1
    assert not counters["graph_break"]
    roll(model, prompts_of(model)[1], 9, cache=small_cache(model, window_frames=7))  # another length, the same block
    assert graphs() == 1


@pytest.mark.parametrize(
    ("sink", "window", "frames", "rope"),
    [(0, 5, 2, "relative"), (1, 5, 2, "relative"), (3, 3, 3, "relative"), (2, 4, 2, "absolute")],
)
def test_compiled_blocks_write_where_the_ring_is(sink, window, frames, rope):
    model = fused(frames=frames)
    prompt, options = prompts_of(model)[0], {"sink_frames": sink, "window_frames": window, "rope": rope}
    apart, compiled = (
        roll(m, prompt, 8 * frames, frames, cache=small_cache(m, **options)) for m in (plain_of(model), model)
    )
    assert_close(compiled, apart, ROUNDING)
    assert graphs() <= 1


@pytest.mark.parametrize(("sink", "window"), [pytest.param(0, 4, marks=pytest.mark.slow), (2, 4)])
def test_a_clean_pass_joined_with_a_step_is_compiled_once_more(sink, window):
    model = fused(frames=2)
    prompt, options = prompts_of(model)[0], {"sink_frames": sink, "window_frames": window}
    apart, joined = (
        roll(m, prompt, 16, 2, cache=small_cache(m, **options), merge_clean_pass=m is model)
        for m in (plain_of(model), model)
    )
    assert_close(joined, apart, ROUNDING)
    assert graphs() <= 3  # single calls; two parts, the second of which turns the sink or not


def test_chunks_of_another_size_are_not_compiled_for():
    model = fused(frames=2)
    wanted = roll(plain_of(model), prompts_of(model)[0], 3, prefix=prefix_of([1]), start_frame=1)
    assert_close(roll(model, prompts_of(model)[0], 3, prefix=prefix_of([1]), start_frame=1), wanted)
    assert graphs() == 0


@pytest.mark.slow
@pytest.mark.parametrize("merged", [True, False])
def test_what_inductor_makes_gives_the_same_frames(merged):
    model = fused(merged=merged, backend="inductor")
    wanted = roll(plain_of(model), prompts_of(model)[0], 9)
    assert_close(roll(model, prompts_of(model)[0], 9), wanted, ROUNDING)
    assert graphs() == 1


def test_without_a_compiler_that_is_said():
    with (
        inductor_config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(DeviceError, match="^--compile: torch finds no C.. compiler; install .*leave --compile out$"),
    ):
        check_compiler(CPU)


# --- recorded -----------------------------------------------------------------------------------------------------


class Recorder:
    """Plays a call again on the CPU, and notes what it is made with."""

    def __init__(self) -> None:
        self.recorded, self.played = 0, 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        out = run()

        def play() -> None:
            self.played += 1
            out.copy_(run())

        return play, out


def recorded(model: CausalTransformer) -> Recorder:
    model._fused.cuda_graphs = CudaGraphs(recorder := Recorder())
    return recorder


@pytest.mark.parametrize(("sink", "window"), [(0, 3), (1, 3)])
def test_recorded_calls_give_the_same_frames_and_are_recorded_once(sink, window):
    model = fused()
    options = {"sink_frames": sink, "window_frames": window}
    wanted = roll(plain_of(model), switching(prompts_of(model), 8), 14, cache=small_cache(model, **options))
    recorder = recorded(model)
    cache = small_cache(model, **options)
    assert_close(roll(model, switching(prompts_of(model), 8), 14, cache=cache), wanted, ROUNDING)
    assert recorder.recorded == 2  # a step, and the clean pass
    full = 14 - (sink + window) + 1  # chunks that see a full window
    assert recorder.played >= 2 * full


def test_a_recording_reads_nothing_but_what_stays_where_it_is():
    model = fused(backend="eager")
    recorder = recorded(model)
    seen: list[set[int]] = []
    plain = model._fused._run

    def watched(hidden, modulations, crosses, past, **options):
        if isinstance(past, StaticPast) and past.is_full:
            tensors = [hidden, *(t for row in (*modulations, *crosses, *past.parts, *past.windows) for t in row)]
            seen.append({t.data_ptr() for t in tensors if t.numel()})
        return plain(hidden, modulations, crosses, past, **options)

    model._fused._run = watched
    roll(model, switching(prompts_of(model), 8), 14)
    assert recorder.played > 10
    assert len({frozenset(addresses) for addresses in seen}) == 2  # of the two recordings


def test_recordings_end_with_their_cache():
    model = fused(backend="eager")
    recorder = recorded(model)
    for _ in range(2):
        roll(model, prompts_of(model)[0], 6)
    assert recorder.recorded == 4
    assert len(model._fused.cuda_graphs._made) == 0


# --- from the command's side ------------------------------------------------------------------------------------------


@pytest.fixture
def traced_only(monkeypatch) -> None:
    monkeypatch.setattr(CompiledBlock.__init__, "__kwdefaults__", {"backend": "aot_eager"})


def test_after_the_warm_up_nothing_is_compiled_any_more(tmp_path, traced_only):
    folder = tiny_pack(tmp_path / "tiny")
    options = {"length": "32f", "seed": 1}
    plain = load(folder, device="cpu").generate("a red car", **options)
    compiled = load(folder, device="cpu", loading=Loading(compile=True))
    stream = compiled.stream("a red car", **options)
    assert stream.warm_up() > 0
    made = graphs()
    assert made >= 1
    frames = np.concatenate([chunk.frames for chunk in stream])
    assert graphs() == made
    assert compiled.stream("a red car", **options).warm_up() == 0
    # rounding may turn a pixel whose two best palette entries are equally good
    assert (frames != plain).mean() < 1e-3


def test_compile_is_an_option_whose_wait_is_told_apart(tmp_path, traced_only, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack = tiny_pack(tmp_path / "tiny")
    result = makes("t2v", PROMPT, "-m", pack, "--length", "1s", "-o", "x.mp4", "--compile", "--json", "-v")
    assert "compiled in" in result.stderr
    said = json.loads(result.stdout)
    assert said["warm_up_s"] > 0
    assert said["generate_s"] < said["total_s"] - said["warm_up_s"]
