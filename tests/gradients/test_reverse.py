"""Reverse mode: refuses what carries no graph, and knows an output that does not depend on theta."""

import pytest
import torch
from torch.distributions import Normal

from emulate.errors import InputError
from emulate.gradients.reverse import Reverse
from emulate.simulators.linear_gaussian import LinearGaussian

THETA = torch.tensor([1.0, 2.0], dtype=torch.float64)


def test_a_function_without_a_graph_is_refused():
    with pytest.raises(InputError, match=r"^f must carry a torch graph from theta to its output\. Got an output without "
                       r"one; use finite_difference, or write f in torch without detach, item or numpy\.$"):  # fmt: skip
        Reverse().estimate(lambda t, s: t.detach() ** 2, THETA, seed=1)


def test_the_jacobian_of_a_simulator_is_its_matrix():
    simulator = LinearGaussian(noise=0.1)
    e = Reverse().estimate(lambda t, s: simulator.run(t, seed=s), THETA, seed=1, n=4)
    torch.testing.assert_close(e.gradient, simulator.matrix)
    assert e.standard_error.max() == 0  # the noise is added, so no slope depends on the seed
    assert e.diagnostics["backward_passes"] == 20


def test_an_output_that_ignores_theta_has_slope_zero():
    e = Reverse().estimate(lambda t, s: torch.stack([t[0], torch.tensor(3.0, dtype=torch.float64)]), THETA, seed=1)
    assert e.gradient.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_it_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert Reverse().estimate(lambda t, s: t**2, THETA, seed=1).gradient.tolist() == [[2.0, 0.0], [0.0, 4.0]]


def test_a_decision_or_a_coin_that_theta_moves_leaves_the_bias_unknown():
    """P(theta + Z > 0) has the slope phi(theta), of which a run shows nothing."""

    def program(theta, noise):
        x = theta[0] + noise.draw("z", Normal(0.0, 1.0))
        return torch.stack([x, noise.above("up", x) * x])

    e = Reverse().estimate(program, THETA, seed=1, n=4)
    assert e.bias_bound.isnan().all()
    assert e.diagnostics["lost"] == ["up"]
    assert (
        Reverse().estimate(lambda t, noise: t + noise.draw("z", Normal(0.0, 1.0)), THETA, seed=1, n=4).bias_bound.max()
        == 0
    )


def test_one_replicate_that_draws_has_no_error_bar_though_two_agree():
    def program(theta, noise):
        return theta[0] * (noise.draw("z", Normal(0.0, 1.0)) > -9)

    assert Reverse().estimate(program, THETA, seed=1).standard_error.isnan().all()


@pytest.mark.parametrize("jump", [
    lambda x: torch.sign(x), lambda x: torch.where(x > 0, 1.0, 0.0) + x, lambda x: x if x > 0 else -x,
])  # fmt: skip
def test_what_a_plain_comparison_of_a_draw_may_hide_leaves_the_bias_unknown(jump):
    e = Reverse().estimate(lambda t, noise: jump(t[0] + noise.draw("z", Normal(0.0, 1.0))) + 0 * t[0],
                           torch.tensor([0.3], dtype=torch.float64), seed=1, n=50)  # fmt: skip
    assert bool(e.bias_bound.isnan().all())
    assert e.diagnostics["reads"]


def test_a_comparison_of_theta_alone_or_of_what_is_not_random_leaves_the_bias_at_none():
    theta = torch.tensor([0.3], dtype=torch.float64)
    checked = Reverse().estimate(lambda t, noise: (t if t[0] > 0 else -t) + noise.draw("z", Normal(0.0, 1.0)), theta,
                                 seed=1, n=50)  # fmt: skip
    fixed = Reverse().estimate(lambda t: t * float(t[0].detach()), theta, seed=1, n=3)
    assert float(checked.bias_bound) == float(fixed.bias_bound) == 0
