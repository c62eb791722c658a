"""A clip goes on: its own frames and its sound stay bit for bit, and the new frames follow at once."""

import errno
import hashlib
import os
import subprocess
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from real_media import real_clip

from causvid_cli.errors import MediaError, OutputError
from causvid_cli.media.clips import open_clip
from causvid_cli.media.probe import Chapter, read_info
from causvid_cli.media.recipe import recipe_to_metadata
from causvid_cli.video import VideoFormat, open_writer
from causvid_cli.video.files import OutputFile
from causvid_cli.video.join import Join, JoinPlan, Tail, WithSound, container_of, plan_join
from causvid_cli.video.join.h264 import parse_header, units, with_lengths

FPS = Fraction(8)
CLIPS = ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"]
H264 = {"preset": "ultrafast", "crf": "20"}


def rgb(number: int, width: int, height: int) -> np.ndarray:
    """A picture that no other of its video equals, with a corner that tells which way is up."""
    y, x = np.ogrid[:height, :width]
    picture = np.empty((height, width, 3), np.uint8)
    for channel, values in enumerate((x + 9 * number, y + 5 * number, x + y)):
        picture[..., channel] = (values % 256).astype(np.uint8)
    picture[: height // 4, : width // 4] = (250, 20, 20)
    return picture


def write_part(path: Path, plan: JoinPlan, frames: int = 19) -> Path:
    """New pictures as the writer makes them for a plan: upright ones, turned to how the clip is coded."""
    pictures = np.stack([rgb(100 + number, *plan.shown_size) for number in range(frames)])
    return encode_part(path, plan.tail, plan.to_coded(pictures))


def encode_part(path: Path, tail: Tail, pictures: np.ndarray) -> Path:
    assert pictures.shape[1:3] == (tail.height, tail.width)
    options = {"preset": "ultrafast", "tune": "zerolatency", **tail.options}
    movflags = {"movflags": "frag_keyframe+empty_moov+default_base_moof+use_metadata_tags"}
    with open(path, "wb") as file, av.open(file, "w", format="mp4", options=movflags) as output:
        stream = output.add_stream("libx264", rate=FPS, options=options, width=tail.width, height=tail.height)
        context = stream.codec_context
        context.gop_size, context.thread_count, context.time_base = 16, 1, 1 / FPS
        context.color_primaries, context.color_trc = tail.primaries, tail.transfer
        context.colorspace, context.color_range = tail.tagged_matrix, tail.tagged_range
        context.sample_aspect_ratio = tail.sample_aspect_ratio
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=tail.matrix, dst_color_range=2 if tail.full_range else 1
            )
            frame.pts, frame.time_base = number, 1 / FPS
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_clip(
    path: Path,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sounds: tuple[str, ...] = (),
    degrees: int = 0,
    times: tuple[int, ...] = tuple(range(12)),
    title: str = "",
    options: dict[str, str] = H264,
    marks: dict[str, object] | None = None,
) -> Path:
    """A clip of 64x48 with a picture at each of `times` (twelfths of a second) and a tone of 1 s per sound."""
    with av.open(str(path), "w") as output:
        output.metadata.update({"title": title} if title else {})
        stream = output.add_stream(codec, rate=12, width=64, height=48, pix_fmt=pixels, options=options)
        stream.codec_context.time_base = Fraction(1, 12)
        for name, value in (marks or {}).items():
            setattr(stream.codec_context, name, value)
        if degrees:
            stream.set_display_rotation(degrees)
        tracks = [output.add_stream(sound, rate=48_000) for sound in sounds]
        for language, track in zip(("deu", "fra"), tracks, strict=False):
            track.metadata["language"] = language
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(rgb(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 12)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for track in tracks:
            tone = (np.sin(np.arange(48_000) / 20) * 8000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone], -1).reshape(1, -1), "s16", "stereo")
            frame.sample_rate, frame.pts = 48_000, 0
            output.mux(track.encode(frame))
            output.mux(track.encode(None))
    return path


def finish(
    make: Join | WithSound,
    part: Path,
    path: Path,
    *,
    metadata: dict[str, str] | None = None,
    chapters: tuple[Chapter, ...] = (),
) -> Path:
    with open(path, "w+b", buffering=0) as target:
        make(part, target, metadata=metadata or {}, chapters=chapters)
    return path


def extend(source: Path, path: Path, **given: object) -> tuple[JoinPlan, Path]:
    """The clip and new pictures, joined; and the file with only those."""
    plan = plan_join(source)
    part = write_part(path.with_suffix(".part"), plan)
    make = Join(plan)
    finish(make, part, path, **given)  # type: ignore[arg-type]
    assert read_info(path).frames == make.frames_before + read_info(part).frames
    return plan, part


def pictures(path: Path) -> list[tuple[str, Fraction]]:
    """A checksum of each decoded picture, and when it is shown."""
    with av.open(str(path)) as container:
        return [
            (hashlib.sha256(frame.to_ndarray()).hexdigest(), frame.pts * frame.time_base)
            for frame in container.decode(video=0)
        ]


def checksums(path: Path) -> list[str]:
    """The checksums of the decoded pictures, by another FFmpeg; what is damaged is an error."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i", path, "-map", "0:v:0"]
    done = subprocess.run(
        [*command, "-fps_mode", "passthrough", "-f", "framemd5", "-"], capture_output=True, check=True
    )
    assert not done.stderr, done.stderr
    return [line.split(b",")[-1].decode() for line in done.stdout.splitlines() if not line.startswith(b"#")]


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets(path: Path, kind: str = "audio") -> list[tuple[int, bytes, int | None]]:
    """The packets of every track of a kind: whose, what, when due."""
    with av.open(str(path)) as container:
        tracks = [stream for stream in container.streams if stream.type == kind]
        return [(p.stream_index, bytes(p), p.pts) for p in container.demux(tracks) if p.size] if tracks else []


def data(path: Path, kind: str = "audio") -> list[bytes]:
    return [content for _, content, _ in packets(path, kind)]


def goes_on(path: Path, source: Path) -> bool:
    """Whether a file has the sound of a clip packet by packet, and silence behind it, to a packet of its end."""
    old, new = data(source), data(path)
    with av.open(str(path)) as container:
        *sounds, video = (
            max((packet.pts + packet.duration) * packet.time_base for packet in container.demux(stream) if packet.size)
            for stream in [*container.streams.audio, container.streams.video[0]]
            if container.seek(0) is None
        )
    return new[: len(old)] == old and all(abs(end - video) < Fraction(1, 10) for end in sounds)


@pytest.mark.parametrize("name", CLIPS)
def test_every_picture_and_every_sound_of_a_real_clip_stays_bit_for_bit(name: str, tmp_path: Path) -> None:
    source, path = real_clip(name), tmp_path / "out.mp4"
    plan, part = extend(source, path)
    assert plan.exact and all("silence follows its sound" in note for note in plan.notes)
    before, new, joined = pictures(source), pictures(part), pictures(path)
    assert joined[: len(before)] == before
    assert [checksum for checksum, _ in joined[len(before) :]] == [checksum for checksum, _ in new]
    assert packets(path)[: len(packets(source))] == packets(source)
    assert goes_on(path, source)
    assert checksums(path) == checksums(source) + checksums(part)
    assert set(data(source, "video")) <= set(data(path, "video"))
    shown = [time for _, time in joined][len(before) - 1 :]
    assert shown[1] == plan.end == shown[0] + 1 / read_info(source).fps  # no gap
    assert {later - earlier for earlier, later in pairwise(shown[1:])} == {1 / FPS}


RECIPE = {"prompt": "it snows", "seed": 1}


def publish(source: Path, path: Path) -> tuple[JoinPlan, list[str]]:
    """Let the writer make a file in which a clip goes on; the plan, and the checksums of the new frames."""
    plan = plan_join(source, container_of(path))
    tail, made = plan.tail, np.stack([rgb(number, *plan.shown_size) for number in range(24)])
    metadata = recipe_to_metadata(RECIPE)
    video = VideoFormat(width=tail.width, height=tail.height, fps=FPS, metadata=metadata, encoding=tail.encoding)
    with open_writer(path, video, finish=Join(plan)) as writer:
        for start in range(0, 24, 6):
            writer.write(plan.to_coded(made[start : start + 6]))
        part = checksums(writer.part_path)
        writer.publish()
    assert read_info(path).recipe == RECIPE
    return plan, part


def test_the_writer_publishes_the_joined_video(tmp_path: Path) -> None:
    source, path = real_clip("bikes.mp4"), tmp_path / "out.mp4"
    _, part = publish(source, path)
    assert checksums(path) == checksums(source) + part
    assert read_info(path).frames == 250 + 24


@pytest.mark.parametrize(
    ("name", "codec", "sound", "made"),
    [
        ("in.mp4", "libx264", "aac", "out.mkv"),
        ("in.mkv", "libx264", "pcm_s16le", "out.mkv"),
        ("in.webm", "libvpx-vp9", "libopus", "out.mkv"),
        ("in.webm", "libvpx-vp9", "libopus", "out.webm"),
    ],
)
def test_a_clip_stays_bit_for_bit_in_matroska_and_webm(
    name: str, codec: str, sound: str, made: str, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / name, codec=codec, sounds=(sound,), options=H264 if codec == "libx264" else {})
    plan, part = publish(source, tmp_path / made)
    assert plan.exact and plan.notes == (f"{source}: silence follows its sound, to the video's end",)
    assert checksums(tmp_path / made) == checksums(source) + part
    kept, given = data(tmp_path / made), data(source)
    assert kept[: len(given)] == given
    with av.open(str(tmp_path / made)) as container:
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert np.abs(heard[-48_000:] / np.abs(heard).max()).max() < 0.001
    shown = times(tmp_path / made)
    assert float(shown[12] - shown[0]) == pytest.approx(1, abs=0.001)
    assert float(shown[-1] - shown[0]) == pytest.approx(1 + 23 / FPS, abs=0.001)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_clip_goes_on_in_webm_as_vp9_and_opus_and_that_is_said(codec: str, tmp_path: Path) -> None:
    options = H264 if codec == "libx264" else {"q": "2"}
    source, path = write_clip(tmp_path / "in.mkv", codec=codec, sounds=("aac",), options=options), tmp_path / "out.webm"
    plan, part = publish(source, path)
    assert "and the new frames' VP9 cannot share a track: its frames are encoded anew" in plan.reason
    assert plan.notes[0] == f"{source}: its sound (aac) is encoded anew as Opus, since WebM does not hold it as it is"
    assert checksums(path)[12:] == part
    with av.open(str(source)) as a, av.open(str(path)) as b:
        assert [stream.codec_context.name for stream in b.streams] == ["vp9", "opus"]
        for given, kept in zip(a.decode(video=0), b.decode(video=0), strict=False):
            error = given.to_rgb().to_ndarray().astype(float) - kept.to_rgb().to_ndarray()
            assert np.abs(error).mean() < 6
    with av.open(str(path)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 48_000


SUBTITLES = "1\n00:00:00,100 --> 00:00:00,400\nHello <i>you</i>\nand me\n\n2\n00:00:00,600 --> 00:00:00,900\nBye\n"


def subtitles(path: Path) -> str:
    """The subtitles of a video as SubRip, by another FFmpeg."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-map", "0:s:0", "-f", "srt", "-"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip() + "\n"


@pytest.mark.parametrize(
    ("given", "made", "codec"),
    [("in.mkv", "a.mp4", "mov_text"), ("in.mkv", "a.webm", "webvtt"), ("in.mp4", "a.mkv", "subrip")],
)
def test_subtitles_are_converted_to_what_the_container_holds(given: str, made: str, codec: str, tmp_path: Path) -> None:
    silent, source, path = write_clip(tmp_path / "silent.mkv"), tmp_path / given, tmp_path / made
    (tmp_path / "in.srt").write_text(SUBTITLES)
    kind = "mov_text" if given == "in.mp4" else "srt"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", silent, "-i", tmp_path / "in.srt"]
    tags = ["-metadata:s:s:0", "language=deu", "-c:v", "copy", "-c:s", kind]
    subprocess.run([*command, *tags, source], check=True)
    plan, _ = publish(source, path)
    assert any("its subtitles" in note and f"converted to {codec}" in note for note in plan.notes)
    assert subtitles(path) == subtitles(source) == SUBTITLES
    with av.open(str(path)) as container:
        (track,) = container.streams.subtitles
        assert (track.codec_context.codec.canonical_name, track.language) == (codec, "deu")


def test_frames_that_an_edit_list_hides_at_the_start_stay_hidden_in_matroska(tmp_path: Path) -> None:
    whole, source = write_clip(tmp_path / "whole.mp4"), tmp_path / "in.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", "0.5", "-i", whole, "-c", "copy", source]
    subprocess.run(command, check=True)
    assert len(times(source)) == 6
    plan, part = publish(source, tmp_path / "out.mkv")
    assert not plan.exact and "hides frames at its start" in plan.reason
    assert checksums(tmp_path / "out.mkv")[6:] == part
    assert plan_join(source).exact


@pytest.mark.parametrize("made", ["out.mkv", "out.webm"])
def test_a_turned_clip_stays_turned_in_matroska_and_webm(made: str, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", degrees=90)
    publish(source, tmp_path / made)
    given, kept = open_clip(source), open_clip(tmp_path / made)
    assert (kept.rotation, kept.width, kept.height) == (given.rotation, given.width, given.height) == (270, 48, 64)


def test_a_clip_that_was_extended_is_extended_again_and_stays_exact(tmp_path: Path) -> None:
    source = real_clip("carphone_pristine.mp4")
    expected = checksums(source)
    for generation in range(3):
        path = tmp_path / f"{generation}.mp4"
        plan, part = extend(source, path)
        assert plan.exact
        expected += checksums(part)
        assert checksums(path) == expected
        source = path


def test_seeking_back_from_a_new_picture_shows_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    extend(real_clip("bikes.mp4"), path)
    expected = {time: checksum for checksum, time in pictures(path)}
    with av.open(str(path)) as container:
        for seconds in (11, 5, 10, 0):  # one decoder all the while
            container.seek(seconds * av.time_base)
            for _, frame in zip(range(5), container.decode(video=0), strict=False):
                assert hashlib.sha256(frame.to_ndarray()).hexdigest() == expected[frame.pts * frame.time_base]


def test_the_header_holds_the_parameter_sets_of_both_parts_under_numbers_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    plan, part = extend(real_clip("bikes.mp4"), path)
    with av.open(str(path)) as joined, av.open(str(part)) as new:
        sets = parse_header(joined.streams.video[0].codec_context.extradata or b"")
        added = parse_header(new.streams.video[0].codec_context.extradata or b"")
    assert plan.sets is not None
    assert sets == plan.sets.add(added)
    assert not plan.sets.ids & added.ids
    assert parse_header(sets.header()) == sets


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".flv", ".mov"])
def test_h264_in_another_container_is_copied_all_the_same(suffix: str, tmp_path: Path) -> None:
    options = {**H264, "x264-params": "bframes=2:b-adapt=0"}
    source = write_clip(tmp_path / f"in{suffix}", sounds=("aac",), options=options)
    plan, part = extend(source, tmp_path / "out.mp4")
    assert plan.exact, plan.reason
    before, joined = pictures(source), pictures(tmp_path / "out.mp4")
    for (checksum, time), (kept, shown) in zip(before, joined, strict=False):
        assert kept == checksum and abs(time - plan.start - shown) <= Fraction(1, 90_000)  # a tick of MPEG-TS
    assert checksums(tmp_path / "out.mp4") == checksums(source) + checksums(part)
    if suffix != ".ts":  # there, each packet of sound has a header that MP4 leaves out
        assert goes_on(tmp_path / "out.mp4", source)


def test_a_clip_with_short_nal_lengths_gets_long_ones(tmp_path: Path) -> None:
    plain, source = write_clip(tmp_path / "plain.mp4"), tmp_path / "short.mp4"
    with av.open(str(plain)) as given, av.open(str(source), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0], opaque=True)
        header = bytearray(given.streams.video[0].codec_context.extradata or b"")
        header[4] = 0xFC | 1
        stream.codec_context.extradata = bytes(header)
        for packet in filter(lambda packet: packet.size, given.demux(video=0)):
            short = av.Packet(b"".join(len(unit).to_bytes(2) + unit for unit in units(bytes(packet), 4)))
            short.pts, short.dts, short.time_base = packet.pts, packet.dts, packet.time_base
            short.duration, short.is_keyframe, short.stream = packet.duration, packet.is_keyframe, stream
            output.mux(short)
    plan, part = extend(source, tmp_path / "out.mp4")
    assert plan.exact and plan.sets is not None and plan.sets.length_size == 2
    assert checksums(tmp_path / "out.mp4") == checksums(plain) + checksums(part)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_new_pictures_stand_upright_in_a_clip_that_lies_on_its_side(degrees: int, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", degrees=degrees)
    plan, _ = extend(source, tmp_path / "out.mp4")
    assert plan.exact
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    assert {frame.rotation for frame in frames} == {next(av.open(str(source)).decode(video=0)).rotation}
    upright = np.rot90(frames[-1].to_ndarray(format="rgb24"), frames[-1].rotation // 90)
    assert upright.shape[1::-1] == plan.shown_size
    red, _, blue = upright[4, 4].astype(int)
    assert red > 180 > 80 > blue  # the mark in the upper left


@pytest.mark.parametrize(("end_ms", "exact"), [(5000, True), (5015, False)])
def test_what_an_edit_list_cuts_off_stays_off(end_ms: int, exact: bool, tmp_path: Path) -> None:
    content, source = bytearray(real_clip("bikes.mp4").read_bytes()), tmp_path / "in.mp4"
    entry = content.index(b"elst") + 12  # version, flags, count; then how long, in ms, and from where
    content[entry : entry + 4] = end_ms.to_bytes(4)
    source.write_bytes(content)
    plan, part = extend(source, tmp_path / "out.mp4")
    assert plan.exact == exact  # a picture that is cut off may be what others are made from
    before, joined = pictures(source), pictures(tmp_path / "out.mp4")
    assert [time for _, time in joined[: len(before)]] == [time for _, time in before]
    assert (joined[: len(before)] == before) == exact
    assert joined[len(before)][1] == plan.end == before[-1][1] + Fraction(1, 25)
    assert len(joined) == len(before) + len(pictures(part))


def test_an_interlaced_clip_becomes_whole_pictures(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", options={**H264, "x264-params": "tff=1"})
    plan, _ = extend(source, tmp_path / "out.mp4")
    assert "interlaced" in plan.reason
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 12 + 19 and not any(frame.interlaced_frame for frame in frames)


def test_a_clip_that_is_encoded_anew_stays_turned(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", codec="mpeg4", degrees=90, options={})
    plan, _ = extend(source, tmp_path / "out.mp4")
    assert not plan.exact and plan.shown_size == (48, 64)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert {frame.rotation for frame in container.decode(video=0)} == {90}


@pytest.mark.parametrize("color", [1, 6, 2])
def test_colours_and_the_shape_of_pixels_are_told_alike_on_both_sides_of_the_seam(color: int, tmp_path: Path) -> None:
    told = {"color_primaries": color, "color_trc": color, "colorspace": color}
    source = write_clip(tmp_path / "in.mp4", marks={**told, "sample_aspect_ratio": Fraction(4, 3)})
    extend(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        for frame in container.decode(stream):
            assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (color, color, color)
            assert stream.codec_context.sample_aspect_ratio == Fraction(4, 3)


def test_uneven_times_stay_as_they_are(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", times=(0, 1, 4, 5, 6, 11))
    plan, _ = extend(source, tmp_path / "out.mp4")
    assert plan.exact
    assert times(tmp_path / "out.mp4")[:7] == [*(Fraction(time, 12) for time in (0, 1, 4, 5, 6, 11)), plan.end]


def test_every_track_of_sound_stays_with_its_language(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", sounds=("aac", "flac"))
    extend(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        kept = [(track.codec_context.name, track.language) for track in container.streams.audio]
    assert kept == [("aac", "deu"), ("flac", "fra")]
    assert goes_on(tmp_path / "out.mp4", source)


def test_sound_that_mp4_does_not_hold_becomes_aac_and_that_is_said(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", sounds=("pcm_s16le",))
    plan, _ = extend(source, tmp_path / "out.mp4")
    assert plan.exact and "pcm_s16le" in plan.notes[0] and "AAC" in plan.notes[0]
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time == 0 and sum(frame.samples for frame in frames) >= 48_000


def test_tags_and_chapters_of_the_clip_stay_and_ours_come_after(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", title="My holiday")
    ours = recipe_to_metadata({"prompt": "it snows", "seed": 1})
    extend(
        source, tmp_path / "a.mp4", metadata=ours, chapters=(Chapter(0, "snow"), Chapter(8, "sun"), Chapter(99, "no"))
    )
    again = recipe_to_metadata({"prompt": "it thaws", "seed": 2})
    plan, _ = extend(tmp_path / "a.mp4", tmp_path / "b.mp4", metadata=again, chapters=(Chapter(0, "thaw"),))
    assert plan.notes == ()
    with av.open(str(tmp_path / "b.mp4")) as container:
        chapters = [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in container.chapters()]
        metadata = dict(container.metadata)
    assert chapters == [(0, "My holiday"), (1, "snow"), (2, "sun"), (plan.end, "thaw")]
    assert metadata["title"] == "My holiday"
    assert metadata["causvid"] == again["causvid"] and metadata["comment"] == again["comment"]


@pytest.mark.parametrize(
    ("codec", "pixels", "reason"),
    [
        ("mpeg4", "yuv420p", "MPEG4 and the new frames' H.264 cannot share a track"),
        ("ffv1", "bgr0", "FFV1 and"),
        ("libx264", "yuv420p10le", "yuv420p10le cannot go on"),
        ("libx264", "yuv444p", "yuv444p cannot go on"),
    ],
)
def test_what_cannot_be_copied_is_encoded_anew_and_that_is_said(
    codec: str, pixels: str, reason: str, tmp_path: Path
) -> None:
    options = H264 if codec == "libx264" else {}
    path = tmp_path / "out.mp4"
    source = write_clip(tmp_path / "in.mkv", codec=codec, pixels=pixels, sounds=("aac",), options=options)
    plan, part = extend(source, path)
    assert not plan.exact and reason in plan.reason and plan.reason.endswith("are encoded anew")
    assert times(path)[12] == plan.end
    assert times(path)[:12] == times(source)
    assert checksums(path)[12:] == checksums(part)
    assert goes_on(path, source)
    with av.open(str(source)) as a, av.open(str(path)) as b:
        for given, made in zip(a.decode(video=0), b.decode(video=0), strict=False):
            error = given.to_rgb().to_ndarray().astype(float) - made.to_rgb().to_ndarray()
            assert np.abs(error).mean() < 6  # subsampled colour included


TRANSPARENT = {
    "in.png": ("apng", "rgba"), "in.mov": ("qtrle", "argb"), "prores.mov": ("prores_ks", "yuva444p10le"),
    "in.mkv": ("ffv1", "bgra"), "in.webp": ("libwebp_anim", "bgra"), "in.gif": ("gif", "pal8"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSPARENT)
def test_a_transparent_clip_is_flattened_in_the_file_as_the_model_sees_it(name: str, tmp_path: Path) -> None:
    codec, pixels = TRANSPARENT[name]
    source, muxer = tmp_path / name, "apng" if codec == "apng" else None
    with av.open(str(source), "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=12, width=64, height=48, pix_fmt=pixels)
        for number in range(6):
            picture = np.dstack([np.full((48, 64, 3), (250, 40, 200), np.uint8), np.full((48, 64), 255, np.uint8)])
            picture[:, : 8 + 4 * number, 3] = 0 if number % 2 or pixels == "pal8" else 130  # hides a bright colour
            if pixels == "pal8":
                frame = av.VideoFrame.from_ndarray(
                    (
                        (picture[..., 3] > 0).astype(np.uint8),
                        np.uint32([0, 0xFFFA28C8] + [0] * 254).view(np.uint8).reshape(256, 4),
                    ),
                    format="pal8",
                )
            else:
                frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 12)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    clip = open_clip(source)
    assert "its transparent parts filled with black" in clip.notes
    extend(source, tmp_path / "out.mp4")
    seen = list(clip.frames(Fraction(12)))
    shown = list(open_clip(tmp_path / "out.mp4").frames(Fraction(12)))[: len(seen)]
    assert seen[1][:, :4].max() <= 2 < 200 < seen[1][:, -4:].max()
    for given, made in zip(seen, shown, strict=True):
        assert np.abs(given[:, :-2].astype(int) - made[:, :-2]).mean() < 6


def test_odd_sides_are_made_even_and_that_is_said(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("ffv1", rate=12, width=127, height=95, pix_fmt="bgr0")
        output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb(0, 127, 95), format="rgb24")))
        output.mux(stream.encode(None))
    assert plan_join(source).notes == (f"{source}: its frames of 127x95 are scaled to 126x94: H.264 needs even sides",)


def test_a_restyled_clip_has_the_sound_of_its_source_cut_at_its_own_end(tmp_path: Path) -> None:
    source = real_clip("bigbuckbunny.mp4")
    part = write_part(tmp_path / "x.part", plan_join(write_clip(tmp_path / "in.mp4")))  # 19 frames: 2.375 s
    make = WithSound(source)
    path = finish(make, part, tmp_path / "out.mp4", metadata={"causvid": '{"a":1}'}, chapters=(Chapter(0, "all"),))
    assert make.notes == () and make.frames_before == 0
    heard = [(content, due) for _, content, due in packets(source) if due is not None and due < 2.375 * 48_000]
    assert [(content, due) for _, content, due in packets(path)] == heard
    assert checksums(path) == checksums(part)
    info = read_info(path)
    assert (info.frames, info.fps, info.recipe, info.chapters) == (19, FPS, {"a": 1}, (Chapter(0, "all"),))


def test_a_clip_without_sound_restyles_to_one_without(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4")
    part = write_part(tmp_path / "x.part", plan_join(source))
    assert packets(finish(WithSound(source), part, tmp_path / "out.mp4")) == []


class FullDisk(OutputFile):
    """A file on a disk that has room for so many bytes."""

    room = 0

    def write(self, data: bytes, /) -> int:
        if self.tell() + len(data) > self.room:
            self.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.failure
        return super().write(data)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", [Join, WithSound])
def test_a_full_disk_is_remembered_wherever_it_strikes(kind: type, share: float, tmp_path: Path) -> None:
    source = real_clip("carphone_pristine.mp4")
    plan = plan_join(source)
    part = write_part(tmp_path / "x.part", plan)
    make = Join(plan) if kind is Join else WithSound(source)
    target = FullDisk(tmp_path / "out.mp4", "w+")
    target.room = round(share * finish(make, part, tmp_path / "whole.mp4").stat().st_size)
    with target, suppress(MediaError, OutputError, OSError):
        make(part, target, metadata={}, chapters=())
    assert isinstance(target.failure, OSError) and target.failure.errno == errno.ENOSPC


def test_a_source_that_vanishes_or_changes_is_named(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", sounds=("aac",))
    plan, restyle = plan_join(source), WithSound(source)
    part = write_part(tmp_path / "x.part", plan)
    content = source.read_bytes()
    source.unlink()
    source.write_bytes(content[:-1] + b"x")
    for make in (Join(plan), restyle):
        with pytest.raises(MediaError, match=r"in\.mp4: was changed"):
            finish(make, part, tmp_path / "out.mp4")
    source.unlink()
    for make in (Join(plan), restyle):
        with pytest.raises(MediaError, match=r"in\.mp4: does not exist"):
            finish(make, part, tmp_path / "out.mp4")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
def test_a_clip_that_is_cut_short_is_refused_before_anything_is_made(share: float, tmp_path: Path) -> None:
    content = real_clip("bikes.mp4").read_bytes()
    damaged = tmp_path / "in.mp4"
    damaged.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(MediaError, match=r"in\.mp4: "):
        plan_join(damaged)


def test_damaged_sound_is_found_before_new_pictures_are_made(tmp_path: Path) -> None:
    content = bytearray(write_clip(tmp_path / "whole.ts", sounds=("aac",)).read_bytes())
    source = tmp_path / "in.ts"
    start = content.rindex(b"\xff\xf1")  # a packet of sound begins with these
    content[start : start + 7] = bytes(7)
    source.write_bytes(content)
    for make in (plan_join, WithSound):
        with pytest.raises(MediaError, match=r"in\.ts: its sound is damaged; ffmpeg"):
            make(source)


def test_nothing_that_is_no_video_is_planned(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "text.mp4", tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(MediaError):
            plan_join(path)


def test_lengths_that_do_not_agree_with_their_packet_are_refused() -> None:
    whole = with_lengths([b"\x65abc", b"\x41d"])
    assert list(units(whole, 4)) == [b"\x65abc", b"\x41d"]
    assert list(units(b"\0\0\0\1\x65abc\0\0\1\x41d", 0)) == [b"\x65abc", b"\x41d"]
    with pytest.raises(ValueError, match="cut short"):
        list(units(whole[:-1], 4))
    for header in (b"", b"\1", b"\1\x64\0\x0a\xff\xe1\0\x09\x67", b"garbage"):
        with pytest.raises(ValueError, match="header"):
            parse_header(header)
