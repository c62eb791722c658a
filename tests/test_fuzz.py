"""Mutated files of strangers: whatever they hold, one line says so; no bug, no hang, no memory that grows."""

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_pack

from causvid_cli import pipeline
from causvid_cli.cli.resume import read_recipe, task_of
from causvid_cli.cli.task import make_tasks
from causvid_cli.cli.video_options import VideoOptions
from causvid_cli.config import load_facts
from causvid_cli.errors import CausvidError
from causvid_cli.job.job import Input, Job, ModelUsed, journal_path
from causvid_cli.job.journal import Finished, Journal, Mark
from causvid_cli.job.recording import Local, find_earlier
from causvid_cli.job.seal import seal_of
from causvid_cli.media.recipe import metadata_to_recipe, recipe_to_metadata
from causvid_cli.models import load, memory
from causvid_cli.models.packs import pack_digest
from causvid_cli.models.resolve import resolve_model
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import LOADING, Loading, LoraUse
from causvid_cli.script import script_of
from causvid_cli.video import part_of
from causvid_cli.weights import lora

COUNTS = [
    pytest.param(1_000, id="1000"),
    pytest.param(20_000, id="20000", marks=pytest.mark.slow),
]
SECONDS = 5.0
"""The longest that one input may take."""
GROWTH = 300 * 2**20
"""Bytes by which the process may grow over all of them."""
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**40, 2**63, 10**30, 0.0, -0.5, 1e-300, 1e300, float("nan")),
    *(float("inf"), "", "x", "0", "1/0", "nan", "../x", "/dev/zero", "a\0b", "\ud800", "x" * 5000, "$(touch x)", "0x0"),
    *([], [[]], {}, {"": {}}, [0] * 5, [1, 2, 2], [None], {"name": 1}, "2x-1", "99999x99999", "1e400", "8/0", "-8"),
]
"""What is put in the place of anything."""


def places(data: Any, path: tuple = ()) -> list[tuple]:
    """The paths to everything in a JSON value."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def mutated(data: Any, rng: random.Random) -> Any:
    """Some values replaced, removed, doubled or nested."""
    data = deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        path = rng.choice(places(data))
        if not path:
            continue
        *parents, last = path
        parent = data
        for key in parents:
            parent = parent[key]
        match rng.randrange(6):
            case 0 if isinstance(parent, dict):
                parent[rng.choice(("", "__class__", "x" * 99, last + "_"))] = parent.pop(last)
            case 0 | 1:
                del parent[last]
            case 2 if isinstance(parent, list):
                parent.extend(parent[:50] * rng.choice((1, 20)))
            case 2 | 3:
                number = parent[last]
                grown = isinstance(number, int | float) and not isinstance(number, bool)
                parent[last] = number * rng.choice((-1, 0, 2, 3, 1000, 0.5)) if grown else [number]
            case _:
                parent[last] = deepcopy(rng.choice(VALUES))
    return data


def text_of(data: Any, rng: random.Random) -> bytes:
    """A value as JSON, now and then broken: bytes changed or cut, a key twice, brackets without end."""
    text = json.dumps(data).encode()
    match rng.randrange(12):
        case 0:
            at = rng.randrange(len(text))
            return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
        case 1:
            return text[: rng.randrange(len(text))]
        case 2:
            return text.replace(b"{", b'{"v": 1, "v": 2, ', 1)
        case 3 if not rng.randrange(10):
            return rng.choice((b"[", b'{"a":')) * 100_000
    return text


def survive(count: int, kind: str, attempt: Callable[[random.Random], None]) -> None:
    """`attempt` many times; each goes well or is refused in one short line, quickly."""
    with suppress(CausvidError):
        attempt(random.Random(f"{kind} warm"))
    before, slowest, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, 0
    for number in range(count):
        started = time.monotonic()
        try:
            attempt(random.Random(f"{kind} {number}"))
        except CausvidError as error:
            refused += 1
            assert error.exit_code > 1, (kind, number, error)
            assert "\n" not in str(error), (kind, number, error)
        except Exception as error:
            raise AssertionError(f"{kind} {number}: a bug: {error!r}") from error
        slowest = max(slowest, time.monotonic() - started)
    unit = 1 if sys.platform == "darwin" else 1024
    assert slowest < SECONDS, f"{kind}: one took {slowest:.1f} s"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < GROWTH
    assert refused > count / 3


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("part", ["causvid.json", "vae", "text_encoder", "transformer"])
def test_packs(part, count, tmp_path, monkeypatch):
    """A pack whose facts or configuration are mutated is chosen, weighed and, the manifest being right, loaded."""
    pack = tiny_pack(tmp_path / "tiny")
    file = pack / part if part.endswith(".json") else pack / part / "config.json"
    good = json.loads(file.read_text())
    good.pop("files", None)
    manifest = load_facts(pack).files
    monkeypatch.setattr(pipeline, "verify_pack", lambda *arguments: None)  # who changes a part can change its hash

    def attempt(rng: random.Random) -> None:
        data = mutated(good, rng)
        if part == "causvid.json" and isinstance(data, dict):
            data["files"] = {name: asdict(told) for name, told in manifest.items()}
        file.write_bytes(text_of(data, rng))
        chosen = resolve_model(pack)
        facts = chosen.facts
        networks = memory.networks_of(chosen.folder, facts, LOADING)
        video = memory.Video(height=facts.height, width=facts.width, latent_frames=9)
        if networks is not None:
            memory.estimate(networks, video, LOADING, dtype="float32")
            memory.check_fits(networks, video, LOADING, dtype="float32", device="cpu", free=2**30, name="cpu")
        if part == "vae":
            load.load_codec(pack, facts, device=torch.device("cpu"), dtype=torch.float32)
        elif part == "text_encoder":
            load.load_text(pack, facts, device=torch.device("cpu"), dtype=torch.float32).encode("a red car")
        elif part == "transformer":
            load.load_transformer(pack / part, facts)
        else:
            making = VideoOptions(model=str(pack), typed=frozenset({"model"}))
            (task,) = make_tasks("t2v", script_of("a red car"), making)
            if not rng.randrange(20) and facts.height * facts.width <= 2**14:
                pipe = pipeline.load(pack, device="cpu", dtype="float32", video=task.video)
                assert next(iter(pipe.stream(task.job.cues, length="1f", fps=task.job.rate))).frames.ndim == 4

    survive(count // 4, part, attempt)


def job_of(pack: Path) -> Job:
    """A job that uses all that a recipe can hold."""
    facts = load_facts(pack)
    return Job(
        command="i2v",
        cues=(Cue(prompt="a red car"), Cue(prompt="a boat", start_chunk=2, blend_chunks=1, seed=3, negative="snow")),
        model=ModelUsed(name=facts.name, sha256=pack_digest(facts)),
        input=Input(kind="photo", name="in.png", sha256="0" * 64, fit="crop", hold="chunk", background="#ffffff"),
        length="3s",
        frames=24,
        fps="8",
        size="128x128",
        cells="64x64",
        seed=7,
        steps=2,
        guidance=1.5,
        loading=Loading(loras=(LoraUse(name="a.safetensors", sha256="0" * 64, weight=0.5),)),
    )


@pytest.mark.parametrize("count", COUNTS)
def test_recipes_and_sidecars(count, tiny, tmp_path):
    recipe = job_of(tiny).recipe({"causvid": "1"})
    sidecar = {"v": 1, "recipe": recipe, "chunks": [{"chunk": 0, "frames": 4}]}
    path = tmp_path / "x.json"
    from causvid_cli.cli.resume import _frames

    def attempt(rng: random.Random) -> None:
        path.write_bytes(text_of(mutated(sidecar, rng), rng))
        job = Job.from_recipe(read_recipe(path), where="x.json")
        found = metadata_to_recipe(recipe_to_metadata(job.recipe({})))
        assert Job.from_recipe(found or {}, where="x.mp4") == job
        task_of(
            job,
            VideoOptions(),
            model=str(tiny),
            output=None,
            file=tmp_path / job.input.name if job.input else None,
            where="x",
        )

    def attempt_frames(rng: random.Random) -> None:
        path.write_bytes(text_of(mutated({"chunks": sidecar["chunks"]}, rng), rng))
        _frames(path)

    survive(count * 3 // 4, "recipe", attempt)
    survive(count // 4, "chunks", attempt_frames)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("own", [True, False])
def test_journals(own, count, tiny, tmp_path):
    output, path = tmp_path / "x.mp4", journal_path(tmp_path / "x.mp4")
    recipe = job_of(tiny).recipe({"causvid": "1"}) | {"input": None, "loading": {}, "command": "t2v"}
    local = asdict(Local(model=str(tiny), keep_latents=True)) | {"loras": ["a"]}
    finished = Finished(files={"x.mp4": "0" * 64}, sidecar="{}")
    latents = torch.zeros(1, 24, 1, 8, 8)

    def attempt(rng: random.Random) -> None:
        request: dict[str, Any] = {"recipe": recipe, "local": local}
        if rng.randrange(2):
            request = mutated(request, rng)
        shape = (
            [*latents.shape] if rng.randrange(2) else rng.choice(([24], [1, 24, 1, 8, 9], [0] * 5, [2, 24, 1, 8, 8]))
        )
        dtype = rng.choice((torch.float32, torch.bfloat16, torch.int64, torch.complex64))
        request = json.loads(json.dumps(request), parse_constant=lambda name: None)  # what a journal cannot hold
        with closing(Journal.create(path, request | ({"seal": seal_of(request)} if own else {}))) as journal:
            for number in range(rng.randrange(4)):
                journal.append(torch.zeros(shape, dtype=dtype), Mark(4 * number, 0, 0, 0))
            if rng.randrange(2):
                journal.finish(finished)
        data = path.read_bytes()
        if rng.randrange(2):
            path.write_bytes(again_sealed(data, rng) if rng.randrange(2) else text_of(1, rng) + data)
        earlier = find_earlier(output, part_of(output))
        if earlier is None:
            return
        with closing(earlier.journal):
            earlier.journal.check_latents(latents.shape)
            for index in range(earlier.chunks):
                assert earlier.journal.latents(index).shape == latents.shape
            if not rng.randrange(4):
                task = task_of(earlier.job, VideoOptions(), model=str(tiny), output=output, file=None, where="x")
                assert task.video.height > 0

    survive(count // 2, f"journal {own}", attempt)


def again_sealed(data: bytes, rng: random.Random) -> bytes:
    """A journal with a byte changed in one of its records, whose checksum is right all the same."""
    import struct
    import zlib

    head, parts, at = struct.Struct("<II"), [], len(b"causvid journal 1\n")
    while at + 8 <= len(data):
        size, _ = head.unpack_from(data, at)
        parts.append(bytearray(data[at + 8 : at + 8 + size]))
        at += 8 + size
    part = rng.choice(parts)
    part[rng.randrange(min(len(part), 400))] = rng.randrange(256)
    return b"causvid journal 1\n" + b"".join(head.pack(len(each), zlib.crc32(each)) + each for each in parts)


def test_a_record_of_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "x.journal"
    Journal.create(path, {"recipe": {}, "local": {}}).close()
    end = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(end)
        file.write((2**31 - 8).to_bytes(4, "little") + bytes(4))
        file.truncate(end + 2**31)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    journal = Journal.open(path)
    assert journal.chunks == 0
    journal.close()
    assert time.monotonic() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@pytest.mark.parametrize("count", COUNTS)
def test_adapter_configs(count, tmp_path):
    good = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": True, "use_dora": False,
        "alpha_pattern": {"blocks.0.attn1.to_q": 4}, "rank_pattern": {}, "target_modules": ["to_q"],
    }  # fmt: skip
    network = tiny_network()
    folder = tmp_path / "adapter"
    folder.mkdir()
    from safetensors.torch import save_file

    name = "base_model.model.blocks.0.attn1.to_q.lora_{}.weight"
    save_file({name.format("A"): torch.ones(4, 24), name.format("B"): torch.ones(24, 4)}, folder / lora.PEFT_WEIGHTS)

    def attempt(rng: random.Random) -> None:
        (folder / lora.PEFT_CONFIG).write_bytes(text_of(mutated(good, rng), rng))
        lora.read_lora(folder, network, model="tiny")

    survive(count, "adapter_config", attempt)


def tiny_network() -> Any:
    from tiny import tiny_transformer

    return tiny_transformer().transformer
