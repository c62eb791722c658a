"""What anybody may have written is read within bounds, or refused in one line."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Interval

from causvid_cli.architectures import load_config
from causvid_cli.config import from_json, load_facts
from causvid_cli.errors import MediaError, ModelError, UsageError
from causvid_cli.untrusted import MOST_BYTES, parse_json, read_object


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON: Expecting value"),
        ('{"a": 1, "b": 2, "a": 3}', "not JSON: the key 'a' stands there twice"),
        ('{"a": NaN}', "not JSON: NaN is no number"),
        ("[-Infinity]", "not JSON: -Infinity is no number"),
        ("[1e400]", "not JSON: 1e400 is too large a number"),
        ("[" + "9" * 5000 + "]", r"not JSON: 9{20}\.\.\. is too large a number"),
        ("[" * 100 + "]" * 100, "brackets nested deeper than 32 levels"),
        ("[" * 100_000 + "]" * 100_000, "brackets nested deeper than 32 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "brackets nested deeper than 32 levels"),
        (" " * MOST_BYTES + "1", "larger than 4,194,304 bytes"),
        (b"\xff", "not JSON: 'utf-8' codec"),
    ],
)
def test_json_that_programs_read_in_more_than_one_way_is_refused(text, complaint):
    with pytest.raises(MediaError, match=f"^x: {complaint}"):
        parse_json(text, where="x", error=MediaError)


def test_ordinary_json_is_what_json_makes_of_it():
    data = {"a": [1, 2.5, -3e-7, None, True, "\ud800 \0 ü", {}], "": 2**64 - 1}
    assert parse_json(json.dumps(data), where="x") == data


@dataclass(frozen=True, kw_only=True)
class Thing:
    __pydantic_config__ = {"extra": "forbid"}

    size: Annotated[int, Interval(ge=1, le=9)]
    parts: tuple["Thing", ...] = ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"size": 0}', "size: must be greater than or equal to 1, got 0"),
        ('{"size": 1.0}', "size: must be a valid integer, got 1.0"),
        ('{"size": 1, "parts": [{"size": true}]}', "parts.0.size: must be a valid integer, got True"),
        ('{"size": 1, "sise": 2}', "sise: unknown; did you mean size?"),
        ('{"size": "' + "x" * 500 + '"}', "size: must be a valid integer, got 'xxx[^ ]{70,90}$"),
        ("[1]", r"must hold a JSON object, not \[1\]"),
        ('{"size": 1, "parts": [' + ",".join(["{}"] * 60_000) + "]}", "holds more than 50,000 values"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(text, complaint):
    with pytest.raises(UsageError, match=f"^x: {complaint}"):
        from_json(Thing, text, where="x")


def test_what_may_never_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    started = time.monotonic()
    for name, complaint in (
        ("fifo", "cannot be read: not a regular file"),
        ("zero", "cannot be read: not a regular file"),
        ("folder", "cannot be read: "),
        ("huge", "larger than 4,194,304 bytes"),
        ("none", "cannot be read: no such file"),
        ("x" * 300, "cannot be read: file name too long"),
    ):
        with pytest.raises(ModelError, match=f"^{tmp_path / name}: {complaint}"):
            read_object(tmp_path / name, error=ModelError)
    assert time.monotonic() - started < 2


def test_special_files_in_a_pack_are_refused(tmp_path):
    os.mkfifo(tmp_path / "causvid.json")
    with pytest.raises(ModelError, match="causvid.json: cannot be read: not a regular file; a model pack is a folder"):
        load_facts(tmp_path)
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="config.json: cannot be read: not a regular file"):
        load_config(tmp_path, "StoryText")


@pytest.mark.parametrize(
    ("class_name", "changes", "complaint"),
    [
        ("PixelCodec", {"colours": 48, "stack": -1}, "stack: must be greater than or equal to 1, got -1"),
        (
            "PixelCodec",
            {"colours": 48, "blocks": 2**40},
            "blocks.*: must be less than or equal to 64, got 1099511627776",
        ),
        ("PixelCodec", {"colours": 48, "decoder_widths": [1, 2]}, "decoder_widths: .* must have at least 3 items"),
        ("WanTransformer3DModel", {"num_layers": 2**40}, "num_layers: must be less than or equal to 128"),
        ("WanTransformer3DModel", {"patch_size": [1, 4, 4]}, "patch_size.1: must be 2, got 4"),
        ("WanTransformer3DModel", {"attention_head_dim": 7}, "attention_head_dim: must be a multiple of 2, got 7"),
        ("AutoencoderKLWan", {"z_dim": 4}, r"latents_mean: must have z_dim \(4\) entries, has 16"),
        ("AutoencoderKLWan", {"dim_mult": [1, 2]}, "temperal_downsample: must have one entry less than dim_mult"),
        ("StoryText", {"dim": 8, "words": {"subject": ["$(x)"]}}, "words.colour: missing"),
        ("UMT5EncoderModel", {"relative_attention_max_distance": 2}, "relative_attention_max_distance: must be more"),
    ],
)
def test_a_network_of_no_sense_is_refused_before_it_is_built(class_name, changes, complaint, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"_class_name": class_name} | changes))
    with pytest.raises(ModelError, match=f"^{path}: {complaint}"):
        load_config(tmp_path, class_name)
