"""Prompt timelines of other programs become the script that means the same, or are refused where they do not."""

from fractions import Fraction
from pathlib import Path

import pytest

from causvid_cli.errors import UsageError
from causvid_cli.geometry import ChunkGrid, CodecFacts
from causvid_cli.script import Script, ScriptError, in_frames, read_script, timeline, to_yaml
from causvid_cli.timecode import Time

WAN = ChunkGrid(codec=CodecFacts(latent_channels=16, spatial_factor=8, frames_first=1, frames_next=4), chunk_frames=3)


def read(text: str, kind: str, **options: object) -> Script:
    return read_script(text, name=f"a{kind}", kind=kind, **options)


def starts(script: Script) -> list[str]:
    return [str(cue.start) for cue in script.cues]


def prompts(script: Script) -> list[str]:
    return [cue.prompt for cue in script.cues]


def refused(text: str, kind: str, complaint: str, **options: object) -> None:
    with pytest.raises(ScriptError) as error:
        read(text, kind, **options)
    said = [str(problem) for problem in error.value.problems]
    assert any(complaint in each for each in said), said


def test_the_extension_of_a_file_says_its_kind(tmp_path: Path):
    (tmp_path / "a.SRT").write_text("1\n00:00:00,000 --> 00:00:04,000\na\n")
    assert prompts(read_script(tmp_path / "a.SRT")) == ["a"]
    (tmp_path / "a.odt").write_text("a")
    with pytest.raises(UsageError, match=r"a\.odt: \.odt is no kind of script; known: \.yaml"):
        read_script(tmp_path / "a.odt")


@pytest.mark.parametrize(
    ("text", "kind", "remark", "second"),
    [
        (
            "1\n00:00:02,000 --> 00:00:03,000\na\n\n2\n00:00:05,000 --> 00:00:06,000\nb",
            ".srt",
            "a.srt:2:1: {} 2s",
            "5s",
        ),
        ("WEBVTT\n\n00:02.000 --> 00:03.000\na\n\n00:05.000 --> 00:06.000\nb", ".vtt", "a.vtt:3:1: {} 2s", "5s"),
        ('{"24": "b", "10": "a"}', ".json", "a.json:1:19: {} 10f", "24f"),
        (
            '{"prompts": [{"startTime": 1, "text": "a"}, {"startTime": 4, "text": "b"}]}',
            ".json",
            "a.json:1:14: {} 1s",
            "4s",
        ),
        ("[1s: a] [3s-4s: b]", ".txt", "a.txt:1:1: {} 1s", "3s"),
        ('{"prompts": [{"startTime": 1e-16, "text": "a"}, {"startTime": 4, "text": "b"}]}', ".json", None, "4s"),
    ],
)
def test_a_first_prompt_that_begins_late_holds_from_0_and_that_is_said(text, kind, remark, second):
    notes: list[str] = []
    script = read(text, kind, on_note=lambda problem: notes.append(str(problem)))
    assert (prompts(script), starts(script)) == (["a", "b"], ["0s", second])
    said = [note for note in notes if "holds from 0" in note]
    assert said == ([remark.format("the first cue begins at") + "; its prompt holds from 0"] if remark else [])


def test_an_overlap_too_short_for_any_frame_is_rounding():
    scope = (
        '{"prompts": [{"startTime": 0, "endTime": 3.0000000000000004, "text": "a"},'
        ' {"startTime": 3, "endTime": 6, "text": "b"}]}'
    )
    srt = "1\n00:00:00,000 --> 00:00:03,001\na\n\n2\n00:00:03,000 --> 00:00:06,000\nb"
    for text, kind in ((scope, ".json"), (srt, ".srt"), ("[0s-3.0000000000000004s: a] [3s: b]", ".txt")):
        assert starts(read(text, kind)) == ["0s", "3s"]


# --- subtitles --------------------------------------------------------------------------------------------------------

VTT = """\
WEBVTT - a title

NOTE
made by hand
causvid snap: next

NOTE causvid style: in the snow

intro
00:00.000 --> 00:04.500 align:start
<v Ann>A <b>red</b> car &amp; a cat
moves left

STYLE
::cue { color: red }

NOTE causvid seed: 7

NOTE causvid transition: cut

00:00:06.000 --> 01:00:00.000
b
"""


def test_vtt_keeps_times_texts_names_and_notes():
    notes: list[str] = []
    script = read(VTT, ".vtt", on_note=lambda problem: notes.append(str(problem)))
    assert starts(script) == ["0s", "6s"]  # the gap from 4.5 s holds the first prompt
    assert prompts(script) == ["A red car & a cat\nmoves left", "b"]
    assert (script.cues[0].name, script.cues[1].name) == ("intro", None)
    assert (script.cues[1].seed, script.cues[1].transition) == (7, "cut")
    assert (script.snap, script.style, script.length) == ("next", "in the snow", Time(Fraction(3600)))
    assert notes == [
        "a.vtt:10:1: 'align:start' says how text looks; left out",
        "a.vtt:14:1: STYLE says how subtitles look; left out",
    ]
    assert script.cues[0].line == 10


def test_srt_keeps_times_and_texts_without_counters():
    script = read(
        "1\n00:00:00,000 --> 00:00:04,000\n{\\an8}<i>a</i>\n\n2\n00:00:05,250 --> 00:00:09,000\nb &amp; c\n", ".srt"
    )
    assert starts(script) == ["0s", "5.25s"]
    assert prompts(script) == ["a", "b &amp; c"]
    assert [cue.name for cue in script.cues] == [None, None]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1\n00:00:00,000 --> 00:00:03,000\na\n2\n00:00:03,000 --> 00:00:06,000\nb\n", ".srt"),
        ("00:00:00,000 --> 00:00:03,000\na\n00:00:03,000 --> 00:00:06,000\nb\n", ".srt"),
        ("WEBVTT\n\n00:00.000 --> 00:03.000\na\n00:03.000 --> 00:06.000\nb\n", ".vtt"),
        ("WEBVTT\n00:00.000 --> 00:03.000\na\n\n00:03.000 --> 00:06.000\nb\n", ".vtt"),
        ("WEBVTT\nKind: captions\n1\n00:00.000 --> 00:03.000\na\n2\n00:03.000 --> 00:06.000\nb", ".vtt"),
        ("WEBVTT\n\nNOTE by hand\n00:00.000 --> 00:03.000\na\n00:03.000 --> 00:06.000\nb", ".vtt"),
        ("WEBVTT\n\nSTYLE\n::cue {}\n00:00.000 --> 00:03.000\na\n\n00:03.000 --> 00:06.000\nb", ".vtt"),
    ],
)
def test_a_timing_begins_a_cue_with_or_without_a_blank_line(text, kind):
    script = read(text, kind)
    assert (prompts(script), starts(script)) == (["a", "b"], ["0s", "3s"])
    assert [cue.name for cue in script.cues] == [None, None]
    assert all("-->" in text.split("\n")[cue.line - 1] for cue in script.cues)


def test_a_number_that_is_text_stays_text():
    text = "1\n00:00:00,000 --> 00:00:03,000\na car in\n1984\n\n2\n00:00:03,000 --> 00:00:06,000\nleft > right\n"
    assert prompts(read(text, ".srt")) == ["a car in\n1984", "left > right"]


def test_fields_of_a_note_reach_the_cue_right_below_it_and_those_of_the_header_the_script():
    script = read("WEBVTT\nNOTE causvid snap: next\n\nNOTE causvid seed: 7\n00:00.000 --> 00:03.000\na", ".vtt")
    assert (script.snap, script.cues[0].seed) == ("next", 7)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hello", "a.vtt:1:1: a .vtt file begins with the line WEBVTT"),
        ("WEBVTT\n\nhello", "a.vtt:3:1: neither a cue (a line with -->) nor a NOTE"),
        ("WEBVTT\n\n00:00.000 --> 00:00.000\na", "a.vtt:3:1: ends at 0s, not after its beginning (0s)"),
        (
            "WEBVTT\n\n00:00.000 --> 00:05.000\na\n\n00:04.000 --> 00:06.000\nb",
            "a.vtt:6:1: begins at 4s, before the one in line 3 ends (5s)",
        ),
        ("WEBVTT\n\n0 --> 5\na", "a.vtt:3:1: '0' is not a time; write 00:00:05.000"),
        ("WEBVTT\n\n00:00.000 -> 00:05.000\na", "a.vtt:3:1: not a cue's times; write 00:00:05.000 --> 00:00:09.000"),
        ("WEBVTT\n\n00:00.000 --> 00:05.000\na\n00:05.000 -> 00:09.000\nb", "a.vtt:5:1: not a cue's times"),
        ("WEBVTT\n\n00:00.000 --> 00:05.000\na\n0:05 --> \nb", "a.vtt:5:1: not a cue's times"),
        ("WEBVTT\n\n00:00.000 --> 00:75.000\na", "minutes and seconds stay below 60"),
        ("WEBVTT\n\n00:00.000 --> 00:05.000\n<b></b>", "a.vtt:4:1: prompt is empty"),
        (
            "WEBVTT\n\nNOTE causvid sede: 7\n\n00:00.000 --> 00:05.000\na",
            "a.vtt:3:1: unknown field 'sede'; did you mean",
        ),
        ("WEBVTT\n\nNOTE causvid seed: x\n\n00:00.000 --> 00:05.000\na", "a.vtt:3:1: seed 'x' is not a whole number"),
        (
            "WEBVTT\n\n00:00.000 --> 00:05.000\na\n\nNOTE causvid seed: 7",
            "a.vtt:6:1: no cue follows that seed could be for",
        ),
        ("WEBVTT\n", "a script needs a cue"),
    ],
)
def test_subtitles_that_are_no_timeline_are_refused_by_line(text, complaint):
    refused(text, ".vtt", complaint)


# --- prompts without times --------------------------------------------------------------------------------------------


def test_longlive_switches_at_latent_frames_as_it_does():
    script = read('{"prompts": ["a", "b \\ud83d\\ude00", "c"]}\n', ".jsonl", switch="40,80")
    assert prompts(script) == ["a", "b 😀", "c"]
    assert [cue.start for cue in script.cues[1:]] == [Time(Fraction(40), "latent"), Time(Fraction(80), "latent")]
    snapped = timeline(script, WAN, Fraction(16))
    assert [cue.start_chunk for cue in snapped.cues] == [0, 14, 27]  # the first blocks at or after frames 40 and 80
    assert [entry.asked_s for entry in snapped.report[1:]] == [Fraction(157, 16), Fraction(317, 16)]
    plain = in_frames(script, WAN)
    assert starts(plain) == ["0s", "157f", "317f"]
    assert timeline(plain, WAN, Fraction(16)).cues == snapped.cues
    assert read_script(to_yaml(plain)) == plain


def test_prompts_may_switch_at_times_too():
    assert starts(read('{"prompts": ["a", "b"]}', ".jsonl", switch="5s")) == ["0s", "5s"]
    assert read('{"prompts": ["a"]}', ".jsonl").cues[0].prompt == "a"


def test_one_of_several_videos_is_chosen_by_row():
    text = '{"prompts": ["a", "b"]}\n\n{"prompts": ["c", "d"]}\n'
    assert prompts(read(text, ".jsonl", switch="40", row=2)) == ["c", "d"]
    refused(text, ".jsonl", "holds 2 lines, and a script is one video; choose with --row", switch="40")
    with pytest.raises(UsageError, match="--row 3: a.jsonl holds 2 lines"):
        read(text, ".jsonl", switch="40", row=3)


@pytest.mark.parametrize(
    ("text", "switch", "complaint"),
    [
        (
            '{"prompts": ["a", "b", "c"]}',
            None,
            "a.jsonl:1:14: says no times; 3 prompts need 2; add --switch with latent frames (40,80)",
        ),
        ('{"prompts": ["a", "b"]}', "40,80", "--switch 40,80 has 2 times; 2 prompts need 1"),
        ('{"prompts": ["a", "b", "c"]}', "80,40", "a.jsonl:1:24: latent 40 is not after the cue before it (latent 80"),
        ('{"prompts": ["a", 7]}', "40", "a.jsonl:1:19: must be text, not '7'; write it in quotes"),
        ('\n{"prompts": [null, "b"]}', "40", "a.jsonl:2:14: must be text, not 'null'"),
        ('{"prompts": ["a", ["b"]]}', "40", "a.jsonl:1:19: must be text"),
        ('{"prompts": "a"}', None, "a.jsonl:1:1: 'prompts' must be a list of texts"),
        ('\n{"prompts": ["a"], "fps": 16}', None, "a.jsonl:2:20: 'fps' cannot be kept; delete it"),
        ('{"prompts": ["a",]}', None, ": not JSON"),
        ("[1]", None, "a.jsonl:1:1: not a video"),
        ("", None, "a.jsonl:1:1: holds no line"),
    ],
)
def test_longlive_files_that_are_no_timeline_are_refused_by_line(text, switch, complaint):
    refused(text, ".jsonl", complaint, switch=switch)


@pytest.mark.parametrize("switch", ["x", "40,", "40,5s", "-40", "4.5"])
def test_a_switch_that_is_no_list_of_times_is_refused(switch):
    with pytest.raises(UsageError, match="--switch"):
        read('{"prompts": ["a", "b", "c"]}', ".jsonl", switch=switch)


def test_helios_prompts_come_in_the_order_of_their_index():
    text = 'id,prompt_index,prompt\n0,1,"b, ""c""\nd"\n0,0,a\n7,0,e\n'
    assert prompts(read(text, ".csv", switch="40", row=1)) == ["a", 'b, "c"\nd']
    assert prompts(read(text, ".csv", row=2)) == ["e"]
    refused(text, ".csv", "holds 2 ids, and a script is one video")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b\n1,2", "a.csv:1:1: the first line must name the columns id, prompt_index, prompt"),
        ("id,prompt_index,prompt,action_keys\n0,0,a,W", "a.csv:1:1: column 'action_keys' cannot be kept"),
        ("id,prompt_index,prompt\n0,0,a\n0,0,b", "a.csv:3:1: prompt_index 0 is given twice (first in line 2)"),
        ("id,prompt_index,prompt\n0,x,a", "a.csv:2:1: prompt_index 'x' is not a whole number"),
        ("id,prompt_index,prompt\n0,0", "a.csv:2:1: has fewer values than the first line names"),
        ("id,prompt_index,prompt\n0,0,a,b", "a.csv:2:1: has more values than the first line names"),
        ('id,prompt_index,prompt\n0,0,"a', "a.csv:2:1: not CSV"),
        ("id,prompt_index,prompt\n0,0,a\0", "a.csv:2:1: holds a control character"),
        ("id,prompt_index,prompt\n", "a.csv:1:1: holds no prompt"),
        ("", "the first line must name the columns"),
    ],
)
def test_csv_files_that_are_no_timeline_are_refused_by_line(text, complaint):
    refused(text, ".csv", complaint)


# --- JSON -------------------------------------------------------------------------------------------------------------

SCOPE = """\
{
\t"prompts": [
\t\t{"startTime": 0, "endTime": 24.16839999985695, "prompts": [{"text": "a", "weight": 100}], "color": "#fff"},
\t\t{"startTime": 24.16839999985695, "endTime": 3.5e1, "prompts": [{"text": "b \\ud83d\\ude00 \\\\ud", "weight": 1}],
\t\t "transitionSteps": 2, "temporalInterpolationMethod": "slerp"}
\t],
\t"settings": {"pipelineId": "longlive", "seed": 42, "resolution": {"height": 320, "width": 576}, "loras": []},
\t"version": "2.1", "exportedAt": "2026-01-01T00:00:00Z"
}
"""


def test_a_scope_timeline_keeps_exact_times_and_blends():
    notes: list[str] = []
    script = read(SCOPE, ".json", on_note=lambda problem: notes.append(str(problem)))
    assert starts(script) == ["0s", "24.16839999985695s"]
    assert prompts(script) == ["a", "b 😀 \\ud"]
    assert (script.seed, script.size, script.length) == (42, (576, 320), Time(Fraction(35)))
    assert script.cues[1].blend == Time(Fraction(2), "chunk")
    snapped = timeline(script, WAN, Fraction(16))
    assert (snapped.cues[1].blend_chunks, snapped.warnings) == (2, ())
    assert str(in_frames(script, WAN).cues[1].blend) == "24f"
    assert [note.partition(": ")[2] for note in notes] == [
        "how the blend is computed is the model's choice; left out",
        "settings of Scope's own are left out: 'pipelineId'",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '{"prompts": [\n{"startTime": 0, "prompts": [{"text": "a"}, {"text": "b"}]}]}',
            "a.json:2:45: several prompts at once cannot be kept",
        ),
        ('{"prompts": [{"text": "a"}]}', "a.json:1:14: 'startTime' is missing"),
        ('{"prompts": [{"startTime": -1, "text": "a"}]}', "a.json:1:28: startTime '-1' is not a number of 0 or more"),
        ('{"prompts": [{"startTime": 1e999999999, "text": "a"}]}', "a.json:1:28: startTime"),
        ('{"prompts": [{"startTime": NaN, "text": "a"}]}', "a.json:1:28: startTime 'NaN' is not a number"),
        ('{"prompts": [{"startTime": 0, "cache": 1, "text": "a"}]}', "a.json:1:31: 'cache' cannot be kept"),
        ('{"prompts": [{"startTime": 0, "text": null}]}', "a.json:1:39: must be text, not 'null'"),
        ('{"prompts": [{"startTime": 0, "prompts": [{"text": 5}]}]}', "a.json:1:52: must be text, not '5'"),
        ('{"prompts": [{"startTime": 0, "endTime": NaN, "text": "a"}]}', "a.json:1:42: endTime 'NaN' is not a number"),
        ('{"prompts": [{"startTime": 0}]}', "'prompts' must be a list with one prompt"),
        ('{"prompts": {"0": "a"}}', "a.json:1:13: 'prompts' must be a list; a Deforum map has frame numbers"),
        ('{"prompts": [], "timeline": 1}', "a.json:1:17: 'timeline' cannot be kept"),
        (
            '{"prompts": [{"startTime": 0, "text": "a"}], "settings": {"loras": [{"path": "x"}]}}',
            "a.json:1:68: LoRAs cannot be kept",
        ),
        (
            '{"prompts": [{"startTime": 0, "endTime": 5, "text": "a"},\n{"startTime": 4, "endTime": 6, "text": "b"}]}',
            "a.json:2:1: begins at 4s, before the one in line 1 ends (5s)",
        ),
    ],
)
def test_scope_files_that_cannot_be_kept_are_refused_by_line(text, complaint):
    refused(text, ".json", complaint)


@pytest.mark.parametrize("kind", [".json", ".txt"])
def test_a_deforum_map_counts_frames(kind):
    script = read('{\n"60": "a cat --neg text, blur",\n"0": "a swan", "120": "a \\"dog\\""\n}', kind)
    assert starts(script) == ["0f", "60f", "120f"]
    assert prompts(script) == ["a swan", "a cat", 'a "dog"']
    assert [cue.negative for cue in script.cues] == [None, "text, blur", None]
    assert [cue.line for cue in script.cues] == [3, 2, 3]


@pytest.mark.parametrize("kind", [".json", ".txt"])
@pytest.mark.parametrize(
    "text", ['"0" :"a",\n"24" :"null"\n', '"0": "a",\n"24": "null",\n', '{\n "0": "a",\n "24": "null",\n}\n']
)
def test_a_deforum_map_may_lack_braces_and_keep_its_last_comma(text, kind):
    script = read(text, kind)
    assert (prompts(script), starts(script)) == (["a", "null"], ["0f", "24f"])
    assert [cue.line for cue in script.cues] == [1 + text.count("{"), 2 + text.count("{")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"0": "a",\n"max_f/2": "b"}', "a.json:2:1: 'max_f/2' is no frame number; a formula cannot be kept"),
        ('{"0": "a `cos(t)`"}', "a.json:1:7: a formula in a prompt cannot be kept"),
        ('{"0": "a", "0": "b"}', "a.json:1:12: '0' is given twice (first in line 1)"),
        ('{"0": "a", "00": "b"}', "a.json:1:18: 0f is not after the cue before it (0s, line 1)"),
        ('{"0": ["a"]}', "a.json:1:7: must be text"),
        ('{"10": "a", "010": "b"}', "a.json:1:20: 10f is not after the cue before it (10f, line 1)"),
        ('{"0": NaN}', "a.json:1:7: must be text, not 'NaN'; write it in quotes"),
        ('{"0": "a",\n"24": null}', "a.json:2:7: must be text, not 'null'"),
        ('{"0": true}', "a.json:1:7: must be text, not 'true'"),
        ('{"0": 5}', "a.json:1:7: must be text, not '5'"),
        ('"0": "a",\n"5": 7', "a.json:2:6: must be text, not '7'"),
        ('{"NaN": "a"}', "a.json:1:2: 'NaN' is no frame number"),
        ('{"0": "a",,}', "not JSON"),
        ('"0": "a"\n"5": "b"', "a.json:2:1: not JSON: expecting ',' delimiter"),
        ('"0"', "a.json:1:4: not JSON: expecting ':' delimiter"),
        ("[1, 2]", "a.json:1:1: neither a Scope timeline nor a Deforum map"),
        ("{}", "a script needs a cue"),
        (f'{{"0": {"9" * 5000}}}', "a.json"),
    ],
)
def test_deforum_maps_that_cannot_be_kept_are_refused_by_line(text, complaint):
    refused(text, ".json", complaint)


# --- [4s: text] -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "texts"),
    [
        ("a cat\n[4s: a dog] [6s-8s: a bird: blue]", ["0s", "4s", "6s"], ["a cat", "a dog", "a bird: blue"]),
        ("[0s] a\n[5s] b c\n", ["0s", "5s"], ["a", "b c"]),
        ("[0: a][1:04.5: b][96f-99f: c]", ["0s", "64.5s", "96f"], ["a", "b", "c"]),
        ("[0s:a]", ["0s"], ["a"]),
    ],
)
def test_bracketed_times_are_cues(text, wanted, texts):
    script = read(text, ".txt")
    assert (starts(script), prompts(script)) == (wanted, texts)


def test_a_last_bracket_with_an_end_says_the_length():
    assert str(read("[0s: a] [6s-8s: b]", ".txt").length) == "8s"
    assert read("[0s: a] [6s: b]", ".txt").length is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a.txt:1:1: holds no prompt; write [0s: text] [4s: text]"),
        ("[5s: a]\n[3s: b]", "a.txt:2:1: 3s is not after the cue before it (5s, line 1)"),
        ("[5s: a]\n[0s: b]", "a.txt:2:1: 0s is not after the cue before it (5s, line 1)"),
        ("[0s: a]\nb [2s: c]", "a.txt:1:8: text between brackets belongs to no time"),
        ("[0s: a [b]]", "a.txt:1:1: [ and ] do not pair here"),
        ("[0s: a", "a.txt:1:1: [ and ] do not pair here"),
        ("[0s: a]\n[soon: b]", "a.txt:2:1: '[soon: b]' does not begin with a time"),
        ("[0s-5s: a]\n[4s: b]", "a.txt:2:1: begins at 4s, before the one in line 1 ends (5s)"),
        ("[0s: a] [5s-4s: b]", "a.txt:1:9: ends at 4s, not after its beginning (5s)"),
        ("[0s: a] [5s-99f: b]", "a.txt:1:9: begins and ends in different units"),
        ("[0s: a] [1:75: b]", "a.txt:1:9: time 1:75: in h:m:s"),
        ("[0s: ]", "a.txt:1:1: prompt is empty"),
    ],
)
def test_brackets_that_are_no_timeline_are_refused_by_place(text, complaint):
    refused(text, ".txt", complaint)


@pytest.mark.parametrize("kind", [".vtt", ".srt", ".json", ".txt"])
def test_formats_with_times_take_no_switch(kind):
    with pytest.raises(UsageError, match=f"--switch 40: a{kind} says it itself"):
        read("WEBVTT" if kind == ".vtt" else "{}", kind, switch="40")
