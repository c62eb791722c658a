import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from causvid_cli.codec.wan import WanCodec
from causvid_cli.errors import MediaError, ModelError, UsageError
from causvid_cli.weights.files import save_safetensors

WAN21 = {"dim_mult": [1, 1, 2, 2], "temperal_downsample": [False, True, True]}
WAN22 = WAN21 | {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
SHALLOW = {"dim_mult": [1, 2], "temperal_downsample": [True]}
SPLITS = [[6], [1] * 6, [1, 5], [5, 1], [2, 1, 3], [3, 3]]


def tiny_vae(options: dict) -> AutoencoderKLWan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
            **options,
        )


@pytest.fixture(params=[WAN21, WAN22, SHALLOW], ids=["wan2.1", "wan2.2", "shallow"])
def codec(request) -> WanCodec:
    return WanCodec(tiny_vae(request.param))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixels_of(codec: WanCodec, latent_frames: int, *, seed: int = 0) -> Tensor:
    height, width = 2 * codec.facts.spatial_factor, 3 * codec.facts.spatial_factor
    return noise(2, 3, codec.facts.frames(latent_frames), height, width, seed=seed).clamp(-1, 1)


def frame_counts(codec: WanCodec, split: list[int]) -> list[int]:
    return [codec.facts.frames(n, start=sum(split[:i])) for i, n in enumerate(split)]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_decoding_by_chunks_equals_decoding_at_once_bit_for_bit(codec, split):
    x0 = noise(2, 4, 6, 2, 3)
    whole = codec.decode_pixels(x0, state=codec.decode_state())
    state = codec.decode_state()
    chunks = [codec.decode_pixels(chunk, state=state) for chunk in x0.split(split, dim=2)]
    assert [chunk.shape[2] for chunk in chunks] == frame_counts(codec, split)
    assert torch.equal(torch.cat(chunks, dim=2), whole)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_encoding_by_chunks_equals_encoding_at_once_bit_for_bit(codec, split):
    pixels = pixels_of(codec, 6)
    whole = codec.encode_pixels(pixels, state=codec.encode_state())
    state = codec.encode_state()
    chunks = [codec.encode_pixels(chunk, state=state) for chunk in pixels.split(frame_counts(codec, split), dim=2)]
    assert [chunk.shape[2] for chunk in chunks] == split
    assert torch.equal(torch.cat(chunks, dim=2), whole)


@pytest.mark.parametrize("options", [WAN21, WAN22], ids=["wan2.1", "wan2.2"])
def test_whole_videos_come_out_as_diffusers_makes_them(options):
    codec = WanCodec(tiny_vae(options))
    mean, std = (torch.tensor(codec.vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    x0, pixels = noise(1, 4, 4, 2, 3), pixels_of(codec, 4)
    decoded = codec.decode_pixels(x0, state=codec.decode_state()).clamp(-1, 1)
    encoded = codec.encode_pixels(pixels, state=codec.encode_state())
    # diffusers runs its 1x1x1 convolutions on all frames at once: other rounding
    torch.testing.assert_close(decoded, codec.vae.decode(x0 * std + mean).sample, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded, (codec.vae.encode(pixels).latent_dist.mean - mean) / std, atol=1e-5, rtol=0)


def test_two_interleaved_videos_do_not_touch_each_other(codec):
    videos = [noise(1, 4, 4, 2, 3, seed=seed) for seed in (1, 2)]
    alone = [codec.decode_pixels(x0, state=codec.decode_state()) for x0 in videos]
    states = [codec.decode_state() for _ in videos]
    together: list[list[Tensor]] = [[], []]
    for frame in range(4):
        for x0, state, made in zip(videos, states, together, strict=True):
            made.append(codec.decode_pixels(x0[:, :, frame : frame + 1], state=state))
    codec.vae.decode(videos[0])  # diffusers' own cache is another one
    for made, wanted in zip(together, alone, strict=True):
        assert torch.equal(torch.cat(made, dim=2), wanted)


def test_sizes_are_as_geometry_promises(codec):
    facts = codec.facts
    frames = codec.decode_chunk(noise(2, 4, 3, 2, 3), state=codec.decode_state())
    assert frames.dtype == torch.uint8
    assert frames.shape == (2, facts.frames(3), 2 * facts.spatial_factor, 3 * facts.spatial_factor, 3)
    x0 = codec.encode_chunk(frames, state=codec.encode_state())
    assert x0.shape == (2, facts.latent_channels, facts.latent_frames(frames.shape[1]), 2, 3)


def test_each_pixel_can_be_painted_as_a_square(codec):
    x0 = noise(2, 4, 2, 2, 3)
    frames, large = (codec.decode_chunk(x0, state=codec.decode_state(), enlarge=n) for n in (1, 3))
    assert torch.equal(large, frames.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3))


def test_pictures_are_clamped_and_rounded_pixels(codec):
    x0 = 4 * noise(1, 4, 2, 2, 3)
    pixels = codec.decode_pixels(x0, state=codec.decode_state())
    frames = codec.decode_chunk(x0, state=codec.decode_state())
    wanted = (pixels.clamp(-1, 1) + 1) * 127.5
    assert (frames.permute(0, 4, 1, 2, 3) - wanted).abs().max() <= 0.5 + 1e-4  # half a step of 8 bits
    again = codec.encode_pixels(frames.permute(0, 4, 1, 2, 3) / 127.5 - 1, state=codec.encode_state())
    assert torch.equal(codec.encode_chunk(frames, state=codec.encode_state()), again)


def test_a_number_of_pictures_that_fills_no_latent_frames_names_the_nearest():
    codec = WanCodec(tiny_vae(WAN21))
    pixels, state = pixels_of(codec, 3), codec.encode_state()
    with pytest.raises(MediaError, match="^7 frames do not fill whole latent frames; try 5 or 9$"):
        codec.encode_pixels(pixels[:, :, :7], state=state)
    with pytest.raises(MediaError, match="try 1$"):
        codec.encode_pixels(pixels[:, :, :0], state=state)
    codec.encode_pixels(pixels[:, :, :5], state=state)
    with pytest.raises(MediaError, match="^5 frames do not fill whole latent frames; try 4 or 8$"):
        codec.encode_pixels(pixels[:, :, :5], state=state)
    with pytest.raises(MediaError, match="0 latent frames"):
        codec.decode_pixels(noise(1, 4, 0, 2, 3), state=codec.decode_state())


def test_a_size_that_would_be_cut_is_refused():
    codec = WanCodec(tiny_vae(WAN21))
    with pytest.raises(UsageError, match="^width 20 is not a multiple of 8; try 16 or 24$"):
        codec.encode_pixels(torch.zeros(1, 3, 1, 16, 20), state=codec.encode_state())


def saved(vae: AutoencoderKLWan, folder: Path, **without: bool) -> Path:
    vae.save_config(folder)
    state = {name: tensor for name, tensor in vae.state_dict().items() if name not in without}
    save_safetensors(state, folder, dtype=torch.float32, shard_bytes=8000)
    return folder


def test_a_saved_codec_decodes_the_same(tmp_path):
    vae = tiny_vae(WAN21)
    loaded = WanCodec.from_pack(saved(vae, tmp_path), device="cpu", dtype=torch.float32)
    codec, x0 = WanCodec(vae), noise(1, 4, 2, 2, 3)
    assert torch.equal(
        loaded.decode_pixels(x0, state=loaded.decode_state()), codec.decode_pixels(x0, state=codec.decode_state())
    )


def test_a_saved_codec_loads_in_bfloat16(tmp_path):
    codec = WanCodec.from_pack(saved(tiny_vae(WAN21), tmp_path), device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in codec.vae.parameters()} == {torch.bfloat16}
    assert codec.decode_pixels(noise(1, 4, 2, 2, 3), state=codec.decode_state()).dtype == torch.float32


def test_a_codec_with_a_tensor_missing_is_refused(tmp_path):
    folder = saved(tiny_vae(WAN21), tmp_path, **{"quant_conv.bias": True})
    with pytest.raises(ModelError, match=r"1 missing \(quant_conv.bias\)"):
        WanCodec.from_pack(folder, device="cpu", dtype=torch.float32)


def test_another_network_is_refused(tmp_path):
    folder = saved(tiny_vae(WAN21), tmp_path)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ModelError, match="'AutoencoderKL' instead of 'AutoencoderKLWan'"):
        WanCodec.from_pack(folder, device="cpu", dtype=torch.float32)
