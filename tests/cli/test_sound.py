"""Sound under a video: laid there by --audio, or a clip's own; it lasts as long as the video, to a frame."""

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from commands import PROMPT, after_chunks, fails, makes, names, notes, raise_, run

from causvid_cli import pipeline
from causvid_cli.media.probe import read_info
from causvid_cli.media.sound import open_soundtrack

pytestmark = pytest.mark.usefixtures("work")

RATE = 48_000


def tone(seconds: float, *, rate: int = RATE) -> np.ndarray:
    """int16 [1, samples]: a beep of 0.1 s at each half second, louder each time, in near silence."""
    at = np.arange(round(seconds * rate)) / rate
    loud = (at % 0.5 < 0.1) * (at // 0.5 + 1) / 12
    return (np.sin(at * 2 * np.pi * 440) * (loud + 0.001) * 32_000).astype(np.int16)[None]


def write_sound(name: str, seconds: float, *, codec: str = "pcm_s16le", rate: int = RATE) -> Path:
    with av.open(name, "w") as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        add_sound(output, stream, tone(seconds, rate=rate))
    return Path(name)


def add_sound(output: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray) -> None:
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = stream.rate
    output.start_encoding()
    context = stream.codec_context
    resampler = av.AudioResampler(
        format=context.format, layout="mono", rate=stream.rate, frame_size=context.frame_size or None
    )
    for each in [*resampler.resample(frame), *resampler.resample(None), None]:
        output.mux([packet for packet in stream.encode(each) if packet.size or output.format.name == "flac"])


def sound(path: Path | str) -> tuple[np.ndarray, int]:
    """What is heard of a file, float [samples] of its first channel, and its rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=frames[0].sample_rate)
    heard = [each.to_ndarray()[0] for frame in [*frames, None] for each in resampler.resample(frame)]
    return np.concatenate(heard), frames[0].sample_rate


def lengths(path: Path | str) -> tuple[Fraction, Fraction]:
    """How long the frames and the sound of a file are, by their packets, in seconds."""
    ends = []
    with av.open(str(path)) as container:
        for stream in (container.streams.video[0], container.streams.audio[0]):
            container.seek(0)
            packets = [packet for packet in container.demux(stream) if packet.size]
            ends.append(max((packet.pts + packet.duration) * packet.time_base for packet in packets))
    return ends[0], ends[1]


def beeps(path: Path | str, seconds: float) -> list[int]:
    """How loud each half second's beep is, in twelfths; 0 is silence."""
    samples, rate = sound(path)
    starts = [round((half / 2 + 0.04) * rate) for half in range(round(2 * seconds))]
    return [round(12 * float(np.sqrt(2 * np.mean(samples[start : start + rate // 40] ** 2)))) for start in starts]


def t2v(pack: Path, *options: object, name: str = "x.mp4", length: str = "3s") -> list[object]:
    return ["t2v", PROMPT, "-m", pack, "-s", 7, "-o", name, "--length", length, *options]


# --- laid under a video ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "fit", "heard", "said"),
    [
        (3, "pad", [1, 2, 3, 4, 5, 6], []),
        (1, "pad", [1, 2, 0, 0, 0, 0], ["a.wav lasts 1 s and the video 3 s: silence follows"]),
        (1, "loop", [1, 2, 1, 2, 1, 2], ["a.wav lasts 1 s and the video 3 s: it begins again"]),
        (5, "loop", [1, 2, 3, 4, 5, 6], ["a.wav lasts 5 s and the video 3 s: the rest is left out"]),
    ],
)
def test_sound_is_cut_padded_or_looped_to_the_video(seconds, fit, heard, said, tiny):
    write_sound("a.wav", seconds)
    assert notes(makes(*t2v(tiny, "--audio", "a.wav", "--audio-fit", fit))) == said
    assert lengths("x.mp4") == (3, 3)
    assert abs(len(sound("x.mp4")[0]) - 3 * RATE) <= 1024
    assert beeps("x.mp4", 3) == heard
    assert read_info(Path("x.mp4")).frames == 24


@pytest.mark.parametrize("name", ["x.mov", "x.mkv", "x.webm", "x.m4v"])
@pytest.mark.parametrize("rate", [44_100, 11_025, 22_222])
def test_every_format_that_holds_sound_gets_it(name, rate, tiny):
    write_sound("a.wav", 1.4, rate=rate)
    makes(*t2v(tiny, "--audio", "a.wav", "--fps", 25, name=name, length="38f"))
    frames, heard = lengths(name)
    assert abs(frames - Fraction(38, 25)) < Fraction(1, 500)
    assert abs(frames - heard) < Fraction(1, 25)
    assert beeps(name, 1.5) == [1, 2, 3]


@pytest.mark.parametrize("codec", ["libmp3lame", "flac", "aac", "libopus", "pcm_s24le"])
def test_sound_of_every_usual_kind_is_read(codec, tiny):
    name = {"libmp3lame": "a.mp3", "flac": "a.flac", "aac": "a.m4a", "libopus": "a.opus", "pcm_s24le": "a.w64"}[codec]
    write_sound(name, 2, codec=codec)
    assert abs(open_soundtrack(Path(name)).seconds - 2) < Fraction(1, 10)
    makes(*t2v(tiny, "--audio", name, length="2s"))
    assert beeps("x.mp4", 2) == [1, 2, 3, 4]


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")
def test_ffprobe_finds_both_as_long(tiny):
    write_sound("a.wav", 1)
    makes(*t2v(tiny, "--audio", "a.wav"))
    shown = subprocess.run(["ffprobe", "-show_streams", "-of", "json", "x.mp4"], capture_output=True, check=True)
    video, audio = json.loads(shown.stdout)["streams"]
    assert abs(float(video["duration"]) - float(audio["duration"])) < 1 / 8


def damaged() -> None:
    data = bytearray(write_sound("a.flac", 3, codec="flac").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    Path("a.wav").write_bytes(data)


def cut_short() -> None:
    whole = write_sound("a.wav", 3).read_bytes()
    Path("a.wav").write_bytes(whole[: len(whole) // 2])


def silent() -> None:
    with av.open("a.wav", "w") as output:
        add_sound(output, output.add_stream("pcm_s16le", rate=RATE, layout="mono"), np.zeros((1, RATE), np.int16))


def without_sound() -> None:
    with av.open("a.mkv", "w") as output:
        stream = output.add_stream("libx264", rate=8, width=64, height=64)
        output.mux([*stream.encode(av.VideoFrame(64, 64, "yuv420p")), *stream.encode(None)])
    Path("a.mkv").rename("a.wav")


WRONG = {
    "missing": (lambda: None, "a.wav: does not exist"),
    "empty": (lambda: Path("a.wav").touch(), "a.wav: is empty"),
    "text": (lambda: Path("a.wav").write_text("la la la\n" * 99), "a.wav: cannot be read as sound"),
    "damaged": (damaged, "a.wav: damaged: 0\\.\\d+ s of its sound are missing"),
    "cut short": (cut_short, "a.wav: cut short: 144039 of its 288078 bytes are missing"),
    "silent": (silent, "a.wav: holds nothing but silence; give another, or leave --audio out"),
    "a video without sound": (without_sound, "a.wav: holds no sound that can be read"),
}


@pytest.mark.parametrize(("make", "complaint"), WRONG.values(), ids=WRONG)
def test_sound_that_cannot_be_used_is_found_before_the_model_loads(make, complaint, tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    make()
    before = names()
    fails(run(*t2v(tiny, "--audio", "a.wav")), 3, complaint)
    assert names() == before


REFUSED = {
    "gif": (["-o", "y.gif"], "--audio: .gif holds no sound; leave it out, or try -o y.mp4"),
    "webp": (["-o", "y.webp"], "--audio: .webp holds no sound; leave it out, or try -o y.mp4"),
    "png": (["-o", "%05d.png"], "--audio: .png holds no sound; leave it out, or try -o video.mp4"),
    "stdout": (["-o", "-"], "--audio: stdout gets frames and no sound; leave it out, or name a file by -o"),
    "fit": (["--audio-fit", "stretch"], "--audio-fit stretch: unknown; try pad or loop"),
}


@pytest.mark.parametrize(("options", "complaint"), REFUSED.values(), ids=REFUSED)
def test_an_output_without_sound_is_said_to_be_one(options, complaint, tiny):
    write_sound("a.wav", 1)
    fails(run(*t2v(tiny, "--audio", "a.wav"), *options), 2, complaint)
    fails(run(*t2v(tiny, "--audio-fit", "loop")), 2, "--audio-fit loop and no --audio: name one")


def test_a_resumed_and_a_repeated_video_have_the_sound(tiny, monkeypatch):
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tiny.parent])
    write_sound("a.wav", 1)
    command = t2v(tiny, "--audio", "a.wav", "--audio-fit", "loop")
    makes(*command)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "rollout", after_chunks(2, lambda: raise_(RuntimeError("out of luck"))))
        run(*command[:7], "y.mp4", *command[8:])
    makes("resume", "y.mp4")
    makes("rerun", "x.mp4", "-o", "z.mp4")
    assert Path("y.mp4").read_bytes() == Path("x.mp4").read_bytes() == Path("z.mp4").read_bytes()
    used = read_info(Path("x.mp4")).recipe["audio"]
    assert used == {"name": "a.wav", "sha256": open_soundtrack(Path("a.wav")).sha256, "fit": "loop"}
    Path("a.wav").rename("moved.wav")
    fails(run("rerun", "x.mp4", "-o", "w.mp4"), 3, "a.wav: not there, the sound of x.mp4; say where it lies by --audio")
    makes("rerun", "x.mp4", "-o", "w.mp4", "--audio", "moved.wav")
    assert Path("w.mp4").read_bytes() == Path("x.mp4").read_bytes()
    write_sound("other.wav", 2)
    wrong = "other.wav: not the sound of x.mp4; give that one by --audio"
    fails(run("rerun", "x.mp4", "-o", "v.mp4", "--audio", "other.wav"), 3, wrong)


# --- a clip's own ---------------------------------------------------------------------------------------------------


@pytest.fixture
def loud(tiny) -> Path:
    """2 s with sound of its own, as AAC."""
    return clip_with("aac", tiny)


def clip_with(codec: str, pack: Path, name: str = "loud.mp4") -> Path:
    makes(*t2v(pack, name="clip.mp4", length="2s"))
    with av.open("clip.mp4") as source, av.open(name, "w") as output:
        frames = output.add_stream_from_template(source.streams.video[0])
        stream = output.add_stream(codec, rate=RATE, layout="mono")
        add_sound(output, stream, tone(2))
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = frames
                output.mux(packet)
    Path("clip.mp4").unlink()
    return Path(name)


def sound_packets(path: Path | str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize(
    ("codec", "name"),
    [("aac", "loud.mp4"), ("libmp3lame", "loud.mp4"), ("ac3", "loud.mp4"), ("alac", "loud.mkv"), ("flac", "loud.mkv")],
)
def test_silence_follows_the_sound_of_a_clip_that_goes_on(codec, name, tiny):
    clip = clip_with(codec, tiny, name)
    result = makes("extend", clip, PROMPT, "-m", tiny, "-s", 7, "-o", "x.mp4", "--length", "2s")
    assert f"{clip}: silence follows its sound, to the video's end" in notes(result)
    before = sound_packets(clip)
    assert sound_packets("x.mp4")[: len(before)] == before
    frames, heard = lengths("x.mp4")
    assert frames == 4
    assert abs(heard - 4) < Fraction(1, 25)
    assert beeps("x.mp4", 4) == [1, 2, 3, 4, 0, 0, 0, 0]


def test_sound_that_silence_cannot_follow_is_encoded_anew(tiny, monkeypatch):
    clip = clip_with("aac", tiny)
    monkeypatch.setattr("causvid_cli.video.join.audio._takes_silence", lambda _: False)
    result = makes("extend", clip, PROMPT, "-m", tiny, "-s", 7, "-o", "x.mp4", "--length", "2s")
    assert f"{clip}: its sound (aac) is encoded anew as AAC, so that silence can follow it" in notes(result)
    assert [round(float(each), 2) for each in lengths("x.mp4")] == [4, 4]
    assert beeps("x.mp4", 4) == [1, 2, 3, 4, 0, 0, 0, 0]


@pytest.mark.parametrize("command", ["extend", "restyle"])
def test_audio_takes_the_place_of_a_clips_own_sound(command, loud, tiny):
    write_sound("a.wav", 1)
    length = ["--length", "2s"] if command == "extend" else []
    options = ["-m", tiny, "-s", 7, "-o", "x.mp4", "--audio", "a.wav", "--audio-fit", "loop", *length]
    makes(command, loud, PROMPT, *options)
    seconds = 4 if command == "extend" else 2
    assert lengths("x.mp4") == (seconds, seconds)
    assert beeps("x.mp4", seconds) == [1, 2] * seconds
    with av.open("x.mp4") as container:
        assert len(container.streams.audio) == 1


# --- a narration ----------------------------------------------------------------------------------------------------

CUES = "1\n00:00:00,000 --> 00:00:01,000\na red car\n\n2\n00:00:02,000 --> 00:00:03,000\na blue boat\n"


def test_a_script_keeps_step_with_a_narration(tiny):
    Path("voice.srt").write_text(CUES)
    write_sound("voice.wav", 4.3, rate=44_100)
    script = ["edit-script", "voice.srt", "-m", tiny, "--audio", "voice.wav"]
    makes(*script, "-s", 7, "-o", "x.mp4")
    info = read_info(Path("x.mp4"))
    assert info.frames == 35  # 4.3 s are 34.4 of 8 a second
    assert [chapter.start_frame for chapter in info.chapters] == [0, 16]
    frames, heard = lengths("x.mp4")
    assert frames == Fraction(35, 8)
    assert abs(frames - heard) < Fraction(1, 1000)
    assert beeps("x.mp4", 4.25) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert json.loads(run(*script, "--check", "--json").stdout)["frames"] == 35
    makes(*script, "-s", 7, "-o", "short.mp4", "--length", "2s")
    assert lengths("short.mp4") == (2, 2)


def test_the_length_that_a_script_asks_for_goes_before_that_of_its_sound(tiny):
    Path("day.yaml").write_text("version: 1\nlength: 2s\ncues:\n  - prompt: a red car\n")
    write_sound("voice.wav", 3)
    makes("edit-script", "day.yaml", "-m", tiny, "-o", "x.mp4", "--audio", "voice.wav")
    assert lengths("x.mp4") == (2, 2)
    Path("day.yaml").write_text("version: 1\ncues:\n  - prompt: a red car\n")
    makes("edit-script", "day.yaml", "-m", tiny, "-o", "x.mp4", "-y", "--audio", "voice.wav")
    assert lengths("x.mp4") == (3, 3)
