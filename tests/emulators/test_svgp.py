"""The sparse process against its formulas as dense matrices, against the exact process, and where many runs are noisy."""

import numpy as np
import pytest
import torch

import emulate
from emulate.emulators._kernels import basis, columns_of, kernel
from emulate.emulators.gp import GP
from emulate.emulators.svgp import SVGP, _fit, _inverse, _Kernel
from emulate.errors import InputError
from emulate.program import export
from tests.emulators.test_gp import borehole, nrmse, otl, sobol, table


def dense(u, v, z, at, length, eta, mean):
    """Mean, variance in units of s^2, and s^2 at v, by matrices `[n, n]`; then the same for every run left out in turn.

    The process is that whose covariance is Q = K_nm K_mm^-1 K_mn and, at one point, k - Q more (Titsias 2009)."""
    one, rbf = torch.zeros((), dtype=u.dtype), "rbf"
    k_mm, k_nm, k_vm = (kernel(x, columns_of(u[at]), length, one, rbf) for x in (u[at], u, v))
    solve = torch.linalg.inv(k_mm)

    def predict(rows, k, h_new, own):
        h, c = basis(u[rows], mean), k_nm[rows] @ solve @ k_nm[rows].T + eta * torch.eye(len(rows), dtype=u.dtype)
        inverse = torch.linalg.inv(c)
        a = torch.linalg.inv(h.T @ inverse @ h)
        beta = a @ h.T @ inverse @ z[rows]
        r = z[rows] - h @ beta
        s2 = float(r.T @ inverse @ r) / (len(rows) - h.shape[1])
        q = k @ solve @ k_nm[rows].T
        t = h_new - q @ inverse @ h
        spread = own - ((q @ inverse) * q).sum(1) + ((t @ a) * t).sum(1) + eta
        return (h_new @ beta + q @ inverse @ r)[:, 0], spread, s2

    every = torch.arange(len(u))
    new = predict(every, k_vm, basis(v, mean), 1.0)
    out = [predict(every[every != i], k_nm[[i]], basis(u[[i]], mean), 1.0)[:2] for i in range(len(u))]
    return *new, torch.cat([m for m, _ in out]), torch.cat([s for _, s in out])


@pytest.mark.parametrize("mean", ["constant", "quadratic"])
def test_it_is_its_formulas(mean):
    u, v = (torch.from_numpy(sobol(n, 2, n)) for n in (60, 9))
    z = (torch.sin(6 * u[:, :1]) * torch.cos(4 * u[:, 1:])) / 0.5
    at, length = torch.arange(0, 60, 5), torch.tensor([0.4, 0.6], dtype=torch.float64)
    fit = _fit(u, z, at, _Kernel(length, torch.zeros((), dtype=torch.float64)), "rbf", mean, noisy=True)
    state = {
        "points": u[at],
        "group": torch.zeros(1).long(),
        "choice": torch.tensor([0, ["constant", "", "quadratic"].index(mean)]),
    }
    shared = {k: fit.state[k][None] for k in ("length", "order", "eta", "inverse", "q", "r_inverse")}
    core = SVGP().rebuild({**fit.state, **shared, **state})
    m, spread, s2, out, out_spread = dense(u, v, z, at, length, float(fit.state["eta"]), mean)
    p = core(v)
    torch.testing.assert_close(p.mean[:, 0], m, rtol=0, atol=1e-9)
    torch.testing.assert_close(p.variance[:, 0], s2 * spread, rtol=1e-8, atol=0)
    torch.testing.assert_close(z[:, 0] - fit.residual[:, 0], out, rtol=0, atol=1e-9)
    torch.testing.assert_close(fit.spread[:, 0], s2 * out_spread, rtol=1e-7, atol=0)


def test_rounding_of_a_singular_matrix_is_mended():
    u = torch.from_numpy(np.repeat(sobol(5, 2, 1), 2, axis=0))
    k = kernel(u, columns_of(u), torch.ones(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64), "rbf")
    assert torch.isfinite(_inverse(k)).all()


def test_more_runs_than_inducing_points_are_read():
    """1500 runs of the borehole through 150 points err less than the exact process of 150 of them."""
    u, new = sobol(1500, 8, 0), sobol(1024, 8, 99)
    many = emulate.fit(SVGP(inducing=150, part=300), table(u, borehole(u)), seed=0).predict(new)
    few = emulate.fit(GP(kernel="rbf", calibrate=False), table(u[:150], borehole(u[:150])), seed=0).predict(new)
    error, rival = (nrmse(p.mean[:, 0].numpy(), borehole(new)) for p in (many, few))
    inside = float((np.abs(many.mean[:, 0].numpy() - borehole(new)) < 1.96 * many.stddev[:, 0].numpy()).mean())
    print(f"NRMSE {error:.1e}, exact with 150 runs {rival:.1e}, coverage {inside:.3f}")
    assert error < 0.5 * rival
    assert 0.9 < inside < 0.99


def test_the_noise_of_many_runs_is_found():
    rng = np.random.default_rng(0)
    u, new = sobol(3000, 2, 0), sobol(512, 2, 9)
    y = [np.sin(6 * x[:, 0]) * x[:, 1] for x in (u, new)]
    p = emulate.fit(
        SVGP(inducing=60, part=300), table(u, y[0] + 0.1 * rng.standard_normal(3000), stochastic=True), seed=0
    )
    p = p.predict(new)
    assert float(p.stddev.mean()) == pytest.approx(0.1, rel=0.1)
    assert np.abs(p.mean[:, 0].numpy() - y[1]).std() < 0.02


def test_a_mean_that_the_runs_do_not_determine_is_refused():
    x = np.linspace(0, 1, 15)[:, None]
    with pytest.raises(InputError) as caught:
        emulate.fit(SVGP(mean="linear"), table(np.hstack([x, x]), x[:, 0]), seed=0)
    assert str(caught.value) == ("svgp: mean must have coefficients that the runs determine. Got mean = 'linear' and 15 runs, "
                                 "too few or at too few places; choose a simpler mean.")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("f", [(borehole, 8, 3e-4), (otl, 6, 3e-4)], ids=["borehole", "otl"])
@pytest.mark.parametrize("n", [2000, 10000])
def test_thousands_of_runs(f, n):
    """Under the error of the exact process of 500 runs, 7e-4 and 6e-4."""
    f, d, bar = f
    u, new = sobol(n, d, 0), sobol(2048, d, 99)
    p = emulate.fit(SVGP(), table(u, f(u)), seed=0).predict(new)
    error = nrmse(p.mean[:, 0].numpy(), f(new))
    inside = float((np.abs(p.mean[:, 0].numpy() - f(new)) < 1.96 * p.stddev[:, 0].numpy()).mean())
    print(f"NRMSE {error:.1e}, coverage {inside:.3f}")
    assert error < bar
    assert 0.9 < inside < 0.99


def exact_and_dense(n: int, kernel_name: str):
    """The mean at new points by conjugate gradients, and by a Cholesky factor of the matrix of all runs."""
    u, new = torch.from_numpy(sobol(n, 3, 0)), torch.from_numpy(sobol(64, 3, 9))
    noise = 1e-3 * torch.from_numpy(np.random.default_rng(0).standard_normal((n, 1)))  # lest Cholesky itself is rounded
    z = torch.sin(5 * u[:, :1]) * torch.cos(4 * u[:, 1:2]) + u[:, 2:] ** 2 + noise
    core = SVGP(exact=True, kernel=kernel_name, inducing=60, part=100).train(u, z, noisy=True, seed=0)
    s = core.sparse
    k = kernel(u, columns_of(u), s.length[0], s.order[0], kernel_name) + s.eta[0] * torch.eye(n, dtype=u.dtype)
    h = basis(u, s._mean)
    solved = torch.cholesky_solve(torch.cat([h, z], 1), torch.linalg.cholesky(k))
    beta = torch.linalg.solve(h.T @ solved[:, :-1], h.T @ solved[:, -1:])
    weights = solved[:, -1:] - solved[:, :-1] @ beta
    dense = kernel(new, columns_of(u), s.length[0], s.order[0], kernel_name) @ weights + basis(new, s._mean) @ beta
    return core(new), s(new), dense


@pytest.mark.parametrize("kernel_name", ["rbf", "matern52", "additive"])
def test_conjugate_gradients_are_cholesky(kernel_name):
    found, sparse, dense = exact_and_dense(500, kernel_name)
    torch.testing.assert_close(found.mean, dense, rtol=0, atol=1e-6)
    assert torch.equal(found.stddev, sparse.stddev)


@pytest.mark.slow
def test_the_exact_mean_is_saved_and_differentiated(tmp_path):
    u = sobol(300, 2, 0)
    y = np.stack([np.sin(5 * u[:, 0]), np.cos(4 * u.sum(1))], 1)
    emulator = emulate.fit(SVGP(exact=True, inducing=40, part=100), table(u, y), seed=0)
    new = sobol(9, 2, 5)
    again, mean = emulate.load(emulator.save(tmp_path / "e")), emulator.predict(new).mean
    assert torch.equal(again.predict(new).mean, mean)
    each = torch.cat([again.predict(x[None]).mean for x in new])
    torch.testing.assert_close(each, mean, rtol=0, atol=1e-12)
    graph = torch.export.load(export(again, tmp_path / "e.pt2")).module()
    torch.testing.assert_close(graph(torch.from_numpy(new))[0], mean, rtol=0, atol=1e-12)
    theta = torch.from_numpy(new)
    slope = (again.predict(theta + 1e-5).mean - again.predict(theta - 1e-5).mean) / 2e-5
    torch.testing.assert_close(again.jacobian(new).sum(-1), slope, rtol=0, atol=1e-5)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    u = sobol(30, 2, 0)
    with pytest.raises(
        InputError, match=r"^svgp: device must be there\. Got cuda, .*; set device: auto, .*, or cpu\.$"
    ):
        emulate.fit(SVGP(device="cuda"), table(u, u.sum(1)), seed=0)
