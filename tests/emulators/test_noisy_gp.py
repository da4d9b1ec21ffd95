"""Noise that depends on the parameters: its likelihood against that of all runs as one matrix, and a noise that is known."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

import emulate
from emulate.emulators._kernels import basis, columns_of, kernel
from emulate.emulators.gp import GP
from emulate.emulators.noisy_gp import NoisyGP, _fit, _Places, _Seen
from emulate.errors import InputError
from tests.emulators.test_gp import sobol, table


def seen(k: int = 12, mean_repeats: int = 3) -> tuple[_Seen, torch.Tensor, torch.Tensor]:
    """Places with 1 to 5 runs, their noise, the runs' z and where each belongs."""
    rng = np.random.default_rng(0)
    repeats = torch.from_numpy(rng.integers(1, 2 * mean_repeats, k))
    u = torch.from_numpy(sobol(k, 2, 1))
    at = torch.repeat_interleave(repeats)
    w = (2 * u[:, 0]).exp()
    z = torch.sin(3 * u[at].sum(1)) + 0.1 * w[at].sqrt() * torch.from_numpy(rng.standard_normal(len(at)))
    return _Seen.of(u, z[:, None], at, repeats).weighted(w), z, at


@pytest.mark.parametrize("mean", ["constant", "linear"])
def test_the_likelihood_is_that_of_all_runs(mean):
    """Differences of ln E between two x, by matrices of all runs: one row a run, however often its place is repeated."""
    s, z, at = seen()
    evidence = _Places(s, "rbf", mean, noisy=True)

    def dense(x):
        u, eta = s.u[at], math.exp(x[-1])
        k = kernel(u, columns_of(u), torch.from_numpy(np.exp(x[:2])), torch.zeros((), dtype=u.dtype), "rbf")
        c, h = k + eta * torch.diag(s.noise[at]), basis(u, mean)
        inverse = torch.linalg.inv(c)
        m = h.T @ inverse @ h
        p = inverse - inverse @ h @ torch.linalg.inv(m) @ h.T @ inverse
        free = len(z) - h.shape[1]
        pull = (x - evidence.centre) / evidence.width
        value = 0.5 * free * torch.log(z @ p @ z / free) + 0.5 * torch.logdet(c) + 0.5 * torch.logdet(m)
        return float(value) + 0.5 * float(pull @ pull)

    one, other = np.array([-0.5, 0.2, -3.0]), np.array([0.4, -0.3, -1.0])
    assert evidence(one)[0] - evidence(other)[0] == pytest.approx(dense(one) - dense(other), rel=1e-9)
    for x in (one, other):
        assert check_grad(lambda y: evidence(y)[0], lambda y: evidence(y)[1], x) < 1e-4


def test_the_prediction_is_that_of_all_runs():
    s, z, at = seen()
    fit = _fit(s, "rbf", "constant", True, [np.zeros(2)])
    s2, eta, length = fit.state["variance"], fit.level / fit.state["variance"], fit.state["length"]
    recipe, new = NoisyGP(), torch.from_numpy(sobol(5, 2, 7))
    part = {n: t if n in ("variance", "weights", "beta") else t[None] for n, t in fit.state.items()}
    part |= {"points": s.u, "choice": torch.tensor([0, 0]), "group": torch.zeros(1).long()}
    noise = part | {"weights": 0 * part["weights"], "beta": 0 * part["beta"]}
    state = {f"{a}.{n}": t for a, b in (("process", part), ("noise", noise)) for n, t in b.items()}
    p = recipe.rebuild({**state, "level": fit.level})(new)
    u, one = s.u[at], torch.zeros((), dtype=z.dtype)
    c = torch.linalg.inv(kernel(u, columns_of(u), length, one, "rbf") + eta * torch.diag(s.noise[at]))
    k = kernel(new, columns_of(u), length, one, "rbf")
    beta = (c @ z).sum() / c.sum()
    t = 1 - k @ c.sum(1)
    torch.testing.assert_close(p.mean[:, 0], beta + k @ c @ (z - beta), rtol=0, atol=1e-9)
    variance = s2 * (1 - ((k @ c) * k).sum(1) + t.square() / c.sum() + eta)
    torch.testing.assert_close(p.variance[:, 0], variance, rtol=1e-8, atol=0)


def truth(u: np.ndarray) -> np.ndarray:
    return np.sin(4 * u[:, 0]) * np.cos(2 * u[:, 1])


def sd(u: np.ndarray) -> np.ndarray:
    """From 0.02 to 0.4."""
    return 0.02 * np.exp(3 * u[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(("places", "repeats"), [(100, 5), (300, 1)])
def test_a_noise_that_is_known(places, repeats):
    """Three campaigns: its height everywhere, what intervals hold where it is low and where it is high, and the log score
    against a process with one noise, by its z-score over 2000 new runs each."""
    new, low, gains = sobol(2000, 2, 99), [], []
    high, off = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        u = np.repeat(sobol(places, 2, seed), repeats, 0)
        runs = table(u, truth(u) + sd(u) * rng.standard_normal(len(u)), stochastic=True)
        y = truth(new) + sd(new) * rng.standard_normal(len(new))
        p, even = (emulate.fit(r, runs, seed=0).predict(new) for r in (NoisyGP(), GP(kernel="rbf", mean="constant")))
        inside = np.abs(y - p.mean[:, 0].numpy()) < 1.96 * p.stddev[:, 0].numpy()
        low.append(inside[new[:, 0] < 1 / 3].mean())
        high.append(inside[new[:, 0] > 2 / 3].mean())
        off.append(np.log(p.stddev[:, 0].numpy() / sd(new)))
        gain = (p.log_prob(torch.from_numpy(y)[:, None]) - even.log_prob(torch.from_numpy(y)[:, None])).numpy()
        gains.append(gain.mean() / gain.std() * len(gain) ** 0.5)
    print(f"intervals of 95 % hold {np.mean(low):.3f} where quiet, {np.mean(high):.3f} where loud; ln sd is off by "
          f"{np.sqrt(np.mean(np.square(off))):.3f}; log score z {np.round(gains, 1)}")  # fmt: skip
    assert min(gains) > 5
    assert np.sqrt(np.mean(np.square(off))) < 0.2
    assert 0.9 < np.mean(low) < 0.99
    assert 0.88 < np.mean(high) < 0.99


def test_runs_at_one_place_are_refused_in_words():
    u = np.full((10, 2), 0.5)
    with pytest.raises(InputError) as caught:
        emulate.fit(NoisyGP(), table(u, np.arange(10.0), stochastic=True), seed=0)
    assert str(caught.value) == ("noisy_gp: mean must have coefficients that the runs determine. Got mean = 'constant' and runs "
                                 "at 1 places; choose a simpler mean, or run more places.")  # fmt: skip
