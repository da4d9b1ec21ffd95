"""Derivatives of expectations of jumps, each with its derivation; run it to see the closed forms beside a quadrature.

1.  Digital call, Black & Scholes 1973: e^(-rT) P(S_T > K) = e^(-rT) Phi(d2), d2 = (ln(S/K) + (r - v^2/2) T) / (v sqrt T).
    delta = e^(-rT) phi(d2) / (S v sqrt T);  vega = -e^(-rT) phi(d2) d1 / v with d1 = d2 + v sqrt T, for
    dd2/dv = -(ln(S/K) + r T) / (v^2 sqrt T) - sqrt T / 2 = -d1 / v.
    The payoff is 0 or e^(-rT) on both sides of the strike, so that its derivative at fixed noise is zero.
2.  Hard bin [a, b] of N(mu, s): P = Phi(B) - Phi(A), A = (a - mu)/s, B = (b - mu)/s;
    dP/dmu = (phi(A) - phi(B)) / s;  dP/ds = (A phi(A) - B phi(B)) / s.
"""

import math

from scipy import stats

SPOT, STRIKE, RATE, VOLATILITY, TIME = 100.0, 110.0, 0.05, 0.2, 1.0
DELTA, VEGA = 0.01798911, 0.22765384
MEAN, DEVIATION, BIN = 0.3, 1.0, (0.0, 1.0)
OF_MEAN, OF_DEVIATION = 0.0691338821, -0.3329940979


def digital() -> tuple[float, float]:
    """Delta and vega."""
    spread = VOLATILITY * math.sqrt(TIME)
    d2 = (math.log(SPOT / STRIKE) + (RATE - VOLATILITY**2 / 2) * TIME) / spread
    density = math.exp(-RATE * TIME) * float(stats.norm.pdf(d2))
    return density / (SPOT * spread), -density * (d2 + spread) / VOLATILITY


def hard_bin() -> tuple[float, float]:
    """Slopes of the probability in the mean and in the standard deviation."""
    a, b = ((end - MEAN) / DEVIATION for end in BIN)
    at_a, at_b = (float(stats.norm.pdf(x)) for x in (a, b))
    return (at_a - at_b) / DEVIATION, (a * at_a - b * at_b) / DEVIATION


def _differences() -> tuple[float, ...]:
    """The same by differences of scipy's distribution function, which knows nothing of the derivation."""

    def price(s: float, v: float) -> float:
        return math.exp(-RATE * TIME) * stats.lognorm.sf(
            STRIKE, v * TIME**0.5, scale=s * math.exp((RATE - v**2 / 2) * TIME)
        )

    def share(mu: float, s: float) -> float:
        return stats.norm.cdf(BIN[1], mu, s) - stats.norm.cdf(BIN[0], mu, s)

    h = 1e-5
    return tuple((f(*(x + h * (i == j) for j, x in enumerate(at))) - f(*(x - h * (i == j) for j, x in enumerate(at)))) / (2 * h)
                 for f, at in ((price, (SPOT, VOLATILITY)), (share, (MEAN, DEVIATION))) for i in (0, 1))  # fmt: skip


if __name__ == "__main__":
    names = ("digital delta", "digital vega", "bin d/dmean", "bin d/dsd")
    for name, form, check in zip(names, (*digital(), *hard_bin()), _differences()):
        print(f"{name:14s} {form:.10f}   by differences {check:.8f}")
