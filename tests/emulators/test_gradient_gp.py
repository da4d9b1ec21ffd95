"""The process with slopes against gpytorch's, against runs that are really left out, and against `gp` at equal runs."""

import math
import re
import warnings

import gpytorch
import numpy as np
import pytest
import torch
from scipy.optimize import check_grad
from torch import Tensor

import emulate
from emulate.contracts import Core, rows_of
from emulate.emulators._agreement import _doubts
from emulate.emulators._derivatives import KERNELS, Evidence, Seen, covariance, determined, nuggets, radial, trend
from emulate.emulators._kernels import MEANS, basis, columns_of, correlation, exponents
from emulate.emulators.gp import GP
from emulate.emulators.gradient_gp import GradientGP, _fit
from emulate.errors import DoubtWarning, InputError
from emulate.runs import Field, Outputs, Runs
from emulate.simulators.nbody import NBody
from emulate.space import Parameter, Space, Uniform
from tests import laws

GPYTORCH = {"rbf": gpytorch.kernels.RBFKernelGrad, "matern52": gpytorch.kernels.Matern52KernelGrad}


def sobol(n: int, d: int, seed: int) -> Tensor:
    return torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64)


def table(f, u: Tensor, *, jacobian: Tensor | None = None, noise: Tensor | float = 0.0, **kwargs) -> Runs:
    """Runs at u `[n, d]` of f: `[..., d]` -> `[..., m]` with their Jacobians, by autograd where none is given."""
    y = f(u) + noise
    space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(u.shape[1])))
    jacobian = rows_of(f, u) if jacobian is None else jacobian
    outputs = Outputs(tuple(Field(f"y{i}") for i in range(y.shape[1])))
    return Runs.of(space, outputs, u.numpy(), y.numpy(), jacobian=jacobian.numpy(), **kwargs)


def waves(u: Tensor) -> Tensor:
    """Two outputs of three parameters."""
    one = u[..., 0].exp() * torch.sin(3 * u[..., 1]) + u[..., 2] ** 3
    return torch.stack([one, torch.cos(2 * u[..., 0] * u[..., 2]) + u[..., 1]], -1)


def borehole(u: Tensor) -> Tensor:
    """Flow through a borehole, eight inputs (Harper and Gupta 1983; ranges of Morris, Mitchell and Ylvisaker 1993)."""
    low = torch.tensor([0.05, 100, 63070, 990, 63.1, 700, 1120, 9855], dtype=u.dtype)
    high = torch.tensor([0.15, 50000, 115600, 1110, 116, 820, 1680, 12045], dtype=u.dtype)
    rw, r, tu, hu, tl, hl, length, kw = (low + u * (high - low)).unbind(-1)
    ln = (r / rw).log()
    return (2 * math.pi * tu * (hu - hl) / (ln * (1 + 2 * length * tu / (ln * rw**2 * kw) + tu / tl)))[..., None]


def otl(u: Tensor) -> Tensor:
    """Midpoint voltage of a push-pull circuit without output transformer, six inputs (Ben-Ari and Steinberg 2007)."""
    low = torch.tensor([50, 25, 0.5, 1.2, 0.25, 50], dtype=u.dtype)
    high = torch.tensor([150, 70, 3, 2.5, 1.2, 300], dtype=u.dtype)
    b1, b2, f, c1, c2, beta = (low + u * (high - low)).unbind(-1)
    vb, g = 12 * b2 / (b1 + b2), beta * (c2 + 9)
    return ((vb + 0.74) * g / (g + f) + 11.35 * f / (g + f) + 0.74 * f * g / ((g + f) * c1))[..., None]


def standardised(f, u: Tensor) -> tuple[Tensor, Tensor]:
    """z `[n, m]` and dz/du `[n, m, d]`."""
    y, scale = f(u), f(u).std(0)
    return (y - y.mean(0)) / scale, rows_of(f, u) / scale[:, None]


def theirs(u: Tensor, v: Tensor, length: Tensor, kernel: str) -> Tensor:
    """gpytorch's covariance in our order, `[(1 + d) a, (1 + d) b]`, of values and of slopes with respect to u."""
    k = GPYTORCH[kernel](ard_num_dims=u.shape[1]).double()
    k.lengthscale = length
    shape = (len(u), 1 + u.shape[1], len(v), 1 + u.shape[1])
    return k(u, v).to_dense().detach().view(shape).permute(1, 0, 3, 2).reshape(shape[0] * shape[1], -1)


def unscaled(length: Tensor, n: int) -> Tensor:
    """What turns numbers in units of the lengths into slopes with respect to u, `[(1 + d) n]`."""
    return torch.cat([torch.ones(1).double(), 1 / length]).repeat_interleave(n)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_covariance_is_that_of_gpytorch(kernel):
    u, v, length = sobol(9, 3, 0), sobol(7, 3, 1), torch.tensor([0.3, 1.0, 5.0]).double()
    ours = covariance((u.T[:, :, None] - v.T[:, None]) / length[:, None, None], kernel)
    ours = ours * unscaled(length, 9)[:, None] * unscaled(length, 7)
    torch.testing.assert_close(ours, theirs(u, v, length, kernel), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_covariance_is_made_of_the_derivatives_of_the_correlation(kernel):
    length, points = torch.tensor([0.4, 1.5]).double(), sobol(2, 2, 3)

    def k(x, y):
        return correlation(exponents(x[None], columns_of(y[None]), length), kernel)[0, 0]

    ours = covariance(((points[0] - points[1]) / length)[:, None, None], kernel)
    ours = ours * unscaled(length, 1)[:, None] * unscaled(length, 1)
    by = torch.autograd.functional.hessian(lambda x, y: correlation_of(x, y, length, kernel), tuple(points))
    slope = torch.autograd.functional.jacobian(lambda x, y: correlation_of(x, y, length, kernel), tuple(points))
    twin = torch.cat([torch.cat([k(*points)[None], slope[1]])[None], torch.cat([slope[0][:, None], by[0][1]], 1)])
    torch.testing.assert_close(ours, twin, rtol=1e-11, atol=1e-12)


def correlation_of(x: Tensor, y: Tensor, length: Tensor, kernel: str) -> Tensor:
    return correlation(-0.5 * ((x - y) / length).square().sum(), kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_derivatives_of_the_correlation_follow_from_each_other(kernel):
    e = -torch.tensor([1e-3, 0.1, 1.0, 7.0]).double()
    f = radial(e.requires_grad_(), kernel)
    for order in range(3):
        (slope,) = torch.autograd.grad(f[order].sum(), e, retain_graph=True)
        torch.testing.assert_close(slope, f[order + 1].detach(), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("noisy", [False, True])
def test_the_evidence_has_the_gradient_of_its_value(kernel, mean, noisy):
    u = sobol(12, 3, 1)
    evidence = Evidence(Seen(u, *standardised(waves, u), kernel, mean), noisy=noisy)
    x = np.append([-0.5, 0.2, 0.1], np.log([1e-3 if noisy else 1e-6, 1e-3, 1e-4, 1e-2]))
    error = check_grad(lambda x: evidence(x)[0], lambda x: evidence(x)[1], x, epsilon=1e-6)
    assert error < 1e-5 * np.linalg.norm(evidence(x)[1])


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_evidence_is_the_density_of_what_the_trend_leaves(kernel, mean):
    """Contrasts A^T y with A^T H = 0 (Harville 1974), in the units of the slopes themselves, gpytorch's covariance."""
    u = sobol(12, 3, 1)
    z, slopes = (x[:, :1] for x in standardised(waves, u))
    one = torch.ones(3).double()
    h, y = (torch.cat([value, *by.unbind(-1)]) for value, by in (trend(u, mean), (z, slopes)))
    contrasts = torch.linalg.svd(h)[0][:, h.shape[1] :]
    evidence, difference = Evidence(Seen(u, z, slopes, kernel, mean), noisy=False), []
    for x in (np.log([0.6, 1.2, 0.9, 1e-3, 1e-2, 1e-3, 1e-4]), np.log([1.1, 0.8, 2.0, 1e-4, 1e-3, 1e-2, 1e-3])):
        length, eta = torch.from_numpy(np.exp(x)).split([3, 4])
        c = theirs(u, u, length, kernel) + torch.diag(nuggets(eta, 12, kernel) * unscaled(length, 12).square())
        c, w = contrasts.T @ c @ contrasts, contrasts.T @ y
        s2 = (w.T @ torch.linalg.solve(c, w))[0, 0] / len(w)
        density = torch.distributions.MultivariateNormal(0 * w[:, 0], s2 * c).log_prob(w[:, 0])
        pull = (x - evidence.centre) / evidence.width
        difference.append(evidence(x)[0] - 0.5 * float(pull @ pull) + float(density))
    assert unscaled(one, 1).tolist() == [1.0] * 4
    assert difference[0] == pytest.approx(difference[1], abs=1e-7)


def noisy_core(kernel: str, mean: str = "constant", kernels: int = 8) -> tuple[Core, Tensor, Tensor, Tensor]:
    u = sobol(14, 3, 1)
    z, slopes = standardised(waves, u)
    z = z + 0.05 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).double()
    slopes = slopes + 0.1 * torch.randn(slopes.shape, generator=torch.Generator().manual_seed(1)).double()
    recipe = GradientGP(kernel=kernel, mean=mean, kernels=kernels, calibrate=False)
    return recipe.train(u, z, noisy=True, seed=0, slopes=slopes), u, z, slopes


@pytest.mark.parametrize("kernel", KERNELS)
def test_mean_and_variance_are_those_of_gpytorch_at_equal_lengths(kernel):
    """Of gpytorch's exact process with our lengths, nuggets and mean; kriging adds the variance of its mean."""
    core, u, z, slopes = noisy_core(kernel)
    new, (s2, eta, length, beta) = (
        sobol(20, 3, 99),
        (float(core.variance[0]), core.eta[0], core.length[0], core.beta[0]),
    )

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(u, torch.cat([z[:, :1], slopes[:, 0]], 1), likelihood)
            self.mean = gpytorch.means.ConstantMeanGrad()
            self.kernel = gpytorch.kernels.ScaleKernel(GPYTORCH[kernel](ard_num_dims=3))

        def forward(self, x):
            return gpytorch.distributions.MultitaskMultivariateNormal(self.mean(x), self.kernel(x))

    positive = gpytorch.constraints.Positive()
    likelihood = gpytorch.likelihoods.MultitaskGaussianLikelihood(
        num_tasks=4, has_global_noise=False, noise_constraint=positive
    ).double()
    model = Model(likelihood).double()
    model.mean.initialize(constant=float(beta))
    model.kernel.outputscale, model.kernel.base_kernel.lengthscale = s2, length
    likelihood.task_noises = s2 * nuggets(eta, 1, kernel) * unscaled(length, 1).square()
    model.eval()
    likelihood.eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        latent = model(new)
    p = core(new)
    torch.testing.assert_close(p.mean[:, 0], latent.mean[:, 0], rtol=1e-6, atol=1e-6)

    c = theirs(u, u, length, kernel) + torch.diag(nuggets(eta, 14, kernel) * unscaled(length, 14).square())
    h = torch.cat([torch.ones(14), torch.zeros(42)]).double()
    lack = 1 - theirs(new, u, length, kernel)[:20] @ torch.linalg.solve(c, h)
    expected = latent.variance[:, 0] + s2 * (lack.square() / (h @ torch.linalg.solve(c, h)) + eta[0])
    torch.testing.assert_close(p.variance[:, 0], expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_run_left_out_in_closed_form_is_one_left_out(kernel, mean):
    """Value and slopes together, at the same lengths, nuggets and s^2; by dense algebra without the run."""
    u = sobol(14, 3, 1)
    z, slopes = (x[:, :1] for x in standardised(waves, u))
    fit = _fit(Seen(u, z, slopes, kernel, mean), True, 1)
    length, eta, s2 = fit.state["length"], fit.state["eta"], float(fit.state["variance"])
    c = theirs(u, u, length, kernel) + torch.diag(nuggets(eta, 14, kernel) * unscaled(length, 14).square())
    h, y = (torch.cat([value, *by.unbind(-1)]) for value, by in (trend(u, mean), (z, slopes)))
    for i in range(14):
        rest = torch.arange(len(c)) % 14 != i
        k, c_rest, h_rest = c[i, rest], c[rest][:, rest], h[rest]
        solved = torch.linalg.solve(c_rest, torch.cat([h_rest, y[rest], k[:, None]], 1))
        information = h_rest.T @ solved[:, : h.shape[1]]
        beta = torch.linalg.solve(information, solved[:, : h.shape[1]].T @ y[rest])
        lack = h[i] - k @ solved[:, : h.shape[1]]
        residual = y[i] - h[i] @ beta - k @ torch.linalg.solve(c_rest, y[rest] - h_rest @ beta)
        spread = s2 * (c[i, i] - k @ solved[:, -1] + lack @ torch.linalg.solve(information, lack))
        assert float(fit.residual[i]) == pytest.approx(float(residual), rel=1e-5, abs=1e-7)
        assert float(fit.spread[i]) == pytest.approx(float(spread), rel=1e-5)


def test_what_it_says_of_runs_left_out_is_kept():
    """Residuals in closed form, in the units of their own error as folds with other lengths have calibrated it."""
    u = sobol(30, 3, 1)
    z, slopes = standardised(waves, u)
    core = GradientGP().train(u, z, noisy=False, seed=0, slopes=slopes)
    assert core.left_out.mean.shape == z.shape
    assert 0.05 < float(((z - core.left_out.mean) / core.left_out.stddev).square().mean()) < 4
    assert float((core.left_out.mean - z).abs().max()) < 0.1


@pytest.mark.parametrize("mean", ["constant", "quadratic"])
@pytest.mark.parametrize(("kernel", "kernels"), [("rbf", 8), ("matern52", 8), ("matern52", 1)])
def test_slopes_in_closed_form_are_those_of_autograd(kernel, kernels, mean):
    core, u, _, _ = noisy_core(kernel, mean, kernels)
    new = torch.cat([sobol(9, 3, 2), u[:2]])  # training points too
    for ours, twin in zip(core.slopes(new), Core.slopes(core, new), strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-7, atol=1e-9)


def test_later_components_share_their_lengths():
    u = sobol(16, 2, 1)

    def many(u):
        return torch.stack([torch.sin((1 + 0.3 * i) * u[:, 0] + i * u[:, 1]) for i in range(7)], -1)

    z, slopes = standardised(many, u)
    recipe = GradientGP(kernel="rbf", mean="constant", kernels=3, starts=1, calibrate=False)
    core = recipe.train(u, z, noisy=False, seed=0, slopes=slopes)
    assert core.group.tolist() == [0, 1, 2, 3, 3, 3, 3]
    torch.testing.assert_close(core(u).mean, z, rtol=0.0, atol=1e-4)
    for ours, twin in zip(core.slopes(u), Core.slopes(core, u), strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mean", ["constant", "linear"])
def test_a_point_has_the_same_bits_alone_and_in_any_batch(kernel, mean):
    u, new = sobol(30, 3, 1), sobol(6000, 3, 2)
    z, slopes = standardised(waves, u)
    core = GradientGP(kernel=kernel, mean=mean, calibrate=False, starts=1).train(
        u, z, noisy=False, seed=0, slopes=slopes)  # fmt: skip
    batch = core(new).mean
    for size in (1, 2, 3, 17, 1000):
        for start in (0, 1, 4096, 6000 - size):
            assert torch.equal(core(new[start : start + size]).mean, batch[start : start + size])
    leaf = new[:40].clone().requires_grad_()
    assert torch.equal(core(leaf).mean, batch[:40])


def nrmse(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / (truth - truth.mean(0)).norm())


def errors(recipe, runs: Runs, f, new: Tensor) -> tuple[float, float, float]:
    """Of value and gradient on new points, over the scatter of each; and the share of values within 1.96 sd."""
    emulator = emulate.fit(recipe, runs, seed=0)
    p, truth = emulator.predict(new), f(new)
    inside = ((p.mean - truth).abs() < 1.96 * p.stddev).double().mean()
    return nrmse(p.mean, truth), nrmse(emulator.jacobian(new), rows_of(f, new)), float(inside)


@pytest.mark.parametrize(("f", "d"), [(borehole, 8), (otl, 6)])
def test_at_equal_runs_its_error_is_a_fraction_of_that_of_values_alone(f, d):
    runs, new = table(f, sobol(20, d, 1)), sobol(512, d, 99)
    ours, plain = errors(GradientGP(starts=1), runs, f, new), errors(GP(starts=1), runs, f, new)
    print(
        f"\n{f.__name__}, 20 runs: NRMSE {ours[0]:.2e} ({plain[0]:.2e} of values alone), gradient {ours[1]:.2e} ({plain[1]:.2e})"
    )
    assert ours[0] < plain[0] / 5
    assert ours[1] < plain[1] / 3


def test_what_a_trend_leaves_is_learnt_as_well_as_without_a_trend():
    """Lengths to begin with that were those of the trend ended where slopes pass for noise: errors up to 3e-3."""
    new = laws.points(512, seed=9)
    for mean in (*MEANS, "auto"):
        emulator = emulate.fit(GradientGP(mean=mean, kernel="rbf"), laws.runs(32), seed=0)
        error = ((emulator.predict(new).mean - laws.truth(new)).numpy() / laws.SCALE) ** 2
        print(f"\n{mean}: {error.mean(0).max() ** 0.5:.1e} of an output's scale", end="")
        assert error.mean(0).max() < 1e-4**2


@pytest.mark.slow
@pytest.mark.parametrize(("f", "d"), [(borehole, 8), (otl, 6)])
def test_errors_and_coverage_by_number_of_runs(f, d):
    """Three scramblings: the error of 25 runs with slopes is below that of 75 without, and intervals hold what they say."""
    new, found = sobol(1024, d, 99), {}
    for recipe, n in [
        (GradientGP(), 12),
        (GradientGP(), 25),
        (GradientGP(), 50),
        *((GP(), n) for n in (25, 50, 75, 100)),
    ]:
        each = np.array([errors(recipe, table(f, sobol(n, d, seed)), f, new) for seed in range(3)])
        found[type(recipe), n] = np.append(np.exp(np.log(each[:, :2]).mean(0)), each[:, 2].mean())
        print(f"\n{f.__name__} {type(recipe).__name__:10} {n:3} runs: NRMSE {found[type(recipe), n][0]:.2e}, gradient "
              f"{found[type(recipe), n][1]:.2e}, coverage {each[:, 2].round(3).tolist()}", end="")  # fmt: skip
    assert found[GradientGP, 25][0] < found[GP, 75][0]
    assert min(found[GradientGP, n][2] for n in (12, 25, 50)) > 0.9


def test_at_its_runs_value_and_gradient_are_known():
    u = sobol(20, 3, 1)
    emulator = emulate.fit(GradientGP(starts=1), table(waves, u), seed=0)
    torch.testing.assert_close(emulator.predict(u).mean, waves(u), rtol=0.0, atol=1e-3)
    torch.testing.assert_close(emulator.jacobian(u), rows_of(waves, u), rtol=0.0, atol=0.02)
    new = sobol(256, 3, 99)
    plain = emulate.fit(GP(starts=1), table(waves, u), seed=0)
    ours, plain = (nrmse(e.jacobian(new), rows_of(waves, new)) for e in (emulator, plain))
    assert ours < plain / 5


def test_jacobians_that_are_wrong_are_left_aside():
    """Slopes of another function are outvoted by the values: the error stays that of values alone."""
    u, new = sobol(40, 3, 1), sobol(512, 3, 99)
    wrong = torch.randn(rows_of(waves, u).shape, generator=torch.Generator().manual_seed(0)).double()
    ours = errors(GradientGP(kernel="rbf"), table(waves, u, jacobian=wrong), waves, new)
    plain = errors(GP(kernel="rbf"), table(waves, u), waves, new)
    assert ours[0] < 2 * plain[0]


def test_of_a_noisy_simulator_its_intervals_hold_new_runs():
    """Noise of a tenth in values and in slopes, each run with a seed of its own."""
    u, new, noise = sobol(40, 3, 1), sobol(512, 3, 99), torch.Generator().manual_seed(0)

    def rough(shape):
        return 0.1 * torch.randn(shape, generator=noise, dtype=torch.float64)

    runs = table(waves, u, jacobian=rows_of(waves, u) + rough((40, 2, 3)), noise=rough((40, 2)), stochastic=True)
    p = emulate.fit(GradientGP(kernel="rbf"), runs, seed=0).predict(new)
    inside = ((p.mean - waves(new) - rough((512, 2))).abs() < 1.96 * p.stddev).double().mean()
    assert 0.9 < float(inside) < 0.995
    assert nrmse(p.mean, waves(new)) < 0.08


def duplicated():
    return sobol(6, 2, 1).repeat_interleave(2, 0), lambda u: torch.sin(3 * u.sum(-1, keepdim=True))


def one_parameter():
    return sobol(6, 1, 1), lambda u: torch.sin(3 * u)


def three_runs():
    return torch.tensor([[0.1, 0.2], [0.5, 0.9], [0.8, 0.4]]).double(), lambda u: u.sum(-1, keepdim=True)


def one_constant():
    return sobol(8, 2, 1), lambda u: torch.cat([7 + 0 * u[:, :1], u.sum(-1, keepdim=True)], -1)


def tiny():
    return sobol(12, 2, 1), lambda u: 1e-20 * torch.sin(3 * u.sum(-1, keepdim=True))


def large():
    return sobol(12, 2, 1), lambda u: 1e6 + 1e-3 * torch.sin(3 * u.sum(-1, keepdim=True))


def along_a_line():
    return torch.linspace(0, 1, 9).double()[:, None].repeat(1, 2), lambda u: torch.sin(3 * u[:, :1])


def many_parameters():
    return sobol(8, 30, 1), lambda u: torch.sin(u[:, :1] + u[:, 1:2]) + u[:, 2:].mean(-1, keepdim=True)


@pytest.mark.parametrize(
    "case", [duplicated, one_parameter, three_runs, one_constant, tiny, large, along_a_line, many_parameters]
)
def test_hard_tables_give_finite_answers_near_the_data(case):
    u, f = case()
    emulator = emulate.fit(GradientGP(starts=1), table(f, u), seed=0)
    p, new = emulator.predict(u), emulator.predict(sobol(20, u.shape[1], 5))
    off = (p.mean - f(u)) / torch.where(f(u).std(0) > 0, f(u).std(0), 1.0)
    assert off.abs().max() < 1e-3
    for t in (new.mean, new.variance, emulator.jacobian(u), new.log_prob(new.mean)):
        assert torch.isfinite(t).all()
    assert (new.variance > 0).all()


def test_thirty_parameters_are_learnt_from_a_handful_of_runs():
    """248 numbers of 8 runs hold what 8 values of 30 parameters cannot."""
    u, f = many_parameters()
    new = sobol(256, 30, 99)
    ours, plain = (errors(recipe, table(f, u), f, new)[0] for recipe in (GradientGP(starts=1), GP(starts=1)))
    print(f"\n30 parameters, 8 runs: NRMSE {ours:.3f}, of values alone {plain:.3f}")
    assert ours < min(0.25, plain / 3)


def test_what_cannot_be_fitted_is_refused_in_words():
    u = sobol(12, 3, 1)
    plain = Runs.of(table(waves, u).space, table(waves, u).outputs, u.numpy(), waves(u).numpy())
    with pytest.raises(InputError) as caught:
        emulate.fit(GradientGP(), plain, seed=0)
    assert str(caught.value) == ("gradient_gp must have runs that carry their Jacobians. Got runs without; set simulate."
                                 "jacobians (auto finds how), give `jacobian` to `Runs.of`, or another recipe.")  # fmt: skip
    with pytest.raises(InputError) as caught:
        emulate.fit(GradientGP(most=40), table(waves, u), seed=0)
    assert str(caught.value) == (
        "gradient_gp: runs x (1 + parameters) must be at most most = 40. Got 12 x 4 = 48, which takes up to 0.000295 GB of "
        "memory and 1.11e-05 s on one core for each of some hundred steps. Train on fewer runs, use gp, which reads the "
        "values alone, or raise most.")  # fmt: skip
    line, f = along_a_line()
    with pytest.raises(InputError) as caught:
        emulate.fit(GradientGP(mean="quadratic"), table(f, line[:1].repeat(9, 1) + 0 * line), seed=0)
    assert str(caught.value) == ("gradient_gp: mean must have coefficients that the runs determine. Got mean = 'quadratic' "
                                 "and 9 runs, too few or at too few places; choose a simpler mean.")  # fmt: skip


@pytest.mark.parametrize("mean", MEANS)
def test_the_least_number_of_runs_determines_the_mean(mean):
    for d in (1, 2, 5):
        least = GradientGP(mean=mean).minimum_runs(d)
        assert determined(sobol(least, d, 1), mean)
        assert determined(sobol(least - 1, d, 2), mean), "no run may be left out"
        assert basis(sobol(1, d, 1), mean).shape[1] < least * (1 + d)


def universes(runs: int, held_out: int) -> tuple[Runs, Runs, Tensor]:
    """N-body runs of the quickstart's box, 32^3 particles with fixed phases, the first half with Jacobians; held-out runs
    and the true d ln P / d theta at the first ten of them."""
    simulator = NBody(particles=32)
    theta, new = (simulator.space.from_unit(sobol(n, 4, seed)) for n, seed in ((runs, 1), (held_out, 77)))
    with torch.no_grad():
        y, y_new = (torch.stack([simulator.run(t, seed=0) for t in x]) for x in (theta, new))
    slopes, true = (torch.stack([simulator.jacobian(t, seed=0)[1] for t in x]) for x in (theta[: runs // 2], new[:10]))
    slopes = torch.cat([slopes, torch.zeros_like(slopes)])  # the second half is only ever read by `gp`
    tables = (Runs.of(simulator.space, simulator.outputs, x.numpy(), v.numpy(), jacobian=j)
              for x, v, j in ((theta, y, slopes.numpy()), (new, y_new, None)))  # fmt: skip
    return *tables, true / y_new[: len(true), :, None]


def spectrum_errors(recipe, runs: Runs, held_out: Runs, slopes: Tensor) -> list[float]:
    """Root mean square and median of the fractional errors of P(k), and the error of d ln P / d theta."""
    emulator = emulate.fit(recipe, runs, seed=0)
    y = torch.from_numpy(held_out.y)
    off = emulator.predict(held_out.theta).mean / y - 1
    width = held_out.space.from_unit(torch.ones(4).double()) - held_out.space.from_unit(torch.zeros(4).double())
    found = emulator.jacobian(held_out.theta[: len(slopes)]) / y[: len(slopes), :, None]
    error = ((found - slopes) * width).norm() / (slopes * width).norm()
    return [float(off.square().mean().sqrt()), float(off.abs().median()), float(error)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_nbody_spectrum_takes_a_third_of_the_runs():
    """Means over disjoint parts of one Sobol sequence. Equal error is read off the learning curve of values alone."""
    runs, held_out, slopes = universes(96, 40)
    curves = {}
    for recipe, sizes, n in ((GP(calibrate=False), (16, 24, 32, 48, 96), 96),
                             (GradientGP(calibrate=False), (8, 12, 16, 24), 48)):  # fmt: skip
        for size in sizes:
            parts = [runs.select(slice(i, i + size)) for i in range(0, n - size + 1, size)]
            each = [spectrum_errors(recipe, part, held_out, slopes) for part in parts]
            curves[type(recipe), size] = np.log(each).mean(0)
            print(f"\n{type(recipe).__name__:10} {size} runs: P(k) {np.exp(curves[type(recipe), size][:2])} rms and median, "
                  f"gradient {np.exp(curves[type(recipe), size][2]):.2e}", end="")  # fmt: skip
    alone = [size for recipe, size in curves if recipe is GP]
    ratios = []
    for size in (8, 12, 16, 24):
        equal = [np.exp(np.interp(-curves[GradientGP, size][e], [-curves[GP, n][e] for n in alone], np.log(alone)))
                 for e in range(3)]  # fmt: skip
        ratios.append(np.array(equal) / size)
        print(
            f"\n{size} runs with Jacobians do the work of {np.round(equal, 1)} without, {ratios[-1].round(2)} times",
            end="",
        )
    means = np.exp(np.log(ratios).mean(0))
    print(f"\non average {means.round(2)} times (96 at most): rms, median, gradient")
    assert means.max() >= 3
    assert means.min() >= 2.5


def doubted(f, u: Tensor, change) -> list[str]:
    """What `fit` warns of, of Jacobians that `change` makes of the true ones."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        emulate.fit(
            GradientGP(kernel="rbf", mean="linear", starts=1), table(f, u, jacobian=change(rows_of(f, u))), seed=0
        )
    return [str(w.message) for w in caught if issubclass(w.category, DoubtWarning)]


def one_in_another_unit(jacobian: Tensor) -> Tensor:
    return torch.cat([jacobian[:, :, :1], 1000 * jacobian[:, :, 1:2], jacobian[:, :, 2:]], -1)


@pytest.mark.parametrize(("change", "said"), [
    (lambda j: 0 * j, r"y0 changes with the parameters otherwise than its Jacobian says, and 1 more of outputs and parameters"),
    (lambda j: 2 * j, r"y\d changes with x\d 0\.5 \+- \S+ times as much as its Jacobian says, and \d more of .*"),
    (one_in_another_unit, r"y\d changes with x1 (0\.001 \+- \S+ times as much as|otherwise than) its Jacobian says.*"),
    (torch.neg, r"y\d changes with x\d -1 \+- \S+ times as much as its Jacobian says.*"),
])  # fmt: skip
def test_jacobians_that_the_values_contradict_are_told_in_one_sentence(change, said):
    (found,) = doubted(waves, sobol(28, 3, 1), change)
    assert re.fullmatch("gradient_gp: Jacobians must agree with the values of the runs. Got values that contradict them: "
                        f"{said}; look at its unit, sign and order, or train on the values alone.", found), found  # fmt: skip


def test_an_output_in_another_unit_is_named():
    def change(j):
        return torch.stack([j[:, 0], j[:, 1] / 100], 1)

    (found,) = doubted(waves, sobol(28, 3, 1), change)
    assert "y1 changes with x" in found
    assert "y0" not in found


def coarse(u: Tensor) -> Tensor:
    """Far too few runs for its waves."""
    return torch.stack([torch.sin(12 * u[..., 0]) * torch.cos(9 * u[..., 1]), (u[..., 0] - 0.4).abs()], -1)


@pytest.mark.parametrize(("seeds", "noise"), [
    (1, (0.0, 0.0)), (1, (0.3, 1.0)),
    *(pytest.param(12, noise, marks=pytest.mark.slow) for noise in ((0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 2.0))),
])  # fmt: skip
def test_honest_jacobians_are_never_doubted(seeds, noise):
    """Few runs, coarse ones, kinks; noise of values and slopes in units of their scatter. 576 tables with -m slow: none."""
    alarms, tried = [], 0
    for seed in range(seeds):
        for f, d in ((waves, 3), (borehole, 8), (coarse, 2), (lambda u: u.sum(-1, keepdim=True), 3)):
            for n in (5, 9, 20):
                u, g = sobol(n, d, seed), torch.Generator().manual_seed(seed)
                z, s = f(u), rows_of(f, u)
                errors = (x.std(0) * torch.randn(x.shape, generator=g, dtype=x.dtype) for x in (z, s))
                z, s = (x + size * e for x, size, e in zip((z, s), noise, errors, strict=True))
                alarms += _doubts(u, z, s, True)
                tried += 1
    assert tried == 12 * seeds
    assert alarms == []
