"""Programs whose derivatives are exact numbers, each with its derivation; run it to see them by rational arithmetic.

1.  Euler's steps of y' = -p y^2, y(0) = 1, to T = 1: y_(k+1) = y_k - h p y_k^2, and its derivative in p,
    s_(k+1) = s_k - h y_k^2 - 2 h p y_k s_k, s_0 = 0. Ten steps at p = 1: s = -0.263429777374826. (The equation's own
    solution 1 / (1 + p) has -1/4.)
2.  Rosenbrock's valley, sum_i 100 (x_(i+1) - x_i^2)^2 + (1 - x_i)^2: at x = -1 every term is 400 + 4, so that three
    of them are 1212. Its derivative is -400 x_i (x_(i+1) - x_i^2) - 2 (1 - x_i) of the first kind, 200 (x_i - x_(i-1)^2) of
    the second: -800 - 4 and -400, in all (-804, -1204, -1204, -400).
"""

import itertools
from fractions import Fraction

from torch import Tensor

EULER = -0.263429777374826
ROSENBROCK = ([1212.0], [[-804.0, -1204.0, -1204.0, -400.0]])


def decay(theta: Tensor) -> Tensor:
    """y after ten steps of Euler."""
    y = theta * 0 + 1
    for _ in range(10):
        y = y - 0.1 * theta * y**2
    return y


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def euler() -> Fraction:
    h, y, s = Fraction(1, 10), Fraction(1), Fraction(0)
    for _ in range(10):
        y, s = y - h * y * y, s - h * y * y - 2 * h * y * s
    return s


if __name__ == "__main__":
    print(f"Euler {float(euler()):.15f} {EULER}")
    x = [-1] * 4
    print("Rosenbrock", sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in itertools.pairwise(x)))
