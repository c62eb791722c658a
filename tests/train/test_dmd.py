"""Distribution matching: its equations, and that the student's roll-out in training is the one that makes videos."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from causvid_cli.geometry import take_chunks
from causvid_cli.prompt.story import StoryText
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import Step, add_noise, x0_from
from causvid_cli.train.config import DmdConfig, NetworkConfig, RolloutFacts
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser, build_network
from causvid_cli.train.dmd import Matching, last_steps, noised_clips, real_x0, self_rollout
from causvid_cli.train.layout import Layout, cache_for, draw_steps, every_step, few_steps, steps_of_chunk
from causvid_cli.train.losses import distribution_matching, dmd_gradient, flow_matching
from causvid_cli.train.teacher_stage import standard_normal

CPU = torch.device("cpu")
FACTS = RolloutFacts(chunk_frames=2, window_frames=4, steps=(1000.0, 750.0, 500.0), shift=3.0)
FEWER = replace(FACTS, steps=(1000.0, 500.0), first_steps=(1000.0, 750.0, 500.0))
SHAPE = (2, 4, 6, 4, 4)
"""Three chunks, one more than the window holds."""


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    text = StoryText.for_vocabulary(dim=16)
    made = Denoiser(build_network(NetworkConfig(layers=2, heads=2, head_dim=24, ffn_dim=48, text_dim=16), 4), text)
    torch.nn.init.normal_(made.network.transformer.proj_out.weight, std=0.2)
    return made


def rows_of(denoiser: Denoiser, batch: int = 2) -> Tensor:
    return denoiser.text.empty_rows(batch).clone() + 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- the equations -------------------------------------------------------------------------------------------------


def test_the_gradient_is_the_difference_of_the_scores_over_the_distance_from_the_real_one():
    x0, real, fake = (random(3, 2, 2, 2, 2, seed=s) for s in range(3))
    wanted = torch.stack([(f - r) / (x - r).abs().mean() for x, r, f in zip(x0, real, fake, strict=True)])
    torch.testing.assert_close(dmd_gradient(x0, real, fake), wanted)


def test_the_loss_has_that_gradient_and_no_other():
    x0, real, fake = (random(3, 2, 2, 2, 2, seed=s).requires_grad_() for s in range(3))
    gradient = dmd_gradient(x0, real, fake)
    distribution_matching(x0, gradient).backward()
    torch.testing.assert_close(x0.grad, gradient / x0.numel())
    assert real.grad is None and fake.grad is None


def test_a_student_that_is_what_the_teacher_makes_is_left_alone():
    x0, real = random(1, 2, 2, 2, 2), random(1, 2, 2, 2, 2, seed=1)
    assert not dmd_gradient(x0, real, real).any()


def test_a_sample_that_is_its_own_real_score_does_not_divide_by_zero():
    x0 = random(1, 2, 2, 2, 2)
    assert dmd_gradient(x0, x0, x0 + 1).isfinite().all()


def test_it_moves_a_gaussian_to_the_teachers():
    """In one dimension both scores are known: student N(m, 1) comes to rest at the teacher's N(2, 1)."""
    mean = torch.tensor(-1.0, requires_grad=True)
    step = torch.optim.SGD([mean], lr=0.3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        x0 = mean + torch.randn(256, 1, 1, 1, 1, generator=rng)
        sigma = 0.1 + 0.8 * torch.rand(256, generator=rng)
        x_t = add_noise(x0.detach(), torch.randn(x0.shape, generator=rng), sigma)
        s = sigma.view(-1, 1, 1, 1, 1)
        gain = (1 - s) / ((1 - s) ** 2 + s**2)  # of the posterior mean of N(m, 1) after noise
        real, fake = (m + gain * (x_t - (1 - s) * m) for m in (2.0, mean.detach()))
        step.zero_grad()
        distribution_matching(x0, dmd_gradient(x0, real, fake)).backward()
        step.step()
    assert mean.item() == pytest.approx(2.0, abs=0.1)


# --- the roll-out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [FACTS, FEWER], ids=["as many", "fewer"])
def test_the_rollout_of_training_is_the_rollout_of_generation(denoiser, facts):
    rows, like = rows_of(denoiser), torch.empty(SHAPE)
    last = len(facts.steps) - 1
    end = self_rollout(denoiser, rows, like, facts, exit_step=last, rng=np.random.default_rng(0))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        prompt = denoiser.prompt(rows)
        made = rollout(
            denoiser.network,
            prompt=lambda _: prompt,
            steps=partial(steps_of_chunk, facts),
            cache=cache_for(denoiser.network, like, facts),
            chunks=take_chunks(6, 2),
            noise=lambda *_: standard_normal(rng, like[:, :, :2]),
        )
        torch.testing.assert_close(end.x0, torch.cat([x0 for _, x0 in made], dim=2), rtol=0, atol=0)


@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_one_pass_gives_what_the_last_steps_gave(denoiser, exit_step):
    rows = rows_of(denoiser)
    end = self_rollout(denoiser, rows, torch.empty(SHAPE), FACTS, exit_step=exit_step, rng=np.random.default_rng(1))
    again = last_steps(denoiser, rows, end, FACTS)
    # 2e-5: float32, other sizes of matrix product
    torch.testing.assert_close(again.detach(), end.x0, atol=2e-5, rtol=0)
    assert Step(end.timestep, end.sigma) == few_steps(FACTS)[exit_step]


@pytest.mark.parametrize(("exit_step", "first_exit"), [(0, 2), (1, 0), (1, 1), (0, None)])
def test_the_first_chunk_stops_at_a_step_of_its_own(denoiser, exit_step, first_exit):
    rows, like, rng = rows_of(denoiser), torch.empty(SHAPE), np.random.default_rng(1)
    end = self_rollout(denoiser, rows, like, FEWER, exit_step=exit_step, first_exit=first_exit, rng=rng)
    again = last_steps(denoiser, rows, end, FEWER)
    torch.testing.assert_close(again.detach(), end.x0, atol=2e-5, rtol=0)
    wanted = [1000.0, 750.0, 500.0][exit_step + 1 if first_exit is None else first_exit], [1000.0, 500.0][exit_step]
    shifted = [1000 * 3 * t / (1000 + 2 * t) for t in wanted]
    assert end.timestep.tolist() == [pytest.approx([shifted[0]] * 2 + [shifted[1]] * 4)]


def test_each_chunk_is_trained_at_steps_of_its_own():
    layout, seen = Layout.of(6, FEWER), [set(), set(), set()]
    for seed in range(40):
        pick = draw_steps(np.random.default_rng(seed), 2, layout, FEWER)
        assert pick.shape == (2, 6)
        for number, chunk in enumerate(layout.chunks):
            frames = pick[:, chunk.start_frame : chunk.end_frame]
            assert (frames == frames[:, :1]).all()
            seen[number] |= {every_step(FEWER)[place].timestep for place in frames[:, 0].tolist()}
    assert seen == [{step.timestep for step in steps_of_chunk(FEWER, chunk)} for chunk in layout.chunks]
    assert [len(each) for each in seen] == [3, 2, 2]


def test_its_gradient_is_that_of_a_rollout_through_a_detached_cache(denoiser):
    rows, target = rows_of(denoiser), random(*SHAPE, seed=5)
    gradients = []
    for learn in (True, False):
        rng = np.random.default_rng(2)
        end = self_rollout(denoiser, rows, target, FACTS, exit_step=1, rng=rng, learn=learn)
        x0 = end.x0 if learn else last_steps(denoiser, rows, end, FACTS)
        (x0 - target).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in denoiser.named_parameters() if p.grad is not None})
        denoiser.zero_grad(set_to_none=True)
    by_chunks, at_once = gradients
    assert by_chunks.keys() == at_once.keys()
    largest = max(grad.abs().max().item() for grad in by_chunks.values())
    for name, grad in by_chunks.items():
        torch.testing.assert_close(at_once[name], grad, atol=1e-4 * largest, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("exit_step", [0, 2])
def test_learning_changes_no_roll_out(denoiser, exit_step):
    rows, like = rows_of(denoiser), torch.empty(SHAPE)
    plain, learnt = (
        self_rollout(
            denoiser, rows, like, FACTS, exit_step=exit_step, rng=np.random.default_rng(1), learn=learn
        ).x0.detach()
        for learn in (False, True)
    )
    torch.testing.assert_close(learnt, plain, atol=2e-5, rtol=0)  # float32, another order of sums


def test_diffusion_forcing_does_not_see_the_future(denoiser):
    rows, x0 = rows_of(denoiser), random(*SHAPE)
    other = x0.clone()
    other[:, :, 4:] += 1
    first, second = (
        noised_clips(denoiser, rows, x, FACTS, rng=np.random.default_rng(3))[:, :, :4].detach() for x in (x0, other)
    )
    torch.testing.assert_close(first, second)


# --- teacher and critic --------------------------------------------------------------------------------------------


def test_guidance_of_one_is_the_prompt_alone(denoiser):
    x_t, sigma, rows = random(*SHAPE), torch.tensor([0.3, 0.8]), rows_of(denoiser)
    with torch.no_grad():
        output = denoiser.network.forward_whole(x_t, 1000 * sigma, denoiser.prompt(rows))
    wanted = x0_from(denoiser.network.prediction, x_t, output, sigma)
    torch.testing.assert_close(real_x0(denoiser, x_t, sigma, rows, guidance=1.0), wanted, atol=1e-5, rtol=0)


@pytest.fixture
def clips(tmp_path) -> LatentClips:
    from safetensors.torch import save_file

    text = StoryText.for_vocabulary(dim=16)
    tensors = {
        "x0": random(5, *SHAPE[1:]).half(),
        "rows": text.empty_rows(5).contiguous() + 2,
        "sprite": torch.zeros(5, *SHAPE[2:], dtype=torch.uint8),
        "known_from": torch.zeros(5, dtype=torch.int64),
        "share": torch.ones(5),
    }
    save_file(tensors, tmp_path / "clips-00000.safetensors")
    return LatentClips(tmp_path)


def matching_of(denoiser: Denoiser, clips: LatentClips, **options) -> Matching:
    teacher = copy.deepcopy(denoiser).requires_grad_(False)
    return Matching(
        denoiser, copy.deepcopy(denoiser), teacher, clips, FACTS, DmdConfig(**options), batch=2, shift=2.0, device=CPU
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"forcing": "diffusion"}, {"real_score": "causal"}, {"long_latent_frames": 8, "long_share": 1.0}],
    ids=["self-forcing", "diffusion forcing", "causal teacher", "long"],
)
def test_student_and_critic_learn_in_turns_and_the_teacher_never(denoiser, clips, options):
    matching = matching_of(denoiser, clips, critic_updates=2, **options)
    rng = np.random.default_rng(0)
    learned = []
    for step in range(6):
        values = matching(step, rng)
        (name,) = {"student", "critic"} & values.keys()
        values[name].backward()
        for other in ("student", "critic", "teacher"):
            grads = [p.grad for p in getattr(matching, other).network.parameters() if p.grad is not None]
            assert bool(grads) == (other == name)
            getattr(matching, other).zero_grad(set_to_none=True)
        learned.append(name)
    assert learned == ["critic", "critic", "student"] * 2


def test_the_critic_learns_flow_matching_on_what_the_student_makes(denoiser, clips):
    matching = matching_of(denoiser, clips)
    value = matching.critic_loss(np.random.default_rng(4))["critic"]
    rng = np.random.default_rng(4)
    with torch.no_grad():
        rows, x0 = matching.sample(rng)
    sigma, noise = matching.noise(x0, rng)
    critic = matching.critic
    output = critic.network.forward_whole(add_noise(x0, noise, sigma), 1000 * sigma, critic.prompt(rows))
    torch.testing.assert_close(value, flow_matching("flow", add_noise(x0, noise, sigma), output, x0, noise, sigma))


def test_scores_are_compared_between_the_least_and_the_largest_noise_level(denoiser, clips):
    many = torch.zeros(200, *SHAPE[1:])
    free, _ = matching_of(denoiser, clips, min_sigma=0.0, max_sigma=1.0).noise(many, np.random.default_rng(0))
    held, _ = matching_of(denoiser, clips, min_sigma=0.4, max_sigma=0.7).noise(many, np.random.default_rng(0))
    s, _ = replace(matching_of(denoiser, clips, min_sigma=0.0, max_sigma=1.0), shift=1.0).noise(
        many, np.random.default_rng(0)
    )
    torch.testing.assert_close(free, 2 * s / (1 + s))
    assert free.min() < 0.4 and free.max() > 0.7
    torch.testing.assert_close(held, free.clamp(0.4, 0.7), rtol=0, atol=0)


def test_long_rollouts_pass_the_clips_of_training_and_cost_no_more(denoiser, clips):
    matching = matching_of(denoiser, clips, long_latent_frames=12, long_share=1.0)
    with torch.no_grad():
        rows, x0 = matching.sample(np.random.default_rng(0))
    assert x0.shape == (1, 4, 12, 4, 4) and len(rows) == 1
