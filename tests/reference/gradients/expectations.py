"""Derivatives of expectations in closed form, each with its derivation; run it to see every number beside a quadrature.

1.  J = E[(t + Z)^2] = t^2 + 1, J' = 2t. With common noise the central difference of one replicate is 2 (t + Z) at every
    step h: variance 4. Without, it is (A - B) / 2h of independent A, B with Var[(t + Z)^2] = 4 t^2 + 2, in all
    [4 (t+h)^2 + 4 (t-h)^2 + 4] / 4h^2 = (1 + 2 t^2) / h^2 + 2.
2.  Per-sample variances of J' = 2, X = 1 + Z, f = X^2, score s = Z. E Z^(2,4,6) = 1, 3, 15.
    pathwise 2X: 4. raw f s: E[(1 + 2Z + Z^2)^2 Z^2] - 4 = (1 + 6*3 + 15) - 4 = 30.
    mean, b = E f = 2: E[(Z^2 + 2Z - 1)^2 Z^2] - 4 = (15 + 2*3 + 1) - 4 = 18.
    optimal, b = E[f s^2] / E[s^2] = 4: E[(Z^2 + 2Z - 3)^2 Z^2] - 4 = (15 - 2*3 + 9) - 4 = 14.
    leave one out: terms g_i = (f_i - mean of the others) s_i have variance 18 + Var f / (K - 1) = 18 + 6 / (K - 1) and
    covariance (E[f s])^2 / (K - 1)^2 = 4 / (K - 1)^2, so that K Var[mean g] = 18 + 10 / (K - 1).
    measure-valued: (f(1 + W) - f(1 - W)) / sqrt(2 pi) = 4 W / sqrt(2 pi), W of Rayleigh's law, Var W = 2 - pi / 2:
    16 (2 - pi / 2) / (2 pi) = 16/pi - 4 = 1.0929582.
3.  Black & Scholes 1973, S = 100, K = 100, r = 0.05, sigma = 0.2, T = 1: delta = Phi(d1), vega = S phi(d1) sqrt T.
    The path's delta is exp(-rT) 1{S_T > K} S_T / S; E of its square is exp(sigma^2 T) Phi(d1 + sigma sqrt T), since
    weighting by S_T^2 moves the mean of ln S_T by 2 sigma^2 T: variance exp(sigma^2 T) Phi(d1 + sigma sqrt T) - Phi(d1)^2.
4.  A program of draws that depend on each other, after the first example of StochasticAD.jl (Arya et al. 2022):
    a = p (1 - p), B of Binomial(10, p), C = 2 B + 3 Bernoulli(p), Y = a C X, X of Normal(B, a). E[Y] = a E[C B], and
    E[C B] = 2 (10 p + 90 p^2) + 3 p * 10 p = 20 p + 210 p^2, so E[Y] = 20 p^2 + 190 p^3 - 210 p^4 and
    dE[Y]/dp = 40 p + 570 p^2 - 840 p^3 = 47.76 at p = 0.6.
5.  X of Gamma(a, 1): E[ln X] = digamma(a), d/da = trigamma(a), pi^2/6 - 1 at a = 2. By Marsaglia & Tsang 2000:
    d = a - 1/3, c = 1 / sqrt(9 d), X = d (1 + c Z)^3, accepted with probability r(Z, a) = min(1, exp(Z^2 / 2 + d - X +
    d ln (1 + c Z)^3)). The derivative of ln X through the accepted proposal alone, E[d ln X / da | accepted], leaves out
    how acceptance depends on a: 0.6632906 by quadrature. What is missing is Cov(ln X, d ln r / da | accepted)
    (Naesseth et al. 2017).
6.  U is accepted if U < t. Given that, U is uniform on (0, t): E[X] = t / 2, and the number of trials is geometric:
    E[N] = 1 / t. So dE[X]/dt = 1/2 and dE[N]/dt = -1 / t^2.
"""

import math

import numpy as np
from scipy import integrate, special, stats

SQUARE = {"pathwise": 4.0, "none": 30.0, "mean": 18.0, "optimal": 14.0, "measure_valued": 16 / math.pi - 4}
DELTA, VEGA, DELTA_VARIANCE = 0.63683065, 37.524035, 0.332215
TRIGAMMA, THROUGH_THE_ACCEPTED = math.pi**2 / 6 - 1, 0.6632906


def leave_one_out(k: int) -> float:
    """k Var of the mean of k terms."""
    return 18 + 10 / (k - 1)


def without_common_noise(t: float, h: float) -> float:
    """Variance of a central difference of (t + Z)^2 whose two runs have noise of their own."""
    return (1 + 2 * t**2) / h**2 + 2


def discrete_slope(p: float) -> float:
    return 40 * p + 570 * p**2 - 840 * p**3


def discrete_mean(p: float) -> float:
    """E[Y] of item 4 by summing over all values."""
    a, total = p * (1 - p), 0.0
    for b in range(11):
        for coin in (0, 1):
            chance = stats.binom.pmf(b, 10, p) * (p if coin else 1 - p)
            total += chance * a * (2 * b + 3 * coin) * b
    return total


def black_scholes() -> tuple[float, float, float]:
    """Delta, vega and the variance of the path's delta by quadrature over the normal number."""
    s, k, r, sigma, t = 100.0, 100.0, 0.05, 0.2, 1.0

    def mean(g, edge: float) -> float:
        return integrate.quad(lambda z: g(z) * stats.norm.pdf(z), edge, 12, epsabs=1e-13, epsrel=1e-13)[0]

    def price(z: float) -> float:
        return s * math.exp((r - sigma**2 / 2) * t + sigma * math.sqrt(t) * z)

    edge = (math.log(k / s) - (r - sigma**2 / 2) * t) / (sigma * math.sqrt(t))
    slope = lambda z: math.exp(-r * t) * price(z) / s  # noqa: E731
    steep = lambda z: math.exp(-r * t) * price(z) * (math.sqrt(t) * z - sigma * t)  # noqa: E731
    delta = mean(slope, edge)
    return delta, mean(steep, edge), mean(lambda z: slope(z) ** 2, edge) - delta**2


def marsaglia_tsang(a: float = 2.0) -> tuple[float, float]:
    """d/da E[ln X] through the accepted proposal alone, and with what acceptance adds."""

    def log_x(z: np.ndarray, a: float) -> np.ndarray:
        d = a - 1 / 3
        return np.log(d) + 3 * np.log1p(z / np.sqrt(9 * d))

    def log_r(z: np.ndarray, a: float) -> np.ndarray:
        d = a - 1 / 3
        return np.minimum(0, z**2 / 2 + d - np.exp(log_x(z, a)) + d * (log_x(z, a) - np.log(d)))

    h, edge = 1e-5, -math.sqrt(9 * (a - 1 / 3)) + 1e-3

    def mean(g) -> float:
        return integrate.quad(lambda z: float(g(z) * stats.norm.pdf(z) * np.exp(log_r(z, a))), edge, 12, limit=400)[0]

    all_of = mean(lambda z: 1.0)
    slope = mean(lambda z: (log_x(z, a + h) - log_x(z, a - h)) / (2 * h)) / all_of
    score = lambda z: (log_r(z, a + h) - log_r(z, a - h)) / (2 * h)  # noqa: E731
    value, drift = mean(lambda z: log_x(z, a)) / all_of, mean(score) / all_of
    return slope, slope + mean(lambda z: log_x(z, a) * score(z)) / all_of - value * drift


if __name__ == "__main__":
    print("black-scholes", (DELTA, VEGA, DELTA_VARIANCE), black_scholes())
    h = 1e-6
    print("discrete", discrete_slope(0.6), (discrete_mean(0.6 + h) - discrete_mean(0.6 - h)) / (2 * h))
    print("gamma", (THROUGH_THE_ACCEPTED, TRIGAMMA), marsaglia_tsang(), special.polygamma(1, 2))
    n, z = 10**6, stats.norm.ppf((np.arange(10**6) + 0.5) / 10**6)
    f = (1 + z) ** 2
    print("square", SQUARE, [float(np.var((f - b) * z)) for b in (0, 2, 4)])
