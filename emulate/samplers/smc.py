"""Sequential Monte Carlo: populations that are led from the prior to the density, with the evidence."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.special import ndtri

from emulate.contracts import Checkpoint, Draws, LogDensity, Progress, Sampler
from emulate.diagnostics import diagnose, require_chains
from emulate.samplers._evidence import evidence
from emulate.samplers._mixture import fitted
from emulate.samplers._moves import Axes, correlation, differences, drift, leaps
from emulate.samplers._values import Values
from emulate.tempering import led, prior

_FORGOTTEN = (
    0.1  # correlation with the places before, of every coordinate and its square, at which particles have moved enough
)
_ALARM = 0.05  # of a temperature, that a drift is seen where there is none
_POPULATIONS = 8  # of a group, for an error bar of the evidence: chains are split where there are fewer of them,
_SMALLEST = 100  # if so many particles stay in each


@dataclass(frozen=True, kw_only=True)
class SMC(Sampler):
    """Sequential Monte Carlo with tempering: no gradient, several modes in their shares, and the evidence with its error.

    Particles start from a standard normal, the prior of x, and are led through N(x; 0, 1)^(1-b) p(x)^b, b from 0 to 1 in
    steps that keep half of them effective (Del Moral, Doucet and Jasra 2006). After each step they are drawn anew by weight
    and moved by Metropolis and Hastings, in turn by draws of a mixture of Student's t that was fitted to all of them, which
    carries them between modes and forgets at once where it fits (South, Pettitt and Drovandi 2019), and by differences of
    two others, which goes where it does not fit (ter Braak 2006). They have moved enough when the coordinates and their
    squares correlate with those before the moves by less than 0.1, and their means have stopped to drift; or after
    `moves` pairs of moves. What p has outside the prior's reach is missed: p / N(x; 0, 1), the likelihood, must be bounded.

    A chain is a population of its own, so that R-hat sees modes whose weights disagree. `log_evidence` is the logarithm
    of the integral of p, the evidence where p is the joint density of data and x: of the mean over the populations, each of
    which is unbiased but for what they adapt together, with `log_evidence_error` by their scatter. Of several groups it is
    the evidence of all their data together. `start` only says how many chains there are, from places where p is above 0.

    An interrupted call starts anew, keeps no checkpoint, and more draws are other draws: particles come to the end together.

    >>> draws = SMC().draw(lambda x: -0.5 * (x**2).sum(-1), torch.zeros(8, 2, dtype=torch.float64), 500, seed=1)
    >>> abs(draws.diagnostics["log_evidence"] - math.log(2 * math.pi)) < 3 * draws.diagnostics["log_evidence_error"] + 1e-9
    True
    """

    needs_gradient: ClassVar[bool] = False
    moves: Annotated[int, Ge(1)] = 50  # most pairs of moves after each temperature

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int, progress: Progress | None = None,
             checkpoint: Checkpoint | None = None) -> Draws:  # fmt: skip
        require_chains(start, n, self.groups)
        began = time.perf_counter()
        values = Values(log_density, start, self.groups)
        g, c, d = self.groups, values.chains, values.d
        split = max(1, min(_POPULATIONS // c, n // _SMALLEST))
        each = -(-n // split)

        def log_likelihood(x: Tensor) -> Tensor:
            value = values(x.reshape(g, c, -1, d)).reshape(x.shape[:-1])
            return value + 0.5 * x.square().sum(-1) + 0.5 * d * math.log(2 * math.pi)

        generator = torch.Generator().manual_seed(seed)
        seeds = torch.randint(2**31, (g * c * split,), generator=generator).tolist()
        x = torch.stack([prior(each, d, s)[torch.randperm(each, generator=generator)] for s in seeds])
        moves, told = _Moves(log_likelihood, generator, self.moves), _Told(progress, n)
        found = led(log_likelihood, x.reshape(g, c * split, each, d), moves, generator, told)
        log_density_of = found.value - 0.5 * found.x.square().sum(-1) - 0.5 * d * math.log(2 * math.pi)
        x, value = found.x.reshape(g * c, -1, d)[:, :n], log_density_of.reshape(g * c, -1)[:, :n]
        x, value = x.contiguous().to(start.device), value.contiguous().to(start.device)
        short = (found.power < 1).repeat_interleave(c)[:, None].expand(-1, n).to(start.device)
        mean, error = evidence(found.log_evidence)
        figures = {
            "log_evidence": mean,
            "log_evidence_error": error,
            "temperatures": float(found.temperatures),
            "moves": moves.made / found.temperatures,
            "correlation": moves.correlation,
            "drift": moves.drift,
            "acceptance": moves.accepted / max(moves.made, 1),
            "evaluations": float(values.points),
            "seconds": time.perf_counter() - began,
        }
        return Draws(x, value, short, *diagnose(x, g), figures)


class _Moves:
    """Pairs of moves of all particles, until they have forgotten where they were and do not drift any more."""

    def __init__(self, log_likelihood: Callable[[Tensor], Tensor], generator: torch.Generator, most: int):
        self.log_likelihood, self.generator, self.most = log_likelihood, generator, most
        self.made, self.accepted, self.correlation, self.drift = 0, 0.0, 0.0, 0.0

    def __call__(self, x: Tensor, value: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        g, c, n, d = x.shape
        pool = x.reshape(g, c * n, d)
        mixture, axes = fitted(pool, self.generator), Axes.of(pool)
        start = last = axes.features(pool)
        enough, still = max(_FORGOTTEN, 3 / math.sqrt(c * n)), -float(ndtri(torch.tensor(0.5 * _ALARM / (2 * d * g))))
        for i in range(1, self.most + 1):
            x, value, accepted = self._chosen(x, value, power, *leaps(x.reshape(g, c * n, d), mixture, self.generator))
            x, value, _ = self._chosen(x, value, power, *differences(x.reshape(g, c * n, d), pool, self.generator))
            self.made, self.accepted = self.made + 1, self.accepted + accepted
            if i & (i - 1) and i < self.most:  # looked at after 1, 2, 4, 8 ...
                continue
            now = axes.features(x.reshape(g, c * n, d))
            self.correlation, self.drift = float(correlation(start, now).max()), float(drift(last, now).max())
            last = now
            if self.correlation < enough and self.drift < still and i > 1:
                break
        return x, value

    def _chosen(self, x: Tensor, value: Tensor, power: Tensor, new: Tensor,
                back: Tensor) -> tuple[Tensor, Tensor, float]:  # fmt: skip
        new, back = new.reshape(x.shape), back.reshape(value.shape)
        other = self.log_likelihood(new)
        rise = power[:, None, None] * (other - value) - 0.5 * (new.square() - x.square()).sum(-1) + back
        accept = torch.rand(value.shape, generator=self.generator, dtype=torch.float64).log() < rise
        return torch.where(accept[..., None], new, x), torch.where(accept, other, value), float(accept.double().mean())


class _Told:
    """Progress out of `total`, which rises with the logarithm of the power."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, power: float) -> None:
        done = self.total if power >= 1 else int(self.total * min(0.99, 1 / (1 - 0.2 * math.log(power))))
        if self.progress and done > self.done:
            self.progress(done, self.total, f"temperature {1 / power:.3g}")
            self.done = done
