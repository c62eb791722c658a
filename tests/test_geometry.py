import pytest

from causvid_cli.errors import UsageError
from causvid_cli.geometry import Chunk, CodecFacts, Geometry, chunks, take_chunks

WAN = CodecFacts(latent_channels=16, spatial_factor=8, frames_first=1, frames_next=4)
STACKED = CodecFacts(latent_channels=16, spatial_factor=8, frames_first=4, frames_next=4)


def test_the_folk_numbers_are_outputs():
    assert Geometry(480, 832).tokens_per_latent_frame == 1560
    assert Geometry(480, 832).tokens_per_latent_frame * 21 == 32760
    assert WAN.frames(21) == 81


def test_sizes_in_latent_cells_follow_factor_and_patch():
    size = Geometry(96, 160, spatial_factor=16, patch=(1, 1, 1))
    assert (size.latent_height, size.latent_width, size.tokens_per_latent_frame) == (6, 10, 60)


@pytest.mark.parametrize("codec", [WAN, STACKED])
def test_latent_frames_is_the_inverse_of_frames(codec):
    for latent_frames in range(1, 50):
        frames = codec.frames(latent_frames)
        assert codec.latent_frames(frames) == latent_frames
        assert codec.latent_frames(frames + 1) == latent_frames + 1


@pytest.mark.parametrize("codec", [WAN, STACKED])
def test_frames_of_chunks_add_up_to_the_frames_of_the_whole(codec):
    for split in ([7], [3, 3, 1], [1, 6], [6, 1], [1] * 7):
        starts = [sum(split[:i]) for i in range(len(split))]
        assert sum(codec.frames(n, start=start) for n, start in zip(split, starts, strict=True)) == codec.frames(7)


def test_wan_chunks_of_three_make_nine_and_then_twelve_pictures():
    assert [WAN.frames(chunk.frames, start=chunk.start_frame) for chunk in take_chunks(9, 3)] == [9, 12, 12]


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (480, 830, "width 830 is not a multiple of 16; try 816 or 832"),
        (475, 832, "height 475 is not a multiple of 16; try 464 or 480"),
        (5, 832, "height 5 is not a multiple of 16; try 16"),
    ],
)
def test_a_size_that_does_not_fit_names_the_two_nearest(height, width, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        Geometry(height, width)


def test_chunks_follow_each_other_from_the_prefix_on():
    made = list(take_chunks(7, 3, start_frame=2))
    assert made == [Chunk(0, 2, 3), Chunk(1, 5, 3), Chunk(2, 8, 3)]
    assert [chunk.end_frame for chunk in made] == [5, 8, 11]


def test_a_first_chunk_may_differ():
    made = chunks(3, first_frames=1)
    assert [next(made) for _ in range(3)] == [Chunk(0, 0, 1), Chunk(1, 1, 3), Chunk(2, 4, 3)]
