"""Sobol indices of an emulator, held against true runs that it was not trained on: narrow intervals that trust no variance."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.indices import COVERED, Indices, Measure
from emulate.runs import Runs
from emulate.sensitivity import Progress, evaluate, points, prepared

LEAST = 8  # held-out runs
_BASE, _LINE, _MOMENTS = 256, 32, 1024  # points of a mean over all parameters but one, over one, over all


def anchored(found: Indices, emulator: Any, held_out: Runs, *, seed: int, progress: Progress | None = None) -> Indices:
    r"""`found`, the Sobol indices of an emulator, with the emulator's part of the intervals taken from held-out runs.

    With f = mu + delta, and P mu the part of mu that an index is the share of (E[mu | theta_i] for S_i, mu - E[mu | all but
    theta_i] for T_i, centred), the index of f is that of mu plus

        2 E[(P mu - S mu) delta] / Var mu,    and no more than -S e^2 to (1 - S) e^2 beside it, e^2 = E delta^2 / Var mu

    to second order in delta. A held-out run shows delta, so the expectation is a mean over runs that are spread over the
    prior as a design spreads them, with an error bar (Student's t) that falls with their root; nothing is assumed of
    delta, neither its variance nor its correlation, where `sobol` must assume the worst. Values stay those of the emulator,
    and every interval holds its value; where the mean is off zero by more than its error, the interval leans that way.
    Pairs keep what `sobol` gave them.

    At least 8 finished runs, of the same space and outputs, that the emulator has not seen.
    """
    runs = held_out.finished()
    if found.method != "sobol" or len(runs) < LEAST:
        raise InputError(f"anchored needs Sobol indices and {LEAST} finished held-out runs or more. Got {found.method} and "
                         f"{len(runs)}.")  # fmt: skip
    from scipy.stats import t

    _, sums, _ = prepared(emulator, found.settings["seed"])
    space, theta = emulator.space, torch.from_numpy(runs.theta)
    y = evaluate(emulator, space.from_unit(points(space.d, _MOMENTS, seed)))[0]
    mean, variance = y.mean(0), y.var(0) @ sums
    base = space.from_unit(points(space.d, _BASE, seed))
    line = space.from_unit(((torch.arange(_LINE).double() + 0.5) / _LINE)[:, None].expand(-1, space.d))
    share = torch.stack([torch.from_numpy(found[name].value) for name in ("first", "total")])  # [2, d, c]
    at = evaluate(emulator, theta)[0]
    delta, shifts = torch.from_numpy(runs.y) - at, []
    for k, centred in enumerate(at - mean):
        alone, others = _projected(emulator, theta[k], base, line, mean)
        part = torch.stack([alone, centred - others])
        shifts.append(2 * ((part * delta[k]) @ sums - share * ((centred * delta[k]) @ sums)) / variance)
        if progress:
            progress(k + 1, len(runs))
    shift = torch.stack(shifts)  # [runs, 2, d, c]
    middle = shift.mean(0)
    half = float(t.ppf((1 + COVERED) / 2, len(runs) - 1)) * shift.std(0) / math.sqrt(len(runs))
    loss = delta.square().mean(0) @ sums / variance
    below, above = (half - middle).clamp_min(0) + share * loss, (half + middle).clamp_min(0) + (1 - share) * loss
    measures = [_measure(found[name], below[k], above[k]) for k, name in enumerate(("first", "total"))]
    kept = tuple(m for m in found.measures if m.name == "second")
    return replace(found, measures=(*measures, *kept), settings={**found.settings, "held_out": len(runs)})


def _projected(emulator: Any, theta: Tensor, base: Tensor, line: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """E[mu | theta_i] and E[mu | all but theta_i] at theta `[d]`, both `[d, m]` and centred."""
    alone, others = [], []
    for i in range(len(theta)):
        x, z = base.clone(), theta.repeat(len(line), 1)
        x[:, i], z[:, i] = theta[i], line[:, i]
        alone.append(evaluate(emulator, x)[0].mean(0) - mean)
        others.append(evaluate(emulator, z)[0].mean(0) - mean)
    return torch.stack(alone), torch.stack(others)


def _measure(m: Measure, below: Tensor, above: Tensor) -> Measure:
    value, sampling = torch.from_numpy(m.value), torch.from_numpy(m.sampling)
    low = (value - torch.hypot(sampling, below)).clamp_min(0)
    high = (value + torch.hypot(sampling, above)).clamp_max(1)
    return replace(m, low=low.numpy(), high=high.numpy(), emulator=torch.maximum(below, above).numpy())
