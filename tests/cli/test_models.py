"""The commands `models ...`: what is here and to be had, got from a hub or from files, checked, used, removed."""

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from checkpoints import State, official, official_text_encoder, transformer_of, under, write_form
from commands import fails, makes, run
from hub import COMMIT, Hub, serving
from safetensors.torch import save_file
from tiny_wan import tiny_wan

pytest.importorskip("transformers")

from huggingface_hub import constants, errors

from causvid_cli.cli import completion, models_get
from causvid_cli.config import load_facts
from causvid_cli.models import catalogue, packs
from causvid_cli.models.install import build_pack
from causvid_cli.paths import models_folder
from causvid_cli.weights import checkpoint, pickles
from causvid_cli.weights.files import load_safetensors

SHIPPED = ["storybook", "storybook-fast", "storybook-world"]
CATALOGUE = """
[architectures.tiny]
parameters = 1
[architectures.tiny.config]
{transformer}

[parts.vae]
title = "VAE"
repository = "tiny/Wan"
license = "Apache-2.0"
files = [{{ path = "vae.safetensors" }}]
[parts.vae.config]
{vae}

[parts.text_encoder]
title = "umT5"
repository = "tiny/Wan"
license = "Apache-2.0"
files = [{{ path = "umt5.pth" }}]
[parts.text_encoder.config]
{text_encoder}

[parts.tokenizer]
title = "tokenizer"
repository = "tiny/Wan"
license = "Apache-2.0"
files = [{{ path = "google/umt5-xxl/tokenizer.json" }}]

[parts.tiny_vae]
title = "TAEHV"
repository = "tiny/Codecs"
files = [{{ path = "taew2_1.pth" }}]

[checkpoints.student]
title = "A student"
architecture = "tiny"
repository = "tiny/Student"
revision = "{commit}"
license = "CC-BY-NC-SA-4.0"
files = [{{ path = "checkpoints/model.pt", sha256 = "{sha256}" }}]
key = "generator"
chunk_frames = 3
steps = [1000.0, 500.0]
shift = 5.0
warp_steps = true
sink_frames = 0
window_frames = 21

[checkpoints.other]
title = "Another"
architecture = "tiny"
repository = "tiny/Other"
license = "Apache-2.0"
files = [{{ path = "model.safetensors" }}, {{ path = "lora.pt", lora_key = "generator_lora", lora_rank = 2 }}]
chunk_frames = 1
steps = [1000.0]
shift = 5.0
warp_steps = true
sink_frames = 3
window_frames = 9

[checkpoints.base]
title = "A base"
kind = "base"
architecture = "tiny"
repository = "tiny/Base"
license = "Apache-2.0"
files = [{{ path = "diffusion_pytorch_model.safetensors" }}]
"""


def toml(config: dict) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items() if value is not None)


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    return tiny_wan(tmp_path_factory.mktemp("wan") / "tiny-Diffusers")


@pytest.fixture(scope="module")
def state(wan) -> State:
    return official(transformer_of(wan))


@pytest.fixture(scope="module")
def published(tmp_path_factory, wan, state) -> Path:
    """What lies on the hub: a student, its LoRA-merged cousin, a base, and the parts of Wan."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    for name in ("Wan/google/umt5-xxl", "Student/checkpoints", "Other", "Base"):
        (folder / name).mkdir(parents=True)
    torch.save({"generator": under("model.", state)}, folder / "Student" / "checkpoints" / "model.pt")
    save_file(under("model.", state), folder / "Other" / "model.safetensors")
    query = "blocks.0.self_attn.q"
    lora = {
        f"base_model.model.{query}.lora_A.weight": torch.ones(2, 32),
        f"base_model.model.{query}.lora_B.weight": torch.ones(32, 2),
    }
    torch.save({"generator_lora": lora}, folder / "Other" / "lora.pt")
    save_file(state, folder / "Base" / "diffusion_pytorch_model.safetensors")
    shutil.copy(next((wan / "vae").glob("*.safetensors")), folder / "Wan" / "vae.safetensors")
    text = load_safetensors(wan / "text_encoder")
    text.setdefault("shared.weight", text.get("encoder.embed_tokens.weight"))
    torch.save(official_text_encoder(text), folder / "Wan" / "umt5.pth")
    shutil.copy(wan / "tokenizer" / "tokenizer.json", folder / "Wan" / "google" / "umt5-xxl")
    return folder.parent


@pytest.fixture
def hub(published, tmp_path, wan, monkeypatch) -> Hub:
    """The hub, a catalogue that knows it, an empty cache and no models."""
    configs = {
        part: json.loads((wan / part / "config.json").read_text()) for part in ("transformer", "vae", "text_encoder")
    }
    digest = hashlib.sha256((published / "tiny" / "Student" / "checkpoints" / "model.pt").read_bytes()).hexdigest()
    text = CATALOGUE.format(commit=COMMIT, sha256=digest, **{part: toml(config) for part, config in configs.items()})
    (tmp_path / "catalogue.toml").write_text(text)
    monkeypatch.setattr(catalogue, "FILE", tmp_path / "catalogue.toml")
    catalogue.catalogue.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint, "open_pickle", pickles.read_pickle)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a busy disk takes long for it
    monkeypatch.setenv("CAUSVID_MODELS", str(tmp_path / "models"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serving(published) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub
    catalogue.catalogue.cache_clear()


@pytest.fixture
def models(hub, tmp_path) -> Path:
    return tmp_path / "models"


def cached(tmp_path: Path) -> list[str]:
    """Files in the hub's cache, by their paths in their repositories."""
    return sorted(str(file.relative_to(file.parents[-1])) for file in (tmp_path / "cache").glob("*/blobs/*"))


# --- pull ----------------------------------------------------------------------------------------------------------


def test_pull_makes_a_model_of_what_the_hub_has(hub, models, wan):
    result = makes("models", "pull", "student", "--yes", "--dtype", "float32")
    assert result.stdout == f"{models / 'student'}\n"
    facts = load_facts(models / "student")
    assert (facts.name, facts.source, facts.license) == ("student", f"tiny/Student@{COMMIT}", "CC-BY-NC-SA-4.0")
    made, wanted = transformer_of(models / "student"), transformer_of(wan)
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)
    assert sorted(path.name for path in models.iterdir()) == ["student"]


def test_pull_tells_repository_size_and_licence_first(hub):
    said = makes("models", "pull", "student", "--yes").stderr
    assert "causvid: student: A student\n" in said
    assert f"causvid: tiny/Student@{COMMIT[:12]}: checkpoints/model.pt, " in said
    assert "kB; licence: CC-BY-NC-SA-4.0" in said
    assert "tiny/Wan@" in said and "vae.safetensors, umt5.pth, google/umt5-xxl/tokenizer.json" in said
    assert "licence CC-BY-NC-SA-4.0: NOT FOR COMMERCIAL USE" in said
    assert said.index("NOT FOR COMMERCIAL") < said.index("student is installed")
    assert "without TAEHV (--vae tiny): tiny/Codecs is not there, or is private" in said


def test_pull_goes_by_what_the_card_says_now(hub, models):
    hub.cards["tiny/Student"] = {"license": "apache-2.0"}
    said = makes("models", "pull", "student", "--yes").stderr
    assert "licence: apache-2.0" in said
    assert "its card now says apache-2.0; causvid knew CC-BY-NC-SA-4.0" in said
    assert "licence CC-BY-NC-SA-4.0: NOT FOR COMMERCIAL USE" in said
    hub.cards["tiny/Other"] = {"license": "other", "license_name": "house-nc-1.0"}
    said = makes("models", "pull", "other", "--yes").stderr
    assert "licence house-nc-1.0: NOT FOR COMMERCIAL USE" in said
    assert load_facts(models / "other").license == "house-nc-1.0"


def test_a_mirror_without_cards_is_enough(hub):
    hub.has_cards = False
    said = makes("models", "pull", "student", "--yes").stderr
    assert (
        "the model card was not read, so its licence is the one that causvid knows: tiny/Student is not there" in said
    )
    assert "licence CC-BY-NC-SA-4.0: NOT FOR COMMERCIAL USE" in said


def test_a_second_pull_shares_the_parts_and_fetches_only_its_own(hub, models):
    makes("models", "pull", "student", "--yes")
    hub.asked.clear()
    said = makes("models", "pull", "other", "--yes").stderr
    assert hub.asked == ["model.safetensors", "lora.pt"]
    assert "vae, text_encoder, tokenizer: shared with student" in said
    for part in ("vae", "text_encoder", "tokenizer"):
        for file in (models / "student" / part).iterdir():
            assert file.samefile(models / "other" / part / file.name)


def test_a_lora_that_belongs_to_a_checkpoint_is_merged(hub, models, state):
    makes("models", "pull", "other", "--yes", "--dtype", "float32")
    made = official(transformer_of(models / "other"))
    torch.testing.assert_close(made["blocks.0.self_attn.q.weight"], state["blocks.0.self_attn.q.weight"] + 2)
    assert torch.equal(made["blocks.0.self_attn.k.weight"], state["blocks.0.self_attn.k.weight"])


def test_a_base_is_pulled_for_distilling(hub, models):
    result = makes("models", "pull", "base", "--yes", "--name", "mine", "--json")
    entry = json.loads(result.stdout)
    assert (entry["name"], entry["kind"], entry["folder"]) == ("mine", "base", str(models / "mine"))
    fails(run("t2v", "a cat", "-m", "mine"), 4, "mine is bidirectional, a base for `causvid distill`")
    fails(run("models", "use", "mine"), 2, "mine is a base to distil from")


def test_downloads_go_when_they_are_installed_and_stay_when_asked(hub, tmp_path):
    result = makes("models", "pull", "student", "--yes")
    assert "of downloads are removed again; --keep-download keeps them" in result.stderr
    assert cached(tmp_path) == []
    makes("models", "pull", "other", "--yes", "--keep-download")
    assert len(cached(tmp_path)) == 2


def test_what_was_in_the_cache_before_stays_there(hub, tmp_path):
    makes("models", "pull", "student", "--yes", "--keep-download")
    before = cached(tmp_path)
    hub.asked.clear()
    said = makes("models", "pull", "student", "--yes").stderr
    assert hub.asked == []
    assert cached(tmp_path) == before
    assert "of them here already" in said


def test_a_model_that_is_here_is_fetched_again_only_when_asked(hub):
    makes("models", "pull", "student", "--yes")
    hub.asked.clear()
    fails(run("models", "pull", "student"), 7, "student is installed already; -y replaces it")
    assert hub.asked == []


def test_without_a_network_the_cache_is_enough(hub, monkeypatch, models):
    fails(run("models", "pull", "student", "--offline"), 4, "checkpoints/model.pt is not among the downloads")
    makes("models", "pull", "student", "--yes", "--keep-download")
    shutil.rmtree(models / "student")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    makes("models", "pull", "student", "--yes", "--offline")
    shutil.rmtree(models / "student")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    makes("models", "pull", "student", "--yes")


def test_much_is_downloaded_only_when_somebody_says_yes(hub, monkeypatch, models):
    monkeypatch.setattr(models_get, "MUCH_BYTES", 1000)
    fails_with_notes(run("models", "pull", "student"), 2, "download .* nobody can be asked here; --yes says yes")
    assert hub.asked == []
    assert not models.exists() or not list(models.iterdir())


def fails_with_notes(result, code: int, complaint: str) -> None:
    """As `fails`, where lines of what was found go before."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(rf"causvid: .*{complaint}.*", last), last


def test_a_little_is_downloaded_without_asking(hub):
    makes("models", "pull", "student")


@pytest.mark.parametrize(
    ("status", "code", "complaint"),
    [
        (404, "RepoNotFound", "tiny/Student is not there, or is private: if you may read it, `hf auth login`"),
        (401, "RepoNotFound", "tiny/Student is not there, or is private"),
        (401, "GatedRepo", "tiny/Student is only for who has agreed to its terms"),
        (403, "GatedRepo", "tiny/Student is only for who has agreed to its terms: agree on its page"),
        (404, "RevisionNotFound", f"tiny/Student has no revision {COMMIT} any more; update causvid"),
        (404, "EntryNotFound", "tiny/Student has no file checkpoints/model.pt any more"),
        (418, "Teapot", "the hub answered 418 for tiny/Student; try later"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_remedy(status, code, complaint, hub, models):
    hub.refuse["tiny/Student"] = (status, code)
    fails(run("models", "pull", "student", "--yes"), 4, complaint)
    assert not models.exists() or not list(models.iterdir())


def no_connection(*given: object, **more: object) -> object:
    raise ConnectionError("no route to host")


def test_a_hub_that_cannot_be_reached_is_one_line(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    unreachable = r"the hub cannot be reached \(.*\); check the network; .*go on"
    fails(run("models", "pull", "student", "--yes"), 4, unreachable)
    monkeypatch.setattr(errors, "HfHubHTTPError", type("Error", (Exception,), {}))  # which tells of no HTTP library
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_connection)
    fails(run("models", "pull", "student", "--yes"), 4, unreachable)


def test_a_pull_removes_only_what_it_brought(hub, models, tmp_path):
    makes("models", "pull", "student", "--yes", "--keep-download")
    snapshots = tmp_path / "cache" / "models--tiny--Student" / "snapshots"
    link = snapshots / COMMIT / "checkpoints" / "model.pt"
    older = snapshots / ("0" * 40) / "model.pt"  # another program's, of an older commit with the same content
    older.parent.mkdir()
    older.symlink_to(link.resolve())
    link.unlink()
    shutil.rmtree(models)
    makes("models", "pull", "student", "--yes")
    assert older.read_bytes()[:2] == b"PK"
    assert not link.exists()
    older.unlink()
    shutil.rmtree(models)
    makes("models", "pull", "student", "--yes")
    assert not list((snapshots.parent / "blobs").iterdir())


NAME_TOO_LONG = "a" * 5000


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["models", "show", NAME_TOO_LONG], 4),
        (["models", "import", NAME_TOO_LONG], 4),
        (["models", "import", "PACK", "--as", "student", "--base", NAME_TOO_LONG], 4),
        (["models", "import", "PACK", "--name", NAME_TOO_LONG], 2),
        (["t2v", "a car", "-m", NAME_TOO_LONG], 4),
        (["t2v", "a car", "--lora", NAME_TOO_LONG], 4),
    ],
)
def test_a_name_longer_than_the_system_allows_is_one_that_is_not_there(arguments, code, published, models):
    pack = str(published / "tiny" / "Base" / "diffusion_pytorch_model.safetensors")
    result = run(*(pack if each == "PACK" else each for each in arguments))
    assert result.exit_code == code, result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_comes_damaged_is_fetched_again_next_time(hub, models, tmp_path):
    hub.spoil.add("checkpoints/model.pt")
    fails_with_notes(
        run("models", "pull", "student", "--yes"),
        4,
        "checkpoints/model.pt came damaged .*and was removed; run this again",
    )
    assert not models.exists() or not list(models.iterdir())
    hub.spoil.clear()
    makes("models", "pull", "student", "--yes")


def test_a_download_that_breaks_off_goes_on(hub, models, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut["checkpoints/model.pt"] = 5000
    result = run("models", "pull", "student", "--yes")
    if result.exit_code:  # the library went on by itself, or leaves it to the next run
        assert result.exit_code == 4
        makes("models", "pull", "student", "--yes")
    assert "checkpoints/model.pt from 5000" in hub.asked


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that were waited, which take none here."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("before", [0, 1, 2, 7], ids=["metadata", "second file", "third file", "download"])
@pytest.mark.parametrize("headers", [{"Retry-After": "37"}, {"RateLimit": '"api";r=0;t=37'}])
def test_a_hub_that_is_busy_is_waited_for_as_long_as_it_says(before, headers, hub, waits):
    hub.busy, hub.let_through = [headers, headers], before
    said = makes("models", "pull", "student", "--yes").stderr
    assert said.count("the hub asks for a wait of 37 s (429: too many requests, or too busy)") == 2
    assert 2 * 37 <= sum(waits) <= 2 * 38


def test_a_hub_that_is_busy_for_long_is_not_waited_for(hub, waits, models):
    hub.busy = [{"Retry-After": "3600"}]
    fails(run("models", "pull", "student", "--yes"), 4, "the hub asks for a wait of 3600 s .*run this again then")
    hub.busy, hub.let_through = [{"Retry-After": "3600"}], 8
    fails_with_notes(run("models", "pull", "student", "--yes"), 4, "the hub asks for a wait of 3600 s .*again then")
    assert waits == []
    hub.busy = [{"Retry-After": "9"}] * 99
    fails_with_notes(run("models", "pull", "student", "--yes"), 4, "the hub answered 429 for tiny/Wan; try later")
    assert waits == [9] * 4
    assert not models.exists() or not list(models.iterdir())


def test_a_slow_download_has_all_the_time_it_takes(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.slow["checkpoints/model.pt"] = 0.05
    makes("models", "pull", "student", "--yes")


def test_a_download_that_stalls_is_one_line(hub, monkeypatch, models):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    hub.slow["checkpoints/model.pt"] = 0.5
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    fails_with_notes(
        run("models", "pull", "student", "--yes"), 4, r"the hub cannot be reached \(timed out\); .*run this again"
    )
    assert not models.exists() or not list(models.iterdir())


def test_a_full_disk_is_told_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(build_pack.shutil, "disk_usage", lambda path: SimpleNamespace(free=9))
    fails_with_notes(run("models", "pull", "student", "--yes"), 4, "not enough room")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["pull", "studnt"], 4, r"no checkpoint 'studnt' is known; did you mean student\?"),
        (["pull", "student", "--dtype", "int4"], 2, "--dtype int4: unknown; try float32"),
        (["pull", "student", "--name", "../x"], 2, "--name ../x: letters, digits"),
        (["pull", "student", "--name", "storybook", "-y"], 7, "storybook comes with causvid"),
        (["import", "x.pt"], 4, "x.pt is not there"),
        (["import", "x.pt", "--as", "studnt"], 4, r"did you mean student\?"),
        (["import", "x.pt", "--steps", "a"], 2, "--steps a: timesteps are wanted"),
        (["import", "x.pt", "--steps", "1/0"], 2, "--steps 1/0: timesteps are wanted"),
        (["import", "x.pt", "--first-steps", "1/4,1/2"], 2, "--first-steps 1/4,1/2: timesteps 1000..0 that fall"),
        (["import", "x.pt", "--context", "x"], 2, "--context x: unknown; try clean_pass or last_call"),
        (["import", "x.pt", "--steps", "250,1000"], 2, "timesteps 1000..0 that fall are wanted"),
        (["use", "studnt"], 4, "no model 'studnt'.*did you mean student"),
        (["use", "student"], 4, "student is not installed; `causvid models pull student` gets it"),
        (["rm", "student"], 4, "student is not installed"),
        (["rm", "storybook", "-y"], 2, "storybook came with causvid and stays"),
        (["show", "studnt"], 4, "did you mean student"),
        (["verify", "student"], 4, "student is not installed"),
        (["path", "student"], 4, "student is not installed"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, code, complaint, hub, work):
    fails(run("models", *arguments), code, complaint)


# --- import --------------------------------------------------------------------------------------------------------


def test_import_takes_a_file_and_the_parts_of_a_folder(hub, models, work, state, wan):
    write_form("generator", work, state).rename(work / "model.pt")
    result = makes("models", "import", "model.pt", "--as", "student", "--base", wan, "--name", "mine", "--json")
    entry = json.loads(result.stdout)
    assert (entry["name"], entry["folder"], entry["license"]) == ("mine", str(models / "mine"), "CC-BY-NC-SA-4.0")
    assert entry["bytes"] == sum(file.bytes for file in load_facts(models / "mine").files.values())
    assert "NOT FOR COMMERCIAL USE" in result.stderr
    assert (work / "model.pt").exists()
    makes("models", "import", "model.pt", "--as", "student", "--name", "second")


def test_import_takes_the_facts_of_an_unknown_checkpoint(hub, models, work, state, wan):
    path = write_form("flat", work, state, suffix=".safetensors")
    facts = ["--chunk", 2, "--steps", "1000,757,522,0", "--shift", 8, "--no-warp", "--window", 12, "--sink", 1]
    fails(run("models", "import", path, "--base", wan, *facts[2:]), 2, r"missing: --chunk\)")
    makes("models", "import", path, "--base", wan, *facts, "--license", "MIT")
    made = load_facts(models / "flat")
    assert (made.chunk_frames, made.steps, made.shift, made.warp_steps) == (2, (1000.0, 757.0, 522.0), 8.0, False)
    assert (made.window_frames, made.sink_frames, made.license) == (12, 1, "MIT")


def test_import_takes_fractions_and_what_a_student_does_differently(hub, models, work, state, wan):
    path = write_form("rcm_counters", work, state)
    facts = ["--chunk", 1, "--steps", "1600/1601,5/8", "--first-steps", "1600/1601,15/16,5/6,5/8", "--shift", 1]
    forms = ["--context", "last_call", "--sink-placement", "apart", "--rope", "relative", "--no-warp"]
    makes("models", "import", path, "--base", wan, *facts, *forms, "--window", 12, "--sink", 1, "--name", "noisy")
    made = load_facts(models / "noisy")
    assert made.steps == (1600000 / 1601, 625.0)
    assert made.first_steps == (1600000 / 1601, 937.5, 5000 / 6, 625.0)
    assert (made.context, made.sink_placement, made.rope) == ("last_call", "apart", "relative")


def test_import_installs_a_pack(hub, models, tmp_path, tiny):
    makes("models", "import", tiny, "--name", "mine")
    assert load_facts(models / "mine").name == "mine"
    assert makes("t2v", "a red car", "-m", "mine", "-o", tmp_path / "x.mp4", "--length", "8f").exit_code == 0


# --- what is here --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where a pulled model is kept for the tests that want one; pulled by the first of them."""
    return tmp_path_factory.mktemp("kept") / "student"


@pytest.fixture
def installed(hub, kept) -> Path:
    pack = models_folder() / "student"
    if not kept.exists():
        makes("models", "pull", "student", "--yes", "-qq")
        shutil.copytree(pack, kept)
    elif not pack.exists():
        shutil.copytree(kept, pack)
    return pack


def test_list_shows_what_is_here_and_what_can_be_had(installed):
    lines = makes("models", "list").stdout.splitlines()
    assert lines[0].split() == ["name", "makes", "on", "disk", "licence"]
    assert [line.split()[0] for line in lines[1:]] == [*SHIPPED, "student", "other", "base"]
    assert "default" in lines[1] and "to pull" in lines[5] and "a base to distil from" in lines[6]
    told = json.loads(makes("models", "list", "--json").stdout)
    assert [(entry["name"], entry["default"]) for entry in told["models"]] == [
        (name, name == "storybook") for name in (*SHIPPED, "student")
    ]
    assert [entry["name"] for entry in told["available"]] == ["other", "base"]
    assert told["available"][0]["repository"] == "tiny/Other"


def test_show_tells_of_a_model_that_is_not_here(hub):
    shown = makes("models", "show", "student").stdout
    assert "not installed; `causvid models pull student` gets it" in shown
    assert "tiny/Student: checkpoints/model.pt" in shown
    told = json.loads(makes("models", "show", "student", "--json").stdout)
    assert (told["installed"], told["steps"], told["non_commercial"]) == (False, [1000.0, 500.0], True)


def test_show_tells_whose_teacher_it_is():
    lines = {name: makes("models", "show", name).stdout.splitlines() for name in SHIPPED}
    teachers = {name: next(line.split(maxsplit=1)[1] for line in lines[name] if "teacher" in line) for name in SHIPPED}
    assert teachers == {"storybook": "teacher", "storybook-fast": "that of storybook", "storybook-world": "none"}


def test_use_makes_a_model_the_default(installed, monkeypatch, tmp_path):
    monkeypatch.setenv("CAUSVID_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text('length = "2s"\n')
    makes("models", "use", "student")
    assert (tmp_path / "config.toml").read_text() == 'length = "2s"\nmodel = "student"\n'
    told = json.loads(makes("models", "list", "--json").stdout)
    assert [entry["name"] for entry in told["models"] if entry["default"]] == ["student"]
    makes("models", "use", "storybook")
    assert 'model = "storybook"' in (tmp_path / "config.toml").read_text()


def test_verify_reads_every_byte(installed):
    assert makes("models", "verify", "student").stdout == "student: whole\n"
    assert json.loads(makes("models", "verify", "--json").stdout)["models"][-1] == {
        "name": "student",
        "whole": True,
        "problem": "",
    }
    file = next((installed / "transformer").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = run("models", "verify", "student")
    assert (result.exit_code, result.stdout) == (4, "student: damaged\n")
    assert "is damaged: sha256" in result.stderr
    assert json.loads(run("models", "verify", "student", "--json").stdout)["models"][0]["whole"] is False


def test_path_prints_where_a_model_is(installed):
    assert makes("models", "path", "student").stdout == f"{installed}\n"
    assert makes("models", "path").stdout == f"{installed.parent}\n"
    assert json.loads(makes("models", "path", "student", "--json").stdout)["path"] == str(installed)


def test_rm_removes_a_model_and_leaves_what_others_share(installed, monkeypatch, tmp_path):
    makes("models", "pull", "other", "--yes", "-qq")
    fails(run("models", "rm", "student"), 2, "remove student .* nobody can be asked here; --yes says yes")
    monkeypatch.setenv("CAUSVID_MODEL", "student")
    result = makes("models", "rm", "student", "-y")
    assert "student is removed; " in result.stderr
    assert "student was the default model; `causvid models use storybook` sets another" in result.stderr
    assert not installed.exists()
    assert makes("models", "verify", "other").stdout == "other: whole\n"
    freed = json.loads(makes("models", "rm", "other", "-y", "--json").stdout)["freed_bytes"]
    assert freed > 500_000  # of the parts that nobody shares any more
    assert list(models_folder().iterdir()) == []


def test_yes_can_be_said_at_a_terminal(installed, monkeypatch):
    asked = []
    monkeypatch.setattr(models_get.console, "is_terminal", lambda: True)
    monkeypatch.setattr("sys.stdin", type("", (), {"isatty": lambda self: True})())
    for answer in (False, True):
        monkeypatch.setattr(models_get.typer, "confirm", lambda text, err, answer=answer: asked.append(text) or answer)
        if answer:
            models_get.ask("remove it?", yes=False)
        else:
            with pytest.raises(models_get.UsageError, match="no; nothing was changed"):
                models_get.ask("remove it?", yes=False)
    assert asked == ["causvid: remove it?"] * 2


def test_the_shell_is_offered_what_there_is(installed):
    from causvid_cli.cli import completion

    assert completion.checkpoints("s") == ["student"]
    assert [name for name, _ in completion.known_models("")] == [*SHIPPED, "student", "other", "base"]


def test_a_pack_that_cannot_be_read_is_listed_and_keeps_no_other_from_it(tiny, monkeypatch, tmp_path):
    shutil.copytree(tiny, tmp_path / "good")
    for name, text in (("deep", "[" * 100_000), ("wrong", '{"format": 1, "name": "x"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "causvid.json").write_text(text)
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tmp_path])
    listed = makes("models", "list")
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:4]] == [
        ["good", "128x128"],
        ["deep", "unreadable"],
        ["wrong", "unreadable"],
    ]
    deep, wrong = listed.stderr.splitlines()
    assert deep.endswith("deep/causvid.json: brackets nested deeper than 32 levels")
    assert re.search(r"wrong/causvid.json: \w+: missing \(and \d+ more\)$", wrong)
    told = json.loads(makes("models", "list", "--json").stdout)
    assert [each["name"] for each in told["models"]] == ["good"]
    assert [each["name"] for each in told["unreadable"]] == ["deep", "wrong"]
    fails(run("models", "show", "deep"), 4, "deep/causvid.json: brackets nested deeper than 32 levels")
    result = run("models", "verify")
    assert result.exit_code == 4
    assert result.stdout.splitlines() == ["deep: damaged", "good: whole", "wrong: damaged"]


def test_a_folder_whose_name_a_shell_would_obey_is_no_model(tiny, monkeypatch, tmp_path):
    for name in (r"a\$(touch X)", "a b", "$(touch X)", "-x", ".hidden", "a'b", "é"):
        shutil.copytree(tiny, tmp_path / name)
    monkeypatch.setattr("causvid_cli.models.packs.pack_roots", lambda: [tmp_path])
    assert packs.list_packs() == {}
    assert completion.models("") == [] and json.loads(makes("models", "list", "--json").stdout)["models"] == []
    facts = tmp_path / "a b" / "causvid.json"
    facts.write_text(facts.read_text().replace('"tiny"', '"$(touch X)"', 1))
    fails(
        run("models", "show", tmp_path / "a b"),
        4,
        r"causvid.json: name: letters, digits.* make a name, .*got '\$\(touch X\)'",
    )
