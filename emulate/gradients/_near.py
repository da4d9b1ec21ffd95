"""Runs about a point, for a local emulator: mirrored pairs in a box, half of them at half its width."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from emulate.contracts import Recipe
from emulate.emulator import Emulator, fit
from emulate.errors import InputError, shown
from emulate.noise import Noise
from emulate.runs import Field, Outputs, Runs
from emulate.seeds import replicate
from emulate.space import Parameter, Space, Uniform

_SPARE = 4  # pairs in each half of the design beyond the parameters
_SMALL = 0.05  # share of f's variance in the box that need not be resolved
_MIRRORED = (
    1.5  # bias of a straight line over what leaving the outer half out changes: 1.42 where theta is in the middle,
)
_ASKEW = 2.5  # and 2.25 at an edge of the space


@dataclass(frozen=True)
class Near:
    """The design: t `[N, d]` in units of the width, theta first; the pair `[N]` of each run, -1 for theta; which are inner."""

    recipe: Recipe
    seed: int
    space: Space
    width: Tensor
    t: Tensor
    pair: Tensor
    inner: Tensor
    reach: float

    def fit(self, rows: Tensor, y: Tensor, noisy: bool, member: int = 0) -> Emulator:
        """An emulator of some of the runs y `[N, m]`."""
        outputs = Outputs((Field("y", coordinate="output", at=tuple(range(y.shape[-1]))),))
        runs = Runs.of(self.space, outputs, self.t[rows].numpy(), y[rows].numpy(), stochastic=noisy)
        return fit(self.recipe, runs, seed=replicate(self.seed, member))

    def slope(self, emulator: Emulator) -> Tensor:
        """dy/dtheta `[m, d]` at theta."""
        return emulator.jacobian(torch.zeros_like(self.width)) / self.width

    def parts(self, most: int) -> list[Tensor]:
        """The runs `[N]` of each part of the pairs."""
        return dealt(self.pair, int(self.pair.max()) + 1, most)

    def finite(self, y: Tensor) -> tuple["Near", Tensor, int]:
        """The design and runs `[n, N, m]` without points where a run is not finite, and how many those are."""
        good = y.isfinite().all(-1).all(0)
        if not good.any():
            raise InputError(f"f must be finite near theta. Got {len(good)} runs, none of which is; look at f there, or lower "
                             "width.")  # fmt: skip
        if not good[0]:
            met = y[(~y[:, 0].isfinite()).any(-1), 0][0].tolist()
            raise InputError(f"f must be finite at theta. Got {shown(met)}; look at f there, or move theta.")
        least = self.recipe.least_runs(len(self.width))
        if int((good & self.inner).sum()) < least:
            raise InputError(f"f must be finite in at least {least} runs at half the width. Got {int((good & self.inner).sum())} "
                             f"of {int(self.inner.sum())}; lower width, or raise runs.")  # fmt: skip
        kept = {name: getattr(self, name)[good] for name in ("t", "pair", "inner")}
        return replace(self, **kept), y[:, good], int((~good).sum())

    def blur(self, y: Tensor) -> Tensor:
        """The standard error `[m, d]` that the replicates y `[n, N, m]` give the difference between all and inner runs: that
        of straight lines, which is the least that an emulator has."""
        made = []
        for rows in (torch.ones_like(self.inner), self.inner):
            basis = torch.cat([torch.ones_like(self.t[rows][:, :1]), self.t[rows]], 1)
            made.append(torch.einsum("dj,njm->nmd", torch.linalg.pinv(basis)[1:], y[:, rows]) / self.width)
        return (made[0] - made[1]).std(0) / len(y) ** 0.5

    def bends(self, mean: Tensor) -> bool:
        """Whether the odd part of the pairs of mean `[N, m]` is more than a straight line, so that it may be unresolved."""
        plus, minus = self._halves(self.pair >= 0)
        t, odd = (self.t[plus] - self.t[minus]) / 2, (mean[plus] - mean[minus]) / 2
        return bool(((odd - t @ torch.linalg.pinv(t) @ odd).square().mean(0) > _SMALL / 2 * mean.var(0)).any())

    def unresolved(self, emulators: list[Emulator], parts: list[Tensor], y: Tensor) -> Tensor:
        """Whether an output `[m]` does in the box what left-out runs do not tell: the odd part of pairs, (y+ - y-) / 2, which
        slopes come from, is missed by more than half, though it stands above noise and is no small part of what f does."""
        odd, missed = [], []
        for emulator, out in zip(emulators, parts, strict=True):
            plus, minus = self._halves(out)
            if not len(plus):
                continue
            said = emulator.predict(self.t[torch.cat([plus, minus])], outside="ignore").mean
            said = (said[: len(plus)] - said[len(plus) :]) / 2
            odd.append((y[:, plus] - y[:, minus]) / 2)
            missed.append(odd[-1].mean(0) - said)
        if not odd:
            return torch.zeros(y.shape[-1], dtype=torch.bool)
        odd, missed = torch.cat(odd, 1), torch.cat(missed).square().mean(0)
        noise = odd.var(0).mean(0) / len(y) if len(y) > 1 else torch.zeros_like(missed)
        whole, odd = y.mean(0).var(0), odd.mean(0).square().mean(0)
        beyond = missed - 3 * noise
        return (beyond > 0.5 * odd) & (beyond > _SMALL * whole) & (odd > 5 * noise)

    def _halves(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Where the two runs of each whole pair stand."""
        at = out.nonzero()[:, 0]
        first = at[:-1][self.pair[at[:-1]] == self.pair[at[1:]]]
        return first, first + 1


def design(recipe: Recipe, theta: Tensor, width: Tensor, source: Any, *, runs: int, seed: int) -> Near:
    """theta, and pairs in the box theta +- width as far as the space of f's source reaches; 0 runs: as many as it takes."""
    d, least = len(theta), recipe.least_runs(len(theta))
    fewest = max(d + 1, least - d - 1, math.ceil((least - 1) / 2))  # of a half, which is fitted alone
    pairs = (runs - 1) // 4 if runs else max(d + _SPARE, fewest)
    if pairs < fewest:
        raise InputError(f"runs must be at least {4 * fewest + 1} for {d} parameters and {recipe.entry_name()}. Got {runs}; raise "
                         "it, or choose an emulator that needs fewer.")  # fmt: skip
    low, high = _limits(source, theta)
    below, above = torch.minimum(width, theta - low), torch.minimum(width, high - theta)
    if not ((below >= 0) & (above >= 0)).all():
        raise InputError(f"theta must lie in the box of f's space. Got {theta.tolist()}; move it inside.")
    width, middle = (below + above) / 2, (above - below) / (below + above)
    key = int(2**31 * Noise(seed).own("design"))
    sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=key).draw(2 * pairs, dtype=torch.float64)
    x = torch.cat([sobol[:, :1], 2 * sobol[:, 1:] - 1], 1)  # the other half of the box is its mirror image
    t = torch.stack([middle + x, middle - x], 1)
    t = torch.cat([t[0::2], t[1::2] / 2]).reshape(-1, d)
    ends = zip((middle - 1).tolist(), (middle + 1).tolist(), strict=True)
    space = Space(tuple(Parameter(f"t{i}", Uniform(*end)) for i, end in enumerate(ends)))
    pair = torch.arange(-1, 2 * pairs).repeat_interleave(2)[1:]
    reach = _MIRRORED if bool((middle.abs() < 1e-9).all()) else _ASKEW
    return Near(
        recipe, seed, space, width, torch.cat([torch.zeros_like(t[:1]), t]), pair, (pair < 0) | (pair >= pairs), reach
    )


def dealt(number: Tensor, n: int, most: int) -> list[Tensor]:
    """At most so many parts of what is numbered from 0 to n, as masks; numbers below 0 are in none."""
    k = min(n, most)
    return [(number >= 0) & (number % k == i) for i in range(k)]


def _limits(source: Any, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest theta `[d]` that f's space allows; infinite where it has none."""
    space, d = getattr(source, "space", None), len(theta)
    priors = [p.prior for p in space.parameters] if isinstance(space, Space) and space.d == d else [None] * d
    low, high = (torch.tensor([getattr(p, name, far) for p in priors], dtype=theta.dtype)
                 for name, far in (("low", -math.inf), ("high", math.inf)))  # fmt: skip
    return low, high
