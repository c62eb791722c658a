"""`causvid distill` with Wan2.1 as teacher and student, in small: the real command, from videos to a video."""

import copy
import json
import shutil
from pathlib import Path
from unittest.mock import patch

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_wan import tiny_wan
from train.test_parallel import assert_same_run, in_two
from typer.testing import CliRunner, Result

pytest.importorskip("transformers")

from causvid_cli.cli.app import app
from causvid_cli.geometry import Chunk
from causvid_cli.network.masks import attention_parts, teacher_forcing_mask
from causvid_cli.sampling.context import commit_chunk
from causvid_cli.train import parallel
from causvid_cli.train.base_model import load_base, wan_facts
from causvid_cli.train.config import DmdConfig, RolloutFacts, load_config
from causvid_cli.train.dataset import Batch
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.distill import Distillation
from causvid_cli.train.dmd import Matching
from causvid_cli.train.layout import Layout, cache_for
from causvid_cli.train.prompt_table import PromptTable
from causvid_cli.train.trainer import Trainer

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = (48, 32)
PLAN = """
name = "tiny-wan"
base = "{base}"
{compute}
[data]
videos = "{data}/videos"
prompts = "{data}/prompts.txt"
sizes = [[48, 32]]
latent_frames = 6        # 21 pictures
clips_per_video = 1
[rollout]
chunk_frames = 3
window_frames = 6
steps = [1000.0, 500.0]
shift = 5.0
[ode]
pairs = 4
steps = 2
batch = 2
[student]
steps = 2
batch = 2
lr = 1e-3
[dmd]
steps = 4
batch = 2
lr = 1e-3
save_every = 2
[matching]
critic_updates = 1
guidance = 3.5
{matching}
"""
COMPUTE = '[compute]\nprecision = "bf16"\ngradient_checkpointing = true'


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_wan(tmp_path_factory.mktemp("wan") / "Wan2.1-T2V-tiny-Diffusers")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three videos of 2 s with captions, and a prompt without a video."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "fox"):
        pictures = np.repeat(np.repeat(rng.integers(0, 256, (32, 8, 12, 3), dtype=np.uint8), 4, 1), 4, 2)
        imageio.imwrite(folder / "videos" / f"{name}.mp4", pictures, fps=16, codec="libx264", macro_block_size=2)
        (folder / "videos" / f"{name}.txt").write_text(f"a {name} runs")
    (folder / "prompts.txt").write_text("a bird sings\n")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing is downloaded: whoever tries to connect fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", refuse)


def causvid(*arguments: object) -> Result:
    done = CliRunner(env={"NO_COLOR": "1"}).invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output + "".join(map(str, done.exc_info or ()))
    return done


def distill(folder: Path, plan: str, *options: object) -> Path:
    """The pack that the command makes in a folder."""
    config = folder / "run.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(plan)
    return Path(causvid("distill", config, "--run-dir", folder, "--device", "cpu", *options).stdout.strip())


def plan_of(base: Path, data: Path, *, more: str = "", compute: str = "", **matching: object) -> str:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in matching.items())
    return PLAN.format(base=base, data=data, compute=compute, matching=lines) + more


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def differs(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not what the others are in bfloat16."""
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not torch.equal(ours[name], theirs[name].to(ours[name].dtype))}


def assert_makes_a_video(pack: Path, folder: Path) -> None:
    output = folder / "bird.mp4"
    options = ["--length", "33f", "--seed", 1, "--device", "cpu", "-o", output, "--json"]
    made = causvid("t2v", "a bird sings", "--model", pack, *options)
    assert json.loads(made.stdout)["frames"] == 33  # 9 latent frames: past the window, which is 6
    assert imageio.imread(output).shape == (33, *SIZE[::-1], 3)


@pytest.mark.parametrize(
    ("compute", "matching"),
    [("", {}), (COMPUTE, {}), ("", {"forcing": "diffusion"})],
    ids=["self-forcing", "bf16, checkpointing", "diffusion forcing"],
)
def test_wan_is_distilled_into_a_pack_that_makes_videos(base, data, tmp_path, compute, matching):
    before = (base / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    pack = distill(tmp_path, plan_of(base, data, compute=compute, **matching))
    assert (base / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    original, teacher, student = weights(base / "transformer"), weights(pack / "teacher"), weights(pack / "transformer")
    assert not differs(teacher, original)
    assert len(differs(student, original)) > len(original) / 2
    assert_makes_a_video(pack, tmp_path)


def test_prompts_alone_are_enough(base, data, tmp_path):
    """As Self-Forcing trains: the teacher's solutions and the student's roll-outs need no video."""
    plan = plan_of(base, data).replace(f'videos = "{data}/videos"\n', "")
    pack = distill(tmp_path, plan)
    original = weights(base / "transformer")
    assert not differs(weights(pack / "teacher"), original)
    assert len(differs(weights(pack / "transformer"), original)) > len(original) / 2
    (tmp_path / "run.toml").write_text(plan + MORE)
    refused = CliRunner().invoke(app, ["distill", str(tmp_path / "run.toml"), "--run-dir", str(tmp_path / "other")])
    assert refused.exit_code == 2
    assert "data.videos: missing; a stage of this run learns from clips, and there are only prompts" in refused.stderr


def test_prompts_without_videos_are_drawn_as_well(whole):
    run = Distillation(load_config(whole / "run.toml"), whole, CPU)
    prompted = run.prompted()
    assert prompted.shape == (16, 6, 4, 6)
    told = {run.text().prompts[row - 1] for row in prompted.rows.flatten().tolist()}
    assert told == {"a cat runs", "a dog runs", "a fox runs", "a bird sings"}
    batch = prompted.batch(np.random.default_rng(0), 64, device=CPU)
    assert batch.x0.shape == (64, 16, 6, 4, 6)
    assert len(batch.rows.unique()) == 4


MORE = "".join(f"[{stage}]\nsteps = 2\nbatch = 2\nlr = 1e-3\n" for stage in ("teacher", "causal"))


def test_teacher_and_student_may_learn_the_data_first(base, data, tmp_path):
    pack = distill(tmp_path, plan_of(base, data, more=MORE))
    original, teacher, student = weights(base / "transformer"), weights(pack / "teacher"), weights(pack / "transformer")
    assert len(differs(teacher, original)) > len(original) / 2
    assert len(differs(student, teacher)) > len(original) / 2
    assert {"teacher", "causal", "ode", "student", "dmd"} <= {path.name for path in tmp_path.iterdir()}
    assert_makes_a_video(pack, tmp_path)


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory) -> Path:
    """The folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    distill(folder, plan_of(base, data))
    return folder


def test_a_run_that_stops_after_every_stage_comes_to_the_same_pack(base, data, whole, tmp_path, monkeypatch):
    for stage in ("prepare", "ode", "student", "dmd", "export"):
        pack = distill(tmp_path, plan_of(base, data), "--stage", stage)
        if stage == "prepare":  # whatever comes later never holds umT5
            monkeypatch.setattr("causvid_cli.train.base_model.load_text", None)
    unbroken = whole / "pack" / "tiny-wan"
    assert (pack / "causvid.json").read_bytes() == (unbroken / "causvid.json").read_bytes()  # with all files' SHA-256
    made = (pack / "causvid.json").stat().st_mtime_ns
    assert distill(tmp_path, plan_of(base, data)) == pack  # all of it again: nothing is left to do but to export
    assert (pack / "causvid.json").stat().st_mtime_ns > made


STUDENT = ("--stage", "student")


def test_pairs_that_are_there_are_not_made_again(base, data, whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    kept, lost = (tmp_path / "ode" / f"pairs-0000{number}.safetensors" for number in range(2))
    before, made = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    refused = CliRunner().invoke(app, ["distill", str(tmp_path / "run.toml"), "--run-dir", str(tmp_path), *STUDENT])
    assert "--stage student: needs stage ode, which has not finished in" in refused.stderr
    distill(tmp_path, plan_of(base, data), "--stage", "ode")
    assert (lost.read_bytes(), kept.stat().st_mtime_ns) == (before, made)


# --- large clips: the same numbers without what a large clip cannot have --------------------------------------------

FACTS = RolloutFacts(chunk_frames=3, window_frames=6, steps=(1000.0, 500.0), shift=5.0)
CLIPS = (2, 16, 9, 4, 6)
"""Three chunks, one more than the window holds."""


@pytest.fixture
def denoiser(base, whole) -> Denoiser:
    network = load_base(base, device=CPU, dtype=torch.float32).teacher
    denoiser = Denoiser(network, PromptTable(whole / "latents" / "prompts"))
    return denoiser.requires_grad_(True).train()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(denoiser: Denoiser, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    denoiser.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in denoiser.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(grad.abs().max().item() for grad in theirs.values())
    for name, grad in theirs.items():
        error = (ours[name] - grad).abs().max().item()
        assert error <= 1e-4 * largest, f"{name}: {error:.3g} of {largest:.3g}"  # float32, sums in another order


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("detach_clean", [False, True])
def test_attention_part_by_part_is_attention_under_the_mask(denoiser, monkeypatch, detach_clean, checkpointing):
    denoiser.network.transformer.gradient_checkpointing = checkpointing
    x_t, clean, rows = random(*CLIPS), random(*CLIPS, seed=1), torch.tensor([[1], [2]])
    timestep = torch.tensor([[900.0, 500.0, 100.0]]).repeat_interleave(3, dim=1).expand(2, -1)
    found = []
    for most in (10**9, 0):
        monkeypatch.setattr("causvid_cli.network.model.LARGEST_MASKED", most)
        layout, prompt = Layout.of(9, FACTS), denoiser.prompt(rows)
        output = denoiser.network.forward_whole(
            x_t, timestep, prompt, mask=layout.mask, clean=clean, detach_clean=detach_clean
        )
        found.append((output.detach(), gradients(denoiser, output.square().mean())))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=0)
    assert_same_gradients(found[1][1], found[0][1])


def test_parts_are_what_the_mask_says():
    mask = teacher_forcing_mask((1, 2, 2), window_frames=4)
    of_tokens = torch.zeros(10 * 3, 10 * 3, dtype=torch.bool)
    for own, seen in attention_parts(mask, 3):
        for run in seen:
            of_tokens[own, run] = True
    assert torch.equal(of_tokens, mask.repeat_interleave(3, 0).repeat_interleave(3, 1))


class Shapes:
    """Clips that are asked for nothing but prompts and their shape."""

    latent_frames = CLIPS[2]

    def batch(self, rng, count, *, device, **_) -> Batch:
        nothing = torch.zeros(count, dtype=torch.long)
        return Batch(torch.zeros(count, *CLIPS[1:]), torch.tensor([[1], [2]]), torch.ones(count, 1), nothing)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_student_learns_the_same_from_large_clips_chunk_by_chunk(denoiser, monkeypatch, checkpointing):
    """Also while the window moves on, and where gradient checkpointing looks at the cache once more."""
    denoiser.network.transformer.gradient_checkpointing = checkpointing
    other = copy.deepcopy(denoiser)
    with torch.no_grad():
        other.network.transformer.proj_out.weight.mul_(1.5)  # else there would be nothing to learn
    plan = DmdConfig(guidance=3.5)
    matching = Matching(denoiser, denoiser, other, Shapes(), FACTS, plan, batch=2, shift=3.0, device=CPU)
    found = []
    for most in (10**9, 0):
        monkeypatch.setattr("causvid_cli.train.dmd.MOST_AT_ONCE", most)
        loss = matching.student_loss(np.random.default_rng(3))
        found.append((loss["student"].item(), gradients(denoiser, loss["student"])))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert_same_gradients(found[1][1], found[0][1])


def test_what_the_cache_held_stays_as_it_was(denoiser):
    cache = cache_for(denoiser.network, random(*CLIPS), FACTS)
    prompt = denoiser.prompt(torch.tensor([[1], [2]]))
    past = []
    with torch.no_grad():
        for number in range(4):
            chunk = Chunk(number, 3 * number, 3)
            commit_chunk(denoiser.network, chunk, random(2, 16, 3, 4, 6, seed=number), prompt, cache)
            past.append((cache.snapshot(), cache.keys.clone(), cache.frames()))
    for held, keys, frames in past:
        seen = len(frames) * cache.tokens_per_latent_frame
        assert held.frames() == frames
        assert torch.equal(held.keys[:, :, :seen], keys[:, :, :seen])


# --- several processes ---------------------------------------------------------------------------------------------


def test_teacher_and_critic_are_spread_like_the_student_and_processes_share_the_pairs(whole, tmp_path):
    def work() -> None:
        seen = {}
        init = Trainer.__init__

        def looked_at(self: Trainer, folder: Path, module: torch.nn.Module, *rest: object, **options: object) -> None:
            init(self, folder, module, *rest, **options)
            seen.update({name: spread(part) for name, part in module.named_children() if name in ("student", "critic")})

        def shard_too(module: torch.nn.Module, device: torch.device) -> None:
            parallel.shard(module, device)
            seen["teacher"] = spread(module)

        with patch.object(Trainer, "__init__", looked_at), patch("causvid_cli.train.dmd.shard", shard_too):
            Distillation(load_config(whole / "run.toml"), tmp_path, CPU).run(("ode", "dmd"))
        assert seen.keys() == {"student", "critic", "teacher"}
        assert all(0.45 < share < 0.55 for share in seen.values()), seen

    for made in ("latents", "student"):
        shutil.copytree(whole / made, tmp_path / made)
    in_two(work)
    assert_same_run(tmp_path / "dmd", whole / "dmd")
    assert {p.name: p.read_bytes() for p in (tmp_path / "ode").iterdir()} == {
        p.name: p.read_bytes() for p in (whole / "ode").iterdir()
    }


def spread(denoiser: torch.nn.Module) -> float:
    """The share of the blocks' weights that this process has."""
    blocks = [p for name, p in denoiser.named_parameters() if ".blocks." in name]
    return sum(parallel.local(p).numel() for p in blocks) / sum(p.numel() for p in blocks)


# --- the example ---------------------------------------------------------------------------------------------------


def test_the_example_for_8_gpus_can_be_read():
    config = load_config(EXAMPLES / "wan-1.3b.toml")
    assert config.stages() == ("prepare", "ode", "student", "dmd", "export")
    assert config.compute.shard and config.compute.gradient_checkpointing
    for plan in (config.student, config.dmd):
        assert plan.batch % (8 * plan.accumulate) == 0
    facts = wan_facts("Wan2.1-T2V-1.3B-Diffusers")
    assert config.data.latent_frames % facts.chunk_frames == 0
    head = (EXAMPLES / "wan-1.3b.toml").read_text().split("name =")[0]
    assert "torchrun --nproc-per-node 8 -m causvid_cli distill examples/wan-1.3b.toml" in head
