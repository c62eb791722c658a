"""The prompt timeline: its fields and times, where cues fall, the short form, exports and `edit-script --check`."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from causvid_cli import storybook
from causvid_cli.cli import edit_script
from causvid_cli.config import load_facts
from causvid_cli.errors import ModelError, UsageError
from causvid_cli.geometry import ChunkGrid, CodecFacts
from causvid_cli.models.packs import codec_facts, find_pack
from causvid_cli.script import (
    Script,
    ScriptCue,
    ScriptError,
    read_script,
    render_all,
    schema,
    script_of,
    timeline,
    to_ffmetadata,
    to_vtt,
    to_yaml,
)
from causvid_cli.script.model import readers
from causvid_cli.timecode import Time, parse_time

WAN = CodecFacts(latent_channels=16, spatial_factor=8, frames_first=1, frames_next=4)
WAN_GRID = ChunkGrid(codec=WAN, chunk_frames=3)
PIXEL_GRID = ChunkGrid(
    codec=CodecFacts(latent_channels=24, spatial_factor=8, frames_first=4, frames_next=4), chunk_frames=2
)
SIXTEEN, EIGHT = Fraction(16), Fraction(8)
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.causvid.yaml"))
HEAD = "version: 1\ncues:\n  - prompt: a\n"

CROSSING = """\
version: 1                     # the article's example
size: 832x480
seed: 42
length: 12s
cues:
  - prompt: A man in a grey coat crosses a busy city street, side view, overcast daylight.
  - at: 0:05
    prompt: >
      The same man in a grey coat reaches the opposite sidewalk,
      stops, takes out his notebook and writes in it.
"""
SWAN = """\
version: 1
image: paper-plane.png
negative: text, watermark
transition: soft
length: 15s
cues:
  - prompt: A paper airplane glides over a lake at dawn.
  - {at: 6s, blend: 3s, prompt: "The paper wings turn to feathers: the airplane becomes a swan."}
  - {at: 11s, prompt: A white swan flies low over the lake.}
"""
STREET = """\
version: 1
video: street.mp4
length: 00:00:10
snap: next
cues:
  - {prompt: The crowd thins out as rain begins., strength: 0.8}
  - {at: 96f, transition: cut, seed: 7, prompt: "Night. The same street, empty, neon in the puddles."}
"""


def problems_of(text: str, **options: object) -> list[str]:
    with pytest.raises(ScriptError) as error:
        read_script(text, name="bad.yaml", **options)
    return [str(problem) for problem in error.value.problems]


def cue(at: str | None, prompt: str = "a", **fields: object) -> ScriptCue:
    return ScriptCue(at=at and parse_time(at, name="at"), prompt=prompt, **fields)


def script(*cues: ScriptCue, **top: object) -> Script:
    return Script(cues=cues, **top)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_script_is_its_content_with_exact_types():
    crossing = read_script(CROSSING)
    assert (crossing.size, crossing.seed, crossing.length) == ((832, 480), 42, Time(Fraction(12)))
    assert crossing.cues[1].at == Time(Fraction(5))
    assert crossing.cues[1].prompt.endswith("sidewalk, stops, takes out his notebook and writes in it.")
    assert [each.line for each in crossing.cues] == [6, 7]
    street = read_script(STREET)
    assert street.cues[1].at == Time(Fraction(96), "f")
    assert (street.cues[0].strength, street.cues[1].seed, street.cues[1].transition) == (0.8, 7, "cut")


def test_a_files_own_folder_is_where_its_pictures_lie(tmp_path):
    (tmp_path / "swan.causvid.yaml").write_text(SWAN)
    swan = read_script(tmp_path / "swan.causvid.yaml")
    assert swan.file(swan.image) == tmp_path / "paper-plane.png"


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        ("length: no", "2:9: length 'no' is not a length; write 5s, 250ms, 1:04.5 or 96f"),
        ("length: 0s", "2:9: length 0s: must be more than 0; try 5s"),
        ("length: 25h", "2:9: length 25h: longer than a day"),
        ("length: [5s]", "2:9: length must be text, not a list"),
        ("length:", "2:8: length is empty"),
        ("size: 832", "2:7: size '832' is not a size; write WIDTHxHEIGHT"),
        ("fps: 0", "2:6: fps 0: must be more than 0 and at most 240"),
        ("seed: -1", "2:7: seed -1: must be 0 to 9223372036854775807"),
        ("seed: 1e3", "2:7: seed '1e3' is not a whole number; write it in digits, such as 7"),
        ("strength: 1.5", "2:11: strength '1.5' is not a strength; write 0 to 1, such as 0.8"),
        ("snap: nearst", "2:7: snap 'nearst': unknown; try nearest, next, previous, error; did you mean nearest?"),
        ("transition: blend", "2:13: transition 'blend': unknown; try recache, soft, cut"),
        ("loop: 2", "2:7: loop needs length, the time of one round"),
        ("image: http://a/b.png", "2:8: image 'http://a/b.png' is an address; give a file, such as ./photo.png"),
        ("image: concat:a.png", "2:8: image 'concat:a.png' is an address; give a file, such as ./photo.png"),
        ("sede: 4", "2:1: unknown field 'sede'; did you mean 'seed'?"),
        ("Prompt: a", "2:1: unknown field 'Prompt'"),
    ],
)
def test_a_wrong_field_says_where_it_stands_and_what_would_work(field, complaint):
    assert any(
        said.startswith(f"bad.yaml:{complaint}") for said in problems_of(f"version: 1\n{field}\ncues: [prompt: a]")
    )


def test_all_problems_come_in_one_pass_each_with_its_line_and_a_caret():
    text = (
        "version: 1\ncues:\n  - prompt: a\n  - at: 4 seconds\n    promt: b\n  - {at: 6s, prompt: c}\n"
        "  - {at: 4s, prompt: d, transition: cut, blend: 1s}\n  - {prompt: e}\n  - f\n  - {at: 9s, seed: 1}\n"
    )
    with pytest.raises(ScriptError) as error:
        read_script(text, name="bad.yaml")
    assert render_all(error.value.problems) == (
        "bad.yaml:4:9: at '4 seconds' is not a time; write 5s, 250ms, 1:04.5 or 96f\n"
        "    - at: 4 seconds\n"
        "          ^\n"
        "bad.yaml:5:5: unknown field 'promt'; did you mean 'prompt'?\n"
        "      promt: b\n"
        "      ^\n"
        "bad.yaml:7:10: 4s is not after the cue before it (6s, line 6)\n"
        "    - {at: 4s, prompt: d, transition: cut, blend: 1s}\n"
        "           ^\n"
        "bad.yaml:7:49: blend and transition cut contradict each other; leave one out\n"
        "    - {at: 4s, prompt: d, transition: cut, blend: 1s}\n"
        "                                                  ^\n"
        "bad.yaml:8:5: 'at' is missing; only the first cue may leave it out\n"
        "    - {prompt: e}\n"
        "      ^\n"
        "bad.yaml:9:5: a cue is a list of fields; begin it with '- prompt: '\n"
        "    - f\n"
        "      ^\n"
        "bad.yaml:10:5: 'prompt' is missing\n"
        "    - {at: 9s, seed: 1}\n"
        "      ^"
    )
    assert str(error.value).startswith("bad.yaml:4:9: at '4 seconds' is not a time")
    assert str(error.value).endswith("(and 6 more)")
    assert error.value.exit_code == 2


def test_what_stands_before_broken_yaml_is_checked_and_nothing_is_missed_after_it():
    said = problems_of("version: 1\nsede: 1\ncues:\n  - prompt: a: b\n")
    assert said == [
        "bad.yaml:2:1: unknown field 'sede'; did you mean 'seed'?",
        "bad.yaml:4:14: text with ': ' in it must be quoted; quote the prompt, or write 'prompt: >' and go on below",
    ]


def test_the_version_is_required_and_a_newer_one_is_all_that_is_said():
    assert problems_of("cues: [prompt: a]") == ["bad.yaml:1:1: 'version' is missing; write 'version: 1' at the top"]
    assert problems_of("version: 2\nfoo: 1") == [
        "bad.yaml:1:10: version 2: made for a newer causvid; try git pull and pip install . in causvid's source folder"
    ]
    assert problems_of("version: one\ncues: [prompt: a]") == ["bad.yaml:1:10: version 'one': write version: 1"]


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "a", "- a", "[]", "version: 1", "version: 1\ncues:", "version: 1\ncues: []"]
)
def test_a_text_without_cues_is_no_script(text):
    assert len(problems_of(text)) == 1


@pytest.mark.parametrize(
    ("top", "second", "complaint"),
    [
        ("", "{at: 5s, prompt: b, blend: 1s, transition: cut}", "blend and transition cut contradict"),
        ("transition: cut", "{at: 5s, prompt: b, blend: 1s}", "blend and transition cut contradict"),
        ("image: a.png\nvideo: b.mp4", "{at: 5s, prompt: b}", "image and video cannot both be the start"),
        ("length: 5s", "{at: 5s, prompt: b}", "5s is not before the end \\(length 5s\\)"),
        ("fps: 8", "{at: 0f, prompt: b}", "0f is not after the cue before it \\(0s, line 4\\)"),
        ("length: 5s\nloop: 60000", "{at: 4s, prompt: b}", "60000 rounds of 2 cues; 100000 cues are the most"),
        (f"style: {'s' * 19999}", "{at: 5s, prompt: b}", "prompt and style have 20002 characters"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(top, second, complaint):
    text = f"version: 1\n{top}\ncues:\n  - prompt: a\n  - {second}\n"
    with pytest.raises(ScriptError, match=complaint):
        read_script(text)


def test_the_first_cue_begins_at_0():
    assert read_script("version: 1\ncues: [{at: 0:00, prompt: a}]").cues[0].start == Time(Fraction(0))
    with pytest.raises(ScriptError, match="2:13: the first cue begins at 0, not at 1s; leave 'at' out"):
        read_script("version: 1\ncues: [{at: 1s, prompt: a}]")


def test_a_users_own_fields_are_kept():
    script = read_script("version: 1\nx-mood: {a: [b, no]}\ncues:\n  - {prompt: a, x-take: 3}")
    assert script.extra == {"x-mood": {"a": ["b", "no"]}}
    assert script.cues[0].extra == {"x-take": "3"}
    assert read_script(to_yaml(script)) == script


def test_a_script_built_in_code_is_checked_too():
    with pytest.raises(UsageError, match="script: cue 3: 4s is not after the cue before it \\(5s, cue 2\\)"):
        script(cue(None), cue("5s"), cue("4s"))
    with pytest.raises(UsageError, match="needs a cue"):
        script()


# --- the short form ---------------------------------------------------------------------------------------------------


def test_the_short_form_builds_the_same_script():
    short = script_of(
        "A man crosses the street", ["5s: he writes in his notebook", "1:04.5 : 3: the end"], length="70s"
    )
    long = read_script(
        "version: 1\nlength: 70s\ncues:\n  - prompt: A man crosses the street\n"
        "  - {at: 5s, prompt: he writes in his notebook}\n  - {at: 1:04.5, prompt: '3: the end'}\n"
    )
    assert short == long


def test_the_short_form_names_the_option_that_is_wrong():
    with pytest.raises(ScriptError) as error:
        script_of(" ", ["5s he writes", "6 parsecs: b", "7s: c", "2:75: d", "3s: e", "9s: "], seed="x", length=None)
    assert [str(problem) for problem in error.value.problems] == [
        '--then "5s he writes": must be a time, a colon and a prompt; try "5s: the car jumps"',
        '--then "6 parsecs: b": must be a time, a colon and a prompt; try "5s: the car jumps"',
        "--seed: seed 'x' is not a whole number; write it in digits, such as 7",
        "PROMPT: prompt is empty",
        '--then "2:75: d": at 2:75: in h:m:s, minutes and seconds stay below 60; try 90s or 1:30',
        '--then "9s: ": prompt is empty',
        '--then "3s: e": 3s is not after the cue before it (7s, --then "7s: c")',
    ]
    assert all(problem.lines() == (str(problem),) for problem in error.value.problems)


# --- where cues fall --------------------------------------------------------------------------------------------------


def test_cues_go_to_the_nearest_chunk_and_say_so():
    snapped = timeline(read_script(CROSSING), WAN_GRID, SIXTEEN)
    assert snapped.lines == (
        "cue 1 asked 0.000s -> chunk 0, frame 0, 0.000s (+0.000s)",
        "cue 2 asked 5.000s -> chunk 7, frame 81, 5.0625s (+0.062s)",
        "length asked 12.000s -> 192 frames, 12.000s (+0.000s)",
    )
    assert [each.start_chunk for each in snapped.cues] == [0, 7]
    assert snapped.cues[0].title == read_script(CROSSING).cues[0].prompt


@pytest.mark.parametrize(("snap", "chunk"), [("nearest", 3), ("next", 4), ("previous", 3)])
def test_a_cue_goes_where_snap_says(snap, chunk):
    made = script(cue(None), cue("27f"), snap=snap)  # halfway between chunks 3 (frame 24) and 4 (frame 32) is 28
    assert timeline(made, PIXEL_GRID, EIGHT).cues[1].start_chunk == chunk
    exact = script(cue(None), cue("32f"), snap=snap)
    assert timeline(exact, PIXEL_GRID, EIGHT).cues[1].start_chunk == 4


def test_a_file_of_another_rate_has_the_cues_at_the_same_times():
    made = script(cue(None), cue("3s"), cue("100f"), length=Time(Fraction(6)))  # 100 frames of 25 a second are 4 s
    snapped = timeline(made, PIXEL_GRID, Fraction(25), model_fps=EIGHT)
    assert [each.start_chunk for each in snapped.cues] == [0, 3, 4]
    assert [(entry.frame, entry.asked_s, entry.start_s) for entry in snapped.report[1:]] == [(75, 3, 3), (100, 4, 4)]
    assert (snapped.frames, snapped.fps, snapped.length_s) == (150, 25, 6)


def test_halfway_is_rather_early_than_late():
    assert timeline(script(cue(None), cue("28f")), PIXEL_GRID, EIGHT).cues[1].start_chunk == 3


def test_snap_error_names_the_nearest_edges():
    timeline(script(cue(None), cue("3s"), snap="error"), PIXEL_GRID, EIGHT)
    made = read_script(f"snap: error\n{HEAD}  - {{at: 3.5s, prompt: b}}\n")
    with pytest.raises(
        ScriptError, match=r"script:5: cue 2: 3\.5s is not at a chunk's edge .*; try 3\.000s or 4\.000s"
    ):
        timeline(made, PIXEL_GRID, EIGHT)


def test_two_cues_on_one_chunk_name_both_lines_and_the_gap_that_is_needed():
    made = read_script(f"{HEAD}  - {{at: 5s, prompt: b}}\n  - {{at: 5.25s, prompt: c}}\n  - {{at: 5.3s, prompt: d}}\n")
    with pytest.raises(ScriptError) as error:
        timeline(made, WAN_GRID, SIXTEEN)
    said = "falls on chunk 7 like cue 2 (5.000s, line 4); with this model cues need 0.750s between them"
    assert [str(problem) for problem in error.value.problems] == [
        f"script:5: cue 3: asked 5.250s, {said}",
        f"script:6: cue 4: asked 5.300s, {said}",
    ]


@pytest.mark.parametrize("grid", [WAN_GRID, PIXEL_GRID], ids=["wan", "pixel"])
@pytest.mark.parametrize("snap", ["nearest", "next", "previous"])
def test_cues_as_far_apart_as_the_named_gap_never_share_a_chunk(grid, snap):
    gap = grid.chunk_frames * grid.codec.frames_next
    rng = random.Random(0)
    for _ in range(50):
        start = Fraction(rng.randrange(gap * 100, gap * 300), 100)
        cues = [ScriptCue(prompt="a"), *(ScriptCue(at=Time((start + gap * n) / 16), prompt="a") for n in range(4))]
        timeline(script(*cues, snap=snap), grid, SIXTEEN)


def test_frames_count_at_the_videos_rate_and_mixed_times_must_still_rise():
    made = script(cue(None), cue("16f"), cue("3s"))
    assert [each.start_chunk for each in timeline(made, PIXEL_GRID, EIGHT).cues] == [0, 2, 3]
    with pytest.raises(ScriptError, match="cue 3: 3s is not after 16f"):
        timeline(made, PIXEL_GRID, Fraction(4))


def test_a_photo_is_the_first_picture_and_a_clips_end_is_not():
    photo = replace(WAN_GRID, given_frames=1, shows_given=True)
    clip = replace(WAN_GRID, given_frames=6)
    made = script(cue(None), cue("3s"))
    assert timeline(made, photo, SIXTEEN).lines[:2] == (
        "cue 1 asked 0.000s -> chunk 0, frame 1, 0.0625s (+0.062s)",
        "cue 2 asked 3.000s -> chunk 4, frame 49, 3.0625s (+0.062s)",
    )
    assert timeline(made, clip, SIXTEEN).report[1].frame == 48


def test_defaults_are_held_and_a_cues_own_fields_win():
    made = read_script(
        "version: 1\nstyle: in the snow\ntransition: soft\nstrength: 0.5\nnegative: text\nseed: 3\nlength: 9s\ncues:\n"
        "  - prompt: a red car.\n  - {at: 3s, prompt: b, strength: 1, negative: '', seed: 9, name: B}\n"
        "  - {at: 6s, prompt: c, transition: recache}\n"
    )
    first, second, third = timeline(made, PIXEL_GRID, EIGHT).cues
    assert (first.prompt, first.transition, first.strength, first.negative) == (
        "a red car. in the snow",
        "soft",
        0.5,
        "text",
    )
    assert (second.prompt, second.transition, second.strength, second.negative) == ("b, in the snow", "soft", 1.0, "")
    assert (first.seed, second.seed, third.seed) == (None, 9, None)
    assert (first.title, second.title, third.title) == ("a red car.", "B", "c")
    assert (third.transition, third.strength, third.negative) == ("recache", 0.5, "text")


def test_a_blend_is_counted_in_chunks_and_says_so():
    made = script(cue(None), cue("2s", blend=Time(Fraction("2.4"))), cue("6s", blend=Time(Fraction("0.4"))))
    snapped = timeline(made, PIXEL_GRID, EIGHT)
    assert [each.blend_chunks for each in snapped.cues] == [0, 2, 0]
    assert snapped.lines[1].endswith("2.000s (+0.000s); blend 2.400s -> 2 chunks, 2.000s (-0.400s)")
    assert [str(problem) for problem in snapped.warnings] == [
        "script: cue 3: blend 0.4s is shorter than a chunk; a chunk is 1.000s: it changes at once"
    ]


def test_what_has_no_effect_is_a_warning():
    made = script(cue(None, transition="soft"), cue("2s", blend=Time(Fraction(3))), cue("4s"))
    assert [problem.message for problem in timeline(made, PIXEL_GRID, EIGHT).warnings] == [
        "cue 1: transition of a first cue does nothing: there is no prompt before it",
        "cue 2: blend 3s goes on past the next cue, which cuts it short",
    ]
    after_a_picture = replace(made, image="dog.png")  # it says whether that is gone on from
    assert len(timeline(after_a_picture, PIXEL_GRID, EIGHT).warnings) == 1
    for whole, tells in ((made, 0), (after_a_picture, 1)):
        shared = replace(whole, transition="soft", cues=[replace(whole.cues[0], transition=None)])
        assert to_vtt(shared, EIGHT).count("transition: soft") == tells


def test_a_loop_plays_the_cues_again_with_length_as_its_period():
    made = script(cue(None), cue("2s", seed=5), length=Time(Fraction(4)), loop=3)
    snapped = timeline(made, PIXEL_GRID, EIGHT)
    assert [each.start_chunk for each in snapped.cues] == [0, 2, 4, 6, 8, 10]
    assert [each.seed for each in snapped.cues] == [None, 5] * 3
    assert snapped.frames == 96
    assert snapped.lines[5].startswith("cue 2 (round 3) asked 10.000s -> chunk 10")


def test_the_length_is_the_last_cue_and_five_seconds_where_none_is_named():
    assert timeline(script(cue(None), cue("2s")), PIXEL_GRID, EIGHT).frames == 56
    assert timeline(script(cue(None)), PIXEL_GRID, EIGHT).frames == 40


def test_a_length_is_whole_frames_and_says_what_it_rounds():
    made = script(cue(None), length=parse_time("5.03s", name="length"))
    assert timeline(made, PIXEL_GRID, EIGHT).lines[-1] == "length asked 5.030s -> 40 frames, 5.000s (-0.030s)"


def test_a_shorter_length_leaves_cues_out_and_says_so():
    snapped = timeline(script(cue(None), cue("2s"), cue("4s")), PIXEL_GRID, EIGHT, length=Time(Fraction(3)))
    assert [each.start_chunk for each in snapped.cues] == [0, 2]
    assert [problem.message for problem in snapped.warnings] == [
        "cue 3: begins at 4s, and the video ends at 3.000s; left out"
    ]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_yaml_round_trips_whatever_a_prompt_holds():
    rng = random.Random(0)
    letters = "ab \n\t'\"#:-?[]{}&*!|>%@`,~\\.0é漢🚗\u05d0\u200f\u202e\ufeff=<"
    for _ in range(300):
        words = ["".join(rng.choices(letters, k=rng.randrange(1, 200))) for _ in range(4)]
        prompts = [word.strip() or "x" for word in words[:2]]
        top = script(
            cue(None, prompts[0], negative=words[2].strip()),
            cue("5s", prompts[1], strength=rng.random(), blend=Time(Fraction(rng.randrange(10**6), 10**9)), name="no"),
            fps=Fraction(30000, 1001), size=(64, 32), style=words[3].strip(), snap="next", image="1:30.png", loop=2,
            length=Time(Fraction(9)), seed=2**63 - 1,
        )  # fmt: skip
        assert read_script(to_yaml(top)) == top


def test_yaml_is_as_people_write_it():
    assert to_yaml(read_script(STREET)) == (
        "version: 1\nvideo: street.mp4\nlength: 10s\nsnap: next\ncues:\n"
        "- prompt: The crowd thins out as rain begins.\n  strength: 0.8\n"
        "- at: 96f\n  prompt: Night. The same street, empty, neon in the puddles.\n  transition: cut\n  seed: 7\n"
    )


def test_vtt_round_trips_to_the_same_video():
    made = read_script(
        "version: 1\nstyle: in the snow\nseed: 3\ntransition: soft\nlength: 9.00001s\nsnap: next\ncues:\n"
        "  - prompt: a <b> & c --> d\n  - {at: 29f, prompt: b, strength: 0.25, name: two words}\n"
        "  - {at: 0:06.5, prompt: c, blend: 3s, seed: 8, negative: text}\n"
    )
    again = read_script(to_vtt(made, EIGHT), kind=".vtt")
    wanted, got = timeline(made, PIXEL_GRID, EIGHT), timeline(again, PIXEL_GRID, EIGHT)
    first, *others = got.cues
    assert first == replace(wanted.cues[0], seed=3, transition="recache")  # of a first cue a transition does nothing
    assert tuple(others) == wanted.cues[1:]
    assert (got.frames, got.length_asked_s) == (wanted.frames, wanted.length_asked_s)


def test_chapters_are_exact_and_lie_where_the_prompt_changes():
    made = script(cue(None, "a=b; #1"), cue("5s", "c", name="n"), length=Time(Fraction(6)), fps=Fraction(30000, 1001))
    text = to_ffmetadata(timeline(made, WAN_GRID, made.fps))
    assert text == (
        ";FFMETADATA1\n\n[CHAPTER]\nTIMEBASE=1001/30000\nSTART=0\nEND=153\ntitle=a\\=b\\; \\#1\n\n"
        "[CHAPTER]\nTIMEBASE=1001/30000\nSTART=153\nEND=180\ntitle=n\n"
    )


def test_the_schema_has_every_field_and_no_other():
    made = schema()
    cues = made["$defs"]["ScriptCue"]
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(made["properties"]) == {*readers(Script), "cues", "keys"}
    assert set(cues["properties"]) == set(readers(ScriptCue))
    for part in (made, cues):
        assert part["additionalProperties"] is False
        assert part["patternProperties"] == {"^x-": True}
        assert all("description" in each for each in part["properties"].values())
    assert (made["required"], cues["required"]) == (["version", "cues"], ["prompt"])
    json.dumps(made)


def test_reading_scripts_imports_neither_torch_nor_pydantic_and_naming_them_not_even_yaml():
    check = (
        "import sys, causvid_cli.script as s\n"
        "assert not {'torch', 'pydantic', 'yaml', 'rich'} & set(sys.modules)\n"
        "s.timeline\ns.read_script('version: 1\\ncues: [prompt: a]')\n"
        "assert not {'torch', 'pydantic'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


# --- the examples and the command -------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A pack that can be counted with, and nothing else."""
    from tiny import tiny_facts

    from causvid_cli.config import to_json

    folder = tmp_path / "tiny"
    (folder / "vae").mkdir(parents=True)
    (folder / "causvid.json").write_text(to_json(tiny_facts()))
    (folder / "vae" / "config.json").write_text('{"_class_name": "PixelCodec", "colours": 48}')
    return folder


def run(*arguments: object) -> Result:
    return CliRunner(env={"NO_COLOR": "1"}).invoke(edit_script.app, list(map(str, arguments)))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_says_only_what_storybook_knows(path):
    made = read_script(path)
    assert timeline(made, PIXEL_GRID, EIGHT).warnings == ()
    previous = None
    for each in made.cues:
        parsed = storybook.parse(made.prompt(each), previous)
        assert not parsed.unknown and not parsed.unused
        previous = parsed.story
    assert read_script(to_yaml(made)) == made


def test_check_says_where_each_cue_falls(tiny):
    Path(tiny.parent / "a.yaml").write_text(f"{HEAD}  - {{at: 3.2s, prompt: b}}\n")
    done = run(tiny.parent / "a.yaml", "--check", "-m", tiny, "--fps", 8)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "cue 1 asked 0.000s -> chunk 0, frame 0, 0.000s (+0.000s)"
    found = json.loads(run(tiny.parent / "a.yaml", "--check", "-m", tiny, "--json").stdout)
    assert (found["v"], len(found["cues"]), found["warnings"]) == (1, 2, [])


def test_to_and_schema_and_upgrade_print_texts(tiny):
    path = tiny.parent / "a.causvid.yaml"
    path.write_text(CROSSING.replace("832x480", "64x64").replace("size: 64x64\n", ""))
    written = run(path, "--to", "yaml", "-m", tiny).stdout
    assert read_script(written) == read_script(path)
    assert run(path, "--to", "vtt", "-m", tiny).stdout.startswith("WEBVTT\n")
    assert run(path, "--to", "ffmetadata", "-m", tiny).stdout.startswith(";FFMETADATA1\n")
    assert run(path, "--upgrade").stdout == path.read_text()
    assert json.loads(run("--schema").stdout) == schema()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "no script; name one"),
        (("none.yaml",), "the script cannot be read: no such file or directory"),
        (("a.yaml", "--to", "srt"), "--to srt: unknown; try yaml, vtt or ffmetadata"),
        (("a.yaml", "--check", "--to", "yaml"), "--check and --to do not go together"),
        (("a.vtt", "--upgrade"), "a.vtt is another format; try --to yaml"),
        (("a.yaml", "--check", "--switch", "40"), "--switch 40: a.yaml says it itself"),
        (("a.docx", "--check"), ".docx is no kind of script; known: .yaml"),
    ],
)
def test_the_command_refuses_what_contradicts_itself(arguments, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "a.vtt", "a.docx"):
        Path(name).write_text(HEAD)
    done = run(*arguments)
    assert isinstance(done.exception, UsageError)
    assert complaint in str(done.exception)


def test_codec_facts_are_read_without_the_codec(tiny):
    facts = load_facts(find_pack(tiny))
    assert codec_facts(tiny, facts) == PIXEL_GRID.codec
    (tiny / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    assert codec_facts(tiny, replace(facts, codec="wan")) == WAN
    kind = '"_class_name": "PixelCodec"'
    for broken, complaint in (
        ("{}", "_class_name: missing; 'PixelCodec' is wanted"),
        ("[]", r"must hold a JSON object, not \[\]"),
        ("{", "not JSON"),
        (f'{{{kind}, "colours": 48, "stack": "x"}}', "stack: must be a valid integer, got 'x'"),
        (f'{{{kind}, "colours": 48, "stack": -1}}', "stack: must be greater than or equal to 1, got -1"),
        (f'{{{kind}, "colours": 48, "blocks": {2**40}}}', "blocks.*: must be"),
    ):
        (tiny / "vae" / "config.json").write_text(broken)
        with pytest.raises(ModelError, match=f"^{tiny}/vae/config.json: {complaint}"):
            codec_facts(tiny, facts)
    (tiny / "vae" / "config.json").unlink()
    with pytest.raises(ModelError, match="no such file"):
        codec_facts(tiny, facts)
