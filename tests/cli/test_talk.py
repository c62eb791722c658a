"""Sound that decides what is shown: --talk of t2v, --audio-in of live."""

import io
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from commands import decode, fails, makes, run

from causvid_cli.media.loudness import is_loud, levels_of_file, levels_of_pipe
from causvid_cli.media.probe import read_info
from causvid_cli.media.sound import open_soundtrack
from causvid_cli.script import read_script

pytestmark = pytest.mark.usefixtures("work")

QUIET, LOUD = "a cat in the forest", "a cat jumps in the forest"
RATE = 8000


def sound(*amplitudes: float) -> bytes:
    """A WAV file of half a second of a tone for each."""
    at = np.arange(RATE // 2)
    tone = np.concatenate([amplitude * np.sin(at * 0.3) for amplitude in amplitudes])
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((tone * 32767).astype("<i2").tobytes())
    return file.getvalue()


@pytest.fixture
def spoken(work) -> Path:
    """Two seconds that are quiet, then loud, quiet, loud."""
    Path("said.wav").write_bytes(sound(0.001, 0.5, 0.0, 0.5))
    return Path("said.wav")


def test_levels_are_those_of_a_tone(spoken):
    levels = levels_of_file(spoken)
    assert len(levels) == 20
    assert levels[5:9] == pytest.approx([20 * np.log10(0.5 / np.sqrt(2))] * 4, abs=0.5)
    assert max(levels[0:4]) < -60 and max(levels[11:15]) < -60
    assert list(levels_of_pipe(io.BytesIO(spoken.read_bytes()))) == pytest.approx(levels, abs=0.01)
    spans = [is_loud(levels, start_s=Fraction(k, 2), end_s=Fraction(k + 1, 2), threshold_db=-40) for k in range(6)]
    assert spans == [False, True, False, True, False, False]


def test_a_figure_talks_while_the_sound_does(tiny, spoken):
    options = ["-m", tiny, "-s", 1]
    makes("t2v", QUIET, "--talk", spoken, "--talk-prompt", LOUD, "-o", "x.mp4", *options)
    info = read_info(Path("x.mp4"))
    assert [cue["prompt"] for cue in info.recipe["cues"]] == [QUIET, LOUD, QUIET, LOUD]
    assert [cue.get("start_chunk", 0) for cue in info.recipe["cues"]] == [0, 1, 2, 3]
    assert info.frames == 16
    assert open_soundtrack(Path("x.mp4")).seconds == pytest.approx(2, abs=0.1)
    options += ["--stdin", "--pace", "fast", "--talk-prompt", LOUD]
    makes("live", QUIET, "--audio-in", spoken, "-o", "live.mp4", *options)  # as it does offline
    np.testing.assert_array_equal(decode("live.mp4"), decode("x.mp4"))
    assert [cue.prompt for cue in read_script(Path("live.causvid.yaml")).cues] == [QUIET, LOUD, QUIET, LOUD]


def test_live_sound_on_stdin_leads(tiny):
    options = ["-m", tiny, "-s", 1, "--pace", "fast", "--talk-prompt", LOUD]
    makes("live", QUIET, "--audio-in", "-", "-o", "x.mp4", *options, input=sound(0.0, 0.5))
    assert LOUD in [cue.prompt for cue in read_script(Path("x.causvid.yaml")).cues]


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (["--talk", "said.wav"], 2, "say by --talk-prompt what to show while it is loud"),
        (["--talk-prompt", LOUD], 2, "--talk-prompt is for --talk"),
        (["--talk", "none.wav", "--talk-prompt", LOUD], 3, "none.wav"),
        (["--talk", "said.wav", "--talk-prompt", LOUD, "--then", "1s: it jumps"], 2, "choose one"),
    ],
)
def test_what_leads_nothing_is_said_in_one_line(tiny, spoken, options, code, complaint):
    fails(run("t2v", QUIET, "-m", tiny, "-o", "x.mp4", *options), code, complaint)
