import copy
import platform
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SHAPE, tiny_codec, tiny_facts, tiny_pack, tiny_transformer

from causvid_cli import device
from causvid_cli.config import load_facts
from causvid_cli.errors import CausvidError, DeviceError, ModelError, NumericsError, UsageError
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.prompt.cues import Cue
from causvid_cli.sampling.plan import GenerateOptions, make_plan
from causvid_cli.sampling.schedule import Step
from causvid_cli.train.export import export_pack

CAR, BOAT = "a red car moves left in the snow", "a blue boat moves right on the sea"
SHORT = {"length": "8f", "seed": 1}
"""Two latent frames of four pictures."""


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="module")
def pipeline(pack) -> Pipeline:
    return load(pack, device="cpu")


@pytest.fixture(scope="module")
def of_three(tmp_path_factory) -> Pipeline:
    """A pipeline whose chunks are of three latent frames, twelve pictures."""
    folder = tmp_path_factory.mktemp("packs") / "of-three"
    return load(tiny_pack(folder, chunk_frames=3, window_frames=6), device="cpu")


def assert_same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape
    differences = np.abs(got.astype(int) - wanted.astype(int))
    assert not differences.any(), f"{(differences > 0).mean():.2%} of the values differ, by {differences.max()} at most"


# --- the same and other videos -------------------------------------------------------------------------------------


def test_the_same_request_gives_the_same_frames(pipeline, pack):
    frames = pipeline.generate(CAR, **SHORT)
    assert_same(pipeline.generate(CAR, **SHORT), frames)
    assert_same(load(pack, device="cpu").generate(CAR, **SHORT), frames)


@pytest.mark.parametrize("changes", [{"seed": 2}, {"steps": 1}, {"prompt": BOAT}], ids=str)
def test_another_seed_prompt_or_number_of_steps_gives_other_frames(pipeline, changes):
    assert (pipeline.generate(**{"prompt": CAR, **SHORT, **changes}) != pipeline.generate(CAR, **SHORT)).any()


def test_the_largest_seed_works(pipeline):
    assert len(pipeline.generate(CAR, length="1f", seed=2**63 - 1)) == 1


def test_without_a_seed_a_plan_says_which_one_was_drawn(pipeline):
    stream = pipeline.stream(CAR, length="4f")
    frames = np.concatenate([chunk.frames for chunk in stream])
    assert_same(pipeline.generate(CAR, length="4f", seed=stream.plan.seed), frames)
    assert stream.plan.seed != pipeline.plan(length="4f").seed


def test_asking_for_the_steps_that_the_model_was_made_for_changes_nothing(pipeline):
    assert_same(pipeline.generate(CAR, **SHORT, steps=2), pipeline.generate(CAR, **SHORT))


@pytest.mark.parametrize("warped", [False, True])
def test_own_steps_stay_as_the_checkpoint_lists_them(warped):
    facts = tiny_facts(steps=(1000.0, 757.0, 522.0), shift=8.0, warp_steps=warped)

    def steps(count: int | None) -> tuple[Step, ...]:
        return make_plan(facts, GenerateOptions(steps=count), codec=tiny_codec().facts).steps

    own = steps(None)
    assert steps(3) == own
    assert (own[1].timestep == 757) is not warped
    fewer = steps(2)
    assert [step.timestep for step in fewer] == pytest.approx([1000, 1000 * 8 / 9])  # even steps go by the shift


# --- length --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pipeline", "of_three"])
def test_the_first_second_of_two_is_the_video_of_one_second(name, request):
    pipeline = request.getfixturevalue(name)
    short, long = (pipeline.generate(CAR, length=length, seed=1) for length in ("1s", "2s"))
    assert (len(short), len(long)) == (8, 16)
    assert_same(long[:8], short)


@pytest.mark.parametrize("name", ["pipeline", "of_three"])
@pytest.mark.parametrize("frames", [1, 3, 4, 5, 11, 13])
def test_a_video_has_exactly_the_frames_that_were_planned(name, frames, request):
    pipeline = request.getfixturevalue(name)
    stream = pipeline.stream(CAR, length=f"{frames}f", seed=1)
    starts, made = [], 0
    for chunk in stream:
        starts.append(chunk.start_frame == made)
        made += len(chunk.frames)
        assert len(chunk.frames) > 0
    assert made == frames == stream.plan.frames
    assert all(starts)


def test_a_length_in_seconds_counts_frames_at_the_rate_asked_for(pipeline):
    assert pipeline.fps == 8
    assert pipeline.plan(length="1.5s").frames == 12
    assert pipeline.plan(length="1.5s", fps=24).frames == 36


# --- streams -------------------------------------------------------------------------------------------------------


def test_generating_is_collecting_a_stream(pipeline):
    stream = pipeline.stream(CAR, length="10f", seed=1)
    chunks = list(stream)
    assert_same(np.concatenate([chunk.frames for chunk in chunks]), pipeline.generate(CAR, length="10f", seed=1))
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert [chunk.start_frame for chunk in chunks] == [0, 4, 8]
    assert {chunk.prompt for chunk in chunks} == {CAR}
    assert all(chunk.frames.dtype == np.uint8 and chunk.frames.shape[1:] == (128, 128, 3) for chunk in chunks)
    assert all(chunk.latent.shape == (1, 24, 1, 8, 8) and chunk.seconds > 0 for chunk in chunks)
    assert list(stream) == []


@pytest.mark.parametrize("switch", ["recache", "soft", "cut"])
def test_a_prompt_changed_between_chunks_holds_from_the_next_chunk_on(pipeline, switch):
    options = {"length": "20f", "seed": 1, "switch": switch}
    plain = list(pipeline.stream(CAR, **options))
    stream = pipeline.stream(CAR, **options)
    made = [next(stream), next(stream)]
    stream.prompt = BOAT
    assert stream.prompt == BOAT
    made += stream
    assert [chunk.prompt for chunk in made] == [CAR] * 2 + [BOAT] * 3
    for before, after in zip(plain[:2], made[:2], strict=True):
        assert_same(after.frames, before.frames)
    for before, after in zip(plain[2:], made[2:], strict=True):
        assert not torch.equal(after.latent, before.latent)


def test_setting_the_prompt_that_holds_changes_nothing(pipeline):
    stream = pipeline.stream(CAR, length="32f", seed=1)
    made = [next(stream) for _ in range(6)]  # frames are gone from the window by now: recaching would be seen
    stream.prompt = CAR
    made += stream
    assert_same(np.concatenate([chunk.frames for chunk in made]), pipeline.generate(CAR, length="32f", seed=1))


def test_a_prompt_that_is_refused_leaves_the_old_one(pipeline):
    stream = pipeline.stream(CAR, length="12f", seed=1)
    made = [next(stream)]
    with pytest.raises(UsageError, match="prompt is empty"):
        stream.prompt = "  "
    assert stream.prompt == CAR
    made += stream
    assert_same(np.concatenate([chunk.frames for chunk in made]), pipeline.generate(CAR, length="12f", seed=1))


def test_a_later_prompt_keeps_what_it_does_not_say(pipeline):
    stream = pipeline.stream(CAR, length="8f", seed=1)
    stream.prompt = "it moves right"
    assert (stream.reading.subject, stream.reading.colour, stream.reading.scene) == ("car", "red", "snow")
    assert stream.reading.action == "moves right"


def test_words_that_are_not_known_are_noted(pipeline):
    assert pipeline.stream(CAR, **SHORT).notes == ()
    notes = pipeline.stream("a red zeppelin moves left in the snow", **SHORT).notes
    assert any("zeppelin" in note for note in notes)


def test_two_streams_of_one_pipeline_do_not_touch_each_other(pipeline):
    options = {"length": "24f", "seed": 1}
    alone = [pipeline.generate(prompt, **options) for prompt in (CAR, BOAT, CAR)]
    together = zip(*(pipeline.stream(prompt, **options) for prompt in (CAR, BOAT, CAR)), strict=True)
    for made, wanted in zip(zip(*together, strict=True), alone, strict=True):
        assert_same(np.concatenate([chunk.frames for chunk in made]), wanted)


def test_a_video_never_makes_a_tensor_that_needs_gradients(pipeline):
    with torch.enable_grad():
        chunk = next(pipeline.stream(CAR, **SHORT))
    assert chunk.latent.is_inference()


# --- ahead ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [3, 4, 8, 13, 30])
def test_frames_that_are_made_ahead_are_the_same(pipeline, frames):
    plain, ahead = (list(pipeline.stream(CAR, length=f"{frames}f", seed=1, ahead=a)) for a in (False, True))
    assert [(c.index, c.start_frame, c.prompt) for c in ahead] == [(c.index, c.start_frame, c.prompt) for c in plain]
    assert_same(*(np.concatenate([chunk.frames for chunk in made]) for made in (ahead, plain)))


def test_the_first_frames_do_not_wait_for_more_and_later_ones_are_one_chunk_ahead(pipeline, monkeypatch):
    asked = []
    stream = pipeline.stream(CAR, length="24f", seed=1, ahead=True)
    monkeypatch.setattr(
        stream, "_noise", lambda chunk, step, draw=stream._noise: asked.append(chunk.index) or draw(chunk, step)
    )
    begun = [max(asked) for _ in stream]
    assert begun == [0, 2, 3, 4, 5, 5]


def test_a_prompt_holds_from_the_first_chunk_that_is_not_begun(pipeline):
    stream = pipeline.stream(CAR, length="24f", seed=1, ahead=True)
    made = [next(stream), next(stream)]
    stream.prompt = BOAT
    made += stream
    assert [chunk.prompt for chunk in made] == [CAR] * 3 + [BOAT] * 3
    again = pipeline.stream(stream.cues, length="24f", seed=1)
    for chunk, wanted in zip(made, again, strict=True):
        assert_same(chunk.frames, wanted.frames)


def test_what_fails_beside_is_raised_where_it_is_asked_for(pipeline):
    broken = copy.copy(pipeline)
    broken.model = copy.deepcopy(pipeline.model)
    broken.model.transformer.proj_out.bias[0] = float("nan")
    with pytest.raises(NumericsError, match=r"^chunk 0 is not finite \(seed 1\)"):
        list(broken.stream(CAR, **SHORT, ahead=True))


def test_a_stream_that_is_closed_leaves_no_thread(pipeline):
    before = threading.active_count()
    for end in (lambda stream: stream.close(), lambda stream: list(stream)):
        stream = pipeline.stream(CAR, length="40f", seed=1, ahead=True)
        next(stream), next(stream)
        end(stream)
        assert threading.active_count() == before
        assert list(stream) == []


# --- size ----------------------------------------------------------------------------------------------------------


def test_a_size_that_is_a_multiple_enlarges_the_same_cells(pipeline):
    own = pipeline.generate(CAR, **SHORT)  # 128 x 128: the pack says enlarge 2
    small = pipeline.generate(CAR, **SHORT, size=(64, 64))
    large = pipeline.generate(CAR, **SHORT, size=(192, 192))
    assert (own.shape[1:], small.shape[1:], large.shape[1:]) == ((128, 128, 3), (64, 64, 3), (192, 192, 3))
    assert_same(own[:, ::2, ::2], small)
    assert_same(large, small.repeat(3, axis=1).repeat(3, axis=2))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back at once")
def test_the_memory_of_one_chunk_serves_the_next():
    code = (
        "import resource, torch\n"
        "from causvid_cli.device import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): torch.ones(2 << 20)\n"
        "before = faults()\n"
        "for _ in range(20): torch.ones(2 << 20)\n"
        "print(faults() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # pages that the system had to hand out; 18 000 where each tensor takes new ones


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"size": "64x64"}, "--size 64x64: tiny has no size of that name; try native"),
        ({"size": ("64", 64)}, r"size .*: must be \(width, height\), such as \(128, 128\)"),
        ({"size": (100, 100)}, "--size 100x100: tiny paints 64x64 cells.*try 64x64 or 128x128"),
        ({"size": (150, 150)}, "try 128x128 or 192x192"),
        ({"size": (128, 64)}, "try 128x128 or 192x192"),
        ({"size": (32, 32)}, "try 64x64 or 128x128"),
        ({"seed": -1}, "--seed -1: must be 0 to"),
        ({"seed": 2**63}, "--seed 9223372036854775808"),
        ({"steps": 0}, "--steps 0: must be 1 to 1000"),
        ({"steps": 1001}, "--steps 1001"),
        ({"length": "0s"}, "--length 0s: holds no frame"),
        ({"length": "soon"}, "--length 'soon' is not a length"),
        ({"length": "2.5f"}, "frames are whole; try 2f or 3f"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_refused_before_anything_is_made(pipeline, request_, message):
    with pytest.raises(UsageError, match=message):
        pipeline.stream(CAR, **{**SHORT, **request_})


# --- broken models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_makes_no_finite_numbers_stops_with_the_seed(pipeline, value):
    broken = copy.copy(pipeline)
    broken.model = copy.deepcopy(pipeline.model)
    broken.model.transformer.proj_out.bias[0] = value
    with pytest.raises(NumericsError, match=r"^chunk 0 is not finite \(seed 1\)"):
        broken.generate(CAR, **SHORT)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "teacher"])
def test_a_pack_with_one_flipped_bit_is_refused(pack, tmp_path, part):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in pack.rglob("*"):
        place = folder / file.relative_to(pack)
        place.mkdir(exist_ok=True) if file.is_dir() else place.write_bytes(file.read_bytes())
    weights = folder / part / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged: sha256"):
        load(folder, device="cpu")


def test_a_pack_that_is_not_what_it_says_is_refused(tmp_path):
    folder = tiny_pack(tmp_path / "wan", codec="wan")
    with pytest.raises(ModelError, match="'PixelCodec' instead of 'AutoencoderKLWan'"):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "opening",
            {"shape": replace(SHAPE, text_dim=8)},
            "tiny opening: text_dim 8 instead of the 16 of its",
        ),
        ("opening", {"latent_channels": 16}, "tiny opening: in_channels 16 instead of the 24 of its codec"),
        ("student", {"latent_channels": 16}, "tiny transformer: in_channels 16 instead of the 24 of its codec"),
    ],
)
def test_a_network_that_does_not_fit_its_pack_is_refused(tmp_path, part, changes, message):
    base = tiny_pack(tmp_path / "pack", opening_network="opening")
    networks = {"student": tiny_transformer(), part: tiny_transformer(**changes)}
    export_pack(tmp_path / "odd", load_facts(base), **networks, base=base)
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "odd", device="cpu")


def test_a_window_of_zero_keeps_everything(tmp_path):
    everything = load(tiny_pack(tmp_path / "all", window_frames=0, sink_frames=0), device="cpu")
    wide = load(tiny_pack(tmp_path / "wide", window_frames=50, sink_frames=0), device="cpu")
    options = {"length": "24f", "seed": 1}
    assert_same(everything.generate(CAR, **options), wide.generate(CAR, **options))
    assert_same(everything.generate(CAR, length="12f", seed=1), wide.generate(CAR, **options)[:12])


def test_bfloat16_makes_a_video_too(pack):
    frames = load(pack, device="cpu", dtype="bfloat16").generate(CAR, **SHORT)
    assert frames.shape == (8, 128, 128, 3)


# --- what was told is a script -------------------------------------------------------------------------------------

PROMPTS = [CAR, BOAT, "it jumps", "a swan flies up", "a cat in the forest", "it stays still"]


def random_telling(rng: np.random.Generator) -> tuple[list[Cue], dict[int, str]]:
    """Cues, and which prompts are set after which chunks; -1 is before the first."""

    def cue(start: int) -> Cue:
        return Cue(
            prompt=str(rng.choice(PROMPTS)),
            start_chunk=start,
            transition=str(rng.choice(["recache", "soft", "cut"])),
            strength=float(rng.choice([1.0, 0.5])),
            seed=int(rng.integers(9)) if rng.random() < 0.3 else None,
            negative="snow" if rng.random() < 0.3 else "",
        )

    starts = [0, *sorted(rng.choice(range(1, 6), size=rng.integers(0, 3), replace=False).tolist())]
    sets = rng.choice(range(-1, 5), size=rng.integers(1, 4), replace=False).tolist()
    return [cue(start) for start in starts], {chunk: str(rng.choice(PROMPTS)) for chunk in sets}


@pytest.mark.parametrize("seed", range(24))
def test_what_was_told_is_a_script_that_makes_the_same_video(pipeline, seed):
    """In every way of telling: before the first chunk, at and before scripted cues, twice, with a source, ahead."""
    rng = np.random.default_rng(seed)
    switch = str(rng.choice(["recache", "soft", "cut"]))
    cues, sets = random_telling(rng)
    clip = rng.integers(0, 255, (24, 64, 64, 3), dtype=np.uint8)

    def stream(cues: list[Cue], **more):
        source = {"source": iter(clip), "strength": 0.6} if seed % 3 == 0 else {}
        return pipeline.stream(cues, length="24f", seed=1, guidance=3.0, switch=switch, **source, **more)

    live, frames = stream(cues, ahead=seed % 2 == 0), []
    if -1 in sets:
        live.prompt = sets[-1]
    for chunk in live:
        frames.append(chunk.frames)
        if chunk.index in sets:
            live.prompt = sets[chunk.index]
    again = stream(list(live.cues))
    assert_same(np.concatenate([chunk.frames for chunk in again]), np.concatenate(frames))


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            {"given": np.zeros((4, 64, 48, 3), np.uint8)},
            r"given frames have the shape \[4, 64, 48, 3\]; give \[T, 64, 64, 3\]",
        ),
        ({"given": np.zeros((4, 64, 64, 3), np.float32)}, "given frames are float32; give uint8, 0..255"),
        ({"given": np.zeros((64, 64, 3), np.uint8)}, r"given frames have the shape \[64, 64, 3\]"),
        ({"given": np.zeros((3, 64, 64, 3), np.uint8)}, "3 frames do not fill whole latent frames; try 4"),
        ({"guidance": 0}, "guidance 0: must be 1 to 20"),
        ({"guidance": float("nan")}, "guidance nan: must be 1 to 20"),
        ({"switch": "fade"}, "switch fade: unknown; try recache, soft or cut"),
    ],
)
def test_what_a_call_cannot_mean_is_refused_at_the_call(asked, complaint, tiny):
    pipeline = load(tiny, device="cpu")
    with pytest.raises(CausvidError, match=complaint):
        pipeline.stream("a red car", length="1s", **asked)


@pytest.mark.parametrize(
    "frame", [np.zeros((64, 64, 3)), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64), np.uint8)]
)
def test_a_source_of_other_frames_is_refused(frame, tiny):
    with pytest.raises(UsageError, match=r"a source frame is .*; give uint8 \[H, W, 3\], all alike"):
        next(iter(load(tiny, device="cpu").stream("a red car", source=iter([frame] * 8), strength=0.5)))


# --- a second device -----------------------------------------------------------------------------------------------


def test_frames_are_encoded_and_decoded_where_the_codec_is_and_latents_come_back(pack, monkeypatch):
    """By where tensors are moved: this machine has no second device."""
    pipeline, second = load(pack, device="cpu"), torch.device("cuda:1")
    given, source = np.zeros((4, 64, 64, 3), np.uint8), [np.zeros((64, 64, 3), np.uint8)] * 8

    def make() -> list[np.ndarray]:
        restyled = pipeline.generate(CAR, source=iter(source), strength=0.5, seed=1)
        return [pipeline.generate(CAR, given=given, **SHORT), restyled]

    wanted = make()
    encoded, decoded, moved = [], [], []
    real, encode, decode = torch.Tensor.to, pipeline.codec.encode_chunk, pipeline.codec.decode_chunk

    def to(tensor, *arguments, **options):
        if arguments[:1] in ((second,), (pipeline.device,)):
            moved.append((id(tensor), arguments[0]))
            return tensor
        return real(tensor, *arguments, **options)

    def encode_chunk(frames, **options):
        encoded.append(encode(frames, **options))
        return encoded[-1]

    def decode_chunk(x0, **options):
        decoded.append(x0)
        return decode(x0, **options)

    monkeypatch.setattr(pipeline, "decodes_on", second)
    monkeypatch.setattr(pipeline.codec, "encode_chunk", encode_chunk)
    monkeypatch.setattr(pipeline.codec, "decode_chunk", decode_chunk)
    monkeypatch.setattr(torch.Tensor, "to", to)
    for ours, theirs in zip(make(), wanted, strict=True):
        assert_same(ours, theirs)
    assert len(encoded) == 3 and all((id(x0), pipeline.device) in moved for x0 in encoded)
    assert len(decoded) == 5 and all((id(x0), second) in moved for x0 in decoded)


def test_the_codec_is_loaded_on_its_own_device(pack, monkeypatch):
    real, asked = device.resolve_device, []

    def resolve(name, **options):
        asked.append((name, options))
        return torch.device("meta") if name == "cuda:1" else real(name, **options)

    def codec(*_, **options):
        asked.append(options["device"])
        return tiny_codec()

    monkeypatch.setattr("causvid_cli.pipeline.resolve_device", resolve)
    monkeypatch.setattr("causvid_cli.pipeline.load_codec", codec)
    pipeline = load(pack, device="cpu", vae_device="cuda:1")
    assert asked == [("cpu", {}), ("cuda:1", {"option": "--vae-device"}), torch.device("meta")]
    assert (pipeline.device, pipeline.decodes_on) == (torch.device("cpu"), torch.device("meta"))
    with pytest.raises(DeviceError, match="^--vae-device cuda:99: this torch sees"):
        load(pack, device="cpu", vae_device="cuda:99")
