from collections.abc import Iterator

import pytest
import torch
from tiny import SHAPE, tiny_transformer

from causvid_cli.network.cache import PromptCache
from causvid_cli.sampling.ode import Predict, guided_flow, solve_ode
from causvid_cli.sampling.schedule import add_noise, sampler_sigmas

SHAPE_OF_X = (1, 24, 2, 4, 4)
SIGMAS = sampler_sigmas(6, shift=3.0)
SAID, EMPTY = PromptCache(torch.zeros(1, 5, 4)), PromptCache(torch.ones(1, 5, 4))


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def random(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE_OF_X, generator=torch.Generator().manual_seed(seed))


def assert_close(got: torch.Tensor, wanted: torch.Tensor, limit: float) -> None:
    error = (got - wanted).abs().max().item()
    assert error <= limit, f"largest error {error:.3g}"


@pytest.mark.parametrize("prediction", ["flow", "x0"])
@pytest.mark.parametrize("count", [1, 6, 50])
def test_with_the_exact_prediction_the_solution_passes_through_every_level_and_lands_on_x0(prediction, count):
    x0, noise = random(0), random(1)
    exact = x0 if prediction == "x0" else noise - x0
    sigmas = sampler_sigmas(count, shift=3.0)
    solution = list(solve_ode(lambda *_: exact, prediction, noise, sigmas, SAID))
    assert [sigma for sigma, _ in solution] == sigmas
    for sigma, x_t in solution:
        # one float32 rounding a step; with x0 the flow is divided by the noise level
        assert_close(x_t, add_noise(x0, noise, sigma), limit=1e-5)
    assert solution[0][1] is noise


def test_the_network_is_asked_at_every_level_but_the_last():
    asked = []

    def predict(x_t, timestep, prompt):
        asked.append((timestep, prompt))
        return x_t

    list(solve_ode(predict, "flow", random(1), SIGMAS, SAID))
    assert asked == [(pytest.approx(1000 * sigma), SAID) for sigma in SIGMAS[:-1]]


def both_of(said: torch.Tensor, empty: torch.Tensor) -> Predict:
    """A network that answers a prompt and then the empty one, both asked about the same x_t."""

    def predict(x_t, timestep, both):
        assert torch.equal(both.embeds, torch.cat([SAID.embeds, EMPTY.embeds]))
        assert torch.equal(x_t[:1], x_t[1:])
        return torch.cat([said, empty])

    return predict


def test_guidance_leads_away_from_the_empty_prompt():
    said, empty = random(2), random(3)
    flow = guided_flow(both_of(said, empty), "flow", random(1), 0.5, SAID.stack(EMPTY), 2.5)
    assert_close(flow, empty + 2.5 * (said - empty), limit=0)


def test_guidance_of_x0_predictions_is_guidance_of_their_flows():
    x_t, said, empty, sigma = random(1), random(2), random(3), 0.5
    by_x0 = guided_flow(both_of(said, empty), "x0", x_t, sigma, SAID.stack(EMPTY), 2.5)
    flows = [(x_t - x0) / sigma for x0 in (said, empty)]
    by_flow = guided_flow(both_of(*flows), "flow", x_t, sigma, SAID.stack(EMPTY), 2.5)
    assert_close(by_x0, by_flow, limit=0)


@pytest.mark.parametrize(("empty", "guidance"), [(None, 2.5), (EMPTY, 1.0)], ids=["no empty prompt", "guidance 1"])
def test_without_guidance_the_empty_prompt_is_never_asked_for(empty, guidance):
    asked = []

    def predict(x_t, timestep, prompt):
        asked.append(prompt)
        return x_t * 0.1

    *_, (_, guided) = solve_ode(predict, "flow", random(1), SIGMAS, SAID, empty=empty, guidance=guidance)
    *_, (_, plain) = solve_ode(lambda x_t, *_: x_t * 0.1, "flow", random(1), SIGMAS, SAID)
    assert torch.equal(guided, plain)
    assert set(map(id, asked)) == {id(SAID)}


def test_guidance_changes_what_a_network_makes():
    model = tiny_transformer()
    said, empty = (
        model.prompt_cache(torch.randn(1, 5, SHAPE.text_dim, generator=torch.Generator().manual_seed(s)))
        for s in (1, 2)
    )
    made = [
        list(solve_ode(model.forward_whole, "flow", random(1), SIGMAS, said, empty=empty, guidance=guidance))[-1][1]
        for guidance in (1.0, 3.0)
    ]
    assert (made[0] - made[1]).abs().max() > 1e-3


def test_one_call_for_both_prompts_is_as_good_as_two():
    model = tiny_transformer()
    rng = torch.Generator().manual_seed(0)
    x_t, sigma = torch.randn(2, *SHAPE_OF_X[1:], generator=rng), 0.5
    said, empty = (model.prompt_cache(torch.randn(n, 5, SHAPE.text_dim, generator=rng)) for n in (2, 1))
    flow = guided_flow(model.forward_whole, "flow", x_t, sigma, said.stack(empty), 2.5)
    alone = PromptCache(empty.embeds.expand(2, -1, -1))
    told, untold = (model.forward_whole(x_t, 1000 * sigma, prompt) for prompt in (said, alone))
    assert_close(flow, untold + 2.5 * (told - untold), limit=1e-5)  # larger products are summed in another order
