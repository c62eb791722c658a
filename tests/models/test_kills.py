"""A model that is being replaced, killed before any call that changes a file: none is lost, and nothing stays about."""

import json
import os
import shutil
from pathlib import Path

import faults
import pytest
from checkpoints import official, transformer_of, write_form
from commands import makes
from tiny_wan import tiny_wan

pytest.importorskip("transformers")

from causvid_cli.config import load_facts
from causvid_cli.models.packs import find_pack, verify_pack

FACTS = ("--chunk", 3, "--steps", "1000,750,500,250", "--shift", 5, "--warp", "--window", 21, "--sink", 0)
EVERY, SOME = 1, 11
"""Before which calls the command is killed."""


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CAUSVID_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a busy disk takes long for it
    yield tmp_path / "models"
    faults.end_all()


@pytest.mark.parametrize("step", [pytest.param(EVERY, marks=pytest.mark.slow), SOME])
def test_a_replacing_import_that_is_killed_leaves_the_old_model_or_the_new_one(step, models, tmp_path):
    wan = tiny_wan(tmp_path / "tiny-Diffusers")
    work, before = tmp_path / "work", tmp_path / "before"
    work.mkdir()
    (work / "config.json").write_text(json.dumps({"model_type": "t2v", "dim": 32, "num_heads": 2}))
    path = write_form("flat", work, official(transformer_of(wan)), suffix=".safetensors")
    command = ("models", "import", path, "--base", wan, "--name", "mine", *FACTS, "-y", "-q")
    makes(*map(str, command), "--dtype", "float32")
    old = load_facts(models / "mine").files
    shutil.copytree(models, before)
    makes(*map(str, command))
    new = load_facts(models / "mine").files
    assert old != new

    def put_back(state: Path = before) -> None:
        shutil.rmtree(models, ignore_errors=True)
        shutil.copytree(state, models)

    def left() -> list[str]:
        return sorted(str(file.relative_to(models)) for file in models.rglob("*") if file.is_file())

    whole = left()
    put_aside = kills = 0
    for number in faults.kill_at_every_call(*command, folder=work, prepare=put_back, first=min(step, 4), step=step):
        kills += 1
        put_aside += not (models / "mine").exists()
        killed = shutil.copytree(models, tmp_path / "killed", symlinks=True)
        facts = load_facts(find_pack("mine"))  # by whatever command comes next
        assert facts.files in (old, new), number
        verify_pack(models / "mine", facts, every=True)
        for again in (command, ("models", "import", before / "mine", "--name", "other", "-y", "-q")):
            put_back(killed)
            run = faults.start(*again, folder=work)
            assert run.wait() == 0, f"after call {number}: {run.said.read_text()}"
            facts = load_facts(models / "mine")
            assert facts.files in ((new,) if again == command else (old, new))
            verify_pack(models / "mine", facts, every=True)
            others = [name for name in left() if not name.startswith("other/")]
            assert others == whole, f"after call {number}: {others}"
        shutil.rmtree(killed)
    assert kills >= 40 // step
    assert put_aside == 1 or step != EVERY  # killed between the two renames
