"""`causvid live`: told by a program, in JSON lines, and by a person in a terminal."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import PROMPT, decode, fails, makes, names, raise_, run

from causvid_cli import pipeline
from causvid_cli.cli.live_session import Talk
from causvid_cli.live import session
from causvid_cli.script import read_script

pytestmark = pytest.mark.usefixtures("work")


def lines(*messages: object) -> str:
    return "".join(f"{json.dumps(message)}\n" for message in messages)


def events(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def live(pack: Path, *options: object, told: str = "") -> list[dict]:
    command = ["live", PROMPT, "--stdin", "-m", pack, "-s", 1, "--pace", "fast", *options]
    return events(makes(*command, input=told).stdout)


def test_a_program_tells_lines_and_hears_lines(tiny):
    told = (
        lines({"prompt": "it jumps", "event_id": "a"}, {"seed": 3}) + "no json\n" + lines({"undo": "x"}, {"key": "a"})
    )
    heard = live(tiny, "-o", "x.mp4", told=told)
    assert all(event["v"] == 1 for event in heard)
    assert [event["event"] for event in heard if event["event"] in ("started", "ended")] == ["started", "ended"]
    assert {event["event_id"] for event in heard if event["event"] == "applied"} == {"a", 1}
    refused = [event["why"] for event in heard if event["event"] == "refused"]
    assert [why.partition(":")[0] for why in refused][:2] == ["stdin", "message"]
    kept = {"why": "quit", "output": "x.mp4", "script": "x.causvid.yaml"}
    assert heard[-1] == {"v": 1, "event": "ended", "frames": heard[-1]["frames"]} | kept
    assert names() == ["x.causvid.yaml", "x.mp4"]
    assert read_script(Path("x.causvid.yaml")).cues[-1].seed == 3


def test_the_end_of_stdin_ends_a_session_without_a_length(tiny):
    heard = live(tiny, "-o", "x.mp4", told=lines({"pause": True}, {"prompt": "a swan flies up"}))
    assert heard[-1]["why"] == "quit"
    last = read_script(Path("x.causvid.yaml")).cues[-1].prompt
    assert "swan flies up" in last  # what was told is shown before


def test_the_video_goes_to_stdout_and_the_events_to_stderr(tiny):
    result = makes("live", PROMPT, "--stdin", "-m", tiny, "-s", 1, "--pace", "fast", "--length", "8f", "-o", "-")
    assert events(result.stderr)[-1]["frames"] == 8
    Path("piped.mp4").write_bytes(result.stdout_bytes)
    assert decode("piped.mp4").shape == (8, 128, 128, 3)
    assert names() == ["piped.mp4"]


def test_raw_frames_go_down_a_pipe_for_a_virtual_camera(tiny):
    options = ["-m", tiny, "-s", 1, "--pace", "fast", "--length", "8f", "-o", "-", "--format", "rawvideo"]
    result = makes("live", PROMPT, "--stdin", *options)
    assert len(result.stdout_bytes) == 8 * 128 * 128 * 3


def test_the_first_prompt_may_come_from_the_program(tiny):
    result = makes(
        *("live", "--stdin", "-m", tiny, "-s", 1, "--pace", "fast", "--length", "8f", "-o", "x.mp4"),
        input=lines({"seed": 1}, {"prompt": PROMPT}),
    )
    assert [event["event"] for event in events(result.stdout)][:2] == ["refused", "started"]
    assert read_script(Path("x.causvid.yaml")).cues[0].prompt == PROMPT


def test_what_is_wrong_is_said_before_a_first_prompt_is_asked_for(tiny):
    Path("there.mp4").touch()
    for options, code, complaint in (
        (("-m", "nowhere"), 4, "no model .nowhere."),
        (("-m", tiny, "--size", "9x9"), 2, "--size 9x9: tiny paints 64x64 cells"),
        (("-m", tiny, "-o", "{slag}.mp4"), 2, "unknown field {slag}"),
        (("-m", tiny, "-o", "there.mp4"), 7, "there.mp4 exists"),
    ):
        fails(run("live", "--stdin", *options, input=""), code, complaint)


def test_a_session_that_is_told_to_quit_ends_well_while_stdin_stays_open(tiny):
    """Python dies on its way out where a thread still reads its own stdin."""
    command = [sys.executable, "-m", "causvid_cli", "live", PROMPT, "--stdin", "-m", tiny, "-s", "1", "--pace", "fast"]
    with subprocess.Popen(
        [*map(str, command), "-o", "x.mp4"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as made:
        assert made.stdin and made.stdout and made.stderr
        while b'"chunk"' not in made.stdout.readline():
            pass
        made.stdin.write(b'{"quit": true}\n')
        made.stdin.flush()
        events, said = made.stdout.read(), made.stderr.read().decode()
        assert (made.wait(), "Fatal" in said) == (0, False), said
    assert b'"why": "quit"' in events


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "no terminal to type on; --stdin takes JSON lines"),
        (["--stdin", "--pace", "slow"], "--pace slow: unknown; try real or fast"),
        (["--stdin", "--count", "2"], "--count 2 is not for a live video"),
        (["--stdin", "--source", "-"], "both come on stdin"),
        (["--stdin", "--image", "a.png", "--clip", "b.mp4"], "--image and --clip do not go together"),
        (["--stdin", "--latency", "3f"], "--latency 3f: write seconds"),
    ],
)
def test_what_cannot_start_is_said_in_one_line(tiny, options, complaint):
    fails(run("live", PROMPT, "-m", tiny, "-o", "x.mp4", *options), 2, complaint)
    assert names() == []


def killed(monkeypatch, pack: Path, *options: object, said: dict[int, list[dict]]) -> None:
    """A session that is told something before some chunks, and is killed after the fourth."""
    sessions: list[session.Live] = []
    real, plain = session.Live.__init__, pipeline.rollout

    def init(self, *arguments, **more):
        sessions.append(self)
        real(self, *arguments, **more)

    def act(chunk: int):
        for message in said.get(chunk, ()):
            sessions[0].send(message)
        if chunk == 4:
            raise_(RuntimeError("out of luck"))

    def rollout(*arguments, **more):
        for index, made in enumerate(plain(*arguments, **more)):
            act(index + 1)
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(session.Live, "__init__", init)
        patch.setattr(pipeline, "rollout", rollout)
        command = ["live", PROMPT, "--stdin", "-m", pack, "-s", 1, "--pace", "fast", "--length", "28f", "-o", "x.mp4"]
        assert run(*command, *options).exit_code == 1


@pytest.mark.parametrize("way", ["resume", "live"])
def test_a_session_that_was_killed_goes_on_with_what_was_told(tiny, monkeypatch, way):
    killed(monkeypatch, tiny, said={1: [{"prompt": "a swan flies up"}], 3: [{"cue": {"transition": "cut"}}]})
    assert names() == ["x.mp4.journal", "x.mp4.part"]
    if way == "resume":
        makes("resume", "x.mp4")
    else:
        assert live(tiny, "--length", "28f", "-o", "x.mp4")[-1]["frames"] == 28
    assert names() == ["x.causvid.yaml", "x.mp4"]
    cues = read_script(Path("x.causvid.yaml")).cues
    assert [(str(cue.start), cue.transition) for cue in cues] == [("0s", None), ("4f", "recache"), ("12f", "cut")]
    makes("edit-script", "x.causvid.yaml", "-o", "again.mp4")
    np.testing.assert_array_equal(decode("again.mp4"), decode("x.mp4"))
    assert len(decode("x.mp4")) == 28


def test_a_damaged_record_of_what_was_told_is_one_line(tiny, monkeypatch):
    killed(monkeypatch, tiny, said={1: [{"prompt": "a swan flies up"}]})
    shutil.copy("x.mp4.journal", "whole")
    data = Path("whole").read_bytes()
    from causvid_cli.job.journal import _HEAD, _record

    start = data.index(b"told ") - _HEAD.size
    size, _ = _HEAD.unpack(data[start : start + _HEAD.size])
    end = start + _HEAD.size + size
    Path("x.mp4.journal").write_bytes(data[:start] + _record(b'told {"prompt": 5}') + data[end:])
    fails(run("resume", "x.mp4"), 3, "x.mp4.journal: damaged: told: prompt: must be a valid string, got 5")


def test_garbage_on_stdin_is_refused_line_by_line_and_the_video_is_unharmed(tiny):
    rng = np.random.default_rng(0)
    junk = [rng.integers(0, 256, rng.integers(1, 60), dtype=np.uint8).tobytes().replace(b"\n", b"") for _ in range(300)]
    junk += [b"[" * 100_000, b"{" + b'"a":' * 1000, b'{"prompt": "' + b"x" * 2_000_000 + b'"}', b"null", b"7", b"[]"]
    command = ["live", PROMPT, "--stdin", "-m", tiny, "-s", 1, "--pace", "fast", "-o", "x.mp4"]
    heard = events(makes(*command, input=b"\n".join(junk)).stdout)
    refused = [event for event in heard if event["event"] == "refused"]
    assert len(refused) == sum(bool(line.strip()) for line in junk)
    assert all("\n" not in event["why"] and len(event["why"]) < 400 for event in refused)
    assert heard[-1]["event"] == "ended"
    assert len(read_script(Path("x.causvid.yaml")).cues) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_session_stopped_before_its_first_chunk_leaves_nothing(tiny, monkeypatch, number, code):
    monkeypatch.setattr(Talk, "run", lambda talk, live, task: signal.raise_signal(number) or live.run())
    fails(run("live", PROMPT, "-m", tiny, "--stdin", "-o", "x.mp4"), code, "stopped")
    assert not names()
