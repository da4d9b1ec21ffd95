"""Training under differential privacy: gradients run by run, steps by Adam on noisy sums, and the size of what is left.

All that is learnt from runs comes through the `Ledger`, as `step` and `total`; the rest of this file never looks at one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.emulators._calibration import LEVELS
from emulate.errors import InputError
from emulate.privacy import Ledger

_AT_ONCE = 2**23  # numbers that the gradients of some runs may hold together
_SMALLEST, _LARGEST, _BINS = 1e-4, 5.0, 30  # of sizes that are told apart, in equal steps of their logarithm
_SEEN = 12.0  # variances of the noise by which a normal must come nearer than none: noise does in 1 of 100 fields
_TREND, _PACE = 4, 0.05  # one step in so many finds the trend, and Adam's first rate there
_TAIL = 0.25  # share of the steps, the last, whose weights are averaged

Loss = Callable[..., Tensor]  # (parameters, *row of one run) -> its loss


@dataclass(frozen=True)
class Tempo:
    """How Adam moves: rate, schedule of it, and decay of the squared weights over two, as a part of the mean loss."""

    rate: float
    schedule: str = "cosine"
    decay: float = 0.0


def need(ledger: Ledger | None, name: str) -> Ledger:
    """Complain where a private recipe is trained by something else than `fit`."""
    if ledger is None:
        raise InputError(f"{name}.privacy must stand in a recipe that is fitted alone, for what another recipe does around it is "
                         "not private. Got it inside of one; name the recipe itself among the emulators, or take privacy "
                         "out.")  # fmt: skip
    return ledger


def allow(name: str, wrong: dict[str, str]) -> None:
    """Complain about settings that would look at runs without noise; `wrong` says what to set those to that are amiss."""
    if wrong:
        advice = ", ".join(f"{key}: {value}" for key, value in wrong.items())
        raise InputError(f"{name}.{next(iter(wrong))} must not look at the runs beside the private steps. Got one that does; with "
                         f"privacy set {advice}.")  # fmt: skip


def gradients(loss: Loss, parameters: Sequence[Tensor], rows: tuple[Tensor, ...]) -> Tensor:
    """d loss / d parameters of each run `[b, k]`, all parameters in one row."""
    n, k = len(rows[0]), sum(p.numel() for p in parameters)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *(0,) * len(rows)))
    size = max(1, _AT_ONCE // k)
    found = [torch.cat([g.flatten(1) for g in each(tuple(parameters), *(r[i : i + size] for r in rows))], 1)
             for i in range(0, n, size)]  # fmt: skip
    return torch.cat(found) if found else rows[0].new_zeros(0, k)


def descend(loss: Loss, start: Sequence[Tensor], rows: tuple[Tensor, ...], ledger: Ledger, steps: int, tempo: Tempo, *,
            kept: int = 1) -> list[list[Tensor]]:  # fmt: skip
    """Parameters after so many private steps: the averages over `kept` stretches of the last quarter of them.

    Averages of iterates cost no privacy and take most of the noise out (Polyak and Juditsky 1992; Shejwalkar et al. 2022).
    """
    moved = [t.detach().clone().requires_grad_() for t in start]
    search = torch.optim.Adam(moved, lr=tempo.rate)
    schedule = _schedule(search, tempo, steps)
    first = steps - max(kept, int(_TAIL * steps)) if steps > kept else 0
    sums, counts = [[torch.zeros_like(t) for t in moved] for _ in range(kept)], [0] * kept
    for t in range(steps):
        batch = ledger.batch(len(rows[0]))
        found = ledger.step(gradients(loss, [m.detach() for m in moved], tuple(r[batch] for r in rows)))
        for m, g in zip(moved, found.split([m.numel() for m in moved]), strict=True):
            m.grad = g.view_as(m) + tempo.decay * m.detach()
        search.step()
        schedule.step()
        if t >= first:
            stretch = (t - first) * kept // (steps - first)
            counts[stretch] += 1
            for total, m in zip(sums[stretch], moved, strict=True):
                total += m.detach()
    return [[total / max(1, c) for total in some] if c else [m.detach().clone() for m in moved]
            for some, c in zip(sums, counts, strict=True)]  # fmt: skip


def started(h: Tensor, z: Tensor, ledger: Ledger) -> tuple[Tensor, Tensor, Tensor, int]:
    """The trend h beta of z `[n, p]` by a part of the steps: beta `[k, p]`, the size `[p]` of what it leaves, that itself,
    and how many steps are left."""
    steps = ledger.steps // _TREND

    def misfit(weights: tuple[Tensor, ...], h: Tensor, z: Tensor) -> Tensor:
        return (h @ weights[0] - z).square().mean()

    ((beta,),) = descend(misfit, [z.new_zeros(h.shape[-1], z.shape[-1])], (h, z), ledger, steps, Tempo(_PACE))
    rest = z - h @ beta
    return beta, sizes(rest, ledger), rest, ledger.steps - steps


def _schedule(search: torch.optim.Optimizer, tempo: Tempo, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if tempo.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(search, tempo.rate, total_steps=steps + 1)
    if tempo.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    return torch.optim.lr_scheduler.ConstantLR(search, 1.0)


def sizes(rest: Tensor, ledger: Ledger) -> Tensor:
    """The standard deviation `[p]` of rest `[n, p]`, one for the components of each field, by one noisy sum.

    The sum is a histogram of ln |rest|: a run adds one to the bins of each field, shared by its components, so its length is
    at most the root of the number of fields. Quantiles of it over those of a normal give the size, at the levels of
    `_calibration`. Where noise hides the shape, counts are drawn to those of the normal that is next to them, as far as their
    distance from it is noise (James and Stein 1961), which looks at no run again; where noise hides every run, the widest is.

    >>> from emulate.privacy import Privacy
    >>> private = Privacy(ranges={"y": (0.0, 1.0)}, noise=0.0, clip=None)
    >>> ledger = Ledger(private, 999, torch.zeros(1, dtype=torch.long), seed=1)
    >>> ledger.open(sums=1)
    >>> x = torch.distributions.Normal(0.0, 0.2).icdf((torch.arange(999, dtype=torch.float64) + 1) / 1000)
    >>> sizes(x[:, None], ledger).round(decimals=1)
    tensor([0.2000], dtype=torch.float64)
    """
    edges = torch.logspace(math.log10(_SMALLEST), math.log10(_LARGEST), _BINS + 1, dtype=rest.dtype)
    groups, fields = ledger.groups, int(ledger.groups.max()) + 1
    place = groups * _BINS + torch.bucketize(rest.abs(), edges[1:-1])
    share = (1.0 / groups.bincount().to(rest.dtype))[groups].expand_as(rest)
    counts = rest.new_zeros(len(rest), fields * _BINS).scatter_add(1, place, share)
    found = ledger.total(counts, fields**0.5).reshape(fields, _BINS)
    noise = ledger.release * fields**0.5 if ledger.noise else 0.0
    return torch.stack([_size(_drawn(c, edges, noise), edges) for c in found])[groups]


def _drawn(counts: Tensor, edges: Tensor, noise: float) -> Tensor:
    """Counts of a field whose noise has this standard deviation, drawn to those of a normal."""
    if noise == 0:
        return counts
    inner = edges[1:-1]
    widths = torch.logspace(math.log10(_SMALLEST), math.log10(_LARGEST), 10 * _BINS, dtype=edges.dtype)
    below = torch.nn.functional.pad(torch.erf(inner / (widths[:, None] * math.sqrt(2))), (1, 0), value=0.0)
    normal = torch.nn.functional.pad(below, (0, 1), value=1.0).diff(dim=-1)  # [widths, bins], shares of a normal
    amount = (normal @ counts / normal.square().sum(-1)).clamp_min(0.0)
    least = (counts - amount[:, None] * normal).square().sum(-1)
    seen = least.min() + _SEEN * noise**2 < counts.square().sum()
    if not seen:  # noise hides every run
        return normal[-1]
    near = int((least <= least.min() + 4 * noise**2).nonzero().max())  # the largest within two deviations
    kept = max(0.0, 1 - (len(counts) - 2) * noise**2 / max(float(least[near]), 1e-300))
    fitted = amount[near].clamp_min(1.0) * normal[near]
    return fitted + kept * (counts - fitted)


def _size(counts: Tensor, edges: Tensor) -> Tensor:
    """From counts of one field: the largest over the levels of quantiles over those of a normal, so that intervals hold
    what they promise where errors have tails."""
    above = counts.flip(0).cumsum(0).flip(0)  # the upper bins alone are noise enough
    above = torch.cat([torch.cummin(above / counts.sum().clamp_min(1.0), 0).values.clamp(0, 1), counts.new_zeros(1)])
    ratios = []
    for level, normal in LEVELS.items():
        after = int((above > 1 - level).sum().clamp(1, len(counts)))
        high, low = above[after - 1], above[after]
        part = ((high - 1 + level) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        ratios.append(edges[after - 1].log() + part * (edges[after] / edges[after - 1]).log() - math.log(normal))
    return torch.stack(ratios).amax().exp()
