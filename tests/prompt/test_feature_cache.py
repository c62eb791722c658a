"""umT5 is loaded for new prompts only and let go before pictures are made; what it said is kept on the disk."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from tiny_wan import tiny_student
from typer.testing import CliRunner

pytest.importorskip("transformers")

from causvid_cli.cli.app import app
from causvid_cli.config import load_facts
from causvid_cli.errors import ModelError, UsageError
from causvid_cli.models.load import load_text, load_text_when_needed
from causvid_cli.models.packs import write_pack_manifest
from causvid_cli.paths import cache_folder
from causvid_cli.pipeline import load
from causvid_cli.prompt.feature_cache import DEFAULT_BOUND, CachedText, TextCache, parse_bytes
from causvid_cli.prompt.umt5 import Features, UMT5TextEncoder

CPU = torch.device("cpu")
CAT = "a cat's hat, &amp; more"


def is_loaded(text):
    """Whether umT5 takes memory now."""
    return text._umt5 is not None


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return tiny_student(tmp_path_factory.mktemp("packs") / "tiny-wan")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text"


@pytest.fixture
def loads(monkeypatch) -> list[Path]:
    """The packs whose umT5 was loaded, one for each time."""
    done: list[Path] = []
    whole = UMT5TextEncoder.from_pack.__func__

    def from_pack(cls, folder, **options):
        done.append(folder)
        return whole(cls, folder, **options)

    monkeypatch.setattr(UMT5TextEncoder, "from_pack", classmethod(from_pack))
    return done


def text_of(pack: Path, *, cache: TextCache | None, dtype: torch.dtype = torch.float32) -> CachedText:
    return load_text_when_needed(pack, load_facts(pack), device=CPU, dtype=dtype, cache=cache)


def features(seed: int, *, tokens: int = 5, dtype: torch.dtype = torch.float32) -> Features:
    return Features(torch.randn(tokens, 32, generator=torch.Generator().manual_seed(seed)).to(dtype), ("a note",))


def same(one: Features | None, other: Features | None) -> bool:
    return one is not None and other is not None and torch.equal(one.rows, other.rows) and one.notes == other.notes


# --- loaded when needed -----------------------------------------------------------------------------------------------


def test_a_hit_gives_the_same_bits_and_loads_nothing(pack, loads, own_cache):
    wanted = load_text(pack, load_facts(pack), device=CPU, dtype=torch.float32).encode(CAT)
    loads.clear()
    made = text_of(pack, cache=TextCache(own_cache)).encode(CAT)
    assert len(loads) == 1
    found = text_of(pack, cache=TextCache(own_cache)).encode(CAT)
    assert len(loads) == 1
    for encoded in (made, found):
        assert torch.equal(encoded.embeds, wanted.embeds)
        assert (encoded.prompt, encoded.notes, encoded.reading) == (wanted.prompt, wanted.notes, wanted.reading)
    assert made.origin.startswith("encoded by umT5 in ")
    assert found.origin == "from the cache"


def test_a_hit_says_what_was_cut(pack, own_cache):
    for _ in range(2):
        encoded = text_of(pack, cache=TextCache(own_cache)).encode("cat " * 200)
        assert encoded.notes == ("the prompt is longer than 512 tokens; its end was not read",)
        assert encoded.embeds.shape == (1, 512, 32)


def test_only_the_rows_of_real_tokens_are_kept(pack, own_cache):
    text_of(pack, cache=TextCache(own_cache)).encode("a cat")
    (file,) = own_cache.iterdir()
    assert file.stat().st_size < 7 * 32 * 4 + 1000
    assert file.stat().st_mode & 0o077 == 0  # prompts are the user's own


def test_prompts_that_are_cleaned_to_the_same_text_are_one(pack, loads, own_cache):
    text = text_of(pack, cache=TextCache(own_cache))
    one, other = text.encode("a  cat &amp; a hat"), text.encode(" a cat & a hat ")
    assert torch.equal(one.embeds, other.embeds)
    assert len(list(own_cache.iterdir())) == 1


def test_what_features_depend_on_keeps_entries_apart(pack, loads, own_cache, tmp_path):
    text_of(pack, cache=TextCache(own_cache)).encode("a cat")
    assert (
        text_of(pack, cache=TextCache(own_cache), dtype=torch.bfloat16).encode("a cat").embeds.dtype == torch.bfloat16
    )
    other = shutil.copytree(pack, tmp_path / "other")
    tokenizer = other / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    write_pack_manifest(other, load_facts(other))
    text_of(other, cache=TextCache(own_cache)).encode("a cat")
    assert len(loads) == len(list(own_cache.iterdir())) == 3


def test_a_process_encodes_a_prompt_once_without_a_cache_too(pack, loads):
    text = text_of(pack, cache=None)
    first = text.encode("a cat")
    assert is_loaded(text)
    text.release()
    assert not is_loaded(text)
    assert torch.equal(text.encode("a cat").embeds, first.embeds)
    assert len(loads) == 1
    text.encode("a dog")
    assert len(loads) == 2


def test_the_empty_prompt_is_kept_too(pack, loads, own_cache):
    one = text_of(pack, cache=TextCache(own_cache)).empty()
    assert torch.equal(text_of(pack, cache=TextCache(own_cache)).empty(), one)
    assert len(loads) == 1
    assert one.any(dim=-1).sum() == 1


def test_an_encoder_that_is_damaged_is_found_when_it_is_needed(pack, tmp_path, own_cache):
    text_of(pack, cache=TextCache(own_cache)).encode("a cat")
    damaged = shutil.copytree(pack, tmp_path / "damaged")
    with next((damaged / "text_encoder").glob("*.safetensors")).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    pipeline = load(damaged, device="cpu")
    pipeline.generate("a cat", length="1f", steps=1)
    with pytest.raises(ModelError, match="text_encoder.* is damaged: sha256"):
        pipeline.stream("a dog", length="1f", steps=1)


def test_a_pack_without_its_encoder_shows_known_prompts(pack, tmp_path):
    wanted = load(pack, device="cpu").generate("a cat", length="9f", seed=1, steps=1)
    bare = shutil.copytree(pack, tmp_path / "bare")
    shutil.rmtree(bare / "text_encoder")
    shutil.rmtree(bare / "tokenizer")
    pipeline = load(bare, device="cpu")
    assert (pipeline.generate("a cat", length="9f", seed=1, steps=1) == wanted).all()
    with pytest.raises(ModelError, match=r"is missing; get tiny-wan again"):
        pipeline.generate("a dog", length="9f")


def test_umt5_is_gone_before_a_chunk_is_made_and_comes_back_for_a_new_prompt(pack, loads):
    pipeline = load(pack, device="cpu")
    assert not loads
    stream = pipeline.stream("a cat", length="33f", seed=1, steps=1)
    assert is_loaded(pipeline.text)
    next(stream)
    assert not is_loaded(pipeline.text)
    stream.prompt = "a dog"
    assert is_loaded(pipeline.text)
    stream.prompt = "a bird"
    assert len(loads) == 2
    next(stream)
    assert not is_loaded(pipeline.text)
    stream.prompt = "a cat"
    assert not is_loaded(pipeline.text)
    list(stream)
    assert len(loads) == 2


def test_verbose_tells_where_features_are_from(pack, work):
    options = ["t2v", "a cat", "--model", str(pack), "--length", "1f", "--steps", "1", "--device", "cpu", "-v"]
    first, second = (CliRunner().invoke(app, [*options, "-o", f"{name}.mp4"]) for name in "ab")
    assert "'a cat': encoded by umT5 in " in first.stderr, first.stderr
    assert "'a cat': from the cache" in second.stderr, second.stderr


# --- on the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_put_is_what_is_got(tmp_path, dtype):
    cache, key = TextCache(tmp_path / "text"), "0" * 64
    assert cache.get(key) is None
    cache.put(key, features(1, dtype=dtype))
    assert same(cache.get(key), features(1, dtype=dtype))
    cache.put(key, features(2, dtype=dtype))
    assert same(cache.get(key), features(2, dtype=dtype))
    assert [path.name for path in (tmp_path / "text").iterdir()] == [f"{key}.safetensors"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text_file(path: Path) -> None:
    path.write_text("not features at all")


@pytest.mark.parametrize("damage", [cut, flip, empty, text_file])
def test_a_damaged_entry_is_made_again(pack, loads, own_cache, damage):
    wanted = text_of(pack, cache=TextCache(own_cache)).encode("a cat").embeds
    damage(next(own_cache.iterdir()))
    again = text_of(pack, cache=TextCache(own_cache)).encode("a cat")
    assert torch.equal(again.embeds, wanted)
    assert again.origin.startswith("encoded")
    assert text_of(pack, cache=TextCache(own_cache)).encode("a cat").origin == "from the cache"


def test_what_was_longest_unused_goes_first(tmp_path):
    cache = TextCache(tmp_path / "text")
    keys = [str(number) * 64 for number in range(4)]
    for age, key in enumerate(reversed(keys)):
        cache.put(key, features(1))
        os.utime(tmp_path / "text" / f"{key}.safetensors", (time.time() - 100 * (4 - age),) * 2)
    assert cache.get(keys[3]) is not None  # the oldest, now used
    size = (tmp_path / "text" / f"{keys[0]}.safetensors").stat().st_size
    TextCache(tmp_path / "text", bound=3 * size).put("a" * 64, features(1))
    assert [key for key in [*keys, "a" * 64] if cache.get(key)] == [keys[0], keys[3], "a" * 64]


def test_an_entry_larger_than_the_bound_stays_until_the_next(tmp_path):
    cache = TextCache(tmp_path / "text", bound=1)
    cache.put("1" * 64, features(1))
    assert cache.get("1" * 64) is not None
    cache.put("2" * 64, features(2))
    assert cache.get("1" * 64) is None
    assert cache.get("2" * 64) is not None


def test_foreign_files_stay_and_what_a_killed_process_left_goes(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("notes.txt", ".left", ".new"):
        (folder / name).write_text("x" * 100)
    os.utime(folder / ".left", (0, 0))
    TextCache(folder, bound=1).put("1" * 64, features(1))
    assert {path.name for path in folder.iterdir()} == {"notes.txt", ".new", "1" * 64 + ".safetensors"}


def test_a_cache_that_cannot_be_written_costs_only_time(pack, tmp_path):
    (tmp_path / "file").write_text("")
    text = text_of(pack, cache=TextCache(tmp_path / "file" / "text"))
    assert text.encode("a cat").embeds.any()


# --- where and how large ----------------------------------------------------------------------------------------------


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("CAUSVID_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "causvid"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "causvid"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "causvid"


def test_the_bound_is_a_size_that_a_user_writes(monkeypatch):
    assert TextCache.of_user().bound == DEFAULT_BOUND == 2**30
    for said, wanted in (("500MB", 5 * 10**8), ("2 GiB", 2**31), ("1.5kb", 1500), ("4096", 4096)):
        monkeypatch.setenv("CAUSVID_TEXT_CACHE", said)
        assert TextCache.of_user().bound == parse_bytes(said, name="") == wanted
    for said in ("0", "off"):
        monkeypatch.setenv("CAUSVID_TEXT_CACHE", said)
        assert TextCache.of_user() is None
    monkeypatch.setenv("CAUSVID_TEXT_CACHE", "lots")
    with pytest.raises(UsageError, match="^CAUSVID_TEXT_CACHE=lots: not a size; try 500MB, 2GiB, or 0 for none$"):
        TextCache.of_user()
