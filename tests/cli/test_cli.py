import errno
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from commands import PROMPT, after_chunks, decode, fails, makes, names, raise_, run
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from causvid_cli import __version__, pipeline, video
from causvid_cli.cli import doctor, interrupts
from causvid_cli.cli.app import EXIT_CODES, SYNONYMS, app, guarded
from causvid_cli.cli.run import STOPPING
from causvid_cli.config import FACTS_FILE, load_facts
from causvid_cli.errors import ExitCode, MediaError
from causvid_cli.media.probe import read_info
from causvid_cli.models import packs
from causvid_cli.models.packs import write_pack_manifest
from causvid_cli.video import FragmentEncoder, VideoFormat

pytestmark = pytest.mark.usefixtures("work")

OURS = {"", "t2v", "info", "models list", "models show", "models verify", "models path", "doctor"}
"""Commands whose examples a test can run."""


@pytest.fixture
def storybook(tiny, tmp_path, monkeypatch) -> Path:
    """The tiny pack where the embedded model is looked for."""
    folder = tmp_path / "weights" / "storybook"
    shutil.copytree(tiny, folder)
    monkeypatch.setattr(packs, "pack_roots", lambda: [folder.parent])
    return folder


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command and group of the tree, by its path."""

    def walk(name: str, command) -> Iterator:
        yield name, command
        for child in getattr(command, "commands", {}).values():
            yield from walk(f"{name} {child.name}".strip(), child)

    yield from walk("", typer.main.get_command(app))


def example_lines(command) -> list[str]:
    return [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("causvid ")]


# --- help ----------------------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from causvid_cli.cli.app import app\n"
        "for args in (['--help'], ['t2v', '-h'], ['--version']):\n"
        "    try: app(args)\n"
        "    except SystemExit as end: assert end.code == 0, end.code\n"
        "sys.exit(', '.join({'torch', 'diffusers', 'av', 'numpy', 'rich'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_option_and_argument_has_help(name):
    command = dict(commands())[name]
    assert command.help
    assert all(param.help for param in command.params), [param.name for param in command.params if not param.help]
    shown = run(*name.split(), "-h")
    assert shown.exit_code == 0
    assert shown.stdout == run(*name.split(), "--help").stdout
    assert shown.stderr == ""
    assert len(example_lines(command)) >= 2
    written = [line for line in shown.stdout.splitlines() if not line.startswith("    causvid ")]
    assert max(map(len, written)) <= 80


def test_the_examples_run(storybook):
    for name, command in commands():
        for line in example_lines(command) if name in OURS else ():
            if "-o car.mp4" in line:
                Path("car.mp4").unlink(missing_ok=True)
            done = run(*shlex.split(line)[1:])
            assert done.exit_code == 0, (line, done.output)


def test_help_lists_every_exit_code():
    assert set(EXIT_CODES) == set(ExitCode)
    shown = run("--help").stdout
    assert all(re.search(rf"^ +{code.value}  {re.escape(text)}$", shown, re.M) for code, text in EXIT_CODES.items())


def test_a_group_without_a_command_shows_its_help():
    assert run().stdout == run("--help").stdout
    assert run("models").stdout == run("models", "-h").stdout


def test_help_explains_a_command_as_its_option_does():
    assert run("help").stdout == run("-h").stdout
    for command in ("t2v", "models", "models pull", "config set"):
        assert makes("help", *command.split()).stdout == run(*command.split(), "-h").stdout
    fails(run("help", "tv2"), 2, "help: no command 'tv2'; did you mean t2v?")
    fails(run("help", "models", "pul"), 2, "help: no command 'models pul'; did you mean pull?")
    fails(run("help", "t2v", "x"), 2, "help: no command 't2v x'")


def test_the_options_of_t2v():
    """A change here is a change for users: the changelog wants a line."""
    params = dict(commands())["t2v"].params
    assert [" ".join(param.opts) for param in params if param.param_type_name == "option"] == [
        "--then",
        "--talk",
        "--talk-prompt",
        "--talk-threshold",
        "--output -o",
        "--length",
        "--size",
        "--fps",
        "--interpolate",
        "--seed -s",
        "--steps",
        "--rope",
        "--negative -n",
        "--strict",
        "--guidance",
        "--transition",
        "--model -m",
        "--device",
        "--vae-device",
        "--dtype",
        "--vae",
        "--lora",
        "--quantize",
        "--offload",
        "--compile",
        "--attention",
        "--random-weights",
        "--threads",
        "--count",
        "--format",
        "--audio",
        "--audio-fit",
        "--lossless",
        "--no-metadata",
        "--sidecar",
        "--keep-latents",
        "--overwrite -y",
        "--skip-existing",
        "--dry-run",
        "--preview",
        "--progress",
        "--quiet -q",
        "--verbose -v",
        "--json",
        "--json-lines",
    ]


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("i2v", "then fit hold background"),
        ("extend", "then context fit tolerate-damage"),
        ("restyle", "then strength fit input-size input-fps tolerate-damage"),
        ("edit-script", "check to schema upgrade switch row fit hold context"),
    ],
)
def test_the_options_of_the_others_are_those_and_their_own(command, own):
    tree = dict(commands())
    options = {
        name: [param.opts[0] for param in tree[name].params if param.param_type_name == "option"]
        for name in ("t2v", command)
    }
    assert [name for name in options[command] if name == "--then" or name not in options["t2v"]] == [
        f"--{name}" for name in own.split()
    ]
    assert set(options["t2v"]) - set(options[command]) <= {"--then", "--talk", "--talk-prompt", "--talk-threshold"}


def test_every_command_that_computes_takes_a_number_of_threads():
    takes = {name for name, command in commands() if any("--threads" in param.opts for param in command.params)}
    assert takes == set("t2v i2v extend restyle edit-script live batch resume rerun bench eval distill".split())


def test_a_long_help_has_sections_and_a_short_one_none():
    headings = [line for line in run("i2v", "-h").stdout.splitlines() if re.fullmatch(r"\w+:", line)]
    assert headings == ["Arguments:", "Input:", "Video:", "Model:", "Output:", "Running:"]
    assert [line for line in run("info", "-h").stdout.splitlines() if re.fullmatch(r"\w+:", line)] == [
        "Arguments:",
        "Options:",
    ]


def test_version():
    for command in (["causvid"], [sys.executable, "-m", "causvid_cli"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "--version"], capture_output=True, text=True)
            assert (done.returncode, done.stdout) == (0, f"causvid {__version__}\n")


# --- what cannot be carried out ------------------------------------------------------------------------------------


BAD_REQUESTS = {
    "empty prompt": ([""], 2, "the prompt is empty; say what to show"),
    "blank prompt": (["  \n\t "], 2, "the prompt is empty"),
    "huge prompt": (["car " * 250_000], 2, "the prompt has 999999 characters; 20000 are the most"),
    "prompt not quoted": (
        ["a", "red", "car"],
        2,
        r"unexpected .*\(red car\); put text with spaces in quotes; see causvid",
    ),
    "prompt file missing": (["@absent.txt"], 2, "@absent.txt: .* cannot be read: no such file"),
    "size no multiple": (["x", "--size", "200x200"], 2, "--size 200x200: .*; try 192x192 or 256x256"),
    "size not square": (["x", "--size", "128x64"], 2, "try 128x128 or 192x192"),
    "size abc": (["x", "--size", "abc"], 2, "--size 'abc' is not a size; write WIDTHxHEIGHT, such as 512x512"),
    "size zero": (["x", "--size", "0x0"], 2, "try 64x64 or 128x128"),
    "size vast": (["x", "--size", "64000x64000"], 2, "the longest side is 4096 pixels"),
    "length 0": (["x", "--length", "0"], 2, "--length 0: holds no frame"),
    "length -1": (["x", "--length", "-1"], 2, "--length -1: must be more than 0"),
    "length abc": (["x", "--length", "abc"], 2, "'abc' is not a length; write 5s, 250ms, 1:04.5 or 96f"),
    "length tiny": (["x", "--length", "0.01s"], 2, "holds no frame at 8 frames per second; try 0.125s or more"),
    "fps 0": (["x", "--fps", "0"], 2, "--fps 0: must be more than 0 and at most 240"),
    "fps abc": (["x", "--fps", "abc"], 2, "--fps 'abc' is not a frame rate; write 8, 29.97 or 30000/1001"),
    "seed -1": (["x", "--seed", "-1"], 2, "--seed -1: must be 0 to 9223372036854775807"),
    "seed huge": (["x", "-s", "9223372036854775808"], 2, "--seed 9223372036854775808: must be 0 to"),
    "seed abc": (["x", "-s", "abc"], 2, "--seed 'abc' is not a whole number"),
    "steps 0": (["x", "--steps", "0"], 2, "--steps 0: must be 1 to 1000; tiny was made for 2"),
    "model unknown": (["x", "-m", "storyboko"], 4, "no model 'storyboko'; known: storybook; did you mean storybook?"),
    "model no folder": (["x", "-m", "./absent"], 4, "no model './absent'; .* give the folder of a model pack"),
    "model no pack": (["x", "-m", "."], 4, "is not a model pack: it holds no causvid.json"),
    "device unknown": (["x", "--device", "gpu"], 2, "--device gpu: unknown; try auto, cpu, cuda"),
    "attention unknown": (["x", "--attention", "flsh"], 2, "or sage_varlen; did you mean flash?"),
    "dtype unknown": (["x", "--dtype", "int8"], 2, "--dtype int8: unknown; try auto, float32"),
    "output exists": (["x", "-o", "taken.mp4"], 7, "taken.mp4 exists; -y overwrites it, or choose another -o"),
    "output in no folder": (["x", "-o", "no/x.mp4"], 7, "folder no does not exist; create it with mkdir -p no"),
    "output a folder": (["x", "-o", "folder"], 7, "folder is a folder; .*folder/video.mp4"),
    "output here": (["x", "-o", "."], 7, "[.] is a folder; try -o ./video.mp4 or ./%05d.png"),
    "output the root": (["x", "-o", "/"], 7, "/ is a folder; try -o /video.mp4"),
    "output an address": (["x", "-o", "rtmp://a.b/c.mp4"], 7, "rtmp://a.b/c.mp4 is an address, and only files are"),
    "output above": (["x", "-o", "no/.."], 7, "no/.. is a folder; try -o no/../video.mp4"),
    "output a new folder": (["x", "-o", "frames/"], 7, "try -o frames/video.mp4 or frames/%05d.png"),
    "output avi": (["x", "-o", "x.avi"], 7, "x.avi: .avi cannot be written; try .mp4, .*frames/%05d.png"),
    "output without a format": (["x", "-o", "video"], 7, "its name says no format; try -o video.mp4"),
    "output empty": (["x", "-o", ""], 2, "-o '': an empty name; try -o video.mp4"),
    "output field unknown": (["x", "-o", "{cat}.mp4"], 2, "unknown field {cat}; known: {slug}, {seed}, {n}, {model}"),
    "output field unnamed": (["x", "-o", "{}.mp4"], 2, "unknown field {}; known: {slug}"),
    "output brace alone": (["x", "-o", "a{b.mp4"], 2, "a brace without its pair; write {{ for one of the name"),
    "output field vast": (["x", "-o", "{n:999999999}.mp4"], 2, "only {n:03} and {seed:010} and such"),
    "output field padded": (["x", "-o", "{slug:90}.mp4"], 2, "only {n:03} and {seed:010} and such"),
    "output fast gif": (["x", "-o", "x.gif", "--fps", "60"], 2, "a GIF shows at most 50 frames per second, not 60"),
    "output lossy": (["x", "-o", "x.mp4", "--lossless"], 2, "--lossless: .mp4 loses some .*; try -o x.mkv"),
    "pictures unnumbered": (["x", "-o", "x.png"], 7, "no place for the number of a frame; try -o %05d.png"),
    "format unknown": (["x", "-o", "-", "--format", "avi"], 2, "--format avi: unknown; try mp4, mkv, nut, rawvideo or"),
    "format lossy": (
        ["x", "-o", "-", "--lossless"],
        2,
        "mp4 loses some of every picture; try --format mkv, nut or raw",
    ),
    "format of a file": (["x", "--format", "mkv"], 2, "--format and a file: its name says what it is"),
    "count 0": (["x", "--count", "0"], 2, "'--count': must be greater than or equal to 1"),
    "count on one name": (["x", "--count", "2", "-o", "x.mp4"], 2, "2 videos need names of their own; put {seed} or"),
    "count to stdout": (["x", "--count", "2", "-o", "-"], 2, "--count 2 and -o -: one video at a time goes there"),
    "count past the last seed": (["x", "--count", "2", "-s", str(2**63 - 1)], 2, "the last seed would be larger than"),
    "json to stdout": (["x", "--json", "-o", "-"], 2, "--json and -o -: the video itself goes to stdout"),
    "sidecar of stdout": (["x", "--sidecar", "-o", "-"], 2, "--sidecar and -o -: it lies beside a file"),
    "both kinds of json": (["x", "--json", "--json-lines"], 2, "--json and --json-lines: choose one"),
    "replace and skip": (["x", "-y", "--skip-existing"], 2, "-y and --skip-existing: choose one"),
    "rope": (["x", "--rope", "up"], 2, "--rope up: unknown; try relative or absolute"),
    "guidance nan": (["x", "--guidance", "nan"], 2, "--guidance nan: must be 1 to 20"),
    "transition unknown": (["x", "--transition", "fade"], 2, "--transition fade: unknown; try recache, soft or cut"),
    "progress unknown": (["x", "--progress", "dots"], 2, "--progress dots: unknown; try auto, bar, plain or none"),
    "prompt a folder": (["@folder"], 2, "@folder: the file with the prompt cannot be read: is a directory"),
    "output a device": (["x", "-o", "/dev/null"], 7, "/dev/null is a device"),
    "output long": (["x", "-o", "x" * 300 + ".mp4"], 7, "bytes too long; choose a shorter -o"),
    "option unknown": (
        ["x", "--lenght", "5s"],
        2,
        r"no such option: --lenght; did you mean --length\?; see causvid t2v",
    ),
    "value missing": (["x", "--seed"], 2, "option '--seed' requires an argument; see causvid t2v -h"),
}


@pytest.mark.parametrize(("arguments", "code", "complaint"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_ends_before_the_model_loads(arguments, code, complaint, storybook, work, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    Path("taken.mp4").write_bytes(b"mine")
    Path("folder").mkdir()
    fails(run("t2v", *arguments), code, complaint)
    assert sorted(path.name for path in work.iterdir()) == ["folder", "taken.mp4"]
    assert Path("taken.mp4").read_bytes() == b"mine"


def test_a_bad_request_ends_before_torch_is_imported(tiny):
    code = (
        "import json, sys; from causvid_cli.cli.app import app\n"
        "for args, code in json.loads(sys.argv[1]):\n"
        "    try: app(['t2v', *args])\n"
        "    except SystemExit as end: assert end.code == code, (args, end.code)\n"
        "sys.exit(', '.join({'torch', 'diffusers'} & set(sys.modules)) or 0)"
    )
    os.mkdir("folder")
    Path("taken.mp4").touch()
    requests = [
        ([*arguments, *([] if "-m" in arguments else ["-m", str(tiny)])], code)
        for arguments, code, _ in BAD_REQUESTS.values()
        if len(str(arguments)) < 10_000
    ]
    command = [sys.executable, "-c", code, json.dumps(requests)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")  # a video, if all goes wrong
    assert (done.returncode, done.stderr.count("\n")) == (0, len(requests)), done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_a_device_that_is_absent_is_found_before_the_model_is_read(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    fails(run("t2v", PROMPT, "-m", tiny, "--device", "cuda"), 5, "no CUDA device; try --device cpu")
    fails(run("t2v", PROMPT, "-m", tiny, "--device", "cuda:3"), 5, "no CUDA device")
    fails(run("t2v", PROMPT, "-m", tiny, "--dtype", "float16"), 5, "float16 does not run on a CPU; try float32")
    assert list(Path().iterdir()) == []


def truncate(pack: Path) -> None:
    file = pack / "transformer/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def flip_a_byte(pack: Path) -> None:
    file = pack / "vae/diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def lose_a_file(pack: Path) -> None:
    (pack / "text_encoder/config.json").unlink()


def change_the_architecture(pack: Path) -> None:
    config = pack / "transformer/config.json"
    config.write_text(config.read_text().replace("WanTransformer3DModel", "FluxTransformer2DModel"))
    write_pack_manifest(pack, load_facts(pack))


def rename_a_tensor(pack: Path) -> None:
    file = pack / "transformer/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["blocks.0.attn9.to_q.weight"] = state.pop("blocks.0.attn1.to_q.weight")
    save_file(state, file)
    write_pack_manifest(pack, load_facts(pack))


def spoil_a_weight(pack: Path) -> None:
    file = pack / "transformer/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["proj_out.bias"][0] = torch.nan
    save_file(state, file)
    write_pack_manifest(pack, load_facts(pack))


def misspell_a_fact(pack: Path) -> None:
    facts = pack / FACTS_FILE
    facts.write_text(facts.read_text().replace('"sink_frames"', '"sink_frame"'))


def write_no_json(pack: Path) -> None:
    (pack / FACTS_FILE).write_text("{")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            truncate,
            "transformer/diffusion_pytorch_model.safetensors is damaged: .* bytes instead of .*; get tiny again",
        ),
        (flip_a_byte, "vae/diffusion_pytorch_model.safetensors is damaged: sha256 .*; get tiny again from"),
        (lose_a_file, "text_encoder/config.json is missing"),
        (change_the_architecture, "_class_name: 'FluxTransformer2DModel' instead of 'WanTransformer3DModel'"),
        (rename_a_tensor, r"1 missing \(blocks.0.attn1.to_q.weight\); 1 unexpected \(blocks.0.attn9.to_q.weight\)"),
        (spoil_a_weight, r"1 not finite \(proj_out.bias\); the weights are unusable"),
        (misspell_a_fact, r"sink_frame: unknown; did you mean sink_frames\?"),
        (write_no_json, "causvid.json: not JSON"),
    ],
)
def test_a_damaged_model_is_named_and_nothing_is_written(damage, complaint, tiny, tmp_path, work):
    pack = tmp_path / "pack"
    shutil.copytree(tiny, pack)
    damage(pack)
    fails(run("t2v", PROMPT, "-m", pack), 4, complaint)
    assert list(work.iterdir()) == []


def test_an_unknown_command_names_the_near_one():
    fails(run("tv2"), 2, r"no such command 'tv2'; did you mean t2v\?; see causvid -h")
    fails(run("a red car"), 2, r"no such command 'a red car'; did you mean causvid t2v 'a red car'\?; see causvid -h")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("t2v", "x", "--num_frames", "81"), r"no such option: --num_frames; did you mean --length 5s \(or 81f"),
        (("t2v", "x", "--width", "64"), r"--width; did you mean --size WxH\?; see causvid t2v -h"),
        (("t2v", "x", "--bogus"), "no such option: --bogus; see causvid t2v -h"),
        (("resume", "x.mp4", "--duration", "5"), "no such option: --duration; .*see causvid resume -h"),
        (("t2v", "x", "--version"), r"did you mean causvid --version\?"),
        (("generate", "x"), r"did you mean causvid t2v\?"),
        (("models", "download", "x"), r"did you mean causvid models pull\?"),
        (("config", "list"), r"no such command 'list'; see causvid config -h"),
    ],
)
def test_the_names_of_other_programs_lead_to_ours(arguments, complaint):
    result = run(*arguments)
    fails(result, 2, complaint)
    assert ("--length" in result.stderr) == ("--num_frames" in arguments)


def test_each_name_that_is_led_to_is_one_of_ours():
    made = {name for param in dict(commands())["t2v"].params for name in param.opts}
    for ours in {name for name in SYNONYMS.values() if name.startswith("--")}:
        assert ours.split()[0] in made, ours
    for ours in {name for name in SYNONYMS.values() if name.startswith("causvid ")} - {"causvid --version"}:
        assert run("help", *ours.split()[1:]).exit_code == 0, ours


def test_what_a_user_typed_cannot_command_the_terminal(tiny):
    result = run("t2v", "x", "-m", "\x1b[31mred\u202e\nmodel\x07")
    fails(result, 4, re.escape(r"\x1b[31mred\u202e\nmodel\x07"))
    result = run("t2v", "a \x1b]0;owned\x07car", "-m", tiny)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == r"PROMPT: prompt holds a control character, \x1b"
    result = run("t2v", PROMPT, "-m", tiny, "-q", "-o", "a\x1b[2J.mp4", "--length", "4f")
    assert result.exit_code == 0
    assert result.stdout == "a\x1b[2J.mp4\n"  # for a program, the name as it is
    made = FragmentEncoder(
        VideoFormat(width=64, height=64, fps=Fraction(1), metadata={"title": "a \x1b]0;owned\x07car"})
    )
    Path("b\x1b[2J.mp4").write_bytes(made.encode(np.zeros((3, 64, 64, 3), np.uint8)))
    for name in ("a\x1b[2J.mp4", "b\x1b[2J.mp4"):
        assert "\x1b" not in run("info", name).stdout


def test_an_endless_word_is_cut_from_the_complaint():
    result = run("t2v", "x", "--size", "9" * 100_000)
    fails(result, 2, "is not a size; write WIDTHxHEIGHT")
    assert len(result.stderr) < 1100


# --- faults while it runs ------------------------------------------------------------------------------------------


def check_kept(frames: int, name: str = "x.mp4") -> None:
    """Only the `.part`, which plays, and its journal are there."""
    assert names() == [f"{name}.journal", f"{name}.part"]
    part = Path(f"{name}.part")
    assert read_info(part).frames == frames
    assert len(decode(part)) == frames
    assert run("info", part).exit_code == 0


def test_a_model_that_fails_keeps_the_chunks_before(tiny, monkeypatch):
    real = pipeline.rollout

    def rollout(*arguments: object, **options: object) -> Iterator:
        for index, (chunk, x0) in enumerate(real(*arguments, **options)):
            yield chunk, x0 * torch.nan if index == 2 else x0

    monkeypatch.setattr(pipeline, "rollout", rollout)
    result = run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "-s", 7)
    fails(result, 6, r"chunk 2 is not finite \(seed 7\); .*; 8 of 40 frames are kept in x.mp4.part; `causvid resume")
    check_kept(8)


def test_a_model_that_fails_at_once_leaves_nothing(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(0, lambda: raise_(RuntimeError("out of luck"))))
    fails(run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4"), 1, "this is a bug, .*RuntimeError: out of luck")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 640 bytes. Error code 12"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 640 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 640 bytes. GPU 0 has ..."),
        MemoryError("Unable to allocate 640 bytes for an array"),
    ],
    ids=["linux", "windows", "cuda", "numpy"],
)
def test_too_little_memory_is_no_bug(error, tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(1, lambda: raise_(error)))
    result = run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4")
    fails(result, 5, r"out of memory \(640 bytes more were wanted\); .* smaller --size; 4 of 40 frames are kept in")
    check_kept(4)


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (RuntimeError("could not create a primitive"), "out of memory; close other programs"),  # oneDNN's word for it
        (RuntimeError("could not create a memory object"), "out of memory; close other programs"),
        (RuntimeError("std::bad_alloc"), "out of memory; close other programs"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open at once; .* ulimit -n 1024"),
        (OSError(errno.ENFILE, "Too many open files in system"), "too many files are open at once"),
        (ImportError("x.so: cannot open shared object file: Too many open files"), "too many files are open at once"),
    ],
    ids=str,
)
def test_what_a_process_lacks_is_no_bug(error, complaint, tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(1, lambda: raise_(error)))
    fails(run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4"), 5, complaint)
    check_kept(4)


def test_a_reader_that_may_open_no_more_files_is_not_taken_for_a_damaged_one():
    def read() -> None:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as error:
            raise MediaError("x.mp4: cannot be read as a video") from error

    assert guarded(read) == ExitCode.DEVICE


def test_a_bug_is_one_line_and_its_traceback_is_for_the_asking(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: raise_(ZeroDivisionError("division\nby zero")))
    arguments = ["t2v", PROMPT, "-m", str(tiny)]
    fails(run(*arguments), 1, "this is a bug, .*ZeroDivisionError: division by zero; CAUSVID_DEBUG=1 shows where")
    debugged = CliRunner(env={"CAUSVID_DEBUG": "1"}).invoke(app, arguments)
    assert debugged.exit_code == 1
    assert "Traceback" in debugged.stderr
    assert "in load_pipeline" in debugged.stderr
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: raise_(ZeroDivisionError("\x1b[31m")))
    debugged = CliRunner(env={"CAUSVID_DEBUG": "1"}).invoke(app, arguments)
    assert "\\x1b[31m" in debugged.stderr and "\x1b" not in debugged.stderr


def test_a_prompt_of_undecodable_bytes_is_called_so():
    result = run("t2v", "a red\udcff car")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "PROMPT: prompt is not UTF-8 text: it holds the byte 0xff"


@pytest.mark.parametrize("prompt", ["- a red car", "-a red car", "--a red car"])
def test_a_prompt_that_begins_with_a_dash_is_told_where_it_goes(prompt):
    fails(
        run("t2v", prompt), 2, f"no such option: .*a text that begins with a dash goes last, behind --: -- '{prompt}'"
    )
    assert run("t2v", "--dry-run", "--", prompt).exit_code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_after_the_chunk_at_work(number, code, tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(2, lambda: signal.raise_signal(number)))
    result = run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "-q")
    kept = "stopped; 12 of 40 frames are kept in x.partial.mp4; `causvid resume x.mp4.part` goes on"
    fails(result, code, f"^causvid: {kept}\n$")
    partial = Path("x.partial.mp4")
    assert (read_info(partial).frames, len(decode(partial))) == (12, 12)
    partial.unlink()
    check_kept(12)


def test_a_second_signal_ends_it_at_once(tiny, monkeypatch):
    twice = [signal.SIGTERM, signal.SIGINT]
    monkeypatch.setattr(pipeline, "rollout", after_chunks(2, lambda: [*map(signal.raise_signal, twice)]))
    fails(run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "-q"), 130, "stopped; 8 of 40 frames are kept")
    check_kept(8)


def test_a_signal_while_the_model_loads_ends_it_at_once(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    fails(run("t2v", PROMPT, "-m", tiny), 143, "^causvid: stopped\n$")
    assert list(Path().iterdir()) == []


def test_a_signal_in_the_last_chunk_still_publishes(tiny, monkeypatch):
    monkeypatch.setattr(pipeline, "rollout", after_chunks(9, lambda: signal.raise_signal(signal.SIGINT)))
    assert run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4").exit_code == 0
    assert read_info(Path("x.mp4")).frames == 40


def test_signals_are_as_they_were_afterwards(tiny):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run("t2v", PROMPT, "-m", tiny, "--length", "4f")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a script's `&` leave it
    try:
        with interrupts.interrupts.handled():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_real_process_that_is_stopped_leaves_what_plays(tiny):
    command = [sys.executable, "-m", "causvid_cli", "t2v", PROMPT, "-m", str(tiny), "-o", "x.mp4", "--length", "5h"]
    maker = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
    )
    try:
        part, patience = Path("x.mp4.part"), time.monotonic() + 300
        while not (part.exists() and part.stat().st_size > 20_000):
            assert maker.poll() is None, maker.stderr.read()
            assert time.monotonic() < patience
            time.sleep(0.02)
        maker.send_signal(signal.SIGINT)
        stdout, stderr = maker.communicate(timeout=300)
    finally:
        maker.kill()
    assert (maker.returncode, stdout) == (130, "")
    frames = read_info(part).frames
    assert read_info(Path("x.partial.mp4")).frames == frames
    Path("x.partial.mp4").unlink()
    check_kept(frames)
    kept = f"stopped; {frames} of 144000 frames are kept in x.partial.mp4"
    assert (
        stderr.removeprefix("causvid: read as: red car, moves left, snow\n")
        == f"causvid: {STOPPING}\ncausvid: {kept}; `causvid resume x.mp4.part` goes on\n"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["models", "list", "--json"]])
def test_a_reader_that_goes_away_is_no_error(arguments):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "causvid_cli", *arguments], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_stdout_that_is_full_is_an_error():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "causvid_cli", "--version"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (7, b"causvid: cannot write: no space left on device\n")


# --- progress ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [True, False])
def test_progress_on_a_terminal_is_a_bar_that_obeys_no_color(colour):
    code = (
        "import time; from causvid_cli.cli import console; from causvid_cli.cli.progress import show_progress\n"
        "with show_progress('loading [red]x', quiet=False) as progress:\n"
        "    progress.start(40); time.sleep(0.05); progress.update(20); console.message('a [red]note'); time.sleep(0.3)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100"} | ({} if colour else {"NO_COLOR": "1"})
    ours, theirs = pty.openpty()
    maker = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += (piece := os.read(ours, 65536))
        except OSError:  # how Linux ends a pty
            break
        if not piece:
            break
    os.close(ours)
    assert maker.wait() == 0
    assert re.search(rb"20 of 40 frames, [\d.e+]+ frames/s, \d+ s left", seen)
    assert b"causvid: a [red]note" in seen
    assert bool(re.search(rb"\x1b\[[\d;]*3[0-9]", seen)) is colour


# --- info, models, doctor ------------------------------------------------------------------------------------------


def test_info_is_a_table(tiny):
    run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4", "-s", 7, "--length", "1s")
    lines = run("info", "x.mp4").stdout.splitlines()
    rows = dict(re.split(" {2,}", line, maxsplit=1) for line in lines)
    assert rows["prompt"] == PROMPT
    assert (rows["seed"], rows["model"]) == ("7", "tiny")
    assert rows["size"] == "128x128"
    assert rows["frames"] == "8 at 8 per second, 1.000 s"
    assert rows["codec"] == "h264, yuv420p"
    assert rows["colour"].startswith("bt709 primaries, bt709 transfer, bt709 matrix")


def test_info_of_a_video_without_a_recipe_says_so():
    encoder = FragmentEncoder(VideoFormat(width=64, height=64, fps=Fraction(1)))
    Path("x.mp4").write_bytes(encoder.encode(np.zeros((3, 64, 64, 3), np.uint8)))
    result = run("info", "x.mp4")
    assert result.exit_code == 0
    assert re.search("^recipe +none: causvid did not make this file", result.stdout)
    assert re.search("^frames +3 at 1 per second", result.stdout, re.M)
    assert json.loads(run("info", "x.mp4", "--json").stdout)["recipe"] is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "x.mp4: does not exist"), (b"", "x.mp4: is empty"), (b"no video" * 99, "x.mp4: cannot be read as a video")],
)
def test_info_of_what_is_no_video(content, complaint):
    if content is not None:
        Path("x.mp4").write_bytes(content)
    fails(run("info", "x.mp4"), 3, complaint)
    fails(run("info", "x.mp4", "--json"), 3, complaint)


def test_info_of_a_video_that_is_cut_short(tiny):
    run("t2v", PROMPT, "-m", tiny, "-o", "x.mp4")
    content = Path("x.mp4").read_bytes()
    Path("x.mp4").write_bytes(content[: len(content) // 2])
    fails(run("info", "x.mp4"), 3, "x.mp4: cut short: .* frames are missing")


def test_models_list_names_what_model_takes(storybook):
    row = run("models", "list").stdout.splitlines()[1]
    assert re.match(r"storybook +128x128 at 8 fps +[\d.]+ kB, default +Apache-2.0$", row)
    [entry] = json.loads(run("models", "list", "--json").stdout)["models"]
    assert (entry["name"], entry["license"], entry["folder"]) == ("storybook", "Apache-2.0", str(storybook))
    assert entry["bytes"] == sum(file.stat().st_size for file in storybook.rglob("*") if file.is_file())


def test_models_list_without_a_model_says_so(monkeypatch):
    monkeypatch.setattr(packs, "pack_roots", list)
    result = run("models", "list")
    assert result.exit_code == 0
    assert all("to pull" in line for line in result.stdout.splitlines()[1:])
    assert "no model is installed" in result.stderr
    assert json.loads(run("models", "list", "--json").stdout)["models"] == []


def test_models_show_tells_and_verifies(storybook):
    shown = run("models", "show", "storybook")
    assert shown.exit_code == 0
    assert re.search("^files +10, all verified by sha256", shown.stdout, re.M)
    entry = json.loads(run("models", "show", "storybook", "--json").stdout)
    assert (entry["verified"], entry["license"], entry["steps"]) == (True, "Apache-2.0", [1000.0, 500.0])
    flip_a_byte(storybook)
    shown = run("models", "show", "storybook")
    assert shown.exit_code == 4
    assert re.search("^files +damaged", shown.stdout, re.M)
    assert "is damaged: sha256" in shown.stderr
    assert json.loads(run("models", "show", "storybook", "--json").stdout)["verified"] is False


def test_doctor_is_content_with_a_machine_that_works(storybook):
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(line.startswith("✓") for line in result.stdout.splitlines())
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ok"]
    assert [check["name"] for check in report["checks"]] == list(doctor.CHECKS)


def test_doctor_ends_with_the_gravest_failure(storybook, monkeypatch):
    flip_a_byte(storybook)
    result = run("doctor")
    assert result.exit_code == 4
    assert re.search("^✗ +model .*is damaged: sha256", result.stdout, re.M)
    monkeypatch.setattr(video, "FragmentEncoder", lambda *_, **__: raise_(RuntimeError("no libx264")))
    monkeypatch.setattr(video.writer, "FragmentEncoder", lambda *_, **__: raise_(RuntimeError("no libx264")))
    result = run("doctor")
    assert result.exit_code == 7
    assert re.search("^✗ +encoder +RuntimeError: no libx264", result.stdout, re.M)
    assert result.stderr == "causvid: 3 of 7 checks failed: encoder, writing, model\n"
    assert [check["ok"] for check in json.loads(run("doctor", "--json").stdout)["checks"]].count(False) == 3
