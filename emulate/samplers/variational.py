"""A normalising flow that is fitted to the density, and Metropolis draws from it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from emulate.contracts import Checkpoint, Draws, LogDensity, Progress, Sampler
from emulate.densities import value_and_gradient
from emulate.diagnostics import diagnose, require_chains
from emulate.importance import pareto_k
from emulate.samplers._evidence import evidence
from emulate.samplers._mixture import fitted
from emulate.samplers._moves import Axes
from emulate.samplers.smc import SMC

_LOOK = 50  # steps between two looks at the efficiency
_LOOKED_AT = 1000  # draws of each look
_FIRST = 64  # draws of each chain that are thrown away
_DEFENCE = 0.1  # share of the proposals by Student's t
_PARTICLES = 2000  # of each group
_ROWS = 8192  # draws of one batched call
_RATE, _CALM = 5e-3, 10.0  # of Adam, which falls to 0 along a cosine; largest norm of a gradient


@dataclass(frozen=True, kw_only=True)
class Variational(Sampler):
    """Variational inference with a normalising flow, whose draws are then accepted or rejected so that they are exact.

    x = T(z), z ~ N(0, 1): through monotone rational-quadratic splines in coupling layers (Durkan et al. 2019, by zuko), then
    to the mean and covariance of particles that `smc` has led to the density, so that no mode is missed that they found. The
    splines maximise E_q[ln p(x) - ln q(x)], the `elbo`, by the gradient of p (Rezende and Mohamed 2015), which fits well and
    loses modes, and by importance weights E_p[ln q(x)], which keeps them. The fit ends when `enough` of the draws would stay
    by weights w = p / q', or after `steps`.

    Proposals are drawn from q', nine in ten from the flow and one from a mixture of Student's t that was fitted to the
    particles, and accepted or rejected by independent Metropolis, each chain from a particle of its own: one that meets a
    place where q' is too low stays there, so that R-hat and ESS tell what the fit is worth. `efficiency` is (sum w)^2 /
    (N sum w^2); `pareto_k` the shape of the tail of w: above 0.7 there are places that the fit does not reach (Vehtari et al.
    2024). `log_evidence` is ln of the mean of w. Every group has a flow of its own.

    An interrupted call starts anew and keeps no checkpoint: the fit is nearly all of the time.

    >>> draws = Variational().draw(lambda x: -0.5 * (x**2).sum(-1), torch.ones(4, 2, dtype=torch.float64), 300, seed=1)
    >>> round(draws.diagnostics["efficiency"], 2), round(draws.diagnostics["log_evidence"], 2)
    (1.0, 1.84)
    """

    steps: Annotated[int, Ge(0)] = 600  # most steps of Adam
    enough: Annotated[float, Gt(0), Le(1)] = 0.95  # efficiency at which the fit ends
    points: Annotated[int, Ge(8)] = 128  # draws of each group in one step
    transforms: Annotated[int, Ge(1)] = 4  # coupling layers
    width: Annotated[int, Ge(4)] = 32  # of the two hidden layers of each

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int, progress: Progress | None = None,
             checkpoint: Checkpoint | None = None) -> Draws:  # fmt: skip
        require_chains(start, n, self.groups)
        began = time.perf_counter()
        g, total = self.groups, self.steps + n
        generator = torch.Generator().manual_seed(seed)
        flows = _Flows(log_density, start, self, generator)
        steps = 0
        for steps, efficiency in self._fitted(flows, log_density, generator):
            if progress and steps:
                progress(steps, total, f"efficiency {efficiency:.2f}")
        with torch.no_grad():
            first = flows.first(log_density)
            x, value, log_w = (
                torch.cat(part) for part in zip(first, flows.proposed(log_density, n + _FIRST, generator))
            )
            elbo = flows.elbo(log_density, generator)
        rows = _metropolis(log_w.cpu(), generator)
        at = rows.to(x.device)
        x, value = (
            x.gather(0, at[..., None].expand(-1, -1, x.shape[2])).transpose(0, 1).contiguous(),
            value.gather(0, at).T,
        )
        told = log_w[1 + _FIRST :].unflatten(1, (g, -1)).transpose(0, 1).cpu()  # [g, n, c]
        mean, error = evidence(torch.logsumexp(told, 1) - math.log(n))
        figures = {
            "elbo": elbo,
            "efficiency": _efficiency(told),
            "pareto_k": max(pareto_k(part.flatten()) for part in told),
            "acceptance": float((rows[1:] != rows[:-1]).double().mean()),
            "log_evidence": mean,
            "log_evidence_error": error,
            "steps": float(steps),
            "seconds": time.perf_counter() - began,
        }
        if progress:
            progress(total, total, f"efficiency {figures['efficiency']:.2f}")
        value = value.contiguous()
        return Draws(x, value, torch.zeros_like(value, dtype=torch.bool), *diagnose(x, g), figures)

    def _fitted(
        self, flows: "_Flows", log_density: LogDensity, generator: torch.Generator
    ) -> Iterator[tuple[int, float]]:
        """Fits, and yields how many steps were made, and the efficiency then."""
        optimiser = torch.optim.Adam(flows.parameters, lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(self.steps, 1))
        for i in range(self.steps + 1):
            if i % _LOOK == 0 or i == self.steps:
                with torch.no_grad():
                    *_, log_w = flows.proposed(log_density, -(-_LOOKED_AT // flows.chains), generator)
                yield i, (worth := _efficiency(log_w.unflatten(1, (flows.groups, -1)).transpose(0, 1)))
                if worth >= self.enough or i == self.steps:
                    return
            with torch.enable_grad():
                loss = flows.loss(log_density, -(-self.points // flows.chains), generator)
                optimiser.zero_grad()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(flows.parameters, _CALM)
            optimiser.step()
            schedule.step()


class _Flows:
    """A flow for each of g groups of c chains; x `[k, g c, d]`."""

    def __init__(self, log_density: LogDensity, start: Tensor, plan: Variational, generator: torch.Generator):
        groups, d = plan.groups, start.shape[1]
        self.groups, self.chains, self.d, self.device = groups, len(start) // groups, d, start.device
        seed = int(torch.randint(2**31, (), generator=generator))
        led = SMC(groups=groups).draw(log_density, start, max(8, -(-_PARTICLES // self.chains)), seed=seed).x
        pool = led.reshape(groups, -1, d)
        axes = Axes.of(pool)
        self.centre, self.root, self.starts = axes.centre[:, 0], axes.root, led[:, -1]
        self.wide = fitted(pool.cpu(), generator)
        seeds = torch.randint(2**31, (groups,), generator=generator).tolist()
        self.flows = [_flow(d, plan.transforms, plan.width, s).to(self.device) for s in seeds]
        self.parameters = [p for flow in self.flows for p in flow.parameters()]

    def sample(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x and ln q `[k, g c]` of k draws of the flow for each chain."""
        z = torch.randn(k, self.groups, self.chains, self.d, generator=generator, dtype=torch.float64).to(self.device)
        parts = [flow().transform.call_and_ladj(z[:, i]) for i, flow in enumerate(self.flows)]
        y, stretch = torch.stack([y for y, _ in parts], 1), torch.stack([s for _, s in parts], 1)
        return (self.centre[:, None] + y @ self.root.mT).flatten(1, 2), (self._base(z) - stretch).flatten(1, 2)

    def log_q(self, x: Tensor) -> Tensor:
        """ln q `[k, g c]` of the flow at x."""
        rest = (x.unflatten(1, (self.groups, self.chains)) - self.centre[:, None]).mT
        y = torch.linalg.solve_triangular(self.root, rest, upper=False).mT
        parts = [flow().transform.inv.call_and_ladj(y[:, i]) for i, flow in enumerate(self.flows)]
        z, stretch = torch.stack([z for z, _ in parts], 1), torch.stack([s for _, s in parts], 1)
        return (self._base(z) + stretch).flatten(1, 2)

    def log_mixed(self, x: Tensor, log_q: Tensor) -> Tensor:
        """ln q' `[k, g c]` at x, of flow and Student's t together."""
        k = len(x)
        rows = x.unflatten(1, (self.groups, self.chains)).transpose(0, 1).flatten(1, 2).cpu()
        wide = self.wide.log_prob(rows) + self.wide.level
        wide = wide.reshape(self.groups, k, self.chains).transpose(0, 1).flatten(1, 2).to(log_q)
        return torch.logaddexp(log_q + math.log1p(-_DEFENCE), wide + math.log(_DEFENCE))

    def proposed(self, log_density: LogDensity, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """x, ln p and ln w `[k, g c]` of k draws of q' for each chain."""
        parts = []
        for some in torch.arange(k).split(max(1, _ROWS // (self.groups * self.chains))):
            x, _ = self.sample(len(some), generator)
            other = torch.rand(x.shape[:2], generator=generator, dtype=torch.float64) < _DEFENCE
            x = torch.where(other[..., None].to(x.device), self._far(len(some), generator), x)
            parts.append(self._weighed(log_density, x))
        x, value, log_w = (torch.cat(part) for part in zip(*parts, strict=True))
        return x, value, log_w

    def first(self, log_density: LogDensity) -> tuple[Tensor, Tensor, Tensor]:
        """x, ln p and ln w `[1, g c]` where the chains start, at particles."""
        return self._weighed(log_density, self.starts[None])

    def loss(self, log_density: LogDensity, k: int, generator: torch.Generator) -> Tensor:
        """-E_q[ln p - ln q] with the slopes of p, and -E_p[ln q] by truncated weights (Ionides 2008), of all groups."""
        x, log_q = self.sample(k, generator)
        every = torch.cat([x.detach(), self._far(max(1, k // 4), generator)])
        value, slope = value_and_gradient(log_density, self.asked(every))
        value, slope = value.reshape(every.shape[:2]), slope.reshape(every.shape)
        told = self.log_q(every)
        log_w = value - self.log_mixed(every, told.detach())
        log_w = log_w.unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(1)
        most = torch.logsumexp(log_w, 1, keepdim=True) - 0.5 * math.log(log_w.shape[1])
        share = torch.softmax(torch.minimum(log_w, most), 1).nan_to_num(nan=0.0)
        told = told.unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(1)
        reverse = (log_q.sum() - (slope[:k] * x).sum()) / k / self.chains
        return reverse - (share * told).sum()

    def elbo(self, log_density: LogDensity, generator: torch.Generator) -> float:
        """E_q[ln p - ln q] of the flow alone, of all groups together, where p is above 0."""
        x, log_q = self.sample(-(-_LOOKED_AT // self.chains), generator)
        rise = log_density(self.asked(x)).reshape(log_q.shape) - log_q
        return float(torch.where(torch.isfinite(rise), rise, 0.0).mean(0).sum() / self.chains)

    def asked(self, x: Tensor) -> Tensor:
        """x as a density takes it: any rows of one group, `[k, g c, d]` of several."""
        return x.flatten(0, 1) if self.groups == 1 else x

    def _weighed(self, log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = log_density(self.asked(x)).reshape(x.shape[:2])
        log_w = value - self.log_mixed(x, self.log_q(x))
        return x, value, torch.where(log_w < torch.inf, log_w, -torch.inf)  # NaN is not below

    def _far(self, k: int, generator: torch.Generator) -> Tensor:
        """Draws `[k, g c, d]` of the Student's t."""
        x = self.wide.draw(k * self.chains, generator).reshape(self.groups, k, self.chains, self.d)
        return x.transpose(0, 1).flatten(1, 2).to(self.device)

    def _base(self, z: Tensor) -> Tensor:
        level = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * self.d * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - level[:, None]


def _flow(d: int, transforms: int, width: int, seed: int) -> torch.nn.Module:
    """z -> x, the identity until it has learnt."""
    from zuko.flows import NSF

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        flow = NSF(d, transforms=transforms, hidden_features=(width, width), activation=torch.nn.SiLU,
                   **({"passes": 2} if d > 1 else {}))  # fmt: skip
    for layer in flow.transform.get_submodule("transforms").children():
        last = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
        for parameter in last[-1].parameters() if last else layer.parameters():
            torch.nn.init.zeros_(parameter)
    return flow.double()


def _metropolis(log_w: Tensor, generator: torch.Generator) -> Tensor:
    """Rows `[n, chains]` at which chains are that start in row 0 of `[1 + _FIRST + n, chains]`; row i is accepted with w_i / w."""
    at, now, rows = torch.zeros(log_w.shape[1], dtype=torch.long), log_w[0], []
    u = torch.rand(log_w.shape, generator=generator, dtype=torch.float64).log()
    for i in range(1, len(log_w)):
        accept = u[i] < log_w[i] - now  # never where that is NaN, as from -inf to -inf
        at, now = torch.where(accept, i, at), torch.where(accept, log_w[i], now)
        rows.append(at)
    return torch.stack(rows[_FIRST:])


def _efficiency(log_w: Tensor) -> float:
    """(sum w)^2 / (N sum w^2) of the worst group of ln w `[g, ...]`."""
    log_w = log_w.flatten(1)
    w = torch.exp(log_w - log_w.amax(1, keepdim=True))
    return float((w.sum(1) ** 2 / w.square().sum(1)).nan_to_num(nan=0.0).min()) / log_w.shape[1]
