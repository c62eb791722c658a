"""Each kind of file: what it holds, what it cannot, and that only whole files have the final name."""

import errno
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from clips import FPS, HEIGHT, WIDTH, decode, names, noise, pixels, video_format, walk
from clips import open_clip_writer as writer
from PIL import Image

from causvid_cli.errors import OutputError, UsageError
from causvid_cli.media.probe import Chapter, read_info
from causvid_cli.media.recipe import recipe_to_metadata
from causvid_cli.video import check_output, check_pipe, files, part_of

RATES = [FPS, Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25, 2), Fraction(1, 3)]
VIDEOS = [("a.mp4", False), ("a.m4v", False), ("a.mov", False), ("a.mkv", False), ("a.mkv", True), ("a.webm", False)]
ALL = [*VIDEOS, ("a.gif", False), ("a.webp", False), ("a.webp", True), ("%03d.png", False)]
CHUNKS = (9, 12, 4)


def make(path: Path, clip: np.ndarray, **options) -> Path:
    with writer(path, width=clip.shape[2], height=clip.shape[1], **options) as out:
        for end in np.cumsum(CHUNKS):
            out.write(clip[out.frames_written : end])
        return out.publish()


def ffmpeg_decodes(path: Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i", str(path), "-f", "null", "-"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def webp(path: Path) -> tuple[np.ndarray, list[int]]:
    """RGB [T, H, W, 3] and how long each picture is shown, in ms."""
    with Image.open(path) as picture:
        shown, times = [], []
        for number in range(picture.n_frames):
            picture.seek(number)
            shown.append(np.array(picture.convert("RGB")))
            times.append(picture.info["duration"])
    return np.stack(shown), times


@pytest.mark.parametrize(("name", "lossless"), VIDEOS)
def test_a_video_has_all_frames_its_rate_its_colours_and_its_recipe(tmp_path, name, lossless):
    recipe = {"prompt": "schön 夜", "seed": 3}
    chapters = (Chapter(0, "one"), Chapter(9, "two"), Chapter(99, "never reached"))
    path = make(tmp_path / name, walk(25), lossless=lossless, metadata=recipe_to_metadata(recipe), chapters=chapters)
    info = read_info(path)
    assert (info.frames, info.fps, info.width, info.height) == (25, FPS, WIDTH, HEIGHT)
    assert info.chapters == chapters[:2]
    matrix, range_ = ("rgb", "pc") if lossless else ("bt709", "tv")
    assert (info.color.primaries, info.color.matrix, info.color.range) == ("bt709", matrix, range_)
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert tags["title"] == "schön 夜" and '"seed":3' in tags["causvid"]
    ffmpeg_decodes(path)
    assert names(tmp_path) == {name}


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.gif", "a.webp"])
def test_every_rate_is_kept_to_the_tick_of_the_format(tmp_path, name, fps):
    path = make(tmp_path / name, walk(25), fps=fps)
    tick = Fraction(1, 100 if name == "a.gif" else 1000)
    if name == "a.webp":
        times = np.cumsum([0, *webp(path)[1]]) * tick
        expected = [n / fps for n in range(26)]
    else:
        frames = decode(path)
        times = [frame.pts * frame.time_base for frame in frames]
        expected = [n / fps for n in range(25)]
    assert max(abs(a - b) for a, b in zip(times, expected, strict=True)) <= tick


def test_a_lossless_video_gives_every_pixel_back(tmp_path):
    clip = np.concatenate([noise(20), walk(5)])
    assert (pixels(make(tmp_path / "a.mkv", clip, lossless=True)) == clip).all()


def test_a_lossless_webp_gives_every_pixel_back(tmp_path):
    clip = np.concatenate([noise(20), walk(5)])
    shown, times = webp(make(tmp_path / "a.webp", clip, lossless=True))
    assert (shown == clip).all() and sum(times) == pytest.approx(1000 * 25 / FPS, abs=1)


def test_numbered_pictures_give_every_pixel_back(tmp_path):
    clip = np.concatenate([noise(20), walk(5)])
    assert make(tmp_path / "f-%03d.png", clip) == tmp_path / "f-%03d.png"
    assert names(tmp_path) == {f"f-{number:03}.png" for number in range(1, 26)}
    shown = np.stack([np.array(Image.open(tmp_path / f"f-{number:03}.png")) for number in range(1, 26)])
    assert (shown == clip).all()


def test_a_gif_has_one_palette_and_few_colours_come_back_exactly(tmp_path):
    path = make(tmp_path / "a.gif", walk(25))
    assert (pixels(path) == walk(25)).all()
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.info["loop"]) == (25, 0)


def test_a_gif_of_many_colours_stays_near_them(tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ramp = np.stack([4 * x, 5 * y, 0 * x + 128], axis=-1).astype(np.uint8)[None].repeat(25, axis=0)
    shown = pixels(make(tmp_path / "a.gif", ramp)).astype(int)
    assert abs(shown - ramp).mean() <= 6  # 255 colours for 3072: steps of 16 by 15, and the pattern that hides them


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
@pytest.mark.parametrize("frames", [1, 5])
def test_pictures_that_do_not_move_are_published(tmp_path, name, frames):
    with writer(tmp_path / name) as out:
        out.write(walk(1).repeat(frames, axis=0))
        assert out.publish().stat().st_size > 100
    with Image.open(out.path) as picture:
        assert abs(np.array(picture.convert("RGB")).astype(int) - walk(1)[0]).mean() < 8  # a WebP is lossy


@pytest.mark.parametrize(("name", "lossless"), ALL)
def test_a_part_plays_while_it_is_written_and_has_no_final_name(tmp_path, name, lossless):
    with writer(tmp_path / name, lossless=lossless) as out:
        for end in np.cumsum(CHUNKS):
            out.write(walk(25)[out.frames_written : end])
            assert read_info(out.part_path).frames == len(decode(out.part_path)) == end
            assert names(tmp_path) == {part_of(Path(name)).name}


@pytest.mark.parametrize(("name", "lossless"), [("a.mkv", False), ("a.webm", False), ("a.gif", False)])
def test_a_torn_piece_costs_only_the_frames_in_it(tmp_path, name, lossless):
    with writer(tmp_path / name) as out:
        out.write(noise(9))
        whole = out.part_path.stat().st_size
        out.write(noise(12))
        data = out.part_path.read_bytes()
    for cut in (whole, whole + 1, whole + 7, whole + 60, (whole + len(data)) // 2, len(data) - 1):
        (tmp_path / "torn.part").write_bytes(data[:cut])
        assert 9 <= read_info(tmp_path / "torn.part").frames <= 21
        assert len(decode_whole(tmp_path / "torn.part")) >= 9


def decode_whole(path: Path) -> list[av.VideoFrame]:
    """The frames up to the first that is damaged, as a player shows them."""
    found = []
    try:
        with av.open(str(path)) as container:
            found.extend(container.decode(video=0))
    except av.error.FFmpegError:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                found.append(frame)
                if len(found) == 9:
                    break
    return found


@pytest.mark.parametrize(("name", "lossless"), ALL)
def test_a_disk_that_is_full_while_publishing_leaves_the_part(tmp_path, monkeypatch, name, lossless):
    def full(self, data):
        self.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise self.failure

    def no_picture(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(OutputError, match="no space left on device; 9 frames"),
        writer(tmp_path / name, lossless=lossless) as out,
    ):
        out.write(walk(9))
        monkeypatch.setattr(files.OutputFile, "write", full)
        monkeypatch.setattr(Image.Image, "save", no_picture)
        out.publish()
    assert names(tmp_path) == {out.part_path.name} and len(decode(out.part_path)) == 9


# --- numbered pictures


def test_numbered_pictures_that_exist_are_kept_unless_overwritten(tmp_path):
    path = tmp_path / "%02d.png"
    make(path, walk(25))
    with pytest.raises(OutputError, match="01.png exists; -y overwrites it"):
        writer(path)
    with writer(path, overwrite=True) as out:
        out.write(noise(3))
        out.publish()
    assert names(tmp_path) == {"01.png", "02.png", "03.png"}  # those of the longer video are not mixed in


def test_the_folder_of_numbered_pictures_is_made_where_the_one_above_is_there(tmp_path):
    path = tmp_path / "frames" / "%02d.png"
    check_output(path, video_format(), overwrite=False)
    with writer(path):
        pass
    assert names(tmp_path) == set()
    make(path, walk(25))
    assert len(names(tmp_path / "frames")) == 25
    with pytest.raises(OutputError, match="folder .*deep does not exist; create it with mkdir -p"):
        check_output(tmp_path / "deep" / "frames" / "%02d.png", video_format(), overwrite=False)


def test_pictures_whose_names_were_taken_meanwhile_are_all_kept_back(tmp_path):
    with (
        pytest.raises(OutputError, match="02.png was made meanwhile"),
        writer(tmp_path / "%02d.png") as out,
    ):
        out.write(walk(3))
        (tmp_path / "02.png").write_text("mine")
        out.publish()
    assert names(tmp_path) == {"02.png", "%02d.png.part"}
    assert (tmp_path / "02.png").read_text() == "mine"


def test_a_partial_video_of_pictures_is_a_folder_beside_them(tmp_path):
    with writer(tmp_path / "%02d.png") as out:
        for frames in (5, 2):
            out.write(walk(frames))
            assert out.publish_partial() == tmp_path / "partial" / "%02d.png"
    assert len(names(tmp_path / "partial")) == 7
    assert names(tmp_path) == {"%02d.png.part", "partial"}


# --- what cannot be written


@pytest.mark.parametrize("name", ["a.webm", "a.gif", "a.webp", "%d.png"])
def test_odd_sides_are_taken_where_the_format_has_them(tmp_path, name):
    assert make(tmp_path / name, walk(25, height=33, width=41)).name == name


def test_odd_sides_are_refused_where_the_format_has_none(tmp_path):
    for name in ("a.mp4", "a.mov", "a.mkv"):
        with pytest.raises(UsageError, match="41x33: H.264 needs even sides; try 42x34"):
            writer(tmp_path / name, width=41, height=33)
        with pytest.raises(UsageError, match="41x33: H.264 needs even sides; try 42x34"):
            check_output(tmp_path / name, video_format(width=41, height=33), overwrite=False)
    assert make(tmp_path / "a.mkv", walk(25, height=33, width=41), lossless=True)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_a_loss_is_not_called_lossless(tmp_path, name):
    with pytest.raises(UsageError, match=r"--lossless: \.\w+ loses some of every picture; try -o .*/a\.mkv"):
        check_output(tmp_path / name, video_format(lossless=True), overwrite=False)


def test_a_gif_is_not_faster_than_browsers_show_it(tmp_path):
    with pytest.raises(UsageError, match=r"a GIF shows at most 50 frames per second, not 60; try .*a\.webp"):
        writer(tmp_path / "a.gif", fps=Fraction(60))
    check_output(tmp_path / "a.gif", video_format(fps=Fraction(50)), overwrite=False)


def test_what_a_pipe_cannot_have_is_found_first():
    with pytest.raises(UsageError, match="--format mvk: unknown; try mp4, .* or yuv4mpeg; did you mean mkv"):
        check_pipe(video_format(), "mvk")
    with pytest.raises(UsageError, match="--lossless: mp4 loses"):
        check_pipe(video_format(lossless=True), "mp4")
    with pytest.raises(UsageError, match="needs even sides"):
        check_pipe(video_format(width=63), "nut")
    check_pipe(video_format(width=63, height=47, lossless=True), "rawvideo")
