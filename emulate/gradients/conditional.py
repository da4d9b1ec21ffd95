"""Conditional Monte Carlo: one draw integrated exactly, jumps included, where decisions are marked by `noise.above`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import carries, discrete, inverse
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Watch
from emulate.gradients.pathwise import Continuous, Pathwise
from emulate.meter import Meter
from emulate.noise import Noise, Place, Treatment
from emulate.replication import UNVALIDATED, Program, each, lift

EDGE = 7.5  # |z| beyond which 6e-14 of a normal draw lies
HALVINGS = 48  # of a bracket of a root: to rounding


class _Conditioned(Continuous):
    """The program with the uniform number of one place set to Phi(z), and its decisions read, or set.

    z carries derivatives through the draw by dx/dz = phi(z) / p(x), whatever the family.
    """

    def __init__(self, at: Place, z: Tensor, forced: Tensor | None = None) -> None:
        super().__init__("conditional")
        self.at, self.z, self.forced = at, z, forced
        self.margins: list[Tensor] = []
        self.count, self.met = 0, False

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if place != self.at:
            return super().draw(place, distribution, u)
        self.met, z = True, self.z.detach()
        x = inverse(distribution, torch.special.ndtr(z).expand(u.shape))
        density = torch.exp(-0.5 * z.square() - distribution.log_prob(x.detach())) / math.sqrt(2 * math.pi)
        return x + (self.z - z) * density.detach()

    def above(self, place: Place, margin: Tensor) -> Tensor:
        begin, self.count = self.count, self.count + margin.numel()
        self.margins.append(margin.reshape(-1))
        if self.forced is None:
            return (margin.detach() > 0).to(margin.dtype)
        return self.forced[begin : self.count].reshape(margin.shape).to(margin.dtype)


class _Seen(Treatment):
    """The plain program; it keeps where one continuous number is drawn, and which decisions read theta."""

    def __init__(self) -> None:
        self.single: list[Place] = []
        self.reads: list[bool] = []

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if u.ndim == 0 and not discrete(distribution):
            self.single.append(place)
        return super().draw(place, distribution, u)

    def above(self, place: Place, margin: Tensor) -> Tensor:
        self.reads += [carries(margin)] * margin.numel()
        return super().above(place, margin)


@dataclass(frozen=True, kw_only=True)
class Conditional(Gradient):
    """Conditional Monte Carlo: dE[f]/dtheta = E[d E[f | all draws but one] / dtheta], the inner mean by quadrature.

    Given the other draws, f is a piecewise smooth function of z = Phi^-1(u) of the one draw, and jumps where a margin
    M_k(theta, z) of a `noise.above` is zero. With phi the normal density and z_r(theta) the roots in order,

        d/dtheta sum_r int_{z_r}^{z_r+1} f phi dz = int (df/dtheta) phi dz
            + sum_r (f(z_r -) - f(z_r +)) phi(z_r) dz_r/dtheta,   dz_r/dtheta = -(dM/dtheta) / (dM/dz),

    the path derivative and the boundary terms (Fu & Hu 1997; Glasserman 2003, sec. 7.2). Roots are bracketed by sign
    changes on a grid and halved to rounding; the pieces are integrated by Gauss and Legendre. Unbiased up to this
    quadrature, whose error is bounded by a second one with fewer nodes, if every decision on theta is moved by the site; a
    plain branch or `>` may hide a jump and leaves the bias unknown (NaN). A program that does not decide hard is handed to
    `pathwise`.

    >>> from torch.distributions import Normal
    >>> def hit(theta, noise):  # P(theta + Z > 1) has the slope phi(1 - theta)
    ...     return noise.above("hit", theta[0] + noise.draw("z", Normal(0.0, 1.0)) - 1)
    >>> e = Conditional().estimate(hit, torch.tensor([1.0], dtype=torch.float64), seed=0)
    >>> round(float(e.gradient), 10)
    0.3989422804
    """

    needs: ClassVar[tuple[str, ...]] = ("graph",)  # and draws by name, where f decides hard

    site: str = ""  # the place of the draw that is integrated, such as "z" or "z[9]"; empty: the only one that can be
    grid: Annotated[int, Ge(9)] = 61  # points at which margins are looked at for changes of sign
    nodes: Annotated[int, Ge(8)] = 32  # of the quadrature between two roots
    most: Annotated[int, Ge(1)] = 8  # roots in a replicate; more are refused

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        probe = each(lambda noise: f(theta, noise), seed, 2)
        if not probe.record.decisions:
            e = Pathwise().estimate(f, theta, seed=seed, n=n)
            return replace(e, calls=e.calls + probe.calls)
        total, z = max(n, 2), torch.linspace(-EDGE, EDGE, self.grid, dtype=torch.float64)
        with Meter() as meter:
            given, looks = _Given(f, theta, *self._place(f, theta, Noise(seed))), 4 * len(probe.record.sites) + 1
            look = each(lambda noise: given.over(lambda x: given.run(noise, x)[1], z), seed, total)
            roots, unsettled = self._count(look.answer)
            made = each(lambda noise: self._integrate(given, noise, z, roots), seed, total)
        values, slopes, doubts, off, flat = made.answer
        if bool((off > 1e-3).any()):
            raise InputError(f"conditional must have margins that are continuous in the draw at {given.at}. Got one that "
                             "jumps across zero, as one does that reads another decision; integrate another site, or use "
                             "score, smooth or common_random_numbers.")  # fmt: skip
        stuck = flat.any(0) & (look.answer.amax(0) != look.answer.amin(0)).any(0)
        if bool(stuck.any()):
            raise InputError(f"conditional must have every decision on theta moved by the draw at {given.at}. Got one that "
                             "stays where it is over a part of that draw while other draws move it; integrate another site, "
                             "or use score, smooth or common_random_numbers.")  # fmt: skip
        runs = roots * (HALVINGS + 4) + (roots + 1) * (self.nodes + self.nodes * 3 // 4 + 1) + self.grid
        bias = doubts.abs().mean(0) + 1e-13 * slopes.abs().amax(0)
        return averaged(values[:n], slopes[:n], random=len(probe.record.sites) > 1, meter=meter,
                        calls=probe.calls + looks + look.calls * self.grid + made.calls * runs,
                        bias_bound=torch.full_like(bias, torch.nan) if given.branches or given.seen else bias,
                        diagnostics={"site": str(given.at), "roots": roots, "unsettled": unsettled, "reads": sorted(given.seen),
                                     "alone": made.alone})  # fmt: skip

    def _place(self, f: Program, theta: Tensor, noise: Noise) -> tuple[Place, tuple[bool, ...]]:
        """The place to integrate, and which decisions read theta."""
        seen = _Seen()
        torch.func.jacrev(lambda t: f(t, noise.again(seen)))(theta)
        allowed = {str(place): place for place in seen.single}
        moved = {place: self._moved(f, theta, noise, place) for place in seen.single}
        random = torch.stack(list(moved.values())).any(0) if moved else torch.zeros(len(seen.reads), dtype=torch.bool)
        needed = random & torch.tensor(seen.reads)
        able = [name for name, place in allowed.items() if bool(moved[place][needed].all())]
        if self.site in allowed:
            return allowed[self.site], tuple(seen.reads)
        if self.site or len(able) != 1:
            raise InputError("conditional must be told the site that it integrates, a draw of one continuous number that moves "
                             f"every decision on theta: {', '.join(able) or 'there is none'}. Got {self.site!r}; name it as "
                             "`site`, or use score, smooth or common_random_numbers.")  # fmt: skip
        return allowed[able[0]], tuple(seen.reads)

    @staticmethod
    def _moved(f: Program, theta: Tensor, noise: Noise, at: Place) -> Tensor:
        """Which decisions `[k]` depend on the draw at a place."""
        given = _Given(f, theta, at)
        margins = torch.stack(
            [given.run(noise, torch.tensor(x, dtype=torch.float64))[1] for x in (-2.1, -0.6, 0.7, 1.9)]
        )
        return (margins != margins[0]).any(0)

    def _count(self, margins: Tensor) -> tuple[int, float]:
        """The most roots of a replicate, of margins `[n, g, k]`; the share of replicates in which half a grid sees fewer."""
        fine, half = (_changes(m).sum((1, 2)) for m in (margins, margins[:, ::2]))
        most, unsettled = int(fine.max()), float((fine != half).double().mean())
        if most > self.most or unsettled > 0.05:
            raise InputError(f"conditional must find at most {self.most} roots of the margins in a replicate, and as many on "
                             f"half the grid. Got up to {most}, and another number in {unsettled:.0%} of the replicates; "
                             "integrate another site, raise `grid` and `most`, or use score or smooth.")  # fmt: skip
        return most, unsettled

    def _integrate(self, given: "_Given", noise: Noise, z: Tensor, roots: int) -> tuple[Tensor, ...]:
        """Value `[m]` and slope `[m, d]` given the other draws; how far a coarser rule is off `[m, d]`; how far margins are
        from zero at their roots `[r]`; which decisions on theta `[k]` do not move somewhere."""
        margins = given.over(lambda x: given.run(noise, x)[1], z)
        inner = (margins[1:] == margins[:-1])[z[1:].abs() < 5]  # further out a margin may round to a constant
        flat = inner.any(0) & torch.tensor(given.reads)
        k = margins.shape[1]
        changes = _changes(margins)
        cell, order = torch.sort(
            torch.where(changes, torch.arange(len(z) - 1)[:, None], len(z)).reshape(-1), stable=True
        )
        used, which = (cell < len(z))[:roots], torch.arange(k) == (order % k)[:roots, None]  # [r], [r, k]
        cell = cell[:roots].clamp(max=len(z) - 2)
        low, high = torch.where(used, z[cell], EDGE), torch.where(used, z[cell + 1], EDGE)
        begins = (which * (margins[cell] > 0)).any(1)
        around = (which * (margins[cell].abs() + margins[cell + 1].abs())).sum(1)
        for _ in range(HALVINGS if roots else 0):
            middle = (low + high) / 2
            same = (which * (given.over(lambda x: given.run(noise, x)[1], middle) > 0)).any(1) == begins
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        root, order = torch.sort((low + high) / 2)
        used, which, around = used[order], which[order], around[order]

        edge = root.new_full((1,), EDGE)
        left, right = torch.cat([-edge, root]), torch.cat([root, edge])
        value, slope, coarse = self._pieces(given, noise, left, right)
        off = root.new_zeros(0)
        if roots:
            sides = given.over(lambda x: given.run(noise, x)[1] > 0, (left + right) / 2)
            jump = given.over(
                lambda x, a, b: given.run(noise, x, a)[0] - given.run(noise, x, b)[0], root, sides[:-1], sides[1:]
            )
            of_theta, of_z, margin = given.over(lambda x, one: given.slopes(noise, x, one), root, which)
            dz = -of_theta / torch.where(used & (of_z != 0), of_z, 1.0)[:, None]
            weight = torch.where(used, _phi(root), 0.0)
            slope = slope + torch.einsum("rm,r,rd->md", jump, weight, torch.where(used[:, None], dz, 0.0))
            off = torch.where(used, margin.abs() / around.clamp(min=1e-300), 0.0)
        return value, slope, coarse, off, flat

    def _pieces(self, given: "_Given", noise: Noise, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The integral of f `[m]` and of df/dtheta `[m, d]` over all pieces, and the difference to fewer nodes."""
        made = []
        for count in (self.nodes, self.nodes * 3 // 4):
            x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(count))
            half = (right - left)[:, None] / 2
            at = ((left + right)[:, None] / 2 + half * x).reshape(-1)
            weight = (half * w).reshape(-1) * _phi(at)
            slope, y = given.over(lambda x: given.path(noise, x), at)
            made.append((torch.einsum("q,qm->m", weight, y), torch.einsum("q,qmd->md", weight, slope)))
        (value, slope), (_, coarse) = made
        return value, slope, slope - coarse


class _Given:
    """The program as a function of the one draw, z, all others given."""

    def __init__(self, f: Program, theta: Tensor, at: Place, reads: tuple[bool, ...] | None = None) -> None:
        self.f, self.theta, self.at, self.reads = f, theta, at, reads
        self.branches, self.seen = False, set[str]()

    def over(self, g: Callable, *along: Tensor) -> Any:
        """g of each entry, stacked; one by one where the program branches."""
        try:
            with UNVALIDATED:
                return torch.func.vmap(g)(*along)
        except (RuntimeError, NotImplementedError):
            self.branches = True
            answers = [g(*one) for one in zip(*along, strict=True)]
            return torch.stack(answers) if isinstance(answers[0], Tensor) else tuple(map(torch.stack, zip(*answers)))

    def run(
        self, noise: Noise, z: Tensor, forced: Tensor | None = None, theta: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """y `[m]` and the margins `[k]` of all decisions."""
        treatment = _Conditioned(self.at, z, forced)
        y = self.f(self.theta if theta is None else theta, noise.again(treatment))
        if not treatment.met or (self.reads is not None and treatment.count != len(self.reads)):
            raise InputError(f"conditional must meet the draw at {self.at} and the same decisions in every run. Got a run that "
                             "does not; use score, smooth or common_random_numbers.")  # fmt: skip
        return y, torch.cat(treatment.margins)

    def path(self, noise: Noise, z: Tensor) -> tuple[Tensor, Tensor]:
        """df/dtheta `[m, d]` at fixed z and decisions, and y `[m]`."""

        def run(t: Tensor) -> tuple[Tensor, Tensor]:
            with Watch(self.seen):
                y, _ = self.run(noise, z, theta=t)
            return y, y

        return torch.func.jacrev(run, has_aux=True)(self.theta)

    def slopes(self, noise: Noise, z: Tensor, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dM/dtheta `[d]` and dM/dz of one margin, and M."""
        (of_theta, of_z), margin = torch.func.grad_and_value(
            lambda t, x: torch.where(one, self.run(noise, x, theta=t)[1], 0.0).sum(), argnums=(0, 1))(self.theta, z)  # fmt: skip
        return of_theta, of_z, margin


def _changes(margins: Tensor) -> Tensor:
    """Where `[..., g - 1, k]` the sign changes between two points of the grid."""
    above = margins > 0
    return above[..., 1:, :] != above[..., :-1, :]


def _phi(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
