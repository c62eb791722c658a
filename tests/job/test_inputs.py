"""i2v, extend, restyle and edit-script as a user meets them: videos that begin from a file."""

import functools
import hashlib
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from commands import PROMPT, after_chunks, decode, fails, makes, names, notes, run
from PIL import Image
from real_media import real_clip
from tiny import tiny_pack

from causvid_cli import pipeline
from causvid_cli.cli import generate
from causvid_cli.errors import UsageError
from causvid_cli.media.clips import open_clip
from causvid_cli.media.probe import read_info
from causvid_cli.models import packs
from causvid_cli.video import FragmentEncoder, VideoFormat
from causvid_cli.video.formats import FORMS
from causvid_cli.video.pipe import PIPE_FORMATS

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """A model that was loaded for one command serves the next that asks for the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load", functools.cache(pipeline.load))
        yield


def halves(width: int, height: int) -> np.ndarray:
    """Red on the left, blue on the right."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2], picture[:, width // 2 :] = (255, 0, 0), (0, 0, 255)
    return picture


def walk(frames: int, *, width: int = 96, height: int = 64) -> np.ndarray:
    """A white bar that walks over two halves."""
    clip = np.repeat(halves(width, height)[None], frames, axis=0)
    for number, picture in enumerate(clip):
        picture[10:30, 4 * number % (width - 8) :][:, :8] = 255
    return clip


def stretched(size: str) -> str:
    """What is said of a clip that is not as square as the model."""
    return f"its {size} are stretched to the model's 64x64; --fit crop or --fit pad keep round things round"


@pytest.fixture
def photo(work) -> Path:
    Image.fromarray(walk(1)[0]).save("photo.png")
    return Path("photo.png")


@pytest.fixture
def clip(work) -> Path:
    """2 s of 96x64 at 8 frames per second, without sound."""
    encoder = FragmentEncoder(VideoFormat(width=96, height=64, fps=Fraction(8), metadata={"title": "walk"}))
    Path("clip.mp4").write_bytes(encoder.encode(walk(16)))
    return Path("clip.mp4")


@pytest.fixture
def loud(clip) -> Path:
    """The clip with sound."""
    with av.open(str(clip)) as source, av.open("loud.mp4", "w") as output:
        pictures = output.add_stream_from_template(source.streams.video[0])
        sound = output.add_stream("aac", rate=48_000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = pictures
                output.mux(packet)
        tone = (np.sin(np.arange(96_000) / 20) * 8000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate = 48_000
        output.mux([*sound.encode(frame), *sound.encode(None)])
    clip.unlink()
    return Path("loud.mp4")


def packets(path: Path | str, kind: str) -> list[str]:
    """Each packet of the sound, or each decoded picture, by its checksum."""
    with av.open(str(path)) as container:
        if kind == "audio":
            return [hashlib.sha256(bytes(p)).hexdigest() for p in container.demux(audio=0) if p.size]
        return [hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest() for frame in container.decode(video=0)]


# --- i2v -----------------------------------------------------------------------------------------------------------


def test_i2v_begins_with_the_photo_whatever_the_prompt_and_the_seed(tiny, photo):
    shown = {}
    for name, prompt, seed in (("a", PROMPT, 1), ("b", "a blue boat", 2)):
        result = makes(
            "i2v", photo, prompt, "-m", tiny, "-s", seed, "-o", f"{name}.mkv", "--lossless", "--length", "2s"
        )
        assert result.stdout == f"{name}.mkv\n"
        shown[name] = decode(f"{name}.mkv")
    assert shown["a"].shape == (16, 128, 128, 3)
    assert np.array_equal(shown["a"][:4], shown["b"][:4])
    assert not np.array_equal(shown["a"][4:], shown["b"][4:])
    told = read_info(Path("a.mkv")).recipe["input"]
    assert told == {
        "kind": "photo",
        "name": "photo.png",
        "sha256": hashlib.sha256(photo.read_bytes()).hexdigest(),
        "fit": "crop",
        "hold": "chunk",
        "background": "",
        "context_frames": 0,
        "strength": None,
        "keep_size": False,
        "cue": None,
    }


def test_the_shipped_model_shows_a_photo_of_its_own_world_as_it_is():
    makes("t2v", PROMPT, "-s", 1, "-o", "car.mkv", "--lossless", "--length", "4f")
    Image.fromarray(decode("car.mkv")[0]).save("car.png")
    makes("i2v", "car.png", PROMPT, "-s", 2, "-o", "x.mkv", "--lossless", "--length", "4f")
    same = (decode("x.mkv")[0] == np.asarray(Image.open("car.png"))).all(axis=-1)
    assert same.mean() > 0.95  # the codec alone keeps 97.1 % of pixels on the average of many pictures


def test_a_photo_is_cropped_padded_or_stretched(tiny, photo):
    shown = {}
    for fit in ("crop", "pad", "stretch"):
        makes(
            "i2v", photo, PROMPT, "-m", tiny, "-s", 1, "-o", f"{fit}.mkv", "--lossless", "--length", "4f", "--fit", fit
        )
        shown[fit] = decode(f"{fit}.mkv")[0]
    assert len({picture.tobytes() for picture in shown.values()}) == 3
    fails(run("i2v", photo, PROMPT, "-m", tiny, "--fit", "corp"), 2, r"--fit corp: unknown; .*did you mean crop\?")


def test_a_photo_is_held_for_a_chunk_or_a_latent_frame(tmp_path, photo):
    pack = tiny_pack(tmp_path / "chunky", chunk_frames=2)
    frames = {}
    for hold in ("chunk", "frame"):
        result = makes("i2v", photo, PROMPT, "-m", pack, "-s", 1, "-o", f"{hold}.mp4", "--length", "3s", "--hold", hold)
        assert "24 frames" in result.stderr
        frames[hold] = read_info(Path(f"{hold}.mp4")).recipe["input"]["hold"]
    assert frames == {"chunk": "chunk", "frame": "frame"}
    assert not np.array_equal(decode("chunk.mp4")[4:8], decode("frame.mp4")[4:8])
    fails(run("i2v", photo, PROMPT, "-m", pack, "--hold", "long"), 2, "--hold long: unknown; try frame or chunk")


def test_a_photo_is_turned_upright_and_its_background_filled(tiny):
    turned = Image.fromarray(halves(64, 64).swapaxes(0, 1))  # red above, blue below
    exif = turned.getexif()
    exif[0x112] = 8  # to be turned by 90 degrees to the left: red comes to the left
    turned.save("turned.png", exif=exif)
    Image.fromarray(halves(64, 64)).save("upright.png")
    clear = np.dstack([halves(64, 64), np.full((64, 64), 255, np.uint8)])
    clear[:, 32:, 3] = 0
    Image.fromarray(clear).save("clear.png")
    filled = halves(64, 64)
    filled[:, 32:] = 255
    Image.fromarray(filled).save("filled.png")
    shown = {}
    for name, options in (("turned", ()), ("upright", ()), ("clear", ("--background", "#ffffff")), ("filled", ())):
        result = makes(
            "i2v", f"{name}.png", PROMPT, "-m", tiny, "-s", 1, "-o", f"{name}.mkv", "--length", "4f", *options
        )
        shown[name] = decode(f"{name}.mkv")
        assert notes(result)[-1] == pipeline.PHOTOGRAPH
        assert ("turned upright by its EXIF" in notes(result)) == (name == "turned")
    assert np.array_equal(shown["turned"], shown["upright"])
    assert np.array_equal(shown["clear"], shown["filled"])
    complaint = "--background 'white' is no colour; write #RRGGBB"
    fails(run("i2v", "clear.png", PROMPT, "-m", tiny, "--background", "white"), 2, complaint)


# --- extend --------------------------------------------------------------------------------------------------------


def test_extend_keeps_every_picture_and_every_packet_of_sound(tiny, loud):
    result = makes("extend", loud, PROMPT, "-m", tiny, "-s", 7, "-o", "longer.mp4", "--length", "1s")
    assert result.stdout == "longer.mp4\n"
    assert "8 new frames, 96x64, 1.0 s at 8 fps" in result.stderr
    pictures = packets("longer.mp4", "video")
    assert len(pictures) == 24
    assert pictures[:16] == packets(loud, "video")
    before = packets(loud, "audio")
    assert packets("longer.mp4", "audio")[: len(before)] == before
    told = read_info(Path("longer.mp4")).recipe["input"]
    assert (told["kind"], told["keep_size"]) == ("clip", True)


def test_extend_knows_from_the_recipe_what_the_clip_showed(tiny):
    makes("t2v", "a red car drives left", "-m", tiny, "-s", 1, "-o", "car.mp4", "--length", "1s")
    first = makes("extend", "car.mp4", "it jumps in the snow", "-m", tiny, "-s", 2, "-o", "b.mp4", "--length", "1s")
    assert "read as: red car, jumps, snow" in first.stderr
    told = read_info(Path("b.mp4")).recipe["input"]["cue"]
    assert told["seed"] == 1 and "red car" in told["prompt"]
    then = makes("extend", "b.mp4", "it stops", "-m", tiny, "-s", 3, "-o", "c.mp4", "--length", "1s")
    assert "read as: red car, stays still, snow" in then.stderr  # what the second prompt left unsaid as well
    assert read_info(Path("c.mp4")).recipe["input"]["cue"]["seed"] == 2  # of the snow
    makes("rerun", "c.mp4", "-m", tiny, "-o", "d.mp4")
    assert np.array_equal(decode("c.mp4"), decode("d.mp4"))


@pytest.mark.parametrize("recipe", ["{torn", "[]", '{"v": 1}', '{"v": 99}', '{"v": 1, "cues": 3}'])
def test_extend_goes_on_without_a_damaged_recipe_and_says_so(recipe, tiny):
    encoder = FragmentEncoder(VideoFormat(width=96, height=64, fps=Fraction(8), metadata={"causvid": recipe}))
    Path("clip.mp4").write_bytes(encoder.encode(walk(16)))
    result = makes("extend", "clip.mp4", "it jumps", "-m", tiny, "-o", "longer.mp4", "--length", "1s")
    assert "what it showed is not known: clip.mp4: its recipe" in result.stderr


def test_of_a_clip_that_was_cut_the_recipe_does_not_tell_the_end(tiny):
    makes("t2v", "a red car", "--then", "1s: a cat in the snow", "-m", tiny, "-s", 1, "-o", "a.mp4", "--length", "2s")
    for name, frames, read in (("whole", 16, "cat, jumps, snow"), ("cut", 8, "only ")):
        info = read_info(Path("a.mp4"))
        metadata = {"causvid": json.dumps(info.recipe)}
        encoder = FragmentEncoder(VideoFormat(width=96, height=64, fps=Fraction(8), metadata=metadata))
        Path(f"{name}.mp4").write_bytes(encoder.encode(walk(frames)))
        result = makes("extend", f"{name}.mp4", "it jumps", "-m", tiny, "-o", f"{name}2.mp4", "--length", "1s")
        assert f"read as: {read}" in result.stderr


def test_extend_of_what_another_program_made_is_told_by_its_prompt_alone(tiny, clip):
    result = makes("extend", clip, "it jumps", "-m", tiny, "-s", 7, "-o", "longer.mp4", "--length", "1s")
    assert read_info(Path("longer.mp4")).recipe["input"]["cue"] is None
    assert "no subject was understood" in result.stderr


def test_extend_of_a_real_clip(tiny):
    source = real_clip("carphone_pristine.mp4")
    result = makes("extend", source, PROMPT, "-m", tiny, "-s", 7, "-o", "longer.mp4", "--length", "1s")
    assert packets("longer.mp4", "video")[:120] == packets(source, "video")
    rates = "tiny makes 8 frames per second and the video has 29.97: frames are repeated"
    assert notes(result) == [
        f"{rates} (--interpolate blend or motion draws some between)",
        "its pixels of 128:117 made square",
        stretched("192x144"),
        "the clip is no drawing of this model's kind: what follows is drawn from the prompt",
    ]


@pytest.mark.parametrize("rate", ["25", "30000/1001", "12"])
def test_a_clip_goes_on_at_its_own_rate_and_speed(rate, tiny):
    """One constant rate, the clip's packets as they were, and motion as fast as at the model's own rate."""
    fps = Fraction(rate)
    encoder = FragmentEncoder(VideoFormat(width=96, height=64, fps=fps))
    Path("clip.mp4").write_bytes(encoder.encode(walk(30)))
    for name, options in (("a", []), ("none", ["--interpolate", "none"])):
        makes("extend", "clip.mp4", PROMPT, "-m", tiny, "-s", 7, "-o", f"{name}.mp4", "--length", "2s", *options)
    new = round(2 * fps)
    info = read_info(Path("a.mp4"))
    assert (info.fps, info.frames) == (fps, 30 + new)
    assert packets("a.mp4", "video")[:30] == packets("clip.mp4", "video")
    with av.open("a.mp4") as container:
        lasts = {packet.duration * packet.time_base for packet in container.demux(video=0) if packet.size}
    assert lasts == {1 / fps}
    shown, own = decode("a.mp4")[30:].astype(int), decode("none.mp4")[30:].astype(int)
    assert len(own) == 16
    nearest = [int(np.abs(own - frame).mean((1, 2, 3)).argmin()) for frame in shown]  # the encoder changes both
    assert nearest == [int(number * 8 / fps) for number in range(new)]
    assert info.recipe["fps"] == rate


def test_motion_is_not_looked_for_in_tiny_frames(tiny):
    encoder = FragmentEncoder(VideoFormat(width=64, height=30, fps=Fraction(25)))
    Path("clip.mp4").write_bytes(encoder.encode(walk(9, width=64, height=30)))
    way = ["--interpolate", "motion"]
    complaint = "--interpolate motion: frames of 64x30 are too small for that; try --interpolate blend"
    fails(run("extend", "clip.mp4", PROMPT, "-m", tiny, "-o", "x.mp4", *way), 2, complaint)


def test_restyle_sees_a_clip_at_the_models_rate_where_it_is_asked_to_interpolate(tiny, clip):
    for way, chunks in (("none", 6), ("repeat", 2)):
        options = ["--fps", 25, "--interpolate", way, "--json-lines"]
        shown = makes("restyle", clip, PROMPT, "-m", tiny, "-s", 7, "-o", f"{way}.mp4", *options).stdout
        assert sum(json.loads(line)["event"] == "chunk" for line in shown.splitlines()) == chunks * 2 + (way == "none")
        info = read_info(Path(f"{way}.mp4"))
        assert (info.frames, info.fps) == (50, 25)


def test_extend_continues_what_it_sees(tiny, clip):
    for name, options in (("all", ()), ("same", ("--context", "1h")), ("less", ("--context", "0.5s"))):
        makes("extend", clip, PROMPT, "-m", tiny, "-s", 7, "-o", f"{name}.mp4", "--length", "1s", *options)
    pictures = {name: packets(f"{name}.mp4", "video") for name in ("all", "same", "less")}
    assert pictures["all"] == pictures["same"]
    assert pictures["all"][:16] == pictures["less"][:16]
    assert pictures["all"][16:] != pictures["less"][16:]
    contexts = [read_info(Path(f"{name}.mp4")).recipe["input"]["context_frames"] for name in ("all", "less")]
    assert contexts == [2, 1]


def test_a_clip_with_sound_goes_into_matroska_and_webm(tiny, loud, monkeypatch):
    result = makes("extend", loud, PROMPT, "-m", tiny, "-s", 7, "-o", "a.webm", "--length", "1s")
    assert [note for note in notes(result) if "encoded anew" in note] == [
        "loud.mp4: its sound (aac) is encoded anew as Opus, since WebM does not hold it as it is",
        "loud.mp4: H.264 and the new frames' VP9 cannot share a track: its frames are encoded anew",
    ]
    assert len(packets("a.webm", "video")) == 24 and packets("a.webm", "audio")
    makes("restyle", loud, PROMPT, "-m", tiny, "-s", 7, "-o", "b.mkv", "--lossless", "--length", "1s")
    assert packets("b.mkv", "audio") == packets(loud, "audio")[: len(packets("b.mkv", "audio"))]
    monkeypatch.setattr(packs, "pack_roots", lambda: [tiny.parent])
    makes("extend", loud, PROMPT, "-m", tiny, "-s", 7, "-o", "whole.mkv", "--length", "2s")
    assert packets("whole.mkv", "video")[:16] == packets(loud, "video")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "rollout", after_chunks(2, lambda: signal.raise_signal(signal.SIGINT)))
        fails(run("extend", loud, PROMPT, "-m", tiny, "-s", 7, "-o", "x.mkv", "--length", "2s", "-q"), 130, "stopped")
    makes("resume", "x.partial.mkv")
    assert Path("x.mkv").read_bytes() == Path("whole.mkv").read_bytes()


def test_each_prompt_of_what_is_added_is_a_chapter_after_the_clip(tiny, clip):
    makes("extend", clip, PROMPT, "-m", tiny, "--then", "1s: it jumps", "-o", "longer.mp4", "--length", "2s")
    chapters = read_info(Path("longer.mp4")).chapters
    assert [(chapter.start_frame, chapter.title) for chapter in chapters] == [
        (0, "walk"),
        (16, PROMPT),
        (24, "it jumps"),
    ]


EXTEND = {
    "size": (["--size", "64x64"], 2, "--size 64x64: the new part has the clip's own size, 96x64; leave it out"),
    "context 0": (["--context", "0s"], 2, "--context 0s: must be more than 0; try 2s"),
    "context abc": (["--context", "abc"], 2, "--context 'abc' is not a time"),
    "lossless": (["-o", "x.mkv", "--lossless"], 2, "--lossless: what follows a clip is encoded like the clip"),
    "gif": (["-o", "x.gif"], 7, "x.gif: a clip and its sound go into an MP4, MKV or WebM; try -o x.mp4"),
    "stdout": (["-o", "-"], 2, "-o -: the clip and what follows it go into one file; name one"),
    "itself": (["-o", "clip.mp4", "-y"], 7, "clip.mp4 is the input; choose another -o"),
    "itself by another name": (["-o", "link.mp4", "-y"], 7, "link.mp4 is the input; choose another -o"),
}


@pytest.mark.parametrize(("options", "code", "complaint"), EXTEND.values(), ids=EXTEND)
def test_what_extend_cannot_do_is_found_before_the_model_loads(options, code, complaint, tiny, clip, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    os.link(clip, "link.mp4")
    before = clip.read_bytes()
    fails(run("extend", clip, PROMPT, "-m", tiny, *options), code, complaint)
    assert clip.read_bytes() == before
    assert names() == ["clip.mp4", "link.mp4"]


# --- shapes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def wide(work) -> Path:
    """2 s of 96x48, twice as wide as high, all of it light, for the square model."""
    encoder = FragmentEncoder(VideoFormat(width=96, height=48, fps=Fraction(8)))
    Path("wide.mp4").write_bytes(encoder.encode(np.full((16, 48, 96, 3), 200, np.uint8)))
    return Path("wide.mp4")


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_fit_means_the_same_into_the_model_and_out_of_it(how, tiny, wide, monkeypatch):
    seen: list[np.ndarray] = []
    real = pipeline.Pipeline.stream

    def stream(self, *arguments, **options):
        seen.extend(pictures for pictures in (options.get("given"),) if pictures is not None)
        return real(self, *arguments, **options)

    monkeypatch.setattr(pipeline.Pipeline, "stream", stream)
    result = makes("extend", wide, PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "4f", "--fit", how)
    assert (stretched("96x48") in notes(result)) == (how == "stretch")
    (given,) = seen
    assert given.shape[1:] == (64, 64, 3)
    assert (given == 0).any() == (how == "pad")
    new = decode("x.mp4")[16:].astype(int)
    assert new.shape[1:] == (48, 96, 3)
    bars = np.concatenate([new[:, :, :20], new[:, :, -20:]], axis=2).max() < 24
    assert bars == (how == "pad")
    result = makes("restyle", wide, PROMPT, "-m", tiny, "-o", "y.mp4", "--length", "4f", "--fit", how)
    assert decode("y.mp4").shape[1:3] == ((48, 96) if how == "stretch" else (128, 128))
    Path("z.mp4").write_bytes(Path("y.mp4").read_bytes())
    monkeypatch.setattr(packs, "pack_roots", lambda: [tiny.parent])
    makes("rerun", "z.mp4", "--input", wide, "-o", "y2.mp4")
    assert np.array_equal(decode("y2.mp4"), decode("y.mp4"))


# --- damage --------------------------------------------------------------------------------------------------------


@functools.cache
def whole(suffix: str) -> bytes:
    """A clip of 2.5 s with two key frames a second and sound, in this container."""
    path, codec = Path(f"whole{suffix}"), "mpeg4" if suffix == ".avi" else "libx264"
    options = {"movflags": "faststart"} if suffix == ".mp4" else {"fflags": "+bitexact"}
    with av.open(str(path), "w", options=options) as output:
        stream = output.add_stream(codec, rate=8, width=96, height=64, pix_fmt="yuv420p", options={"g": "4"})
        stream.thread_count = 1  # with several, not every run gives the same bytes
        sound = output.add_stream("mp3" if suffix == ".avi" else "aac", rate=48_000, layout="mono")
        noise = np.random.default_rng(0).integers(0, 60, (20, 64, 96, 3), dtype=np.uint8)
        for number, picture in enumerate(walk(20) // 2 + noise):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            output.mux(stream.encode(frame))
        tone = av.AudioFrame.from_ndarray(np.full((1, 120_000), 900, np.int16), format="s16p", layout="mono")
        tone.sample_rate = 48_000
        resampler = av.AudioResampler(format=sound.format, layout="mono", rate=48_000, frame_size=1152)
        for frame in (*resampler.resample(tone), *resampler.resample(None)):
            output.mux(sound.encode(frame))
        output.mux([*sound.encode(None), *stream.encode(None)])
    data = path.read_bytes()
    path.unlink()
    return data


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def zeroed(begin: float, size: int = 900) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * begin)] + bytes(size) + data[int(len(data) * begin) + size :]


def left_out(begin: float, size: int = 600) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * begin)] + data[int(len(data) * begin) + size :]


def flipped(begin: float, end: float, count: int = 60) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        for place in np.random.default_rng(1).integers(int(len(data) * begin), int(len(data) * end), count):
            changed[place] ^= 255
        return bytes(changed)

    return flip


DAMAGE = {
    **{f"mp4 cut at {share}": (".mp4", cut(share)) for share in (0.02, 0.3, 0.6, 0.9, 0.995)},
    **{f"{kind} cut at 0.6": (f".{kind}", cut(0.6)) for kind in ("mkv", "ts", "avi")},
    "mp4 without moov": (".mp4", lambda data: data.replace(b"moov", b"junk")),
    "mp4 without ftyp": (".mp4", lambda data: data[data.index(b"moov") - 4 :]),
    "mp4 with other sizes": (".mp4", lambda data: data.replace(b"stsz", b"stsx", 1)),
    "mp4 with a zeroed table": (".mp4", lambda data: zeroed(data.index(b"stts") / len(data), 60)(data)),
    **{f"{kind} zeroed": (f".{kind}", zeroed(0.5)) for kind in ("mp4", "mkv", "ts", "avi")},
    "mp4 zeroed at its first frame": (".mp4", lambda data: zeroed((data.index(b"mdat") + 4) / len(data))(data)),
    "mp4 zeroed at its end": (".mp4", zeroed(0.96, 500)),
    **{f"{kind} flipped": (f".{kind}", flipped(0.3, 0.7)) for kind in ("mp4", "mkv", "ts", "avi")},
    "mp4 flipped at its end": (".mp4", flipped(0.8, 1)),
    **{f"{kind} with a hole": (f".{kind}", left_out(0.5)) for kind in ("mp4", "mkv", "ts")},
    "mp4 with a tail": (".mp4", lambda data: data + bytes(range(256)) * 9),
}
HOPELESS = {
    "mp4 cut at 0.02",
    "mp4 without moov",
    "mp4 without ftyp",
    "mp4 with other sizes",
    "mp4 with a zeroed table",
}
"""Nothing tells where a frame lies, or tells it wrongly."""
RESTYLED = ("mp4 cut at 0.6", "mkv cut at 0.6", "mp4 zeroed", "ts zeroed")
QUICK = {
    *HOPELESS,
    *RESTYLED,
    *("mp4 cut at 0.995", "ts cut at 0.6", "avi cut at 0.6", "mkv zeroed", "mp4 zeroed at its first frame"),
    *("mp4 flipped", "ts flipped", "avi flipped", "mp4 flipped at its end", "mp4 with a hole", "mkv with a hole"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in DAMAGE]
)
def test_damage_is_met_before_anything_is_made_and_tolerated_where_asked(kind, tiny):
    suffix, damage = DAMAGE[kind]
    name = f"in{suffix}"
    Path(name).write_bytes(damage(whole(suffix)))
    for command in ("extend", "restyle") if kind in RESTYLED else ("extend",):
        options = ["--length", "4f"] if command == "extend" else []
        common = [command, name, PROMPT, "-m", tiny, "-s", 1, "--steps", 1, "-o", "x.mp4", *options]
        result = run(*common)
        if result.exit_code:  # else the damage lies where nothing is decoded, or shows not at all
            fails(result, 3, f"{name}: ")
            assert "resume" not in result.stderr and names() == [name]
        result = run(*common, "--tolerate-damage", "-y")
        if kind in HOPELESS:
            fails(result, 3, f"{name}: ")
            assert "resume" not in result.stderr and "tolerate" not in result.stderr and names() == [name]
            continue
        assert result.exit_code == 0, result.stderr
        assert names() == [name, "x.mp4"]
        assert 4 < len(decode("x.mp4")) <= 24
        os.unlink("x.mp4")


def test_damage_is_met_in_what_an_exact_join_copies(tiny):
    """Far before the frames that the model is shown, with key frames between."""
    content = bytearray(whole(".mp4"))
    with av.open(io.BytesIO(content)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][10]
        begin, end = packet.pos + 4, packet.pos + packet.size
    content[begin:end] = bytes(byte ^ 0x55 for byte in content[begin:end])
    Path("in.mp4").write_bytes(content)
    arguments = ["extend", "in.mp4", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "4f", "--context", "1f"]
    fails(run(*arguments), 3, "in.mp4: damaged at frame .* --tolerate-damage goes on")
    assert names() == ["in.mp4"]
    assert any("damaged at frame" in note for note in notes(makes(*arguments, "--tolerate-damage")))


@pytest.mark.parametrize("command", ["extend", "restyle"])
def test_damaged_sound_is_told_before_the_model_loads(command, tiny, monkeypatch):
    content = bytearray(whole(".ts"))
    header = content.rindex(b"\xff\xf1")  # of a packet of sound
    content[header : header + 7] = bytes(7)
    Path("in.ts").write_bytes(content)
    arguments = [command, "in.ts", PROMPT, "-m", tiny, "-o", "x.mp4", "--length", "4f"]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
        fails(run(*arguments), 3, "in.ts: its sound is damaged; ffmpeg -i in.ts .* --tolerate-damage goes on")
    assert any("its sound is damaged, and" in note for note in notes(makes(*arguments, "--tolerate-damage")))


# --- what causvid writes -------------------------------------------------------------------------------------------

WRITTEN = [f"a{suffix}" for suffix in FORMS if suffix != ".png"]
PIPED = [f"piped.{name}" for name in PIPE_FORMATS if name != "rawvideo"]  # which tells no size


@pytest.mark.parametrize("name", WRITTEN + PIPED)
def test_every_format_that_is_written_is_read_back(name, tiny):
    made = ["t2v", PROMPT, "-m", tiny, "-s", 1, "--length", "1s"]
    if name in WRITTEN:
        makes(*made, "-o", name)
    else:
        Path(name).write_bytes(makes(*made, "-o", "-", "--format", name.removeprefix("piped.")).stdout_bytes)
    info = json.loads(makes("info", name, "--json").stdout)
    assert (info["frames"], info["width"], info["height"]) == (8, 128, 128)
    assert info["duration_s"] == pytest.approx(1, abs=0.011)  # a GIF counts in 1/100 s
    assert "8 new frames" in makes("extend", name, PROMPT, "-m", tiny, "-o", "b.mp4", "--length", "1s").stderr
    assert read_info(Path("b.mp4")).frames == 16
    makes("restyle", name, PROMPT, "-m", tiny, "-o", "c.mp4")
    assert read_info(Path("c.mp4")).frames == 8
    fails(run("i2v", name, PROMPT, "-m", tiny), 3, f"{name}: is .*, not a (picture|still); try causvid extend {name} ")


def test_numbered_frames_are_read_back_one_by_one(tiny):
    Path("frames").mkdir()
    makes("t2v", PROMPT, "-m", tiny, "-s", 1, "--length", "4f", "-o", "frames/%05d.png")
    makes("i2v", "frames/00004.png", PROMPT, "-m", tiny, "-o", "b.mp4", "--length", "4f")
    for command in ("extend", "restyle"):
        fails(run(command, "frames/00004.png", PROMPT, "-m", tiny), 3, "is a picture, not a video; try causvid i2v")


# --- restyle -------------------------------------------------------------------------------------------------------


def test_restyle_is_as_long_as_the_clip_and_keeps_its_sound(tiny, loud):
    result = makes("restyle", loud, "a blue boat", "-m", tiny, "-s", 7, "-o", "boat.mp4")
    info = read_info(Path("boat.mp4"))
    assert (info.frames, info.width, info.height) == (16, 96, 64)
    assert packets("boat.mp4", "audio")[:-3] == packets(loud, "audio")[: len(packets("boat.mp4", "audio")) - 3]
    assert len(packets("boat.mp4", "audio")) >= len(packets(loud, "audio")) - 1
    assert (info.recipe["input"]["kind"], info.recipe["input"]["strength"]) == ("source", 0.6)
    assert notes(result) == [stretched("96x64")]


def test_restyle_changes_more_with_more_strength():
    makes("t2v", PROMPT, "-s", 1, "-o", "car.mkv", "--lossless", "--length", "1s")
    source, changed = decode("car.mkv").astype(int), []
    for strength in ("0.2", "1"):
        makes("restyle", "car.mkv", "a blue boat", "-s", 7, "-o", "x.mkv", "-y", "--lossless", "--strength", strength)
        changed.append(np.abs(decode("x.mkv").astype(int) - source).mean())
    assert changed[0] < changed[1]


@pytest.mark.parametrize("strength", ["0", "-0.1", "1.5", "nan"])
def test_a_strength_that_is_none_is_refused(strength, tiny, clip):
    complaint = f"--strength {strength}: must be more than 0 and at most 1"
    fails(run("restyle", clip, PROMPT, "-m", tiny, "--strength", strength), 2, complaint)


def test_a_model_that_copies_its_own_past_cannot_follow_a_clip(tmp_path, clip):
    facts = {"prediction": "copies", "opening_network": "opening", "steps": (1000.0,)}
    pack = tiny_pack(tmp_path / "copies", **facts)
    complaint = r"copies what it has made before, and cannot follow a clip; restyle it with another model \(-m\)"
    fails(run("restyle", clip, PROMPT, "-m", pack, "-o", "x.mp4"), 2, complaint)
    assert not list(Path().glob("x*"))
    with pytest.raises(UsageError, match=complaint):
        pipeline.load(pack, device="cpu").stream(PROMPT, source=iter(()))


def test_restyle_takes_the_size_and_the_length_that_are_asked_for(tiny, clip):
    result = makes("restyle", clip, PROMPT, "-m", tiny, "-o", "a.mp4", "--size", "128x128", "--length", "1s")
    info = read_info(Path("a.mp4"))
    assert (info.frames, info.width, info.height) == (8, 128, 128)
    result = makes("restyle", clip, PROMPT, "-m", tiny, "-o", "b.mp4", "--length", "1m")
    assert notes(result) == [stretched("96x64"), "clip.mp4 ended before --length 1m, and so does the video"]
    assert read_info(Path("b.mp4")).frames == 16


def test_restyle_without_sound_goes_into_any_format(tiny, clip, loud):
    makes("restyle", loud, PROMPT, "-m", tiny, "-o", "a.mp4", "--length", "1s")
    result = makes("restyle", loud, PROMPT, "-m", tiny, "-o", "a.gif", "--length", "1s")
    assert notes(result) == [stretched("96x64"), "its sound is left out: .gif gets frames only"]
    result = makes("restyle", loud, PROMPT, "-m", tiny, "-o", "-", "--format", "rawvideo", "--length", "1s")
    assert len(result.stdout_bytes) == 8 * 64 * 96 * 3
    assert notes(result) == [stretched("96x64"), "its sound is left out: stdout gets frames only"]
    makes("extend", "a.gif", PROMPT, "-m", tiny, "-o", "b.mp4", "--length", "4f")


def test_ctrl_c_breaks_off_a_clip_that_is_restyled(tiny, clip, monkeypatch):
    makes("restyle", clip, PROMPT, "-m", tiny, "-s", 7, "-o", "whole.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "rollout", after_chunks(1, lambda: signal.raise_signal(signal.SIGINT)))
        result = run("restyle", clip, PROMPT, "-m", tiny, "-s", 7, "-o", "x.mp4", "-q")
    fails(result, 130, "stopped; 8 frames are kept in x.partial.mp4; `causvid resume x.mp4.part` goes on")
    makes("resume", "x.partial.mp4")
    assert Path("x.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def piped(monkeypatch, content: bytes) -> None:
    """stdin is a pipe that brings this."""
    stdin = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
    monkeypatch.setattr(generate.sys, "stdin", stdin)
    monkeypatch.setattr(generate, "stdin_video", lambda: stdin.buffer)


def test_restyle_takes_a_live_video_and_sends_one(tiny, clip, monkeypatch):
    makes("restyle", clip, PROMPT, "-m", tiny, "-s", 7, "-o", "wanted.mkv", "--lossless")
    seen = np.stack(list(open_clip(clip).frames(Fraction(8))))
    for options, content in (
        ((), clip.read_bytes()),  # fragmented, as it is
        (("--input-size", "96x64", "--input-fps", "8"), seen.tobytes()),
    ):
        piped(monkeypatch, content)
        arguments = ["restyle", "-", PROMPT, "-m", tiny, "-s", 7, "-o", "-", "--format", "rawvideo", *options]
        sent = np.frombuffer(makes(*arguments).stdout_bytes, np.uint8).reshape(-1, 64, 96, 3)
        assert np.array_equal(sent, decode("wanted.mkv"))


def test_a_live_video_ends_with_ctrl_c_and_cannot_be_resumed(tiny, clip, monkeypatch):
    monkeypatch.setattr(packs, "pack_roots", lambda: [tiny.parent])
    arguments = ["restyle", "-", PROMPT, "-m", tiny, "-s", 7, "-o", "x.mp4", "-q"]
    with monkeypatch.context() as patch:
        piped(patch, clip.read_bytes())
        patch.setattr(pipeline, "rollout", after_chunks(1, lambda: signal.raise_signal(signal.SIGINT)))
        makes(*arguments)
    assert read_info(Path("x.mp4")).frames == 8
    fails(run("rerun", "x.mp4"), 2, "made from a live video on stdin, which is gone")
    Path("x.mp4").unlink()

    def fail() -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        piped(patch, clip.read_bytes())
        patch.setattr(pipeline, "rollout", after_chunks(1, fail))
        result = run(*arguments)
    fails(result, 1, "frames are kept in x.mp4.part\n$")
    assert names() == ["clip.mp4", "x.mp4.part"]


def test_a_live_video_needs_its_facts_and_another_place_for_the_prompt(tiny, monkeypatch):
    piped(monkeypatch, b"no video" * 99)
    for arguments, code, complaint in (
        (["-"], 2, "the clip comes on stdin, so the prompt cannot"),
        (["-", "-"], 2, "the clip comes on stdin, so the prompt cannot"),
        (["-", PROMPT, "--input-size", "96x64"], 2, "need both --input-size and --input-fps"),
        (["-", PROMPT, "--input-size", "96", "--input-fps", "8"], 2, "--input-size '96' is not a size"),
        (["-", PROMPT], 3, "stdin: no video that can be read as it arrives"),
        (["x.mp4", PROMPT, "--input-fps", "8"], 2, "--input-size and --input-fps are for raw frames on stdin"),
    ):
        fails(run("restyle", *arguments, "-m", tiny), code, complaint)


# --- edit-script ---------------------------------------------------------------------------------------------------


def write_script(text: str, name: str = "day.causvid.yaml") -> Path:
    Path(name).write_text(f"version: 1\n{text}")
    return Path(name)


CUES = "cues:\n  - prompt: a red car\n  - at: 1.2s\n    prompt: a blue boat\n    name: the boat\n"


def test_a_script_makes_what_then_makes(tiny):
    script = write_script(f"seed: 7\nlength: 2s\n{CUES}")
    result = makes("edit-script", script, "-m", tiny, "-o", "a.mkv", "--lossless")
    assert [line.partition(" asked")[0] for line in notes(result)] == ["cue 1", "cue 2", "length"]
    arguments = ["t2v", "a red car", "-m", tiny, "--then", "1.2s: a blue boat", "-s", 7, "--length", "2s"]
    makes(*arguments, "-o", "b.mkv", "--lossless")
    assert np.array_equal(decode("a.mkv"), decode("b.mkv"))
    info = read_info(Path("a.mkv"))
    assert [chapter.title for chapter in info.chapters] == ["a red car", "the boat"]
    assert (info.recipe["command"], info.recipe["seed"]) == ("edit-script", 7)


def test_an_edit_of_a_cue_leaves_what_was_before(tiny):
    for name, prompt in (("a", "a blue boat"), ("b", "a green tree")):
        script = write_script(f"seed: 7\nlength: 2s\n{CUES.replace('a blue boat', prompt)}")
        makes("edit-script", script, "-m", tiny, "-o", f"{name}.mkv", "--lossless")
    a, b = decode("a.mkv"), decode("b.mkv")
    assert np.array_equal(a[:8], b[:8])
    assert not np.array_equal(a[8:], b[8:])


def test_what_is_typed_goes_before_the_script_and_what_is_set_does_not(tiny, monkeypatch):
    fields = "seed: 7\nlength: 2s\nsize: 128x128\nfps: 4\ntransition: soft\nnegative: snow\n"
    script = write_script(f"{fields}cues:\n  - prompt: a red car\n  - at: 1s\n    prompt: a blue boat\n")
    for option, value in (
        *(
            ("SEED", "8"),
            ("LENGTH", "3s"),
            ("SIZE", "192x192"),
            ("FPS", "5"),
            ("TRANSITION", "cut"),
            ("NEGATIVE", "rain"),
        ),
    ):
        monkeypatch.setenv(f"CAUSVID_{option}", value)
    makes("edit-script", script, "-m", tiny, "-o", "script.mp4")
    typed = ["-s", 8, "--length", "3s", "--size", "192x192", "--fps", 5, "--transition", "cut", "-n", "rain"]
    makes("edit-script", script, "-m", tiny, "-o", "typed.mp4", *typed)

    def told(name: str) -> list[object]:
        recipe = read_info(Path(name)).recipe
        last = recipe["cues"][-1]
        return [recipe[key] for key in ("seed", "length", "size", "fps")] + [last["transition"], last["negative"]]

    assert told("script.mp4") == [7, "2s", "128x128", "4", "soft", "snow"]
    assert told("typed.mp4") == [8, "3s", "192x192", "5", "cut", "rain"]


def test_a_script_begins_from_an_image_or_a_video_beside_it(tiny, photo, clip):
    Path("below").mkdir()
    for path in (photo, clip):
        path.rename(Path("below") / path)
    script = write_script("image: photo.png\nseed: 7\ncues:\n  - prompt: a red car\n", "below/photo.yaml")
    makes("edit-script", script, "-m", tiny, "-o", "a.mp4", "--length", "1s", "--fit", "pad", "--hold", "frame")
    makes("i2v", "below/photo.png", "a red car", "-m", tiny, "-o", "b.mp4", "-s", 7)
    told = read_info(Path("a.mp4")).recipe["input"]
    assert (told["kind"], told["name"], told["fit"], told["hold"]) == ("photo", "photo.png", "pad", "frame")
    script = write_script("video: clip.mp4\nseed: 7\ncues:\n  - prompt: a red car\n", "below/clip.yaml")
    makes("edit-script", script, "-m", tiny, "-o", "c.mp4", "--length", "1s")
    makes("extend", "below/clip.mp4", "a red car", "-m", tiny, "-o", "d.mp4", "--length", "1s", "-s", 7)
    assert packets("c.mp4", "video") == packets("d.mp4", "video")
    for options, complaint in (
        (["--hold", "frame"], "--hold frame: the script begins from a video; leave --hold out"),
        (["--fit", "zoom"], "--fit zoom: unknown"),
        (["-o", "-"], "go into one file"),
    ):
        fails(run("edit-script", script, "-m", tiny, *options), 2, complaint)
    plain = write_script(CUES)
    fails(run("edit-script", plain, "-m", tiny, "--context", "1s"), 2, "neither image nor video; leave --context out")


def test_a_dry_run_of_a_script_tells_every_cue(tiny):
    script = write_script(f"length: 2s\n{CUES}")
    result = makes("edit-script", script, "-m", tiny, "--dry-run")
    assert [line for line in result.stdout.splitlines() if line.startswith("cue")] == [
        "cue          1 asked 0.000s -> chunk 0, frame 0, 0.000s (+0.000s)",
        "cue          2 asked 1.200s -> chunk 2, frame 8, 1.000s (-0.200s)",
    ]
    assert names() == ["day.causvid.yaml"]
    assert json.loads(makes("edit-script", script, "-m", tiny, "--dry-run", "--json").stdout)["chunks"] == 4


def test_a_script_that_is_wrong_or_not_there_is_told(tiny):
    fails(run("edit-script"), 2, "no script; name one")
    fails(run("edit-script", "no.yaml"), 2, "no.yaml: the script cannot be read: no such file")
    fails(run("edit-script", "."), 2, "the script cannot be read: is a directory")
    script = write_script("image: absent.png\ncues:\n  - prompt: a red car\n")
    result = run("edit-script", script, "-m", tiny)
    assert result.exit_code in (2, 3)
    assert "absent.png" in result.stderr


# --- files that are none -------------------------------------------------------------------------------------------


@pytest.fixture
def clutter(photo, clip) -> Iterator[None]:
    os.rename(photo, "-x.png")
    Path("folder").mkdir()
    Path("empty.mp4").touch()
    Path("text.mp4").write_text("no video")
    yield


NO_FILES = {
    "absent photo": (["i2v", "absent.png", "x"], 3, "absent.png: does not exist"),
    "absent clip": (["extend", "absent.mp4", "x"], 3, "absent.mp4: does not exist"),
    "folder for a photo": (["i2v", "folder", "x"], 3, "folder: not a file"),
    "folder for a clip": (["restyle", "folder", "x"], 3, "folder: not a file"),
    "empty clip": (["extend", "empty.mp4", "x"], 3, "empty.mp4: is empty"),
    "text for a clip": (["restyle", "text.mp4", "x"], 3, "text.mp4: cannot be read as a video"),
    "video for a photo": (["i2v", "clip.mp4", "x"], 3, "clip.mp4: is a video, not a picture; try causvid extend"),
    "photo for a video": (["extend", "./-x.png", "x"], 3, "-x.png: is a picture, not a video; try causvid i2v"),
    "stdin for a photo": (["i2v", "-", "x"], 2, "IMAGE -: a file is wanted here, not stdin"),
    "stdin for a clip": (
        ["extend", "-", "x"],
        2,
        "CLIP -: a file is wanted here, not stdin; only restyle takes a live",
    ),
    "name that is an option": (["i2v", "-x.png", "x"], 2, "no such option: -x; .*the file of that name is ./-x.png"),
    "no file at all": (["i2v"], 2, "missing argument 'IMAGE'; see causvid i2v -h"),
}


@pytest.mark.parametrize(("arguments", "code", "complaint"), NO_FILES.values(), ids=NO_FILES)
@pytest.mark.usefixtures("clutter")
def test_what_is_no_photo_or_clip_is_named_before_the_model_loads(arguments, code, complaint, tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    fails(run(*arguments, *(["-m", tiny] if len(arguments) > 1 else [])), code, complaint)


@pytest.mark.usefixtures("clutter")
def test_a_name_that_looks_like_an_option_is_a_name(tiny):
    for arguments in (["./-x.png", PROMPT], ["--", "-x.png", PROMPT]):
        options = ["-m", tiny, "--length", "4f", "-o", "x.mp4", "-y"]
        makes("i2v", *options, *arguments)
