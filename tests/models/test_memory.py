"""What memory a video takes, told before anything is loaded, is what it takes when it is made."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from allocations import Allocations, counted
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from tiny import tiny_facts, tiny_pack
from torch import Tensor

from causvid_cli import device as devices
from causvid_cli.codec.taehv import TAEHV
from causvid_cli.codec.wan import WanCodec
from causvid_cli.config import Rope
from causvid_cli.errors import DeviceError
from causvid_cli.geometry import take_chunks
from causvid_cli.models import memory, memory_terms
from causvid_cli.models.catalogue import catalogue, find_checkpoint
from causvid_cli.models.empty import empty_network
from causvid_cli.models.memory import TEXT_ROWS, Estimate, Networks, Video, check_fits, estimate, networks_of
from causvid_cli.models.memory_terms import (
    ELSEWHERE,
    TaehvTerms,
    TransformerTerms,
    VaeTerms,
    count_weights,
    part_weights,
)
from causvid_cli.models.resolve import find_model
from causvid_cli.network import fused, model
from causvid_cli.network.model import CausalTransformer
from causvid_cli.request import Loading

BYTES = {torch.float32: 4, torch.bfloat16: 2}
SIZES = [(480, 832), (240, 416)]
CLOSE = 0.03
"""Of what the dispatcher counts: small things are left out, and nothing else."""
AGREES = 0.15
"""Of what a process takes: what the estimate promises."""
RANDOM = Loading(random_weights=True)
WAN = catalogue().architectures["wan2.1-1.3b"].config
VIDEO = Video(height=480, width=832, latent_frames=21)


def self_forcing(**changes: object) -> Networks:
    networks = networks_of(*find_model("self-forcing", loading=RANDOM), RANDOM)
    assert networks is not None
    return replace(networks, **changes)  # type: ignore[arg-type]


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(catalogue().architectures))
def test_one_block_of_a_transformer_stands_for_all(name):
    architecture = catalogue().architectures[name]
    terms = TransformerTerms.count(architecture.config)
    assert terms.weights == architecture.parameters == count_weights(empty_network("transformer", architecture.config))
    dim, ffn_dim = terms.dim, architecture.config["ffn_dim"]
    assert terms.block_linear == 8 * dim * dim + 2 * dim * ffn_dim
    assert terms.ffn_dim == ffn_dim


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_published_part_has_the_weights_that_are_said_of_it_and_is_not_built(part, monkeypatch):
    pytest.importorskip("transformers")
    config = catalogue().parts[part].config
    counted = count_weights(empty_network(part, config))
    smaller = config | ({"base_dim": 16} if part == "vae" else {"num_layers": 2})
    assert part_weights(part, smaller) == count_weights(empty_network(part, smaller)) < counted / 3
    monkeypatch.setattr(memory_terms, "empty_network", lambda *_: pytest.fail("it was built"))
    assert part_weights(part, config) == counted


def test_a_transformer_of_countless_blocks_is_counted_without_building_them():
    """2**40 of them, one by one, would take months."""
    many, one = (TransformerTerms.count(WAN | {"num_layers": layers}) for layers in (2**40, 1))
    assert many.weights == one.weights + (2**40 - 1) * one.block


# --- work, counted at full size on no device -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("base", [96, 32])
def test_decoding_by_the_vae_takes_what_is_told(size, dtype, base):
    config = catalogue().parts["vae"].config | {"base_dim": base}
    with torch.device("meta"):
        codec = WanCodec(torch.nn.Module.to(AutoencoderKLWan.from_config(config), dtype=dtype))
        latent = torch.empty(1, 16, 1, size[0] // 8, size[1] // 8, dtype=dtype)
    with counted() as allocations, torch.inference_mode():
        state = codec.decode_state()
        for _ in range(3):
            codec._decode(latent, state)
    held = sum(kept.nbytes for kept in state if isinstance(kept, Tensor))
    told = VaeTerms(config, 0).decode(size[0] // 8, size[1] // 8, BYTES[dtype])
    assert told == (held, pytest.approx(allocations.peak - held, rel=CLOSE))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", BYTES)
def test_encoding_by_the_vae_takes_what_is_told(size, dtype):
    config = catalogue().parts["vae"].config
    with torch.device("meta"):
        codec = WanCodec(torch.nn.Module.to(AutoencoderKLWan.from_config(config), dtype=dtype))
    with counted() as allocations, torch.inference_mode():
        state = codec.encode_state()
        for frames in (1, 4, 4):
            codec._encode(torch.empty(1, 3, frames, *size, dtype=dtype, device="meta"), state)
    held = sum(kept.nbytes for kept in state if isinstance(kept, Tensor))
    told = VaeTerms(config, 0).encode(size[0] // 8, size[1] // 8, BYTES[dtype])
    assert told == (held, pytest.approx(allocations.peak - held, rel=CLOSE))


def test_a_source_is_counted_where_it_is_encoded():
    plain, restyled = (told(Loading(random_weights=True), replace(VIDEO, has_source=has)) for has in (False, True))
    assert restyled.moments["a step"] - plain.moments["a step"] > 1e9
    assert restyled.moments["encoding the source"] > restyled.moments["a step"] - restyled.network_work


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", BYTES)
def test_decoding_by_taehv_takes_what_is_told(size, dtype):
    config = catalogue().parts["tiny_vae"].config
    with torch.device("meta"):
        codec = TAEHV.from_config(config).to(dtype=dtype)
        latent = torch.empty(1, 16, size[0] // 8, size[1] // 8, dtype=dtype)
    with counted() as allocations, torch.inference_mode():
        state = codec.decode_state()
        for _ in range(3):
            codec._decode(latent, state)
    held = sum(kept.untyped_storage().nbytes() for kept in state.values())
    told = TaehvTerms(config, 0).decode(size[0] // 8, size[1] // 8, BYTES[dtype])
    assert told == (pytest.approx(held, rel=CLOSE), pytest.approx(allocations.peak - held, rel=CLOSE))


@pytest.fixture
def no_attention(monkeypatch) -> None:
    """Kernels of attention work in place, but on the meta device torch takes one that does not."""
    for module in (model, fused):
        monkeypatch.setattr(module, "attention", lambda q, k, v, **options: torch.empty_like(q))


@pytest.mark.parametrize("name", list(catalogue().architectures))
@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("dtype", BYTES)
def test_a_step_and_the_past_take_what_is_told(name, is_fused, dtype, no_attention):
    config = catalogue().architectures[name].config | {"num_layers": 2}
    height, width = SIZES[0]
    network = CausalTransformer(empty_network("transformer", config)).to(dtype).eval().requires_grad_(False)
    if is_fused:
        network.fuse()
    rows, columns = height // 8, width // 8
    with torch.inference_mode(), counted() as allocations:
        prompt = network.prompt_cache(torch.empty(1, 512, config["text_dim"], device="meta", dtype=dtype))
        cache = network.kv_cache(latent_height=rows, latent_width=columns, window_frames=21)
        work = 0
        for chunk in take_chunks(9, 3):
            for timestep in (500.0, 0.0):
                before = allocations.peak = allocations.now
                latent = torch.empty(1, 16, 3, rows, columns, device="meta")
                network(latent, timestep, prompt, cache=cache, chunk=chunk, kv_only=timestep == 0)
                if chunk.index:  # the first computes the prompt's keys and values besides
                    work = max(work, allocations.peak - before)
            cache.commit()
    terms = TransformerTerms.count(config)
    assert terms.work(3 * rows * columns // 4, BYTES[dtype], fused=is_fused) == pytest.approx(work, rel=CLOSE)
    told = estimate(
        self_forcing(transformers=(terms,)),
        VIDEO,
        RANDOM,
        dtype=str(dtype).removeprefix("torch."),
        device="cuda",
    )
    assert told.cache == cache.nbytes
    assert told.prompt == pytest.approx(prompt.nbytes, rel=CLOSE)


def test_the_counter_counts():
    with Allocations() as allocations:
        a = torch.empty(1000)
        view = a.view(10, 100)
        b = a + 1
        del a
        assert allocations.now == 8000
        del view
        assert allocations.now == 4000
    assert (allocations.peak, b.nbytes) == (8000, 4000)


# --- the estimate --------------------------------------------------------------------------------------------------


def told(loading: Loading = RANDOM, video: Video = VIDEO, **options: object) -> memory.Estimate:
    return estimate(self_forcing(), video, loading, **{"dtype": "bfloat16", "device": "cuda"} | options)


def test_large_networks_are_those_whose_layers_are_not_merged():
    assert memory.LARGEST_MERGED == model.LARGEST_MERGED


def test_quantizing_offloading_and_the_tiny_vae_take_less():
    whole = told()
    int8, group = told(replace(RANDOM, quantize="int8")), told(replace(RANDOM, offload="group"))
    assert 0.5 < int8.network / whole.network < 0.55
    assert group.network < 0.15 * whole.network
    tiny = estimate(
        networks_of(*find_model("self-forcing", loading=RANDOM), replace(RANDOM, vae="tiny")),
        VIDEO,
        RANDOM,
        dtype="bfloat16",
        device="cuda",
    )
    assert tiny.codec == 2 * count_weights(empty_network("vae_tiny", catalogue().parts["tiny_vae"].config))
    assert tiny.codec_state + tiny.codec_work + tiny.codec < 0.25 * (whole.codec_state + whole.codec_work + whole.codec)


def test_a_second_network_is_counted_and_a_sink_that_is_never_turned_is_kept_once():
    video = Video(height=480, width=832, latent_frames=21)

    def told(name: str, rope: Rope | None = None, **loading: Any) -> Estimate:
        ways = Loading(random_weights=True, **loading)
        networks = networks_of(None, find_checkpoint(name).facts(), ways)
        return estimate(networks, replace(video, rope=rope), ways, dtype="bfloat16", device="cuda")

    for way in ({}, {"quantize": "int8"}, {"offload": "group"}):
        one, two = told("sgf", **way), told("sgf-plus", **way)
        assert two.network == 2 * one.network
        assert two.prompt == 2 * one.prompt
        assert (two.cache, two.codec, two.network_work) == (one.cache, one.codec, one.network_work)
    assert told("longlive").cache * (2 * 12 + 3) == told("longlive", "relative").cache * 2 * 12


def test_networks_of_one_model_are_counted_each_by_its_own_size():
    one = self_forcing()
    (large,) = one.transformers
    small = replace(large, layers=1)  # small enough that its layers are fused
    two = replace(one, facts=replace(one.facts, opening_network="opening"), transformers=(large, small), file_bytes={})
    assert two.weights == large.weights + small.weights

    def told(networks: Networks) -> Estimate:
        return estimate(networks, VIDEO, RANDOM, dtype="bfloat16", device="cuda")

    alone, both = told(one), told(two)
    assert both.network - alone.network == 2 * small.weights + 2 * small.layers * small.block_linear
    assert both.prompt - alone.prompt == TEXT_ROWS * small.dim * (2 * small.layers + 1) * 2
    assert both.cache - alone.cache == 2 * one.facts.chunk_frames * small.kept(60 * 104) * 2  # its own chunk's alone
    assert both.network_work == alone.network_work


def test_a_short_video_and_a_small_one_take_less_of_the_past():
    short = told(video=replace(VIDEO, latent_frames=3))
    assert short.cache * 7 == told().cache
    assert told(video=replace(VIDEO, latent_frames=None)).cache == told().cache  # the window
    small = told(video=replace(VIDEO, height=240, width=416))
    assert small.cache * 4 == told().cache
    assert told(video=replace(VIDEO, guided=True)).prompt == 2 * told().prompt


def test_umt5_takes_memory_only_where_it_works():
    text = catalogue().parts["text_encoder"].parameters

    def of(offload: str, device: str) -> int:
        loading = replace(RANDOM, offload=offload)  # type: ignore[arg-type]
        return estimate(self_forcing(text_weights=text), VIDEO, loading, dtype="bfloat16", device=device).text  # type: ignore[arg-type]

    assert of("none", "cuda") == 2 * text
    assert (of("text", "cuda"), of("group", "cuda")) == (0, 0)
    assert of("text", "cpu") == of("none", "cpu") == 2 * text


def test_a_file_of_another_format_is_read_beside_what_it_becomes():
    half = {"transformer": 2 * TransformerTerms.count(WAN).weights}
    converted = estimate(self_forcing(file_bytes=half), VIDEO, RANDOM, dtype="float32")
    assert converted.reading == half["transformer"]
    assert estimate(self_forcing(file_bytes=half), VIDEO, RANDOM, dtype="bfloat16").reading == 0


def test_of_several_processes_each_has_its_part_of_the_past_and_of_the_work_and_all_weights():
    alone, one_of_four = (
        estimate(self_forcing(), replace(VIDEO, processes=count), RANDOM, dtype="bfloat16", device="cuda")
        for count in (1, 4)
    )
    assert one_of_four.cache * 4 == alone.cache
    assert one_of_four.network_work * 4 == pytest.approx(alone.network_work)
    assert (one_of_four.network, one_of_four.codec) == (alone.network, alone.codec)


def test_a_codec_elsewhere_takes_nothing_here():
    elsewhere = replace(self_forcing(), codec=ELSEWHERE)
    taken = estimate(elsewhere, VIDEO, RANDOM, dtype="bfloat16", device="cuda")
    assert (taken.codec, taken.codec_state, taken.codec_work) == (0, 0, 0)


# --- whether it fits -----------------------------------------------------------------------------------------------

GB = 10**9


def fits(free: float, offload: str = "none", **options: object) -> tuple[Loading, str]:
    loading = replace(RANDOM, offload=offload)  # type: ignore[arg-type]
    given = {"dtype": "bfloat16", "device": "cuda", "name": "cuda:0"} | options
    return check_fits(self_forcing(), VIDEO, loading, free=round(free * GB), **given)  # type: ignore[arg-type]


def test_what_fits_is_loaded_as_it_is_asked_for():
    assert fits(24) == (RANDOM, "")


def test_what_does_not_fit_is_refused_in_one_line_with_what_would():
    with pytest.raises(DeviceError) as raised:
        fits(12)
    said = str(raised.value)
    assert said.startswith(
        "self-forcing at 832x480 in bfloat16 takes about 13.5 GB, and cuda:0 has 12.0 GB free; try --offload group ("
    )
    assert "\n" not in said
    assert raised.value.exit_code == 5
    with pytest.raises(DeviceError, match="no single option makes it fit"):
        fits(0.5)


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (14, "takes about 13.5 GB and a tenth to spare, and cuda:0 has 14.0 GB free"),
        (4e-5, "takes about 13.5 GB, and cuda:0 has 40.0 kB free"),
    ],
)
def test_what_is_said_of_memory_explains_the_refusal(free, said):
    with pytest.raises(DeviceError, match=said):
        fits(free)


def test_on_a_cpu_other_remedies_are_named():
    with pytest.raises(DeviceError, match=r"cpu has 20.0 GB free; try --dtype bfloat16 \(15.3 GB\) or --size"):
        fits(20, dtype="float32", device="cpu", name="cpu")


@pytest.mark.parametrize(("free", "wanted"), [(24, "none"), (12.2, "group")])
def test_auto_offloads_what_there_is_no_room_for_and_says_so(free, wanted):
    loading, note = fits(free, "auto")
    assert loading.offload == wanted
    assert note.startswith(f"--offload auto: {wanted}, which takes about 1")
    assert note.endswith(f"of {free:.1f} GB free on cuda:0")


def test_auto_keeps_the_text_encoder_off_first():
    networks = self_forcing(text_weights=catalogue().parts["text_encoder"].parameters)
    loading = replace(RANDOM, offload="auto")
    chosen, _ = check_fits(
        networks, VIDEO, loading, dtype="bfloat16", device="cuda", free=round(15.5 * GB), name="cuda:0"
    )
    assert chosen.offload == "text"


def test_auto_that_cannot_fit_is_refused_too():
    with pytest.raises(DeviceError, match="try --size"):
        fits(8, "auto")


def test_free_memory_is_what_the_container_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    cpu = torch.device("cpu")
    unlimited = devices.free_memory_bytes(cpu)
    assert unlimited > 0
    for name, text in (("max", "max"), ("current", "900"), ("stat", "anon 5\ninactive_file 300\n")):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert devices.free_memory_bytes(cpu) == pytest.approx(unlimited, rel=0.2)
    (tmp_path / "memory.max").write_text("1000\n")
    assert devices.free_memory_bytes(cpu) == 400


def test_a_pack_that_cannot_be_read_is_left_to_loading(tmp_path):
    pack = tiny_pack(tmp_path / "pack")
    model = find_model(pack)
    assert networks_of(*model, Loading()) is not None
    (pack / "transformer" / "config.json").write_text("{")
    assert networks_of(*model, Loading()) is None


def test_storybook_fits_anywhere():
    networks = networks_of(*find_model("storybook"), Loading())
    assert networks is not None
    facts = tiny_facts()
    assert estimate(networks, Video(height=facts.height, width=facts.width), Loading(), dtype="float32").peak < 0.2 * GB


def test_it_loads_nothing_slow():
    code = "import sys, causvid_cli.models.memory; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- against the memory of a process -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", ["160x288", "240x416"])
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_process_takes_what_is_told(dtype, size, quantize):
    """A third of a billion random weights of Wan's form on a CPU; the program itself aside."""
    script = Path(__file__).parents[1].joinpath("measured_memory.py")
    done = subprocess.run([sys.executable, script, dtype, size, quantize], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["told"] == pytest.approx(measured["took"], rel=AGREES), measured
