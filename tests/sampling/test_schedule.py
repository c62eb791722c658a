import pytest
import torch

from causvid_cli.sampling.schedule import (
    TABLE_SIZE,
    add_noise,
    even_steps,
    flow_from,
    flow_from_x0,
    nearest_index,
    sampler_sigmas,
    sigma_of,
    sigma_table,
    steps_of,
    timestep_table,
    warp,
    x0_from,
    x0_from_flow,
)

SHAPE = (2, 3, 4, 2, 2)
LEVELS = {
    "a number": 0.3,
    "one per clip": torch.tensor([0.2, 0.9]),
    "one per frame": torch.linspace(0.1, 1, 8).view(2, 4),
}


@pytest.fixture
def x0() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_the_table_falls_from_one_and_never_reaches_zero(shift):
    table = sigma_table(shift)
    assert len(table) == TABLE_SIZE
    assert table[0] == 1
    assert (table.diff() < 0).all()
    assert table[-1] > 0


def test_a_shift_of_one_changes_nothing():
    even = torch.linspace(1000, 1, 1000)
    error = (timestep_table(1.0) - even).abs().max().item()
    assert error <= 1e-4, f"largest error {error:.3g}"  # float32 has 6e-5 between neighbours at 1000


def test_a_timestep_between_two_entries_finds_the_first():
    assert nearest_index(torch.tensor([999.5, 999.4, 1000.0, 2000.0]), shift=1.0).tolist() == [0, 1, 0, 0]


def test_timestep_zero_finds_the_last_entry_which_is_not_zero():
    assert nearest_index(torch.zeros(1), shift=8.0).tolist() == [TABLE_SIZE - 1]
    assert sigma_of(torch.zeros(1), shift=8.0).item() == pytest.approx(0.00794, abs=1e-5)


# --- steps ---------------------------------------------------------------------------------------------------------


def test_causvid_steps_are_timesteps_whose_noise_level_is_the_nearest_entry():
    steps = steps_of((1000, 757, 522), shift=8.0, warped=False)
    assert [step.timestep for step in steps] == [1000, 757, 522]
    assert steps[0].sigma == 1
    assert steps[1].sigma == pytest.approx(0.756757, abs=1e-6)  # and not 0.757


def test_self_forcing_steps_are_places_in_the_shifted_table():
    steps = steps_of((1000, 750, 500, 250), shift=5.0, warped=True)
    assert [step.timestep for step in steps] == pytest.approx([1000, 937.5, 833.333, 625], abs=1e-3)
    assert [step.sigma for step in steps] == pytest.approx([1, 0.9375, 0.833333, 0.625], abs=1e-6)


@pytest.mark.parametrize("warped", [False, True])
def test_a_final_zero_is_not_a_step(warped):
    assert steps_of((1000, 500, 0), shift=5.0, warped=warped) == steps_of((1000, 500), shift=5.0, warped=warped)


def test_warping_zero_gives_zero():
    assert warp([1000, 0], shift=5.0).tolist() == [1000, 0]


@pytest.mark.parametrize("count", [1, 3, 4, 50, 1000])
def test_even_steps_fall_from_the_start_and_divide_it(count):
    steps = steps_of(even_steps(count), shift=3.0, warped=True)
    assert len(steps) == count
    assert steps[0].timestep == 1000
    assert all(a.sigma > b.sigma > 0 for a, b in zip(steps, steps[1:], strict=False))
    assert all(step.timestep == pytest.approx(1000 * step.sigma, abs=1e-3) for step in steps)


def test_four_even_steps_are_those_of_self_forcing():
    assert even_steps(4) == (1000, 750, 500, 250)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_samplers_levels_fall_from_one_to_zero(shift):
    sigmas = sampler_sigmas(24, shift=shift)
    assert len(sigmas) == 25
    assert (sigmas[0], sigmas[-1]) == (1, 0)
    assert sigmas == sorted(set(sigmas), reverse=True)


# --- flow ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", LEVELS.values(), ids=LEVELS)
def test_adding_noise_and_taking_it_off_are_inverse(x0, noise, sigma):
    x_t, flow = add_noise(x0, noise, sigma), noise - x0
    # a few float32 roundings of numbers up to 5; the flow's are divided by the noise level, 0.1 at least
    torch.testing.assert_close(x0_from_flow(x_t, flow, sigma), x0, atol=2e-6, rtol=0)
    torch.testing.assert_close(flow_from_x0(x_t, x0, sigma), flow, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sigma", LEVELS.values(), ids=LEVELS)
def test_both_kinds_of_prediction_say_the_same(x0, noise, sigma):
    x_t = add_noise(x0, noise, sigma)
    assert torch.equal(x0_from("x0", x_t, x0, sigma), x0)
    assert torch.equal(flow_from("flow", x_t, noise - x0, sigma), noise - x0)
    assert torch.equal(x0_from("flow", x_t, noise - x0, sigma), x0_from_flow(x_t, noise - x0, sigma))
    assert torch.equal(flow_from("x0", x_t, x0, sigma), flow_from_x0(x_t, x0, sigma))


def test_level_zero_is_the_clean_latent_and_level_one_the_noise_bit_for_bit(x0, noise):
    assert torch.equal(add_noise(x0, noise, 0.0), x0)
    assert torch.equal(add_noise(x0, noise, 1.0), noise)
    assert torch.equal(x0_from_flow(x0, noise, 0.0), x0)


def test_levels_per_clip_and_per_frame_are_what_numbers_give_one_by_one(x0, noise):
    per_frame = LEVELS["one per frame"]
    whole = add_noise(x0, noise, per_frame)
    for clip in range(2):
        for frame in range(4):
            place = (slice(clip, clip + 1), slice(None), slice(frame, frame + 1))
            assert torch.equal(whole[place], add_noise(x0[place], noise[place], per_frame[clip, frame].item()))
    per_clip = LEVELS["one per clip"]
    assert torch.equal(add_noise(x0, noise, per_clip), add_noise(x0, noise, per_clip[:, None].expand(2, 4)))


@pytest.mark.parametrize("sigma", LEVELS.values(), ids=LEVELS)
def test_small_dtypes_are_computed_in_float32_and_kept(x0, noise, sigma):
    a, b = x0.bfloat16(), noise.bfloat16()
    for function in (add_noise, x0_from_flow, flow_from_x0):
        got = function(a, b, sigma)
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, function(a.float(), b.float(), sigma).bfloat16())
