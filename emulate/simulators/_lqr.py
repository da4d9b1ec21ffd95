"""A linear system with quadratic cost, of which the best policy, its cost and all gradients are known in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from emulate.errors import InputError
from emulate.noise import Noise

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LQR:
    r"""x' = A x + B a + w with w ~ N(0, W); a step costs x^T Q x + a^T R a (Kalman 1960).

    With a = -K x and closed loop M = A - B K of spectral radius below 1 the mean cost of a step is tr(P W), where
    P = Q + K^T R K + M^T P M; its gradient is 2 ((R + B^T P B) K - B^T P A) S with the stationary covariance
    S = W + M S M^T, and the best K solves the Riccati equation (Fazel, Ge, Kakade and Mesbahi 2018). Actions that are drawn
    from N(-K x, s^2) add B B^T s^2 to W and s^2 tr R to the cost.

    >>> LQR().best.round(6).tolist(), round(LQR().cost_of(LQR().best), 8)
    ([[2.585701, 3.443436]], 0.17920738)
    """

    A: Matrix = ((1.0, 0.1), (0.0, 1.0))
    B: Matrix = ((0.005,), (0.1,))
    Q: Matrix = ((1.0, 0.0), (0.0, 1.0))
    R: Matrix = ((0.1,),)
    W: Matrix = ((0.01, 0.0), (0.0, 0.01))  # covariance of the noise of a step, or zeros
    start: tuple[float, ...] = ()  # state at which episodes begin; empty: 0

    choices = 0
    smooth = True
    settable = True

    def __post_init__(self) -> None:
        n, m = len(self.A), len(self.B[0]) if self.B else 0
        shapes = {"A": (n, n), "B": (n, m), "Q": (n, n), "R": (m, m), "W": (n, n)}
        for name, shape in shapes.items():
            if not n or not m or _array(getattr(self, name)).shape != shape:
                raise InputError(f"options.{name} must be a matrix of {shape[0]} x {shape[1]}, for {n} states and {m} actions. Got "
                                 f"{getattr(self, name)!r:.60}.")  # fmt: skip
        if len(self.start) not in (0, n):
            raise InputError(f"options.start must be empty or have {n} values. Got {len(self.start)}.")
        w = np.linalg.eigvalsh(self._w)
        if not np.array_equal(self._w, self._w.T) or not (w.min() > 0 or np.abs(w).max() == 0):
            raise InputError(
                f"options.W must be a covariance above 0 in every direction, or zeros. Got {self.W!r:.80}."
            )

    @cached_property
    def states(self) -> tuple[str, ...]:
        n = len(self.A)
        return ("position", "velocity") if n == 2 else tuple(f"x{i + 1}" for i in range(n))

    @cached_property
    def actions(self) -> tuple[str, ...]:
        m = len(self.B[0])
        return ("force",) if m == 1 else tuple(f"a{i + 1}" for i in range(m))

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest action, `[a]`."""
        high = torch.full((len(self.actions),), torch.inf, dtype=torch.float64)
        return -high, high

    @cached_property
    def random(self) -> bool:
        """Whether a step is."""
        return bool(self._w.any())

    @property
    def scattered(self) -> bool:
        """Whether episodes begin at different states."""
        return False

    def initial(self, noise: Noise, n: int) -> Tensor:
        """The states `[n, s]` at which n episodes begin."""
        start = torch.tensor(self.start or [0.0] * len(self.A), dtype=torch.float64)
        return start.expand(n, -1)

    def next(self, x: Tensor, a: Tensor, noise: Noise, step: int) -> Tensor:
        """x' of states `[..., s]` and actions `[..., a]`, drawn at the site `transition`."""
        mean = x @ self._a.mT + a @ self._b.mT
        return noise.draw("transition", self._around(mean), step=step) if self.random else mean

    def cost(self, x: Tensor, a: Tensor) -> Tensor:
        """What a step costs, `[...]`."""
        return ((x @ self._q) * x).sum(-1) + ((a @ self._r) * a).sum(-1)

    def cost_of(self, gains: Any, exploration: float = 0.0) -> float:
        """The mean cost of a step under a = -K x, after infinitely many; infinite where that does not settle."""
        K = np.atleast_2d(np.asarray(gains, np.float64))
        P = self._value(K)
        if P is None:
            return float("inf")
        return float(np.trace(P @ self._noise(exploration)) + exploration**2 * np.trace(_array(self.R)))

    def gradient_of(self, gains: Any, exploration: float = 0.0) -> np.ndarray:
        """Its derivative with respect to K, of the shape of K; NaN where the cost does not settle."""
        K = np.atleast_2d(np.asarray(gains, np.float64))
        A, B, R, P = _array(self.A), _array(self.B), _array(self.R), self._value(K)
        if P is None:
            return np.full(K.shape, np.nan)
        S = linalg.solve_discrete_lyapunov(A - B @ K, self._noise(exploration))
        return 2 * ((R + B.T @ P @ B) @ K - B.T @ P @ A) @ S

    @cached_property
    def best(self) -> np.ndarray:
        """K `[a, s]` of the least cost."""
        A, B, Q, R = (_array(m) for m in (self.A, self.B, self.Q, self.R))
        P = linalg.solve_discrete_are(A, B, Q, R)
        return np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)

    def _value(self, K: np.ndarray) -> np.ndarray | None:
        A, B, Q, R = (_array(m) for m in (self.A, self.B, self.Q, self.R))
        M = A - B @ K
        if np.abs(np.linalg.eigvals(M)).max() >= 1:
            return None
        return linalg.solve_discrete_lyapunov(M.T, Q + K.T @ R @ K)

    def _noise(self, exploration: float) -> np.ndarray:
        B = _array(self.B)
        return self._w + exploration**2 * B @ B.T

    def _around(self, mean: Tensor) -> Normal | MultivariateNormal:
        if self._sd is None:
            return MultivariateNormal(mean, scale_tril=self._root, validate_args=False)
        return Normal(mean, self._sd, validate_args=False)

    @cached_property
    def _sd(self) -> Tensor | None:
        """Of the noise of each state, where those are independent."""
        joint = np.count_nonzero(self._w - np.diag(np.diag(self._w)))
        return None if joint else self._root.diagonal().contiguous()

    @property
    def _w(self) -> np.ndarray:
        return _array(self.W)

    @cached_property
    def _root(self) -> Tensor:
        return torch.from_numpy(np.linalg.cholesky(self._w))

    @cached_property
    def _a(self) -> Tensor:
        return _tensor(self.A)

    @cached_property
    def _b(self) -> Tensor:
        return _tensor(self.B)

    @cached_property
    def _q(self) -> Tensor:
        return _tensor(self.Q)

    @cached_property
    def _r(self) -> Tensor:
        return _tensor(self.R)


def _array(rows: Sequence[Sequence[float]]) -> np.ndarray:
    try:
        return np.asarray(rows, np.float64)
    except (TypeError, ValueError):
        return np.empty(())


def _tensor(rows: Matrix) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
