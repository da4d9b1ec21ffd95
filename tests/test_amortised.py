"""Neural posterior estimation, judged by posteriors in closed form and by quadrature."""

import math

import numpy as np
import pytest
import torch

from emulate.amortised import NPE, Amortised, c2st, noisy, to_theta, to_x, truncated
from emulate.emulators.flow import Flow
from emulate.emulators.polynomial import Polynomial
from emulate.errors import CampaignError, InputError, StoreError
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.predictive import Predictive
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform

D = torch.float64
A = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, -1.1], [0.9, 0.9]], dtype=D)
SIGMA = 0.7
QUICK = NPE(flow=Flow(coupling=False, epochs=60, rate=2e-3, width=32), noise=6)


def _outputs(m: int) -> Outputs:
    return Outputs((Field("y", coordinate="k", at=tuple(map(float, range(m)))),))


def _normal(n: int = 500, seed: int = 1) -> Runs:
    """y = A theta, theta ~ N(0, 1)."""
    theta = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)
    space = Space((Parameter("a", Normal(0.0, 1.0)), Parameter("b", Normal(0.0, 1.0))))
    return Runs.of(space, _outputs(4), theta.numpy(), (theta @ A.T).numpy())


@pytest.fixture(scope="module")
def linear() -> Amortised:
    return QUICK.fit(_normal(), Gaussian(absolute_error=SIGMA), seed=3)


def _truth(y: torch.Tensor) -> torch.distributions.MultivariateNormal:
    covariance = torch.linalg.inv(A.T @ A / SIGMA**2 + torch.eye(2, dtype=D))
    return torch.distributions.MultivariateNormal(y @ A @ covariance / SIGMA**2, covariance)


def _observations(n: int, seed: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(n, 2, generator=generator, dtype=D)
    return theta, theta @ A.T + SIGMA * torch.randn(n, 4, generator=generator, dtype=D)


def test_the_posterior_of_a_linear_gaussian_model_is_found(linear):
    """500 runs: a coefficient of the mean is known to sd / sqrt(400), and there are six; the C2ST of two unit normals that lie
    0.15 apart is 0.53. Averages over 20 observations are held to that."""
    _, data = _observations(20)
    apart = []
    for y in data:
        apart.append(c2st(linear.posterior(y), _truth(y), 2000, seed=1))
        x = linear.draws(y, 4000, seed=2)
        p = _truth(y)
        z = (x.mean(0) - p.mean) / p.variance.sqrt()
        assert z.abs().max() < 0.6, f"a mean lies {float(z.abs().max()):.2f} standard deviations off"
        assert (x.std(0) / p.variance.sqrt()).log().abs().max() < 0.3
    assert float(np.mean(apart)) < 0.55, apart


def test_ranks_of_truths_are_even(linear):
    """400 observations at once: P(density above that of the truth) is uniform; Kolmogorov-Smirnov at 1 in 1000."""
    theta, data = _observations(400, seed=21)
    x = linear.draws_x(data, 200, seed=1)
    rank = (linear.log_density(x, data) > linear.log_density(theta, data)).double().mean(0)
    gap = (rank.sort().values - (torch.arange(400, dtype=D) + 0.5) / 400).abs().max()
    assert float(gap) < 1.95 / math.sqrt(400)


def test_the_density_over_theta_is_that_of_its_draws():
    """Of bounded and logarithmic priors: exp(log_prob) integrates to 1 on a grid of theta, and vanishes outside."""
    space = Space((Parameter("a", Uniform(-1.0, 2.0)), Parameter("b", LogUniform(0.1, 10.0))))
    theta = to_theta(space, torch.randn(300, 2, generator=torch.Generator().manual_seed(1), dtype=D))
    y = torch.stack([theta[:, 0], theta[:, 1].log()], 1)
    q = NPE(flow=Flow(epochs=5, width=16), noise=2).fit(
        Runs.of(space, _outputs(2), theta.numpy(), y.numpy()), Gaussian(absolute_error=0.5), seed=1
    )
    a = -1 + 3 * (torch.arange(300, dtype=D) + 0.5) / 300
    ln_b = math.log(0.1) + math.log(100) * (torch.arange(300, dtype=D) + 0.5) / 300
    grid = torch.cartesian_prod(a, ln_b.exp())
    mass = (q.log_prob(grid, [0.5, 0.2]).exp() * grid[:, 1]).sum() * 3 * math.log(100) / 300**2
    assert float(mass) == pytest.approx(1, abs=0.01)
    assert q.log_prob([[3.0, 1.0]], [0.5, 0.2]).item() == -math.inf
    inside = q.draws([0.5, 0.2], 500, seed=1)
    assert (space.log_prob(inside) > -math.inf).all()
    torch.testing.assert_close(to_theta(space, to_x(space, inside)), inside)


def test_two_modes_are_found_in_their_shares():
    """y = theta^2 + noise, theta ~ U(-1, 1): the posterior is even, and its density is that of quadrature."""
    space = Space((Parameter("a", Uniform(-1.0, 1.0)),))
    theta = torch.rand(600, 1, generator=torch.Generator().manual_seed(2), dtype=D) * 2 - 1
    runs = Runs.of(space, _outputs(1), theta.numpy(), theta.numpy() ** 2)
    q = NPE(flow=Flow(coupling=False, epochs=150, rate=5e-3, width=32)).fit(runs, Gaussian(absolute_error=0.1), seed=1)
    a = -1 + 2 * (torch.arange(2000, dtype=D)[:, None] + 0.5) / 2000
    for y in (0.2, 0.5):
        p = torch.softmax(-0.5 * ((a[:, 0] ** 2 - y) / 0.1) ** 2, 0)
        found = q.log_prob(a, [y]).exp() / 1000
        assert float((p - found).abs().sum()) / 2 < 0.2, "total variation"
        assert abs(float(found[:1000].sum()) - 0.5) < 0.15


def test_noise_is_drawn_again_for_every_row_and_keyed_by_the_seed():
    runs = _normal(50)
    data, row = noisy(runs, Gaussian(absolute_error=SIGMA), 40, seed=4)
    off = (data - torch.from_numpy(runs.y)[row]) / SIGMA
    assert data.shape == (2000, 4)
    assert row.tolist() == [i for i in range(50) for _ in range(40)]
    assert abs(float(off.mean())) < 4 / math.sqrt(8000)
    assert abs(float(off.square().mean()) - 1) < 4 * math.sqrt(2 / 8000)
    assert len(off[:, 0].unique()) == 2000
    again, _ = noisy(runs, Gaussian(absolute_error=SIGMA), 40, seed=4)
    assert torch.equal(again, data)
    same, row = noisy(runs, Predictive(), 40, seed=4)
    assert torch.equal(same, torch.from_numpy(runs.y)), "a run is the observation: nothing is added"
    assert len(row) == 50


def test_a_file_gives_the_same_bits_and_a_damaged_one_is_refused(linear, tmp_path):
    y = _observations(3)[1]
    folder = linear.save(tmp_path / "q")
    again = Amortised.load(folder)
    assert torch.equal(again.draws(y, 50, seed=1), linear.draws(y, 50, seed=1))
    assert torch.equal(again.log_prob([0.1, 0.2], y), linear.log_prob([0.1, 0.2], y))
    assert (again.recipe, again.space, again.outputs, again.history) == (
        linear.recipe,
        linear.space,
        linear.outputs,
        linear.history,
    )
    assert again.provenance == linear.provenance
    assert again.remoteness(y[0]) == linear.remoteness(y[0])
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    text = (folder / "emulator.json").read_text()
    (folder / "emulator.json").write_text(text.replace('"noise": 6', '"noise": 7'))
    with pytest.raises(StoreError, match="is damaged"):
        Amortised.load(folder)


def test_same_seed_same_bits_whatever_the_global_generator_holds():
    recipe, found = NPE(flow=Flow(epochs=3, width=8), noise=2), []
    for trouble in (1, 2):
        torch.manual_seed(trouble)
        q = recipe.fit(_normal(60), Gaussian(absolute_error=SIGMA), seed=5)
        found.append(q.draws([0.1, 0.2, 0.3, 0.4], 20, seed=1))
    assert torch.equal(*found)


def test_an_observation_unlike_all_runs_is_said_to_be_so(linear):
    """Observations that are drawn as the runs were are outside at most 2 in 501 times each."""
    _, data = _observations(300, seed=5)
    assert sum(linear.remoteness(y).outside for y in data) <= 6, "Poisson of 1.2: more than 6 once in 2,500"
    far = linear.remoteness(data[0] + 20)
    assert far.outside
    assert far.sentence.startswith("the observation lies outside the data of all 500 runs: ")
    assert "the observation lies among the data of 500 runs" in linear.remoteness(data[1]).sentence


def test_what_no_run_ever_shows_is_outside_too():
    """Two outputs that are always equal: an observation where they differ lies off the line, however near its ends."""
    theta = torch.randn(200, 1, generator=torch.Generator().manual_seed(1), dtype=D).numpy()
    space = Space((Parameter("a", Normal(0.0, 1.0)),))
    q = NPE(flow=Flow(epochs=2, width=8)).fit(Runs.of(space, _outputs(2), theta, theta.repeat(2, 1), stochastic=True), Predictive(),
                                               seed=1)  # fmt: skip
    assert not q.remoteness([0.1, 0.1]).outside
    assert "off what the outputs of all runs span" in q.remoteness([0.1, 0.2]).sentence


def test_long_data_are_read_by_the_directions_that_tell():
    """Of 60 outputs with the same noise two tell of the parameters; four numbers are read, and little is lost."""
    generator = torch.Generator().manual_seed(4)
    theta = torch.randn(800, 2, generator=generator, dtype=D)
    noise = torch.randn(800, 60, generator=generator, dtype=D)
    mix = torch.randn(2, 60, generator=generator, dtype=D) / 4
    space = Space((Parameter("a", Normal(0.0, 1.0)), Parameter("b", Normal(0.0, 1.0))))
    runs = Runs.of(space, _outputs(60), theta.numpy(), (theta @ mix + noise).numpy(), stochastic=True)
    q = NPE(flow=Flow(coupling=False, epochs=20, width=16), components=4).fit(runs, Predictive(), seed=1)
    assert q.summary.p == 4
    truth = torch.linalg.inv(mix @ mix.T + torch.eye(2, dtype=D))
    y = theta[0] @ mix + torch.randn(60, generator=generator, dtype=D)
    x = q.draws(y, 3000, seed=1)
    assert ((x.std(0) / truth.diagonal().sqrt()).log().abs() < 0.35).all()


def test_points_of_a_truncated_prior_are_those_of_the_prior_inside(linear):
    y = _observations(1)[1][0]
    inside = linear.region(y, seed=1)
    x = truncated(inside, linear.posterior(y), 3000, seed=2)
    assert x.shape == (3000, 2)
    assert inside(x).all()
    brute = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(8), dtype=D)
    brute = brute[inside(brute)]
    z = (x.mean(0) - brute.mean(0)) / (brute.std(0) * math.sqrt(1 / 3000 + 1 / len(brute)))
    assert z.abs().max() < 4.5
    assert float(inside(linear.draws_x(y, 5000, seed=3)).double().mean()) > 0.999


def test_a_region_too_small_to_hit_is_drawn_from_q():
    """A posterior a thousandth of the prior wide: points are spread as the prior is inside, which is evenly."""
    mean, sd = torch.tensor([1.0, -0.5], dtype=D), 1e-3

    class Narrow(torch.distributions.Distribution):
        arg_constraints = {}

        def sample(self, shape, generator=None):
            return mean + sd * torch.randn(*shape, 2, generator=generator, dtype=D)

        def log_prob(self, x):
            return -0.5 * ((x - mean) / sd).square().sum(-1) - 2 * math.log(sd) - math.log(2 * math.pi)

    q = Narrow(torch.Size(), torch.Size((2,)), validate_args=False)
    x = truncated(lambda x: ((x - mean) / sd).norm(dim=-1) < 2, q, 1000, seed=1)
    r = ((x - mean) / sd).norm(dim=-1)
    assert len(x.unique(dim=0)) == 1000
    assert abs(float((r < 1).double().mean()) - 0.25) < 0.06, "a disc of half the radius has a quarter of the area"


def test_c2st_of_known_densities_is_that_of_the_best_classifier():
    """Of two unit normals at a distance of 2 in one direction: Phi(1)."""

    class Shifted(torch.distributions.Distribution):
        arg_constraints = {}

        def __init__(self, at):
            self.at = at
            super().__init__(torch.Size(), torch.Size((1,)), validate_args=False)

        def sample(self, shape, generator=None):
            return self.at + torch.randn(*shape, 1, generator=generator, dtype=D)

        def log_prob(self, x):
            return -0.5 * (x - self.at).square().sum(-1)

    assert c2st(Shifted(0.0), Shifted(2.0), 40_000, seed=1) == pytest.approx(0.8413, abs=0.006)
    assert c2st(Shifted(0.0), Shifted(0.0), 100, seed=1) == 0.5


def test_the_highest_mode_is_climbed_to(linear):
    _, data = _observations(3)
    for y in data:
        best = linear.find_map(y, linear.draws_x(y, 500, seed=1))
        sd = _truth(y).variance.sqrt()
        assert best.converged
        assert ((best.theta - _truth(y).mean) / sd).abs().max() < 1
        assert (linear.log_density(linear.draws_x(y, 200, seed=2), y) <= best.log_density + 1e-6).all()


@pytest.mark.parametrize(("make", "error", "said"), [
    (lambda q: NPE(flow=Polynomial()), InputError, "npe.flow: must be a recipe of the flow"),
    (lambda q: q.draws([1.0, 2.0], 3, seed=0), InputError, r"data must be finite numbers of shape \[..., 4\]"),
    (lambda q: q.draws([1.0, 2.0, math.nan, 0.0], 3, seed=0), InputError, "with 1 numbers that are not finite"),
    (lambda q: QUICK.fit(_normal(4), Predictive(), seed=0), CampaignError, "npe must have at least 10 finished runs. Got 4"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(linear, make, error, said):
    with pytest.raises(error, match=said):
        make(linear)


def test_failed_runs_are_left_out():
    runs = _normal(80)
    y = runs.y.copy()
    y[::7] = np.nan
    broken, recipe = Runs.of(runs.space, runs.outputs, runs.theta, y), NPE(flow=Flow(epochs=2, width=8), noise=2)
    clean = runs.select(np.arange(80) % 7 != 0)
    likelihood, at = Gaussian(absolute_error=SIGMA), [0.1, 0.2, 0.3, 0.4]
    one, other = (recipe.fit(r, likelihood, seed=1).draws(at, 5, seed=1) for r in (broken, clean))
    assert torch.equal(one, other)
