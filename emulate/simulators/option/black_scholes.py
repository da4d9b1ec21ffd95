"""Prices of European options and all their Greeks in closed form."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Payoff = Literal["call", "put", "digital_call", "digital_put"]


class Greeks(NamedTuple):
    """The price V today and its derivatives; time is that to expiry, T, and theta = -dV/dT as traders have it."""

    price: Tensor
    delta: Tensor  # dV/dS
    gamma: Tensor  # d2V/dS2
    vega: Tensor  # dV/dsigma
    theta: Tensor  # -dV/dT, per year
    rho: Tensor  # dV/dr
    epsilon: Tensor  # dV/dq


def greeks(payoff: Payoff, *, spot: Tensor, strike: Tensor, sigma: Tensor, rate: Tensor, dividend: Tensor,
           time: Tensor) -> Greeks:  # fmt: skip
    r"""V of a call or a put on a price S that pays dividends at the rate q, and of their digital kin, which pay 1.

    With w = 1 for calls and -1 for puts, N and phi the normal distribution function and density,

        d1 = (ln(S / K) + (r - q + sigma^2 / 2) T) / (sigma T^1/2),   d2 = d1 - sigma T^1/2,
        V = w (S exp(-q T) N(w d1) - K exp(-r T) N(w d2)),   of a digital one exp(-r T) N(w d2)

    (Black & Scholes 1973; Merton 1973; Rubinstein & Reiner 1991 for the digital ones). Arguments broadcast.

    >>> of = lambda x: torch.tensor(x, dtype=torch.float64)
    >>> g = greeks("call", spot=of(42.0), strike=of(40.0), sigma=of(0.2), rate=of(0.1), dividend=of(0.0), time=of(0.5))
    >>> round(float(g.price), 2), round(float(g.delta), 3)
    (4.76, 0.779)
    """
    w = -1.0 if payoff.endswith("put") else 1.0
    width = sigma * time.sqrt()
    d1 = (torch.log(spot / strike) + (rate - dividend + sigma**2 / 2) * time) / width
    d2 = d1 - width
    paid, kept = torch.exp(-rate * time), torch.exp(-dividend * time)
    if not payoff.startswith("digital"):
        asset, cash = w * spot * kept * _below(w * d1), w * strike * paid * _below(w * d2)
        peak = spot * kept * _density(d1)
        return Greeks(asset - cash, asset / spot, peak / (spot**2 * width), peak * time.sqrt(),
                      dividend * asset - rate * cash - peak * sigma / (2 * time.sqrt()), time * cash, -time * asset)  # fmt: skip
    price, edge = paid * _below(w * d2), w * paid * _density(d2)  # edge: dV/dd2
    by_rate = edge * time.sqrt() / sigma
    drift = (rate - dividend - sigma**2 / 2) * time.sqrt() / sigma
    return Greeks(price, edge / (spot * width), -edge * d1 / (spot * width) ** 2, -edge * d1 / sigma,
                  rate * price - edge * (2 * drift - d2) / (2 * time), by_rate - time * price, -by_rate)  # fmt: skip


def _below(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
