"""TAEHV under its published names: against a plain reading of its description, chunk by chunk, and from files."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from causvid_cli.codec.taehv import TAEHV
from causvid_cli.errors import MediaError, ModelError, UsageError
from causvid_cli.models.catalogue import catalogue

SMALL = {"latent_channels": 4, "encoder_channels": 8, "channels": (16, 8, 8, 8)}
SPLITS = [[6], [1] * 6, [1, 5], [5, 1], [2, 1, 3], [3, 3]]


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of taew2_1, as the architecture of madebyollin/taehv has them (`taehv.py` at 115aaa7)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, side: int = 3, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, side, side)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def memory(name: str, width: int) -> None:
        conv(f"{name}.conv.0", 2 * width, width)
        conv(f"{name}.conv.2", width, width)
        conv(f"{name}.conv.4", width, width)

    conv("encoder.0", 3, 64)
    for place, pooled in ((2, 128), (7, 128), (12, 64)):
        conv(f"encoder.{place}.conv", pooled, 64, 1, bias=False)
        conv(f"encoder.{place + 1}", 64, 64, bias=False)
        for block in range(place + 2, place + 5):
            memory(f"encoder.{block}", 64)
    conv("encoder.17", 64, 16)
    conv("decoder.1", 16, 256)
    for place, width, grown, narrower in ((3, 256, 256, 128), (9, 128, 256, 64), (15, 64, 128, 64)):
        for block in range(place, place + 3):
            memory(f"decoder.{block}", width)
        conv(f"decoder.{place + 4}.conv", width, grown, 1, bias=False)
        conv(f"decoder.{place + 5}", width, narrower, bias=False)
    conv("decoder.22", 64, 3)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]], *, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=rng) / max(1, Tensor.nelement(torch.empty(shape[1:]))) ** 0.5
        for name, shape in shapes.items()
    }


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def codec() -> TAEHV:
    codec = TAEHV(**SMALL)
    shapes = {name: tuple(tensor.shape) for name, tensor in codec.state_dict().items()}
    codec.load_state_dict(random_state(shapes))
    return codec.ready("cpu", torch.float32)


# --- another reading of the same description: one clip at once, layer by layer, over all of time ---------------------


def whole(state: dict[str, Tensor], part: str, x: Tensor, *, layers: int, strides: dict[int, int]) -> Tensor:
    """A part of the network on a whole clip [T, C, h, w]; strides: place -> time steps that become one, or of one."""

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    for place in range(layers):
        name = f"{part}.{place}"
        if f"{name}.conv.0.weight" in state:
            past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            y = conv(f"{name}.conv.0", torch.cat([x, past], dim=1), padding=1).relu()
            y = conv(f"{name}.conv.4", conv(f"{name}.conv.2", y, padding=1).relu(), padding=1)
            x = (x + y).relu()
        elif f"{name}.conv.weight" in state and part == "encoder":
            x = conv(f"{name}.conv", x.reshape(-1, strides[place] * x.shape[1], *x.shape[2:]))
        elif f"{name}.conv.weight" in state:
            channels = x.shape[1]
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # the layer before it, which has no weights
            x = conv(f"{name}.conv", x).reshape(-1, channels, *x.shape[2:])
        elif f"{name}.weight" in state:
            halves = part == "encoder" and place - 1 in strides
            x = conv(name, x, padding=1, stride=2 if halves else 1)
            if (part, place) in (("encoder", 0), ("decoder", 1)):
                x = x.relu()
        elif (part, place) == ("decoder", 0):
            x = 3 * torch.tanh(x / 3)
        elif (part, place) == ("decoder", 21):
            x = x.relu()
    return x


def decoded_at_once(codec: TAEHV, x0: Tensor) -> Tensor:
    frames = whole(codec.state_dict(), "decoder", x0[0].transpose(0, 1), layers=23, strides={})
    return frames[3:].transpose(0, 1)[None]  # what lies before a video's first picture is trimmed


def encoded_at_once(codec: TAEHV, frames: Tensor) -> Tensor:
    pixels = frames[0].permute(0, 3, 1, 2) / 255
    pixels = torch.cat([pixels[:1].expand(3, -1, -1, -1), pixels])
    x0 = whole(codec.state_dict(), "encoder", pixels, layers=18, strides={2: 2, 7: 2, 12: 1})
    return x0.transpose(0, 1)[None]


def test_its_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        codec = TAEHV()
    assert {name: tuple(tensor.shape) for name, tensor in codec.state_dict().items()} == published()
    assert codec.config == {
        key: value for key, value in catalogue().parts["tiny_vae"].config.items() if key != "_class_name"
    }
    assert sum(tensor.numel() for tensor in codec.parameters()) == 11_315_539  # a float16 file of 22.6 MB


@torch.inference_mode()
def test_at_its_published_size_it_decodes_and_encodes_as_described():
    codec = TAEHV()
    codec.load_state_dict(random_state(published()))
    codec.ready("cpu", torch.float32)
    x0, frames = noise(1, 16, 2, 2, 3), pictures(1, 5, 16, 24, 3)
    decoded, encoded = codec.decode_pixels(x0, state={}), codec.encode_chunk(frames, state={})
    assert decoded.std() > 0.05
    torch.testing.assert_close(decoded, decoded_at_once(codec, x0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded, encoded_at_once(codec, frames), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_clip_at_once_is_what_its_chunks_come_to(codec):
    x0, frames = noise(1, 4, 5, 3, 4), pictures(1, 13, 16, 24, 3)
    decoded, encoded = codec.decode_pixels(x0, state={}), codec.encode_chunk(frames, state={})
    torch.testing.assert_close(decoded, decoded_at_once(codec, x0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded, encoded_at_once(codec, frames), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@torch.inference_mode()
def test_decoding_by_chunks_equals_decoding_at_once_bit_for_bit(codec, split):
    x0 = noise(2, 4, 6, 2, 3)
    whole, state = codec.decode_pixels(x0, state=codec.decode_state()), codec.decode_state()
    chunks = [codec.decode_pixels(chunk, state=state) for chunk in x0.split(split, dim=2)]
    counts = [codec.facts.frames(n, start=sum(split[:i])) for i, n in enumerate(split)]
    assert [chunk.shape[2] for chunk in chunks] == counts
    assert torch.equal(torch.cat(chunks, dim=2), whole)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@torch.inference_mode()
def test_encoding_by_chunks_equals_encoding_at_once_bit_for_bit(codec, split):
    frames = pictures(2, codec.facts.frames(6), 16, 24, 3)
    whole, state = codec.encode_chunk(frames, state=codec.encode_state()), codec.encode_state()
    counts = [codec.facts.frames(n, start=sum(split[:i])) for i, n in enumerate(split)]
    chunks = [codec.encode_chunk(chunk, state=state) for chunk in frames.split(counts, dim=1)]
    assert [chunk.shape[2] for chunk in chunks] == split
    assert torch.equal(torch.cat(chunks, dim=2), whole)


@torch.inference_mode()
def test_interleaved_videos_do_not_touch_each_other(codec):
    videos = [noise(1, 4, 4, 2, 3, seed=seed) for seed in (1, 2)]
    alone = [codec.decode_pixels(x0, state=codec.decode_state()) for x0 in videos]
    states, together = [codec.decode_state() for _ in videos], [[], []]
    for frame in range(4):
        for x0, state, made in zip(videos, states, together, strict=True):
            made.append(codec.decode_pixels(x0[:, :, frame : frame + 1], state=state))
    for made, wanted in zip(together, alone, strict=True):
        assert torch.equal(torch.cat(made, dim=2), wanted)


@torch.inference_mode()
def test_a_picture_depends_on_no_later_one(codec):
    x0 = noise(1, 4, 4, 2, 3)
    changed = torch.cat([x0[:, :, :2], noise(1, 4, 2, 2, 3, seed=1)], dim=2)
    before, after = (codec.decode_pixels(x, state={}) for x in (x0, changed))
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5], after[:, :, 5])


@torch.inference_mode()
def test_counts_are_those_of_the_wan_vae(codec):
    frames = codec.decode_chunk(noise(2, 4, 3, 2, 3), state={})
    assert (frames.dtype, frames.shape) == (torch.uint8, (2, 9, 16, 24, 3))
    x0 = codec.encode_chunk(frames, state={})
    assert (x0.dtype, x0.shape) == (torch.float32, (2, 4, 3, 2, 3))
    assert [codec.facts.frames(n) for n in (1, 2, 3)] == [1, 5, 9]


@torch.inference_mode()
def test_each_pixel_can_be_painted_as_a_square(codec):
    frames, large = (codec.decode_chunk(noise(2, 4, 2, 2, 3), state={}, enlarge=n) for n in (1, 3))
    assert torch.equal(large, frames.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3))


@torch.inference_mode()
def test_pixels_are_clamped_and_rounded_to_pictures(codec):
    x0 = 4 * noise(1, 4, 2, 2, 3)
    pixels, frames = codec.decode_pixels(x0, state={}), codec.decode_chunk(x0, state={})
    assert (frames.permute(0, 4, 1, 2, 3) - 255 * pixels.clamp(0, 1)).abs().max() <= 0.5 + 1e-4


def test_what_cannot_be_is_refused_as_the_wan_vae_does(codec):
    state: dict = {}
    with pytest.raises(MediaError, match="^7 frames do not fill whole latent frames; try 5 or 9$"):
        codec.encode_chunk(pictures(1, 7, 16, 16, 3), state=state)
    codec.encode_chunk(pictures(1, 1, 16, 16, 3), state=state)
    with pytest.raises(MediaError, match="^5 frames do not fill whole latent frames; try 4 or 8$"):
        codec.encode_chunk(pictures(1, 5, 16, 16, 3), state=state)
    with pytest.raises(MediaError, match="0 latent frames"):
        codec.decode_chunk(noise(1, 4, 0, 2, 3), state={})
    with pytest.raises(UsageError, match="^width 20 is not a multiple of 8; try 16 or 24$"):
        codec.encode_chunk(pictures(1, 1, 16, 20, 3), state={})


# --- files -----------------------------------------------------------------------------------------------------------


def saved(codec: TAEHV, folder: Path, *, without: str = "", **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "TAEHV"} | codec.config | config))
    state = {name: tensor.contiguous() for name, tensor in codec.state_dict().items() if name != without}
    save_file(state, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return folder


@torch.inference_mode()
def test_a_saved_codec_decodes_the_same(codec, tmp_path):
    loaded = TAEHV.from_pack(saved(codec, tmp_path), device="cpu", dtype=torch.float32)
    x0 = noise(1, 4, 2, 2, 3)
    assert torch.equal(loaded.decode_pixels(x0, state={}), codec.decode_pixels(x0, state={}))


@torch.inference_mode()
def test_a_float16_file_under_published_names_loads_in_bfloat16(tmp_path):
    """As the published file is, with a config.json that tells its class alone."""
    state = {name: tensor.half() for name, tensor in random_state(published()).items()}
    save_file(state, tmp_path / "taew2_1.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "TAEHV"}))
    codec = TAEHV.from_pack(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in codec.parameters()} == {torch.bfloat16}
    assert codec.decode_chunk(noise(1, 16, 1, 2, 2), state={}).shape == (1, 1, 16, 16, 3)


def test_another_network_is_refused_in_one_line(codec, tmp_path):
    with pytest.raises(ModelError, match=r"1 missing \(decoder.22.bias\)"):
        TAEHV.from_pack(saved(codec, tmp_path, without="decoder.22.bias"), device="cpu", dtype=torch.float32)
    with pytest.raises(ModelError, match="'AutoencoderKLWan' instead of 'TAEHV'"):
        TAEHV.from_pack(saved(codec, tmp_path, _class_name="AutoencoderKLWan"), device="cpu", dtype=torch.float32)
    with pytest.raises(ModelError, match="patch_size: must be 1, got 2"):
        TAEHV.from_pack(saved(codec, tmp_path, patch_size=2), device="cpu", dtype=torch.float32)
    with pytest.raises(ModelError, match="config.json: widths: unknown"):
        TAEHV.from_pack(saved(codec, tmp_path, widths=8), device="cpu", dtype=torch.float32)
