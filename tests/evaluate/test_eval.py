import importlib.util
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch
from tiny import SHAPE, tiny_codec, tiny_facts, tiny_pack, tiny_transformer
from typer.testing import CliRunner, Result

from causvid_cli import storybook
from causvid_cli.cli.app import app
from causvid_cli.cli.eval import choose_prompts
from causvid_cli.config import load_facts
from causvid_cli.errors import UsageError
from causvid_cli.evaluate import figures, vbench
from causvid_cli.evaluate.clip_sources import EvalClip, student_maker
from causvid_cli.evaluate.config import EvalRequest
from causvid_cli.evaluate.judge import Judge
from causvid_cli.evaluate.page import page as html_page
from causvid_cli.evaluate.page_charts import Series, curves_chart, following_chart
from causvid_cli.evaluate.prompts import built_in_prompts, read_prompts
from causvid_cli.evaluate.results_folder import CLIPS, FIGURES, PAGE, SETTINGS, Folder
from causvid_cli.evaluate.run import open_evaluation, takes_of
from causvid_cli.pipeline import load
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import FIRST_WORDS
from causvid_cli.train.export import export_pack

PROMPT = "a red car moves left in the snow"


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """A tiny pack with a teacher and a judge, all random."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("packs") / "tiny"
    export_pack(
        folder,
        tiny_facts(teacher_steps=2),
        student=tiny_transformer(seed=1),
        teacher=tiny_transformer(seed=2),
        codec=tiny_codec(),
        text=StoryText.for_vocabulary(dim=SHAPE.text_dim),
        judge=Judge(FIRST_WORDS, width=4),
    )
    return folder


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(pack: Path, *arguments: object) -> Result:
    environment = {"NO_COLOR": "1", "CAUSVID_DEBUG": None}
    return CliRunner(env=environment).invoke(app, ["eval", "--model", str(pack), *map(str, arguments)])


def fails(result: Result, code: int, complaint: str) -> None:
    assert result.exit_code == code, result.output
    assert re.fullmatch(r"causvid: [^\n]+\n", result.stderr), result.stderr
    assert complaint in result.stderr
    assert result.stdout == ""


def prompts(*lines: str) -> Path:
    path = Path("prompts.txt")
    path.write_text("\n".join(lines) + "\n")
    return path


# --- what is asked -------------------------------------------------------------------------------------------------


def test_the_built_in_set_is_held_out_and_always_the_same():
    asked = built_in_prompts()
    assert len(asked) == 200
    assert built_in_prompts(7) == asked[:7]
    assert all(storybook.held_out(storybook.parse(prompt).story) for prompt in asked)
    seen = built_in_prompts(20, held_out=False)
    assert not any(storybook.held_out(storybook.parse(prompt).story) for prompt in seen)


def test_prompts_are_read_from_lines_and_from_json(work):
    assert read_prompts(prompts("# mine", "", f"  {PROMPT} ", "a cat")) == (PROMPT, "a cat")
    (work / "prompts.json").write_text(json.dumps([PROMPT, "# no comment"]))
    assert read_prompts(Path("prompts.json")) == (PROMPT, "# no comment")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.txt", b"", "--prompts empty.txt: holds no prompt; write one a line"),
        ("comments.txt", b"# a\n\n", "holds no prompt"),
        ("none.txt", None, "--prompts none.txt: cannot be read: no such file or directory"),
        ("latin.txt", b"caf\xe9\n", "is not UTF-8 text"),
        ("long.txt", b"a cat\n" + b"x" * 20_001, "line 2: the prompt has 20001 characters"),
        ("bad.json", b"[", "not JSON"),
        ("object.json", b"{}", "must be a list of texts"),
        ("numbers.json", b"[1]", "must be a list of texts"),
        ("blank.json", b'["a", " "]', "entry 2: the prompt is empty"),
    ],
)
def test_what_is_wrong_with_a_file_of_prompts_is_said(pack, work, name, content, complaint):
    if content is not None:
        (work / name).write_bytes(content)
    fails(run(pack, "--prompts", name), 2, complaint)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--count", "201"), 2, "--count': must be less than or equal to 200"),
        (("--count", "0"), 2, "must be greater than or equal to 1"),
        (("--seeds", "17"), 2, "--seeds': must be less than or equal to 16"),
        (("--prompts", "prompts.txt", "--count", "5"), 2, "--count chooses among the built-in prompts"),
        (("--prompts", "prompts.txt", "--seen"), 2, "--seen chooses among the built-in prompts"),
        (("--length", "soon"), 2, "--length 'soon' is not a length"),
        (("--seed", "x"), 2, "--seed 'x' is not a whole number"),
        (("--device", "gpu"), 2, "--device gpu: unknown"),
        (("--model", "nope"), 4, "no model 'nope'"),
        (("--vbench",), 2, "--vbench: the package vbench is not installed"),
    ],
)
def test_a_bad_request_ends_before_anything_starts(pack, work, monkeypatch, arguments, code, complaint):
    monkeypatch.setattr(vbench, "find_spec", lambda name: None)
    monkeypatch.delattr("causvid_cli.cli.eval.carry_out")
    prompts(PROMPT)
    fails(run(pack, *arguments), code, complaint)
    assert not list(work.glob("eval-*"))


def test_a_model_of_another_world_has_seen_nothing_of_the_storybook():
    facts = tiny_facts(text="umt5", codec="wan")
    assert choose_prompts(facts, None, count=3, seen=False) == {"built_in": built_in_prompts(3)}
    with pytest.raises(UsageError, match="--seen: tiny was not trained on the storybook"):
        choose_prompts(facts, None, count=None, seen=True)


# --- a whole run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(pack, tmp_path_factory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("out") / "eval"
    return out, run(pack, "--count", 2, "--seen", "--seeds", 2, "--length", "33f", "--teacher", "--out", out, "--json")


def test_json_is_one_object_of_documented_figures(pack, evaluated):
    out, done = evaluated
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((out / FIGURES).read_text())
    assert (result["v"], result["model"], result["frames"], result["fps"]) == (1, "tiny", 33, 8.0)
    assert result["prompts"] == {"held_out": 2, "seen": 2}
    assert list(result["scores"]) == ["student", "teacher", "rendered"]
    for groups in result["scores"].values():
        assert list(groups) == ["held_out", "seen"]
        for scores in groups.values():
            assert scores["clips"] == 4
            assert {"subject", "colour", "scene", "action", "all"} <= scores["follows"].keys()
            assert set(scores["follows_at_end"]) == {"subject", "colour", "scene", "action", "all"}
            for name, share in scores["follows"].items():
                low, high = scores["follows_range"][name]
                assert 0 <= low <= share <= high <= 1
            assert all(0 <= scores[name] <= 1 for name in ("consistency", "diversity"))
            assert scores["judged_diversity"] >= -1e-6 and scores["judged_consistency"] <= 1 + 1e-6
            assert scores["jump_ratio"] > 0
            assert {len(curve) for curve in scores["curves"].values()} == {5}
            assert all(drift["change"] >= 0 for drift in scores["drift"].values())
    assert result["scores"]["student"]["seen"]["diversity"] > 0.01  # noise differs from seed to seed


class Links(HTMLParser):
    """What a page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]
        assert tag not in ("script", "link", "iframe")


def test_the_page_asks_for_nothing_from_outside(evaluated):
    text = (evaluated[0] / PAGE).read_text()
    page = Links()
    page.feed(text)
    assert len(page.found) == 2 * 2 * 3  # prompts of two groups, by three makers
    assert all(link.startswith("data:image/png;base64,") for link in page.found)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    for prompt in built_in_prompts(2):
        assert prompt in text


HOSTILE = "a car '\"><script src=//a.b></script><img onerror=alert(1)> {{ 7 * 7 }} {% raw %} &lt; $\\frac{ \u5bff"


class Texts(Links):
    """What a page asks for, what it says, and the descriptions of its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.described: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attributes)
        assert not any(name.startswith("on") for name, _ in attributes)
        self.described += [value or "" for name, value in attributes if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_a_page_says_what_it_is_given_and_does_nothing_else(evaluated):
    """Names, prompts and words that look like HTML, a template or a formula."""
    out, _ = evaluated
    result = json.loads((out / FIGURES).read_text())
    records = [json.loads(line) | {"prompt": HOSTILE} for line in (out / CLIPS).read_text().splitlines()]
    result |= {
        "model": HOSTILE,
        "notes": [HOSTILE],
        "device": HOSTILE,
        "prompts": {"seen": 2, "held_out": 2, HOSTILE: 1},
    }
    for groups in result["scores"].values():
        groups[HOSTILE] = groups["seen"] | {"confusions": [["subject", HOSTILE, HOSTILE, 1]], "misread": 0}
    for record in records:
        if "judged" in record:
            record["judged"] = dict.fromkeys(record["judged"], HOSTILE)
    page = Texts()
    page.feed(html_page(result, records, Folder(out, {}, overwrite=True)))
    assert all(link.startswith("data:image/png;base64,") for link in page.found)
    described = [f"{record['maker']}: {HOSTILE}" for record in records if record["take"] == 0]
    assert sorted(page.described) == sorted(described)
    said = "".join(page.said)
    assert said.count(HOSTILE) > 20, said
    for told in (
        f"{HOSTILE}: causvid eval",
        f"on {HOSTILE} in float32",
        f"judged subject: {HOSTILE}",
        f"{HOSTILE} --seed",
    ):
        assert told in said


def test_the_table_is_for_people(pack):
    done = run(pack, "--count", 1, "--length", "4f", "--out", "short")
    assert done.exit_code == 0, done.output
    headline, header, *lines = done.stdout.splitlines()
    assert headline == "tiny: 1 prompt, 4 frames (4f) a clip, on cpu in float32"
    assert header.split() == ["student", "rendered"]
    assert [line.split("  ")[0] for line in lines[:3]] == ["clips", "pixels as drawn", "temporal consistency"]
    assert "the judge looks at 32 frames: prompt following is not measured of shorter clips" in lines
    assert "diversity is measured with --seeds 2 or more" in lines
    assert done.stderr == f"causvid: plots and pictures: short/{PAGE}\n"


def test_a_pack_without_judge_and_teacher_says_so_and_is_measured(work):
    plain = tiny_pack(work / "plain", teacher=None)
    done = run(plain, "--count", 1, "--length", "4f", "--teacher", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["notes"] == ["tiny comes without a judge: prompt following is not measured"]
    assert result["scores"]["student"]["held_out"]["follows"] is None
    assert "tiny comes without its teacher: only the student is measured" in done.stderr
    assert (work / "eval-tiny" / PAGE).is_file()


def test_prompts_of_ones_own_are_judged_by_how_they_are_read(pack):
    done = run(pack, "--prompts", prompts(PROMPT, "a blorgish car", "the snow"), "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    scores = json.loads(done.stdout)["scores"]["rendered"]["prompts"]
    records = [json.loads(line) for line in Path("eval-tiny", CLIPS).read_text().splitlines()]
    assert [bool(record["notes"]) for record in records[:3]] == [False, True, False]
    assert [record["asked"]["subject"] for record in records[:2]] == ["car", "car"]
    assert "asked" not in records[2]  # a bare scene
    assert scores["clips"] == 3
    assert scores["misread"] == 1
    assert "1 of 3 prompts have words that the model does not know" in figures.footnotes(json.loads(done.stdout))[0]


# --- the same clips, whatever happens ------------------------------------------------------------------------------


def test_a_clip_is_what_t2v_makes_of_its_prompt_and_seed(pack):
    student = load(pack, device="cpu")
    facts = load_facts(pack)
    request = EvalRequest(pack=pack, facts=facts, prompts={"prompts": (PROMPT, "a cat jumps")}, seeds=2, seed=5)
    evaluation = open_evaluation(request)
    clips: list[EvalClip] = [*takes_of(evaluation, "prompts", 0), *takes_of(evaluation, "prompts", 1)]
    assert [clip.seed for clip in clips] == [5, 6, 7, 8]
    made = np.concatenate([part.frames for part in student_maker(student)(clips, 10)], axis=1)
    for clip, frames in zip(clips, made, strict=True):
        alone = student.generate(clip.prompt, length="10f", seed=clip.seed, size=(64, 64))
        assert frames.shape == alone.shape
        assert (frames == alone).mean() > 0.999  # sums are rounded otherwise in a batch


def test_a_run_that_was_stopped_goes_on_to_the_same_figures(pack, monkeypatch):
    monkeypatch.setattr("causvid_cli.evaluate.run.MOST_CLIPS", 2)
    arguments = ("--count", 2, "--length", "8f", "--seeds", 2, "--out")
    whole = run(pack, *arguments, "whole", "--json")
    assert whole.exit_code == 0, whole.output

    append, kept = Folder.append, []

    def stopping(folder: Folder, records: list) -> None:
        append(folder, records)
        kept.append(len(records))
        raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "append", stopping)
    stopped = run(pack, *arguments, "broken")
    assert stopped.exit_code == 130
    assert stopped.stderr == "causvid: stopped; the same command goes on from what is in broken\n"
    monkeypatch.setattr(Folder, "append", lambda folder, records: kept.append(len(records)) or append(folder, records))
    path = Path("broken", CLIPS)
    path.write_text(path.read_text() + '{"torn": ')
    done = run(pack, *arguments, "broken", "--json")
    assert done.exit_code == 0, done.output
    assert done.stdout == whole.stdout
    assert kept == [2] * 4  # of two prompts by two makers, one at a time


def test_an_evaluation_is_not_overwritten_unasked(pack, work):
    arguments = ("--count", 1, "--length", "4f")
    assert run(pack, *arguments).exit_code == 0
    fails(run(pack, *arguments), 7, "--out eval-tiny holds a finished evaluation; -y replaces it")
    Path("eval-tiny", FIGURES).unlink()
    fails(run(pack, *arguments, "--seed", 1), 7, "holds an unfinished evaluation with another seed")
    done = run(pack, *arguments, "--seed", 1, "-y", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(Path("eval-tiny", SETTINGS).read_text())["seed"] == 1

    Path("mine").mkdir()
    Path("mine", "thesis.txt").write_text("all of it")
    fails(run(pack, *arguments, "--out", "mine", "-y"), 7, "--out mine holds other things than an evaluation")
    assert Path("mine", "thesis.txt").read_text() == "all of it"
    fails(run(pack, *arguments, "--out", "mine/thesis.txt"), 7, "is not a folder")
    fails(run(pack, *arguments, "--out", "mine/thesis.txt/eval"), 7, "cannot be written: not a directory")


def test_nothing_is_replaced_by_a_model_that_does_not_load(pack, work):
    arguments = ("--count", 1, "--length", "4f", "-y")
    copy = work / "copy"
    shutil.copytree(pack, copy)
    assert run(copy, *arguments).exit_code == 0
    before = Path("eval-tiny", FIGURES).read_text()
    (copy / "vae" / "config.json").write_text("{}")
    fails(run(copy, *arguments), 4, "vae/config.json")
    assert Path("eval-tiny", FIGURES).read_text() == before


def test_half_a_prompt_is_made_again(work):
    settings = {"seeds": 2}
    folder = Folder(work / "eval", settings, overwrite=False)
    folder.begin()
    whole = [{"maker": "student", "group": "seen", "number": 0, "take": take} for take in (0, 1)]
    folder.append([*whole, {**whole[0], "number": 1}])
    assert Folder(work / "eval", settings, overwrite=False).records(2) == whole
    assert len((work / "eval" / CLIPS).read_text().splitlines()) == 2


# --- videos and VBench ---------------------------------------------------------------------------------------------


def test_vbench_measures_each_makers_videos_and_makes_no_total(pack, work, monkeypatch):
    seen = []

    class VBench:
        def __init__(self, device: str, full_info: str, out: str) -> None:
            assert full_info.endswith("VBench_full_info.json")
            self.out = Path(out)
            self.out.mkdir(exist_ok=True)

        def evaluate(self, *, videos_path: str, name: str, dimension_list: list[str], mode: str) -> None:
            print("VBench says a lot")
            seen.append((name, mode, sorted(path.name for path in Path(videos_path).iterdir())))
            results = {dimension: [0.5, []] for dimension in dimension_list}
            (self.out / f"{name}_eval_results.json").write_text(json.dumps(results))

    module = ModuleType("vbench")
    module.__dict__.update(VBench=VBench, __file__=str(work / "__init__.py"))
    monkeypatch.setitem(sys.modules, "vbench", module)
    monkeypatch.setattr(vbench, "find_spec", lambda name: importlib.util.find_spec("json"))
    done = run(pack, "--count", 1, "--length", "8f", "--vbench", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    names = ["held_out-000-0.mp4"]
    assert seen == [("student", "custom_input", names), ("rendered", "custom_input", names)]
    assert result["vbench"] == {maker: dict.fromkeys(vbench.DIMENSIONS, 0.5) for maker in ("student", "rendered")}
    with av.open(str(work / "eval-tiny" / "clips" / "student" / names[0])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 128, 8)
        assert sum(1 for _ in video.decode(video=0)) == 8
        assert json.loads(video.metadata["comment"])["seed"] == 0
    table = {row[0]: row[1:] for row in figures.rows(result)}
    assert table["VBench motion smoothness"] == ["0.5000", "0.5000"]


# --- figures and plots ---------------------------------------------------------------------------------------------


STUDENT = Series("student", "student", False, {})


def record(number: int, *, asked: dict | None = None, judged: dict | None = None, **ends: float) -> dict:
    """A clip's record. ends: first and last of its brightness."""
    course = {"mean": 0.5, "first": 0.5, "last": 0.5, "curve": [0.5, 0.5]}
    courses = {name: dict(course) for name in figures.CURVES}
    courses["brightness"] |= ends
    said = {} if asked is None else {"asked": asked, "judged": judged}
    return {"number": number, "notes": [], "consistency": 0.9, "courses": courses, **said}


def test_the_range_of_a_share_is_wilsons():
    assert figures.interval(80, 100) == pytest.approx([0.7111, 0.8666], abs=1e-3)
    assert figures.interval(0, 10) == pytest.approx([0, 0.2775], abs=1e-3)
    assert figures.interval(10, 10)[1] == 1


def test_a_target_counts_only_where_one_was_asked():
    still, turning = {"subject": "cat", "target": None}, {"subject": "cat", "target": "dog"}
    scores = figures.scores_of(
        [
            record(0, asked=still, judged={"subject": "cat", "target": "dog"}),
            record(1, asked=turning, judged={"subject": "dog", "target": "dog"}),
            record(2, asked=turning, judged={"subject": "cat", "target": None}),
            record(3),
        ]
    )
    assert scores["follows"] == {"subject": pytest.approx(2 / 3), "target": 0.5, "all": pytest.approx(1 / 3)}
    assert scores["confusions"] == [["subject", "cat", "dog", 1], ["target", "dog", None, 1]]


def test_drifts_in_both_directions_do_not_cancel():
    scores = figures.scores_of([record(0, first=0.4, last=0.6), record(1, first=0.6, last=0.4)])
    assert scores["drift"]["brightness"] == {"first": 0.5, "last": 0.5, "change": pytest.approx(0.2)}


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.123, 0.1234], ["12.2", "12.3", "12.4"]),
        ([0.5, 0.5], ["49.6", "50.0", "50.4"]),
        ([0.0, 0.0], ["0.00", "0.10", "0.20"]),
        ([0.1, 0.9], ["20", "80"]),
    ],
)
def test_the_axis_of_a_chart_has_few_round_ticks_around_the_values(values, ticks):
    chart = curves_chart([(STUDENT, [0.5, 1.5], values)], across="time (s)", ends=(0, 2), in_percent=True)
    shown = re.findall("text-anchor: end[^>]*>([0-9.]+)</text>", chart)
    assert set(ticks) <= set(shown), shown
    assert 3 <= len(shown) <= 7
    assert ">time (s)</text>" in chart
    assert ">%</text>" in chart


def test_a_chart_leaves_out_what_is_not_known():
    values = [None, 0.5, 0.6]
    chart = curves_chart([(STUDENT, [0.5, 1.5, 2.5], values)], across="time (s)", ends=(0, 3), in_percent=True)
    assert len(re.findall('<use [^>]*style="fill: var\\(--blue\\)', chart)) == 2
    assert "nan" not in chart.lower()


def test_a_chart_has_only_the_colours_of_the_page_and_is_the_same_each_time():
    scores = {"follows": {"subject": 0.8, "all": 1}, "follows_range": {"subject": [0.7, 0.9], "all": [0.9, 1]}}
    series = [Series(label, "student", label == "b", scores) for label in "ab"]
    charts = [following_chart(series), following_chart(series)]
    assert charts[0] == charts[1]
    assert charts[0].count(">80.0 %</text>") == 2
    assert re.findall("#[0-9a-f]{6}", charts[0]) == []
    assert set(re.findall(r"var\(--(\w+)\)", charts[0])) == {"blue", "ink", "line", "soft"}
    assert "http" not in re.sub('xmlns(:xlink)?="[^"]*"', "", charts[0])


def test_a_full_disk_is_an_output_error(work, monkeypatch):
    folder = SimpleNamespace(path=work / "eval")
    with pytest.raises(Exception, match="--out .*eval: cannot be written: no space left on device"):
        with Folder.writing(folder):
            raise OSError(28, "No space left on device")
