"""A video that was broken off goes on where its encoder began anew, and nobody can tell."""

from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from clips import HEIGHT, WIDTH, decode, names, noise, open_clip_writer, walk

from causvid_cli.errors import OutputError
from causvid_cli.media.probe import Chapter, read_info
from causvid_cli.media.recipe import recipe_to_metadata
from causvid_cli.video import H264, FileWriter, Restart, part_of
from causvid_cli.video.encode import KEY_FRAME_SECONDS

FPS = Fraction(4)
CHUNKS = (3, 4, 4, 4, 1, 4, 4, 2)
FORMATS = [("a.mp4", False), ("a.mov", False), ("a.mkv", False), ("a.mkv", True), ("a.webm", False), ("a.gif", False)]


def writer(path: Path, **options) -> FileWriter:
    given = {
        "fps": FPS,
        "overwrite": True,
        "metadata": recipe_to_metadata({"prompt": "a swan", "seed": 7}),
        "chapters": (Chapter(0, "one"), Chapter(9, "two")),
    }
    return open_clip_writer(path, **given | options)


def clip() -> list[np.ndarray]:
    """Chunks with hard and easy pictures in turn, so that rate control has something to remember."""
    starts = accumulate((0, *CHUNKS))
    kinds = (noise(n, seed=at) if at % 2 else walk(n, start=at) for at, n in zip(starts, CHUNKS, strict=False))
    return list(kinds)


@pytest.mark.parametrize(("name", "lossless"), FORMATS)
def test_a_resumed_video_is_the_unbroken_one_byte_by_byte(tmp_path, name, lossless):
    chunks, places, sizes = clip(), [], []
    with writer(tmp_path / name, lossless=lossless) as out:
        for chunk in chunks:
            out.write(chunk)
            places.append((out.frames_written, out.restart))
            sizes.append(out.part_path.stat().st_size)
        whole_part = out.part_path.read_bytes()
        whole = out.publish().read_bytes()
    assert [restart.frames for _, restart in places] == [0, 0, 0, 11, 11, 11, 20, 20]

    cuts = list(zip(places, sizes, strict=True))
    for (_, restart), size in cuts if name == "a.mp4" else cuts[2::3]:
        part_of(tmp_path / name).write_bytes(whole_part[: size + 13])  # a chunk that a kill tore
        with writer(tmp_path / name, lossless=lossless, resume=restart) as out:
            assert (out.frames_written, out.restart) == (restart.frames, restart)
            for at, chunk in zip(accumulate((0, *CHUNKS)), chunks, strict=False):
                if at >= restart.frames:
                    out.write(chunk)
            assert out.part_path.read_bytes() == whole_part
            assert out.restart == places[-1][1]
            assert out.publish().read_bytes() == whole
    assert names(tmp_path) == {name}


def test_the_encoder_begins_anew_at_the_first_chunk_edge_after_two_seconds(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        for chunk in clip():
            out.write(chunk)
        keys = [number for number, frame in enumerate(decode(out.part_path)) if frame.key_frame]
    assert {0, 11, 20} <= set(keys)
    assert KEY_FRAME_SECONDS * FPS == 8


def test_a_whole_clip_in_one_chunk_has_key_frames_inside(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        out.write(walk(80))
        keys = [number for number, frame in enumerate(decode(out.part_path)) if frame.key_frame]
        assert out.restart == Restart()
    assert max(np.diff([*keys, 80])) <= 2 * KEY_FRAME_SECONDS * FPS


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(30000, 1001), Fraction(1, 3)])
def test_every_picture_is_shown_at_its_time_across_restarts(tmp_path, fps):
    with writer(tmp_path / "a.mp4", fps=fps) as out:
        for _ in range(12):
            out.write(walk(9))
        times = [frame.pts * frame.time_base for frame in decode(out.publish())]
    assert times == [number / fps for number in range(108)]


def test_a_failed_write_moves_no_restart(tmp_path, monkeypatch):
    with writer(tmp_path / "a.mp4") as out:
        out.write(walk(9))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(type(out._part), "write", interrupt)
            out.write(walk(9))
        assert (out.frames_written, out.restart) == (9, Restart())


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_part_that_lost_what_is_to_be_kept_is_refused_and_left(tmp_path, content):
    part = part_of(tmp_path / "a.mp4")
    if content is not None:
        part.write_bytes(content)
    size = len(content or b"")
    with pytest.raises(OutputError, match=f"a.mp4.part has {size} bytes, not the 900 to go on from"):
        writer(tmp_path / "a.mp4", resume=Restart(900, 8)).__enter__()
    assert names(tmp_path) == ({"a.mp4.part"} if content else set())


def test_a_part_is_resumed_under_its_lock(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        for chunk in clip():
            out.write(chunk)
        with pytest.raises(OutputError, match="being written by another causvid"):
            writer(out.path, resume=out.restart).__enter__()
        assert read_info(out.publish()).frames == sum(CHUNKS)


def test_a_resume_that_adds_nothing_keeps_what_there_was(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        for chunk in clip():
            out.write(chunk)
    with writer(tmp_path / "a.mp4", resume=out.restart) as again:
        pass
    assert out.restart.frames == 20
    assert read_info(again.part_path).frames == sum(CHUNKS)


# --- a partial video


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp"])
def test_a_partial_video_has_a_name_of_its_own_and_the_video_goes_on(tmp_path, name):
    stem, suffix = name.split(".")
    with writer(tmp_path / name) as out:
        out.write(walk(9))
        assert out.publish_partial() == tmp_path / f"{stem}.partial.{suffix}"
        first = out.publish_partial().read_bytes()
        out.write(walk(9, start=9))
        assert out.publish_partial().read_bytes() != first
        assert names(tmp_path) == {f"{name}.part", f"{stem}.partial.{suffix}"}
        out.publish()
    assert names(tmp_path) == {name, f"{stem}.partial.{suffix}"}


def test_without_frames_there_is_no_partial_video(tmp_path):
    with pytest.raises(OutputError, match="no frames"), writer(tmp_path / "a.mp4") as out:
        out.publish_partial()
    assert names(tmp_path) == set()


# --- a file that is finished by someone else


class Twice:
    """Puts the `.part` behind itself."""

    def __init__(self, frames_before: int) -> None:
        self.frames_before, self.seen = frames_before, None

    def __call__(self, part, target, *, metadata, chapters):
        self.seen = (dict(metadata), tuple(chapters))
        with av.open(target, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as output:
            output.metadata.update(metadata)
            moved = 0
            for _ in range(2):
                with open(part, "rb") as file, av.open(file) as source:
                    if not moved:
                        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
                    for packet in source.demux(video=0):
                        if packet.size:
                            packet.stream = stream
                            packet.pts = packet.dts = moved * packet.duration
                            output.mux(packet)
                            moved += 1


def test_a_finish_makes_the_file_and_is_told_what_goes_into_it(tmp_path):
    finish = Twice(9)
    with writer(tmp_path / "a.mp4", finish=finish) as out:
        out.write(walk(9))
        info = read_info(out.publish())
    assert (info.frames, info.recipe) == (18, {"prompt": "a swan", "seed": 7})
    assert finish.seen == (recipe_to_metadata(info.recipe), (Chapter(0, "one"),))


def test_a_finish_that_loses_frames_is_found_out(tmp_path):
    with (
        pytest.raises(OutputError, match="did not verify: .* has 18 frames at 4/s, not 20; 9 frames"),
        writer(tmp_path / "a.mp4", finish=Twice(11)) as out,
    ):
        out.write(walk(9))
        out.publish()
    assert names(tmp_path) == {"a.mp4.part"}


def test_a_finish_is_for_containers_that_hold_sound(tmp_path):
    with pytest.raises(OutputError, match=r"a clip and its sound go into an MP4, MKV or WebM; try -o .*/a\.mp4"):
        writer(tmp_path / "a.gif", finish=Twice(9))


def test_a_video_without_metadata_is_published(tmp_path):
    with writer(tmp_path / "a.mp4", metadata={}, finish=Twice(9)) as out:
        out.write(walk(9))
        assert read_info(out.publish()).recipe is None


# --- how frames are encoded


@pytest.mark.parametrize(("matrix", "green"), [(1, 0.7152), (6, 0.587)])
@pytest.mark.parametrize(("range_", "low", "size"), [(1, 16, 219), (2, 0, 255)])
def test_frames_are_converted_and_tagged_as_asked(tmp_path, matrix, green, range_, low, size):
    encoding = replace(H264, primaries=matrix, transfer=matrix, matrix=matrix, range=range_)
    picture = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 1] = 255
    with open_clip_writer(tmp_path / "a.mp4", encoding=encoding) as out:
        out.write(picture)
        path = out.publish()
    tags, name = read_info(path).color, {1: "bt709", 6: "smpte170m"}[matrix]
    assert (tags.primaries, tags.transfer, tags.matrix, tags.range) == (name, name, name, {1: "tv", 2: "pc"}[range_])
    luma = decode(path)[0].to_ndarray()[:HEIGHT]
    assert abs(luma.mean() - (low + size * green)) <= 1  # the luma that H.273 defines, to a step of 8 bits


def test_what_a_source_does_not_tell_is_not_told(tmp_path):
    encoding = replace(H264, primaries=2, transfer=2, matrix=6, tagged_matrix=2, tagged_range=0)
    encoding = replace(encoding, sample_aspect_ratio=Fraction(4, 3), options=H264.options | {"profile": "main"})
    with open_clip_writer(tmp_path / "a.mp4", encoding=encoding) as out:
        out.write(walk(2))
        path = out.publish()
    tags = read_info(path).color
    assert (tags.primaries, tags.transfer, tags.matrix) == ("unknown", "unknown", "unknown")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.sample_aspect_ratio, stream.codec_context.profile) == (Fraction(4, 3), "Main")
