"""Emulators of known faults, and evidence about them: what a check must tell apart.

The simulator is ln P_j = a_j . c + b_j sin(2 c_0 c_1) and one field of either sign, c = 2 u - 1. The honest stand-in
adds a smooth error of four components, of which it states the covariance. The others differ from it in one thing each.
"""

import copy
import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Confirmation, Evidence, Jacobians, Recovery, Replicas, Softening, Weighted
from emulate.distributions import Gaussian
from emulate.domain import Domain
from emulate.feasibility import Feasibility
from emulate.likelihoods.gaussian import Gaussian as Gaussian_
from emulate.replicas import replicas
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Parameter, Space, Uniform

SPACE = Space((
    Parameter("omega_m", Uniform(0.2, 0.4)),
    Parameter("h0", Uniform(60.0, 80.0), "km/s/Mpc"),
    Parameter("amplitude", LogUniform(1e-9, 4e-9)),
))  # fmt: skip
K = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
OUTPUTS = Outputs((Field("pk", "(Mpc/h)^3", True, "k", K, "h/Mpc"), Field("tilt")))
D, M = SPACE.d, OUTPUTS.size
KINDS = ("honest", "shy", "boastful", "biased", "wrong_gradient", "cornered", "steep")
SIZE = 1e-4  # standard deviation of the honest stand-in's fractional error
_MORE = 0.1  # of it, by which each output may err alone; else nine outputs would have a covariance of rank four


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


_SLOPE, _CROSS = _normal(1, M, D), 0.3 * _normal(2, M)
_MIX = torch.nn.functional.normalize(_normal(3, M, 4), dim=1)  # four components err in nine outputs
_WAVE, _PHASE = 8 * _normal(4, 4, 300, D), 2 * math.pi * torch.as_tensor(np.random.default_rng(5).random((4, 300)))


def _waves(u: Tensor) -> Tensor:
    return torch.einsum("prd,...d->...pr", _WAVE, u).add(_PHASE).cos().sum(-1)


_SEEN = _waves(torch.as_tensor(np.random.default_rng(6).random((20000, D))))
_CENTRE, _WHITEN = _SEEN.mean(0), torch.linalg.inv(torch.linalg.cholesky(_SEEN.T.cov()))


def truth(theta: Tensor) -> Tensor:
    """y `[..., m]` of theta `[..., d]`."""
    c = 2 * SPACE.to_unit(theta) - 1
    x = c @ _SLOPE.T + _CROSS * (2 * c[..., :1] * c[..., 1:2]).sin()
    return torch.cat([x[..., :-1].exp(), x[..., -1:]], -1)


def jacobian(f, theta: Tensor) -> Tensor:
    """dy/dtheta `[g, m, d]` at theta `[g, d]`, by reverse mode."""
    theta = theta.clone().requires_grad_()
    y = f(theta)
    rows = [torch.autograd.grad(y[:, j].sum(), theta, retain_graph=True)[0] for j in range(M)]
    return torch.stack(rows, 1)


@dataclass(frozen=True)
class Prediction:
    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal(dim1=-2, dim2=-1)

    def gaussian(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.covariance


@dataclass(frozen=True)
class StandIn:
    """mean = truth (1 + error); `stated` is the stated standard deviation over the real one."""

    error: float = SIZE
    stated: float = 1.0
    bias: float = 0.0  # of the positive field, a fraction
    ripple: float = 0.0  # amplitude of a wave too fast to be seen in value
    pitch: float = 3000.0  # of that wave, over the unit cube
    broken: bool = False  # NaN at the first held-out run

    space, outputs = SPACE, OUTPUTS

    def mean(self, theta: Tensor) -> Tensor:
        u = SPACE.to_unit(theta)
        z = (_waves(u) - _CENTRE) @ _WHITEN.T  # mean 0 and covariance 1 over the box, as stated below
        off = self.error * (z @ _MIX.T) + self.bias + self.ripple * (self.pitch * u[..., :1]).sin()
        y = truth(theta)
        return torch.cat([(y * off.exp())[..., :-1], (y + off)[..., -1:]], -1)

    def predict(self, theta: Tensor) -> Gaussian:
        y = self.mean(theta)
        if self.broken:
            y = y.where((theta != torch.as_tensor(held_out().theta[0])).any(-1, keepdim=True), torch.nan)
        w = torch.cat([y[..., :-1].log(), y[..., -1:]], -1)  # the error is one of ln y where y is positive
        root, more = self.error * self.stated * _MIX.T, torch.full_like(w, (_MORE * self.error * self.stated) ** 2)
        return Gaussian(w, torch.ones_like(w[..., :4]), root, more, log=torch.as_tensor(OUTPUTS.positive))

    def jacobian(self, theta: Tensor) -> Tensor:
        return jacobian(self.mean, theta)

    @property
    def guard(self) -> Domain:
        """Of a design all over the box; the biased one saw no run of omega_m above 0.27, and the posterior lies at 0.3."""
        u = torch.quasirandom.SobolEngine(D, scramble=True, seed=1).draw(128, dtype=torch.float64)
        return Domain(SPACE, u[u[:, 0] < 0.35] if self.bias >= 0.01 else u)


STAND_INS = {
    "honest": StandIn(),
    "shy": StandIn(stated=3.0),
    "boastful": StandIn(stated=1 / 3),
    "biased": StandIn(bias=0.01),
    "wrong_gradient": StandIn(ripple=4e-5),
    "steep": StandIn(ripple=4e-5, pitch=20000.0),  # so wrong in gradient that a forecast by it is wrong too
    "cornered": StandIn(),  # honest: it is the prior that cuts its posterior off
}
_POSTERIOR = {"shy": (0.0, 1.4), "boastful": (0.0, 0.75), "biased": (0.6, 1.0)}  # shift and width, in true sd
_RECOVERY = {"shy": (0.0, 3.0), "boastful": (0.0, 0.4), "biased": (2.0, 1.0)}


@cache
def held_out(n: int = 80, *, seed: int = 0) -> Runs:
    theta = SPACE.from_unit(torch.as_tensor(np.random.default_rng(seed).random((n, D))))
    return Runs.of(SPACE, OUTPUTS, theta.numpy(), truth(theta).numpy())


@cache
def jacobians(g: int = 12, *, noise: float = 1e-3, seed: int = 0) -> Jacobians:
    """`noise`: standard error of every derivative, in units of its parameter's typical derivative."""
    theta = SPACE.from_unit(torch.as_tensor(np.random.default_rng(seed).random((g, D))))
    exact = jacobian(truth, theta)
    error = noise * exact.square().mean(1, keepdim=True).sqrt().expand_as(exact)
    return Jacobians(theta, truth(theta), exact + error * _normal(seed + 1, g, M, D), error)


def weighted(shift: float, width: float, *, s: int = 200, t: int = 4000, seed: int = 0, d: int = D) -> Weighted:
    """The true posterior is N(0, 1)^d around the box's centre in steps of its hundredth, the surrogate's
    N(shift, width^2) in the first parameter and N(0, width^2) in the others."""
    x = width * _normal(seed, t, d)
    x[:, 0] += shift
    centre = torch.zeros(d, dtype=torch.float64)
    centre[0] = shift
    log_weight = -0.5 * x.square().sum(1) + 0.5 * ((x - centre) / width).square().sum(1) + d * math.log(width)
    theta = SPACE.from_unit(torch.full((D,), 0.5, dtype=torch.float64)) * (1 + 0.01 * x) if d == D else x
    return Weighted(theta[:s], log_weight[:s], theta)


_TILT = torch.linalg.cholesky(
    0.5 * torch.eye(D, dtype=torch.float64) + 0.5
)  # parameters of one posterior are correlated


def recovery(shift: float, width: float, *, q: int = 20, s: int = 300, seed: int = 6) -> Recovery:
    """Normal posteriors of q observations, s independent draws of each; `shift` of the first parameter's mean and `width`
    in units of the right sd. They are as wide as a hundredth of the box's centre, and a tenth of the prior in x."""
    z = torch.cat(
        [torch.zeros(q, 1, D, dtype=torch.float64), _normal(seed, q, s + 1, D) @ _TILT.T], 1
    )  # mean, truth, draws
    z[:, 0, 0] = z[:, 0, 0] + shift
    z[:, 2:] = width * z[:, 2:] + shift * torch.eye(D, dtype=torch.float64)[0]
    white = torch.linalg.solve_triangular(_TILT, (z - z[:, :1]).mT, upper=False).square().sum(1)  # [q, s + 2]
    rank = (white[:, 2:] < white[:, 1:2]).double().mean(1)
    sd = 0.01 * SPACE.from_unit(torch.full((D,), 0.5, dtype=torch.float64)).expand(q, D)
    place = SPACE.from_unit(torch.as_tensor(np.random.default_rng(seed).random((q, D))))
    x = _normal(seed + 10_000, q, 1, D) + 0.1 * z
    return Recovery(rank, place + sd * z[:, 1], place + sd * z[:, 0], width * sd, x[:, 2:], x[:, 1],
                    torch.full((q,), float(s), dtype=torch.float64))  # fmt: skip


@cache
def confirmation(kind: str, *, k: int = 32, seed: int = 0) -> Confirmation:
    """`confirmed` by the stand-in of that kind."""
    return confirmed(STAND_INS[kind], k=k, seed=seed)


def confirmed(own: StandIn, *, k: int = 32, seed: int = 0) -> Confirmation:
    """k runs of a simulator that scatters as the honest stand-in says about its mean, at the centre of the box; the posterior
    is that of one run through `own`, with a flat prior."""
    theta = SPACE.from_unit(torch.full((1, D), 0.5, dtype=torch.float64))
    honest = STAND_INS["honest"]
    covariance = own.predict(theta).gaussian()[1][0]
    j = own.jacobian(theta)[0]
    y = honest.predict(theta).sample((k,), generator=torch.Generator().manual_seed(seed))[:, 0]
    return Confirmation(theta[0], torch.linalg.inv(j.T @ torch.linalg.solve(covariance, j)), y, covariance)


@cache
def replicated(kind: str, *, seed: int = 0) -> Replicas:
    """An observation of a simulator that scatters as the honest stand-in says about its mean, with a tenth of that as noise
    of its own; the posterior is that through the stand-in of that kind, with a flat prior, normal about the best fit."""
    return again(STAND_INS[kind], seed=seed)


def again(emulator: StandIn, *, t: int = 200, seed: int = 0) -> Replicas:
    """The same of any stand-in, with t draws."""
    noise = Gaussian_(relative_error=0.1 * SIZE, absolute_error=0.1 * SIZE)
    generator = torch.Generator().manual_seed(seed)
    theta = SPACE.from_unit(torch.rand(1, D, generator=generator, dtype=torch.float64) * 0.8 + 0.1)
    run = STAND_INS["honest"].predict(theta).sample(generator=generator)[0]
    data = noise.sample(run, seed=seed)
    for _ in range(3):  # Gauss-Newton
        prediction, j = emulator.predict(theta), emulator.jacobian(theta)[0]
        covariance = noise.covariance(prediction.mean, prediction)[0]
        pull = j.T @ torch.linalg.inv(covariance)
        spread = torch.linalg.inv(pull @ j)
        theta = theta + spread @ pull @ (data - prediction.mean[0])
    z = torch.randn(t, D, generator=generator, dtype=torch.float64)
    return replicas(emulator.predict, noise, data, theta + z @ torch.linalg.cholesky(spread).T, OUTPUTS, seed=seed)


@cache
def feasibility(edge: float, *, n: int = 128) -> Feasibility:
    """Runs fail where omega_m lies above `edge`; every posterior of these stand-ins lies near 0.3."""
    theta = SPACE.from_unit(torch.quasirandom.SobolEngine(D, scramble=True, seed=1).draw(n, dtype=torch.float64))
    y = truth(theta).where(theta[:, :1] < edge, torch.nan)
    return Feasibility.fit(Runs.of(SPACE, OUTPUTS, theta.numpy(), y.numpy()), seed=0)


def cornered(t: int = 4000, *, seed: int = 0) -> Weighted:
    """Draws that are cut off at the upper edge of omega_m, at which they are most likely."""
    known = weighted(0.02, 1.01, t=t, seed=seed)
    draws = known.draws.clone()
    draws[:, 0] = 0.4 - 0.02 * _normal(seed, t).abs()
    return replace(known, draws=draws)


def evidence(kind: str) -> Evidence:
    """All that the stages would hand to the checks about one stand-in."""
    known = cornered() if kind == "cornered" else weighted(*_POSTERIOR.get(kind, (0.02, 1.01)))
    return Evidence(STAND_INS[kind], held_out(), jacobians(), known,
                    recovery(*_RECOVERY.get(kind, (0.0, 1.0))),
                    feasibility=feasibility(0.3 if kind == "biased" else 0.36),
                    confirmation=confirmation(kind), replicas=replicated(kind),
                    likelihood=Gaussian_(relative_error=0.01, absolute_error=0.01),
                    softening=Softening(torch.full((D,), 0.6 if kind == "biased" else 0.05, dtype=torch.float64), False),
                    )  # fmt: skip


FAULTS = {  # the emulator, and what that does to its posteriors: shift and width in right standard deviations
    "honest": (StandIn(), 0.0, 1.0),
    "shy": (StandIn(stated=2.0), 0.0, 2.0),
    "boastful": (StandIn(stated=0.5), 0.0, 0.5),
    "biased": (StandIn(bias=0.5 * SIZE), 0.5, 1.0),
    "wrong_gradient": (StandIn(ripple=4e-5), 0.0, 1.0),
}


def study(fault: str, seed: int) -> Evidence:
    """What the stages hand to the checks in one study with one fault, everything random anew, as much of it as by default.

    The weights of true runs scatter by 0.1 besides: no emulator is exact.
    """
    emulator, shift, width = FAULTS[fault]
    known = weighted(shift, width, s=128, t=1000, seed=seed)
    known = replace(known, log_weight=known.log_weight + 0.1 * _normal(seed + 20_000, 128))
    return Evidence(emulator, held_out.__wrapped__(20, seed=seed), jacobians.__wrapped__(10, seed=seed), known,
                    recovery(shift, width, seed=seed), feasibility=feasibility(0.36), confirmation=confirmed(emulator, seed=seed),
                    replicas=again(emulator, t=40, seed=seed), likelihood=Gaussian_(relative_error=0.01, absolute_error=0.01),
                    softening=Softening(torch.full((D,), 0.05, dtype=torch.float64), False))  # fmt: skip


def spoiled(need: str):
    """The honest evidence with one NaN, once for each tensor of `need`."""
    good = evidence("honest")
    if need == "held_out":
        yield "prediction", replace(good, emulator=StandIn(broken=True))
        return
    record = getattr(good, need)
    if need == "feasibility":
        bad = Feasibility(SPACE, record.finished, record.failed, copy.deepcopy(record.classifier))
        bad.classifier._pull[0] = torch.nan
        yield "classifier", replace(good, feasibility=bad)
        return
    for name, value in vars(record).items():
        if not isinstance(value, Tensor):
            continue
        bad = value.clone(memory_format=torch.contiguous_format)
        bad.view(-1)[0] = torch.nan
        yield name, replace(good, **{need: replace(record, **{name: bad})})
