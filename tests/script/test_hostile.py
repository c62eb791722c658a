"""Scripts that are broken, huge or malicious: all that is wrong is said in order, and nothing else happens."""

import gc
import random
import re
import tracemalloc
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from causvid_cli.errors import UsageError
from causvid_cli.geometry import ChunkGrid, CodecFacts
from causvid_cli.script import ScriptError, read_script, render_all, timeline, to_vtt, to_yaml
from causvid_cli.script.problems import MOST_PROBLEMS, WIDEST
from causvid_cli.script.read import MOST_BYTES, decode, load_source

WAN = ChunkGrid(codec=CodecFacts(latent_channels=16, spatial_factor=8, frames_first=1, frames_next=4), chunk_frames=3)
EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = "version: 1\ncues:\n"
FULL = """\
version: 1
model: storybook@main
size: 512x512
fps: 30000/1001
seed: 42
negative: "text, watermark"
image: ./photo.png
length: 0:00:12.5
snap: previous
transition: soft
strength: 0.5
style: 'in the snow'
x-tags: {a: [b, {c: d}]}
cues:
  - prompt: |
      A red car: "fast"
      moves left # not a comment
  - {at: 96f, blend: 750ms, prompt: "tab\\there, \\u00e9", seed: 7, strength: 1, negative: ''}
  - at: 0:05.25
    name: 漢字 🚗
    transition: cut
    prompt: a \u05d0 cat
"""
SEEDS = {
    ".yaml": [path.read_text() for path in sorted(EXAMPLES.glob("*.causvid.yaml"))] + [FULL],
    ".vtt": [
        "WEBVTT - x\n\nNOTE causvid seed: 7\n\nfirst\n00:00.000 --> 00:05.000 align:start\n<b>a</b> &amp; b\n\n"
        "STYLE\n::cue {}\n\n00:00:05.000 --> 00:01:00.000\nc\nd\n"
    ],
    ".srt": [
        "1\n00:00:00,000 --> 00:00:04,000\n{\\an8}<i>a</i>\n\n2\n00:00:05,500 --> 00:00:09,000\nb\n",
        "1\n00:00:02,000 --> 00:00:04,000\na\n2\n00:00:05,500 --> 00:00:09,000\nb\n",
    ],
    ".jsonl": ['{"prompts": ["a", "b \\ud83d\\ude00", "c"]}\n'],
    ".json": [
        '{"prompts": [{"startTime": 0, "endTime": 4.25, "prompts": [{"text": "a", "weight": 100}]},\n'
        '\t{"startTime": 4.25, "endTime": 9e0, "transitionSteps": 4, "temporalInterpolationMethod": "slerp",'
        ' "prompts": [{"text": "b", "weight": 1}]}],\n "settings": {"seed": 42, "resolution": {"width": 512,'
        ' "height": 512}, "loras": []}, "version": "2.1"}',
        '{"0": "a swan --neg text", "60": "a \\"cat\\""}',
        '"0": "a swan",\n"24": "a cat",\n',
    ],
    ".csv": ['id,prompt_index,prompt\n0,0,"a, b"\n0,1,"c ""d"""\n0,2,e\n'],
    ".txt": ["a cat [4s: a dog] [6s-8s: a bird]\n", "[0s] a\n[5s] b\n", '"0": "a", "9": "b",'],
}
HOSTILE = [
    b"\x00", b"\x1b[2J", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\r", b"\n",
    b"\t",
    b": ", b"- ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!python/object:os.system ", b"---\n", b"...\n", b"<<: *a\n",
    b"? ", b"|\n", b">-\n", b"'", b'"', b"\\", b"%YAML 9.9\n", b"%", b"@", b"`", b"#", b",", b"-->", b"NOTE causvid ",
    b"1e999999999", b"9" * 400, b"-1", b"nan", b"0x7", b"1:99", b"at: 0\n", b"loop: 99999\n", b"version: 2\n",
    b"\\ud800",
    "\u0661".encode(), b"x" * 3000, b"length: 0.0001s\n", b"blend: 3s\n",
]  # fmt: skip


def mutated(rng: random.Random, content: bytes) -> bytes:
    """The content with a few things broken."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 2, 5, 30)))
        match rng.randrange(6):
            case 0:
                data[start:end] = b""
            case 1:
                data[start:start] = rng.choice(HOSTILE)
            case 2:
                data[start:end] = rng.randbytes(end - start)
            case 3:
                data[start:start] = data[start:end] * rng.choice((1, 2, 20))
            case 4:
                lines = data.split(b"\n")
                rng.shuffle(lines)
                data = bytearray(b"\n".join(lines))
            case 5:
                del data[start:]
    return bytes(data)


def survive(count: int, seed: int) -> int:
    """Read so many mutated scripts; whatever is read must be usable and can be written again. How many were read."""
    rng, good = random.Random(seed), 0
    for _ in range(count):
        kind = rng.choice((".yaml", ".yaml", ".yaml", *SEEDS))
        content = mutated(rng, rng.choice(SEEDS[kind]).encode())
        try:
            text = decode(content, "a")
            script = read_script(text, name="a", kind=kind, switch="40,80" if kind in (".jsonl", ".csv") else None)
        except ScriptError as error:
            assert error.problems
            shown = render_all(error.problems)
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown), shown
            continue
        except UsageError:
            continue
        good += 1
        try:
            timeline(script, WAN, Fraction(16))
        except ScriptError:
            pass
        if kind not in (".jsonl", ".csv", ".json"):
            assert read_script(to_yaml(script)) == script
            to_vtt(script, Fraction(16))
    return good


def test_no_mutated_script_gets_past_our_errors():
    assert 20 < survive(400, seed=1) < 380


@pytest.mark.slow
def test_no_one_of_20000_mutated_scripts_gets_past_our_errors():
    assert 1000 < survive(20_000, seed=2) < 19_000


def problems_of(text: str, **options: object) -> list[str]:
    with pytest.raises(ScriptError) as error:
        read_script(text, name="a", **options)
    return [str(problem) for problem in error.value.problems]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("  - prompt: &x a cat", "3:13: &x names a value; anchors are not read"),
        ("  - prompt: a cat\n    name: *x", "4:11: \\*x stands for another value"),
        ("  - prompt: !!str a cat", "3:13: tag:yaml.org,2002:str is a tag"),
        ("  - prompt: !!python/object/apply:os.system [touch /tmp/x]", "is a tag"),
        ("  - prompt: a\n    prompt: b", r"4:5: 'prompt' is given twice \(first in line 3\)"),
        ("  - prompt: a\n    <<: b", "4:5: unknown field '<<'"),
        ("  - prompt: a\n---\nversion: 1", "4:1: a second document begins here"),
        ("  - prompt: a\x00b\x07", r"3:14: control character \\x00"),
        ("  - prompt: a\x85b", r"3:14: control character \\x85"),
        ('  - prompt: "a\\x1b[2Jb"', r"3:13: prompt holds a control character, \\x1b"),
        ("  - {prompt: a, x-a: [[[b]]]}", "3:23: nested more than 4 deep"),
        ("  - ? [a, b]\n    : c", "3:7: a field's name must be a word"),
        ("  - prompt: [a]", "3:13: prompt must be text, not a list"),
        ("  - prompt: {a: b}", "3:13: prompt must be text, not fields"),
        ("\t- prompt: a", "3:1: a tab cannot indent; use spaces"),
        ("  - prompt: @a", "3:13: text that begins with @ must be quoted"),
        ("  - prompt: a: b", "3:14: text with ': ' in it must be quoted; quote the prompt"),
        ('  - prompt: "a', "3:13: a quotation mark is never closed"),
        ("  - {prompt: a", "3:5: { is not closed"),
        ('  - prompt: "\\q"', "3:14: .* means something else in double quotes; use single quotes"),
        ("  - prompt: a\n  at: 5s", "4:3: this line does not fit the list above"),
    ],
)
def test_what_yaml_can_and_a_script_may_not_is_refused_where_it_stands(line, complaint):
    said = problems_of(f"{HEAD}{line}\n")
    assert any(re.match(f"a:(?:.*){complaint}", text) for text in said), said


@pytest.mark.parametrize("text", ["no", "yes", "1:30", "010", "0x10", "~", "null", "1e3", "2001-01-01", ".inf", "="])
def test_values_that_yaml_takes_for_something_else_stay_text(text):
    assert read_script(f"{HEAD}  - prompt: {text}\n").cues[0].prompt == text


def test_trap_times_mean_what_they_look_like():
    script = read_script(f"{HEAD}  - prompt: a\n  - {{at: 1:30, prompt: b, seed: 010}}\n")
    assert script.cues[1].at.number == 90
    assert script.cues[1].seed == 10


def test_line_ends_and_byte_order_mark_change_nothing():
    text = SEEDS[".yaml"][0]
    wanted = read_script(text)
    for other in (text.replace("\n", "\r\n"), text.replace("\n", "\r"), "\ufeff" + text):
        assert read_script(other) == wanted
    assert decode(b"\xef\xbb\xbf" + text.encode(), "a") == text


def test_nesting_is_refused_at_once_however_deep():
    for text in ("[" * 200_000, "{a: " * 200_000, "- " * 200_000, "{" * 200_000):
        assert any("nested more than 4 deep" in said or "not closed" in said for said in problems_of(text))
    for text in ("[" * 200_000, '{"a":' * 200_000):
        assert problems_of(text, kind=".json")


def test_a_line_of_8_mib_is_named_in_short_lines():
    text = f"{HEAD}  - prompt: {'x' * (MOST_BYTES - 100)}\n"
    with pytest.raises(ScriptError) as error:
        read_script(text)
    (problem,) = error.value.problems
    assert "20000 are the most" in problem.message
    assert len(problem.excerpt) <= WIDEST + 6
    assert all(len(line) < 300 for line in problem.lines())


def test_more_than_8_mib_and_other_encodings_are_refused(tmp_path):
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(UsageError, match="more than 8 MiB"):
        load_source(big)
    other = tmp_path / "other.yaml"
    other.write_bytes("version: 1\nstyle: é".encode("latin-1"))
    with pytest.raises(UsageError, match=r"other\.yaml:2:8: not UTF-8 text; save it as UTF-8"):
        read_script(other)
    other.write_bytes("version: 1".encode("utf-16"))
    with pytest.raises(UsageError, match=r"not UTF-8 text \(UTF-16\?\)"):
        read_script(other)
    for path, complaint in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "is a directory"), ("a\0b", "null")):
        with pytest.raises(UsageError, match=complaint):
            read_script(Path(path))


def test_too_many_cues_and_too_many_problems_are_bounded():
    assert "more than 100000 in one list" in problems_of(f"version: 1\ncues: [{'a,' * 200_000}]")[-1]
    with pytest.raises(ScriptError) as error:
        read_script(f"version: 1\n{''.join(f'k{n}: 1{chr(10)}' for n in range(5000))}")
    assert len(error.value.problems) == MOST_PROBLEMS
    assert error.value.more >= 4000


@pytest.mark.slow
def test_100000_cues_are_read_in_bounded_memory():
    lines = (f"  - at: {2 * n}f\n    prompt: a red car number {n} moves left\n" for n in range(1, 100_000))
    text = f"{HEAD}  - prompt: a\n{''.join(lines)}"
    gc.collect()
    tracemalloc.start()
    script = read_script(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(script.cues) == 100_000
    assert peak < 260e6


def test_what_a_problem_shows_cannot_command_a_terminal():
    said = "\n".join(
        line
        for text in ("\x1b]0;x\x07: 1", "\u202egnp.exe: 1", "a\u2066b: 1", "ver\u200fsion: 1", "\x9b31m: 1")
        for problem in pytest.raises(ScriptError, read_script, f"version: 1\n{text}\n").value.problems
        for line in problem.lines()
    )
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200f\u202e\u2066]", said)
    assert "\\x1b" in said and "\\u202e" in said


def test_the_caret_stands_below_wide_letters():
    (problem,) = pytest.raises(
        ScriptError, read_script, f"{HEAD}  - {{name: 漢字, prompt: a, sed: 1}}\n"
    ).value.problems
    said, line, caret = problem.lines()
    assert said.startswith("script:3:27: unknown field 'sed'")
    assert line == "    - {name: 漢字, prompt: a, sed: 1}"
    assert caret.index("^") == line.index("sed") + 2  # two letters are two cells wide each


def test_the_parser_in_python_reads_the_same(monkeypatch):
    wanted = [read_script(text) for text in SEEDS[".yaml"]]
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert [read_script(text) for text in SEEDS[".yaml"]] == wanted
