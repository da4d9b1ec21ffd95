"""y = A theta + b with a normal prior and normal noise: an emulator without error, and all answers in closed form."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from emulate import Field, Normal, Outputs, Parameter, Posterior, Runs, Space, fit
from emulate.emulator import Emulator
from emulate.emulators.polynomial import Polynomial
from emulate.likelihoods.gaussian import Gaussian

A = np.array([[1.0, 0.5], [0.3, -1.0], [0.7, 0.7]])
B = np.array([0.2, 0.0, -1.0])
MEAN, SD = np.array([0.3, -0.2]), np.array([0.8, 0.5])  # of the prior
NOISE = 0.4
DATA = np.array([1.1, 0.4, -0.8])
SPACE = Space(tuple(Parameter(n, Normal(float(m), float(s))) for n, m, s in zip("ab", MEAN, SD, strict=True)))
OUTPUTS = Outputs((Field("pk", coordinate="k", at=(0.1, 0.2)), Field("s8")))


def emulator(space: Space = SPACE) -> Emulator:
    """Fitted to runs of the line, which a polynomial of degree 1 meets to rounding."""
    theta = space.from_unit(torch.from_numpy(np.random.default_rng(0).uniform(size=(30, 2))))
    return fit(Polynomial(degree=1), Runs.of(space, OUTPUTS, theta.numpy(), theta.numpy() @ A.T + B), seed=0)


def posterior(space: Space = SPACE) -> Posterior:
    return Posterior(space, emulator(space).predict, Gaussian(absolute_error=NOISE), torch.from_numpy(DATA))


@dataclass(frozen=True)
class Answer:
    """The posterior N(mean, covariance) and ln evidence, by completing the square (Bishop 2006, eqs. 2.113 to 2.117)."""

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        """ln p(theta, data)."""
        r = theta - self.mean
        square = np.einsum("...i,ij,...j->...", r, np.linalg.inv(self.covariance), r)
        return self.log_evidence - 0.5 * square - 0.5 * np.linalg.slogdet(2 * math.pi * self.covariance)[1]

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return -(theta - self.mean) @ np.linalg.inv(self.covariance)


def answer() -> Answer:
    covariance = np.linalg.inv(A.T @ A / NOISE**2 + np.diag(SD**-2.0))
    mean = covariance @ (A.T @ (DATA - B) / NOISE**2 + MEAN / SD**2)
    spread = NOISE**2 * np.eye(3) + A @ np.diag(SD**2) @ A.T
    r = DATA - A @ MEAN - B
    evidence = -0.5 * r @ np.linalg.solve(spread, r) - 0.5 * np.linalg.slogdet(2 * math.pi * spread)[1]
    return Answer(mean, covariance, float(evidence))


def z_scores(draws: np.ndarray, ess: np.ndarray) -> np.ndarray:
    """How many standard errors the mean and the variance of draws `[n, 2]` of so many independent ones lie off."""
    told = answer()
    variance = np.diag(told.covariance)
    mean = (draws.mean(0) - told.mean) / np.sqrt(variance / ess)
    spread = (draws.var(0) / variance - 1) / np.sqrt(2 / ess)
    return np.concatenate([mean, spread])
