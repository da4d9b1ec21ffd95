"""Stochastic programs whose derivatives are known: `tests/reference/gradients/expectations.py` derives them."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Gamma, Normal

from emulate.noise import Noise


def numbers(*of: float) -> Tensor:
    return torch.tensor(of, dtype=torch.float64)


def square(theta: Tensor, noise: Noise) -> Tensor:
    return noise.draw("x", Normal(theta[0], 1.0)) ** 2


def call(theta: Tensor, noise: Noise) -> Tensor:
    """The discounted payoff of a call at strike 100, rate 0.05, a year from now; theta is spot and volatility."""
    s, sigma = theta
    end = s * torch.exp(0.05 - sigma**2 / 2 + sigma * noise.draw("z", Normal(0.0, 1.0)))
    return torch.exp(torch.tensor(-0.05)) * torch.relu(end - 100)


def discrete(theta: Tensor, noise: Noise) -> Tensor:
    p = theta[0]
    a = p * (1 - p)
    b = noise.draw("b", Binomial(10, p))
    c = 2 * b + 3 * noise.draw("coin", Bernoulli(p))
    return a * c * noise.draw("x", Normal(b, a))


def log_gamma(theta: Tensor, noise: Noise) -> Tensor:
    return torch.log(noise.draw("x", Gamma(theta[0], 1.0)))


def marsaglia_tsang(theta: Tensor, noise: Noise, accept=None) -> Tensor:
    """ln X of the first of 8 proposals that is accepted, each acceptance a Bernoulli draw; one of 1e13 has none.

    With `accept`, a decision on a uniform number instead: `accept(ln r - ln u)`.
    """
    d = theta[0] - 1 / 3
    z = noise.draw("proposal", Normal(torch.zeros(8, dtype=torch.float64), 1.0))
    cube = 1 + z / torch.sqrt(9 * d)
    inside = cube.detach() > 0
    log_x = torch.log(d) + 3 * torch.log(torch.where(inside, cube, 1.0))
    log_r = torch.where(inside, z**2 / 2 + d - torch.exp(log_x) + d * (log_x - torch.log(d)), -40.0)
    if accept is None:
        accepted = noise.draw("accept", Bernoulli(torch.exp(log_r.clamp(max=0.0))))  # above 0 by rounding alone
    else:
        accepted = accept(log_r - torch.log(noise.uniform("u", (8,))))
    first = accepted * (torch.cumsum(accepted, 0) == 1)
    return (first * log_x).sum()


def accept_reject(theta: Tensor, noise: Noise) -> Tensor:
    """X and N: U is drawn until it is below theta. As draws with densities: each trial is accepted with probability theta,
    and what is accepted is uniform below theta."""
    trials = 1
    while not noise.draw("accept", Bernoulli(theta[0])):
        trials += 1
    return torch.stack([theta[0] * noise.uniform("u"), torch.tensor(float(trials), dtype=torch.float64)])


def accept_reject_batched(theta: Tensor, noise: Noise) -> Tensor:
    """The same with 64 trials drawn at once, which no replicate branches on; at theta = 0.5 one of 1e19 needs more."""
    accepted = noise.draw("accept", Bernoulli(theta[0].expand(64)))
    before = torch.cumsum(accepted, 0) == 0
    return torch.stack([theta[0] * noise.uniform("u"), 1 + before.double().sum()])
