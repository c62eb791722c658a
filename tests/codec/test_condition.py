import numpy as np
import pytest
import torch
from codec.test_wan import WAN21, tiny_vae
from tiny import SHAPE, tiny_codec, tiny_facts, tiny_transformer

from causvid_cli import storybook
from causvid_cli.codec.condition import SourceLatents, encode_prefix, photograph, prefix_chunks
from causvid_cli.codec.wan import WanCodec
from causvid_cli.geometry import ChunkGrid, CodecFacts, context_frames, held_frames
from causvid_cli.pipeline import GIVEN, PHOTOGRAPH, Pipeline
from causvid_cli.prompt.cues import Cue
from causvid_cli.prompt.story import StoryText, StoryTextEncoder

WAN = CodecFacts(latent_channels=16, spatial_factor=8, frames_first=1, frames_next=4)
STACKED = CodecFacts(latent_channels=24, spatial_factor=8, frames_first=4, frames_next=4)
CAR, CAT = "a red car moves left in the snow", "a blue cat jumps in the forest"


def pictures(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(scope="module", params=["pixel", "wan"])
def pipeline(request, tmp_path_factory) -> Pipeline:
    """Random weights; chunks of two latent frames. The Wan VAE carries a state from picture to picture."""
    codec = tiny_codec() if request.param == "pixel" else WanCodec(tiny_vae(WAN21))
    facts = tiny_facts(codec=request.param, enlarge=1, height=32, width=32, chunk_frames=2, window_frames=6)
    torch.manual_seed(0)
    return Pipeline(
        facts,
        folder=tmp_path_factory.mktemp("none"),
        model=tiny_transformer(latent_channels=codec.facts.latent_channels),
        codec=codec,
        text=StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim)),
        device=torch.device("cpu"),
    )


def collected(stream):
    return np.concatenate([chunk.frames for chunk in stream])


# --- counting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "chunk", "given", "shown", "starts"),
    [
        (WAN, 3, 0, False, [0, 9, 21, 33]),
        (WAN, 3, 1, True, [1, 13, 25, 37]),
        (WAN, 3, 6, False, [0, 12, 24, 36]),
        (STACKED, 2, 0, False, [0, 8, 16, 24]),
        (STACKED, 2, 1, True, [4, 12, 20, 28]),
        (STACKED, 2, 6, False, [0, 8, 16, 24]),
    ],
)
def test_a_grid_says_where_chunks_begin_and_which_chunk_a_frame_is_of(codec, chunk, given, shown, starts):
    grid = ChunkGrid(codec=codec, chunk_frames=chunk, given_frames=given, shows_given=shown)
    assert [grid.first_frame(index) for index in range(4)] == starts
    for frame in range(starts[-1]):
        assert grid.chunk_of(frame) == sum(start <= frame for start in starts) - 1
    assert [c.index for c in grid.chunks(starts[2] + 1)] == [0, 1, 2]
    assert [c.index for c in grid.chunks(starts[2])] == [0, 1]


@pytest.mark.parametrize(
    ("codec", "pictures", "window", "frames"),
    [
        (WAN, 100, 21, 18),
        (WAN, 100, 0, 25),
        (WAN, 13, 21, 4),
        (WAN, 12, 21, 3),
        (STACKED, 24, 8, 6),
        (STACKED, 3, 8, 1),
    ],
)
def test_the_end_of_a_clip_leaves_room_for_a_chunk(codec, pictures, window, frames):
    chunk_frames = 3 if codec is WAN else 2
    assert context_frames(codec, pictures, window_frames=window, chunk_frames=chunk_frames) == frames


def test_given_frames_are_cut_into_chunks_counted_back_from_the_first_that_is_made():
    assert [(c.index, c.start_frame, c.frames) for c in prefix_chunks(7, 3)] == [(-3, 0, 1), (-2, 1, 3), (-1, 4, 3)]
    assert [(c.index, c.start_frame, c.frames) for c in prefix_chunks(1, 3)] == [(-1, 0, 1)]


def test_a_photo_is_held_for_a_frame_or_a_chunk():
    assert [held_frames(codec, 3, hold) for codec in (WAN, STACKED) for hold in ("frame", "chunk")] == [1, 9, 4, 12]


# --- a photo, the end of a clip ------------------------------------------------------------------------------------


def test_a_video_from_a_still_begins_with_what_the_codec_makes_of_it(pipeline):
    codec = pipeline.codec
    held = held_frames(codec.facts, 2, "chunk")
    palette = codec.palette.numpy() if pipeline.facts.codec == "pixel" else storybook.PALETTE
    still = palette[np.random.default_rng(0).integers(len(palette), size=(1, 32, 32))]
    given = still.repeat(held, axis=0)
    first, *rest = pipeline.stream(CAR, length="20f", seed=1, given=given, shows_given=True)
    x0 = codec.encode_chunk(torch.from_numpy(given)[None], state=codec.encode_state())
    assert (first.index, first.start_frame) == (GIVEN, 0)
    assert (first.frames == codec.decode_chunk(x0, state=codec.decode_state())[0].numpy()).all()
    assert sum(len(chunk.frames) for chunk in (first, *rest)) == 20
    assert [chunk.start_frame for chunk in rest][0] == held


def test_a_photograph_is_shown_itself_where_the_codec_knows_drawings_only(pipeline):
    held = held_frames(pipeline.codec.facts, 2, "chunk")
    given = pictures(1).repeat(held, axis=0)
    stream = pipeline.stream(CAR, length="20f", seed=1, given=given, shows_given=True)
    itself = photograph(pipeline.codec, given, enlarge=1)
    assert (itself is None) == (pipeline.facts.codec != "pixel")
    assert itself is None or (next(stream).frames == itself).all()
    assert (PHOTOGRAPH in stream.notes) == (itself is not None)


def test_a_video_from_a_clip_begins_after_it(pipeline):
    given = pictures(pipeline.codec.facts.frames(3))
    made = list(pipeline.stream(CAR, length="12f", seed=1, given=given))
    assert [chunk.index for chunk in made][0] == 0
    assert sum(len(chunk.frames) for chunk in made) == 12


def test_other_given_frames_make_another_video(pipeline):
    count = pipeline.codec.facts.frames(2)
    one, other = (pipeline.generate(CAR, length="8f", seed=1, given=pictures(count, seed=seed)) for seed in (1, 2))
    assert (one != other).any()


def test_a_prefix_is_the_pictures_encoded_at_once(pipeline):
    codec = pipeline.codec
    given = pictures(codec.facts.frames(3))
    parts = encode_prefix(codec, given, 2)
    whole = codec.encode_chunk(torch.from_numpy(given)[None], state=codec.encode_state())
    assert torch.equal(torch.cat([x0 for _, x0 in parts], dim=2), whole)
    assert [chunk.frames for chunk, _ in parts] == [1, 2]


# --- another video as the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 9, 24])
def test_a_restyled_video_is_as_long_as_its_source(pipeline, count):
    frames = pipeline.generate(CAR, length="inf", seed=1, source=iter(pictures(count)), strength=0.5)
    assert len(frames) == count


def test_a_restyled_video_may_be_shorter_than_its_source(pipeline):
    assert len(pipeline.generate(CAR, length="11f", seed=1, source=iter(pictures(40)), strength=0.5)) == 11


def test_less_strength_stays_nearer_to_the_source(pipeline):
    clip = pictures(16)
    latents = encode_prefix(pipeline.codec, clip[: pipeline.codec.facts.frames(2)], 2)[0][1]
    far, near = (
        next(pipeline.stream(CAR, length="8f", seed=1, source=iter(clip), strength=strength)).latent
        for strength in (0.9, 0.05)
    )
    assert (near - latents).abs().mean() < 0.3 * (far - latents).abs().mean()


def test_a_source_is_taken_only_as_it_is_wanted(pipeline):
    taken = 0

    def live():
        nonlocal taken
        for picture in pictures(100):
            taken += 1
            yield picture

    source = SourceLatents(pipeline.codec, live())
    chunk = next(pipeline.plan(length="8f", seed=0).grid.chunks(None))
    assert source.latents(chunk) is not None
    assert taken == source.read == pipeline.codec.facts.frames(2)


# --- going on with a video ------------------------------------------------------------------------------------------

CUES = (Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=2, blend_chunks=1), Cue(prompt=CAR, start_chunk=4, seed=9))


@pytest.mark.parametrize("kind", ["plain", "photo", "clip", "source"])
@pytest.mark.parametrize("known", [1, 3, 5])
def test_a_resumed_video_is_the_unbroken_one_bit_for_bit(pipeline, kind, known):
    codec = pipeline.codec.facts

    def options():
        if kind == "source":
            return {"source": iter(pictures(60)), "strength": 0.7}
        given = {"photo": held_frames(codec, 2, "chunk"), "clip": codec.frames(4)}.get(kind)
        return {"given": pictures(given), "shows_given": kind == "photo"} if given else {}

    request = {"length": "53f", "seed": 1}
    whole = list(pipeline.stream(CUES, **request, **options()))
    latents = {chunk.index: chunk.latent for chunk in whole}

    def made(chunk):
        return latents[chunk.index] if chunk.index < known else None

    for first in (known, known - 1):
        again = list(pipeline.stream(CUES, **request, **options(), made=made, first_chunk=first))
        wanted = [chunk for chunk in whole if chunk.index >= first]
        assert [chunk.index for chunk in again] == [chunk.index for chunk in wanted]
        for got, want in zip(again, wanted, strict=True):
            assert torch.equal(got.latent, want.latent)
            assert (got.frames == want.frames).all()
            assert (got.start_frame, got.prompt, got.cue) == (want.start_frame, want.prompt, want.cue)


def test_editing_a_cue_leaves_every_frame_before_it_as_it_was(pipeline):
    plain, edited = (
        list(pipeline.stream((Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=2, **change)), length="40f", seed=1))
        for change in ({}, {"blend_chunks": 2, "seed": 3, "strength": 0.5, "negative": "snow"})
    )
    for before, after in zip(plain[:2], edited[:2], strict=True):
        assert (before.frames == after.frames).all()
    assert not torch.equal(plain[2].latent, edited[2].latent)


def test_a_video_without_end_goes_on_as_the_finite_one(pipeline):
    endless = pipeline.stream(CAR, length="inf", seed=1)
    finite = pipeline.generate(CAR, length="40f", seed=1)
    frames = np.concatenate([next(endless).frames for _ in range(5)])
    assert (frames[: len(finite)] == finite[: len(frames)]).all()
