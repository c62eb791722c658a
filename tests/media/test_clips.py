"""Clips and live streams -> the right picture at the right time, upright and in true colours; or one line."""

import io
import os
import shlex
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image
from real_media import ANIMATION, CLIPS, real_clip, real_photo

from causvid_cli.errors import MediaError, UsageError
from causvid_cli.media.clips import open_clip
from causvid_cli.media.fit import fit
from causvid_cli.media.probe import read_info
from causvid_cli.media.stills import open_image
from causvid_cli.media.streams import RawFormat, open_stream
from causvid_cli.media.view import view_of

RED, GREEN, BLUE, WHITE = (220, 40, 40), (40, 200, 40), (40, 40, 220), (230, 230, 230)
FPS = Fraction(16)


def quarters(width: int = 64, height: int = 32) -> np.ndarray:
    """uint8 RGB [H, W, 3]: red green above blue white."""
    picture = np.empty((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    picture[:top, :left], picture[:top, left:], picture[top:, :left], picture[top:, left:] = RED, GREEN, BLUE, WHITE
    return picture


def counting(count: int, size: int = 32) -> np.ndarray:
    """Grey pictures [T, size, size, 3] whose value is 20 + 4 * their number; T at most 55."""
    values = 20 + 4 * np.arange(count)
    return np.broadcast_to(values[:, None, None, None], (count, size, size, 3)).astype(np.uint8)


def number_of(picture: np.ndarray) -> int:
    """The number of a picture of `counting`."""
    return round((float(picture.mean()) - 20) / 4)


def write(
    target: Path | io.RawIOBase | io.BytesIO,
    frames: Iterable[np.ndarray],
    *,
    times: Iterable[float] | None = None,
    fps: Fraction = Fraction(25),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    matrix: Colorspace | None = Colorspace.ITU709,
    full_range: bool = False,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    mux: dict[str, str] | None = None,
    time_base: Fraction | None = None,
    rotation: int | None = None,
    flip: bool = False,
    sar: Fraction | None = None,
    sound: bool = False,
    after: Callable[[int], None] = lambda _: None,
) -> None:
    """Encode RGB pictures [H, W, 3] into a file; `after(number)` is called when a picture was muxed."""
    frames = list(frames)
    matrix_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    base = time_base or (Fraction(1, 90_000) if times is not None else 1 / fps)
    settings = options if options is not None else ({"crf": "1", "preset": "ultrafast"} if "x26" in codec else {})
    with av.open(str(target) if isinstance(target, Path) else target, "w", format=container, options=mux or {}) as file:
        stream = file.add_stream(codec, rate=fps, options=settings)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        encoder = stream.codec_context
        encoder.time_base = base
        for name, value in (tags or ({} if matrix is None else {"colorspace": int(matrix)})).items():
            setattr(encoder, name, value)
        if full_range:
            encoder.color_range = ColorRange.JPEG
        if sar:
            encoder.sample_aspect_ratio = sar
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=flip)
        voice = file.add_stream("aac", rate=48_000, layout="mono") if sound else None
        for number, (picture, at) in enumerate(
            zip(frames, times or (n / fps for n in range(len(frames))), strict=True)
        ):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if "yuv" in pixels:
                frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=matrix_range)
            else:
                frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = round(Fraction(at) / base), base
            file.mux(stream.encode(frame))
            after(number)
        if voice is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.rate = 48_000
            file.mux(voice.encode(silence))
            file.mux(voice.encode())
        file.mux(stream.encode())


def largest_error(picture: np.ndarray, wanted: np.ndarray) -> int:
    """Of flat patches: four pixels along the edges between them are left out."""
    height, width = wanted.shape[:2]
    keep = np.ones((height, width), bool)
    keep[height // 2 - 4 : height // 2 + 4] = False
    keep[:, width // 2 - 4 : width // 2 + 4] = False
    return int(np.abs(picture.astype(int) - wanted)[keep].max())


def refused(path: Path, *words: str, **options: bool) -> str:
    with pytest.raises(MediaError) as caught:
        clip = open_clip(path, **options)
        list(clip.frames(clip.fps))
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    for word in words:
        assert word in line, line
    return line


# --- real clips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_are_what_their_makers_say(name):
    size, frames, fps, sound = CLIPS[name]
    clip = open_clip(real_clip(name))
    assert (clip.width, clip.height) == size
    assert (clip.frame_count, clip.fps, clip.has_sound) == (frames, Fraction(fps), sound)
    assert (clip.variable, clip.bit_depth, clip.pixel_format, clip.rotation) == (False, 8, "yuv420p", 0)
    assert clip.duration_s == frames / Fraction(fps)


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4"])
def test_the_tail_of_a_real_clip_is_the_end_of_all_of_it(name):
    clip = open_clip(real_clip(name))
    every = list(clip.frames(clip.fps))
    assert len(every) == clip.frame_count
    assert np.array_equal(clip.tail(1, clip.fps), np.stack(every[-round(clip.fps) :]))
    for fps in (Fraction(16), Fraction(60)):
        tail = clip.tail(2, fps)
        assert len(tail) == 2 * fps
        assert np.array_equal(tail[-1], every[-1])
        begin = max(clip.times.last_s, clip.duration_s - 1 / fps) - (len(tail) - 1) / fps
        ticks = [begin + n / fps for n in range(len(tail))]
        assert all(
            np.array_equal(t, every[int((at + Fraction(1, 500)) * clip.fps)]) for t, at in zip(tail, ticks, strict=True)
        )


def test_a_real_clip_is_resampled_by_time_and_starts_anywhere():
    clip = open_clip(real_clip("bikes.mp4"))
    pictures = list(clip.frames(FPS))
    assert len(pictures) == clip.duration_s * FPS
    for start in (1, Fraction(37, 8), 9):
        assert np.array_equal(np.stack(list(clip.frames(FPS, start_s=start))), np.stack(pictures[int(start * FPS) :]))


def test_an_animated_gif_is_a_clip():
    clip = open_clip(real_photo(ANIMATION))
    with Image.open(real_photo(ANIMATION)) as image:
        assert (clip.width, clip.height, clip.frame_count) == (*image.size, image.n_frames)
        first = np.asarray(image.convert("RGB"))
    assert np.array_equal(next(clip.frames(FPS)), first)


# --- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [Colorspace.ITU709, Colorspace.ITU601, Colorspace.SMPTE240M, Colorspace.BT2020])
def test_tagged_colours_come_back(matrix, full_range, tmp_path):
    write(tmp_path / "a.mp4", [quarters()] * 2, matrix=matrix, full_range=full_range)
    limit = 4 if matrix == Colorspace.BT2020 else 3  # 8 bits of chroma, spread over more colours
    assert largest_error(next(open_clip(tmp_path / "a.mp4").frames(FPS)), quarters()) <= limit


@pytest.mark.parametrize(("size", "matrix"), [((720, 576), Colorspace.ITU601), ((1280, 720), Colorspace.ITU709)])
def test_untagged_colours_are_read_as_players_read_them(size, matrix, tmp_path):
    picture = quarters(*size)
    write(tmp_path / "a.mp4", [picture], matrix=matrix, tags={"gop_size": 1})
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].codec_context.colorspace == 2  # unspecified
    assert largest_error(next(open_clip(tmp_path / "a.mp4").frames(FPS)), picture) <= 3


FORMATS = ["libx264 yuv420p10le", "libx264 yuv444p", "libx264rgb rgb24", "ffv1 gbrp16le", "ffv1 bgra"]


@pytest.mark.parametrize(("codec", "pixels"), [kind.split() for kind in FORMATS])
def test_other_pixel_formats_come_back(codec, pixels, tmp_path):
    plain = codec == "libx264"
    write(tmp_path / "a.mkv", [quarters()] * 2, codec=codec, pixels=pixels, matrix=Colorspace.ITU709 if plain else None)
    clip = open_clip(tmp_path / "a.mkv")
    assert clip.bit_depth == (10 if "10" in pixels else 16 if "16" in pixels else 8)
    assert largest_error(next(clip.frames(FPS)), quarters()) <= (3 if plain else 1)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_the_command_that_maps_it(transfer, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": transfer}
    path = Path("-hdr clip.mkv")
    write(path, [quarters()] * 2, pixels="yuv420p10le", matrix=Colorspace.BT2020, tags=tags)
    line = refused(path, f"HDR ({name})")
    command = shlex.split(line.partition("first: ")[2])
    assert command[0] == "ffmpeg"
    assert os.spawnv(os.P_WAIT, imageio_ffmpeg.get_ffmpeg_exe(), ["ffmpeg", "-v", "error", "-y", *command[1:]]) == 0
    mapped = open_clip(Path(command[-1]))
    assert (mapped.width, mapped.height, mapped.frame_count, mapped.transfer) == (64, 32, 2, "bt709")


def test_wide_gamut_sdr_is_read_and_said_so(tmp_path):
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": 14}
    write(tmp_path / "a.mp4", [quarters()], pixels="yuv420p10le", matrix=Colorspace.BT2020, tags=tags)
    clip = open_clip(tmp_path / "a.mp4")
    assert clip.transfer == "bt2020-10" and "its wide-gamut colours look paler" in clip.notes


# --- shape -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_clip_is_upright(rotation, flip, tmp_path):
    """The file is a turned one, and FFmpeg's own rotation says how it is to be seen."""
    path = tmp_path / "a.mp4"
    write(path, [quarters()] * 3, rotation=rotation, flip=flip)
    seen = tmp_path / "seen.png"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", "1", str(seen)]
    assert os.spawnv(os.P_WAIT, command[0], command) == 0
    with Image.open(seen) as image:
        wanted = np.asarray(image.convert("RGB"))
    clip = open_clip(path)
    assert (clip.width, clip.height) == (wanted.shape[1], wanted.shape[0])
    assert ("turned upright" in clip.notes) == (rotation > 0 or flip)
    assert largest_error(next(clip.frames(FPS)), wanted) <= 3
    assert clip.tail(1, FPS).shape[1:] == wanted.shape


@pytest.mark.parametrize(
    ("sar", "size"), [(Fraction(2), (128, 32)), (Fraction(1, 2), (64, 64)), (Fraction(16, 15), (68, 32))]
)
def test_pixels_become_square(sar, size, tmp_path):
    write(tmp_path / "a.mp4", [quarters()] * 2, sar=sar)
    clip = open_clip(tmp_path / "a.mp4")
    assert (clip.width, clip.height) == size and clip.pixel_aspect == sar
    assert next(clip.frames(FPS)).shape == (size[1], size[0], 3)
    assert any("square" in note for note in clip.notes)


def test_pixels_of_an_absurd_shape_are_taken_as_square():
    frame = av.VideoFrame.from_ndarray(quarters(), format="rgb24")
    view = view_of(frame, aspect=Fraction(100), name="a.mp4", sdr_name="b.mp4")
    assert view.size == (64, 32) and view.notes == ("its pixels of 100:1 taken as square",)


def test_interlaced_pictures_lose_their_combs(tmp_path):
    """A bar that moves between the two half pictures of a frame."""
    frames = []
    for number in range(12):
        picture = np.full((64, 128, 3), 30, np.uint8)
        for field in (0, 1):
            left = 8 * number + 4 * field
            picture[field::2, left : left + 16] = 220
        frames.append(picture)
    options = {"crf": "1", "preset": "ultrafast", "flags": "+ildct+ilme", "x264-params": "tff=1:bframes=0:keyint=4"}
    write(tmp_path / "a.mp4", frames, options=options)

    def combs(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture[8:-8, :, 1].astype(int), axis=0)).mean())

    clip = open_clip(tmp_path / "a.mp4")
    assert any("deinterlaced" in note for note in clip.notes)
    every = list(clip.frames(clip.fps))
    assert len(every) == 12
    assert combs(frames[6]) > 10 and combs(every[6]) < 4
    assert np.array_equal(clip.tail(Fraction(5, 25), clip.fps), np.stack(every[-5:]))


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi", "ts", "webm"])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30_000, 1001), Fraction(12)])
def test_every_container_gives_its_frames_at_their_times(suffix, fps, tmp_path):
    path = tmp_path / f"a.{suffix}"
    codec = {"webm": "libvpx-vp9"}.get(suffix, "mpeg4" if suffix == "avi" else "libx264")
    options = (
        {"crf": "1", "preset": "ultrafast", "g": "10"}
        if codec == "libx264"
        else {"g": "10", "qmax": "4", "b": "1M", "speed": "8"}
    )
    write(path, counting(40), fps=fps, codec=codec, options=options)
    clip = open_clip(path)
    assert (clip.fps, clip.variable, clip.frame_count) == (fps, False, 40)
    assert [number_of(picture) for picture in clip.frames(fps)] == list(range(40))
    wanted = [int((Fraction(n, 16) + Fraction(1, 500)) * fps) for n in range(int(40 / fps * 16) + 1)]
    got = [number_of(picture) for picture in clip.frames(FPS)]
    assert got == wanted[: len(got)] and len(got) in (len(wanted), len(wanted) - 1)
    assert [number_of(picture) for picture in clip.tail(5 / fps, fps)] == [35, 36, 37, 38, 39]
    assert number_of(clip.tail(1, FPS)[-1]) == 39


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_uneven_rate_is_resampled_by_time(suffix, tmp_path):
    times = [0, 0.1, 0.12, 0.5, 0.9, 1.0, 1.04]
    write(tmp_path / f"a.{suffix}", counting(7), times=times)
    clip = open_clip(tmp_path / f"a.{suffix}")
    assert clip.variable and any("uneven rate" in note for note in clip.notes)
    assert clip.times.last_s == pytest.approx(1.04, abs=0.001)
    got = [number_of(picture) for picture in clip.frames(Fraction(10))]
    assert got[:11] == [0, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5]
    tail = [number_of(picture) for picture in clip.tail(Fraction(6, 10), Fraction(10))]
    assert tail[-1] == 6 and len(tail) == 6 and tail[0] == 3


@pytest.mark.parametrize("offset", [-3.2, 7.5, 4000])
def test_where_the_clock_starts_does_not_matter(offset, tmp_path):
    times = [offset + n / 25 for n in range(30)]
    write(tmp_path / "a.mkv", counting(30), times=times, mux={"avoid_negative_ts": "disabled"})
    clip = open_clip(tmp_path / "a.mkv")
    assert (clip.fps, clip.frame_count) == (25, 30)
    assert [number_of(picture) for picture in clip.frames(Fraction(25))] == list(range(30))
    assert [number_of(picture) for picture in clip.tail(Fraction(1, 5), Fraction(25))] == [25, 26, 27, 28, 29]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_tail_after_an_open_group_of_pictures_equals_the_full_decode(codec, tmp_path):
    params = "keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0:log-level=none"
    options = {"crf": "20", "preset": "fast", f"{codec[3:]}-params": params}
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    moving = [np.roll(noise, 3 * n, axis=1)[:64, :64] for n in range(50)]
    write(tmp_path / "a.mp4", moving, codec=codec, options=options)
    clip = open_clip(tmp_path / "a.mp4")
    every = np.stack(list(clip.frames(Fraction(25))))
    assert len(clip.times.keys) > 3
    for count in range(1, 50, 3):
        assert np.array_equal(clip.tail(Fraction(count, 25), Fraction(25)), every[-count:]), count


def test_a_tail_longer_than_the_clip_is_the_clip_and_can_be_shaped_on_the_way(tmp_path):
    write(tmp_path / "a.mp4", counting(10))
    clip = open_clip(tmp_path / "a.mp4")
    assert [number_of(picture) for picture in clip.tail(99, Fraction(25))] == list(range(10))
    small = fit((32, 32), (16, 8), "crop")
    assert clip.tail(99, Fraction(25), shape=lambda picture: small.apply(picture[None])[0]).shape == (10, 8, 16, 3)
    assert len(clip.tail(Fraction(1, 1000), Fraction(25))) == 1


def test_one_picture_is_a_clip_and_sound_is_seen(tmp_path):
    write(tmp_path / "a.mp4", counting(1), sound=True)
    clip = open_clip(tmp_path / "a.mp4")
    assert (clip.frame_count, clip.has_sound, clip.fps) == (1, True, 25)
    assert number_of(clip.tail(2, Fraction(25))[-1]) == 0
    with pytest.raises(ValueError):
        next(clip.frames(FPS))[0] = 0  # a picture may be given twice: nobody writes into it


# --- damage and traps ------------------------------------------------------------------------------------------------


def test_a_real_clip_with_flipped_bytes_is_refused_at_a_frame_unless_that_is_tolerated(tmp_path):
    data, path = bytearray(real_clip("bikes.mp4").read_bytes()), tmp_path / "a.mp4"
    for place in np.random.default_rng(0).integers(len(data) // 3, len(data) * 2 // 3, 200):
        data[place] ^= 255
    path.write_bytes(data)
    line = refused(path, "damaged at frame", "--tolerate-damage")
    assert 30 < int(line.partition("at frame ")[2].split()[0]) < 170
    clip = open_clip(path, tolerate_damage=True)
    assert abs(len(list(clip.frames(FPS))) - 160) <= 1
    assert any("damaged at frame" in note for note in clip.notes)
    assert len(open_clip(path).tail(1, FPS)) == 16  # the end of it is whole


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])  # MPEG-TS does not tell where a picture ends
def test_a_clip_cut_short_is_refused_unless_that_is_tolerated(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    path, codec = tmp_path / f"a.{suffix}", "mpeg4" if suffix == "avi" else "libx264"
    write(path, noise, codec=codec, mux={"movflags": "faststart"} if suffix == "mp4" else {})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    refused(path, "damaged at frame", "--tolerate-damage")
    clip = open_clip(path, tolerate_damage=True)
    assert 15 <= len(list(clip.frames(Fraction(25)))) <= 26
    assert any("damaged at frame" in note for note in clip.notes)


def test_nothing_that_is_mutated_gives_a_traceback(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a"
    for suffix in ("mp4", "mkv", "avi", "ts", "gif"):
        whole = tmp_path / f"a.{suffix}"
        codec = {"avi": "mpeg4", "gif": "gif"}.get(suffix, "libx264")
        write(whole, counting(6), codec=codec, pixels="rgb8" if suffix == "gif" else "yuv420p")
        for tolerate in (False, True) * 12:
            data = bytearray(whole.read_bytes())
            for place in rng.integers(0, len(data), 8):
                data[place] ^= int(rng.integers(1, 256))
            path.write_bytes(data)
            try:
                clip = open_clip(path, tolerate_damage=tolerate)
                assert sum(1 for _, _ in zip(clip.frames(FPS), range(50), strict=False)) > 0
                clip.tail(1, FPS)
            except MediaError as error:
                assert "\n" not in str(error)


def test_playlists_addresses_and_other_files_are_not_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("real.mp4"), counting(2))
    whole = (tmp_path / "real.mp4").resolve()
    Path("m3u8.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{whole}\n#EXT-X-ENDLIST\n")
    Path("concat.mp4").write_text(f"ffconcat version 1.0\nfile {whole}\n")
    Path("dash.mp4").write_text('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"/>')
    for name in ("m3u8.mp4", "concat.mp4", "dash.mp4"):
        refused(Path(name), "concat), which are not opened" if name == "concat.mp4" else "cannot be read as a video")
    for name in (f"concat:{whole}", "http://127.0.0.1:9/a.mp4", f"file:{whole}", "/dev/zero"):
        refused(Path(name))


BARE = {
    "y4m": ("yuv4mpegpipe", "rawvideo"), "nut": ("nut", "libx264"), "mpg": ("mpeg", "mpeg2video"),
    "m2v": ("mpeg2video", "mpeg2video"), "h264": ("h264", "libx264"), "hevc": ("hevc", "libx265"),
    "ivf": ("ivf", "libvpx-vp9"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", BARE)
def test_a_container_is_known_by_its_content(suffix, tmp_path):
    rate = Fraction(25)  # what a bare stream is taken for
    container, codec = BARE[suffix]
    path = tmp_path / "clip.mp4"  # whatever it is called
    write(path, counting(12, 64), codec=codec, container=container)
    clip, info = open_clip(path), read_info(path)
    assert (clip.frame_count, clip.fps, clip.duration_s) == (12, rate, Fraction(12) / rate)
    assert [number_of(picture) for picture in clip.frames(rate)] == list(range(12))
    assert [number_of(picture) for picture in clip.tail(Fraction(3) / rate, rate)] == [9, 10, 11]
    assert (info.frames, info.fps, info.duration_s) == (12, rate, pytest.approx(12 / rate))


def test_an_animated_webp_is_a_clip_with_its_own_times_and_transparency(tmp_path):
    pictures = [Image.fromarray(picture) for picture in counting(5, 64)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=[40, 80, 80, 120, 200], lossless=True
    )
    clip, info = open_clip(tmp_path / "a.webp"), read_info(tmp_path / "a.webp")
    assert (info.codec, info.frames, info.duration_s) == ("webp", 5, pytest.approx(0.52))
    assert (clip.frame_count, clip.duration_s, clip.variable) == (5, Fraction(52, 100), True)
    assert [number_of(picture) for picture in clip.frames(Fraction(25))] == [0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4]
    for number, picture in enumerate(pictures):
        picture.putalpha(60 * number)
    pictures[0].save(tmp_path / "b.webp", save_all=True, append_images=pictures[1:], duration=40, lossless=True)
    clip = open_clip(tmp_path / "b.webp")
    assert next(clip.frames(Fraction(25))).max() == 0 and clip.tail(1, Fraction(25)).max() > 0
    data = (tmp_path / "b.webp").read_bytes()
    for length in (30, len(data) // 2, len(data) - 9):
        (tmp_path / "c.webp").write_bytes(data[:length])
        refused(tmp_path / "c.webp")


@pytest.mark.parametrize(("container", "codec", "name"), [("mxf", "mpeg2video", "mxf"), ("rm", "rv20", "rm")])
def test_a_format_that_is_not_read_is_named_with_the_command_that_converts_it(
    container, codec, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = Path("a b.mp4")
    write(path, [quarters(128, 96)] * 8, codec=codec, container=container)
    command = shlex.split(refused(path, f"({name}), is not read").partition("; ")[2].removesuffix(" makes one that is"))
    assert os.spawnv(os.P_WAIT, imageio_ffmpeg.get_ffmpeg_exe(), ["ffmpeg", "-v", "error", *command[1:]]) == 0
    assert open_clip(Path(command[-1])).frame_count == 8


def test_a_picture_an_address_and_frames_without_a_size_are_told_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(quarters()).save("a.jpg")
    os.rename("a.jpg", "a.mp4")
    refused(Path("a.mp4"), "is a picture, not a video; try causvid i2v a.mp4")
    Path("a.rgb").write_bytes(bytes(64 * 48 * 3))
    refused(Path("a.rgb"), "causvid restyle - --input-size WxH --input-fps N < a.rgb")
    for address in ("https://example.org/a.mp4", "rtsp://camera/1"):
        refused(Path(address), "is an address, and only files are read; download it first")
        with pytest.raises(MediaError, match="is an address"):
            open_image(Path(address))
    refused(Path("frames/%05d.png"), "ffmpeg -framerate 16 -i frames/%05d.png")


def test_a_name_is_only_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-x.mp4", "$(id).mp4", "concat:a.mp4", "a\nb.mp4"):
        write(tmp_path / name, counting(2))
        assert open_clip(Path(name)).frame_count == 2


def test_what_is_no_clip_is_refused(tmp_path):
    refused(tmp_path / "none.mp4", "does not exist")
    refused(tmp_path, "not a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a file")
    for name, data in (("empty.mp4", b""), ("text.mp4", b"hello\n" * 99), ("random.mp4", bytes(range(256)) * 99)):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)
    refused(real_photo("coffee.png"))
    with av.open(str(tmp_path / "zero.mp4"), "w", options={"movflags": "empty_moov"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        file.start_encoding()
    refused(tmp_path / "zero.mp4")


def test_huge_frames_and_endless_clips_are_refused_in_little_memory(tmp_path):
    before = psutil.Process().memory_info().rss
    header = b"YUV4MPEG2 W60000 H60000 F25:1\n"
    wide = tmp_path / "wide.avi"
    write(wide, counting(1, 64), codec="mjpeg", pixels="yuvj420p")
    data = bytearray(wide.read_bytes())
    for place in [at for at in range(len(data) - 4) if data[at : at + 4] == (64).to_bytes(4, "little")]:
        data[place : place + 4] = (60_000).to_bytes(4, "little")
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60_000).to_bytes(2, "big") * 2  # in the JPEG's own header as well
    wide.write_bytes(data)
    refused(wide)
    with pytest.raises(MediaError):
        next(open_stream(io.BytesIO(header + b"FRAME\n" + bytes(100_000))).frames(FPS))
    write(tmp_path / "long.mkv", counting(3), times=[0, 1, 200_000])
    refused(tmp_path / "long.mkv", "24 h")
    assert psutil.Process().memory_info().rss - before < 200e6


def test_a_clip_of_ten_hours_costs_no_more_memory_than_a_short_one(tmp_path):
    minutes, seconds = 600, 36_000
    write(tmp_path / "minute.mkv", [counting(1)[0]] * 60, fps=Fraction(1), options={"preset": "ultrafast"})
    with av.open(str(tmp_path / "minute.mkv")) as minute, av.open(str(tmp_path / "a.mkv"), "w") as file:
        packets = [packet for packet in minute.demux() if packet.size]
        stream, span = file.add_stream_from_template(minute.streams.video[0]), round(60 / packets[0].time_base)
        for start in range(0, minutes * span, span):  # encoded once
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.stream, again.time_base, again.is_keyframe = stream, packet.time_base, packet.is_keyframe
                again.pts = again.dts = start + packet.pts
                file.mux(again)
    before = psutil.Process().memory_info().rss
    clip = open_clip(tmp_path / "a.mkv")
    assert (clip.frame_count, clip.duration_s, clip.fps) == (seconds, seconds, 1)
    assert len(clip.tail(3, FPS)) == 48
    assert sum(1 for _, _ in zip(clip.frames(FPS, start_s=seconds - 9), range(1000), strict=False)) == 9 * 16
    assert psutil.Process().memory_info().rss - before < 60e6


# --- live streams ----------------------------------------------------------------------------------------------------


STREAMS = {
    "matroska": ("libx264", {}),
    "mpegts": ("libx264", {}),
    "nut": ("libx264", {}),
    "mp4": ("libx264", {"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
    "yuv4mpegpipe": ("rawvideo", {}),
    "avi": ("mpeg4", {}),
}


class Pipe:
    """A real pipe: `reader` is a buffered binary file, and a thread writes to the other end."""

    def __init__(self, feed: Callable[[io.FileIO], None]) -> None:
        read, write_end = os.pipe()
        self.reader = os.fdopen(read, "rb")
        self._writer = io.FileIO(write_end, "w")
        self._thread = threading.Thread(target=self._run, args=(feed,))

    def _run(self, feed: Callable[[io.FileIO], None]) -> None:
        with self._writer:
            try:
                feed(self._writer)
            except OSError:  # the reader has gone
                pass

    def __enter__(self) -> "Pipe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


class Whole(io.RawIOBase):
    """Hands each write on at once and whole."""

    def __init__(self, target: io.FileIO) -> None:
        self._target = target

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview) -> int:
        rest = memoryview(data)
        while rest:
            rest = rest[self._target.write(rest) :]
        return len(data)


def sent(container: str, frames: np.ndarray, fps: Fraction = FPS) -> bytes:
    codec, mux = STREAMS[container]
    options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "1"} if codec == "libx264" else {"qmax": "3"}
    target = io.BytesIO()
    write(
        target,
        frames,
        codec=codec,
        container=container,
        mux=mux,
        fps=fps,
        options=options if codec != "rawvideo" else {},
    )
    return target.getvalue()


@pytest.mark.parametrize("container", STREAMS)
def test_a_stream_gives_every_picture(container):
    data = sent(container, counting(30))
    with Pipe(lambda target: Whole(target).write(data)) as pipe:
        stream = open_stream(pipe.reader)
        assert (stream.width, stream.height) == (32, 32)
        assert [number_of(picture) for picture in stream.frames(FPS)] == list(range(30))


@pytest.mark.parametrize("container", ["matroska", "mpegts", "nut", "mp4", "yuv4mpegpipe"])
def test_pictures_come_while_the_stream_goes_on(container):
    """The sender waits for the reader: picture k is seen before picture k + LEAD is sent."""
    lead = 24  # FFmpeg looks at 32 kB before the first picture, and these are small ones
    seen, stuck = threading.Semaphore(lead), threading.Event()

    def wait(_: int) -> None:
        if not seen.acquire(timeout=10):
            stuck.set()

    codec, mux = STREAMS[container]
    options = {} if codec == "rawvideo" else {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
    mux = mux | {"flush_packets": "1"} | ({"live": "1"} if container == "matroska" else {})

    def feed(target: io.FileIO) -> None:
        pictures = counting(50, 64)
        write(Whole(target), pictures, codec=codec, container=container, mux=mux, fps=FPS, options=options, after=wait)

    with Pipe(feed) as pipe:
        count = 0
        for _ in open_stream(pipe.reader).frames(FPS):
            seen.release()
            count += 1
    assert count == 50
    assert not stuck.is_set()


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv420p"])
def test_bare_pictures_are_read_and_resampled(pixel_format):
    frames = counting(20)
    data = b"".join(
        av.VideoFrame.from_ndarray(f, format="rgb24").reformat(format=pixel_format).to_ndarray().tobytes()
        for f in frames
    )
    raw = RawFormat(size=(32, 32), fps=Fraction(8), pixel_format=pixel_format)
    stream = open_stream(io.BytesIO(data), raw=raw)
    assert [number_of(picture) for picture in stream.frames(FPS)] == [n // 2 for n in range(40)]
    stream = open_stream(io.BytesIO(data[:-100]), raw=raw)
    assert len(list(stream.frames(Fraction(8)))) == 19
    assert any("came in part" in note for note in stream.notes)


def test_raw_formats_that_cannot_be_are_refused():
    for width, height, fps, pixels in (
        (0, 8, 8, "rgb24"),
        (60_000, 60_000, 8, "rgb24"),
        (8, 8, 0, "rgb24"),
        (7, 8, 8, "yuv420p"),
    ):
        with pytest.raises(UsageError):
            RawFormat(size=(width, height), fps=Fraction(fps), pixel_format=pixels)


def test_a_stream_is_upright_square_and_in_true_colours(tmp_path):
    write(tmp_path / "a.mkv", [quarters()] * 4, matrix=Colorspace.ITU601, sar=Fraction(2))
    stream = open_stream(io.BytesIO((tmp_path / "a.mkv").read_bytes()))
    assert (stream.width, stream.height) == (128, 32)
    picture = next(stream.frames(FPS)).astype(int)
    for y, x, color in ((8, 32, RED), (8, 96, GREEN), (24, 32, BLUE), (24, 96, WHITE)):
        assert np.abs(picture[y, x] - color).max() <= 3


def test_a_clock_that_jumps_does_not_stop_a_stream():
    times = [0, 1 / 16, 2 / 16, 5000, 5000 + 1 / 16, 5000 + 2 / 16]
    target = io.BytesIO()
    write(target, counting(6), times=times, container="nut", options={"tune": "zerolatency", "crf": "1"})
    pictures = [
        number_of(p) for _, p in zip(range(20), open_stream(io.BytesIO(target.getvalue())).frames(FPS), strict=False)
    ]
    assert pictures[0] == 0 and pictures[-1] == 5 and len(pictures) <= 8


def test_what_is_no_stream_is_refused_in_one_line(tmp_path):
    write(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8))
    tail_index = (tmp_path / "a.mp4").read_bytes()
    playlist = b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"
    for data in (b"", b"hello\n" * 999, playlist, tail_index, sent("nut", counting(2))[:40]):
        with Pipe(lambda target, data=data: Whole(target).write(data)) as pipe:
            with pytest.raises(MediaError, match=r"^stdin: [^\n]+$"):
                list(open_stream(pipe.reader).frames(FPS))


@pytest.mark.parametrize("container", ["matroska", "mpegts", "nut", "mp4", "avi"])
def test_a_stream_that_breaks_off_gives_what_came(container):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    data = sent(container, noise)
    with Pipe(lambda target: Whole(target).write(data[: len(data) // 2])) as pipe:
        assert 5 <= len(list(open_stream(pipe.reader).frames(FPS))) <= 12


def test_a_failing_pipe_is_reported_and_ctrl_c_is_not_lost():
    data = sent("nut", counting(30))

    class Broken(io.BytesIO):
        def __init__(self, error: BaseException) -> None:
            super().__init__(data)
            self.error = error

        def read1(self, size: int | None = -1) -> bytes:
            if self.tell() > len(data) * 2 // 3:
                raise self.error
            return super().read1(min(size or 1, 1000))

    with pytest.raises(KeyboardInterrupt):
        list(open_stream(Broken(KeyboardInterrupt())).frames(FPS))
    with pytest.raises(MediaError, match="gone"):
        list(open_stream(Broken(OSError(5, "gone"))).frames(FPS))
