"""A live session, and the law that it keeps: what was told makes the same frames again, bit for bit."""

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import decode, makes, names
from PIL import Image

from causvid_cli import load, open_live, running
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.job.inputs import ClipEnd, InputMedia, Photo, SourceClip
from causvid_cli.live.messages import read_message
from causvid_cli.media.probe import read_info
from causvid_cli.pipeline import Pipeline
from causvid_cli.script import read_script

pytestmark = pytest.mark.usefixtures("work")

CAR = "a red car moves left in the snow"
PROMPTS = [CAR, "a blue boat on the sea", "it jumps", "a swan flies up", "a cat in the forest", "it turns into a bird"]
Said = dict[int, list[dict[str, Any]]]
"""Before which chunk what is told."""


@pytest.fixture(scope="module")
def pipeline(tiny) -> Pipeline:
    return load(tiny, device="cpu")


def play(pipeline: Pipeline, said: Said, *, chunks: int = 6, output: str | None = "x.mp4", **options) -> list[dict]:
    """A session in which messages are sent before chunks; quits when so many are made. Returns its events."""
    events: list[dict] = []
    made = 0
    with open_live(pipeline, CAR, output, pace="fast", seed=1, **options) as live:
        live.listen(events.append)
        for message in said.get(0, ()):
            live.send(message)
        for _ in live:
            made += 1
            for message in said.get(made, ()):
                live.send(message)
            if made >= chunks:
                live.send({"quit": True})
    return events


def named(events: Iterable[dict], kind: str) -> list[dict]:
    return [event for event in events if event["event"] == kind]


def test_what_was_told_is_a_script_that_makes_the_same_frames(pipeline):
    said = {1: [{"prompt": "it jumps"}], 3: [{"cue": {"prompt": "a swan flies up", "transition": "cut"}}, {"seed": 7}]}
    events = play(pipeline, said)
    assert [(e["chunk"], e["frame"], e["prompt"]) for e in named(events, "applied")] == [
        (1, 4, "it jumps"),
        (3, 12, "a swan flies up"),
        (3, 12, "a swan flies up"),
    ]
    (ended,) = named(events, "ended")
    assert (ended["why"], ended["frames"], ended["output"], ended["script"]) == ("quit", 24, "x.mp4", "x.causvid.yaml")
    cues = read_script(Path("x.causvid.yaml")).cues
    assert [(str(cue.start), cue.transition, cue.seed) for cue in cues] == [
        ("0s", None, None),
        ("4f", "recache", None),
        ("12f", "cut", 7),
    ]
    makes("edit-script", "x.causvid.yaml", "-o", "again.mp4")
    np.testing.assert_array_equal(decode("again.mp4"), decode("x.mp4"))
    assert [chapter.title for chapter in read_info(Path("x.mp4")).chapters] == [CAR, "it jumps", "a swan flies up"]
    makes("rerun", "x.mp4", "-m", pipeline.folder, "-o", "rerun.mp4")
    np.testing.assert_array_equal(decode("rerun.mp4"), decode("x.mp4"))
    assert names() == ["again.mp4", "rerun.mp4", "x.causvid.yaml", "x.mp4"]


def test_after_an_undo_the_chunks_and_the_file_are_made_anew(pipeline):
    events = play(pipeline, {2: [{"prompt": "a swan flies up"}], 4: [{"undo": 2}, {"prompt": "it jumps"}]}, chunks=7)
    assert [(e["chunk"], e["frame"], e["prompt"]) for e in named(events, "undone")] == [(2, 8, CAR)]
    assert [e["index"] for e in named(events, "chunk")] == [0, 1, 2, 3, 2, 3, 4]
    assert [cue.prompt for cue in read_script(Path("x.causvid.yaml")).cues] == [CAR, "it jumps"]
    makes("edit-script", "x.causvid.yaml", "-o", "again.mp4")
    assert len(decode("x.mp4")) == 20
    np.testing.assert_array_equal(decode("again.mp4"), decode("x.mp4"))


def given_input(kind: str, pack: Path) -> InputMedia | None:
    """An input of each kind."""
    if kind == "photo":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save("in.png")
        return Photo(path=Path("in.png"), fit="pad", hold="frame")
    if kind == "none":
        return None
    makes("t2v", "a cat jumps", "--length", "3s", "-s", 3, "-m", pack, "-o", "in.mp4")
    if kind == "clip":
        return ClipEnd(path=Path("in.mp4"), fit="stretch")
    return SourceClip(path=Path("in.mp4"), fit="stretch", strength=0.5)


def random_message(rng: np.random.Generator, chunk: int) -> dict[str, Any]:
    """Something to tell; a third of what can wait is planned for a later chunk, under one of two names."""
    message = random_verb(rng, chunk)
    if message.keys() & {"prompt", "cue", "seed"} and rng.random() < 0.3:
        message |= {"at": chunk + int(rng.integers(1, 4)), "event_id": str(rng.choice(["one", "other"]))}
    return message


def random_verb(rng: np.random.Generator, chunk: int) -> dict[str, Any]:
    if rng.random() < 0.15:
        name = str(rng.choice(["one", "other"]))
        return {"drop": name} if rng.random() < 0.3 else {"move": name, "at": chunk + int(rng.integers(3))}
    kind = rng.choice(["prompt", "cue", "seed", "undo", "negative", "strength"])
    if kind == "prompt":
        return {"prompt": str(rng.choice(PROMPTS))}
    if kind == "seed":
        return {"seed": int(rng.integers(9))}
    if kind == "undo":
        return {"undo": int(rng.integers(max(1, chunk)))}
    if kind == "negative":
        return {"cue": {"negative": str(rng.choice(["snow", "a red car", ""]))}}
    if kind == "strength":
        return {"cue": {"strength": float(rng.choice([0.25, 0.5, 1.0]))}}
    cue: dict[str, Any] = {"transition": str(rng.choice(["recache", "soft", "cut"]))}
    if rng.random() < 0.8:
        cue["prompt"] = str(rng.choice(PROMPTS))
    if cue["transition"] != "cut" and rng.random() < 0.5:
        cue["blend"] = str(rng.choice(["1s", "1500ms"]))
    if rng.random() < 0.3:
        cue["strength"] = 0.5
    return {"cue": cue}


def check_replay(pipeline: Pipeline, seed: int, *, chunks: int = 8) -> None:
    rng = np.random.default_rng(seed)
    kind = ["none", "photo", "clip", "source"][seed % 4]
    said = {c: [random_message(rng, c) for _ in range(rng.integers(1, 4))] for c in range(chunks) if rng.random() < 0.5}
    given = given_input(kind, pipeline.folder)
    events = play(pipeline, said, chunks=chunks, given=given, guidance=3.0, fps=12 if seed % 8 == 4 else None)
    (ended,) = named(events, "ended")
    makes("edit-script", "x.causvid.yaml", "-o", "again.mp4", "--device", "cpu")
    np.testing.assert_array_equal(decode("again.mp4"), decode("x.mp4"), err_msg=f"{said}")
    before = len(decode("in.mp4")) if kind == "clip" else 0
    assert len(decode("x.mp4")) == before + ended["frames"]


@pytest.mark.parametrize("seed", range(4))
def test_random_sessions_are_made_again(pipeline, seed):
    check_replay(pipeline, seed, chunks=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 54))
def test_many_random_sessions_are_made_again(pipeline, seed):
    check_replay(pipeline, seed)


def test_bad_messages_are_refused_in_one_line_and_nothing_changes(pipeline):
    bad = [
        ({}, "a message says one of prompt, .*; it says nothing"),
        ({"prompt": "a", "seed": 1}, "it says prompt and seed"),
        ({"promt": "a"}, "promt: unknown; did you mean prompt"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "xyzzy"}, "nothing of 'xyzzy' was understood"),
        ({"cue": {}}, "the cue is empty"),
        ({"cue": {"transition": "fade"}}, "cue.transition: must be 'recache', 'soft' or 'cut'"),
        ({"cue": {"transition": "cut", "blend": "1s"}}, "contradict each other"),
        ({"cue": {"blend": "soon"}}, "blend 'soon' is not a time"),
        ({"seed": -1}, "must be 0 to"),
        ({"undo": 9}, "undo 9: the next is chunk 1"),
        ({"save": "../x"}, "must be the name of a file"),
        ({"key": "left"}, "key 'left'"),
        ({"seed": "7"}, "seed: must be a valid integer"),
    ]
    messages = [message | {"event_id": str(number)} for number, (message, _) in enumerate(bad)]
    events = play(pipeline, {1: messages}, chunks=2, output=None)
    whys = {event["event_id"]: event["why"] for event in named(events, "refused")}
    for number, (message, why) in enumerate(bad):
        assert re.search(why, whys[str(number)]), (message, whys)
        assert "\n" not in whys[str(number)]
    assert not named(events, "applied")


def test_saving_keeps_a_video_of_its_own_and_goes_on(pipeline):
    events = play(pipeline, {2: [{"save": "early"}, {"save": "early"}, {"save": "x"}]}, chunks=3)
    assert [(e["output"], e["script"]) for e in named(events, "saved")] == [("early.mp4", "early.causvid.yaml")]
    taken, own = (event["why"] for event in named(events, "refused"))
    assert "exists" in taken and "the video itself gets this name" in own
    np.testing.assert_array_equal(decode("early.mp4"), decode("x.mp4")[:8])
    assert read_info(Path("early.mp4")).recipe["frames"] == 8


def test_what_is_told_without_an_id_leaves_what_is_planned_under_a_number(pipeline):
    planned = [
        {"prompt": "it jumps", "at": 3, "event_id": 2},
        {"prompt": "a swan flies up", "at": 2},
        {"seed": 1, "at": 4},
    ]
    events = play(pipeline, {0: planned}, chunks=5)
    assert [(e["event_id"], e["chunk"]) for e in named(events, "applied")] == [(3, 2), (2, 3), (4, 4)]


def test_where_all_was_taken_back_there_is_nothing_to_keep(pipeline):
    whys, copies = [], []
    with open_live(pipeline, CAR, "x.mp4", pace="fast", seed=1) as live:

        def hear(event):
            if event["event"] == "undone":
                copies.append(live.copy(Path()))
                with pytest.raises(UsageError, match="no frames are made yet"):
                    live.script(Path())
            elif event["event"] == "refused":
                whys.append(event["why"])

        live.listen(hear)
        chunks = iter(live)
        next(chunks)
        live.send({"undo": 0})
        live.send({"save": "early"})
        next(chunks)
    assert [*whys, *map(str, (copy.exception() for copy in copies))] == 2 * ["no frames are made yet"]
    assert names() == ["x.causvid.yaml", "x.mp4"]


def test_numbered_frames_are_saved_in_a_folder_of_their_own(pipeline):
    events = play(pipeline, {1: [{"save": "early"}, {"save": "early"}, {"save": "x"}]}, chunks=2, output="x/%05d.png")
    saved = [(e["output"], e["script"]) for e in named(events, "saved")]
    assert saved == [("early/%05d.png", "early.causvid.yaml")] and len(named(events, "refused")) == 2
    early, whole = (sorted(path.name for path in Path(folder).iterdir()) for folder in ("early", "x"))
    assert early == [f"{number:05d}.png" for number in range(1, 5)] and len(whole) == 8
    assert Path("early/00004.png").read_bytes() == Path("x/00004.png").read_bytes()


def test_a_session_leaves_the_script_of_another(pipeline):
    Path("x.causvid.yaml").write_text("mine")
    with pytest.raises(OutputError, match="x.causvid.yaml exists"):
        play(pipeline, {}, chunks=1)
    assert Path("x.causvid.yaml").read_text() == "mine"


def test_a_slow_watcher_loses_frames_and_the_file_none(pipeline):
    with open_live(pipeline, CAR, "x.mp4", pace="fast", length="40f") as live:
        slow, fast = live.watch(kept=2), live.watch(kept=100)
        with running(live) as thread:
            thread.join(60)
    assert ([shown.index for shown in slow], slow.lost) == ([8, 9], 8)
    assert [shown.index for shown in fast] == list(range(10))
    assert len(decode("x.mp4")) == 40


def test_a_pause_holds_the_session_until_it_goes_on(pipeline):
    chunk, paused = threading.Event(), threading.Event()
    with open_live(pipeline, CAR, None, pace="fast") as live:
        live.listen(lambda event: {"chunk": chunk, "paused": paused}.get(event["event"], threading.Event()).set())
        live.send({"pause": True})
        with running(live):
            assert paused.wait(10)
            assert not chunk.wait(0.3)
            live.send({"pause": False})
            assert chunk.wait(10)


def test_what_is_planned_for_a_later_chunk_can_be_moved_and_dropped(pipeline):
    later = {"prompt": "a swan flies up", "at": 4, "event_id": "swan"}
    said = {
        0: [later, {"cue": {"prompt": "a cat in the forest", "transition": "cut"}, "at": 2, "event_id": "cat"}],
        1: [{"move": "swan", "at": 3}, {"drop": "cat"}, {"drop": "dog"}, {"seed": 7, "at": 0}],
        4: [{"move": "swan", "at": 9}],
    }
    events = play(pipeline, said)
    plans = [(event["event_id"], event["chunk"], event["frame"]) for event in named(events, "planned")]
    assert plans == [("swan", 4, 16), ("cat", 2, 8), ("swan", 3, 12)]
    assert [event["event_id"] for event in named(events, "dropped")] == ["cat"]
    assert [event["why"] for event in named(events, "refused")] == [
        "dog: is not planned; it was told already, or dropped",
        "swan: is not planned; it was told already, or dropped",
    ]
    applied = [(event["event_id"], event["chunk"], event["prompt"]) for event in named(events, "applied")]
    assert [(chunk, prompt) for _, chunk, prompt in applied] == [(1, CAR), (3, "a swan flies up")]
    makes("edit-script", "x.causvid.yaml", "-o", "again.mp4")
    np.testing.assert_array_equal(decode("again.mp4"), decode("x.mp4"))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"prompt": "it jumps", "at": -1}, "at -1: chunks are counted from 0"),
        ({"pause": True, "at": 3}, "at is for a prompt, a cue, a seed or a move; leave it out"),
        ({"move": "x"}, "move x: say the chunk as well, in at"),
        ({"move": "x", "drop": "x", "at": 1}, "it says move and drop"),
    ],
)
def test_what_cannot_be_planned(message, why):
    with pytest.raises(UsageError, match=why):
        read_message(message)
