"""A video on its way through a pipe: seen at once, never looked back at, in constant memory."""

import errno
import io
import os
import subprocess

import av
import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from clips import FPS, HEIGHT, WIDTH, noise, video_format, walk

from causvid_cli.errors import OutputError
from causvid_cli.media.recipe import recipe_to_metadata
from causvid_cli.video import PIPE_FORMATS, PipeWriter
from causvid_cli.video.encode import FragmentEncoder

CONTAINERS = [("mp4", False), ("mkv", False), ("mkv", True), ("nut", False), ("nut", True), ("yuv4mpeg", False)]
CLIP = walk(42)


class Pipe(io.RawIOBase):
    """What was sent, and how much of it was flushed. Like a pipe, it may take less than it is given."""

    def __init__(self) -> None:
        self.sent, self.flushed = bytearray(), 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        taken = bytes(data[:65_536])
        self.sent += taken
        return len(taken)

    def flush(self) -> None:
        self.flushed = len(self.sent)


def pipe_writer(file, format="mp4", **options) -> PipeWriter:
    return PipeWriter(file, video_format(**options), format=format)


def send(format: str, *, chunk: int = 6, **options) -> Pipe:
    pipe = Pipe()
    with pipe_writer(pipe, format, **options) as out:
        for start in range(0, len(CLIP), chunk):
            out.write(CLIP[start : start + chunk])
        out.publish()
    return pipe


@pytest.mark.parametrize(("format", "lossless"), CONTAINERS)
def test_ffmpeg_shows_what_comes_through_a_pipe_to_the_end(format, lossless):
    sent = send(format, lossless=lossless, metadata=recipe_to_metadata({"prompt": "a swan"})).sent
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-sws_flags", "accurate_rnd+full_chroma_int"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i", "-", *raw, "-"]
    run = subprocess.run(command, input=bytes(sent), capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    shown = np.frombuffer(run.stdout, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    assert len(shown) == len(CLIP)
    error = np.quantile(abs(shown.astype(int) - CLIP), 1 if lossless else 0.5)
    assert error <= (0 if lossless else 3), error  # 4:2:0 mixes colours at edges, which are many


@pytest.mark.parametrize(("format", "lossless"), CONTAINERS)
def test_every_chunk_can_be_seen_when_it_was_sent(format, lossless):
    pipe = Pipe()
    with pipe_writer(pipe, format, lossless=lossless) as out:
        for start in range(0, len(CLIP), 6):
            out.write(CLIP[start : start + 6])
            assert pipe.flushed == len(pipe.sent)
            with av.open(io.BytesIO(pipe.sent)) as container:
                assert len(list(container.decode(video=0))) == out.frames_written == start + 6


@pytest.mark.parametrize("format", ["mp4", "mkv", "nut"])
def test_the_stream_tells_its_rate_its_colours_and_its_recipe(format):
    sent = send(format, metadata=recipe_to_metadata({"prompt": "a swan", "seed": 1})).sent
    with av.open(io.BytesIO(sent)) as container:
        stream = container.streams.video[0]
        times = [packet.pts * packet.time_base for packet in container.demux(stream) if packet.size]
        context = stream.codec_context
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert max(abs(time - number / FPS) for number, time in enumerate(times)) < 0.001
    assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    assert '"seed":1' in tags["causvid"]


def test_raw_pictures_are_the_bytes_of_the_pictures():
    assert bytes(send("rawvideo").sent) == CLIP.tobytes()


def test_yuv4mpeg_says_its_rate_and_has_the_colours_of_its_size():
    header, _, rest = bytes(send("yuv4mpeg").sent).partition(b"\n")
    assert header.startswith(b"YUV4MPEG2 W64 H48 F16:1 Ip")
    assert rest.count(b"FRAME\n") == len(CLIP)
    green = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    green[..., 1] = 255
    pipe = Pipe()
    with pipe_writer(pipe, "yuv4mpeg") as out:
        out.write(green)
    luma = np.frombuffer(bytes(pipe.sent).partition(b"FRAME\n")[2], np.uint8)[: HEIGHT * WIDTH]
    assert abs(luma.mean() - (16 + 219 * 0.587)) <= 1  # BT.601, which players take for small pictures


@pytest.mark.parametrize(
    "format", [pytest.param(each, marks=() if each == "mp4" else pytest.mark.slow) for each in PIPE_FORMATS]
)
def test_an_endless_video_takes_constant_memory(format):
    class Nowhere:
        def write(self, data):
            return len(data)

        def flush(self):
            pass

    me, chunk = psutil.Process(), noise(50)
    with pipe_writer(Nowhere(), format) as out:
        for _ in range(10):
            out.write(chunk)
        before = me.memory_info().rss
        for _ in range(30):
            out.write(chunk)
        assert out.frames_written == 2000
    # 1500 frames of 9 kB are 14 MB
    assert me.memory_info().rss - before < 5_000_000


def test_a_reader_that_is_gone_is_a_broken_pipe():
    reader, other = os.pipe()
    os.close(reader)
    with open(other, "wb", buffering=0) as file, pytest.raises(BrokenPipeError), pipe_writer(file) as out:
        out.write(CLIP)
    assert out.frames_written == 0


def test_a_disk_that_is_full_behind_stdout_is_an_output_error():
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match="^stdout: no space left on device$"), pipe_writer(Full()) as out:
        out.write(CLIP)


def test_nothing_is_published_where_nothing_was_sent():
    with pytest.raises(OutputError, match="stdout: no frames were made"), pipe_writer(Pipe()) as out:
        out.publish()


def test_one_piece_of_each_container_has_a_header_and_the_others_none():
    for format in PIPE_FORMATS[:3]:
        encoder = FragmentEncoder(video_format(metadata={"title": "mark"}), container=format)
        first, *others = (encoder.encode(CLIP[:4]) for _ in range(3))
        assert b"mark" in first and not any(b"mark" in piece for piece in others)
