"""Derivatives of what is stepped through time, each with its derivation; run it to see the numbers.

1.  y' = -p y^2, y(0) = y0: y = y0 / (1 + p y0 t), dy/dp = -y0^2 t / (1 + p y0 t)^2 = -1/4 at p = y0 = t = 1.
    Euler, n = 10: y_(k+1) = y_k - h p y_k^2. Discrete: lambda_k = lambda_(k+1) (1 - 2 h p y_k), dy/dp = -h sum
    lambda_(k+1) y_k^2. Continuous: lambda' = 2 p y lambda from t = 1 backward by Euler,
    lambda_k = lambda_(k+1) (1 - 2 h p y_(k+1)), and the trapezoidal rule for dy/dp = -int lambda y^2 dt.
2.  Heat equation u_t = k u_xx on (0, 1), u = 0 at the ends, u0 = sin pi x: u = exp(-k pi^2 t) sin pi x. With
    J = 1/2 int u(x, T)^2 dx = exp(-2 k pi^2 T) / 4,  dJ/dk = -pi^2 T exp(-2 k pi^2 T) / 2 = -0.9196197317 at k = 0.1,
    T = 0.5. On m - 1 inner points at distance 1/m sin pi x is an eigenvector of the second difference with eigenvalue
    -mu, mu = 4 m^2 sin^2(pi / 2m), and its sum of squares over m is 1/2: the same with mu for pi^2.
3.  Lorenz 1963, sigma = 10, beta = 8/3: the mean of z over the attractor near rho = 28 rises by about 1 with rho. No closed
    form; Lea, Allen & Haine 2000 and Wang, Hu & Blonigan 2014 read it off means over long runs, as `climate` does below:
    between rho = 27 and 29, over 1000 runs of 100 units of time each, 0.997 with a standard error of 0.002.
4.  Windows. What starts each window carries nothing, so that a window of L outputs has dm/dtheta = 1/L sum_j E[d_j], with
    d_j = dx_j/dtheta from d_0 = 0, over the law of x_0 on the attractor.
    Logistic map x' = theta x (1 - x) at theta = 4, d' = x (1 - x) + 4 (1 - 2 x) d: x_0 has the arcsine law, and d_j is a
    polynomial of degree 2^j in it, so that Gauss and Chebyshev's mean over the n > 2^(j-1) points sin^2(pi (i + 1/2) / 2n) is
    E[d_j] = (3 - 2^j) / 8: 1/8, -1/8, -5/8, -13/8, over 4 outputs -9/16.
    x' = theta x + 1 - a + noise at theta = a, of mean 1: d' = x + a d, E[d_j] = (1 - a^j) / (1 - a).
    x' = theta x + Normal(0, 1) from 0: E[x_L^2] = (1 - a^2L) / (1 - a^2).
"""

import math

import numpy as np

DECAY, DECAY_DISCRETE, DECAY_CONTINUOUS = -0.25, -0.263429777375, -0.237324317416
CLIMATE, CLIMATE_ERROR = 0.997, 0.002
HEAT_SLOPE, CONDUCTIVITY, END = -0.9196197317, 0.1, 0.5


def decay_by_euler(n: int = 10) -> tuple[float, float]:
    """The discrete and the continuous adjoint, by hand."""
    h, y = 1 / n, [1.0]
    for _ in range(n):
        y.append(y[-1] - h * y[-1] ** 2)
    discrete, back = 0.0, [1.0]
    adjoint = 1.0
    for k in range(n - 1, -1, -1):
        discrete -= h * adjoint * y[k] ** 2
        adjoint *= 1 - 2 * h * y[k]
        back.append(back[-1] * (1 - 2 * h * y[k + 1]))
    integrand = np.array(back[::-1]) * np.array(y) ** 2
    return discrete, -h * float((integrand[1:] + integrand[:-1]).sum()) / 2


def heat(points: int | None = None) -> float:
    """dJ/dk of the equation, or of its second differences on `points` intervals."""
    mu = math.pi**2 if points is None else 4 * points**2 * math.sin(math.pi / (2 * points)) ** 2
    return -mu * END * math.exp(-2 * CONDUCTIVITY * mu * END) / 2


def logistic_slopes(last: int) -> np.ndarray:
    """E[d_j] of the logistic map at 4, j = 1 ... last."""
    return (3 - 2.0 ** np.arange(1, last + 1)) / 8


def logistic_slopes_by_quadrature(last: int, points: int = 4096) -> np.ndarray:
    x, d, means = np.sin(np.pi * (np.arange(points) + 0.5) / (2 * points)) ** 2, 0.0, []
    for _ in range(last):
        x, d = 4 * x * (1 - x), x * (1 - x) + 4 * (1 - 2 * x) * d
        means.append(float(np.mean(d)))
    return np.array(means)


def autoregressive_slopes(a: float, last: int) -> np.ndarray:
    """E[d_j] of the autoregression of mean 1, j = 1 ... last."""
    return (1 - a ** np.arange(1.0, last + 1)) / (1 - a)


def squared_slope(a: float, last: int) -> float:
    """d E[x_L^2] / da of the autoregression from 0."""
    return (2 * a * (1 - a ** (2 * last)) - 2 * last * a ** (2 * last - 1) * (1 - a * a)) / (1 - a * a) ** 2


def climate(rho: float, runs: int, horizon: float, seed: int, h: float = 0.01) -> np.ndarray:
    """The mean of z over `horizon` after 20 units of spin-up, of each run; Runge-Kutta of fourth order in plain numpy."""

    def slope(s: np.ndarray) -> np.ndarray:
        x, y, z = s
        return np.stack([10 * (y - x), x * (rho - z) - y, x * y - 8 / 3 * z])

    s = np.random.default_rng(seed).normal(size=(3, runs)) + np.array([[1.0], [1.0], [25.0]])
    total = np.zeros(runs)
    for k in range(round((20 + horizon) / h)):
        a = slope(s)
        b = slope(s + h / 2 * a)
        c = slope(s + h / 2 * b)
        s = s + h / 6 * (a + 2 * b + 2 * c + slope(s + h * c))
        total += s[2] * (k * h >= 20)
    return total / round(horizon / h)


if __name__ == "__main__":
    print("decay, discrete and continuous Euler", *(f"{x:.12f}" for x in decay_by_euler()))
    print(f"heat {heat():.10f}, on 32 intervals {heat(32):.10f}")
    print("logistic", logistic_slopes(6), logistic_slopes_by_quadrature(6))
    low, high = (climate(rho, 1000, 100.0, seed) for seed, rho in ((1, 27.0), (2, 29.0)))
    error = math.hypot(low.std(), high.std()) / math.sqrt(len(low)) / 2
    print(f"Lorenz d<z>/drho between 27 and 29: {(high.mean() - low.mean()) / 2:.4f} +- {error:.4f}")
