"""Data that a posterior would give again: what the observation is held against to see whether the model explains it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Likelihood, Replicas
from emulate.distributions import apart, seeded
from emulate.errors import InputError
from emulate.runs import Outputs
from emulate.seeds import replicate

_DRAWS, _ENOUGH = 200, 20  # of the posterior; replicas beyond the data on either side
_MOST, _EACH = 2000, 800  # replicas, or so many for each part
_ROWS = 16  # draws at a time: a covariance is m x m
_RANK = 1e-9  # of the largest eigenvalue, below which a direction has no variance


def replicas(predict: Callable[[Tensor], Distribution], likelihood: Likelihood, data: Tensor, draws: Tensor, outputs: Outputs,
             *, seed: int, noisy: bool = True) -> Replicas:  # fmt: skip
    """Discrepancies of the observation `[m]`, and of data made again under draws of its posterior `[n, d]`.

    Under each of 200 draws, spread evenly, chi^2(y) = (y - mean)^T C^-1 (y - mean) with the prediction's mean and the
    covariance C of data about it, over all outputs and over each field (Gelman, Meng and Stern 1996). Replicas are
    `likelihood.sample` of a draw of the emulator's prediction; of its mean where the likelihood leaves the emulator's
    covariance out, or cannot start at that draw, as at a count below 0. Sets of them are made until 20 of every field
    lie beyond the data on either side (Besag and Clifford 1991), and 2000 replicas at most, or 800 for
    each field.
    """
    some = draws[torch.linspace(0, len(draws) - 1, min(len(draws), _DRAWS)).round().long()]
    generator, parts = torch.Generator().manual_seed(seed), _parts(outputs)
    known, off = [], []
    with torch.no_grad():
        for theta in some.split(_ROWS):
            prediction = predict(theta)
            mean = prediction.mean
            covariance = likelihood.covariance(mean, prediction)
            whiten = {name: _whitening(covariance[:, s, s]) for name, s in parts.items()}
            known.append((prediction, mean, whiten))
            off.append(
                (_told(likelihood, prediction, data) - mean)
                / covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).sqrt()
            )
        observed = torch.cat([_chi2(_told(likelihood, p, data) - mean, whiten, parts) for p, mean, whiten in known])
        made: list[Tensor] = []
        while len(some) * len(made) < max(_MOST, _EACH * len(parts)) and not _resolved(observed, made):
            again = []
            for prediction, mean, whiten in known:
                first = len(some) * len(made) + sum(len(x) for x in again)
                y = _again(prediction, mean, likelihood, generator, seed, first)
                again.append(_chi2(_told(likelihood, prediction, y) - mean, whiten, parts))
            made.append(torch.cat(again))
    sizes = tuple(len(range(*s.indices(outputs.size))) for s in parts.values())
    return Replicas(tuple(parts), sizes, observed, torch.stack(made), torch.cat(off).mean(0), noisy)


def _told(likelihood: Likelihood, prediction: Distribution, y: Tensor) -> Tensor:
    """y, but for outputs that a likelihood which is the emulator's own leaves out."""
    return y if likelihood.adds_noise else apart(prediction, y)


def _parts(outputs: Outputs) -> dict[str, slice]:
    """All outputs, and each field where there are several."""
    return {"": slice(0, outputs.size), **(outputs.slices if len(outputs.fields) > 1 else {})}


def _whitening(covariance: Tensor) -> Tensor:
    """W `[..., m, m]` with W^T W = C^-1 in the directions in which C has variance, 0 in the others."""
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    sd = sd.where(sd > 0, torch.inf)
    value, axes = torch.linalg.eigh(covariance / (sd[..., :, None] * sd[..., None, :]))
    root = torch.where(value > _RANK * value[..., -1:], value.clamp_min(1e-300).rsqrt(), 0.0)
    return root[..., None] * axes.mT / sd[..., None, :]


def _chi2(residual: Tensor, whiten: dict[str, Tensor], parts: dict[str, slice]) -> Tensor:
    """`[rows, parts]` of residuals `[rows, m]`."""
    each = [torch.einsum("rij,rj->ri", whiten[name], residual[:, s]).square().sum(-1) for name, s in parts.items()]
    return torch.stack(each, -1)


def _again(prediction: Distribution, mean: Tensor, likelihood: Likelihood, generator: torch.Generator, seed: int,
           first: int) -> Tensor:  # fmt: skip
    """One observation made again under each of the predictions, `[rows, m]`."""
    y = seeded(prediction).sample(generator=generator) if getattr(likelihood, "emulator_covariance", True) else mean
    return torch.stack([_sample(likelihood, one, at, replicate(seed, 1 + first + i))
                        for i, (one, at) in enumerate(zip(y, mean, strict=True))])  # fmt: skip


def _sample(likelihood: Likelihood, y: Tensor, mean: Tensor, seed: int) -> Tensor:
    try:
        return likelihood.sample(y, seed=seed)
    except InputError:
        return likelihood.sample(mean, seed=seed)


def _resolved(observed: Tensor, made: list[Tensor]) -> bool:
    if not made or not observed.isfinite().all():
        return bool(made)
    above = torch.stack([one >= observed for one in made]).sum((0, 1))
    below = torch.stack([one <= observed for one in made]).sum((0, 1))
    return bool((torch.minimum(above, below) >= _ENOUGH).all())


def p_values(known: Replicas) -> tuple[np.ndarray, np.ndarray]:
    """P(a replica has a chi^2 as large as the data's, or larger) of each part, and the same of as small or smaller."""
    n = known.replica.shape[0] * known.replica.shape[1]
    above = ((known.replica >= known.data).double().sum((0, 1)) + 1) / (n + 1)
    below = ((known.replica <= known.data).double().sum((0, 1)) + 1) / (n + 1)
    return above.clamp_max(1.0).numpy(), below.clamp_max(1.0).numpy()
