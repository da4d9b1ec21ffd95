"""Weak derivatives: two more draws in place of one, and what becomes of the program; for rough programs of few draws."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, distributions
from torch.distributions import Distribution

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import carries, inverse, moves
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Counted, Reads, Watch, unknown
from emulate.gradients._weak import FAMILIES, pairs
from emulate.meter import Meter
from emulate.noise import Noise, Place, Treatment
from emulate.replication import each, lift

_Key = tuple[Place, str]


class _Paired(Counted):
    """Draws are numbers; of each whose distribution depends on theta, its parameters and the pairs in its place."""

    def __init__(self, noise: Noise) -> None:
        super().__init__("measure_valued", lambda distribution: False)
        self.noise = noise
        self.phi: dict[_Key, Tensor] = {}
        self.rest: dict[_Key, tuple[Tensor, ...]] = {}  # x, weight, up, and down where it is not x

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        x = inverse(distribution, u).detach()
        if not moves(distribution):
            return x
        found = pairs(distribution, x, lambda name: self.noise.own(f"{place.site}.{name}", tuple(x.shape), place.step))
        met = type(distribution).__name__
        if found is None:
            raise InputError(f"measure_valued must have draws whose weak derivative is known: {', '.join(FAMILIES)}. Got {met} "
                             f"at the site {place}; use score or pathwise.")  # fmt: skip
        for pair in found:
            if carries(pair.phi):
                key = (place, pair.name)
                self.phi[key] = pair.phi.expand(x.shape)
                self.rest[key] = (x, pair.weight.detach().expand(x.shape), *(
                    v.detach().expand(x.shape) for v in pair[3:] if v is not None))  # fmt: skip
        base = distribution.base_dist if isinstance(distribution, distributions.Independent) else distribution
        if isinstance(base, distributions.Gamma) and carries(base.concentration):
            raise InputError("measure_valued must have draws whose weak derivative is known. Got a Gamma whose shape depends "
                             f"on theta at the site {place}; use pathwise or score.")  # fmt: skip
        return x


@dataclass(frozen=True)
class _Placed(Treatment):
    """The plain program with one draw given."""

    place: Place
    x: Tensor

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        return self.x if place == self.place else inverse(distribution, u)


@dataclass(frozen=True, kw_only=True)
class MeasureValued(Gradient):
    """Measure-valued derivatives: dE[f]/dphi = c (E[f(x+)] - E[f(x-)]), where dp/dphi = c (p+ - p-) (Pflug 1989).

    Every number drawn from a distribution that depends on theta is replaced in turn, once by x+ and once by x-, and the
    program goes on from there with the same noise; the chain rule leads from the parameters phi to theta. Unbiased
    however rough f is in its draws; its variance does not grow with their number as that of `score` does, but its price
    does: up to 2 runs for each number drawn and each of its parameters that depends on theta, at most `most`.
    The families and their pairs: Mohamed, Rosca, Figurnov & Mnih 2020, table 1. Ends of a support may move: Uniform.
    What f reads of theta past its draws is differentiated, and must be continuous as in `score`.

    >>> from torch.distributions import Poisson
    >>> f = lambda theta, noise: noise.draw("k", Poisson(theta[0])) ** 2
    >>> e = MeasureValued().estimate(f, torch.tensor([3.0], dtype=torch.float64), seed=0, n=4000)
    >>> bool((e.gradient - 7).abs() < 4 * e.standard_error)  # E = theta + theta^2
    True
    """

    needs: ClassVar[tuple[str, ...]] = ("sites",)
    most: Annotated[int, Ge(1)] = 1000  # runs that one replicate may take

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        seen = Reads()
        runs: list[int] = []

        def one(noise: Noise) -> tuple[Tensor, Tensor]:
            def run(t: Tensor) -> tuple[Any, Any]:
                treatment = _Paired(noise)
                with Watch(seen):
                    y = f(t, noise.again(treatment))
                return (y, treatment.phi), (y, treatment.rest)

            (slope, chains), (y, rest) = torch.func.jacrev(run, has_aux=True)(theta)
            needed = 1 + sum(len(held[2:]) * held[0].numel() for held in rest.values())
            if needed > self.most:
                raise InputError(f"measure_valued must take at most {self.most} runs a replicate, two for each number drawn. "
                                 f"Got {needed}; use score or pathwise, or raise `most`.")  # fmt: skip
            runs.append(needed)
            for (place, name), (x, weight, *placed) in rest.items():
                chain = chains[place, name].reshape(x.numel(), -1)
                for i in range(x.numel()):
                    here = torch.arange(x.numel()).reshape(x.shape) == i
                    ys = [f(theta, noise.again(_Placed(place, torch.where(here, to, x)))) for to in placed]
                    change = (ys[0] - (ys[1] if len(ys) > 1 else y)) * weight.reshape(-1)[i]
                    slope = slope + change[:, None] * chain[i]
            return y, slope

        with Meter() as meter:
            made = each(one, seed, max(n, 2))
        random = bool(made.record.sites)
        y, slopes = made.answer
        if not random and made.random(y):
            raise InputError("measure_valued must see the draws of f. Got a random f without a site: draw by "
                             "`noise.draw(...)`, or use common_random_numbers.")  # fmt: skip
        calls = sum(runs) if len(runs) == made.calls else made.calls * runs[0]
        return averaged(y[:n], slopes[:n], random=random, calls=calls, meter=meter, bias_bound=unknown(seen, slopes[0]),
                        diagnostics={"runs": max(runs), "alone": made.alone, "reads": sorted(seen.names)})  # fmt: skip
