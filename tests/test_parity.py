"""Our numbers against those that the published programs produced (golden/, or --golden-dir DIR).

Shapes, sizes and variants are read from the recordings; several of one kind may lie in the folder.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from conftest import Recording, find_recordings
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from causvid_cli.codec.wan import WanCodec
from causvid_cli.geometry import Chunk, take_chunks
from causvid_cli.models.catalogue import catalogue, find_checkpoint
from causvid_cli.models.install.conversion import ConversionSpec
from causvid_cli.models.install.convert import convert
from causvid_cli.models.install.identify import identify_network
from causvid_cli.models.load import load_transformer
from causvid_cli.network.cache import KVCache
from causvid_cli.network.masks import frame_mask, teacher_forcing_mask
from causvid_cli.network.model import CausalTransformer
from causvid_cli.pipeline import GIVEN
from causvid_cli.sampling.context import commit_chunk
from causvid_cli.sampling.noise import Noise
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import (
    Step,
    add_noise,
    flow_from_x0,
    nearest_index,
    sigma_of,
    sigma_table,
    steps_of,
    timestep_table,
    warp,
    x0_from_flow,
)
from causvid_cli.weights.files import load_state


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def compared_kinds() -> set[str]:
    marks = [mark for test in globals().values() for mark in getattr(test, "pytestmark", [])]
    return {kind for mark in marks if mark.name == "golden" for kind in mark.args}


def test_every_recording_is_compared_by_some_test(golden_dir):
    known = compared_kinds()
    assert not [recording.path for recording in find_recordings(golden_dir) if not recording.is_of(known)]


def test_every_comparison_has_a_recording_of_ours():
    ours = find_recordings(Path(__file__).parent / "golden")
    assert not [kind for kind in compared_kinds() if not any(recording.is_of([kind]) for recording in ours)]


def test_a_folder_without_recordings_fails(tmp_path):
    with pytest.raises(pytest.UsageError, match="holds no golden recordings"):
        find_recordings(tmp_path)


def variants(recording, leaf: str) -> list[str]:
    """The prefixes, such as "decode", under which a recording holds a tensor of this name."""
    return [name.removesuffix(f"/{leaf}") for name in recording.tensors if name.endswith(f"/{leaf}")]


# --- names ---------------------------------------------------------------------------------------------------------


PREFIXES = ["", "model.", "model.diffusion_model.", "net.", "model._fsdp_wrapped_module."]


@pytest.mark.golden("keys")
@pytest.mark.parametrize("prefix", PREFIXES)
def test_published_names_and_shapes_are_recognised_and_taken_whole(recording, prefix):
    keys, config = recording.meta["keys"], recording.meta["config"]
    assert len(keys) == recording.meta["num_keys"]
    network = identify_network(
        {f"{prefix}{name}": tuple(facts["shape"]) for name, facts in keys.items()}, where="published"
    )
    assert network.names == {f"{prefix}{name}": facts["diffusers"] for name, facts in keys.items()}
    assert network.shapes == {facts["diffusers"]: tuple(facts["shape"]) for facts in keys.values()}
    assert network.parameters == recording.meta["num_parameters"]
    kind = AutoencoderKLWan if "z_dim" in config else WanTransformer3DModel
    with torch.device("meta"):
        module = kind.from_config(network.config)
        load_state(module, {name: torch.empty(shape) for name, shape in network.shapes.items()}, name="published")
    if "num_layers" in config:
        assert (network.config["num_layers"], network.config["num_attention_heads"]) == (
            config["num_layers"],
            config["num_heads"],
        )
        assert network.config in [architecture.config for architecture in catalogue().architectures.values()]


# --- weights -------------------------------------------------------------------------------------------------------


Import = Callable[[Recording, str, dict], Path]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Import:
    """`imported(recording, part, config)`: a part's folder in a pack, made from a .pt as users have them, once.

    config: what lies beside the .pt as config.json.
    """
    made: dict[Path, Path] = {}

    def from_pickle(recording: Recording, part: str, config: dict) -> Path:
        if recording.path not in made:
            folder = tmp_path_factory.mktemp(recording.path.stem)
            weights = recording.under("weights/")
            wrapped = {"generator": {f"model.{name}": tensor for name, tensor in weights.items()}}
            torch.save(wrapped if part == "transformer" else weights, folder / "model.pt")
            spec = ConversionSpec(
                source=str(folder / "model.pt"), target=str(folder / part), dtype="float32", config=config
            )
            convert([spec], approve=lambda seen: None, report=lambda count: None)
            made[recording.path] = folder / part
        return made[recording.path]

    return from_pickle


# --- VAE -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded_codec(recording, imported) -> WanCodec:
    meta = recording.meta
    config = {
        "_class_name": "AutoencoderKLWan",
        "base_dim": meta["dim"],
        "z_dim": meta["z_dim"],
        "dim_mult": meta["dim_mult"],
        "num_res_blocks": meta["num_res_blocks"],
        "temperal_downsample": meta["temporal_downsample"],
        "latents_mean": meta["latents_mean"],
        "latents_std": meta["latents_std"],
    }
    return WanCodec.from_pack(imported(recording, "vae", config), device="cpu", dtype=torch.float32)


def splits_of(latent_frames: int) -> dict[str, list[int]]:
    """Ways to cut a video into chunks of latent frames."""
    half = latent_frames // 2
    splits = {
        "whole": [latent_frames],
        "one by one": [1] * latent_frames,
        "1 + rest": [1, latent_frames - 1],
        "rest + 1": [latent_frames - 1, 1],
        "halves": [half, latent_frames - half],
    }
    return {name: [n for n in split if n] for name, split in splits.items()}


@pytest.mark.golden("vae")
def test_vae_recordings_hold_what_is_compared(recording):
    assert variants(recording, "pixels_unclamped") or variants(recording, "pixels")


@pytest.mark.golden("vae")
def test_vae_decodes_as_published_at_any_split(recording, recorded_codec, close):
    codec = recorded_codec
    for variant in variants(recording, "pixels_unclamped"):
        x0 = recording.tensors[f"{variant}/latents"].transpose(1, 2)  # [B, F, C, h, w] -> [B, C, F, h, w]
        wanted = recording.tensors[f"{variant}/pixels_unclamped"].transpose(1, 2)
        splits = splits_of(x0.shape[2])
        if sum(example := recording.meta.get("example_chunking", [])) == x0.shape[2]:
            splits["example"] = example
        for name, split in splits.items():
            state = codec.decode_state()
            pixels = [codec.decode_pixels(chunk, state=state) for chunk in x0.split(split, dim=2)]
            close(f"{variant}, {name} {split}", torch.cat(pixels, dim=2), wanted)
            if name == "example" and (counts := recording.meta.get("example_chunk_pixel_frames")):
                assert [chunk.shape[2] for chunk in pixels] == counts


@pytest.mark.golden("vae")
def test_vae_encodes_as_published_at_any_split(recording, recorded_codec, close):
    codec = recorded_codec
    for variant in variants(recording, "pixels"):
        pixels = recording.tensors[f"{variant}/pixels"].transpose(1, 2)
        wanted = recording.tensors[f"{variant}/latents"].transpose(1, 2)
        for name, split in splits_of(wanted.shape[2]).items():
            starts = [sum(split[:i]) for i in range(len(split))]
            frames = [codec.facts.frames(n, start=start) for n, start in zip(split, starts, strict=True)]
            state = codec.encode_state()
            x0 = [codec.encode_pixels(chunk, state=state) for chunk in pixels.split(frames, dim=2)]
            close(f"{variant}, {name} {split}", torch.cat(x0, dim=2), wanted)


# --- noise levels --------------------------------------------------------------------------------------------------


@pytest.mark.golden("scheduler")
def test_noise_levels_are_as_published(recording, close):
    tensors, timesteps = recording.tensors, recording.tensors["query_timesteps"]
    clean, noise, flow = (tensors[name].unsqueeze(2) for name in ("clean", "noise", "flow"))  # [N, C, 1, h, w]
    assert recording.meta["shifts"]
    for shift in recording.meta["shifts"]:
        sigma = sigma_of(timesteps, shift=shift)
        x_t = add_noise(clean, noise, sigma)
        ours = {
            "sigmas": sigma_table(shift),
            "timesteps": timestep_table(shift),
            "nearest_index": nearest_index(timesteps, shift=shift).float(),
            "sigma_of_query": sigma,
            "noisy": x_t.squeeze(2),
            "x0_from_flow": x0_from_flow(x_t, flow, sigma).squeeze(2),
            "flow_from_x0": flow_from_x0(x_t, clean, sigma).squeeze(2),
        }
        for name, wanted in recording.under(f"shift{shift:g}/").items():
            kind, _, nominal = name.partition("warped_")  # warped_1000_750, sigma_unwarped_1000_750
            listed = [float(n) for n in nominal.split("_") if n]
            if kind == "sigma_un":
                got = sigma_of(torch.tensor(listed), shift=shift)
            else:
                got = warp(listed, shift=shift) if listed else ours[name]
            close(f"shift {shift:g}, {name}", got, wanted)


# --- transformer ---------------------------------------------------------------------------------------------------


def cells(latents: Tensor) -> Tensor:
    """Recorded [B, F, C, h, w] -> ours [B, C, F, h, w], and back."""
    return latents.transpose(1, 2)


@pytest.fixture
def recorded_model(recording, imported) -> CausalTransformer:
    folder = imported(recording, "transformer", recording.meta["config"])
    meta = recording.meta
    context_noise = float(meta.get("context_noise", meta.get("clean_pass_timestep", 0)))
    return load_transformer(folder, find_checkpoint("self-forcing").facts(context_noise=context_noise))


def empty_cache(recording: Recording, model: CausalTransformer, **options: object) -> KVCache:
    height, width = recording.meta["latent_hw"]
    batch = len(recording.tensors["prompt_embeds"])
    cache = model.kv_cache(latent_height=height, latent_width=width, batch=batch, **options)
    assert cache.tokens_per_latent_frame == recording.meta["tokens_per_frame"]
    return cache


def check_keys_values(close, label: str, cache: KVCache, recorded: dict[str, Tensor]) -> None:
    """Compare what a cache holds with recorded `layerN_k` and `layerN_v`."""
    for name, wanted in recorded.items():
        layer, kind = re.fullmatch(r"layer(\d+)_([kv])", name).groups()
        keys, values = cache.held(int(layer))
        close(f"{label} {name}", keys if kind == "k" else values, wanted)


CALLS = {"a": 0, "b": 1, "c": 1}
"""Single recorded calls -> which chunk they are for; each finds in the cache what the chunk before left there."""


@pytest.mark.golden("causvid_forward")
@pytest.mark.parametrize("rope", ["absolute", "relative"])
def test_single_calls_are_as_published(recording, recorded_model, rope, close):
    frames, shift = recording.meta["frames_per_chunk"], recording.meta["timestep_shift"]
    model = recorded_model
    prompt = model.prompt_cache(recording.tensors["prompt_embeds"])
    cache = empty_cache(recording, model, window_frames=2 * frames, rope=rope)
    for call in sorted(variants(recording, "flow")):
        made = recording.under(f"{call}/")
        x_t, timestep = cells(made["x"]), made["timestep"]
        flow = model(x_t, timestep, prompt, cache=cache, chunk=Chunk(CALLS[call], CALLS[call] * frames, frames))
        close(f"{call}/flow", cells(flow), made["flow"])
        if "x0" in made:
            sigma = sigma_of(timestep, shift=shift).view_as(timestep)
            close(f"{call}/x0", cells(x0_from_flow(x_t, flow, sigma)), made["x0"])
        if call == "a":
            cache.commit()
            check_keys_values(close, call, cache, recording.under("a/kv_"))


MASKS = {"block_causal", "block_causal_local", "first_frame_alone", "teacher_forcing"}


@pytest.mark.golden("block_masks")
def test_whole_clips_under_masks_are_as_published(recording, recorded_model, close):
    model, meta = recorded_model, recording.meta
    prompt = model.prompt_cache(recording.tensors["prompt_embeds"])
    found = variants(recording, "flow")
    assert found and set(found) <= MASKS
    for variant in found:
        given = recording.tensors | recording.under(f"{variant}/")  # its own x and timestep, or the file's
        first_frames = 1 if variant == "first_frame_alone" else None
        frames = given["x"].shape[1]
        layout = [chunk.frames for chunk in take_chunks(frames, meta["num_frame_per_block"], first_frames=first_frames)]
        window = meta["local_attn_size"] if variant.endswith("_local") else 0
        if variant == "teacher_forcing":
            mask, clean = teacher_forcing_mask(layout, window_frames=window), cells(given["clean_x"])
        else:
            mask, clean = frame_mask(layout, window_frames=window), None
        flow = model.forward_whole(cells(given["x"]), given["timestep"], prompt, mask=mask, clean=clean)
        close(f"{variant} {layout}", cells(flow), given["flow"])


@dataclass
class Made:
    """What our roll-out of a recorded variant gave; the last chunk's clean pass included, as the official one has it.

    flow, x0: [step][chunk] -> [B, C, f, h, w] of every network call.
    """

    latents: Tensor
    cache: KVCache
    end_frame: int
    steps: tuple[Step, ...]
    flow: list[list[Tensor]] = field(default_factory=list)
    x0: list[list[Tensor]] = field(default_factory=list)

    def every(self, name: str) -> Tensor:
        """All calls of one kind as recorded: [step, B, F, C, h, w]."""
        return torch.stack([cells(torch.cat(chunks, dim=2)) for chunks in getattr(self, name)])


def recorded_noise(recording: Recording, variant: str, *, given_frames: int) -> Noise:
    """A variant's own noise covers generated frames only; the file's covers all frames of the video."""

    def draw(chunk: Chunk, step: int) -> Tensor:
        name = "renoise" if step else "noise"
        own = recording.tensors.get(f"{variant}{name}")
        noise, start = (recording.tensors[name], 0) if own is None else (own, given_frames)
        noise = noise[step - 1] if step else noise
        return cells(noise[:, chunk.start_frame - start : chunk.end_frame - start])

    return draw


def replay(recording: Recording, model: CausalTransformer, variant: str, **cache_options: object) -> Made:
    """Roll a variant ("" or a prefix that ends in a slash) out from its recorded noise and given frames."""
    tensors, meta = recording.tensors, recording.meta
    prompt = model.prompt_cache(tensors["prompt_embeds"])
    steps = steps_of(meta["denoising_steps"], shift=meta["timestep_shift"], warped=meta["warp_denoising_step"])
    frames = tensors[f"{variant}latents"].shape[1]
    given = next((tensors[n] for n in (f"{variant}start_latents", f"{variant}initial_latent") if n in tensors), None)
    given_frames = 0 if given is None else given.shape[1]
    first_frames = 1 if variant.endswith("_first/") else None  # the official independent_first_frame
    layout = list(take_chunks(frames, meta["num_frame_per_block"], first_frames=first_frames))
    prefix = [
        (replace(chunk, index=GIVEN), cells(given[:, chunk.start_frame : chunk.end_frame]))  # clean whatever is taught
        for chunk in layout
        if chunk.end_frame <= given_frames
    ]
    assert sum(chunk.frames for chunk, _ in prefix) == given_frames
    cache = empty_cache(recording, model, **{"window_frames": frames, **cache_options})
    calls = []

    def note(_: object, args: tuple, options: dict, output: Tensor) -> None:
        if not options.get("kv_only"):  # a clean pass, whose timestep may be that of a step
            calls.append((args[0], args[1], output))

    hook = model.register_forward_hook(note, with_kwargs=True)

    made = rollout(
        model,
        prompt=lambda _: prompt,
        steps=steps,
        cache=cache,
        chunks=layout[len(prefix) :],
        noise=recorded_noise(recording, variant, given_frames=given_frames),
        prefix=prefix,
    )
    latents = [*prefix, *made]
    commit_chunk(model, *latents[-1], prompt, cache)  # ours leaves the last clean pass out
    hook.remove()

    result = Made(cells(torch.cat([x0 for _, x0 in latents], dim=2)), cache, layout[-1].end_frame, steps)
    for step in steps:
        made_here = [(x_t, flow) for x_t, timestep, flow in calls if timestep == step.timestep]
        result.flow.append([flow for _, flow in made_here])
        result.x0.append([x0_from_flow(x_t, flow, step.sigma) for x_t, flow in made_here])
    return result


@pytest.mark.golden("causvid_rollout", "selfforcing_rollout")
@pytest.mark.parametrize("rope", ["absolute", "relative"])
def test_rollouts_are_as_published(recording, recorded_model, rope, close):
    meta = recording.meta  # nothing is evicted: relative positions must give the absolute form's numbers
    assert meta.get("local_attn_size", -1) == -1, "a window: compare it as rolling_window"
    found = [name.removesuffix("latents") for name in recording.tensors if re.fullmatch(r"(\w+/)?latents", name)]
    assert "" in found
    for variant in found:
        label = variant.removesuffix("/") or "plain"
        made = replay(recording, recorded_model, variant, rope=rope)
        close(f"{label} latents", made.latents, recording.tensors[f"{variant}latents"])
        timesteps = torch.tensor([step.timestep for step in made.steps])
        close(f"{label} timesteps", timesteps, torch.tensor(meta["effective_timesteps"], dtype=torch.float32))
        for name, wanted in recording.under(f"{variant}steps/").items():
            close(f"{label} steps/{name}", timesteps if name == "timestep" else made.every(name), wanted)
        check_keys_values(close, f"{label} cache", made.cache, recording.under(f"{variant}kv_final/"))


def windows(recording: Recording) -> Iterator[tuple[str, dict[str, object]]]:
    """Every variant of a rolling window, and the cache that its name asks for."""
    for variant in variants(recording, "latents"):
        if variant == "full_context":
            yield variant, {"rope": "absolute"}
            yield variant, {"rope": "relative"}  # nothing is evicted: it must be the same
            continue
        form, sink = re.fullmatch(r"(window|relrope)_sink(\d+)", variant).groups()
        size = {"sink_frames": int(sink), "window_frames": recording.meta["local_attn_size"] - int(sink)}
        yield variant, {"rope": "relative" if form == "relrope" else "absolute", **size}


@pytest.mark.golden("rolling_window")
def test_rolling_windows_are_as_published(recording, recorded_model, close):
    assert {f"window_sink{n}" for n in recording.meta["sink_sizes"]} <= {variant for variant, _ in windows(recording)}
    for variant, options in windows(recording):
        wanted = recording.under(f"{variant}/")
        made = replay(recording, recorded_model, f"{variant}/", **options)
        label = f"{variant} ({options['rope']})"
        close(f"{label} latents", made.latents, wanted["latents"])
        per_frame = made.cache.tokens_per_latent_frame
        for name, tokens in (
            ("local_end_index", len(made.cache.frames()) * per_frame),
            ("global_end_index", made.end_frame * per_frame),
        ):
            if name in wanted:
                close(f"{label} {name}", torch.tensor([float(tokens)]), wanted[name])
        check_keys_values(close, f"{label} cache", made.cache, recording.under(f"{variant}/kv_final_"))
