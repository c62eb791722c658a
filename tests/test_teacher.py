import shutil
from pathlib import Path

import pytest
import torch
from tiny import tiny_facts, tiny_pack

from causvid_cli.config import load_facts
from causvid_cli.errors import ModelError, NumericsError
from causvid_cli.geometry import Chunk
from causvid_cli.models.packs import write_pack_manifest
from causvid_cli.pipeline import load
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.sampling.schedule import sampler_sigmas
from causvid_cli.teacher import Teacher, denoise_whole, load_teacher

CAR = "a red car moves left in the snow"


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="module")
def teacher(pack) -> Teacher:
    return load_teacher(pack, device="cpu")


def test_a_clip_has_the_frames_and_the_size_of_the_students(teacher, pack):
    frames = teacher.generate(CAR, length="13f", seed=1)
    assert (frames.shape, frames.dtype) == ((13, 128, 128, 3), "uint8")
    assert frames.shape == load(pack, device="cpu").generate(CAR, length="13f", seed=1).shape


def test_the_same_seed_gives_the_same_clip_and_another_one_another(teacher):
    frames = teacher.generate(CAR, length="8f", seed=1)
    assert (frames == teacher.generate(CAR, length="8f", seed=1)).all()
    assert (frames != teacher.generate(CAR, length="8f", seed=2)).any()


def test_it_begins_with_the_noise_of_the_students_chunks(teacher):
    draw = seeded_noise(7, batch=1, channels=24, latent_height=8, latent_width=8)
    wanted = torch.cat([draw(Chunk(i, i, 1), 0) for i in range(3)], dim=2)
    assert torch.equal(teacher.start_noise(3, batch=1, seed=7), wanted)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_clips_of_a_batch_are_those_made_one_by_one(teacher, guidance):
    noise = teacher.start_noise(2, batch=3, seed=1)
    prompts = ("a cat jumps", "a blue boat", "a swan in space")
    sigmas = sampler_sigmas(4, shift=3.0)
    with torch.inference_mode():
        embeds = torch.cat([teacher.text.encode(prompt).embeds for prompt in prompts])

        def make(places: slice) -> torch.Tensor:
            return denoise_whole(
                teacher.model, noise[places], embeds[places], teacher.text.empty(), sigmas=sigmas, guidance=guidance
            )

        error = (make(slice(3)) - torch.cat([make(slice(i, i + 1)) for i in range(3)])).abs().max().item()
    assert error < 1e-4, error  # larger products are summed in another order


def test_steps_and_guidance_are_the_packs_unless_given(teacher):
    asked = teacher.generate(CAR, length="4f", seed=1, steps=4, guidance=2.0)
    assert (asked == teacher.generate(CAR, length="4f", seed=1)).all()
    assert (asked != teacher.generate(CAR, length="4f", seed=1, guidance=4.0)).any()


def test_a_pack_without_a_teacher_says_so(tmp_path):
    with pytest.raises(ModelError, match="tiny comes without its teacher"):
        load_teacher(tiny_pack(tmp_path / "alone", teacher=None))


def test_a_pack_may_have_the_teacher_of_another_one_beside_it(tmp_path):
    home, of = tiny_pack(tmp_path / "home"), {"name": "smaller", "teacher_of": "home"}
    smaller = tiny_pack(tmp_path / "smaller", **of)
    shutil.rmtree(smaller / "teacher")
    write_pack_manifest(smaller, load_facts(smaller))
    own, theirs = (load_teacher(pack, device="cpu") for pack in (home, smaller))
    assert (own.generate(CAR, length="4f", seed=1) == theirs.generate(CAR, length="4f", seed=1)).all()
    assert (own.facts.name, theirs.facts.name) == ("tiny", "smaller")
    weights = home / "teacher" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"home/teacher/.*is damaged"):
        load_teacher(smaller, device="cpu")
    shutil.rmtree(home)
    with pytest.raises(ModelError, match="no model 'home'"):
        load_teacher(smaller, device="cpu")
    tiny_pack(home, teacher=None)
    with pytest.raises(ModelError, match="teacher_of: tiny comes without a teacher of its own"):
        load_teacher(smaller, device="cpu")
    with pytest.raises(ModelError, match="teacher_of: goes with a teacher"):
        tiny_facts(teacher=None, teacher_of="home")


def test_a_clip_that_is_not_finite_is_an_error(tmp_path):
    teacher = load_teacher(tiny_pack(tmp_path / "tiny"), device="cpu")
    teacher.model.transformer.proj_out.bias.fill_(torch.nan)
    with pytest.raises(NumericsError, match=r"the teacher's clip is not finite \(seed 1\)"):
        teacher.generate(CAR, length="4f", seed=1)
