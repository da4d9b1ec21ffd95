"""Soft counts of known densities in closed form, with their derivations; run it to see them beside quadratures.

1.  A sample of N(mu, 1) moved by h times a normal number is one of N(mu, s^2), s^2 = 1 + h^2. Its expected share of [l, r] is
    Phi((r - mu)/s) - Phi((l - mu)/s), with the slope [phi((l - mu)/s) - phi((r - mu)/s)] / s in mu. h = 0 is the hard bin,
    and the bias is the difference: of the slope h^2/2 times d/dmu [f'(r) - f'(l)] to leading order.
2.  For any kernel of variance h^2 the leading order is the same; the exact value is a quadrature over the density.
3.  Exponential density on x > 0, bin [0, r]. Smoothed without reflection it loses over the end 0: to leading order
    h E|U|/2 f(0) = h f(0) / sqrt(2 pi) for a normal U, which is of order h. Reflected, nothing passes 0, and the bias is
    that of the right edge, h^2/2 f'(r) = -h^2/2 exp(-r).
"""

import math

import numpy as np
from scipy import integrate, stats

MEAN, BIN = 0.3, (0.0, 1.0)
BIAS = {0.05: -0.339, 0.1: -1.343, 0.2: -5.198}  # percent of the slope, to the last digit shown


def share(h: float, mu: float = MEAN, low: float = BIN[0], high: float = BIN[1]) -> float:
    """The expected share of [low, high] of a sample of N(mu, 1)."""
    s = math.sqrt(1 + h * h)
    return float(stats.norm.cdf((high - mu) / s) - stats.norm.cdf((low - mu) / s))


def slope(h: float, mu: float = MEAN, low: float = BIN[0], high: float = BIN[1]) -> float:
    """Its derivative with respect to mu."""
    s = math.sqrt(1 + h * h)
    return float(stats.norm.pdf((low - mu) / s) - stats.norm.pdf((high - mu) / s)) / s


def bias(h: float) -> float:
    """The relative bias of the slope."""
    return slope(h) / slope(0.0) - 1


def exponential(h: float, r: float, reflected: bool) -> float:
    """The expected share of [0, r] of a sample of the exponential density that a normal kernel smooths."""

    def of(x: float) -> float:
        inside = stats.norm.cdf((r - x) / h) - stats.norm.cdf(-x / h)
        return inside + reflected * (stats.norm.cdf(-x / h) - stats.norm.cdf((-r - x) / h))

    places = [0.0, *np.clip([6 * h, r - 9 * h, r, r + 9 * h], 0.0, None), 40.0]
    return sum(integrate.quad(lambda x: math.exp(-x) * of(x), a, b, epsabs=1e-14, epsrel=1e-13)[0]
               for a, b in zip(sorted(places), sorted(places)[1:]) if b > a)  # fmt: skip


if __name__ == "__main__":
    for h, percent in BIAS.items():
        quad = integrate.quad(lambda x, h=h: stats.norm.pdf(x, MEAN) * (x - MEAN)
                              * (stats.norm.cdf((1 - x) / h) - stats.norm.cdf(-x / h)), -9, 10, points=[0, 1])[0]  # fmt: skip
        print(
            f"h {h}: {100 * bias(h):.4f} % ({percent}), by a quadrature of share and score {100 * (quad / slope(0) - 1):.4f} %"
        )
    for h in (0.01, 0.02, 0.04):
        lost = exponential(h, 1.0, False) - (1 - math.exp(-1)), exponential(h, 1.0, True) - (1 - math.exp(-1))
        print(f"exponential, h {h}: {lost[0]:.3e} (leading order {-h / math.sqrt(2 * math.pi):.3e}), reflected {lost[1]:.3e} "
              f"({-(h**2) / 2 * math.exp(-1):.3e})")  # fmt: skip
