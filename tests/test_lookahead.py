"""What runs would teach, judged by universal kriging in numpy with the runs really added, and by counting."""

import numpy as np
import pytest
import torch

from emulate.designs.active import Active
from emulate.designs.sobol import Sobol
from emulate.emulator import fit
from emulate.emulators.gp import GP
from emulate.emulators.polynomial import Polynomial
from emulate.feasibility import Feasibility
from emulate.likelihoods.gaussian import Gaussian
from emulate.lookahead import covariance, doubt, greedy, look
from emulate.posterior import Posterior
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(0.0, 2.0)), Parameter("b", LogUniform(0.1, 10.0))))
OUTPUTS = Outputs((Field("x", coordinate="t", at=(1.0, 2.0)), Field("mass", positive=True)))


def simulate(space: Space, u: np.ndarray) -> Runs:
    theta = space.from_unit(torch.from_numpy(u)).numpy()
    a, b = theta[:, 0], u[:, 1]
    y = np.stack([np.sin(3 * a) * b, np.cos(4 * a * b), np.exp(a * b)], 1)
    return Runs.of(space, OUTPUTS, theta, y)


@pytest.fixture(scope="module", params=[("rbf", "constant"), ("matern52", "linear"), ("additive", "constant")])
def emulator(request):
    kernel, mean = request.param
    return fit(GP(kernel=kernel, mean=mean, log=True), simulate(SPACE, Sobol().points(14, 2, seed=3)), seed=0)


def gp(n: int = 14, **settings):
    return fit(GP(kernel="rbf", **settings), simulate(SPACE, Sobol().points(n, 2, seed=3)), seed=0)


def kriging(core, j: int, points: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Variance of the mean of component j at u, had the runs been at `points`: Rasmussen and Williams 2006, eq. 2.42."""
    group = int(core.group[j])
    length, eta = core.length[group].numpy(), float(core.eta[group])
    order, s2 = float(core.order[group]), float(core.variance[j])
    kernel, linear = int(core.choice[0]), int(core.choice[1]) == 1

    def k(x, y):
        gaps = (x[:, None] - y[None]) / length
        if kernel == 3:  # the additive kernel from its definition
            e, a = np.exp(-0.5 * gaps**2), np.exp(order)
            return ((1 + a * e).prod(-1) - 1) / ((1 + a) ** x.shape[1] - 1)
        r = np.sqrt((gaps**2).sum(-1))
        return np.exp(-0.5 * r**2) if kernel == 0 else (1 + 5**0.5 * r + 5 / 3 * r**2) * np.exp(-(5**0.5) * r)

    def h(x):
        return np.concatenate([np.ones((len(x), 1)), 2 * x - 1], 1) if linear else np.ones((len(x), 1))

    inverse = np.linalg.inv(k(points, points) + eta * np.eye(len(points)))
    cross, trend = k(points, u), h(points)
    rest = h(u).T - trend.T @ inverse @ cross
    trended = np.linalg.solve(trend.T @ inverse @ trend, rest)
    return s2 * (1 - (cross * (inverse @ cross)).sum(0) + (rest * trended).sum(0))


def test_the_batch_is_that_of_brute_force(emulator):
    """Every candidate is really added to the runs, in turn and for all components; the best is taken, q times."""
    core, p = emulator.core, len(emulator.core.group)
    candidates, targets = (torch.from_numpy(Sobol().points(n, 2, seed=s)) for n, s in ((12, 5), (20, 6)))
    weight = torch.rand(20, p, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = greedy(core, candidates, targets, weight, 3)

    def cost(points):
        return sum(float(weight[:, j].numpy() @ kriging(core, j, points, targets.numpy())) for j in range(p))

    points, rows = core.points.numpy(), []
    assert float(found.variance[0]) == pytest.approx(cost(points), rel=1e-5)
    for after in found.variance[1:]:
        costs = [
            np.inf if i in rows else cost(np.concatenate([points, candidates[i : i + 1].numpy()])) for i in range(12)
        ]
        rows.append(int(np.argmin(costs)))
        points = np.concatenate([points, candidates[rows[-1] : rows[-1] + 1].numpy()])
        assert float(after) == pytest.approx(min(costs), rel=1e-3)
    assert found.rows.tolist() == rows


def test_the_covariance_has_the_variance_of_predictions_on_its_diagonal(emulator):
    u = torch.from_numpy(Sobol().points(7, 2, seed=9))
    c = covariance(emulator.core, u, u, near=0.1)
    torch.testing.assert_close(c, c.mT)
    total = c.diagonal(dim1=1, dim2=2) + emulator.core.noise[:, None]
    torch.testing.assert_close(total, emulator.core(u).variance.T, rtol=1e-6, atol=1e-10)


def test_the_order_of_candidates_does_not_matter():
    core = gp().core
    candidates, targets = (torch.from_numpy(Sobol().points(n, 2, seed=s)) for n, s in ((64, 5), (32, 6)))
    weight = torch.ones(32, len(core.group), dtype=torch.float64)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    one, two = greedy(core, candidates, targets, weight, 6), greedy(core, candidates[shuffled], targets, weight, 6)
    assert one.rows.tolist() == shuffled[two.rows].tolist()
    assert len(set(one.rows.tolist())) == 6
    assert (one.variance.diff() < 0).all()


@pytest.mark.parametrize("recipe", [GP(kernel="rbf"), Polynomial()], ids=["gp", "polynomial"])
def test_points_are_distinct_in_the_cube_and_the_same_by_seed(recipe):
    e = fit(recipe, simulate(SPACE, Sobol().points(14, 2, seed=3)), seed=0)
    design = Active(candidates=128)
    u = design.points(10, 2, seed=4, emulator=e)
    assert u.shape == (10, 2)
    assert ((u > 0) & (u < 1)).all()
    assert len(np.unique(u, axis=0)) == 10
    np.testing.assert_array_equal(design.points(10, 2, seed=4, emulator=e), u)
    gaps = np.linalg.norm(u[:, None] - u[None], axis=-1) + 9 * np.eye(10)
    assert gaps.min() > 0.02, "points of a batch teach the same"


def test_a_point_that_has_been_run_teaches_nothing():
    core = gp().core
    candidates = torch.cat([core.points, torch.tensor([[0.4, 0.6]], dtype=torch.float64)])
    targets = torch.from_numpy(Sobol().points(50, 2, seed=6))
    assert greedy(core, candidates, targets, torch.ones(50, len(core.group)).double(), 1).rows.tolist() == [14]


def test_no_point_is_chosen_where_runs_fail():
    u = Sobol().points(48, 2, seed=3)
    runs = simulate(SPACE, u)
    y = np.where((u[:, :1] < 0.6), runs.y, np.nan)
    runs = Runs.of(SPACE, OUTPUTS, runs.theta, y)
    e, where = fit(GP(kernel="rbf"), runs, seed=0), Feasibility.fit(runs, seed=0)
    free, kept = (Active(candidates=256).points(8, 2, seed=1, emulator=e, feasibility=f)[:, 0] for f in (None, where))
    assert (free > 0.65).sum() >= 4, "the emulator knows least where no run finished"
    assert kept.max() < 0.7


def test_over_the_prior_the_error_is_that_of_the_mean_in_units_of_the_spread():
    e = gp(10, calibrate=False)
    theta = SPACE.from_unit(torch.from_numpy(Sobol().points(2000, 2, seed=8)))
    w = e.transform.push(e.core(SPACE.scaled(theta)))
    noise = e.core.noise @ e.transform.basis.square()
    spread = (w._w_variance - e.transform.unseen - noise).clamp_min(0) / e.transform.scale.square()
    assert look(e, seed=1, targets=2000).error == pytest.approx(float(spread.mean().sqrt()), rel=0.03)


def test_doubt_is_what_runs_left_out_one_by_one_were_missed_by():
    """Universal kriging without each run in turn, solved anew in numpy, against the closed form; targets so far away that
    all runs weigh alike there."""
    e = gp(14, mean="linear", calibrate=False)
    core, u = e.core, e.design.numpy()
    z, n = e.transform.to_z(torch.from_numpy(simulate(SPACE, Sobol().points(14, 2, seed=3)).y)).numpy(), len(u)
    weight = torch.rand(len(core.group), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    missed = expected = 0.0
    for j, w in enumerate(weight.tolist()):
        length, eta = core.length[int(core.group[j])].numpy(), float(core.eta[int(core.group[j])])
        k = np.exp(-0.5 * (((u[:, None] - u) / length) ** 2).sum(-1)) + eta * np.eye(n)
        h = np.concatenate([np.ones((n, 1)), 2 * u - 1], 1)
        for i in range(n):
            o = np.arange(n) != i
            system = np.block([[k[o][:, o], h[o]], [h[o].T, np.zeros((3, 3))]])
            side = np.concatenate([k[o, i], h[i]])
            share = np.linalg.solve(system, side)
            missed += w * (z[i, j] - share[: n - 1] @ z[o, j]) ** 2
            expected += w * float(core.variance[j]) * (1 + eta - share @ side)
    near = torch.cdist(e.design, e.design).fill_diagonal_(torch.inf).amin(1).median()
    far = torch.full((1, 2), 50.0, dtype=torch.float64) * float(near)
    assert float(doubt(e, far, weight)[0]) == pytest.approx(missed / expected, rel=1e-4)
    assert doubt(fit(Polynomial(), simulate(SPACE, Sobol().points(14, 2, seed=3)), seed=0), far, weight) is None


def test_over_the_prior_points_go_where_left_out_runs_were_missed():
    """A peak that fills a hundredth of the box, on a plane: the variance of the process knows nothing of where it is."""
    space, u = (
        Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0)))),
        Sobol().points(60, 2, seed=3),
    )
    y = u.sum(1, keepdims=True) + np.exp(-((u - [0.7, 0.3]) ** 2).sum(1, keepdims=True) / (2 * 0.08**2))
    e = fit(GP(kernel="matern52", mean="linear"), Runs.of(space, Outputs((Field("y"),)), u, y), seed=0)
    away = np.linalg.norm(Active().points(12, 2, seed=2, emulator=e) - [0.7, 0.3], axis=1)
    assert (away < 0.25).sum() >= 6
    ahead = look(e, seed=2)
    found = greedy(e.core, ahead.candidates, ahead.targets, ahead.weight, 4)
    torch.testing.assert_close(found.variance[0], torch.tensor(ahead.error**2, dtype=torch.float64))
    assert ahead.choose(4)[1][0] == pytest.approx(ahead.error)


def posterior(e, data: torch.Tensor, sd: float) -> Posterior:
    return Posterior(e.space, lambda t: e.predict(t, outside="ignore"), Gaussian(absolute_error=sd), data)


def test_over_the_posterior_the_error_is_that_of_the_log_density():
    """The standard deviation of ln p(data | theta) over draws of the emulator's error, the residuals as large as C + V
    says: Monte Carlo against the closed form, to first order in the error, for an error well below the noise."""
    e = gp(24, calibrate=False)  # for then components err apart
    truth = torch.tensor([0.8, 1.0], dtype=torch.float64)
    data = e.predict(truth).mean.detach()
    ahead = look(e, posterior=posterior(e, data, 0.6), seed=1)
    theta = SPACE.from_unit(ahead.targets)
    prediction = e.predict(theta, outside="ignore")
    generator = torch.Generator().manual_seed(0)
    residual = 0.6 * torch.randn(400, *prediction.mean.shape, generator=generator, dtype=torch.float64)
    error = prediction.rsample((400,), generator=generator) - prediction.mean
    change = (residual * error / 0.6**2).sum(-1)
    assert ahead.error == pytest.approx(float(change.square().mean().sqrt()), rel=0.1)


def test_over_the_posterior_points_go_there():
    e = gp(24)
    truth = torch.tensor([1.5, 5.0], dtype=torch.float64)
    data = torch.from_numpy(simulate(SPACE, SPACE.to_unit(truth)[None].numpy()).y[0])
    aimed = Active(aim="posterior").points(6, 2, seed=2, emulator=e, posterior=posterior(e, data, 0.05))
    spread = Active().points(6, 2, seed=2, emulator=e)
    near, far = (np.median(np.linalg.norm(u - SPACE.to_unit(truth).numpy(), axis=1)) for u in (aimed, spread))
    assert near < 0.6 * far


def test_priors_without_a_box_are_met_too():
    space = Space((Parameter("a", Normal(1.0, 0.3)), Parameter("b", Uniform(0.0, 1.0))))
    e = fit(GP(kernel="rbf"), simulate(space, Sobol().points(14, 2, seed=3)), seed=0)
    data = e.predict(torch.tensor([1.2, 0.5], dtype=torch.float64)).mean.detach()
    for p in (None, posterior(e, data, 0.1)):
        u = Active(candidates=64).points(5, 2, seed=1, emulator=e, posterior=p)
        assert ((u > 0) & (u < 1)).all()
        assert len(np.unique(u, axis=0)) == 5
