"""The laws of emulators as plain functions, so that the contract tests and the planted faults use the same ones.

Each raises `AssertionError` when its law is broken. `fit` and `load` are arguments, so that faulty ones can be judged.
"""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import emulate
from emulate.contracts import Simulator, rows_of
from emulate.distributions import Gaussian
from emulate.emulator import Emulator
from emulate.errors import CampaignError, ExtrapolationWarning, InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform

SPACE = Space(
    (Parameter("a", Uniform(-1.0, 3.0)), Parameter("b", LogUniform(1e-3, 1e-1)), Parameter("c", Normal(5.0, 2.0)))
)
OUTPUTS = Outputs((Field("near_1000"), Field("tiny", "g"), Field("power", "", True, "k", (0.1, 0.2, 0.4), "h/Mpc")))
SCALE = np.array([1.0, 1e-20, 1e-9, 1e-9, 1e-9])  # by how much each output varies, to an order of magnitude
Z = 4.5  # standard errors that a Monte Carlo mean may lie off: 7e-6 by chance


def truth(theta: Tensor) -> Tensor:
    """y `[..., 5]`: 1000 + linear, 1e-20 of a smooth function, and a positive spectrum near 1e-9."""
    x = SPACE.scaled(theta) - 0.5
    one = 1000 + x @ torch.tensor([1.0, -0.5, 0.3], dtype=theta.dtype)
    two = 1e-20 * (2 + torch.sin(x[..., 0] + x[..., 1] * x[..., 2]))
    k = torch.tensor(OUTPUTS.field("power").at, dtype=theta.dtype)
    three = 1e-9 * torch.exp(x[..., :1] - x[..., 1:2] * torch.log(k) + 0.2 * x[..., 2:3] ** 2)
    return torch.cat([one[..., None], two[..., None], three], -1)


def points(n: int, seed: int, *, inside: float = 0.02) -> Tensor:
    """theta `[n, 3]`, Sobol points of the prior's box."""
    u = torch.quasirandom.SobolEngine(SPACE.d, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return SPACE.from_unit(inside + (1 - 2 * inside) * u)


def runs(n: int = 48, seed: int = 1) -> Runs:
    """With their Jacobians, for recipes that read them."""
    theta = points(n, seed)
    return Runs.of(SPACE, OUTPUTS, theta.numpy(), truth(theta).numpy(), jacobian=rows_of(truth, theta).numpy())


def line(n: int = 40) -> Runs:
    """A linear function of two parameters, one output near 1 and one near 1e6."""
    space = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
    theta = torch.quasirandom.SobolEngine(2, scramble=True, seed=2).draw(n, dtype=torch.float64).numpy()
    y = np.stack([1 + 2 * theta[:, 0] - theta[:, 1], 1e6 * (theta[:, 0] + theta[:, 1])], 1)
    jacobian = np.tile([[2.0, -1.0], [1e6, 1e6]], (n, 1, 1))
    return Runs.of(space, Outputs((Field("p"), Field("q"))), theta, y, jacobian=jacobian)


def fits_a_line(fit, recipe) -> None:
    """The error on new points is below a thousandth of what the outputs vary by."""
    table = line()
    theta = torch.rand((50, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = torch.stack([1 + 2 * theta[:, 0] - theta[:, 1], 1e6 * theta.sum(1)], 1)
    error = (fit(recipe, table, seed=0).predict(theta).mean - y).abs().amax(0) / torch.from_numpy(
        np.ptp(table.y, axis=0)
    )
    assert (error < 1e-3).all(), f"error {error.tolist()} of the range"


def is_in_physical_units(emulator: Emulator) -> None:
    """Data near 1000 and near 1e-20 are predicted to 2 % of what they vary by."""
    theta = points(64, seed=9)
    error = (emulator.predict(theta).mean - truth(theta)).abs().numpy() / SCALE
    assert error.max() < 0.02, f"errors up to {error.max(0)} of the scale of each output"


def has_one_door(emulator: Emulator, theta: Tensor, *, n: int = 20000) -> None:
    """Mean, variance and covariance are those of the samples, by z-scores; the moments handed out are the same."""
    p = emulator.predict(theta)
    y = p.sample((n,), generator=torch.Generator().manual_seed(7))
    sd = y.std(0)
    off = (y.mean(0) - p.mean) / (sd / math.sqrt(n))
    assert off.abs().max() < Z, f"the mean lies {float(off.abs().max()):.1f} standard errors from that of the samples"
    square = ((y - p.mean) / p.stddev) ** 2
    off = (square.mean(0) - 1) / (square.std(0) / math.sqrt(n))
    assert off.abs().max() < Z, (
        f"the variance lies {float(off.abs().max()):.1f} standard errors from that of the samples"
    )
    mean, covariance = p.gaussian()
    assert torch.equal(mean, p.mean)
    torch.testing.assert_close(covariance.diagonal(dim1=-2, dim2=-1), p.variance, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(covariance, covariance.mT)
    x = (y - p.mean) / p.stddev
    product = x[..., :, None] * x[..., None, :]
    correlation = covariance / (p.stddev[..., :, None] * p.stddev[..., None, :])
    off = (product.mean(0) - correlation) / (product.std(0) / math.sqrt(n))
    assert off.abs().max() < Z + 0.5, (
        f"a covariance lies {float(off.abs().max()):.1f} standard errors from the samples'"
    )


def keeps_the_shape(emulator: Emulator) -> None:
    """One point, a batch, a batch of batches: the same answers to 1e-11 of what the outputs vary by."""
    theta = points(6, seed=3)
    p = emulator.predict(theta)
    m = emulator.outputs.size
    assert (p.batch_shape, p.event_shape) == ((6,), (m,))
    each = [emulator.predict(t) for t in theta]
    assert all((q.batch_shape, q.event_shape) == ((), (m,)) for q in each)
    nested = emulator.predict(theta.reshape(2, 3, -1))
    assert (nested.batch_shape, nested.event_shape) == ((2, 3), (m,))
    none = emulator.predict(theta[:0])
    d = emulator.space.d
    assert (none.mean.shape, none.variance.shape, none.sample().shape) == ((0, m), (0, m), (0, m)), (
        "no points are refused"
    )
    assert (none.log_prob(none.mean).shape, emulator.jacobian(theta[:0]).shape) == ((0,), (0, m, d)), (
        "no points are refused"
    )
    rounding = 1e-11 * torch.from_numpy(SCALE) + 1e-15 * p.mean.abs()
    for mean, variance in ((torch.stack([q.mean for q in each]), torch.stack([q.variance for q in each])),
                           (nested.mean.reshape(6, m), nested.variance.reshape(6, m))):  # fmt: skip
        assert ((mean - p.mean).abs() <= rounding).all(), "a batch has another mean than its points"
        off = (variance - p.variance).abs()  # a variance is what a cancellation leaves of the prior's
        assert (off <= 1e-6 * p.variance + 1e-11 * torch.from_numpy(SCALE) ** 2).all(), "a batch has another variance"


def reads_every_form(emulator: Emulator) -> None:
    """A tensor, an array, lists, a dict in any order, a frame in any order: the same bits."""
    import pandas

    theta = points(4, seed=1)
    p = emulator.predict(theta)
    names = emulator.space.names[::-1]
    columns = dict(zip(names, theta.flip(-1).unbind(-1), strict=True))
    frame = pandas.DataFrame({name: column.numpy() for name, column in columns.items()})
    for given in (theta.numpy(), theta.tolist(), columns, frame):
        q = emulator.predict(given)
        assert torch.equal(q.mean, p.mean), f"{type(given).__name__} gives another mean"
        assert torch.equal(q.variance, p.variance), f"{type(given).__name__} gives another variance"


def noisy(n: int = 80) -> Runs:
    """A stochastic simulator of two parameters, one output near 5 and a positive one that shares its noise; with the
    Jacobians of every run at its own noise."""
    space = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
    theta = torch.quasirandom.SobolEngine(2, scramble=True, seed=2).draw(n, dtype=torch.float64).numpy()
    e = np.random.default_rng(1).standard_normal((n, 2))
    y = np.stack([5 + theta[:, 0] + 0.3 * e[:, 0], np.exp(theta[:, 1] + 0.2 * e[:, 0] + 0.2 * e[:, 1])], 1)
    zero = np.zeros(n)
    jacobian = np.stack([np.stack([zero + 1, zero], 1), np.stack([zero, y[:, 1]], 1)], 1)
    outputs = Outputs((Field("p"), Field("q", "", True)))
    return Runs.of(space, outputs, theta, y, stochastic=True, jacobian=jacobian)


def has_the_density_of_its_samples(emulator: Emulator, theta: Tensor, *, n: int = 10000, narrow: float = 0.5) -> None:
    """The mean of g(y) / p(y) over draws y of p is 1 for every density g, and for all of them only if p is their density.

    g is normal in y, or ln y where that is positive, around each of three draws and `narrow` times as wide as all of
    them, so that no weight is large where p is smooth on that scale.
    """
    log = emulator.transform.log
    p = emulator.predict(theta)
    y = p.sample((n,), generator=torch.Generator().manual_seed(11))
    ln = torch.where(log, torch.where(log, y, 1.0).log(), 0.0)
    w, found = torch.where(log, ln, y), p.log_prob(y)
    for b in range(len(theta)):
        size, vectors = torch.linalg.eigh(torch.cov(w[:, b].T).reshape(w.shape[-1], -1))
        for at in w[:3, b]:
            square = ((w[:, b] - at) @ vectors / size.sqrt()).square().sum(-1) / narrow**2
            g = -0.5 * (square + (2 * math.pi * narrow**2 * size).log().sum()) - ln[:, b].sum(-1)
            weight = (g - found[:, b]).exp()
            error = float(weight.std()) / math.sqrt(n)
            off = (float(weight.mean()) - 1) / error
            assert error < 0.1, "the draws are too few to judge by"
            assert abs(off) < Z, f"ln p(y) is not of the draws: g / p has mean {weight.mean():.3f} +- {error:.3f}"


def has_the_density_of_its_moments(emulator: Emulator, theta: Tensor) -> None:
    """ln p(y) is that of the normal, in ln y for positive outputs, whose mean and covariance the moments fix.

    With E the mean, C_ij = ln(1 + cov_ij / E_i E_j) where both are logarithms, cov_ij / E_i where only i is. A prediction
    that does not claim to be Gaussian has no such density: `has_the_density_of_its_samples` judges that one.
    """
    log = emulator.transform.log.numpy()
    p = emulator.predict(theta)
    if not isinstance(p, Gaussian):
        return
    y = p.sample((3,), generator=torch.Generator().manual_seed(5))
    found = p.log_prob(y).numpy()
    for b, (e, cov) in enumerate(zip(p.mean.numpy(), p.covariance_matrix.numpy(), strict=True)):
        stretch = np.where(log, e, 1.0)
        c = cov / np.outer(stretch, stretch)
        c = np.where(np.outer(log, log), np.log1p(c), c)
        sd = np.sqrt(np.diag(c))
        centre = np.where(log, np.log(np.where(log, e, 1.0)) - 0.5 * sd**2, e)
        size, vectors = np.linalg.eigh(c / np.outer(sd, sd))
        for s in range(3):
            x = vectors.T @ ((np.where(log, np.log(np.where(log, y[s, b], 1.0)), y[s, b]) - centre) / sd)
            twin = (
                stats.norm.logpdf(x, scale=np.sqrt(size)).sum() - np.log(sd).sum() - np.log(y[s, b].numpy()[log]).sum()
            )
            assert abs(found[s, b] - twin) < 1e-3, f"ln p(y) is {found[s, b]:.6f}, the moments say {twin:.6f}"


def differentiates(emulator: Emulator) -> None:
    """Gradient and Jacobian of the mean against central differences of fourth order; the variance has a gradient too."""
    centre = torch.tensor([[1.0, 0.01, 5.0]], dtype=torch.float64)  # where centred coordinates are 0
    theta = torch.cat([points(3, seed=5, inside=0.1), centre])
    width = SPACE.from_unit(torch.full((3,), 0.6).double()) - SPACE.from_unit(torch.full((3,), 0.4).double())
    jacobian = emulator.jacobian(theta)
    assert jacobian.shape == (4, emulator.outputs.size, SPACE.d)
    for i in range(SPACE.d):
        h = 1e-2 * width * torch.eye(SPACE.d, dtype=torch.float64)[i]
        f = {s: emulator.predict(theta + s * h).mean for s in (-2, -1, 1, 2)}
        slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h[i])
        error = (jacobian[..., i] - slope).abs().numpy() * float(width[i]) / SCALE
        assert error.max() < 1e-5, f"the gradient to {SPACE.names[i]} is off by {error.max():.1e} of the output's scale"
    leaf = theta.clone().requires_grad_()
    weight = torch.from_numpy(1 / SCALE)
    (by_mean,) = torch.autograd.grad((emulator.predict(leaf).mean * weight).sum(), leaf)
    torch.testing.assert_close(by_mean, (jacobian * weight[:, None]).sum(1), rtol=1e-8, atol=1e-12)
    (by_variance,) = torch.autograd.grad((emulator.predict(leaf).variance * weight**2).sum(), leaf)
    assert torch.isfinite(by_variance).all()
    assert by_variance.abs().max() > 0


def repeats_itself(fit, recipe, table: Runs) -> None:
    """Same recipe, runs and seed, same bits, whatever the global generators hold; and they are left alone."""
    theta, found = points(5, seed=8), []
    for trouble in (1, 2):
        torch.manual_seed(trouble)
        np.random.seed(trouble)  # noqa: NPY002
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        emulator = fit(recipe, table, seed=3)
        assert torch.equal(torch.get_rng_state(), before[0]), "the global generator of torch was used"
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        found.append((emulator.predict(theta).mean, emulator.predict(theta).variance))
    assert torch.equal(found[0][0], found[1][0]), "same seed, other mean"
    assert torch.equal(found[0][1], found[1][1]), "same seed, other variance"


def survives_its_file(load, emulator: Emulator, path) -> None:
    """Saved and loaded: mean, covariance and gradient differ by exactly 0; space, outputs, provenance are equal."""
    theta = points(7, seed=6)
    again = load(emulator.save(path))
    for a, b in zip(_answers(emulator, theta), _answers(again, theta), strict=True):
        assert torch.equal(a, b)
    assert (again.space, again.outputs, again.recipe) == (emulator.space, emulator.outputs, emulator.recipe)
    assert (again.provenance, again.history) == (emulator.provenance, emulator.history)


def _answers(emulator: Emulator, theta: Tensor) -> tuple[Tensor, ...]:
    leaf = theta.clone().requires_grad_()
    mean, covariance = emulator.predict(leaf).gaussian()
    (gradient,) = torch.autograd.grad((mean / mean.detach()).sum() + (covariance / covariance.detach()).sum(), leaf)
    return mean.detach(), covariance.detach(), gradient


def has_a_positive_variance(emulator: Emulator) -> None:
    """Everywhere in the box, on the training points, and in every direction of y; the density is finite."""
    seen = torch.from_numpy(runs().theta)
    for theta in (points(64, seed=4), seen, SPACE.from_unit(torch.full((1, 3), 1e-6).double())):
        p = emulator.predict(theta)
        assert (p.variance > 0).all()
        sd = p.stddev
        correlation = p.covariance_matrix / (sd[..., :, None] * sd[..., None, :])
        assert torch.linalg.cholesky_ex(correlation).info.max() == 0
        assert torch.isfinite(p.log_prob(truth(theta))).all()


def leaves_failed_runs_out(fit, recipe, table: Runs) -> None:
    """A table with failed rows gives the emulator of the table without them: a failed run is never a number."""
    y = table.y.copy()
    lost = np.arange(len(table)) % 7 == 3
    y[lost] = np.nan
    broken = Runs.of(table.space, table.outputs, table.theta, y, jacobian=table.jacobian)
    clean = table.select(~lost)
    theta = points(5, seed=8)
    torch.testing.assert_close(fit(recipe, broken, seed=0).predict(theta).mean,
                               fit(recipe, clean, seed=0).predict(theta).mean, rtol=0.0, atol=0.0)  # fmt: skip


def refuses_too_few(fit, recipe, table: Runs) -> None:
    least, name = recipe.minimum_runs(table.space.d), recipe.entry_name()
    fit(recipe, table.select(np.arange(least)), seed=0)
    few = replace(table, ok=np.arange(len(table)) < least - 1)
    few = replace(
        few, y=np.where(few.ok[:, None], few.y, np.nan), reason=tuple("" if ok else "error: tea" for ok in few.ok)
    )
    sentence = (f"{name} must have at least {least} finished runs for {table.space.d} parameters. Got {least - 1} "
                f"({len(table) - least + 1} failed); run more points, or choose a recipe that needs fewer.")  # fmt: skip
    with pytest.raises(CampaignError) as caught:
        fit(recipe, few, seed=0)
    assert str(caught.value) == sentence


def knows_its_box(emulator: Emulator) -> None:
    """Outside it warns and `strict` raises, both naming the parameter and the distance; inside nothing is said."""
    inside = torch.tensor([1.0, 0.01, 5.0], dtype=torch.float64)
    outside = torch.tensor([3.4, 0.01, 5.0], dtype=torch.float64)
    sentence = "theta must lie in the box that the emulator was trained in. Got a by 0.1 of its range outside"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emulator.predict(inside, strict=True)
    with pytest.warns(ExtrapolationWarning) as caught:
        emulator.predict(outside)
    assert str(caught[0].message) == f"{sentence}; the prediction is an extrapolation."
    with pytest.raises(InputError) as refused:
        emulator.predict(outside, strict=True)
    assert str(refused.value) == f"{sentence}; stay inside, or train on a wider prior."
    domain = emulator.domain(torch.stack([inside, outside]))
    torch.testing.assert_close(domain, torch.tensor([0.0, 0.1], dtype=torch.float64))


def means_its_derivative(simulator, theta: Tensor) -> None:
    """A simulator that claims `differentiable` has the gradient of its own answer, against central differences."""
    if not simulator.differentiable:
        return
    leaf = theta.clone().requires_grad_()
    y = simulator.run(leaf, seed=0)
    assert y.requires_grad, "differentiable is claimed, but no gradient flows"
    for j in range(len(y)):
        (slope,) = torch.autograd.grad(y[j], leaf, retain_graph=True, allow_unused=True)
        slope = torch.zeros_like(theta) if slope is None else slope
        for i in range(len(theta)):
            h = torch.zeros_like(theta)
            h[i] = 1e-5 * max(1.0, abs(float(theta[i])))
            difference = (simulator.run(theta + h, seed=0)[j] - simulator.run(theta - h, seed=0)[j]) / (2 * h[i])
            assert abs(float(slope[i] - difference)) < 1e-6 * (1 + abs(float(difference))), (
                "the gradient is of another function"
            )


def depends_on_its_seed(simulator, theta: Tensor) -> None:
    """Same seed, same bits; another seed, another answer exactly when `stochastic` is said."""
    assert torch.equal(simulator.run(theta, seed=1), simulator.run(theta, seed=1))
    assert torch.equal(simulator.run(theta, seed=1), simulator.run(theta, seed=2)) != simulator.stochastic


@dataclass(frozen=True, kw_only=True)
class Scored(Simulator):
    """Normal events around the truth, or around a plane through a table of runs, and their score in closed form; they scatter
    by what the table's runs do, a thousandth of each output's spread at least."""

    table: Runs
    events: int = 100

    @property
    def outputs(self):
        return self.table.outputs

    @property
    def stochastic(self):
        return True

    def run(self, theta, *, seed):
        return self.scored(theta.expand(self.events, -1), seed=seed)[0].mean(0)

    def scored(self, theta, *, seed):
        known = self.table.finished()
        y, at = torch.from_numpy(known.y), torch.from_numpy(known.theta)
        plane = torch.linalg.lstsq(self._line(at), y).solution
        f = truth if self.space == SPACE else lambda t: self._line(t) @ plane
        sd = torch.maximum((y - f(at)).std(0) * self.events**0.5, 1e-3 * y.std(0))
        noise = torch.randn(len(theta), len(sd), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return f(theta) + sd * noise, (rows_of(f, theta).mT @ (noise / sd)[:, :, None])[:, :, 0]

    def _line(self, theta):
        return torch.cat((torch.ones_like(theta[:, :1]), self.space.scaled(theta)), 1)


def fit_with_cheaper_runs(recipe, table: Runs, *, seed: int) -> Emulator:
    """`emulate.fit`, with runs of a cheaper simulator for recipes that read them: at the same points, alike and off."""
    if "made" in recipe.takes:
        return emulate.fit(recipe, table, seed=seed, simulator=Scored(space=table.space, table=table))
    if "coarse" not in recipe.takes:
        return emulate.fit(recipe, table, seed=seed)
    cheap = table.finished()
    tilt = 0.1 * cheap.space.scaled(torch.from_numpy(cheap.theta)).numpy()[:, :1]
    cheap = Runs.of(cheap.space, cheap.outputs, cheap.theta, cheap.y + tilt * (cheap.y - cheap.y.min(0)),
                    stochastic=cheap.stochastic)  # fmt: skip
    return emulate.fit(recipe, table, seed=seed, fidelities={"coarse": cheap})


FIT, LOAD = fit_with_cheaper_runs, emulate.load
