"""Draws of the true posterior, by a few true runs for each and many of the surrogate: delayed acceptance."""

from collections.abc import Callable

import torch
from torch import Tensor

from emulate.contracts import Draws, LogDensity
from emulate.diagnostics import diagnose, require_chains

_SHORT = 4  # Metropolis steps of the surrogate that make a proposal nearby
_WARMUP = 0.25  # share of the steps that is left out


def delayed_acceptance(log_density: LogDensity, weigh: Callable[[Tensor], Tensor], start: tuple[Tensor, Tensor], pool: Tensor,
                       n: int, *, seed: int, progress: Callable[[int, int], None] | None = None) -> Draws:  # fmt: skip
    r"""Chains in the true posterior p = q w, of which q costs nothing and w = p / q one true run.

    A proposal x' is made in the surrogate posterior q alone, so that it is reversible there, q(x) T(x'|x) = q(x') T(x|x'), and
    accepted with probability min(1, w(x') / w(x)) by one true run (Christen and Fox 2005; Liu 2001, section 9.4.3, as the
    surrogate transition). Steps take turns: a draw of q from `pool`, which is another place at once where w is even, and the
    end of a short random walk in q, which moves on where w is steep. Every step asks for the runs of all chains together.

    log_density: ln q of x `[c, d]`; weigh: ln w of x `[c, d]`, -inf where there is no posterior; start: draws `[c, d]` of q with
    their ln w; pool `[t, d]`: draws of q. All random numbers of a step follow those of the step before, so that longer chains
    begin as shorter ones, and stored runs are never asked again. The first quarter of the n steps is left out. In
    `diagnostics` the accepted shares of both kinds of steps.

    >>> g = torch.Generator().manual_seed(1)
    >>> q = torch.randn(4000, 1, generator=g, dtype=torch.float64)  # the surrogate's N(0, 1); the truth is N(1, 1)
    >>> made = delayed_acceptance(lambda x: -0.5 * x.square().sum(-1), lambda x: x[:, 0] - 0.5, (q[:16], q[:16, 0] - 0.5), q,
    ...                           400, seed=1)
    >>> round(float(made.x.mean()), 1), round(float(made.x.std()), 1)
    (1.0, 1.0)
    """
    skip = int(_WARMUP * n)
    x, log_w = start
    require_chains(x, n - skip, 1)
    c, d = x.shape
    generator = torch.Generator().manual_seed(seed)
    spread = pool.mT.cov().reshape(d, d)
    root = torch.linalg.cholesky(spread + 1e-12 * spread.trace() / d * torch.eye(d).to(spread)) * (1.19 / d**0.5)
    path, weights, shares = [], [], ([], [])
    for i in range(n):
        far = pool[torch.randint(len(pool), (c,), generator=generator)]
        new = _walk(log_density, x, root, generator) if i % 2 else far
        log_new = weigh(new)
        accept = (
            torch.rand(c, generator=generator, dtype=torch.float64).log() < log_new - log_w
        )  # never where that is NaN
        x, log_w = torch.where(accept[:, None], new, x), torch.where(accept, log_new, log_w)
        path.append(x)
        weights.append(log_w)
        shares[i % 2].append(float(accept.double().mean()))
        if progress:
            progress(i + 1, n)
    kept, log_w = torch.stack(path[skip:], 1), torch.stack(weights[skip:], 1)
    with torch.no_grad():
        value = log_density(kept.flatten(0, 1)).reshape(c, -1) + log_w
    rhat, ess = diagnose(kept)
    far, near = (sum(s) / len(s) for s in shares)
    return Draws(kept, value, torch.zeros_like(value, dtype=torch.bool), rhat, ess,
                 {"accepted_far": far, "accepted_near": near, "warmup": skip})  # fmt: skip


def _walk(log_density: LogDensity, x: Tensor, root: Tensor, generator: torch.Generator) -> Tensor:
    """The end of a random walk from x, by Metropolis steps that leave the surrogate posterior as it is."""
    with torch.no_grad():
        value = log_density(x)
        for _ in range(_SHORT):
            new = x + torch.randn(x.shape, generator=generator, dtype=x.dtype) @ root.mT
            other = log_density(new)
            accept = torch.rand(len(x), generator=generator, dtype=x.dtype).log() < other - value
            x, value = torch.where(accept[:, None], new, x), torch.where(accept, other, value)
    return x
