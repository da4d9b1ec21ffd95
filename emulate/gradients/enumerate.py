"""All values of the small discrete draws, each with its probability: no noise from them, however rough f is there."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import discrete, moves
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Counted, Reads, Watch, unknown
from emulate.meter import Meter
from emulate.noise import Noise, Place
from emulate.replication import each, lift


class _Walk:
    """One path of the tree: `choices` for the discrete draws met first, the first value for the rest."""

    def __init__(self, choices: tuple[int, ...], most: int) -> None:
        self.choices, self.most = choices, most
        self.widths: list[int] = []  # how many values each discrete draw of the path could take
        self.places: set[Place] = set()

    def number(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        met = f"{type(distribution).__name__} at the site {place}"
        if not distribution.has_enumerate_support:
            raise InputError(f"enumerate must have discrete draws of finitely many values. Got a {met}; use score, "
                             "measure_valued or mixed.")  # fmt: skip
        values, size = distribution.enumerate_support(expand=False).flatten(), u.numel()
        if len(values) ** size > self.most:
            raise InputError(_many(self.most, f"{len(values)}^{size} values of a {met}"))
        at = len(self.widths)
        self.widths.append(len(values) ** size)
        self.places.add(place)
        index = self.choices[at] if at < len(self.choices) else 0
        digits = [index // len(values) ** i % len(values) for i in range(size)]
        return values[torch.tensor(digits, dtype=torch.long)].reshape(u.shape)


def _followed(distribution: Distribution) -> bool:
    return not (discrete(distribution) and moves(distribution))


def _many(most: int, met: str) -> str:
    return (f"enumerate must walk at most {most} paths through the discrete draws. Got {met}; use score, measure_valued or "
            "mixed, or raise `most`.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Enumerate(Gradient):
    """Exact sums: dE[f]/dtheta = E_u[sum_k d(P_k f_k)/dtheta], over all paths k through the discrete draws.

    Those whose probabilities depend on theta are taken at each of their values in turn, a later one with the
    distribution that the earlier ones give it, so that dependent draws make a tree; P_k is the probability of the path.
    All other draws are pathwise, at fixed noise u (summing out, or Rao-Blackwellisation: Casella & Robert 1996). The
    program may branch on what is enumerated; each path is a run. Exact, error 0, where nothing else is random.
    A tree of more than `most` paths is refused. What else is continuous must be so as in `pathwise`.

    >>> from torch.distributions import Bernoulli
    >>> def f(theta, noise):
    ...     first = noise.draw("first", Bernoulli(theta[0]))
    ...     return 5.0 * noise.draw("second", Bernoulli(theta[0] ** 2)) if first else theta[0]
    >>> e = Enumerate().estimate(f, torch.tensor([0.4], dtype=torch.float64), seed=0)
    >>> e.gradient, e.standard_error  # 5 p^3 + (1 - p) p
    (tensor([[2.6000]], dtype=torch.float64), tensor([[0.]], dtype=torch.float64))
    """

    needs: ClassVar[tuple[str, ...]] = ("graph", "sites")
    exact: ClassVar[bool] = True
    most: Annotated[int, Ge(1)] = 1024  # paths through the discrete draws of one replicate

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        seen = Reads()
        walked: set[Place] = set()
        paths: list[int] = []

        def along(choices: tuple[int, ...], noise: Noise) -> tuple[Tensor, Tensor, list[int]]:
            def run(t: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                walk = _Walk(choices, self.most)
                treatment = Counted("enumerate", _followed, choices, walk.number)
                with Watch(seen, treatment.key):
                    y = f(t, noise.again(treatment))
                widths.append(walk.widths)
                walked.update(walk.places)
                weighted = treatment.log_prob.exp() * y
                return weighted, weighted

            widths: list[list[int]] = []
            slope, y = torch.func.jacrev(run, has_aux=True)(theta)
            return y, slope, widths[0]

        def one(noise: Noise) -> tuple[Tensor, Tensor]:
            y, slope, widths = along((), noise)
            waiting, count = _siblings((), widths), 1
            while waiting:
                choices = waiting.pop()
                if count + len(waiting) >= self.most:
                    raise InputError(_many(self.most, "more"))
                more, steeper, widths = along(choices, noise)
                y, slope, count = y + more, slope + steeper, count + 1
                waiting += _siblings(choices, widths)
            paths.append(count)
            return y, slope

        with Meter() as meter:
            made = each(one, seed, 1)
            probes = [*paths]
            rest = [place for place in made.record.sites if place not in walked]
            if rest or made.record.opaque:
                paths.clear()
                made = each(one, seed, max(n, 2))
        y, slopes = made.answer
        random = bool(rest) or (made.record.opaque and made.random(y))
        calls = sum(paths) if len(paths) == made.calls else made.calls * paths[0]
        if paths != probes:
            calls += sum(probes)
        return averaged(y[:n], slopes[:n], random=random, calls=calls, meter=meter, bias_bound=unknown(seen, slopes[0]),
                        diagnostics={"paths": max(paths), "alone": made.alone, "reads": sorted(seen.names)})  # fmt: skip


def _siblings(choices: tuple[int, ...], widths: list[int]) -> list[tuple[int, ...]]:
    """The paths that leave the one of `choices` (and first values after them) at one of those later draws."""
    first = range(len(choices), len(widths))
    return list(itertools.chain.from_iterable(
        [(*choices, *(0,) * (at - len(choices)), k) for k in range(1, widths[at])] for at in first))  # fmt: skip
