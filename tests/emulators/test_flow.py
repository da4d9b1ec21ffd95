"""Spline flows: stochastic simulators whose conditional density is known in closed form are the judges."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import emulate
from emulate.emulators.flow import Flow
from emulate.emulators.gp import GP
from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests import laws

Z = 4.5


@dataclass(frozen=True)
class Known:
    """A simulator of parameters in [0, 1]: `noise(theta, rng)` gives y `[n, m]`, `ln(theta, y)` its density `[n]`."""

    d: int
    outputs: Outputs

    def runs(self, n: int, seed: int) -> Runs:
        rng = np.random.default_rng(seed)
        theta = rng.random((n, self.d))
        space = Space(tuple(Parameter(f"t{i}", Uniform(0.0, 1.0)) for i in range(self.d)))
        return Runs.of(space, self.outputs, theta, self.noise(theta, rng), stochastic=True)


class Gamma(Known):
    """Positive, with shape 1 + 4 theta: from an exponential with a hard edge to a skewed hump; E[y] = 1 + 4 theta."""

    def noise(self, theta, rng):
        return rng.gamma(1 + 4 * theta)

    def ln(self, theta, y):
        return stats.gamma.logpdf(y[:, 0], 1 + 4 * theta[:, 0])


class Humps(Known):
    """Two Gaussians at -+(1 + theta) with weights 0.3 + 0.4 theta and the rest."""

    def noise(self, theta, rng):
        left = rng.random(theta.shape) < 0.3 + 0.4 * theta
        return np.where(left, -1, 1) * (1 + theta) + 0.3 * rng.standard_normal(theta.shape)

    def ln(self, theta, y):
        w, m = 0.3 + 0.4 * theta[:, 0], 1 + theta[:, 0]
        parts = (np.log(w) + stats.norm.logpdf(y[:, 0], -m, 0.3), np.log(1 - w) + stats.norm.logpdf(y[:, 0], m, 0.3))
        return np.logaddexp(*parts)


class Banana(Known):
    """a ~ N(theta_0, 1), b ~ N((a - theta_0)^2 / 2 + theta_1, (0.3 + 0.3 theta_1)^2)."""

    def noise(self, theta, rng):
        e = rng.standard_normal((len(theta), 2))
        return np.stack(
            [theta[:, 0] + e[:, 0], 0.5 * e[:, 0] ** 2 + theta[:, 1] + (0.3 + 0.3 * theta[:, 1]) * e[:, 1]], 1
        )

    def ln(self, theta, y):
        a = y[:, 0] - theta[:, 0]
        return stats.norm.logpdf(a) + stats.norm.logpdf(y[:, 1], 0.5 * a**2 + theta[:, 1], 0.3 + 0.3 * theta[:, 1])


KNOWN = {
    "gamma": Gamma(1, Outputs((Field("y", "", True),))),
    "humps": Humps(1, Outputs((Field("y"),))),
    "banana": Banana(2, Outputs((Field("a"), Field("b")))),
}
BOUND = {"gamma": 0.06, "humps": 0.06, "banana": 0.12}  # nats; a Gaussian around a polynomial: 0.13, 0.95, 0.66


def fitted(name: str, n: int = 1500, **settings):
    return emulate.fit(Flow(epochs=40, transforms=2, rate=3e-3, **settings), KNOWN[name].runs(n, 0), seed=0)


@pytest.fixture(scope="module", params=KNOWN)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def emulator(name):
    return fitted(name)


def gap(known: Known, emulator, n: int = 5000) -> np.ndarray:
    """ln p_true - ln p `[n]` at new runs, whose mean is the Kullback-Leibler divergence."""
    new = known.runs(n, 99)
    with torch.no_grad():
        found = emulator.predict(new.theta).log_prob(torch.from_numpy(new.y)).numpy()
    return known.ln(new.theta, new.y) - found


def test_it_comes_close_to_the_true_density_and_never_beats_it(name, emulator):
    off = gap(KNOWN[name], emulator)
    error = off.std() / math.sqrt(len(off))
    gauss = gap(
        KNOWN[name], emulate.fit(emulate.registry.build("emulators", "polynomial"), KNOWN[name].runs(1500, 0), seed=0)
    )
    print(
        f"{name}: {off.mean():.4f} +- {error:.4f} nats from the truth, a Gaussian around a polynomial {gauss.mean():.3f}"
    )
    assert -Z * error < off.mean() < BOUND[name]
    assert off.mean() < 0.5 * gauss.mean()


def test_its_samples_are_those_of_the_simulator(name, emulator):
    """Classifier two-sample test with quadratic features, Kolmogorov-Smirnov per output, sliced Wasserstein."""
    known = KNOWN[name]
    true = known.runs(4000, 5)
    made = emulator.predict(true.theta).sample(generator=torch.Generator().manual_seed(3)).numpy()
    x = np.concatenate([np.hstack([true.theta, y]) for y in (true.y, made)])
    kind = np.repeat([0, 1], len(true))
    classifier = make_pipeline(StandardScaler(), PolynomialFeatures(3), StandardScaler(), LogisticRegression(C=0.1))
    auc = roc_auc_score(kind, cross_val_predict(classifier, x, kind, cv=5, method="predict_proba")[:, 1])
    ks = [stats.ks_2samp(a, b).statistic for a, b in zip(true.y.T, made.T, strict=True)]
    sd = true.y.std(0)
    ways = np.random.default_rng(0).standard_normal((50, true.y.shape[1]))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    sliced = np.mean([stats.wasserstein_distance(true.y / sd @ w, made / sd @ w) for w in ways])
    print(f"{name}: AUC {auc:.3f}, KS {max(ks):.3f}, sliced Wasserstein {sliced:.3f} sd")
    assert abs(auc - 0.5) < 0.05
    assert max(ks) < 0.06  # 0.043 by chance in 1 of 1000
    assert sliced < 0.1


def test_each_output_is_calibrated(name, emulator):
    """PIT: the share of 200 draws below each held-out output is uniform, and 95 % intervals hold 95 %."""
    new = KNOWN[name].runs(800, 7)
    y = emulator.predict(new.theta).sample((200,), generator=torch.Generator().manual_seed(1)).numpy()
    pit = (y < new.y).mean(0) + 1 / 400
    inside = ((pit > 0.025) & (pit < 0.975)).mean(0)
    print(f"{name}: PIT off by {max(stats.kstest(p, 'uniform').statistic for p in pit.T):.3f}, coverage {inside}")
    for p in pit.T:
        assert stats.kstest(p, "uniform").statistic < 0.08
    assert (abs(inside - 0.95) < 0.025).all()


def test_its_moments_and_density_are_those_of_its_draws(emulator):
    theta = torch.full((2, emulator.space.d), 0.3, dtype=torch.float64)
    theta[1] = 0.8
    laws.has_one_door(emulator, theta, n=5000)
    laws.has_the_density_of_its_samples(emulator, theta, n=20000, narrow=0.2)


def test_its_density_integrates_to_one(name, emulator):
    theta = torch.full((emulator.space.d,), 0.4, dtype=torch.float64)
    m = emulator.outputs.size
    axis = torch.linspace(-10, 12, 20001 if m == 1 else 331, dtype=torch.float64)
    y = torch.stack(torch.meshgrid(*[axis] * m, indexing="ij"), -1).reshape(-1, m)
    with torch.no_grad():
        mass = (emulator.predict(theta).log_prob(y).exp() * (axis[1] - axis[0]) ** m).sum()
    assert abs(float(mass) - 1) < 5e-3


def test_the_mean_follows_the_truth_and_so_does_its_gradient():
    """E[y] = 1 + 4 theta of a gamma: a good density may still have a poor gradient, so that is judged on its own."""
    emulator = fitted("gamma")
    theta = torch.linspace(0.15, 0.85, 8, dtype=torch.float64)[:, None]
    mean, slope = emulator.predict(theta).mean[:, 0], emulator.jacobian(theta)[:, 0, 0]
    print(f"gamma: mean off by {float((mean - 1 - 4 * theta[:, 0]).abs().max()):.3f}, slope 4 is "
          f"{float(slope.min()):.2f} to {float(slope.max()):.2f}")  # fmt: skip
    assert (mean - 1 - 4 * theta[:, 0]).abs().max() < 0.3  # 1500 runs tell the mean to 0.1
    assert abs(float(slope.mean()) - 4) < 0.6


@pytest.mark.slow
def test_two_humps_are_worth_half_a_nat_against_a_gaussian_process():
    known = KNOWN["humps"]
    table = known.runs(300, 0)
    flow, gp = (emulate.fit(r, table, seed=0) for r in (Flow(epochs=60), GP(kernel="rbf", mean="constant")))
    better = gap(known, gp) - gap(known, flow)
    print(
        f"log score of the flow above the GP: {better.mean():.3f} +- {better.std() / math.sqrt(len(better)):.3f} nats"
    )
    assert better.mean() - Z * better.std() / math.sqrt(len(better)) > 0.4


def test_members_are_a_mixture_and_survive_their_file(tmp_path):
    emulator = emulate.fit(Flow(epochs=3, members=3, width=16, coupling=True), KNOWN["banana"].runs(200, 0), seed=0)
    theta, y = torch.tensor([[0.2, 0.7], [0.9, 0.1]]).double(), torch.tensor([[0.5, 1.0], [1.0, 0.3]]).double()
    core, u = emulator.core, emulator.space.scaled(theta)
    z = emulator.transform.to_z(y)
    x = core.whiten(z - core(u)._trend)
    each = torch.stack([core.log_density(i, u, x).exp() for i in range(3)])
    assert not torch.allclose(each[0], each[1])
    jacobian = core.spread.prod() / abs(
        torch.linalg.det(emulator.transform.inverse / emulator.transform.scale[:, None])
    )
    torch.testing.assert_close(emulator.predict(theta).log_prob(y).exp(), each.mean(0) / jacobian)
    laws.has_the_density_of_its_samples(emulator, theta, n=5000)
    again = emulate.load(emulator.save(tmp_path / "flow"))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    a, b = (e.predict(theta).sample((5,), generator=g) for e, g in zip((emulator, again), generators, strict=True))
    assert torch.equal(a, b)
    assert torch.equal(emulator.predict(theta).log_prob(y), again.predict(theta).log_prob(y))


def test_the_weights_are_those_that_were_best_on_the_runs_left_out():
    emulator = emulate.fit(Flow(epochs=60, patience=3, rate=0.01), KNOWN["humps"].runs(150, 0), seed=1)
    losses = [e["held_out_loss"] for e in emulator.history]
    assert len(losses) < 60, "it must have stopped early"
    assert int(np.argmin(losses)) == len(losses) - 1 - 3


def test_one_component_that_does_not_vary_is_no_spike():
    """An output that is a polynomial of theta without noise, beside one with noise."""
    rng = np.random.default_rng(0)
    theta = rng.random((100, 1))
    y = np.hstack([1e3 + theta, 1e-20 * rng.standard_normal((100, 1)), np.full((100, 1), 7.0)])
    space, outputs = Space((Parameter("t", Uniform(0.0, 1.0)),)), Outputs((Field("a"), Field("b"), Field("c")))
    emulator = emulate.fit(Flow(epochs=3), Runs.of(space, outputs, theta, y, stochastic=True), seed=0)
    at = torch.tensor([[0.25]], dtype=torch.float64)
    p = emulator.predict(at)
    torch.testing.assert_close(
        p.mean[0, [0, 2]], torch.tensor([1000.25, 7.0], dtype=torch.float64), rtol=1e-6, atol=0.0
    )
    assert 0.5e-20 < float(p.stddev[0, 1]) < 2e-20
    assert float(p.stddev[0, 0]) < 1e-3
    assert torch.isfinite(p.log_prob(torch.tensor([[1000.25, 1e-20, 7.0]]).double())).all()


def test_events_are_learnt_and_made():
    """Each run gives a sample of events; the emulator gives as many as one asks for, at any theta."""
    rng = np.random.default_rng(0)
    theta = rng.random((50, 1))
    events = theta[:, :, None] + 0.3 * rng.exponential(size=(50, 20, 1))
    events[:5, 15:] = np.nan  # runs with fewer events
    space, outputs = Space((Parameter("t", Uniform(0.0, 1.0)),)), Outputs((Field("x"),))
    emulator = emulate.fit(
        Flow(epochs=20, transforms=2, rate=3e-3), Runs.of_events(space, outputs, theta, events), seed=0
    )
    made = emulator.predict({"t": 0.5}).sample((2000,), generator=torch.Generator().manual_seed(0)).numpy()
    assert made.shape == (2000, 1)
    assert stats.kstest(made[:, 0], stats.expon(0.5, 0.3).cdf).statistic < 0.1


def test_printing_an_emulator_leaves_the_global_generator_alone():
    emulator = emulate.fit(Flow(epochs=1), KNOWN["humps"].runs(20, 0), seed=0)
    before = torch.get_rng_state()
    assert "1 spline flows of 1 components" in repr(emulator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_hundred_thousand_events():
    """50,000 theta with two events each: minibatches; prints the gap to the truth, seconds and the price of one point."""
    import resource
    import time

    known = KNOWN["banana"]
    table = known.runs(100_000, 0)
    start = time.process_time()
    emulator = emulate.fit(Flow(epochs=15, batch=1024), table, seed=0)
    seconds = time.process_time() - start
    off = gap(known, emulator, 20000)
    print(f"100,000 events: {off.mean():.4f} +- {off.std() / math.sqrt(len(off)):.4f} nats, {seconds:.0f} s of CPU, "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")  # fmt: skip
    assert off.mean() < 0.02


def test_quantiles_of_one_component_are_those_of_its_density(name, emulator):
    """Also through a logarithm: Gamma is positive. The slope of a quantile is one over the density there."""
    p = emulator.predict(KNOWN[name].runs(5, 3).theta)
    u = torch.linspace(0.01, 0.99, 41, dtype=torch.float64)[:, None, None].expand(-1, 5, 1).clone().requires_grad_()
    if emulator.outputs.size > 1:
        with pytest.raises(InputError, match="no quantiles"):
            p.icdf(u)
        return
    y = p.icdf(u)
    (slope,) = torch.autograd.grad(y.sum(), u)
    torch.testing.assert_close(slope[..., 0].log(), -p.log_prob(y), rtol=1e-9, atol=1e-9)
    nodes = p.rsample((4000,), generator=torch.Generator().manual_seed(0))
    below = (nodes < p.icdf(torch.full((5, 1), 0.3, dtype=torch.float64))).double().mean(0)
    assert float((below - 0.3).abs().max()) < Z * math.sqrt(0.3 * 0.7 / 4000)


def test_a_mixture_tells_no_quantiles():
    emulator = fitted("humps", 200, members=2)
    with pytest.raises(InputError, match=r"a flow of one member and one component. Got 2 spline flows of 1 components"):
        emulator.predict(torch.tensor([0.5], dtype=torch.float64)).icdf(torch.tensor([0.5], dtype=torch.float64))
