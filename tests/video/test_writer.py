"""Frames -> MP4 and back: exact counts, true colours, and no fault that looks like success."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from clips import FPS, HEIGHT, WIDTH, decode, names, noise, video_format
from clips import open_clip_writer as writer

from causvid_cli.errors import ExitCode, MediaError, OutputError, UsageError
from causvid_cli.media.probe import Chapter, read_info
from causvid_cli.media.recipe import metadata_to_recipe, recipe_to_metadata
from causvid_cli.video import FragmentEncoder, check_output, files, formats, open_writer

CHUNKS = (9, 12, 12, 1)


def make(path: Path, chunks: tuple[int, ...] = CHUNKS, **options) -> Path:
    with writer(path, **options) as out:
        for index, frames in enumerate(chunks):
            out.write(noise(frames, seed=index))
        return out.publish()


def atoms(path: Path) -> list[str]:
    data, start, found = path.read_bytes(), 0, []
    while start < len(data):
        found.append(data[start + 4 : start + 8].decode())
        start += int.from_bytes(data[start : start + 4])
    assert start == len(data)
    return found


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """What a full disk does, without one: write() takes a part, then fails (EFBIG; Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- what the file holds


@pytest.mark.parametrize("fps", [FPS, Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25, 2), Fraction(1, 3)])
@pytest.mark.parametrize("chunks", [(1,), (1, 4, 4), CHUNKS], ids=str)
def test_the_file_holds_exactly_the_frames_at_exactly_the_rate(tmp_path, fps, chunks):
    info = read_info(make(tmp_path / "a.mp4", chunks, fps=fps))
    assert (info.frames, info.fps, info.width, info.height) == (sum(chunks), fps, WIDTH, HEIGHT)
    assert info.duration_s == pytest.approx(sum(chunks) / fps)
    times = [frame.pts * frame.time_base for frame in decode(info.path)]
    assert times == [n / fps for n in range(sum(chunks))]


def test_a_published_video_is_alone_with_its_index_in_front(tmp_path):
    path = make(tmp_path / "a.mp4")
    assert names(tmp_path) == {"a.mp4"}
    found = atoms(path)
    assert found.index("moov") < found.index("mdat") and "moof" not in found


def test_colours_come_back_through_bt709(tmp_path):
    corners = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    colours = np.array([*corners, (128, 128, 128), (200, 30, 90), (12, 180, 77), (250, 220, 40)], dtype=np.uint8)
    patches = colours.repeat(32, axis=0)[None, None].repeat(32, axis=1)  # [1, 32, 32 N, 3]
    path = make_from(tmp_path / "a.mp4", patches)
    assert [*vars_of(read_info(path).color)] == ["bt709", "bt709", "bt709", "tv"]

    planes = decode(path)[0].to_ndarray()  # [H * 3 / 2, W], the numbers as they are in the file
    middle = np.arange(len(colours)) * 32 + 16
    y = (planes[16, middle] - 16.0) / 219
    chroma = planes[32:].reshape(2, 16, -1)
    cb, cr = (chroma[:, 8, middle // 2] - 128.0) / 224
    # ITU-R BT.709: luma 0.2126 R + 0.7152 G + 0.0722 B, computed here without FFmpeg
    red, blue = y + 1.5748 * cr, y + 1.8556 * cb
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    found = 255 * np.stack([red, green, blue], axis=1).clip(0, 1)
    # 8 bits of limited range: half a luma step (0.6) plus half a chroma step times 1.8556 (1.1) is 1.7; x264 adds one
    assert np.abs(found - colours).max() <= 3, np.abs(found - colours).max(axis=1)


def make_from(path: Path, frames: np.ndarray) -> Path:
    with writer(path, width=frames.shape[2], height=frames.shape[1]) as out:
        out.write(frames)
        return out.publish()


def vars_of(tags) -> tuple[str, ...]:
    return tags.primaries, tags.transfer, tags.matrix, tags.range


def test_equal_frames_give_equal_bytes(tmp_path):
    assert make(tmp_path / "a.mp4").read_bytes() == make(tmp_path / "b.mp4").read_bytes()


def test_frames_may_be_a_transposed_view(tmp_path):
    frames = noise(2)
    planar = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
    one, two = (FragmentEncoder(video_format()) for _ in range(2))
    assert one.encode(frames) == two.encode(planar.transpose(0, 2, 3, 1))


def test_ffmpeg_decodes_part_and_result_without_a_complaint(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        out.write(noise(12))
        ffmpeg_decodes(out.part_path)
        ffmpeg_decodes(out.publish())


def ffmpeg_decodes(path: Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i", str(path), "-f", "null", "-"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_an_odd_size_is_refused():
    with pytest.raises(UsageError, match="853x480: H.264 needs even sides; try 854x480"):
        FragmentEncoder(video_format(width=853, height=480))


# --- metadata


@pytest.mark.parametrize("prompt", ["a swan", "moof mdat \x00 \x1b[31m \udc80 \n 夜の白鳥 🦢"], ids=ascii)
def test_a_recipe_of_84_kB_comes_back_from_part_and_result(tmp_path, prompt):
    recipe = {"prompt": prompt, "seed": 0, "cues": [{"at": n / 7, "prompt": "schön 夜 🎬"} for n in range(1400)]}
    metadata = recipe_to_metadata(recipe)
    assert len(metadata["causvid"]) > 84_000
    with writer(tmp_path / "a.mp4", metadata=metadata) as out:
        out.write(noise(2))
        out.write(noise(2))
        assert read_info(out.part_path).recipe == recipe
        assert read_info(out.publish()).recipe == recipe
    with av.open(str(out.path)) as container:
        assert {key: container.metadata[key] for key in ("title", "comment")} == {
            "title": metadata["title"],
            "comment": "made with causvid, seed 0",
        }
        assert container.metadata["title"].isprintable()


def test_chapters_come_back_and_those_beyond_the_end_are_left_out(tmp_path):
    chapters = (Chapter(0, "a man crosses"), Chapter(9, "he writes, schön"), Chapter(99, "never reached"))
    info = read_info(make(tmp_path / "a.mp4", chapters=chapters))
    assert info.chapters == chapters[:2] and info.frames == sum(CHUNKS)


def test_a_video_of_someone_else_has_no_recipe(tmp_path):
    assert read_info(make(tmp_path / "a.mp4")).recipe is None


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_damaged_recipe_is_named(tmp_path, text):
    with pytest.raises(MediaError, match="its recipe: "):
        metadata_to_recipe({"causvid": text})


def test_a_recipe_has_no_nan():
    with pytest.raises(ValueError):
        recipe_to_metadata({"cfg": float("nan")})


# --- faults while writing


def test_each_chunk_can_be_read_as_soon_as_it_is_written(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        for index, frames in enumerate(CHUNKS):
            out.write(noise(frames, seed=index))
            assert out.frames_written == sum(CHUNKS[: index + 1]) == len(decode(out.part_path))
            assert names(tmp_path) == {"a.mp4.part"}


def test_a_killed_process_leaves_every_chunk_and_no_final_name(tmp_path):
    code = """if True:
        import os, signal, sys
        from fractions import Fraction
        from pathlib import Path
        import numpy as np
        from causvid_cli.video import VideoFormat, open_writer
        with open_writer(Path(sys.argv[1]), VideoFormat(width=64, height=48, fps=Fraction(16))) as out:
            for index in range(3):
                out.write(np.full((5, 48, 64, 3), 80 * index, np.uint8))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.mp4")])
    assert run.returncode == -signal.SIGKILL
    assert names(tmp_path) == {"a.mp4.part"}
    frames = decode(tmp_path / "a.mp4.part")
    assert [round(frame.to_ndarray(format="gray").mean() / 80) for frame in frames] == [0] * 5 + [1] * 5 + [2] * 5
    make(tmp_path / "a.mp4")  # the lock died with the process; the stale .part is replaced
    assert names(tmp_path) == {"a.mp4"}


def test_a_torn_fragment_costs_only_the_frames_in_it(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        whole = out.part_path.stat().st_size
        out.write(noise(12))
        data = out.part_path.read_bytes()
    for cut in (whole, whole + 4, whole + 60, (whole + len(data)) // 2, len(data) - 1):
        (tmp_path / "torn.part").write_bytes(data[:cut])
        assert 9 <= read_info(tmp_path / "torn.part").frames < 21


def test_an_error_in_the_block_keeps_a_playable_part(tmp_path):
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        raise KeyboardInterrupt
    assert names(tmp_path) == {"a.mp4.part"} and len(decode(out.part_path)) == 9


def test_a_block_without_frames_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="no frames"), writer(tmp_path / "a.mp4") as out:
        out.publish()
    assert names(tmp_path) == set()


def test_a_full_disk_is_an_error_and_keeps_the_chunks_before(tmp_path):
    with pytest.raises(OutputError) as caught, writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        whole = out.part_path.stat().st_size
        with file_size_limit(whole + 1000):
            out.write(noise(9, seed=1))
    assert caught.value.exit_code is ExitCode.OUTPUT
    assert str(caught.value) == f"{out.path}: file too large; 9 frames ({whole} bytes) are kept in {out.part_path}"
    assert names(tmp_path) == {"a.mp4.part"} and out.part_path.stat().st_size == whole
    assert len(decode(out.part_path)) == 9


def test_what_was_written_before_the_disk_was_full_can_be_published(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        with pytest.raises(OutputError), file_size_limit(out.part_path.stat().st_size + 1000):
            out.write(noise(9))
        assert read_info(out.publish()).frames == 9


@pytest.mark.parametrize("room", [0, 500, 20_000])
def test_a_disk_that_is_full_while_publishing_leaves_the_part(tmp_path, room):
    with pytest.raises(OutputError, match="file too large; 9 frames"), writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        with file_size_limit(room):
            out.publish()
    assert names(tmp_path) == {"a.mp4.part"} and len(decode(out.part_path)) == 9


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_whatever_the_disk_says_is_an_output_error(tmp_path, monkeypatch, code):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    with pytest.raises(OutputError, match=os.strerror(code).lower()), writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        monkeypatch.setattr(os, "fsync", fail)
        out.publish()
    assert names(tmp_path) == {"a.mp4.part"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # how PyAV loses it
def test_ctrl_c_while_publishing_leaves_the_part(tmp_path, monkeypatch):
    pending = [KeyboardInterrupt]

    def interrupt(data):
        if pending:
            raise pending.pop()
        return memoryview(data)

    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        monkeypatch.setattr(files, "memoryview", interrupt, raising=False)  # inside write(), called by PyAV
        out.publish()
    assert names(tmp_path) == {"a.mp4.part"} and len(decode(out.part_path)) == 9


def test_ctrl_c_inside_a_write_takes_back_the_torn_chunk(tmp_path, monkeypatch):
    real = files.OutputFile.write

    def interrupted(file, data):
        real(file, data[: len(data) // 2])
        raise KeyboardInterrupt

    with writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files.OutputFile, "write", interrupted)
            out.write(noise(12))
        assert read_info(out.publish()).frames == out.frames_written == 9


def test_a_part_that_lost_frames_is_not_published(tmp_path):
    with pytest.raises(OutputError, match="did not verify: .* has 9 frames"), writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        size = out.part_path.stat().st_size
        out.write(noise(9))
        os.truncate(out.part_path, size)
        out.publish()
    assert names(tmp_path) == {"a.mp4.part"}


def test_a_finished_file_of_another_rate_is_not_published(tmp_path, monkeypatch):
    """Faster than the `.part`, which verified: it is the finished file that is read back."""

    def twice_as_fast(part, target, *, metadata, chapters):
        with writer(tmp_path / "fast.mp4", fps=2 * FPS) as fast:
            fast.write(noise(9))
            target.write(fast.publish().read_bytes())

    with pytest.raises(OutputError, match="has 9 frames at 32/s, not 9 at 16/s"), writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        monkeypatch.setattr(out, "_finish", twice_as_fast)
        twice_as_fast.frames_before = 0
        out.publish()
    assert names(tmp_path) == {"a.mp4.part", "fast.mp4"}


def test_a_longer_part_of_an_earlier_run_does_not_show_behind_the_new_frames(tmp_path):
    with writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        whole = out.part_path.read_bytes()
    with writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
        out.write(noise(30))
    assert len(decode(out.part_path)) == 39
    with writer(tmp_path / "a.mp4") as out:
        out.write(noise(9))
    assert out.part_path.read_bytes() == whole


# --- names


def test_an_existing_video_is_kept_unless_overwritten(tmp_path):
    path = make(tmp_path / "a.mp4", (2,))
    with pytest.raises(OutputError, match="exists; -y overwrites it"):
        writer(path)
    assert read_info(path).frames == 2
    assert read_info(make(path, (3,), overwrite=True)).frames == 3
    assert names(tmp_path) == {"a.mp4"}


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_name_taken_before_publishing_is_not_overwritten(tmp_path, monkeypatch, hard_links):
    if not hard_links:
        monkeypatch.setattr(os, "link", refuse_link)
    with pytest.raises(OutputError, match="name was taken meanwhile"), writer(tmp_path / "a.mp4") as out:
        out.write(noise(2))
        out.path.write_text("mine")
        out.publish()
    assert out.path.read_text() == "mine"
    assert names(tmp_path) == {"a.mp4", "a.mp4.part"}


def test_a_file_system_without_hard_links_gets_its_video(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_link)
    assert read_info(make(tmp_path / "a.mp4")).frames == sum(CHUNKS)
    assert names(tmp_path) == {"a.mp4"}


def refuse_link(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")


WINDOWS = """if True:
    import os, shutil, sys, types
    from fractions import Fraction
    from pathlib import Path
    import numpy as np
    from causvid_cli.video import VideoFormat, check_output, open_writer
    path, locked, real_open = Path(sys.argv[1]), [], os.open
    def refuse_folders(path, *flags, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *flags, **options)
    sys.platform = "win32"
    sys.modules["fcntl"] = None
    locking = lambda handle, kind, count: locked.append((os.lseek(handle, 0, 1), kind, count))
    sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    for name in ("link", "pathconf", "pread", "major", "minor"):
        delattr(os, name)
    os.open, shutil._use_fd_functions = refuse_folders, False
    video = VideoFormat(width=64, height=48, fps=Fraction(16))
    for name in ("a.mp4", "a.mkv", "a.gif", "%02d.png"):
        check_output(path / name, video, overwrite=False)
        with open_writer(path / name, video) as out:
            out.write(np.zeros((2, 48, 64, 3), np.uint8))
            out.publish()
    assert locked == [(1 << 40, 2, 1)] * len(locked) and len(locked) >= 4, locked
"""


def test_a_video_is_written_with_what_windows_has(tmp_path):
    subprocess.run([sys.executable, "-c", WINDOWS, str(tmp_path)], check=True)
    assert names(tmp_path) == {"a.mp4", "a.mkv", "a.gif", "01.png", "02.png"}
    assert read_info(tmp_path / "a.mp4").frames == 2


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with writer(tmp_path / "a.mp4") as first:
        first.write(noise(2))
        with pytest.raises(OutputError, match=r"a\.mp4\.part is being written by another causvid") as caught:
            writer(first.path).__enter__()
        if Path("/proc/locks").exists():
            assert f"(pid {os.getpid()})" in str(caught.value)
        first.write(noise(2))
        assert read_info(first.publish()).frames == 4
    make(first.path, overwrite=True)


def test_a_run_killed_while_publishing_does_not_endanger_the_old_video(tmp_path):
    path = make(tmp_path / "a.mp4", (2,))
    os.link(path, f"{path}.publish")  # killed between link and unlink
    with pytest.raises(RuntimeError), writer(path, overwrite=True) as out:
        out.write(noise(3))
        raise RuntimeError
    assert read_info(path).frames == 2
    assert read_info(make(path, (3,), overwrite=True)).frames == 3


def test_a_name_may_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_writer("a.mp4", video_format()) as out:
        out.write(noise(2))
        out.publish()
    assert len(decode(Path("a.mp4"))) == 2
    with pytest.raises(OutputError, match="frames/ is a folder; try -o frames/video.mp4 or frames/%05d.png"):
        open_writer("frames/", video_format())


# --- what check_output finds before a model loads


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/a.mp4", "folder .*no/such does not exist; create it with mkdir -p .*no/such"),
        ("file/a.mp4", "file is not a folder"),
        ("folder", "folder is a folder; try -o .*folder/video.mp4"),
        ("pipe.mp4", "is a device or a pipe"),
        (
            "a.avi",
            r"a\.avi: \.avi cannot be written; try .mp4, .m4v, .mov, .mkv, .webm, .gif, .webp or frames/%05d.png$",
        ),
        ("a.wbem", r"\.wbem cannot be written; .*; did you mean \.webm\?"),
        ("a", r"its name says no format; try -o .*/a\.mp4"),
        ("a.png", r"no place for the number of a frame; try -o .*/%05d\.png"),
        ("%s.png", "no place for the number"),
        ("%d%d.png", "no place for the number"),
        ("taken-%03d.png", "taken-017.png exists; -y overwrites it"),
        ("n" * 250 + ".mp4", "the name is 11 bytes too long"),
        ("é" * 130 + ".mp4", "the name is 21 bytes too long"),
        ("taken.mp4", "exists; -y overwrites it, or choose another -o"),
        ("dangling.mp4", "exists; -y overwrites it"),
    ],
)
def test_what_cannot_work_is_found_before_the_model_loads(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "taken.mp4").touch()
    (tmp_path / "taken-017.png").touch()
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    before = names(tmp_path)
    with pytest.raises(OutputError, match=message) as caught:
        check_output(tmp_path / name, video_format(), overwrite=False)
    assert "\n" not in str(caught.value) and names(tmp_path) == before


def test_a_good_output_passes_the_check_without_a_trace(tmp_path):
    check_output(tmp_path / "--x $(rm).MP4", video_format(), overwrite=False, expected_bytes=1000)
    assert names(tmp_path) == set()


def test_a_folder_that_refuses_files_is_found(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(formats.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputError, match="cannot write in folder .*: permission denied; choose another -o"):
        check_output(tmp_path / "a.mp4", video_format(), overwrite=False)


def test_too_little_room_is_found(tmp_path):
    with pytest.raises(
        OutputError, match=r"needs 2000000000\.0 GB and folder .* has [0-9.]+ [MG]B free; free some space"
    ):
        check_output(tmp_path / "a.mp4", video_format(), overwrite=False, expected_bytes=10**18)


# --- reading what others made


def test_what_is_no_video_is_named_with_what_is_wrong(tmp_path):
    whole = make(tmp_path / "a.mp4").read_bytes()
    cases = {
        "empty.mp4": (b"", "is empty"),
        "garbage.mp4": (noise(1).tobytes(), "cannot be read as a video"),
        "header.mp4": (whole[:200], "(cannot be read as a|holds no) video"),
        "cut.mp4": (whole[: len(whole) // 2], "cut short: [0-9]+ of its 34 frames are missing"),
        "byte.mp4": (whole[:-1], "cut short: 1 of its 34 frames are missing"),
        "list.mp4": (f"ffconcat version 1.0\nfile '{tmp_path / 'a.mp4'}'\n".encode(), "is a list of other files"),
        "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n", "is a list of other files"),
        "recipe.json": (json.dumps({"causvid": 1}).encode(), "cannot be read as a video"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=f"{name}: {message}") as caught:
            read_info(tmp_path / name)
        assert caught.value.exit_code is ExitCode.MEDIA
    for path, message in ((tmp_path / "missing.mp4", "does not exist"), (tmp_path, "not a file")):
        with pytest.raises(MediaError, match=message):
            read_info(path)


def test_a_video_with_a_damaged_recipe_says_which_file(tmp_path):
    with writer(tmp_path / "a.mp4", metadata={"causvid": "{}"}) as out:
        out.write(noise(1))
        data = out.part_path.read_bytes().replace(b"{}", b"{{")
    (tmp_path / "b.mp4").write_bytes(data)
    with pytest.raises(MediaError, match="b.mp4: its recipe: not JSON"):
        read_info(tmp_path / "b.mp4")
