"""The mixture: unbiased, no noisier than either of its parts, and it notices when they disagree."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal, Uniform

from emulate.errors import InputError
from emulate.families import discrete as is_discrete
from emulate.gradients._sites import Counted, Reads, terms
from emulate.gradients.mixed import Mixed, _controlled, _fitted
from emulate.gradients.pathwise import Pathwise
from emulate.gradients.score import Score
from emulate.replication import each, lift
from tests.gradients.programs import discrete, numbers
from tests.reference.gradients.expectations import discrete_slope


def waves(theta, noise):
    """A wave that is slow in one draw and fast in another: path is better for the first, score for the second.
    E sin(k x) of Normal(t, 1) is exp(-k^2 / 2) sin(k t)."""
    x, y = (noise.draw(name, Normal(t, 1.0)) for name, t in zip("xy", theta))
    return torch.stack([torch.sin(x / 2), torch.sin(5 * y)])


def test_each_output_and_parameter_gets_the_better_part_or_better():
    theta, n = numbers(0.3, 0.2), 20_000
    mixed, path, score = (
        m.estimate(waves, theta, seed=1, n=n) for m in (Mixed(), Pathwise(), Score(baseline="optimal"))
    )
    assert float(path.standard_error[0, 0]) < 0.5 * float(score.standard_error[0, 0])
    assert float(score.standard_error[1, 1]) < 0.5 * float(path.standard_error[1, 1])
    better = torch.minimum(path.standard_error, score.standard_error)
    assert (mixed.standard_error.diagonal() < 1.02 * better.diagonal()).all()
    truth = numbers(0.5, 5.0) * torch.exp(-numbers(0.25, 25.0) / 2) * torch.cos(numbers(0.15, 1.0))
    assert ((mixed.gradient.diagonal() - truth).abs() < 4 * mixed.standard_error.diagonal()).all()


def test_it_is_unbiased_though_its_weights_are_learnt():
    """Groups of 24, the fewest that are fitted, of p = 2 + e and controls that are strongly but not linearly tied to it."""
    e = torch.randn(20_000, 24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = (2 + e[..., 0] ** 3 + 0.2 * e[..., 1])[..., None, None]
    controls = torch.stack([e[..., 0], e[..., 0] ** 3 + e[..., 2], e[..., 2]], -1)[:, :, None, None]
    means = torch.func.vmap(_fitted)(p, controls).mean((1, 2, 3))
    assert abs(float(means.mean()) - 2) < 4 * float(means.std()) / 20_000**0.5
    assert float(means.std()) < 0.6 * float(p.mean((1, 2, 3)).std())


def test_few_replicates_are_paths_alone():
    theta = numbers(0.3, 0.2)
    torch.testing.assert_close(Mixed().estimate(waves, theta, seed=1, n=23).gradient,
                               Pathwise().estimate(waves, theta, seed=1, n=23).gradient)  # fmt: skip


def test_the_discrete_program():
    e = Mixed().estimate(discrete, numbers(0.6), seed=1, n=20_000)
    low, high = e.interval(0.99)
    assert float(low) < discrete_slope(0.6) < float(high)
    assert float(e.standard_error) < float(Score().estimate(discrete, numbers(0.6), seed=1, n=20_000).standard_error)


def test_accept_reject_with_a_draw_below_theta():
    """What is accepted is uniform below theta, which a path follows; how many trials that took has a score."""

    def f(theta, noise):
        before = torch.cumsum(noise.draw("accept", Bernoulli(theta[0].expand(64))), 0) == 0
        return torch.stack([noise.draw("u", Uniform(0.0, theta[0])), 1 + before.double().sum()])

    e = Mixed().estimate(f, numbers(0.5), seed=1, n=20_000)
    assert ((e.gradient[:, 0] - numbers(0.5, -4.0)).abs() < 4 * e.standard_error[:, 0]).all()


def test_a_jump_that_a_path_does_not_see_is_noticed():
    """`sign` by arithmetic, which asks nothing: x / |x|."""

    def f(theta, noise):
        x = noise.draw("x", Normal(theta[0], 1.0))
        return x / x.abs()

    e = Mixed().estimate(f, numbers(0.2), seed=1, n=4000)
    assert e.diagnostics["disagreement"] > 5
    assert e.diagnostics["reads"] == ["a jump"]
    assert e.bias_bound.isnan().all()


def test_what_it_cannot_serve_is_refused():
    with pytest.raises(InputError, match=r"^mixed must see the draws of f\. Got a random f without a site: draw by "
                       r"`noise\.draw\(\.\.\.\)`, or use pathwise or common_random_numbers\.$"):  # fmt: skip
        Mixed().estimate(lambda theta, seed: theta * seed, numbers(1.0), seed=1, n=4)
    with pytest.raises(
        InputError, match=r"^mixed must have hard decisions on draws alone\. Got one at the site edge that"
    ):
        Mixed().estimate(lambda theta, noise: noise.above("edge", noise.draw("x", Normal(theta[0], 1.0))),
                         numbers(1.0), seed=1, n=4)  # fmt: skip


def test_the_controls_have_mean_zero():
    f, theta = lift(discrete), numbers(0.6)

    def both(noise):
        return tuple(
            terms(f, theta, noise, Counted("mixed", path), Reads())
            for path in (lambda d: not is_discrete(d), lambda d: False)
        )

    _, controls = _controlled(*each(both, 1, 20_000).answer)
    z = controls.mean(0) / (controls.std(0) / 20_000**0.5)
    assert z.abs().max() < 4
