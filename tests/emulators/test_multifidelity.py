"""Cheap and costly runs together, against closed forms, a dense cokriging, published pairs and costly runs alone."""

import json

import numpy as np
import pytest
import torch

import emulate
from emulate import registry
from emulate.contracts import Core
from emulate.emulators._coupling import nodes, regress
from emulate.emulators.gp import GP
from emulate.emulators.mlp import MLP
from emulate.emulators.multifidelity import MultiFidelity
from emulate.emulators.polynomial import Polynomial
from emulate.errors import CampaignError, InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.emulators.test_mlp import sobol, table

PLAIN = GP(kernel="rbf", mean="constant", starts=1)
TWO = MultiFidelity(fidelities=("coarse",), low=PLAIN, high=PLAIN)
GRID = np.linspace(0, 1, 401)[:, None]


def forrester(x: np.ndarray) -> np.ndarray:
    """Forrester, Sobester and Keane (2007), y(x) in 0..1."""
    return ((6 * x - 2) ** 2 * np.sin(12 * x - 4))[:, 0]


def cheap(x: np.ndarray) -> np.ndarray:
    return 0.5 * forrester(x) + 10 * (x[:, 0] - 0.5) - 5


def nrmse(emulator, f, x: np.ndarray = GRID) -> float:
    return float(np.sqrt(np.mean((emulator.predict(x).mean[:, 0].numpy() - f(x)) ** 2)) / f(x).std())


def fit(recipe, x: np.ndarray, f, x_cheap: np.ndarray, g):
    return emulate.fit(recipe, table(x, f(x)), seed=0, fidelities={"coarse": table(x_cheap, g(x_cheap))})


# -- closed forms ----------------------------------------------------------------------------------------------------


def test_a_linear_relation_is_found_exactly():
    """z = A x + b with more runs than components, whatever x is: to rounding."""
    rng = np.random.default_rng(0)
    u, x, a = (
        torch.from_numpy(v) for v in (rng.uniform(size=(9, 2)), rng.normal(size=(9, 4)), rng.normal(size=(3, 4)))
    )
    torch.testing.assert_close(regress(u, x, x @ a.T + 7), a, rtol=1e-9, atol=1e-9)


def test_what_a_smooth_error_explains_is_not_put_down_to_the_cheap_runs():
    """x oscillates and e is a parabola: least squares would bend A to the parabola."""
    u = torch.linspace(0, 1, 8, dtype=torch.float64)[:, None]
    x, e = torch.sin(12 * u), 3 * (u - 0.4) ** 2
    plain = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x)], 1), 2 * x + e).solution[0]
    assert abs(float(plain) - 2) > 0.1
    assert abs(float(regress(u, x, 2 * x + e)) - 2) < 1e-3


def test_few_runs_of_many_components_keep_those_of_the_same_outputs():
    """4 runs cannot tell 36 coefficients; what they do not tell stays at 1 and 0."""
    rng = np.random.default_rng(1)
    u, x = torch.from_numpy(rng.uniform(size=(4, 2))), torch.from_numpy(rng.normal(size=(4, 6)))
    torch.testing.assert_close(regress(u, x, x + 0.1 * u[:, :1]), torch.eye(6).double(), rtol=0, atol=2e-2)


def test_nodes_have_the_moments_they_stand_for():
    root = torch.linalg.cholesky(torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.5]], dtype=torch.float64))
    mean = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x = nodes(mean, root, 3)
    torch.testing.assert_close(x.mean(0), mean)
    torch.testing.assert_close((x - mean).mT @ (x - mean) / len(x), root @ root.mT)
    torch.testing.assert_close((nodes(mean, root, 2) - mean).mT[:2] @ (nodes(mean, root, 2) - mean)[:, :2] / 4,
                               (root @ root.mT)[:2, :2])  # fmt: skip


# -- the dense twin --------------------------------------------------------------------------------------------------


def test_it_is_cokriging_of_all_runs_at_once():
    """Kennedy and O'Hagan (2000) with one dense covariance of all runs, at the lengths and A of the fit: nested designs
    make the recursion exact (Le Gratiet and Garnier 2014). Trends by generalised least squares, in numpy."""
    core_of = {"kernel": "matern52", "mean": "constant", "calibrate": False}
    recipe = MultiFidelity(fidelities=("coarse",), low=GP(**core_of), high=GP(**core_of), calibrate=False)
    xc, xf, new = sobol(24, 2, 0), sobol(24, 2, 0)[:10], sobol(20, 2, 9)
    f, g = (lambda x: np.sin(4 * x[:, 0]) + x[:, 1] ** 2), (lambda x: np.sin(4 * x[:, 0]) + 0.3 * np.cos(3 * x[:, 1]))
    e = fit(recipe, xf, f, xc, g)
    core, level = e.core, e.core.levels[0]
    z, x = (e.transform.to_z(torch.from_numpy(h(p))[:, None]).numpy()[:, 0] for h, p in ((f, xf), (g, xc)))
    a, scale = float(level.weights), float(level.scale)

    def k(process, size: float):
        length, s2 = process.length[0].numpy(), float(process.variance[0]) * size**2
        r = lambda p, q: np.sqrt(5 * (((p[:, None] - q) / length) ** 2).sum(-1))  # noqa: E731
        return lambda p, q: s2 * (1 + r(p, q) + r(p, q) ** 2 / 3) * np.exp(-r(p, q))

    kc, kd = k(core.low, float(core.scale)), k(level.error, scale)
    nugget = float(core.low.variance[0] * core.low.eta[0]) * float(core.scale) ** 2
    own = float(level.error.variance[0] * level.error.eta[0]) * scale**2
    n = np.eye(len(xc))[: len(xf)]
    cc, fc = kc(xc, xc) + nugget * np.eye(24), kc(xf, xc) + nugget * n
    ff = a**2 * (kc(xf, xf) + nugget * np.eye(10)) + kd(xf, xf) + own * np.eye(10)
    c = np.block([[cc, a * fc.T], [a * fc, ff]])
    h = np.block([[np.ones((24, 1)), np.zeros((24, 1))], [a * np.ones((10, 1)), np.ones((10, 1))]])
    cross = np.vstack([a * kc(xc, new), a**2 * kc(xf, new) + kd(xf, new)])
    at = np.vstack([a * np.ones(20), np.ones(20)])
    y = np.append(x, z)
    ci = np.linalg.inv(c)
    beta = np.linalg.solve(h.T @ ci @ h, h.T @ ci @ y)
    mean = at.T @ beta + cross.T @ ci @ (y - h @ beta)
    t = at - h.T @ ci @ cross
    prior = a**2 * (kc(new[:1], new[:1])[0, 0] + nugget) + kd(new[:1], new[:1])[0, 0] + own
    variance = (
        prior - np.einsum("in,ij,jn->n", cross, ci, cross) + np.einsum("in,in->n", t, np.linalg.solve(h.T @ ci @ h, t))
    )
    p = core(torch.from_numpy(new))
    np.testing.assert_allclose(p.mean[:, 0].numpy(), mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(p.variance[:, 0].numpy(), variance, rtol=5e-2, atol=1e-9)  # exact but for a nugget


# -- published pairs -------------------------------------------------------------------------------------------------


def test_forrester_of_six_costly_and_eleven_cheap_runs():
    """Forrester, Sobester and Keane (2007): y_cheap = y / 2 + 10 (x - 1/2) - 5, so that A = 2 and e is a line."""
    x, xc = np.linspace(0, 1, 6)[:, None], np.linspace(0, 1, 11)[:, None]
    full = MultiFidelity(fidelities=("coarse",), low=GP(), high=GP())
    both, alone = fit(full, x, forrester, xc, cheap), emulate.fit(PLAIN, table(x, forrester(x)), seed=0)
    assert nrmse(both, forrester) < 0.02
    assert nrmse(alone, forrester) > 0.1
    ratio = float(both.core.levels[0].weights)  # z of both is y over the same number
    assert abs(ratio - 2) < 0.02


def test_a_relation_that_is_not_linear():
    """Perdikaris et al. (2017), section 3.1: y = (x - sqrt 2) y_cheap^2, y_cheap = sin(8 pi x), 50 and 14 runs."""
    g = lambda x: np.sin(8 * np.pi * x[:, 0])  # noqa: E731
    f = lambda x: (x[:, 0] - np.sqrt(2)) * g(x) ** 2  # noqa: E731
    xc = np.linspace(0, 1, 50)[:, None]
    x = xc[np.sort(np.random.default_rng(0).permutation(50)[:14])]
    nonlinear = MultiFidelity(fidelities=("coarse",), coupling="nonlinear")
    both = fit(nonlinear, x, f, xc, g)
    assert nrmse(both, f) < 0.01
    assert nrmse(fit(TWO, x, f, xc, g), f) > 0.3
    p = both.predict(GRID)
    assert np.mean(np.abs(p.mean[:, 0].numpy() - f(GRID)) < 1.96 * p.stddev[:, 0].numpy()) > 0.85


@pytest.mark.slow
def test_other_outputs_designs_that_are_not_nested_and_a_chain():
    """Three fidelities with 3, 4 and 5 outputs, at points that have nothing in common."""
    space = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
    t = np.linspace(1, 2, 5)

    def made(n: int, seed: int, m: int, off: float) -> Runs:
        x = sobol(n, 2, seed)
        y = np.sin(3 * x[:, :1] + t[:m]) + x[:, 1:] ** 2 * t[:m] + off * x[:, :1] * x[:, 1:]
        return Runs.of(space, Outputs((Field("y", "", False, "t", tuple(t[:m]), "s"),)), x, y)

    cheaper = {"rough": made(60, 3, 3, 0.3), "coarse": made(30, 4, 4, 0.1)}
    test = made(200, 9, 5, 0.0)
    chain = MultiFidelity(fidelities=("rough", "coarse"), low=PLAIN, high=PLAIN)
    error = {}
    for recipe in (PLAIN, chain):
        e = emulate.fit(recipe, made(9, 5, 5, 0.0), seed=0, fidelities=cheaper)
        p = e.predict(test.theta)
        off = p.mean.numpy() - test.y
        error[recipe] = np.sqrt((off**2).mean())
    assert error[chain] < 0.5 * error[PLAIN]
    assert np.mean(np.abs(off) < 1.96 * p.stddev.numpy()) > 0.85
    x = torch.from_numpy(sobol(4, 2, 7))
    by_hand = [(e.predict(x + s).mean - e.predict(x - s).mean) / 2e-4 for s in 1e-4 * torch.eye(2, dtype=torch.float64)]
    torch.testing.assert_close(e.jacobian(x), torch.stack(by_hand, -1), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_network_on_the_residuals():
    x, xc = sobol(24, 2, 0), sobol(80, 2, 0)
    g = lambda x: np.sin(6 * x[:, 0]) * np.exp(x[:, 1])  # noqa: E731
    f = lambda x: g(x) + 0.2 * np.sin(3 * x[:, 0] * x[:, 1])  # noqa: E731
    network = MultiFidelity(fidelities=("coarse",), low=PLAIN, high=MLP(members=3, width=16, epochs=10))
    both, new = fit(network, x, f, xc, g), sobol(400, 2, 9)
    assert nrmse(both, f, new) < 0.5 * nrmse(
        emulate.fit(MLP(members=3, width=16, epochs=10), table(x, f(x)), seed=0), f, new
    )
    assert both.history


def test_cheap_runs_that_say_nothing_do_little_harm():
    """The cheap function is another one: costly runs alone are better, as a comparison will tell, but not much is lost."""
    x, xc, new = sobol(24, 2, 0), sobol(60, 2, 0), sobol(400, 2, 9)
    f, g = (lambda x: np.sin(4 * x[:, 0]) * x[:, 1]), (lambda x: np.cos(9 * x[:, 1] + 5 * x[:, 0]))
    both = fit(TWO, x, f, xc, g)
    assert nrmse(both, f, new) < 0.01
    assert abs(float(both.core.levels[0].weights)) < 0.05


def test_the_error_of_the_cheap_emulator_is_carried_through():
    """5 cheap runs of a wave, and a costly function that is the same: no error bar of the correction can know that."""
    g = lambda x: np.sin(9 * x[:, 0])  # noqa: E731
    e = fit(TWO, np.linspace(0, 1, 5)[:, None], g, np.linspace(0, 1, 6)[:, None], g)
    p = e.predict(GRID)
    off = np.abs(p.mean[:, 0].numpy() - g(GRID))
    assert off.max() > 0.02
    assert np.mean(off < 1.96 * p.stddev[:, 0].numpy()) > 0.9


# -- what is refused -------------------------------------------------------------------------------------------------


def test_settings_are_read_and_told_by_their_path():
    spec = {"use": "multifidelity", "fidelities": ["rough", "coarse"], "high": {"use": "mlp", "members": 3}}
    recipe = registry.build("emulators", spec, path="emulators.both")
    assert recipe == MultiFidelity(fidelities=("rough", "coarse"), high=MLP(members=3))
    assert registry.validate(MultiFidelity, json.loads(json.dumps(recipe.settings())), path="file") == recipe
    for bad, sentence in (({"fidelities": []}, r"must name one fidelity at least, each once, cheapest first\. Got \[\]"),
                          ({"fidelities": ["a", "a"]}, "each once"),
                          ({"low": {"use": "gradient_gp"}}, r"low: must be a recipe that needs the runs alone\. Got 'gradient_gp'"),
                          ({"high": {"use": "multifidelity", "fidelities": ["a"]}}, r"high: must be a recipe that needs"),
                          ({"coupling": "cubic"}, r"emulators\.both\.coupling: must be 'linear' or 'nonlinear'")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            registry.build("emulators", {**spec, **bad}, path="emulators.both")


def test_too_few_cheap_runs_are_refused_in_a_sentence():
    recipe, x = MultiFidelity(fidelities=("coarse",), low=Polynomial(), high=PLAIN), sobol(12, 2, 0)
    with pytest.raises(CampaignError, match=r"at least \d+ finished runs of coarse for 2 parameters\. Got 4; raise "
                                            r"design\.fidelities\.coarse\.runs\."):  # fmt: skip
        fit(recipe, x, lambda x: x.sum(1), x[:4], lambda x: x.sum(1))


def test_slopes_are_those_of_the_mean_and_the_variance():
    x = torch.from_numpy(sobol(4, 2, 3))
    g = lambda x: np.sin(3 * x[:, 0]) + x[:, 1]  # noqa: E731
    for coupling in ("linear", "nonlinear"):
        recipe = MultiFidelity(fidelities=("coarse",), low=PLAIN, high=PLAIN, coupling=coupling)
        core = fit(recipe, sobol(6, 2, 0), lambda x: g(x) ** 2, sobol(7, 2, 0), g).core
        for name, slope in zip(("mean", "variance"), Core.slopes(core, x), strict=True):
            h = 1e-4 * torch.eye(2, dtype=torch.float64)
            by_hand = torch.stack([(getattr(core(x + s), name) - getattr(core(x - s), name)) / 2e-4 for s in h], -1)
            torch.testing.assert_close(slope, by_hand, rtol=1e-3, atol=1e-6 * float(slope.abs().max()))
