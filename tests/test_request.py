import subprocess
import sys

import pytest
from tiny import tiny_codec, tiny_facts

from causvid_cli.errors import UsageError
from causvid_cli.request import (
    LARGEST_SEED,
    Loading,
    check_device,
    check_seed,
    check_size,
    check_steps,
    parse_any_size,
    random_seed,
    size_text,
)
from causvid_cli.sampling.plan import GenerateOptions, make_plan


def test_it_loads_nothing_slow():
    code = "import sys, causvid_cli.request; sys.exit(', '.join({'torch', 'numpy', 'av'} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_model_of_pixel_cells_is_enlarged_by_whole_numbers():
    facts = tiny_facts(width=64, height=64, enlarge=8)
    assert check_size(None, facts) == (64, 64, 8)
    assert check_size((64, 64), facts) == (64, 64, 1)
    assert check_size((512, 512), facts) == (64, 64, 8)


@pytest.mark.parametrize(
    ("size", "near"),
    [
        ((63, 63), "64x64 or 128x128"),
        ((200, 200), "192x192 or 256x256"),
        ((511, 511), "448x448 or 512x512"),
        ((128, 64), "128x128 or 192x192"),
    ],
)
def test_another_size_names_the_two_nearest(size, near):
    with pytest.raises(UsageError, match=f"try {near}$"):
        check_size(size, tiny_facts(width=64, height=64))


def test_a_model_that_is_not_enlarged_takes_any_multiple_of_16():
    facts = tiny_facts(width=832, height=480, enlarge=1)
    assert check_size((640, 368), facts) == (640, 368, 1)
    with pytest.raises(UsageError, match="width 830 is not a multiple of 16; try 816 or 832"):
        check_size((830, 480), facts)


def test_a_model_that_copies_what_was_there_takes_one_step():
    facts = tiny_facts(prediction="copies", opening_network="opening", steps=(1000.0,), first_steps=(1000.0, 500.0))
    assert check_steps(None, facts) == check_steps(1, facts) == 1
    with pytest.raises(UsageError, match="--steps 4: tiny copies what was there in one step; leave it out"):
        check_steps(4, facts)


def test_seeds_have_63_bits():
    assert check_seed(0) == 0
    assert check_seed(LARGEST_SEED) == 2**63 - 1
    assert all(check_seed(random_seed()) >= 0 for _ in range(10))


def test_the_models_own_number_of_steps_changes_nothing():
    for warp_steps in (True, False):
        facts = tiny_facts(steps=(1000.0, 700.0, 300.0), warp_steps=warp_steps)
        assert check_steps(None, facts) == 3
        options = (GenerateOptions(length="8f", seed=1, steps=steps) for steps in (3, None))
        asked, default = (make_plan(facts, chosen, codec=tiny_codec().facts) for chosen in options)
        assert asked == default


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices_have_names(name):
    assert check_device(name) == name


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA", "cuda:١"])
def test_another_device_name_is_refused(name):
    with pytest.raises(UsageError, match="unknown; try auto, cpu, cuda"):
        check_device(name)


@pytest.mark.parametrize("wrong", [{"vae": "ful"}, {"quantize": "int4"}, {"offload": "all"}, {"attention": "x"}])
def test_a_way_to_load_that_there_is_not_is_refused_with_those_there_are(wrong):
    with pytest.raises(UsageError, match="unknown; try .* or "):
        Loading(**wrong)


def test_a_size_can_be_a_name_or_say_its_enlargement():
    wan = tiny_facts(width=832, height=480, enlarge=1, sizes={"small": (256, 144, 3)})
    for text, made in (
        ("small", (256, 144, 3)),
        ("native", (832, 480, 1)),
        ("256x144@3", (256, 144, 3)),
        ("320X192", (320, 192, 1)),
    ):
        size = parse_any_size(text)
        assert check_size(size, wan) == made
        assert parse_any_size(size_text(size)) == size
    cells = tiny_facts(width=64, height=64, enlarge=8)
    assert check_size("native", cells) == check_size((64, 64, 8), cells) == (64, 64, 8)
    for text, complaint in (("255x144@3", "width 255"), ("medium", "try native or small"), ("16x16@0", "longest side")):
        with pytest.raises(UsageError, match=complaint):
            check_size(parse_any_size(text), wan)
